"""Two runs of a lesson side by side: their curves on one plot, their metrics, where their recipes differ."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lmlab.course.pages import render
from lmlab.course.records import is_number, own_file, read_metrics
from lmlab.training.progress import read_progress

Series = list[tuple[float, float]]  # (optimizer step, value)
_FOLDERS_OF_LIBRARIES = re.compile(r"tensorboard|logs|runs|\w{3}\d\d_\d\d-\d\d-\d\d_.*")
_BOOKKEEPING = re.compile(
    r"runtime|per_second|epoch|num_tokens|total_flos|train_loss|floor|again_|step_time|/std"
)
_FIRST = re.compile(r"loss$|hellaswag|reward$")  # what a reader asks for first
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 640, 300, 58, 22, 40, 12


def read_curves(folder: Path) -> dict[str, dict[str, Series]]:
    """What a lesson's folder recorded over the steps: {measure: {split: series}}.

    From TensorBoard's event files, at any depth, and progress.jsonl. The folder of a training stands before
    its measure: "small: loss". The split is "train", "validation", or "" where there is one only.
    """
    curves: dict[str, dict[str, Series]] = {}
    files = folder.rglob("events.out.tfevents*")  # with the second, the process and a count in their names
    for file in sorted(
        files, key=lambda file: (file.parent, [int(n) for n in re.findall(r"\d+", file.name)])
    ):
        parts = [p for p in file.relative_to(folder).parts[:-1] if not _FOLDERS_OF_LIBRARIES.fullmatch(p)]
        for tag, series in _scalars(own_file(folder, file.relative_to(folder))).items():
            split, measure = re.fullmatch(r"(train|eval|validation)/(.+)|(.+)", tag).groups()[:2]
            name = ": ".join([*parts, (measure or tag).replace("/", " ")])
            if not _BOOKKEEPING.search(tag):
                split = {"eval": "validation", None: ""}.get(split, split)
                splits = curves.setdefault(name, {})  # a training that was resumed has several files
                splits[split] = sorted((dict(splits.get(split, ())) | dict(series)).items())
    own_file(folder, "progress.jsonl")
    rows = [row for row in read_progress(folder) if isinstance(row, dict) and is_number(row.get("step"))]
    for name in dict.fromkeys(name for row in rows for name in row if name != "step"):
        # a validation loss that TensorBoard has already
        again = name in ("eval_loss", "val_loss") and "validation" in curves.get("loss", {})
        if not _BOOKKEEPING.search(name) and not again:
            known = [row for row in rows if is_number(row.get(name)) and math.isfinite(row[name])]
            curves[name] = {"": [(row["step"], row[name]) for row in known]}
    long = {name: {split: s for split, s in splits.items() if len(s) > 1} for name, splits in curves.items()}
    return {name: splits for name, splits in long.items() if splits}


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
class Compared:
    """One lesson in two runs, for comparison_lesson.html. Rows: name, first, second (and difference)."""

    charts: list[tuple[str, Markup]]  # name and SVG of what a reader asks for first
    more_charts: list[tuple[str, Markup]]
    differ: list[tuple[str, ...]]
    same: list[tuple[str, ...]]
    settings: list[tuple[str, ...]] | None  # that differ; None where a run did not record them
    n_same_settings: int
    recipes: list[str]


def compare_lesson(lesson: str, runs: tuple[Path, Path], names: tuple[str, str]) -> Compared:
    """Curves, metrics and recipes of one lesson in two runs. names: what the runs are called."""
    records = [read_metrics(run, lesson) or {"metrics": {}} for run in runs]
    charts, more_charts = _charts([read_curves(run / lesson) for run in runs], names)
    return Compared(
        charts,
        more_charts,
        *_metrics(records),
        *_settings(records),
        recipes=[str(record.get("recipe", "?")) for record in records],
    )


def _charts(both: list[dict], names: tuple[str, str]) -> tuple[list, list]:
    """The curves that both runs have: those that a reader asks for first, and the others."""
    shared = sorted(
        (name for name in both[0] if name in both[1]), key=lambda name: (not _FIRST.search(name), ":" in name)
    )
    charts = [(name, chart([curves[name] for curves in both], names, name)) for name in shared]
    shown = max(1, sum(bool(_FIRST.search(name) and ":" not in name) for name in shared))
    return charts[:shown], charts[shown:]


def chart(both: list[dict[str, Series]], names: tuple[str, str], measure: str) -> Markup:
    """The same measure of two runs as inline SVG in the page's colours: the second run's lines are dashed.

    both: for each run {split: series}.
    """
    points = [point for splits in both for series in splits.values() for point in series]
    low, high = min(y for _, y in points), max(y for _, y in points)
    log = low > 0 and high > 6 * low
    x_ticks, x = _scale([0, max(x for x, _ in points)], _LEFT, _WIDTH - _RIGHT, log=False)
    y_ticks, y = _scale([low, high], _HEIGHT - _BOTTOM, _TOP, log)
    lines = [
        _line([(x(step), y(value)) for step, value in series], f"run-{key} {split or 'validation'}")
        for key, splits in zip("ab", both, strict=True)
        for split, series in sorted(splits.items())
    ]
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
    """A path; with dots where its points are few and it is no training's. points: where they lie."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    crowded = len(points) > _WIDTH / 14 or kind.endswith("train")
    return {"kind": kind, "path": path, "dots": [] if crowded else points}


def _scale(ends: list[float], first: float, last: float, log: bool):
    """Round numbers for an axis, and the function that places a value on it."""
    from matplotlib.ticker import MaxNLocator

    ticks = _log_ticks(*ends) if log else [float(tick) for tick in MaxNLocator(5).tick_values(*ends)]
    turn = math.log if log else float
    low, high = turn(ticks[0]), turn(ticks[-1])
    return ticks, lambda value: first + (turn(value) - low) / ((high - low) or 1) * (last - first)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... around both ends; powers of ten where those are many."""
    for digits in ((1, 2, 5), (1,)):
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [digit * 10.0**exponent for exponent in exponents for digit in digits]
        ticks = [
            *[t for t in ticks if t <= low][-1:],
            *(t for t in ticks if low < t < high),
            *[t for t in ticks if t >= high][:1],
        ]
        if len(ticks) < 9:
            break
    return ticks


def _in_words(both: list[dict[str, Series]], names: tuple[str, str], measure: str) -> str:
    parts = [
        f"{name}{', ' + split if split else ''}: from {series[0][1]:.4g} to {series[-1][1]:.4g} at step "
        f"{series[-1][0]:g}"
        for name, splits in zip(names, both, strict=True)
        for split, series in splits.items()
    ]
    return f"{measure.replace('_', ' ')} over the steps. {'; '.join(parts)}"


def _metrics(records: list[dict]) -> tuple[list, list]:
    """Rows of the metrics that differ, and of those that are the same, in the lesson's order."""
    first, second = ({"seconds": record.get("seconds"), **record["metrics"]} for record in records)
    rows = [(name, first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])]
    differ = [_metric_row(*row) for row in rows if row[1] != row[2]]
    return differ, [_metric_row(*row) for row in rows if row[1] == row[2]]


def _metric_row(name: str, one, two) -> tuple[str, str, str, str]:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (one, two))
    change = ""
    if numbers and one != two:
        share = f" ({(two - one) / abs(one):+.1%})" if one else ""
        change = f"{two - one:+.4g}{share}"
    return name, _shown(one), _shown(two), change


def _settings(records: list[dict]) -> tuple[list | None, int]:
    """The values in which the resolved recipes differ, and how many are the same."""
    known = [record.get("settings") for record in records]
    if None in known:
        return None, 0
    keys = [key for key in dict.fromkeys([*known[0], *known[1]]) if known[0].get(key) != known[1].get(key)]
    rows = [(key, *(_shown(values.get(key)) for values in known)) for key in keys]
    return rows, len(known[0].keys() | known[1].keys()) - len(keys)


def _shown(value) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)
