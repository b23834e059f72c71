"""The same problem with other numbers: its solution and its answer computed anew, or no new problem at all."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from lmlab.data.answers import arithmetic
from lmlab.data.numbers import read_answer
from lmlab.data.reasoning import CALCULATION, reasoning_rows
from lmlab.miniworld import problems

_NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d])|(?<![\w.])\.\d+")
# numbers that are not read here, so that no other can take their place: 5½, 10³, 5'000, 12.000,00, 1 234
_UNREAD = re.compile(
    "[¹²³¼-¾⁰-ₜ⅐-⅟⁄√π±]|\\d['’\u00a0\u2009\u202f]\\d|"
    r"\.\d{3}[.,]\d|\b\d{1,3} \d{3}\b|"
    r"\d\s*[!^]|\d[eE][-+]?\d|\\[A-Za-z]"
)
_COMMON = 12  # a smaller number in two sums may mean another thing in the second: open 5 hours, 5 weekdays
_TRIES = 30  # draws, until one gives whole and positive results
# by the words of a question that can bring them in, numbers that a solution may use without being given them
_WORDS = {
    1: "one",
    2: "two|twice|double|half|pair|couple|both",
    3: "three|triple|third|thrice",
    4: "four|fourth|quarter",
    5: "five|fifth",
    6: "six|sixth",
    7: "seven|seventh|week",
    8: "eight|eighth",
    9: "nine|ninth",
    10: "ten|tenth|dime",
    11: "eleven",
    12: "twelve|dozen|year|foot|feet|month",
    15: "fifteen",
    20: "twenty",
    24: "day|hour",
    25: "quarter",
    30: "thirty",
    52: "week|year",
    60: "hour|minute",
    100: "percent|cent|meter|dollar",
    365: "year|day",
    Fraction(1, 2): "half",
}
_WORDS = {
    Fraction(value): re.compile(rf"\b(?:{words})s?\b" + "|%" * (value == 100), re.IGNORECASE)
    for value, words in _WORDS.items()
}
# years, parts, shares, times, ordinals: numbers that mean more than a count
_FIXED = re.compile(r"\d\s*(?:[%/:]|-\s*\d|st\b|nd\b|rd\b|th\b|\.\d|percent)|[/:]\s*\d|[ap]\.?m\b")


@dataclass(frozen=True)
class Worked:
    """A problem, its solution and the sums in it, in order, as (sum, result)."""

    question: str
    solution: str
    sums: tuple[tuple[str, str], ...]
    answer: Fraction


def redrawn(row: Mapping, rng: random.Random) -> dict | None:
    """A row of the same layout with other numbers, or None where it cannot be seen that this would be right.

    row: of ``rows.problem_row``: GSM8K, whose calculations are noted, or a miniworld problem, whose steps are sums.
    Every number of the
    solution must come from the question, from an earlier sum, or from a word ("twice", "week"), and it must be
    clear which: a number that stands for two things is not touched. The sums are then computed anew; a draw with
    a result that is negative, or broken where it was whole, is drawn again. What the numbers mean is not
    read, so now and then a new problem makes no sense, or its answer is wrong. Miniworld problems stay within their
    generator's own rules. Other layouts, such as MathCodeInstruct with its code, give None.
    """
    if "steps" in row and "messages" in row:
        sums = tuple(tuple(step.rstrip(".").split(" = ")) for step in row["steps"])
        worked = Worked(row["problem"], " ".join(row["steps"]), sums, Fraction(row["answer"]))
        allowed = _in_village
    elif "question" in row and "####" in row.get("answer", ""):
        solution, _, answer = row["answer"].partition("####")
        if not _NUMBER.fullmatch(answer.strip()) or _UNREAD.search(row["question"] + solution):
            return None
        sums = tuple(CALCULATION.findall(solution))
        worked, allowed = Worked(row["question"], solution, sums, _value(answer.strip())), None
    else:
        return None
    new = _mapping(worked, rng, allowed)
    if new is None:
        return None
    question, solution = (_rewritten(text, new) for text in (worked.question, worked.solution))
    answer = _written(new[worked.answer])
    if "question" in row:
        return {**row, "question": question, "answer": f"{solution}#### {answer}"}
    return _village_row(question, solution, answer)


def augment_problems(train: Sequence[Mapping], copies: int, seed: int = 0) -> list[dict]:
    """``copies`` redrawn versions of each problem (of ``reasoning.reasoning_rows``), checked as the originals were.

    Says of how many it was possible. A version may by chance be a test problem: whoever trains leaves these out.
    """
    if copies == 0:
        return []
    rng = random.Random(seed)
    rows = [new for problem in train for _ in range(copies) if (new := redrawn(problem["row"], rng))]
    print(f"redrew the numbers of {len(rows)} of {copies * len(train)} problems")
    return reasoning_rows(rows, "the redrawn problems", 0.0)


def _village_row(question: str, solution: str, answer: str) -> dict | None:
    steps = [f"{step}." for step in solution.rstrip(".").split(". ")]
    said = [{"type": "text", "content": text} for text in (" ".join(steps), f"The answer is {answer}.")]
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "content": question}]},
            {"role": "assistant", "content": said},
        ],
        "problem": question,
        "steps": steps,
        "answer": answer,
    }
    return row if problems.verify(row) else None


def _in_village(calculation: str) -> bool:
    a, sign, b = calculation.split()
    return problems.allowed(int(a), sign, int(b))


def _mapping(worked: Worked, rng: random.Random, allowed) -> dict[Fraction, Fraction] | None:
    """old value -> new value, of every number in problem and solution; None where nothing can change."""
    given = [_value(text) for text in _NUMBER.findall(worked.question)]
    said = [read_answer(result) for _, result in worked.sums]
    results = [None if result.percent or result.unit else result.value for result in said]
    if None in results or not _all_known(worked, given, results):
        return None
    changeable = _changeable(worked, given, results)
    if not changeable:
        return None
    for _ in range(_TRIES):
        new = {value: value for value in (*given, *results, *_WORDS)} | {
            value: _near(value, rng) for value in changeable
        }
        sound = _compute(worked, results, new, allowed)
        if sound and worked.answer in new and any(new[value] != value for value in results):
            return new
    return None


def _changeable(worked: Worked, given: Sequence[Fraction], results: Sequence[Fraction]) -> list[Fraction]:
    """Counts in the question that stand for one thing alone and go into a sum."""
    times = Counter([*given, *results])
    fixed = {
        _value(text)
        for found in _FIXED.finditer(worked.question)
        for text in re.findall(r"\d+", found.group())
    }
    around = {
        _value(found.group())
        for found in _NUMBER.finditer(worked.question)
        if _FIXED.search(worked.question[max(0, found.start() - 2) : found.end() + 4])
    }
    uses = Counter(_value(text) for calculation, _ in worked.sums for text in _NUMBER.findall(calculation))
    said = worked.question + worked.solution  # "3 boys ... all three": the word would stay
    return [
        value
        for value in given
        if times[value] == 1
        and value not in fixed | around
        and 1 <= uses[value] <= (1 if value <= _COMMON else 99)
        and value.denominator == 1
        and 2 <= value < 1900
        and not _named(value, said)
    ]


def _named(value: Fraction, question: str) -> bool:
    return value in _WORDS and _WORDS[value].search(question) is not None


def _all_known(worked: Worked, given: Sequence[Fraction], results: Sequence[Fraction]) -> bool:
    """Whether each number of the solution is given, or a result that is there already, or named by a word."""
    known, numbers = set(given), Counter([*given, *results])
    for (calculation, _), result in zip(worked.sums, results, strict=True):
        for value in map(_value, _NUMBER.findall(calculation)):
            if value not in known and not _named(value, worked.question):
                return False
        known.add(result)
    if any(numbers[value] > 1 or _named(value, worked.question) for value in results):
        return False  # a result that equals another number: which is meant?
    said = {_value(text) for text in _NUMBER.findall(CALCULATION.sub("", worked.solution))}
    return all(value in known or _named(value, worked.question) for value in said)


def _near(value: Fraction, rng: random.Random) -> Fraction:
    """A whole number from half to one and a half of ``value``, at least 2."""
    low, high = max(2, int(value) // 2), max(3, int(value) * 3 // 2)
    return Fraction(low + int(rng.random() * (high - low + 1)))


def _compute(worked: Worked, results: Sequence[Fraction], new: dict[Fraction, Fraction], allowed) -> bool:
    """Computes the sums anew into ``new``; whether each result is sound, and no two numbers have become one."""
    for (calculation, _), old in zip(worked.sums, results, strict=True):
        fresh = _rewritten(calculation, new)
        if allowed is not None and not allowed(fresh):
            return False
        value = arithmetic(fresh)
        if value is None or value <= 0 < old:
            return False
        if value.denominator > 1 and (old.denominator == 1 or 100 % value.denominator):
            return False  # broken where it was whole, or more than two decimals
        new[old] = value
    changed = {old: value for old, value in new.items() if value != old}
    return len(set(changed.values())) == len(changed)


def _rewritten(text: str, new: Mapping[Fraction, Fraction]) -> str:
    return _NUMBER.sub(lambda found: _as(found.group(), new.get(_value(found.group()))), text)


def _as(old: str, value: Fraction | None) -> str:
    """A new value written as the old one was; the old one where it has not changed."""
    if value is None or value == _value(old):
        return old
    return f"{int(value):,}" if "," in old and value.denominator == 1 else _written(value)


def _written(value: Fraction) -> str:
    return str(int(value)) if value.denominator == 1 else f"{float(value):.2f}"


def _value(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))
