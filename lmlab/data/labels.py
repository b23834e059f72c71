"""Labels and collators: which tokens contribute to the loss."""

from collections.abc import Callable, Mapping, Sequence

from lmlab.models import IGNORE_INDEX
from lmlab.models.chat_template import reference_labels
from lmlab.models.sources import pad_id
from lmlab.models.types import Dataset, PreTrainedTokenizerBase


def completion_only_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping]], dict]:
    """A data collator that pads on the right: ids with the pad token (or EOS), attention 0, labels -100.

    What is padding is known from the lengths, not from the token: a pad token equal to EOS does no harm.

    Returns:
        A function from rows to a batch {"input_ids", "attention_mask", "labels"}, each (B, T).
    """
    # imported late, as importing the package must not take the seconds that torch takes
    import torch
    from torch.nn.utils.rnn import pad_sequence

    pad = pad_id(tokenizer)

    def collate(examples: Sequence[Mapping]) -> dict:
        """Rows of different lengths to one batch."""
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        labels = [torch.tensor(example["labels"]) for example in examples]
        # by the lengths: an EOS that a text really has may be the pad token as well, and is attended to
        attention = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
            "attention_mask": pad_sequence(attention, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        }

    return collate


def tokenize_conversations(rows: Sequence[Mapping], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Conversations as token ids with labels (``reference_labels``): a ``datasets.Dataset`` for any trainer.

    Args:
        rows: In reasoning format, {"prompt", "completion"}.
        tokenizer: One with a chat template.

    Returns:
        Columns input_ids and labels, both (T,), unpadded.
    """
    from datasets import Dataset

    # unpadded: how much padding a row needs depends on the batch it will be in
    both = [reference_labels(tokenizer, row) for row in rows]
    return Dataset.from_dict(
        {"input_ids": [ids for ids, _ in both], "labels": [labels for _, labels in both]}
    )
