"""The course's notebooks: where they are in an installed lmlab or in a clone, and a copy of them."""

import shutil
from pathlib import Path

import lmlab


def notebooks_folder() -> Path:
    """The folder with the notebooks: inside the package where a wheel was installed, beside it in a clone."""
    package = Path(lmlab.__file__).resolve().parent
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def copy_notebooks(target: Path) -> list[Path]:
    """Copies the course's notebooks and their figures into a folder.

    Args:
        target: The folder; made where it is missing.

    Returns:
        The copies.

    Raises:
        FileExistsError: A file of that name is there already: it may have a reader's answers in it.
    """
    source = notebooks_folder()
    names = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
    names = [name for name in names if _is_part(name)]
    for name in names:
        if (target / name).exists():
            raise FileExistsError(f"{target / name} exists already; give another folder, or move it away")
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return [target / name for name in names]


def _is_part(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix in (".ipynb", ".svg", ".png") and not hidden and path.parts[0] != "runs"
