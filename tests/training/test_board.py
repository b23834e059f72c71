"""What stands in TensorBoard: the same names from each kind of training, and one run at a time."""

import io
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from test_train import TINY
from test_train import run as run_pretrain

from lmlab.data import labels, pairs
from lmlab.models.gpt import GPT
from lmlab.models.sources import load_model, load_tokenizer
from lmlab.recipes import LESSONS, load_recipe
from lmlab.training import pretrain_state, tensorboard
from lmlab.training.callbacks import CompleteCheckpoints, TensorBoardCurves
from lmlab.training.checkpoints import find_resumable_checkpoint
from lmlab.training.trainers import TokenWeightedTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
COMMON = {"train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"}
PAIRS = [
    {"modern": f"You know {name}.", "shakespearean": f"Thou knowest {name}{tail}."}
    for name, tail in (("Ada", ""), ("Bo", " well"), ("Cy", " not"), ("Dee", ""), ("Eve", " so"))
]
PAIRS.append({"modern": "You sing.", "shakespearean": "Thou singest."})


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(folder) -> dict:
    """tag -> [(step, value)]"""
    found = events(folder)
    return {tag: [(row.step, row.value) for row in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def text(folder, tag: str) -> str:
    return events(folder).Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


@pytest.fixture(scope="module")
def examples(gpt2_folder):
    return pairs.tokenize_pairs(PAIRS, load_tokenizer(str(gpt2_folder)), 128)


@pytest.fixture
def cfg():
    return load_recipe("05_llama_lora_4bit", "tiny")


def trainer_for(folder, gpt2_folder, examples, callbacks, **changes):
    from transformers import TrainingArguments, set_seed

    set_seed(0)
    settings = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 6,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    return TokenWeightedTrainer(
        load_model(str(gpt2_folder)),
        TrainingArguments(str(folder), **settings | changes),
        train_dataset=examples,
        eval_dataset=examples,
        callbacks=callbacks,
        data_collator=labels.completion_only_collator(load_tokenizer(str(gpt2_folder))),
    )


def test_a_trainers_curves_have_transformers_tags(gpt2_folder, examples, tmp_path):
    shown = []
    curves = TensorBoardCurves(tmp_path / "tensorboard", lambda *row: shown.append(row))
    trainer = trainer_for(tmp_path / "trainer", gpt2_folder, examples, [curves])
    trainer.train()
    found = scalars(tmp_path / "tensorboard")
    assert set(found) >= COMMON and {tag.split("/")[0] for tag in found} == {"train", "eval"}
    logged = {row["step"]: row["loss"] for row in trainer.state.log_history if "loss" in row}
    measured = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    assert dict(found["train/loss"]) == pytest.approx(logged) and list(logged) == [3, 6, 9, 12]
    assert dict(found["eval/loss"]) == pytest.approx(measured) and list(measured) == [6, 12]
    assert {(part, row["step"]): row["loss"] for part, row, _ in shown} == {
        **{("train", step): loss for step, loss in logged.items()},
        **{("validation", step): loss for step, loss in measured.items()},
    }


def test_pretraining_has_the_same_tags(tmp_path):
    shown = []
    run_pretrain(GPT(TINY), tmp_path, lambda *row: shown.append(row), max_steps=10)
    found = scalars(tmp_path / "tensorboard")
    others = {"train/tokens_per_second", "eval/floor", "eval/above_floor", "eval/std"}
    assert set(found) == COMMON | others
    assert [(part, row["step"], n) for part, row, n in shown] == [
        ("validation", 0, 10),
        ("train", 5, 10),
        ("train", 10, 10),
        ("validation", 10, 10),
    ]
    assert text(tmp_path / "tensorboard", "samples/training").startswith("    step ")


@pytest.mark.slow
def test_a_training_that_begins_anew_replaces_its_curves_and_no_others(gpt2_folder, examples, cfg, tmp_path):
    folder = tmp_path / "tensorboard"
    for steps in (9, 6):
        logger = tensorboard.TensorBoardLogger(tmp_path, cfg)
        for name in ("", "beside"):
            curves = TensorBoardCurves(folder / name)
            trainer_for(tmp_path / "trainer", gpt2_folder, examples, [curves], max_steps=steps).train()
        logger.text("story", f"{steps} steps")
    for name in ("", "beside"):
        assert [step for step, _ in scalars(folder / name)["train/loss"]] == [3, 6]
    found = events(folder)
    assert [len(found.Tensors(f"{tag}/text_summary")) for tag in ("recipe", "samples/story")] == [1, 1]


class Stop(BaseException):
    pass


def stopping(at_step: int):
    from transformers import TrainerCallback

    class Stopping(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == at_step:
                raise Stop

    return Stopping()


@pytest.mark.slow
def test_an_interrupted_training_has_one_curve(gpt2_folder, examples, tmp_path):
    rows = {}
    for name in ("whole", "cut"):
        folder = tmp_path / name
        for session in range(1 if name == "whole" else 2):
            callbacks = [CompleteCheckpoints(), TensorBoardCurves(folder / "tensorboard")]
            if name == "cut" and session == 0:
                callbacks.append(stopping(9))
            trainer = trainer_for(
                folder / "trainer",
                gpt2_folder,
                examples,
                callbacks,
                logging_steps=1,
                save_strategy="steps",
                save_steps=6,
            )
            checkpoint = find_resumable_checkpoint(folder / "trainer")
            with pytest.raises(Stop) if name == "cut" and session == 0 else nullcontext():
                trainer.train(resume_from_checkpoint=checkpoint)
        rows[name] = scalars(folder / "tensorboard")
    for tag in COMMON:
        assert len(rows["cut"][tag]) == len(dict(rows["cut"][tag])), tag
        assert dict(rows["cut"][tag]) == pytest.approx(dict(rows["whole"][tag]), rel=1e-5), tag


@pytest.mark.slow
def test_interrupted_pretraining_has_one_curve(tmp_path, monkeypatch):
    found = {}
    for name in ("whole", "cut"):
        if name == "cut":
            log_step = pretrain_state.Recorder.log_step

            def stop(self, *row, log_step=log_step):
                if self.state.step >= 38:
                    raise Stop
                log_step(self, *row)

            monkeypatch.setattr(pretrain_state.Recorder, "log_step", stop)
            with pytest.raises(Stop):
                run_pretrain(GPT(TINY), tmp_path / name)
            monkeypatch.undo()
        run_pretrain(GPT(TINY), tmp_path / name)
        seen = scalars(tmp_path / name / "tensorboard")
        found[name] = {tag: [step for step, _ in rows] for tag, rows in seen.items()}
    assert found["cut"] == found["whole"] and found["cut"]["train/loss"] == list(range(5, 61, 5))


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_recipe_is_there_as_it_was_resolved(lesson, tmp_path):
    cfg = load_recipe(lesson, "tiny")
    tensorboard.TensorBoardLogger(tmp_path, cfg)
    header, _, *rows = text(tmp_path / "tensorboard", "recipe").split("\n")
    assert header == "| choice | value |"
    cells = [row.removeprefix("| ").removesuffix("` |").split(" | `") for row in rows]
    assert [(key, value.replace("\\n", "\n")) for key, value in cells] == [
        (key, str(value)) for key, value in cfg.rows()
    ]


def test_results_are_the_numbers_of_metrics_json(tmp_path):
    for loss in (3.0, 2.0):
        metrics = {"loss": loss, "ok": True, "name": "x", "none": None, "bad": math.nan}
        tensorboard.write_results(tmp_path, metrics)
    assert scalars(tmp_path / "tensorboard") == {"result/loss": [(0, 2.0)]}


def test_a_recipe_may_hold_bars():
    from tensorboard.plugin_util import markdown_to_safe_html

    table = tensorboard.recipe_table(SimpleNamespace(rows=lambda: [("pattern", "a|b"), ("n", 3)]))
    shown = markdown_to_safe_html(table)
    assert "<code>a|b</code>" in shown and shown.count("<td>") == 4


def test_a_text_stands_letter_by_letter_and_a_figure_is_the_file(cfg, tmp_path):
    from matplotlib.figure import Figure
    from matplotlib.image import imread
    from tensorboard.plugin_util import markdown_to_safe_html

    made, axes = tensorboard.TensorBoardLogger(tmp_path, cfg), Figure(figsize=(3, 2)).subplots(1, 2)
    made.text("thought", "<think>\n2 * 3 = 6\n\n</think>\n\n| *6* |")
    made.figure("two", axes[0])
    shown = markdown_to_safe_html(text(tmp_path / "tensorboard", "samples/thought"))
    assert "&lt;think&gt;\n2 * 3 = 6\n\n&lt;/think&gt;\n\n| *6* |" in shown
    (image,) = events(tmp_path / "tensorboard").Images("figures/two")
    assert (image.width, image.height) == (360, 240)
    assert np.array_equal(imread(io.BytesIO(image.encoded_image_string)), imread(tmp_path / "two.png"))
