"""Answers as they are written: found in a text, read as numbers with units, compared, voted on.

Everything of an answer must be understood, else it is no number and is compared as text. It is parsed and never
run as code, whatever a model may have written.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lmlab.formulas import LONGEST as _LONGEST_FORMULA
from lmlab.formulas import formula_value, is_formula, same_formula
from lmlab.notation import plain_notation
from lmlab.rows import is_nothing
from lmlab.units import DOUBT, MONTHS, Unit, leading_unit, may_be_unit, read_unit

# --- reading -----------------------------------------------------------------------------------------

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
    return is_nothing(plain) or plain.lower() == "unknown" or not re.search(r"\w|\\[A-Za-z{]|∅", plain)


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


# --- finding -----------------------------------------------------------------------------------------

_MARK = re.compile(r"(?:answer is:?|answer:|####)", re.IGNORECASE)
_SENTENCE = re.compile(r"(?:[^.;\n]|\.(?![\s*\"]|$)|(?<=\\);|;(?=\s*[-$]?\d))*")
_BESIDE_A_BOX = re.compile(r"[\s$]*(?:,|(?:,\s*)?(?:or|and|\\text\s*\{\s*(?:or|and)\s*\}))[\s$]*")
_REASON = re.compile(r"[,;]?\s+(?:because|since)\b(?P<aside>.*)$", re.IGNORECASE)
_ASIDE = re.compile(
    r"(?:,\s*|\s+)(?:and|so|which|as|that|where|when|by|for|in|thus|hence|therefore|I|we|it)"
    r"\b(?P<aside>[^\d$]*)$|\s*\((?P<bracket>[A-Za-z -]+)\)$|(?<=\$)\s(?P<words>[a-z ]+)$"
)
_WRITTEN = re.compile(rf"(?:(?<![\w.)])[-+])?{_CURRENCY}?(?<![\w.]){_DECIMAL}(?:[eE][-+]?\d+)?")
# what may stand before the last number of a sentence, so that it is the answer: a word, but none of these
_LED = re.compile(r"(?:^|(?<![\\A-Za-z])[A-Za-z]{2,}[:,]?\s+|[=≈]\s*)$")
_MISLED = re.compile(
    r"\b(?:and|plus|minus|times|over|to|mod|modulo|base|from|of|root|by|under|above|below|"
    r"within|per|every|up|squared|twice|double|half|neg|choose|option|step|case|part|page|day|"
    rf"{MONTHS})\W*$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:not|never|no|neither|either|between|cannot|or|than|least|most|unless|if|"
    r"maybe|perhaps|possibly)\b|n't\b",
    re.IGNORECASE,
)
_TRIED = 4  # numbers of a sentence, from its end
_VARIABLE = re.compile(r"(?<![A-Za-z\\])(?!of\b)[A-Za-z]{1,2}(?![A-Za-z])")
_WORDS_OF_A_TEXT = 4  # at most, of an answer in words that stands in no box


def extract_answer(text: str) -> str | None:
    """The answer that a text gives, without thousands separators or plus; or None.

    What follows ``</think>`` counts, where there is one. There the last \\boxed{} is taken (as for MATH,
    Hendrycks et al. 2021), else the first that is marked as the answer ("The answer is 12", "#### 12"), else
    the last number, if its sentence leaves no doubt about it ("not 12", "11 or 12"). Of "3 + 4 = 7" it is the 7.
    An answer that is no number is taken whole. What has been extracted is extracted from itself again.
    """
    text = text.rsplit("</think>", 1)[-1]
    boxed = _unboxed(text)
    if boxed is not text:
        return _stated(boxed)
    for mark in _MARK.finditer(text):
        said = _sentence(text[mark.end() :])
        if "?" not in said and (said or mark.end() < len(text)):
            return _spoken(said)
    whole = _stated(text) if len(text) <= _LONGEST_FORMULA else None
    if whole is not None and _is_read(whole):
        return whole
    with_numbers = [said for said in _sentences(text) if re.search(r"\d", said)]
    return _last_number(with_numbers[-1]) if with_numbers else None


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


def _stated(text: str) -> str | None:
    """An answer as it is written plainly, where nothing else stands around it."""
    answer = read_answer(text)
    if answer.value is None and len(text) <= _LONGEST_ANSWER and (result := _result(_cleaned(text))):
        return result
    return None if says_nothing(answer.text) else answer.written


def _is_read(answer: str) -> bool:
    """Whether it is a number, or a formula and no sentence: "it is -5" is not i * t * i * s - 5."""
    read = read_answer(answer)
    return read.value is not None or (
        is_formula(read.text) and not re.search(r"(?<![\\{A-Za-z])[A-Za-z]{2}", read.text)
    )


def _sentence(text: str) -> str:
    """The first sentence that says something, without what surrounds it."""
    for line in text.splitlines():
        if said := _SENTENCE.match(line.strip(" :")).group().strip():
            if said.count("}") > said.count("{"):  # of \\text{The answer is 5}
                said = said.rstrip("}")
            if re.sub(r"\\[\[(]|\$", "", said).strip():
                return said
    return ""


def _sentences(text: str) -> list[str]:
    return [said for line in text.splitlines() for said in re.split(r"(?<=[.!?;])\s+", line)]


def _spoken(said: str) -> str | None:
    """The answer in a sentence that should give it."""
    if len(said) > _LONGEST_ANSWER:
        return None
    for part in (said, _without_aside(said)):
        answer = _stated(part)
        if answer is None:
            return None
        if _is_read(answer):
            return answer
    if number := _last_number(said):
        return number
    return answer if len(answer.split()) <= _WORDS_OF_A_TEXT else None


def _without_aside(said: str) -> str:
    """ "7" of "7, and we are done", of "7 because 3 and 4 make 7" and of "7 (seven)"."""
    for pattern in (_REASON, _ASIDE):
        aside = pattern.search(said)
        if aside and not DOUBT.search(aside.groupdict().get("aside") or ""):
            said = said[: aside.start()]
    return said


def _last_number(said: str) -> str | None:
    """The last number of a sentence, with its unit, if it is led to by words that leave no doubt."""
    plain = plain_notation(said[-_LONGEST_ANSWER:])
    if result := _result(plain):
        return result
    # of 1.5 \\times 10^3 the last digit is no beginning, so go back
    for number in list(_WRITTEN.finditer(plain))[: -_TRIED - 1 : -1]:
        before, answer = plain[: number.start()], plain[number.start() :]
        if _LED.search(before) and not _MISLED.search(before) and not _DENIED.search(before):
            for part in (answer, _without_aside(answer)):
                if _is_read(part):
                    return read_answer(part).written
    return None


def _result(plain: str) -> str | None:
    """The 7 of "3 + 4 = 7" and of "the sum = 7", but not of "2x + y = 7" or "x = 3, y = 7"."""
    *before, right = plain.split("=")
    if not before or re.search(r"[,;](?!\d{3})|\b(?:or|and)\b", "".join(before)):
        return None
    named = re.fullmatch(r"\s*[A-Za-z][\w\s{}]*(?:\([^()]*\))?\s*", before[-1])
    if not named and _VARIABLE.search(before[-1]):
        return None
    found = _number(right)
    return found.written if found else None


# --- comparing ---------------------------------------------------------------------------------------


def same_answer(given: str | None, expected: str | None, tolerance: float = 0.0, unit: str = "") -> bool:
    """Whether two answers say the same: "0.50" and "1/2" do, "5 km" and "5000 m", "50%" and "0.5" or "50".

    tolerance: relative, of the expected value. unit: that of the expected value where it stands apart, as in
    SciBench; with a power of ten in it ("10^{-4} m") the number may be given with the power or without. A unit
    that is missing or unknown on either side is not held against the answer. What is no number must be the same
    text, or the same formula (``formulas.same_formula``). "3 hours 30 minutes", two units, is not read.
    """
    if given is None or expected is None:
        return False
    a, b = read_answer(given), read_answer(expected)
    if says_nothing(a.text) or says_nothing(b.text):
        return False
    scale = _ratio(a, b, unit)
    if a.value is None or b.value is None:
        return _same_text(a, b) or (scale is not None and _same_formula(a, b, scale, tolerance))
    if scale is None:
        return False
    percent, power = b.percent or "%" in unit, _TEN_TO.search(unit)
    allowed = [b.value, b.value * Fraction(10) ** int(power.group(1))] if power else [b.value]
    return any(
        _close(x, y, tolerance)
        for x in _readings(a.value * scale, a.percent and not percent)
        for value in allowed
        for y in _readings(value, percent and not a.percent)
    )


def _readings(value: Fraction, percent: bool) -> tuple[Fraction, ...]:
    """50% stands for 50 or for 0.5 where the other side has no percent sign."""
    return (value, value / 100) if percent else (value,)


def _close(a: Fraction, b: Fraction, tolerance: float) -> bool:
    return abs(a - b) <= Fraction(max(tolerance, 1e-9)) * abs(b)


def _ratio(given: Answer, expected: Answer, unit: str) -> Fraction | None:
    """By what to multiply a value to have it in the expected unit; None where the two differ in kind."""
    wanted = expected.unit or plain_notation(unit)
    if (given.attached and not wanted) or (expected.attached and not given.unit):
        return None  # 5m may be 5 times m
    a, b = (read_unit(_TEN_TO.sub("", text)) for text in (given.unit, wanted))
    if a is None or b is None:
        return Fraction(1)
    if a.powers != b.powers:
        return Fraction(1) if _same_degrees(a, b) else None
    return a.size / b.size


def _same_degrees(a: Unit, b: Unit) -> bool:
    """Degrees, of an angle or of temperature, may stand for degrees Celsius."""
    kinds = {name for name, _ in a.powers ^ b.powers}
    return kinds in ({"Celsius"}, {"Fahrenheit"}) and _DEGREE in (a.powers, b.powers)


def _same_text(a: Answer, b: Answer) -> bool:
    return _plain(f"{a.text} {a.unit}") == _plain(f"{b.text} {b.unit}")


def _same_formula(a: Answer, b: Answer, scale: Fraction, tolerance: float) -> bool:
    left, right = (answer.text if answer.value is None else f"({answer.value})" for answer in (a, b))
    if a.percent or b.percent:
        return False
    return same_formula(left if scale == 1 else f"({scale})*({left})", right, tolerance)


def _plain(text: str) -> str:
    """Without spaces, but for those between digits, where they part two numbers; words in any case."""
    text = re.sub(r"(?<!\d)\s|\s(?!\d)", "", text).strip("\"'")
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    choice = re.fullmatch(r"\(([A-Za-z])\)|([A-Za-z])\)", text)
    text = choice[1] or choice[2] if choice else text
    return text if "\\" in text else text.casefold()


# --- sums --------------------------------------------------------------------------------------------

_SUM = re.compile(r"(?!.*\*\s*\*)[\d.+\-*x/() ]{1,200}")


def arithmetic(text: str) -> Fraction | None:
    """The value of a sum of numbers with + - * x / and brackets; None where it is none, or divides by 0."""
    text = text.replace(",", "").replace("//", "/").strip()
    try:
        return formula_value(text.replace("x", "*")) if _SUM.fullmatch(text) else None
    except (ValueError, ArithmeticError, RecursionError):
        return None


# --- what a model wrote ------------------------------------------------------------------------------


def score_think(text: str, answer: str, tolerance: float = 0.0, unit: str = "") -> dict[str, bool]:
    """Whether a generated answer is in think form, and whether it is right.

    text: what the model wrote, without special tokens; "<think>" may stand at its beginning or in the prompt.
    well_formed: some reasoning, one "</think>", and after it an answer ("The answer is ..." or one in
    \\boxed{}). correct: ``extract_answer(text)`` is ``answer`` (see ``same_answer`` for tolerance and unit); it
    does not ask for the form, so that a model is not called wrong for not knowing it.
    """
    reasoning, close, spoken = text.strip().removeprefix("<think>").partition("</think>")
    marked = "answer is" in spoken.lower() or "\\boxed" in spoken
    well_formed = bool(
        close
        and reasoning.strip()
        and marked
        and extract_answer(spoken)
        and "think>" not in reasoning + spoken
    )
    return {"well_formed": well_formed, "correct": same_answer(extract_answer(text), answer, tolerance, unit)}


def majority_vote(answers: Sequence[str | None]) -> str | None:
    """The answer that most samples give, the earlier one of two with equal votes; None when none gives any.

    "1/2" and "0.5" are votes for one answer. Source: Wang et al. 2023, "Self-consistency".
    """
    votes: list[list[str]] = []
    for answer in answers:
        if answer is not None:
            camp = next((camp for camp in votes if same_answer(answer, camp[0])), None)
            votes.append([answer]) if camp is None else camp.append(answer)
    return max(votes, key=len)[0] if votes else None
