"""Where a lesson writes, what it measured, and what earlier lessons left for it."""

import dataclasses
import html
import json
import time
from pathlib import Path

from lmlab.files import remove_temporary, write_atomic
from lmlab.recipes import PROJECT, Recipe, load_recipe
from lmlab.training.tensorboard import write_results


def lesson_dir(output_dir: str | Path, cfg: Recipe) -> Path:
    """``output_dir``/<lesson>, made if missing. A relative folder is taken from the project's top."""
    out = PROJECT / Path(output_dir).expanduser() / cfg.lesson
    out.mkdir(parents=True, exist_ok=True)
    return out


def previous(output_dir: str | Path, lesson: str, relative: str) -> Path | None:
    """What an earlier lesson made (``relative`` to its folder), or None. Says which it is."""
    path = PROJECT / Path(output_dir).expanduser() / lesson / relative
    remove_temporary(path.parent)  # a lesson that was killed while it replaced its result
    if path.exists():
        print(f"using {relative} of lesson {lesson[:2]}: {path}")
        return path
    print(f"lesson {lesson[:2]} has left no {relative} in {path.parent.parent}")
    return None


def recipe_of(folder: Path) -> Recipe:
    """The recipe, overrides and all, with which a lesson made ``folder``; read from its metrics.json."""
    path = folder / "metrics.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the lesson did not end; run it again")
    record = json.loads(path.read_text(encoding="utf-8"))
    settings = record.get("settings", {"seed": record["seed"]})
    chosen = {name: value for name, value in settings.items() if name not in ("lesson", "name")}
    return load_recipe(record["lesson"], record["recipe"], **chosen)


@dataclasses.dataclass(frozen=True)
class Expectations:
    """A table of what was expected and what was measured."""

    rows: list[tuple[str, str, str, str]]  # metric, expected, measured, verdict

    HEADER = ("metric", "expected", "measured", "inside")

    def __str__(self) -> str:
        return "\n".join(f"{m:<36} {e:<20} {v:<14} {ok}" for m, e, v, ok in [self.HEADER, *self.rows])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in self.HEADER)
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows]
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def write_metrics(out: Path, cfg: Recipe, metrics: dict, started: float | None = None) -> Expectations:
    """Writes out/metrics.json, all or nothing, and returns the table of expected against measured.

    TensorBoard shows the numbers as result/<metric>.

    started: ``time.time()`` at the notebook's begin, for the seconds it took.
    Raises ValueError when the recipe expects a metric that was not measured.
    """
    missing = [name for name in cfg.expected if name not in metrics]
    if missing:
        raise ValueError(
            f"recipe {cfg.name} of {cfg.lesson} expects {', '.join(missing)}, "
            f"but the lesson measured {', '.join(metrics)}; rename one or the other"
        )
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
    record = {
        "lesson": cfg.lesson,
        "recipe": cfg.name,
        "seed": cfg.seed,
        "seconds": None if started is None else round(time.time() - started, 1),
        "metrics": plain,
        "expected": cfg.expected,
        "settings": dict(cfg.rows()),
    }
    write_atomic(out / "metrics.json", json.dumps(record, indent=1))
    write_results(out, plain)
    return expectation_table(plain, cfg.expected)


def expectation_table(metrics: dict, expected: dict) -> Expectations:
    """One row per metric; those with an expectation first."""
    rows = [
        (name, _band(band), _shown(metrics[name]), "yes" if inside(metrics[name], band) else "NO")
        for name, band in expected.items()
    ]
    rest = [(name, "", _shown(value), "") for name, value in metrics.items() if name not in expected]
    return Expectations(rows + rest)


def inside(value: float, band: list) -> bool:
    """Whether ``value`` lies in [low, high]; None leaves a side open."""
    low, high = band
    return (low is None or value >= low) and (high is None or value <= high)


def _band(band: list) -> str:
    low, high = (None if side is None else f"{side:g}" for side in band)
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _shown(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
