"""Attention weights of a model."""

from collections.abc import Sequence

import numpy as np

from lmlab.evaluation.scoring import evaluating
from lmlab.models.types import Module


def attention_weights(model: Module, tokens: Sequence[int]) -> np.ndarray:
    """The attention weights of a text, (n_layer, n_head, T, T): row t holds token t's, which sum to one.

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
