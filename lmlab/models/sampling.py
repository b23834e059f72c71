"""From logits to the next token: temperature, top-k and top-p, as in transformers."""

import torch
from torch import Tensor
from torch.nn import functional as F


def top_k_top_p_filter(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Keeps the ``top_k`` most likely tokens, of these the fewest with probability ``top_p``; the rest -inf.

    logits: (..., V). None: no limit. Source: top-p is nucleus sampling, Holtzman et al. 2020.
    """
    if top_k is not None:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p is not None:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        # of the tokens before each: the one that passes top_p is still kept, so at least one always is
        mass_before = probabilities.cumsum(-1) - probabilities
        beyond = mass_before >= top_p
        # back from the sorted order to that of the vocabulary
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return logits


def distribution(
    logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The probabilities (..., V) from which the next token is sampled; tokens that are cut have 0."""
    # the limit of ever lower temperatures, which cannot be divided by
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
