"""What a run left, read with care: its folder may come from anyone."""

import dataclasses
import json
from pathlib import Path

from lmlab.course.runner import Outcome
from lmlab.recipes import LESSONS

_LARGEST = 2**63  # of an integer; larger ones are no measurements, and floats cannot hold them all


def own_file(run: Path, relative: str | Path) -> Path:
    """The path of a file in ``run``, whether it is there or not.

    Raises:
        ValueError: A link leads out of the run: a page would publish another file of this machine.
    """
    path = run / relative
    if not path.resolve().is_relative_to(run.resolve()):
        raise ValueError(f"{path} leads out of the run, to {path.resolve()}; put a copy there instead")
    return path


def read_outcomes(run: Path) -> list[Outcome]:
    """How each lesson of a run went: from its run.json, or from what a job or a reader's own notebook has
    left.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: It has an entry that ``lmlab run`` cannot have written.
    """
    path = own_file(run, "run.json")
    if not path.is_file():
        outcomes = []
        for lesson in LESSONS:
            if metrics := read_metrics(run, lesson):
                outcomes.append(_finished(run, lesson, metrics))
        if not outcomes:
            raise FileNotFoundError(
                f"{run} holds neither a run.json nor the metrics.json of a lesson; give a run"
            )
        return outcomes
    record = _read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("lessons"), list):
        raise ValueError(f'{path} has no list "lessons"; give a folder that lmlab run made')
    return [_outcome(entry, path) for entry in record["lessons"]]


def _finished(run: Path, lesson: str, metrics: dict) -> Outcome:
    """The outcome of a lesson that was not run in batch: it has a metrics.json, so it came to its end."""
    path = own_file(run, Path(lesson, "record.json"))
    record = _read_json(path) if path.is_file() else {}
    seconds, memory = metrics.get("seconds"), record.get("peak_memory_gb")
    return Outcome(
        lesson,
        "ok",
        seconds=seconds if is_number(seconds) else 0.0,
        peak_memory_gb=memory if is_number(memory) else 0.0,
        recipe=str(metrics.get("recipe", "")),
    )


def _outcome(entry: object, path: Path) -> Outcome:
    names = {field.name for field in dataclasses.fields(Outcome)}
    optional = {"recipe", "error"}  # those with a default
    if not isinstance(entry, dict) or not names - optional <= entry.keys() <= names:
        raise ValueError(f"{path} got the entry {entry!r:.200}; an entry has {', '.join(sorted(names))}")
    # The name becomes a file name and a link: nothing but a known lesson may stand there.
    if entry["lesson"] not in tuple(LESSONS):  # a tuple, as what is given may not be hashable
        raise ValueError(f"{path} got lesson {entry['lesson']!r:.100}; give one of {', '.join(LESSONS)}")
    for name in ("seconds", "peak_memory_gb"):
        if not is_number(entry[name]):
            raise ValueError(f"{path}: {entry['lesson']} got {name} {entry[name]!r:.100}; give a number")
    return Outcome(**entry)


def read_metrics(run: Path, lesson: str) -> dict | None:
    """A lesson's metrics.json, with "metrics" and "expected"; None where there is none.

    Raises:
        ValueError: It is not as ``write_metrics`` writes it.
    """
    path = own_file(run, Path(lesson, "metrics.json"))
    if not path.is_file():
        return None
    record = _read_json(path)
    if not isinstance(record, dict) or "metrics" not in record:
        raise ValueError(f"{path} has no metrics; run the lesson again")
    record = {"expected": {}, **record}
    for name in ("metrics", "expected", "settings"):
        if not isinstance(record.get(name, {}), dict):
            raise ValueError(f"{path} needs keys and values under {name}; run the lesson again")
    # What has a band is drawn and compared, so it must be a number; other metrics are shown as text.
    for name, band in record["expected"].items():
        value = record["metrics"].get(name)
        if not _is_band(band) or not is_number(value):
            raise ValueError(
                f"{path}: {name} got {value!r:.100}, expected {band!r:.100}; give a number, and [low, high] with "
                "null for an open side"
            )
    return record


def _is_band(band: object) -> bool:
    return isinstance(band, list) and len(band) == 2 and all(side is None or is_number(side) for side in band)


def is_number(value: object) -> bool:
    """Whether a value from JSON is a number that can be drawn and formatted."""
    return isinstance(value, float) or isinstance(value, int) and abs(value) < _LARGEST


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no JSON ({error}); run it again") from None
