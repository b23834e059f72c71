"""Files and folders that are complete or absent, and the user's, which are left alone."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmlab.files import (
    is_write_failure,
    read_jsonl,
    remove_temporary,
    replace_file,
    replace_folder,
    write_atomic,
    write_jsonl,
)

ROOT = Path(__file__).parents[1]
DIE = """
import os, sys
from pathlib import Path
from lmlab import files
target, at = Path(sys.argv[1]), int(sys.argv[2])
calls = 0
def counted(function):
    def call(*args, **choices):
        global calls
        calls += 1
        if calls > at:
            os._exit(9)
        return function(*args, **choices)
    return call
os.fsync, os.replace, files.shutil.rmtree = map(counted, (os.fsync, os.replace, files.shutil.rmtree))
if target.suffix:
    files.write_atomic(target, "new")
else:
    with files.replace_folder(target) as folder:
        (folder / "config.json").write_text("new")
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def die_while_writing(target: Path, at: int) -> bool:
    """Whether a process that writes ``target`` died at its operation number ``at``."""
    done = subprocess.run(
        [sys.executable, "-c", DIE, str(target), str(at)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    return done.returncode == 9


def test_a_file_is_the_old_or_the_new(tmp_path):
    path = tmp_path / "run.json"
    at = 0
    write_atomic(path, "old")
    while die_while_writing(path, at):
        assert path.read_text() in ("old", "new")
        at += 1
    assert at == 3 and path.read_text() == "new"  # file synced, renamed, folder synced
    write_atomic(path, b"newer")
    assert path.read_text() == "newer" and names(tmp_path) == ["run.json"], "leftovers are gone"


def test_a_folder_is_the_old_or_the_new(tmp_path):
    target = tmp_path / "model"
    at = 0
    while True:
        with replace_folder(target) as folder:
            (folder / "config.json").write_text("old")
            (folder / "of the old").touch()
        if not die_while_writing(target, at):
            break
        remove_temporary(tmp_path)  # as the next process does that writes here
        assert names(tmp_path) == ["model"]
        text = (target / "config.json").read_text()
        assert names(target) == {"old": ["config.json", "of the old"], "new": ["config.json"]}[text]
        at += 1
    assert at >= 6 and names(target) == ["config.json"] and names(tmp_path) == ["model"]


def test_an_error_leaves_all_as_it_was(tmp_path):
    write_atomic(tmp_path / "a.json", "old")
    with replace_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("old")
    with pytest.raises(OSError), replace_file(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(KeyboardInterrupt), replace_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="model"), replace_folder(tmp_path / "model"):
        raise RuntimeError(
            "[enforce fail] . PytorchStreamWriter failed writing file data/0: file write failed"
        )
    assert names(tmp_path) == ["a.json", "model"]
    assert (tmp_path / "a.json").read_text() == (tmp_path / "model" / "config.json").read_text() == "old"


def test_what_is_not_ours_is_refused_and_never_removed(tmp_path):
    theirs = [
        "model.old",
        "model.partial",
        "model.new",
        ".model.1-1-0123abcd.lmlab",
    ]  # the last without our mark
    for name in [*theirs, "notes"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file"):
        with pytest.raises(ValueError, match=name), replace_folder(tmp_path / name):
            raise AssertionError("it let itself be written")
    with replace_folder(tmp_path / "model") as folder:
        (folder / "config.json").touch()
    assert (tmp_path / "file").read_text() == "mine"
    assert all((tmp_path / name / "mine.txt").read_text() == "mine" for name in [*theirs, "notes"])
    (tmp_path / "empty").mkdir()
    with replace_folder(tmp_path / "empty") as folder:
        (folder / "x").touch()
    assert names(tmp_path / "empty") == ["x"]


def test_what_a_living_process_writes_is_left(tmp_path):
    with replace_folder(tmp_path / "model") as first:
        (first / "config.json").write_text("first")
        write_atomic(tmp_path / "other.json", "{}")
        assert first.exists()
    assert names(tmp_path) == ["model", "other.json"]


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere" / "real.json")
    write_atomic(tmp_path / "link.json", "x")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "elsewhere" / "real.json").read_text() == "x"


def test_lines_that_were_cut_off_are_not_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_jsonl(path) == []
    write_jsonl(path, [{"a": 1}, {"a": 2}])
    with path.open("ab") as file:
        file.write(b'{"a": 3')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_bytes(b'{"a": 1}\n\0\0\0\0\n\0\0')
    assert read_jsonl(path) == [{"a": 1}]


@pytest.mark.parametrize(
    "error, full",
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EACCES, "denied"), False),
        (
            RuntimeError(
                "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/3"
            ),
            True,
        ),
        (RuntimeError("CUDA out of memory"), False),
    ],
)
def test_a_full_disk_is_known_by_its_errors(error, full):
    assert is_write_failure(error) is full
