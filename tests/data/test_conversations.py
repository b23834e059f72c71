"""A reader's own pairs and chats: read with line numbers, split by question, every answer an example."""

import json

import pytest

from lmlab.data.conversations import answers_to_learn, read_conversations, repeated, split_conversations
from lmlab.data.labels import tokenize_conversations
from lmlab.models.sources import load_tokenizer
from lmlab.recipes import load_recipe

PAIR = [{"role": "user", "content": "Where is the inn?"}, {"role": "assistant", "content": "By the river."}]


def read(path, content: str, encoding: str = "utf-8", **choices):
    path.write_text(content, encoding=encoding)
    return read_conversations(load_recipe("00", data=str(path), **choices))


@pytest.mark.parametrize(
    "name, content, choices",
    [
        ("a.csv", "prompt,response\nWhere is the inn?,By the river.\n", {}),
        ("a.csv", "Response, Prompt\nBy the river.,Where is the inn?\n", {}),
        (
            "a.csv",
            "Frage;Antwort\nWhere is the inn?;By the river.\n",
            {"prompt_column": "Frage", "response_column": "Antwort"},
        ),
        ("a.csv", "instruction\tinput\toutput\nWhere is the inn?\t\tBy the river.\n", {}),
        ("a.jsonl", json.dumps({"question": "Where is the inn?", "answer": "By the river."}), {}),
        ("a.jsonl", json.dumps({"messages": PAIR}), {}),
        ("a.json", json.dumps([{"messages": PAIR}]), {}),
    ],
)
def test_pairs_and_chats_in_each_form(tmp_path, name, content, choices):
    conversations, bad = read(tmp_path / name, content, **choices)
    assert [each["messages"] for each in conversations] == [PAIR] and bad == []
    assert conversations[0]["row"] == (2 if name.endswith(".csv") else 1)


def test_a_system_message_and_an_instruction_with_its_input(tmp_path):
    row = {"system": "Be brief.", "instruction": "Translate.", "input": "Haus", "output": "house"}
    messages = read(tmp_path / "a.jsonl", json.dumps(row))[0][0]["messages"]
    assert [(turn["role"], turn["content"]) for turn in messages] == [
        ("system", "Be brief."),
        ("user", "Translate.\n\nHaus"),
        ("assistant", "house"),
    ]


def test_what_cannot_be_used_has_its_line_and_the_reason(tmp_path):
    content = "Frage,Antwort\nWo?,Dort.\nWer?,\nWann?\nWas?,n/a\n"
    choices = {"prompt_column": "Frage", "response_column": "Antwort"}
    conversations, bad = read(tmp_path / "a.csv", content, **choices)
    assert [each["row"] for each in conversations] == [2]
    assert [(row.row, row.why) for row in bad] == [
        (3, "no Antwort"),
        (4, "not as many fields as the first line has"),
        (5, "no Antwort"),
    ]
    _, bad = read(
        tmp_path / "a.jsonl", '{"messages": [{"role": "user", "content": "?"}]}\n{"messages": 3}\n[]'
    )
    assert [row.row for row in bad] == [1, 2, 3]


def test_unknown_columns_are_named_with_the_fix(tmp_path):
    with pytest.raises(ValueError, match="Frage, Antwort.*prompt_column"):
        read(tmp_path / "a.csv", "Frage,Antwort\nWo?,Dort.\n")
    with pytest.raises(ValueError, match="prompt, Antwort.*response_column"):
        read(tmp_path / "a.csv", "prompt,Antwort\nWo?,Dort.\n")
    with pytest.raises(ValueError, match="Frage, Antwort.*Fragen"):
        read(tmp_path / "a.csv", "Frage,Antwort\nWo?,Dort.\n", prompt_column="Fragen")
    with pytest.raises(ValueError, match="save the file as UTF-8"):
        read(tmp_path / "a.csv", "prompt,response\nWo?,Übermorgen.\n", encoding="cp1252")


def conversations_of(*pairs):
    made = []
    for row, (question, answer) in enumerate(pairs):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        made.append({"row": row, "messages": messages})
    return made


def test_a_question_is_on_one_side_and_a_repetition_is_kept_once():
    rows = conversations_of(
        *[(f"question {i // 2}", f"answer {i}") for i in range(40)], ("Question 3.", "answer 6")
    )
    assert repeated(rows) == [40]
    train, held_out = split_conversations(rows, 100, seed=0)
    assert len(train) + len(held_out) == 40 and len(held_out) == 8
    questions = [{row["messages"][0]["content"] for row in part} for part in (train, held_out)]
    assert not questions[0] & questions[1]


def test_every_answer_is_learned_after_all_that_was_said_before():
    tokenizer = load_tokenizer("miniworld/qwen2")
    turns = [*PAIR, {"role": "user", "content": "Is it open?"}, {"role": "assistant", "content": "It is."}]
    examples = answers_to_learn([{"row": 5, "messages": turns}], tokenizer)
    assert [len(example["prompt"]) for example in examples] == [1, 3]
    first, second = tokenize_conversations(examples, tokenizer)
    # R1's template asks for reasoning first; an answer without has an empty one
    learned = tokenizer.decode([label for label in second["labels"] if label != -100])
    assert learned == f"</think>\n\nIt is.{tokenizer.eos_token}"
    assert "By the river." in tokenizer.decode(second["input_ids"])
    assert tokenizer.decode(first["input_ids"]).count("<think>") == 1


def test_reasoning_that_a_row_has_is_kept():
    tokenizer = load_tokenizer("miniworld/qwen2")
    rows = conversations_of(("What is 2 + 3?", "<think>\n2 + 3 = 5.\n</think>\n\nThe answer is 5."))
    [row] = tokenize_conversations(answers_to_learn(rows, tokenizer), tokenizer)
    learned = tokenizer.decode([label for label in row["labels"] if label != -100])
    assert learned == f"2 + 3 = 5.\n</think>\n\nThe answer is 5.{tokenizer.eos_token}"
