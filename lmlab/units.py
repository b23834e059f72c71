"""Units as they are written behind a number: what they measure, and how large they are."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """``powers`` of the basic units (m, g, s, A, K, mol, dollar), ``size`` times."""

    size: Fraction
    powers: frozenset[tuple[str, int]]


_FACTOR = re.compile(r"\s*(?P<link>[/·]|per\b)?\s*(?P<name>[A-Za-zµΩ]+|\$)"
                     r"(?:\s*\^\s*(?:\{\s*(?P<braced>-?\d)\s*\}|(?P<power>-?\d)))?(?![\w^{])")
_PREFIXES = {"k": 3, "M": 6, "G": 9, "d": -1, "c": -2, "m": -3, "µ": -6, "n": -9, "p": -12, "f": -15}
_LONG_PREFIXES = {"kilo": 3, "mega": 6, "centi": -2, "milli": -3, "micro": -6, "nano": -9}
# name = how many of units above; C is a coulomb, since degrees are no known unit
_WITH_PREFIX = """N = 1000 g m/s^2; J = 1 N m; Pa = 1 N/m^2; W = 1 J/s; C = 1 A s; V = 1 J/C; Ω = 1 V/A;
T = 1 N/A/m; Hz = 1 /s; L = 1/1000 m^3; l = 1 L; bar = 100000 Pa; M = 1 mol/L; cal = 4.184 J;
eV = 1.602176634e-19 J"""
_WORDS = """meter metre = m; gram = g; second = s; liter litre = L; joule = J; newton = N; watt = W; volt = V;
pascal = Pa"""
_ALONE = """sec = 1 s; min minute = 60 s; h hr hour = 3600 s; day = 86400 s; week = 604800 s; $ = 1 dollar;
cent = 1/100 dollar; inch inches = 0.0254 m; ft foot feet = 12 inch; yd yard = 3 ft; mi mile = 1760 yd;
lb pound = 453.59237 g; oz ounce = 1/16 lb; atm = 101325 Pa"""
_BASIC = ("m", "g", "s", "A", "K", "mol")


def _table() -> dict[str, Unit]:
    known = {"dollar": Unit(Fraction(1), frozenset({("dollar", 1)}))}
    for name in _BASIC:
        _add(known, name, Unit(Fraction(1), frozenset({(name, 1)})), _PREFIXES)
    for name, number, unit in _defined(_WITH_PREFIX):
        _add(known, name, _times(number, read_unit(unit, known)), _PREFIXES)
    for line in _WORDS.split(";"):
        names, symbol = line.strip().split(" = ")
        for name in names.split():
            _add(known, name, known[symbol], _LONG_PREFIXES)
    for names, number, unit in _defined(_ALONE):
        known |= dict.fromkeys(names.split(), _times(number, read_unit(unit, known)))
    return known


def _defined(lines: str) -> list[tuple[str, Fraction, str]]:
    parts = [re.fullmatch(r"\s*(.+) = (\S+) (.+)", line).groups() for line in lines.split(";")]
    return [(names, Fraction(number), unit) for names, number, unit in parts]


def _times(number: Fraction, unit: Unit) -> Unit:
    return Unit(number * unit.size, unit.powers)


def _add(known: dict[str, Unit], name: str, unit: Unit, prefixes: dict[str, int]) -> None:
    known[name] = unit
    for prefix, power in prefixes.items():
        known[prefix + name] = _times(Fraction(10) ** power, unit)


def read_unit(text: str, known: dict[str, Unit] | None = None) -> Unit | None:
    """"km/h" or "N · m^{-1}": factors with powers; None where one of them is not known.

    Behind a slash only one factor is clear: "J/mol K" is not read. known: the units so far, while their table
    is built.
    """
    size, powers, place, divided = Fraction(1), Counter(), 0, False
    text = text.strip()
    while place < len(text):
        found = _FACTOR.match(text, place)
        factor = _named(found["name"], _UNITS if known is None else known) if found else None
        if factor is None or (divided and not found["link"]):
            return None
        below = found["link"] in ("/", "per")
        power = int(found["braced"] or found["power"] or 1) * (-1 if below else 1)
        size *= factor.size ** power
        powers.update({name: n * power for name, n in factor.powers})
        place, divided = found.end(), divided or below
    return Unit(size, frozenset((name, n) for name, n in powers.items() if n)) if text else None


def _named(name: str, known: dict[str, Unit]) -> Unit | None:
    """As written, since m and M differ; words in any case, of one or of many."""
    if name in known or len(name) < 3:
        return known.get(name)
    return known.get(name.lower()) or known.get(name.lower().removesuffix("s"))


def leading_unit(text: str) -> str:
    """The longest known unit that a text begins with; empty without one, or if it is part of another."""
    ends, found = [], _FACTOR.match(text)
    while found and len(ends) < 6:
        ends.append(found.end())
        found = _FACTOR.match(text, found.end())
    end = next((end for end in reversed(ends) if read_unit(text[:end])), 0)
    return "" if re.match(r"\s*(?:[/·^]|per\b)", text[end:]) else text[:end].strip()


# behind a number these say more than a unit: "5 plus three", "5 and a half", "5 squared"
_NO_UNIT = re.compile(
    r"\b(?:and|or|plus|minus|over|not|to|half|halves|squared|cubed|divided|times(?!\W*$))\b", re.IGNORECASE)
# without a size here, but no variables either
_SHORT = {"F", "in", "dB", "D", "AU", "yr", "of", "a", "an", "am", "AM", "PM", "KJ", "JK"}


def may_be_unit(text: str) -> bool:
    """Words of three letters or more ("apples"), or known short ones: another letter is rather a variable."""
    if not re.fullmatch(r"[A-Za-zµΩ/·$][A-Za-zµΩ .'\-/^{}\d()·]*", text) or _NO_UNIT.search(text):
        return False
    if re.search(r"(?<![\^{\-\d])\d", text):  # a digit that is no power
        return False
    return all(len(word) > 2 or word in _SHORT or _named(word, _UNITS)
               for word in re.findall(r"[A-Za-zµΩ]+", text))


_UNITS = _table()
