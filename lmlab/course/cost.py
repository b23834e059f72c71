"""What a training costs in seconds and bytes; ``lmlab.course.forecast`` puts them together.

Sources: Dettmers et al. 2022 and 2023 for Adam in 8 bits and weights in 4, with the sizes as bitsandbytes
stores them.
"""

import math
from collections.abc import Iterable

MOMENTS = 8  # bytes of Adam's first and second moment, in float32
STEP_BYTES = 4  # torch's Adam counts the steps of each tensor in a float32
EIGHT_BIT_FROM, EIGHT_BIT_BLOCK = 4096, 256  # smaller tensors keep 32 bits; a float32 scale for each block
FOUR_BIT_BLOCK, SCALE_BLOCK = 64, 256  # weights per scale of a byte; scales per float32 scale of their own


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
