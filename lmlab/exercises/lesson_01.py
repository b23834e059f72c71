"""Lesson 01: lengths, repetitions, leaks, padding."""

import random

from lmlab.exercises.judging import Wrong, calls, compare, exercise, is_stub, show


def _lengths(dice: random.Random, n: int) -> list[int]:
    return [dice.randint(1, 40) for _ in range(n)]


def _least(lengths, fits) -> int:
    return next(limit for limit in range(max(lengths) + 2) if fits(limit))


@exercise(
    "01.1",
    "Right-size it",
    "Only a length that occurs can be the answer: sort them.",
    "For one limit: `sum(n > limit for n in lengths) / len(lengths)`. Take the first that is at most "
    "`share`.",
)
def right_size(answer):
    def reference(lengths, share):
        return _least(lengths, lambda limit: sum(n > limit for n in lengths) / len(lengths) <= share)

    dice = random.Random(0)
    cases = [([2, 4, 10], 1 / 3), ([2, 4, 10], 0)]
    cases += [(_lengths(dice, n), (k + 0.5) / n) for n, k in ((7, 1), (12, 3), (30, 7))]
    compare(
        answer,
        reference,
        cases,
        {
            "A text of exactly `max_length` tokens is not cut: it fits.": lambda lengths, share: _least(
                lengths, lambda limit: sum(n >= limit for n in lengths) / len(lengths) <= share
            ),
            "`share` is what may be cut; you keep that share whole and cut the rest.": lambda lengths, share: (
                _least(lengths, lambda limit: sum(n <= limit for n in lengths) / len(lengths) >= share)
            ),
            "You count tokens that are lost; asked is the share of texts that lose any.": lambda lengths, share: (
                _least(lengths, lambda limit: sum(max(0, n - limit) for n in lengths) / sum(lengths) <= share)
            ),
        },
    )
    return "Run it on `lengths` of a dataset: how much does one text in a hundred cost you?"


def _flawed_pairs(seed: int) -> list[dict]:
    """Forty sentences; eight come again with other capitals, eight with another translation."""
    dice = random.Random(seed)
    rows = [{"modern": f"You have {i} cats.", "shakespearean": f"Thou hast {i} cats."} for i in range(40)]
    rows += [{**row, "modern": row["modern"].upper()} for row in dice.sample(rows[:40], 8)]
    rows += [{**row, "shakespearean": "Aye, cats."} for row in dice.sample(rows[:40], 8)]
    dice.shuffle(rows)
    return rows


@exercise(
    "01.2",
    "Mend the small set",
    "First remove, then divide: what is no longer there cannot leak.",
    "Keep a row if `normalize_text(row['modern'])` is not in the set of those already kept.",
    "`split_indices(len(kept), 'validation', seed)` gives the places of the validation rows in `kept`.",
)
def mend(answer):
    from lmlab.data.dedup import normalize_text

    cases = [(_flawed_pairs(0), 0), (_flawed_pairs(0), 1), (_flawed_pairs(2), 2)]
    given = calls(answer, cases)
    for (rows, _), parts in zip(cases, given, strict=True):
        first = {}
        for row in rows:
            first.setdefault(normalize_text(row["modern"]), row)
        _judge_split(parts, first, normalize_text)
    one, other = ({row["modern"] for row in validation} for _, validation in given[:2])
    if one == other:
        raise Wrong("Another `seed` gives the same split: hand it on to `split_indices`.")
    return (
        "Pairs of which both sides repeat are not enough: the model is asked `modern`, and has read that "
        "sentence with its other translation. No cleaning makes a set larger, though."
    )


def _judge_split(parts, first: dict, normalize_text) -> None:
    if not isinstance(parts, list | tuple) or len(parts) != 2 or any(map(is_stub, parts)):
        raise Wrong(f"Two lists of rows are wanted, train and validation; your function gives {show(parts)}.")
    try:
        train, validation = ([(normalize_text(row["modern"]), row) for row in part] for part in parts)
    except (TypeError, KeyError, IndexError):
        raise Wrong("Both parts must be lists of rows with the keys `modern` and `shakespearean`.") from None
    leaks = {modern for modern, _ in train} & {modern for modern, _ in validation}
    kept = [modern for modern, _ in train + validation]
    if leaks:
        texts = {row["shakespearean"] for modern, row in train + validation if modern == min(leaks)}
        raise Wrong(
            f"{len(leaks)} validation sentences also stand in train, {min(leaks)!r} is one"
            + (
                ", with another translation: compare `modern` alone."
                if len(texts) > 1
                else ": you divided before you removed the repetitions, or compared the texts as they stand (compare "
                "`normalize_text`)."
            )
        )
    if len(kept) != len(set(kept)):
        raise Wrong("Within one part a `modern` still comes twice (compare `normalize_text`).")
    if set(kept) != set(first):
        raise Wrong(
            f"Of {len(first)} different sentences {len(set(first) - set(kept))} are lost: one of each "
            "must stay."
        )
    if any(row != first[modern] for modern, row in train + validation):
        raise Wrong("Of the rows with one `modern` the first was to be kept, unchanged.")
    if abs(len(validation) - len(first) / 10) > 1:
        raise Wrong(f"Nine to one: validation has {len(validation)} of {len(first)} rows.")


def _words(text: str) -> set[str]:
    from lmlab.data.dedup import normalize_text

    return set(normalize_text(text).split())


@exercise(
    "01.3",
    "Words for characters",
    "Sets of words: `set(normalize_text(text).split())`.",
    "`&` gives what both have, `|` what either has.",
)
def word_jaccard(answer):
    texts = [
        "Anton feeds the grey cat.",
        "the grey cat feeds Anton",
        "Agnes feeds the grey dog, and the cat!",
        "The THE the cat",
        "a baker sings",
    ]
    cases = [(a, b) for a in texts for b in texts]
    compare(
        answer,
        lambda a, b: len(_words(a) & _words(b)) / len(_words(a) | _words(b)),
        cases,
        {
            "Capitals and punctuation make two words of one: compare `normalize_text` texts.": lambda a, b: (
                len({*a.split()} & {*b.split()}) / len({*a.split()} | {*b.split()})
            ),
            "What both have is counted twice below the line: divide by the size of the union.": lambda a, b: (
                len(_words(a) & _words(b)) / (len(_words(a)) + len(_words(b)))
            ),
            "This is Dice's measure; Jaccard's divides by the union.": lambda a, b: (
                2 * len(_words(a) & _words(b)) / (len(_words(a)) + len(_words(b)))
            ),
            "Divide by all that either has, not by the first text's words alone.": lambda a, b: (
                len(_words(a) & _words(b)) / len(_words(a))
            ),
        },
    )
    return "Who feeds whom is lost: the first two sentences are the same to it. Shingles still see the order."


@exercise(
    "01.4",
    "The price of a cut",
    "The EOS stands behind the text: a text of n tokens takes n + 1 places.",
    "The EOS is lost when n + 1 is more than `max_length`.",
)
def lost_ends(answer):
    dice = random.Random(1)
    cases = [([2, 4, 10], 4), ([5, 5, 5], 5)] + [(_lengths(dice, 30), limit) for limit in (8, 16, 32)]
    compare(
        answer,
        lambda lengths, limit: sum(n + 1 > limit for n in lengths),
        cases,
        {
            "A text of exactly `max_length` tokens fits, but its EOS does not.": lambda lengths, limit: sum(
                n > limit for n in lengths
            ),
            "The number of texts is asked, not their share.": lambda lengths, limit: (
                sum(n + 1 > limit for n in lengths) / len(lengths)
            ),
            "You count those that keep their EOS.": lambda lengths, limit: sum(
                n + 1 <= limit for n in lengths
            ),
        },
    )
    return "Every text that is cut loses its EOS, and so do those that just fitted: nothing there says stop."


def _batches(lengths, size):
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]


@exercise(
    "01.5",
    "What padding costs",
    "A batch has `len(batch) * max(batch)` slots; the last may be smaller.",
    "Add up the slots of all batches first, and divide once.",
)
def padding_share(answer):
    def slots(lengths, size):
        return sum(len(batch) * max(batch) for batch in _batches(lengths, size))

    dice = random.Random(2)
    cases = [([3, 5, 8, 4], 2), ([6, 6, 6], 2)]
    cases += [(_lengths(dice, n), size) for n, size in ((9, 4), (16, 4), (21, 8))]
    compare(
        answer,
        lambda lengths, size: 1 - sum(lengths) / slots(lengths, size),
        cases,
        {
            "You pad all to the longest text of the set; each batch needs only its own longest.": lambda lengths, size: (
                1 - sum(lengths) / (len(lengths) * max(lengths))
            ),
            "You divide by the real tokens; the share of all slots is asked.": lambda lengths, size: (
                slots(lengths, size) / sum(lengths) - 1
            ),
            "This is the share of real tokens; padding is the rest.": lambda lengths, size: (
                sum(lengths) / slots(lengths, size)
            ),
            "A mean over batches lets a small last batch count as much as a full one.": lambda lengths, size: (
                sum(1 - sum(batch) / (len(batch) * max(batch)) for batch in _batches(lengths, size))
                / len(_batches(lengths, size))
            ),
        },
    )
    return (
        "Sort the lengths and try again: batches of like texts need far less padding. What does sorting cost?"
    )
