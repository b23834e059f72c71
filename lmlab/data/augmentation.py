"""The same problem with other numbers: its solution and answer computed anew, or no new problem at all."""

import logging
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmlab.data.answers import arithmetic
from lmlab.data.notation import TABLES
from lmlab.data.reasoning import CALCULATION, reasoning_rows
from lmlab.miniworld import calculations

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"(?<![\w.])\d+")
# only plain whole numbers are replaced; a problem with 5.5, 1,000, 5½, 10³, 5'000, 1 234 or LaTeX
# is left alone
_NOT_READ = re.compile(
    r"[¹²³¼-¾⁰-ₜ⅐-⅟⁄√π±\\]|\d[,'’\u00a0\u2009\u202f]\d|\.\d|\b\d{1,3} \d{3}\b|\d\s*[!^]|\d[eE][-+]?\d"
)
# parts, fractions, times, ordinals: numbers that mean more than a count
_NO_COUNT = re.compile(r"\d\s*(?:[%/:]|-\s*\d|st\b|nd\b|rd\b|th\b|percent)|[/:]\s*\d|[ap]\.?m\b")
# a smaller number in two calculations may mean another thing in the second: open 5 hours, 5 weekdays
_COMMON = 12
_FIRST_YEAR = 1900
_MAX_TRIES = 30  # until the results are whole and positive
_IMPLIED = {  # "twice" for 2
    value: re.compile(rf"\b(?:{words.replace(' ', '|')})s?\b", re.IGNORECASE)
    for value, words in TABLES["implied_numbers"].items()
}


@dataclass(frozen=True)
class _Problem:
    """A problem, its solution, and the calculations in it with their results, in order."""

    question: str
    solution: str
    calculations: list[str]
    results: list[int]
    answer: int
    in_miniworld: bool

    @property
    def counts(self) -> Counter[int]:
        """How often each number is given or a result."""
        return Counter([*_values(self.question), *self.results])


def resample_numbers(row: Mapping, rng: random.Random) -> dict | None:
    """A row of the same layout with other numbers, or None where it cannot be seen that this would be
    correct.

    Every number of the solution must come from the question, from an earlier calculation, or from a word
    ("twice", "week"), and it must be clear which: a number that stands for two things stays. All numbers
    must be whole. The calculations are then done anew; where a result is negative or a fraction, numbers
    are sampled again. What the numbers mean is not read, so now and then a new problem makes no sense, or
    its answer is wrong. Miniworld problems stay within their generator's own rules.

    Args:
        row: Of ``rows.problem_row``: GSM8K, whose calculations are noted, or a miniworld problem, whose steps
            are calculations. Other layouts, such as MathCodeInstruct with its code, give None.
        rng: Where the numbers come from.
    """
    problem = _read(row)
    if problem is None or problem.answer not in problem.results or not _all_explained(problem):
        return None
    changeable = _changeable(problem)
    for _ in range(_MAX_TRIES):
        new = {value: _sample_near(value, rng) for value in changeable}
        if _calculate(problem, new) and any(new[result] != result for result in problem.results):
            return {name: _rewritten_field(value, new) for name, value in row.items()}
    return None


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


# --- layouts -----------------------------------------------------------------------------------------


def _read(row: Mapping) -> _Problem | None:
    """The problem in a row; None where the layout or one of the numbers is not read."""
    in_miniworld = "steps" in row
    if in_miniworld:
        question, solution, answer = row["problem"], " ".join(row["steps"]), row["answer"]
        found = [step.rstrip(".").split(" = ") for step in row["steps"]]
    elif "question" in row:
        question = row["question"]
        solution, _, answer = row["answer"].partition("####")
        found = CALCULATION.findall(solution)
    else:
        return None
    # a result of "20%" or "5 km" has a meaning that is not followed here
    noted, results = [calculation for calculation, _ in found], [result for _, result in found]
    whole = all(number.strip().isdecimal() for number in (answer, *results))
    if not whole or _NOT_READ.search(question + solution):
        return None
    return _Problem(question, solution, noted, [int(result) for result in results], int(answer), in_miniworld)


def _rewritten_field(value: object, new: Mapping[int, int]) -> object:
    """A field of a row with the new numbers in all of its texts."""
    if isinstance(value, str):
        return _rewritten(value, new)
    if isinstance(value, list):
        return [_rewritten_field(part, new) for part in value]
    if isinstance(value, dict):
        return {name: _rewritten_field(part, new) for name, part in value.items()}
    return value


# --- which numbers may change -------------------------------------------------------------------------


def _all_explained(problem: _Problem) -> bool:
    """Whether each number of the solution is given, or an earlier result, or implied by a word."""
    known = set(_values(problem.question))
    for calculation, result in zip(problem.calculations, problem.results, strict=True):
        for value in _values(calculation):
            if value not in known and not _implied(value, problem.question):
                return False
        # a result that equals another number: which is meant?
        if problem.counts[result] > 1 or _implied(result, problem.question):
            return False
        known.add(result)
    remaining = _values(CALCULATION.sub("", problem.solution))
    return all(value in known or _implied(value, problem.question) for value in remaining)


def _changeable(problem: _Problem) -> list[int]:
    """Counts in the question that stand for one thing alone and go into a calculation."""
    question = problem.question
    uses = Counter(_values(" ".join(problem.calculations)))
    # what stands beside a number may give it another meaning
    no_counts = set()
    for found in _NUMBER.finditer(question):
        if _NO_COUNT.search(question[max(0, found.start() - 2) : found.end() + 4]):
            no_counts.add(int(found.group()))
    changeable = []
    for value in _values(question):
        is_count = 2 <= value < _FIRST_YEAR and value not in no_counts
        # "all three" would stay
        one_thing = problem.counts[value] == 1 and not _implied(value, question + problem.solution)
        used_clearly = uses[value] == 1 or (uses[value] > 1 and value > _COMMON)
        if is_count and one_thing and used_clearly:
            changeable.append(value)
    return changeable


def _implied(value: int, text: str) -> bool:
    return value in _IMPLIED and _IMPLIED[value].search(text.replace("%", " percent")) is not None


# --- new numbers -------------------------------------------------------------------------------------


def _sample_near(value: int, rng: random.Random) -> int:
    """A whole number from half to one and a half of ``value``, at least 2."""
    low, high = max(2, value // 2), max(3, value * 3 // 2)
    return low + int(rng.random() * (high - low + 1))


def _calculate(problem: _Problem, new: dict[int, int]) -> bool:
    """Adds the new results to ``new``; whether each is sound, and no two numbers have become one."""
    for calculation, old in zip(problem.calculations, problem.results, strict=True):
        calculation = _rewritten(calculation, new)
        if problem.in_miniworld:
            a, sign, b = calculation.split()
            if not calculations.allowed(int(a), sign, int(b)):
                return False
        value = arithmetic(calculation)
        if value is None or value.denominator > 1 or value < 0 or (value == 0 and old > 0):
            return False
        new[old] = int(value)
    # two different numbers that are now equal could not be told apart
    changed = [value for old, value in new.items() if value != old]
    return len(set(changed)) == len(changed)


def _rewritten(text: str, new: Mapping[int, int]) -> str:
    return _NUMBER.sub(lambda found: str(new.get(int(found.group()), found.group())), text)


def _values(text: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(text)]
