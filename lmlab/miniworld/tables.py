"""The word lists and sentence templates in ``data/``, read once."""

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "data"


@cache
def read_table(name: str) -> dict:
    """The content of ``data/NAME.json``. Callers share it and must not change it."""
    # JSON, not Python: word lists that a reader can change without touching code
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def indefinite_article(word: str) -> str:
    """ "an" before a vowel, else "a"."""
    return "an" if word[0] in "aeiou" else "a"
