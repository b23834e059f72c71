"""Answers as they are written: found in a text, read as numbers with units, compared, voted on.

Everything is parsed, nothing is run as code, whatever a model may have written.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lmlab.formulas import formula_value, same_formula
from lmlab.units import leading_unit, may_be_unit, read_unit

# --- reading -----------------------------------------------------------------------------------------

_LONGEST_NUMBER = 60  # characters; nothing longer is meant as a number
_LARGEST_EXPONENT = 300
_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_TEN_TO = re.compile(r"10\s*\^\s*\{?\s*([-+]?\d{1,3})(?!\d)\s*\}?")
_FORMS = [re.compile(form) for form in (  # the longest reading comes first
    rf"(?P<whole>\d+)\s*\\frac\s*(?P<over>\d\d|\{{\s*\d+\s*\}}\s*\{{\s*\d+\s*\}})",  # 2\frac{1}{2}, 2\frac12
    rf"\\frac\s*(?P<over>\d\d|\{{\s*-?\s*{_DECIMAL}\s*\}}\s*\{{\s*{_DECIMAL}\s*\}})",
    r"(?P<whole>\d+)\s+(?P<over>\d+\s*/\s*\d+)(?![\d/])",  # 2 1/2
    rf"(?P<over>{_DECIMAL}\s*/\s*{_DECIMAL})(?![\d/])",
    rf"(?P<number>{_DECIMAL})(?:[eE](?P<exponent>[-+]?\d+)|\s*(?:\\times|[·x*])\s*10\s*\^\s*"
    r"\{?\s*(?P<power>[-+]?\d+)\s*\}?)?",
)]
_SIGN = re.compile(r"\s*([-+]?)\s*([€£$]?)\s*")
_PERCENT = re.compile(r"\s*(%|percent\b)")
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion|dozen)s?\b", re.IGNORECASE)
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
           "dozen": 12}
_WRITTEN = re.compile(rf"(?:(?<![\w.)])[-+])?\$?{_DECIMAL}(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?%?")
_MARK = re.compile(r"(?:answer is:?|answer:|####)\s*(.*)", re.IGNORECASE)
_SENTENCE = re.compile(r"(?:[^.;]|[.;](?=\s*-?\d))*")
# behind a number, what makes it part of a formula or one of several answers: "3 + 4", "3 apples or 5", "3, 5"
_ANOTHER = (r"(?:\$?-?\d|half\b|a (?:half|third|quarter)\b|"
            r"(?:one|two|three|four|five|six|seven|eight|nine|ten)\b)")
_GOES_ON = re.compile(
    r"\(|\s*(?:[-+*/^\\=·_]|:?\d|(?!a [a-z]{2})[a-z]\b|\((?![a-z]{2,}[^)]*\)))|\s*(?:squared|cubed)\b|"
    rf"\s*(?:[a-z]+\s+){{0,3}}(?:(?:and|plus|minus|times|over|to|of)\s+{_ANOTHER}|or\b(?!\s+so\b))|"
    rf"\s*[a-z ]*[,;]\s*(?:and\s+{_ANOTHER}|or\b|\$?-?\d)", re.IGNORECASE)
_VARIABLE = re.compile(r"(?<![A-Za-z\\])(?!of\b)[A-Za-z]{1,2}(?![A-Za-z])")
_CLEANED = [(re.compile(pattern), by) for pattern, by in (
    ("[−–]", "-"), ("[×]", r"\\times "), ("[\u00a0\u2009~]|\\\\[,;: ]", " "), (r"\\!|\\left|\\right", ""),
    (r"\{,\}", ","), (r"\\[dtc]frac", r"\\frac"), (r"\\[()\[\]]", ""), (r"\\%", "%"),
    (r"(?<!\\)\$\$?((?:[^$\\]|\\.)*)\$\$?", r"\1"), (r"\\\$", "$"),  # what is left stands for dollars
    (r"\\cdot\b", "·"), (r"\\Omega\b|\u2126", "Ω"),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\{\\circ\}|°", " degrees "),
    (r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}", r" \1 "), (r"(?:\\mu\b|[µμ])\s*", "µ"),
    (r"(?<![\w)])\*\*|\*\*(?![\w(])", ""))]


@dataclass(frozen=True)
class Answer:
    """``text`` without ornaments; ``value`` is None where it is no number, and then the text decides."""

    text: str
    value: Fraction | None
    percent: bool = False
    unit: str = ""  # as written; what it measures is known for a few common ones


def read_answer(text: str) -> Answer:
    """What an answer says: integers, decimals, 1,200.50, 3/4, 2 1/2, \\frac{3}{4}, 1.5e-3, 1.5 \\times 10^{-3},
    15%, $12, 5 km, with a sign, and any of them in \\boxed{} or between dollar signs.

    What stands behind a number must be a unit: "2x" and "3 to 5" are no numbers, "5 apples" is one.
    """
    plain = _cleaned(text)
    value, shown, rest = _leading_number(plain)
    percent = _PERCENT.match(rest)
    unit = rest[percent.end():].strip() if percent else rest.strip()
    if value is None or (unit and not may_be_unit(unit)):
        return Answer(plain, None)
    if not unit and _SIGN.match(plain).group(2) == "$":
        unit = "$"
    return Answer(shown + "%" * bool(percent), value, bool(percent), unit)


def _cleaned(text: str) -> str:
    text = text.strip()
    boxed = _boxed(text)
    text = text if boxed is None else boxed
    for pattern, by in _CLEANED:
        text = pattern.sub(by, text)
    return " ".join(text.split()).rstrip(".").strip()


def _leading_number(text: str) -> tuple[Fraction | None, str, str]:
    """(value, the number as one writes it plainly, what follows it); value None where no number begins."""
    sign = _SIGN.match(text)
    found = next((found for form in _FORMS if (found := form.match(text, sign.end()))), None)
    if found is None or len(found.group()) > _LONGEST_NUMBER:
        return None, "", text
    value, shown = _value(found.groupdict())
    if value is None:
        return None, "", text
    rest, factor = text[found.end():], -1 if sign.group(1) == "-" else 1
    if scale := _SCALE.match(rest):
        name = scale.group(1).lower()
        factor, shown, rest = factor * _SCALES[name], f"{shown} {name}", rest[scale.end():]
    return value * factor, "-" * (factor < 0) + shown, rest


def _value(parts: dict[str, str | None]) -> tuple[Fraction | None, str]:
    if parts.get("over"):
        over = parts["over"] if len(parts["over"]) != 2 else "/".join(parts["over"])
        a, b = (part.strip(" {}").replace(",", "").replace(" ", "") for part in re.split(r"\}\s*\{|/", over))
        if Fraction(b) == 0:
            return None, ""
        value = Fraction(a) / Fraction(b) + int(parts.get("whole") or 0)
        return value, f"{a}/{b}" if not parts.get("whole") else str(value)
    exponent = parts["exponent"] or parts["power"]
    number = parts["number"].replace(",", "").rstrip(".")
    if exponent is None:
        return Fraction(number), number
    if len(exponent) > 4 or abs(int(exponent)) > _LARGEST_EXPONENT:
        return None, ""
    return Fraction(number) * Fraction(10) ** int(exponent), f"{number}e{int(exponent)}"


def _boxed(text: str) -> str | None:
    """What stands in the last \\boxed{...}, with as many brackets as it has; None without one."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin, depth = text.index("{", start) + 1, 1
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i]
    return None


def extract_answer(text: str) -> str | None:
    """The answer that a text gives, without thousands separators, dollar sign or plus; or None.

    What follows ``</think>`` counts, where there is one. There the last \\boxed{} is taken (as for MATH,
    Hendrycks et al. 2021), else the first that is marked as the answer ("The answer is 12", "#### 12"), else
    the last number. Of "3 + 4 = 7" it is the 7. A marked answer that is no number is taken if it begins as a
    formula does.
    """
    text = text.rsplit("</think>", 1)[-1].replace("−", "-").replace("–", "-")
    boxed = _boxed(text)
    if boxed is not None and boxed.strip():
        return _shown(boxed) or _result(boxed) or _cleaned(boxed)
    if marked := _MARK.search(text):
        said = _SENTENCE.match(marked.group(1)).group()
        if found := _shown(marked.group(1)) or _result(said):
            return found
        if formula := re.match(r"\$([^$]+)\$|[\d(\[{\\-].*", said):
            return _cleaned(formula.group())
    numbers = _WRITTEN.findall(text)
    return _shown(numbers[-1]) if numbers else None


def _shown(text: str) -> str | None:
    """The number at the beginning of a text, with its percent sign or known unit; None without one."""
    value, shown, rest = _leading_number(_cleaned(text))
    if value is None:
        return None
    percent = _PERCENT.match(rest)
    rest = rest[percent.end():] if percent else rest.removeprefix("$").rstrip(" $")
    unit = leading_unit(rest)
    if _GOES_ON.match(rest.replace(unit, "", 1)):
        return None
    return shown + "%" if percent else f"{shown} {unit}".strip()


def _result(text: str) -> str | None:
    """The 7 of "3 + 4 = 7" and of "x = 7", but not of "2x + y = 7" or "x = 3, y = 7"."""
    *before, right = _cleaned(text).split("=")
    if not before or re.search(r"[,;](?!\d{3})|\b(?:or|and)\b", "".join(before)):
        return None
    named = re.fullmatch(r"\s*[A-Za-z][\w\s{}]*(?:\([^()]*\))?\s*", before[-1])
    return _shown(right) if named or not _VARIABLE.search(before[-1]) else None


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
    if a.value is None or b.value is None:
        return _plain(a.text) == _plain(b.text) or same_formula(a.text, b.text, tolerance)
    scale, percent = _ratio(a.unit, b.unit or unit), b.percent or "%" in unit
    if scale is None:
        return False
    power = _TEN_TO.search(unit)
    allowed = [b.value, b.value * Fraction(10) ** int(power.group(1))] if power else [b.value]
    return any(_close(x, y, tolerance) for x in _readings(a.value * scale, a.percent and not percent)
               for value in allowed for y in _readings(value, percent and not a.percent))


def _readings(value: Fraction, percent: bool) -> tuple[Fraction, ...]:
    """50% stands for 50 or for 0.5 where the other side has no percent sign."""
    return (value, value / 100) if percent else (value,)


def _close(a: Fraction, b: Fraction, tolerance: float) -> bool:
    return abs(a - b) <= Fraction(max(tolerance, 1e-9)) * abs(b)


def _ratio(given: str, expected: str) -> Fraction | None:
    """By what to multiply a value to have it in the expected unit; None where the two differ in kind."""
    a, b = (read_unit(_TEN_TO.sub("", _cleaned(unit))) for unit in (given, expected))
    if a is None or b is None:
        return Fraction(1)
    return a.size / b.size if a.powers == b.powers else None


def _plain(text: str) -> str:
    """Without spaces, but for those between digits, where they part two numbers."""
    return re.sub(r"(?<!\d)\s|\s(?!\d)", "", text).lower()


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
    well_formed = bool(close and reasoning.strip() and marked and extract_answer(spoken)
                       and "think>" not in reasoning + spoken)
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
