"""Labels and collators: which tokens contribute to the loss."""

from collections.abc import Mapping, Sequence

from lmlab.models import IGNORE_INDEX
from lmlab.models.chat_template import reference_labels
from lmlab.models.sources import _pad_id


def completion_only_collator(tokenizer):
    """A data collator that pads at the end: ids with the pad token (or EOS), attention 0, labels -100.

    What is padding is known from the lengths, not from the token: a pad token equal to EOS does no harm.
    The batch is {"input_ids", "attention_mask", "labels"}, each (B, T).
    """
    import torch

    pad = _pad_id(tokenizer)

    def collate(examples: Sequence[Mapping]) -> dict:
        width = max(len(example["input_ids"]) for example in examples)
        columns = {"input_ids": pad, "attention_mask": 0, "labels": IGNORE_INDEX}
        rows = [{**example, "attention_mask": [1] * len(example["input_ids"])} for example in examples]
        return {
            name: torch.tensor([[*row[name], *[fill] * (width - len(row[name]))] for row in rows])
            for name, fill in columns.items()
        }

    return collate


def tokenize_conversations(rows: Sequence[Mapping], tokenizer):
    """Conversations as token ids with labels (``reference_labels``): a ``datasets.Dataset`` for any trainer.

    Columns input_ids and labels, both (T,), unpadded.
    """
    from datasets import Dataset

    ids, labels = zip(*[reference_labels(tokenizer, row) for row in rows], strict=True)
    return Dataset.from_dict({"input_ids": list(ids), "labels": list(labels)})
