"""Pairs of sentences as they are found: what cannot be used is counted, shown and left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

PAIR_KEYS = (("modern", "shakespearean"), ("input", "output"))
_SHOWN = 3  # bad rows that are shown


class BadRow(NamedTuple):
    """A row that cannot be used: its place among those given, from 0, why, and what stands in it."""

    row: int
    why: str
    found: str


def usable_pairs(rows: Sequence[Mapping], source: str, max_bad_share: float = 0.05) -> list[dict[str, str]]:
    """The pairs {"modern", "shakespearean"} of rows with these keys, or with "input" and "output".

    A row with a side that is empty or no text is left out, and it is said how many and which. Raises
    ValueError when more than ``max_bad_share`` of the rows are such, and when a column is missing.
    """
    keys = _pair_keys(rows, source)
    pairs, bad = [], []
    for i, row in enumerate(rows):
        sides = [row.get(key) for key in keys]
        if why := _why_bad(sides):
            bad.append(BadRow(i, why, repr(sides)))
        else:
            pairs.append(dict(zip(PAIR_KEYS[0], map(str.strip, sides), strict=True)))
    leave_out(bad, len(rows), source, max_bad_share)
    return pairs


def _pair_keys(rows: Sequence[Mapping], source: str) -> tuple[str, str]:
    """The names of the two columns."""
    there = dict.fromkeys(key for row in rows for key in row)
    for keys in PAIR_KEYS:
        if set(keys) <= there.keys():
            return keys
    raise ValueError(f"{source} has the columns {', '.join(there) or '(none)'}; pairs need modern and "
                     "shakespearean, or input and output: rename the two that hold them")


def _why_bad(sides: Iterable) -> str:
    """Why a pair cannot be used; empty if it can."""
    if not all(isinstance(side, str) for side in sides):
        return "not text"
    return "" if all(side.strip() for side in sides) else "empty"


def leave_out(bad: Sequence[BadRow], n_rows: int, source: str, max_bad_share: float) -> None:
    """Says which rows are left out and why; raises ValueError for a share above ``max_bad_share``."""
    if not bad:
        return
    counts = ", ".join(f"{n} {why}" for why, n in Counter(row.why for row in bad).most_common())
    shown = "; ".join(f"row {row.row}: {row.found[:60]}" for row in bad[:_SHOWN])
    if len(bad) > max_bad_share * n_rows:
        raise ValueError(f"{source} has {len(bad)} of {n_rows} rows that cannot be used ({counts}), more "
                         f"than max_bad_share {max_bad_share:g} allows; mend them or raise it. {shown}")
    print(f"left out {len(bad)} of {n_rows} rows of {source}: {counts}. {shown}")
