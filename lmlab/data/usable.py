"""Pairs of sentences as they are found: what cannot be used is counted, shown and left out."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lmlab.data.rows import UnusableRow, is_missing

PAIR_KEYS = (("modern", "shakespearean"), ("input", "output"))
_BEFORE = ("system", "instruction")  # columns beside "input" that say what to do with it
MAX_INVALID_FRACTION = 0.05  # of the rows of a source, that may be unusable
_SHOWN = 3  # bad rows that are shown

logger = logging.getLogger(__name__)


class BadRow(NamedTuple):
    """A row that cannot be used: its place among those given, from 0, why, and what stands in it."""

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
        The usable pairs in order, without blanks at the ends.

    Raises:
        ValueError: More than ``max_invalid_fraction`` of the rows are unusable, or a column is missing.
    """
    keys = _pair_keys(rows, source)
    pairs, bad = [], []
    for i, row in enumerate(rows):
        try:
            pairs.append(dict(zip(PAIR_KEYS[0], _sides(row, keys), strict=True)))
        except UnusableRow as error:
            bad.append(BadRow(i, str(error), _shown(row, keys)))
    leave_out(bad, len(rows), source, max_invalid_fraction)
    return pairs


def _pair_keys(rows: Sequence[Mapping], source: str) -> tuple[str, str]:
    """The names of the two columns."""
    there = dict.fromkeys(key for row in rows if isinstance(row, Mapping) for key in row)
    for keys in PAIR_KEYS:
        if set(keys) <= there.keys():
            return keys
    raise ValueError(
        f"{source} has the columns {', '.join(there) or '(none)'}; pairs need modern and "
        "shakespearean, or input and output: rename the two that hold them"
    )


def _sides(row: Mapping, keys: tuple[str, str]) -> tuple[str, str]:
    if not isinstance(row, Mapping):
        raise UnusableRow("not text")
    given, wanted = (row.get(key) for key in keys)
    before = []
    if keys == PAIR_KEYS[1]:
        before = [row.get(key) for key in _BEFORE]
        if row.get("history"):
            raise UnusableRow("a history of turns, which a pair cannot hold")
    if any(side is not None and not isinstance(side, str) for side in (*before, given, wanted)):
        raise UnusableRow("not text")
    parts = [part for part in (*before, given) if not is_missing(part)]
    if wanted is None or (given is None and not parts):
        raise UnusableRow("not text")
    if not parts or is_missing(wanted):
        raise UnusableRow("empty")
    return "\n".join(part.strip() for part in parts), wanted.strip()


def _shown(row: Mapping, keys: tuple[str, str]) -> str:
    return repr([row.get(key) for key in keys] if isinstance(row, Mapping) else row)


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
    counts = ", ".join(f"{n} {why}" for why, n in Counter(row.why for row in bad).most_common())
    shown = "; ".join(f"{place} {row.row}: {row.found[:60]}" for row in bad[:_SHOWN])
    shown = shown.encode("utf-8", "backslashreplace").decode()  # half characters cannot be printed
    if len(bad) > max_invalid_fraction * n_rows:
        raise ValueError(
            f"{source} has {len(bad)} of {n_rows} rows that cannot be used ({counts}), more "
            f"than max_invalid_fraction {max_invalid_fraction:g} allows; fix them or raise it. {shown}"
        )
    logger.warning("left out %d of %d rows of %s: %s. %s", len(bad), n_rows, source, counts, shown)


def text_rows(
    rows: Sequence[Mapping], source: str, max_invalid_fraction: float = MAX_INVALID_FRACTION
) -> list[Mapping]:
    """The rows that have a text in the column "text"; blank ones are left out without a word.

    Args:
        rows: The rows as they were read.
        source: What messages call them.
        max_invalid_fraction: Of the rows, whose text may be none (null, a number, "nan").

    Returns:
        These rows, in order.

    Raises:
        ValueError: More than ``max_invalid_fraction`` of the rows have no text, or there is no such column.
    """
    good, bad = [], []
    for i, row in enumerate(rows):
        if "text" not in row:
            raise ValueError(
                f"{source} has the columns {', '.join(row)} and no 'text'; rename the one that "
                "holds the texts"
            )
        text = row["text"]
        if not isinstance(text, str) or (text.strip() and is_missing(text)):
            bad.append(BadRow(i, "not text", repr(text)))
        elif text.strip():
            good.append(row)
    leave_out(bad, len(rows), source, max_invalid_fraction)
    return good


def usable_texts(
    rows: Sequence[Mapping], source: str, max_invalid_fraction: float = MAX_INVALID_FRACTION
) -> list[str]:
    """The texts of ``text_rows``, as they stand."""
    return [row["text"] for row in text_rows(rows, source, max_invalid_fraction)]
