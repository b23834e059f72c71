"""Importing lmlab does nothing: no heavy library is loaded, nothing printed. (Directions: make lint.)"""

import subprocess
import sys
from pathlib import Path

import pytest

import lmlab

PACKAGE = Path(lmlab.__file__).parent
# classes of torch's own kind are subclassed here, so these import it
NEED_TORCH = {
    "models.gpt",
    "models.sampling",
    "export.weight_files",
    "export.verify",
    "export.merge",
    "export.gguf",
    "export.hub",
    "training.pretrain",
    "training.pretrain_recipe",
    "training.memory",
}
NEED_TORCH |= {"training.distributed", "training.pretrain_state", "training.token_weighted"}
# the trainers themselves, and what imports those
NEED_TRANSFORMERS = {"training.callbacks", "training.sft", "training.trainers"}
NEED_OPTUNA = {"course.search", "course.search_space"}
NEED_TORCH |= {"course.forecast", "course.measured", "course.plan", "course.trainings", "course.cost"}


def names() -> list[str]:
    """Every module of the package, without "lmlab."."""
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in sorted(PACKAGE.rglob("*.py"))]
    return [".".join(path.parts) for path in paths if path.name not in ("__init__", "__main__")]


def loaded_after(imports: list[str], watched: set[str]) -> tuple[list[str], str]:
    code = f"import sys\n{chr(10).join(imports)}\nprint(sorted({watched!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return eval(done.stdout), done.stderr


def test_importing_is_light_and_silent():
    light = [
        f"import lmlab.{name}" for name in names() if name not in NEED_TORCH | NEED_TRANSFORMERS | NEED_OPTUNA
    ]
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "optuna", "bitsandbytes"}
    assert loaded_after(light, heavy) == ([], "")
    others = [f"import lmlab.{name}" for name in NEED_TORCH]
    assert loaded_after(others, heavy - {"torch"}) == ([], "")


def test_the_check_sees_a_heavy_import():
    assert loaded_after(["import lmlab.models.gpt"], {"torch"}) == (["torch"], "")


def test_lmlab_itself_imports_nothing_of_its_own():
    code = "import sys, lmlab; print([name for name in sys.modules if name.startswith('lmlab.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_face_is_there():
    for name in ("check", "hint", "model_source", "data_source", "load_recipe", "plan"):
        assert callable(getattr(lmlab, name))
    with pytest.raises(AttributeError, match="nothing"):
        lmlab.nothing  # noqa: B018
