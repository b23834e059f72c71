"""Rows that are no pairs: counted, shown, left out, or too many."""

import json

import pytest

from lmlab.data.pairs import tokenize_pairs
from lmlab.data.sources import load_rows
from lmlab.data.usable import usable_pairs

GOOD = [{"modern": f"You know {i}.", "shakespearean": f"Thou knowest {i}."} for i in range(20)]


def spoilt(**sides):
    return [*GOOD, {"modern": "You are kind.", "shakespearean": "Thou art kind."} | sides]


def test_pairs_come_under_two_names_and_lose_blanks():
    assert usable_pairs([{"input": " a ", "output": "b\n"}], "x") == [{"modern": "a", "shakespearean": "b"}]
    assert usable_pairs([{"modern": "a", "shakespearean": "b", "id": 3}], "x") == [
        {"modern": "a", "shakespearean": "b"}
    ]


@pytest.mark.parametrize(
    ("side", "why"),
    [(None, "not text"), (7, "not text"), (["a"], "not text"), ("", "empty"), (" \n", "empty")],
)
@pytest.mark.parametrize("name", ["modern", "shakespearean"])
def test_bad_rows_are_left_out_and_shown(side, why, name, caplog):
    assert usable_pairs(spoilt(**{name: side}), "set.jsonl") == GOOD
    said = caplog.text
    assert f"left out 1 of 21 rows of set.jsonl: 1 {why}. row 20: " in said and repr(side) in said


def test_good_rows_are_silent(caplog):
    assert usable_pairs(GOOD, "x", max_invalid_fraction=0.0) == GOOD
    assert caplog.text == ""


def test_too_many_bad_rows_stop_the_run():
    rows = spoilt(modern=None)
    assert usable_pairs(rows, "x", max_invalid_fraction=1 / 21) == GOOD
    with pytest.raises(ValueError, match="set.jsonl .*1 of 21.*max_invalid_fraction.*row 20: "):
        usable_pairs(rows, "set.jsonl", max_invalid_fraction=0.04)


def test_a_missing_column_names_those_that_are_there():
    with pytest.raises(
        ValueError, match="set.jsonl has the columns english, shakespearean; pairs need modern"
    ):
        usable_pairs([{"english": "a", "shakespearean": "b"}], "set.jsonl")
    with pytest.raises(ValueError, match=r"has the columns \(none\)"):
        usable_pairs([], "set.jsonl")


def test_numbers_between_texts_are_read_from_a_file_as_they_are_written(tmp_path, caplog):
    """None of them is lost; what is missing is left out."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(
            json.dumps(row) + "\n" for row in [*GOOD, {"modern": 5, "shakespearean": "b"}, {"modern": "a"}]
        )
    )
    pairs = usable_pairs(load_rows(str(path), "all"), "pairs.jsonl", 0.1)
    assert pairs == [*GOOD, {"modern": "5", "shakespearean": "b"}]
    assert "left out 1 of 22 rows of pairs.jsonl: 1 not text" in caplog.text


def test_a_column_of_numbers_stays_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": null}\n')
    assert load_rows(str(path), "all")["n"] == [1, None]


def test_long_pairs_count_too(gpt2_folder, caplog):
    from lmlab.models.sources import load_tokenizer

    tokenizer = load_tokenizer(str(gpt2_folder))
    rows = spoilt(modern="You are kind. " * 50)
    assert len(tokenize_pairs(rows, tokenizer, 128, max_invalid_fraction=0.05)) == 20
    assert "left out 1 of 21 rows of the pairs: 1 longer than max_length, 128 tokens. row 20: " in caplog.text
    with pytest.raises(ValueError, match="more than max_invalid_fraction 0.01"):
        tokenize_pairs(rows, tokenizer, 128, max_invalid_fraction=0.01)
