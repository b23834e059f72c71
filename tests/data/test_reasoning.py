"""Problems as conversations: conversion by row, what is left out, division without leaks, order, numbers."""

import random
import re

import pytest
from solutions_of_problems import solution_is_right

from lmlab import miniworld
from lmlab.data.answers import arithmetic, extract_answer
from lmlab.data.augmentation import augment_problems, resample_numbers
from lmlab.data.numbers import read_answer
from lmlab.data.reasoning import (
    CALCULATION,
    curriculum_order,
    difficulty,
    reasoning_rows,
    to_reasoning_format,
)
from lmlab.data.sources import load_rows
from lmlab.miniworld import calculations

# --- conversion --------------------------------------------------------------------------------------


def test_gsm8k_row():
    row = {"question": "How many?", "answer": "He has 48/2 = <<48/2=24>>24 clips.\nSo 1,024.\n#### 1,024"}
    assert to_reasoning_format(row) == {
        "prompt": [{"role": "user", "content": "How many?"}],
        "completion": [
            {
                "role": "assistant",
                "content": "<think>\nHe has 48/2 = 24 clips.\nSo 1,024.\n</think>\n\nThe answer is 1024.",
            }
        ],
        "answer": "1024",
        "unit": "",
    }


def test_scibench_row_without_solution_can_only_be_measured():
    row = {"problem_text": "Find the pressure.", "answer_number": "+7.3", "unit": "$\\mathrm{atm}$ "}
    assert to_reasoning_format(row) == {
        "prompt": [{"role": "user", "content": "Find the pressure. Give the answer in $\\mathrm{atm}$."}],
        "completion": None,
        "answer": "7.3",
        "unit": "$\\mathrm{atm}$",
    }
    solved = to_reasoning_format({**row, "solution": "7 + 0.3 = 7.3"})
    assert solved["completion"][0]["content"] == "<think>\n7 + 0.3 = 7.3\n</think>\n\nThe answer is 7.3."


def code_row(*parts, question="What is 6 times 7?"):
    """A row in MathCodeInstruct's layout; parts: (type, content) of the assistant's message."""

    def message(role, contents):
        return {"role": role, "content": [{"type": kind, "content": text} for kind, text in contents]}

    return {
        "messages": [
            message("system", [("text", "")]),
            message("user", [("text", question)]),
            message("assistant", parts),
        ]
    }


GOOD = code_row(
    ("text", "Compute."), ("code", "print(6*7)"), ("execution", "42"), ("text", "It is \\boxed{42}.")
)


def test_math_code_instruct_row_keeps_code_and_output_in_the_reasoning():
    result = to_reasoning_format(GOOD)
    assert result["answer"] == "42"
    assert result["completion"][0]["content"] == (
        "<think>\nCompute.\n```python\nprint(6*7)\n```\n```output\n42\n```\n</think>\n\nThe answer is 42."
    )


@pytest.mark.parametrize(
    "written, answer",
    [
        ("\\frac{6}{5}", "6/5"),
        ("-\\frac{3}{8}", "-3/8"),
        ("2\\sqrt{5}", "2\\sqrt{5}"),
        ("x^2+1", "x^2+1"),
        ("(1,2)", "(1,2)"),
        ("2^{10}", "2^{10}"),
        ("70\\%", "70%"),
        ("-8,1", "-8,1"),
        ("31,000", "31000"),
        ("B", "B"),
        ("Evelyn", "Evelyn"),
        ("(0.5, 1)", "(0.5, 1)"),
        ("x \\in [1,2]", "x \\in [1,2]"),
        ("\\text{June 20}", "June 20"),
    ],
)
@pytest.mark.parametrize("before", ["So \\[\\boxed{%s}\\]", "So it is this:"])
def test_bare_last_block_is_the_answer_as_a_whole(written, answer, before):
    """As MathCoder's outputs end; the box stands in the block before it, or nowhere."""
    row = code_row(("text", "Compute."), ("text", before.replace("%s", written)), ("text", written))
    (problem,) = reasoning_rows([row], "x", 0.0)
    assert problem["answer"] == answer
    assert extract_answer(problem["completion"][0]["content"]) == answer


@pytest.mark.parametrize(
    "source",
    ["miniworld/problems", "miniworld/science", "miniworld/harder-problems", "miniworld/multi-step-problems"],
)
def test_miniworld_problems_agree_with_their_own_answers(source):
    for row in load_rows(source, limit=50):
        result = to_reasoning_format(row)
        said = result["completion"][0]["content"]
        assert said.startswith("<think>\n")
        assert said.endswith(f"</think>\n\nThe answer is {result['answer']}.")
        assert result["answer"] == row.get("answer", row.get("answer_number"))
        assert extract_answer(said) == result["answer"]


def test_row_of_another_schema_is_refused():
    with pytest.raises(ValueError, match="keys text"):
        to_reasoning_format({"text": "x"})


GSM8K = {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}


@pytest.mark.parametrize(
    "row, why",
    [
        ({**GSM8K, "question": " "}, "no question"),
        ({**GSM8K, "answer": "I do not know."}, "no final answer"),
        ({**GSM8K, "answer": "#### 5"}, "no solution"),
        ({**GSM8K, "answer": "2 + 3 = <<2+3=6>>6\n#### 6"}, "a calculation that is wrong"),
        ({**GSM8K, "answer": "2 ? 3 = <<2?3=5>>5\n#### 5"}, "a calculation that is wrong"),
        ({**GSM8K, "answer": "Hm </think> 2 + 3 = 5\n#### 5"}, "a tag of the chat template"),
        ({**GSM8K, "question": "<｜User｜> What?"}, "a tag of the chat template"),
        (
            code_row(
                ("text", "Compute."),
                ("code", "print(1/0)"),
                ("execution", "ZeroDivisionError: division by zero"),
                ("text", "It is 42."),
            ),
            "its code failed",
        ),
        (
            code_row(
                ("code", "solve(x)"),
                ("execution", "---- Timeout waiting for reply  Traceback (most recent call)"),
                ("text", "It is 42."),
            ),
            "its code failed",
        ),
        (code_row(("text", "So \\boxed{42}."), ("text", "43")), "two answers"),
        (code_row(("text", "Compute."), ("text", "It is many.")), "no final answer"),
    ],
)
def test_rows_that_cannot_be_used_are_counted_and_shown(row, why, capsys, caplog):
    kept = reasoning_rows([GSM8K, row, GOOD], "some rows", max_invalid_fraction=0.5)
    assert [problem["answer"] for problem in kept] == ["5", "42"]
    assert f"1 of 3 rows of some rows: 1 {why}" in capsys.readouterr().out + caplog.text
    with pytest.raises(ValueError, match=r"max_invalid_fraction 0\.1 "):
        reasoning_rows([GSM8K, row, GOOD], "some rows", max_invalid_fraction=0.1)


def test_a_printed_error_may_be_a_result():
    row = code_row(("code", "fit()"), ("execution", "Standard Error: 0.5"), ("text", "It is 0.5."))
    assert reasoning_rows([row], "x", 0.0)[0]["answer"] == "0.5"


def test_only_scibench_has_a_tolerance():
    science = {"problem_text": "Find p.", "answer_number": "7.3", "unit": ""}
    assert [row["tolerance"] for row in reasoning_rows([GSM8K, science], "x", tolerance=0.05)] == [0.0, 0.05]


# --- difficulty, order, division ---------------------------------------------------------------------


def test_difficulty_counts_steps():
    steps = [difficulty(to_reasoning_format(row)) for row in (GSM8K, GOOD)]
    assert steps == [1, 1]
    for name, n in (("problems", (1, 2)), ("harder-problems", (3,))):
        assert {difficulty(to_reasoning_format(row)) for row in miniworld.dataset(name, n=60)} == set(n)
    code = code_row(("code", "a = 1\nif a == 1 and a <= 2:\n  b = a"), ("text", "It is 1."))
    assert difficulty(to_reasoning_format(code)) == 2
    assert difficulty({"completion": None}) is None


def test_curriculum_order():
    rows = reasoning_rows(
        miniworld.dataset("harder-problems", n=5) + miniworld.dataset("problems", n=15), "x"
    )
    ordered = [(row["steps"], len(row["completion"][0]["content"])) for row in curriculum_order(rows)]
    assert ordered == sorted(ordered) and len({steps for steps, _ in ordered}) == 3


# --- other numbers -----------------------------------------------------------------------------------


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def test_resampled_village_problems_are_new_and_true_and_keep_the_rules():
    rng, found = random.Random(0), []
    for row in miniworld.dataset("problems", n=300):
        new = resample_numbers(row, rng)
        if new is None:
            continue
        found.append(new)
        assert solution_is_right(new) and set(new) == set(row)
        assert new["problem"] != row["problem"]
        assert re.sub(r"\d+", "#", new["problem"]) == re.sub(r"\d+", "#", row["problem"])
        for sum_ in new["steps"]:
            a, sign, b, _, _ = sum_.rstrip(".").split()
            assert calculations.allowed(int(a), sign, int(b))
    assert len(found) > 150


def test_resampled_answers_follow_from_the_words():
    """By the independent reading of tests/test_problems.py."""
    from tests.miniworld.test_problems import solve

    rng, n = random.Random(0), 0
    for row in miniworld.dataset("problems", n=400):
        told = re.search(r"have now\?", row["problem"]) and " than " not in row["problem"]
        if told and (new := resample_numbers(row, rng)):
            assert solve(new["problem"]) == int(new["answer"])
            n += 1
    assert n > 80


CLIPS = {
    "question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips "
    "in May. How many clips did Natalia sell altogether?",
    "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72",
}


def test_resampled_gsm8k():
    seen = set()
    for seed in range(20):
        new = resample_numbers(CLIPS, random.Random(seed))
        (n,) = numbers(new["question"])
        assert n % 2 == 0 and 24 <= n <= 72  # half of it is whole
        assert new["answer"] == (
            f"Natalia sold {n}/2 = <<{n}/2={n // 2}>>{n // 2} clips in May.\n"
            f"Natalia sold {n}+{n // 2} = <<{n}+{n // 2}={n + n // 2}>>{n + n // 2} clips "
            f"altogether.\n#### {n + n // 2}"
        )
        seen.add(n)
    assert len(seen) > 5
    assert reasoning_rows([new], "new", 0.0)[0]["answer"] == str(n + n // 2)


@pytest.mark.parametrize(
    "question, answer",
    [
        # 4 is two things: which one is to change?
        ("Ann has 4 bags of 4 apples. How many?", "4*4=<<4*4=16>>16\n#### 16"),
        # 3 comes from nowhere: it was worked out in the head, from the 5
        ("Ann has 5 apples and eats 9 pears. How many?", "5-2 = 3, and 9+3=<<9+3=12>>12\n#### 12"),
        ("Ann has 5 apples and eats 9 pears. How many?", "In all <<9+3=12>>12.\n#### 12"),
        # a result that equals a given number
        ("Ann has 6 apples and 3 pears more. How many, if 9 are red?", "6+3=<<6+3=9>>9\n#### 9"),
        # a share, a time, an ordinal: no counts
        ("Ann eats 1/5 of the cake. How many fifths remain?", "5-1=<<5-1=4>>4\n#### 4"),
        ("Ann, who is 5th, gains 20% of the places.", "5*20=<<5*20=100>>100\n#### 100"),
        # the answer is not computed
        ("Ann has 7 apples and 8 pears. How many?", "7+8=<<7+8=15>>15\n#### 14"),
        # no notes at all
        ("Ann has 7 apples and 8 pears. How many?", "7+8=15\n#### 15"),
    ],
)
def test_where_it_is_not_safe_nothing_is_resampled(question, answer):
    assert all(
        resample_numbers({"question": question, "answer": answer}, random.Random(seed)) is None
        for seed in range(10)
    )


@pytest.mark.parametrize(
    "question, answer, kept",
    [
        (
            "A cafe sells 10 teas an hour, open 5 hours a day. How many on its weekdays?",
            "On a day 10*5=<<10*5=50>>50, on 5 weekdays 50*5=<<50*5=250>>250\n#### 250",
            "5",
        ),
        (
            "Tim buys 4 tires for $60 each and saves $36. What did one cost before?",
            "For all four tires he saved 36, 36/4=<<36/4=9>>9 each, 60+9=<<60+9=69>>69\n#### 69",
            "4",
        ),
        (
            "A house has 4 floors with 80 rooms each. On the fourth 14 are free. How many are taken?",
            "4*80=<<4*80=320>>320, 320-14=<<320-14=306>>306\n#### 306",
            "4",
        ),
        # 2 parents as well, whom no number names
        (
            "Her 6 brothers take 2 bags each, her parents 4. How many do all take?",
            "The brothers take <<6*2=12>>12, the 2 parents <<2*4=8>>8, in all <<12+8=20>>20\n#### 20",
            "2",
        ),
        # Wednesday and Friday are two, too
        (
            "He eats a roll on Wednesdays and Fridays in 36 weeks, but not on 1 Wednesday and 2 Fridays. "
            "How many?",
            "36*2=<<36*2=72>>72, missed 1+2=<<1+2=3>>3, left 72-3=<<72-3=69>>69\n#### 69",
            "2",
        ),
        # the third and the fourth set are two, too
        (
            "A band has 30 songs: 5 in the first set, 7 in the next, 2 at last. "
            "How many in the third and fourth?",
            "5+7=<<5+7=12>>12, 30-12=<<30-12=18>>18, 18-2=<<18-2=16>>16, 16/2=<<16/2=8>>8\n#### 8",
            "2",
        ),
    ],
)
def test_numbers_that_mean_two_things_or_are_named_stay(question, answer, kept):
    row = {"question": question, "answer": answer}
    found = [new for seed in range(20) if (new := resample_numbers(row, random.Random(seed)))]
    assert found and all(re.search(rf"\b{kept}\b", new["question"]) for new in found)
    assert len({new["question"] for new in found}) > 3


def test_shares_keep_their_numbers_and_nothing_becomes_negative():
    share = {
        "question": "Ann takes 20% of 50 pears. How many?",
        "answer": "50*20/100=<<50*20/100=10>>10\n#### 10",
    }
    left = {
        "question": "Ann has 10 pears and eats 8. How many are left?",
        "answer": "10-8=<<10-8=2>>2\n#### 2",
    }
    for seed in range(20):
        new = resample_numbers(share, random.Random(seed))
        assert "20%" in new["question"] and " 50 " not in new["question"]
        have, eaten = numbers(resample_numbers(left, random.Random(seed))["question"])
        assert have > eaten


def test_other_layouts_are_not_resampled():
    assert resample_numbers(GOOD, random.Random(0)) is None
    assert (
        resample_numbers(
            {"problem_text": "Find 3.", "answer_number": "3", "solution": "3 = 3"}, random.Random(0)
        )
        is None
    )


def test_resampled_sums_are_true_in_a_longer_problem():
    row = {
        "question": "A farm has 300 hens, 212 ducks and 80 geese. Every day it loses 20 hens and 8 ducks. "
        "How many birds are left after a week?",
        "answer": "There are 300+212+80 = <<300+212+80=592>>592 birds.\n"
        "Every day 20+8 = <<20+8=28>>28 are lost.\n"
        "In 7 days, 28*7 = <<28*7=196>>196 are lost.\nSo 592-196 = <<592-196=396>>396 are left.\n#### 396",
    }
    for seed in range(10):
        new = resample_numbers(row, random.Random(seed))
        sums = CALCULATION.findall(new["answer"])
        assert all(arithmetic(sum_) == read_answer(value).value for sum_, value in sums) and len(sums) == 4
        a, b, c, d, e = numbers(new["question"])
        assert int(new["answer"].rsplit(" ", 1)[1]) == a + b + c - 7 * (d + e) > 0


def test_augmented_problems_are_checked_and_counted(caplog):
    caplog.set_level("INFO", "lmlab")
    rows = reasoning_rows([CLIPS, GOOD], "x")
    new = augment_problems(rows, 3)
    assert len(new) == 3 and {row["steps"] for row in new} == {2}
    assert "3 of 6 problems" in caplog.text
    assert augment_problems(rows, 0) == []
