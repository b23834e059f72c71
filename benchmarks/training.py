"""Training tokens in a second: lmlab's step, a plain loop in nanoGPT's manner, and transformers' GPT-2.

python benchmarks/training.py            nanoGPT's CPU size: 4 layers, 128 wide, context 64, batch 12
python benchmarks/training.py --gpu      GPT-2 small, 1,024 tokens, bfloat16, the loss compiled

All begin at the same weights, read the same windows in the same order and take the same steps; that their
losses are equal is a part of the result. They take turns of some steps each.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from abab import alternate, conditions, ratio

from lmlab.data.loader import WindowLoader
from lmlab.data.streams import stream_texts
from lmlab.hardware import fast_matmul, peak_flops
from lmlab.models.gpt import GPT, GPT2_SIZES, GPTConfig
from lmlab.training.distributed import DistributedContext
from lmlab.training.pretrain import (
    PretrainConfig,
    build_optimizer,
    count_targets,
    micro_batches,
    prepare_model,
    training_step,
)

CPU_SIZE = GPTConfig(
    n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=128
)  # the text has 65 characters
LEARNING_RATE = 1e-3
KINDS = {
    "products": ("mm", "addmm", "bmm", "matmul", "linear", "baddbmm"),
    "attention": ("attention",),
    "GELU": ("gelu",),
    "norms": ("layer_norm",),
    "optimizer": ("adam", "foreach", "_fused", "clip", "norm"),
}


def characters(n: int) -> np.ndarray:
    """n characters of generated stories as tokens (n,), which is what nanoGPT's CPU example reads."""
    text = "\n".join(stream_texts("miniworld/stories", limit=n // 150))[:n]
    return np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.uint16)


# --- the contestants: each is a function that takes one step and returns its loss ---


def lmlab_step(
    config: GPTConfig, tokens: np.ndarray, batch_size: int, device: str, dtype: str, compiled: bool
) -> Callable[[], torch.Tensor]:
    """The step of lmlab.training.pretrain.pretrain: its loader, its context for products, its optimizer."""
    cfg = PretrainConfig(
        max_steps=10**6,
        batch_size=batch_size,
        block_size=config.block_size,
        dtype=dtype,
        learning_rate=LEARNING_RATE,
        compile=compiled,
    )
    context, data = DistributedContext(device=device), WindowLoader([tokens], config.block_size, batch_size)
    model = fresh(config).to(device)
    summed, optimizer = prepare_model(model, cfg, context), build_optimizer(model, cfg)
    scaler, state = torch.amp.GradScaler(device, enabled=False), {"step": 0}

    def step() -> torch.Tensor:
        with fast_matmul(device, config.block_size):
            batches = micro_batches(data, state["step"], cfg, context)
            state["step"] += 1
            return training_step(summed, batches, count_targets(batches), optimizer, scaler, cfg, context)[0]

    return step


def plain_step(
    model: torch.nn.Module,
    loss_of: Callable,
    tokens: np.ndarray,
    batch_size: int,
    block_size: int,
    device: str,
    dtype: str,
    compiled: bool,
) -> Callable[[], torch.Tensor]:
    """The step of nanoGPT's train.py: windows stacked one by one, AdamW (fused on GPUs alone), clipping."""
    groups = build_optimizer(
        model, PretrainConfig(max_steps=1, batch_size=1, block_size=1, learning_rate=LEARNING_RATE)
    ).param_groups
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    optimizer = torch.optim.AdamW(
        groups, lr=LEARNING_RATE, betas=(0.9, 0.95), **({"fused": True} if device == "cuda" else {})
    )
    order, state = WindowLoader([tokens], block_size, batch_size), {"step": 0}
    model = model.to(device).train()
    called = torch.compile(model) if compiled else model

    def step() -> torch.Tensor:
        starts = order.windows(state["step"]) * block_size  # the same windows as the others
        state["step"] += 1
        x = torch.stack([torch.from_numpy(tokens[i : i + block_size].astype(np.int64)) for i in starts])
        y = torch.stack(
            [torch.from_numpy(tokens[i + 1 : i + 1 + block_size].astype(np.int64)) for i in starts]
        )
        if device == "cuda":
            x, y = (part.pin_memory().to(device, non_blocking=True) for part in (x, y))
        with autocast(device, dtype):
            loss = loss_of(called, x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def autocast(device: str, dtype: str):
    return contextlib.nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))


def transformers_model(config: GPTConfig):
    """GPT2LMHeadModel with the weights of ``fresh``."""
    import tempfile

    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        fresh(config).save_pretrained(folder)
        return GPT2LMHeadModel.from_pretrained(folder)


def transformers_loss(model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    logits = model(x, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())


def fresh(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    return GPT(config)


# --- the measurement ---


def run(
    gpu: bool = False,
    batch_size: int | None = None,
    rounds: int = 7,
    steps: int = 20,
    vocab_size: int | None = None,
) -> dict:
    """{"conditions", "results": name -> tokens_per_second, loss and more}.

    steps: in one turn. vocab_size: with the CPU size, another vocabulary than that of characters.
    """
    device, dtype = ("cuda", "bfloat16") if gpu else ("cpu", "float32")
    config = GPT2_SIZES["gpt2"] if gpu else CPU_SIZE
    if vocab_size:
        config = replace(CPU_SIZE, vocab_size=vocab_size)
    batch_size = batch_size or (32 if gpu else 12)
    tokens = characters(2_000_000)
    padded = replace(config, vocab_multiple=64) if gpu else config
    shared = (tokens, batch_size)
    contestants = {
        "lmlab": lmlab_step(padded, *shared, device, dtype, compiled=gpu),
        "nanoGPT-style loop": plain_step(
            fresh(config), lambda m, x, y: m(x, y)[1], *shared, config.block_size, device, dtype, compiled=gpu
        ),
        "transformers": plain_step(
            transformers_model(config),
            transformers_loss,
            *shared,
            config.block_size,
            device,
            dtype,
            compiled=gpu,
        ),
    }
    if not gpu:
        contestants["lmlab, compiled"] = lmlab_step(config, *shared, device, dtype, compiled=True)
    losses = {name: [] for name in contestants}

    def turn(name: str) -> None:
        for _ in range(steps):
            losses[name].append(contestants[name]())
        losses[name][-1].item()  # waits for the device

    for name in contestants:  # the warm-up: one turn each
        turn(name)
    seconds = alternate({name: lambda name=name: turn(name) for name in contestants}, rounds)
    curves = {name: torch.stack(values).tolist() for name, values in losses.items()}
    per_turn, reference = steps * batch_size * config.block_size, "nanoGPT-style loop"
    peak = peak_flops(torch.device(device), dtype)
    results = {
        name: {
            "tokens_per_second": per_turn / statistics.median(seconds[name]),
            "times_nanogpt": ratio(seconds[reference], seconds[name]),
            "times_transformers": ratio(seconds["transformers"], seconds[name]),
            "mfu": peak and per_turn / statistics.median(seconds[name]) * fresh_flops(config) / peak,
            "last_loss": statistics.mean(curves[name][-steps:]),
            "largest_loss_difference": max(
                abs(a - b) for a, b in zip(curves[name], curves[reference], strict=True)
            ),
            "where": where(contestants[name]),
            "seconds": seconds[name],
        }
        for name in contestants
    }
    return {
        "conditions": conditions(
            model=f"{config.n_layer} layers, {config.n_embd} wide, {config.block_size} tokens, "
            f"{config.vocab_size} entries",
            batch_size=batch_size,
            dtype=dtype,
            steps_in_a_turn=steps,
            rounds=rounds,
            warm_up="one turn each",
            order="in turn",
            statistic="median",
        ),
        "results": results,
    }


def fresh_flops(config: GPTConfig) -> int:
    with torch.device("meta"):
        return GPT(config).flops_per_token()


def where(step: Callable) -> dict[str, float]:
    """Shares of the processor's time by kind of operation, over ten steps (on a GPU: of the GPU's time)."""
    from torch.profiler import profile

    with profile() as profiler:
        for _ in range(10):
            step()
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        own = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
        name = event.key.lower()
        kind = next(
            (
                kind
                for kind, words in KINDS.items()
                if any(word in name.removeprefix("aten::") for word in words)
            ),
            "other",
        )
        times[kind] = times.get(kind, 0.0) + own
    return {kind: round(value / sum(times.values()), 3) for kind, value in sorted(times.items())}


def table(measured: dict) -> str:
    lines = [f"{'':<22}{'tokens/s':>10}{'x nanoGPT':>11}{'x transf.':>11}{'last loss':>11}{'difference':>12}"]
    for name, row in measured["results"].items():
        lines.append(
            f"{name:<22}{row['tokens_per_second']:>10,.0f}{row['times_nanogpt']:>11.2f}"
            f"{row['times_transformers']:>11.2f}{row['last_loss']:>11.4f}"
            f"{row['largest_loss_difference']:>12.1e}"
        )
        lines.append("    " + ", ".join(f"{kind} {share:.0%}" for kind, share in row["where"].items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--vocab-size", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    measured = run(**vars(parser.parse_args()))
    print(measured["conditions"], table(measured), sep="\n")


if __name__ == "__main__":
    main()
