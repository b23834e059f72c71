"""What is put around transformers' trainers: weighted eval_loss, callbacks, checkpoints, optimizers."""

import math
import typing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.training_args import OptimizerNames

from lmlab.data import labels, pairs
from lmlab.evaluation import perplexity
from lmlab.models import parameters
from lmlab.models.sources import load_model, load_tokenizer
from lmlab.recipes.types import Optimizer
from lmlab.training.callbacks import CompleteCheckpoints, EvalProgress
from lmlab.training.checkpoints import find_resumable_checkpoint, mark_complete, trainer_checkpoints
from lmlab.training.optimizers import optimizer_name, qlora_optimizer
from lmlab.training.progress import read_progress
from lmlab.training.trainers import TokenWeightedTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("Ada", "Bo", "Cy", "Dee", "Eve", "Flo")
TAILS = ("", " well", "", " not", " and she knoweth thee, too", " so")
PAIRS = [
    {"modern": f"You know {name}.", "shakespearean": f"Thou knowest {name}{tail}."}
    for name, tail in zip(NAMES, TAILS, strict=True)
]


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder):
    return load_tokenizer(str(gpt2_folder))


@pytest.fixture(scope="module")
def examples(tokenizer):
    return pairs.tokenize_pairs(PAIRS, tokenizer, 128)


@pytest.fixture(scope="module")
def strangers(tokenizer):
    return pairs.tokenize_pairs([{"modern": "He sings.", "shakespearean": "He singeth."}], tokenizer, 128)


@pytest.fixture
def trainer_of(gpt2_folder, examples, tokenizer, tmp_path):
    """A function that makes a trainer of the tiny GPT-2; 12 steps, unless it is told otherwise."""

    def make(eval_set=None, callbacks=(), kind=TokenWeightedTrainer, folder=tmp_path, dropout=0.0, **changes):
        set_seed(0)
        settings = {
            "max_steps": 12,
            "per_device_train_batch_size": 2,
            "learning_rate": 2e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
            "seed": 1,
        }
        model = load_model(str(gpt2_folder))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        return kind(
            model,
            TrainingArguments(str(folder), **settings | changes),
            train_dataset=examples,
            eval_dataset=eval_set,
            data_collator=labels.completion_only_collator(tokenizer),
            callbacks=[CompleteCheckpoints(), *callbacks],
        )

    return make


def evaluated(every: int, **changes) -> dict:
    """Arguments of a training that is evaluated and saved."""
    return {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "restore_callback_states_from_checkpoint": True,
    } | changes


def logged(trainer, name: str) -> list[tuple]:
    return [(row["step"], row[name]) for row in trainer.state.log_history if name in row]


def test_eval_loss_counts_every_token_the_same(trainer_of, examples, tokenizer):
    """Whatever the batches are; the Trainer's own mean of means depends on them."""
    expected = perplexity.completion_loss(load_model(tokenizer.name_or_path), examples)["loss"]
    ours, theirs = [], []
    for size in (1, 4, 6):
        for kind, losses in ((TokenWeightedTrainer, ours), (Trainer, theirs)):
            trainer = trainer_of(examples, kind=kind, per_device_eval_batch_size=size)
            losses.append(trainer.evaluate()["eval_loss"])
    assert ours == pytest.approx([expected] * 3, rel=1e-5)
    assert max(theirs) - min(theirs) > 1e-3, "the sets show nothing"


@pytest.mark.parametrize("first_label", ["masked", "counted"])
def test_the_trainer_reports_the_loss_unscaled(gpt2_folder, examples, tokenizer, tmp_path, first_label):
    """GPT-2 without a loss_type is reported too low by (T - 1) / T where the first label counts."""
    rows = [dict(row) for row in examples]
    if first_label == "counted":
        rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows]
    model = load_model(str(gpt2_folder)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    collate = labels.completion_only_collator(tokenizer)
    expected = model(**collate(rows)).loss.item()
    args = TrainingArguments(
        str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        learning_rate=1e-9,
        logging_steps=1,
        use_cpu=True,
        save_strategy="no",
    )
    trainer = Trainer(model, args, train_dataset=Dataset.from_list(rows), data_collator=collate)
    trainer.train()
    assert math.isclose(trainer.state.log_history[0]["loss"], expected, rel_tol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("load_best", [True, False])
def test_the_best_weights_are_loaded_or_the_last_stay(trainer_of, strangers, load_best):
    changes = evaluated(4, load_best_model_at_end=load_best)
    trainer = trainer_of(strangers, max_steps=80, learning_rate=3e-2, **changes)
    trainer.train()
    losses = [loss for _, loss in logged(trainer, "eval_loss")]
    assert losses.index(min(losses)) < len(losses) - 1, "it did not overfit; the test shows nothing"
    loaded = perplexity.completion_loss(trainer.model, strangers)["loss"]
    assert loaded == pytest.approx(min(losses) if load_best else losses[-1], rel=1e-4)
    kept = trainer_checkpoints(Path(trainer.args.output_dir))
    assert 80 in kept and len(kept) == 2


def test_evaluations_are_written_for_the_search(trainer_of, strangers, tmp_path):
    trainer = trainer_of(
        strangers, [EvalProgress(tmp_path, "loss_after")], eval_on_start=True, **evaluated(6)
    )
    trainer.train()
    rows = [(row["step"], row["loss_after"]) for row in read_progress(tmp_path)]
    assert rows == logged(trainer, "eval_loss") and [step for step, _ in rows] == [0, 6, 12]


def test_of_several_sets_the_loss_of_validation_is_written(tmp_path):
    progress, state = EvalProgress(tmp_path, "loss_after"), TrainerState(global_step=3, max_steps=6)
    for metrics in ({"eval_train_loss": 1.0}, {"eval_validation_loss": 2.0}):
        progress.on_evaluate(None, state, None, metrics)
    assert [(row["step"], row["loss_after"]) for row in read_progress(tmp_path)] == [(3, 2.0)]


class StopAt(TrainerCallback):
    """Stops the process, as it were, in the middle of a run."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_run_has_the_losses_and_the_end_of_a_whole_one(
    trainer_of, examples, strangers, tmp_path
):
    """With dropout, and early stopping, whose used-up patience must be restored."""
    changes = {"max_steps": 40, "dropout": 0.1, "eval_on_start": True, **evaluated(2)}

    def run(name, callbacks=(), resume=None):
        callbacks = [EarlyStoppingCallback(4), *callbacks]
        trainer = trainer_of(strangers, callbacks, folder=tmp_path / name, **changes)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    end = whole.state.global_step
    assert end < 40, "it did not stop early; the test shows nothing"
    cut, config = tmp_path / "cut", {"rate": 1}
    assert find_resumable_checkpoint(cut, config, examples) is None
    with pytest.raises(KeyboardInterrupt):
        run("cut", [StopAt(end - 3)])
    (cut / f"checkpoint-{end - 2}").mkdir(exist_ok=True)
    (cut / f"checkpoint-{end - 2}" / "complete.json").unlink(missing_ok=True)  # as if cut off while written
    found = find_resumable_checkpoint(cut, config, examples)
    assert found == str(cut / f"checkpoint-{end - 4}")
    resumed = run("cut", resume=found)
    for name in ("loss", "eval_loss", "learning_rate"):
        assert logged(resumed, name) == logged(whole, name) != []
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoints_of_another_config_are_removed_or_refused(tmp_path, examples, caplog):
    checkpoint = tmp_path / "checkpoint-8"

    def leave():
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "state").write_text("{}")
        mark_complete(checkpoint)

    assert find_resumable_checkpoint(tmp_path, {"rate": 1}, examples) is None
    leave()
    assert find_resumable_checkpoint(tmp_path, {"rate": 1}, examples) == str(checkpoint)
    with pytest.raises(ValueError, match="rate"):
        find_resumable_checkpoint(tmp_path, {"rate": 2}, examples, replace=False)
    assert checkpoint.exists()
    assert find_resumable_checkpoint(tmp_path, {"rate": 2}, examples) is None
    assert not checkpoint.exists() and "rate" in caplog.text
    leave()
    assert find_resumable_checkpoint(tmp_path, {"rate": 2}, examples.select(range(1))) is None
    assert "examples" in caplog.text


def test_frozen_layers_do_not_move(trainer_of):
    trainer = trainer_of(max_steps=2)
    model = trainer.model
    n_weights = sum(p.numel() for p in model.parameters())
    assert parameters.freeze_layers(model, 0) == n_weights
    n_trained = parameters.freeze_layers(model, 1)
    last = [p for module in (model.transformer.h[1], model.transformer.ln_f) for p in module.parameters()]
    assert n_trained == sum(p.numel() for p in last)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train()
    for name, parameter in model.named_parameters():
        trains = name.startswith(("transformer.h.1.", "transformer.ln_f"))
        assert torch.equal(parameter, before[name]) != trains, name
    with pytest.raises(ValueError, match="frozen_layers got 2"):
        parameters.freeze_layers(model, 2)


@pytest.mark.parametrize("device, name", [("cuda", "paged_adamw_8bit"), ("cpu", "adamw_torch_fused")])
def test_the_optimizer_of_qlora_is_one_that_transformers_knows(device, name):
    assert OptimizerNames(qlora_optimizer(SimpleNamespace(device=device))).value == name


def test_the_optimizers_of_a_recipe_are_those_that_transformers_knows():
    names = [optimizer_name(name) for name in typing.get_args(Optimizer)]
    assert [OptimizerNames(name).value for name in names] == names
    assert len(set(names)) == len(names)
