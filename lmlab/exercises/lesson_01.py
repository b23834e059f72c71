"""Lesson 01: lengths, duplicates, leakage, padding."""

import operator
import random
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from lmlab.exercises.judging import EXERCISES, Mistake, call_each, compare, exercise, is_stub, show


@exercise("01.1")
def right_size(answer: Any) -> None:
    """The smallest max_length that truncates at most a fraction of the texts."""
    mistakes = {
        "exact_fit_counted": partial(_right_size, lost=operator.ge),
        "fraction_kept": lambda lengths, fraction: _right_size(lengths, 1 - fraction),
        # a fraction of all tokens, in the unit of a mean over texts
        "tokens_counted": lambda lengths, fraction: _right_size(
            lengths, fraction * fmean(lengths), lost=lambda n, limit: max(0, n - limit)
        ),
    }
    compare(answer, _right_size, EXERCISES["01.1"].cases, mistakes)


def _right_size(lengths: Sequence[int], fraction: float, lost: Callable = operator.gt) -> int:
    """lost: what a text of n tokens loses under a limit, (n, limit) -> number or bool."""
    # every limit is tried, not only lengths that occur: nothing to be clever about in a reference
    limit = 0
    while fmean(lost(n, limit) for n in lengths) > fraction:
        limit += 1
    return limit


def _flawed_pairs(seed: int) -> list[dict]:
    """Forty sentences; eight come again in capitals, eight with another translation."""
    rng = random.Random(seed)
    pairs = [{"modern": f"You have {i} cats.", "shakespearean": f"Thou hast {i} cats."} for i in range(40)]
    # normalization alone finds these
    in_capitals = [{**row, "modern": row["modern"].upper()} for row in rng.sample(pairs, 8)]
    # comparing whole pairs does not find these
    retranslated = [{**row, "shakespearean": "Aye, cats."} for row in rng.sample(pairs, 8)]
    rows = pairs + in_capitals + retranslated
    rng.shuffle(rows)
    return rows


@exercise("01.2")
def clean_small_set(answer: Any) -> None:
    """Deduplicate, then split: no validation sentence is in train, and none is lost."""
    # the first two cases differ in the seed alone
    cases = [(_flawed_pairs(0), 0), (_flawed_pairs(0), 1), (_flawed_pairs(2), 2)]
    splits = call_each(answer, cases)
    for (rows, _), split in zip(cases, splits, strict=True):
        _judge_split(rows, split)
    (_, validation), (_, validation_of_other_seed) = splits[:2]
    if {row["modern"] for row in validation} == {row["modern"] for row in validation_of_other_seed}:
        raise Mistake("seed_ignored")


def _judge_split(rows: list[dict], split: Any) -> None:
    if not isinstance(split, list | tuple) or len(split) != 2 or any(map(is_stub, split)):
        raise Mistake("not_two_lists", shown=show(split))
    try:
        train, validation = [[(_normalized(row), row) for row in part] for part in split]
    except (TypeError, KeyError, IndexError):
        raise Mistake("not_rows") from None
    kept = train + validation
    sentences = [sentence for sentence, _ in kept]
    # the checks go from the gravest fault to the least: the reader is told one at a time
    leaks = {sentence for sentence, _ in train} & {sentence for sentence, _ in validation}
    if leaks:
        example = min(leaks)
        translations = {row["shakespearean"] for sentence, row in kept if sentence == example}
        key = "leak_with_other_translation" if len(translations) > 1 else "leak"
        raise Mistake(key, n=len(leaks), example=example)
    if len(sentences) != len(set(sentences)):
        raise Mistake("duplicates_left")
    first = {}  # sentence -> the row to keep
    for row in rows:
        first.setdefault(_normalized(row), row)
    if set(sentences) != set(first):
        raise Mistake("rows_lost", total=len(first), lost=len(set(first) - set(sentences)))
    if any(row != first[sentence] for sentence, row in kept):
        raise Mistake("not_the_first")
    # how a tenth is rounded is left open
    if abs(len(validation) - len(first) / 10) > 1:
        raise Mistake("not_nine_to_one", n=len(validation), total=len(first))


def _normalized(row: dict) -> str:
    from lmlab.data.dedup import normalize_text

    return normalize_text(row["modern"])


@exercise("01.3")
def word_jaccard(answer: Any) -> None:
    """The Jaccard similarity of two texts' sets of words."""
    # every text with every other, both ways and with itself
    texts = EXERCISES["01.3"].cases
    cases = [(a, b) for a in texts for b in texts]
    mistakes = {
        "raw_texts": lambda a, b: _jaccard(set(a.split()), set(b.split())),
        "intersection_counted_twice": _of_words(lambda a, b: len(a & b) / (len(a) + len(b))),
        "dice": _of_words(lambda a, b: 2 * len(a & b) / (len(a) + len(b))),
        "first_text_alone": _of_words(lambda a, b: len(a & b) / len(a)),
    }
    compare(answer, _of_words(_jaccard), cases, mistakes)


def _jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b)


def _of_words(similarity: Callable[[set, set], float]) -> Callable[[str, str], float]:
    """A similarity of two sets, taken of two texts' words."""
    from lmlab.data.dedup import normalize_text

    return lambda a, b: similarity(set(normalize_text(a).split()), set(normalize_text(b).split()))


@exercise("01.4")
def lost_ends(answer: Any) -> None:
    """How many texts lose their EOS when they are truncated to max_length."""
    mistakes = {
        "eos_forgotten": lambda lengths, limit: sum(n > limit for n in lengths),
        "fraction_returned": lambda lengths, limit: fmean(n + 1 > limit for n in lengths),
        "kept_counted": lambda lengths, limit: sum(n + 1 <= limit for n in lengths),
    }
    cases = EXERCISES["01.4"].cases
    compare(answer, lambda lengths, limit: sum(n + 1 > limit for n in lengths), cases, mistakes)


@exercise("01.5")
def padding_fraction(answer: Any) -> None:
    """The fraction of padding when each batch is padded to its longest text."""
    cases = EXERCISES["01.5"].cases
    mistakes = {
        "padded_to_longest_of_all": lambda lengths, size: 1 - sum(lengths) / (len(lengths) * max(lengths)),
        "divided_by_real_tokens": lambda lengths, size: sum(_slots(lengths, size)) / sum(lengths) - 1,
        "fraction_of_real_tokens": lambda lengths, size: sum(lengths) / sum(_slots(lengths, size)),
        # differs from the right answer only where batches differ in size
        "mean_over_batches": _mean_padding_of_batches,
    }
    compare(answer, lambda lengths, size: 1 - sum(lengths) / sum(_slots(lengths, size)), cases, mistakes)


def _batches(lengths: Sequence[int], size: int) -> list[Sequence[int]]:
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]


def _slots(lengths: Sequence[int], size: int) -> list[int]:
    return [len(batch) * max(batch) for batch in _batches(lengths, size)]


def _mean_padding_of_batches(lengths: Sequence[int], size: int) -> float:
    return fmean(1 - sum(batch) / (len(batch) * max(batch)) for batch in _batches(lengths, size))
