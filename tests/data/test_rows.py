"""Rows as people's files have them: what is nothing trains nothing, what is there is not lost."""

import json

import pyarrow
import pytest
from datasets import Dataset

from lmlab.data.readers import lossless_column, numbered_rows
from lmlab.data.reasoning import reasoning_rows
from lmlab.data.sources import load_rows
from lmlab.data.streams import stream_texts
from lmlab.data.usable import BadRow, usable_pairs, usable_texts

NOTHING = [
    None,
    "",
    "  ",
    "nan",
    "NaN",
    "N/A",
    "n/a",
    "#N/A",
    "NA",
    "<NA>",
    "null",
    "NULL",
    "None",
    "none",
    "-",
    "--",
    "?",
    "NaT",
    "nan.",
]
PAIRS = [{"modern": f"You know {i}.", "shakespearean": f"Thou knowest {i}."} for i in range(40)]
GSM8K = [
    {"question": f"What is {i} + 3?", "answer": f"{i} + 3 = <<{i}+3={i + 3}>>{i + 3}\n#### {i + 3}"}
    for i in range(40)
]
SCIENCE = [
    {
        "problem_text": f"What is {i} + 0.5?",
        "answer_number": f"{i}.5",
        "unit": "m",
        "solution": f"{i} + 0.5 = {i}.5",
    }
    for i in range(40)
]


def said(text):
    return {"role": "assistant", "content": [{"type": "text", "content": text}]}


def asked(text):
    return {"role": "user", "content": [{"type": "text", "content": text}]}


TALKS = [
    {"messages": [asked(f"What is {i} + 3?"), said(f"{i} + 3 = {i + 3}. The answer is {i + 3}.")]}
    for i in range(40)
]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def answers(problems):
    return [problem["answer"] for problem in problems]


# --- nothing, and the wrong kind ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [*NOTHING, ["a"], {"a": 1}], ids=repr)
@pytest.mark.parametrize("key", ["modern", "shakespearean"])
def test_a_side_that_is_nothing_is_no_pair(key, value):
    rows = [*PAIRS, {**PAIRS[0], key: value}]
    assert usable_pairs(rows, "x") == PAIRS
    with pytest.raises(ValueError, match="max_invalid_fraction"):
        usable_pairs(rows, "x", max_invalid_fraction=0.0)


def test_sides_that_are_nothing_are_no_pairs_in_a_file(tmp_path):
    odd = [{**PAIRS[0], "modern": value} for value in (None, "nan", ["a"], {"a": 1})]
    source = write_rows(tmp_path / "pairs.jsonl", [*PAIRS, *odd])
    assert usable_pairs(load_rows(source, "all", max_invalid_fraction=0.1), source) == PAIRS
    with pytest.raises(ValueError, match="max_invalid_fraction"):
        load_rows(source, "all", max_invalid_fraction=0.0)


WRONG_KIND = [["a"], {"a": 1}, True]
LAYOUTS = {"question": GSM8K, "answer": GSM8K, "problem_text": SCIENCE, "answer_number": SCIENCE}


@pytest.mark.parametrize("value", [*NOTHING, float("nan"), *WRONG_KIND], ids=repr)
@pytest.mark.parametrize("key", LAYOUTS)
def test_a_question_or_an_answer_that_is_nothing_is_no_problem(key, value):
    good = LAYOUTS[key]
    problems = reasoning_rows([*good, {**good[0], key: value}], "x")
    assert [row["prompt"] for row in problems] == [row["prompt"] for row in reasoning_rows(good, "x", 0.0)]


@pytest.mark.parametrize("key", LAYOUTS)
def test_nothing_is_no_problem_in_a_file(tmp_path, key):
    good = LAYOUTS[key]
    odd = [{**good[0], key: value} for value in (None, "N/A", float("nan"), ["a"])]
    source = write_rows(tmp_path / "rows.jsonl", [*good, *odd])
    rows = load_rows(source, "all", max_invalid_fraction=0.1)
    assert len(reasoning_rows(rows, source, max_invalid_fraction=0.1)) == 40


@pytest.mark.parametrize("value", [value for value in NOTHING if value is not None], ids=repr)
@pytest.mark.parametrize("layout", ["gsm8k", "boxed", "last block", "sentence"])
def test_a_final_answer_that_is_nothing_is_no_target(layout, value):
    row = {
        "gsm8k": {**GSM8K[0], "answer": f"Let us see.\n#### {value}"},
        "boxed": {"messages": [asked("What?"), said(f"Let us see: \\boxed{{{value}}}")]},
        "last block": {
            "messages": [
                asked("What?"),
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "content": "Let us see."},
                        {"type": "text", "content": value},
                    ],
                },
            ]
        },
        "sentence": {"messages": [asked("What?"), said(f"Let us see. The answer is {value}")]},
    }[layout]
    assert answers(reasoning_rows([*GSM8K, row], "x")) == answers(reasoning_rows(GSM8K, "x"))


@pytest.mark.parametrize(
    ("field", "value"), [("unit", ["m"]), ("unit", {"a": 1}), ("solution", ["a"]), ("solution", {"a": 1})]
)
def test_a_field_of_the_wrong_kind_leaves_its_row_out(field, value):
    assert len(reasoning_rows([*SCIENCE, {**SCIENCE[0], field: value}], "x")) == 40


@pytest.mark.parametrize("nothing", [None, "", "nan", "-"])
def test_a_unit_or_a_solution_may_be_missing(nothing):
    (problem,) = reasoning_rows([{**SCIENCE[0], "unit": nothing, "solution": nothing}], "x", 0.0)
    assert problem["unit"] == "" and problem["completion"] is None and problem["answer"] == "0.5"
    assert problem["prompt"][0]["content"] == SCIENCE[0]["problem_text"]


@pytest.mark.parametrize(
    "row", [[1, 2], None, "text", 3, {}, {"question": "What?"}, {"answer": "#### 3"}], ids=repr
)
def test_a_row_that_is_none_is_left_out(row):
    assert len(reasoning_rows([*GSM8K, row], "x")) == 40
    if not isinstance(row, dict):
        assert usable_pairs([*PAIRS, row], "x") == PAIRS


@pytest.mark.parametrize("answer", [36, 36.0, "36"])
def test_a_number_is_the_answer_that_it_says(answer):
    (problem,) = reasoning_rows([{**SCIENCE[0], "answer_number": answer}], "x", 0.0)
    assert float(problem["answer"]) == 36
    if not isinstance(answer, float):
        assert problem["answer"] == "36"


def test_layouts_may_stand_in_one_file(tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [*GSM8K, *SCIENCE, *TALKS])
    apart = [problem for rows in (GSM8K, SCIENCE, TALKS) for problem in reasoning_rows(rows, "x", 0.0)]
    together = reasoning_rows(load_rows(source, "all"), source, 0.0)
    assert [(row["prompt"], row["completion"], row["answer"]) for row in together] == [
        (row["prompt"], row["completion"], row["answer"]) for row in apart
    ]


@pytest.mark.parametrize("text", [None, 5, "nan", "N/A", ["a"]], ids=repr)
def test_texts_that_are_none_are_left_out(tmp_path, text):
    rows = [{"text": f"The cat has {i} kittens."} for i in range(40)]
    assert len(usable_texts([*rows, {"text": text}, {"text": " "}], "x")) == 40
    with pytest.raises(ValueError, match="body"):
        usable_texts([{"body": "x"}], "x")


# --- conversations -----------------------------------------------------------------------------------

THREE = [asked("What is 2 + 3?"), said("It is 5."), asked("And 1 more?"), said("5 + 1 = 6. The answer is 6.")]
CALL = {"name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "",
        "hello",
        5,
        {"role": "user"},
        [None],
        ["hello"],
        [asked("What?")],
        [said("The answer is 6.")],
        THREE[:3],
        THREE[1:],
        [THREE[0], *THREE[2:]],
        [*THREE, THREE[-1]],
        [{"role": "tool", "content": "6"}, *THREE],
        [{"role": "human", "content": "What?"}, THREE[-1]],
        [*THREE[:3], {**THREE[3], "tool_calls": [CALL]}],
        [*THREE[:3], {**THREE[3], "reasoning_content": "5 and 1"}],
        [*THREE[:2], {"role": "system", "content": "Be brief."}, *THREE[2:]],
        [asked(""), THREE[-1]],
        [{"role": "user", "content": None}, THREE[-1]],
        [{"role": "user"}, THREE[-1]],
        [{"role": "user", "content": 5}, THREE[-1]],
        [asked("What?"), said("")],
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x.png"}]}, THREE[-1]],
        [{"role": "user", "content": [{"type": "text", "content": 5}]}, THREE[-1]],
    ],
    ids=lambda given: repr(given)[:50],
)
def test_conversations_that_cannot_be_kept_whole_are_refused(messages):
    assert answers(reasoning_rows([*TALKS, {"messages": messages}], "x")) == answers(
        reasoning_rows(TALKS, "x", 0.0)
    )


def test_several_turns_and_a_system_turn_are_kept():
    brief = {"role": "system", "content": "Be brief."}
    (problem,) = reasoning_rows([{"messages": [brief, *THREE]}], "x", 0.0)
    assert problem["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "It is 5."},
        {"role": "user", "content": "And 1 more?"},
    ]
    assert problem["completion"][0]["content"].endswith("\n</think>\n\nThe answer is 6.")
    assert "It is 5." not in problem["completion"][0]["content"]


@pytest.mark.parametrize(
    "content",
    [
        "What is 2 + 3?",
        [{"type": "text", "text": "What is 2 + 3?"}],
        [{"content": "What is 2 + 3?"}],
        ["What is 2 + 3?"],
    ],
    ids=repr,
)
def test_content_may_be_written_in_several_ways(content):
    (problem,) = reasoning_rows(
        [
            {
                "messages": [
                    {"role": "user", "content": content},
                    {"role": "assistant", "content": "2 + 3 = 5. The answer is 5."},
                ]
            }
        ],
        "x",
        0.0,
    )
    assert problem["prompt"] == [{"role": "user", "content": "What is 2 + 3?"}] and problem["answer"] == "5"


def test_a_mark_of_the_template_is_found_in_every_turn():
    for i in (0, 1, 2):
        turns = [
            turn if i != k else {**turn, "content": "So </think> it is."} for k, turn in enumerate(THREE)
        ]
        assert answers(reasoning_rows([*TALKS, {"messages": turns}], "x")) == answers(
            reasoning_rows(TALKS, "x")
        )


def test_messages_of_several_kinds_in_one_file_stay_what_they_are(tmp_path):
    plain = {
        "messages": [
            {"role": "user", "content": "What is 2 + 3?"},
            {"role": "assistant", "content": "2 + 3 = 5. The answer is 5."},
        ]
    }
    calls = [
        {
            "messages": [
                asked("What?"),
                {**said("The answer is 6."), "tool_calls": [{"name": "add", "arguments": arguments}]},
            ]
        }
        for arguments in ({"a": 1}, "a=1")
    ]
    source = write_rows(tmp_path / "rows.jsonl", [*TALKS, plain, *calls])
    problems = reasoning_rows(load_rows(source, "all"), source)
    assert answers(problems) == [*answers(reasoning_rows(TALKS, "x")), "5"]


# --- instruction, input, output ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "modern"),
    [
        ({"instruction": "Say it as Hamlet.", "input": "You know."}, "Say it as Hamlet.\nYou know."),
        ({"instruction": "Greet the king.", "input": ""}, "Greet the king."),
        ({"instruction": "Greet the king.", "input": None}, "Greet the king."),
        ({"instruction": None, "input": "You know."}, "You know."),
        ({"system": "Be old.", "instruction": "Greet.", "input": "Hi."}, "Be old.\nGreet.\nHi."),
    ],
)
def test_an_instruction_is_part_of_the_prompt(row, modern):
    assert usable_pairs([{**row, "output": "Hail."}], "x", 0.0) == [
        {"modern": modern, "shakespearean": "Hail."}
    ]


# --- lines and encodings -----------------------------------------------------------------------------

BAD_LINES = {
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"3",
    "a text": b'"text"',
    "cut off": b'{"modern": "a',
    "half a character": b'{"modern": "\\ud83d", "shakespearean": "b"}',
    "half a character in a list": b'{"modern": "a", "shakespearean": "b", "tags": ["\\udc00"]}',
    "Latin-1": '{"modern": "caf\xe9", "shakespearean": "b"}'.encode("latin-1"),
    "deep": b'{"modern": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 5,000 digits": b'{"modern": ' + b"9" * 5000 + b"}",
}


def test_lines_that_are_no_rows_are_counted_and_left_out(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    good = [json.dumps(row).encode() for row in PAIRS]
    path.write_bytes(b"\n".join([*good[:20], *BAD_LINES.values(), *good[20:]]))
    n_bad = len(BAD_LINES)
    rows = load_rows(str(path), "all", max_invalid_fraction=0.5)
    assert rows.select_columns(["modern", "shakespearean"]).to_list() == PAIRS
    assert f"{n_bad} of {40 + n_bad}" in caplog.text and "line 21: " in caplog.text
    with pytest.raises(ValueError, match="max_invalid_fraction"):
        load_rows(str(path), "all")
    with pytest.raises(ValueError, match="rows.jsonl, line 21 "):
        path.write_bytes(b"\n".join([b'{"text": "a"}'] * 20 + [BAD_LINES["null"]]))
        list(stream_texts(str(path)))


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
@pytest.mark.parametrize("first", [False, True])
def test_each_line_that_is_no_row_is_found(tmp_path, line, first):
    path = tmp_path / "rows.jsonl"
    good = [json.dumps(row).encode() for row in PAIRS]
    path.write_bytes(b"\n".join([line, *good] if first else [*good, line]))
    found = dict(numbered_rows(path))
    assert isinstance(found.pop(1 if first else 41), BadRow) and list(found.values()) == PAIRS


def test_items_of_a_json_list_that_are_no_rows_are_left_out(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([3, *PAIRS, [1, 2], None], indent=1), encoding="utf-8")
    assert load_rows(str(path), "all", max_invalid_fraction=0.1).to_list() == PAIRS


SMILE = [{"text": "grüß 😀"}, {"text": "b"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt"])
def test_files_are_read_as_tools_write_them(tmp_path, suffix, newline, encoding):
    path = tmp_path / f"rows{suffix}"
    lines = {
        ".jsonl": [json.dumps(row, ensure_ascii=False) for row in SMILE],
        ".json": json.dumps(SMILE, ensure_ascii=False, indent=1).split("\n"),
        ".csv": ["text", *(row["text"] for row in SMILE)],
        ".txt": [SMILE[0]["text"], "", SMILE[1]["text"]],
    }[suffix]
    path.write_bytes(newline.join([*lines, ""]).encode(encoding))
    assert [row for _, row in numbered_rows(path)] == SMILE


def test_a_text_file_in_another_encoding_is_refused_by_paragraph(tmp_path):
    path = tmp_path / "play.txt"
    path.write_bytes("One.\n\nCaf\xe9.\n".encode("latin-1"))
    for read in (lambda: load_rows(str(path), "all"), lambda: list(stream_texts(str(path)))):
        with pytest.raises(ValueError, match="play.txt.* 2"):
            read()


def test_a_json_list_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "a"}, {"te', encoding="utf-8")
    with pytest.raises(ValueError, match="rows.json"):
        load_rows(str(path), "all")


# --- columns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "column"),
    [
        (["36.0", '"1.5"'], ["36.0", "1.5"]),
        (["1.50", '"x"'], ["1.5", "x"]),
        (["7", '"007"'], ["7", "007"]),
        (["1e3", '"x"', "null"], ["1000.0", "x", None]),
        (["true", '"x"'], ["true", "x"]),
        (["true", "1"], ["true", "1"]),
        (["12345678901234567890123", "1"], ["12345678901234567890123", "1"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (['"a"', "NaN"], ["a", None]),
        (["1", "2.5"], [1, 2.5]),
        (["1.5", "NaN"], [1.5, None]),
        (["1", "null"], [1, None]),
        (["true", "null"], [True, None]),
        (['["a"]', '["b", "c"]'], [["a"], ["b", "c"]]),
        (['"36"', '"1.5"'], ["36", "1.5"]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_column_loses_nothing(tmp_path, suffix, written, column):
    lines = [f'{{"answer_number": {value}, "i": 1}}' for value in written]
    path = tmp_path / f"rows{suffix}"
    path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]", encoding="utf-8")
    values = [row["answer_number"] for _, row in numbered_rows(path)]
    # as Arrow has it
    assert pyarrow.array(lossless_column(values)).to_pylist() == column


def test_numbers_among_texts_are_answers_as_they_are_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"problem_text": "a?", "answer_number": 36.0}\n{"problem_text": "b?", "answer_number": "1.5"}\n'
        '{"problem_text": "c?", "answer_number": 7}\n'
    )
    problems = reasoning_rows(load_rows(str(path), "all"), "x", 0.0)
    assert [float(answer) for answer in answers(problems)] == [36, 1.5, 7]


def test_csv_is_text_and_what_is_empty_is_nothing(tmp_path, caplog):
    path = tmp_path / "problems.csv"
    path.write_text(
        'problem_text,answer_number,unit\n"How far, and\nin what?",007.50,m\nWhat?,NA,\nWhere?,,m\n'
        + "".join(f"What is {i}?,{i},\n" for i in range(60))
        + "Too,many,fields,here\n"
    )
    rows = load_rows(str(path), "all")
    assert rows[0] == {"problem_text": "How far, and\nin what?", "answer_number": "007.50", "unit": "m"}
    assert "line 66" in caplog.text
    problems = reasoning_rows(rows, "x")
    assert len(problems) == 61 and not {"NA", "None", "nan", ""} & set(answers(problems))
    assert list(stream_texts(write_csv(tmp_path / "texts.csv", ["a", "b, c", "nan"]))) == ["a", "b, c", "nan"]


def write_csv(path, texts):
    import csv

    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    return str(path)


# --- folders -----------------------------------------------------------------------------------------


def test_a_folder_has_the_splits_that_datasets_finds(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", ".train-0"):
        Dataset.from_dict({"text": [name]}).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "README.md").write_text("# A set")
    shards = ["train-00000-of-00002", "train-00001-of-00002"]
    assert load_rows(str(tmp_path), "train")["text"][:] == shards
    assert load_rows(str(tmp_path), "train", limit=1)["text"][:] == shards[:1]
    assert load_rows(str(tmp_path), "validation")["text"][:] == ["validation-00000-of-00001"]


def test_a_folder_without_validation_files_is_divided(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"text": f"text {i}"} for i in range(20)])
    assert load_rows(str(tmp_path), "validation")["text"][:] == ["text 9", "text 19"]
    assert len(load_rows(str(tmp_path), "train")) == 18


def test_folders_that_cannot_be_read_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_rows(str(tmp_path))
    write_rows(tmp_path / "validation.jsonl", [{"text": "a"}])
    with pytest.raises(ValueError, match="train"):
        load_rows(str(tmp_path), "train")


# --- the sets of the lessons -------------------------------------------------------------------------


def test_pairs_of_lesson_04_have_no_empty_side(tmp_path, caplog):
    from lmlab.data.pairs import pair_sets
    from lmlab.recipes import load_recipe

    pairs = [{"modern": f"You know {i}.", "shakespearean": f"Thou knowest {i}."} for i in range(400)]
    pairs[217]["shakespearean"] = None
    source = write_rows(tmp_path / "pairs.jsonl", pairs)
    cfg = load_recipe(
        "04_shakespeare_full_finetune",
        "tiny",
        data=source,
        small_data=source,
        small_train=40,
        small_validation=20,
        n_train=300,
        n_validation=30,
        study_sizes=[100, 200],
    )
    sets = pair_sets(cfg)
    found = {pair["modern"] for rows in sets.values() for pair in rows}
    assert len(found) > 320 and {"You know 3.", "You know 150."} < found and "You know 217." not in found
    assert "row 217" in caplog.text


def test_problems_of_lesson_06_are_none_that_are_nothing(tmp_path):
    from lmlab.data.problem_sets import reasoning_sets
    from lmlab.models.sources import load_tokenizer
    from lmlab.recipes import load_recipe

    words = [
        f"{a} {b}"
        for a in ("red", "old", "new", "big", "wet")
        for b in ("hats", "cats", "pans", "keys", "nets", "toys")
    ]
    rows = [
        {
            "question": f"Ann has {i + 2} {name} and buys 3. How many?",
            "answer": f"{i + 2} + 3 = <<{i + 2}+3={i + 5}>>{i + 5}\n#### {i + 5}",
        }
        for i, name in enumerate(words)
    ]
    rows[4]["answer"], rows[9]["question"], rows[14]["answer"] = "They say.\n#### nan", None, "None"
    source = write_rows(tmp_path / "problems.jsonl", rows)
    cfg = load_recipe(
        "06_deepseek_qlora_think",
        "tiny",
        data=[source],
        max_invalid_fraction=0.2,
        n_validation=1,
        augmented_copies=1,
    )
    sets = reasoning_sets(cfg, load_tokenizer("miniworld/qwen2"))
    found = [row for name in sets for row in sets[name]]
    assert len(found) >= 27 and all(row["answer"].isdecimal() for row in found)
    assert "nan" not in str(found).lower() and "None" not in str([row["completion"] for row in found])
    with pytest.raises(ValueError, match="max_invalid_fraction"):
        reasoning_sets(
            load_recipe("06_deepseek_qlora_think", "tiny", data=[source]), load_tokenizer("miniworld/qwen2")
        )


@pytest.mark.slow
def test_the_command_stops_at_too_many_rows_without_an_answer(tmp_path):
    import os
    import subprocess
    import sys
    from pathlib import Path

    path = tmp_path / "problems.csv"
    lines = [f"What is {i} and {i}?,{'' if i % 5 == 0 else 2 * i},,{i} + {i} = {2 * i}" for i in range(40)]
    path.write_text("\n".join(["problem_text,answer_number,unit,solution", *lines]) + "\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lmlab",
            "finetune",
            "06",
            "--set",
            f"data=[{path}]",
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "max_invalid_fraction" in done.stderr and "8 of 40" in done.stderr
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_only_the_last_turn_is_learnt(tmp_path):
    from lmlab.data.labels import completion_only_collator
    from lmlab.data.preflight import preflight
    from lmlab.models.chat_template import reference_labels
    from lmlab.models.sources import load_tokenizer

    tokenizer = load_tokenizer("miniworld/qwen2")
    rows = [{"messages": [{"role": "system", "content": "Be brief."}, *THREE]}] * 3
    pairs = [reference_labels(tokenizer, problem) for problem in reasoning_rows(rows, "x", 0.0)]
    found = preflight(
        [{"input_ids": ids, "labels": labels} for ids, labels in pairs],
        tokenizer,
        completion_only_collator(tokenizer),
        max_length=512,
    )
    assert found.passed, found
    ids, labels = pairs[0]
    learnt = tokenizer.decode([label for label in labels if label != -100])
    assert learnt.startswith("5 + 1 = 6") and "It is 5" not in learnt
    before = tokenizer.decode([token for token, label in zip(ids, labels, strict=True) if label == -100])
    assert all(text in before for text in ("Be brief.", "What is 2 + 3?", "It is 5.", "And 1 more?"))
