"""One plain notation for answers that are written in Unicode, in LaTeX or in a mixture of both."""

import re
import unicodedata
from collections.abc import Mapping
from functools import partial
from importlib.resources import files

import yaml

TABLES = yaml.safe_load((files(__package__) / "answer_tables.yaml").read_text(encoding="utf-8"))

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ"
_nfkc = partial(unicodedata.normalize, "NFKC")  # ³ and ３ become 3, ½ becomes 1⁄2
_VULGAR_FRACTION = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_SYMBOLS = str.maketrans(TABLES["symbols"])
_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"  # braces with one pair of braces in them, as in \mathrm{mol^{-1}}
_REWRITES = [
    (r"(?<!\d)–|–(?!\d)", "-"),  # between two digits it stands for "to"
    (r"\\sqrt(\d+(?:\.\d+)?)", r"\\sqrt{\1}"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r",\s*\\!\s*", ","),
    (r"\\!", ""),
    (r"~|(?<!\\)\\[,;: ]", " "),
    (r"\{,\}", ","),
    (r"(?<!\\)\\[()\[\]]", ""),
    (r"\\%", "%"),
    (r"<=", "≤"),
    (r">=", "≥"),
    (r"(?<!\\)\$\$?((?:[^$\\]|\\.)*)\$\$?", r"\1"),  # math mode
    (r"\\\$", "$"),  # what is left stands for dollars
    (r"\^\s*(?:\{\s*)?\\(?:circ|degree)(?![A-Za-z])(?:\s*\})?|\{\\circ\}|\\degree(?![A-Za-z])", " degrees "),
    (rf"\\(?:text(?:rm|bf|it)?|math(?:rm|bf|it|sf)|operatorname|mbox|rm)\s*{_GROUP}", r" \1 "),
    (r"(?:\\mu\b|[µμ])\s*", "µ"),
    (r"(?<![\w)])\*\*|\*\*(?![\w(])", ""),  # Markdown's bold
]


def plain_notation(text: str) -> str:
    """A text without decoration: \\left, thin spaces, \\text{}, dollar signs around a formula, Unicode's
    signs.

    What has a meaning stays: "5½" becomes "5\\frac{1}{2}", "10³" becomes "10^{3}", "5√2" "5\\sqrt{2}".
    """
    if not text.isascii():
        text = re.sub(f"[{_SUPERSCRIPTS}]+", lambda run: f"^{{{_nfkc(run.group())}}}", text)
        text = re.sub(f"[{_SUBSCRIPTS}]+", lambda run: f"_{{{_nfkc(run.group())}}}", text)
        text = _VULGAR_FRACTION.sub(_latex_fraction, text)
        text = _nfkc(text).translate(_SYMBOLS)
    text = replace_commands(text, TABLES["commands"])
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    text = " ".join(text.split())
    if text.count("$") > 1:  # dollars, not a formula between two signs
        text = re.sub(r"(?<!\\)\$", r"\\$", text)
    return text if text.endswith("..") else text.rstrip(".").strip()


def replace_commands(text: str, table: Mapping[str, str]) -> str:
    """LaTeX commands by what stands for them in a table (without their backslash); others stay."""
    return re.sub(r"\\([A-Za-z]+)", lambda command: table.get(command[1], command[0]), text)


def any_word(*names: str) -> str:
    """A regular expression for any of the words in the tables of these names."""
    words = " ".join(TABLES[name] for name in names).split()
    return rf"\b(?:{'|'.join(words)})\b"


def _latex_fraction(character: re.Match) -> str:
    numerator, denominator = _nfkc(character.group()).split("⁄")
    return f"\\frac{{{numerator}}}{{{denominator}}}"
