"""What a lesson shows in TensorBoard, under the same names in every lesson.

    recipe                                   the choices of the run, as a table
    train/loss, learning_rate, grad_norm, tokens_per_second, ...   means since the last row
    validation/loss, ...                     what is measured in between, on texts that do not train
    samples/<name>, figures/<name>           texts and pictures
    result/<metric>                          what metrics.json holds, at the end

A lesson's folder ``tensorboard`` is one run there; trainings beside the main one are runs below it. Curves
have files of their own, for an interrupted training goes on with them, and all else is made anew. When the
lesson is done, those of trainings that it no longer has are removed.
"""

import io
import math
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lmlab.files import write_atomic
from lmlab.models import IGNORE_INDEX

FOLDER = "tensorboard"
CURVES, RESULTS = ".curves", ".results"
Watch = Callable[[str, Mapping, int], None]  # "train" or "validation", a row, the steps that there will be
# the trainers' own clocks and counters; what is left of them is a curve
_NO_CURVES = {
    "epoch",
    "train_loss",
    "train_runtime",
    "eval_runtime",
    "total_flos",
    "num_tokens",
    "eval_num_tokens",
    "num_input_tokens_seen",
    "step_time",
}


class TensorBoardLogger:
    """A lesson's place in TensorBoard: out/tensorboard, with the recipe in it and nothing of an earlier run.

    Curves of an earlier run stay until the training begins anew, since it may go on instead.
    """

    def __init__(self, out: Path, cfg):
        from torch.utils.tensorboard import SummaryWriter

        self.out, self.folder = out, out / FOLDER
        for path in self.folder.glob("events*"):
            if path.suffix != CURVES:
                path.unlink()
        self.writer = SummaryWriter(str(self.folder), filename_suffix=".lesson")
        self.writer.add_text("recipe", recipe_table(cfg))
        self.writer.flush()

    def text(self, name: str, text: str, step: int = 0) -> None:
        """A text as it stands, under samples/``name``."""
        self.writer.add_text(f"samples/{name}", as_it_stands(text), step)
        self.writer.flush()

    def figure(self, name: str, axes, step: int = 0) -> None:
        """The picture with ``axes`` (an Axes or a Figure), as out/``name``.png and as figures/``name``."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = io.BytesIO()
        axes.figure.savefig(image, format="png", dpi=120)
        png = image.getvalue()
        write_atomic(self.out / f"{name}.png", png)
        width, height = struct.unpack(">II", png[16:24])  # where every PNG has them
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        value = Summary.Value(tag=f"figures/{name}", image=image)
        self.writer.file_writer.add_summary(Summary(value=[value]), step)
        self.writer.flush()

    def callback(self, history=None, watch: Watch | None = None, run: str = ""):
        """A TrainerCallback that writes a training's curves, in place of ``report_to="tensorboard"``.

        history: a ``trainers.History``, whose losses are written too. watch: is told of every row, as
        ``live.LiveLoss`` wants it. run: the name of a training that stands beside the lesson's main one.
        Tokens are counted where they bear loss; their time is that of the steps, without data and evaluation.
        """
        return _curves_callback(self.folder / run, history, watch)


def open_curves(folder: Path, step: int):
    """A SummaryWriter for the curves of a training that begins (step 0) or goes on after ``step``.

    Of an earlier training nothing is left, or what came after the step is hidden.
    """
    from torch.utils.tensorboard import SummaryWriter

    if step == 0:
        for path in folder.glob(f"events*{CURVES}"):
            path.unlink()
    return SummaryWriter(str(folder), filename_suffix=CURVES, purge_step=step + 1 if step else None)


def write_results(out: Path, metrics: Mapping) -> None:
    """The numbers among ``metrics`` as result/<metric>, in place of earlier ones.

    The lesson is done: the runs below that only an earlier one had (of another rate, say) are removed.
    """
    from torch.utils.tensorboard import SummaryWriter

    begun = max(map(_made, (out / FOLDER).glob("events*.lesson")), default=0)
    for folder in {path.parent for path in (out / FOLDER).rglob(f"events*{CURVES}")} - {out / FOLDER}:
        curves = list(folder.glob(f"events*{CURVES}"))
        if max(map(_made, curves)) < begun:
            for path in curves:
                path.unlink()
    for path in (out / FOLDER).glob(f"events*{RESULTS}"):
        path.unlink()
    with SummaryWriter(str(out / FOLDER), filename_suffix=RESULTS) as writer:
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                writer.add_scalar(f"result/{name}", value)


def _made(path: Path) -> int:
    """When a file of events was begun, in seconds; later writes do not change its name."""
    return int(path.name.removeprefix("events.out.tfevents.").partition(".")[0])


def recipe_table(cfg) -> str:
    """The recipe as a table in Markdown."""
    rows = [f"| {key} | `{value}` |".replace("\n", "\\n") for key, value in cfg.rows()]
    return "\n".join(["| choice | value |", "|---|---|", *rows])


def as_it_stands(text: str) -> str:
    """Markdown that shows ``text`` letter by letter; TensorBoard would take <think> for HTML, and drop it."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def tag_of(name: str) -> str | None:
    """Where a value that a Trainer logs belongs; None for what is no curve."""
    if name in _NO_CURVES or name.endswith("_per_second"):
        return None
    return f"validation/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def _curves_callback(folder: Path, history, watch: Watch | None):
    import torch
    from transformers import TrainerCallback

    class Curves(TrainerCallback):
        writer = hook = None

        def on_train_begin(self, args, state, control, model=None, **_):
            self.close()  # a training that was stopped
            self.tokens, self.seconds, self.begun = 0, 0.0, time.perf_counter()
            self.last_measured = state.global_step if state.global_step else -1
            if state.is_world_process_zero:
                self.writer = open_curves(folder, state.global_step)
                self.hook = model.register_forward_pre_hook(self.count, with_kwargs=True)

        def count(self, model, args, inputs):
            labels = inputs.get("labels")
            if labels is not None and torch.is_grad_enabled():  # no evaluation, no reference model
                self.tokens = (
                    self.tokens + (labels[..., 1:] != IGNORE_INDEX).sum()
                )  # the device is not waited for

        def on_step_begin(self, args, state, control, **_):
            self.measured(state.max_steps)  # before the first step
            self.begun = time.perf_counter()

        def on_step_end(self, args, state, control, **_):
            self.measured(
                state.max_steps
            )  # a checkpoint of this step may follow, and a resumed run begins after it

        def on_optimizer_step(self, args, state, control, **_):
            self.seconds += time.perf_counter() - self.begun

        def on_log(self, args, state, control, logs=None, **_):
            row = {tag: value for name, value in logs.items() if (tag := tag_of(name))}
            if "train/loss" in row:
                if tokens := float(self.tokens) * args.world_size:  # none where a trainer gives no labels
                    row["train/tokens_per_second"] = tokens / self.seconds
                self.tokens, self.seconds = 0, 0.0
            for part in ("train", "validation"):
                own = {
                    tag.removeprefix(f"{part}/"): value for tag, value in row.items() if tag.startswith(part)
                }
                self.row(part, state.global_step, own, state.max_steps)

        def on_train_end(self, args, state, control, **_):
            self.measured(state.global_step)
            self.row("train", state.global_step, {}, state.global_step)
            self.close()

        def measured(self, n_steps: int):
            """The history's losses that are new since the last call."""
            for i, step in enumerate(history.steps if history else []):
                if step > self.last_measured:
                    losses = {
                        "loss" if name == "validation" else f"loss_on_{name}".replace(" ", "_"): values[i]
                        for name, values in history.losses.items()
                    }
                    self.row("validation", step, losses, n_steps)
                    self.last_measured = step

        def row(self, part: str, step: int, values: dict, n_steps: int):
            if self.writer is None:
                return
            for name, value in values.items():
                self.writer.add_scalar(f"{part}/{name}", value, step)
            self.writer.flush()
            if watch is not None:
                watch(part, {"step": step, **values}, n_steps)

        def close(self):
            if self.writer is not None:
                self.writer.close()
                self.hook.remove()
                self.writer = self.hook = None

    return Curves()
