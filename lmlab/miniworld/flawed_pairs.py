"""274 pairs with the flaws of a real hand-made set, split without checks: what lesson 01 finds, on purpose.

Among them are 25 slang one-offs with invented renderings, 8 pairs in which nothing was translated (both in
``data/flawed_pairs.json``), 20 exact duplicates, 15 near duplicates, and 10 sentences rendered in two ways.
"""

import re
from collections.abc import Sequence

from lmlab.miniworld.grammar import Sampler, stream
from lmlab.miniworld.shakespeare import pair
from lmlab.miniworld.splits import distinct_rows
from lmlab.miniworld.tables import read_table
from lmlab.miniworld.world import PEOPLE

N_PAIRS, N_TRAIN = 274, 220
N_DUPLICATES, N_NEAR_DUPLICATES, N_INCONSISTENT = 20, 15, 10


def _near_duplicate(rng: Sampler, row: dict) -> dict:
    """The same pair with one name exchanged, or one put in front."""
    words = re.findall("[A-Za-z]+", row["modern"])
    # a name that both sides have can be exchanged without breaking the translation
    names = [word for word in words if word in PEOPLE and word in row["shakespearean"]]
    if not names:
        name = rng.choice(PEOPLE)
        return {side: f"{name}, {_lower_first(text)}" for side, text in row.items()}
    other = rng.choice([name for name in PEOPLE if name not in names])
    return {side: re.sub(rf"\b{names[0]}\b", other, text) for side, text in row.items()}


def _lower_first(text: str) -> str:
    keep = re.match(r"I\b", text) or text.split()[0].strip(",.?") in PEOPLE
    return text if keep else text[0].lower() + text[1:]


def _inconsistent(row: dict) -> dict:
    """The same modern sentence by a translator with other habits: you for thou, an oath for good measure."""
    # modern forms of address on the old side, which a model cannot predict
    text = re.sub(r"\b[Tt]h(ou|ee)\b", "you", row["shakespearean"])
    text = re.sub(r"\bth(y|ine)\b", "your", text)
    return {"modern": row["modern"], "shakespearean": f"Marry, {_lower_first(text)}"}


def _sample(rng: Sampler, rows: Sequence[dict], n: int) -> list[dict]:
    """``n`` of ``rows`` without replacement, in random order."""
    left = list(rows)
    return [left.pop(rng.choice(range(len(left)))) for _ in range(n)]


def flawed_pairs(seed: int = 0) -> list[dict]:
    """All 274 pairs, shuffled: a split by position has duplicates on both sides."""
    rng = Sampler(stream("pairs", "flawed", seed))
    made_by_hand = read_table("flawed_pairs")
    slang = [{"modern": modern, "shakespearean": old} for modern, old in made_by_hand["slang"]]
    unchanged = [{"modern": text, "shakespearean": text} for text in made_by_hand["unchanged"]]
    n_flawed = len(slang) + len(unchanged) + N_DUPLICATES + N_NEAR_DUPLICATES + N_INCONSISTENT
    clean = distinct_rows(pair, "modern", N_PAIRS - n_flawed, rng)
    # flaws are made of clean pairs, so each has its partner in the set
    pairs = [*clean, *slang, *unchanged]
    pairs += [dict(row) for row in _sample(rng, clean, N_DUPLICATES)]
    pairs += [_near_duplicate(rng, row) for row in _sample(rng, clean, N_NEAR_DUPLICATES)]
    pairs += [_inconsistent(row) for row in _sample(rng, clean, N_INCONSISTENT)]
    return _sample(rng, pairs, len(pairs))


def rows(split: str, n: int, seed: int = 0) -> list[dict]:
    """The first ``n`` rows of a split by position, 220 to 54, as naive scripts do it.

    Validation pairs whose duplicates are in train make the validation loss too good. The flaw is wanted.

    Raises:
        ValueError: more rows asked for than the split has.
    """
    # split by position after shuffling, and duplicates not removed
    pairs = flawed_pairs(seed)
    part = pairs[:N_TRAIN] if split == "train" else pairs[N_TRAIN:]
    if n > len(part):
        raise ValueError(f"pairs-274 {split} has {len(part)} rows, got n={n}; ask for fewer or take 'pairs'")
    return part[:n]
