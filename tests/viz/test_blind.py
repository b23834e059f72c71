"""The blind test: nothing tells who is who before the end, every rating is kept, and the names are right."""

import json
import subprocess
import sys

import pytest

from lmlab.viz import display
from lmlab.viz.blind import QUALITIES, SIDES, BlindTest, Item

ITEMS = [
    Item(f"begin {i}", f"truth {i}", {"base": f"wrote {i} x", "adapter": f"wrote {i} y"}) for i in range(10)
]


def answers(a: int, b: int, better: str) -> dict:
    """A rating in which every grade of a side is the same."""
    grades = {f"{side} {quality}": n for side, n in (("A", a), ("B", b)) for quality in QUALITIES}
    return {**grades, "better": better}


def side_of(test: BlindTest, i: int, mark: str) -> str:
    """The side on which the text that ends in ``mark`` is shown."""
    return SIDES[test.shown(i)[2].endswith(mark) is False]


def judge(test: BlindTest, mark: str = "y") -> None:
    """Rates what is left; prefers the model that writes ``mark`` and gives it 5, the other 2."""
    while (i := test.next()) is not None:
        better = side_of(test, i, mark)
        test.rate(i, answers(5, 2, better) if better == "A" else answers(2, 5, better))


def test_each_model_stands_on_each_side_as_often(tmp_path):
    for seed in range(5):
        test = BlindTest(ITEMS, tmp_path / "r.jsonl", seed)
        assert sum(side_of(test, i, "y") == "A" for i in range(10)) == 5
        assert {test.shown(i)[0] for i in range(10)} == {item.prompt for item in ITEMS}
        for i in range(10):
            prompt, truth, a, b = test.shown(i)
            number = prompt.split()[1]
            assert truth == f"truth {number}" and {a, b} == {f"wrote {number} x", f"wrote {number} y"}


def test_order_and_sides_are_the_seeds(tmp_path):
    def shown(seed):
        test = BlindTest(ITEMS, tmp_path / "r.jsonl", seed)
        return [test.shown(i) for i in range(10)]

    assert shown(3) == shown(3) and shown(3) != shown(4)


def test_names_stay_hidden_until_all_is_rated(tmp_path):
    test = BlindTest(ITEMS, tmp_path / "r.jsonl")
    for _ in range(9):
        test.rate(test.next(), answers(3, 3, "tie"))
        with pytest.raises(ValueError):
            test.summary()
    text = (tmp_path / "r.jsonl").read_text()
    assert "base" not in text and "adapter" not in text and len(text.splitlines()) == 9


@pytest.mark.parametrize(("mark", "winner", "loser"), [("y", "adapter", "base"), ("x", "base", "adapter")])
def test_summary_names_the_right_model(tmp_path, mark, winner, loser):
    test = BlindTest(ITEMS, tmp_path / "r.jsonl", 2)
    judge(test, mark)
    found = test.summary()
    assert found.wins == {winner: 10, loser: 0} and found.ties == 0
    assert all(row == pytest.approx({winner: 5, loser: 2}) for row in found.grades.values())
    assert f"{winner} is better" in str(found) and set(found.grades) == set(QUALITIES)


def test_interval_is_wilsons_of_the_decided(tmp_path):
    from lmlab.evaluation.statistics import wilson_interval

    test = BlindTest(ITEMS, tmp_path / "r.jsonl")
    for i in range(10):
        test.rate(i, answers(3, 3, "tie" if i < 2 else side_of(test, i, "y" if i < 7 else "x")))
    found = test.summary()
    assert (found.wins, found.ties) == ({"base": 3, "adapter": 5}, 2)
    assert found.interval == wilson_interval(5, 8) and "this could be chance" in str(found)


def test_all_ties_say_nothing(tmp_path):
    test = BlindTest(ITEMS[:1], tmp_path / "r.jsonl")
    test.rate(0, answers(3, 3, "tie"))
    assert test.summary().interval == (0.0, 1.0)


def test_an_interrupted_test_goes_on(tmp_path):
    path = tmp_path / "new" / "r.jsonl"
    first = BlindTest(ITEMS, path, 1)
    for _ in range(4):
        first.rate(first.next(), answers(1, 4, "B"))
    second = BlindTest(ITEMS, path, 1)
    assert second.next() == first.next() == 4
    judge(second)
    assert BlindTest(ITEMS, path, 1).summary() == second.summary()
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 10


def test_ratings_of_other_texts_and_other_sides_do_not_count(tmp_path):
    path = tmp_path / "r.jsonl"
    judge(BlindTest(ITEMS, path, 1))
    assert BlindTest(ITEMS, path, 1).next() is None
    retrained = [item._replace(texts={"base": item.texts["base"], "adapter": "new"}) for item in ITEMS]
    assert BlindTest(retrained, path, 1).next() == 0
    judge(BlindTest(retrained, path, 1), "new")
    assert BlindTest(ITEMS, path, 1).summary().wins["adapter"] == 10, "the older ratings are still there"


def test_a_later_rating_replaces_an_earlier(tmp_path):
    test = BlindTest(ITEMS[:1], tmp_path / "r.jsonl")
    test.rate(0, answers(1, 5, "A"))
    test.rate(0, answers(1, 5, "B"))
    for again in (test, BlindTest(ITEMS[:1], tmp_path / "r.jsonl")):
        assert again.summary().wins[("base", "adapter")[side_of(test, 0, "y") == "B"]] == 1


def test_two_names_are_wanted(tmp_path):
    with pytest.raises(ValueError):
        BlindTest([*ITEMS, Item("", "", {"base": "", "other": ""})], tmp_path / "r.jsonl")


def test_the_panel_asks_saves_and_tells(tmp_path):
    """The widgets without a browser: values are set and the button is pressed, as a browser would."""
    test = BlindTest(ITEMS, tmp_path / "r.jsonl")
    text, form = test.panel().children
    *questions, button = form.children
    for n in range(10):
        prompt, truth, a, b = test.shown(n)
        assert f"{n} of 10 rated" in text.value
        assert all(shown in text.value for shown in (prompt, truth, a, b))
        assert "base" not in text.value and "adapter" not in text.value
        better = side_of(test, n, "y")
        for question in questions:
            assert button.disabled and question.value is None
            grade = 5 if question.description.startswith(better) else 1
            question.value = better if question.description == "better" else grade
        assert not button.disabled
        button.click()
        assert len((tmp_path / "r.jsonl").read_text().splitlines()) == n + 1
    told = "base preferred 0 times, adapter 10 times"
    assert told in text.value and form.layout.display == "none"
    assert test.summary().grades["fluency"] == pytest.approx({"base": 1, "adapter": 5})
    assert told in BlindTest(ITEMS, tmp_path / "r.jsonl").panel().children[0].value


def test_texts_are_shown_as_they_are(tmp_path):
    wild = Item("<b>x</b>", "a\nb", {"base": "<script>1</script>", "adapter": "&"})
    test = BlindTest([wild], tmp_path / "r.jsonl")
    for shown in (test.panel().children[0].value, test.table()._repr_html_()):
        assert "<script>" not in shown and "&lt;script&gt;" in shown and "pre-wrap" in shown
    assert "base" in test.table()._repr_html_()


@pytest.mark.slow
def test_a_batch_run_is_noticed():
    """In a real kernel: nbclient forbids it to ask, a notebook's front end allows it."""
    code = """
import queue, sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
for allow in (True, False):
    said = []
    client.execute_interactive("from lmlab.viz.display import is_interactive; print(is_interactive())",
                               timeout=60, allow_stdin=allow,
                               output_hook=lambda m: said.append(m["content"].get("text", "")))
    print(allow, "".join(said).strip())
client.stop_channels(); manager.shutdown_kernel(now=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True True", "False False"], done.stdout
    assert not display.is_interactive(), "pytest is no notebook"
