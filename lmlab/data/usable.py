"""Pairs of sentences as they are found: what cannot be used is counted, shown and left out."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lmlab.data.rows import UnusableRow, is_missing

# columns of the input, in the order in which they are read, and the column of the output
PAIR_KEYS = ((["modern"], "shakespearean"), (["system", "instruction", "input"], "output"))
MAX_INVALID_FRACTION = 0.05  # of the rows of a source, that may be unusable
_SHOWN = 3  # bad rows that are shown

logger = logging.getLogger(__name__)


class BadRow(NamedTuple):
    """A row that cannot be used: its number, from 0 or in a file from 1, why, and what stands in it."""

    row: int
    why: str
    found: str


def usable_pairs(
    rows: Sequence[Mapping], source: str, max_invalid_fraction: float = MAX_INVALID_FRACTION
) -> list[dict[str, str]]:
    """The pairs {"modern", "shakespearean"} of rows with these keys, or with "input" and "output".

    With input and output, what stands in "system" and "instruction" comes before the input, on lines of its
    own. A row with a side that is empty or no text is left out, and it is said how many and which.

    Args:
        rows: The rows as they were read.
        source: What messages call them.
        max_invalid_fraction: Of the rows, that may be unusable.

    Returns:
        The usable pairs in order, without whitespace at the ends.

    Raises:
        ValueError: More than ``max_invalid_fraction`` of the rows are unusable, or a column is missing.
    """
    given, wanted = _pair_keys(rows, source)
    return usable_rows(rows, lambda row: _pair(row, given, wanted), source, max_invalid_fraction)


def usable_rows(
    rows: Iterable[Mapping], read: Callable[[Mapping], Any], source: str, max_invalid_fraction: float
) -> list:
    """What ``read`` makes of each row; those for which it raises UnusableRow are left out and reported.

    Args:
        rows: The rows as they were read.
        read: Gives what is kept of a row; None: nothing, without a word.
        source: What messages call the rows.
        max_invalid_fraction: Of the rows, that may be unusable; more raise ValueError.
    """
    kept, bad, n_rows = [], [], 0
    for i, row in enumerate(rows):
        n_rows += 1
        try:
            kept.append(read(row))
        except UnusableRow as error:
            bad.append(BadRow(i, str(error), repr(row)))
    leave_out(bad, n_rows, source, max_invalid_fraction)
    return [row for row in kept if row is not None]


def _pair_keys(rows: Sequence[Mapping], source: str) -> tuple[list[str], str]:
    """The columns that are the input, and the one that is the output."""
    # any row may lack a column, so all of them are asked
    columns = dict.fromkeys(key for row in rows if isinstance(row, Mapping) for key in row)
    for given, wanted in PAIR_KEYS:
        if {given[-1], wanted} <= columns.keys():
            return given, wanted
    raise ValueError(
        f"{source} has the columns {', '.join(columns) or '(none)'}; pairs need modern and "
        "shakespearean, or input and output: rename the two that hold them"
    )


def _pair(row: Mapping, given: list[str], wanted: str) -> dict[str, str]:
    if not isinstance(row, Mapping):
        raise UnusableRow("not text")
    # of Alpaca's rows the input may be missing, as the instruction says all
    texts = [row.get(key) for key in given if row.get(key) is not None]
    output = row.get(wanted)
    if not texts or not all(isinstance(text, str) for text in [*texts, output]):
        raise UnusableRow("not text")
    parts = [text.strip() for text in texts if not is_missing(text)]
    if not parts or is_missing(output):
        raise UnusableRow("empty")
    return {"modern": "\n".join(parts), "shakespearean": output.strip()}


def leave_out(
    bad: Sequence[BadRow], n_rows: int, source: str, max_invalid_fraction: float, place: str = "row"
) -> None:
    """Warns of the rows that are left out, and why.

    Args:
        bad: These rows.
        n_rows: Of the source, with them.
        source: What messages call it.
        max_invalid_fraction: Of the rows, that may be unusable.
        place: What ``BadRow.row`` counts, "row" or "line".

    Raises:
        ValueError: More than ``max_invalid_fraction`` of the rows are unusable.
    """
    if not bad:
        return
    # a few examples are enough to see what is wrong, and a log stays readable
    counts = ", ".join(f"{n} {why}" for why, n in Counter(row.why for row in bad).most_common())
    shown = "; ".join(f"{place} {row.row}: {row.found[:60]}" for row in bad[:_SHOWN])
    if len(bad) > max_invalid_fraction * n_rows:
        raise ValueError(
            f"{source} has {len(bad)} of {n_rows} rows that cannot be used ({counts}), more "
            f"than max_invalid_fraction {max_invalid_fraction:g} allows; fix them or raise it. {shown}"
        )
    logger.warning("left out %d of %d rows of %s: %s. %s", len(bad), n_rows, source, counts, shown)


def usable_texts(rows: Iterable[Mapping], source: str) -> list[str]:
    """The texts of the rows (column "text"); blank ones are left out without a word.

    Args:
        rows: The rows as they were read.
        source: What messages call them.

    Returns:
        The texts in order, as they stand.

    Raises:
        ValueError: More than ``MAX_INVALID_FRACTION`` of the rows have no text (null, a number, "nan"), or
            there is no such column.
    """

    def text_of(row: Mapping) -> str | None:
        if "text" not in row:
            raise ValueError(
                f"{source} has the columns {', '.join(row)} and no 'text'; rename the one with the texts"
            )
        text = row["text"]
        # a blank text is nothing wrong: WikiText has a row for each line, blank ones too
        if isinstance(text, str) and not text.strip():
            return None
        if not isinstance(text, str) or is_missing(text):
            raise UnusableRow("not text")
        return text

    return usable_rows(rows, text_of, source, MAX_INVALID_FRACTION)
