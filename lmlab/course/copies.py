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
    """Copies the course's notebooks into a new folder.

    Args:
        target: The folder, which must not exist yet.

    Returns:
        The notebooks there.

    Raises:
        FileExistsError: It exists: its notebooks may have a reader's answers in them.
    """
    # in a clone there may be checkpoints of Jupyter, and what was run there
    shutil.copytree(notebooks_folder(), target, ignore=shutil.ignore_patterns(".*", "runs"))
    return sorted(target.rglob("*.ipynb"))
