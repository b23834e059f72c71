"""Steps of whole-number arithmetic as the problems write them ("3 + 4 = 7."), and the proof of a solution."""

import re

LARGEST = 40  # no sum is larger
MULTIPLICATIONS = tuple((a, b) for a in range(2, 6) for b in range(2, 10))
Calculation = tuple[int, str, int]  # a, sign, b
_STEP = re.compile(r"(\d+) ([+\-x/]) (\d+) = (\d+)\.")


def calculate(a: int, sign: str, b: int) -> int:
    """The result of a calculation; a division leaves its remainder out."""
    if sign == "+":
        return a + b
    if sign == "-":
        return a - b
    return a * b if sign == "x" else a // b


def step(a: int, sign: str, b: int) -> str:
    """ "3 + 4 = 7." """
    return f"{a} {sign} {b} = {calculate(a, sign, b)}."


def allowed(a: int, sign: str, b: int) -> bool:
    """Whether the generator samples a calculation: results within 0 to ``LARGEST``, products from the tables."""
    if sign == "x":
        return (a, b) in MULTIPLICATIONS
    return sign in "+-" and max(a, b) <= LARGEST and 0 <= calculate(a, sign, b) <= LARGEST


def verify(row: dict) -> bool:
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
