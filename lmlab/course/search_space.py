"""What a hyperparameter search tries: the dimensions of the space, and the plan that all workers share."""

import itertools
import math
from dataclasses import dataclass, field

import optuna
import yaml

from lmlab.recipes import load_recipe
from lmlab.recipes.types import number_from_text

DEFAULT_TRIALS = 12
FORMS = "expected KEY=LOW:HIGH, KEY=log:LOW:HIGH, KEY=int:LOW:HIGH or KEY=categorical:A,B,C"


@dataclass(frozen=True)
class SearchDimension:
    """One key of a recipe and its values: (low, high), or the choices of a categorical dimension."""

    key: str
    kind: str  # "float", "log", "int" or "categorical"
    values: tuple

    @classmethod
    def parse(cls, text: str) -> "SearchDimension":
        """From "learning_rate=log:1e-4:7e-3" and the like. Raises ValueError for another form."""
        # Without a kind it is LOW:HIGH, where the part before the first colon is a number.
        key, _, range_text = text.partition("=")
        kind, _, values = range_text.partition(":")
        if kind not in ("log", "int", "categorical"):
            kind, values = "float", range_text
        try:
            parsed = _choices(values) if kind == "categorical" else _bounds(kind, values)
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"--space got {text!r}: {error}; {FORMS}") from None
        return cls(key, kind, parsed)

    def suggest(self, trial: optuna.Trial) -> object:
        """The value that an Optuna trial has for it."""
        if self.kind == "categorical":
            return trial.suggest_categorical(self.key, self.values)
        if self.kind == "int":
            return trial.suggest_int(self.key, *self.values)
        return trial.suggest_float(self.key, *self.values, log=self.kind == "log")


def _choices(text: str) -> tuple:
    # As in a recipe's YAML, so that null, true and 1e-3 are what they are there.
    choices = tuple(number_from_text(value) for value in yaml.safe_load(f"[{text}]"))
    if not choices or len(set(map(repr, choices))) < len(choices):
        raise ValueError("give different values with commas between them")
    return choices


def _bounds(kind: str, text: str) -> tuple:
    number = int if kind == "int" else float
    low, high = map(number, text.split(":"))
    if not -math.inf < low < high < math.inf or (kind == "log" and low <= 0):
        raise ValueError("give finite bounds with LOW < HIGH, and 0 < LOW after log:")
    return low, high


@dataclass(frozen=True)
class SearchPlan:
    """What a study searches, the same for all its workers. ``overrides`` replace the recipe's values."""

    lesson: str
    recipe: str
    space: tuple[SearchDimension, ...]
    metric: str
    direction: str = "minimize"
    overrides: dict = field(default_factory=dict)

    def check(self) -> None:
        """Raises ValueError where a key comes twice, or a value of the space cannot be."""
        # Otherwise the searched value would replace that of --set without a word.
        keys = [dimension.key for dimension in self.space]
        for key in keys:
            if keys.count(key) > 1 or key in self.overrides:
                raise ValueError(f"--space got {key} twice, or in --set too; give each key once")
        corners = itertools.product(*(dimension.values for dimension in self.space))
        # Together, not one by one: a value may fit the other keys' choices alone, and not the recipe's own.
        for values in corners:
            load_recipe(self.lesson, self.recipe, **self.overrides, **dict(zip(keys, values, strict=True)))

    def grid(self) -> dict[str, tuple] | None:
        """The choices of each key where all dimensions are categorical, else None."""
        if any(dimension.kind != "categorical" for dimension in self.space):
            return None
        return {dimension.key: dimension.values for dimension in self.space}

    def number_of_trials(self, wanted: int | None) -> int:
        """``wanted`` or a default; of a grid, at most each of its combinations once."""
        grid = self.grid()
        if grid is None:
            return wanted or DEFAULT_TRIALS
        # GridSampler would begin again once all combinations have run.
        size = math.prod(len(choices) for choices in grid.values())
        return min(wanted or size, size)
