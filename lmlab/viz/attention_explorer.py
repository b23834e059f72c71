"""A widget that shows what a token attends to: choose a layer, a head and a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmlab.data.token_view import visible
from lmlab.evaluation.attention import attention_weights
from lmlab.viz import display, style
from lmlab.viz.attention_plots import attention_map, tick_label
from lmlab.viz.style import BLUE
from lmlab.viz.widgets import box_figure, control_box, slider

if TYPE_CHECKING:
    import numpy as np
    from ipywidgets import VBox
    from matplotlib.figure import Figure
    from torch.nn import Module
    from transformers import PreTrainedTokenizerBase

_MAX_TOKENS = 64  # the labels of more cannot be read


def attention_explorer(
    model: Module,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    *,
    layer: int,
    head: int,
    token: int,
) -> VBox | None:
    """The attention weights of one head as a map, and those of one token as bars.

    Args:
        model: lmlab's GPT or a model of transformers.
        ids: the tokens of a text; of a long text the first ones are shown.
        layer, head, token: where the sliders stand at first; a token by its position.

    Returns:
        The box; in a batch run None, after drawing this token in this head.
    """
    # one forward pass for all: a moved slider costs a figure alone
    ids = ids[:_MAX_TOKENS]
    weights = attention_weights(model, ids)  # (n_layer, n_head, T, T)
    tokens = [tokenizer.decode([i]) for i in ids]
    # inches: a map, which is square, and bars beside it
    height = 2.2 + 0.13 * len(tokens)
    size = (height + 3.6, height)
    if not display.is_interactive():
        from matplotlib import pyplot

        _draw_head(pyplot.figure(figsize=size, layout="constrained"), weights, tokens, layer, head, token)
        return None

    def draw(layer: int, head: int, token: int) -> tuple[Figure, str]:
        """One head, with a token's row as bars."""
        figure = box_figure(*size)
        _draw_head(figure, weights, tokens, layer, head, token)
        return figure, ""

    n_layer, n_head, n_tokens, _ = weights.shape
    controls = {
        "layer": slider("layer", 0, n_layer - 1, layer),
        "head": slider("head", 0, n_head - 1, head),
        "token": slider("token", 0, n_tokens - 1, token),
    }
    return control_box(controls, draw)


def _draw_head(
    figure: Figure, weights: np.ndarray, tokens: Sequence[str], layer: int, head: int, token: int
) -> None:
    """One head's map with the token's row framed, and that row as bars."""
    width, height = figure.get_size_inches()
    left, right = figure.subplots(1, 2, width_ratios=(height, width - height))
    attention_map(weights[layer, head], tokens, row=token, title=f"Layer {layer}, head {head}", ax=left)
    row = weights[layer, head, token, : token + 1]  # causal: later tokens have weight 0
    # a dollar sign in a token is no formula
    title = f"Token {token}, {visible(tokens[token])}".replace("$", r"\$")
    style.axes(right, "attention weight", "", title)
    right.barh(range(token + 1), row, color=BLUE, alpha=0.75, edgecolor="black", linewidth=0.5)
    right.set_xlim(0, 1)
    style.label_rows(right, list(map(tick_label, tokens[: token + 1])), fontsize=8)
