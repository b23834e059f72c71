"""A widget that shows HellaSwag items with the scores of their endings."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lmlab.evaluation.hellaswag import HellaSwagScores, hellaswag_context
from lmlab.viz import display
from lmlab.viz.widgets import control_box, dropdown, slider

if TYPE_CHECKING:
    from ipywidgets import VBox

CONVENTIONS = ("sum", "token", "char")  # of lesson 03
FILTERS = ("incorrect", "correct", "conventions differ", "all")
_HEADER = ("", "ending", "tokens", "sum (nats)", "per token", "per character", "picked by")


def filter_items(scores: HellaSwagScores, which: str, convention: str = "token") -> np.ndarray:
    """Indices of the items of one kind (``FILTERS``), from the most surely wrong to the most surely right."""
    correct = scores.correct(convention)
    chosen = np.array([scores.chosen(each) for each in CONVENTIONS])  # (3, N)
    kinds = {
        "incorrect": ~correct,
        "correct": correct,
        "conventions differ": (chosen != chosen[0]).any(axis=0),
        "all": np.ones_like(correct),
    }
    if which not in kinds:
        raise ValueError(f"which got {which!r}; give one of {', '.join(kinds)}")
    # stable, so that equal margins keep the order of the items
    order = scores.margins(convention).argsort(kind="stable")
    return order[kinds[which][order]]


@dataclass(frozen=True, repr=False)
class ItemView:
    """A HellaSwag item: its context, and a row per ending with its scores and the conventions that pick it."""

    title: str
    context: str
    rows: tuple[tuple[str, ...], ...]  # cells under _HEADER

    def __repr__(self) -> str:
        lines = [self.title, f"{self.context} ..."]
        for row in self.rows:
            cells = [f"{name} {cell}" for name, cell in zip(_HEADER[2:], row[2:], strict=True) if cell]
            lines += [f"{row[0]:>9} {row[1]}", f"{'':>9} {', '.join(cells)}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        title, context = html.escape(self.title), html.escape(self.context)
        table = display.html_table(_HEADER, self.rows)
        return f'<p style="max-width:60em"><b>{title}</b><br>{context} ...</p>{table}'


@dataclass(frozen=True, repr=False)
class ItemViews:
    """Several items, one below the other."""

    views: tuple[ItemView, ...]

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.views))

    def _repr_html_(self) -> str:
        return "".join(view._repr_html_() for view in self.views)


def item_view(
    rows: Sequence[Mapping], scores: HellaSwagScores, i: int, convention: str = "token"
) -> ItemView:
    """Item ``i`` of the ``rows`` that ``scores`` belong to."""
    item_scores = {name: scores.scores(name)[i] for name in CONVENTIONS}  # (4,) each
    table = []
    for j, ending in enumerate(rows[i]["endings"]):
        cells = ["✓ correct" if j == scores.labels[i] else "", ending, str(int(scores.n_tokens[i, j]))]
        # argmax takes the first of several equals, as HellaSwagScores does
        picked_by = [name for name in CONVENTIONS if item_scores[name].argmax() == j]
        for name in CONVENTIONS:
            mark = "▶ " if name in picked_by else ""
            cells.append(f"{mark}{item_scores[name][j]:.2f}")
        table.append((*cells, ", ".join(picked_by)))
    verdict = "correct" if scores.correct(convention)[i] else "incorrect"
    title = f"item {i}: {verdict} by {convention}, margin {scores.margins(convention)[i]:+.2f} nats"
    return ItemView(title, hellaswag_context(rows[i]), tuple(table))


def hellaswag_browser(rows: Sequence[Mapping], scores: HellaSwagScores) -> VBox | ItemViews:
    """Items with their endings' scores, filtered by the verdict, the most surely wrong first.

    Args:
        rows: the items.
        scores: their scores, from ``score_hellaswag``.

    Returns:
        The box; in a batch run a few items: the most surely wrong, the closest, the most surely right and one
        on which the conventions differ.

    Raises:
        ValueError: rows and scores are not of the same items.
    """
    if len(rows) != len(scores.labels):
        raise ValueError(
            f"got {len(rows)} rows and scores of {len(scores.labels)}; give the rows that were scored"
        )
    if not display.is_interactive():
        order, closest = filter_items(scores, "all"), np.abs(scores.margins()).argmin()
        some = [order[0], closest, order[-1], *filter_items(scores, "conventions differ")[:1]]
        distinct = dict.fromkeys(map(int, some))  # some of these may be the same item
        return ItemViews(tuple(item_view(rows, scores, i) for i in distinct))

    controls = {
        "convention": dropdown("convention", CONVENTIONS, "token"),
        "which": dropdown("show", FILTERS, "all"),
        "rank": slider("item", 1, len(rows), 1),
    }

    def draw(convention: str, which: str, rank: int) -> tuple[None, str]:
        """The item at a rank, counted from 1, among those of one kind."""
        found = filter_items(scores, which, convention)
        # a slider cannot have no positions
        controls["rank"].max = max(1, len(found))
        if not len(found):
            return None, "<p>There is no such item.</p>"
        rank = min(rank, len(found))
        view = item_view(rows, scores, int(found[rank - 1]), convention)
        counted = f"{rank} of {len(found)}, {len(found) / len(rows):.1%} of all"
        return None, f"<p>{counted}</p>{view._repr_html_()}"

    return control_box(controls, draw)
