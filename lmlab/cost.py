"""What a training run will cost: operations, seconds and memory, before it is run.

Sources: Kaplan et al. 2020 (6 operations per weight and token); Korthikanti et al. 2022 (bytes of activations).
"""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WEIGHT, GRADIENT, HALF_COPY = 4, 4, 2  # bytes for each weight; the copy is what a 16-bit forward pass reads
MOMENTS = {"adamw_torch": 8, "adamw_8bit": 2}  # bytes of Adam's two averages for each weight
# of activations, per token and width, kept by one block for the backward pass; fused attention and GELU, the
# residual in float32. Counted with saved_tensors_hooks: tests/test_cost.py
BLOCK_BYTES = {"half": 44, "full": 80}
LOGIT_BYTES = 10  # per logit: 16-bit, float32, and its gradient


def training_flops(n_weights: int, n_tokens: float) -> float:
    """Operations of training ``n_weights`` on ``n_tokens``: two for each weight forward, four backward."""
    return 6.0 * n_weights * n_tokens


class Speed(NamedTuple):
    """What a few warm-up steps showed."""

    flops_per_second: float
    tokens_per_batch: float  # padding included: it costs as much


def measured_speed(model, batches: Sequence[Mapping], machine) -> Speed:
    """Trains a copy of ``model`` for a step on each batch (input_ids, attention_mask, labels; (B, T)).

    The forward pass runs in the number format of ``machine``, as the Trainer's does. The first step is not
    counted: it makes room for gradients and moments. Raises ValueError for fewer than two batches.
    """
    import copy

    import torch

    if len(batches) < 2:
        raise ValueError(f"measured_speed got {len(batches)} batches; "
                         "give two or more, the first only warms up")
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW((p for p in trained.parameters() if p.requires_grad), lr=1e-6)
    half = torch.autocast(machine.device, getattr(torch, machine.dtype), enabled=machine.bf16 or machine.fp16)
    seconds = [_step(trained, optimizer, batch, half) for batch in batches][1:]
    tokens = sum(batch["input_ids"].numel() for batch in batches[1:])
    n_weights = sum(p.numel() for p in trained.parameters())
    return Speed(training_flops(n_weights, tokens) / sum(seconds), tokens / len(seconds))


def _step(model, optimizer, batch: Mapping, half) -> float:
    """Seconds of one training step."""
    import torch

    begun = time.perf_counter()
    with half:
        loss = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def full_memory_gib(config, n_weights: int, tokens: int, optimizer: str = "adamw_torch",
                    checkpointing: bool = False, half: bool = True) -> float:
    """GiB of full fine-tuning a GPT-2 in mixed precision: weights, gradients, Adam, activations, logits.

    config: a GPT2Config. tokens: batch size x length. checkpointing: only the input of each block is kept, and
    one block's activations at a time. half: the forward pass runs in 16 bits. It is a prediction: what the
    allocator adds is not in it, nor that the 8-bit optimizer leaves embeddings in 32 bits. Raises ValueError for
    another optimizer.
    """
    if optimizer not in MOMENTS:
        raise ValueError(f"optimizer got {optimizer!r}; give one of {', '.join(MOMENTS)}")
    per_weight = WEIGHT + GRADIENT + MOMENTS[optimizer] + (HALF_COPY if half else 0)
    one_block = BLOCK_BYTES["half" if half else "full"] * tokens * config.n_embd
    inputs = 4 * tokens * config.n_embd * config.n_layer
    activations = inputs + one_block if checkpointing else config.n_layer * one_block
    return (per_weight * n_weights + activations + LOGIT_BYTES * tokens * config.vocab_size) / 2**30


def n_weights_of(config) -> int:
    """Weights of a model of this config, tied ones once; nothing is allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
