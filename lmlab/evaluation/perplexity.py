"""Perplexity and loss per token, weighted by tokens, padding never counted."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lmlab.evaluation.hellaswag import _encode
from lmlab.evaluation.scoring import score_tokens
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import context_length


def perplexity(
    model,
    tokenizer,
    texts: Sequence[str],
    max_length: int | None = None,
    batch_tokens: int = 2048,
    stride: int | None = None,
) -> dict:
    """Loss over all texts, weighted by tokens: each token and the EOS of each text count once, padding never.

    Each text is read as bos + text + eos (a tokenizer without bos: eos); the first is given, not counted. A
    text longer than ``max_length`` (default: the model's context) is cut into windows:
    stride None: windows of max_length tokens, in each of which the first is the last of the window before.
    stride 1 to max_length: each window reads max_length tokens and begins ``stride`` after the one before, so
    that it counts only the last ``stride`` of its predictions, and each of those sees at least
    max_length - stride + 1 tokens: smaller is dearer and, as a rule, kinder. lm-evaluation-harness takes
    max_length.
    Returns loss (nats per token), perplexity, token_accuracy (share of tokens that were the likeliest),
    tokens, bits_per_byte (over the UTF-8 bytes of the texts; the bits of EOS are among the bits, it has no
    bytes), word_perplexity (exp of nats per word as WikiText counts them, see ``count_words``); and per text,
    for intervals: nats, hits, counts, bytes, words, each (n_texts,).
    """
    limit = min(max_length or context_length(model), context_length(model))
    if stride is not None and not 1 <= stride <= limit:
        raise ValueError(f"stride got {stride}; give 1 to {limit}, the length of a window, or None")
    reads, step = (limit - 1, limit - 1) if stride is None else (limit, stride)
    windows, starts, owners = [], [], []
    for i, text in enumerate(texts):
        for window, start in _windows(_document(tokenizer, text), reads, step):
            windows.append(window)
            starts.append(start)
            owners.append(i)
    scored = score_tokens(model, windows, starts, batch_tokens)
    nats, hits, counts = (
        np.bincount(owners, values, minlength=len(texts))
        for values in (
            [-score.logprobs.sum() for score in scored],
            [score.hits.sum() for score in scored],
            [len(score.hits) for score in scored],
        )
    )
    sizes = np.array([len(text.encode()) for text in texts])
    words = np.array([count_words(text) for text in texts])
    loss = float(nats.sum() / counts.sum())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "token_accuracy": float(hits.sum() / counts.sum()),
        "tokens": int(counts.sum()),
        "bits_per_byte": float(nats.sum() / math.log(2) / max(sizes.sum(), 1)),
        "word_perplexity": math.exp(nats.sum() / words.sum()),
        "nats": nats,
        "hits": hits,
        "counts": counts,
        "bytes": sizes,
        "words": words,
    }


def count_words(text: str) -> int:
    """Words as WikiText counts them: what stands between blanks, and one for the end of each line.

    The last line is ended by the EOS. Source: Merity et al. 2017, whose models read "<eos>" at every line's
    end and predict it as a word.
    """
    return len(text.split()) + text.count("\n") + 1


def _document(tokenizer, text: str) -> list[int]:
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("the tokenizer has no eos_token, with which a text ends; set one")
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [bos, *_encode(tokenizer, text), eos]


def _windows(tokens: list[int], reads: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """(window, where in it the tokens begin that no window before has predicted).

    A window has ``reads`` tokens and one more, which is predicted only.
    """
    done = 1  # the first token has nothing before it
    for begin in range(0, len(tokens), stride):
        window = tokens[begin : begin + reads + 1]
        yield window, done - begin
        done = begin + len(window)
        if done == len(tokens):
            return


def completion_loss(model, examples, batch_tokens: int = 1024) -> dict:
    """Loss on the answers alone, each answer token and each EOS counted once, prompt and padding never.

    examples: from ``tokenize_pairs``. Returns loss (nats per token), perplexity, token_accuracy, tokens,
    eos_probability (mean, of the EOS after the whole answer), and per pair, for intervals: nats, counts (n,).
    """
    import numpy as np

    from lmlab.evaluation.scoring import score_tokens

    starts = [labels.count(IGNORE_INDEX) for labels in examples["labels"]]
    scores = score_tokens(model, list(examples["input_ids"]), starts, batch_tokens)
    nats = np.array([-score.logprobs.sum() for score in scores])
    counts = np.array([len(score.logprobs) for score in scores])
    loss = float(nats.sum() / counts.sum())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "tokens": int(counts.sum()),
        "token_accuracy": float(sum(score.hits.sum() for score in scores) / counts.sum()),
        "eos_probability": float(np.mean([math.exp(score.logprobs[-1]) for score in scores])),
        "nats": nats,
        "counts": counts,
    }
