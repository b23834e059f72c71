"""Labels and collators: which tokens contribute to the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lmlab.models import IGNORE_INDEX
from lmlab.models.chat_template import reference_labels
from lmlab.models.sources import pad_id

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def completion_only_collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping]], dict]:
    """A data collator that pads on the right: ids with the pad token (or EOS), attention 0, labels -100.

    What is padding is known from the lengths, not from the token: a pad token equal to EOS does no harm.

    Returns:
        A function from rows to a batch {"input_ids", "attention_mask", "labels"}, each (B, T).
    """
    import torch

    pad = pad_id(tokenizer)

    def collate(examples: Sequence[Mapping]) -> dict:
        """Rows of different lengths to one batch."""
        longest = max(len(example["input_ids"]) for example in examples)
        batch = {"input_ids": [], "attention_mask": [], "labels": []}
        for example in examples:
            n, n_pad = len(example["input_ids"]), longest - len(example["input_ids"])
            batch["input_ids"].append([*example["input_ids"], *[pad] * n_pad])
            batch["attention_mask"].append([1] * n + [0] * n_pad)
            batch["labels"].append([*example["labels"], *[IGNORE_INDEX] * n_pad])
        return {name: torch.tensor(rows) for name, rows in batch.items()}

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

    columns = {"input_ids": [], "labels": []}
    for row in rows:
        ids, labels = reference_labels(tokenizer, row)
        columns["input_ids"].append(ids)
        columns["labels"].append(labels)
    return Dataset.from_dict(columns)
