"""Plots name their axes, take an Axes, and tell series apart without colour."""

import matplotlib
import pytest

from lmlab import plots

matplotlib.use("Agg")

DRAWN = {
    "loss_curve": lambda ax=None: plots.loss_curve([1, 2, 3], [3, 2, 1], [2, 1.5], floor=0.9,
                                                   val_steps=[1, 3], baseline=3, ax=ax),
    "learning_rate": lambda ax=None: plots.learning_rate([1, 2], [0.0, 1e-3], ax=ax),
    "histogram": lambda ax=None: plots.histogram([1, 2, 2], "words", ax=ax),
    "length_histogram": lambda ax=None: plots.length_histogram([5, 9, 9, 30], [8, 16], ax=ax),
    "bar_with_interval": lambda ax=None: plots.bar_with_interval(["a"], [0.3], [(0.2, 0.4)],
                                                                 ylabel="accuracy", chance=0.25, ax=ax),
    "before_after": lambda ax=None: plots.before_after(["a", "b"], [1, 2], [2, 3], ylabel="loss (nats)",
                                                       after_intervals=[(1, 3), (2, 4)], ax=ax),
    "stacked_bars": lambda ax=None: plots.stacked_bars(["a", "b"], {"x": [1, 2], "y": [2, 1]}, xlabel="share",
                                                       ax=ax),
    "accuracy_curve": lambda ax=None: plots.accuracy_curve([0, 9], {"sum": [0.2, 0.5], "token": [0.3, 0.4]},
                                                           {"sum": [(0.1, 0.3), (0.4, 0.6)],
                                                            "token": [(0.2, 0.4), (0.3, 0.5)]}, ax=ax),
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


@pytest.mark.parametrize("name", ["loss_curve", "accuracy_curve", "rank_frequency"])
def test_lines_differ_without_colour(name):
    styles = [(line.get_linestyle(), line.get_marker()) for line in DRAWN[name]().get_lines()]
    assert len(set(styles)) == len(styles)


def test_bars_differ_without_colour():
    for name in ("before_after", "stacked_bars"):
        assert len({bar.get_hatch() for bar in DRAWN[name]().patches}) == 2


def test_legend_of_lengths_says_what_is_cut():
    labels = [text.get_text() for text in DRAWN["length_histogram"]().get_legend().get_texts()]
    assert labels == ["8: cuts 75.0%", "16: cuts 25.0%"]


def test_whiskers_reach_the_interval():
    ax = DRAWN["bar_with_interval"]()
    whisker = ax.collections[0].get_segments()[0]
    assert whisker[:, 1].tolist() == pytest.approx([0.2, 0.4])
