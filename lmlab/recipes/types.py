"""The constrained types that recipes are made of."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field


def number_from_text(value: object) -> object:
    """A number that YAML 1.1 or papermill took for text, as 1e-3; every other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value  # the check of the type refuses it


def absolute_path(source: str) -> str:
    """A local path made absolute, since a run is read again from other folders; other names as they are."""
    path = Path(source).expanduser()
    is_local = source.startswith((".", "~")) or path.exists()
    return str(path.resolve()) if is_local else source


Number = Annotated[float, BeforeValidator(number_from_text)]
PositiveNumber = Annotated[Number, Field(gt=0)]
NonNegativeNumber = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
LearningRates = Annotated[list[PositiveNumber], Field(min_length=1)]
Band = Annotated[list[Number | None], Field(min_length=2, max_length=2)]

AtLeastTwo = Annotated[int, Field(ge=2)]  # the best of one model is no choice

Source = Annotated[str, AfterValidator(absolute_path)]  # a hub id, miniworld/<name>, or a local path
Sources = Annotated[list[Source], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1)]

Schedule = Literal["linear", "cosine", "constant"]  # of the learning rate, as transformers names it
# adamw_8bit keeps Adam's moments in one byte each, adafactor their row and column means alone
Optimizer = Literal["adamw_torch", "adamw_8bit", "adafactor"]
Order = Literal["shuffled", "curriculum"]  # of the training problems
Dtype = Literal["float32", "float16", "bfloat16"]


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for a misspelled name, "" where nothing known is like it."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""
