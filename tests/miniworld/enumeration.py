"""The complete enumeration of a small generator, against which its log-probabilities are proven."""

import random
from collections.abc import Callable, Iterator

from lmlab.miniworld.grammar import Option, Sampler


class _Replay(Sampler):
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


def enumerate_all(generate: Callable[[Sampler], Option]) -> Iterator[tuple[Option, float]]:
    """Every (result, log-probability) that ``generate`` can give, in a fixed order."""
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
