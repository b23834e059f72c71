"""Formulas in LaTeX: two are the same if they have the same values at a few points.

Nothing is expanded or simplified, so the time is bounded by the length of the text, whatever a model may
have written; a library of algebra has no such bound. Two rational formulas that differ agree at random points
almost never (Schwartz 1980, Zippel 1979).
"""

import cmath
import math
import random
import re
from fractions import Fraction

LONGEST = 120  # characters; brackets in brackets cost Python's stack
_POINTS = 3  # the variables are positive at all but the last
_LARGEST = 1000  # bits up to which a power is kept exactly
_PRECISION = 1e-9
_LARGEST_FACTORIAL = 100
_FUNCTIONS = {
    "\\sin": cmath.sin,
    "\\cos": cmath.cos,
    "\\tan": cmath.tan,
    "\\ln": cmath.log,
    "\\log": cmath.log10,
    "\\exp": cmath.exp,
    "\\arcsin": cmath.asin,
    "\\arccos": cmath.acos,
    "\\arctan": cmath.atan,
}
_CONSTANTS = {"\\pi": complex(cmath.pi), "e": complex(cmath.e), "i": 1j}
_LETTERS = {f"\\{name}" for name in "alpha beta gamma delta theta lambda mu phi omega infty".split()}
_TIDIED = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\\{", "⟦"),
        (r"\\\}", "⟧"),
        (r"\\cup(?![A-Za-z])", "∪"),
        (r"\\in(?![A-Za-z])", "∈"),
        (r"\\pm(?![A-Za-z])", "±"),
        (r"\*\*", "^"),
        (r"\\(?:cdot|times)(?![A-Za-z])|[·×]", "*"),
        (r"\\div(?![A-Za-z])|÷", "/"),
        ("π", r"\\pi "),
        ("∞", r"\\infty "),
        (r"(?<![\\A-Za-z])(sin|cos|tan|ln|log|sqrt|pi)(?![A-Za-z])", r"\\\1"),
        (r"\b(?:or|and)\b", ","),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\2/\3)"),  # a mixed number is no product
        (r"\\begin\{[bp]matrix\}", "⟪"),
        (r"\\end\{[bp]matrix\}", "⟫"),
    )
]
_UNREAD = re.compile(r"(?<![\w.])0[xXbBoO]\w|!!|\.\d*\(\d+\)")  # 0x1F, 5!!, 0.(3)
_GROUPED = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")  # 1,000
_RELATION = re.compile("([=<>≤≥≠])")
_NAMED_VALUE = re.compile(r"\s*([A-Za-z](?:_\w)?|\\[a-z]+)\s*=([^=<>≤≥≠]+)")
_TURNED = {">": "<", "≥": "≤"}
_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|[A-Za-z](?:_(?:\{\w+\}|\w))?|[-+*/^(){}\[\]|!])")


def same_formula(a: str, b: str, tolerance: float = 0.0) -> bool:
    """Whether two formulas say the same: "2\\sqrt{5}" and "\\sqrt{20}", or "\\{1, 2\\}" and "\\{2, 1\\}".

    Read are numbers, variables, + - * / ^ !, roots, sin, cos, tan, ln, log, \\pi, e, i, \\pm; and lists, sets,
    tuples, intervals, unions, matrices, equations and inequalities of these. What is not read (words, integrals,
    sums, bases) is the same as nothing. tolerance: relative, of the values of ``b``.
    """
    if max(len(a), len(b)) > LONGEST:
        return False
    try:
        return _same(_tidied(a), _tidied(b), tolerance)
    except (ValueError, ArithmeticError, RecursionError):
        return False


def is_formula(text: str) -> bool:
    """Whether all of a text is read."""
    return same_formula(text, text)


def _tidied(text: str) -> str:
    if _UNREAD.search(text):
        raise ValueError(f"a part of {text!r} is not read")
    if not re.search(r"[(\[]|\\\{", text):  # there a comma parts two numbers
        text = _GROUPED.sub(lambda number: number.group().replace(",", ""), text)
    for pattern, by in _TIDIED:
        text = pattern.sub(by, text)
    words = re.findall(r"\\?[A-Za-z]+", text)
    if any(len(word) > 2 and word[0] != "\\" for word in words) or re.fullmatch(r"[A-Za-z][A-Za-z\s]+", text):
        raise ValueError("words")
    return text


# --- lists, sets, intervals --------------------------------------------------------------------------


def _same(a: str, b: str, tolerance: float) -> bool:
    named, others = _named_values(a), _named_values(b)
    if named and others:
        return named.keys() == others.keys() and all(
            _same_values(named[name], others[name], tolerance) for name in named
        )
    if named or others:  # x = 5, y = 6 is the point (5, 6)
        a, b = (
            f"({','.join(values.values())})" if values else text for values, text in ((named, a), (others, b))
        )
    (kind, mine), (other, theirs) = _members(a), _members(b)
    if kind != other or len(mine) != len(theirs):
        return False
    if len(mine) == 1 and not kind:
        return _same_values(mine[0], theirs[0], tolerance)
    if kind not in ("", "⟦⟧", "∪"):
        return all(_same(x, y, tolerance) for x, y in zip(mine, theirs, strict=True))
    for x in mine:  # in any order
        found = next((y for y in theirs if _same(x, y, tolerance)), None)
        if found is None:
            return False
        theirs.remove(found)
    return True


def _named_values(text: str) -> dict[str, str]:
    """{"x": "5", "y": "6"} of "x = 5, y = 6"; empty for what is not several names with a value each."""
    parts = [_NAMED_VALUE.fullmatch(part) for part in _split(text, ",")]
    if len(parts) < 2 or not all(parts):
        return {}
    values = {part[1]: part[2] for part in parts}
    return values if len(values) == len(parts) else {}


def _members(text: str) -> tuple[str, list[str]]:
    """(kind, members): of a union, of brackets or a matrix, which are the kind, or of a bare list."""
    text = re.sub(r"^\s*[A-Za-z](?:_\w)?(?:\([A-Za-z]\))?\s*[=∈]", "", text).strip()
    if text[:1] == "⟪" and text.find("⟫") == len(text) - 1:
        rows = [row.split("&") for row in text[1:-1].split("\\\\")]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if "∪" in text:
        return "∪", _split(text, "∪")
    inner = _split(text[1:-1], ",") if _in_brackets(text) else []
    if len(inner) > 1 or text[:1] == "⟦":
        return text[0] + text[-1], inner
    return "", [
        part.replace("±", sign) for part in _split(text, ",") for sign in ("+-" if "±" in part else "+")
    ]


def _split(text: str, separator: str) -> list[str]:
    """The pieces between the separators that stand in no bracket."""
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter in "([{⟦") - (letter in ")]}⟧")
        if letter == separator and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces


def _in_brackets(text: str) -> bool:
    """Whether the bracket that a text begins with is closed by its last letter."""
    depths, depth = [], 0
    for letter in text:
        depth += (letter in "([⟦") - (letter in ")]⟧")
        depths.append(depth)
    return len(text) > 1 and depth == 0 and all(depths[:-1]) and text[0] in "([⟦"


# --- values ------------------------------------------------------------------------------------------


def _same_values(a: str, b: str, tolerance: float) -> bool:
    """Of an equation, the difference of its sides counts, from whichever side."""
    (mine, signs), (theirs, others) = _sides(a), _sides(b)
    if signs != others:
        return False
    if signs != ["="]:
        return all(
            _close(formula_value(x, point), formula_value(y, point), tolerance)
            for x, y in zip(mine, theirs, strict=True)
            for point in range(_POINTS)
        )
    a, b = (f"({left})-({right})" for left, right in (mine, theirs))
    return _same_values(a, b, tolerance) or _same_values(a, f"-({b})", tolerance)


def _sides(text: str) -> tuple[list[str], list[str]]:
    """(sides, signs between them): "5 > x" is ["x", "5"] and ["<"]."""
    parts = _RELATION.split(text)
    sides, signs = parts[::2], parts[1::2]
    if signs and set(signs) <= set(_TURNED):
        return sides[::-1], [_TURNED[sign] for sign in signs[::-1]]
    return sides, signs


def _close(x: Fraction | complex, y: Fraction | complex, tolerance: float) -> bool:
    if not tolerance and isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = complex(x), complex(y)
    return cmath.isfinite(x) and cmath.isfinite(y) and abs(x - y) <= max(tolerance, _PRECISION) * abs(y)


def formula_value(text: str, point: int = 0) -> Fraction | complex:
    """The value of a formula at one of the points; exact as long as it is rational and not huge.

    Raises ValueError, ArithmeticError or RecursionError where it has none, or is not read.
    """
    tokens = [found.group(1) for found in _TOKEN.finditer(text)]
    if "".join(tokens) != re.sub(r"\s", "", text):
        raise ValueError(f"a sign of {text!r} is not read")
    tokens.append("")
    result = _sum(tokens, point)
    _expect("", tokens)
    return result


def _expect(token: str, tokens: list[str]) -> None:
    if not _taken(token, tokens):
        raise ValueError(f"{tokens[0]!r} where {token!r} should be")


def _taken(token: str, tokens: list[str]) -> bool:
    return tokens[0] == token and tokens.pop(0) == token


def _sum(tokens: list[str], point: int) -> Fraction | complex:
    value = _product(tokens, point)
    while tokens[0] in ("+", "-"):
        value = value + _product(tokens, point) if tokens.pop(0) == "+" else value - _product(tokens, point)
    return value


def _product(tokens: list[str], point: int) -> Fraction | complex:
    value = _signed(tokens, point)
    while tokens[0] in ("*", "/") or _is_factor(tokens[0]):
        sign = tokens.pop(0) if tokens[0] in ("*", "/") else ""
        factor = _signed(tokens, point)
        value = value / factor if sign == "/" else value * factor
    return value


def _is_factor(token: str) -> bool:
    """What may follow a factor without a sign; a number may not."""
    return token[:1] in ("(", "{", "\\") or token[:1].isalpha()


def _signed(tokens: list[str], point: int) -> Fraction | complex:
    if tokens[0] in ("+", "-"):
        sign = 1 if tokens.pop(0) == "+" else -1
        return sign * _signed(tokens, point)
    base = _with_factorial(tokens, point)
    return _raised(base, _argument(tokens, point)) if _taken("^", tokens) else base


def _with_factorial(tokens: list[str], point: int) -> Fraction | complex:
    value = _atom(tokens, point)
    if not _taken("!", tokens):
        return value
    if not isinstance(value, Fraction) or value.denominator > 1 or not 0 <= value <= _LARGEST_FACTORIAL:
        raise ValueError(f"{value}! is not read")
    return Fraction(math.factorial(int(value)))


def _argument(tokens: list[str], point: int) -> Fraction | complex:
    return -_with_factorial(tokens, point) if _taken("-", tokens) else _with_factorial(tokens, point)


def _argument_of_function(tokens: list[str], point: int) -> Fraction | complex:
    """In \\sin 2x the factors belong to it, up to the next function."""
    bare = tokens[0] not in ("(", "{", "-")
    value = _argument(tokens, point)
    while bare and _is_factor(tokens[0]) and tokens[0] not in _FUNCTIONS and tokens[0] not in ("(", "{"):
        value = value * _signed(tokens, point)
    return value


def _atom(tokens: list[str], point: int) -> Fraction | complex:
    token = tokens.pop(0)
    if token in ("(", "{", "|"):
        value = _sum(tokens, point)
        _expect({"(": ")", "{": "}", "|": "|"}[token], tokens)
        return abs(value) if token == "|" else value
    if token == "\\frac":
        return _argument(tokens, point) / _argument(tokens, point)
    if token == "\\sqrt":
        return _root(tokens, point)
    if token in _FUNCTIONS:
        return _FUNCTIONS[token](_argument_of_function(tokens, point))
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if token in _LETTERS or token[:1].isalpha():
        size = Fraction(random.Random(f"{token} {point}").randint(1, 997), 101)
        return -size if point == _POINTS - 1 else size
    return Fraction(token)


def _root(tokens: list[str], point: int) -> Fraction | complex:
    index = Fraction(2)
    if _taken("[", tokens):
        index = _sum(tokens, point)
        _expect("]", tokens)
    value = _argument(tokens, point)
    real = complex(value).imag == 0
    if real and complex(value).real < 0 and index % 2 == 1:  # the third root of -8 is -2
        return -_raised(-value, 1 / index)
    return _raised(value, 1 / index)


def _raised(base: Fraction | complex, exponent: Fraction | complex) -> Fraction | complex:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        if abs(exponent) * bits <= _LARGEST:
            return base ** int(exponent)
    return complex(base) ** complex(exponent)
