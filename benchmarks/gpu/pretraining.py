"""Lesson 02 at full size: speed and memory of compiled steps, losses beside float32's; float16 as on a T4."""

import math
import os
import statistics
from dataclasses import replace
from pathlib import Path

from gpu import shared
from gpu.adapters import as_on_a_t4
from lmlab.course.trainings import trainings

FIRST = 5  # steps whose mean loss is compared
# nats, of a mean of FIRST losses near 11: bfloat16 rounds a number by up to 2^-8 of it; in float16 the
# scaler may leave out the first steps
BOUND = {"float32": 1e-3, "bfloat16": 0.02, "float16": 0.05}


def pretraining(sizes: dict) -> dict:
    """``pretrain`` of ``lmlab.training`` on a text, for so many steps; the first losses must be float32's."""
    from lmlab.models.gpt import GPT
    from lmlab.training import pretrain
    from lmlab.training.pretrain_recipe import training_batches, validation_rows

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    job = trainings(cfg, machine)[0]
    dtype = sizes.get("dtype") or machine.dtype
    cfg, tokenizer, folder = shards(cfg, sizes)
    data = training_batches(cfg, tokenizer, folder)
    steps = pretrain.PretrainConfig.from_recipe(cfg, dtype)
    exact = float32_losses(fresh(GPT, job.config, machine), data, steps)
    shared.release_memory()
    shared.forget_peak()
    model = fresh(GPT, job.config, machine)
    history = pretrain.pretrain(
        model, data, steps, validation=first_rows(validation_rows(cfg, tokenizer, folder)[0])
    )
    losses, after = (
        history.column("loss"),
        history.steps[len(history.steps) // 5 :],
    )  # the first steps compile
    measured = {
        "losses": losses,
        "first_losses_float32": exact,
        "dtype": dtype,
        "text": sizes["text"],
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in after),
        "mfu": statistics.median(row["mfu"] for row in after) if "mfu" in after[0] else None,
        "gradient_norms": history.column("grad_norm"),
        **shared.peaks(),
    }
    assert all(map(math.isfinite, losses)), losses
    off = losses[0] - statistics.mean(exact)
    assert abs(off) <= BOUND[dtype], (
        f"the first {FIRST} losses are off by {off:.4f} nats from float32's {exact}"
    )
    return shared.beside_forecast(job, machine, measured)


def float16_pretraining(sizes: dict) -> dict:
    """``pretraining`` in float16 with its GradScaler, on whatever device."""
    with as_on_a_t4():
        return pretraining(sizes | {"dtype": "float16"})


def fresh(kind, config, machine):
    """An untrained GPT; the same at each call."""
    import torch

    torch.manual_seed(0)
    return kind(config).to(machine.device)


def first_rows(rows, n: int = 64):
    """A few rows of the validation: it is speed that is measured here."""
    return type(rows)(rows.inputs[:n], rows.targets[:n])


def float32_losses(model, data, steps) -> list[float]:
    """The losses of the first steps in plain float32, uncompiled."""
    import torch

    from lmlab.training import pretrain
    from lmlab.training.distributed import DistributedContext

    plain = replace(steps, dtype="float32", compile=False)
    summed, optimizer = (
        pretrain.prepare_model(model, plain, DistributedContext()),
        pretrain.build_optimizer(model, plain),
    )
    scaler, losses = torch.amp.GradScaler(model.device.type, enabled=False), []
    for step in range(FIRST):
        for group in optimizer.param_groups:
            group["lr"] = pretrain.learning_rate_at(step, plain)
        batches = pretrain.micro_batches(data, step, plain, DistributedContext())
        n_tokens = pretrain.count_targets(batches)
        losses.append(pretrain.training_step(summed, batches, n_tokens, optimizer, scaler, plain)[0].item())
    return losses


def shards(cfg, sizes: dict):
    """(recipe, tokenizer, folder): a text made into shards by lesson 02's own function.

    The text and its tokenizer are the data folder's where there is one, else the miniworld's stories: a small
    part of a large vocabulary, which costs the same.
    """
    from lmlab.models.sources import load_tokenizer
    from lmlab.training.pretrain_recipe import make_shards

    folder = Path(os.environ["LMLAB_GPU_DATA"]) if sizes["text"] == "tinyshakespeare" else None
    text = folder / "tinyshakespeare.txt" if folder else stories(sizes["stories"])
    source = str(folder / "tokenizers" / "gpt2") if folder else "miniworld/gpt2"
    changes = {
        "data": str(text),
        "tokenizer": source,
        "shard_tokens": sizes["shard_tokens"],
        "n_docs": None,
        "data_tokens": None,
        "validation_tokens": sizes["shard_tokens"],
    }
    cfg = cfg.model_copy(update=changes)
    tokenizer = load_tokenizer(source)
    out = shared.work_folder() / "pretraining"
    return cfg, tokenizer, make_shards(cfg, tokenizer, out)


def stories(n: int) -> Path:
    """A file with n of the miniworld's stories."""
    from lmlab import miniworld

    path = shared.work_folder() / "stories.txt"
    rows = miniworld.dataset("stories", "train", n)
    path.write_text("\n\n".join(row["text"] for row in rows), encoding="utf-8")
    return path
