"""Proof of a merge: logits of the merged model against the adapted one, within the rounding of its dtype."""

import math
from collections.abc import Sequence
from typing import NamedTuple

ROWS = 8192  # of a matrix that are read at a time


class LogitDifference(NamedTuple):
    """How near two models are on the same tokens."""

    max_difference: float  # largest absolute difference of any logit
    mean_difference: float  # mean absolute difference over all logits
    kl: float  # KL(reference || candidate), nats per position
    top1: float  # share of positions at which both find the same token likeliest
    positions: int


def logits_of(model, sequences: Sequence[Sequence[int]]) -> list:
    """Float32 logits (T, V) on the CPU for each sequence of token ids, in eval mode, one by one: no padding."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = [
            model(torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu() for ids in sequences
        ]
    model.train(was_training)
    return logits


def compare_logits(reference: Sequence, candidate: Sequence) -> LogitDifference:
    """The agreement of two lists of logits (T, V), as ``logits_of`` gives them for the same sequences."""
    pairs = list(zip(reference, candidate, strict=True))
    if not pairs:
        raise ValueError("compare_logits got no sequences; give at least one")
    for a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(
                f"compare_logits got logits of shapes {tuple(a.shape)} and {tuple(b.shape)}; "
                "both models must read the same sequences with the same vocabulary"
            )
    positions = sum(len(a) for a, _ in pairs)
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs)
    total = sum(float((a - b).abs().sum(dtype=a.double().dtype)) for a, b in pairs)
    return LogitDifference(
        max(float((a - b).abs().max()) for a, b in pairs),
        total / sum(a.numel() for a, _ in pairs),
        sum(_kl(a, b) for a, b in pairs) / positions,
        same / positions,
        positions,
    )


def _kl(a, b) -> float:
    """KL(softmax a || softmax b), summed over positions; in float64, since float32 shows 1e-8 where it is 0."""
    a, b = (logits.double().log_softmax(-1) for logits in (a, b))
    return float((a.exp() * (a - b)).sum())


class Tolerance(NamedTuple):
    """How far logits may be apart that differ by rounding alone."""

    max: float
    mean: float


def logit_tolerance(reference: Sequence, config, *dtypes) -> Tolerance:
    """What rounding to ``dtypes`` may change: of the merged weights, and of the reference's computation.

    config: the model's, for its depth and width. The argument: a number rounded to a dtype is off by at most
    its unit u (2^-24 in float32, 2^-11 in float16, 2^-8 in bfloat16), and a sum of n_embd products in float32
    by about sqrt(n_embd) * 2^-24. Such errors know nothing of each other, so over n_layer layers they add like
    steps of a random walk: relative to the spread of the logits, sqrt(n_layer) * u on average. The largest of
    millions would be some six times the typical one if all were alike; on texts that a model does not know it was
    31 times, so thirty are allowed, and the mean has room too.
    Measured on the course's models, on their own and on foreign texts: at most 0.44 of the bound for the mean
    and 0.28 of that for the largest. dtypes: of all that was rounded; a reference that was itself computed in 16
    bits rounds some ten times a layer and needs more, so compare with one in float32.
    """
    import torch

    single = torch.finfo(torch.float32).eps / 2
    units = [torch.finfo(dtype).eps / 2 for dtype in dtypes] + [math.sqrt(config.hidden_size) * single]
    spread = torch.cat([logits.std(-1) for logits in reference]).mean().item()
    mean = math.sqrt(config.num_hidden_layers) * sum(units) * spread
    return Tolerance(30 * mean, mean)


def verify_merge(adapted: Sequence, base: Sequence, merged: Sequence, bound: Tolerance) -> LogitDifference:
    """Checks that a merged model says what base and adapter said and not what the base said; how near it is.

    All three: ``logits_of`` the same sequences, of the adapter beside its base, of that base alone, of the
    merged model. Raises ValueError when merged is within ``bound`` of the base, or not within it of adapted.
    """
    if _within(compare_logits(base, adapted), bound):
        raise ValueError(
            "the adapter got the base to change its logits by no more than rounding does "
            f"({bound.max:.2g}); give one that was trained, and a base that it fits"
        )
    if _within(compare_logits(base, merged), bound):
        raise ValueError(
            "the merged model got the logits of the base: the adapter was not added; merge again, "
            "and check that the adapter's names are those of the base's tensors"
        )
    agreement = compare_logits(adapted, merged)
    if not _within(agreement, bound):
        raise ValueError(
            f"the merged model's logits got as far as {agreement.max_difference:.2g} from the adapter's, on "
            f"average {agreement.mean_difference:.2g}; allowed are {bound.max:.2g} and {bound.mean:.2g} (same "
            f"likeliest token at {agreement.top1:.1%}); check alpha / r, and that the base is the adapter's own"
        )
    return agreement


def _within(agreement: LogitDifference, bound: Tolerance) -> bool:
    return agreement.max_difference <= bound.max and agreement.mean_difference <= bound.mean  # a NaN is not
