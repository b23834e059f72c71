"""What a data set looks like: the text of a row, packing, words, and an audit of pairs."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lmlab.data.dedup import duplicate_fraction, exact_leakage, ngrams, normalize_text
from lmlab.data.rows import Turn, UnusableRow, conversation
from lmlab.data.usable import usable_pairs

# --- the text of a row --------------------------------------------------------------------------------

# columns that hold text, in the order in which a model reads them
_TEXT_COLUMNS = (
    "text modern shakespearean system instruction input output problem_text solution question answer"
).split()


def row_text(row: Mapping) -> str:
    """All that a model would read of a row, in any schema of the course; "" where it has nothing.

    Raises:
        ValueError: The row has none of the columns of these schemas.
    """
    # a file may have rows of several schemas; then the columns of the others are there and None
    if row.get("endings") is not None:
        return f"{_hellaswag_context(row)} {_correct_ending(row)}".strip()
    if row.get("messages") is not None:
        return "\n".join(turn.text for turn in _turns(row["messages"]))
    if not row.keys() & {*_TEXT_COLUMNS, "endings", "messages"}:
        raise ValueError(
            f"row_text got a row with keys {', '.join(sorted(row))}; give rows of text, pairs, "
            "HellaSwag, MathCodeInstruct, SciBench or GSM8K"
        )
    return _joined(row, _TEXT_COLUMNS)


def row_input(row: Mapping) -> str:
    """What a model is given at test time: the part that must not be in the training set."""
    if row.get("endings") is not None:
        return _hellaswag_context(row)
    if row.get("messages") is not None:
        return "\n".join(turn.text for turn in _turns(row["messages"]) if turn.role == "user")
    if row.get("output") is not None:
        return _joined(row, ("instruction", "input"))
    for key in ("modern", "problem_text", "question"):
        if row.get(key) is not None:
            return str(row[key])
    return row_text(row)


def _joined(row: Mapping, columns: Sequence[str]) -> str:
    return "\n".join(row[column] for column in columns if isinstance(row.get(column), str))


def _hellaswag_context(row: Mapping) -> str:
    """It is published whole or in two parts."""
    parts = [row["ctx"]] if row.get("ctx") else [row.get("ctx_a"), row.get("ctx_b")]
    return " ".join(part for part in parts if part)


def _correct_ending(row: Mapping) -> str:
    label = str(row.get("label", ""))  # the test split has none
    return row["endings"][int(label)] if label.isdecimal() else ""


def _turns(messages) -> list[Turn]:
    """The turns of a conversation; none where it cannot be read."""
    try:
        return conversation(messages)
    except UnusableRow:
        return []


# --- packing ------------------------------------------------------------------------------------------


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: texts go into rows, longest first, each where the least space remains.

    TRL's packing strategy "bfd". Source: Johnson 1974.

    Args:
        lengths: Tokens of each text.
        capacity: Tokens of a row.

    Returns:
        The indices of the texts of each row.

    Raises:
        ValueError: A text is longer than a row.
    """
    if max(lengths) > capacity:
        raise ValueError(f"a text has {max(lengths)} tokens, a row {capacity}; truncate the lengths first")
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens free, row), sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        k = bisect_left(free, (lengths[i], -1))  # the fullest row that has space for it
        if k < len(free):
            space, row = free.pop(k)
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(i)
        insort(free, (space - lengths[i], row))
    return rows


class PackingEfficiency(NamedTuple):
    """One way to make batches; fractions of the computed token positions."""

    method: str
    real: float  # positions that hold a token of a text
    padding: float
    split: float  # fraction of the texts that continue in another row


def packing_efficiency(
    lengths: Sequence[int], max_length: int, batch_size: int = 8
) -> list[PackingEfficiency]:
    """How much of the computed work is real tokens, for four ways of making batches.

    Args:
        lengths: Tokens of each text. Longer ones than ``max_length`` are truncated, except when
            concatenating.
        max_length: Tokens of a row.
        batch_size: Rows of a batch; batches are taken in the given order.
    """
    cut = [min(int(length), max_length) for length in lengths]
    longest_of_batches = 0
    for start in range(0, len(cut), batch_size):
        batch = cut[start : start + batch_size]
        longest_of_batches += len(batch) * max(batch)
    computed = {
        "pad to max_length": len(cut) * max_length,
        "pad to the longest of the batch": longest_of_batches,
        "best-fit packing": len(best_fit(cut, max_length)) * max_length,
    }
    found = [PackingEfficiency(method, sum(cut) / n, 1 - sum(cut) / n, 0.0) for method, n in computed.items()]
    # all texts in one stream, cut into rows: text i is tokens ends[i] - lengths[i] to ends[i] - 1 of it
    ends = np.cumsum(lengths)
    first_row, last_row = (ends - lengths) // max_length, (ends - 1) // max_length
    real = float(ends[-1] / (-(-int(ends[-1]) // max_length) * max_length))
    split = float((first_row != last_row).mean())
    return [*found, PackingEfficiency("concatenate and cut", real, 1 - real, split)]


# --- words --------------------------------------------------------------------------------------------


def word_counts(texts: Iterable[str]) -> Counter:
    """How often each word occurs, in lower case."""
    import regex  # re knows no combining marks, which are the vowels of many scripts

    word = regex.compile(r"[\p{L}\p{M}]+(?:['-][\p{L}\p{M}]+)*")
    counts = Counter()
    for text in texts:
        counts.update(word.findall(text.lower()))
    return counts


class RareWords(NamedTuple):
    """Words that a model sees once can hardly be learned."""

    vocabulary: int
    once: float  # fraction of the vocabulary that occurs once
    texts_with_one: float  # fraction of the texts that hold such a word


def rare_words(texts: Sequence[str]) -> RareWords:
    """Size of the vocabulary, and the fraction of one-off words in it and in the texts."""
    counts = word_counts(texts)
    once = {word for word, count in counts.items() if count == 1}
    with_one = sum(bool(once & word_counts([text]).keys()) for text in texts)
    return RareWords(len(counts), len(once) / len(counts), with_one / len(texts))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams: 1 when none occurs twice, 0 where there are none.

    It falls with more text, so only equal amounts compare.
    Source: Li et al. 2016, "A diversity-promoting objective function for neural conversation models".
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / max(len(grams), 1)


# --- an audit of pairs --------------------------------------------------------------------------------


class Finding(NamedTuple):
    """One question to a dataset: what was measured, what is allowed."""

    question: str
    measured: float
    allowed: str
    passed: bool


# question -> the largest fraction that a set may have and still be called clean
PAIR_LIMITS = {
    "repeated pairs": 0.01,
    "one input, two outputs": 0.01,
    "output equals input": 0.1,
    "validation inputs seen in training": 0.0,
    "pairs with a word seen once": 0.1,
}
MIN_PAIRS = 1000


def audit_pairs(train: Sequence[Mapping], validation: Sequence[Mapping]) -> list[Finding]:
    """Asks six questions of a set of modern to Shakespearean pairs; see ``PAIR_LIMITS`` and ``MIN_PAIRS``.

    Rows that cannot be used are left out as lesson 04 does (``usable.usable_pairs``), which also takes
    "input" and "output". The limits are rules of thumb of this course. Natural text breaks the one on
    rare words at any size that fits a lesson: read it as "these words must be known to the model
    beforehand".
    """
    train = usable_pairs(train, "train")
    validation = usable_pairs(validation, "validation")
    rows = [*train, *validation]
    texts = [row_text(row) for row in rows]
    outputs = defaultdict(set)
    for row in rows:
        outputs[normalize_text(row["modern"])].add(normalize_text(row["shakespearean"]))
    ambiguous = sum(len(outputs[normalize_text(row["modern"])]) > 1 for row in rows)
    unchanged = sum(row["modern"] == row["shakespearean"] for row in rows)
    measured = {
        "repeated pairs": duplicate_fraction(texts),
        "one input, two outputs": ambiguous / len(rows),
        "output equals input": unchanged / len(rows),
        "validation inputs seen in training": exact_leakage(
            [row["modern"] for row in train], [row["modern"] for row in validation]
        ),
        "pairs with a word seen once": rare_words(texts).texts_with_one,
    }
    findings = [Finding("number of pairs", len(rows), f"at least {MIN_PAIRS}", len(rows) >= MIN_PAIRS)]
    for question, limit in PAIR_LIMITS.items():
        passed = measured[question] <= limit
        findings.append(Finding(question, measured[question], f"at most {limit:.0%}", passed))
    return findings
