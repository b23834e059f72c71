"""A probabilistic grammar: sampling choices that know their probability.

A generator is a plain function of a ``Sampler``. Every decision goes through ``Sampler.choice``, so the
log-probability of a text is exactly the sum over the decisions made. It is that of the text itself when no
two ways of deciding give the same text.
"""

import hashlib
import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

Option = TypeVar("Option")


class Sampler:
    """Weighted random choices.

    Attributes:
        logprob: natural log of the probability of all choices made so far (nats).
    """

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.logprob = 0.0

    def choice(self, options: Sequence[Option], weights: Sequence[float] | None = None) -> Option:
        """One of ``options``, sampled uniformly or by ``weights`` (positive, on any scale)."""
        assert len(options) > 0, "no options to choose from"
        if weights is None:
            probabilities = [1 / len(options)] * len(options)
        else:
            assert len(weights) == len(options) and min(weights) > 0, f"{weights} for {len(options)} options"
            total = sum(weights)
            probabilities = [weight / total for weight in weights]
        index = self._index(probabilities)
        # choices are independent given those before, so their probabilities multiply, and their logs add up
        self.logprob += math.log(probabilities[index])
        return options[index]

    def zipf(self, options: Sequence[Option]) -> Option:
        """One of ``options``, the k-th (from 0) with weight 1 / (k + 2): a few are common, many rare."""
        return self.choice(options, [1 / (k + 2) for k in range(len(options))])

    def integer(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included, uniformly."""
        return self.choice(range(low, high + 1))

    def _index(self, probabilities: list[float]) -> int:
        # random() is the one method whose sequence Python promises to keep between versions
        index = bisect_right(list(accumulate(probabilities)), self.rng.random())
        return min(index, len(probabilities) - 1)  # rounding may leave the last edge just below 1


def stream(*key: object) -> random.Random:
    """A random number generator seeded by ``key``: the same on every machine and Python version."""
    # not hash(): Python salts it anew in each process
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def stable_fraction(text: str) -> float:
    """A number in [0, 1) that depends on ``text`` alone: for splits that never change."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
