"""Token sequences cut into blocks: one place for every way of packing."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmlab.data.loading import load_rows
from lmlab.data.usable import usable_texts
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import eos_id


def plain_texts(source: str, split: str, seed: int = 0) -> list[str]:
    """The texts (column "text") of a source; the paragraphs of a .txt file are one text again."""
    texts = usable_texts(load_rows(source, split, seed=seed), source)
    return ["\n\n".join(texts)] if source.endswith(".txt") else texts


def packed_windows(texts: Sequence[str], tokenizer, block_size: int):
    """Texts end to end, each after an EOS, cut into windows: a Dataset of input_ids and labels, both (T,).

    T is ``block_size``; what remains at the end is left out. Nothing is padded, and every token bears loss but
    the first of a window, before which there is nothing. ``completion_loss`` takes the windows as examples.
    Raises ValueError for less text than two windows.
    """
    from datasets import Dataset

    eos = eos_id(tokenizer)
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    tokens = [token for row in rows for token in (eos, *row)] + [eos]
    windows = [tokens[i : i + block_size] for i in range(0, len(tokens) - block_size + 1, block_size)]
    if len(windows) < 2:
        raise ValueError(
            f"style_block_size got {block_size}, and the text has {len(tokens)} tokens; "
            "lower it or give more text"
        )
    return Dataset.from_dict(
        {"input_ids": windows, "labels": [[IGNORE_INDEX, *window[1:]] for window in windows]}
    )


def document_windows(texts: Sequence[str], tokenizer, max_length: int):
    """Each text as ``perplexity.perplexity`` reads it: bos, text, eos, in windows of ``max_length`` tokens.

    A Dataset of input_ids and labels, both (T,). A window's first token is the last of the one before and
    no label, so that ``completion_loss`` of the windows is the loss of ``perplexity``.
    """
    from datasets import Dataset

    eos = eos_id(tokenizer)
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    rows = [[bos, *row, eos] for row in ids]
    windows = [row[i : i + max_length] for row in rows for i in range(0, len(row) - 1, max_length - 1)]
    return Dataset.from_dict(
        {"input_ids": windows, "labels": [[IGNORE_INDEX, *window[1:]] for window in windows]}
    )


class Rows(NamedTuple):
    """Evaluation rows: inputs and targets, both (N, T); a target of -100 is padding and is not counted."""

    inputs: Tensor
    targets: Tensor


def pack(documents: Sequence[Sequence[int]], eos: int) -> Tensor:
    """One long row (n_tokens,): eos, document, eos, document, ..., eos."""
    return torch.tensor([eos] + [token for document in documents for token in (*document, eos)])


def document_rows(documents: Sequence[Sequence[int]], eos: int, block_size: int) -> Rows:
    """One row per document, eos + document + eos. Every token of it and the last eos bear loss.

    So the loss is -log p(document) per token, which is what an entropy floor bounds.
    """
    longest = max(map(len, documents))
    if longest + 1 > block_size:
        raise ValueError(
            f"a document has {longest} tokens; block_size {block_size} holds {block_size - 1}: "
            "raise block_size"
        )
    inputs = torch.full((len(documents), longest + 1), eos)
    targets = torch.full((len(documents), longest + 1), IGNORE_INDEX)
    for row, document in enumerate(documents):
        inputs[row, 1 : len(document) + 1] = torch.tensor(document)
        targets[row, : len(document) + 1] = torch.tensor([*document, eos])
    return Rows(inputs, targets)


def text_rows(tokens: Tensor, block_size: int) -> Rows:
    """Consecutive windows of one long text (n_tokens,), for data without documents. The rest is left out."""
    n = (len(tokens) - 1) // block_size
    if n == 0:
        raise ValueError(f"the text has {len(tokens)} tokens; a row needs {block_size + 1}: lower block_size")
    end = n * block_size
    return Rows(tokens[:end].view(n, block_size), tokens[1 : end + 1].view(n, block_size))
