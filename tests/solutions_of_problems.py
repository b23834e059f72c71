"""The proof of a miniworld problem's solution, by its text alone."""

import re

from lmlab.miniworld.calculations import calculate

_STEP = re.compile(r"(\d+) ([+\-x/]) (\d+) = (\d+)\.")


def solution_is_right(row: dict) -> bool:
    """Whether a solution is right: every step true, with numbers that are known by then, and the last is the
    answer.

    Args:
        row: of ``problem`` or ``science``. Its text is read, not the generator's structures.
    """
    if "problem_text" in row:
        text, answer = row["problem_text"], row["answer_number"]
        solution = row["solution"].split(". ", 1)[1]  # after the formula
    else:
        text, answer = row["problem"], row["answer"]
        solution = " ".join(row["steps"])
    steps = _STEP.findall(solution)
    # the steps put together again must be the whole solution: nothing else may stand there
    if not steps or " ".join(f"{a} {sign} {b} = {c}." for a, sign, b, c in steps) != solution:
        return False
    # a step may use the problem's numbers and earlier results, and no number out of thin air
    known = {int(number) for number in re.findall(r"\d+", text)}
    for a, sign, b, c in steps:
        if not _is_true(int(a), sign, int(b), int(c)) or not {int(a), int(b)} <= known:
            return False
        known.add(int(c))
    return steps[-1][3] == answer


def _is_true(a: int, sign: str, b: int, c: int) -> bool:
    # whole numbers only: a remainder makes a step false
    if sign == "/" and (b == 0 or a % b != 0):
        return False
    return calculate(a, sign, b) == c
