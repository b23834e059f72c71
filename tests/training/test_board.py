"""What stands in TensorBoard: the same names from each kind of training, and one run at a time."""

import itertools
import math
from types import SimpleNamespace

import pytest
from test_train import TINY
from test_train import run as run_pretrain

from lmlab.course.results import write_metrics
from lmlab.data import labels, pairs
from lmlab.models.gpt import GPT
from lmlab.models.sources import load_model, load_tokenizer
from lmlab.recipes import LESSONS, load_recipe
from lmlab.training import pretrain, tensorboard, trainers

pytestmark = pytest.mark.usefixtures("one_thread")
COMMON = {
    "train/loss",
    "train/grad_norm",
    "train/learning_rate",
    "train/tokens_per_second",
    "validation/loss",
}
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


def trainer_for(folder, gpt2_folder, examples, callbacks, **choices):
    from transformers import Trainer, set_seed

    set_seed(0)
    cpu = SimpleNamespace(bf16=False, fp16=False, use_cpu=True)
    args = trainers.training_arguments(
        folder, cpu, **{"epochs": 4, "batch_size": 2, "learning_rate": 1e-3, "logging_steps": 3} | choices
    )
    return Trainer(
        model=load_model(str(gpt2_folder)),
        args=args,
        train_dataset=examples,
        callbacks=callbacks,
        eval_dataset=examples,
        data_collator=labels.completion_only_collator(load_tokenizer(str(gpt2_folder))),
    )


def test_a_trainers_curves_have_the_agreed_names(gpt2_folder, examples, cfg, tmp_path):
    history = trainers.History({"train": examples, "validation": examples}, every=5)
    watched = []
    curves = tensorboard.TensorBoardLogger(tmp_path, cfg).callback(history, lambda *row: watched.append(row))
    trainer = trainer_for(tmp_path / "trainer", gpt2_folder, examples, [history.callback(), curves])
    trainer.train()
    found = scalars(tmp_path / "tensorboard")
    assert set(found) == COMMON | {"validation/loss_on_train"}
    assert all(math.isfinite(value) for rows in found.values() for _, value in rows)
    logged = [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
    assert dict(found["train/loss"]) == pytest.approx(dict(logged)) and len(logged) == 4
    measured = dict(zip(history.steps, history.losses["validation"], strict=True))
    assert dict(found["validation/loss"]) == pytest.approx(measured) and list(measured) == [0, 5, 10, 12]
    told = {(part, row["step"]): row["loss"] for part, row, _ in watched if "loss" in row}
    assert told == {
        **{("train", step): loss for step, loss in logged},
        **{("validation", step): loss for step, loss in measured.items()},
    }


def test_the_trainers_own_evaluation_is_validation(gpt2_folder, examples, cfg, tmp_path):
    trainer = trainer_for(
        tmp_path / "trainer",
        gpt2_folder,
        examples,
        [tensorboard.TensorBoardLogger(tmp_path, cfg).callback()],
        eval_strategy="steps",
        eval_steps=6,
    )
    trainer.train()
    found = scalars(tmp_path / "tensorboard")
    assert set(found) == COMMON and [step for step, _ in found["validation/loss"]] == [6, 12]


def test_tokens_are_those_that_bear_loss(gpt2_folder, examples, cfg, tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(
        tensorboard, "time", SimpleNamespace(perf_counter=lambda: next(ticks))
    )  # a step takes 1
    trainer_for(
        tmp_path / "trainer",
        gpt2_folder,
        examples,
        [tensorboard.TensorBoardLogger(tmp_path, cfg).callback()],
        grad_accumulation=3,
        logging_steps=1,
        epochs=2,
        eval_strategy="steps",
        eval_steps=1,
    ).train()
    per_epoch = sum(label != -100 for row in examples["labels"] for label in row[1:])
    assert scalars(tmp_path / "tensorboard")["train/tokens_per_second"] == [(1, per_epoch), (2, per_epoch)]


def test_pretraining_has_the_same_names(tmp_path):
    watched = []
    run_pretrain(GPT(TINY), tmp_path, {"watch": lambda *row: watched.append(row)}, max_steps=10)
    found = scalars(tmp_path / "tensorboard")
    assert set(found) == COMMON | {"validation/floor", "validation/above_floor", "validation/spread"}
    assert [(part, row["step"], n) for part, row, n in watched] == [
        ("validation", 0, 10),
        ("train", 5, 10),
        ("train", 10, 10),
        ("validation", 10, 10),
    ]
    assert text(tmp_path / "tensorboard", "samples/training").startswith("    step ")


def test_a_training_that_begins_anew_replaces_its_curves_and_no_others(gpt2_folder, examples, cfg, tmp_path):
    for epochs in (4, 2):
        made = tensorboard.TensorBoardLogger(tmp_path, cfg)
        for name in ("", "beside"):
            trainer_for(
                tmp_path / "trainer",
                gpt2_folder,
                examples,
                [made.callback(run=name)],
                epochs=epochs,
                max_steps=-1 if name or epochs == 2 else 9,
            ).train()
        made.text("story", f"{epochs} epochs")
    for folder in (tmp_path / "tensorboard", tmp_path / "tensorboard" / "beside"):
        assert [step for step, _ in scalars(folder)["train/loss"]] == [3, 6]
    found = events(tmp_path / "tensorboard")
    assert [len(found.Tensors(f"{tag}/text_summary")) for tag in ("recipe", "samples/story")] == [1, 1]


def test_pretraining_anew_leaves_the_earlier_curves_beside(cfg, tmp_path):
    for steps in (20, 10):
        tensorboard.TensorBoardLogger(tmp_path, cfg)
        run_pretrain(GPT(TINY), tmp_path, max_steps=steps)
    steps = {
        where: [step for step, _ in scalars(tmp_path / where / "tensorboard")["train/loss"]]
        for where in (".", "previous")
    }
    assert steps == {".": [5, 10], "previous": [5, 10, 15, 20]}
    assert "05_llama" in text(tmp_path / "tensorboard", "recipe")


class Stop(BaseException):
    pass


def stopping(at_step: int):
    from transformers import TrainerCallback

    class Stopping(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == at_step:
                raise Stop

    return Stopping()


def test_an_interrupted_training_has_one_curve(gpt2_folder, examples, cfg, tmp_path):
    rows = {}
    for name, stops in (("whole", ()), ("cut", (9,))):
        for _ in range(1 + len(stops)):
            history = trainers.History({"validation": examples}, every=4)
            trainer = trainer_for(
                tmp_path / name / "t",
                gpt2_folder,
                examples,
                [history.callback(), tensorboard.TensorBoardLogger(tmp_path / name, cfg).callback(history)],
                logging_steps=1,
                checkpoint_every=6,
            )
            left = trainers.unfinished(tmp_path / name / "t", {}, examples)
            if stops and not left:
                trainer.add_callback(stopping(9))
                with pytest.raises(Stop):
                    trainer.train()
            else:
                trainer.train(resume_from_checkpoint=left)
        rows[name] = scalars(tmp_path / name / "tensorboard")
    for tag in COMMON - {"train/tokens_per_second"}:
        assert len(rows["cut"][tag]) == len(dict(rows["cut"][tag])), tag
        assert dict(rows["cut"][tag]) == pytest.approx(dict(rows["whole"][tag]), rel=1e-5), tag
    assert [step for step, _ in rows["cut"]["train/tokens_per_second"]] == list(range(1, 13))


def test_interrupted_pretraining_has_one_curve(tmp_path, monkeypatch):
    found = {}
    for name in ("whole", "cut"):
        if name == "cut":
            step = pretrain._Record.step
            monkeypatch.setattr(
                pretrain._Record,
                "step",
                lambda self, *row, step=step: (
                    step(self, *row) if self.run.step < 38 else (_ for _ in ()).throw(Stop)
                ),
            )
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


def test_results_are_the_numbers_of_metrics_json(cfg, tmp_path):
    needed = dict.fromkeys(cfg.expected, 1.0)
    for loss in (3.0, 2.0):
        others = {"loss": loss, "ok": True, "name": "x", "none": None, "bad": math.nan}
        write_metrics(tmp_path, cfg, needed | others)
    found = scalars(tmp_path / "tensorboard")
    assert set(found) == {f"result/{name}" for name in (*needed, "loss")}
    assert found["result/loss"] == [(0, 2.0)]


def test_at_the_end_of_a_lesson_runs_that_it_no_longer_has_are_gone(cfg, tmp_path, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    needed, clock = dict.fromkeys(cfg.expected, 1.0), itertools.count(1_700_000_000, 10)
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time.time", lambda: next(clock))
    folder = tmp_path / "tensorboard"

    def lesson(*runs):
        tensorboard.TensorBoardLogger(tmp_path, cfg)
        for run in runs:
            tensorboard.open_curves(folder / run, 0).close()
        write_metrics(tmp_path, cfg, needed)

    lesson("", "rate 0.1", "rate 0.01/deeper")
    with SummaryWriter(str(folder / "the reader's own")):
        pass
    lesson("", "rate 0.2", "rate 0.01/deeper")
    assert {path.parent.relative_to(folder).as_posix() for path in folder.rglob("events*")} == {
        ".",
        "rate 0.2",
        "rate 0.01/deeper",
        "the reader's own",
    }
    tensorboard.TensorBoardLogger(tmp_path, cfg)
    tensorboard.open_curves(folder / "rate 0.2", 5).close()  # goes on
    write_metrics(tmp_path, cfg, needed)
    assert list((folder / "rate 0.2").iterdir()) and not list((folder / "rate 0.01" / "deeper").iterdir())


def test_a_recipe_may_hold_bars():
    from tensorboard.plugin_util import markdown_to_safe_html

    table = tensorboard.recipe_table(SimpleNamespace(rows=lambda: [("pattern", "a|b"), ("n", 3)]))
    shown = markdown_to_safe_html(table)
    assert "<code>a|b</code>" in shown and shown.count("<td>") == 4


def test_a_text_stands_letter_by_letter_and_a_figure_is_the_file(cfg, tmp_path):
    from matplotlib.figure import Figure
    from tensorboard.plugin_util import markdown_to_safe_html

    made, axes = tensorboard.TensorBoardLogger(tmp_path, cfg), Figure(figsize=(3, 2)).subplots(1, 2)
    made.text("thought", "<think>\n2 * 3 = 6\n\n</think>\n\n| *6* |")
    made.figure("two", axes[0])
    shown = markdown_to_safe_html(text(tmp_path / "tensorboard", "samples/thought"))
    assert "&lt;think&gt;\n2 * 3 = 6\n\n&lt;/think&gt;\n\n| *6* |" in shown
    (image,) = events(tmp_path / "tensorboard").Images("figures/two")
    assert (image.width, image.height) == (360, 240)
    assert image.encoded_image_string == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("loss", "train/loss"),
        ("eval_loss", "validation/loss"),
        ("rewards/right/mean", "train/rewards/right/mean"),
        ("eval_mean_token_accuracy", "validation/mean_token_accuracy"),
        ("epoch", None),
        ("eval_runtime", None),
        ("train_steps_per_second", None),
        ("train_loss", None),
        ("eval_samples_per_second", None),
    ],
)
def test_what_a_trainer_logs_has_one_place(name, tag):
    assert tensorboard.tag_of(name) == tag
