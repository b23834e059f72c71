"""Pretraining from scratch: the loop of notebook 02 and of ``lmlab pretrain``.

Sources: Brown et al. 2020 (GPT-3) for AdamW's numbers, warm-up, cosine and clipping; nanoGPT for the loop.
"""

import hashlib
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from lmlab.data.packing import Rows
from lmlab.files import replace_folder
from lmlab.hardware import fast_matmul, peak_flops
from lmlab.models import IGNORE_INDEX
from lmlab.models.gpt import GPT
from lmlab.signals import handle_signals
from lmlab.training.checkpoints import newest_state, prune_checkpoints, save_checkpoint
from lmlab.training.distributed import DistributedContext, silent
from lmlab.training.progress import report_progress
from lmlab.training.tensorboard import CURVES, FOLDER, Watch, as_it_stands, open_curves


@dataclass(frozen=True)
class PretrainConfig:
    """Choices of one pretraining run. Rates are per step, lengths in tokens, counts in optimizer steps."""

    max_steps: int
    batch_size: int  # windows in one forward pass
    block_size: int  # tokens in one window
    learning_rate: float
    grad_accumulation: int = 1  # forward passes in one step, over all processes
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0
    log_every: int = 10
    eval_every: int = 100
    checkpoint_every: int = 500
    keep_checkpoints: int | None = None  # the newest so many, and the best; None: all
    compile: bool = False  # torch.compile: quicker steps after a slow first one
    dtype: str = "float32"  # of the forward pass; the weights stay float32
    seed: int = 0

    def __post_init__(self):
        for name in (
            "max_steps",
            "batch_size",
            "block_size",
            "grad_accumulation",
            "log_every",
            "eval_every",
            "checkpoint_every",
            "learning_rate",
            "grad_clip",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"PretrainConfig.{name} got {getattr(self, name)}; give a positive number")
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(
                f"PretrainConfig.warmup_steps got {self.warmup_steps}; "
                f"give 0 to {self.max_steps - 1}, fewer than max_steps"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"PretrainConfig.dtype got {self.dtype!r}; give float32, bfloat16 or float16")

    @classmethod
    def from_recipe(cls, cfg, dtype: str = "float32") -> "PretrainConfig":
        """The choices of a recipe of lesson 02, with the machine's dtype."""
        named = {f.name: getattr(cfg, f.name) for f in fields(cls) if hasattr(cfg, f.name)}
        return cls(**named, dtype=dtype)

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.block_size * self.grad_accumulation


@dataclass
class History:
    """What a run left behind, ready to plot. Losses are in nats per token."""

    floor: float | None = None
    steps: list[dict] = field(
        default_factory=list
    )  # step, loss, learning_rate, grad_norm, tokens_per_second, mfu
    evaluations: list[dict] = field(default_factory=list)  # step, loss, and what ``measure`` gave
    samples: list[dict] = field(default_factory=list)  # step, text
    seconds: float = 0.0

    def column(self, name: str, of: str = "steps") -> list:
        """One quantity over time: ``history.column("loss", of="evaluations")``."""
        return [row[name] for row in getattr(self, of)]

    @property
    def tokens_per_second(self) -> float:
        """Median over the run: loss-bearing tokens in a second of training, without evaluations."""
        rates = sorted(self.column("tokens_per_second"))
        return rates[len(rates) // 2]


class Batches(Protocol):
    """Where training batches come from: ``lmlab.data.shards.WindowLoader`` is one."""

    def batch(self, k: int) -> tuple[Tensor, Tensor]:
        """Batch k of an endless row, always the same for one k: (inputs, targets), both (B, T)."""

    def __len__(self) -> int:
        """Windows in one epoch."""


def entropy_floor(logprobs: Sequence[float], token_counts: Sequence[int]) -> float:
    """The loss, in nats per token, that no model can beat on average over texts with these probabilities.

    logprobs: natural log of the probability of each whole text. token_counts: of each, its EOS included.
    """
    if len(logprobs) != len(token_counts) or not logprobs:
        raise ValueError(
            f"entropy_floor got {len(logprobs)} logprobs and {len(token_counts)} token counts; "
            "give one of each per text"
        )
    return -sum(logprobs) / sum(token_counts)


def learning_rate_at(step: int, cfg: PretrainConfig) -> float:
    """Linear warm-up, then half a cosine down to ``min_learning_rate``. step counts from 0."""
    if step < cfg.warmup_steps:
        return cfg.learning_rate * (step + 1) / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / max(1, cfg.max_steps - 1 - cfg.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return cfg.min_learning_rate + cosine * (cfg.learning_rate - cfg.min_learning_rate)


def build_optimizer(model: nn.Module, cfg: PretrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices, and leaves biases and norms (one dimension) alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=(cfg.beta1, cfg.beta2), fused=True)


def forward_context(device: torch.device, dtype: str):
    """Autocast to ``dtype``, or nothing for float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))


class SummedLoss(nn.Module):
    """A model as its summed loss: what DistributedDataParallel and torch.compile wrap."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.model.summed_loss(inputs, targets)


def prepare_model(model: GPT, cfg: PretrainConfig, ranks: DistributedContext) -> nn.Module:
    """``SummedLoss`` of the model, compiled where ``cfg`` asks for it, its gradients averaged over processes."""
    summed: nn.Module = SummedLoss(model)
    if cfg.compile:
        summed = torch.compile(summed)
    if ranks.world > 1:
        summed = nn.parallel.DistributedDataParallel(
            summed, device_ids=None if model.device.type == "cpu" else [model.device.index]
        )
    return summed


def micro_batches(
    data: Batches, step: int, cfg: PretrainConfig, ranks: DistributedContext
) -> list[tuple[Tensor, Tensor]]:
    """This process's share of the batches of one step (from 0): every ``world``-th, beginning at its rank."""
    first = step * cfg.grad_accumulation
    return [data.batch(k) for k in range(first + ranks.rank, first + cfg.grad_accumulation, ranks.world)]


def count_targets(batches: Sequence[tuple[Tensor, Tensor]]) -> int:
    """Tokens that bear loss."""
    return sum(int((targets != IGNORE_INDEX).sum()) for _, targets in batches)


def training_step(
    summed: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    n_tokens: float,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    cfg: PretrainConfig,
    ranks: DistributedContext = DistributedContext(),
) -> tuple[Tensor, Tensor]:
    """One update from this process's batches: the gradient of the mean over all n_tokens of all processes.

    Each batch gives a sum, and n_tokens divides: so batches with unequal counts weigh by their tokens.
    Returns (this process's part of the mean loss, gradient norm before clipping).
    """
    total = torch.zeros((), device=next(summed.parameters()).device)
    for i, (inputs, targets) in enumerate(batches, 1):
        # gradients travel once a step, after the last batch
        alone = summed.no_sync() if ranks.world > 1 and i < len(batches) else nullcontext()
        with alone:
            with forward_context(total.device, cfg.dtype):
                loss = summed(*_on(total.device, inputs, targets)) / n_tokens
            scaler.scale(loss * ranks.world).backward()  # times world: DDP takes the mean over processes
        total += loss.detach()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(summed.parameters(), cfg.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


def _on(device: torch.device, *parts: Tensor) -> Iterator[Tensor]:
    for part in parts:
        part = (
            part.pin_memory() if device.type == "cuda" else part
        )  # only then does it travel beside the work
        yield part.to(device, non_blocking=True)


@torch.no_grad()
def mean_loss(
    model: GPT,
    rows: Rows,
    batch_size: int = 32,
    dtype: str = "float32",
    ranks: DistributedContext = DistributedContext(),
) -> float:
    """Token-weighted loss over all rows: the sum over counted tokens by their number. Nats per token."""
    was_training = model.training
    model.eval()
    nats, counted = 0.0, 0
    own = (part[ranks.rank :: ranks.world].split(batch_size) for part in rows)
    for inputs, targets in zip(*own, strict=True):
        wanted = targets != IGNORE_INDEX
        if not wanted.any():
            continue
        kept = int(wanted.any(0).nonzero().max()) + 1  # columns with something to count
        with forward_context(model.device, dtype):
            nats += model.summed_loss(*_on(model.device, inputs[:, :kept], targets[:, :kept])).item()
        counted += int(wanted.sum())
    model.train(was_training)
    nats, counted = ranks.total(nats, counted)
    return nats / counted


def pretrain(
    model: GPT,
    data: Batches,
    cfg: PretrainConfig,
    *,
    validation: Rows,
    floor: float | None = None,
    sample: Callable[[GPT], str] | None = None,
    measure: Callable[[GPT], dict] | None = None,
    out: Path | None = None,
    tokenizer=None,
    metric: str = "val_loss",
    replace: bool = True,
    watch: Watch | None = None,
    ranks: DistributedContext = DistributedContext(),
    report: Callable[[str], None] = print,
) -> History:
    """Trains ``model`` in place on ``data`` and returns what happened.

    validation: rows for the loss that is compared with ``floor`` (nats per token, None if not known).
    sample: writes a text, at start, middle and end. measure: other numbers by name, at each evaluation.
    out: where TensorBoard logs (tensorboard/), checkpoints (checkpoints/step_N/) and the result (model/) go,
    with the tokenizer, in transformers' layout; nothing is written without it. An unfinished run of the same
    choices that is found there goes on, with the losses that it would have had; any other makes room in
    out/previous/ where ``replace`` is true, else it is a ValueError. metric: the validation loss's name in
    the lesson's metrics.json; a search follows it by that name, in out/progress.jsonl. watch: is told of every
    row of the history as it is made, as ``live.LiveLoss`` wants it.
    With ``out``, SIGTERM, SIGINT (Ctrl-C, a stopped cell) or SIGHUP saves a checkpoint after the step and
    raises KeyboardInterrupt. Several processes need an ``out`` that all of them see.
    """
    if cfg.grad_accumulation % ranks.world:
        raise ValueError(
            f"grad_accumulation {cfg.grad_accumulation} cannot be shared by {ranks.world} processes; "
            "give a multiple of their number"
        )
    report = report if ranks.first else silent
    torch.manual_seed(cfg.seed + ranks.rank)  # for dropout; the data have a seed of their own
    run = _Run(model, data, cfg, ranks, out, tokenizer)
    found = run.earlier(replace, report)
    record = _Record(run, History(floor), validation, sample, measure, metric, watch, report)
    if found is not None:
        run.restore(*found)
        record.restore(found[1])
    with fast_matmul(model.device.type, cfg.block_size), _stop_signals(out is not None) as stop:
        if found is None:
            record.visit(0)
        _train(run, record, stop)
    return record.close()


def _train(run: "_Run", record: "_Record", stop: threading.Event) -> None:
    cfg, ranks = run.cfg, run.ranks
    summed = prepare_model(run.model, cfg, ranks)
    summed.train()
    run.optimizer.zero_grad(set_to_none=True)  # the caller may have left gradients
    record.start_clock()
    while run.step < cfg.max_steps:
        rate = learning_rate_at(run.step, cfg)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        batches = micro_batches(run.data, run.step, cfg, ranks)
        n_tokens, stopping = ranks.total(count_targets(batches), stop.is_set())
        loss, norm = training_step(summed, batches, n_tokens, run.optimizer, run.scaler, cfg, ranks)
        run.step += 1
        record.step(loss, norm, rate, n_tokens)
        if stopping and run.step < cfg.max_steps:
            record.save()  # and nothing else: who asks may not wait long
            raise KeyboardInterrupt(
                f"stopped and saved at step {run.step}; the same command goes on from there"
            )
        record.visit(run.step)


@contextmanager
def _stop_signals(wanted: bool):
    """An event that signals to stop set, so that a step is never cut in two; a second SIGINT interrupts."""
    stop = threading.Event()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number, frame):
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    numbers = {
        signal.SIGTERM,
        signal.SIGINT,
        getattr(signal, "SIGHUP", signal.SIGTERM),
    }  # Windows has no third
    with handle_signals(numbers, request):
        yield stop


class _Run:
    """What a checkpoint holds: the model, and all else that decides how training goes on."""

    FREE = ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints")  # may change on the way

    def __init__(
        self,
        model: GPT,
        data: Batches,
        cfg: PretrainConfig,
        ranks: DistributedContext,
        out: Path | None,
        tokenizer,
    ):
        self.model, self.data, self.cfg, self.ranks = model, data, cfg, ranks
        self.out, self.tokenizer, self.step = out, tokenizer, 0
        self.optimizer = build_optimizer(model, cfg)
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=cfg.dtype == "float16")

    def choices(self) -> dict:
        """All that must be equal for a run to go on."""
        plan = {name: value for name, value in asdict(self.cfg).items() if name not in self.FREE}
        first = hashlib.sha256(self.data.batch(0)[0].numpy().tobytes()).hexdigest()[:12]
        return {**plan, **asdict(self.model.config), "windows of data": len(self.data), "first batch": first}

    def state(self) -> dict:
        return {
            "step": self.step,
            "choices": self.choices(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": self.ranks.gather(_random_state()),
        }

    def restore(self, path: Path, state: dict) -> None:
        self.model.load_weights(path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if len(state["rng"]) == self.ranks.world:  # else other processes, which draw other dropout
            _set_random_state(state["rng"][self.ranks.rank])

    def earlier(self, replace: bool, report: Callable[[str], None]) -> tuple[Path, dict] | None:
        """The checkpoint to go on from, if ``out`` holds an unfinished run of the same choices."""
        found = None if self.out is None else newest_state(self.out / "checkpoints")
        seen = self.ranks.gather(found and found[1]["step"])  # and all have looked
        if len(set(seen)) > 1:
            raise ValueError(
                f"the processes see checkpoints of steps {seen} in {self.out}; give a folder that all "
                "hosts share"
            )
        if found is None:
            return None
        path, state = found
        choices = self.choices()
        other = [
            f"{name} {state['choices'].get(name)} there, {value} now"
            for name, value in choices.items()
            if state["choices"].get(name) != value
        ]
        if not other and state["step"] < self.cfg.max_steps:
            report(f"goes on from step {state['step']} ({path})")
            return found
        what = f"an unfinished run of other choices ({'; '.join(other)})" if other else "a finished run"
        if not replace:
            raise ValueError(
                f"{self.out} holds {what}; give another folder, or let it be replaced (--replace)"
            )
        if self.ranks.first:
            _move_aside(self.out)
        report(f"{self.out} held {what}; it is now in {self.out / 'previous'}")
        self.ranks.wait()
        return None

    def save(self, record_state: dict) -> None:
        state = {**self.state(), **record_state}  # all processes give their part
        if self.ranks.first:
            save_checkpoint(self.out / "checkpoints", self.step, self.save_model, state)

    def save_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


def _move_aside(out: Path) -> None:
    """What a run left in ``out`` goes to out/previous/, in place of what an earlier call has put there."""
    previous = out / "previous"
    strangers = {path.name for path in previous.glob("*")} - {"checkpoints", "model", FOLDER}
    if strangers or previous.is_file():
        raise ValueError(
            f"{previous} holds {', '.join(sorted(strangers)) or 'something else'}, which no run has put "
            "there; move it, or give another folder"
        )
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for name in ("checkpoints", "model"):
        if (out / name).exists():
            shutil.move(out / name, previous / name)
    (previous / FOLDER).mkdir()
    for path in (out / FOLDER).glob(f"*{CURVES}"):  # the lesson has begun anew, and the rest is its own
        shutil.move(path, previous / FOLDER)


def _random_state() -> dict:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class _Record:
    """Keeps the history of a run, and writes logs and checkpoints where a folder is given."""

    def __init__(
        self,
        run: _Run,
        history: History,
        validation: Rows,
        sample,
        measure,
        metric: str,
        watch: Watch | None,
        report,
    ):
        self.run, self.cfg, self.ranks = run, run.cfg, run.ranks
        self.history, self.validation, self.sample, self.measure = history, validation, sample, measure
        self.metric, self.watch, self.report, self.writer = metric, watch, report, None
        self.loss, self.updates, self.tokens = (
            torch.zeros((), device=run.model.device),
            0,
            0.0,
        )  # since the last row
        self.resumed, self.earlier_seconds, self.earlier_lap = 0, 0.0, 0.0
        self.began = self.lap = time.perf_counter()
        self.peak = peak_flops(run.model.device, run.cfg.dtype)

    def restore(self, state: dict) -> None:
        """Takes over where a checkpoint left off: the history, and what came since its last row."""
        kept, self.resumed = state["history"], state["step"]
        self.history.steps, self.history.evaluations = kept["steps"], kept["evaluations"]
        self.history.samples, self.earlier_seconds = kept["samples"], kept["seconds"]
        self.updates, self.tokens, self.earlier_lap = state["updates"], state["tokens"], state["lap"]
        if self.ranks.first:  # the others' parts are in it
            self.loss += state["loss"]

    def start_clock(self) -> None:
        """Training begins: what was prepared until now is not counted."""
        self.lap = time.perf_counter() - self.earlier_lap

    def step(self, loss: Tensor, norm: Tensor, rate: float, n_tokens: float) -> None:
        """Notes one update; a row of the history is the mean since the last row."""
        step = self.run.step
        self.loss += loss
        self.updates, self.tokens = self.updates + 1, self.tokens + n_tokens
        if step % self.cfg.log_every and step != self.cfg.max_steps:
            return
        (total,) = self.ranks.total(self.loss.item())  # the device is waited for here, not at every step
        speed = self.tokens / (time.perf_counter() - self.lap)
        row = {
            "step": step,
            "loss": total / self.updates,
            "learning_rate": rate,
            "grad_norm": norm.item(),
            "tokens_per_second": speed,
        }
        if self.peak:
            row["mfu"] = (
                speed * self.run.model.flops_per_token(self.cfg.block_size) / (self.peak * self.ranks.world)
            )
        self.history.steps.append(row)
        self._scalars("train", row)
        self.loss.zero_()
        self.updates, self.tokens, self.lap = 0, 0.0, time.perf_counter()

    def visit(self, step: int) -> None:
        """Evaluates, samples and saves, where it is time. What that takes is not counted as training."""
        arrived, cfg = time.perf_counter(), self.cfg
        ends = step in (0, cfg.max_steps)
        saves = self.run.out and (ends or step % cfg.checkpoint_every == 0)
        if ends or saves or step % cfg.eval_every == 0:
            self._evaluate(step)
        if self.sample and step in (0, cfg.max_steps // 2, cfg.max_steps):
            self._sample(step)
        if saves:
            self.save()
        self.lap += time.perf_counter() - arrived

    def close(self) -> History:
        self.history.seconds = self._seconds()
        if self.writer:
            self.writer.close()
        return self.history

    def _seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.began

    def _evaluate(self, step: int) -> None:
        model, cfg = self.run.model, self.cfg
        loss = mean_loss(model, self.validation, 4 * cfg.batch_size, cfg.dtype, self.ranks)
        measured = self.measure(model) if self.measure and self.ranks.first else {}
        self.ranks.wait()
        self.history.evaluations.append({"step": step, "loss": loss, **measured})
        floor = self.history.floor
        bounds = {} if floor is None else {"floor": floor, "above_floor": loss - floor}
        if self.run.out and self.ranks.first:
            gap = {} if floor is None else {"floor_gap": loss - floor}
            report_progress(self.run.out, step, **{self.metric: loss}, **gap)
        self._scalars("validation", {"step": step, "loss": loss, **bounds, **measured})
        above = "" if floor is None else f", {bounds['above_floor']:.3f} above the floor"
        others = "".join(f", {name} {value:.3f}" for name, value in measured.items())
        self.report(
            f"step {step:>{len(str(cfg.max_steps))}}: validation {loss:.3f} nats/token{above}{others}"
            f"{self._pace(step)}"
        )

    def _pace(self, step: int) -> str:
        if not self.history.steps or step == self.cfg.max_steps:
            return ""
        speed = self.history.steps[-1]["tokens_per_second"]
        seconds = (self.cfg.max_steps - step) * self.cfg.tokens_per_step / speed
        left = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        return f"; {speed:,.0f} tokens/s, {left} left"

    def _sample(self, step: int) -> None:
        text = self.sample(self.run.model) if self.ranks.first else ""
        self.history.samples.append({"step": step, "text": text})
        if writer := self._writer():
            writer.add_text("samples/training", as_it_stands(text), step)

    def save(self) -> None:
        """A checkpoint of this step; of the last one the result before it, so that no finished run lacks it."""
        if self.ranks.first and self.run.step == self.cfg.max_steps:
            with replace_folder(self.run.out / "model") as new:
                self.run.save_model(new)
        (loss,) = self.ranks.total(self.loss.item())
        self.run.save(
            {
                "history": {**asdict(self.history), "seconds": self._seconds()},
                "loss": loss,
                "updates": self.updates,
                "tokens": self.tokens,
                "lap": time.perf_counter() - self.lap,
            }
        )
        if self.ranks.first:
            losses = {row["step"]: row["loss"] for row in self.history.evaluations}
            prune_checkpoints(self.run.out / "checkpoints", losses, self.cfg.keep_checkpoints)
        self.ranks.wait()

    def _scalars(self, prefix: str, row: dict) -> None:
        if writer := self._writer():
            for name, value in row.items():
                if name != "step":
                    writer.add_scalar(f"{prefix}/{name}", value, row["step"])
        if self.watch and self.ranks.first:
            self.watch(prefix, row, self.cfg.max_steps)

    def _writer(self):
        """TensorBoard's, made at the first use; a run that goes on hides what came after its checkpoint."""
        if self.writer is None and self.run.out and self.ranks.first:
            self.writer = open_curves(self.run.out / FOLDER, self.resumed)
        return self.writer
