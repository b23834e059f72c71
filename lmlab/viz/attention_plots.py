"""Attention weights as a heatmap: one head over one text."""

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


def heatmap(ax: Axes, weights: ArrayLike) -> None:
    """Attention weights (rows, columns) from 0, white, to 1, black, with a color bar."""
    from matplotlib.colors import PowerNorm

    # the shade grows with the square root of the weight, so that small weights can be seen, too
    image = ax.imshow(weights, cmap="Greys", norm=PowerNorm(0.5, 0, 1))
    ax.figure.colorbar(image, ax=ax, label="attention weight", shrink=0.7)


def tick_label(token: str) -> str:
    """A token as a label."""
    # matplotlib's font lacks the wide bar of some special tokens
    return token.strip(" ").replace("\n", "\\n").replace("｜", "|")
