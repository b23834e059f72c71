"""A reader's own .jsonl, .json, .csv and .txt files: rows with their numbers, columns that lose nothing."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TextIO

from lmlab.data.rows import UnusableRow
from lmlab.data.usable import BadRow

Record = tuple[int, object]  # its number in the file, from 1, and what is written there


def numbered_rows(path: Path) -> Iterator[tuple[int, dict | BadRow]]:
    """The rows of a file one by one. Memory does not grow with the file, unless it is a .json file.

    Args:
        path: A .jsonl, .json (one object a line, or one list of them), .csv or .txt file. Of the last each
            paragraph is a row {"text"}. Every value of a CSV file is text, an empty field is "".

    Yields:
        The number of each row from 1 (a line; in a JSON list an item, in a .txt file a paragraph), and the
        row, or in place of one that cannot be read the reason.

    Raises:
        ValueError: A CSV file cannot be read on, as one with an open quote.
    """
    records, parse = _FORMATS[path.suffix]
    # bytes that are not UTF-8 become lone surrogates, so that one bad line does not hide the others;
    # "utf-8-sig" also reads files without the byte order mark that spreadsheets write
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number, record in records(file):
            try:
                row = parse(record)
                # a lone surrogate, which JSON can also hold as \ud83d, cannot be written as UTF-8
                json.dumps(row, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError:
                row = BadRow(
                    number, "not UTF-8 (save the file as UTF-8), or half a character", short_repr(record)
                )
            except UnusableRow as error:
                row = BadRow(number, str(error), short_repr(record))
            yield number, row


def short_repr(found: object) -> str:
    """What stands in a row, as a message shows it."""
    return repr(found)[:80]


# --- text --------------------------------------------------------------------------------------------


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """What stands between blank lines; a WikiText heading (" = Title = ") stays with what follows it."""
    heading = ""
    for is_blank, group in groupby(lines, lambda line: not line.strip()):
        if is_blank:
            continue
        block = "\n".join(line.rstrip("\r\n") for line in group).rstrip()
        if re.fullmatch(r"\s*(= )+.*( =)+", block):
            heading += block + "\n\n"
        else:
            yield heading + block
            heading = ""


# --- JSON --------------------------------------------------------------------------------------------


def _parse_json(text: str) -> object:
    try:
        # other tools write NaN for an empty field
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets 100,000 deep
        raise UnusableRow(f"not JSON ({str(error)[:80]})") from error


def _json_lines(lines: Iterable[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, line


def _json_items(file: TextIO) -> Iterator[Record]:
    """The items of one list, or the lines where the file holds no list."""
    text = file.read()
    if not text.lstrip().startswith("["):
        # not splitlines(): it also cuts at characters that may stand in a text, as U+2028
        yield from _json_lines(text.split("\n"))
        return
    try:
        yield from enumerate(_parse_json(text), 1)
    except UnusableRow as error:
        raise ValueError(f"{file.name} is {error}; fix the file") from error


def _json_row(record: object) -> dict:
    """The row that a line of JSON, or an item of a list, holds. Raises UnusableRow where it is none."""
    row = _parse_json(record) if isinstance(record, str) else record
    if not isinstance(row, dict):
        raise UnusableRow(f"a JSON {type(row).__name__} and no object")
    return row


# --- CSV ---------------------------------------------------------------------------------------------


def _csv_records(file: TextIO) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # texts may be longer than 131,072 characters
    reader = csv.DictReader(file, strict=True, delimiter=_delimiter(file.readline()))
    file.seek(0)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        # rows after an open quote cannot be told apart, so there is nothing to go on with
        raise ValueError(f"{file.name}, line {reader.line_num} is not CSV ({error}); fix the line") from error


def _delimiter(header: str) -> str:
    """The column separator: spreadsheets write semicolons where a comma is the decimal point, or tabs."""
    # the first of equals: a header of one column has none of the three
    return max(",;\t", key=header.count)


def _csv_row(record: dict) -> dict:
    if None in record or None in record.values():  # so DictReader marks a line too long or too short
        raise UnusableRow("not as many fields as the first line has")
    return record


# ending -> what cuts an open file into numbered records, and what makes a row of a record
_FORMATS: dict[str, tuple[Callable, Callable]] = {
    ".jsonl": (_json_lines, _json_row),
    ".json": (_json_items, _json_row),
    ".csv": (_csv_records, _csv_row),
    ".txt": (lambda file: enumerate(paragraphs(file), 1), lambda paragraph: {"text": paragraph}),
}


# --- columns -----------------------------------------------------------------------------------------


def nested_or_plain(rows: Sequence[dict], key: str) -> list[int]:
    """Indices of the rows that have a list or an object in a column of plain values, or the other way round.

    A column has one type in Arrow; the rows of the rarer kind are the ones to leave out.
    """
    nested = {}
    for i, row in enumerate(rows):
        if row.get(key) is not None:
            nested[i] = isinstance(row[key], list | dict)
    mostly_nested = sum(nested.values()) > len(nested) / 2
    return [i for i, is_nested in nested.items() if is_nested != mostly_nested]


def lossless_column(values: list) -> list:
    """A column's values in one type that Arrow can hold and that loses nothing.

    Numbers among texts become text, so that "007" stays as it is, which ``datasets`` would read as 7. Objects
    that have no common schema become JSON.
    """
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    integers = [abs(value) for value in values if type(value) is int]
    if kinds & {list, dict}:
        try:
            pyarrow.array(values)
            exact = True
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            exact = False
    elif kinds == {int, float}:
        exact = max(integers) <= 2**53  # beyond, a float is no longer exact
    else:
        exact = len(kinds) < 2 and max(integers, default=0) < 2**63  # Arrow's largest integer
    return values if exact else [_as_text(value) for value in values]


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
