"""Attention weights as heatmaps: one head over one text, or all heads side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmlab.viz import style
from lmlab.viz.style import BLUE, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def attention_map(
    weights: ArrayLike,
    tokens: Sequence[str],
    *,
    ax: Axes,
    title: str,
    edges: Sequence[int] = (),
    row: int | None = None,
) -> Axes:
    """The attention weights of one head over one text.

    Args:
        weights: (T, T); row t holds the weights with which token t attends to each token.
        tokens: the T tokens as text.
        edges: positions at which a part of the text begins; dashed lines mark them.
        row: position of a token whose row gets a frame.
    """
    style.axes(ax, "token attended to (key)", "token that attends (query)", title)
    heatmap(ax, weights)
    # a dollar sign in a token is no formula
    size = 9 if len(tokens) <= 24 else 7
    look = {"labels": list(map(tick_label, tokens)), "fontsize": size, "parse_math": False}
    ax.set_xticks(range(len(tokens)), rotation=90, **look)
    ax.set_yticks(range(len(tokens)), **look)
    for edge in edges:
        ax.axvline(edge - 0.5, color=BLUE, linestyle="--", linewidth=0.8)
        ax.axhline(edge - 0.5, color=BLUE, linestyle="--", linewidth=0.8)
    # a frame, not a color: shades are the weights
    if row is not None:
        ax.axhspan(row - 0.5, row + 0.5, fill=False, edgecolor=ORANGE, linewidth=1.5)
    return ax


def attention_grid(weights: ArrayLike, *, title: str) -> Axes:
    """The attention weights of every head over one text, a small map each.

    weights: (n_layer, n_head, T, T).
    """
    import numpy as np

    n_layer, n_head, T, _ = weights.shape
    gap = max(1, T // 16)
    side = T + gap
    # one large image: a head's map is followed by a gap of NaN, which is drawn as a frame
    tiles = np.pad(weights, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(n_layer * side, n_head * side)[:-gap, :-gap]
    ax = style.axes(None, "head", "layer", title, size=(7, 0.7 + 5.5 * n_layer / n_head))
    heatmap(ax, tiles)
    ax.grid(visible=False)
    ax.set_xticks([head * side + T / 2 for head in range(n_head)], range(n_head))
    ax.set_yticks([layer * side + T / 2 for layer in range(n_layer)], range(n_layer))
    ax.tick_params(length=0)
    return ax


def heatmap(ax: Axes, weights: ArrayLike) -> None:
    """Attention weights (rows, columns) from 0, white, to 1, black, with a color bar; NaN is light blue."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    shades = colormaps["Greys"].with_extremes(bad="#cfe3f1")
    # the shade grows with the square root of the weight, so that small weights can be seen, too
    image = ax.imshow(weights, cmap=shades, norm=PowerNorm(0.5, 0, 1))
    ax.figure.colorbar(image, ax=ax, label="attention weight", shrink=0.7)


def tick_label(token: str) -> str:
    """A token as a label."""
    # matplotlib's font lacks the wide bar of some special tokens
    return token.strip(" ").replace("\n", "\\n").replace("｜", "|")
