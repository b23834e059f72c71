"""Finding, reading and checking recipes: one way for the command line, a notebook's cell and papermill.

Shipped recipes lie in lmlab/recipes/<lesson>/<name>.yaml; a reader's own in ./recipes/<lesson>/<name>.yaml
of the working directory, or anywhere, given by path. {recipe_dir} in a value is the folder of the recipe's
file, {data_dir} the folder that the reader gives.
"""

from collections.abc import Iterable
from pathlib import Path

import yaml
from pydantic import ValidationError

from lmlab.recipes.lessons import LESSONS, Recipe
from lmlab.recipes.types import absolute_path, nearest

SHIPPED = Path(__file__).resolve().parent
# of the working directory
OWN = Path("recipes")


class RecipeError(ValueError):
    """A recipe or an override that cannot be used: says where, what was expected, what was got, the fix."""


def load_recipe(lesson: str, recipe: str | Path = "tiny", /, **overrides: object) -> Recipe:
    """Reads and checks the config of a lesson.

    Args:
        lesson: Its number ("05") or full name.
        recipe: A name, as ``lmlab recipes`` lists them, or the path of a YAML file.
        overrides: Single values that replace the recipe's. 1e-3 as text is a number; local paths are taken
            from the working directory.

    Returns:
        The config, frozen, with the type that ``LESSONS`` has for the lesson.

    Raises:
        RecipeError: An unknown lesson, recipe or key, a value of the wrong type, an impossible value.
    """
    lesson = find_lesson(lesson)
    path = find_recipe(lesson, recipe)
    values = _read_with_parents(lesson, path)
    # where each value comes from, so that an error names the file to edit or the override
    origin = dict.fromkeys(values, str(path)) | dict.fromkeys(overrides, "override")
    values = {**values, **overrides}
    cls = LESSONS[lesson]
    # pydantic would refuse these too, without naming the nearest key
    for key in values:
        if key not in cls.settable_keys():
            raise RecipeError(
                f"{origin[key]}: {_unknown(key, cls.settable_keys(), f'key of {cls.__name__}')}"
            )
    data_dir = values.get("data_dir")
    filled = {key: _fill_data_dir(value, data_dir, key, path) for key, value in values.items()}
    try:
        # lesson and name follow from where the file lies
        return cls.model_validate({**filled, "lesson": lesson, "name": path.stem})
    except ValidationError as error:
        raise RecipeError(_explain(error, origin, path)) from None


def find_lesson(text: str) -> str:
    """The full name of a lesson from its number ("05") or name. Raises RecipeError for another."""
    for lesson in LESSONS:
        if text in (lesson, lesson[:2]):
            return lesson
    raise RecipeError(_unknown(text, LESSONS, "lesson, by name or number"))


def find_recipe(lesson: str, recipe: str | Path) -> Path:
    """The file of a recipe, absolute. Raises RecipeError where there is none, or its name is taken."""
    if str(recipe).endswith((".yaml", ".yml")):
        path = Path(recipe).expanduser().resolve()
        if not path.is_file():
            raise RecipeError(f"got recipe {str(recipe)!r}, and there is no file {path}")
        return path
    shipped, own = (folder / lesson / f"{recipe}.yaml" for folder in (SHIPPED, OWN))
    # else a reader's file would be ignored without a word
    if shipped.is_file() and own.is_file() and own.resolve() != shipped:
        raise RecipeError(f"{own}: {recipe!r} is the name of a shipped recipe; rename the file")
    if not (shipped.is_file() or own.is_file()):
        raise RecipeError(_unknown(str(recipe), list_recipes(lesson), f"recipe of {lesson}"))
    return shipped if shipped.is_file() else own.resolve()


def is_shipped(recipe: Path) -> bool:
    """Whether a recipe's file is one of the package's own."""
    return recipe.is_relative_to(SHIPPED)


def list_recipes(lesson: str) -> list[str]:
    """Names of the recipes of one lesson, shipped and the reader's own, ``tiny`` first."""
    # the recipe that runs everywhere comes first, as in every list of recipes
    names = {path.stem for folder in (SHIPPED, OWN) for path in (folder / lesson).glob("*.yaml")}
    return sorted(names, key=lambda name: (name != "tiny", name))


def parse_settings(texts: Iterable[str]) -> dict[str, object]:
    """The overrides in the texts of ``--set``, each ``key=value`` with the value in YAML.

    Raises ValueError for another form, and for a data_dir that is no folder.
    """
    settings: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--set got {text!r}; expected key=value, as in --set learning_rate=1e-3")
        # YAML's rules for types: 3 is a number, true a boolean, null is None, [a, b] a list
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            settings[key] = value
        # told before anything starts: a wrong folder would fail late, and under another name
        if key == "data_dir" and not Path(value).expanduser().is_dir():
            raise ValueError(f"--set data_dir got {value!r}, and there is no folder {Path(value).resolve()}")
    return settings


def _read_with_parents(lesson: str, path: Path) -> dict:
    """The values of a recipe, over those of the recipe that it ``extends``, and so on."""
    values: dict = {}
    read = []
    parent: str | None = str(path)
    while parent is not None:
        path = find_recipe(lesson, parent)
        if path in read:
            raise RecipeError(f"{read[-1]}: extends got {parent!r}, which extends this one; name another")
        read.append(path)
        own = _with_recipe_dir(_read(path), path.parent)
        parent = own.pop("extends", None)
        # what is nearer to the recipe that was asked for overrides its parents
        values = {**own, **values}
    return values


def _read(path: Path) -> dict:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected keys and values, got {type(values).__name__}")
    return values


def _with_recipe_dir(values: dict, folder: Path) -> dict:
    """Puts the recipe file's folder in place of {recipe_dir}: so a recipe can name a file beside it."""
    filled = {}
    for key, value in values.items():
        is_text = isinstance(value, str)
        filled[key] = value.replace("{recipe_dir}", str(folder)) if is_text else value
    return filled


def _fill_data_dir(value: object, data_dir: object, key: str, path: Path) -> object:
    """Puts the folder in place of {data_dir}, in a text or in each text of a list."""
    if isinstance(value, list):
        return [_fill_data_dir(item, data_dir, key, path) for item in value]
    if not isinstance(value, str) or "{data_dir}" not in value:
        return value
    if data_dir is None:
        raise RecipeError(f"{path}: {key} is {value!r} and needs data_dir; give it: --set data_dir=FOLDER")
    return value.replace("{data_dir}", absolute_path(str(data_dir)))


def _unknown(got: str, known: Iterable[str], what: str) -> str:
    return f"got {got!r}, expected a {what}: {', '.join(known)}{nearest(got, known)}"


def _explain(error: ValidationError, origin: dict[str, str], path: Path) -> str:
    """A line for each value that pydantic refuses: where it stands, what is wrong, what was got."""
    lines = []
    for found in error.errors():
        message = found["msg"].removeprefix("Value error, ")
        # without a location, values contradict each other
        if not found["loc"]:
            overridden = " with overrides" if "override" in origin.values() else ""
            lines.append(f"{path}{overridden}: {message}; change one of the two")
            continue
        key = str(found["loc"][0])
        got = "" if found["type"] == "missing" else f", got {found['input']!r}"
        lines.append(f"{origin.get(key, path)}: {key}: {message}{got}")
    return "\n".join(lines)
