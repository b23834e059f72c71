"""House style of the plots.

Axes are named with units, and series differ in line style, marker or hatch as well as in color, so that a
print in gray can still be read. The colors are those of Okabe and Ito (2008), which color-blind readers can
tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cycler import Cycler
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PINK, GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
# gray is for what stands behind or before the series that matter
COLORS = (BLUE, ORANGE, GREEN, PINK)
# as many as there are colors: the cycle takes them together
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")


def series_cycle() -> Cycler:
    """The look of the first, second, ... series, which ``Axes.plot`` takes in turn."""
    from matplotlib import cycler

    return cycler(color=COLORS, linestyle=LINES, marker=MARKERS, markersize=[4] * len(COLORS))


def axes(ax: Axes | None, xlabel: str, ylabel: str, title: str, size: tuple[float, float] = (7, 3.5)) -> Axes:
    """``ax``, or the Axes of a new figure (size in inches), in house style."""
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=size, layout="constrained")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.set_prop_cycle(series_cycle())
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)  # the grid lies behind bars and lines
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def label_rows(ax: Axes, labels: Sequence[str], fontsize: float | None = None) -> None:
    """Labels of horizontal bars, from top to bottom. A dollar sign in a label (a token) is no formula."""
    ax.set_yticks(range(len(labels)), labels, fontsize=fontsize, parse_math=False)
    ax.invert_yaxis()


def horizontal_line(ax: Axes, y: float, label: str, linestyle: str) -> None:
    """A black line at a value to compare with."""
    ax.axhline(y, color="black", linestyle=linestyle, linewidth=1.2, label=label)


def vertical_line(ax: Axes, x: float, label: str) -> None:
    """A black dotted line at a step or value of interest."""
    ax.axvline(x, color="black", linestyle=":", linewidth=1.2, label=label)
