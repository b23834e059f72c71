"""Short descriptions of fantasy locations between <LOC> and </LOC>, for the lessons on style and format."""

import math

from lmlab.miniworld.grammar import Draw, stream
from lmlab.miniworld.splits import distinct_rows
from lmlab.miniworld.world import PEOPLE, VILLAGE


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(entry.split()) for entry in text.split(","))


_FIRST = _list("""
Ash, Black, Bright, Crow, Dawn, Dusk, Elf, Ember, Frost, Ghost, Gold, Iron, Moon, Moss, Night, Raven,
Silver, Star, Storm, Thorn
""")
_SECOND = _list("""
barrow, bridge, crag, deep, fall, fen, ford, gate, hollow, keep, mere, moor, reach, rest, spire, vale,
watch, well, wood
""")
_KINDS = _list("""
castle, tower, cave, forest, temple, village, harbor, bridge, garden, library, market, mine, swamp,
island, tomb, inn
""")
_LOOKS = _list("""
ancient, ruined, haunted, hidden, floating, frozen, sunken, burning, silent, enchanted, forgotten, golden,
crooked, endless
""")
_SITES = _list("""
above a bottomless lake, on the back of a sleeping giant, under a mountain of glass, at the end of the
world, between two moons, in the roots of a giant oak, beyond the sea of fog, inside a dead volcano, on a
cliff of black stone, deep in the desert of bones, behind a waterfall of light, where three rivers meet
""")
_DWELLERS = _list("""
dragon, witch, ghost, troll, wizard, goblin, giant, fairy, dwarf, vampire, mermaid, knight, sphinx,
phoenix
""")
_DEEDS = _list("""
guards a chest of silver, sings to the stars, counts the bones of kings, waits for a lost child, sells
dreams for coins, keeps the last flame, paints the wind, writes the names of the dead, forges swords of
ice, trades riddles for bread, feeds a blind wolf, weaves cloaks of shadow
""")
_SOUNDS = _list("""
whispers, distant bells, slow drums, running water, broken songs, wings, laughter, thunder
""")
_SMELLS = _list("""
smoke, old books, honey, wet stone, roses, salt, burnt sugar, cold iron
""")
_LIGHTS = _list("""
blue crystals, a thousand candles, glowing moss, the light of a green sun, fireflies in jars, a river of
lava, burning roses, moonlight that never fades
""")
_RULES = _list("""
No one who enters may speak, Every door leads to yesterday, Those who sleep here forget their names, Time
runs backwards after sunset, Only a true liar finds the way out, Each stone remembers a battle, The walls
move when nobody looks, Gold turns to leaves at the gate
""")
_TREASURES = _list("""
crown, mirror, broken sword, silver key, map of clouds, dragon egg, bottle of rain, ring, harp without
strings, cursed coin
""")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _detail(d: Draw, kind: str) -> str:
    form = d.choice(("dweller", "air", "light", "rule", "visitor"), (4, 2, 2, 2, 2))
    if form == "dweller":
        colour = d.choice(VILLAGE.colours)
        return f"There {_article(colour)} {colour} {d.choice(_DWELLERS)} {d.choice(_DEEDS)}."
    if form == "air":
        return f"The air smells of {d.choice(_SMELLS)} and is full of {d.choice(_SOUNDS)}."
    if form == "light":
        return f"The {kind} is lit by {d.choice(_LIGHTS)}."
    if form == "rule":
        return f"{d.choice(_RULES)}."
    return f"{d.choice(PEOPLE)} once left {_article(thing := d.choice(_TREASURES))} {thing} here."


def location(d: Draw) -> str:
    """ "<LOC>...</LOC>": two to four sentences on one place."""
    return described(d)[0]


def described(d: Draw) -> tuple[str, float]:
    """A location, and the natural log of its probability (nats).

    A detail that comes again is said once, so several draws give one text: all of them count.
    """
    begin = d.logprob
    name = d.choice(_FIRST) + d.choice(_SECOND)
    look, kind = d.choice(_LOOKS), d.choice(_KINDS)
    opening = f"{name} is {_article(look)} {look} {kind} {d.choice(_SITES)}."
    logprob = d.logprob - begin
    details: dict[str, float] = {}  # and their probabilities
    for _ in range(d.choice((1, 2, 3))):
        begin = d.logprob
        detail = _detail(d, kind)
        details[detail] = math.exp(d.logprob - begin)
    text = f"<LOC>{' '.join((opening, *details))}</LOC>"
    return text, logprob + math.log(_said_in_order(list(details.values())))


def _said_in_order(probabilities: list[float]) -> float:
    """The probability that one to three draws (each number equally often) say just these, in this order."""
    ways = [1.0] + [0.0] * len(probabilities)  # ways[m]: that the first m have been said, and nothing else
    total = 0.0
    for _ in range(3):
        ways = [
            ways[m] * sum(probabilities[:m]) + (ways[m - 1] * probabilities[m - 1] if m else 0.0)
            for m in range(len(ways))
        ]
        total += ways[-1] / 3
    return total


def rows(split: str, n: int, seed: int = 0) -> list[dict]:
    """``n`` distinct rows {"text", "logprob"}; train and validation share none."""

    def row(d: Draw) -> dict:
        text, logprob = described(d)
        return {"text": text, "logprob": logprob}

    return distinct_rows(row, "text", n, Draw(stream("fantasy", split, seed)), split)
