"""What a training run costs: operations, seconds and bytes. ``lmlab.course.plan`` makes forecasts of them.

Sources: Kaplan et al. 2020 (6 operations per weight and token); Dettmers et al. 2022 and 2023 for Adam in 8 bits
and weights in 4, with the numbers of bytes as bitsandbytes stores them.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8  # bytes in float32; two averages of Adam
OPTIMIZERS = ("adamw_torch", "adamw_8bit", "paged_adamw_8bit")
STEP_BYTES = 4  # torch's Adam counts the steps of each tensor in a float32
EIGHT_BIT_FROM, EIGHT_BIT_BLOCK = 4096, 256  # smaller tensors keep 32 bits; a float32 scale for each block
FOUR_BIT_BLOCK, SCALE_BLOCK = (
    64,
    256,
)  # weights with one scale, a byte; scales with one float32 and, all, a mean


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
        raise ValueError(
            f"measured_speed got {len(batches)} batches; give two or more, the first only warms up"
        )
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


def product_speed(size: int = 1024, seconds: float = 0.3) -> float:
    """Operations a second of square float32 products on this CPU, as it is just now."""
    import torch

    a = torch.ones(size, size)
    a @ a  # the first makes room
    begun, products = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        a @ a
        products += 1
    return products * 2 * size**3 / (time.perf_counter() - begun)


def four_bit_bytes(n: int) -> int:
    """Bytes of a layer of ``n`` weights in NF4 with double quantization: 4.127 bits a weight, and a mean."""
    scales = math.ceil(n / FOUR_BIT_BLOCK)
    return math.ceil(n / 2) + scales + 4 * math.ceil(scales / SCALE_BLOCK) + 4


def adam_bytes(sizes: Iterable[tuple[int, bool]], optimizer: str) -> int:
    """Bytes of Adam's state for tensors, each given as (number of weights, whether it is an embedding).

    In 8 bits the two averages take a byte each and a scale for each block; small tensors stay in 32 bits, and so
    do embeddings, by transformers' choice. Paged state is counted as if it were on the GPU: it leaves only when
    memory is short. Raises ValueError for another optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer got {optimizer!r}; give one of {', '.join(OPTIMIZERS)}")
    if optimizer == "adamw_torch":
        return sum(MOMENTS * n + STEP_BYTES for n, _ in sizes)
    return sum(
        MOMENTS * n if embedding or n < EIGHT_BIT_FROM else 2 * (n + 4 * math.ceil(n / EIGHT_BIT_BLOCK))
        for n, embedding in sizes
    )


def full_memory_gib(
    config,
    n_weights: int,
    tokens: int,
    optimizer: str = "adamw_torch",
    checkpointing: bool = False,
    half: bool = True,
) -> float:
    """GiB of full fine-tuning a GPT-2 in mixed precision: weights, gradients, Adam, activations, logits.

    config: a GPT2Config. tokens: batch size x length; none: what is kept between steps. checkpointing: only the
    input of each block is kept, and one block's activations at a time. half: the forward pass runs in 16 bits.
    Two models of few blocks are rehearsed (``lmlab.training.memory``): each further block adds the same. It is a
    prediction: what the allocator adds is not in it. Raises ValueError for another optimizer.
    """
    import copy

    from lmlab.training.memory import estimate_step, model_on_meta

    embeddings = (config.vocab_size + config.n_positions) * config.n_embd
    kept = WEIGHT * n_weights + adam_bytes([(embeddings, True), (n_weights - embeddings, False)], optimizer)
    if tokens == 0:
        return (kept + GRADIENT * n_weights) / 2**30
    moments = []
    for n_layer in (2, 3):
        small = copy.deepcopy(config)
        small.n_layer = n_layer
        moments.append(
            estimate_step(
                model_on_meta(small),
                1,
                tokens,
                dtype="bfloat16" if half else "float32",
                accumulation=2,
                checkpointing=checkpointing,
            ).moments
        )
    more = config.n_layer - 2
    return (kept + max(two + more * (three - two) for two, three in zip(*moments, strict=True))) / 2**30


def n_weights_of(config) -> int:
    """Weights of a model of this config, tied ones once; nothing is allocated."""
    from lmlab.training.memory import model_on_meta

    return sum(p.numel() for p in model_on_meta(config).parameters())
