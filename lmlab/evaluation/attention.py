"""Attention weights of a model."""

from collections.abc import Mapping, Sequence

import numpy as np

from lmlab.evaluation.scoring import evaluating
from lmlab.models.types import Module


def attention_weights(model: Module, tokens: Sequence[int]) -> np.ndarray:
    """The attention weights of a text, (n_layer, n_head, T, T): row t holds those of token t, which sum to one.

    model: lmlab's GPT or of transformers, with an adapter or without.
    """
    import torch

    ids = torch.tensor([list(tokens)], device=next(model.parameters()).device)  # (1, T)
    if hasattr(model, "attention_weights"):  # lmlab's
        return model.attention_weights(ids)[:, 0].float().cpu().numpy()
    before = model.config._attn_implementation
    # fused attention returns no weights, so this one pass computes them plainly ("eager")
    model.set_attn_implementation("eager")
    try:
        with evaluating(model):
            layers = model(ids, output_attentions=True, use_cache=False).attentions
    finally:
        model.set_attn_implementation(before)
    return torch.cat(layers).float().cpu().numpy()


def attention_by_part(weights: np.ndarray, parts: Mapping[str, range]) -> dict[str, dict[str, float]]:
    """part that attends -> part attended to -> mean attention weight, over layers, heads and tokens.

    weights: (..., T, T). parts: name -> the positions of its tokens, together all of them.
    """
    mean = weights.reshape(-1, *weights.shape[-2:]).mean(0)  # (T, T)
    by_part = {}
    for query, rows in parts.items():
        by_part[query] = {}
        for key, columns in parts.items():
            block = mean[rows.start : rows.stop, columns.start : columns.stop]
            # a token's weights are summed, then averaged over the tokens: the parts add up to one
            by_part[query][key] = float(block.sum(1).mean())
    return by_part
