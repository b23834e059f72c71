"""Token sequences cut into blocks: one place for every way of packing.

Joined texts are cut into blocks of one length (``packed_windows`` for a trainer, ``text_rows`` for
evaluation; ``loader.WindowLoader`` for sets that do not fit into memory); texts that stay apart are cut one
by one (``document_windows``) or padded (``document_rows``).
"""

from collections.abc import Sequence
from typing import NamedTuple

from lmlab.data.sources import load_rows
from lmlab.data.usable import usable_texts
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import eos_id
from lmlab.models.types import Dataset, PreTrainedTokenizerBase, Tensor


def plain_texts(source: str, split: str) -> list[str]:
    """The texts (column "text") of a source; the paragraphs of a .txt file are one text again."""
    texts = usable_texts(load_rows(source, split), source)
    return ["\n\n".join(texts)] if source.endswith(".txt") else texts


# --- blocks for a trainer ----------------------------------------------------------------------------


def packed_windows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, block_size: int) -> Dataset:
    """Texts end to end, each after an EOS, cut into blocks of ``block_size`` tokens.

    What remains at the end is left out. Nothing is padded, and every token contributes to the loss but the
    first of a block, before which there is nothing. ``completion_loss`` takes the blocks as examples.

    Args:
        texts: The documents.
        tokenizer: One with an EOS.
        block_size: T, in tokens.

    Returns:
        Columns input_ids and labels, both (T,).

    Raises:
        ValueError: The texts are shorter than two blocks.
    """
    tokens = pack(_encode(texts, tokenizer), eos_id(tokenizer)).tolist()
    if len(tokens) < 2 * block_size:
        raise ValueError(
            f"block_size got {block_size}, and the texts have {len(tokens)} tokens; "
            "lower it or give more text"
        )
    # the last start that leaves a whole block
    starts = range(0, len(tokens) - block_size + 1, block_size)
    return _examples([tokens[start : start + block_size] for start in starts])


def document_windows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Each text as ``perplexity.perplexity`` reads it: BOS, text, EOS, in blocks of ``max_length`` tokens.

    A block's first token is the last of the one before and no label, so that ``completion_loss`` of the
    blocks is the loss of ``perplexity``. Columns input_ids and labels, both (T,).
    """
    blocks = []
    for document in encode_documents(texts, tokenizer):
        # blocks overlap by one token, which the next block predicts from
        for start in range(0, len(document) - 1, max_length - 1):
            blocks.append(document[start : start + max_length])
    return _examples(blocks)


def encode_documents(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Each text as tokens between BOS and EOS; without a BOS it begins with EOS, as GPT-2's data do."""
    eos = eos_id(tokenizer)
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [[bos, *tokens, eos] for tokens in _encode(texts, tokenizer)]


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    # verbose would warn of texts that are longer than the context, which are cut later
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def _examples(blocks: list[list[int]]) -> Dataset:
    from datasets import Dataset

    # transformers shifts labels itself: each token is its own label, and the first has nothing before it
    labels = [[IGNORE_INDEX, *block[1:]] for block in blocks]
    return Dataset.from_dict({"input_ids": blocks, "labels": labels})


# --- tensors for lesson 02's own training loop -------------------------------------------------------


class Rows(NamedTuple):
    """Evaluation rows: inputs and targets, both (N, T); a target of -100 is padding and is not counted."""

    inputs: Tensor
    targets: Tensor


def pack(documents: Sequence[Sequence[int]], eos: int) -> Tensor:
    """One long sequence (n_tokens,): EOS, document, EOS, document, ..., EOS."""
    import torch

    tokens = [eos]
    for document in documents:
        tokens += [*document, eos]
    return torch.tensor(tokens)


def document_rows(documents: Sequence[Sequence[int]], eos: int, block_size: int) -> Rows:
    """One row per document, EOS + document + EOS; all of its tokens and the last EOS contribute to the loss.

    So the loss is -log p(document) per token, which is what an entropy floor bounds.
    """
    import torch

    longest = max(map(len, documents))
    if longest + 1 > block_size:
        raise ValueError(f"block_size got {block_size}, and a document has {longest} tokens; raise it")
    inputs = torch.full((len(documents), longest + 1), eos)
    targets = torch.full((len(documents), longest + 1), IGNORE_INDEX)
    # the target of a position is the token after it, so the inputs stand one further to the right
    for row, document in enumerate(documents):
        inputs[row, 1 : len(document) + 1] = torch.tensor(document)
        targets[row, : len(document) + 1] = torch.tensor([*document, eos])
    return Rows(inputs, targets)


def text_rows(tokens: Tensor, block_size: int) -> Rows:
    """Consecutive blocks of one long text (n_tokens,), for data without documents. The rest is left out."""
    n = (len(tokens) - 1) // block_size
    if n == 0:
        raise ValueError(f"block_size got {block_size}, and the text has {len(tokens)} tokens; lower it")
    end = n * block_size
    return Rows(tokens[:end].view(n, block_size), tokens[1 : end + 1].view(n, block_size))
