"""Progress of a metric while a lesson runs, for a search that watches it."""

from pathlib import Path

from lmlab.files import read_jsonl, write_jsonl


def report_progress(out: Path, step: int, **metrics: float) -> None:
    """Notes in out/progress.jsonl what metrics, by their names in metrics.json, are at an optimizer step.

    A search reads it while the notebook runs, and ends a trial that falls behind the others. Where a run was
    interrupted and goes on, or begins anew, what was noted of these metrics from this step on is replaced.
    """
    row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
    out.mkdir(parents=True, exist_ok=True)
    earlier = [old for old in read_progress(out) if old["step"] < step or not old.keys() & metrics.keys()]
    write_jsonl(out / "progress.jsonl", [*earlier, row])


def read_progress(out: Path) -> list[dict]:
    """What was noted so far."""
    return read_jsonl(out / "progress.jsonl")
