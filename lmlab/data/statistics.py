"""What a data set looks like: lengths, truncation, packing, words, and an audit of pairs."""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lmlab.data.dedup import duplicate_fraction, exact_leakage, ngrams, normalize_text
from lmlab.data.rows import UnusableRow, conversation
from lmlab.data.usable import usable_pairs

# columns that hold texts, in the order in which a model reads them
_TEXT_COLUMNS = (
    "text",
    "modern",
    "shakespearean",
    "system",
    "instruction",
    "input",
    "output",
    "problem_text",
    "solution",
    "question",
    "answer",
)


def row_text(row: Mapping) -> str:
    """All that a model would read of a row, whichever of the course's schemas it has; "" where it has nothing."""
    if row.get("endings") is not None:
        return f"{_context(row)} {_right_ending(row)}".strip()
    if row.get("messages") is not None:
        return "\n".join(text for _, text in _said(row["messages"]))
    keys = [key for key in _TEXT_COLUMNS if key in row]
    if not keys and not {"endings", "messages"} & row.keys():
        raise ValueError(
            f"row_text got a row with keys {', '.join(sorted(row))}; give rows of text, pairs, "
            "HellaSwag, MathCodeInstruct, SciBench or GSM8K"
        )
    return "\n".join(row[key] for key in keys if isinstance(row[key], str))


def row_input(row: Mapping) -> str:
    """What is given to a model at test time: the part that must not stand in the training set."""
    if row.get("endings") is not None:
        return _context(row)
    if row.get("messages") is not None:
        return "\n".join(text for role, text in _said(row["messages"]) if role == "user")
    if row.get("output") is not None:
        return "\n".join(row[key] for key in ("instruction", "input") if isinstance(row.get(key), str))
    for key in ("modern", "ctx", "problem_text", "question"):
        if row.get(key) is not None:
            return str(row[key])
    return row_text(row)


def _context(row: Mapping) -> str:
    """HellaSwag's, which is published whole or in two parts."""
    parts = [row["ctx"]] if row.get("ctx") else [row.get("ctx_a"), row.get("ctx_b")]
    return " ".join(part for part in parts if part)


def _right_ending(row: Mapping) -> str:
    label = str(row.get("label", ""))  # the test split has none
    return row["endings"][int(label)] if label.isdecimal() and int(label) < len(row["endings"]) else ""


def _said(messages) -> list[tuple[str, str]]:
    """(role, text) of each turn; nothing where a conversation cannot be read."""
    try:
        turns = conversation(messages)
    except UnusableRow:
        return []
    return [(turn.role, "\n".join(block["content"] for block in turn.blocks)) for turn in turns]


def token_lengths(tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Tokens of each text and its EOS, (n_texts,)."""
    return np.array([len(ids) + 1 for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]])


class Truncation(NamedTuple):
    """What a max_length takes away."""

    max_length: int
    texts_cut: float  # share of the texts that lose their end
    tokens_lost: float  # share of all tokens


def truncation(lengths: Sequence[int], limits: Iterable[int]) -> list[Truncation]:
    """The share of texts and of tokens that each max_length in ``limits`` cuts off."""
    lengths = np.asarray(lengths)
    return [
        Truncation(
            limit,
            float((lengths > limit).mean()),
            float(np.maximum(lengths - limit, 0).sum() / lengths.sum()),
        )
        for limit in limits
    ]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Puts texts into rows of ``capacity`` tokens, longest first, each where the least room remains.

    Returns the indices of the texts of each row. TRL's packing strategy "bfd". Source: Johnson 1974.
    """
    if max(lengths) > capacity:
        raise ValueError(f"a text has {max(lengths)} tokens, a row {capacity}; truncate the lengths first")
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens free, row), sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(room, (lengths[i], -1))
        free, row = room.pop(place) if place < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        insort(room, (free - lengths[i], row))
    return rows


class Packing(NamedTuple):
    """One way to put texts into rows of max_length tokens; all are shares of the computed token slots."""

    method: str
    real: float  # slots that hold a token of a text
    padding: float
    split: float  # share of the texts that continue in another row


def packing(lengths: Sequence[int], max_length: int, batch_size: int = 8) -> list[Packing]:
    """How much of the computed work is real tokens, for four ways of making batches.

    Texts longer than ``max_length`` are truncated, except when concatenating, which goes on in a new row
    wherever one is full. Batches of ``batch_size`` are taken in the given order.
    """
    cut = [min(int(length), max_length) for length in lengths]
    total = sum(cut)
    batches = [cut[i : i + batch_size] for i in range(0, len(cut), batch_size)]
    slots = {
        "pad to max_length": len(cut) * max_length,
        "pad to the longest of the batch": sum(len(batch) * max(batch) for batch in batches),
        "best-fit packing": len(best_fit(cut, max_length)) * max_length,
    }
    ways = [Packing(name, total / n, 1 - total / n, 0.0) for name, n in slots.items()]
    ends = np.cumsum(lengths)
    first, last = (ends - lengths) // max_length, (ends - 1) // max_length
    rows = -(-int(ends[-1]) // max_length)
    real = float(ends[-1] / (rows * max_length))
    return [*ways, Packing("concatenate and cut", real, 1 - real, float((first != last).mean()))]


def word_counts(texts: Iterable[str]) -> Counter:
    """How often each word comes, in lower case."""
    import regex  # re knows no combining marks, which are the vowels of many scripts

    word = regex.compile(r"[\p{L}\p{M}]+(?:['-][\p{L}\p{M}]+)*")
    return Counter(found for text in texts for found in word.findall(text.lower()))


class RareWords(NamedTuple):
    """Words that a model sees once can hardly be learned."""

    vocabulary: int
    once: float  # share of the vocabulary that comes once
    texts_with_one: float  # share of the texts that hold such a word


def rare_words(texts: Sequence[str]) -> RareWords:
    """Size of the vocabulary and the share of one-off words in it and in the texts."""
    counts = word_counts(texts)
    once = {word for word, count in counts.items() if count == 1}
    touched = sum(bool(once & word_counts([text]).keys()) for text in texts)
    return RareWords(len(counts), len(once) / len(counts), touched / len(texts))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different runs of ``n`` words by all of them: 1 when none comes twice, 0 where there are none.

    It falls with more text, so only equal amounts compare.

    Source: Li et al. 2016, "A diversity-promoting objective function for neural conversation models".
    """
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / max(len(found), 1)


class Finding(NamedTuple):
    """One question to a dataset: what was measured, what is allowed."""

    question: str
    measured: float
    allowed: str
    passed: bool


# question -> the largest share that a set may have and still be called clean
PAIR_LIMITS = {
    "repeated pairs": 0.01,
    "one input, two outputs": 0.01,
    "output equals input": 0.1,
    "validation inputs seen in training": 0.0,
    "pairs with a word seen once": 0.1,
}
MIN_PAIRS = 1000


def audit_pairs(train: Sequence[Mapping], validation: Sequence[Mapping]) -> list[Finding]:
    """Asks a set of modern to Shakespearean pairs six questions; see ``PAIR_LIMITS`` and ``MIN_PAIRS``.

    Rows that cannot be used are left out as lesson 04 does (``usable.usable_pairs``), which also takes "input"
    and "output". The limits are the course's own. Natural text breaks the one on rare words at any size that fits a
    lesson: read it as "these words must be known to the model beforehand".
    """
    train, validation = (
        usable_pairs(rows, name) for name, rows in (("train", train), ("validation", validation))
    )
    rows = [*train, *validation]
    outputs = defaultdict(set)
    for row in rows:
        outputs[normalize_text(row["modern"])].add(normalize_text(row["shakespearean"]))
    modern = [row["modern"] for row in rows]
    measured = {
        "repeated pairs": duplicate_fraction([row_text(row) for row in rows]),
        "one input, two outputs": sum(len(outputs[normalize_text(text)]) > 1 for text in modern) / len(rows),
        "output equals input": float(np.mean([row["modern"] == row["shakespearean"] for row in rows])),
        "validation inputs seen in training": exact_leakage(
            [row["modern"] for row in train], [row["modern"] for row in validation]
        ),
        "pairs with a word seen once": rare_words([row_text(row) for row in rows]).texts_with_one,
    }
    shares = [
        Finding(question, measured[question], f"at most {limit:.0%}", measured[question] <= limit)
        for question, limit in PAIR_LIMITS.items()
    ]
    return [Finding("number of pairs", len(rows), f"at least {MIN_PAIRS}", len(rows) >= MIN_PAIRS), *shares]
