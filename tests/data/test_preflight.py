"""Preflight: the right way passes, and each of the well-known faults is caught and named.

The faulty datasets are built as one would by mistake, through TRL and transformers themselves.
"""

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template

from lmlab.data.preflight import preflight
from lmlab.data.reasoning import to_reasoning_format
from lmlab.data.sources import load_rows
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import load_model, load_tokenizer

N = 12


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("miniworld/qwen2")


@pytest.fixture(scope="module")
def problems():
    return [to_reasoning_format(row) for row in load_rows("miniworld/problems", "train", limit=N)]


@pytest.fixture(scope="module")
def model():
    return load_model("miniworld/qwen2")


def trained_on(model, tokenizer, rows, folder, **choices):
    """The trainer that would train on these rows."""
    args = SFTConfig(
        output_dir=str(folder),
        bf16=False,
        fp16=False,
        use_cpu=True,
        disable_tqdm=True,
        **({"max_length": 200} | choices),
    )
    return SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def pairs(problems):
    return [{key: row[key] for key in ("prompt", "completion")} for row in problems]


def looked_at(trainer, tokenizer, **choices):
    return preflight(trainer.train_dataset, tokenizer, trainer.data_collator, n_conversations=N, **choices)


def found(report, name):
    return next(check.found for check in report.checks if check.name == name)


def supervised_fraction(report):
    return float(found(report, "some tokens are masked, not all").split("%")[0]) / 100


def failed(report):
    return [check.name for check in report.checks if not check.passed]


@pytest.mark.parametrize("packing", [False, True])
def test_the_right_way_passes(model, tokenizer, problems, tmp_path, packing):
    trainer = trained_on(
        model, tokenizer, pairs(problems), tmp_path, assistant_only_loss=True, packing=packing
    )
    report = looked_at(trainer, tokenizer, max_length=200)
    assert failed(report) == [] and report.passed
    report.require()
    assert found(report, "nothing is truncated") == f"0 of {N} lost their end"
    assert 0.3 < supervised_fraction(report) < 0.6


def test_answers_without_reasoning_pass_where_none_is_asked_for(tokenizer):
    from lmlab.data.labels import completion_only_collator, tokenize_conversations

    answer = {"role": "assistant", "content": "<think>\n</think>\n\nBy the river."}
    row = {"prompt": [{"role": "user", "content": "Where is the inn?"}], "completion": [answer]}
    rows = tokenize_conversations([row] * 3, tokenizer)
    collate = completion_only_collator(tokenizer)
    assert preflight(rows, tokenizer, collate, reasoning=False).passed
    assert failed(preflight(rows, tokenizer, collate)) == ["the reasoning contributes to the loss"]


def test_stock_template_that_drops_the_reasoning(model, tokenizer, problems, tmp_path):
    """Prompt and completion through R1's own template, as TRL does without assistant_only_loss."""
    trainer = trained_on(model, tokenizer, pairs(problems), tmp_path)
    report = looked_at(trainer, tokenizer)
    assert "the reasoning contributes to the loss" in failed(report)
    with pytest.raises(ValueError, match=f"the reasoning contributes to the loss: {N} of {N}"):
        report.require()


def test_messages_with_completion_only_loss_that_mask_nothing(model, tokenizer, problems, tmp_path):
    rows = [{"messages": row["prompt"] + row["completion"]} for row in problems]
    stock = trained_on(model, tokenizer, rows, tmp_path, completion_only_loss=True)
    assert {"the prompt is masked", "some tokens are masked, not all"} <= set(
        failed(looked_at(stock, tokenizer))
    )
    keeping = load_tokenizer("miniworld/qwen2")  # a template that keeps the reasoning does not help
    keeping.chat_template = get_training_chat_template(keeping)
    report = looked_at(trained_on(model, keeping, rows, tmp_path, completion_only_loss=True), tokenizer)
    assert failed(report) == ["the prompt is masked", "some tokens are masked, not all"]
    assert supervised_fraction(report) == 1


def test_pad_that_is_eos_with_the_plain_collator(tokenizer, problems):
    """transformers' collator masks every pad token, and so the end of every answer."""
    from transformers import DataCollatorForLanguageModeling

    other = load_tokenizer("miniworld/qwen2")
    other.pad_token = other.eos_token
    rows = [{"input_ids": right_ids(other, row)} for row in problems]
    report = preflight(rows, other, DataCollatorForLanguageModeling(other, mlm=False))
    assert "EOS contributes to the loss" in failed(report)


def right_ids(tokenizer, row):
    from lmlab.models.chat_template import reference_labels

    return reference_labels(tokenizer, row)[0]


def test_two_beginnings(model, tokenizer, problems, tmp_path):
    """Text that the template has rendered begins with BOS; a tokenizer that adds one gives two."""
    texts = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        for row in problems
    ]
    rows = [
        {
            "prompt": tokenizer.bos_token + text,
            "completion": row["completion"][0]["content"].removeprefix("<think>\n") + tokenizer.eos_token,
        }
        for text, row in zip(texts, problems, strict=True)
    ]
    report = looked_at(trained_on(model, tokenizer, rows, tmp_path), tokenizer)
    assert failed(report) == ["one BOS"]


def test_doubled_think(model, tokenizer, problems, tmp_path):
    """The prompt ends in <think> already, and the completion brings its own."""
    rows = [
        {
            "prompt": tokenizer.apply_chat_template(
                row["prompt"], add_generation_prompt=True, tokenize=False
            ),
            "completion": row["completion"][0]["content"],
        }
        for row in problems
    ]
    report = looked_at(trained_on(model, tokenizer, rows, tmp_path), tokenizer)
    assert "one <think>, one </think>" in failed(report)


@pytest.mark.parametrize("max_length", [16, 40, 50, 54])
def test_max_length_that_cuts_all_answers(model, tokenizer, problems, tmp_path, max_length):
    """TRL cuts without a word, and drops what then bears no loss at all."""
    trainer = trained_on(
        model, tokenizer, pairs(problems), tmp_path, assistant_only_loss=True, max_length=max_length
    )
    report = looked_at(trainer, tokenizer, max_length=max_length)
    ids = [right_ids(tokenizer, row) for row in problems]
    n_truncated = sum(len(row) > max_length for row in ids)
    assert n_truncated > 0
    assert found(report, "nothing is truncated") == f"{n_truncated} of {N} lost their end"
    assert {"nothing is truncated", "EOS contributes to the loss"} <= set(failed(report))


def test_padding_that_bears_loss(tokenizer, problems):
    import torch

    def careless(rows):
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor(
            [row["input_ids"] + [tokenizer.pad_token_id] * (width - len(row["input_ids"])) for row in rows]
        )
        return {"input_ids": ids, "labels": ids.clone()}

    rows = [{"input_ids": right_ids(tokenizer, row)} for row in problems]
    assert "padding is masked" in failed(preflight(rows, tokenizer, careless))


FINE = "every completion token is a label"


@pytest.mark.parametrize(
    "fault, check",
    [
        (
            lambda labels, end: [IGNORE_INDEX] * (len(labels) - 1) + labels[-1:],
            "the reasoning contributes to the loss",
        ),
        (
            lambda labels, end: [
                end if i > end - 3 and token != IGNORE_INDEX and i < len(labels) - 1 else token
                for i, token in enumerate(labels)
            ],
            FINE,
        ),
        (
            lambda labels, end: labels[: end + 1] + [IGNORE_INDEX] * (len(labels) - end - 2) + labels[-1:],
            FINE,
        ),
        (lambda labels, end: labels[: end - 5] + [IGNORE_INDEX] * 4 + labels[end - 1 :], FINE),
        (lambda labels, end: labels[: end - 6] + labels[end - 6 : end][::-1] + labels[end:], FINE),
    ],
    ids=["only EOS", "other tokens", "answer masked", "thought masked", "thought reversed"],
)
def test_labels_that_are_not_the_tokens(tokenizer, problems, fault, check):
    """end: where the thought ends. The labels are built by hand, the ids are right."""
    import torch

    from lmlab.models.chat_template import reference_labels

    rows = [reference_labels(tokenizer, row) for row in problems]
    close = tokenizer.convert_tokens_to_ids("</think>")

    def collator(batch):
        assert len(batch) == 1
        return {
            "input_ids": torch.tensor([batch[0]["input_ids"]]),
            "labels": torch.tensor([fault(batch[0]["labels"], batch[0]["input_ids"].index(close))]),
        }

    for ids, labels in rows:
        row = [{"input_ids": ids, "labels": labels}]
        assert check in failed(preflight(row, tokenizer, collator))


@pytest.mark.parametrize(
    "ending",
    ["</think>", "</think>\n\n", "</think>\n\nThe answer is 7.{end}"],
    ids=["none", "blank", "EOS twice"],
)
def test_no_answer_or_two_ends(tokenizer, ending):
    end = tokenizer.eos_token
    ids = tokenizer.encode("<think>\n3 + 4 = 7.\n" + ending.format(end=end) + end)
    report = preflight([{"input_ids": ids}], tokenizer, whole)
    assert "an answer follows </think>" in failed(report)


def whole(rows):
    """A collator that masks nothing."""
    import torch

    return {
        "input_ids": torch.tensor([row["input_ids"] for row in rows]),
        "labels": torch.tensor([row["input_ids"] for row in rows]),
    }


def test_without_a_conversation_nothing_passes(tokenizer):
    report = preflight([], tokenizer, whole, n_conversations=N)
    assert len(failed(report)) == len(report.checks) - 1  # there is no padding either
    assert found(report, "nothing is truncated") == f"{N} of {N} lost their end"
    assert "no conversation is left" in str(report)


def test_it_reads_without_colour_and_escapes_what_it_shows(model, tokenizer, problems, tmp_path):
    report = looked_at(
        trained_on(model, tokenizer, pairs(problems), tmp_path, assistant_only_loss=True), tokenizer
    )
    text, page = str(report), report._repr_html_()
    assert "ok   one BOS" in text
    assert "&lt;think&gt;" in page and "<think>" not in page
    assert "text-decoration:line-through" in page and "font-weight:bold" in page
    assert (
        page.count(f">{tokenizer.eos_token_id}<br>EOS</small>") == 3
    )  # the label under the end of each row shown
