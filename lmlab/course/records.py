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
    """How each lesson of a run went, from its run.json.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It has an entry that ``lmlab run`` cannot have written.
    """
    path = own_file(run, "run.json")
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no run.json; give a folder that lmlab run made")
    record = _read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("lessons"), list):
        raise ValueError(f'{path} has no list "lessons"; give a folder that lmlab run made')
    return [_outcome(entry, path) for entry in record["lessons"]]


def _outcome(entry, path: Path) -> Outcome:
    fields = {field.name for field in dataclasses.fields(Outcome)}
    if not isinstance(entry, dict) or entry.keys() - fields or entry.get("lesson") not in tuple(LESSONS):
        raise ValueError(
            f"{path} got the entry {entry!r:.200}; an entry has {', '.join(sorted(fields))}, "
            f"and its lesson is one of {', '.join(LESSONS)}"
        )
    missing = fields - {"recipe", "error"} - entry.keys()
    if missing:
        raise ValueError(f"{path}: {entry['lesson']} has no {', '.join(sorted(missing))}; run it again")
    for name in ("seconds", "peak_memory_gb"):
        if not is_number(entry[name]):
            raise ValueError(f"{path}: {entry['lesson']} got {name} {entry[name]!r:.100}; give a number")
    return Outcome(**entry)


def read_metrics(run: Path, lesson: str) -> dict | None:
    """A lesson's metrics.json; None where there is none.

    Raises:
        ValueError: It is not as ``write_metrics`` writes it.
    """
    path = own_file(run, Path(lesson, "metrics.json"))
    if not path.is_file():
        return None
    record = _read_json(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path} got {type(record).__name__}; give keys and values")
    record = {"expected": {}, **record}
    for name in ("metrics", "expected", "settings"):
        if not isinstance(record.get(name, {}), dict) or "metrics" not in record:
            raise ValueError(f"{path} needs keys and values under {name}; run the lesson again")
    for name, band in record["expected"].items():
        value = record["metrics"].get(name)
        if not _is_band(band) or not is_number(value):
            raise ValueError(
                f"{path}: {name} got {value!r:.100}, expected {band!r:.100}; "
                "give a number, and [low, high] with null for an open side"
            )
    return record


def _is_band(band) -> bool:
    return isinstance(band, list) and len(band) == 2 and all(side is None or is_number(side) for side in band)


def is_number(value) -> bool:
    """Whether a value from JSON is a number that can be drawn and formatted."""
    return isinstance(value, float) or isinstance(value, int) and abs(value) < _LARGEST


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no JSON ({error}); run it again") from None
