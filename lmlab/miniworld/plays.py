"""Scenes of plays about the village: plain text, without a modern side, in the layout of tinyshakespeare.

A speaker and a colon, the speech, a blank line. Who speaks has entered before, and nobody speaks twice in a
row: that can be learned besides the old English.
"""

from lmlab.miniworld.grammar import Sampler, stream
from lmlab.miniworld.shakespeare import pair
from lmlab.miniworld.splits import split_of
from lmlab.miniworld.world import PEOPLE, TRADES


def _speech(rng: Sampler, split: str) -> str:
    """One or two sentences, the old side of pairs of the split."""
    # the number is sampled first, so that rejected pairs do not change it
    n = rng.choice((1, 2))
    sentences: list[str] = []
    while len(sentences) < n:
        row = pair(rng)  # sampled until one belongs to the split
        if split_of(row["modern"]) == split:
            sentences.append(row["shakespearean"])
    return "\n".join(sentences)


def scene(rng: Sampler, split: str = "train") -> str:
    """A scene of four to six speeches by two people, who enter and leave."""
    first = rng.choice(PEOPLE)
    if rng.choice(("a name", "a trade")) == "a name":
        second = rng.choice([name for name in PEOPLE if name != first])
    else:
        second = f"the {rng.choice(TRADES)}"
    parts = [f"Enter {first} and {second}."]
    for turn in range(rng.choice((4, 5, 6))):
        # by turns: nobody speaks twice in a row
        speaker = first if turn % 2 == 0 else second
        parts.append(f"{speaker[0].upper()}{speaker[1:]}:\n{_speech(rng, split)}")
    return "\n\n".join([*parts, "Exeunt."])


def rows(name: str, split: str, n: int, seed: int) -> list[dict]:
    """``n`` rows {"text"}. Sentences of the validation split are in no scene of train."""
    rng = Sampler(stream(name, split, seed))
    return [{"text": scene(rng, split)} for _ in range(n)]
