"""Lesson 07: merging, rounding errors, and the size of a quantized weight."""

import math
from typing import Any

from lmlab.exercises.judging import compare, compare_value, exercise, random_tensors


@exercise("07.1")
def merge_transposed(answer: Any) -> None:
    """The merged matrix of a layer that is stored transposed, as GPT-2's are."""
    cases = []
    for n, r, alpha in ((6, 2, 8.0), (5, 3, 6.0)):  # square, so that shapes cannot tell the transpose
        cases.append((*random_tensors((n, n), (r, n), (n, r)), alpha))
    mistakes = {
        "not_transposed": lambda W, A, B, alpha: W + alpha / len(A) * B @ A,
        "scale_missing": lambda W, A, B, alpha: W + (B @ A).T,
        "not_divided_by_r": lambda W, A, B, alpha: W + alpha * (B @ A).T,
        "difference_alone": lambda W, A, B, alpha: alpha / len(A) * (B @ A).T,
        "subtracted": lambda W, A, B, alpha: W - alpha / len(A) * (B @ A).T,
    }
    compare(answer, lambda W, A, B, alpha: W + alpha / len(A) * (B @ A).T, cases, mistakes)


@exercise("07.2")
def worst_rounding(answer: Any) -> None:
    """The largest relative error of storing a tensor in a dtype."""
    import torch

    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2000, generator=rng, dtype=torch.float64)
    x = x[x.abs() > 0.01]  # far from where float16 runs out of exponents
    cases = []
    for factor in (1, 7):
        cases += [(factor * x, dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32)]
    mistakes = {
        "absolute_error": lambda x, dtype: _error(x, dtype).max().item(),
        "mean": lambda x, dtype: _relative_error(x, dtype).mean().item(),
        "relative_to_largest": lambda x, dtype: (_error(x, dtype).max() / x.abs().max()).item(),
        "eps": lambda x, dtype: torch.finfo(dtype).eps,
    }
    # a wider tolerance: the error is a difference of nearly equal numbers
    compare(answer, lambda x, dtype: _relative_error(x, dtype).max().item(), cases, mistakes, tolerance=1e-3)


def _error(x: Any, dtype: Any) -> Any:
    return (x.to(dtype).to(x.dtype) - x).abs()


def _relative_error(x: Any, dtype: Any) -> Any:
    return _error(x, dtype) / x.abs()


@exercise("07.3")
def bits_in_gguf(answer: Any) -> None:
    """Bits per weight of three GGUF formats, by the sizes of the gguf package."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    # from the sizes that the readers and writers of GGUF use
    wanted = {}
    for name in ("q8_0", "q4_0", "q4_1"):
        n_weights, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
        wanted[name] = 8 * n_bytes / n_weights
    mistakes = {
        "weights_alone": {"q8_0": 8.0, "q4_0": 4.0, "q4_1": 4.0},
        "scales_of_32_bits": {"q8_0": 9.0, "q4_0": 5.0, "q4_1": 6.0},
        # q4_1 taken for q4_0
        "minimum_forgotten": {**wanted, "q4_1": 4.5},
        "bytes_of_block": {"q8_0": 34.0, "q4_0": 18.0, "q4_1": 20.0},
    }
    compare_value(answer, wanted, mistakes, tolerance=1e-9)


@exercise("07.4")
def divergence(answer: Any) -> None:
    """The mean KL divergence of the merged model's distributions from the trained one's, in nats."""
    # (trained, merged)
    cases = [random_tensors((T, V), (T, V)) for T, V in ((4, 7), (9, 30))]
    mistakes = {
        "reversed": lambda trained, merged: _kl(merged, trained).mean().item(),
        "summed": lambda trained, merged: _kl(trained, merged).sum().item(),
        "mean_over_vocabulary": lambda trained, merged: (
            _kl(trained, merged).mean().item() / trained.shape[-1]
        ),
        "not_normalized": lambda trained, merged: (
            (trained.softmax(-1) * (trained - merged)).sum(-1).mean().item()
        ),
        "bits": lambda trained, merged: _kl(trained, merged).mean().item() / math.log(2),
    }
    compare(answer, lambda trained, merged: _kl(trained, merged).mean().item(), cases, mistakes)


def _kl(p_logits: Any, q_logits: Any) -> Any:
    """KL(p || q) of each row, (T,)."""
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
