"""The same problem with other numbers: its solution and answer computed anew, or no new problem at all."""

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from lmlab.data.answers import arithmetic
from lmlab.data.notation import TABLES
from lmlab.data.numbers import read_answer
from lmlab.data.reasoning import CALCULATION, reasoning_rows
from lmlab.miniworld import calculations

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d])|(?<![\w.])\.\d+")
# numbers that are not read here, so that no other can take their place: 5½, 10³, 5'000, 12.000,00, 1 234
_NOT_READ = re.compile(
    "[¹²³¼-¾⁰-ₜ⅐-⅟⁄√π±]|\\d['’\u00a0\u2009\u202f]\\d|"
    r"\.\d{3}[.,]\d|\b\d{1,3} \d{3}\b|"
    r"\d\s*[!^]|\d[eE][-+]?\d|\\[A-Za-z]"
)
# years, parts, fractions, times, ordinals: numbers that mean more than a count
_NO_COUNT = re.compile(r"\d\s*(?:[%/:]|-\s*\d|st\b|nd\b|rd\b|th\b|\.\d|percent)|[/:]\s*\d|[ap]\.?m\b")
_COMMON = (
    12  # a smaller number in two calculations may mean another thing in the second: open 5 hours, 5 weekdays
)
_FIRST_YEAR = 1900
_MAX_TRIES = 30  # until the results are whole and positive
_IMPLIED = {  # "twice" for 2, "%" for 100
    Fraction(value): re.compile(rf"\b(?:{words.replace(' ', '|')})s?\b", re.IGNORECASE)
    for value, words in TABLES["implied_numbers"].items()
}
_IMPLIED[Fraction(100)] = re.compile(_IMPLIED[Fraction(100)].pattern + "|%", re.IGNORECASE)


@dataclass(frozen=True)
class _Problem:
    """A problem, its solution and the calculations in it, in order, as (calculation, result)."""

    question: str
    solution: str
    calculations: tuple[tuple[str, str], ...]
    answer: Fraction


def resample_numbers(row: Mapping, rng: random.Random) -> dict | None:
    """A row of the same layout with other numbers, or None where it cannot be seen that this would be
    correct.

    Every number of the solution must come from the question, from an earlier calculation, or from a word
    ("twice", "week"), and it must be clear which: a number that stands for two things stays. The calculations
    are then done anew; where a result is negative, or a fraction where it was whole, numbers are sampled
    again. What the numbers mean is not read, so now and then a new problem makes no sense, or its answer is
    wrong. Miniworld problems stay within their generator's own rules.

    Args:
        row: Of ``rows.problem_row``: GSM8K, whose calculations are noted, or a miniworld problem, whose steps
            are calculations. Other layouts, such as MathCodeInstruct with its code, give None.
        rng: Where the numbers come from.
    """
    if "steps" in row and "messages" in row:
        calculations = tuple(tuple(step.rstrip(".").split(" = ")) for step in row["steps"])
        problem = _Problem(row["problem"], " ".join(row["steps"]), calculations, Fraction(row["answer"]))
        allowed = _allowed_in_miniworld
    elif "question" in row and "####" in row.get("answer", ""):
        solution, _, answer = row["answer"].partition("####")
        if not _NUMBER.fullmatch(answer.strip()) or _NOT_READ.search(row["question"] + solution):
            return None
        calculations = tuple(CALCULATION.findall(solution))
        problem = _Problem(row["question"], solution, calculations, _value(answer.strip()))
        allowed = None
    else:
        return None
    new = _new_values(problem, rng, allowed)
    if new is None:
        return None
    question, solution = _rewritten(problem.question, new), _rewritten(problem.solution, new)
    answer = _written(new[problem.answer])
    if "question" in row:
        return {**row, "question": question, "answer": f"{solution}#### {answer}"}
    return _miniworld_row(question, solution, answer)


def augment_problems(train: Sequence[Mapping], copies: int, seed: int = 0) -> list[dict]:
    """``copies`` versions of each problem with other numbers, checked as the originals were.

    A version may by chance be a test problem: whoever trains must leave these out.

    Args:
        train: Problems of ``reasoning.reasoning_rows``.
        copies: Tries for each problem; not all succeed.
        seed: Of the new numbers.
    """
    if copies == 0:
        return []
    rng = random.Random(seed)
    rows = []
    for problem in train:
        for _ in range(copies):
            if new := resample_numbers(problem["row"], rng):
                rows.append(new)
    logger.info("resampled the numbers of %d of %d problems", len(rows), copies * len(train))
    return reasoning_rows(rows, "the augmented problems", 0.0)


def _miniworld_row(question: str, solution: str, answer: str) -> dict | None:
    steps = [f"{step}." for step in solution.rstrip(".").split(". ")]
    blocks = [{"type": "text", "content": text} for text in (" ".join(steps), f"The answer is {answer}.")]
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "content": question}]},
            {"role": "assistant", "content": blocks},
        ],
        "problem": question,
        "steps": steps,
        "answer": answer,
    }
    return row if calculations.verify(row) else None


def _allowed_in_miniworld(calculation: str) -> bool:
    a, sign, b = calculation.split()
    return calculations.allowed(int(a), sign, int(b))


# --- which numbers may change -------------------------------------------------------------------------


def _new_values(
    problem: _Problem, rng: random.Random, allowed: Callable[[str], bool] | None
) -> dict[Fraction, Fraction] | None:
    """old value -> new value, of every number in problem and solution; None where nothing can change."""
    given = _values(problem.question)
    results = []
    for _, result in problem.calculations:
        # a result of "20%" or "5 km" has a meaning that is not followed here
        read = read_answer(result)
        if read.value is None or read.percent or read.unit:
            return None
        results.append(read.value)
    if not _all_explained(problem, given, results):
        return None
    changeable = _changeable(problem, given, results)
    if not changeable:
        return None
    for _ in range(_MAX_TRIES):
        new = {value: value for value in (*given, *results, *_IMPLIED)}
        new |= {value: _sample_near(value, rng) for value in changeable}
        sound = _calculate(problem, results, new, allowed)
        if sound and problem.answer in new and any(new[value] != value for value in results):
            return new
    return None


def _all_explained(problem: _Problem, given: Sequence[Fraction], results: Sequence[Fraction]) -> bool:
    """Whether each number of the solution is given, or an earlier result, or implied by a word."""
    known, counts = set(given), Counter([*given, *results])
    for (calculation, _), result in zip(problem.calculations, results, strict=True):
        for value in _values(calculation):
            if value not in known and not _implied(value, problem.question):
                return False
        if counts[result] > 1 or _implied(result, problem.question):
            return False  # a result that equals another number: which is meant?
        known.add(result)
    remaining = _values(CALCULATION.sub("", problem.solution))
    return all(value in known or _implied(value, problem.question) for value in remaining)


def _changeable(problem: _Problem, given: Sequence[Fraction], results: Sequence[Fraction]) -> list[Fraction]:
    """Counts in the question that stand for one thing alone and go into a calculation."""
    question = problem.question
    no_counts = set()
    for found in _NO_COUNT.finditer(question):
        no_counts.update(map(_value, re.findall(r"\d+", found.group())))
    # also numbers whose neighbors give them another meaning
    for found in _NUMBER.finditer(question):
        if _NO_COUNT.search(question[max(0, found.start() - 2) : found.end() + 4]):
            no_counts.add(_value(found.group()))
    counts = Counter([*given, *results])
    uses = Counter()
    for calculation, _ in problem.calculations:
        uses.update(_values(calculation))
    changeable = []
    for value in given:
        whole_count = value.denominator == 1 and 2 <= value < _FIRST_YEAR and value not in no_counts
        one_thing = counts[value] == 1 and not _implied(
            value, question + problem.solution
        )  # "all three" would stay
        used_clearly = uses[value] == 1 or (uses[value] > 1 and value > _COMMON)
        if whole_count and one_thing and used_clearly:
            changeable.append(value)
    return changeable


def _implied(value: Fraction, text: str) -> bool:
    return value in _IMPLIED and _IMPLIED[value].search(text) is not None


def _sample_near(value: Fraction, rng: random.Random) -> Fraction:
    """A whole number from half to one and a half of ``value``, at least 2."""
    low, high = max(2, int(value) // 2), max(3, int(value) * 3 // 2)
    return Fraction(low + int(rng.random() * (high - low + 1)))


def _calculate(
    problem: _Problem,
    results: Sequence[Fraction],
    new: dict[Fraction, Fraction],
    allowed: Callable[[str], bool] | None,
) -> bool:
    """Adds the new results to ``new``; whether each is sound, and no two numbers have become one."""
    for (calculation, _), old in zip(problem.calculations, results, strict=True):
        calculation = _rewritten(calculation, new)
        if allowed is not None and not allowed(calculation):
            return False
        value = arithmetic(calculation)
        if value is None or value <= 0 < old:
            return False
        if value.denominator > 1 and (old.denominator == 1 or 100 % value.denominator):
            return False  # a fraction where it was whole, or more than two decimals
        new[old] = value
    # two different numbers that are now equal could not be told apart
    changed = [value for old, value in new.items() if value != old]
    return len(set(changed)) == len(changed)


# --- numbers in a text --------------------------------------------------------------------------------


def _rewritten(text: str, new: Mapping[Fraction, Fraction]) -> str:
    """The text with the new values, each written as the old one was."""

    def _replacement(found: re.Match) -> str:
        old = found.group()
        value = new.get(_value(old), _value(old))
        if value == _value(old):
            return old
        return f"{int(value):,}" if "," in old and value.denominator == 1 else _written(value)

    return _NUMBER.sub(_replacement, text)


def _written(value: Fraction) -> str:
    return str(int(value)) if value.denominator == 1 else f"{float(value):.2f}"


def _values(text: str) -> list[Fraction]:
    return [_value(number) for number in _NUMBER.findall(text)]


def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))
