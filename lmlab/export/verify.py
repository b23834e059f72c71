"""Proof of a merge: logits of the merged model against the adapted one, within the rounding of its dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class LogitDifference(NamedTuple):
    """How far two models are apart on the same tokens."""

    max_difference: float  # largest absolute difference of any logit
    mean_difference: float  # mean absolute difference over all logits
    kl: float  # KL(reference || candidate), nats per position
    top1: float  # fraction of positions at which both have the same most likely token
    positions: int


def logits_of(model: torch.nn.Module, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Float32 logits (T, V) on the CPU for each sequence of token ids, one by one: no padding.

    Sets eval mode.
    """
    model.eval()  # dropout would make two runs of one model differ
    logits = []
    with torch.no_grad():
        for ids in sequences:
            batch = torch.tensor([list(ids)], device=model.device)  # (1, T)
            logits.append(model(batch).logits[0].float().cpu())
    return logits


def compare_logits(reference: Sequence[torch.Tensor], candidate: Sequence[torch.Tensor]) -> LogitDifference:
    """How far two lists of logits (T, V) are apart, as ``logits_of`` gives them for the same sequences."""
    maxima = []
    total, kl, n_same, n_logits, positions = 0.0, 0.0, 0, 0, 0
    for a, b in zip(reference, candidate, strict=True):
        difference = (a - b).abs().double()
        maxima.append(difference.max())
        total += difference.sum().item()
        kl += _kl(a, b)
        n_same += int((a.argmax(-1) == b.argmax(-1)).sum())
        n_logits += a.numel()
        positions += len(a)
    largest = torch.stack(maxima).max().item()  # a NaN stays one, which Python's max would lose
    return LogitDifference(largest, total / n_logits, kl / positions, n_same / positions, positions)


def _kl(a: torch.Tensor, b: torch.Tensor) -> float:
    """KL(softmax a || softmax b), summed over positions; in float64, as float32 shows 1e-8 where it is 0."""
    log_p, log_q = a.double().log_softmax(-1), b.double().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum())


class Tolerance(NamedTuple):
    """How far logits may be apart that differ by rounding alone."""

    max: float
    mean: float


def logit_tolerance(
    reference: Sequence[torch.Tensor], config: PretrainedConfig, *dtypes: torch.dtype
) -> Tolerance:
    """What rounding to ``dtypes`` may change: of the merged weights, and of the reference's computation.

    The argument: a number rounded to a dtype is off by at most its unit u (2^-24 in float32, 2^-11 in
    float16, 2^-8 in bfloat16), and a sum of n_embd products in float32 by about sqrt(n_embd) * 2^-24. Such
    errors are independent, so over n_layer layers they add like steps of a random walk: relative to the
    standard deviation of the logits, sqrt(n_layer) * u on average. The largest of millions would be some six
    times the typical one if all were alike; on texts that a model does not know it was 31 times, so thirty
    are allowed, and the mean has room too. Measured on the course's models, on their own and on foreign
    texts: at most 0.44 of the tolerance for the mean and 0.28 of that for the largest.

    Args:
        reference: Logits (T, V) of each sequence.
        config: The model's, for its depth and width.
        dtypes: Of all that was rounded. A reference that was itself computed in 16 bits rounds some ten times
            a layer and needs more, so compare with one in float32.
    """
    # eps is the distance from 1 to the next number, and rounding is off by half of that
    single = torch.finfo(torch.float32).eps / 2
    units = [torch.finfo(dtype).eps / 2 for dtype in dtypes] + [math.sqrt(config.hidden_size) * single]
    deviation = torch.cat([logits.std(-1) for logits in reference]).mean().item()
    mean = math.sqrt(config.num_hidden_layers) * sum(units) * deviation
    return Tolerance(30 * mean, mean)


def verify_merge(
    adapted: Sequence[torch.Tensor],
    base: Sequence[torch.Tensor],
    merged: Sequence[torch.Tensor],
    tolerance: Tolerance,
) -> LogitDifference:
    """Checks that a merged model says what base and adapter said, and not what the base said.

    Args:
        adapted: ``logits_of`` some sequences, of the adapter beside its base.
        base: Of that base alone.
        merged: Of the merged model.
        tolerance: See ``logit_tolerance``.

    Returns:
        How far merged and adapted are apart.

    Raises:
        ValueError: merged is within the tolerance of the base, or not within it of adapted; or the adapter
            changes nothing.
    """
    # first the proof itself: an adapter that changes nothing would prove nothing
    if _is_within(compare_logits(base, adapted), tolerance):
        raise ValueError(
            "the adapter changes the base's logits no more than rounding does; give a trained one"
        )
    if _is_within(compare_logits(base, merged), tolerance):
        raise ValueError("the merged model has the logits of the base: the adapter was not added")
    found = compare_logits(adapted, merged)
    if not _is_within(found, tolerance):
        raise ValueError(
            f"the merged model's logits are {found.max_difference:.2g} from the adapter's at most and "
            f"{found.mean_difference:.2g} on average; allowed are {tolerance.max:.2g} and "
            f"{tolerance.mean:.2g} (same most likely token at {found.top1:.1%}); check alpha / r, and that "
            "the base is the adapter's own"
        )
    return found


def _is_within(found: LogitDifference, tolerance: Tolerance) -> bool:
    return found.max_difference <= tolerance.max and found.mean_difference <= tolerance.mean  # a NaN is not
