"""Attention weights of a model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmlab.evaluation.scoring import evaluating

if TYPE_CHECKING:
    from torch.nn import Module


def attention_weights(model: "Module", tokens: Sequence[int]) -> np.ndarray:
    """What each token looks at, (n_layer, n_head, T, T): row t are the shares of token t's attention.

    model: lmlab's GPT or of transformers, with an adapter or without. Fused attention keeps its shares to
    itself, so they are computed plainly ("eager") for this one pass.
    """
    import torch

    ids = torch.tensor([list(tokens)], device=next(model.parameters()).device)  # (1, T)
    if hasattr(model, "attention_weights"):  # lmlab's
        return model.attention_weights(ids)[:, 0].float().cpu().numpy()
    config, set_implementation = model.config, model.set_attn_implementation
    before = config._attn_implementation
    set_implementation("eager")
    try:
        with evaluating(model):
            layers = model(ids, output_attentions=True, use_cache=False).attentions
    finally:
        set_implementation(before)
    return torch.cat(layers).float().cpu().numpy()


def attention_by_part(weights: np.ndarray, parts: Mapping[str, range]) -> dict[str, dict[str, float]]:
    """part that looks -> part looked at -> mean share of attention, over layers, heads and tokens.

    weights: (..., T, T). parts: name -> the positions of its tokens, together all of them.
    """
    mean = weights.reshape(-1, *weights.shape[-2:]).mean(0)  # (T, T)
    return {
        looks: {
            seen: float(mean[rows.start : rows.stop, columns.start : columns.stop].sum(1).mean())
            for seen, columns in parts.items()
        }
        for looks, rows in parts.items()
    }
