"""The village: its people, trades, places, things, and what follows from what.

The tables are in ``data/world.json``. The rules of the world are its themes: who feels X goes to place P,
where trade T gives object O, uses it by verb U, and then Z holds. Stories, encyclopedia and HellaSwag items
are all read off these rows.
"""

from dataclasses import dataclass

from lmlab.miniworld.tables import read_table


@dataclass(frozen=True)
class Theme:
    """One need and how it ends. ``use`` and ``outcome`` continue a sentence about he or she."""

    feeling: str
    place: str
    trade: str
    made: str  # past participle: what the trade has done with the object
    objects: tuple[str, ...]
    use: str
    outcome: str


@dataclass(frozen=True)
class World:
    """Everything that a story is sampled from.

    A smaller World gives a smaller language with the same rules.
    """

    women: tuple[str, ...]
    men: tuple[str, ...]
    themes: tuple[Theme, ...]
    weather: tuple[tuple[str, str], ...]  # (weather, what the path is like then)
    daytimes: tuple[tuple[str, str], ...]  # (time of day, what comes after it)
    moves: tuple[str, ...]
    routes: tuple[str, ...]
    animals: tuple[tuple[str, str], ...]  # (animal, what it does)
    colors: tuple[str, ...]
    qualities: tuple[str, ...]
    numbers: tuple[str, ...]
    female_relatives: tuple[str, ...]
    male_relatives: tuple[str, ...]
    manners: tuple[str, ...]


def _frozen(value: object) -> object:
    """A value of the JSON file with its lists as tuples, and its objects, which are the themes, as ``Theme``."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return Theme(**{key: _frozen(item) for key, item in value.items()})
    return value


# read at import: a few milliseconds of JSON
VILLAGE = World(**{key: _frozen(value) for key, value in read_table("world").items()})

TRADES = tuple(theme.trade for theme in VILLAGE.themes)
PLACES = tuple(theme.place for theme in VILLAGE.themes)
OBJECTS = tuple(thing for theme in VILLAGE.themes for thing in theme.objects)
PEOPLE = VILLAGE.women + VILLAGE.men
RELATIVES = VILLAGE.female_relatives + VILLAGE.male_relatives
