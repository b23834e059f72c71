"""What a pretraining run resumes from, and what is recorded of it: checkpoints, history, TensorBoard."""

import hashlib
import logging
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lmlab.files import replace_folder
from lmlab.hardware import peak_flops
from lmlab.models.gpt import GPT
from lmlab.training.checkpoints import newest_state, prune_checkpoints, save_checkpoint
from lmlab.training.distributed import DistributedContext
from lmlab.training.progress import report_progress
from lmlab.training.tensorboard import FOLDER, open_curves, verbatim

logger = logging.getLogger(__name__)


@dataclass
class History:
    """What happened in a run, ready to plot. Losses are in nats per token."""

    floor: float | None = None
    steps: list[dict] = field(default_factory=list)  # step, loss, learning_rate, grad_norm, ...
    evaluations: list[dict] = field(default_factory=list)  # step, loss, and other metrics
    samples: list[dict] = field(default_factory=list)  # step, text
    seconds: float = 0.0

    def column(self, name: str, of: str = "steps") -> list:
        """One quantity over time: ``history.column("loss", of="evaluations")``."""
        return [row[name] for row in getattr(self, of)]

    @property
    def tokens_per_second(self) -> float:
        """The median over the run of tokens that contribute to the loss, per second of training."""
        return statistics.median_high(self.column("tokens_per_second"))


class TrainState:
    """All that training resumes from: what a checkpoint holds.

    Args:
        model: Is trained in place.
        optimizer: Its optimizer.
        data: ``pretrain.Batches``.
        cfg: The ``pretrain.PretrainConfig``.
        context: The processes.
        tokenizer: Is saved with the model, if given.
    """

    MAY_CHANGE = ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints")  # when a run is resumed

    def __init__(self, model: GPT, optimizer, data, cfg, context: DistributedContext, tokenizer=None):
        self.model, self.optimizer, self.data = model, optimizer, data
        self.cfg, self.context, self.tokenizer = cfg, context, tokenizer
        # only float16's gradients underflow; elsewhere the scaler does nothing
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=cfg.dtype == "float16")
        self.step = 0

    def config(self) -> dict:
        """All that must be equal for a run to be resumed."""
        values = {name: value for name, value in asdict(self.cfg).items() if name not in self.MAY_CHANGE}
        # a cheap fingerprint of data and order: other data with the same config are another run
        first_batch = hashlib.sha256(self.data.batch(0)[0].numpy().tobytes()).hexdigest()[:12]
        data = {"blocks of data": len(self.data), "first batch": first_batch}
        return values | asdict(self.model.config) | data

    def state_dict(self) -> dict:
        """All but the weights. Every process must ask, for each has a random state of its own."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        # a GPU's dropout has a generator of its own
        return {
            "step": self.step,
            "config": self.config(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": self.context.all_gather({"cpu": torch.get_rng_state(), "cuda": cuda}),
        }

    def restore(self, path: Path, state: dict) -> None:
        """Loads a checkpoint: its folder, and what ``state_dict`` gave."""
        # in place, since the optimizer holds the parameters themselves
        self.model.load_weights(path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        # another number of processes has another dropout
        if len(state["rng"]) != self.context.world_size:
            return
        rng = state["rng"][self.context.rank]
        torch.set_rng_state(rng["cpu"])
        if rng["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(rng["cuda"])

    def save_model(self, folder: Path) -> None:
        """The model, and the tokenizer, in transformers' layout."""
        self.model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


def find_earlier_run(out: Path | None, state: TrainState, replace: bool) -> tuple[Path, dict] | None:
    """The checkpoint to resume from, where ``out`` holds an unfinished run with the same config; else None.

    Any other run there is moved to out/previous/, or it is a ValueError where ``replace`` is false.
    """
    context = state.context
    found = newest_state(out / "checkpoints") if out else None
    # on hosts without a shared disk only some would find the checkpoint, and the others begin anew
    steps = context.all_gather(found and found[1]["step"])
    if len(set(steps)) > 1:
        raise ValueError(f"the processes see checkpoints of steps {steps} in {out}; all hosts must share it")
    if found is None:
        return None
    path, earlier = found
    now = state.config()
    others = [name for name, value in now.items() if earlier["config"].get(name) != value]
    if not others and earlier["step"] < state.cfg.max_steps:
        logger.info("resumes from step %d (%s)", earlier["step"], path)
        return found
    what = f"an unfinished run with other values of {', '.join(others)}" if others else "a finished run"
    if not replace:
        raise ValueError(f"{out} holds {what}; give another folder, or let it be replaced (--replace)")
    previous = out / "previous"
    if context.is_main_process:
        shutil.rmtree(previous, ignore_errors=True)
        previous.mkdir()
        for name in ("checkpoints", "model"):
            if (out / name).exists():
                shutil.move(out / name, previous / name)
    logger.info("%s held %s; it is now in %s", out, what, previous)
    context.barrier()
    return None


class Recorder:
    """Keeps the history of a run; where a folder is given, it writes logs and checkpoints.

    Args:
        state: What is trained.
        checkpoint: The content of the checkpoint that the run resumes from; None: it begins.
        evaluate: Gives the metrics of an evaluation, "loss" among them. Every process must ask.
        floor: The entropy floor of the validation texts, if it is known.
        sample: Writes a text.
        out: The folder.
        on_log: Is given "train" or "validation", a row, and the number of steps.
    """

    def __init__(
        self,
        state: TrainState,
        checkpoint: dict | None,
        evaluate: Callable[[], dict],
        floor: float | None,
        sample: Callable[[GPT], str] | None,
        out: Path | None,
        on_log: Callable | None,
    ):
        self.state, self.cfg, self.context = state, state.cfg, state.context
        self.evaluate, self.sample, self.out = evaluate, sample, out
        self.on_log = on_log
        self.peak = peak_flops(state.model.device, self.cfg.dtype)
        self.history = History(floor)
        # since the last row of the history: the sum of losses, its steps, and tokens since ``lap``
        self.loss, self.updates, self.tokens = torch.zeros((), device=state.model.device), 0, 0.0
        if checkpoint is not None:
            self.history = History(**checkpoint["history"])
            self.updates = checkpoint["updates"]
            # it is the sum over all processes, so one alone takes it
            if self.context.is_main_process:
                self.loss += checkpoint["loss"]
        self.earlier_seconds = self.history.seconds
        self.began = self.lap = time.perf_counter()
        # a resumed run hides the curves that came after its checkpoint
        writes = out is not None and self.context.is_main_process
        self.writer = open_curves(out / FOLDER, state.step) if writes else None

    def start_clock(self) -> None:
        """Training begins: what was prepared until now is not counted."""
        self.lap = time.perf_counter()

    def log_step(self, loss: Tensor, norm: Tensor, learning_rate: float, n_tokens: float) -> None:
        """Notes one optimizer step; a row of the history is the mean since the last row."""
        step = self.state.step
        self.loss += loss
        self.updates, self.tokens = self.updates + 1, self.tokens + n_tokens
        if step % self.cfg.log_every and step != self.cfg.max_steps:
            return
        # the device is waited for here, not at every step
        (total,) = self.context.all_reduce(self.loss.item())
        speed = self.tokens / (time.perf_counter() - self.lap)
        row = {
            "step": step,
            "loss": total / self.updates,
            "learning_rate": learning_rate,
            "grad_norm": norm.item(),
            "tokens_per_second": speed,
        }
        if self.peak:
            flops = self.state.model.flops_per_token(self.cfg.block_size)
            row["mfu"] = speed * flops / (self.peak * self.context.world_size)
        self.history.steps.append(row)
        self._log_row("train", row)
        self.loss.zero_()
        self.updates, self.tokens, self.lap = 0, 0.0, time.perf_counter()

    def after_step(self, step: int) -> None:
        """Evaluates, samples and saves, where it is time. What that takes is not counted as training."""
        # the clock of the current row is moved on by what this takes
        arrived, cfg = time.perf_counter(), self.cfg
        is_end = step in (0, cfg.max_steps)
        saves = self.out is not None and (is_end or step % cfg.checkpoint_every == 0)
        if is_end or saves or step % cfg.eval_every == 0:
            self._evaluate(step)
        if self.sample and step in (0, cfg.max_steps // 2, cfg.max_steps):
            self._sample(step)
        if saves:
            self.save()
        self.lap += time.perf_counter() - arrived

    def close(self) -> History:
        """Ends the record, and returns it."""
        self.history.seconds = self._seconds()
        if self.writer:
            self.writer.close()
        return self.history

    def save(self) -> None:
        """Saves a checkpoint of this step, and at the last step the model."""
        folder = self.out / "checkpoints"
        # before the checkpoint, so that no finished run lacks its model
        if self.context.is_main_process and self.state.step == self.cfg.max_steps:
            with replace_folder(self.out / "model") as new:
                self.state.save_model(new)
        # with what came since the last row, the next row of a resumed run is what it would have been
        (loss,) = self.context.all_reduce(self.loss.item())
        # every process gives its part
        content = self.state.state_dict() | {
            "history": {**asdict(self.history), "seconds": self._seconds()},
            "loss": loss,
            "updates": self.updates,
        }
        if self.context.is_main_process:
            save_checkpoint(folder, self.state.step, self.state.save_model, content)
            losses = {row["step"]: row["loss"] for row in self.history.evaluations}
            prune_checkpoints(folder, losses, self.cfg.keep_checkpoints)
        self.context.barrier()

    def _seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.began

    def _evaluate(self, step: int) -> None:
        metrics = self.evaluate()
        row = {"step": step, **metrics}
        self.history.evaluations.append(row)
        if self.out and self.context.is_main_process:
            # by their names in metrics.json, as a search follows them
            above_floor = {"floor_gap": row["above_floor"]} if "above_floor" in row else {}
            report_progress(self.out, step, val_loss=row["loss"], **above_floor)
        self._log_row("eval", row)
        # the floor is the same each time, and above_floor says where the loss stands
        shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name != "floor")
        if step:
            minutes = self._seconds() / step * (self.cfg.max_steps - step) / 60
            shown += f"; {minutes:.1f} minutes left"
        logger.info("step %d of %d: %s", step, self.cfg.max_steps, shown)

    def _sample(self, step: int) -> None:
        text = self.sample(self.state.model) if self.context.is_main_process else ""
        self.history.samples.append({"step": step, "text": text})
        if self.writer:
            self.writer.add_text("samples/training", verbatim(text), step)

    def _log_row(self, part: str, row: dict) -> None:
        """Shows a row in TensorBoard, under train/ or eval/ as transformers does, and to ``on_log``."""
        if self.writer:
            for name, value in row.items():
                if name != "step":
                    self.writer.add_scalar(f"{part}/{name}", value, row["step"])
        if self.on_log and self.context.is_main_process:
            self.on_log("train" if part == "train" else "validation", row, self.cfg.max_steps)
