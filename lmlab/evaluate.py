"""Measuring a model: HellaSwag in its three conventions, perplexity, answers, and how sure the numbers are.

Every function takes an ``lmlab.gpt.GPT`` or a transformers causal model. Texts of a batch are padded at the
end, where causal attention hides the padding from every real token, and padding is never counted.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lmlab.data import extract_answer

CONVENTIONS = ("sum", "token", "byte")


# --- log-probabilities of tokens -------------------------------------------------------------------

class TokenScores(NamedTuple):
    """What a model made of each wanted token of one sequence; both (n_wanted,)."""

    logprobs: np.ndarray  # natural log of the probability of the token
    hits: np.ndarray  # whether it was the likeliest


def score_tokens(model, sequences: Sequence[Sequence[int]], starts: Sequence[int],
                 batch_tokens: int = 2048) -> list[TokenScores]:
    """Scores each token of ``sequences[i][starts[i]:]`` given all those before it.

    starts are at least 1: the first token has nothing before it. batch_tokens: tokens in one forward pass,
    padding included. Raises ValueError for a sequence longer than the model's context.
    """
    longest = max(map(len, sequences))
    if longest > (limit := context_length(model)):
        raise ValueError(f"a sequence has {longest} tokens, the model's context {limit}; cut the text")
    if min(starts) < 1:
        raise ValueError(f"starts got {min(starts)}; give 1 or more, the first token has nothing before it")
    results: list[TokenScores | None] = [None] * len(sequences)
    was_training = model.training
    model.eval()
    for batch in _batches(sequences, batch_tokens):
        scored = _score_batch(model, [sequences[i] for i in batch], [starts[i] for i in batch])
        for i, scores in zip(batch, scored, strict=True):
            results[i] = scores
    model.train(was_training)
    return results


def context_length(model) -> int:
    """The most tokens that the model can read at once."""
    config = model.config
    return getattr(config, "block_size", None) or config.max_position_embeddings


def _batches(sequences: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences of like length, so that little is padded; longest first."""
    batch: list[int] = []
    for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):
        if batch and (len(batch) + 1) * len(sequences[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _score_batch(model, sequences: list[Sequence[int]], starts: list[int]) -> list[TokenScores]:
    import torch

    width = max(map(len, sequences))
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in sequences])  # (B, T)
    wanted = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (tokens, start) in enumerate(zip(sequences, starts, strict=True)):
        wanted[row, start:len(tokens)] = True
    ids, wanted = (part.to(next(model.parameters()).device) for part in (ids, wanted))
    with torch.no_grad():
        logits = _logits_before(model, ids, wanted).float()  # (n_wanted, V)
        targets = ids[wanted]
        logprobs = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
        hits = logits.argmax(1) == targets
    ends = np.cumsum([len(tokens) - start for tokens, start in zip(sequences, starts, strict=True)])[:-1]
    return [TokenScores(*parts) for parts in zip(np.split(logprobs.double().cpu().numpy(), ends),
                                                 np.split(hits.cpu().numpy(), ends), strict=True)]


def _logits_before(model, ids, wanted):
    """Logits (n_wanted, V) that predict the wanted tokens of ids (B, T), from the positions before them.

    The output head runs at those positions alone: with 50,000 entries it is most of a small model's work.
    """
    import torch

    before = torch.zeros_like(wanted)
    before[:, :-1] = wanted[:, 1:]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else model.lm_head
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][before],))
    try:
        output = model(ids)
    finally:
        hook.remove()
    return output.logits if hasattr(output, "logits") else output[0]


# --- HellaSwag -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class HellaSwagScores:
    """What a model made of N items; arrays are (N, 4), one column per ending, labels (N,)."""

    logprobs: np.ndarray  # log p(ending | context), summed over the ending's tokens
    n_tokens: np.ndarray
    n_bytes: np.ndarray
    labels: np.ndarray

    def scores(self, convention: str = "token") -> np.ndarray:
        """The number (N, 4) of which the largest wins.

        "sum": the log-probability as it is (acc of lm-evaluation-harness). "token": per token (acc_norm of
        build-nanogpt). "byte": per byte of the ending (acc_norm of lm-evaluation-harness).
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"convention got {convention!r}; give one of {', '.join(CONVENTIONS)}")
        return self.logprobs / {"sum": 1, "token": self.n_tokens, "byte": self.n_bytes}[convention]

    def correct(self, convention: str = "token") -> np.ndarray:
        """Whether each item was answered rightly: (N,) of bool."""
        return self.scores(convention).argmax(1) == self.labels

    def accuracy(self, convention: str = "token") -> float:
        return float(self.correct(convention).mean())

    def interval(self, convention: str = "token") -> tuple[float, float]:
        """95% Wilson interval of the accuracy."""
        return wilson_interval(int(self.correct(convention).sum()), len(self.labels))

    def margins(self, convention: str = "token") -> np.ndarray:
        """Score of the right ending less that of the best wrong one (N,): below 0 where it was missed."""
        scores = self.scores(convention)
        right = scores[np.arange(len(scores)), self.labels]
        wrong = scores.copy()
        wrong[np.arange(len(scores)), self.labels] = -np.inf
        return right - wrong.max(1)


def score_hellaswag(model, tokenizer, rows: Iterable[Mapping], batch_tokens: int = 2048,
                    start_tokens: Sequence[int] = ()) -> HellaSwagScores:
    """Scores every ending of HellaSwag rows (Zellers et al. 2019): ctx, or ctx_a and ctx_b; endings; label.

    An ending is read as " " + ending after the context. start_tokens go before every context: give [eos] for
    a model that only ever saw documents begin so; published GPT-2 numbers have none. A context too long loses
    its beginning. Raises ValueError for a row without its keys or its four endings.
    """
    items = [_tokenized(tokenizer, row, start_tokens, context_length(model)) for row in rows]
    flat = [choice for choices, *_ in items for choice in choices]
    scored = score_tokens(model, [context + ending for context, ending in flat],
                          [len(context) for context, _ in flat], batch_tokens)
    sums = np.array([score.logprobs.sum() for score in scored])
    return HellaSwagScores(
        logprobs=sums.reshape(-1, 4), n_tokens=np.array([len(ending) for _, ending in flat]).reshape(-1, 4),
        n_bytes=np.array([n_bytes for _, n_bytes, _ in items]),
        labels=np.array([label for *_, label in items]))


def hellaswag_context(row: Mapping) -> str:
    """The context of a row, from ctx or from ctx_a and ctx_b."""
    if "ctx" in row:
        return row["ctx"]
    if "ctx_a" not in row:
        raise ValueError(f"a HellaSwag row needs ctx, or ctx_a and ctx_b; it has {', '.join(sorted(row))}")
    return f"{row['ctx_a']} {row['ctx_b']}".strip()


def _tokenized(tokenizer, row: Mapping, start_tokens: Sequence[int], limit: int):
    """([(context, ending) tokens] * 4, bytes of each ending, label)."""
    if len(row["endings"]) != 4 or str(row["label"]) not in ("0", "1", "2", "3"):
        raise ValueError("a HellaSwag row needs 4 endings and a label of 0 to 3; row "
                         f"{row.get('ind', '?')} has {len(row['endings'])} and {row['label']!r} "
                         "(the test split has no labels)")
    context = _encode(tokenizer, hellaswag_context(row))
    choices = []
    for ending in row["endings"]:
        tokens = _encode(tokenizer, " " + ending)
        room = limit - len(tokens) - len(start_tokens)
        if room < 1:
            raise ValueError(f"an ending has {len(tokens)} tokens, the model's context {limit}; leave it out")
        choices.append(([*start_tokens, *context[-room:]], tokens))
    return choices, [len(ending.encode()) for ending in row["endings"]], int(row["label"])


def _encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# --- perplexity ------------------------------------------------------------------------------------

def perplexity(model, tokenizer, texts: Sequence[str], max_length: int | None = None,
               batch_tokens: int = 2048) -> dict:
    """Loss over all texts, weighted by tokens: each token and the EOS of each text count once, padding never.

    Each text is read as bos + text + eos (a tokenizer without bos: eos); the first is given, not counted. A
    text longer than ``max_length`` (default: the model's context) is cut into windows, in each of which the
    first token is the last of the window before.
    Returns loss (nats per token), perplexity, token_accuracy (share of tokens that were the likeliest) and
    tokens; and per text, for intervals: nats, hits, counts, each (n_texts,).
    """
    limit = min(max_length or context_length(model), context_length(model))
    windows, owners = [], []
    for i, text in enumerate(texts):
        for window in _windows(_document(tokenizer, text), limit):
            windows.append(window)
            owners.append(i)
    scored = score_tokens(model, windows, [1] * len(windows), batch_tokens)
    nats, hits, counts = np.zeros(len(texts)), np.zeros(len(texts)), np.zeros(len(texts))
    np.add.at(nats, owners, [-score.logprobs.sum() for score in scored])
    np.add.at(hits, owners, [score.hits.sum() for score in scored])
    np.add.at(counts, owners, [len(score.hits) for score in scored])
    loss = float(nats.sum() / counts.sum())
    return {"loss": loss, "perplexity": math.exp(loss), "token_accuracy": float(hits.sum() / counts.sum()),
            "tokens": int(counts.sum()), "nats": nats, "hits": hits, "counts": counts}


def _document(tokenizer, text: str) -> list[int]:
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("the tokenizer has no eos_token, with which a text ends; set one")
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [bos, *_encode(tokenizer, text), eos]


def _windows(tokens: list[int], limit: int) -> Iterator[list[int]]:
    """Pieces of at most ``limit`` tokens that overlap by one: each token but the first is predicted once."""
    for start in range(0, len(tokens) - 1, limit - 1):
        yield tokens[start:start + limit]


# --- answers ---------------------------------------------------------------------------------------

def score_think(text: str, answer: str, tolerance: float = 0.0) -> dict[str, bool]:
    """Whether a generated answer is in think form, and whether it is right.

    text: what the model wrote, without special tokens; "<think>" may stand at its beginning or in the prompt.
    well_formed: some reasoning, one "</think>", and after it an answer ("The answer is ..." or a number in
    \\boxed{}). correct: ``extract_answer(text)`` is ``answer``, within the share ``tolerance`` (SciBench:
    0.05); it does not ask for the form, so that a model is not called wrong for not knowing it.
    """
    reasoning, close, spoken = text.strip().removeprefix("<think>").partition("</think>")
    marked = "answer is" in spoken.lower() or "\\boxed" in spoken
    well_formed = bool(close and reasoning.strip() and marked and extract_answer(spoken)
                       and "think>" not in reasoning + spoken)
    return {"well_formed": well_formed, "correct": same_number(extract_answer(text), answer, tolerance)}


def same_number(a: str | None, b: str | None, tolerance: float = 0.0) -> bool:
    """Whether two answers are one number: "0.50" and "1/2" are. Answers that are no numbers must be equal."""
    if a is None or b is None:
        return False
    try:
        return math.isclose(_number(a), _number(b), rel_tol=max(tolerance, 1e-9))
    except (ValueError, ZeroDivisionError):
        return a.strip() == b.strip()


def _number(text: str) -> float:
    numerator, _, denominator = text.replace(",", "").partition("/")
    return float(numerator) / float(denominator or 1)


# --- how sure --------------------------------------------------------------------------------------

def wilson_interval(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share of which k in n were seen; z = 1.96 gives 95%. Source: Wilson 1927.

    Unlike p +- z * sqrt(p (1 - p) / n) it never leaves [0, 1] and is not empty at k = 0.
    """
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"wilson_interval got k={k}, n={n}; give 0 <= k <= n and n of at least 1")
    p, z2 = k / n, z * z / n
    centre, half = p + z2 / 2, z * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return max(0.0, (centre - half) / (1 + z2)), min(1.0, (centre + half) / (1 + z2))


class Difference(NamedTuple):
    """b less a, with a 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_bootstrap(a: Sequence[float], b: Sequence[float], weights: Sequence[float] | None = None,
                     n_resamples: int = 2000, seed: int = 0) -> Difference:
    """sum(b - a) / sum(weights) with its 95% percentile interval, items drawn anew with replacement.

    a and b belong to the same items in the same order. weights: 1 per item by default; for losses, a and b
    are the nats and weights the tokens of each text. Source: Efron 1979; Koehn 2004 for pairs.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=float)
    if not len(a) == len(b) == len(w) or len(a) == 0:
        raise ValueError(f"paired_bootstrap got {len(a)}, {len(b)} and {len(w)} values; give as many of each")
    drawn = np.random.default_rng(seed).integers(len(a), size=(n_resamples, len(a)))
    means = (b - a)[drawn].sum(1) / w[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float((b - a).sum() / w.sum()), float(low), float(high))
