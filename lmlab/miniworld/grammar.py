"""Seeded draws that know their probability, and the complete enumeration of a generator.

A generator is a plain function of a ``Draw``. Every decision goes through ``Draw.choice``, so
the log-probability of a text is the sum over the decisions made, exactly. The texts of a generator are
unambiguous when no two decision paths give the same text; then that sum is also the log-probability of the
text.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

Option = TypeVar("Option")


class Draw:
    """A stream of weighted choices.

    ``logprob`` is the natural log of the probability of all choices made so far (nats).
    """

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.logprob = 0.0

    def choice(self, options: Sequence[Option], weights: Sequence[float] | None = None) -> Option:
        """One of ``options``, drawn uniformly or by ``weights`` (positive, any scale)."""
        probabilities = _normalized(len(options), weights)
        index = self._index(probabilities)
        self.logprob += math.log(probabilities[index])
        return options[index]

    def zipf(self, options: Sequence[Option]) -> Option:
        """One of ``options``, the k-th (from 0) with weight 1 / (k + 2): few are common, many rare."""
        return self.choice(options, [1 / (k + 2) for k in range(len(options))])

    def _index(self, probabilities: list[float]) -> int:
        # random() is the one method whose stream Python promises to keep between versions
        u = self.rng.random()
        for index, edge in enumerate(accumulate(probabilities)):
            if u < edge:
                return index
        return len(probabilities) - 1


class _Replay(Draw):
    """Follows a given path of choices, then takes first options; records how many there were."""

    def __init__(self, path: list[int]):
        super().__init__(random.Random(0))
        self.path = path
        self.widths: list[int] = []

    def _index(self, probabilities: list[float]) -> int:
        position = len(self.widths)
        self.widths.append(len(probabilities))
        if position == len(self.path):
            self.path.append(0)
        return self.path[position]


def enumerate_all(generate: Callable[[Draw], Option]) -> Iterator[tuple[Option, float]]:
    """Every (result, log-probability) that ``generate`` can give, in a fixed order.

    For small generators: the number of results is the product of the widths of the choices.
    """
    path: list[int] = []
    while True:
        replay = _Replay(path)
        yield generate(replay), replay.logprob
        path = replay.path
        while path and path[-1] + 1 == replay.widths[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1


def stream(*key: object) -> random.Random:
    """A random stream named by ``key``, the same on every machine and Python version."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def stable_fraction(text: str) -> float:
    """A number in [0, 1) that depends on ``text`` alone: for splits that never change."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _normalized(n: int, weights: Sequence[float] | None) -> list[float]:
    if n == 0:
        raise ValueError("choice got no options; give at least one")
    if weights is None:
        return [1 / n] * n
    if len(weights) != n or min(weights) <= 0:
        raise ValueError(f"choice got weights {list(weights)} for {n} options; give {n} positive numbers")
    total = sum(weights)
    return [w / total for w in weights]
