"""progress.jsonl: how a metric develops while a lesson runs, for a search that watches it."""

from pathlib import Path

from lmlab.files import read_jsonl, write_jsonl


def report_progress(out: Path, step: int, **metrics: float) -> None:
    """Adds a row to out/progress.jsonl.

    A search reads the file while the notebook runs, and stops a trial that falls behind the others. What was
    noted of these metrics from this step on is replaced: the run was resumed, or began anew.

    Args:
        out: The lesson's folder.
        step: The optimizer step.
        **metrics: Values by the names that they have in metrics.json.
    """
    row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
    out.mkdir(parents=True, exist_ok=True)
    # rows of other metrics stay: two trainings of a lesson may report to one file
    earlier = [old for old in read_progress(out) if old["step"] < step or not old.keys() & metrics.keys()]
    write_jsonl(out / "progress.jsonl", [*earlier, row])


def read_progress(out: Path) -> list[dict]:
    """The rows of out/progress.jsonl so far."""
    return read_jsonl(out / "progress.jsonl")
