"""A widget that shows HellaSwag items with the scores of their endings."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmlab.evaluation.hellaswag import HellaSwagScores
from lmlab.viz import display
from lmlab.viz.widgets import control_box, slider

if TYPE_CHECKING:
    from ipywidgets import VBox

CONVENTIONS = ("sum", "token", "char")  # of lesson 03
FILTERS = ("incorrect", "correct", "conventions differ", "all")


def filter_items(scores: HellaSwagScores, which: str) -> np.ndarray:
    """Indices of the items of one kind (``FILTERS``), from the most surely wrong to the most surely right."""
    correct = scores.correct()
    chosen = np.array([scores.chosen(convention) for convention in CONVENTIONS])  # (3, N)
    kinds = {
        "incorrect": ~correct,
        "correct": correct,
        "conventions differ": (chosen != chosen[0]).any(axis=0),
        "all": np.ones_like(correct),
    }
    # stable, so that equal margins keep the order of the items
    order = scores.margins().argsort(kind="stable")
    return order[kinds[which][order]]


def item_text(rows: Sequence[Mapping], scores: HellaSwagScores, i: int) -> str:
    """Item ``i`` of the ``rows`` of ``scores``; a triangle marks the ending that a convention picks."""
    verdict = "correct" if scores.correct()[i] else "incorrect"
    lines = [f"item {i}: {verdict} by token, margin {scores.margins()[i]:+.2f} nats"]
    lines += textwrap.wrap(f"{rows[i]['ctx']} ...", 60)
    for j, ending in enumerate(rows[i]["endings"]):
        lines.append(f"  {'✓' if j == scores.labels[i] else ' '} {ending}")
        cells = [f"{scores.n_tokens[i, j]} tokens"]
        for convention in CONVENTIONS:
            mark = "▶" if scores.chosen(convention)[i] == j else ""
            cells.append(f"{convention} {mark}{scores.scores(convention)[i, j]:.2f}")
        lines.append(f"      {', '.join(cells)}")
    return "\n".join(lines)


def hellaswag_browser(rows: Sequence[Mapping], scores: HellaSwagScores) -> VBox | None:
    """Items with their endings' scores, filtered by the verdict, the most surely wrong first.

    Args:
        rows: the items.
        scores: their scores, from ``score_hellaswag``.

    Returns:
        The box; in a batch run None, after printing a few items: the most surely wrong, the closest, the most
        surely right and one on which the conventions differ.
    """
    if not display.is_interactive():
        order, closest = filter_items(scores, "all"), np.abs(scores.margins()).argmin()
        some = [order[0], closest, order[-1], *filter_items(scores, "conventions differ")[:1]]
        # some of these may be the same item
        for i in dict.fromkeys(map(int, some)):
            print(item_text(rows, scores, i), end="\n\n")
        return None

    def draw(which: str, rank: int) -> tuple[None, str]:
        """The item at a rank, counted from 1, among those of one kind."""
        found = filter_items(scores, which)
        # a slider cannot have no positions
        controls["rank"].max = max(1, len(found))
        if not len(found):
            return None, "<p>There is no such item.</p>"
        rank = min(rank, len(found))
        counted = f"{rank} of {len(found)}, {len(found) / len(rows):.1%} of all"
        text = html.escape(item_text(rows, scores, int(found[rank - 1])))
        return None, f'<p>{counted}</p><div style="white-space:pre-wrap;max-width:60em">{text}</div>'

    import ipywidgets

    controls = {
        "which": ipywidgets.Dropdown(options=FILTERS, value="all", description="show"),
        "rank": slider("item", 1, len(rows), 1),
    }
    return control_box(controls, draw)
