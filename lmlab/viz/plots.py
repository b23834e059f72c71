"""Every plot of the course: each function draws one kind and returns its Axes.

House style: axes named with units, and series told apart by line style, marker or hatch, so that a print in
grey still reads. Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart too.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
_COLOURS = (BLUE, ORANGE, GREEN, PINK, GREY)
_HATCHES = ("", "///", "...", "xx", "\\\\")
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_LABELLED = 8  # so many values on a logarithmic axis are labelled one by one
Interval = tuple[float, float]


def loss_curve(
    steps: Sequence[float],
    train: Sequence[float],
    val: Sequence[float] | None = None,
    floor: float | None = None,
    *,
    val_steps: Sequence[float] | None = None,
    baseline: float | None = None,
    title: str = "",
    unit: str = "nats per token",
    ax=None,
):
    """Training loss, validation loss and the entropy floor over optimizer steps.

    val belongs to ``val_steps``, or to ``steps`` where those are not given. baseline: a loss to compare with,
    such as ln V or the loss before fine-tuning. Without ``ax``, a floor and several values of val get a second
    panel: how far val is above the floor, on a logarithmic axis; on the linear one the two soon touch.
    """
    val_steps = steps if val_steps is None else val_steps
    if ax is None and floor is not None and val is not None and len(val) > 1:
        ax, panel = _two_panels()
        _above_floor(panel, val_steps, [loss - floor for loss in val])
    ax = _axes(ax, "optimizer step", f"loss ({unit})", title)
    ax.plot(steps, train, color=BLUE, linewidth=1, label="train")
    if val is not None:
        ax.plot(val_steps, val, color=ORANGE, marker="o", markersize=4, linestyle="--", label="validation")
    if baseline is not None:
        _level(ax, baseline, f"baseline {baseline:.2f}", "-.")
    if floor is not None:
        _level(ax, floor, f"entropy floor {floor:.2f}", ":")
    ax.legend()
    return ax


def _above_floor(ax, steps: Sequence[float], gaps: Sequence[float]) -> None:
    """Validation loss minus the floor; a gap of zero or less has no place on the logarithmic axis."""
    _axes(ax, "optimizer step", "loss minus floor", "validation above the floor")
    ax.plot(steps, gaps, color=ORANGE, marker="o", markersize=4, linestyle="--")
    ax.set_yscale("log", nonpositive="mask")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.grid(which="minor", axis="y", alpha=0.15)
    ax.annotate(
        f"{gaps[-1]:.3f}", (steps[-1], gaps[-1]), xytext=(0, 8), textcoords="offset points", ha="right"
    )


def moving_mean(
    steps: Sequence[float], values: Sequence[float], ylabel: str, *, window: int = 8, title: str = "", ax=None
):
    """A noisy value over optimizer steps, thin, and its mean over the last ``window`` steps, thick."""
    ax = _axes(ax, "optimizer step", ylabel, title)
    recent = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    ax.plot(steps, values, color=GREY, linewidth=0.8, label="each step")
    ax.plot(
        steps,
        [sum(part) / len(part) for part in recent],
        color=BLUE,
        linewidth=2.2,
        linestyle="--",
        label=f"mean of the last {window}",
    )
    ax.legend()
    return ax


def fine_tuning_curve(
    epochs: Sequence[float],
    losses: Mapping[str, Sequence[float]],
    best: int | None = None,
    *,
    floor: float | None = None,
    each_step: tuple[Sequence[float], Sequence[float]] | None = None,
    steps_per_epoch: float | None = None,
    log: bool = True,
    title: str = "",
    ax=None,
):
    """Losses over epochs, a line per set (name -> losses), the floor, an upright line at measurement ``best``.

    log: the axis of losses is logarithmic, for training losses fall by factors. each_step: (epochs, losses) of the
    single optimizer steps, as a thin line behind. steps_per_epoch: gives a second axis, in steps, at the top.
    """
    ax = _axes(ax, "epoch", "loss (nats per token)", title)
    if each_step is not None:
        ax.plot(*each_step, color=GREY, linewidth=0.7, alpha=0.7, label="each step's batch")
    for i, (name, values) in enumerate(losses.items()):
        ax.plot(
            epochs,
            values,
            color=_COLOURS[i],
            linestyle=_LINES[i],
            marker=_MARKERS[i],
            markersize=4,
            label=name,
        )
    if best is not None:
        ax.axvline(
            epochs[best], color="black", linestyle=":", linewidth=1.2, label=f"best: epoch {epochs[best]:.3g}"
        )
    if floor is not None:
        _level(ax, floor, f"entropy floor {floor:.2f}", "--")
    if steps_per_epoch is not None:
        top = ax.secondary_xaxis(
            "top", functions=(lambda epoch: epoch * steps_per_epoch, lambda step: step / steps_per_epoch)
        )
        top.set_xlabel("optimizer step")
    if log:
        _log_losses(ax)
    ax.legend()
    return ax


def _log_losses(ax) -> None:
    """A logarithmic loss axis with plain numbers: 1, 2, 5, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def learning_rate(steps: Sequence[float], rates: Sequence[float], *, title: str = "", ax=None):
    """The learning rate of each step."""
    ax = _axes(ax, "optimizer step", "learning rate", title)
    ax.plot(steps, rates, color=BLUE)
    ax.set_ylim(bottom=0)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return ax


def sweep(
    values: Sequence,
    results: Sequence[float | None],
    xlabel: str,
    *,
    ylabel: str = "loss (nats per token)",
    best: Callable = min,
    log: bool = True,
    joined: bool = True,
    chosen: float | None = None,
    title: str = "",
    ax=None,
):
    """A result over each value of a choice, as the loss over the learning rate, with the best one marked.

    best: min or max. A result that is None, nan or infinite (the run failed or diverged) is a cross at the
    edge where bad results are. values that are no numbers stand side by side. joined: draw a line through.
    chosen: the value that the recipe takes, as an upright line.
    """
    ax = _axes(ax, xlabel, ylabel, title)
    places = _places(ax, values, log)
    good = sorted((x, y) for x, y in zip(places, results, strict=True) if y is not None and math.isfinite(y))
    lost = [x for x, y in zip(places, results, strict=True) if y is None or not math.isfinite(y)]
    if good:
        ax.plot(*zip(*good, strict=True), color=BLUE, marker="o", linestyle="-" if joined else "")
        x, y = best(good, key=lambda point: point[1])
        name = values[places.index(x)]
        ax.plot(
            x,
            y,
            color=ORANGE,
            marker="*",
            markersize=14,
            linestyle="",
            label=f"best: {y:.4g} at {f'{name:.3g}' if isinstance(name, float) else name}",
        )
    if lost:
        ax.plot(
            lost,
            [0.97 if best is min else 0.03] * len(lost),
            color="black",
            marker="x",
            markersize=8,
            linestyle="",
            transform=ax.get_xaxis_transform(),
            label="failed or diverged",
        )
    if chosen is not None:
        ax.axvline(chosen, color="black", linestyle=":", linewidth=1.2, label=f"the recipe's: {chosen:g}")
    ax.legend()
    return ax


def _places(ax, values: Sequence, log: bool) -> list[float]:
    """Where values stand on the x axis: themselves, or their place among the different ones."""
    if all(type(value) in (int, float) for value in values):
        ax.set_xscale("log" if log else "linear")
        if log and len(values) <= _LABELLED:
            ax.set_xticks(values, [f"{value:g}" for value in values])
            ax.set_xticks([], minor=True)
        return list(values)
    names = list(dict.fromkeys(map(str, values)))
    ax.set_xticks(range(len(names)), names)
    return [names.index(str(value)) for value in values]


def search_history(
    trials: Sequence[int],
    results: Sequence[float],
    pruned: Sequence[bool],
    *,
    ylabel: str = "loss (nats per token)",
    best: Callable = min,
    title: str = "",
    ax=None,
):
    """The result of each trial of a search, the last one of those that were pruned, and the best so far."""
    ax = _axes(ax, "trial", ylabel, title)
    ended = [(x, y) for x, y, early in zip(trials, results, pruned, strict=True) if not early]
    early = [(x, y) for x, y, early in zip(trials, results, pruned, strict=True) if early]
    ax.plot(*zip(*ended, strict=True), color=BLUE, marker="o", markersize=5, linestyle="", label="finished")
    if early:
        ax.plot(*zip(*early, strict=True), color=GREY, marker="x", linestyle="", label="pruned")
    ax.step(
        [x for x, _ in ended],
        list(itertools.accumulate((y for _, y in ended), best)),
        where="post",
        color=ORANGE,
        linestyle="--",
        label="best so far",
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def histogram(
    values: Sequence[float],
    xlabel: str,
    *,
    ylabel: str = "count",
    bins: int | Sequence[float] = 40,
    title: str = "",
    ax=None,
):
    """How often each value comes."""
    ax = _axes(ax, xlabel, ylabel, title)
    ax.hist(values, bins=bins, color=BLUE, edgecolor="white", linewidth=0.3)
    return ax


def histograms(
    series: Mapping[str, Sequence[float]],
    xlabel: str,
    *,
    ylabel: str = "count",
    bins: int = 60,
    title: str = "",
    ax=None,
):
    """How often each value comes in several series (name -> values), as outlines over the same bins."""
    import numpy

    ax = _axes(ax, xlabel, ylabel, title)
    edges = numpy.histogram_bin_edges(numpy.concatenate([numpy.asarray(v) for v in series.values()]), bins)
    for i, (name, values) in enumerate(series.items()):
        ax.hist(
            values,
            bins=edges,
            histtype="step",
            color=_COLOURS[i],
            linestyle=_LINES[i],
            linewidth=1.5,
            label=name,
        )
    ax.legend()
    return ax


def length_histogram(lengths: Sequence[int], limits: Sequence[int] = (), *, title: str = "", ax=None):
    """Token lengths, with a line at each max_length that says what share of the texts it would cut."""
    width = -(-(max(lengths) - min(lengths) + 1) // 40)  # whole, so that every bin holds as many lengths
    bins = [edge - 0.5 for edge in range(min(lengths), max(lengths) + width + 1, width)]
    ax = histogram(lengths, "length (tokens)", ylabel="texts", bins=bins, title=title, ax=ax)
    for i, limit in enumerate(limits):
        cut = sum(length > limit for length in lengths) / len(lengths)
        ax.axvline(limit, color=ORANGE, linestyle=_LINES[i % 4], label=f"{limit}: cuts {cut:.1%}")
    if limits:
        ax.legend(title="max_length")
    return ax


def bar_with_interval(
    labels: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[Interval] | None = None,
    *,
    ylabel: str,
    chance: float | None = None,
    title: str = "",
    ax=None,
):
    """A bar per label with its interval (low, high), and a line at what chance would give."""
    ax = _axes(ax, "", ylabel, title)
    ax.bar(
        range(len(values)),
        values,
        width=0.6,
        color=BLUE,
        alpha=0.75,
        yerr=None if intervals is None else _errors(values, intervals),
        capsize=5,
    )
    ax.set_xticks(range(len(labels)), labels)
    if chance is not None:
        _level(ax, chance, f"chance {chance:g}", ":")
        ax.legend()
    return ax


def before_after(
    labels: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    *,
    ylabel: str,
    before_intervals: Sequence[Interval] | None = None,
    after_intervals: Sequence[Interval] | None = None,
    title: str = "",
    ax=None,
):
    """Two bars per label, with intervals where they are known."""
    ax = _axes(ax, "", ylabel, title)
    for side, (name, values, intervals) in enumerate(
        (("before", before, before_intervals), ("after", after, after_intervals))
    ):
        positions = [i + (side - 0.5) * 0.38 for i in range(len(labels))]
        errors = None if intervals is None else _errors(values, intervals)
        ax.bar(
            positions,
            values,
            width=0.36,
            color=(GREY, BLUE)[side],
            alpha=0.75,
            edgecolor="black",
            hatch=("///", "")[side],
            label=name,
            yerr=errors,
            capsize=4,
        )
    ax.set_xticks(range(len(labels)), labels)
    ax.legend()
    return ax


def differences(
    labels: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[Interval],
    *,
    xlabel: str,
    title: str = "",
    ax=None,
):
    """A point per label with its interval (low, high), from top to bottom, and a line at zero.

    A point is filled where its interval excludes zero.
    """
    ax = _axes(ax, xlabel, "", title, size=(7, 1.2 + 0.3 * len(labels)))
    for y, (value, interval) in enumerate(zip(values, intervals, strict=True)):
        low, high = interval
        ax.errorbar(
            value,
            y,
            xerr=_errors([value], [interval]),
            fmt="o",
            color=BLUE,
            capsize=4,
            markerfacecolor=BLUE if low > 0 or high < 0 else "white",
        )
    ax.axvline(0, color="black", linestyle=":", linewidth=1.2)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    return ax


def stacked_bars(
    labels: Sequence[str], parts: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "", ax=None
):
    """A lying bar per label, made of ``parts`` (name -> a value per label)."""
    ax = _axes(ax, xlabel, "", title)
    left = [0.0] * len(labels)
    for i, (name, values) in enumerate(parts.items()):
        ax.barh(
            range(len(labels)),
            values,
            left=left,
            color=_COLOURS[i],
            alpha=0.75,
            edgecolor="black",
            hatch=_HATCHES[i],
            label=name,
            height=0.6,
        )
        left = [start + value for start, value in zip(left, values, strict=True)]
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(parts))
    return ax


def accuracy_curve(
    steps: Sequence[float],
    accuracies: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[Interval]] | None = None,
    *,
    chance: float = 0.25,
    xlabel: str = "checkpoint (optimizer step)",
    title: str = "",
    ax=None,
):
    """Accuracy at each checkpoint, a line per series (name -> values), against chance."""
    ax = _axes(ax, xlabel, "accuracy", title)
    for i, (name, values) in enumerate(accuracies.items()):
        ax.plot(steps, values, color=_COLOURS[i], linestyle=_LINES[i], marker=_MARKERS[i], label=name)
        if intervals is not None:
            low, high = zip(*intervals[name], strict=True)
            ax.fill_between(steps, low, high, color=_COLOURS[i], alpha=0.15, linewidth=0)
    _level(ax, chance, f"chance {chance:.0%}", ":")
    ax.set_ylim(0, 1.03)
    ax.legend()
    return ax


def rank_frequency(series: Mapping[str, Sequence[int]], *, title: str = "", ax=None):
    """Zipf's plot: the share of the word of each rank, both axes logarithmic. series: name -> word counts."""
    ax = _axes(ax, "rank of the word", "share of all words", title)
    for i, (name, counts) in enumerate(series.items()):
        shares = [count / sum(counts) for count in sorted(counts, reverse=True)]
        ax.plot(range(1, len(shares) + 1), shares, color=_COLOURS[i % 5], linestyle=_LINES[i % 4], label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.legend()
    return ax


def attention_map(
    weights,
    tokens: Sequence[str],
    *,
    edges: Sequence[int] = (),
    row: int | None = None,
    title: str = "",
    ax=None,
):
    """One head's attention over one text: row t is what token t looks at. weights: (T, T); tokens: their T texts.

    Ink grows with the root of the share, so that small shares can be seen, too. edges: tokens before which a
    part of the text begins, marked by lines. row: a token that looks, marked by a frame.
    """
    side = 2 + 0.12 * len(tokens)  # inches: room for a label per token
    ax = _axes(ax, "token looked at", "token that looks", title, size=(side + 0.7, side))
    _shares(ax, weights)
    labels = [_in_font(token) for token in tokens]
    style = {"fontsize": 7, "parse_math": False}  # a dollar is a dollar
    ax.set_xticks(range(len(labels)), labels, rotation=90, **style)
    ax.set_yticks(range(len(labels)), labels, **style)
    for edge in edges:
        ax.axvline(edge - 0.5, color=BLUE, linestyle="--", linewidth=0.8)
        ax.axhline(edge - 0.5, color=BLUE, linestyle="--", linewidth=0.8)
    if row is not None:
        ax.axhspan(row - 0.5, row + 0.5, fill=False, edgecolor=ORANGE, linewidth=1.5)
    return ax


def attention_row(shares, tokens: Sequence[str], *, title: str = "", ax=None):
    """What one token looks at: a bar per token up to itself. shares: (t + 1,); tokens: their t + 1 texts."""
    ax = _axes(ax, "attention (share)", "", title, size=(4, 1 + 0.18 * len(tokens)))
    ax.barh(range(len(tokens)), shares, color=BLUE, alpha=0.75, edgecolor="black", linewidth=0.5)
    ax.set_yticks(range(len(tokens)), map(_in_font, tokens), fontsize=8, parse_math=False)
    ax.set_xlim(0, 1)
    ax.margins(y=0.01)
    ax.invert_yaxis()
    return ax


def attention_heads(weights, tokens: Sequence[str], *, title: str = "", ax=None):
    """What one token looks at, in every head: a row each. weights: (n_layer, n_head, T); tokens: their T texts."""
    n_layer, n_head, T = weights.shape
    ax = _axes(ax, "token looked at", "layer.head", title, size=(3 + 0.16 * T, 1.6 + 0.17 * n_layer * n_head))
    _shares(ax, weights.reshape(n_layer * n_head, T))
    ax.set_aspect("auto")
    ax.set_xticks(range(T), map(_in_font, tokens), rotation=90, fontsize=8, parse_math=False)
    ax.set_yticks(
        range(n_layer * n_head), [f"{i}.{h}" for i in range(n_layer) for h in range(n_head)], fontsize=8
    )
    for layer in range(1, n_layer):
        ax.axhline(layer * n_head - 0.5, color=BLUE, linestyle="--", linewidth=0.8)
    return ax


def _in_font(token: str) -> str:
    """A token as a label; the font of plots lacks the wide bar of some special tokens."""
    return token.strip(" ").replace("\n", "\\n").replace("｜", "|")


def png_bytes(figure, dpi: int) -> bytes:
    """A Figure as a PNG file, for what shows pictures by itself."""
    from io import BytesIO

    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def next_tokens(
    tokens: Sequence[str], before: Sequence[float], after: Sequence[float], *, title: str = "", ax=None
):
    """Probabilities of next tokens as the model gives them, and as they are drawn from: 0 there means cut.

    A cut token has an empty, dashed bar and the word "cut", so that it is told apart without colour.
    """
    ax = _axes(ax, "probability", "", title, size=(6, 0.8 + 0.3 * len(tokens)))
    places = range(len(tokens))
    ax.barh(
        [y - 0.2 for y in places],
        before,
        height=0.38,
        label="the model's",
        color=["white" if p == 0 else "#bbbbbb" for p in after],
        edgecolor=GREY,
        hatch="///",
        linestyle="--",
    )
    ax.barh(
        [y + 0.2 for y in places],
        after,
        height=0.38,
        label="drawn from",
        color=BLUE,
        edgecolor="black",
        linewidth=0.5,
    )
    for y, (was, now) in enumerate(zip(before, after, strict=True)):
        place = (was, y - 0.2) if now == 0 else (now, y + 0.2)
        ax.annotate(
            "cut" if now == 0 else f"{now:.0%}" if now >= 0.005 else "<1%",
            place,
            xytext=(3, 0),
            va="center",
            fontsize=7,
            textcoords="offset points",
        )
    ax.set_yticks(places, [token.replace("｜", "|") for token in tokens], fontsize=8, parse_math=False)
    ax.set_xlim(0, min(1.1, 1.15 * max(*before, *after)))
    ax.invert_yaxis()
    ax.legend(loc="lower right", fontsize=8)
    return ax


def attention_grid(weights, *, title: str = "", ax=None):
    """Every head's attention over one text, a small map each. weights: (n_layer, n_head, T, T)."""
    import numpy

    n_layer, n_head, T, _ = weights.shape
    gap = max(1, T // 16)
    side = T + gap
    tiles = numpy.pad(weights, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=numpy.nan)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(n_layer * side, n_head * side)[:-gap, :-gap]
    ax = _axes(ax, "head", "layer", title, size=(7, 0.7 + 5.5 * n_layer / n_head))
    _shares(ax, tiles)
    ax.grid(visible=False)
    ax.set_xticks([h * side + T / 2 for h in range(n_head)], range(n_head))
    ax.set_yticks([layer * side + T / 2 for layer in range(n_layer)], range(n_layer))
    ax.tick_params(length=0)
    return ax


def _shares(ax, weights) -> None:
    """Shares from 0 to 1 as ink from white to black, with the scale; NaN is a blue frame."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    image = ax.imshow(
        weights, cmap=colormaps["Greys"].with_extremes(bad="#cfe3f1"), norm=PowerNorm(0.5, 0, 1)
    )
    ax.figure.colorbar(image, ax=ax, label="attention (share of the row)", shrink=0.7)


def _axes(ax, xlabel: str, ylabel: str, title: str, size: tuple[float, float] = (7, 3.5)):
    """``ax``, or an Axes of a new figure (size in inches), in house style."""
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=size, layout="constrained")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _two_panels():
    """The Axes of a large panel and of a small one beside it."""
    from matplotlib import pyplot

    _, axes = pyplot.subplots(1, 2, figsize=(9.5, 3.5), width_ratios=(5, 3), layout="constrained")
    return axes


def _level(ax, value: float, label: str, linestyle: str) -> None:
    ax.axhline(value, color="black", linestyle=linestyle, linewidth=1.2, label=label)


def _errors(values: Sequence[float], intervals: Sequence[Interval]) -> list[list[float]]:
    """Matplotlib wants the lengths of the whiskers, down and up; rounding may leave -1e-16 at a share of 1."""
    return [
        [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)],
    ]
