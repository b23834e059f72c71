"""Answers read as numbers with units: integers, decimals, fractions, powers, percentages, LaTeX."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from lmlab.data.formulas import MAX_CHARACTERS as MAX_FORMULA
from lmlab.data.formulas import formula_value, is_formula
from lmlab.data.notation import TABLES, plain_notation
from lmlab.data.rows import is_missing
from lmlab.data.units import leading_unit, may_be_unit, read_unit

MAX_ANSWER = 1000  # characters; nothing longer is read at all
_MAX_NUMBER = 60  # nothing longer is meant as a number
CURRENCY = "[$€£¥₹]"
DECIMAL = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_SPACED = r"[1-9]\d{0,2}(?:[ ']\d{3})+(?:\.\d+)?"  # 1 234 or 5'000
_FORMS = [  # the longest reading comes first
    rf"(?:\d+\s*)?\\frac\s*\{{\s*-?{DECIMAL}\s*\}}\s*\{{\s*{DECIMAL}\s*\}}",
    rf"(?:\d+\s+)?{DECIMAL}\s*/\s*{DECIMAL}",  # 2 1/2
    rf"(?:{DECIMAL}\s*(?:\\times|[·x*])\s*)?10\s*(?:\^|\*\*)\s*(?:-?\d+|\{{\s*-?\d+\s*\}})",
    rf"{DECIMAL}[eE][-+]?\d+",
    r"\d*\.\d*\\overline\s*\{\d+\}",  # 0.\overline{3}
    rf"{_SPACED}|{DECIMAL}",
]
_NUMBER = re.compile("|".join(_FORMS))
_SIGN = re.compile(rf"\s*(?:≈\s*)?([-+]?)\s*({CURRENCY}?)\s*([-+]?)\s*")
_PERCENT = re.compile(r"\s*(%|percent\b|per cent\b)")
_SCALE = re.compile(rf"\s*({'|'.join(TABLES['scales'])})s?\b", re.IGNORECASE)
# what may stand before an answer and adds nothing to it
_LEAD = re.compile(
    r"^(?:(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?answer(?: is:?|:)\s*)?"
    r"(?:(?:about|approximately|approx\.?|roughly|around|exactly|only|just)\s+(?=[-+$\d.]))?",
    re.IGNORECASE,
)
_MINUS = re.compile(r"^(?:minus|negative)\s+(?=[$\d.])", re.IGNORECASE)
_VARIABLE = re.compile(  # x = 5
    r"^(?:[A-Za-z]|\\[a-z]+)(?:_(?:\w|\{\s*\w+\s*\}))?(?:\([A-Za-z]\))?\s*[=≈]\s*(?=[-+$€£\d.\\])"
)


@dataclass(frozen=True)
class Answer:
    """An answer as it was read."""

    text: str  # without decoration
    value: Fraction | None  # None where it is no number; then the text decides
    percent: bool = False
    unit: str = ""  # as written; what it measures is known for the common ones
    attached: bool = False  # "5m": the unit may be a variable

    @property
    def written(self) -> str:
        """As one writes it: with its percent sign or known unit. Read again, it is the same answer."""
        unit = re.sub(rf"^{CURRENCY}", "", leading_unit(self.unit)).strip()
        return f"{self.text}{unit}" if self.attached else f"{self.text} {unit}".strip()


@lru_cache(maxsize=4096)  # votes and rewards ask for the same few answers again and again
def read_answer(text: str) -> Answer:
    """What an answer says: integers, decimals, 1,200.50, 3/4, 2 1/2, \\frac{3}{4}, 1.5e-3, 1.5 \\times
    10^{-3}, 15%, $12, 5 million, 5 km, with a sign, and any of them in \\boxed{} or between dollar
    signs.

    All of the text must be understood: "2x", "5π", "≤5", "not 5" and "3 to 5" are no numbers, "5 apples" is
    one. Separators between digits are read as in American English: "1,234" and "1 234" are 1234, "1.234" is
    1.234; "12,34" and "12.000,00" are no numbers.
    """
    if len(text) > MAX_ANSWER:
        return Answer(text, None)
    plain = without_lead(text)
    return read_number(_VARIABLE.sub("", plain)) or _formula_with_unit(plain)


def parse_gold(text: str) -> str | None:
    """The answer that a data set gives, as one writes it: a number, a formula, or a text ("Tuesday").

    Returns:
        None where it is none of these: empty, "nan", "N/A", "None", "-", "?".
    """
    answer = read_answer(text)
    return None if says_nothing(answer.text) else answer.written


def says_nothing(text: str) -> bool:
    """Whether a text is no answer at all: without a letter or digit, or what stands for a missing value."""
    plain = text.strip()
    return is_missing(plain) or plain.lower() == "unknown" or not re.search(r"\w|\\[A-Za-z{]|∅", plain)


def without_lead(text: str) -> str:
    """The answer in plain notation, out of its box, without "The answer is" and "about"."""
    text = re.sub(r"\\(?:boxed|fbox)\{\s*\}", "", text).strip()
    return _MINUS.sub("-", _LEAD.sub("", plain_notation(unboxed(text)), count=1))


# --- numbers -----------------------------------------------------------------------------------------


def read_number(plain: str) -> Answer | None:
    """A number with all that stands behind it; None where something is not understood."""
    sign = _SIGN.match(plain)
    found = _NUMBER.match(plain, sign.end())
    # also no two signs, as in -$-5
    if found is None or len(found.group()) > _MAX_NUMBER or (sign.group(1) and sign.group(3)):
        return None
    shown = _shown(found.group())
    value = _value(shown)
    if value is None:
        return None
    currency, rest = sign.group(2), plain[found.end() :]
    if scale := _SCALE.match(rest):
        name = scale.group(1).lower()
        value, shown = value * TABLES["scales"][name], f"{shown} {name}"
        rest = rest[scale.end() :]
    percent = _PERCENT.match(rest)
    unit = _unit(rest[percent.end() :] if percent else rest, currency)
    if unit is None:
        return None
    minus = "-" if "-" in sign.group() else ""
    return Answer(
        text=f"{minus}{currency}{shown}{'%' if percent else ''}",
        value=-value if minus else value,
        percent=percent is not None,
        unit=unit,
        # a letter right behind the digits, perhaps with a power: 5m, 5m^2
        attached=re.fullmatch(r"[A-Za-z](?:\^.*)?", rest) is not None,
    )


def _shown(number: str) -> str:
    """3/4 of \\frac{3}{4}, 2 1/2 of 2\\frac{1}{2}, 1234 of 1,234 and of 1 234."""
    text = re.sub(r"\s*\\frac\s*\{\s*(.*?)\s*\}\s*\{\s*(.*?)\s*\}", r" \1/\2", number).strip()
    text = re.sub(r"\s*/\s*", "/", re.sub("[,']", "", text))
    if re.fullmatch(r"[\d. ]+", text):
        text = text.replace(" ", "")
    return text.rstrip(".")


def _value(shown: str) -> Fraction | None:
    """Exactly; None without a value, as of 1/0, or with a huge one."""
    if "/" in shown and " " in shown:
        whole, above, below = re.split("[ /]", shown)
        # 1 234/5: is this 1234/5?
        proper = above.isdecimal() and below.isdecimal() and int(above) < int(below)
        return int(whole) + Fraction(int(above), int(below)) if proper else None
    if repeating := re.fullmatch(r"(\d*\.(\d*))\\overline\s*\{(\d+)\}", shown):
        fixed, decimals, digits = repeating.groups()
        # 0.1\overline{6} is 0.1 + 6/90
        return Fraction(f"0{fixed}0") + Fraction(int(digits), 10 ** len(decimals) * (10 ** len(digits) - 1))
    formula = re.sub(r"[eE]\+?(-?\d+)$", r"*10^{\1}", shown).replace("**", "^")
    try:
        value = formula_value(re.sub(r"\\times|[·x]", "*", formula))
    except (ValueError, ArithmeticError):
        return None
    return value if isinstance(value, Fraction) else None


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
    # "$5 per day" and "$5 dollars" are money
    known = read_unit(leading_unit(unit))
    return currency if known is None or known == read_unit(currency) else None  # no $5 km


def _formula_with_unit(plain: str) -> Answer:
    if len(plain) > MAX_FORMULA:
        return Answer(plain, None)
    # try each space behind which words begin: 2\sqrt{5} cm
    for space in re.finditer(r"(?<=[\d})\]i!])\s+(?=[A-Za-zµΩ]{2}|\\frac\{\s*[A-Za-z]{2})", plain):
        formula, unit = plain[: space.start()], plain[space.end() :]
        if may_be_unit(unit) and is_formula(formula):
            return Answer(formula, None, unit=unit)
    return Answer(plain, None)


# --- boxes -------------------------------------------------------------------------------------------

SENTENCE = re.compile(r"(?:[^.;\n]|\.(?![\s*\"]|$)|(?<=\\);|;(?=\s*[-$]?\d))*")
_BESIDE_A_BOX = re.compile(r"[\s$]*(?:,|(?:,\s*)?(?:or|and|\\text\s*\{\s*(?:or|and)\s*\}))[\s$]*")


def unboxed(text: str) -> str:
    """What stands in the last \\boxed{...}, with what belongs to it; the text itself without a box.

    "\\boxed{5} million" is 5 million, "\\boxed{3} or \\boxed{5}" is 3, 5.
    """
    box = _last_box(text, len(text))
    if box is None:
        return text
    start, inner, end = box
    # what follows the box, up to the end of the formula or the sentence
    tail = SENTENCE.match(text, end).group().removeprefix("$").partition("$")[0]
    tail = re.sub(r"\\[\])].*", "", tail)
    if tail.strip() and len(tail) < _MAX_NUMBER:
        of_formula = re.match(r"\s*(?:\\pi|π|\\sqrt|√|\^)", tail)
        if of_formula or read_number(plain_notation(inner + tail)):
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
