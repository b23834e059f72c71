"""Lesson 11: an optimizer's state, accumulation, equal compute, a style that is counted."""

import math
from collections.abc import Sequence
from typing import Any

from lmlab.exercises.judging import EXERCISES, compare, exercise


@exercise("11.1")
def adafactor_elements(answer: Any) -> None:
    """Row and column means of matrices, and all elements of vectors."""
    mistakes = {
        "second_moment": lambda shapes: sum(map(math.prod, shapes)),
        "two_moments": lambda shapes: 2 * sum(map(math.prod, shapes)),
        "rows_only": lambda shapes: sum(shape[0] for shape in shapes),
        "matrices_only": lambda shapes: sum(sum(shape) for shape in shapes if len(shape) == 2),
    }
    compare(answer, lambda shapes: sum(map(sum, shapes)), EXERCISES["11.1"].cases, mistakes)


@exercise("11.2")
def micro_batches(answer: Any) -> None:
    """The largest batch size that fits and divides the step, and the number of batches."""
    mistakes = {
        "not_a_divisor": lambda n, fits: (min(n, fits), n // min(n, fits)),
        "more_than_the_step": lambda n, fits: (min(n, fits), math.ceil(n / min(n, fits))),
        "swapped": lambda n, fits: _micro_batches(n, fits)[::-1],
        "one_at_a_time": lambda n, fits: (1, n),
    }
    compare(answer, _micro_batches, EXERCISES["11.2"].cases, mistakes)


def _micro_batches(n: int, fits: int) -> tuple[int, int]:
    size = max(k for k in range(1, fits + 1) if n % k == 0)
    return size, n // size


@exercise("11.3")
def equal_compute_steps(answer: Any) -> None:
    """FLOPs are in proportion to parameters times tokens."""
    mistakes = {
        "inverse": lambda n_small, n_large, steps: steps * n_small // n_large,
        "added": lambda n_small, n_large, steps: steps * n_large // n_small - steps,
        "too_many": lambda n_small, n_large, steps: math.ceil(steps * n_large / n_small),
        "ratio_rounded_first": lambda n_small, n_large, steps: steps * (n_large // n_small),
        "not_whole": lambda n_small, n_large, steps: steps * n_large / n_small,
    }
    compare(
        answer, lambda n_small, n_large, steps: steps * n_large // n_small, EXERCISES["11.3"].cases, mistakes
    )


@exercise("11.4")
def fraction_of_style(answer: Any) -> None:
    """The fraction of a text's words that are in a list."""
    mistakes = {
        "case_kept": lambda text, words: _fraction([word.strip(".,;:?!") for word in text.split()], words),
        "marks_kept": lambda text, words: _fraction(text.lower().split(), words),
        "distinct_words": lambda text, words: _fraction(sorted(set(_words(text))), words),
        "counted": lambda text, words: sum(word in words for word in _words(text)),
        "divided_by_list": lambda text, words: sum(word in words for word in _words(text)) / len(words),
    }
    compare(answer, lambda text, words: _fraction(_words(text), words), EXERCISES["11.4"].cases, mistakes)


def _words(text: str) -> list[str]:
    return [word.strip(".,;:?!").lower() for word in text.split()]


def _fraction(found: Sequence[str], words: Sequence[str]) -> float:
    return sum(word in words for word in found) / len(found)
