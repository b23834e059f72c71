"""Plots of the course: each function draws one kind of plot and returns its Axes.

Every function takes ``ax``, an Axes to draw into; without it, it makes a figure of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lmlab.viz import style
from lmlab.viz.style import BLUE, COLORS, GRAY, LINES, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HATCHES = ("", "///", "...", "xx", "\\\\")
_MAX_TICKS = 8  # up to this many values on a logarithmic axis get a tick each
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
        val: validation losses, at ``val_steps``, or at ``steps`` where these are not given.
        floor: the entropy of the data, which no model can beat.
        baseline: a loss to compare with, such as ln V or the loss before fine-tuning.
    """
    if val_steps is None:
        val_steps = steps
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
    """Validation loss minus the floor; the logarithmic axis leaves out a gap of zero or less."""
    style.axes(ax, "optimizer step", "loss minus floor (nats)", "validation above the floor")
    ax.plot(steps, gaps, "o--", color=ORANGE)
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
    log: bool = True,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Losses over epochs, one line per data set (name -> losses).

    Args:
        best: index of the best evaluation; a vertical line marks its epoch.
        floor: the entropy of the data.
        each_step: (epochs, losses) of the single optimizer steps, drawn as a thin line behind.
        steps_per_epoch: adds a second axis at the top, in optimizer steps.
        log: whether the loss axis is logarithmic, for training losses fall by factors.
    """
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
    if log:
        _log_loss_axis(ax)
    ax.legend()
    return ax


def _log_loss_axis(ax: Axes) -> None:
    """A logarithmic loss axis with plain numbers: 1, 2, 5, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())  # else "3 x 10^0" stands between them


def moving_mean(
    steps: Values, values: Values, ylabel: str, *, window: int = 8, title: str = "", ax: Axes | None = None
) -> Axes:
    """A noisy value over optimizer steps as a thin line, and its mean over the last ``window`` steps as a
    thick one.
    """
    ax = style.axes(ax, "optimizer step", ylabel, title)
    means = []
    for end in range(1, len(values) + 1):
        recent = values[max(0, end - window) : end]
        means.append(sum(recent) / len(recent))
    ax.plot(steps, values, "-", color=GRAY, linewidth=0.8, label="each step")
    ax.plot(steps, means, "--", color=BLUE, linewidth=2.2, label=f"mean of the last {window}")
    ax.legend()
    return ax


def learning_rate(steps: Values, rates: Values, *, title: str = "", ax: Axes | None = None) -> Axes:
    """The learning rate of each optimizer step."""
    ax = style.axes(ax, "optimizer step", "learning rate", title)
    ax.plot(steps, rates, "-", color=BLUE)
    ax.set_ylim(bottom=0)  # warmup begins there
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return ax


def accuracy_curve(
    steps: Values,
    accuracies: Mapping[str, Values],
    intervals: Mapping[str, Intervals] | None = None,
    *,
    chance: float = 0.25,
    xlabel: str = "checkpoint (optimizer step)",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Accuracy at each checkpoint with its interval, one line per series (name -> values), and chance level."""
    ax = style.axes(ax, xlabel, "accuracy", title)
    for name, values in accuracies.items():
        [line] = ax.plot(steps, values, label=name)
        if intervals is not None:
            low, high = zip(*intervals[name], strict=True)
            ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    style.horizontal_line(ax, chance, f"chance {chance:.0%}", ":")
    ax.set_ylim(0, 1.03)
    ax.legend()
    return ax


# --- hyperparameters -------------------------------------------------------------------------------


def sweep(
    values: Sequence,
    results: Sequence[float | None],
    xlabel: str,
    *,
    ylabel: str = LOSS,
    best: Callable = min,
    log: bool = True,
    joined: bool = True,
    chosen: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A result over each value of a hyperparameter, such as the loss over the learning rate; a star marks the
    best.

    Args:
        values: numbers, or names, which then stand side by side.
        results: one per value; None, nan or infinite (the run failed or diverged) is a cross at the bad edge.
        best: ``min`` or ``max``.
        log: whether the axis of numbers is logarithmic.
        joined: whether a line joins the results.
        chosen: the value of the recipe, marked by a vertical line.
    """
    ax = style.axes(ax, xlabel, ylabel, title)
    # a mean or a line through nan would hide that a run diverged
    finished, failed = [], []  # (x, result, value); x
    for x, result, value in zip(_x_positions(ax, values, log), results, values, strict=True):
        if result is None or not math.isfinite(result):
            failed.append(x)
        else:
            finished.append((x, result, value))
    if finished:
        finished.sort(key=lambda point: point[0])
        xs, ys, _ = zip(*finished, strict=True)
        ax.plot(xs, ys, "o-" if joined else "o", color=BLUE)
        x, y, value = best(finished, key=lambda point: point[1])
        label = f"best: {y:.4g} at " + (f"{value:.3g}" if isinstance(value, float) else str(value))
        ax.plot(x, y, "*", color=ORANGE, markersize=14, label=label)
    if failed:
        edge = 0.97 if best is min else 0.03  # of the height: such a result is worse than all others
        height = ax.get_xaxis_transform()
        ax.plot(
            failed, [edge] * len(failed), "kx", markersize=8, transform=height, label="failed or diverged"
        )
    if chosen is not None:
        style.vertical_line(ax, chosen, f"the recipe's: {chosen:g}")
    ax.legend()
    return ax


def _x_positions(ax: Axes, values: Sequence, log: bool) -> list[float]:
    """Where values stand on the x axis: numbers at themselves, names side by side."""
    # True and False are names here, though Python takes them for numbers
    if all(type(value) in (int, float) for value in values):
        ax.set_xscale("log" if log else "linear")
        if log and len(values) <= _MAX_TICKS:
            ax.set_xticks(values, [f"{value:g}" for value in values])
            ax.set_xticks([], minor=True)
        return list(values)
    # in the order in which they first occur
    names = list(dict.fromkeys(map(str, values)))
    ax.set_xticks(range(len(names)), names)
    return [names.index(str(value)) for value in values]


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


def length_histogram(
    lengths: Sequence[int], limits: Sequence[int] = (), *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Lengths in tokens, and a line at each max_length that says what fraction of the texts it truncates."""
    width = math.ceil((max(lengths) - min(lengths) + 1) / 40)  # whole, so that bins hold equally many lengths
    bins = [edge - 0.5 for edge in range(min(lengths), max(lengths) + width + 1, width)]
    ax = histogram(lengths, "length (tokens)", ylabel="texts", bins=bins, title=title, ax=ax)
    for limit, line in zip(limits, itertools.cycle(LINES), strict=False):
        truncated = sum(length > limit for length in lengths) / len(lengths)
        ax.axvline(limit, color=ORANGE, linestyle=line, label=f"{limit}: truncates {truncated:.1%}")
    if limits:
        ax.legend(title="max_length")
    return ax


def rank_frequency(series: Mapping[str, Sequence[int]], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Zipf's plot: the frequency of the word of each rank, both axes logarithmic.

    series: name -> word counts.
    """
    ax = style.axes(ax, "word rank", "fraction of all words", title)
    for name, counts in series.items():
        # from the most frequent word to the rarest
        frequencies = [count / sum(counts) for count in sorted(counts, reverse=True)]
        ax.plot(range(1, len(counts) + 1), frequencies, marker="", label=name)
    ax.set(xscale="log", yscale="log")
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
    ax: Axes | None = None,
) -> Axes:
    """Two bars per label, before and after training, with intervals (low, high) where they are known."""
    ax = style.axes(ax, "", ylabel, title)
    left = [i - 0.19 for i in range(len(labels))]
    right = [i + 0.19 for i in range(len(labels))]
    # side by side around the label's position
    look = {"width": 0.36, "edgecolor": "black"}
    _bars(ax, left, before, before_intervals, color=GRAY, hatch="///", label="before", **look)
    _bars(ax, right, after, after_intervals, color=BLUE, label="after", **look)
    ax.set_xticks(range(len(labels)), labels)
    ax.legend()
    return ax


def differences(
    labels: Sequence[str],
    values: Values,
    intervals: Intervals,
    *,
    xlabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A point per label with its interval (low, high), from top to bottom; filled where that excludes zero."""
    ax = style.axes(ax, xlabel, "", title, size=(7, 1.2 + 0.3 * len(labels)))
    for y, (value, (low, high)) in enumerate(zip(values, intervals, strict=True)):
        fill = BLUE if low > 0 or high < 0 else "white"
        errors = _error_lengths([value], [(low, high)])
        ax.errorbar(value, y, xerr=errors, fmt="o", color=BLUE, capsize=4, markerfacecolor=fill)
    ax.axvline(0, color="black", linestyle=":", linewidth=1.2)
    style.label_rows(ax, labels)
    return ax


def stacked_bars(
    labels: Sequence[str],
    parts: Mapping[str, Values],
    *,
    xlabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A horizontal bar per label, stacked from ``parts`` (name -> a value per label)."""
    ax = style.axes(ax, xlabel, "", title)
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


def _bars(ax: Axes, x: Values, values: Values, intervals: Intervals | None, **look) -> None:
    errors = None if intervals is None else _error_lengths(values, intervals)
    ax.bar(x, values, yerr=errors, capsize=4, alpha=0.75, **look)


def _error_lengths(values: Values, intervals: Intervals) -> list[list[float]]:
    """Lengths of the error bars, down and up, as matplotlib wants them; rounding may leave -1e-16."""
    down = [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)]
    up = [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)]
    return [down, up]
