"""274 pairs with the flaws of a real hand-made set, split without checks: what lesson 01 finds, on purpose.

They are in ``data/flawed_pairs.json``, in the order of a shuffle, so that duplicates are on both sides of
the split. Most are pairs of ``shakespeare.pair``. Among them are 25 slang one-offs with invented
renderings, 8 pairs in which nothing was translated, 20 exact duplicates, 15 near duplicates (another
name, or one put in front), and 10 sentences rendered a second time by a translator with other habits
("Marry, you ...").
"""

from lmlab.miniworld.tables import read_table


def rows(name: str, split: str, n: int, seed: int) -> list[dict]:
    """The first ``n`` rows of a split by position, 220 to 54, as naive scripts do it.

    Validation pairs whose duplicates are in train make the validation loss too good. The flaw is wanted.
    The set is a fixed one, whatever the seed.

    Raises:
        ValueError: more rows asked for than the split has.
    """
    part = read_table("flawed_pairs")[split]
    if n > len(part):
        raise ValueError(f"{name} {split} has {len(part)} rows, got n={n}; ask for fewer or take 'pairs'")
    return [{"modern": modern, "shakespearean": old} for modern, old in part[:n]]
