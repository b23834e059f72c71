"""A file of JSON rows that only grows, and that a run which was killed at any moment can resume."""

import json
import logging
import os
from pathlib import Path

from filelock import FileLock

logger = logging.getLogger(__name__)


class ResumableFile:
    """A .jsonl file to add rows to: each is on the disk before the next one is written.

    An incomplete last row, left by a crash, is removed.

    Args:
        path: The file; it and its folder are made if missing.

    Raises:
        ValueError: As ``read_rows``.
        TimeoutError: Another process is writing the file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        read_rows(self.path)  # what is no such file is refused before anything is made
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(f"{self.path}.lock", timeout=0)
        self.lock.acquire()
        # Again, under the lock: another process may have added rows meanwhile.
        self.rows, n_bytes = read_rows(self.path)
        self.file = self.path.open("ab")
        if n_bytes < self.file.tell():
            logger.warning("%s: an incomplete last row is removed", self.path)
            self.file.truncate(n_bytes)
        elif self.rows and not self.path.read_bytes().endswith(b"\n"):
            self.file.write(b"\n")  # the last row was written by hand

    def __enter__(self) -> "ResumableFile":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        self.lock.release()

    def append(self, row: dict) -> None:
        """Adds a row and waits until it is on the disk."""
        self.file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.file.flush()
        # An answer was paid for: a crash of the machine must not lose it.
        os.fsync(self.file.fileno())
        self.rows.append(row)


def read_rows(path: str | Path) -> tuple[list[dict], int]:
    """The rows of a .jsonl file, none where there is no file; and its bytes without an incomplete last row.

    Raises:
        ValueError: The name does not end in .jsonl, or a line is no row {"text": ...}.
    """
    path = Path(path).expanduser()
    if path.suffix != ".jsonl":
        raise ValueError(f"output got {path}; give a name that ends in .jsonl")
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and "text" in row:
            rows.append(row)
        # Zeros are what some file systems leave of what had not reached the disk.
        elif number == len(lines) and line.startswith((b"{", b"\0")) and not line.endswith(b"}"):
            return rows, len(content) - len(line)
        else:
            raise ValueError(f'{path}, line {number} is no row {{"text": ...}}; fix or remove it')
    return rows, len(content)
