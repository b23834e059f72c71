"""How sure a measurement is: Wilson intervals, paired bootstrap, McNemar's test."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def wilson_interval(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a fraction of which k in n were seen; z = 1.96 gives 95%. Source: Wilson 1927.

    Unlike p +- z * sqrt(p (1 - p) / n) it never leaves [0, 1] and is not empty at k = 0.
    """
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"wilson_interval got k={k}, n={n}; give 0 <= k <= n and n of at least 1")
    p, z2 = k / n, z * z / n
    center, half = p + z2 / 2, z * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    # rounding may leave -1e-17 at k = 0
    return max(0.0, (center - half) / (1 + z2)), min(1.0, (center + half) / (1 + z2))


class Proportion(NamedTuple):
    """k of n, with a 95% interval (Wilson's)."""

    k: int
    n: int

    @classmethod
    def of(cls, hits: Sequence[bool]) -> "Proportion":
        """How many of the items are true."""
        return cls(sum(map(bool, hits)), len(hits))

    @property
    def value(self) -> float:
        """k / n."""
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval."""
        return wilson_interval(self.k, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.k} of {self.n} = {self.value:.0%} [{low:.0%}, {high:.0%}]"


class Difference(NamedTuple):
    """b less a, with a 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether b is larger or smaller than a beyond the interval."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    weights: Sequence[float] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """sum(b - a) / sum(weights) with its 95% percentile interval, items resampled with replacement.

    a and b belong to the same items in the same order. weights: 1 per item by default; for losses, a and b
    are the nats and weights the tokens of each text. Source: Efron 1979; Koehn 2004 for pairs.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=float)
    # whole items are resampled, a and b together: what makes an item hard for both cancels
    sampled = np.random.default_rng(seed).integers(len(a), size=(n_resamples, len(a)))
    # the weights go along, for the sum of a resample's weights varies, too
    means = (b - a)[sampled].sum(1) / w[sampled].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float((b - a).sum() / w.sum()), float(low), float(high))


class McNemar(NamedTuple):
    """Two models on the same items: of the items on which they differ, who was right."""

    n01: int  # the first wrong, the second right
    n10: int  # the first right, the second wrong
    p_value: float  # how often so lopsided a split or a more lopsided one comes by chance


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """McNemar's exact test: were two models right equally often? a and b: right or wrong, item by item.

    Items on which both are right or both wrong tell nothing. Of the others, were the models equally good,
    each would win as often as a coin: two-sided binomial test. Source: McNemar 1947; Dietterich 1998.
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    n01, n10 = int((~a & b).sum()), int((a & ~b).sum())
    n = n01 + n10
    # whole numbers: nothing underflows
    tail = sum(math.comb(n, k) for k in range(min(n01, n10) + 1))
    return McNemar(n01, n10, min(1.0, 2 * tail / 2**n))
