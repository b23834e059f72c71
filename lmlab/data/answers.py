"""Answers as they are written: found in a text, read as numbers with units, compared, voted on.

Everything of an answer must be understood, else it is no number and is compared as text. It is parsed and never
run as code, whatever a model may have written.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from lmlab.data.formulas import LONGEST as _LONGEST_FORMULA
from lmlab.data.formulas import formula_value, is_formula, same_formula
from lmlab.data.notation import plain_notation
from lmlab.data.numbers import (
    _CURRENCY,
    _DECIMAL,
    _DEGREE,
    _LONGEST_ANSWER,
    _SENTENCE,
    _TEN_TO,
    Answer,
    _cleaned,
    _number,
    _plain,
    _unboxed,
    read_answer,
    says_nothing,
)
from lmlab.data.units import DOUBT, MONTHS, Unit, read_unit

_MARK = re.compile(r"(?:answer is:?|answer:|####)", re.IGNORECASE)
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


def answers_match(given: str | None, expected: str | None, tolerance: float = 0.0, unit: str = "") -> bool:
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


_SUM = re.compile(r"(?!.*\*\s*\*)[\d.+\-*x/() ]{1,200}")


def arithmetic(text: str) -> Fraction | None:
    """The value of a sum of numbers with + - * x / and brackets; None where it is none, or divides by 0."""
    text = text.replace(",", "").replace("//", "/").strip()
    try:
        return formula_value(text.replace("x", "*")) if _SUM.fullmatch(text) else None
    except (ValueError, ArithmeticError, RecursionError):
        return None


def grade_response(text: str, answer: str, tolerance: float = 0.0, unit: str = "") -> dict[str, bool]:
    """Whether a generated answer is in think form, and whether it is right.

    text: what the model wrote, without special tokens; "<think>" may stand at its beginning or in the prompt.
    format_valid: some reasoning, one "</think>", and after it an answer ("The answer is ..." or one in
    \\boxed{}). correct: ``extract_answer(text)`` is ``answer`` (see ``answers_match`` for tolerance and unit); it
    does not ask for the form, so that a model is not called wrong for not knowing it.
    """
    reasoning, close, spoken = text.strip().removeprefix("<think>").partition("</think>")
    marked = "answer is" in spoken.lower() or "\\boxed" in spoken
    format_valid = bool(
        close
        and reasoning.strip()
        and marked
        and extract_answer(spoken)
        and "think>" not in reasoning + spoken
    )
    return {
        "format_valid": format_valid,
        "correct": answers_match(extract_answer(text), answer, tolerance, unit),
    }


def majority_vote(answers: Sequence[str | None]) -> str | None:
    """The answer that most samples give, the earlier one of two with equal votes; None when none gives any.

    "1/2" and "0.5" are votes for one answer. Source: Wang et al. 2023, "Self-consistency".
    """
    votes: list[list[str]] = []
    for answer in answers:
        if answer is not None:
            camp = next((camp for camp in votes if answers_match(answer, camp[0])), None)
            votes.append([answer]) if camp is None else camp.append(answer)
    return max(votes, key=len)[0] if votes else None
