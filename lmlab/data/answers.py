"""Answers compared, graded and voted on.

They are parsed, never run as code, whatever a model may have written.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from lmlab.data.extraction import extract_answer
from lmlab.data.formulas import formula_value, same_formula
from lmlab.data.notation import plain_notation
from lmlab.data.numbers import Answer, read_answer, says_nothing
from lmlab.data.units import read_unit

_PRECISION = 1e-9  # relative
_POWER_OF_TEN = re.compile(r"10\s*\^\s*\{?\s*([-+]?\d{1,3})(?!\d)\s*\}?")
_CALCULATION = re.compile(r"(?!.*\*\s*\*)[\d.+\-*x/() ]{1,200}")


def answers_match(given: str | None, expected: str | None, tolerance: float = 0.0, unit: str = "") -> bool:
    """Whether two answers say the same: "0.50" and "1/2" do, "5 km" and "5000 m", "50%" and "0.5" or "50".

    What is no number must be the same text, or the same formula (``formulas.same_formula``). A unit that is
    missing or unknown on either side is not held against the answer. "3 hours 30 minutes", two units, is not
    read.

    Args:
        given: The answer to judge; None: there is none.
        expected: The gold answer.
        tolerance: Relative, of the expected value.
        unit: That of the expected value where it is given apart, as in SciBench; with a power of ten in it
            ("10^{-4} m") the number may be given with the power or without.
    """
    if given is None or expected is None:
        return False
    a, b = read_answer(given), read_answer(expected)
    if says_nothing(a.text) or says_nothing(b.text):
        return False
    scale = _scale(a, b, unit)
    # at least one is a formula or a text
    if a.value is None or b.value is None:
        return _same_text(a, b) or (scale is not None and _same_formula(a, b, scale, tolerance))
    if scale is None:
        return False
    wanted = [b.value]
    # as in SciBench, where a power of ten may stand in the number or in the unit
    if power := _POWER_OF_TEN.search(unit):
        wanted.append(b.value * Fraction(10) ** int(power.group(1)))
    # 50% may be meant as 50 or as 0.5 where the other side has no percent sign
    if a.percent != (b.percent or "%" in unit):
        factor = Fraction(100) if a.percent else Fraction(1, 100)
        wanted += [value * factor for value in wanted]
    allowed = Fraction(max(tolerance, _PRECISION))
    return any(abs(a.value * scale - value) <= allowed * abs(value) for value in wanted)


def _scale(given: Answer, expected: Answer, unit: str) -> Fraction | None:
    """By what to multiply a value to have it in the expected unit; None where the two differ in kind."""
    wanted = expected.unit or plain_notation(unit)
    if (given.attached and not wanted) or (expected.attached and not given.unit):
        return None  # 5m may be 5 times m
    a, b = (read_unit(_POWER_OF_TEN.sub("", text)) for text in (given.unit, wanted))
    # a unit that is missing or unknown is not held against the answer
    if a is None or b is None:
        return Fraction(1)
    return a.size / b.size if a.powers == b.powers else None


def _same_text(a: Answer, b: Answer) -> bool:
    return _squeezed(f"{a.text} {a.unit}") == _squeezed(f"{b.text} {b.unit}")


def _squeezed(text: str) -> str:
    """Without spaces, except between digits, where they separate two numbers; words in any case; "(B)" is
    "b".
    """
    text = re.sub(r"(?<!\d)\s|\s(?!\d)", "", text).strip("\"'")
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    text = re.sub(r"^\(?([A-Za-z])\)$", r"\1", text)
    return text if "\\" in text else text.casefold()


def _same_formula(a: Answer, b: Answer, scale: Fraction, tolerance: float) -> bool:
    if a.percent or b.percent:
        return False
    left, right = (answer.text if answer.value is None else f"({answer.value})" for answer in (a, b))
    return same_formula(left if scale == 1 else f"({scale})*({left})", right, tolerance)


def arithmetic(text: str) -> Fraction | None:
    """The value of a calculation with + - * x / and parentheses; None where it is none, or divides by 0."""
    text = text.replace(",", "").replace("//", "/").strip()
    if not _CALCULATION.fullmatch(text):
        return None
    try:
        return formula_value(text.replace("x", "*"))
    except (ValueError, ArithmeticError, RecursionError):
        return None


def grade_response(text: str, answer: str, tolerance: float = 0.0, unit: str = "") -> dict[str, bool]:
    """Whether a generated answer is in reasoning format, and whether it is correct.

    Args:
        text: What the model wrote, without special tokens; "<think>" may be at its beginning or in the
            prompt.
        answer: The gold answer; tolerance and unit as for ``answers_match``.
        tolerance: Relative.
        unit: Of the gold answer.

    Returns:
        format_valid: some reasoning, one "</think>", and after it an answer ("The answer is ..." or one in
        \\boxed{}). correct: ``extract_answer(text)`` matches ``answer``; it does not ask for the format, so
        that a model is not called wrong for not knowing it.
    """
    reasoning, close, after = text.strip().removeprefix("<think>").partition("</think>")
    marked = "answer is" in after.lower() or "\\boxed" in after
    tags_left = "think>" in reasoning + after
    format_valid = bool(close and reasoning.strip() and marked and extract_answer(after) and not tags_left)
    correct = answers_match(extract_answer(text), answer, tolerance, unit)
    return {"format_valid": format_valid, "correct": correct}


def majority_vote(answers: Sequence[str | None]) -> str | None:
    """The answer that most samples give, the earlier one of two with equal votes; None when none gives any.

    "1/2" and "0.5" are votes for one answer. Source: Wang et al. 2023, "Self-consistency".
    """
    given = [answer for answer in answers if answer is not None]
    # of several that are largest, max gives the first
    return max(given, key=lambda answer: sum(answers_match(other, answer) for other in given), default=None)
