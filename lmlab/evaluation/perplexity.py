"""Perplexity and loss per token, weighted by tokens, padding never counted."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lmlab.data.packing import encode_documents
from lmlab.evaluation.scoring import score_tokens
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import context_length
from lmlab.models.types import Dataset, Module, PreTrainedTokenizerBase


def perplexity(
    model: Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int | None = None,
    batch_tokens: int = 2048,
    stride: int | None = None,
) -> dict:
    """Loss over all texts, weighted by tokens: each token and the EOS of each text count once, padding never.

    Each text is read as BOS + text + EOS (``packing.encode_documents``); the first is given, not counted. A
    text longer than ``max_length`` is cut into windows.

    Args:
        model: lmlab's GPT, or one of transformers.
        tokenizer: One with an EOS.
        texts: The documents.
        max_length: Tokens in a window, by default the model's context.
        batch_tokens: Tokens in one forward pass, padding included.
        stride: None: windows in each of which the first token is the last of the window before. 1 to
            max_length: each window reads max_length tokens and begins ``stride`` after the one before, so
            that it counts only the last ``stride`` of its predictions, and each of those sees at least
            max_length - stride + 1 tokens. A smaller stride costs more and, as a rule, gives a lower loss.
            lm-evaluation-harness takes max_length.

    Returns:
        loss (nats per token), perplexity, token_accuracy (fraction of tokens that were the most likely),
        tokens, bits_per_byte (over the UTF-8 bytes of the texts; EOS has bits and no bytes), word_perplexity
        (exp of nats per word as WikiText counts them, see ``count_words``); and per text, for intervals:
        nats, hits, counts, each (n_texts,).
    """
    limit = min(max_length or context_length(model), context_length(model))
    if stride is not None and not 1 <= stride <= limit:
        raise ValueError(f"stride got {stride}; give 1 to {limit}, the length of a window, or None")
    # disjoint windows share the token between them, which is predicted in one and read in the next
    reads, step = (limit - 1, limit - 1) if stride is None else (limit, stride)
    windows, starts, owners = [], [], []
    for i, document in enumerate(encode_documents(texts, tokenizer)):
        for window, start in _windows(document, reads, step):
            windows.append(window)
            starts.append(start)
            owners.append(i)
    scores = score_tokens(model, windows, starts, batch_tokens)
    # the windows of a text are summed up: intervals resample texts, which are independent
    nats = np.bincount(owners, [-score.logprobs.sum() for score in scores], len(texts))
    hits = np.bincount(owners, [score.hits.sum() for score in scores], len(texts))
    counts = np.bincount(owners, [len(score.hits) for score in scores], len(texts))
    n_bytes = sum(len(text.encode()) for text in texts)
    n_words = sum(count_words(text) for text in texts)
    return {
        **_totals(nats, hits, counts),
        "bits_per_byte": float(nats.sum() / math.log(2) / max(n_bytes, 1)),
        "word_perplexity": math.exp(nats.sum() / n_words),
        "nats": nats,
        "hits": hits,
        "counts": counts,
    }


def count_words(text: str) -> int:
    """Words as WikiText counts them: what stands between whitespace, and one for the end of each line.

    The last line is ended by the EOS. Source: Merity et al. 2017, whose models read "<eos>" at every line's
    end and predict it as a word.
    """
    return len(text.split()) + text.count("\n") + 1


def _totals(nats: np.ndarray, hits: np.ndarray, counts: np.ndarray) -> dict:
    # a mean over tokens, not over texts or batches: else short ones would weigh more
    loss = float(nats.sum() / counts.sum())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "token_accuracy": float(hits.sum() / counts.sum()),
        "tokens": int(counts.sum()),
    }


def _windows(tokens: list[int], reads: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """(window, where in it the tokens begin that no window before has predicted).

    A window has ``reads`` tokens and one more, which is predicted only.
    """
    # the first token has nothing before it, so nothing predicts it
    done = 1
    for begin in range(0, len(tokens), stride):
        # windows may overlap: what an earlier one has predicted is read again, and not counted again
        window = tokens[begin : begin + reads + 1]
        yield window, done - begin
        done = begin + len(window)
        if done == len(tokens):
            return


def completion_loss(model: Module, examples: Dataset | Mapping, batch_tokens: int = 1024) -> dict:
    """Loss on the completions alone: each of their tokens and each EOS counted once, prompt and padding
    never.

    Args:
        model: lmlab's GPT, or one of transformers.
        examples: input_ids and labels, -100 on the prompt, as ``tokenize_pairs`` makes them.
        batch_tokens: Tokens in one forward pass, padding included.

    Returns:
        loss (nats per token), perplexity, token_accuracy, tokens, eos_probability (mean, of the EOS after the
        whole completion), and per example, for intervals: nats, counts (n,).
    """
    # the prompt, and nothing else, has no labels
    starts = [labels.count(IGNORE_INDEX) for labels in examples["labels"]]
    scores = score_tokens(model, list(examples["input_ids"]), starts, batch_tokens)
    nats = np.array([-score.logprobs.sum() for score in scores])
    hits = np.array([score.hits.sum() for score in scores])
    counts = np.array([len(score.logprobs) for score in scores])
    return {
        **_totals(nats, hits, counts),
        # a model that does not learn to stop can still have a low loss: EOS is one token of many
        "eos_probability": float(np.mean([math.exp(score.logprobs[-1]) for score in scores])),
        "nats": nats,
        "counts": counts,
    }
