"""Full fine-tuning: pairs, the loss mask, padding, the ruler, the Trainer."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from lmlab.data import labels, packing, pairs
from lmlab.evaluation import perplexity, translation
from lmlab.models import IGNORE_INDEX, generation, parameters
from lmlab.models.sources import load_model, load_tokenizer
from lmlab.training import trainers
from lmlab.training.checkpoints import mark_complete
from lmlab.training.progress import read_progress

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


def machine(**facts):
    return SimpleNamespace(**{"bf16": False, "fp16": False, "use_cpu": True} | facts)


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
    several = [
        pairs.pair_sets(
            config(
                tmp_path,
                data="miniworld/pairs",
                small_data="miniworld/pairs-274",
                small_train=220,
                small_validation=54,
                seed=seed,
            )
        )
        for seed in (0, 1)
    ]
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


def test_long_pairs_are_left_out_whole(tokenizer, capsys):
    rows = [*PAIRS, {"modern": "You " * 100, "shakespearean": "Thou"}]
    kept = pairs.tokenize_pairs(rows, tokenizer, 128)
    assert len(kept) == len(PAIRS) and "left out 1 of 7" in capsys.readouterr().out
    longest = max(map(len, kept["input_ids"]))
    assert len(pairs.tokenize_pairs(PAIRS, tokenizer, longest)) == len(PAIRS)
    assert len(pairs.tokenize_pairs(PAIRS, tokenizer, longest - 1)) < len(PAIRS)
    with pytest.raises(ValueError, match="max_length got 5"):
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


@pytest.mark.parametrize("first_label", ["masked", "counted"])
def test_the_trainer_reports_the_loss_unscaled(model, examples, tokenizer, tmp_path, first_label):
    """GPT-2 without a loss_type is reported too low by (T - 1) / T where the first label counts."""
    from transformers import Trainer

    rows = [dict(row) for row in examples]
    if first_label == "counted":
        rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows]
    model.eval()
    collate = labels.completion_only_collator(tokenizer)
    expected = model(**collate(rows)).loss.item()
    args = trainers.training_arguments(
        tmp_path, machine(), epochs=1, batch_size=2, grad_accumulation=3, learning_rate=1e-9, logging_steps=1
    )
    trainer = Trainer(model=model, args=args, train_dataset=Dataset.from_list(rows), data_collator=collate)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.train()
    assert math.isclose(trainer.state.log_history[0]["loss"], expected, rel_tol=1e-3)


def test_arguments_follow_the_machine(tmp_path):
    args = trainers.training_arguments(
        tmp_path, machine(), epochs=2, batch_size=4, learning_rate=1e-3, seed=3
    )
    assert (args.bf16, args.fp16, args.use_cpu, args.seed) == (False, False, True, 3)
    assert args.report_to == [], "the board has a callback of its own"


def test_training_is_recorded_and_the_best_model_kept(model, examples, tokenizer, tmp_path):
    from transformers import Trainer, set_seed

    set_seed(0)
    strangers = [{"modern": "He sings.", "shakespearean": "He singeth."}]
    sets = {"train": examples, "validation": pairs.tokenize_pairs(strangers, tokenizer, 128)}
    noted = []
    history = trainers.History(
        sets, every=20, folder=tmp_path / "best", progress=lambda *row: noted.append(row)
    )
    args = trainers.training_arguments(
        tmp_path / "logs", machine(), epochs=70, batch_size=6, learning_rate=2e-2
    )
    Trainer(
        model=model,
        args=args,
        train_dataset=examples,
        callbacks=[history.callback()],
        data_collator=labels.completion_only_collator(tokenizer),
    ).train()
    assert history.steps == [0, 20, 40, 60, 70] and history.epochs[-1] == pytest.approx(70)
    assert history.losses["train"][-1] < 0.5 < history.losses["train"][0]
    assert noted == list(zip(history.steps, history.losses["validation"], strict=True))
    kept = perplexity.completion_loss(load_model(str(tmp_path / "best")), sets["validation"])["loss"]
    assert kept == pytest.approx(min(history.losses["validation"]), rel=1e-4)
    assert history.losses["validation"][history.best] == min(history.losses["validation"])


def test_the_trainers_evaluations_are_noted(model, examples, tokenizer, tmp_path):
    from transformers import Trainer

    args = trainers.training_arguments(
        tmp_path / "logs", machine(), epochs=2, batch_size=6, learning_rate=1e-3, eval_strategy="epoch"
    )
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=labels.completion_only_collator(tokenizer),
        callbacks=[trainers.progress_callback(tmp_path, "loss_after")],
    )
    trainer.train()
    evaluated = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(evaluated) == 2
    assert read_progress(tmp_path) == [
        {"step": row["step"], "loss_after": row["eval_loss"]} for row in evaluated
    ]


@pytest.mark.parametrize(
    ("losses", "patience", "stop"),
    [
        ([3, 2, 1], 1, None),
        ([3, 2, 2.5], 1, 2),
        ([3, 2, 2], 1, 2),
        ([3, 2, 2.5, 1, 2, 2], 2, 5),
        ([3, 4, 5, 6], 3, 3),
        ([3, 4, 5, 6], None, None),
        ([], 1, None),
    ],
)
def test_patience_counts_measurements_without_a_new_best(losses, patience, stop):
    assert trainers.stopping_point(losses, patience) == stop


def training(model, examples, tokenizer, folder, history, callbacks=(), **choices):
    """A Trainer of 12 steps, at a rate at which the loss on strangers turns up soon."""
    from transformers import Trainer, set_seed

    set_seed(0)
    choices = {
        "max_steps": 12,
        "learning_rate": 2e-2,
        "logging_steps": 1,
        "lr_scheduler_type": "linear",
    } | choices
    args = trainers.training_arguments(folder, machine(), epochs=1, batch_size=2, seed=1, **choices)
    return Trainer(
        model=model,
        args=args,
        train_dataset=examples,
        callbacks=[history.callback(), *callbacks],
        data_collator=labels.completion_only_collator(tokenizer),
    )


def scripted(losses, **choices):
    """A History that "measures" given losses."""
    left = iter(losses)
    history = trainers.History({}, **choices)

    def measure(model, step, epoch):
        history.losses.setdefault("validation", []).append(next(left))
        history.steps.append(step)

    history.measure = measure
    return history


def test_training_stops_when_patience_ends(model, examples, tokenizer, tmp_path):
    history = scripted([3, 2, 2.5, 2.4, 1, 1], every=2, patience=2)
    trainer = training(model, examples, tokenizer, tmp_path, history)
    trainer.train()
    assert history.steps == [0, 2, 4, 6] and trainer.state.global_step == 6


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_best_weights_are_kept_or_the_last(model, examples, tokenizer, tmp_path, keep_best):
    strangers = pairs.tokenize_pairs(
        [{"modern": "He sings.", "shakespearean": "He singeth."}], tokenizer, 128
    )
    history = trainers.History(
        {"validation": strangers}, every=4, folder=tmp_path / "kept", keep_best=keep_best
    )
    training(model, examples, tokenizer, tmp_path / "logs", history, max_steps=80, learning_rate=3e-2).train()
    losses = history.losses["validation"]
    assert history.best < len(losses) - 1, "it did not overfit; the test shows nothing"
    kept = perplexity.completion_loss(load_model(str(tmp_path / "kept")), strangers)["loss"]
    assert kept == pytest.approx(min(losses) if keep_best else losses[-1], rel=1e-4)
    assert history.seconds > 0


def interruption(at_step):
    """A callback that stops the process, as it were, in the middle of a run."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == at_step:
                raise KeyboardInterrupt

    return Stop()


def test_an_interrupted_run_has_the_losses_of_a_whole_one(
    gpt2_folder, examples, tokenizer, tmp_path, one_thread
):
    def run(folder, callbacks=(), resume=None, patience=None):
        model = load_model(str(gpt2_folder))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1  # so that the random numbers must go on, too
        history = trainers.History(
            {"validation": examples}, every=2, folder=folder / "kept", patience=patience
        )
        trainer = training(model, examples, tokenizer, folder, history, callbacks, checkpoint_every=4)
        trainer.train(resume_from_checkpoint=resume)
        steps = [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
        return history, steps, perplexity.completion_loss(load_model(str(folder / "kept")), examples)["loss"]

    whole = run(tmp_path / "whole")
    cut = tmp_path / "cut"
    assert trainers.unfinished(cut, {"rate": 1}, examples) is None
    with pytest.raises(KeyboardInterrupt):
        run(cut, [interruption(7)])
    first_session = json.loads((cut / "checkpoint-4" / "history.json").read_text())["elapsed"]
    (cut / "checkpoint-6").mkdir()  # one that was cut off while it was written
    found = trainers.unfinished(cut, {"rate": 1}, examples)
    assert found == str(cut / "checkpoint-4")
    for path in (cut / "kept").iterdir():  # the best of a continuation that the resumed run will not have
        path.write_bytes(b"other")
    resumed = run(cut, resume=found)
    for name in ("steps", "epochs", "losses"):
        assert getattr(resumed[0], name) == getattr(whole[0], name)
    assert resumed[1:] == whole[1:]
    assert resumed[0].elapsed > first_session > 0 and resumed[0].elapsed > resumed[0].seconds > 0


def test_a_run_that_had_stopped_early_does_not_begin_again(gpt2_folder, examples, tokenizer, tmp_path):
    history = scripted([3, 2, 2, 2, 1], every=2)  # patience 2 ends at step 6
    history.patience = 2
    trainer = training(
        load_model(str(gpt2_folder)), examples, tokenizer, tmp_path, history, checkpoint_every=6
    )
    trainer.train()
    assert trainer.state.global_step == 6
    again = scripted([0] * 9, every=2)
    again.patience = 2
    later = training(load_model(str(gpt2_folder)), examples, tokenizer, tmp_path, again, checkpoint_every=6)
    later.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert later.state.global_step == 7 and again.steps == history.steps == [0, 2, 4, 6]


def test_checkpoints_of_other_choices_are_not_taken_up(tmp_path, examples, capsys):
    def leave():
        (tmp_path / "checkpoint-8").mkdir(exist_ok=True)
        (tmp_path / "checkpoint-8" / "history.json").write_text("{}")
        mark_complete(tmp_path / "checkpoint-8")

    assert trainers.unfinished(tmp_path, {"rate": 1}, examples) is None
    leave()
    assert trainers.unfinished(tmp_path, {"rate": 1}, examples) == str(tmp_path / "checkpoint-8")
    assert trainers.unfinished(tmp_path, {"rate": 2}, examples) is None
    assert not (tmp_path / "checkpoint-8").exists() and "(other: rate): removed" in capsys.readouterr().out
    leave()
    assert trainers.unfinished(tmp_path, {"rate": 2}, examples.select(range(1))) is None
    assert "(other: examples): removed" in capsys.readouterr().out


def test_a_training_ends_after_the_step_that_was_asked_for(model, examples, tokenizer, tmp_path):
    trainer = training(
        model, examples, tokenizer, tmp_path, scripted([1] * 9, every=4), [trainers.stop_after(3)]
    )
    trainer.train()
    assert trainer.state.global_step == 3


def test_frozen_layers_do_not_move(model, examples, tokenizer, tmp_path):
    n_weights = sum(p.numel() for p in model.parameters())
    assert parameters.freeze_layers(model, 0) == n_weights
    n_trained = parameters.freeze_layers(model, 1)
    last = [p for module in (model.transformer.h[1], model.transformer.ln_f) for p in module.parameters()]
    assert n_trained == sum(p.numel() for p in last)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    training(model, examples, tokenizer, tmp_path, scripted([1] * 9, every=4), max_steps=2).train()
    for name, parameter in model.named_parameters():
        trains = name.startswith(("transformer.h.1.", "transformer.ln_f"))
        assert torch.equal(parameter, before[name]) != trains, name
    with pytest.raises(ValueError, match="frozen_layers got 2; give 0 to 1, the model has 2 blocks"):
        parameters.freeze_layers(model, 2)


def test_loss_on_everything_labels_all_but_the_first(examples, tokenizer):
    rows = pairs.tokenize_pairs(PAIRS, tokenizer, 128, prompt_loss=True)
    assert rows["input_ids"] == examples["input_ids"]
    assert all(row["labels"] == [IGNORE_INDEX, *row["input_ids"][1:]] for row in rows)


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
    with pytest.raises(ValueError, match="style_block_size got 512, and the text has"):
        packing.packed_windows(texts, tokenizer, 512)


def test_paragraphs_of_a_text_file_are_one_text(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("\n\n".join(f"ChatModel {i}:\nHail." for i in range(10)))
    (text,) = packing.plain_texts(str(path), "train")
    assert text.startswith("ChatModel 0:\nHail.\n\nSpeaker 1:") and "ChatModel 9" not in text
    assert len(packing.plain_texts("miniworld/plays", "validation")) == 60


def test_the_8_bit_optimizer_needs_a_gpu():
    assert trainers.optimizer_name("adamw_8bit", machine(device="cuda")) == "adamw_bnb_8bit"
    assert trainers.optimizer_name("adamw_torch", machine(device="cpu")) == "adamw_torch_fused"
    with pytest.raises(
        ValueError, match="adamw_8bit got device 'cpu'; it needs a CUDA GPU: give adamw_torch"
    ):
        trainers.optimizer_name("adamw_8bit", machine(device="cpu"))


def test_translations_are_greedy_and_stripped(monkeypatch):
    asked = []
    monkeypatch.setattr(
        generation,
        "generate_greedy",
        lambda model, tokenizer, prompts, n: asked.extend(prompts) or [" Thou knowest.\n"],
    )
    assert translation.translate(None, None, PAIRS[:1]) == ["Thou knowest."]
    assert asked == ["Convert to Shakespearean: You know Ada.\nShakespearean:"]


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
