"""Answers as they are written: found in a text, read as numbers with units, compared, voted on.

Everything is parsed, nothing is run as code, whatever a model may have written.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

# --- reading -----------------------------------------------------------------------------------------

_LONGEST_NUMBER = 60  # characters; nothing longer is meant as a number
_LARGEST_EXPONENT = 300
_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_TEN_TO = r"10\s*\^\s*\{?\s*([-+]?\d+)\s*\}?"
_FORMS = [re.compile(form) for form in (  # the longest reading comes first
    rf"(?P<whole>\d+)\s*\\frac\s*(?P<over>\d\d|\{{\s*\d+\s*\}}\s*\{{\s*\d+\s*\}})",  # 2\frac{1}{2}, 2\frac12
    rf"\\frac\s*(?P<over>\d\d|\{{\s*-?\s*{_DECIMAL}\s*\}}\s*\{{\s*{_DECIMAL}\s*\}})",
    r"(?P<whole>\d+)\s+(?P<over>\d+\s*/\s*\d+)(?![\d/])",  # 2 1/2
    rf"(?P<over>{_DECIMAL}\s*/\s*{_DECIMAL})(?![\d/])",
    rf"(?P<number>{_DECIMAL})(?:[eE](?P<exponent>[-+]?\d+)|\s*(?:\\times|\\cdot|x|\*)\s*10\s*\^\s*"
    r"\{?\s*(?P<power>[-+]?\d+)\s*\}?)?",
)]
_SIGN = re.compile(r"\s*([-+]?)\s*(?:[€£]\s*)?")
_WRITTEN = re.compile(rf"(?:(?<![\w.)])[-+])?\$?{_DECIMAL}(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?%?")
_MARK = re.compile(r"(?:answer is:?|answer:|####)\s*(.*)", re.IGNORECASE)

# name -> (what it measures, how many of the basic unit)
_UNITS = {name: (kind, Fraction(size)) for kind, units in {
    "length": "mm:1/1000 cm:1/100 m:1 meter:1 metre:1 km:1000", "mass": "mg:1/1000 g:1 gram:1 kg:1000",
    "time": "ms:1/1000 s:1 sec:1 second:1 min:60 minute:60 h:3600 hr:3600 hour:3600 day:86400",
    "volume": "ml:1/1000 l:1 liter:1 litre:1", "money": "cent:1/100 dollar:1", "energy": "J:1 kJ:1000",
}.items() for name, size in (unit.split(":") for unit in units.split())}
_CLEANED = [(re.compile(pattern), by) for pattern, by in (
    ("[−–]", "-"), ("[×]", r"\\times "), ("[\u00a0\u2009~]|\\\\[,;: ]", " "), (r"\\!|\\left|\\right", ""),
    (r"\{,\}", ","), (r"\\[dtc]frac", r"\\frac"), (r"\\?\$|\\[()\[\]]", ""), (r"\\%", "%"),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|°", " degrees "), (r"\\mu\b", "µ"),
    (r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}", r" \1 "), (r"\*\*", ""))]


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
    if value is None:
        return Answer(plain, None)
    percent = bool(re.match(r"\s*(%|percent\b)", rest))
    unit = re.sub(r"^\s*(%|percent\b)", "", rest).strip()
    if unit and not _is_unit(unit):
        return Answer(plain, None)
    return Answer(shown + "%" * percent, value, percent, unit)


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
    for form in _FORMS:
        found = form.match(text, sign.end())
        if found:
            value, shown = _value(found.groupdict())
            if value is None or len(found.group()) > _LONGEST_NUMBER:
                return None, "", text
            negative = sign.group(1) == "-"
            return (-value if negative else value), "-" * negative + shown, text[found.end():]
    return None, "", text


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


def _is_unit(text: str) -> bool:
    """Words of three letters or more, or known short ones: an unknown letter is rather a variable."""
    if not re.fullmatch(r"[A-Za-zµΩ][A-Za-zµΩ .'\-/^{}\d()·]*", text) or re.search(r"(?<![\^{\-\d])\d", text):
        return False
    return all(len(word) > 2 or _unit(word) or word in _SHORT for word in re.findall(r"[A-Za-zµΩ]+", text))


_SHORT = {"N", "K", "W", "V", "C", "A", "F", "T", "Pa", "Hz", "eV", "nm", "µm", "µC", "pC", "mA", "Ω", "lb",
          "ft", "in", "yd", "mi", "oz", "dB", "D", "AU", "yr", "of", "a", "an", "per", "mL", "L", "am", "pm"}


def _unit(name: str) -> tuple[str, Fraction] | None:
    """What a unit measures, and its size; None for one that is not in the table."""
    for known in (name, name.lower(), name.lower().removesuffix("s")):
        if known in _UNITS:
            return _UNITS[known]
    return None


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

    What follows ``</think>`` counts, where there is one. There the last \\boxed{} is taken (as for MATH, Hendrycks et
    al. 2021), else the first that is marked as the answer ("The answer is 12", "#### 12"), else the last number. A marked answer that is no number is taken if it begins as a formula does.
    """
    text = text.rsplit("</think>", 1)[-1]
    boxed = _boxed(text)
    if boxed is not None and boxed.strip():
        return _shown(boxed) or _cleaned(boxed)
    marked = _MARK.search(text)
    if marked and (found := _shown(marked.group(1))):
        return found
    if marked and (formula := re.match(r"\$([^$]+)\$|([\d(\[{\\-][^.;]*)", marked.group(1))):
        return _cleaned(formula.group())
    numbers = _WRITTEN.findall(text)
    return _shown(numbers[-1]) if numbers else None


def _shown(text: str) -> str | None:
    """The number at the beginning of a text, with its percent sign or well-known unit; None without one."""
    value, shown, rest = _leading_number(_cleaned(text))
    if value is None:
        return None
    if re.match(r"\s*[-+*/^\\=]|\(|\s*[a-zA-Z]\b", rest) and not _known_unit(rest):
        return None  # the beginning of a formula
    if re.match(r"\s*(%|percent\b)", rest):
        return shown + "%"
    return f"{shown} {unit}" if (unit := _known_unit(rest)) else shown


def _known_unit(rest: str) -> str:
    word = re.match(r"\s*([A-Za-z]+)(?![\w/^])", rest)
    return word.group(1) if word and _unit(word.group(1)) else ""


# --- comparing ---------------------------------------------------------------------------------------


def same_answer(given: str | None, expected: str | None, tolerance: float = 0.0, unit: str = "") -> bool:
    """Whether two answers say the same: "0.50" and "1/2" do, "5 km" and "5000 m", "50%" and "0.5" or "50".

    tolerance: relative, of the expected value. unit: that of the expected value where it stands apart, as in
    SciBench; with a power of ten in it ("10^{-4} m") the number may be given with the power or without. A unit
    that is missing or unknown on either side is not held against the answer. What is no number must be the same
    text, or the same expression to math-verify.
    """
    if given is None or expected is None:
        return False
    a, b = read_answer(given), read_answer(expected)
    if a.value is None or b.value is None:
        return _plain(a.text) == _plain(b.text) or _same_expression(a.text, b.text)
    scale, percent = _ratio(a.unit, b.unit or unit), b.percent or "%" in unit
    if scale is None:
        return False
    power = re.search(_TEN_TO, unit)
    allowed = [b.value, b.value * Fraction(10) ** int(power.group(1))] if power else [b.value]
    return any(_close(x, y, tolerance) for x in _readings(a.value * scale, a.percent and not percent)
               for value in allowed for y in _readings(value, percent and not a.percent))


def _readings(value: Fraction, percent: bool) -> tuple[Fraction, ...]:
    """50% stands for 50 or for 0.5 where the other side has no percent sign."""
    return (value, value / 100) if percent else (value,)


def _close(a: Fraction, b: Fraction, tolerance: float) -> bool:
    return abs(a - b) <= Fraction(max(tolerance, 1e-9)) * abs(b)


def _ratio(given: str, expected: str) -> Fraction | None:
    """By what to multiply a value to have it in the expected unit; None where the units are of different kinds."""
    a, b = _unit(_cleaned(given)), _unit(_cleaned(expected))
    if a is None or b is None:
        return Fraction(1)
    return a[1] / b[1] if a[0] == b[0] else None


def _plain(text: str) -> str:
    return re.sub(r"\s", "", text).lower()


# what math-verify may be asked: it has no bound of its own but a signal, which works in the main thread alone
_HARMLESS = re.compile(r"(?:\\(?:frac|sqrt|pi|cdot|times|infty|cup|pm)\b|\^(?:\d(?!\d)|\{-?\d\})|[^\\^!])+")
_LONGEST_EXPRESSION = 80


def _same_expression(a: str, b: str) -> bool:
    """Whether math-verify holds two formulas to be the same: "2\\sqrt{5}" and "\\sqrt{20}" are.

    Only short ones without towers of powers, factorials and integrals are asked about; such as 9^{9^9} would
    keep it busy for ever. It reads them with a grammar of LaTeX, not as Python.
    """
    if any(len(text) > _LONGEST_EXPRESSION or not _HARMLESS.fullmatch(text) for text in (a, b)):
        return False
    if not any(mark in a + b for mark in "\\^(x"):  # words are not formulas
        return False
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no time limit
    read = [parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)
            for text in (b, a)]
    return bool(read[0] and read[1]) and verify(read[0], read[1], timeout_seconds=None)


# --- sums --------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|[-+*x()]|//?)")
_LONGEST_SUM = 200


def arithmetic(text: str) -> Fraction | None:
    """The value of a sum of numbers with + - * x / and brackets; None where it is none, or divides by 0."""
    tokens, place = [], 0
    text = text.replace(",", "").strip()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if not found or len(text) > _LONGEST_SUM:
            return None
        tokens.append(found.group(1))
        place = found.end()
    try:
        value = _sum(tokens)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if tokens else value


def _sum(tokens: list[str]) -> Fraction:
    value = _product(tokens)
    while tokens and tokens[0] in "+-":
        value = value + _product(tokens) if tokens.pop(0) == "+" else value - _product(tokens)
    return value


def _product(tokens: list[str]) -> Fraction:
    value = _factor(tokens)
    while tokens and tokens[0] in ("*", "x", "/", "//"):
        value = value * _factor(tokens) if tokens.pop(0) in "*x" else value / _factor(tokens)
    return value


def _factor(tokens: list[str]) -> Fraction:
    token = tokens.pop(0)
    if token in "+-":
        return _factor(tokens) * (1 if token == "+" else -1)
    if token != "(":
        return Fraction(token)
    value = _sum(tokens)
    if tokens.pop(0) != ")":
        raise ValueError("a bracket is not closed")
    return value


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
