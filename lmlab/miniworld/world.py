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
    objects: list[str]
    use: str
    outcome: str


@dataclass(frozen=True)
class World:
    """Everything that a story is sampled from.

    A smaller World gives a smaller language with the same rules.
    """

    women: list[str]
    men: list[str]
    themes: list[Theme]
    weather: list[tuple[str, str]]  # (weather, what the path is like then)
    daytimes: list[tuple[str, str]]  # (time of day, what comes after it)
    moves: list[str]
    routes: list[str]
    animals: list[tuple[str, str]]  # (animal, what it does)
    colors: list[str]
    qualities: list[str]
    numbers: list[str]
    female_relatives: list[str]
    male_relatives: list[str]
    manners: list[str]


# read at import: a few milliseconds of JSON
_table = dict(read_table("world"))
_themes = [Theme(**theme) for theme in _table.pop("themes")]
VILLAGE = World(themes=_themes, **_table)

TRADES = [theme.trade for theme in VILLAGE.themes]
PLACES = [theme.place for theme in VILLAGE.themes]
OBJECTS = [thing for theme in VILLAGE.themes for thing in theme.objects]
PEOPLE = VILLAGE.women + VILLAGE.men
RELATIVES = VILLAGE.female_relatives + VILLAGE.male_relatives
