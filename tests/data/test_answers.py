"""The answer checker: what it reads, what it holds to be the same, and that nothing it is given is run."""

import time

import pytest

from lmlab.data.answers import answers_match, arithmetic, extract_answer, grade_response, majority_vote
from lmlab.data.numbers import read_answer


def cells(table: str, between: str | None = None) -> list:
    """The cells of a table; with what stands between the two parts of each: pairs of these, - for None."""
    found = [cell for line in table.strip().splitlines() for cell in line.split(" | ")]
    if between is None:
        return found
    return [tuple(None if part == "-" else part for part in cell.split(between)) for cell in found]


NUMBERS = r"""
12 -> 12 | -3 -> -3 | +7.3 -> 7.3 | −1.5 -> -1.5 | .5 -> 1/2 | 12. -> 12 | 1,234.50 -> 1234.5
1{,}000 -> 1000 | 1,234,567 -> 1234567 | 3/4 -> 3/4 | -3 / 4 -> -3/4 | 2 1/2 -> 5/2 | -2 1/2 -> -5/2
0.5/2 -> 1/4 | \frac{3}{4} -> 3/4 | \dfrac{-3}{4} -> -3/4 | \frac34 -> 3/4 | 2\frac{1}{2} -> 5/2
1.5e-3 -> 0.0015 | 1.5E3 -> 1500 | 1.5 \times 10^{-3} -> 0.0015 | 3x10^4 -> 30000 | 2 \cdot 10^2 -> 200
15% -> 15 | 15\% -> 15 | 15 percent -> 15 | $12 -> 12 | \$12.50 -> 12.5 | €3 -> 3 | 12 dollars -> 12
5 km -> 5 | 5 km/h -> 5 | 5 green apples -> 5 | 3.2\text{ cm}^2 -> 3.2 | 90^\circ -> 90 | 20° -> 20
9.8 \mathrm{~m} / \mathrm{s}^2 -> 9.8 | 5\,\mathrm{kg} -> 5 | **12** -> 12 | $\boxed{\frac{1}{2}}$. -> 1/2
\(7\) -> 7
"""


@pytest.mark.parametrize("text, value", cells(NUMBERS, " -> "))
def test_numbers_are_read(text, value):
    from fractions import Fraction

    assert read_answer(text).value == Fraction(value)


NO_NUMBERS = r"""
abc | 2x | 3\pi | 2i | 3 to 5 | 3:2 | 1/2/3 | 1/0 | \frac{1}{0} | 12,34 | 2,5 | (1,2) | 2\sqrt{5} | 1e999
1e99999999999 | 5+3 | __import__('os')
"""


@pytest.mark.parametrize("text", ["", "9" * 80, *cells(NO_NUMBERS)])
def test_what_is_no_number_is_not_read_as_one(text):
    assert read_answer(text).value is None


FOUND = r"""
The answer is 12. => 12 | The answer is $1,200.50. => $1200.50 | #### 72 => 72 | #### 1,080 => 1080
so \boxed{-3} it is => -3 | 13 - 5 = 8. So 8 books => 8 | 13-5 => 13-5 | from 3 to -4 => -
it takes 1.5e-3 s => 1.5e-3 s | the answer is 1/2 => 1/2 | +7.3 => 7.3 | it is −5 => -5
−1.642876 => -1.642876 | The answer is –5 m. => -5 m | The answer is 3 + 4 = 7. => 7
The answer is $2^{10} = 1024$. => 1024 | \boxed{3 + 4 = 7} => 7 | The answer is x = 3. => 3
\boxed{2x - 3y = 5} => 2x - 3y = 5 | \boxed{x = 3, y = 4} => x = 3, y = 4
The answer is 1,000 + 2 = 1,002. => 1002 | The answer is 50% of 20 = 10. => 10
The answer is (0.5, 1). => (0.5, 1) | The answer is $\boxed{x \in [1,2]}$. => x \in [1,2]
The answer is 20 km/h. => 20 km/h | The answer is 7, and we are done. => 7
The answer is 7 and that is it => 7 | The answer is 7 because 3 and 4 make 7. => 7
The answer is 7 (seven). => 7 | The answer is 10 a day. => 10 | \boxed{2_{5}} => 2_{5} | .5 => .5
The answer is 5. The answer is 6. => 5 | \boxed{3}, no, \boxed{4} => 4
\boxed{\frac{1}{\frac{2}{3}}} => \frac{1}{\frac{2}{3}} | The answer is $2\sqrt{5}$. => 2\sqrt{5}
The answer is 2x. => 2x | The answer is (1, 2). => (1, 2) | The answer is 5 km. => 5 km
The answer is 15%. => 15% | Final answer: **7** => 7 | The answer is unknown. => - | nothing => -
\boxed{ => - | 2\sqrt{5} => 2\sqrt{5} | (0.5, 1) => (0.5, 1) | 2x+3 => 2x+3
"""


FOUND_ELSEWHERE = [
    ("3 + 4 = 7.\n</think>\n\nThe answer is 8.", "8"),
    ("The answer is 7.\n</think>\n\nWell.", None),
    ("", None),
]


@pytest.mark.parametrize("text, answer", [*cells(FOUND, " => "), *FOUND_ELSEWHERE])
def test_the_answer_is_found(text, answer):
    assert extract_answer(text) == answer


SAME = r"""
0.50 == 1/2 | 1e3 == 1,000 | 7 == 7.0 | 2.5 == 2\frac12 | -0 == 0 | 50% == 0.5 | 50% == 50 | 0.5 == 50%
50 == 50% | 5 km == 5000 m | 90 minutes == 1.5 hours | 250 cents == 2.50 dollars | 5 == 5 km | 5 apples == 5
2\sqrt{5} == \sqrt{20} | x^2+1 == 1+x^2 | (1,2) == (1, 2) | \frac{\sqrt{3}}{3} == \frac{1}{\sqrt{3}}
Yes == yes | 5 million == 5000000 | 8 dozen == 96 | $5 million == 5,000,000 dollars | 5 times == 5
36 km/h == 10 m/s | 20 km/h == 20 \mathrm{~km} / \mathrm{h} | 10 meters per second == 10 m/s
5 cm^2 == 0.0005 m^2 | 479 N \cdot m^{-1} == 479 | 1000 \Omega == 1000 | 1000 \Omega == 1 kΩ
5 cents == $0.05 | \$5.00 == 500 cents | $5$ == 5 cents | 1 J == 1 N \cdot m | 2 feet == 24 inches
1 week == 7 days | $5/hour == $5 per hour | $5 per week == $5/week
5 Kilometers == 5 km | 3 \mu \mathrm{C} == 0.003 mC | 5 J/mol K == 5 kJ/mol
"""


@pytest.mark.parametrize("given, expected", cells(SAME, " == "))
def test_the_same_answers(given, expected):
    assert answers_match(given, expected)


DIFFERENT = r"""
7 != 8 | -3 != 3 | 1/3 != 0.33 | 5000% != 50% | 5 km != 5 kg | 5 km != 5 m | 1.200 != 1,200
2\sqrt{5} != 2\sqrt{3} | no != yes | 1/0 != 1 | 2x != 2 | 5 million != 5 | 5 and a half != 5 | 8 dozen != 8
5 plus three != 5 | 5 squared != 5 | 3 or 5 != 3 | 5 to 6 != 5 | 20 km/h != 20 m/s | 5 cm^2 != 5 m^2
5 m^2 != 5 m | $5 != 5 cents | 5 M != 5 m | 5 kJ mol^{-1} != 5 J mol^{-1} | 1 1 != 11 | 3 4 != 34
3 hours 30 minutes != 3 hours
"""


@pytest.mark.parametrize("given, expected", cells(DIFFERENT, " != "))
def test_different_answers(given, expected):
    assert not answers_match(given, expected)


def test_no_answer_matches_none():
    for given, expected in ((None, "7"), ("7", None), (None, None)):
        assert not answers_match(given, expected)


def test_tolerance_is_relative_and_does_not_reach_over_the_sign():
    assert answers_match("102", "100", 0.05) and not answers_match("106", "100", 0.05)
    assert not answers_match("-100", "100", 0.05)
    assert answers_match("0", "0", 0.05) and not answers_match("0.001", "0", 0.05)


def test_units_that_stand_apart_as_in_scibench():
    unit = "$10^{-4} \\mathrm{~cm}^3$"
    assert answers_match("1.19", "1.19", unit=unit) and answers_match(
        "1.19 \\times 10^{-4}", "1.19", unit=unit
    )
    assert not answers_match("1.19e-3", "1.19", unit=unit)
    assert answers_match("0.151", "15.1", unit="%") and answers_match("15.1%", "15.1", unit="%")
    assert answers_match("300 cm", "3", unit="m") and not answers_match("3 kg", "3", unit="m")
    assert answers_match("72 km/h", "20", unit="$m/s$") and not answers_match("20 km/h", "20", unit="$m/s$")
    assert answers_match("479", "479", unit="$\\mathrm{~N} \\cdot \\mathrm{m}^{-1}$")
    assert answers_match("2\\pi", "6.28", 0.05, "m") and not answers_match("2\\pi", "7", 0.05)


REFERENCE = cells(r"""
12 | -3 | 1,234 | 3/4 | \frac{3}{4} | 0.75 | 2\frac{1}{2} | 2.5 | -\frac{1}{2} | 1000 | 1.5 \times 10^{-3}
0.0015 | 12 \text{ km} | 50\%
""")


@pytest.mark.slow
def test_numbers_against_math_verify():
    """Each of the forms against each, as math-verify has it."""
    from math_verify import LatexExtractionConfig, parse, verify

    read = [parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback") for text in REFERENCE]
    for a, theirs in zip(REFERENCE, read, strict=True):
        for b, others in zip(REFERENCE, read, strict=True):
            assert answers_match(a, b) == verify(others, theirs), (a, b)


FORMULAS = cells(r"""
2\sqrt{5} | \sqrt{20} | \frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}} | (x+1)^2 | x^2+2x+1 | x^2-1 | 0.75\pi
\frac{3\pi}{4} | 6-5i | -5i+6 | (1,2) | (2,1) | [1,2) | 3^{10} | 59049 | 2\sqrt[3]{2} | \sqrt[3]{16} | 4,-2
-2,4 | 1+\sqrt2,1-\sqrt2 | 1\pm\sqrt2 | y=2x+1 | y=1+2x | \sin(2x)
""")


@pytest.mark.slow
def test_formulas_against_math_verify():
    """Each against those near it, as an algebra program has it."""
    from math_verify import LatexExtractionConfig, parse, verify

    read = [parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback") for text in FORMULAS]
    for i, a in enumerate(FORMULAS):
        for j in range(max(0, i - 3), min(len(FORMULAS), i + 4)):
            assert answers_match(a, FORMULAS[j]) == verify(read[j], read[i]), (a, FORMULAS[j])


SAME_FORMULAS = r"""
2**10 == 1024 | sqrt(20) == 2\sqrt{5} | 1\frac12\pi == \frac{3\pi}{2} | \{1,2\} == \{2, 1\}
x=1 \text{ or } x=2 == 2, 1 | x \in [1,2] == [1, 2] | x = 3 == 3 | x+y=3 == 3=y+x
(-\infty,1)\cup(2,\infty) == (2,\infty) \cup (-\infty, 1) | |x| == |-x|
e^{i\pi} == -1 | x^{10} == x^10 | 2^{100}+1 == 1 + 2^{100} | x == 2x-x
"""


@pytest.mark.parametrize("given, expected", cells(SAME_FORMULAS, " == "))
def test_the_same_formulas(given, expected):
    assert answers_match(given, expected) and answers_match(expected, given)


DIFFERENT_FORMULAS = r"""
2**10 != 210 | 9**9 != 99 | 2^{100}+1 != 2^{100} | no != on | (1,2) != (2,1) | [1,2] != (1,2)
\{1,2\} != (1,2) | 1,1,2 != 1,2,2 | \sqrt{x^2} != x | |x| != x | x != y | x+y=3 != x+y=4 | 1, 2 != 1
\{1\} 2 != \{3\} 2
"""


@pytest.mark.parametrize("given, expected", cells(DIFFERENT_FORMULAS, " != "))
def test_different_formulas(given, expected):
    assert not answers_match(given, expected) and not answers_match(expected, given)


def test_a_formula_that_is_too_long_is_not_read():
    assert not answers_match("x" + "+1" * 99, "x+99") and not answers_match("x+99", "x" + "+1" * 99)


HOSTILE = [
    "9^{9^{9}}",
    "(9^{99})^{99}",
    "10000000!",
    "\\int_0^1 x^{99999} dx",
    "2^{2^{2^{2^{9}}}}",
    "((((((((9^9)^9)^9)^9)^9)^9)^9)^9)",
    "(x+1)^9(x+2)^9(x+3)^9(y+1)^9(z+1)^9(w+1)^9(x+4)^9(y+2)^9",
    "(a+b+c+d+e+f+g+h)^9",
    "\\frac{1}{(x+y+z)^4}+\\frac{1}{(a+b+c)^4}+\\frac{1}{(u+v)^4}",
    "(" * 119,
    "(" * 59 + "1" + ")" * 59,
    "\\sqrt" * 23,
    "\\sqrt{" * 15 + "2" + "}" * 15,
    "9^{300}" * 17,
    "1\\pm" * 24,
    ",".join("1" * 60),
    "((1,1),(1,1))," * 8,
    "|x" * 60,
    "-" * 119 + "1",
    "e^{999}-e^{999}",
    "0^{-1}",
    "\\ln 0",
    "{" * 5000,
    "$" * 5000,
    "1," * 2000,
    "1/" * 2000,
    "\\text{" * 2000,
    "5 " + "km " * 2000,
    "1" * 5000,
    "99!^{99!^{99!}}",
    "(99!)^{99!}",
    "100!" * 20,
    "!" * 100,
    "\\boxed{" * 2000,
    "½" * 2000,
    "⁹" * 2000,
    "1 000" * 800,
    "and so " * 5000,
    "5 and " * 5000,
    "x=1," * 30,
    "1<" * 59 + "2",
    "0." + "9" * 50 + "(" + "9" * 50 + ")",
    "\\text{\\text{" * 900,
    "\\sin " * 19 + "x",
    "2 km " * 199,
    "5 or " * 3000,
    "-" * 5000,
    "\\frac{" * 900,
    "0.(3)" * 20,
    "\\begin{pmatrix}" * 7,
    "1&" * 55,
    "\\frac{1}{2} or " * 60,
    "ﷺ" * 900,
    "1,000," * 800,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:20])
def test_what_would_take_for_ever_is_not_computed(text):
    """An algebra program takes minutes over some of these, deep in C, where no signal reaches it."""
    began = time.process_time()
    for other in ("\\sqrt{2}", "7", "\\{2, 3\\}"):
        assert not answers_match(text, other) and not answers_match(other, text)
        assert not grade_response(f"r</think>The answer is {text}", other)["correct"]
        assert not grade_response(f"r</think>\\boxed{{{text}}}", other)["correct"]
        assert not grade_response(f"r</think>So it is {text}", other)["correct"]
    assert time.process_time() - began < 2


def test_nothing_is_run(tmp_path):
    trap = tmp_path / "made"
    for text in (
        f"open({str(trap)!r}, 'w')",
        f"\\boxed{{open({str(trap)!r},'w')}}",
        f"$__import__('os').mkdir({str(trap)!r})$",
    ):
        answers_match(extract_answer(text), "1")
        answers_match(text, "\\sqrt{2}")
        arithmetic(text)
    assert not trap.exists()


@pytest.mark.parametrize(
    "text, value",
    [
        ("3+4*2", 11),
        ("(3+4)*2", 14),
        ("-3+5", 2),
        ("2--3", 5),
        ("10/4*2", 5),
        ("8-3-2", 3),
        ("1.5x2", 3),
        ("560//10", 56),
        ("1,000*2", 2000),
        ("+7", 7),
        ("1/0", None),
        ("1+", None),
        ("(1", None),
        ("2**3", None),
        ("", None),
        ("a+1", None),
        ("((" * 150, None),
    ],
)
def test_arithmetic(text, value):
    assert arithmetic(text) == value


def test_arithmetic_against_python():
    import random

    rng = random.Random(0)
    for _ in range(300):
        text = "".join(f"{rng.randint(1, 20)}{rng.choice('+-*/')}" for _ in range(rng.randint(1, 6))) + "3"
        text = f"({text})*2" if rng.random() < 0.3 else text
        assert float(arithmetic(text)) == pytest.approx(eval(text))  # our own text


@pytest.mark.parametrize(
    "text, format_valid, correct",
    [
        ("3 + 4 = 7.\n</think>\n\nThe answer is 7.", True, True),
        ("<think>\n3 + 4 = 7.\n</think>\n\nThe answer is 7.", True, True),
        ("3 + 4 = 7.\n</think>\n\nSo \\boxed{7}.", True, True),
        ("3 + 4 = 8.\n</think>\n\nThe answer is 8.", True, False),
        ("3 + 4 = 7. So 7 books", False, True),
        ("</think>\n\nThe answer is 7.", False, True),
        ("a</think>The answer is 7.</think>", False, False),
        ("a\n</think>\n\nThe answer is unknown.", False, False),
        ("a <think> b\n</think>\n\nThe answer is 7.", False, True),
        ("", False, False),
    ],
)
def test_grade_response(text, format_valid, correct):
    assert grade_response(text, "7") == {"format_valid": format_valid, "correct": correct}


def test_majority_vote():
    assert majority_vote(["3", "1/2", "0.5", None]) == "1/2"
    assert majority_vote(["3", "4"]) == "3"
    assert majority_vote([None, None]) is None and majority_vote([]) is None


def test_no_algebra_program_is_loaded():
    """It takes a second, and has no bound on what it computes."""
    import subprocess
    import sys

    code = (
        "import sys; from lmlab.data.answers import answers_match; answers_match('2^x', '(x)')\n"
        "print('sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
