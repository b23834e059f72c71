"""Plots of the course: each function draws one kind of plot and returns its Axes.

Functions that take ``ax`` draw into that Axes; the others, and these without it, make a figure of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lmlab.viz import style
from lmlab.viz.style import BLUE, COLORS, GRAY, LINES, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HATCHES = ("", "///", "...", "xx", "\\\\")
LOSS = "loss (nats per token)"
Values = Sequence[float]
Intervals = Sequence[tuple[float, float]]  # (low, high) of each value


# --- training curves -------------------------------------------------------------------------------


def loss_curve(
    steps: Values,
    train: Values,
    val: Values | None = None,
    floor: float | None = None,
    *,
    val_steps: Values | None = None,
    baseline: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Training loss, validation loss and the entropy floor over optimizer steps, in nats per token.

    Without ``ax``, a floor and several values of ``val`` get a second panel: the validation loss minus the
    floor on a logarithmic axis, for on the linear one the two soon touch.

    Args:
        steps: optimizer steps of ``train``.
        val: validation losses, at ``val_steps``.
        floor: the entropy of the data, which no model can beat.
        baseline: a loss to compare with, such as ln V or the loss before fine-tuning.
    """
    # one point above the floor is no curve
    if ax is None and floor is not None and val is not None and len(val) > 1:
        from matplotlib import pyplot

        _, (ax, panel) = pyplot.subplots(1, 2, figsize=(9.5, 3.5), width_ratios=(5, 3), layout="constrained")
        _loss_above_floor(panel, val_steps, [loss - floor for loss in val])
    ax = style.axes(ax, "optimizer step", LOSS, title)
    ax.plot(steps, train, "-", color=BLUE, linewidth=1, label="train")
    if val is not None:
        ax.plot(val_steps, val, "o--", color=ORANGE, label="validation")
    if baseline is not None:
        style.horizontal_line(ax, baseline, f"baseline {baseline:.2f}", "-.")
    if floor is not None:
        style.horizontal_line(ax, floor, f"entropy floor {floor:.2f}", ":")
    ax.legend()
    return ax


def _loss_above_floor(ax: Axes, steps: Values, gaps: Values) -> None:
    """Validation loss minus the floor, on a logarithmic axis."""
    style.axes(ax, "optimizer step", "loss minus floor (nats)", "validation above the floor")
    ax.plot(steps, gaps, "o--", color=ORANGE)
    # a validation sample may lie below the floor by chance: such a gap has no logarithm and is left out
    ax.set_yscale("log", nonpositive="mask")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.grid(which="minor", axis="y", alpha=0.15)
    last = (steps[-1], gaps[-1])
    ax.annotate(f"{gaps[-1]:.3f}", last, xytext=(0, 8), textcoords="offset points", ha="right")


def fine_tuning_curve(
    epochs: Values,
    losses: Mapping[str, Values],
    best: int | None = None,
    *,
    floor: float | None = None,
    each_step: tuple[Values, Values] | None = None,
    steps_per_epoch: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Losses over epochs, one line per data set (name -> losses).

    Args:
        best: index of the best evaluation; a vertical line marks its epoch.
        floor: the entropy of the data.
        each_step: (epochs, losses) of the single optimizer steps, drawn as a thin line behind.
        steps_per_epoch: adds a second axis at the top, in optimizer steps.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    ax = style.axes(ax, "epoch", LOSS, title)
    if each_step is not None:
        ax.plot(*each_step, "-", color=GRAY, linewidth=0.7, alpha=0.7, label="each step's batch")
        ax.set_prop_cycle(style.series_cycle())  # the sets below begin with its first style
    for name, values in losses.items():
        ax.plot(epochs, values, label=name)
    if best is not None:
        style.vertical_line(ax, epochs[best], f"best: epoch {epochs[best]:.3g}")
    if floor is not None:
        style.horizontal_line(ax, floor, f"entropy floor {floor:.2f}", "--")
    if steps_per_epoch is not None:
        # matplotlib asks for the way back, too
        to_steps_and_back = (lambda epoch: epoch * steps_per_epoch, lambda step: step / steps_per_epoch)
        ax.secondary_xaxis("top", functions=to_steps_and_back).set_xlabel("optimizer step")
    # training losses fall by factors, so the axis is logarithmic, with plain numbers: 1, 2, 5, ...
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())  # else "3 x 10^0" stands between them
    ax.legend()
    return ax


# --- hyperparameters -------------------------------------------------------------------------------


def sweep(
    values: Values, losses: Values, xlabel: str, *, chosen: float | None = None, title: str = ""
) -> Axes:
    """The loss over each value of a hyperparameter, such as the learning rate; a star marks the best.

    Args:
        values: positive numbers, drawn on a logarithmic axis.
        losses: one per value; nan or infinite (the run diverged) is a cross at the upper edge.
        chosen: the value of the recipe, marked by a vertical line.
    """
    ax = style.axes(None, xlabel, LOSS, title)
    # a line through nan would hide that a run diverged
    finished = sorted((x, y) for x, y in zip(values, losses, strict=True) if math.isfinite(y))
    diverged = [x for x, y in zip(values, losses, strict=True) if not math.isfinite(y)]
    if finished:
        ax.plot(*zip(*finished, strict=True), "o-", color=BLUE)
        x, y = min(finished, key=lambda point: point[1])
        ax.plot(x, y, "*", color=ORANGE, markersize=14, label=f"best: {y:.4g} at {x:.3g}")
    if diverged:
        # at 0.97 of the height: worse than all others, whatever the loss axis ends at
        height = [0.97] * len(diverged)
        ax.plot(diverged, height, "kx", markersize=8, transform=ax.get_xaxis_transform(), label="diverged")
    if chosen is not None:
        style.vertical_line(ax, chosen, f"the recipe's: {chosen:g}")
    ax.set_xscale("log")
    # a tick at each value, not at powers of ten
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.set_xticks([], minor=True)
    ax.legend()
    return ax


# --- distributions ---------------------------------------------------------------------------------


def histogram(
    values: Values | Mapping[str, Values],
    xlabel: str,
    *,
    ylabel: str = "count",
    bins: int | Values = 40,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """How often each value occurs; of several series (name -> values) the outlines, over the same bins."""
    import numpy as np

    ax = style.axes(ax, xlabel, ylabel, title)
    ax.yaxis.get_major_locator().set_params(integer=True)
    if not isinstance(values, Mapping):
        ax.hist(values, bins=bins, color=BLUE, edgecolor="white", linewidth=0.3)
        return ax
    # the same bins for all, or their heights could not be compared
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)
    for (name, some), color, line in zip(values.items(), COLORS, LINES, strict=False):
        ax.hist(some, edges, histtype="step", color=color, linestyle=line, linewidth=1.5, label=name)
    ax.legend()
    return ax


# --- bars and intervals ----------------------------------------------------------------------------


def bar_with_interval(
    labels: Sequence[str],
    values: Values,
    intervals: Intervals | None = None,
    *,
    ylabel: str,
    chance: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A bar per label with its interval, and a line at chance level."""
    ax = style.axes(ax, "", ylabel, title)
    _bars(ax, range(len(labels)), values, intervals, width=0.6, color=BLUE)
    ax.set_xticks(range(len(labels)), labels)
    if chance is not None:
        style.horizontal_line(ax, chance, f"chance {chance:g}", ":")
        ax.legend()
    return ax


def before_after(
    labels: Sequence[str],
    before: Values,
    after: Values,
    *,
    ylabel: str,
    before_intervals: Intervals | None = None,
    after_intervals: Intervals | None = None,
    title: str = "",
) -> Axes:
    """Two bars per label, before and after training, with intervals (low, high) where they are known."""
    ax = style.axes(None, "", ylabel, title)
    # side by side around the label's position
    left = [i - 0.19 for i in range(len(labels))]
    right = [i + 0.19 for i in range(len(labels))]
    look = {"width": 0.36, "edgecolor": "black"}
    _bars(ax, left, before, before_intervals, color=GRAY, hatch="///", label="before", **look)
    _bars(ax, right, after, after_intervals, color=BLUE, label="after", **look)
    ax.set_xticks(range(len(labels)), labels)
    ax.legend()
    return ax


def _bars(ax: Axes, x: Values, values: Values, intervals: Intervals | None, **look) -> None:
    errors = None if intervals is None else _error_lengths(values, intervals)
    ax.bar(x, values, yerr=errors, capsize=4, alpha=0.75, **look)


def _error_lengths(values: Values, intervals: Intervals) -> list[list[float]]:
    """Lengths of the error bars, down and up, as matplotlib wants them."""
    # rounding may leave -1e-16, which matplotlib refuses
    down = [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)]
    up = [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)]
    return [down, up]


def differences(
    labels: Sequence[str], values: Values, intervals: Intervals, *, xlabel: str, title: str = ""
) -> Axes:
    """A point per label with its interval (low, high), from top to bottom, and a line at zero."""
    ax = style.axes(None, xlabel, "", title, size=(7, 1.2 + 0.3 * len(labels)))
    errors = _error_lengths(values, intervals)
    ax.errorbar(values, range(len(labels)), xerr=errors, fmt="o", color=BLUE, capsize=4)
    # an interval that crosses this line contains zero: no difference was shown
    ax.axvline(0, color="black", linestyle=":", linewidth=1.2)
    style.label_rows(ax, labels)
    return ax


def stacked_bars(labels: Sequence[str], parts: Mapping[str, Values], *, xlabel: str, title: str = "") -> Axes:
    """A horizontal bar per label, stacked from ``parts`` (name -> a value per label)."""
    ax = style.axes(None, xlabel, "", title)
    left = [0.0] * len(labels)
    for (name, values), color, hatch in zip(parts.items(), (*COLORS, GRAY), _HATCHES, strict=False):
        look = {"color": color, "hatch": hatch, "alpha": 0.75, "edgecolor": "black", "height": 0.6}
        ax.barh(range(len(labels)), values, left=left, label=name, **look)
        left = [start + value for start, value in zip(left, values, strict=True)]
    style.label_rows(ax, labels)
    ax.grid(axis="y", visible=False)
    # below the plot: inside it would cover bars
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(parts))
    return ax
