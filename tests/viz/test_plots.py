"""Plots name their axes, take an Axes, and tell series apart without color."""

import inspect

import matplotlib
import matplotlib.pyplot
import numpy
import pytest

from lmlab.viz import attention_plots, plots

matplotlib.use("Agg")


def attention(*shape: int) -> numpy.ndarray:
    """Causal attention weights, all equal: (..., T, T)."""
    lower = numpy.tril(numpy.ones(shape if len(shape) > 1 else shape * 2))
    return lower / lower.sum(axis=-1, keepdims=True)


def new_axes():
    _, ax = matplotlib.pyplot.subplots()
    return ax


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
    "histogram": lambda ax=None: plots.histogram([1, 2, 2], "words", ax=ax),
    "histograms": lambda ax=None: plots.histogram({"a": [1, 2, 2], "b": [2, 3]}, "error", ax=ax),
    "differences": lambda: plots.differences(
        ["a", "b"], [0.1, -0.2], [(-0.1, 0.3), (-0.3, -0.1)], xlabel="loss (nats)"
    ),
    "bar_with_interval": lambda ax=None: plots.bar_with_interval(
        ["a"], [0.3], [(0.2, 0.4)], ylabel="accuracy", chance=0.25, ax=ax
    ),
    "before_after": lambda: plots.before_after(
        ["a", "b"], [1, 2], [2, 3], ylabel="loss (nats)", after_intervals=[(1, 3), (2, 4)]
    ),
    "stacked_bars": lambda: plots.stacked_bars(["a", "b"], {"x": [1, 2], "y": [2, 1]}, xlabel="fraction"),
    "attention_map": lambda ax=None: attention_plots.attention_map(
        attention(3), ["a", "b", "c"], ax=ax or new_axes(), title="a head"
    ),
    "sweep": lambda: plots.sweep([1e-4, 1e-3], [2.0, float("nan")], "learning rate", chosen=1e-3),
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
    if inspect.signature(DRAWN[name]).parameters:
        given = new_axes()
        assert DRAWN[name](given) is given


@pytest.mark.parametrize("name", ["loss_curve", "sweep"])
def test_lines_differ_without_color(name):
    styles = [(line.get_linestyle(), line.get_marker()) for line in DRAWN[name]().get_lines()]
    assert len(set(styles)) == len(styles)


def test_bars_differ_without_color():
    for name in ("before_after", "stacked_bars"):
        assert len({bar.get_hatch() for bar in DRAWN[name]().patches}) == 2


def test_whiskers_reach_the_interval():
    ax = DRAWN["bar_with_interval"]()
    whisker = ax.collections[0].get_segments()[0]
    assert whisker[:, 1].tolist() == pytest.approx([0.2, 0.4])


def test_panel_above_the_floor_is_drawn_only_where_it_says_something():
    main, panel = DRAWN["loss_curve"]().figure.axes
    assert panel.get_yscale() == "log" and panel.get_xlabel() and panel.get_ylabel()
    assert panel.get_lines()[0].get_ydata() == pytest.approx([1.1, 0.6])
    assert len(plots.loss_curve([1, 2], [3, 2], [2], floor=0.9, val_steps=[2]).figure.axes) == 1
    assert len(plots.loss_curve([1, 2], [3, 2], [2, 1], val_steps=[1, 2]).figure.axes) == 1


def test_panel_bears_a_loss_below_the_floor():
    ax = plots.loss_curve([1, 2], [3, 2], [2, 0.8], floor=0.9, val_steps=[1, 2])
    ax.figure.canvas.draw()


def test_a_sweep_marks_the_best_and_what_diverged():
    ax = plots.sweep([1e-2, 1e-4, 1e-3, 3e-2], [float("nan"), 2.0, 1.5, float("inf")], "learning rate")
    line, star, crosses = ax.get_lines()
    assert ax.get_xscale() == "log"
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1e-4, 1e-3], [2.0, 1.5])
    assert (star.get_xdata()[0], star.get_label()) == (1e-3, "best: 1.5 at 0.001")
    assert list(crosses.get_xdata()) == [1e-2, 3e-2] and min(crosses.get_ydata()) > 0.9
    ax.figure.canvas.draw()


def test_a_sweep_of_which_all_diverged_is_drawn():
    plots.sweep([1, 2], [float("nan"), float("inf")], "learning rate").figure.canvas.draw()


def test_attention_map_names_every_token_as_it_is():
    tokens = ["$x", " a$", "\n"]
    ax = attention_plots.attention_map(attention(3), tokens, ax=new_axes(), title="")
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["$x", "a$", "\\n"]
    ax.figure.canvas.draw()  # a pair of dollars is no formula


def test_attention_map_marks_where_a_part_begins():
    ax = attention_plots.attention_map(attention(3), ["a", "b", "c"], ax=new_axes(), title="", edges=[2])
    down, across = ax.get_lines()
    assert list(down.get_xdata()) == [1.5, 1.5] and list(across.get_ydata()) == [1.5, 1.5]
