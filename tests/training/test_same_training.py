"""Notebook and ``lmlab finetune`` train the same: equal arguments, labels, and losses at every step.

The notebook's side is its own cells, those tagged "training": a change in one place alone fails.
"""

import json
from pathlib import Path

import pytest
import torch

import lmlab
from lmlab.course.lesson import start_lesson
from lmlab.data.packing import document_windows, packed_windows
from lmlab.hardware import fast_matmul
from lmlab.models.quantization import load_four_bit
from lmlab.models.sources import load_tokenizer
from lmlab.recipes import load_recipe
from lmlab.training import sft
from lmlab.training.callbacks import EvalProgress, TensorBoardCurves

pytestmark = pytest.mark.slow
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SMALL = {
    "00_start_here": {"n_train": 48, "n_validation": 5, "epochs": 1, "lora_dropout": 0.1, "evaluations": 2},
    "04_shakespeare_full_finetune": {
        "n_train": 40,
        "n_validation": 20,
        "study_sizes": [20],
        "grad_accumulation": 2,
        "learning_rate": 3e-3,
        "evaluations": 3,
        "early_stopping_patience": 9,
    },
    "05_llama_lora_4bit": {"n_train": 80, "n_validation": 5, "evaluations": 2, "lora_dropout": 0.1},
    "06_deepseek_qlora_think": {
        "n_train": 24,
        "n_validation": 5,
        "n_eval": 5,
        "n_harder": 0,
        "lora_dropout": 0.1,
        "evaluations": 2,
    },
}


def notebook_trainer(cfg, machine, out: Path):
    """The trainer that the notebook's own cells make."""
    notebook = json.loads((NOTEBOOKS / f"{cfg.lesson}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    lesson = start_lesson(cfg.lesson, "tiny", SMALL[cfg.lesson], out)
    names = {"lesson": lesson, "cfg": cfg, "machine": machine, "out": lesson.out, "as_measured": False}
    names["tokenizer"] = load_tokenizer(cfg.model)
    if cfg.lesson.startswith(("00", "05", "06")):
        names["base"] = names["model"] = load_four_bit(cfg.model, machine).requires_grad_(False)
    lines = [line.rstrip("\n") for cell in cells for line in cell["source"]]
    exec("\n".join(line for line in lines if line.startswith(("import ", "from "))), names)
    for cell in cells:
        if "training" in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), names)
    return names["large" if "large" in names else "trainer"], names


def job_trainer(cfg, machine, out: Path):
    """The trainer of the job, made as ``sft.run_recipe`` makes it."""
    tokenizer = load_tokenizer(cfg.model)
    args = sft.training_arguments(cfg, out / "trainer", machine)
    train, validation = sft.examples(cfg, tokenizer)
    model = sft.build_model(cfg, machine)
    sft.set_seed(cfg.seed)
    return sft.build_trainer(cfg, model, args, tokenizer, train, validation)


def rows_of(dataset) -> list[tuple]:
    """Tokens, and the labels of all positions but the first, which no model predicts."""
    return [(row["input_ids"], row["labels"][1:]) for row in dataset]


def logged(trainer, name: str) -> list[tuple]:
    return [(row["step"], row[name]) for row in trainer.state.log_history if name in row]


@pytest.mark.parametrize("lesson", SMALL)
def test_notebook_and_job_train_the_same(lesson, machine, tmp_path, one_thread):
    cfg = load_recipe(lesson, "tiny", **SMALL[lesson])
    length = getattr(cfg, "block_size", None) or cfg.max_length
    of_notebook, names = notebook_trainer(cfg, machine, tmp_path / "notebook")
    if "run" in names:  # lesson 04's, which trains several models
        names["run"](of_notebook, "large")
    else:
        with fast_matmul(machine.device, length):
            of_notebook.train()
    of_job = job_trainer(cfg, machine, tmp_path / "job")
    with fast_matmul(machine.device, length):
        of_job.train()

    theirs, ours = (trainer.args.to_dict() for trainer in (of_notebook, of_job))
    assert {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)} <= {"output_dir"}
    for part in ("train_dataset", "eval_dataset"):
        assert rows_of(getattr(of_notebook, part)) == rows_of(getattr(of_job, part))
    kinds = [{type(callback) for callback in of.callback_handler.callbacks} for of in (of_notebook, of_job)]
    assert kinds[0] - kinds[1] <= {EvalProgress, TensorBoardCurves} and kinds[1] <= kinds[0]
    for name in ("loss", "eval_loss", "learning_rate", "grad_norm"):
        assert logged(of_notebook, name) == logged(of_job, name) != []
    trained = dict(of_job.model.named_parameters())
    for name, parameter in of_notebook.model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, trained[name]), name


@pytest.mark.parametrize("kind", ["lines with headings", "no validation split"])
def test_notebook_and_job_read_the_same_texts(kind, tmp_path):
    """Lesson 05's: of WikiText, which has a row for each line, and of a file that has no split."""
    source = tmp_path / "own.jsonl"
    lines = [f"Text {i % 25} of a file." for i in range(40)]
    if kind == "lines with headings":
        source = tmp_path / "wiki"
        source.mkdir()
        lines = []
        for i in range(20):
            lines += ["", f" = Title {i} = \n", "", f" Paragraph {i} of an article . \n"]
        write_jsonl(source / "validation.jsonl", lines[-20:] + [" One more . \n"])
    write_jsonl(source / "train.jsonl" if source.is_dir() else source, lines)
    cfg = load_recipe("05", "tiny", data=str(source), n_train=None, n_validation=None)
    notebook = json.loads((NOTEBOOKS / f"{cfg.lesson}.ipynb").read_text(encoding="utf-8"))
    (cell,) = (
        cell
        for cell in notebook["cells"]
        if "load_rows(" in "".join(cell["source"]) and cell["cell_type"] == "code"
    )
    names = {"cfg": cfg, "lmlab": lmlab}
    exec("".join(cell["source"]), names)
    train, validation = sft.examples(cfg, names["tokenizer"])
    assert (
        train["input_ids"][:]
        == packed_windows(names["train_texts"], names["tokenizer"], cfg.block_size)["input_ids"][:]
    )
    held_out = document_windows(names["texts"], names["tokenizer"], cfg.block_size)
    assert validation["input_ids"][:] == held_out["input_ids"][:]


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
