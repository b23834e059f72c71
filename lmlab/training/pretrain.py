"""Pretraining from scratch: the loop of notebook 02 and of ``lmlab pretrain``.

Sources: Brown et al. 2020 (GPT-3) for AdamW's betas, warm-up, cosine and clipping; nanoGPT for the loop.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lmlab.data.loader import WindowLoader
from lmlab.data.packing import Rows
from lmlab.hardware import fast_matmul
from lmlab.models import IGNORE_INDEX
from lmlab.models.gpt import GPT
from lmlab.recipes import Recipe
from lmlab.signals import handle_signals
from lmlab.training.distributed import DistributedContext, check_accumulation
from lmlab.training.pretrain_state import History, Recorder, TrainState, find_earlier_run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PretrainConfig:
    """The hyperparameters of one pretraining run. Lengths are in tokens, counts in optimizer steps."""

    max_steps: int
    batch_size: int  # blocks in one forward pass
    block_size: int  # tokens in one block
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
    compile: bool = False  # torch.compile: faster steps after a slow first one
    dtype: str = "float32"  # of the forward pass; the weights stay float32
    seed: int = 0

    @classmethod
    def from_recipe(cls, cfg: Recipe, dtype: str = "float32") -> "PretrainConfig":
        """The values of a recipe of lesson 02, with the machine's dtype."""
        values = {field.name: getattr(cfg, field.name) for field in fields(cls) if hasattr(cfg, field.name)}
        return cls(**values, dtype=dtype)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step reads."""
        return self.batch_size * self.block_size * self.grad_accumulation


def entropy_floor(logprobs: Sequence[float], token_counts: Sequence[int]) -> float:
    """The loss that no model can beat on average over texts with known probabilities.

    Args:
        logprobs: The natural log of the probability of each text.
        token_counts: The tokens of each text, its EOS included.

    Returns:
        Nats per token.
    """
    return -sum(logprobs) / sum(token_counts)


# --- one optimizer step -----------------------------------------------------------------------------


def learning_rate_at(step: int, cfg: PretrainConfig) -> float:
    """Linear warm-up, then half a cosine down to ``min_learning_rate``. step counts from 0."""
    if step < cfg.warmup_steps:
        return cfg.learning_rate * (step + 1) / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / max(1, cfg.max_steps - 1 - cfg.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return cfg.min_learning_rate + cosine * (cfg.learning_rate - cfg.min_learning_rate)


def build_optimizer(model: nn.Module, cfg: PretrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices, and none on biases and norms (which have one dimension)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=(cfg.beta1, cfg.beta2), fused=True)


def forward_context(device: torch.device, dtype: str) -> AbstractContextManager:
    """Autocast to ``dtype``, or nothing for float32."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, dtype))


class SummedLoss(nn.Module):
    """A model as its summed loss: what DistributedDataParallel and torch.compile wrap."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of -log p over all targets (B, T) that are not masked, in nats."""
        return self.model.summed_loss(inputs, targets)


def prepare_model(model: GPT, cfg: PretrainConfig, context: DistributedContext) -> nn.Module:
    """``SummedLoss`` of the model, compiled where ``cfg`` asks for it, gradients averaged over processes."""
    summed: nn.Module = SummedLoss(model)
    if cfg.compile:
        summed = torch.compile(summed)
    if context.world_size > 1:
        device_ids = None if model.device.type == "cpu" else [model.device.index]
        summed = nn.parallel.DistributedDataParallel(summed, device_ids=device_ids)
    return summed


def micro_batches(
    data: WindowLoader, step: int, cfg: PretrainConfig, context: DistributedContext
) -> list[tuple[Tensor, Tensor]]:
    """This process's part of the batches of one step (from 0): every ``world_size``-th, beginning at its
    rank.
    """
    # the batches of a step are numbered, so that it has the same ones for any number of processes
    first = step * cfg.grad_accumulation
    own = range(first + context.rank, first + cfg.grad_accumulation, context.world_size)
    return [data.batch(k) for k in own]


def count_targets(batches: Sequence[tuple[Tensor, Tensor]]) -> int:
    """The number of tokens that contribute to the loss."""
    return sum(int((targets != IGNORE_INDEX).sum()) for _, targets in batches)


def training_step(
    summed: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    n_tokens: float,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    cfg: PretrainConfig,
    context: DistributedContext = DistributedContext(),
) -> tuple[Tensor, Tensor]:
    """One optimizer step from this process's batches.

    Each batch gives a sum, which is divided by the tokens of all batches of all processes. So every token has
    the same weight in the gradient, though batches differ in how many of their tokens are masked.

    Args:
        summed: From ``prepare_model``.
        batches: (inputs, targets), both (B, T).
        n_tokens: The tokens that contribute to the loss, in all batches of all processes.
        optimizer: From ``build_optimizer``.
        scaler: Enabled for float16.
        cfg: The hyperparameters.
        context: The processes.

    Returns:
        (this process's part of the mean loss in nats per token, gradient norm before clipping), both ().
    """
    total = torch.zeros((), device=next(summed.parameters()).device)
    for i, (inputs, targets) in enumerate(batches, 1):
        # gradients are reduced once a step, after the last batch
        skip_reduction = context.world_size > 1 and i < len(batches)
        with summed.no_sync() if skip_reduction else nullcontext():
            with forward_context(total.device, cfg.dtype):
                loss = summed(*_to_device(total.device, inputs, targets)) / n_tokens
            scaler.scale(loss * context.world_size).backward()  # DDP takes the mean over processes
        total += loss.detach()
    # the norm is that of true gradients, so float16's scale must be taken out before clipping
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(summed.parameters(), cfg.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


def _to_device(device: torch.device, *tensors: Tensor) -> Iterator[Tensor]:
    for tensor in tensors:
        if device.type == "cuda":
            tensor = tensor.pin_memory()  # only then is it copied while the GPU computes
        yield tensor.to(device, non_blocking=True)


@torch.no_grad()
def mean_loss(
    model: GPT,
    rows: Rows,
    batch_size: int = 32,
    dtype: str = "float32",
    context: DistributedContext = DistributedContext(),
) -> float:
    """The loss over all rows in nats per token: the sum over the tokens that count, over their number."""
    # dropout off, for the loss of the model and not of a sample of its subnetworks
    was_training = model.training
    model.eval()
    nats, n_tokens = 0.0, 0
    inputs, targets = (part[context.rank :: context.world_size].split(batch_size) for part in rows)
    for batch, labels in zip(inputs, targets, strict=True):
        counted = labels != IGNORE_INDEX
        if not counted.any():
            continue
        width = int(counted.any(0).nonzero().max()) + 1  # beyond it there is only padding
        with forward_context(model.device, dtype):
            on_device = _to_device(model.device, batch[:, :width], labels[:, :width])
            nats += model.summed_loss(*on_device).item()
        n_tokens += int(counted.sum())
    model.train(was_training)
    nats, n_tokens = context.all_reduce(nats, n_tokens)
    return nats / n_tokens


# --- the run ----------------------------------------------------------------------------------------


def pretrain(
    model: GPT,
    data: WindowLoader,
    cfg: PretrainConfig,
    *,
    validation: Rows,
    floor: float | None = None,
    sample: Callable[[GPT], str] | None = None,
    measure: Callable[[GPT], dict] | None = None,
    out: Path | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    replace: bool = True,
    on_log: Callable | None = None,
    context: DistributedContext = DistributedContext(),
) -> History:
    """Trains ``model`` in place.

    With ``out``, SIGTERM, SIGINT (Ctrl-C, a stopped cell) or SIGHUP saves a checkpoint after the step and
    raises KeyboardInterrupt. An unfinished run with the same config in ``out`` is resumed, with the losses
    that it would have had. Several processes need an ``out`` that all of them see.

    Args:
        model: An untrained or pretrained GPT.
        data: WindowLoader to train on.
        cfg: The hyperparameters.
        validation: Rows for the validation loss.
        floor: The entropy floor of the validation texts in nats per token, if it is known.
        sample: Writes a text, at start, middle and end.
        measure: Other metrics by name, at each evaluation.
        out: The folder for TensorBoard (tensorboard/), checkpoints (checkpoints/step_N/) and the result
            (model/), with the tokenizer, in transformers' layout. None: nothing is written.
        tokenizer: Is saved with the model.
        replace: What happens to a finished run in ``out``, or one with another config: it is moved to
            out/previous/, or it is an error.
        on_log: Is given "train" or "validation", a row and the number of steps, as ``live.LiveLoss`` wants
            it.
        context: The processes.

    Returns:
        What happened.

    Raises:
        ValueError: The processes cannot share a step, or ``out`` holds another run and ``replace`` is false.
        KeyboardInterrupt: The run was stopped by a signal, and saved.
    """
    check_accumulation(cfg.grad_accumulation, context.world_size)
    # each process another seed, or all would drop the same units
    torch.manual_seed(cfg.seed + context.rank)  # for dropout; the data have a seed of their own
    state = TrainState(model, build_optimizer(model, cfg), data, cfg, context, tokenizer)

    def evaluate() -> dict:
        """The validation loss, and the other metrics, which the main process alone computes."""
        metrics = {"loss": mean_loss(model, validation, 4 * cfg.batch_size, cfg.dtype, context)}
        if floor is not None:
            metrics |= {"floor": floor, "above_floor": metrics["loss"] - floor}
        if measure is not None and context.is_main_process:
            metrics |= measure(model)
        context.barrier()
        return metrics

    checkpoint = find_earlier_run(out, state, replace)
    if checkpoint is not None:
        state.restore(*checkpoint)
    content = None if checkpoint is None else checkpoint[1]
    recorder = Recorder(state, content, evaluate, floor, sample, out, on_log)
    with fast_matmul(model.device.type, cfg.block_size), _stop_signals(out is not None) as stop:
        if checkpoint is None:
            recorder.after_step(0)
        _train(state, recorder, stop)
    return recorder.close()


def _train(state: TrainState, recorder: Recorder, stop: threading.Event) -> None:
    cfg, context = state.cfg, state.context
    summed = prepare_model(state.model, cfg, context)
    summed.train()
    state.optimizer.zero_grad(set_to_none=True)  # the caller may have left gradients
    recorder.start_clock()
    while state.step < cfg.max_steps:
        learning_rate = learning_rate_at(state.step, cfg)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate
        batches = micro_batches(state.data, state.step, cfg, context)
        # one exchange for both: the processes must agree on the step after which they stop
        n_tokens, stopping = context.all_reduce(count_targets(batches), stop.is_set())
        loss, norm = training_step(summed, batches, n_tokens, state.optimizer, state.scaler, cfg, context)
        state.step += 1
        recorder.log_step(loss, norm, learning_rate, n_tokens)
        if stopping and state.step < cfg.max_steps:
            recorder.save()  # and nothing else: who asks may not wait long
            raise KeyboardInterrupt(
                f"stopped and saved at step {state.step}; the same command resumes from there"
            )
        recorder.after_step(state.step)


@contextmanager
def _stop_signals(wanted: bool) -> Iterator[threading.Event]:
    """An event that signals to stop set, so that a step is never interrupted; a second SIGINT interrupts."""
    stop = threading.Event()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def _request(number, frame):
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    # Windows has no SIGHUP
    names = ("SIGTERM", "SIGINT", "SIGHUP")
    with handle_signals([getattr(signal, name) for name in names if hasattr(signal, name)], _request):
        yield stop
