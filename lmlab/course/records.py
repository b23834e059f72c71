"""What a run left, read with care: its folder may come from anyone."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, model_validator

from lmlab.course.runner import Outcome
from lmlab.recipes import LESSONS

Record = TypeVar("Record", bound=BaseModel)


class MetricsFile(BaseModel):
    """A lesson's metrics.json, as ``write_metrics`` writes it."""

    recipe: str = "?"
    # None where a job without a notebook wrote it
    seconds: float | None = None
    # NaN and infinity are in them where a training diverged
    metrics: dict[str, Any] = {}
    expected: dict[str, tuple[float | None, float | None]] = {}
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _bands_are_of_numbers(self) -> "MetricsFile":
        # What has a band is compared with it; other metrics are shown as text, whatever they are.
        for name in self.expected:
            if not isinstance(self.metrics.get(name), int | float):
                raise ValueError(f"{name} has a band, and its value is {self.metrics.get(name)!r:.100}")
        return self


class RunFile(BaseModel):
    """run.json, as the runner writes it."""

    lessons: list[Outcome]


class RecordFile(BaseModel):
    """What the report needs of a lesson's record.json."""

    peak_memory_gb: float | None = None


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
    record = _read(run, "run.json", RunFile)
    if record is None:
        outcomes = []
        for lesson in LESSONS:
            metrics = read_metrics(run, lesson)
            if metrics:  # it has a metrics.json, so it came to its end
                made = _read(run, f"{lesson}/record.json", RecordFile) or RecordFile()
                outcomes.append(
                    Outcome(lesson, "ok", metrics.seconds or 0, made.peak_memory_gb or 0, metrics.recipe)
                )
        if not outcomes:
            raise FileNotFoundError(f"{run} has neither a run.json nor a lesson's metrics.json; give a run")
        return outcomes
    for outcome in record.lessons:
        # The name becomes a file name and a link: nothing but a known lesson may stand there.
        if outcome.lesson not in LESSONS:
            raise ValueError(
                f"{run}/run.json got lesson {outcome.lesson!r}; give one of {', '.join(LESSONS)}"
            )
    return record.lessons


def read_metrics(run: Path, lesson: str) -> MetricsFile | None:
    """A lesson's metrics.json; None where there is none.

    Raises:
        ValueError: It is not as ``write_metrics`` writes it.
    """
    return _read(run, f"{lesson}/metrics.json", MetricsFile)


def _read(run: Path, name: str, kind: type[Record]) -> Record | None:
    path = own_file(run, name)
    if not path.is_file():
        return None
    # pydantic refuses what is no JSON, too, however deep it is nested
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not what lmlab writes ({error}); run the lesson again") from None
