"""Distinct rows, split between train and validation by the text itself."""

from collections.abc import Callable

from lmlab.miniworld.grammar import Draw, stable_fraction

VALIDATION_FRACTION = 0.1
_PATIENCE = 2_000  # drawn rows in a row that brought nothing new


def split_of(text: str) -> str:
    """ "train" or "validation", for ever the same for the same text, whatever the seed."""
    return "validation" if stable_fraction(text) < VALIDATION_FRACTION else "train"


def distinct_rows(
    generate: Callable[[Draw], dict], key: str, n: int, d: Draw, split: str | None = None
) -> list[dict]:
    """``n`` rows in the order drawn, no two with the same ``row[key]``, all of ``split`` where one is given.

    Raises ValueError when the generator stops giving new rows.
    """
    rows: dict[str, dict] = {}
    idle = 0
    while len(rows) < n:
        row = generate(d)
        idle += 1
        if row[key] not in rows and split in (None, split_of(row[key])):
            rows[row[key]], idle = row, 0
        if idle > _PATIENCE:
            raise ValueError(f"got n={n}, but there are only about {len(rows)} distinct rows; ask for fewer")
    return list(rows.values())
