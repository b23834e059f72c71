"""Exercises: solutions pass, stubs are not yet answers, wrong answers learn what is off, nothing raises."""

import collections
import math
import random
import re
import statistics
import sys
from pathlib import Path

import nbformat
import pytest
import torch

import lmlab
from lmlab import exercises
from lmlab.data.dedup import normalize_text
from lmlab.exercises import EXERCISES, lesson_04
from lmlab.exercises.judging import show
from lmlab.recipes import LESSONS

PROJECT = Path(__file__).resolve().parents[2]

SOLUTIONS = PROJECT / "notebooks" / "solutions" / "solutions.ipynb"
CHECK = re.compile(r'^lmlab\.check\("([^"]+)", (\w+)\)$', re.MULTILINE)


@pytest.fixture(autouse=True)
def no_hint_is_open(monkeypatch):
    monkeypatch.setattr(exercises, "_opened", {})


def code_cells(path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def named_in(cells: list[str]) -> list[str]:
    return [name for cell in cells for name, _ in CHECK.findall(cell)]


# --- the set -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_lesson_asks_what_is_judged_and_no_more(lesson):
    asked = named_in(code_cells(PROJECT / "notebooks" / f"{lesson}.ipynb"))
    assert asked == [name for name in EXERCISES if name.startswith(lesson[:2])]
    assert 3 <= len(asked) <= 5


def test_each_exercise_has_a_solution_and_hints():
    assert named_in(code_cells(SOLUTIONS)) == list(EXERCISES)
    assert all(found.hints and found.title for found in EXERCISES.values())


@pytest.mark.parametrize("lesson", LESSONS)
def test_stubs_of_the_notebook_are_not_yet_answers(lesson):
    cells = [cell for cell in code_cells(PROJECT / "notebooks" / f"{lesson}.ipynb") if "lmlab.check(" in cell]
    for cell in cells:
        space = {"lmlab": lmlab}
        exec(cell, space)  # runs in a batch as it stands
        name, variable = CHECK.search(cell).groups()
        verdict = lmlab.check(name, space[variable])
        assert verdict.status == "not yet" and not verdict
        assert not verdict.hints, "a stub is no try"
        assert f'lmlab.hint("{name}")' in verdict.message
        assert ("`return` it" in verdict.message) == callable(space[variable])


@pytest.mark.slow
def test_the_solutions_are_right_and_leave_the_readers_random_numbers_alone():
    space, state, python_state = {}, torch.get_rng_state(), random.getstate()
    for cell in code_cells(SOLUTIONS):
        exec(cell, space)
        for name, variable in CHECK.findall(cell):
            assert lmlab.check(name, space[variable]), name
        assert torch.equal(torch.get_rng_state(), state) and random.getstate() == python_state, cell


def test_gradients_are_judged_where_gradients_are_off():
    with torch.no_grad():
        assert lmlab.check("05.4", lambda x, A, B, scale, g: (scale * (g @ B).T @ x, scale * g.T @ (x @ A.T)))


# --- wrong answers, one or more of each exercise -----------------------------------------------------


def divide_first(rows, seed):
    """The hasty way: splits, then removes repetitions within each part."""
    train, validation = rows[6:], rows[:6]
    return tuple(list({row["modern"].lower(): row for row in part}.values()) for part in (train, validation))


def whole_pairs(rows, seed):
    """Removes only pairs of which both sides repeat."""
    kept = list({(row["modern"].lower(), row["shakespearean"]): row for row in reversed(rows)}.values())
    return kept[24:], kept[:24]


def compared_raw(rows, seed):
    """Removes only what is written the same."""
    kept = list({row["modern"]: row for row in reversed(rows)}.values())
    return kept[8:], kept[:8]


def first_ones(rows):
    seen = {}
    for row in rows:
        seen.setdefault(normalize_text(row["modern"]), row)
    return list(seen.values())


def last_ones(rows):
    kept = first_ones(rows[::-1])
    return kept[4:], kept[:4]


def blind_to_the_seed(rows, seed):
    kept = first_ones(rows)
    return kept[4:], kept[:4]


def forgets_to_return(lengths, max_length):
    if max_length < 8:
        return sum(n >= max_length for n in lengths)
    return None


def off_by_one_place(rows, pad):
    right = lesson_04._collated(rows, pad)
    right["labels"][1, 2] = 7
    return right


def unmasked(q, k, v):
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


def masked_late(q, k, v):
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return weights.tril() @ v


def unshifted(logits, ids):
    return -logits.log_softmax(-1).gather(2, ids[..., None]).mean()


def joint_probabilities(train, validation, vocab_size, added):
    counts = torch.full((vocab_size, vocab_size), float(added))
    for a, b in zip(train, train[1:], strict=False):
        counts[a, b] += 1
    return -(counts / counts.sum()).log()[validation[:-1], validation[1:]].mean()


def careless_padding(rows, pad):
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [pad] * (width - len(row["input_ids"])) for row in rows])
    seen = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    labels = torch.tensor([row["labels"] + [pad] * (width - len(row["labels"])) for row in rows])
    return {"input_ids": ids, "attention_mask": seen, "labels": labels.masked_fill(ids == pad, -100)}


def impatient(losses, patience):
    bad = 0
    for i in range(1, len(losses)):
        bad = 0 if losses[i] < losses[i - 1] else bad + 1
        if bad == patience:
            return i
    return len(losses) - 1


def joined_corpus(text, training, n):
    def runs(words):
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    known = runs(" ".join(training).split())
    return sum(run in known for run in runs(text.split())) / len(runs(text.split()))


def mean_diversity(texts, n):
    def runs(words):
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    return statistics.mean(len(set(runs(text.split()))) / len(runs(text.split())) for text in texts)


def consecutive(documents, eos, length):
    row = [eos, *(token for document in documents for token in [*document, eos])]
    return [row[i : i + length] for i in range(0, len(row) - length + 1, length)]


def divided_by_zero(rewards):
    std = statistics.stdev(rewards)
    return [(r - statistics.mean(rewards)) / std if std else math.nan for r in rewards]


def ablate_with_zeros(heads, h, D):
    ablated = heads.clone()
    ablated[..., h * D : (h + 1) * D] = 0
    return ablated


# exercise, answer, and the key of a known mistake or what else the message says
WRONG = [
    (
        "01.1",
        lambda lengths, fraction: next(
            m for m in range(99) if sum(n >= m for n in lengths) <= fraction * len(lengths)
        ),
        "exact_fit_counted",
    ),
    ("00.1", lambda n, batch, steps, epochs: math.ceil(n * epochs / (batch * steps)), "epochs_joined"),
    ("00.1", lambda n, batch, steps, epochs: n // (batch * steps) * epochs, "last_step_dropped"),
    (
        "00.2",
        lambda rows: [i for i, row in enumerate(rows, 2) if not (row["prompt"] and row["response"])],
        "a list of 5",
    ),
    (
        "00.2",
        lambda rows: [
            i
            for i, row in enumerate(rows)
            if any((value or "").strip().lower() in ("", "n/a", "nan") for value in row.values())
        ],
        "counted_from_zero",
    ),
    ("00.3", lambda low, high: "better" if low + high < 0 else "worse", "mean_alone"),
    ("01.1", lambda lengths, fraction: sorted(lengths)[int(fraction * len(lengths))], "is right"),
    ("01.2", divide_first, "leak"),
    ("01.2", whole_pairs, "leak_with_other_translation"),
    ("01.2", compared_raw, "leak"),
    ("01.2", blind_to_the_seed, "seed_ignored"),
    ("01.2", lambda rows, seed: (rows[:3], []), "rows_lost"),
    ("01.2", lambda rows, seed: rows, "not_two_lists"),
    ("01.2", lambda rows, seed: ([1], ["x"]), "not_rows"),
    ("01.2", lambda rows, seed: (rows, []), "duplicates_left"),
    ("01.2", lambda rows, seed: last_ones(rows), "not_the_first"),
    ("01.2", lambda rows, seed: (first_ones(rows), []), "not_nine_to_one"),
    (
        "01.3",
        lambda a, b: len(set(a.split()) & set(b.split())) / len(set(a.split()) | set(b.split())),
        "raw_texts",
    ),
    ("01.4", lambda lengths, limit: len([n for n in lengths if n > limit]), "eos_forgotten"),
    ("01.4", forgets_to_return, "returns nothing (None)"),
    ("01.5", lambda lengths, size: 1 - statistics.mean(lengths) / max(lengths), "padded_to_longest_of_all"),
    ("02.1", lambda L, C, T, V: 2 * V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C, "head_counted"),
    ("02.1", lambda L, C, T, V: V * C + T * C + L * (12 * C * C + 4 * C) + 2 * C, "biases_forgotten"),
    ("02.2", unmasked, "not_masked"),
    ("02.2", masked_late, "masked_after_softmax"),
    (
        "02.2",
        lambda q, k, v: (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).tril().softmax(-1) @ v,
        "masked_with_zero",
    ),
    ("02.2", lambda q, k, v: (q * k).sum(-1), "shape"),
    ("02.2", lambda q, k, v: v, "96 of 120 elements are off, the first at [0, 0, 1, 0]"),
    ("02.3", unshifted, "not_shifted"),
    ("02.4", joint_probabilities, "joint"),
    ("03.1", lambda p: 10, "point_estimate"),
    (
        "03.2",
        lambda logits, ids, first: logits[first:].log_softmax(-1).gather(1, ids[first:, None]).sum(),
        "off_by_one",
    ),
    ("03.3", lambda sums, counts: [row.index(max(row)) for row in sums], "by_sum"),
    ("03.3", lambda sums, counts: [0], "list of 3"),
    ("03.4", lambda a, b: statistics.mean(a), "is right"),
    (
        "03.4",
        lambda a, b: (
            sum(
                math.comb(n := sum(x != y for x, y in zip(a, b, strict=True)), i)
                for i in range(
                    min(
                        sum(x > y for x, y in zip(a, b, strict=True)),
                        sum(x < y for x, y in zip(a, b, strict=True)),
                    )
                    + 1
                )
            )
            / 2**n
        ),
        "one_sided",
    ),
    ("04.1", lambda ids, n: [-100] * n + ids[n:-1] + [-100], "eos_masked"),
    ("04.1", lambda ids, n: [-100] * (n - 1) + ids[n - 1 :], "one_too_few"),
    ("04.2", careless_padding, "eos_label_lost"),
    ("04.2", lambda rows, pad: {"input_ids": 1}, "keys"),
    (
        "04.2",
        off_by_one_place,
        "1 of 42 elements are off, the first at ['labels', 1, 2]: your function returns 7",
    ),
    ("04.3", lambda batches: math.exp(statistics.mean(mean for mean, _ in batches)), "mean_of_means"),
    ("04.4", impatient, "compared_with_previous"),
    ("05.1", 16 * 16 * (4096 + 2560 + 2560 + 4096), "attention_alone"),
    ("05.1", 44032 * 16, "one_layer_or_rank"),
    ("05.1", 44032, "one_layer_and_rank"),
    ("05.1", 11_272_191, "11272191 is not right"),
    ("05.1", "eleven million", "a number"),
    (
        "05.2",
        lambda blocks, values: (
            values[((blocks / blocks.max(1, keepdim=True).values)[..., None] - values).abs().argmin(-1)]
            * blocks.max(1, keepdim=True).values
        ),
        "scale_without_absolute",
    ),
    ("05.3", lambda block, group: 4 + 32 / block, "without_double_quantization"),
    ("05.4", lambda x, A, B, scale, g: ((g @ B).T @ x, g.T @ (x @ A.T)), "scale_missing"),
    ("05.4", lambda x, A, B, scale, g: ((g @ B).T @ x).T, "list of 2"),
    (
        "06.1",
        lambda text: "</think>" in text and "answer is" in text.split("</think>")[-1],
        "empty_reasoning_and_second_tag",
    ),
    ("06.1", lambda text: "</think>" in text, "tag_alone"),
    ("06.1", lambda text: re.search("</think>.*answer is", text, re.DOTALL), "returns nothing (None)"),
    ("06.1", lambda text: "yes" if "</think>" in text else "no", "True or False"),
    ("06.1", lambda text: text.startswith("3"), "returns False, and True is right"),
    ("06.2", lambda turns: [-100] * sum(len(ids) for _, ids in turns[:-1]) + turns[-1][1], "last_turn_only"),
    (
        "06.3",
        lambda p, n: sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n // 2 + 1, n + 1)),
        "majority",
    ),
    ("06.4", lambda answers: statistics.mode(a for a in answers if a is not None), "texts_counted"),
    ("06.4", lambda answers: answers[-1], "not_the_most_votes"),
    ("06.4", lambda answers: collections.Counter(answers).most_common(1)[0][0], "none_counted"),
    ("07.1", lambda W, A, B, alpha: W + alpha / A.shape[0] * B @ A, "not_transposed"),
    ("07.1", lambda W, A, B, alpha: W + (B @ A).T, "scale_missing"),
    ("07.2", lambda x, dtype: (x.to(dtype).to(x.dtype) - x).abs().max(), "absolute_error"),
    (
        "07.2",
        lambda x, dtype: 0 if dtype == torch.float32 else ((x.to(dtype).to(x.dtype) - x) / x).abs().max(),
        "is right",
    ),
    ("07.3", {"q8_0": 8, "q4_0": 4, "q4_1": 4}, "weights_alone"),
    ("07.3", 8.5, "a dict with the keys"),
    (
        "07.4",
        lambda a, b: torch.nn.functional.kl_div(
            a.log_softmax(-1), b.log_softmax(-1), log_target=True, reduction="batchmean"
        ),
        "reversed",
    ),
    ("08.1", consecutive, "consecutive"),
    ("08.2", joined_corpus, "training_texts_joined"),
    ("08.3", mean_diversity, "mean_over_texts"),
    (
        "08.4",
        lambda logits, t, k: (logits / t).softmax(0) * (logits >= logits.topk(k).values[-1]),
        "cut_after_softmax",
    ),
    ("09.1", divided_by_zero, "zero_by_zero"),
    (
        "09.1",
        lambda rewards: [(r - statistics.mean(rewards)) / statistics.stdev(rewards) for r in rewards],
        "ZeroDivisionError",
    ),
    ("09.2", lambda n, c, k: 1 - ((n - c) / n) ** k, "with_replacement"),
    ("09.3", lambda p, fraction: next(g for g in range(2, 99) if p**g <= fraction), "all_wrong_forgotten"),
    ("09.4", lambda ratio, a, e: -max(1 - e, min(1 + e, ratio)) * a, "always_clipped"),
    ("09.5", lambda text, wanted: 1.0 if wanted in re.findall(r"\d+", text) else 0.0, "is right"),
    ("09.5", lambda text, wanted: float(wanted in text), "substring_of_all"),
    ("10.1", lambda weights, n: weights.diagonal(-n).mean().item(), "same_token"),
    ("10.2", lambda t, start, stop: (stop - start) / (t + 1), "mask_forgotten"),
    ("10.3", ablate_with_zeros, "zero"),
    (
        "10.4",
        lambda effect, controls: sum(c >= effect for c in controls) / len(controls),
        "own_effect_left_out",
    ),
    ("11.1", lambda shapes: sum(math.prod(shape) for shape in shapes), "second_moment"),
    ("11.2", lambda n, fits: (fits, n // fits), "not_a_divisor"),
    ("11.3", lambda n_small, n_large, steps: round(n_large / n_small) * steps, "is right"),
    ("11.4", lambda text, words: text.lower().split().count(words[0]), "is right"),
]


def test_every_exercise_has_a_wrong_answer():
    assert {name for name, _, _ in WRONG} == set(EXERCISES)


def is_told(verdict, told: str) -> bool:
    """Whether a verdict gives the message of a known mistake, or else says ``told``."""
    template = EXERCISES[verdict.name].mistakes.get(told)
    if template is None:
        return told in verdict.message
    pattern = re.sub(r"\\\{.*?\\\}", ".*", re.escape(template))  # {placeholders} stand for anything
    return bool(re.fullmatch(pattern, verdict.message, re.DOTALL))


@pytest.mark.parametrize(("name", "answer", "told"), WRONG, ids=[f"{name}-{told}" for name, _, told in WRONG])
def test_wrong_answers_are_told_what_is_off(name, answer, told):
    verdict = lmlab.check(name, answer)
    assert verdict.status == "wrong" and not verdict
    assert is_told(verdict, told)
    assert verdict.hints == EXERCISES[name].hints[:1]


class Caught(Exception):
    pass


WITHOUT_COMPARISON = {"01.2", "06.4"}  # have judges of their own; all their mistakes are in WRONG


@pytest.mark.parametrize("name", sorted(set(EXERCISES) - WITHOUT_COMPARISON))
def test_every_known_mistake_is_told_by_its_own_message(name, monkeypatch):
    found = []

    def catch(answer, right, *cases_and_mistakes, tolerance=None):
        found.append((right, cases_and_mistakes[-1]))
        raise Caught

    module = sys.modules[EXERCISES[name].judge.__module__]
    with monkeypatch.context() as patch, pytest.raises(Caught):
        for judge in ("compare", "compare_value"):
            patch.setattr(module, judge, catch, raising=False)
        EXERCISES[name].judge(len)
    ((right, mistakes),) = found
    assert lmlab.check(name, right)
    assert list(mistakes) == list(EXERCISES[name].mistakes)
    for key, mistake in mistakes.items():
        assert lmlab.check(name, mistake).message == EXERCISES[name].mistakes[key]


@pytest.mark.parametrize("name", sorted(WITHOUT_COMPARISON))
def test_every_message_of_other_judges_is_told(name):
    assert {told for each, _, told in WRONG if each == name} == set(EXERCISES[name].mistakes)


# --- whatever one hands in ---------------------------------------------------------------------------


class Evil:
    """Raises at every touch."""

    def __repr__(self):
        raise RuntimeError("no")

    def __eq__(self, other):
        raise RuntimeError("no")

    def __getattr__(self, name):
        raise RuntimeError("no")

    __hash__ = object.__hash__


def raises(*arguments):
    return {}["nothing"]


GARBAGE = [
    "",
    "7",
    0,
    -1.5,
    math.nan,
    math.inf,
    1j,
    True,
    [],
    {},
    {"q8_0": None, "q4_0": [], "q4_1": "x"},
    object(),
    Evil(),
    torch.zeros(3),
    torch.nn.ReLU,
    raises,
    print,
    int,
    len,
    lambda: 1,
]
RETURNED = [
    "text",
    0,
    math.nan,
    [],
    [[]],
    {},
    (1, 2),
    [None],
    torch.zeros(2, 2),
    object(),
    Evil(),
    1j,
    math.inf,
    iter([1]),
    {"input_ids": None, "labels": 1, "attention_mask": "x"},
    ([], []),
    ([1], ["x"]),
    ({}, {}),
]


@pytest.mark.parametrize("name", EXERCISES)
def test_garbage_is_answered(name):
    answers = GARBAGE + [lambda *_, value=value: value for value in RETURNED]
    for answer in answers:
        verdict = lmlab.check(name, answer)
        assert verdict.status in ("wrong", "not yet")
        assert repr(verdict) and verdict._repr_html_()


def unfinished(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize(
    "stub",
    [None, ..., NotImplemented, unfinished, lambda *_: ..., lambda *_: None],
    ids=["None", "...", "NotImplemented", "raises", "gives ...", "gives None"],
)
def test_stubs_are_not_wrong(stub):
    assert lmlab.check("02.2", stub).status == "not yet"


def test_an_error_in_the_readers_function_is_told_with_its_line():
    verdict = lmlab.check("01.4", raises)
    line = raises.__code__.co_firstlineno + 1
    assert f"KeyError in line {line}" in verdict.message and "It was given [2, 4, 10], 4" in verdict.message


def test_of_an_error_in_the_readers_function_the_first_line_is_told():
    def talks(lengths, max_length):
        raise ValueError("first\nsecond")

    message = lmlab.check("01.4", talks).message
    assert "first" in message and "second" not in message


@pytest.mark.parametrize(
    "value", ["y" * 5000, [{"a": ["x" * 90] * 9}] * 9, {i: ["row" * 30] * 6 for i in range(9)}]
)
def test_what_is_long_is_shown_shortened(value):
    assert len(show(value)) < 220 and show(value).endswith("...")


def test_numbers_are_shown_as_they_were_given():
    assert show(11_272_191) == show(11_272_191.0) == "11272191"
    assert show([[1.23456789, 2]] * 2) == "[[1.23457, 2], [1.23457, 2]]" and show(False) == "False"


# --- right answers, each once refused ----------------------------------------------------------------


def by_blocks_of_64(blocks, values):
    back = torch.empty(len(blocks), 64)
    for row, block in zip(back, blocks, strict=True):
        scale = block.abs().max()
        for j in range(64):
            row[j] = values[(values - block[j] / scale).abs().argmin()] * scale
    return back


def two_sided(x, y):
    return min(1, 2 * sum(math.comb(x + y, i) for i in range(min(x, y) + 1)) / 2 ** (x + y))


def by_masks(a, b):
    a, b = (torch.tensor(part) for part in (a, b))
    return two_sided(int(a[~b].sum()), int(b[~a].sum()))


def by_tensors(rewards):
    rewards = torch.tensor(rewards)
    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)


@pytest.mark.parametrize(
    ("name", "answer"), [("05.2", by_blocks_of_64), ("03.4", by_masks), ("09.1", by_tensors)]
)
def test_answers_that_hold_for_what_is_asked_are_right(name, answer):
    assert lmlab.check(name, answer)


def test_a_function_cannot_change_what_it_is_judged_by():
    def clears(lengths, max_length):
        lost = sum(n >= max_length for n in lengths)
        lengths.clear()
        return lost

    assert lmlab.check("01.4", clears)


def test_other_kinds_of_numbers_are_numbers():
    assert lmlab.check("05.1", torch.tensor(11_272_192)) and lmlab.check("05.1", 11_272_192.0)


# --- hints and names ---------------------------------------------------------------------------------


def test_hints_open_one_by_one_and_stay_open():
    hints = EXERCISES["05.2"].hints
    assert lmlab.check("05.2").hints == []
    assert lmlab.check("05.2", len).hints == hints[:1]
    assert lmlab.check("05.2").hints == hints[:1]
    assert lmlab.check("05.2", len).hints == hints[:2]
    assert lmlab.hint("05.2").hints == hints[:3] == hints
    assert "no more hints" in lmlab.hint("05.2").message
    assert lmlab.check("05.2", len).hints == hints


@pytest.mark.parametrize(("name", "nearest"), [("05.9", "05."), ("5.2", "05.2"), (5.2, "05.2"), (None, "")])
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f'the nearest is "{nearest}'):
        lmlab.check(name, 1)
    with pytest.raises(ValueError, match=f'the nearest is "{nearest}'):
        lmlab.hint(name)


def test_verdicts_are_shown_in_a_notebook():
    shown = lmlab.check("01.4", lambda lengths, limit: "<b>")._repr_html_()
    assert "✗ 01.4: wrong." in shown and "'&lt;b&gt;'" in shown and "<i>Hint:</i>" in shown
    assert "<code>max_length</code>" in lmlab.check("01.1", WRONG[0][1])._repr_html_()
