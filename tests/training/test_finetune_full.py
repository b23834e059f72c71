"""Full fine-tuning: pairs, the loss mask, padding, the loss over answers, packed blocks."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from lmlab.data import labels, packing, pairs
from lmlab.evaluation import perplexity
from lmlab.models import IGNORE_INDEX, generation
from lmlab.models.sources import load_model, load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
PAIRS = [
    {"modern": f"You know {name}.", "shakespearean": f"Thou knowest {name}{tail}."}
    for name, tail in zip(
        ("Ada", "Bo", "Cy", "Dee", "Eve", "Flo"), ("", " well", "", " not", "", " so"), strict=True
    )
]


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder):
    return load_tokenizer(str(gpt2_folder))


@pytest.fixture
def model(gpt2_folder):
    return load_model(str(gpt2_folder))


@pytest.fixture
def examples(tokenizer):
    return pairs.tokenize_pairs(PAIRS, tokenizer, 128)


def config(folder, **choices):
    path = folder / "pairs.jsonl"
    path.write_text(
        "".join(
            json.dumps({"modern": f"Sentence {i % 380}", "shakespearean": f"Line {i}"}) + "\n"
            for i in range(400)
        )
    )
    return SimpleNamespace(
        **{
            "data": str(path),
            "small_data": str(path),
            "small_train": 40,
            "seed": 0,
            "small_validation": 20,
            "n_train": 200,
            "n_validation": 30,
            "max_invalid_fraction": 0.05,
        }
        | choices
    )


def modern(rows):
    return {row["modern"].lower() for row in rows}


def test_one_source_is_divided_and_validation_is_unseen(tmp_path):
    sets = pairs.pair_sets(config(tmp_path))
    assert [row["modern"] for row in sets["small"]] == [f"Sentence {i}" for i in range(40)]
    assert {name: len(rows) for name, rows in sets.items()} == {
        "small": 40,
        "small_validation": 20,
        "train": 200,
        "validation": 30,
    }
    assert not modern(sets["validation"]) & (modern(sets["small"]) | modern(sets["train"]))
    assert not modern(sets["validation"]) & modern(sets["small_validation"])


def test_two_sources_are_divided_by_their_own_splits(tmp_path):
    sets = pairs.pair_sets(
        config(
            tmp_path,
            data="miniworld/pairs",
            small_data="miniworld/pairs-274",
            small_train=220,
            small_validation=54,
        )
    )
    assert [len(sets[name]) for name in ("small", "small_validation", "train")] == [220, 54, 200]
    assert not modern(sets["validation"]) & (modern(sets["small"]) | modern(sets["train"]))


def test_the_small_set_is_the_same_whatever_the_seed(tmp_path):
    """A miniworld is the same for every seed, too; of a file the rest is shuffled by it."""
    several = [pairs.pair_sets(config(tmp_path, seed=seed)) for seed in (0, 1)]
    for name in ("small", "small_validation"):
        assert several[0][name] == several[1][name]
    assert several[0]["train"] != several[1]["train"]


def test_too_few_pairs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="small_validation got 5 pairs"):
        pairs.pair_sets(config(tmp_path, small_validation=5))


def test_only_the_answer_and_its_end_are_labelled(examples, tokenizer):
    for row, pair in zip(examples, PAIRS, strict=True):
        n_prompt = row["labels"].count(IGNORE_INDEX)
        assert row["labels"] == [IGNORE_INDEX] * n_prompt + row["input_ids"][n_prompt:]
        assert tokenizer.decode(row["input_ids"][:n_prompt]) == pairs.PROMPT.format(modern=pair["modern"])
        assert tokenizer.decode(row["input_ids"][n_prompt:]) == f" {pair['shakespearean']}<|endoftext|>"


def test_long_pairs_are_left_out_whole(tokenizer, caplog):
    rows = [*PAIRS, {"modern": "You " * 100, "shakespearean": "Thou"}]
    kept = pairs.tokenize_pairs(rows, tokenizer, 128)
    assert len(kept) == len(PAIRS) and "left out 1 of 7" in caplog.text
    longest = max(map(len, kept["input_ids"]))
    assert len(pairs.tokenize_pairs(PAIRS, tokenizer, longest)) == len(PAIRS)
    assert len(pairs.tokenize_pairs(PAIRS, tokenizer, longest - 1)) < len(PAIRS)
    with pytest.raises(ValueError, match="max_length, 5"):
        pairs.tokenize_pairs(PAIRS, tokenizer, 5)


def test_padding_with_eos_keeps_the_eos_that_counts(examples, tokenizer):
    assert tokenizer.pad_token_id is None
    rows = list(examples)
    batch = labels.completion_only_collator(tokenizer)(rows)
    width = max(len(row["input_ids"]) for row in rows)
    assert {part.shape for part in batch.values()} == {(len(rows), width)}
    assert (batch["labels"] == tokenizer.eos_token_id).sum(1).tolist() == [1] * len(rows)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (width - n)
        assert set(batch["labels"][i, n:].tolist()) <= {IGNORE_INDEX}
        assert set(batch["input_ids"][i, n:].tolist()) <= {tokenizer.eos_token_id}


def test_loss_weighs_tokens_and_ignores_padding(model, examples):
    nats, counts, ends = [], [], []
    model.eval()
    for row in examples:  # one at a time: no padding at all
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0]
        logprobs = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(row["input_ids"])[1:, None])[:, 0]
        answer = logprobs[row["labels"].count(IGNORE_INDEX) - 1 :]
        nats.append(-answer.sum().item())
        counts.append(len(answer))
        ends.append(answer[-1].exp().item())
    for batch_tokens in (1, 4096):
        measured = perplexity.completion_loss(model, examples, batch_tokens)
        assert math.isclose(measured["loss"], sum(nats) / sum(counts), rel_tol=1e-5)
        assert measured["counts"].tolist() == counts and measured["tokens"] == sum(counts)
        assert measured["nats"].tolist() == pytest.approx(nats, rel=1e-4)
        assert math.isclose(measured["eos_probability"], sum(ends) / len(ends), rel_tol=1e-4)


def test_transformers_loss_is_ours(model, examples, tokenizer):
    batch = labels.completion_only_collator(tokenizer)(list(examples))
    model.eval()
    ours = perplexity.completion_loss(model, examples)["loss"]
    assert math.isclose(model(**batch).loss.item(), ours, rel_tol=1e-5)


def test_windows_hold_the_texts_end_to_end(model, tokenizer):
    texts = ["Enter Ada.", "Ada:\nHail, good sir. " * 3, "Exeunt."]
    windows = packing.packed_windows(texts, tokenizer, 8)
    eos = tokenizer.eos_token_id
    wanted = [t for text in texts for t in (eos, *tokenizer(text, add_special_tokens=False)["input_ids"])] + [
        eos
    ]
    flat = [t for row in windows["input_ids"] for t in row]
    assert flat == wanted[: len(flat)] and 0 <= len(wanted) - len(flat) < 8
    assert all(
        len(row["input_ids"]) == 8 and row["labels"] == [IGNORE_INDEX, *row["input_ids"][1:]]
        for row in windows
    )
    model.eval()
    batch = labels.completion_only_collator(tokenizer)(list(windows))
    with torch.no_grad():
        assert perplexity.completion_loss(model, windows)["loss"] == pytest.approx(
            model(**batch).loss.item(), rel=1e-5
        )
    with pytest.raises(ValueError, match="block_size got 512"):
        packing.packed_windows(texts, tokenizer, 512)


def test_paragraphs_of_a_text_file_are_one_text(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("\n\n".join(f"ChatModel {i}:\nHail." for i in range(10)))
    (text,) = packing.plain_texts(str(path), "train")
    assert text.startswith("ChatModel 0:\nHail.\n\nChatModel 1:") and "ChatModel 9" not in text
    assert len(packing.plain_texts("miniworld/plays", "validation")) == 60


def test_an_answer_ends_where_the_context_does(model, tokenizer):
    context = model.config.n_positions
    words = tokenizer("word " * context)["input_ids"]
    for n, length in ((context - 3, 3), (context, None)):
        prompt = tokenizer.decode(words[:n])
        assert len(tokenizer(prompt)["input_ids"]) == n
        if length is None:
            with pytest.raises(
                ValueError, match=f"a prompt has {n} tokens, the model's context {context}; cut"
            ):
                generation.generate_greedy(model, tokenizer, [prompt], 64)
        else:
            made = generation.generate_greedy(model, tokenizer, [prompt], 64)
            assert made == generation.generate_greedy(model, tokenizer, [prompt], length) != [""]
