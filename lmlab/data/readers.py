"""A reader's files as rows: the files of each split, rows with their line numbers, columns that lose nothing."""

import codecs
import contextlib
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from lmlab.data.rows import UnusableRow
from lmlab.data.usable import MAX_INVALID_FRACTION, BadRow, leave_out
from lmlab.models.sources import ENDINGS

# as ``datasets`` names them, in the order in which "all" reads them; set: "trainset"
_WORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
_NAMED = {
    split: re.compile(rf"(?:^|[-._ 0-9])(?:{words})(?:set)?(?:[-._ 0-9]|$)", re.IGNORECASE)
    for split, words in _WORDS.items()
}
_SHARD = re.compile(r"(?P<name>.*?)-?(?P<number>\d{5})-of-(?P<count>\d{5})")
_ABOUT = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def split_files(path: Path) -> dict[str, list[Path]]:
    """The data files of a source by split, each in the order of its paths.

    A folder is read as ``datasets.load_dataset`` reads it: the name of a folder or of a file says the split
    (train/0.parquet, train-00000-of-00002.parquet, my_dev.jsonl); hidden files and folders such as
    .ipynb_checkpoints and __pycache__ do not count.

    Args:
        path: A file or a folder.

    Returns:
        Split name to files; those that belong to no split are under "".

    Raises:
        ValueError: The folder has no data files, or two sets in one.
    """
    if path.is_file():
        return {"": [path]}
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix in ENDINGS
        and file.name not in _ABOUT
        and not any(part.startswith((".", "__")) for part in file.relative_to(path).parts)
    ]
    if not files:
        raise ValueError(f"{path} has no data files; give a folder with files ending in {', '.join(ENDINGS)}")
    splits: dict[str, list[Path]] = {split: [] for split in _WORDS}
    for file in files:
        splits.setdefault(_split_of(file.relative_to(path)), []).append(file)
    found = {split: files for split, files in splits.items() if files}
    for split, files in found.items():
        _check_shards(path, split, files)
    return found


def _split_of(file: Path) -> str:
    """The split that a path says, or "": the innermost folder that names one decides, else the file's name."""
    for part in file.parts[-2::-1]:
        if word := _split_word(part):
            return word
    word = _split_word(file.name)
    shard = _SHARD.match(file.name)
    if word and shard and re.fullmatch(r"\w+", shard["name"]) and not _NAMED[word].fullmatch(shard["name"]):
        return shard["name"]  # "train_sft" beside "train_gen": publishers' own splits
    return word


def _split_word(name: str) -> str:
    found = {match.start(): split for split, words in _NAMED.items() if (match := words.search(name))}
    return found[min(found)] if found else ""


def _check_shards(path: Path, split: str, files: Sequence[Path]) -> None:
    """Of "-00000-of-00002" each number must come once; says which are missing."""
    shards = [(file, match) for file in files if (match := _SHARD.match(file.name))]
    names = [file.name for file, _ in shards]
    if len(set(names)) < len(names):
        folders = sorted({str(file.parent.relative_to(path)) for file, _ in shards})
        raise ValueError(
            f"{path} holds several sets, in {', '.join(folders)}; give the folder of one of them"
        )
    for name, count in sorted({(match["name"], int(match["count"])) for _, match in shards}):
        there = sum((match["name"], int(match["count"])) == (name, count) for _, match in shards)
        if there < count:
            print(f"{path} has {there} of {count} shards of {name or split}; the others are missing")


def files_of_split(path: Path, split: str) -> tuple[list[Path], bool]:
    """The files to read for a split of a source, all of one kind.

    Args:
        path: A file or a folder.
        split: "train", "validation" or "all". Where a folder has no validation files, its test files are these.

    Returns:
        The files, and whether they hold train and validation both, so that they must be divided.

    Raises:
        ValueError: There is no such split, or the files are of several kinds.
    """
    there = split_files(path)
    held_out = there.get("validation") or there.get("test")
    if split == "all" or set(there) == {""}:
        files, mixed = [file for files in there.values() for file in files], split != "all"
    else:
        mixed = "train" in there and not held_out
        files = there.get("train") if split == "train" or mixed else held_out
        if "" in there:
            print(
                f"{path}: not read, as their names say no split: {', '.join(file.name for file in there[''])}"
            )
    if not files:
        raise ValueError(
            f"{path} has the splits {', '.join(there)}, and none is {split}; rename the files "
            f"({split}-0.jsonl, say), or give split='all'"
        )
    kinds = sorted({file.suffix for file in files})
    if len(kinds) > 1:
        raise ValueError(
            f"{path} has files ending in {', '.join(kinds)} for {split}; give files of one kind, as "
            "they may hold the same rows: name one of them, or move the others away"
        )
    return files, mixed


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Opens a text file as tools write it: UTF-8, with a byte order mark or without, or UTF-16 with one.

    Bytes that are no UTF-8 become half characters, which ``is_text`` finds, so that one bad line does not hide
    the others.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return open(path, encoding=encoding, errors="surrogateescape", newline=newline)


def is_text(text: str) -> bool:
    """Whether a text has whole characters alone; half a surrogate pair, which JSON can hold, is none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file. Raises ValueError for one that is not UTF-8."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not is_text(line):
                raise ValueError(f"{path}, line {number} is not UTF-8; save the file as UTF-8")
            yield line


class _Written(float):
    """A number of a JSON file that remembers how it is written: 1.50."""

    def __new__(cls, text: str):
        number = super().__new__(cls, text)
        number.text = text
        return number


def _object(items: list[tuple[str, object]]) -> dict | UnusableRow:
    keys = [key for key, _ in items]
    twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    return UnusableRow(f"the key {twice[0]!r} comes twice") if twice else dict(items)


def _json(text: str):
    """What JSON says; NaN, which other tools write for an empty field, is None."""
    return json.loads(
        text,
        object_pairs_hook=_object,
        parse_float=_Written,
        parse_constant=lambda name: None if name == "NaN" else _Written(name),
    )


def json_row(line: str) -> dict:
    """The row in a line of JSON. Raises UnusableRow with the reason where it is none."""
    try:
        row = _json(line)
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"not JSON ({str(error)[:80]})") from error
    return _checked(row)


def _checked(row) -> dict:
    """The row itself, if it is an object of whole characters."""
    if isinstance(row, UnusableRow):
        raise row
    if not isinstance(row, dict):
        raise UnusableRow(
            "no JSON object but "
            f"{'null' if row is None else 'a list' if isinstance(row, list) else 'a value'}"
        )
    if not is_text(json.dumps(row, ensure_ascii=False, default=_refuse)):
        raise UnusableRow("half a character (a lone surrogate, or bytes that are not UTF-8)")
    return row


def _refuse(value):
    """For what is in a row and no JSON value: an object with a key twice."""
    raise value


# place in the file from 1 (a line; in a JSON list, an item), the row or why there is none, how it stands there
Numbered = Iterator[tuple[int, dict | UnusableRow, str]]


def _json_rows(path: Path) -> Numbered:
    """One JSON object a line, or one list of them all."""
    with open_text(path) as file:
        text = file.read()
    rows = None
    if text.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):  # a list in a line of its own, which is no row
            rows = _json(text)
    if rows is None:
        yield from _json_lines(text.split("\n"))
        return
    for number, row in enumerate(rows, 1):
        yield number, _row_or_reason(_checked, row), repr(row)


def _json_lines(lines: Iterable[str]) -> Numbered:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _row_or_reason(json_row, line), line


def _row_or_reason(read, given) -> dict | UnusableRow:
    try:
        return read(given)
    except UnusableRow as error:
        return error


def csv_rows(path: Path) -> Numbered:
    """The rows of a CSV file with a header. Every value is text as it stands there; an empty field is ""."""
    csv.field_size_limit(sys.maxsize)  # texts may be longer than 131,072 characters
    with open_text(path, newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            if len(set(header)) < len(header):
                raise ValueError(
                    f"{path} has a column twice in its first line: {', '.join(header)}; rename one"
                )
            for fields in lines:
                if fields:
                    yield (
                        lines.line_num,
                        _row_or_reason(lambda row: _csv_row(header, row), fields),
                        repr(fields),
                    )
        except csv.Error as error:
            raise ValueError(f"{path}, line {lines.line_num} is not CSV ({error}); fix the line") from error


def _csv_row(header: list[str], fields: list[str]) -> dict:
    if len(fields) != len(header):
        raise UnusableRow(f"{len(fields)} fields where the first line has {len(header)}")
    return _checked(dict(zip(header, fields, strict=True)))


_READERS = {".jsonl": _json_rows, ".json": _json_rows, ".csv": csv_rows}


def read_table(files: Sequence[Path], max_invalid_fraction: float = MAX_INVALID_FRACTION):
    """The rows of files of one kind (.jsonl, .json or .csv) as one ``datasets.Dataset``.

    A key that is missing in a row is None there. A column of numbers and texts becomes text, as it is written
    in the file. What cannot be a row is counted, shown and left out.

    Args:
        files: The files, in order.
        max_invalid_fraction: Of the rows of a file, that may be unusable.

    Returns:
        A Dataset with the columns in the order in which they first come.

    Raises:
        ValueError: More than ``max_invalid_fraction`` of the rows of a file are unusable.
    """
    from datasets import Dataset

    rows: list[dict] = []
    places: list[tuple[Path, int]] = []
    bad: dict[Path, list[BadRow]] = {file: [] for file in files}
    n_rows = dict.fromkeys(files, 0)
    for file in files:
        for number, row, found in _READERS[file.suffix](file):
            n_rows[file] += 1
            if isinstance(row, UnusableRow):
                bad[file].append(BadRow(number, str(row), found))
            else:
                rows.append(row)
                places.append((file, number))
    keys = dict.fromkeys(key for row in rows for key in row)
    odd = _odd_rows(rows, keys)
    for i, why in odd.items():
        file, number = places[i]
        bad[file].append(BadRow(number, why, repr(rows[i])))
    for file in files:
        leave_out(sorted(bad[file]), n_rows[file], str(file), max_invalid_fraction, place="line")
    kept = [row for i, row in enumerate(rows) if i not in odd]
    return Dataset.from_dict({key: _column([row.get(key) for row in kept]) for key in keys})


def _odd_rows(rows: Sequence[dict], keys: Iterable[str]) -> dict[int, str]:
    """Rows with a list or an object in a column of plain values, or the other way round, and why."""
    odd: dict[int, str] = {}
    for key in keys:
        nested = {i for i, row in enumerate(rows) if isinstance(row.get(key), list | dict)}
        plain = {i for i, row in enumerate(rows) if row.get(key) is not None} - nested
        for i in min(nested, plain, key=len):
            kinds = ("a list or an object", "a plain value")
            is_, others = kinds if i in nested else kinds[::-1]
            odd[i] = f"{key} is {is_}, in other rows {others}"
    return odd


def _column(values: list) -> list:
    """A column as Arrow can hold it, which wants one type."""
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    if kinds & {list, dict}:
        try:
            pyarrow.array(values)
            return values
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    if kinds == {int, _Written}:
        exact = all(abs(value) <= 2**53 for value in values if isinstance(value, int))
    else:
        exact = len(kinds) < 2 and (kinds != {int} or all(abs(value or 0) < 2**63 for value in values))
    return values if exact else [_as_written(value) for value in values]


def _as_written(value) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.text if isinstance(value, _Written) else json.dumps(value)
