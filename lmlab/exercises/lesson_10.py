"""Lesson 10: the induction score, uniform attention, mean ablation, and an effect against its controls."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lmlab.exercises.judging import compare, exercise

if TYPE_CHECKING:
    from torch import Tensor


@exercise("10.1")
def induction_score(answer: Any) -> None:
    """The mean attention weight from each token of the second copy to the one after its first copy."""
    cases = [(_random_weights(2 * n, seed=n), n) for n in (3, 5)]
    mistakes = {
        "same_token": partial(_induction_score, offset=0),
        "previous_token": lambda weights, n: weights.diagonal(-1)[n - 1 :].mean().item(),
        "queries_and_keys_swapped": lambda weights, n: _induction_score(weights.T, n),
        "first_half_too": lambda weights, n: weights.diagonal(1 - n).mean().item(),
        "summed": lambda weights, n: n * _induction_score(weights, n),
    }
    compare(answer, _induction_score, cases, mistakes, tolerance=1e-5)


def _random_weights(T: int, seed: int) -> "Tensor":
    """The attention weights (T, T) of a head with random scores."""
    import torch

    scores = torch.randn(T, T, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def _induction_score(weights: "Tensor", n: int, offset: int = 1) -> float:
    """offset: of the key from the earlier copy of the query's token."""
    return sum(weights[t, t - n + offset].item() for t in range(n, 2 * n)) / n


@exercise("10.2")
def uniform_weight(answer: Any) -> None:
    """The weight of a range of positions under uniform causal attention."""
    # within reach, up to the query itself, partly after it, all after it, and the whole text
    cases = [(9, 0, 1), (9, 4, 10), (9, 6, 14), (9, 12, 15), (0, 0, 3), (4, 1, 3)]
    mistakes = {
        "own_position_left_out": lambda t, start, stop: _in_reach(t, start, stop) / max(t, 1),
        "mask_forgotten": lambda t, start, stop: (stop - start) / (t + 1),
        "one_position": lambda t, start, stop: 1 / (t + 1),
        "stop_counted": lambda t, start, stop: _in_reach(t, start, stop + 1) / (t + 1),
    }
    compare(answer, _uniform_weight, cases, mistakes)


def _uniform_weight(t: int, start: int, stop: int) -> float:
    return _in_reach(t, start, stop) / (t + 1)


def _in_reach(t: int, start: int, stop: int) -> int:
    """How many of the positions the query may attend to."""
    return max(0, min(stop, t + 1) - start)


@exercise("10.3")
def mean_ablate(answer: Any) -> None:
    """The heads' outputs, with one head's replaced by its mean."""
    import torch

    generator = torch.Generator().manual_seed(0)
    # the mean is far from zero; the first head, and one in the middle
    cases = [(1 + torch.randn(2, 3, 8, generator=generator), h, D) for h, D in ((0, 4), (1, 2))]
    mistakes = {
        "zero": lambda heads, h, D: _replaced(heads, h, D, torch.zeros(())),
        "mean_over_rows": lambda heads, h, D: _replaced(heads, h, D, heads.mean(0, keepdim=True)),
        "mean_over_positions": lambda heads, h, D: _replaced(heads, h, D, heads.mean(1, keepdim=True)),
        "one_number": lambda heads, h, D: _replaced(heads, h, D, heads[..., h * D : (h + 1) * D].mean()),
        "interleaved": _interleaved,
    }
    compare(answer, _mean_ablate, cases, mistakes, tolerance=1e-5)


def _mean_ablate(heads: "Tensor", h: int, D: int) -> "Tensor":
    return _replaced(heads, h, D, heads.mean((0, 1)))


def _replaced(heads: "Tensor", h: int, D: int, values: "Tensor") -> "Tensor":
    """The part of head h from ``values``, which broadcast to all of the heads."""
    part = slice(h * D, (h + 1) * D)
    ablated = heads.clone()
    ablated[..., part] = values.expand_as(heads)[..., part]
    return ablated


def _interleaved(heads: "Tensor", h: int, D: int) -> "Tensor":
    """As if the heads' elements took turns."""
    step = heads.shape[-1] // D
    ablated = heads.clone()
    ablated[..., h::step] = heads.mean((0, 1))[h::step]
    return ablated


@exercise("10.4")
def p_value(answer: Any) -> None:
    """The p-value of an effect among those of other heads."""
    # larger than all, larger than most, a tie, and the smallest
    cases = [(1.2, [0.1, 0.0, 0.2]), (0.5, [0.1, 0.7, 0.2, 0.4]), (0.3, [0.3, 0.1]), (-0.1, [0.0, 0.2, 0.1])]
    mistakes = {
        "own_effect_left_out": lambda effect, controls: _at_least(effect, controls) / len(controls),
        "ties_left_out": lambda effect, controls: (
            (1 + sum(other > effect for other in controls)) / (1 + len(controls))
        ),
        "smaller_counted": lambda effect, controls: (
            (1 + sum(other <= effect for other in controls)) / (1 + len(controls))
        ),
        "one_added_above_only": lambda effect, controls: (1 + _at_least(effect, controls)) / len(controls),
    }
    compare(answer, _p_value, cases, mistakes)


def _p_value(effect: float, controls: Sequence[float]) -> float:
    return (1 + _at_least(effect, controls)) / (1 + len(controls))


def _at_least(effect: float, controls: Sequence[float]) -> int:
    return sum(other >= effect for other in controls)
