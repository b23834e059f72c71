"""Units as they are written behind a number: what they measure, and how large they are."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from lmlab.data.notation import TABLES, any_word


@dataclass(frozen=True)
class Unit:
    """``size`` times a product of the basic units (m, g, s, A, K, mol, degree, dollar, ...) with their
    powers.
    """

    size: Fraction
    powers: frozenset[tuple[str, int]]


_FACTOR = re.compile(
    r"\s*(?P<link>[/·*]|per\b)?\s*(?P<name>[A-Za-zµΩ]+|[$€£¥₹])"
    r"(?:\s*\^\s*(?P<power>-?\d|\{\s*-?\d\s*\}))?(?![\w^{])"
)
_REWRITES = [
    (r"degrees?\s*(?:C\b|[Cc]elsius)", "Celsius"),
    (r"degrees?\s*(?:F\b|[Ff]ahrenheit)", "Fahrenheit"),
    (r"\s+\^", "^"),
    (r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
]
# in an answer these say that it is not simply this number
DOUBT = re.compile(rf"{any_word('negations', 'doubts')}|n't\b", re.IGNORECASE)
_NO_UNIT = re.compile(rf"{any_word('no_unit', 'months')}|\btimes\b(?!\W*$)", re.IGNORECASE)
# without a size here, but no variables either; the small words only beside others ("10 a day")
_SHORT_UNITS = {"F", "in", "sq", "cu", "dB", "D", "AU", "yr", "KJ", "JK"}
_SMALL_WORDS = {"of", "a", "an", "at", "by", "on", "in"}
_UNITS: dict[str, Unit] = {}  # all units by their names, prefixes included


def read_unit(text: str) -> Unit | None:
    """ "km/h", "N · m^{-1}" or "\\frac{J}{mol}": factors with powers; None where one is unknown.

    Behind a slash only one factor is clear: "J/mol K" is not read, nor "J/(mol K)".

    Args:
        text: In the notation of ``plain_notation``.
    """
    size, powers = Fraction(1), Counter()
    position, divided = 0, False
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    text = text.strip()
    if not text:
        return None
    while position < len(text):
        found = _FACTOR.match(text, position)
        factor = _look_up(found["name"]) if found else None
        if factor is None or (divided and not found["link"]):
            return None
        exponent = int((found["power"] or "1").strip("{} "))
        if found["link"] in ("/", "per"):
            exponent, divided = -exponent, True
        size *= factor.size**exponent
        powers.update({name: power * exponent for name, power in factor.powers})
        position = found.end()
    return Unit(size, frozenset((name, power) for name, power in powers.items() if power))


def _look_up(name: str) -> Unit | None:
    """As written, since m and M differ; words in any case, in singular or plural."""
    # short names are exact: "ms" is no plural of m
    if name in _UNITS or len(name) < 3:
        return _UNITS.get(name)
    return _UNITS.get(name.lower()) or _UNITS.get(name.lower().removesuffix("s"))


def leading_unit(text: str) -> str:
    """The longest known unit that a text begins with; empty without one, or if it is part of another."""
    words = text.split()
    # the longest first; no unit has more than six words
    for n in (len(words), 6, 5, 4, 3, 2, 1):
        unit = " ".join(words[:n])
        if read_unit(unit):
            # of "m / fortnight" the m is only a part
            return "" if re.match(r"[/·^]|per$", "".join(words[n : n + 1])) else unit
    return ""


def may_be_unit(text: str) -> bool:
    """A known unit, or words as in "apples per day": another letter is rather a variable."""
    if re.search(r"[A-Za-z][$€£¥₹]|\b[kKMB] (?:dollar|euro)", text):  # 5M$ are millions
        return False
    if read_unit(text) is not None:
        return True
    if not re.fullmatch(r"[A-Za-zµΩ/·$€£¥₹](?:[A-Za-zµΩ .'/^(){}\d·$€£¥₹]|(?<=\w)-(?=\w)|\^\{?-)*", text):
        return False
    digit_that_is_no_power = re.search(r"(?<![\^{\-\d])\d", text)
    if DOUBT.search(text) or _NO_UNIT.search(text) or digit_that_is_no_power:
        return False
    words = set(re.findall(r"[A-Za-zµΩ]+", text))
    if words <= _SMALL_WORDS - _SHORT_UNITS:
        return False
    # a word has a vowel; what has none is a product of variables, unless it is a known unit
    long = {word for word in words if len(word) > 2 and re.search("[aeiouy]", word, re.IGNORECASE)}
    return all(_look_up(word) for word in words - long - _SHORT_UNITS - _SMALL_WORDS)


def _define_units() -> None:
    """Fills ``_UNITS``; a unit is defined by those before it."""
    for group in TABLES["units"]:
        for names, definition in group["names"].items():
            for name in names.split():
                unit = _defined(definition) if definition else Unit(Fraction(1), frozenset({(name, 1)}))
                _UNITS[name] = unit
                for prefix, power in group["prefixes"].items():
                    _UNITS[prefix + name] = Unit(unit.size * Fraction(10) ** power, unit.powers)


def _defined(definition: str) -> Unit:
    number, text = definition.split(" ", 1)  # "60 s"
    unit = read_unit(text)
    return Unit(Fraction(number) * unit.size, unit.powers)


_define_units()
