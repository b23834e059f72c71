"""Two runs of a lesson side by side: their curves on one plot, their metrics, where their recipes differ."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lmlab.course.records import is_number, own_file, read_metrics
from lmlab.course.templates import render
from lmlab.training.progress import read_progress

Series = list[tuple[float, float]]  # (optimizer step, value)
Curves = dict[
    str, dict[str, Series]
]  # measure -> split -> series; a split is "train", "validation", or "" for all
_FOLDERS_OF_LIBRARIES = re.compile(r"tensorboard|logs|runs|\w{3}\d\d_\d\d-\d\d-\d\d_.*")
_TAG = re.compile(r"(?:(train|eval|validation)/)?(.+)")
_BOOKKEEPING = re.compile(
    r"runtime|per_second|epoch|num_tokens|total_flos|train_loss|floor|again_|step_time|/std"
)
_FIRST = re.compile(r"loss$|hellaswag|reward$")  # what a reader asks for first
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 640, 300, 58, 22, 40, 12


def read_curves(folder: Path) -> Curves:
    """What a lesson's folder recorded over the steps: TensorBoard's event files, at any depth, and
    progress.jsonl.

    The folder of a training stands before its measure: "small: loss".
    """
    curves: Curves = {}
    for file in _event_files(folder):
        folders = file.relative_to(folder).parts[:-1]
        names = [name for name in folders if not _FOLDERS_OF_LIBRARIES.fullmatch(name)]
        for tag, series in _scalars(own_file(folder, file.relative_to(folder))).items():
            if _BOOKKEEPING.search(tag):
                continue
            split, measure = _TAG.fullmatch(tag).groups()
            split = "validation" if split == "eval" else split or ""
            splits = curves.setdefault(": ".join([*names, measure.replace("/", " ")]), {})
            earlier = dict(splits.get(split, ()))  # a training that was resumed has several files
            splits[split] = sorted((earlier | dict(series)).items())
    _add_progress(curves, folder)
    return _without_single_points(curves)


def _event_files(folder: Path) -> list[Path]:
    """In the order in which they were written: names hold the second, the process and a count."""
    return sorted(
        folder.rglob("events.out.tfevents*"),
        key=lambda file: (file.parent, [int(digits) for digits in re.findall(r"\d+", file.name)]),
    )


def _add_progress(curves: Curves, folder: Path) -> None:
    """Adds what progress.jsonl has and TensorBoard has not."""
    own_file(folder, "progress.jsonl")  # raises for a link out of the run
    rows = [row for row in read_progress(folder) if isinstance(row, dict) and is_number(row.get("step"))]
    for row in rows:
        for name, value in row.items():
            repeated = name in ("eval_loss", "val_loss") and "validation" in curves.get("loss", {})
            if name == "step" or repeated or _BOOKKEEPING.search(name):
                continue
            if is_number(value) and math.isfinite(value):
                curves.setdefault(name, {}).setdefault("", []).append((row["step"], value))


def _without_single_points(curves: Curves) -> Curves:
    kept: Curves = {}
    for measure, splits in curves.items():
        for split, series in splits.items():
            if len(series) > 1:
                kept.setdefault(measure, {})[split] = series
    return kept


def _scalars(file: Path) -> dict[str, Series]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, Series] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                number = float(make_ndarray(value.tensor))
                if math.isfinite(number):
                    found.setdefault(value.tag, []).append((event.step, number))
    return found


@dataclass(frozen=True)
class ComparedLesson:
    """One lesson in two runs, for comparison_lesson.html. Rows: name, first, second (and difference)."""

    charts: list[tuple[str, Markup]]  # name and SVG of what a reader asks for first
    more_charts: list[tuple[str, Markup]]
    differ: list[tuple[str, ...]]
    same: list[tuple[str, ...]]
    settings: list[tuple[str, ...]] | None  # that differ; None where a run did not record them
    n_same_settings: int
    recipes: list[str]


def compare_lesson(lesson: str, runs: tuple[Path, Path], names: tuple[str, str]) -> ComparedLesson:
    """Curves, metrics and recipes of one lesson in two runs. names: what the runs are called."""
    records = [read_metrics(run, lesson) or {"metrics": {}} for run in runs]
    charts, more_charts = _charts([read_curves(run / lesson) for run in runs], names)
    differ, same = _metrics(records)
    settings, n_same_settings = _settings(records)
    recipes = [str(record.get("recipe", "?")) for record in records]
    return ComparedLesson(charts, more_charts, differ, same, settings, n_same_settings, recipes)


def _charts(both: list[Curves], names: tuple[str, str]) -> tuple[list, list]:
    """The curves that both runs have: those that a reader asks for first, and the others."""
    shared = [name for name in both[0] if name in both[1]]
    shared.sort(key=lambda name: (not _FIRST.search(name), ":" in name))
    charts = [(name, chart([curves[name] for curves in both], names, name)) for name in shared]
    shown = sum(1 for name in shared if _FIRST.search(name) and ":" not in name)
    return charts[: max(1, shown)], charts[max(1, shown) :]


def chart(both: list[dict[str, Series]], names: tuple[str, str], measure: str) -> Markup:
    """The same measure of two runs as inline SVG in the page's colors; the second run's lines are dashed.

    Args:
        both: Of each run, its series by split.
        names: What the runs are called.
        measure: What is drawn.
    """
    points = [point for splits in both for series in splits.values() for point in series]
    low, high = min(value for _, value in points), max(value for _, value in points)
    # On a linear axis a value that falls to a sixth would be a flat line for most of its way.
    log = low > 0 and high > 6 * low
    x_ticks, x = _scale([0, max(step for step, _ in points)], _LEFT, _WIDTH - _RIGHT, log=False)
    y_ticks, y = _scale([low, high], _HEIGHT - _BOTTOM, _TOP, log)
    lines = []
    for key, splits in zip("ab", both, strict=True):
        for split, series in sorted(splits.items()):
            line = [(x(step), y(value)) for step, value in series]
            lines.append(_line(line, f"run-{key} {split or 'validation'}"))
    return render(
        "chart.svg",
        said=_in_words(both, names, measure),
        lines=lines,
        x_ticks=[(x(tick), tick) for tick in x_ticks],
        y_ticks=[(y(tick), tick) for tick in y_ticks],
        below=f"optimizer step{', logarithmic upwards' if log else ''}",
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        bottom=_HEIGHT - _BOTTOM,
        middle=(_LEFT + _WIDTH) / 2,
    )


def _line(points: Series, kind: str) -> dict:
    """A path, with dots if its points are few and it is no training's. points: in the SVG's coordinates."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    # Dots closer than 14 units would run into each other.
    crowded = len(points) > _WIDTH / 14 or kind.endswith("train")
    return {"kind": kind, "path": path, "dots": [] if crowded else points}


def _scale(ends: list[float], first: float, last: float, log: bool) -> tuple[list[float], Callable]:
    """Round numbers for an axis, and the function that places a value between ``first`` and ``last``."""
    from matplotlib.ticker import MaxNLocator

    ticks = _log_ticks(*ends) if log else [float(tick) for tick in MaxNLocator(5).tick_values(*ends)]
    transform = math.log if log else float
    low, high = transform(ticks[0]), transform(ticks[-1])
    scale = (last - first) / ((high - low) or 1)
    return ticks, lambda value: first + (transform(value) - low) * scale


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... around both ends; powers of ten if those are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # Over several decades a tick at each of 1, 2 and 5 would be too many.
    for digits in ((1, 2, 5), (1,)):
        ticks = [digit * 10.0**exponent for exponent in exponents for digit in digits]
        start = max(i for i, tick in enumerate(ticks) if tick <= low)
        ends = [i for i, tick in enumerate(ticks) if tick >= high]
        ticks = ticks[start : ends[0] + 1 if ends else None]
        if len(ticks) < 9:
            break
    return ticks


def _in_words(both: list[dict[str, Series]], names: tuple[str, str], measure: str) -> str:
    """What a chart shows, for those who cannot see it."""
    parts = []
    for name, splits in zip(names, both, strict=True):
        for split, series in splits.items():
            (_, first), (step, last) = series[0], series[-1]
            which = f"{name}, {split}" if split else name
            parts.append(f"{which}: from {first:.4g} to {last:.4g} at step {step:g}")
    return f"{measure.replace('_', ' ')} over the steps. {'; '.join(parts)}"


def _metrics(records: list[dict]) -> tuple[list, list]:
    """Rows of the metrics that differ, and of those that are the same, in the lesson's order."""
    first, second = ({"seconds": record.get("seconds"), **record["metrics"]} for record in records)
    differ, same = [], []
    for name in dict.fromkeys([*first, *second]):
        one, two = first.get(name), second.get(name)
        row = (name, _shown(one), _shown(two), _change(one, two))
        (same if one == two else differ).append(row)
    return differ, same


def _change(one: object, two: object) -> str:
    """The difference of two numbers, with its percentage; empty for anything else."""
    for value in (one, two):
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return ""
    if one == two:
        return ""
    percentage = f" ({(two - one) / abs(one):+.1%})" if one else ""
    return f"{two - one:+.4g}{percentage}"


def _settings(records: list[dict]) -> tuple[list | None, int]:
    """The values in which the resolved recipes differ, and how many are the same."""
    first, second = (record.get("settings") for record in records)
    # Runs of lessons that recorded no settings, or that did not end.
    if first is None or second is None:
        return None, 0
    keys = list(dict.fromkeys([*first, *second]))
    rows = []
    for key in keys:
        if first.get(key) != second.get(key):
            rows.append((key, _shown(first.get(key)), _shown(second.get(key))))
    return rows, len(keys) - len(rows)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)
