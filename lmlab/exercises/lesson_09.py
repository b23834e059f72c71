"""Lesson 09: advantages within a group, pass@k, the clipped loss, and rewards without loopholes."""

import itertools
import math
import re
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lmlab.exercises.judging import EXERCISES, compare, exercise


@exercise("09.1")
def advantages(answer: Any) -> None:
    """The advantages of the answers to one problem."""
    # binary rewards, graded ones, the smallest group, and two groups of zero variance
    cases = [([1.0] * 2 + [0.0] * 6,), ([0.2, 0.9, 0.4],), ([1.0, 0.0],), ([1.0] * 4,), ([0.0] * 2,)]
    mistakes = {
        "zero_by_zero": partial(_advantages, of_equal=math.nan),
        "population_deviation": partial(_advantages, deviation=statistics.pstdev),
        "population_deviation_and_zero_by_zero": partial(
            _advantages, deviation=statistics.pstdev, of_equal=math.nan
        ),
        "not_divided": partial(_advantages, deviation=lambda rewards: 1.0),
        # TRL's 0.0001, here against a division by zero
        "mean_not_subtracted": lambda rewards: [r / (statistics.stdev(rewards) + 1e-4) for r in rewards],
    }
    compare(answer, _advantages, cases, mistakes, tolerance=2e-3)  # room for TRL's 0.0001


def _advantages(
    rewards: Sequence[float], deviation: Callable = statistics.stdev, of_equal: float = 0.0
) -> list[float]:
    """of_equal: the advantages where all rewards are equal."""
    mean, std = statistics.fmean(rewards), deviation(rewards)
    if std == 0:
        return [of_equal] * len(rewards)
    return [(reward - mean) / std for reward in rewards]


@exercise("09.2")
def pass_at_k(answer: Any) -> None:
    """The probability that k of n samples, c of them correct, contain a correct one."""
    # no correct sample, fewer wrong ones than k, and nothing but correct ones are among them
    cases = [(8, 2, 1), (8, 2, 4), (10, 3, 5), (6, 0, 3), (6, 5, 2), (5, 5, 5)]
    mistakes = {
        "with_replacement": lambda n, c, k: 1 - (1 - c / n) ** k,
        # right where k is 1
        "pass_at_1": lambda n, c, k: c / n,
        "probabilities_added": lambda n, c, k: min(1, k * c / n),
        "none_correct": lambda n, c, k: 1 - _pass_at_k(n, c, k),
        "all_correct": lambda n, c, k: math.comb(c, k) / math.comb(n, k),
    }
    compare(answer, _pass_at_k, cases, mistakes)


def _pass_at_k(n: int, c: int, k: int) -> float:
    """By enumeration of all ways to take k samples."""
    ways = list(itertools.combinations([True] * c + [False] * (n - c), k))
    return statistics.fmean(map(any, ways))


@exercise("09.3")
def group_needed(answer: Any) -> None:
    """The smallest group that has zero variance in at most a fraction of cases."""
    # the last is met exactly: 0.5**4 + 0.5**4 = 0.125
    cases = [(0.5, 0.05), (0.9, 0.5), (0.2, 0.2), (0.8, 0.2), (0.5, 0.125)]
    mistakes = {
        "all_wrong_forgotten": lambda p, fraction: _smallest(lambda n: p**n <= fraction),
        "all_correct_forgotten": lambda p, fraction: _smallest(lambda n: (1 - p) ** n <= fraction),
        "strictly_below": lambda p, fraction: _smallest(lambda n: _zero_variance(p, n) < fraction),
        "fraction_that_teaches": lambda p, fraction: _smallest(
            lambda n: 1 - _zero_variance(p, n) <= fraction
        ),
    }
    compare(answer, _group_needed, cases, mistakes, tolerance=1e-9)


def _group_needed(p: float, fraction: float) -> int:
    return _smallest(lambda n: _zero_variance(p, n) <= fraction)


def _zero_variance(p: float, n: int) -> float:
    """The probability that all n answers are correct, or all wrong."""
    return p**n + (1 - p) ** n


def _smallest(is_enough: Callable[[int], bool]) -> int:
    for group in range(2, 99):
        if is_enough(group):
            return group
    return 99  # some mistakes never reach their goal


@exercise("09.4")
def clipped_loss(answer: Any) -> None:
    """The clipped loss of one token."""
    # both signs of the advantage, and ratios within and beyond the clip
    ratios, advantages = (0.5, 0.9, 1.0, 1.1, 1.5), (1.6, -0.5)
    cases = [(ratio, advantage, 0.2) for ratio in ratios for advantage in advantages]
    mistakes = {
        "always_clipped": lambda ratio, advantage, epsilon: -_clip(ratio, epsilon) * advantage,
        "not_clipped": lambda ratio, advantage, epsilon: -ratio * advantage,
        # a clip that helps the objective instead of holding it back
        "larger_taken": partial(_clipped_loss, taken=max),
        "objective_returned": lambda *case: -_clipped_loss(*case),
    }
    compare(answer, _clipped_loss, cases, mistakes)


def _clipped_loss(ratio: float, advantage: float, epsilon: float, taken: Callable = min) -> float:
    return -taken(ratio * advantage, _clip(ratio, epsilon) * advantage)


def _clip(ratio: float, epsilon: float) -> float:
    return min(max(ratio, 1 - epsilon), 1 + epsilon)


@exercise("09.5")
def reward(answer: Any) -> None:
    """1 if the final answer of a response is the wanted number, else 0."""
    mistakes = {
        "number_in_reasoning": lambda text, wanted: float(float(wanted) in map(float, _numbers(text))),
        "substring_of_all": lambda text, wanted: float(wanted in text),
        "substring_of_answer": lambda text, wanted: float(wanted in _spoken(text)),
        "any_number_of_answer": lambda text, wanted: float(
            float(wanted) in map(float, _numbers(_spoken(text)))
        ),
        "texts_compared": lambda text, wanted: float(_numbers(_spoken(text))[-1:] == [wanted]),
    }
    compare(answer, _reward, EXERCISES["09.5"].cases, mistakes)


def _reward(text: str, wanted: str) -> float:
    numbers = _numbers(_spoken(text))
    return float(bool(numbers) and float(numbers[-1]) == float(wanted))


def _spoken(text: str) -> str:
    """The answer after the reasoning."""
    return text.rsplit("</think>", 1)[-1]


def _numbers(text: str) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?", text)
