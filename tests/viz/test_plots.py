"""Plots name their axes, take an Axes, and tell series apart without color."""

import matplotlib
import numpy
import pytest

from lmlab.viz import attention_plots, plots

matplotlib.use("Agg")


def attention(*shape: int) -> numpy.ndarray:
    """Causal attention weights, all equal: (..., T, T)."""
    lower = numpy.tril(numpy.ones(shape if len(shape) > 1 else shape * 2))
    return lower / lower.sum(axis=-1, keepdims=True)


DRAWN = {
    "loss_curve": lambda ax=None: plots.loss_curve(
        [1, 2, 3], [3, 2, 1], [2, 1.5], floor=0.9, val_steps=[1, 3], baseline=3, ax=ax
    ),
    "fine_tuning_curve": lambda ax=None: plots.fine_tuning_curve(
        [0, 1, 2],
        {"train": [3, 2, 1], "validation": [3, 2, 2.5]},
        1,
        each_step=([0.1, 0.2], [3, 2.9]),
        steps_per_epoch=30,
        ax=ax,
    ),
    "moving_mean": lambda ax=None: plots.moving_mean([1, 2, 3], [0, 3, 6], "reward", window=2, ax=ax),
    "learning_rate": lambda ax=None: plots.learning_rate([1, 2], [0.0, 1e-3], ax=ax),
    "histogram": lambda ax=None: plots.histogram([1, 2, 2], "words", ax=ax),
    "histograms": lambda ax=None: plots.histogram({"a": [1, 2, 2], "b": [2, 3]}, "error", ax=ax),
    "differences": lambda ax=None: plots.differences(
        ["a", "b"], [0.1, -0.2], [(-0.1, 0.3), (-0.3, -0.1)], xlabel="loss (nats)", ax=ax
    ),
    "length_histogram": lambda ax=None: plots.length_histogram([5, 9, 9, 30], [8, 16], ax=ax),
    "bar_with_interval": lambda ax=None: plots.bar_with_interval(
        ["a"], [0.3], [(0.2, 0.4)], ylabel="accuracy", chance=0.25, ax=ax
    ),
    "before_after": lambda ax=None: plots.before_after(
        ["a", "b"], [1, 2], [2, 3], ylabel="loss (nats)", after_intervals=[(1, 3), (2, 4)], ax=ax
    ),
    "stacked_bars": lambda ax=None: plots.stacked_bars(
        ["a", "b"], {"x": [1, 2], "y": [2, 1]}, xlabel="fraction", ax=ax
    ),
    "accuracy_curve": lambda ax=None: plots.accuracy_curve(
        [0, 9],
        {"sum": [0.2, 0.5], "token": [0.3, 0.4]},
        {"sum": [(0.1, 0.3), (0.4, 0.6)], "token": [(0.2, 0.4), (0.3, 0.5)]},
        ax=ax,
    ),
    "attention_map": lambda ax=None: attention_plots.attention_map(attention(3), ["a", "b", "c"], ax=ax),
    "attention_grid": lambda ax=None: attention_plots.attention_grid(attention(2, 3, 4, 4), ax=ax),
    "sweep": lambda ax=None: plots.sweep(
        [1e-4, 1e-3], [2.0, float("nan")], "learning rate", chosen=1e-3, ax=ax
    ),
    "rank_frequency": lambda ax=None: plots.rank_frequency({"a": [5, 3, 1], "b": [2, 2]}, ax=ax),
}


@pytest.fixture(autouse=True)
def close():
    yield
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("name", DRAWN)
def test_axes_are_named_and_given_ones_are_used(name):
    ax = DRAWN[name]()
    categories = [str(label.get_text()) for label in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    assert ax.get_xlabel() or "a" in categories
    assert ax.get_ylabel() or "a" in categories
    _, given = matplotlib.pyplot.subplots()
    assert DRAWN[name](given) is given


@pytest.mark.parametrize("name", ["loss_curve", "accuracy_curve", "rank_frequency", "sweep"])
def test_lines_differ_without_color(name):
    styles = [(line.get_linestyle(), line.get_marker()) for line in DRAWN[name]().get_lines()]
    assert len(set(styles)) == len(styles)


def test_bars_differ_without_color():
    for name in ("before_after", "stacked_bars"):
        assert len({bar.get_hatch() for bar in DRAWN[name]().patches}) == 2


def test_legend_of_lengths_says_what_is_truncated():
    labels = [text.get_text() for text in DRAWN["length_histogram"]().get_legend().get_texts()]
    assert labels == ["8: truncates 75.0%", "16: truncates 25.0%"]


def test_whiskers_reach_the_interval():
    ax = DRAWN["bar_with_interval"]()
    whisker = ax.collections[0].get_segments()[0]
    assert whisker[:, 1].tolist() == pytest.approx([0.2, 0.4])


def test_panel_above_the_floor_is_drawn_only_where_it_says_something():
    main, panel = DRAWN["loss_curve"]().figure.axes
    assert panel.get_yscale() == "log" and panel.get_xlabel() and panel.get_ylabel()
    assert panel.get_lines()[0].get_ydata() == pytest.approx([1.1, 0.6])
    assert len(plots.loss_curve([1, 2], [3, 2], [2], floor=0.9, val_steps=[2]).figure.axes) == 1
    assert len(plots.loss_curve([1, 2], [3, 2], [2, 1]).figure.axes) == 1


def test_panel_bears_a_loss_below_the_floor():
    ax = plots.loss_curve([1, 2], [3, 2], [2, 0.8], floor=0.9)
    ax.figure.canvas.draw()


def test_a_sweep_marks_the_best_and_what_diverged():
    ax = plots.sweep([1e-2, 1e-4, 1e-3, 3e-2], [None, 2.0, 1.5, float("inf")], "learning rate")
    line, star, crosses = ax.get_lines()
    assert ax.get_xscale() == "log"
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1e-4, 1e-3], [2.0, 1.5])
    assert (star.get_xdata()[0], star.get_label()) == (1e-3, "best: 1.5 at 0.001")
    assert list(crosses.get_xdata()) == [1e-2, 3e-2] and min(crosses.get_ydata()) > 0.9
    ax.figure.canvas.draw()


def test_a_sweep_over_names_and_for_the_highest():
    ax = plots.sweep(["linear", "cosine", "linear"], [1.0, 3.0, 2.0], "schedule", best=max, joined=False)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["linear", "cosine"]
    assert ax.get_lines()[1].get_label() == "best: 3 at cosine"
    plots.sweep([1, 2], [None, None], "all failed")


def test_attention_map_names_every_token_as_it_is():
    tokens = ["$x", " a$", "\n"]
    ax = attention_plots.attention_map(attention(3), tokens)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["$x", "a$", "\\n"]
    ax.figure.canvas.draw()  # a pair of dollars is no formula


def test_attention_grid_puts_each_head_in_its_place():
    weights = attention(2, 3, 4, 4) * numpy.arange(1, 7).reshape(2, 3, 1, 1) / 6
    ax = attention_plots.attention_grid(weights)
    image = ax.images[0].get_array()
    assert image.shape == (2 * 5 - 1, 3 * 5 - 1)
    assert image[5:9, 10:14].tolist() == weights[1, 2].tolist()
    assert numpy.ma.getmaskarray(image)[4].all() and numpy.ma.getmaskarray(image)[:, 9].all()  # frames
    assert [len(ax.get_xticks()), len(ax.get_yticks())] == [3, 2]


def test_attention_grid_of_gpt2_small_stays_small():
    width, height = attention_plots.attention_grid(attention(12, 12, 8, 8)).figure.get_size_inches()
    assert width <= 8 and height <= 8


def test_a_difference_is_filled_where_its_interval_excludes_zero():
    ax = plots.differences(
        ["chance", "worse", "better"],
        [0.1, 0.2, -0.2],
        [(-0.1, 0.3), (0.1, 0.3), (-0.3, -0.1)],
        xlabel="loss (nats)",
    )
    points = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [(p.get_xdata()[0], p.get_markerfacecolor() != "white") for p in points] == [
        (0.1, False),
        (0.2, True),
        (-0.2, True),
    ]


def test_moving_mean_looks_back_only():
    each, mean = plots.moving_mean([1, 2, 3, 4], [0, 4, 8, 0], "reward", window=2).get_lines()
    assert list(each.get_ydata()) == [0, 4, 8, 0] and list(mean.get_ydata()) == [0, 2, 6, 4]
