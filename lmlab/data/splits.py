"""Train and validation of data that come without a split."""

import random

VALIDATION_FRACTION = 0.1  # of a source that comes without a validation split
SPLITS = ("train", "validation", "all")


def split_indices(n: int, split: str, seed: int = 0, share: float = VALIDATION_FRACTION) -> list[int]:
    """Which of ``n`` rows belong to a split, in shuffled order ("all": 0 to n - 1, as they stand).

    Train and validation of one seed are disjoint and together everything. Python promises that
    ``random.random`` of an integer seed stays the same in later versions; of ``random.shuffle`` it does not.
    """
    if split == "all":
        return list(range(n))
    draw = random.Random(seed).random
    keys = [draw() for _ in range(n)]
    order = sorted(range(n), key=keys.__getitem__)
    n_validation = max(1, round(n * share)) if n > 1 else 0
    return order[:n_validation] if split == "validation" else order[n_validation:]
