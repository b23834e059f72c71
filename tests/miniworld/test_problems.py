"""Every step of every problem is true, the verifier notices when one is not, and the splits share nothing."""

import copy
import re

import pytest
from bases import textbook
from solutions_of_problems import solution_is_right

from lmlab.miniworld import calculations, dataset, tasks
from lmlab.miniworld import problems as p
from lmlab.miniworld.grammar import Sampler, stream


def sampled(generate, n, seed="test"):
    rng = Sampler(stream(seed))
    return [generate(rng) for _ in range(n)]


@pytest.mark.parametrize("generate", [p.problem, p.science, p.multi_step_problem])
def test_all_verify(generate):
    assert all(solution_is_right(row) for row in sampled(generate, 2_000))


def corrupted(row):
    """Each with one thing wrong, the final answer adapted where that would give it away."""
    wrong_result = copy.deepcopy(row)
    *rest, value = re.findall(r"\d+", row["steps"][-1])
    wrong_result["steps"][-1] = re.sub(r"= \d+\.", f"= {int(value) + 1}.", row["steps"][-1])
    wrong_result["answer"] = str(int(value) + 1)
    unknown_number = {**row, "steps": ["77 + 1 = 78.", *row["steps"]]}
    wrong_answer = {**row, "answer": str(int(row["answer"]) + 1)}
    no_steps = {**row, "steps": []}
    chatter = {**row, "steps": ["Hm.", *row["steps"]]}
    return [wrong_result, unknown_number, wrong_answer, no_steps, chatter]


def test_corrupted_rows_do_not_verify():
    for row in sampled(p.problem, 500):
        assert solution_is_right(row)
        assert not any(solution_is_right(wrong) for wrong in corrupted(row))


def test_the_conversation_says_what_the_other_fields_say():
    for row in sampled(p.problem, 200):
        user, assistant = (message["content"] for message in row["messages"])
        assert [part["content"] for part in user] == [row["problem"]]
        said = [" ".join(row["steps"]), f"The answer is {row['answer']}."]
        assert [part["content"] for part in assistant] == said


def test_corrupted_science_does_not_verify():
    for row in sampled(p.science, 500):
        assert not solution_is_right({**row, "answer_number": row["answer_number"] + "0"})
        assert not solution_is_right({**row, "solution": re.sub(r"= \d+\.", "= 1.", row["solution"])})


GAIN = re.compile(r"(?:buys|finds|gives (?:him|her)|gets|makes) (\d+) more")
LOSS = re.compile(r"(?:sells|gives|loses|leaves|takes) (\d+) of them")


def solve(text):
    """An independent reading of the problems about one person's things: the words alone decide."""
    first, *others = text.split(". ")
    numbers = [int(n) for n in re.findall(r"\d+", first)]
    grouped = "each" in first
    if others[0].startswith("There are"):
        numbers, grouped = [*numbers, int(re.search(r"\d+", others[0]).group())], True
    value = numbers[0] * numbers[1] if grouped else numbers[0]
    for sentence in others:
        value += sum(int(n) for n in GAIN.findall(sentence)) - sum(int(n) for n in LOSS.findall(sentence))
    return value


@pytest.mark.parametrize(
    "kind",
    [tasks.gain, tasks.lose, tasks.groups, tasks.two_changes, tasks.groups_then_change, *tasks.FOUR_STEP],
)
def test_answers_follow_from_the_words(kind):
    for task in sampled(kind, 500):
        assert solve(task.text) == task.answer, task


def numbers(task):
    return [int(n) for n in re.findall(r"\d+", task.text)]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (tasks.together, lambda a, b: a + b),
        (tasks.difference, lambda a, b: a - b),
        (tasks.rate, lambda each, days: each * days),
        (tasks.price, lambda each, n: each * n),
        (tasks.compare_then_together, lambda a, more: a + a + more),
        (tasks.change_money, lambda money, n, each: money - n * each),
        (tasks.two_prices, lambda n, each, cost: n * each + cost),
    ],
)
def test_answers_follow_from_the_numbers(kind, answer):
    for task in sampled(kind, 500):
        assert answer(*numbers(task)) == task.answer, task


def test_more_or_fewer_and_returns():
    for task in sampled(tasks.more_or_fewer, 300):
        a, b = numbers(task)
        assert task.answer == (a + b if "more than" in task.facts[-1] else a - b)
    for task in sampled(tasks.rate_then_change, 300):
        each, days, n = numbers(task)
        assert task.answer == each * days + (n if "more" in task.facts[-1] else -n)


def test_numbers_stay_small():
    for row in sampled(p.problem, 2_000):
        for sign, c in re.findall(r"\d+ ([+\-x]) \d+ = (\d+)\.", " ".join(row["steps"])):
            assert 0 <= int(c) <= (45 if sign == "x" else 40)
        assert len(row["steps"]) <= 2


def test_multi_step_problems_have_one_to_four_steps_and_small_numbers():
    rows = sampled(p.multi_step_problem, 2_000)
    counts = [len(row["steps"]) for row in rows]
    assert set(counts) == {1, 2, 3, 4} and 0.28 < counts.count(3) / len(counts) < 0.38
    for row in rows:
        for result in re.findall(r"= (\d+)\.", " ".join(row["steps"])):
            assert 0 <= int(result) <= 45


def test_many_distinct_problems():
    assert len({row["problem"] for row in sampled(p.problem, 10_000)}) > 9_500


@pytest.mark.parametrize(
    "name, key", [("problems", "problem"), ("distracting-problems", "problem"), ("science", "problem_text")]
)
def test_splits_are_disjoint_for_all_seeds(name, key):
    train = {row[key] for row in dataset(name, "train", 500, seed=0)}
    validation = {row[key] for seed in (0, 1) for row in dataset(name, "validation", 200, seed)}
    assert len(train) == 500 and not train & validation


def test_layout():
    row = dataset("problems", "train", 1)[0]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert row["messages"][1]["content"][-1].keys() == {"type", "content"}
    row = dataset("science", "train", 1)[0]
    assert {"problem_text", "answer_number", "unit", "source", "problemid", "solution"} <= set(row)


def test_textbook_has_true_steps_but_neither_format_nor_validation_problems():
    validation = {row["problem"] for row in dataset("problems", "validation", 1_500)}
    for text in sampled(textbook.textbook, 1_500):
        steps = re.findall(r"(\d+) ([+\-x/]) (\d+) = (\d+)\.", text)
        assert steps
        assert all(
            calculations.step(int(a), sign, int(b)) == f"{a} {sign} {b} = {c}." for a, sign, b, c in steps
        )
        assert "<think>" not in text
        assert "The answer is" not in text
        assert text.split("?")[0] + "?" not in validation


def test_distracting_sentence_is_needed_for_nothing():
    """The last fact is somebody else's, and without it the steps still solve the problem."""
    for row in sampled(p.distracting_problem, 500):
        assert solution_is_right(row)
        *facts, question = re.split(r"(?<=\.) ", row["problem"])
        needless, text = facts[-1], " ".join((*facts[:-1], question))
        assert re.fullmatch(r"\w+ has \d+ \w+\.", needless), row["problem"]
        assert needless.split()[0] not in text, row["problem"]
        assert solution_is_right({**row, "problem": text}), row["problem"]


def test_distracting_problems_have_names_where_a_pronoun_could_mean_two_people():
    rows = sampled(p.distracting_problem, 1_000)
    assert not any(re.search(r"\b(he|she|him|her|they)\b", row["problem"], re.IGNORECASE) for row in rows)
    n_changes = 0
    for row in rows:
        *facts, question = re.split(r"(?<=\.) ", row["problem"])
        asked = re.fullmatch(r"How many \w+ does (\w+) have now\?", question)
        if asked is None:
            continue
        # what is somebody's own is said with their name, or of what the sentence before has just named
        others = [
            fact for fact in facts if asked[1] not in fact and not re.search(r"of them|There are", fact)
        ]
        assert len(others) == 1 and re.fullmatch(r"\w+ has \d+ \w+\.", others[0]), row["problem"]
        n_changes += 1
    assert n_changes > 300
    assert any(re.search(r"do \w+ and \w+ have together\?", row["problem"]) for row in rows)
