"""Results that are complete or absent: written under a temporary name first, synced to the disk, renamed.

A process may be killed at any moment, and a disk may get full. What has its final name is then either the
earlier content or the new one, never a part of it. Every result of the project is written by these functions.

A temporary name is ``.<final name>.<process>-<random>.lmlab``, beside the final one. Leftovers of a process
that lives no longer are removed by the next one that writes there; nothing else is ever removed, whatever its
name.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

# A file in a temporary folder, beside "new" and "old": without it the folder is not ours.
MARK = "made-by-lmlab"
# One of them is in every folder of a model or an adapter.
MODEL_FILES = ("config.json", "adapter_config.json")
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)-(?P<created>\d+)-[0-9a-f]{8}\.lmlab")


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Writes a file so that ``path`` has its earlier content or all of ``content``, whatever happens.

    Args:
        path: The file; a link is followed. Its folder must exist.
        content: Text is written as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: The file cannot be written, as on a full disk. What was there is still there.
    """
    with replace_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextlib.contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """A temporary file to write to, which gets the name ``path`` when the block ends without an error.

    For what cannot be given as bytes. An error leaves ``path`` as it was.
    """
    final = Path(os.path.realpath(path))
    remove_temporary(final.parent)
    temporary = _temporary_name(final)
    try:
        yield temporary
        sync(temporary)  # a rename must not reach the disk before what it names
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(final.parent)


def check_replaceable(target: Path, ours: Sequence[str] = MODEL_FILES) -> None:
    """Raises ValueError unless ``target`` is free, an empty folder, or one with a file named in ``ours``."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file, not a folder; give another place, or move it")
    if any(target.iterdir()) and not any((target / name).exists() for name in ours):
        raise ValueError(
            f"{target} holds something else (none of {', '.join(ours)}), which is not replaced; "
            "give another place, or move it"
        )


@contextlib.contextmanager
def replace_folder(target: str | Path, check: Callable[[Path], None] = check_replaceable) -> Iterator[Path]:
    """An empty folder to write into, which gets the name ``target`` when the block ends without an error.

    A folder of that name is kept until then and gives way to the new one. An error leaves it as it was.

    Args:
        target: The final folder; folders above it are made.
        check: Raises ValueError for a folder that may not be replaced; by default ``check_replaceable``.

    Yields:
        The folder to write into.

    Raises:
        ValueError: ``target`` is a file, or a folder with something else in it. Nothing was written.
        OSError: Something cannot be written, as on a full disk; also where a library has another error for
            that.
    """
    final = Path(os.path.realpath(target))
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(final.parent)
    check(final)
    temporary = _temporary_name(final)
    temporary.mkdir()
    try:
        (temporary / MARK).touch()
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        yield new
        # all of it must be on the disk before a name leads to it
        sync_tree(new)
        check(final)  # writing took a while
        if final.exists():
            os.replace(final, old)
        os.replace(new, final)  # killed between the two, the next process does this (remove_temporary)
        sync(final.parent)
    except BaseException as error:
        _remove_leftover(temporary, final)
        if is_write_failure(error):  # torch and safetensors say it in their own words
            full = "the disk is full, and nothing that was complete is lost"
            raise OSError(errno.ENOSPC, full, str(target)) from error
        raise
    _remove_leftover(temporary, final)


def require_disk_space(folder: str | Path, n_bytes: int) -> None:
    """Raises ValueError unless the disk of ``folder``, which need not exist yet, has ``n_bytes`` free."""
    # A folder that is to be made will be on the disk of the one it is made in.
    existing = Path(folder)
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise ValueError(
            f"{folder} needs {n_bytes / 1e6:,.0f} MB, and its disk has {free / 1e6:,.0f} MB free; remove old "
            "runs and merged models, or give an output_dir on another disk"
        )


def list_files(folder: Path, name: str) -> None:
    """Writes a file ``name`` into a folder that says which files are in it, so that ``unlisted`` finds
    others.
    """
    (folder / name).write_text(json.dumps(sorted(_files_in(folder))), encoding="utf-8")


def unlisted(folder: Path, name: str) -> list[str]:
    """The files and links in a folder that its list (``list_files``) does not have; all, where it has no
    list.
    """
    listed = folder / name
    ours = {name, *json.loads(listed.read_text(encoding="utf-8"))} if listed.is_file() else set()
    return sorted(_files_in(folder) - ours)


def _files_in(folder: Path) -> set[str]:
    # A link counts by itself: it may lead to a folder, or nowhere.
    found = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {path.relative_to(folder).as_posix() for path in found}


def remove_temporary(folder: Path) -> None:
    """Removes what processes that live no longer have left half-written in ``folder``."""
    for path in folder.glob(".*.lmlab"):
        parts = _TEMPORARY.fullmatch(path.name)
        if parts is None or _lives(int(parts["pid"]), int(parts["created"])):
            continue
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif (path / MARK).exists() or not any(path.iterdir()):
            _remove_leftover(path, folder / parts["name"])


def _remove_leftover(temporary: Path, final: Path) -> None:
    """Removes a temporary folder. Where it was left between its two renames, the second one is made first."""
    if (temporary / "old").exists() and not final.exists():
        new = temporary / "new"
        os.replace(new if new.exists() else temporary / "old", final)
    for part in ("new", "old"):
        shutil.rmtree(temporary / part, ignore_errors=True)
    (temporary / MARK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something of somebody else's is in it
        temporary.rmdir()


def _temporary_name(final: Path) -> Path:
    import psutil

    process = f"{os.getpid()}-{int(psutil.Process().create_time())}"
    # Nothing that looks for *.bin or *.json finds it.
    return final.with_name(f".{final.name}.{process}-{uuid.uuid4().hex[:8]}.lmlab")


def _lives(pid: int, created: int) -> bool:
    """Whether a process of this number still runs that was started then: numbers are used again."""
    import psutil

    try:
        return abs(psutil.Process(pid).create_time() - created) < 3
    except psutil.NoSuchProcess:
        return False


def sync(path: Path) -> None:
    """Has the disk really write a file, or the names in a folder."""
    if not path.is_dir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
        return
    with contextlib.suppress(OSError):  # not every system does this for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Has the disk really write all that is in a folder."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def write_jsonl(path: str | Path, rows: Iterable[Mapping]) -> Path:
    """Writes one JSON object in a line each, all or nothing. For short files, written anew with every row."""
    return write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_jsonl(path: str | Path) -> list[dict]:
    """The rows of a file of JSON lines, [] where there is none. A last line that was cut off is left out."""
    path = Path(path)
    # A machine that lost power may leave zeros at the end of a file.
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return [json.loads(line) for line in lines[:-1] if line.strip(b"\0 ")]


def is_write_failure(error: BaseException) -> bool:
    """Whether an error says that the disk took no more.

    (torch and safetensors have errors of their own for it.)
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "os error 28" in str(error) or "PytorchStreamWriter failed writing" in str(error)
