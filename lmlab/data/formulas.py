"""Formulas in LaTeX: two are the same if they have the same values at a few points.

Nothing is expanded or simplified, so the time is bounded by the length of the text, whatever a model may
have written; a computer algebra system has no such bound. Two rational formulas that differ agree at random
points almost never (Schwartz 1980, Zippel 1979).
"""

import cmath
import random
import re
from fractions import Fraction
from itertools import accumulate

from lmlab.data.notation import replace_commands

MAX_CHARACTERS = 120  # of a formula; nested parentheses cost Python's stack
_POINTS = 3  # the variables are positive at all but the last
_EXACT_BITS = 1000  # up to which a power is kept exactly
_PRECISION = 1e-9
_FUNCTIONS = {f"\\{name}": getattr(cmath, name) for name in ("sin", "cos", "tan", "exp")}
_FUNCTIONS |= {"\\ln": cmath.log, "\\log": cmath.log10}
_FUNCTIONS |= {f"\\arc{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan")}
_CONSTANTS = {"\\pi": complex(cmath.pi), "e": complex(cmath.e), "i": 1j}
_LETTERS = {f"\\{name}" for name in "alpha beta gamma delta theta lambda mu phi omega infty".split()}
_COMMANDS = {"cup": "∪", "in": "∈", "pm": "±", "times": "*", "div": "/"}
# what has one meaning gets one notation; ⟦ ⟧ are the braces of a set, ⟪ ⟫ the parentheses of a matrix
_REWRITES = [
    (r"\\\{", "⟦"),
    (r"\\\}", "⟧"),
    (r"\*\*", "^"),
    (r"·", "*"),
    (r"(?<![\\A-Za-z])(sin|cos|tan|ln|log|sqrt|pi)(?![A-Za-z])", r"\\\1"),
    (r"\b(?:or|and)\b", ","),
    (r"(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\2/\3)"),  # a mixed number is no product
    (r"\\begin\{[bp]matrix\}", "⟪"),
    (r"\\end\{[bp]matrix\}", "⟫"),
]
_NOT_READ = re.compile(r"(?<![\w.])0[xXbBoO]\w|\.\d*\(\d+\)")  # 0x1F, 0.(3)
_GROUPED = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")  # 1,000
_RELATION = re.compile("([=<>≤≥≠])")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z](?:_\w)?|\\[a-z]+)\s*=([^=<>≤≥≠]+)")
_TURNED = {">": "<", "≥": "≤"}
_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|[A-Za-z](?:_(?:\{\w+\}|\w))?|[-+*/^(){}\[\]|])")

Number = Fraction | complex


def same_formula(a: str, b: str, tolerance: float = 0.0) -> bool:
    """Whether two formulas are equal: "2\\sqrt{5}" and "\\sqrt{20}", or "\\{1, 2\\}" and "\\{2, 1\\}".

    Read are numbers, variables, + - * / ^, roots, sin, cos, tan, ln, log, \\pi, e, i, \\pm; and lists,
    sets, tuples, intervals, unions, matrices, equations and inequalities of these. What is not read (words,
    integrals, sums, bases) equals nothing, not even itself.

    Args:
        a: In the notation of ``plain_notation``.
        b: The same; the expected one.
        tolerance: Relative, of the values of ``b``.
    """
    # the length bounds the time and the depth of the recursion
    if max(len(a), len(b)) > MAX_CHARACTERS:
        return False
    try:
        return _same(_rewritten(a), _rewritten(b), tolerance)
    except (ValueError, ArithmeticError, RecursionError):
        return False


def is_formula(text: str) -> bool:
    """Whether all of a text is read."""
    return same_formula(text, text)


def _rewritten(text: str) -> str:
    if _NOT_READ.search(text):
        raise ValueError(f"a part of {text!r} is not read")
    if not re.search(r"[(\[]|\\\{", text):  # there a comma separates two numbers
        text = _GROUPED.sub(lambda number: number.group().replace(",", ""), text)
    text = replace_commands(text, _COMMANDS)
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    # "no" would be n * o, equal to "on": a word is not a product of variables
    words = re.findall(r"\\?[A-Za-z]+", text)
    if any(len(word) > 2 and word[0] != "\\" for word in words) or re.fullmatch(r"[A-Za-z][A-Za-z\s]+", text):
        raise ValueError("words")
    return text


# --- lists, sets, intervals --------------------------------------------------------------------------


def _same(a: str, b: str, tolerance: float) -> bool:
    (kind_a, members_a), (kind_b, members_b) = _members(a), _members(b)
    # x = 5, y = 6 is the point (5, 6)
    if "()" in (kind_a, kind_b) and "=" in kind_a + kind_b:
        kind_a = kind_b
    if kind_a != kind_b or len(members_a) != len(members_b):
        return False
    # a single value ends the recursion
    if kind_a == "" and len(members_a) == 1:
        return _same_values(members_a[0], members_b[0], tolerance)
    if kind_a in ("", "⟦⟧", "∪"):
        return _same_in_any_order(members_a, members_b, tolerance)
    return all(_same(x, y, tolerance) for x, y in zip(members_a, members_b, strict=True))


def _same_in_any_order(members: list[str], others: list[str], tolerance: float) -> bool:
    left = list(others)
    for member in members:
        # the search stops at the first: a list of many equal numbers must not take long
        found = next((other for other in left if _same(member, other, tolerance)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _members(text: str) -> tuple[str, list[str]]:
    """(kind, members) of a union, of a matrix, of what stands in brackets, which are the kind, or of a bare
    list; of "y = 6, x = 5" ("x, y =", ["5", "6"]).
    """
    named = [_ASSIGNMENT.fullmatch(part) for part in _split(text, ",")]
    if len(named) > 1 and all(named):
        values = {part[1]: part[2] for part in named}
        # x = 1, x = 2 is a list of two solutions
        if len(values) == len(named):
            return f"{', '.join(sorted(values))} =", [values[name] for name in sorted(values)]
    text = re.sub(r"^\s*[A-Za-z](?:_\w)?(?:\([A-Za-z]\))?\s*[=∈]", "", text).strip()
    if text[:1] == "⟪" and text.find("⟫") == len(text) - 1:
        # the number of cells of each row is part of the kind: a row is not a column
        rows = [row.split("&") for row in text[1:-1].split("\\\\")]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if "∪" in text:
        return "∪", _split(text, "∪")
    if _in_brackets(text):
        members = _split(text[1:-1], ",")
        if len(members) > 1 or text[0] == "⟦":
            return text[0] + text[-1], members
    members = []
    for part in _split(text, ","):
        signs = "+-" if "±" in part else "+"
        members += [part.replace("±", sign) for sign in signs]
    return "", members


def _depths(text: str) -> list[int]:
    """In how many brackets each character of a text is; a closing one no longer counts itself."""
    return list(accumulate((character in "([{⟦") - (character in ")]}⟧") for character in text))


def _split(text: str, separator: str) -> list[str]:
    """The parts between the separators that are in no bracket."""
    parts = [""]
    for character, depth in zip(text, _depths(text), strict=True):
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _in_brackets(text: str) -> bool:
    """Whether the bracket that a text begins with is closed by its last character."""
    return text[:1] in ("(", "[", "⟦") and _depths(text).index(0) == len(text) - 1


# --- values ------------------------------------------------------------------------------------------


def _same_values(a: str, b: str, tolerance: float) -> bool:
    """Of an equation, the difference of its sides counts, from whichever side."""
    (sides_a, relations_a), (sides_b, relations_b) = _sides(a), _sides(b)
    if relations_a != relations_b:
        return False
    # x + y = 3 and 3 = y + x have the same difference of sides, up to its sign
    if relations_a == ["="]:
        a, b = f"({sides_a[0]})-({sides_a[1]})", f"({sides_b[0]})-({sides_b[1]})"
        return _same_values(a, b, tolerance) or _same_values(a, f"-({b})", tolerance)
    for x, y in zip(sides_a, sides_b, strict=True):
        for point in range(_POINTS):
            if not _close(formula_value(x, point), formula_value(y, point), tolerance):
                return False
    return True


def _sides(text: str) -> tuple[list[str], list[str]]:
    """(sides, relations between them): "5 > x" is ["x", "5"] and ["<"]."""
    parts = _RELATION.split(text)
    sides, relations = parts[::2], parts[1::2]
    if relations and set(relations) <= set(_TURNED):
        return sides[::-1], [_TURNED[relation] for relation in relations[::-1]]
    return sides, relations


def _close(x: Number, y: Number, tolerance: float) -> bool:
    # exact where both are: 2^100 + 1 is not 2^100
    if not tolerance and isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = complex(x), complex(y)
    return cmath.isfinite(x) and cmath.isfinite(y) and abs(x - y) <= max(tolerance, _PRECISION) * abs(y)


def formula_value(text: str, point: int = 0) -> Number:
    """The value of a formula at one of the points; exact as long as it is rational and not huge.

    Raises:
        ValueError: A part is not read; so do ArithmeticError and RecursionError say that it has no value.
    """
    return _Parser(text, point).value()


class _Parser:
    """Recursive descent: sum > product > sign > power > atom. The last token is ""."""

    def __init__(self, text: str, point: int):
        self.tokens = [found.group(1) for found in _TOKEN.finditer(text)]
        self.point = point
        if "".join(self.tokens) != re.sub(r"\s", "", text):
            raise ValueError(f"a character of {text!r} is not read")
        self.tokens.append("")

    def value(self) -> Number:
        """The value of the whole text."""
        result = self.sum()
        self.expect("")
        return result

    def take(self, *wanted: str) -> str | None:
        """Takes the next token if it is one of these."""
        return self.tokens.pop(0) if self.tokens[0] in wanted else None

    def expect(self, token: str) -> None:
        """Takes this token, which must be the next."""
        if self.take(token) is None:
            raise ValueError(f"{self.tokens[0]!r} where {token!r} should be")

    def sum(self) -> Number:
        """A sum: product (("+" | "-") product)*"""
        value = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            value = value + term if sign == "+" else value - term
        return value

    def product(self) -> Number:
        """A product: signed (("*" | "/" | nothing) signed)*: the sign may be left out, as in 2x."""
        value = self.signed()
        while (sign := self.take("*", "/")) or self.at_factor():
            factor = self.signed()
            value = value / factor if sign == "/" else value * factor
        return value

    def at_factor(self) -> bool:
        """Whether a factor follows without a sign between; a number may not."""
        token = self.tokens[0]
        return token[:1] in ("(", "{", "\\") or token[:1].isalpha()

    def signed(self) -> Number:
        """Signs: ("+" | "-")* atom ("^" argument)?: -x^2 is -(x^2)."""
        if sign := self.take("+", "-"):
            return self.signed() if sign == "+" else -self.signed()
        base = self.atom()
        return _power(base, self.argument()) if self.take("^") else base

    def argument(self) -> Number:
        """What an exponent or a command is applied to: "-"? atom."""
        return -self.atom() if self.take("-") else self.atom()

    def argument_of_function(self) -> Number:
        """In \\sin 2x the factors belong to it, up to the next function."""
        # \sin(x) y is \sin(x) times y, \sin 2x is the sine of 2x
        bare = self.tokens[0] not in ("(", "{", "-")
        value = self.argument()
        while bare and self.at_factor() and self.tokens[0] not in (*_FUNCTIONS, "(", "{"):
            value = value * self.signed()
        return value

    def atom(self) -> Number:
        """A number, variable or constant; parentheses; a fraction, root or function."""
        token = self.tokens.pop(0)
        if token in ("(", "{", "|"):
            value = self.sum()
            self.expect({"(": ")", "{": "}", "|": "|"}[token])
            return abs(value) if token == "|" else value
        if token == "\\frac":
            return self.argument() / self.argument()
        if token == "\\sqrt":
            return self.root()
        if token in _FUNCTIONS:
            return _FUNCTIONS[token](self.argument_of_function())
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token in _LETTERS or token[:1].isalpha():
            # the same letter has the same value in both formulas; one point is negative, so that |x| is not x
            value = Fraction(random.Random(f"{token} {self.point}").randint(1, 997), 101)
            return -value if self.point == _POINTS - 1 else value
        return Fraction(token)

    def root(self) -> Number:
        """Of a root: ("[" degree "]")? argument"""
        degree = Fraction(2)
        if self.take("["):
            degree = self.sum()
            self.expect("]")
        return _power(self.argument(), 1 / degree)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        # 9^(9^9) would fill the memory if it were exact
        if abs(exponent) * bits <= _EXACT_BITS:
            return base ** int(exponent)
    return complex(base) ** complex(exponent)
