"""The course's notebooks: where they are in an installed lmlab or in a clone, and a copy of them."""

import shutil
from pathlib import Path

import lmlab


def notebooks_folder() -> Path:
    """The folder with the notebooks: inside the package where a wheel was installed, beside it in a clone."""
    # pyproject.toml maps the notebooks into the package when a wheel is built.
    package = Path(lmlab.__file__).resolve().parent
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def copy_notebooks(target: Path) -> list[Path]:
    """Copies the course's notebooks and figures into a folder.

    Args:
        target: The folder; made where it is missing.

    Returns:
        The notebooks there.

    Raises:
        FileExistsError: It has notebooks already, and a reader's answers may be in them.
    """
    if any(target.glob("*.ipynb")):
        raise FileExistsError(f"{target} has notebooks already; give another folder, or move them away")
    # in a clone there may be checkpoints of Jupyter, and what was run there
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs")
    shutil.copytree(notebooks_folder(), target, ignore=ignored, dirs_exist_ok=True)
    return sorted(target.rglob("*.ipynb"))
