"""metrics.json of a lesson, and the table of expected against measured."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from lmlab.files import write_atomic
from lmlab.recipes import Recipe
from lmlab.training.tensorboard import write_results
from lmlab.viz.display import html_table


@dataclasses.dataclass(frozen=True)
class Expectations:
    """A table of what was expected and what was measured."""

    rows: list[tuple[str, str, str, str]]  # metric, expected, measured, verdict

    HEADER = ("metric", "expected", "measured", "inside")

    def __str__(self) -> str:
        return "\n".join(f"{m:<36} {e:<20} {v:<14} {ok}" for m, e, v, ok in [self.HEADER, *self.rows])

    def _repr_html_(self) -> str:
        return html_table(self.HEADER, self.rows)


def write_metrics(out: Path, cfg: Recipe, metrics: dict, started: float | None = None) -> Expectations:
    """Writes out/metrics.json, all or nothing, and returns the table of expected against measured.

    TensorBoard shows the numbers as result/<metric>.

    started: ``time.time()`` at the notebook's begin, for the seconds it took.
    Raises ValueError when the recipe expects a metric that was not measured.
    """
    # JSON has no scalars of torch and numpy.
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
    # A band of a metric that was renamed would never be checked again.
    missing = [name for name in cfg.expected if name not in metrics]
    if missing:
        raise ValueError(
            f"recipe {cfg.name} of {cfg.lesson} expects {', '.join(missing)}, "
            f"but the lesson measured {', '.join(metrics)}; rename one or the other"
        )
    table = expectation_table(plain, cfg.expected)
    record = {
        "lesson": cfg.lesson,
        "recipe": cfg.name,
        "seed": cfg.seed,
        "seconds": None if started is None else round(time.time() - started, 1),
        "metrics": plain,
        "expected": cfg.expected,
        "settings": cfg.model_dump(exclude={"expected"}),
    }
    write_atomic(out / "metrics.json", json.dumps(record, indent=1))
    write_results(out, plain)
    return table


def expectation_table(metrics: dict, expected: dict) -> Expectations:
    """One row per metric; those with an expectation first."""
    # the recipe's order, so that the table of two runs is the same
    rows = [
        (name, band_text(band), value_text(metrics[name]), "yes" if inside(metrics[name], band) else "NO")
        for name, band in expected.items()
    ]
    rest = [(name, "", value_text(value), "") for name, value in metrics.items() if name not in expected]
    return Expectations(rows + rest)


def inside(value: float, band: Sequence[float | None]) -> bool:
    """Whether ``value`` lies in [low, high]; None leaves a side open."""
    low, high = band
    # written so that NaN, which compares as false with everything, lies in no band
    return (low is None or value >= low) and (high is None or value <= high)


def band_text(band: Sequence[float | None]) -> str:
    """A band in words, as "0.5 to 2" or "at least 0.5"."""
    # "g" drops zeros: 0.50 is shown as 0.5
    low, high = (None if side is None else f"{side:g}" for side in band)
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def value_text(value: object) -> str:
    """A metric or a recipe's value for a table; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
