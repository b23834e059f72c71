"""One plain notation for answers that are written in Unicode, in LaTeX or in a mixture of both."""

import re
import unicodedata

_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ"
_VULGAR_FRACTION = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_SYMBOLS = str.maketrans(
    {
        "−": "-",
        "‐": "-",
        "‑": "-",
        "⁄": "/",
        "∕": "/",
        "×": "\\times ",
        "✕": "\\times ",
        "⋅": "·",
        "•": "·",
        "∙": "·",
        "∗": "*",
        "π": "\\pi ",
        "∞": "\\infty ",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "∛": "\\sqrt[3]",
        "√": "\\sqrt",
        "°": "^\\circ ",
        "⟨": "\\langle ",
        "⟩": "\\rangle ",
    }
)
_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"  # braces with one pair of braces in them, as in \mathrm{mol^{-1}}
_ORNAMENTS = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"(?<!\d)–|–(?!\d)", "-"),  # between two digits it stands for "to"
        (r"\\sqrt(\d+(?:\.\d+)?)", r"\\sqrt{\1}"),
        (r",\s*\\!\s*", ","),
        (r"\\!", ""),
        (r"~|(?<!\\)\\[,;: ]|\\(?:quad|qquad|hfill|displaystyle|thinspace)(?![A-Za-z])", " "),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])", ""),
        (r"\{,\}", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"(?<!\\)\\[()\[\]]", ""),
        (r"\\%", "%"),
        (r"\\(?:leqslant|leq|le)(?![A-Za-z])|<=", "≤"),
        (r"\\(?:geqslant|geq|ge)(?![A-Za-z])|>=", "≥"),
        (r"\\(?:neq|ne)(?![A-Za-z])", "≠"),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:approx|thickapprox)(?![A-Za-z])", "≈"),
        (r"(?<!\\)\$\$?((?:[^$\\]|\\.)*)\$\$?", r"\1"),
        (r"\\\$", "$"),  # what is left stands for dollars
        (r"\\cdot(?![A-Za-z])", "·"),
        (r"\\Omega\b|\u2126", "Ω"),
        (
            r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z]))|\{\\circ\}|\\degree(?![A-Za-z])",
            " degrees ",
        ),
        (
            rf"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mathit|mathsf|operatorname|mbox|rm)\s*{_GROUP}",
            r" \1 ",
        ),
        (r"(?:\\mu\b|[µμ])\s*", "µ"),
        (r"(?<![\w)])\*\*|\*\*(?![\w(])", ""),
    )
]


def plain_notation(text: str) -> str:
    """A text without ornaments: \\left, thin spaces, \\text{}, dollar signs around a formula, Unicode's signs.

    What has a meaning stays: "5½" becomes "5\\frac{1}{2}", "10³" becomes "10^{3}", "5√2" "5\\sqrt{2}".
    """
    if not text.isascii():
        text = re.sub(f"[{_RAISED}]+", lambda run: f"^{{{_normal(run.group())}}}", text)
        text = re.sub(f"[{_LOWERED}]+", lambda run: f"_{{{_normal(run.group())}}}", text)
        text = _VULGAR_FRACTION.sub(_as_latex, text)
        text = unicodedata.normalize("NFKC", text).translate(_SYMBOLS)
    for pattern, by in _ORNAMENTS:
        text = pattern.sub(by, text)
    text = " ".join(text.split())
    if text.count("$") > 1:  # dollars, not a formula between two signs
        text = re.sub(r"(?<!\\)\$", r"\\$", text)
    return text if text.endswith("..") else text.rstrip(".").strip()


def _normal(letters: str) -> str:
    return unicodedata.normalize("NFKC", letters)


def _as_latex(fraction: re.Match) -> str:
    above, below = _normal(fraction.group()).split("⁄")
    return f"\\frac{{{above}}}{{{below}}}"
