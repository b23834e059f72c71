"""A widget that shows what a token attends to: choose a layer, a head and a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmlab.data.token_view import visible
from lmlab.evaluation.attention import attention_weights
from lmlab.models.sources import context_length
from lmlab.viz import display, style
from lmlab.viz.attention_plots import attention_map, tick_label
from lmlab.viz.style import BLUE
from lmlab.viz.widgets import box_figure, control_box, encode, slider, text_field

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lmlab.models.gpt import GPT

_MAX_TOKENS = 64  # the labels of more cannot be read


def attention_explorer(
    model: GPT | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    *,
    layer: int = 0,
    head: int = 0,
    token: int | None = None,
) -> VBox | None:
    """The attention weights of one head as a map, and those of one token as bars.

    Args:
        model: lmlab's GPT or a model of transformers.
        ids: the tokens of a text, which can be edited in the box; of a long text the first tokens are shown.
        token: a position; the last one without it.

    Returns:
        The box; in a batch run None, after drawing this token in this head.

    Raises:
        ValueError: no tokens, or a layer, head or token that does not exist.
    """
    if not len(ids):
        raise ValueError("ids got no token; give a text's tokens")
    # shapes are known only after a forward pass
    attention = TextAttention(model, tokenizer, ids)
    weights, tokens = attention.of(attention.text)
    if token is None:
        token = len(tokens) - 1
    for name, got, n in zip(("layer", "head", "token"), (layer, head, token), weights.shape, strict=False):
        if not 0 <= got < n:
            raise ValueError(f"{name} got {got}; give 0 to {n - 1}")
    if display.is_interactive():
        return _explorer_box(attention, layer, head, token)

    from matplotlib import pyplot

    _draw_head(
        weights, tokens, layer, head, token, pyplot.figure(figsize=_size(tokens), layout="constrained")
    )
    return None


class TextAttention:
    """Attention weights of the latest text; they are kept, so that a moved slider costs no forward pass."""

    def __init__(self, model: GPT | PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]):
        self._model, self._tokenizer = model, tokenizer
        self._max_tokens = min(_MAX_TOKENS, context_length(model))
        self.text = tokenizer.decode(list(ids[: self._max_tokens]))
        self._latest = self._compute(ids)  # of these ids, for encoding their text might give others

    def of(self, text: str) -> tuple[np.ndarray, list[str]]:
        """Weights (n_layer, n_head, T, T) and the T tokens of a text, of a long one those of its beginning."""
        if text != self.text:
            self._latest = self._compute(encode(self._tokenizer, text))
            self.text = text
        return self._latest

    def _compute(self, ids: Sequence[int]) -> tuple[np.ndarray, list[str]]:
        ids = list(ids[: self._max_tokens])
        return attention_weights(self._model, ids), [self._tokenizer.decode([token]) for token in ids]


def _explorer_box(attention: TextAttention, layer: int, head: int, token: int) -> VBox:
    weights, tokens = attention.of(attention.text)
    n_layer, n_head = weights.shape[:2]
    controls = {
        "text": text_field("text", attention.text),
        "layer": slider("layer", 0, n_layer - 1, layer),
        "head": slider("head", 0, n_head - 1, head),
        "token": slider("token", 0, len(tokens) - 1, token),
    }

    def draw(text: str, layer: int, head: int, token: int) -> tuple[Figure, str]:
        """One head, with a token's row as bars."""
        is_new = text != attention.text
        weights, tokens = attention.of(text)
        if is_new:  # begin with its last token; this moves the slider, which draws, too
            token = len(tokens) - 1
            controls["token"].max = controls["token"].value = token
        figure = box_figure(*_size(tokens))
        _draw_head(weights, tokens, layer, head, token, figure)
        return figure, ""

    return control_box(controls, draw)


def _size(tokens: Sequence[str]) -> tuple[float, float]:
    """Width and height in inches: a map, which is square, and bars beside it."""
    side = 2.2 + 0.13 * len(tokens)
    return side + 3.6, side


def _draw_head(
    weights: np.ndarray, tokens: Sequence[str], layer: int, head: int, token: int, figure: Figure
) -> None:
    """One head's map with the token's row framed, and that row as bars."""
    # the map is as wide as it is high
    width, height = figure.get_size_inches()
    left, right = figure.subplots(1, 2, width_ratios=(height, width - height))
    attention_map(weights[layer, head], tokens, row=token, title=f"Layer {layer}, head {head}", ax=left)
    row = weights[layer, head, token, : token + 1]  # causal: later tokens have weight 0
    style.axes(right, "attention weight", "", _title(token, tokens))
    right.barh(range(token + 1), row, color=BLUE, alpha=0.75, edgecolor="black", linewidth=0.5)
    right.set_xlim(0, 1)
    right.margins(y=0.01)
    style.label_rows(right, list(map(tick_label, tokens[: token + 1])), fontsize=8)


def _title(token: int, tokens: Sequence[str]) -> str:
    return f"Token {token}, {visible(tokens[token])}".replace("$", r"\$")  # no formula
