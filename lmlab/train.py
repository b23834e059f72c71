"""Pretraining from scratch: the loop of notebook 02, its data rows, schedule and record.

Sources: Brown et al. 2020 (GPT-3) for AdamW's numbers, warm-up, cosine and clipping; nanoGPT for the loop.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lmlab.gpt import GPT, IGNORE


@dataclass(frozen=True)
class PretrainConfig:
    """Choices of one pretraining run. Rates are per step, lengths in tokens, counts in optimizer steps."""

    max_steps: int
    batch_size: int  # windows in one forward pass
    block_size: int  # tokens in one window
    learning_rate: float
    grad_accumulation: int = 1  # forward passes in one step
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0
    log_every: int = 10
    eval_every: int = 100
    checkpoint_every: int = 500
    dtype: str = "float32"  # of the forward pass; the weights stay float32
    seed: int = 0

    def __post_init__(self):
        for name in ("max_steps", "batch_size", "block_size", "grad_accumulation", "log_every", "eval_every",
                     "checkpoint_every", "learning_rate", "grad_clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"PretrainConfig.{name} got {getattr(self, name)}; give a positive number")
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(f"PretrainConfig.warmup_steps got {self.warmup_steps}; "
                             f"give 0 to {self.max_steps - 1}, fewer than max_steps")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"PretrainConfig.dtype got {self.dtype!r}; give float32, bfloat16 or float16")

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.block_size * self.grad_accumulation


@dataclass
class History:
    """What a run left behind, ready to plot. Losses are in nats per token."""

    floor: float | None = None
    steps: list[dict] = field(default_factory=list)  # step, loss, learning_rate, grad_norm, tokens_per_second
    evaluations: list[dict] = field(default_factory=list)  # step, loss
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


# --- data ---

class Rows(NamedTuple):
    """Evaluation rows: inputs and targets, both (N, T); a target of -100 is padding and is not counted."""

    inputs: Tensor
    targets: Tensor


def pack(documents: Sequence[Sequence[int]], eos: int) -> Tensor:
    """One long row (n_tokens,): eos, document, eos, document, ..., eos."""
    return torch.tensor([eos] + [token for document in documents for token in (*document, eos)])


def document_rows(documents: Sequence[Sequence[int]], eos: int, block_size: int) -> Rows:
    """One row per document, eos + document + eos. Every token of it and the last eos bear loss.

    So the loss is -log p(document) per token, which is what an entropy floor bounds.
    """
    longest = max(map(len, documents))
    if longest + 1 > block_size:
        raise ValueError(f"a document has {longest} tokens; block_size {block_size} holds {block_size - 1}: "
                         "raise block_size")
    inputs = torch.full((len(documents), longest + 1), eos)
    targets = torch.full((len(documents), longest + 1), IGNORE)
    for row, document in enumerate(documents):
        inputs[row, 1:len(document) + 1] = torch.tensor(document)
        targets[row, :len(document) + 1] = torch.tensor([*document, eos])
    return Rows(inputs, targets)


def text_rows(tokens: Tensor, block_size: int) -> Rows:
    """Consecutive windows of one long text (n_tokens,), for data without documents. The rest is left out."""
    n = (len(tokens) - 1) // block_size
    if n == 0:
        raise ValueError(f"the text has {len(tokens)} tokens; a row needs {block_size + 1}: lower block_size")
    end = n * block_size
    return Rows(tokens[:end].view(n, block_size), tokens[1:end + 1].view(n, block_size))


def random_windows(tokens: Tensor, batch_size: int, block_size: int, seed: int = 0,
                   eos: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (inputs, targets), both (batch_size, block_size), cut from tokens (n_tokens,).

    With ``eos``, a window begins where a document begins (at the eos before it), as validation rows do;
    otherwise anywhere.
    """
    last = len(tokens) - block_size - 1
    if last < 0:
        raise ValueError(f"the data has {len(tokens)} tokens; one window needs {block_size + 1}: "
                         "lower block_size")
    starts = torch.arange(last + 1) if eos is None else (tokens[:last + 1] == eos).nonzero()[:, 0]
    if len(starts) == 0:
        raise ValueError(f"no document begins in the data: token {eos} is not in it; "
                         "give the eos it was packed with")
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(block_size + 1)
    while True:  # each start once before any comes again
        order = starts[torch.randperm(len(starts), generator=generator)]
        for chosen in order.split(batch_size):
            if len(chosen) == batch_size or len(starts) < batch_size:
                window = tokens[chosen[:, None] + offsets].long()
                yield window[:, :-1], window[:, 1:]


def entropy_floor(logprobs: Sequence[float], token_counts: Sequence[int]) -> float:
    """The loss, in nats per token, that no model can beat on average over texts with these probabilities.

    logprobs: natural log of the probability of each whole text. token_counts: of each, its EOS included.
    """
    if len(logprobs) != len(token_counts) or not logprobs:
        raise ValueError(f"entropy_floor got {len(logprobs)} logprobs and {len(token_counts)} token counts; "
                         "give one of each per text")
    return -sum(logprobs) / sum(token_counts)


# --- one step ---

def learning_rate_at(step: int, cfg: PretrainConfig) -> float:
    """Linear warm-up, then half a cosine down to ``min_learning_rate``. step counts from 0."""
    if step < cfg.warmup_steps:
        return cfg.learning_rate * (step + 1) / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / max(1, cfg.max_steps - 1 - cfg.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return cfg.min_learning_rate + cosine * (cfg.learning_rate - cfg.min_learning_rate)


def build_optimizer(model: torch.nn.Module, cfg: PretrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices, and leaves biases and norms (one dimension) alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim >= 2], "weight_decay": cfg.weight_decay},
              {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=(cfg.beta1, cfg.beta2), fused=True)


def forward_context(device: torch.device, dtype: str):
    """Autocast to ``dtype``, or nothing for float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))


def training_step(model: GPT, batches: Iterator[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer,
                  scaler: torch.amp.GradScaler, cfg: PretrainConfig) -> tuple[Tensor, Tensor]:
    """One update from ``grad_accumulation`` batches. Returns (mean loss, gradient norm before clipping)."""
    total = torch.zeros((), device=model.device)
    for _ in range(cfg.grad_accumulation):
        inputs, targets = (part.to(model.device, non_blocking=True) for part in next(batches))
        with forward_context(model.device, cfg.dtype):
            _, loss = model(inputs, targets)
        # all batches count the same number of tokens, so the mean of means is the mean
        scaler.scale(loss / cfg.grad_accumulation).backward()
        total += loss.detach() / cfg.grad_accumulation
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


@torch.no_grad()
def mean_loss(model: GPT, rows: Rows, batch_size: int = 32, dtype: str = "float32") -> float:
    """Token-weighted loss over all rows: the sum over counted tokens by their number. Nats per token."""
    was_training = model.training
    model.eval()
    nats, counted = 0.0, 0
    for inputs, targets in zip(rows.inputs.split(batch_size), rows.targets.split(batch_size), strict=True):
        kept = int((targets != IGNORE).any(0).nonzero().max()) + 1  # columns with something to count
        inputs, targets = inputs[:, :kept].to(model.device), targets[:, :kept].to(model.device)
        with forward_context(model.device, dtype):
            _, loss = model(inputs, targets)
        n = int((targets != IGNORE).sum())
        nats, counted = nats + loss.item() * n, counted + n
    model.train(was_training)
    return nats / counted


# --- the loop ---

def pretrain(model: GPT, tokens: Tensor, cfg: PretrainConfig, *, validation: Rows, eos: int | None = None,
             floor: float | None = None, sample: Callable[[GPT], str] | None = None, out: Path | None = None,
             tokenizer=None, report: Callable[[str], None] = print) -> History:
    """Trains ``model`` in place on tokens (n_tokens,) and returns what happened.

    validation: rows for the loss that is compared with ``floor`` (nats per token, None if not known).
    eos: windows begin at documents, see ``random_windows``. sample: called at start, middle and end.
    out: where TensorBoard logs (tensorboard/), checkpoints (checkpoints/step_N/) and the result (model/) go,
    with the tokenizer, in transformers' layout; nothing is written without it.
    """
    torch.manual_seed(cfg.seed)
    batches = random_windows(tokens, cfg.batch_size, cfg.block_size, cfg.seed, eos)
    optimizer = build_optimizer(model, cfg)
    scaler = torch.amp.GradScaler(model.device.type, enabled=cfg.dtype == "float16")
    record = _Record(cfg, History(floor), validation, sample, out, tokenizer, report)
    record.visit(model, 0)
    model.train()
    optimizer.zero_grad(set_to_none=True)  # the caller may have left gradients
    for step in range(1, cfg.max_steps + 1):
        rate = learning_rate_at(step - 1, cfg)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, norm = training_step(model, batches, optimizer, scaler, cfg)
        record.step(step, loss, norm, rate)
        record.visit(model, step)
    return record.close(model)


class _Record:
    """Keeps the history of a run, and writes logs and checkpoints where a folder is given."""

    def __init__(self, cfg, history, validation, sample, out, tokenizer, report):
        self.cfg, self.history, self.validation, self.sample = cfg, history, validation, sample
        self.out, self.tokenizer, self.report = out, tokenizer, report
        self.writer = None if out is None else _summary_writer(out / "tensorboard")
        self.losses: list[Tensor] = []
        self.began = self.lap = time.perf_counter()

    def step(self, step: int, loss: Tensor, norm: Tensor, rate: float) -> None:
        """Notes one update; a row of the history is the mean since the last row."""
        self.losses.append(loss)
        if step % self.cfg.log_every and step != self.cfg.max_steps:
            return
        mean = torch.stack(self.losses).mean().item()  # the device is waited for here, not at every step
        seconds = time.perf_counter() - self.lap
        row = {"step": step, "loss": mean, "learning_rate": rate, "grad_norm": norm.item(),
               "tokens_per_second": len(self.losses) * self.cfg.tokens_per_step / seconds}
        self.history.steps.append(row)
        self._scalars("train", row)
        self.losses, self.lap = [], time.perf_counter()

    def visit(self, model: GPT, step: int) -> None:
        """Evaluates, samples and saves, where it is time. What that takes is not counted as training."""
        arrived, cfg = time.perf_counter(), self.cfg
        first_or_last = step in (0, cfg.max_steps)
        if first_or_last or step % cfg.eval_every == 0:
            self._evaluate(model, step)
        if self.sample and (first_or_last or step == cfg.max_steps // 2):
            self._sample(model, step)
        if self.out and (first_or_last or step % cfg.checkpoint_every == 0):
            self._save(model, self.out / "checkpoints" / f"step_{step}")
        self.lap += time.perf_counter() - arrived

    def close(self, model: GPT) -> History:
        self.history.seconds = time.perf_counter() - self.began
        if self.out:
            self._save(model, self.out / "model")
            self.writer.close()
        return self.history

    def _evaluate(self, model: GPT, step: int) -> None:
        loss = mean_loss(model, self.validation, 4 * self.cfg.batch_size, self.cfg.dtype)
        row = {"step": step, "loss": loss}
        self.history.evaluations.append(row)
        floor = self.history.floor
        bounds = {} if floor is None else {"floor": floor, "above_floor": row["loss"] - floor}
        self._scalars("validation", {**row, **bounds})
        above = "" if floor is None else f", {bounds['above_floor']:.3f} above the floor"
        self.report(f"step {step:>{len(str(self.cfg.max_steps))}}: validation {loss:.3f} nats/token{above}")

    def _sample(self, model: GPT, step: int) -> None:
        text = self.sample(model)
        self.history.samples.append({"step": step, "text": text})
        if self.writer:
            self.writer.add_text("sample", text, step)

    def _save(self, model: GPT, folder: Path) -> None:
        model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def _scalars(self, prefix: str, row: dict) -> None:
        if self.writer:
            for name, value in row.items():
                if name != "step":
                    self.writer.add_scalar(f"{prefix}/{name}", value, row["step"])


def _summary_writer(folder: Path):
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
