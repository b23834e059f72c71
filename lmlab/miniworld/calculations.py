"""Steps of whole-number arithmetic as the problems write them ("3 + 4 = 7.")."""

LARGEST = 40  # no sum is larger
MULTIPLICATIONS = tuple((a, b) for a in range(2, 6) for b in range(2, 10))
Calculation = tuple[int, str, int]  # a, sign, b


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
    """Whether the generator samples a calculation: results from 0 to ``LARGEST``, products of the tables."""
    if sign == "x":
        return (a, b) in MULTIPLICATIONS
    return sign in "+-" and max(a, b) <= LARGEST and 0 <= calculate(a, sign, b) <= LARGEST
