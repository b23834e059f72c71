"""Units as they are written behind a number: what they measure, and how large they are."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """``powers`` of the basic units (m, g, s, A, K, mol, degree, dollar, ...), ``size`` times."""

    size: Fraction
    powers: frozenset[tuple[str, int]]


_FACTOR = re.compile(
    r"\s*(?P<link>[/·*]|per\b)?\s*(?P<shape>(?:square|sq\.?|cubic|cu\.?)\s+)?"
    r"(?P<name>[A-Za-zµΩ]+|[$€£¥₹])"
    r"(?:\s*\^\s*(?:\{\s*(?P<braced>-?\d)\s*\}|(?P<power>-?\d)))?(?![\w^{])"
)
_PREFIXES = {"k": 3, "M": 6, "G": 9, "d": -1, "c": -2, "m": -3, "µ": -6, "n": -9, "p": -12, "f": -15}
_LONG_PREFIXES = {"kilo": 3, "mega": 6, "centi": -2, "milli": -3, "micro": -6, "nano": -9}
# name = how many of units above; C is a coulomb, unless it stands behind degrees
_WITH_PREFIX = """N = 1000 g m/s^2; J = 1 N m; Pa = 1 N/m^2; W = 1 J/s; C = 1 A s; V = 1 J/C; Ω = 1 V/A;
T = 1 N/A/m; Hz = 1 /s; L = 1/1000 m^3; l = 1 L; bar = 100000 Pa; M = 1 mol/L; cal = 4.184 J;
eV = 1.602176634e-19 J"""
_WORDS = """meter metre = m; gram = g; second = s; liter litre = L; joule = J; newton = N; watt = W; volt = V;
pascal = Pa; kelvin = K; ampere amp = A; coulomb = C; ohm = Ω; hertz = Hz; calorie = cal; mole = mol"""
# one sign for two things, told apart by nothing: £ and pounds of weight, PM and picometers
_ALONE = """sec secs = 1 s; min mins minute = 60 s; h hr hrs hour = 3600 s; day = 86400 s; week = 604800 s;
cent = 1/100 dollar; $ USD buck = 1 dollar; € EUR = 1 euro; ¥ JPY = 1 yen; ₹ INR = 1 rupee;
inch inches = 0.0254 m; ft foot feet = 12 inch; yd yard = 3 ft; mi mile = 1760 yd; mph = 1 mi/h; kph = 1 km/h;
lb lbs pound = 453.59237 g; oz ounce = 1/16 lb; kWh = 3600000 J; kg kgs = 1000 g; rad = 1 radian;
£ GBP = 1 pound; PM = 1 pm; am = 1 AM"""
_BASIC = ("m", "g", "s", "A", "K", "mol")
# of their own kind, each: what cannot be converted is at least told apart
_OWN_KIND = ("dollar", "euro", "yen", "rupee", "degree", "Celsius", "Fahrenheit", "radian", "AM")


def _table() -> dict[str, Unit]:
    known = {name: Unit(Fraction(1), frozenset({(name, 1)})) for name in _OWN_KIND}
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
    """ "km/h", "N · m^{-1}", "\\frac{J}{mol K}" or "J/(mol K)": factors with powers; None where one is unknown.

    Behind a slash only one factor is clear: "J/mol K" is not read. known: the units so far, while their table
    is built.
    """
    size, powers, place, divided = Fraction(1), Counter(), 0, False
    text = _in_a_row(text)
    while place < len(text):
        found = _FACTOR.match(text, place)
        factor = _named(found["name"], _UNITS if known is None else known) if found else None
        if factor is None or (divided and not found["link"]):
            return None
        below = found["link"] in ("/", "per")
        power = _power(found) * (-1 if below else 1)
        size *= factor.size**power
        powers.update({name: n * power for name, n in factor.powers})
        place, divided = found.end(), divided or below
    return Unit(size, frozenset((name, n) for name, n in powers.items() if n)) if text else None


def _power(found: re.Match) -> int:
    shape = {"s": 2, "c": 3}.get((found["shape"] or " ")[0], 1)  # square feet, cubic meters
    return shape * int(found["braced"] or found["power"] or 1)


_IN_A_ROW = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"degrees?\s*(?:C\b|[Cc]elsius)|[Cc]elsius", "degree Celsius"),
        (r"degrees?\s*(?:F\b|[Ff]ahrenheit)|[Ff]ahrenheit", "degree Fahrenheit"),
        (r"\s+\^", "^"),
        (r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/(\2)"),
    )
]


def _in_a_row(text: str) -> str:
    """Without fractions and parentheses: "J/(mol K)" and "\\frac{J}{mol K}" become "J/mol/K"."""
    for pattern, by in _IN_A_ROW:
        text = pattern.sub(by, text)
    below = re.fullmatch(r"([^/()]*)/\s*\(([^/()]*)\)\s*", text)
    if below:
        factors = re.split(r"[\s·*]+", below[2].strip())
        text = "/".join([below[1], *factors])
    return text.strip()


def _named(name: str, known: dict[str, Unit]) -> Unit | None:
    """As written, since m and M differ; words in any case, of one or of many."""
    if name in known or len(name) < 3:
        return known.get(name)
    return known.get(name.lower()) or known.get(name.lower().removesuffix("s"))


def leading_unit(text: str) -> str:
    """The longest known unit that a text begins with; empty without one, or if it is part of another."""
    if read_unit(text):
        return text.strip()
    ends, found = [], _FACTOR.match(text)
    while found and len(ends) < 6:
        ends.append(found.end())
        found = _FACTOR.match(text, found.end())
    end = next((end for end in reversed(ends) if read_unit(text[:end])), 0)
    return "" if re.match(r"\s*(?:[/·^]|per\b)", text[end:]) else text[:end].strip()


NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    "(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|"
    "hundred|thousand|million|billion"
)
MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
# in an answer these say that it is not simply this number
DOUBT = re.compile(
    r"\b(?:or|nor|not|no|never|neither|either|cannot|but|except|unless|if|maybe|perhaps|possibly|wrong|"
    r"incorrect|false|between|than|least|most|half|halves|(?:third|fourth|quarter)s?|"
    r"(?:fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?|"
    rf"{NUMBER_WORDS})\b|n't\b",
    re.IGNORECASE,
)
# behind a number these say more than a unit: "5 plus three", "5 squared", "5 mod 7", "20 June"
_NO_UNIT = re.compile(
    r"\b(?:and|plus|minus|over|to|squared|cubed|factorial|prime|mod|modulo|base|root|choose|divided|"
    r"times(?!\W*$)|pi|sin|cos|tan|cot|log|exp|sqrt|max|gcd|lcm|is|are|was|were|equals|minimum|maximum|"
    rf"infinity|because|since|so|score|gross|below|zero|kilo|mega|giga|milli|{MONTHS})\b",
    re.IGNORECASE,
)
# without a size here, but no variables either; the small words only beside others ("10 a day")
_SHORT = {"F", "in", "dB", "D", "AU", "yr", "KJ", "JK"}
_SMALL = {"of", "a", "an", "at", "by", "on", "in"}


def may_be_unit(text: str) -> bool:
    """A known unit, or words as in "apples per day": another letter is rather a variable."""
    if re.search(r"[A-Za-z][$€£¥₹]|\b[kKMB] (?:dollar|euro)", text):  # 5M$ are millions
        return False
    if read_unit(text) is not None:
        return True
    if not re.fullmatch(r"[A-Za-zµΩ/·$€£¥₹](?:[A-Za-zµΩ .'/^{}\d·$€£¥₹]|(?<=\w)-(?=\w)|\^\{?-)*", text):
        return False
    a_digit_and_no_power = re.search(r"(?<![\^{\-\d])\d", text)
    if DOUBT.search(text) or _NO_UNIT.search(text) or a_digit_and_no_power:
        return False
    words = re.findall(r"[A-Za-zµΩ]+", text)
    return not set(words) <= _SMALL - _SHORT and all(
        word in _SHORT | _SMALL or _named(word, _UNITS) or _is_word(word) for word in words
    )


def _is_word(word: str) -> bool:
    return len(word) > 2 and re.search("[aeiouy]", word, re.IGNORECASE) is not None


_UNITS = _table()
