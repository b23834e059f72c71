"""Lesson 03: scoring endings, and how certain an accuracy is."""

import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lmlab.exercises.judging import compare, exercise


@exercise("03.1")
def items_needed(answer: Any) -> None:
    """The number of items that tells an accuracy of p from chance, 25%."""
    from lmlab.evaluation.statistics import wilson_interval

    cases = [(0.3,), (0.35,), (0.5,), (0.28,)]  # the nearer to 0.25, the more items
    mistakes = {
        "normal_interval": lambda p: _first_above_chance(p, _normal_lower_end),
        "point_estimate": lambda p: _first_above_chance(p, lambda k, n: k / n),
    }
    reference = partial(_first_above_chance, lower_end=lambda k, n: wilson_interval(k, n)[0])
    compare(answer, reference, cases, mistakes, tolerance=1e-9)


def _first_above_chance(p: float, lower_end: Callable[[int, int], float]) -> int:
    n = 10
    while lower_end(round(p * n), n) <= 0.25:
        n += 10
    return n


def _normal_lower_end(k: int, n: int) -> float:
    p = k / n
    return p - 1.959964 * math.sqrt(p * (1 - p) / n)


@exercise("03.2")
def ending_logprob(answer: Any) -> None:
    """The log-probability of an ending."""
    import torch

    rng = torch.Generator().manual_seed(0)
    cases = []
    for T, first in ((6, 3), (9, 4), (5, 4)):
        cases.append((2 * torch.randn(T, 9, generator=rng), torch.randint(9, (T,), generator=rng), first))
    mistakes = {
        "off_by_one": partial(_ending, shift=0),
        "context_scored": lambda logits, ids, first: _ending(logits, ids, 1),
        "first_token_missing": lambda logits, ids, first: _ending(logits, ids, first + 1),
        "not_normalized": partial(_ending, normalized=False),
        "mean": lambda logits, ids, first: _ending(logits, ids, first) / (len(ids) - first),
    }
    compare(answer, _ending, cases, mistakes)


def _ending(logits: Any, ids: Any, first: int, shift: int = 1, normalized: bool = True) -> float:
    if normalized:
        logits = logits.log_softmax(-1)
    return sum(logits[i - shift, ids[i]].item() for i in range(first, len(ids)))


@exercise("03.3")
def choose_endings(answer: Any) -> None:
    """The ending with the highest mean log-probability per token, of each item."""
    rng = random.Random(0)
    # long endings have low sums, so that the conventions choose differently
    n_tokens = [[rng.randint(2, 9) for _ in range(4)] for _ in range(12)]
    logprobs = [[-n * (1 + rng.random()) for n in row] for row in n_tokens]
    mistakes = {
        "by_sum": _best_by(lambda logprob, n: logprob),
        "least_likely": _best_by(lambda logprob, n: -logprob / n),
        "multiplied": _best_by(lambda logprob, n: logprob * n),
    }
    cases = [(logprobs[:3], n_tokens[:3]), (logprobs, n_tokens)]
    compare(answer, _best_by(lambda logprob, n: logprob / n), cases, mistakes)


def _best_by(score: Callable[[float, int], float]) -> Callable[[list, list], list[int]]:
    """A function that chooses the ending of the highest score in each item."""

    def _choose(logprobs: list[list[float]], n_tokens: list[list[int]]) -> list[int]:
        chosen = []
        for row, counts in zip(logprobs, n_tokens, strict=True):
            scores = [score(logprob, n) for logprob, n in zip(row, counts, strict=True)]
            chosen.append(scores.index(max(scores)))
        return chosen

    return _choose


@exercise("03.4")
def p_value(answer: Any) -> None:
    """McNemar's exact test, two-sided."""
    from lmlab.evaluation.statistics import mcnemar

    rng = random.Random(0)
    yes, no = [True], [False]
    # 28 against 12 items with nine ties, then no disagreement at all, then random answers
    cases = [(no * 28 + yes * 12 + yes * 9, yes * 28 + no * 12 + yes * 9), (yes * 2 + no, yes * 2 + no)]
    for accuracies in ((0.3, 0.6), (0.5, 0.5)):
        cases.append(tuple([rng.random() < p for _ in range(40)] for p in accuracies))
    mistakes = {
        "one_sided": lambda a, b: _tail(sum(_disagreements(a, b)), min(_disagreements(a, b))),
        "above_one": lambda a, b: 2 * _tail(sum(_disagreements(a, b)), min(_disagreements(a, b))),
        "ties_counted": lambda a, b: min(1, 2 * _tail(len(a), min(_disagreements(a, b)))),
    }
    compare(answer, lambda a, b: mcnemar(a, b).p_value, cases, mistakes)


def _disagreements(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int]:
    """On how many items a alone is correct, and b alone."""
    pairs = list(zip(a, b, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))


def _tail(n: int, k: int) -> float:
    """The probability of at most k heads in n tosses of a fair coin."""
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n
