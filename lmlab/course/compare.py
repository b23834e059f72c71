"""Two runs of a lesson side by side: metrics beside the expected bands, and where the recipes differ."""

from dataclasses import dataclass
from pathlib import Path

from lmlab.course.records import MetricsFile, read_metrics
from lmlab.course.results import band_text, value_text


@dataclass(frozen=True)
class ComparedLesson:
    """One lesson in two runs, as rows of text for comparison.html."""

    metrics: list[tuple[str, ...]]  # name, expected, first, second, difference
    settings: list[tuple[str, ...]]  # name, first, second: the recipe's values that differ


def compare_lesson(lesson: str, runs: tuple[Path, Path]) -> ComparedLesson:
    """Metrics and recipe of one lesson in two runs.

    Args:
        lesson: Its full name.
        runs: Their folders. A run in which the lesson did not come to its end has no values.

    Raises:
        ValueError: A metrics.json is not as ``write_metrics`` writes it.
    """
    first, second = (read_metrics(run, lesson) or MetricsFile() for run in runs)
    expected = second.expected | first.expected
    metrics = []
    for name, one, two in _pairs(
        {"seconds": first.seconds, **first.metrics}, {"seconds": second.seconds, **second.metrics}
    ):
        band = band_text(expected[name]) if name in expected else ""
        metrics.append((name, band, value_text(one), value_text(two), _difference(one, two)))
    settings = []
    for name, one, two in _pairs(first.settings, second.settings):
        if one != two:
            settings.append((name, value_text(one), value_text(two)))
    return ComparedLesson(metrics, settings)


def _pairs(first: dict, second: dict) -> list[tuple[str, object, object]]:
    """(name, value of the first, value of the second) in the lesson's order; None where a run has none."""
    return [(name, first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])]


def _difference(one: object, two: object) -> str:
    """Second minus first, with its percentage of the first; empty unless they are two unequal numbers."""
    for value in (one, two):
        # bool is an int in Python, but the difference of two truths is none.
        if not isinstance(value, int | float) or isinstance(value, bool):
            return ""
    if one == two:
        return ""
    # Nothing is a percentage of 0.
    percentage = f" ({(two - one) / abs(one):+.1%})" if one else ""
    return f"{two - one:+.4g}{percentage}"
