"""Lesson 05: quantization to four bits, and low-rank adapters."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from lmlab.exercises.judging import compare, compare_value, exercise, random_tensors

# Llama-3.2-1B: name -> (n_in, n_out) of one layer's matrices
_ATTENTION = {"q": (2048, 2048), "k": (2048, 512), "v": (2048, 512), "o": (2048, 2048)}
_MLP = {"gate": (2048, 8192), "up": (2048, 8192), "down": (8192, 2048)}
_LAYERS, _RANK = 16, 16


@exercise("05.1")
def count(answer: Any) -> None:
    """The trainable parameters of rank 16 on all linear layers of Llama-3.2-1B."""
    shapes = {**_ATTENTION, **_MLP}
    wanted = _trainable(shapes.values())
    mistakes = {
        "attention_alone": _trainable(_ATTENTION.values()),
        # k and v as wide as q: without grouped-query attention
        "full_heads": _trainable({**shapes, "k": (2048, 2048), "v": (2048, 2048)}.values()),
        "one_layer_or_rank": wanted // _RANK,
        "one_layer_and_rank": wanted // (_LAYERS * _RANK),
        "weights_counted": _LAYERS * sum(n_in * n_out for n_in, n_out in shapes.values()),
        "a_alone": _LAYERS * _RANK * sum(n_in for n_in, _ in shapes.values()),
        "b_alone": _LAYERS * _RANK * sum(n_out for _, n_out in shapes.values()),
    }
    compare_value(answer, wanted, mistakes, tolerance=1e-9)


def _trainable(shapes: Iterable[tuple[int, int]]) -> int:
    return _LAYERS * _RANK * sum(n_in + n_out for n_in, n_out in shapes)


@exercise("05.2")
def quantize(answer: Any) -> None:
    """Blocks of weights that went through quantization and back."""
    import torch

    rng = torch.Generator().manual_seed(0)
    # like NF4's values, in uneven steps, but not the ones of the lesson
    nf4_like = torch.tensor(
        [-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0]
    )
    # shifted a little, so that the largest absolute weight of some blocks is negative
    cases = [(0.1 * torch.randn(n, 64, generator=rng) - 0.02, nf4_like) for n in (2, 5)]
    cases.append((torch.randn(3, 64, generator=rng), torch.linspace(-1, 1, 5)))
    mistakes = {
        "scale_without_absolute": lambda blocks, values: _quantized(
            blocks, values, blocks.amax(1, keepdim=True)
        ),
        "not_rescaled": partial(_quantized, rescaled=False),
        "rounded_down": partial(_quantized, down=True),
    }
    compare(answer, _quantized, cases, mistakes)


def _quantized(
    blocks: Any, values: Any, scales: Any = None, rescaled: bool = True, down: bool = False
) -> Any:
    """Dequantized weights (n, 64). scales: (n, 1), the largest absolute weights where they are not given."""
    import torch

    if scales is None:
        scales = blocks.abs().amax(1, keepdim=True)
    scaled = blocks / scales
    # the nearest value, or the one below
    if down:
        codes = (torch.bucketize(scaled, values, right=True) - 1).clamp(0, len(values) - 1)
    else:
        codes = (scaled[..., None] - values).abs().argmin(-1)  # (n, 64)
    return values[codes] * scales if rescaled else values[codes]


@exercise("05.3")
def bits_per_weight(answer: Any) -> None:
    """The storage of a weight under double quantization, in bits."""
    cases = [(64, 256), (32, 256), (128, 128), (64, 64)]
    mistakes = {
        "without_double_quantization": lambda block, group: 4 + 32 / block,
        "scale_of_scales_forgotten": lambda block, group: 4 + 8 / block,
        "group_of_weights": lambda block, group: 4 + 8 / block + 32 / group,
        "bytes_for_bits": lambda block, group: 4 + 1 / block + 4 / (block * group),
        "scales_alone": lambda block, group: 8 / block + 32 / (block * group),
    }
    compare(
        answer, lambda block, group: 4 + 8 / block + 32 / (block * group), cases, mistakes, tolerance=1e-6
    )


@exercise("05.4")
def lora_gradients(answer: Any) -> None:
    """The gradients of A and B, held to autograd's."""
    cases = []
    for batch, n_in, n_out, r, scale_of_B in ((3, 10, 8, 2, 1), (5, 6, 7, 3, 0)):  # B = 0: as training begins
        x, A, B, g = random_tensors((batch, n_in), (r, n_in), (n_out, r), (batch, n_out))
        cases.append((x, A, scale_of_B * B, 2.0, g))
    mistakes = {
        "scale_missing": lambda x, A, B, scale, g: _gradients(x, A, B, 1, 1, g),
        "scale_twice": lambda x, A, B, scale, g: _gradients(x, A, B, scale**2, scale, g),
        "batch_mean": lambda x, A, B, scale, g: _gradients(x, A, B, scale / len(x), scale / len(x), g),
    }
    compare(answer, _autograd, cases, mistakes)


def _autograd(x: Any, A: Any, B: Any, scale: float, g: Any) -> tuple:
    import torch

    # clones, for the cases are leaves without gradients; grad mode may be off where the reader calls
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(scale * (x @ A.T) @ B.T, (A, B), g)


def _gradients(x: Any, A: Any, B: Any, scale_of_dA: float, scale_of_dB: float, g: Any) -> tuple:
    return scale_of_dA * (g @ B).T @ x, scale_of_dB * g.T @ x @ A.T
