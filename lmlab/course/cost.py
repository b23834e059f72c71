"""What a training costs in FLOPs, seconds and bytes; ``lmlab.course.forecast`` puts them together.

Sources: Kaplan et al. 2020 (6 FLOPs per parameter and token); Dettmers et al. 2022 and 2023 for Adam in 8
bits and weights in 4, with the sizes as bitsandbytes stores them.
"""

import functools
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import GPT2Config, PretrainedConfig, PreTrainedModel

WEIGHT, MOMENTS = 4, 8  # bytes in float32; Adam's first and second moment
STEP_BYTES = 4  # torch's Adam counts the steps of each tensor in a float32
EIGHT_BIT_FROM, EIGHT_BIT_BLOCK = 4096, 256  # smaller tensors keep 32 bits; a float32 scale for each block
FOUR_BIT_BLOCK, SCALE_BLOCK = 64, 256  # weights per scale of a byte; scales per float32 scale of their own


def training_flops(n_weights: int, n_tokens: float) -> float:
    """FLOPs of training ``n_weights`` parameters on ``n_tokens``: two forward and four backward for each."""
    return 6.0 * n_weights * n_tokens


def product_speed(size: int = 1024, seconds: float = 0.3) -> float:
    """FLOPs per second of square float32 matrix products on this CPU, as it is now."""
    import torch
    from torch.utils.benchmark import Timer

    # Timer's own default is a single thread.
    timer = Timer("a @ a", globals={"a": torch.ones(size, size)}, num_threads=torch.get_num_threads())
    # For a while, as clocks change; other processes on these cores count, as they will in the training.
    return 2 * size**3 / timer.blocked_autorange(min_run_time=seconds).mean


def four_bit_bytes(n: int) -> int:
    """Bytes of a layer of ``n`` weights in NF4 with double quantization: 4.127 bits a weight, and a mean."""
    scales = math.ceil(n / FOUR_BIT_BLOCK)
    return math.ceil(n / 2) + scales + 4 * math.ceil(scales / SCALE_BLOCK) + 4


def adam_bytes(sizes: Iterable[tuple[int, bool]], optimizer: str) -> int:
    """Bytes of Adam's state.

    In 8 bits each moment takes a byte and a scale for each block; small tensors stay in 32 bits, and so do
    embeddings, by transformers' choice. Paged state is counted as if it were on the GPU: it leaves only when
    memory is short.

    Args:
        sizes: Of each tensor, its number of elements, and whether it is an embedding.
        optimizer: "adamw_torch", "adamw_8bit" or "paged_adamw_8bit".
    """
    total = 0
    for n, is_embedding in sizes:
        if optimizer == "adamw_torch":
            total += MOMENTS * n + STEP_BYTES
        elif is_embedding or n < EIGHT_BIT_FROM:
            total += MOMENTS * n
        else:
            total += 2 * (n + 4 * math.ceil(n / EIGHT_BIT_BLOCK))
    return total


def adafactor_bytes(shapes: Iterable[Sequence[int]]) -> int:
    """Bytes of transformers' Adafactor: the means of rows and columns of a matrix, else the second moment.

    Args:
        shapes: Of each tensor.
    """
    total = 0
    for shape in shapes:
        means = math.prod(shape[:-1]) + math.prod(shape) // shape[-2] if len(shape) > 1 else math.prod(shape)
        total += 4 * means + STEP_BYTES  # and the tensor's own root mean square
    return total


def full_memory_gib(
    config: "GPT2Config",
    n_weights: int,
    tokens: int,
    optimizer: str = "adamw_torch",
    checkpointing: bool = False,
    half: bool = True,
) -> float:
    """GiB of full fine-tuning a GPT-2 in mixed precision: weights, gradients, Adam, activations, logits.

    A step of two models of few blocks is traced on the meta device (``lmlab.training.memory``); each further
    block adds the same. It is a prediction, without what the allocator adds.

    Args:
        config: A GPT2Config.
        n_weights: Of its model.
        tokens: Batch size times length.
        optimizer: "adamw_torch", "adamw_8bit" or "adafactor".
        checkpointing: Activation checkpointing: the input of each block is kept, and one block is recomputed.
        half: The forward pass runs in 16 bits.
    """
    if optimizer == "adafactor":
        state = adafactor_bytes([p.shape for p in _meta_model(config).parameters()])
    else:
        embeddings = (config.vocab_size + config.n_positions) * config.n_embd
        state = adam_bytes([(embeddings, True), (n_weights - embeddings, False)], optimizer)
    kept = WEIGHT * n_weights + state
    # The peak of each phase is a straight line in the number of blocks, so two models tell all.
    shape = config.to_json_string()
    two, three = (_phase_peaks(shape, n_layer, tokens, checkpointing, half) for n_layer in (2, 3))
    peaks = []
    for with_two, with_three in zip(two, three, strict=True):
        per_block = with_three - with_two
        peaks.append(with_two + (config.n_layer - 2) * per_block)
    return (kept + max(peaks)) / 2**30


@functools.cache  # optimizers are compared, which have no part in it
def _phase_peaks(shape: str, n_layer: int, tokens: int, checkpointing: bool, half: bool) -> Sequence[int]:
    """Bytes at the peak of each phase of a step of the config in ``shape``, JSON, with ``n_layer`` blocks."""
    from transformers import GPT2Config

    from lmlab.training.memory import estimate_step, model_on_meta

    small = GPT2Config(**json.loads(shape))
    small.n_layer = n_layer
    dtype = "bfloat16" if half else "float32"
    model = model_on_meta(small)
    # With two micro-batches all gradients are kept, as they are in a recipe that accumulates.
    step = estimate_step(model, 1, tokens, dtype=dtype, accumulation=2, checkpointing=checkpointing)
    return step.peak_by_phase


def n_weights_of(config: "PretrainedConfig") -> int:
    """Parameters of a model of this config, tied ones once; nothing is allocated."""
    return sum(p.numel() for p in _meta_model(config).parameters())


def _meta_model(config: "PretrainedConfig") -> "PreTrainedModel":
    from lmlab.training.memory import model_on_meta

    return model_on_meta(config)
