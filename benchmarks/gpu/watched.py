"""A training by transformers' or TRL's Trainer that is watched: seconds, gradients, losses, memory."""

import math
import statistics
import time
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback

from gpu import shared
from lmlab.course.measured import measure
from lmlab.hardware import Machine, fast_matmul
from lmlab.models import parameters
from lmlab.recipes import Recipe
from lmlab.training.optimizers import qlora_optimizer

# names of optimizers in lmlab.course.trainings that TrainingArguments has by another name
OPTIMIZERS = {"adamw_torch": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}


class Watch(TrainerCallback):
    """The seconds of each step, and of the first ``looked_at`` whether and where gradients are finite."""

    def __init__(self, looked_at: int):
        self.looked_at, self.seconds = looked_at, []
        self.reached, self.finite_steps = set(), 0

    def on_step_begin(self, args, state, control, **_):
        shared.wait_for_device()
        self.began = time.perf_counter()

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if state.global_step >= self.looked_at:
            return
        largest = {
            name: p.grad.abs().max().item()
            for name, p in model.named_parameters()
            if p.requires_grad and p.grad is not None
        }
        self.finite_steps += all(math.isfinite(value) for value in largest.values())
        self.reached |= {name for name, value in largest.items() if value > 0}

    def on_step_end(self, args, state, control, **_):
        shared.wait_for_device()
        self.seconds.append(time.perf_counter() - self.began)


def watched_training(trainer, warm_up: int, tokens_per_step: int, length: int) -> dict:
    """Trains, and returns losses, speed after the warm-up, peak memory and what was counted.

    Raises AssertionError for a loss that is not finite, a gradient that is not (but in float16, where the
    scaler looks for its scale), and a trained tensor that no gradient reached.
    """
    watch = Watch(looked_at=trainer.args.max_steps if trainer.args.fp16 else warm_up)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    trained = set(parameters.trainable_names(trainer.model))
    shared.release_memory()
    shared.forget_peak()
    with fast_matmul(trainer.args.device.type, length):
        trainer.train()
    shared.wait_for_device()
    memory = shared.peaks()  # before anything else is made
    losses = [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == trainer.state.max_steps and all(map(math.isfinite, losses)), losses
    assert not trained - watch.reached, f"no gradient reached {sorted(trained - watch.reached)[:3]}"
    assert watch.finite_steps == watch.looked_at or trainer.args.fp16, f"{watch.finite_steps} steps finite"
    seconds = statistics.median(watch.seconds[warm_up:])
    return {
        "losses": losses,
        "seconds_per_step": seconds,
        "tokens_per_second": tokens_per_step / seconds,
        "trained_tensors": len(trained),
        "steps_with_finite_gradients": watch.finite_steps,
        **memory,
        "counted": measure(trainer.model, trainer.optimizer),
    }


def arguments(folder: Path, machine: Machine, job, steps: int, **others):
    """``TrainingArguments`` of a planned training."""
    from transformers import TrainingArguments

    return TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=job.batch_size,
        gradient_accumulation_steps=job.accumulation,
        optim=OPTIMIZERS.get(job.optimizer, job.optimizer),
        activation_checkpointing=job.checkpointing,
        **quiet(machine) | {"learning_rate": 1e-4} | others,
    )


def quiet(machine: Machine) -> dict:
    """What TRL's configs are told: the machine's precision, a log of every step, nothing saved or shown."""
    return {
        "bf16": machine.bf16,
        "fp16": machine.fp16,
        "use_cpu": machine.use_cpu,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def grpo_arguments(cfg: Recipe, machine: Machine) -> dict:
    """What GRPOConfig is told by a recipe of lesson 09, and ``quiet``."""
    return {
        "max_steps": cfg.max_steps,
        "optim": qlora_optimizer(machine),
        "per_device_train_batch_size": cfg.batch_size,
        "gradient_accumulation_steps": cfg.grad_accumulation,
        "num_generations": cfg.num_generations,
        "max_completion_length": cfg.max_new_tokens,
        "temperature": cfg.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "use_vllm": False,
        "beta": cfg.beta,
        "learning_rate": cfg.learning_rate,
        **quiet(machine),
    }


def random_rows(n: int, length: int, vocab_size: int, seed: int = 0) -> list[dict]:
    """n full rows of tokens, uniformly at random: nothing is padded, and all but the first are predicted."""
    import torch

    ids = torch.randint(vocab_size, (n, length), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": row, "labels": row} for row in ids]


def collator(fused: bool):
    """Rows as tensors; with ``fused`` TRL's head makes the logits in chunks (``sft.with_lora``)."""
    import torch

    def collate(rows: list[dict]) -> dict:
        batch = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
        return batch | ({"fused_lm_head": True} if fused else {})

    return collate
