"""Distinct rows, split into train and validation by a hash of the text."""

from collections.abc import Callable

from lmlab.miniworld.grammar import Sampler, stable_fraction

VALIDATION_FRACTION = 0.1
_MAX_REPEATS = 2_000  # samples in a row that gave nothing new


def split_of(text: str) -> str:
    """ "train" or "validation", always the same for the same text, whatever the seed."""
    return "validation" if stable_fraction(text) < VALIDATION_FRACTION else "train"


def distinct_rows(
    generate: Callable[[Sampler], dict], key: str, n: int, rng: Sampler, split: str
) -> list[dict]:
    """``n`` rows in the order sampled, no two with the same ``row[key]``.

    Args:
        generate: samples one row.
        key: the field that must be distinct, and whose hash decides the split.
        n: how many rows.
        rng: where the choices come from.
        split: "train" or "validation".

    Raises:
        ValueError: the generator has no more new rows to give.
    """
    rows: dict[str, dict] = {}  # by what must be distinct, in order
    repeats = 0
    while len(rows) < n:
        row = generate(rng)
        repeats += 1
        if row[key] not in rows and split == split_of(row[key]):
            rows[row[key]] = row
            repeats = 0
        if repeats > _MAX_REPEATS:
            raise ValueError(f"got n={n}, but there are only about {len(rows)} distinct rows; ask for fewer")
    return list(rows.values())
