"""Answers read as numbers with units: integers, decimals, fractions, powers, percentages, LaTeX."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from lmlab.data.formulas import LONGEST as _LONGEST_FORMULA
from lmlab.data.formulas import is_formula
from lmlab.data.notation import plain_notation
from lmlab.data.rows import is_missing
from lmlab.data.units import leading_unit, may_be_unit, read_unit

_LONGEST_NUMBER = 60  # characters; nothing longer is meant as a number
_LONGEST_ANSWER = 1000  # nothing longer is read at all
_LARGEST_EXPONENT = 300
_EUROPEAN = r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}"  # 12.000,00 or 1.234.567
_SPACED = r"[1-9]\d{0,2}(?:[ ']\d{3})+(?:\.\d+)?"  # 1 234 or 5'000
_DECIMAL = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_PLAIN = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_POWER = r"10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<braced>[-+]?\d+)\s*\}|(?P<power>[-+]?\d+))"
_FORMS = [
    re.compile(form)
    for form in (  # the longest reading comes first
        r"(?P<whole>\d+)\s*\\frac\s*(?P<over>\d\d|\{\s*\d+\s*\}\s*\{\s*\d+\s*\})",  # 2\frac{1}{2}, 2\frac12
        rf"\\frac\s*(?P<over>\d\d|\{{\s*-?\s*{_DECIMAL}\s*\}}\s*\{{\s*{_DECIMAL}\s*\}})",
        r"(?P<whole>\d+)\s+(?P<over>\d+\s*/\s*\d+)",  # 2 1/2
        rf"(?P<over>{_DECIMAL}\s*/\s*{_DECIMAL})",
        r"(?P<ahead>\d*\.\d*)(?:\((?P<repeated>\d+)\)|"  # 0.(3)
        r"(?P<bar>\\overline|\\bar)\s*\{(?P<barred>\d+)\})",  # 0.\overline{3}
        rf"(?P<number>{_DECIMAL})\s*(?:\\times|[·x*])\s*{_POWER}",
        rf"(?P<number>{_DECIMAL})[eE](?P<power>[-+]?\d+)",
        _POWER,
        rf"(?P<number>{_EUROPEAN}|{_SPACED}|{_DECIMAL})",
    )
]
_DEGREE = frozenset({("degree", 1)})
_CURRENCY = "[$€£¥₹]"
_SIGN = re.compile(rf"\s*(?:≈\s*)?([-+]?)\s*({_CURRENCY}?)\s*([-+]?)\s*")
_PERCENT = re.compile(r"\s*(%|percent\b|per cent\b)")
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?\b", re.IGNORECASE)
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "lakh": 10**5,
    "crore": 10**7,
}
_MONEY_SCALE = re.compile(r"\s*([kKMB]|bn)\b")  # behind a currency alone: 5M may be a concentration
_MONEY_SCALES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9}
_TEN_TO = re.compile(r"10\s*\^\s*\{?\s*([-+]?\d{1,3})(?!\d)\s*\}?")
_SAID = re.compile(
    r"^(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?answer(?: is:?|:)\s*", re.IGNORECASE
)
_EMPTY_BOX = re.compile(r"\\(?:boxed|fbox)\{\s*\}")
_ABOUT = re.compile(
    r"^(?:about|approximately|approx\.?|roughly|around|exactly|only|just)\s+(?=[-+$\d.])", re.IGNORECASE
)
_MINUS = re.compile(r"^(?:minus|negative)\s+(?=[$\d.])", re.IGNORECASE)
_NAMED = re.compile(
    r"^(?:[A-Za-z]|\\[a-z]+)(?:_(?:\w|\{\s*\w+\s*\}))?(?:\([A-Za-z]\))?\s*[=≈]\s*"
    r"(?=[-+$€£\d.\\])"
)
_SENTENCE = re.compile(r"(?:[^.;\n]|\.(?![\s*\"]|$)|(?<=\\);|;(?=\s*[-$]?\d))*")
_BESIDE_A_BOX = re.compile(r"[\s$]*(?:,|(?:,\s*)?(?:or|and|\\text\s*\{\s*(?:or|and)\s*\}))[\s$]*")


@dataclass(frozen=True)
class Answer:
    """``text`` without ornaments; ``value`` is None where it is no number, and then the text decides."""

    text: str
    value: Fraction | None
    percent: bool = False
    unit: str = ""  # as written; what it measures is known for the common ones
    attached: bool = False  # "5m": the unit may be a variable

    @property
    def written(self) -> str:
        """As one says it: with its percent sign or known unit. Read again, it is the same answer."""
        unit = re.sub(rf"^{_CURRENCY}", "", leading_unit(self.unit)).strip()
        if self.percent or (self.value is None and not unit):
            return self.text
        return f"{self.text}{unit}" if self.attached else f"{self.text} {unit}".strip()


def read_answer(text: str) -> Answer:
    """What an answer says: integers, decimals, 1,200.50, 3/4, 2 1/2, \\frac{3}{4}, 1.5e-3, 1.5 \\times 10^{-3},
    0.(3), 15%, $12, 5 million, 5 km, with a sign, and any of them in \\boxed{} or between dollar signs.

    All of the text must be understood: "2x", "5π", "≤5", "not 5" and "3 to 5" are no numbers, "5 apples" is
    one. Separators between digits are read where they can mean only one thing: "12.000,00" is 12000, "1 234"
    and "1,234" are 1234, "1.234" is 1.234; "12,34" is no number.
    """
    if _PLAIN.fullmatch(text):  # most are, and it is quick
        return Answer(text, Fraction(text))
    if len(text) > _LONGEST_ANSWER:
        return Answer(text, None)
    plain = _cleaned(text)
    named = _NAMED.match(plain)  # x = 5
    found = _number(plain[named.end() :]) if named else _number(plain)
    return found or _formula_with_unit(plain)


def parse_gold(text: str | None) -> Answer | None:
    """The answer that a data set gives, read as a whole: a number, a formula, or a text ("Tuesday").

    Returns None where it is none of these: empty, "nan", "N/A", "None", "-", "?".
    """
    answer = read_answer("" if text is None else str(text))
    return None if says_nothing(answer.text) else answer


def says_nothing(text: str) -> bool:
    """Whether a text is no answer at all: without a letter or digit, or what stands for a missing value."""
    plain = text.strip()
    return is_missing(plain) or plain.lower() == "unknown" or not re.search(r"\w|\\[A-Za-z{]|∅", plain)


_PART = re.compile(r"\\[A-Za-z]+|(?<![A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])|[^A-Za-z\s]")
_NO_PART = {*"{}(),.'$+;:", "\\frac", "\\times", "a", "an", "of", "in", "at", "by", "on"}


def unread_parts(gold: str, answer: str) -> list[str]:
    """Digits, signs, commands and variables of a gold that have been lost in what was made of it.

    A check that does not rest on ``read_answer``: whatever that takes "5√2" for, the root must still be
    there.
    """
    gold, answer = (_SAID.sub("", plain_notation(text.replace("\\boxed", ""))) for text in (gold, answer))
    gold = re.sub(r"^\\?[A-Za-z]+(?:_\w)?\s*=", "", gold)  # of x = 5 the 5 is enough
    lost = Counter(_PART.findall(gold)) - Counter(_PART.findall(answer))
    return [part for part in lost if part not in _NO_PART]


def _cleaned(text: str) -> str:
    text = _EMPTY_BOX.sub("", text).strip()
    text = _ABOUT.sub("", _SAID.sub("", plain_notation(_unboxed(text))))
    return _MINUS.sub("-", text)


def _number(plain: str) -> Answer | None:
    """A number with all that stands behind it; None where something is not understood."""
    sign = _SIGN.match(plain)
    found = next((found for form in _FORMS if (found := form.match(plain, sign.end()))), None)
    if found is None or len(found.group()) > _LONGEST_NUMBER or (sign.group(1) and sign.group(3)):
        return None
    value, shown = _value(found.groupdict())
    if value is None:
        return None
    minus, currency, rest = "-" in sign.group(), sign.group(2), plain[found.end() :]
    factor, name, rest = _scale(rest, currency)
    percent = _PERCENT.match(rest)
    unit = _unit(rest[percent.end() :] if percent else rest, currency)
    if unit is None:
        return None
    text = "-" * minus + currency + shown + name + "%" * bool(percent)
    attached = re.fullmatch(r"[A-Za-z](?:\^.*)?", rest) is not None
    return Answer(text, value * factor * (-1 if minus else 1), bool(percent), unit, attached)


def _scale(rest: str, currency: str) -> tuple[int, str, str]:
    """(factor, its name, what follows) of "million dollars"; of a bare M only behind a currency."""
    factor, names = 1, ""
    while scale := _SCALE.match(rest):
        name = scale.group(1).lower()
        factor, names, rest = factor * _SCALES[name], f"{names} {name}", rest[scale.end() :]
    if currency and not names and (scale := _MONEY_SCALE.match(rest)):
        factor, names, rest = _MONEY_SCALES[scale.group(1)], scale.group(1), rest[scale.end() :]
    return factor, names, rest


def _unit(rest: str, currency: str) -> str | None:
    """What a number counts; empty without one, None where what follows the number is no unit."""
    unit, attached = rest.strip(), rest[:1].isalpha()
    if not unit:
        return currency
    if not may_be_unit(unit) or (attached and read_unit(unit) is None):  # 2abc, 5apples
        return None
    if not currency:
        return unit
    if re.match(r"/|per\b", unit):
        return currency + unit
    known = read_unit(leading_unit(unit))
    return currency if known is None or known == read_unit(currency) else None  # no $5 km


def _value(parts: dict[str, str | None]) -> tuple[Fraction | None, str]:
    """The value of a number and how it is shown, with all of its digits; (None, "") where it has none."""
    if parts.get("over"):
        return _fraction(parts.get("whole"), parts["over"])
    if digits := parts.get("repeated") or parts.get("barred"):  # 0.1(6) is (16 - 1) / 90
        ahead = parts["ahead"]
        scale = 10 ** len(ahead.partition(".")[2])
        fixed = Fraction(ahead + "0" if ahead.endswith(".") else ahead or 0)
        shown = f"{ahead}({digits})" if parts["repeated"] else f"{ahead}{parts['bar']}{{{digits}}}"
        return fixed + Fraction(int(digits), scale * (10 ** len(digits) - 1)), shown
    exponent = parts.get("braced") or parts.get("power")
    number = _without_separators(parts["number"]) if parts.get("number") else None
    if exponent is None:
        return Fraction(number), number
    if len(exponent) > 4 or abs(int(exponent)) > _LARGEST_EXPONENT:
        return None, ""
    ten = f"10^{{{int(exponent)}}}"
    if number is None:
        return Fraction(10) ** int(exponent), ten
    shown = f"{number} \\times {ten}" if "braced" in parts else f"{number}e{int(exponent)}"
    return Fraction(number) * Fraction(10) ** int(exponent), shown


def _fraction(whole: str | None, over: str) -> tuple[Fraction | None, str]:
    over = over if len(over) != 2 else "/".join(over)  # \frac34
    parts = re.split(r"\}\s*\{|/", over)
    above, below = (re.sub("[{}, ]", "", part) for part in parts)
    if Fraction(below) == 0:
        return None, ""
    if whole is None:
        return Fraction(above) / Fraction(below), f"{above}/{below}"
    if int(above) >= int(below):  # 1 234/5: is this 1234/5?
        return None, ""
    return int(whole) + Fraction(above) / Fraction(below), f"{whole} {above}/{below}"


def _without_separators(number: str) -> str:
    if re.fullmatch(_EUROPEAN, number):
        number = number.replace(".", "").replace(",", ".")
    return re.sub("[, ']", "", number).rstrip(".")


def _formula_with_unit(plain: str) -> Answer:
    if len(plain) > _LONGEST_FORMULA:
        return Answer(plain, None)
    for space in re.finditer(r"(?<=[\d})\]i!])\s+(?=[A-Za-zµΩ]{2}|\\frac\{\s*[A-Za-z]{2})", plain):
        formula, unit = plain[: space.start()], plain[space.end() :]
        if may_be_unit(unit) and is_formula(formula):
            return Answer(formula, None, unit=unit)
    return Answer(plain, None)


def _plain(text: str) -> str:
    """Without spaces, but for those between digits, where they part two numbers; words in any case."""
    text = re.sub(r"(?<!\d)\s|\s(?!\d)", "", text).strip("\"'")
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    choice = re.fullmatch(r"\(([A-Za-z])\)|([A-Za-z])\)", text)
    text = choice[1] or choice[2] if choice else text
    return text if "\\" in text else text.casefold()


def _unboxed(text: str) -> str:
    """What stands in the last \\boxed{...}, with what belongs to it; the text itself without a box.

    "\\boxed{5} million" is 5 million, "\\boxed{3} or \\boxed{5}" is 3, 5.
    """
    box = _last_box(text, len(text))
    if box is None:
        return text
    start, inner, end = box
    tail = re.sub(r"\\[\])].*", "", _SENTENCE.match(text, end).group().removeprefix("$").partition("$")[0])
    if (
        tail.strip()
        and len(tail) < _LONGEST_NUMBER
        and (re.match(r"\s*(?:\\pi|π|\\sqrt|√|\^)", tail) or _number(plain_notation(inner + tail)))
    ):
        inner += tail
    other = _last_box(text, start)
    if other and _BESIDE_A_BOX.fullmatch(text, other[2], start):
        inner = f"{other[1]}, {inner}"
    return inner


def _last_box(text: str, before: int) -> tuple[int, str, int] | None:
    """(start, content, end) of the last box, if it is closed and not empty."""
    start = max(text.rfind("\\boxed{", 0, before), text.rfind("\\fbox{", 0, before))
    if start < 0:
        return None
    begin, depth = text.index("{", start) + 1, 1
    for i in range(begin, before):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return (start, text[begin:i], i + 1) if text[begin:i].strip() else None
    return None
