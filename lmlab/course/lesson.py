"""How a lesson begins and ends: recipe, machine, folder, TensorBoard; metrics, recipe and record files."""

import contextlib
import dataclasses
import html
import json
import logging
import os
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.course.colab import check_imported_libraries, mount_drive
from lmlab.course.doctor import suggest_recipe
from lmlab.course.results import Expectations, write_metrics
from lmlab.course.runs import find_result
from lmlab.files import write_atomic
from lmlab.hardware import Machine, describe_machine
from lmlab.recipes import LESSONS, Recipe, load_recipe
from lmlab.training.tensorboard import TensorBoardLogger

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from torch.optim import Optimizer
    from transformers import TrainerCallback

    from lmlab.course.measured import Comparison
    from lmlab.course.plan import Plan

RECORDED = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "tokenizers")


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a notebook works with.

    Attributes:
        cfg: The recipe, with the overrides in it.
        machine: What this machine is, and the dtype that follows.
        out: The lesson's folder, runs/<run>/<lesson>: all that the notebook writes goes there.
        tensorboard: For figures and texts; the lesson's place in TensorBoard.
        as_measured: Whether the recipe is tiny and only the seed was changed. The effects that the lesson is
            about are asserted then, as they have been measured.
        from_run: The only run whose results may be used; None: this one, else the newest that has them.
        started: ``time.time()`` at the begin.
    """

    cfg: Recipe
    machine: Machine
    out: Path
    tensorboard: TensorBoardLogger
    as_measured: bool
    from_run: str | None
    started: float

    def find(self, lesson: str, name: str) -> Path | None:
        """What an earlier lesson left, as ``find("02", "model")``: in this run, else in the newest that has
        it.

        Args:
            lesson: Number or full name.
            name: Of the file or folder in that lesson's folder.

        Returns:
            Its path, or None where no run has it.
        """
        return find_result(lesson, name, self.out.parent, self.from_run)

    def callbacks(
        self, name: str = "", title: str | None = None, metric: str = ""
    ) -> "list[TrainerCallback]":
        """What a Trainer of this lesson gets as its ``callbacks``.

        They keep its checkpoints complete, so that an interrupted run resumes; send its losses to
        TensorBoard; write each ``eval_loss`` to progress.jsonl; and draw the losses under the cell while
        it trains.

        Args:
            name: Of this training, where the lesson has several; its curves' folder in tensorboard/.
            title: Of the drawing; None: none is made.
            metric: What ``eval_loss`` is called in progress.jsonl; "": it is not written there.
        """
        from lmlab.course.measured import reset_peak_memory
        from lmlab.training.callbacks import CompleteCheckpoints, EvalProgress, TensorBoardCurves
        from lmlab.viz.live import LiveLoss

        reset_peak_memory()  # what came before the training is no part of its peak
        live = None if title is None else LiveLoss(title)
        made = [CompleteCheckpoints(), TensorBoardCurves(self.out / "tensorboard" / name, live)]
        return [*made, EvalProgress(self.out, metric)] if metric else made

    def find_checkpoint(self, train_set: "Dataset", name: str = "") -> str | None:
        """The newest complete checkpoint in trainer/ of a training that was interrupted, for
        ``trainer.train(resume_from_checkpoint=...)``.

        Args:
            train_set: A checkpoint of another recipe or of other data is not resumed; it is removed.
            name: The folder in trainer/, where the lesson has several trainings.

        Returns:
            Its path; None where there is none.
        """
        from lmlab.training.checkpoints import find_resumable_checkpoint

        return find_resumable_checkpoint(self.out / "trainer" / name, dict(self.cfg.rows()), train_set)

    def compare(
        self,
        forecast: "Plan",
        model: "nn.Module",
        optimizer: "Optimizer | None" = None,
        seconds: float | None = None,
    ) -> "Comparison":
        """What ``lmlab.plan`` predicted beside what training took: bytes, and seconds where they are given.

        Args:
            forecast: From ``lmlab.plan``.
            model: After training, with or without an adapter.
            optimizer: The trainer's, after at least one step.
            seconds: Of training alone.
        """
        from lmlab.course.measured import compare, measure

        return compare(forecast, measure(model, optimizer, seconds=seconds))

    def finish(self, metrics: dict) -> Expectations:
        """Writes metrics.json and record.json, and gives the table of expected against measured.

        Checkpoints in trainer/ are removed: what is kept was saved under another name.

        Args:
            metrics: name -> number (or a text). docs/METRICS.md says what each name means.

        Raises:
            ValueError: The recipe expects a metric that is not among them.
        """
        table = write_metrics(self.out, self.cfg, metrics, self.started)
        write_record(self.out, self.machine, time.time() - self.started)
        shutil.rmtree(self.out / "trainer", ignore_errors=True)
        return table

    def _repr_html_(self) -> str:
        # Folded: a reader wants to see that they are there, and rarely what is in them.
        recipe = _folded(f"Recipe {self.cfg.name}", self.cfg._repr_html_())
        machine = _folded(f"{self.machine.device_name}, {self.machine.dtype}", self.machine._repr_html_())
        advice = html.escape(suggest_recipe(self.cfg.lesson))
        return f"{recipe}{machine}<p>Writes to <code>{html.escape(str(self.out))}</code>. {advice}</p>"


def start_lesson(
    lesson: str,
    recipe: str = "tiny",
    overrides: dict | None = None,
    output_dir: str | Path = "runs/notebook",
    from_run: str | None = None,
) -> Lesson:
    """Loads the recipe, looks at the machine, and makes the lesson's folder with its recipe.yaml.

    Args:
        lesson: Its number or full name, "05".
        recipe: A recipe of the lesson: tiny, t4, gpu, local, or a file.
        overrides: key -> value, in place of single values of the recipe.
        output_dir: The run's folder, from the working directory; the lesson writes to a folder in it.
        from_run: The only run whose results may be used, by path or name; None: this one, else the newest.

    Raises:
        RecipeError: An unknown recipe or key, or an impossible value.
        RuntimeError: pip has replaced a library that this kernel runs; it has to be restarted.
    """
    check_imported_libraries()
    overrides = overrides or {}
    # before anything is written: a mistake in a recipe leaves no folder behind
    cfg = load_recipe(lesson, recipe, **overrides)
    quiet_libraries()
    show_log()
    mount_drive(output_dir)
    # absolute, as a notebook may change its working directory later
    out = Path(output_dir).expanduser().resolve() / cfg.lesson
    out.mkdir(parents=True, exist_ok=True)
    write_recipe(out, cfg)
    return Lesson(
        cfg=cfg,
        machine=describe_machine(),
        out=out,
        tensorboard=TensorBoardLogger(out, cfg),
        as_measured=recipe == "tiny" and not overrides.keys() - {"seed"},
        from_run=from_run,
        started=time.time(),
    )


def write_recipe(out: Path, cfg: Recipe) -> None:
    """Writes out/recipe.yaml: the recipe with every value it came to."""
    import yaml

    write_atomic(out / "recipe.yaml", yaml.safe_dump(cfg.model_dump(), sort_keys=False, allow_unicode=True))


def recipe_of(out: Path) -> Recipe:
    """The recipe, overrides and all, with which a lesson's folder was made.

    Raises:
        FileNotFoundError: The folder has no recipe.yaml.
        pydantic.ValidationError: It is of another version of lmlab; run the lesson again.
    """
    import yaml

    # recipe.yaml has every value, so it does not depend on the defaults of today's recipes.
    values = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    return LESSONS[values["lesson"]].model_validate(values)


def write_record(out: Path, machine: Machine, seconds: float) -> None:
    """Writes out/record.json: on what, with which versions, how long, and the peak of memory."""
    record = {
        "device": machine.device_name,
        "dtype": machine.dtype,
        "python": platform.python_version(),
        "versions": _versions(),
        "seconds": round(seconds, 1),
        "peak_memory_gb": peak_memory_gb(machine),
    }
    write_atomic(out / "record.json", json.dumps(record, indent=1))


def _versions() -> dict[str, str | None]:
    """Installed version of each library that results depend on; None for one that is not installed."""
    found = dict.fromkeys(RECORDED)
    for name in RECORDED:
        # bitsandbytes and others are optional
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def peak_memory_gb(machine: Machine) -> float | None:
    """The most memory that this process has taken so far (GiB): of the GPU where there is one, else of the
    CPU.
    """
    if machine.device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes
    return round(peak / (2**30 if sys.platform == "darwin" else 2**20), 2)


def show_log() -> None:
    """Shows what lmlab logs (which result is used, which choice was made) as plain lines of output."""
    # lmlab's own logger, not the root: other libraries log as they are set
    logger = logging.getLogger("lmlab")
    logger.setLevel(logging.INFO)
    # A notebook may start its lesson more than once.
    if not any(isinstance(handler, _PrintHandler) for handler in logger.handlers):
        logger.addHandler(_PrintHandler())


class _PrintHandler(logging.Handler):
    """Prints: where stdout goes to another place later, as in tests and notebooks, it follows."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


def quiet_libraries() -> None:
    """No progress bars of loading and saving: an executed notebook would show each frame as a line."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()
    # it warns of an optional kernel package
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"
