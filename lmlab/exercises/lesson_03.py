"""Lesson 03: scoring endings, and how certain an accuracy is."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lmlab.exercises.judging import EXERCISES, compare, exercise


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
    # a number of items is right or wrong: no tolerance
    compare(answer, reference, cases, mistakes, tolerance=1e-9)


def _first_above_chance(p: float, lower_end: Callable[[int, int], float]) -> int:
    # multiples of ten, so that readers agree on where to look
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
    # logits far apart, so that each mistake changes the score
    cases = []
    for T, first in ((6, 3), (9, 4), (5, 4)):
        cases.append((2 * torch.randn(T, 9, generator=rng), torch.randint(9, (T,), generator=rng), first))
    mistakes = {
        # read where the token has just been seen
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
    mistakes = {
        "by_sum": _best_by(lambda logprob, n: logprob),
        "least_likely": _best_by(lambda logprob, n: -logprob / n),
        "multiplied": _best_by(lambda logprob, n: logprob * n),
    }
    compare(answer, _best_by(lambda logprob, n: logprob / n), EXERCISES["03.3"].cases, mistakes)


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

    # many disagreements, none at all, and as many of either kind
    cases = [_graded(12, 28, 9), _graded(0, 0, 2), _graded(6, 6, 10), _graded(3, 9, 1)]
    mistakes = {
        "one_sided": lambda a, b: _tail(sum(_disagreements(a, b)), min(_disagreements(a, b))),
        "above_one": lambda a, b: 2 * _tail(sum(_disagreements(a, b)), min(_disagreements(a, b))),
        # a coin tossed for every item, not only for those on which the models disagree
        "ties_counted": lambda a, b: min(1, 2 * _tail(len(a), min(_disagreements(a, b)))),
    }
    compare(answer, lambda a, b: mcnemar(a, b).p_value, cases, mistakes)


def _graded(n_a: int, n_b: int, n_both: int) -> tuple[list[bool], list[bool]]:
    """Items on which a alone is correct, b alone, both, and one on which neither is."""
    pairs = [(True, False)] * n_a + [(False, True)] * n_b + [(True, True)] * n_both + [(False, False)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _disagreements(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int]:
    """On how many items a alone is correct, and b alone."""
    pairs = list(zip(a, b, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))


def _tail(n: int, k: int) -> float:
    """The probability of at most k heads in n tosses of a fair coin."""
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n
