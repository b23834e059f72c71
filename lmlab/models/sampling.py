"""From logits to the next token: temperature, top-k, top-p and repetition penalty, as in transformers."""

import torch
from torch import Tensor
from torch.nn import functional as F


def apply_repetition_penalty(logits: Tensor, idx: Tensor, penalty: float) -> Tensor:
    """Makes tokens that are already in ``idx`` (B, T) less likely. Source: Keskar et al. 2019.

    Args:
        logits: (B, V).
        idx: (B, T), the tokens so far.
        penalty: 1.0 changes nothing; larger ones divide positive logits and multiply negative ones.
    """
    if penalty == 1.0:
        return logits
    seen = logits.gather(1, idx)
    return logits.scatter(1, idx, torch.where(seen < 0, seen * penalty, seen / penalty))


def top_k_top_p_filter(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Sets to -inf all but the ``top_k`` most likely tokens, then all but the smallest set with mass
    ``top_p``.

    logits: (..., V). None: no limit. Source: top-p is nucleus sampling, Holtzman et al. 2020.
    """
    if top_k is not None:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p is not None:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        mass_before = probabilities.cumsum(-1) - probabilities
        beyond = mass_before >= top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return logits


def distribution(
    logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The probabilities (..., V) from which the next token is sampled; tokens that are cut have 0."""
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    return top_k_top_p_filter(logits / temperature, top_k, top_p).softmax(-1)


def sample(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token for each row of logits (B, V): (B,). Temperature 0 is greedy."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(distribution(logits, temperature, top_k, top_p), 1, generator=generator)[:, 0]
