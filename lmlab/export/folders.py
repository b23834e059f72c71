"""Folders that are written whole or not at all, and only over what we made."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmlab.files import list_files, replace_folder, unlisted

MARK = ".lmlab.json"  # in a folder that a merge wrote: the names of its files
SPARE = 2**26  # bytes for what stands beside the weights: a tokenizer of 128,000 tokens takes 17 MB


def require_room(folder: str | Path, need: int) -> int:
    """The free bytes of the disk of ``folder``. Raises ValueError where they are fewer than ``need``."""
    place = Path(folder)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if need > free:
        raise ValueError(_too_full(folder, need, free))
    return free


def _too_full(folder: str | Path, need: int, free: int) -> str:
    return (
        f"{folder} needs {need / 1e6:,.0f} MB, and its disk has {free / 1e6:,.0f} MB free; remove old runs "
        "and merged models, or give an output_dir on another disk"
    )


@contextmanager
def disk_full_errors(target: str | Path, need: int) -> Iterator[None]:
    """Raises ValueError, with what helps, where the disk gets full while ``target`` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(Path(target).parent).free
        raise ValueError(f"the disk got full: {_too_full(target, need, free)}") from error


def require_ours(folder: Path) -> None:
    """Raises ValueError where something has the name ``folder`` that ``whole_folder`` did not write alone.

    What is nobody's loss: an empty folder, and a card that was written again (README.md).
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder")
    others = unlisted(folder, MARK)
    if (folder / MARK).is_file() and "README.md" in others:
        others.remove("README.md")
    if others:
        raise ValueError(
            f"{folder} holds {others[0]}, which was not written by a merge, and would be lost; give "
            "another folder, or move it away"
        )


@contextmanager
def whole_folder(folder: str | Path, need: int) -> Iterator[Path]:
    """A folder to write into that gets the name ``folder`` when all is written; an older one gives way then.

    Only a folder that this has written gives way: it holds a list of its files (``MARK``). Where writing fails, or
    is interrupted, a folder of that name stays as it was (``files.replace_folder``).

    Args:
        folder: the name in the end.
        need: bytes of the weights; the disk is asked for them first.

    Raises:
        ValueError: where the disk is or gets too full, or the name is that of a file or of somebody's folder.
    """
    folder = Path(folder)
    require_ours(folder)
    require_room(folder, need + SPARE)
    folder.resolve().parent.mkdir(parents=True, exist_ok=True)
    with disk_full_errors(folder, need + SPARE), replace_folder(folder, require_ours) as new:
        yield new
        list_files(new, MARK)


def folder_bytes(folder: Path) -> int:
    """What all files of a folder take on disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
