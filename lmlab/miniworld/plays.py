"""Scenes of plays about the village: plain text, without a modern side, in the form of printed plays.

The layout is that of the tinyshakespeare text: a speaker and a colon, the speech, a blank line. Who speaks
has entered before, and nobody speaks twice in a row: that can be learned besides the old English.
"""

from lmlab.miniworld.grammar import Draw, stream
from lmlab.miniworld.shakespeare import pair
from lmlab.miniworld.splits import split_of
from lmlab.miniworld.world import PEOPLE, TRADES


def _speech(d: Draw, split: str) -> str:
    """One or two sentences, the old side of pairs of the split."""
    n, sentences = d.choice((1, 2)), []
    while len(sentences) < n:
        row = pair(d)
        if split_of(row["modern"]) == split:
            sentences.append(row["shakespearean"])
    return "\n".join(sentences)


def scene(d: Draw, split: str = "train") -> str:
    """A scene of four to six speeches by two people, who enter and leave."""
    cast = [d.choice(PEOPLE)]
    named = d.choice((True, False))
    cast.append(
        d.choice([name for name in PEOPLE if name != cast[0]]) if named else f"the {d.choice(TRADES)}"
    )
    parts, speaker = [f"Enter {cast[0]} and {cast[1]}."], 0
    for _ in range(d.choice((4, 5, 6))):
        name = cast[speaker]
        parts.append(f"{name[0].upper()}{name[1:]}:\n{_speech(d, split)}")
        speaker = 1 - speaker
    return "\n\n".join([*parts, "Exeunt."])


def rows(split: str, n: int, seed: int = 0) -> list[dict]:
    """``n`` rows {"text"}. Sentences of the validation split are in no scene of train."""
    draw = Draw(stream("plays", split, seed))
    return [{"text": scene(draw, split)} for _ in range(n)]
