"""Two runs of a lesson side by side: their curves on one plot, their metrics, where their recipes differ."""

import html
import json
import math
import re
from pathlib import Path

from lmlab.results import read_progress

Series = list[tuple[float, float]]  # (optimizer step, value)
_FOLDERS_OF_LIBRARIES = re.compile(r"tensorboard|logs|runs|\w{3}\d\d_\d\d-\d\d-\d\d_.*")
_BOOKKEEPING = re.compile(
    r"runtime|per_second|epoch|num_tokens|total_flos|train_loss|floor|again_|step_time|/std")
_FIRST = re.compile(r"loss$|hellaswag|reward$")  # what a reader asks for first
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 640, 300, 58, 22, 40, 12


def read_curves(folder: Path) -> dict[str, dict[str, Series]]:
    """What a lesson's folder recorded over the steps: {measure: {split: series}}.

    From TensorBoard's event files, at any depth, and progress.jsonl. The folder of a training stands before
    its measure: "small: loss". The split is "train", "validation", or "" where there is one only.
    """
    curves: dict[str, dict[str, Series]] = {}
    files = folder.rglob("events.out.tfevents*")  # with the second, the process and a count in their names
    for file in sorted(files, key=lambda file: (file.parent, [int(n) for n in re.findall(r"\d+", file.name)])):
        parts = [p for p in file.relative_to(folder).parts[:-1] if not _FOLDERS_OF_LIBRARIES.fullmatch(p)]
        for tag, series in _scalars(file).items():
            split, measure = re.fullmatch(r"(train|eval|validation)/(.+)|(.+)", tag).groups()[:2]
            name = ": ".join([*parts, (measure or tag).replace("/", " ")])
            if not _BOOKKEEPING.search(tag):
                split = {"eval": "validation", None: ""}.get(split, split)
                splits = curves.setdefault(name, {})  # a training that was resumed has several files
                splits[split] = sorted((dict(splits.get(split, ())) | dict(series)).items())
    rows = read_progress(folder)
    for name in dict.fromkeys(name for row in rows for name in row if name != "step"):
        # a validation loss that TensorBoard has already
        again = name in ("eval_loss", "val_loss") and "validation" in curves.get("loss", {})
        if not _BOOKKEEPING.search(name) and not again:
            known = [row for row in rows if math.isfinite(row.get(name, math.nan))]
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


def compare_lesson(lesson: str, runs: tuple[Path, Path], names: tuple[str, str]) -> str:
    """HTML: curves, metrics and recipes of one lesson in two runs. names: what the runs are called."""
    records = [_record(run / lesson) for run in runs]
    return (f"{_curves([read_curves(run / lesson) for run in runs], names)}"
            f"<h2 id='measurements'>Measurements</h2>{_metrics(records, names)}"
            f"<h2 id='recipes'>Recipes</h2>{_settings(records, names)}")


def _record(folder: Path) -> dict:
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"metrics": {}}


def _curves(both: list[dict], names: tuple[str, str]) -> str:
    shared = sorted((name for name in both[0] if name in both[1]),
                    key=lambda name: (not _FIRST.search(name), ":" in name))
    if not shared:
        return "<p>The two runs have no curve in common.</p>"
    charts = [f'<figure><figcaption>{html.escape(name.replace("_", " "))}</figcaption>'
              f"{chart([curves[name] for curves in both], names, name)}</figure>" for name in shared]
    shown = max(1, sum(bool(_FIRST.search(name) and ":" not in name) for name in shared))
    rest = "".join(charts[shown:])
    more = (f'<details><summary>{len(shared) - shown} more curves</summary><div class="charts">{rest}</div>'
            "</details>")
    keys = "".join(f'<li class="run-{key}"><svg viewBox="0 0 34 8" aria-hidden="true"><path d="M1 4H33"/>'
                   f"</svg>{html.escape(name)}</li>" for key, name in zip("ab", names, strict=True))
    return (f'<h2 id="curves">Curves</h2><ul class="key">{keys}</ul><p class="note">Where both were logged, '
            f'the validation is the strong line with points and the training the fine one.</p>'
            f'<div class="charts">{"".join(charts[:shown])}</div>{more if rest else ""}')


def chart(both: list[dict[str, Series]], names: tuple[str, str], measure: str) -> str:
    """The same measure of two runs as inline SVG in the page's colours: the second run's lines are dashed.

    both: for each run {split: series}.
    """
    points = [point for splits in both for series in splits.values() for point in series]
    low, high = min(y for _, y in points), max(y for _, y in points)
    log = low > 0 and high > 6 * low
    x_ticks, x = _scale([0, max(x for x, _ in points)], _LEFT, _WIDTH - _RIGHT, log=False)
    y_ticks, y = _scale([low, high], _HEIGHT - _BOTTOM, _TOP, log)
    grid = [f'<path class="grid" d="M{_LEFT} {y(v):.1f}H{_WIDTH - _RIGHT}"/>'
            f'{_text(_LEFT - 8, y(v) + 4, v, "end")}' for v in y_ticks]
    grid += [_text(x(v), _HEIGHT - _BOTTOM + 20, v) for v in x_ticks]
    below = f"optimizer step{', logarithmic upwards' if log else ''}"
    lines = [_line(series, x, y, f"run-{key} {split or 'validation'}", _WIDTH / 14)
             for key, splits in zip("ab", both, strict=True) for split, series in sorted(splits.items())]
    said = html.escape(_in_words(both, names, measure), quote=True)
    return (f'<svg class="chart" role="img" aria-label="{said}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
            f'{"".join(grid)}{"".join(lines)}{_text((_LEFT + _WIDTH) / 2, _HEIGHT - 4, below)}</svg>')


def _text(x: float, y: float, what: float | str, anchor: str = "middle") -> str:
    shown = what if isinstance(what, str) else f"{what:.6g}"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown}</text>'


def _line(series: Series, x, y, kind: str, room: float) -> str:
    """A path; with points where they are few and it is no training's."""
    path = "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in series)
    dots = "" if len(series) > room or kind.endswith("train") else "".join(
        f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"/>' for step, value in series)
    return f'<g class="{kind}"><path d="M{path}"/>{dots}</g>'


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
        ticks = [*[t for t in ticks if t <= low][-1:], *(t for t in ticks if low < t < high),
                 *[t for t in ticks if t >= high][:1]]
        if len(ticks) < 9:
            break
    return ticks


def _in_words(both: list[dict[str, Series]], names: tuple[str, str], measure: str) -> str:
    parts = [f"{name}{', ' + split if split else ''}: from {series[0][1]:.4g} to {series[-1][1]:.4g} at step "
             f"{series[-1][0]:g}" for name, splits in zip(names, both, strict=True)
             for split, series in splits.items()]
    return f"{measure.replace('_', ' ')} over the steps. {'; '.join(parts)}"


def _metrics(records: list[dict], names: tuple[str, str]) -> str:
    """Metrics of both, those that differ first by their order in the lesson; the same ones folded away."""
    first, second = ({"seconds": record.get("seconds"), **record["metrics"]} for record in records)
    rows = [(name, first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])]
    differ = [_metric_row(*row) for row in rows if row[1] != row[2]]
    same = [_metric_row(*row) for row in rows if row[1] == row[2]]
    table = _table(["measurement", *names, "difference"], differ) if differ else "<p>All are the same.</p>"
    folded = _table(["measurement", *names, ""], same)
    return table + (f"<details><summary>{len(same)} the same</summary>{folded}</details>" if same else "")


def _metric_row(name: str, one, two) -> tuple[str, str, str, str]:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (one, two))
    change = ""
    if numbers and one != two:
        share = f" ({(two - one) / abs(one):+.1%})" if one else ""
        change = f"{two - one:+.4g}{share}"
    return name, _shown(one), _shown(two), change


def _settings(records: list[dict], names: tuple[str, str]) -> str:
    """The values in which the resolved recipes differ."""
    known = [record.get("settings") for record in records]
    if None in known:
        recipes = " and ".join(html.escape(record.get("recipe", "?")) for record in records)
        return f"<p>Recipes {recipes}. One of the runs did not record their values.</p>"
    keys = [key for key in dict.fromkeys([*known[0], *known[1]]) if known[0].get(key) != known[1].get(key)]
    rows = [(key, *(_shown(values.get(key)) for values in known)) for key in keys]
    same = len(known[0].keys() | known[1].keys()) - len(keys)
    table = _table(["choice", *names], rows) if rows else ""
    return f"{table}<p class='note'>{same} choices are the same in both.</p>"


def _shown(value) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)


def _table(header: list[str], rows: list[tuple]) -> str:
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr><th scope='row'><code>{html.escape(row[0]).replace('_', '_<wbr>')}</code></th>"
                   + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:]) + "</tr>" for row in rows)
    return (f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
            "</table></div>")
