"""Train and validation of data that come without a split: by row, or by groups of near-duplicates."""

import logging
import random
from collections.abc import Sequence

from lmlab.data.dedup import duplicate_groups

VALIDATION_FRACTION = 0.1  # of a source that comes without a validation split
SPLITS = ("train", "validation", "all")

logger = logging.getLogger(__name__)


def split_indices(n: int, split: str, seed: int = 0) -> list[int]:
    """Which of ``n`` rows belong to a split.

    Args:
        n: Number of rows.
        split: "train" or "validation".
        seed: Of the shuffle. Train and validation of one seed are disjoint and together everything.

    Returns:
        Indices of the rows in shuffled order; a tenth of them, at least one, are for validation.
    """
    # Python promises that random() of an integer seed is the same in later versions; of shuffle() it does not
    rng = random.Random(seed)
    keys = [rng.random() for _ in range(n)]
    order = sorted(range(n), key=keys.__getitem__)
    n_validation = max(1, round(n * VALIDATION_FRACTION)) if n > 1 else 0
    return order[:n_validation] if split == "validation" else order[n_validation:]


def group_split(
    texts: Sequence[str], n_validation: int, seed: int = 0, threshold: float | None = None
) -> tuple[list[int], list[int]]:
    """A random split that keeps duplicates, and near-duplicates, on one side: no leakage by construction.

    Args:
        texts: One of each row, such as its question.
        n_validation: Rows for validation. They are filled up with whole groups, so there may be fewer.
        seed: Of the order in which groups are taken.
        threshold: Jaccard similarity from which two texts belong together; None: only the same texts do.

    Returns:
        (train, validation): sorted indices into ``texts``.

    Raises:
        ValueError: One of the sides would be empty.
    """
    groups = duplicate_groups(texts, threshold)
    rng = random.Random(seed)
    # a group that does not fit is passed over, and a smaller one may still come
    validation: list[int] = []
    for group in sorted(groups, key=lambda _: rng.random()):
        if len(validation) + len(group) <= n_validation:
            validation += group
    if not validation or len(validation) == len(texts):
        raise ValueError(
            f"n_validation got {n_validation} of {len(texts)} texts in {len(groups)} groups, which leaves "
            "nothing to train on or to validate with; give another number, or more texts"
        )
    if len(validation) < n_validation:
        logger.warning("validation has %d of %d rows: groups stay whole", len(validation), n_validation)
    train = sorted(set(range(len(texts))) - set(validation))
    return train, sorted(validation)
