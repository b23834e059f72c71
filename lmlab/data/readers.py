"""A reader's own .jsonl, .json, .csv and .txt files: rows with their numbers, columns that lose nothing."""

import codecs
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from lmlab.data.rows import UnusableRow


class NumberedRow(NamedTuple):
    """A row of a file, with what is needed to find it there."""

    number: int  # from 1: a line; in a JSON list an item, in a .txt file a paragraph
    row: dict | UnusableRow  # the reason, where there is no row
    found: object  # what stands in the file


def numbered_rows(path: Path) -> Iterator[NumberedRow]:
    """The rows of a file one by one. Memory does not grow with the file, unless it is one JSON list.

    Args:
        path: A .jsonl, .json (one object a line, or one list of them), .csv or .txt file. Of the last each
            paragraph is a row {"text"}. Every value of a CSV file is text, an empty field is "".

    Yields:
        Every row, and in place of one that cannot be read the reason.

    Raises:
        ValueError: The file cannot be read on: a CSV file with a column twice or an open quote, a .txt file
            that is not UTF-8.
    """
    records, parse = _FORMATS[path.suffix]
    for number, record in records(path):
        try:
            yield NumberedRow(number, parse(record), record)
        except UnusableRow as error:
            yield NumberedRow(number, error, record)


# --- text --------------------------------------------------------------------------------------------


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Opens a text file as tools write it: UTF-8, with a byte order mark or without, or UTF-16 with one.

    Bytes that are not UTF-8 become lone surrogates, which ``is_text`` finds, so that one bad line does not
    hide the others.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return open(path, encoding=encoding, errors="surrogateescape", newline=newline)


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8: a lone surrogate, which JSON can hold, cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """What stands between blank lines; a WikiText heading (" = Title = ") stays with what follows it."""
    heading = ""
    for block in _blocks(lines):
        if re.fullmatch(r"\s*(= )+.*( =)+\s*", block):
            heading += block.rstrip() + "\n\n"
        elif block.strip():
            yield heading + block.rstrip()
            heading = ""


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    """Lines joined up to the next blank one. A blank line at the very beginning belongs to what follows."""
    block: list[str] = []
    for number, line in enumerate(lines):
        if line.strip() or number == 0:
            block.append(line.rstrip("\n"))
        elif block:
            yield "\n".join(block)
            block = []
    yield "\n".join(block)


def _text_lines(path: Path) -> Iterator[str]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not is_text(line):
                raise ValueError(f"{path}, line {number} is not UTF-8; save the file as UTF-8")
            yield line


def _text_records(path: Path) -> Iterator[tuple[int, str]]:
    return enumerate(paragraphs(_text_lines(path)), 1)


def _text_row(paragraph: str) -> dict:
    return {"text": paragraph}


# --- JSON --------------------------------------------------------------------------------------------


class _WrittenFloat(float):
    """A number of a JSON file that remembers how it is written: 1.50."""

    def __new__(cls, text: str):
        number = super().__new__(cls, text)
        number.text = text
        return number


def _unique_keys(items: list[tuple[str, object]]) -> dict:
    row = dict(items)
    if len(row) < len(items):
        keys = [key for key, _ in items]
        raise UnusableRow(f"the key {max(keys, key=keys.count)!r} comes twice")
    return row


def _constant(name: str) -> float | None:
    """Other tools write NaN for an empty field."""
    return None if name == "NaN" else _WrittenFloat(name)


def _parse_json(text: str) -> object:
    try:
        return json.loads(
            text, object_pairs_hook=_unique_keys, parse_float=_WrittenFloat, parse_constant=_constant
        )
    except UnusableRow:
        raise
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"not JSON ({str(error)[:80]})") from error


def _json_records(path: Path) -> Iterator[tuple[int, object]]:
    with open_text(path) as file:
        if file.read(1000).lstrip().startswith("["):
            file.seek(0)
            items = _json_list(file.read())
            if items is not None:
                yield from enumerate(items, 1)
                return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _json_list(text: str) -> list | None:
    """The items of a file that is one list; None for one of many lines, the first of which is a list."""
    try:
        return _parse_json(text)
    except UnusableRow:
        return None


def _json_row(record: object) -> dict:
    """The row that a line of JSON, or an item of a list, holds. Raises UnusableRow where it is none."""
    row = _parse_json(record) if isinstance(record, str) else record
    if not isinstance(row, dict):
        raise UnusableRow(f"a JSON {type(row).__name__} and no object")
    if not is_text(json.dumps(row, ensure_ascii=False)):
        raise UnusableRow("half a character (a lone surrogate, or bytes that are not UTF-8)")
    return row


# --- CSV ---------------------------------------------------------------------------------------------


def _csv_records(path: Path) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(sys.maxsize)  # texts may be longer than 131,072 characters
    with open_text(path, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            header = reader.fieldnames or []
            if len(set(header)) < len(header):
                raise ValueError(f"{path} has a column twice: {', '.join(header)}; rename one")
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num} is not CSV ({error}); fix the line") from error


def _csv_row(record: dict) -> dict:
    if None in record or None in record.values():  # so DictReader marks a line too long or too short
        raise UnusableRow("not as many fields as the first line has")
    if not is_text("".join(record.values())):
        raise UnusableRow("bytes that are not UTF-8")
    return record


# ending -> what cuts a file into numbered records, and what makes a row of a record
_FORMATS: dict[str, tuple[Callable, Callable]] = {
    ".jsonl": (_json_records, _json_row),
    ".json": (_json_records, _json_row),
    ".csv": (_csv_records, _csv_row),
    ".txt": (_text_records, _text_row),
}


# --- columns -----------------------------------------------------------------------------------------


def nested_and_plain(rows: Sequence[dict], keys: Iterable[str]) -> dict[int, str]:
    """Rows with a list or an object in a column of plain values, or the other way round, and why.

    A column has one type in Arrow; the rows of the rarer kind are the ones to leave out.

    Returns:
        Index of the row to the reason.
    """
    odd: dict[int, str] = {}
    for key in keys:
        nested, plain = [], []
        for i, row in enumerate(rows):
            if isinstance(row.get(key), list | dict):
                nested.append(i)
            elif row.get(key) is not None:
                plain.append(i)
        if len(nested) <= len(plain):
            odd.update(dict.fromkeys(nested, f"{key} is a list or an object, in other rows a plain value"))
        else:
            odd.update(dict.fromkeys(plain, f"{key} is a plain value, in other rows a list or an object"))
    return odd


def lossless_column(values: list) -> list:
    """A column's values in one type that Arrow can hold and that loses nothing.

    Numbers among texts become text as they are written in the file: 007 stays "007" and 1.50 "1.50", which
    ``datasets`` would read as 7 and 1.5. Objects that have no common schema become JSON.
    """
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    if kinds & {list, dict}:
        try:
            pyarrow.array(values)
            return values
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    integers = [abs(value) for value in values if type(value) is int]
    if kinds == {int, _WrittenFloat}:
        exact = max(integers) <= 2**53  # beyond, a float is no longer exact
    else:
        exact = len(kinds) < 2 and max(integers, default=0) < 2**63
    return values if exact else [_as_written(value) for value in values]


def _as_written(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.text if isinstance(value, _WrittenFloat) else json.dumps(value)
