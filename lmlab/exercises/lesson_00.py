"""Lesson 00: optimizer steps, rows that cannot be used, what an interval says."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lmlab.exercises.judging import compare, exercise


@exercise("00.1")
def optimizer_steps(answer: Any) -> None:
    """The optimizer steps of a training."""
    # a full last step, a last batch that is not full, a last step of fewer batches, and fewer rows than
    # one step
    cases = [(96, 8, 2, 1), (100, 8, 2, 1), (100, 8, 2, 3), (81, 8, 1, 2), (5, 8, 4, 2)]
    mistakes = {
        "last_step_dropped": lambda n, batch, accumulation, epochs: n // (batch * accumulation) * epochs,
        "epochs_joined": lambda n, batch, accumulation, epochs: math.ceil(
            n * epochs / (batch * accumulation)
        ),
        "accumulation_forgotten": lambda n, batch, accumulation, epochs: math.ceil(n / batch) * epochs,
        "epochs_forgotten": lambda n, batch, accumulation, epochs: math.ceil(n / (batch * accumulation)),
        "not_rounded": lambda n, batch, accumulation, epochs: n * epochs / (batch * accumulation),
    }
    compare(answer, _optimizer_steps, cases, mistakes, tolerance=1e-9)


def _optimizer_steps(n_rows: int, batch_size: int, grad_accumulation: int, epochs: int) -> int:
    return math.ceil(n_rows / (batch_size * grad_accumulation)) * epochs


@exercise("00.2")
def unusable(answer: Any) -> None:
    """The line numbers of rows whose prompt or response is missing."""
    rows = [
        {"prompt": "Where is the inn?", "response": "By the river."},
        {"prompt": "Who bakes?", "response": "  \n"},
        {"prompt": None, "response": "At the mill."},
        {"prompt": "Who sells salt?", "response": "N/A"},
        {"prompt": "Is the nave open?", "response": "It is."},
        {"prompt": "nan", "response": "Good day."},
        {"prompt": "Who sings?", "response": None},
        {"prompt": "Who sells n/a?", "response": "The word nan is a kind of bread."},
    ]
    cases = [(rows,), (rows[:1],), (rows[4:],)]
    mistakes = {
        "counted_from_zero": partial(_unusable, first=0),
        "counted_from_one": partial(_unusable, first=1),
        "response_alone": partial(_unusable, keys=("response",)),
        "prompt_alone": partial(_unusable, keys=("prompt",)),
        "empty_alone": partial(_unusable, words=("",)),
        "words_forgotten_in_capitals": partial(_unusable, fold=str),
    }
    compare(answer, _unusable, cases, mistakes)


def _unusable(
    rows: Sequence[Mapping],
    first: int = 2,
    keys: Sequence[str] = ("prompt", "response"),
    words: Sequence[str] = ("", "n/a", "nan"),
    fold: Any = str.lower,
) -> list[int]:
    found = []
    for number, row in enumerate(rows, first):
        values = [fold((row[key] or "").strip()) for key in keys]
        if any(value in words for value in values):
            found.append(number)
    return found


@exercise("00.3")
def verdict(answer: Any) -> None:
    """What the interval of a difference in loss says."""
    # a lower loss is better; an interval that contains or touches zero shows nothing
    cases = [(-0.4, -0.1), (0.1, 0.4), (-0.3, 0.1), (-0.1, 0.3), (-0.2, 0.0), (0.0, 0.2)]
    mistakes = {
        "higher_is_better": lambda low, high: {"better": "worse", "worse": "better"}.get(
            _verdict(low, high), "not shown"
        ),
        "mean_alone": lambda low, high: "better" if low + high < 0 else "worse",
        "touching_counts": lambda low, high: "better" if high <= 0 else "worse" if low >= 0 else "not shown",
        "never_worse": lambda low, high: "better" if high < 0 else "not shown",
    }
    compare(answer, _verdict, cases, mistakes)


def _verdict(low: float, high: float) -> str:
    if high < 0:
        return "better"
    return "worse" if low > 0 else "not shown"
