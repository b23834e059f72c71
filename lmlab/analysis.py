"""What a dataset is made of: lengths, duplicates, leakage, rare words, packing, and a verdict on a set of pairs."""

import re
import zlib
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

# --- texts of rows ---------------------------------------------------------------------------------


def row_text(row: Mapping) -> str:
    """All that a model would read of a row, whichever of the course's schemas it has."""
    if "endings" in row:
        return f"{row['ctx']} {row['endings'][int(row['label'])]}"
    if "messages" in row:
        return "\n".join(part["content"] for message in row["messages"] for part in message["content"])
    keys = [key for key in ("text", "modern", "shakespearean", "problem_text", "solution", "question", "answer")
            if isinstance(row.get(key), str)]
    if not keys:
        raise ValueError(f"row_text got a row with keys {', '.join(sorted(row))}; it knows text, pairs, HellaSwag, "
                         "MathCodeInstruct, SciBench and GSM8K rows")
    return "\n".join(row[key] for key in keys)


def row_input(row: Mapping) -> str:
    """What is given to a model at test time: the part that must not stand in the training set."""
    if "messages" in row:
        return "\n".join(part["content"] for message in row["messages"] if message["role"] == "user"
                         for part in message["content"])
    for key in ("modern", "ctx", "problem_text", "question"):
        if key in row:
            return row[key]
    return row_text(row)


# --- lengths ---------------------------------------------------------------------------------------

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
    return [Truncation(limit, float((lengths > limit).mean()),
                       float(np.maximum(lengths - limit, 0).sum() / lengths.sum())) for limit in limits]


# --- packing ---------------------------------------------------------------------------------------

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

    Texts longer than ``max_length`` are truncated, except when concatenating, which cuts every text where a row is
    full, and lets texts see their neighbours. Batches of ``batch_size`` are taken in the given order.
    """
    cut = [min(int(length), max_length) for length in lengths]
    total = sum(cut)
    batches = [cut[i:i + batch_size] for i in range(0, len(cut), batch_size)]
    slots = {"pad to max_length": len(cut) * max_length,
             "pad to the longest of the batch": sum(len(batch) * max(batch) for batch in batches),
             "best-fit packing": len(best_fit(cut, max_length)) * max_length}
    ways = [Packing(name, total / n, 1 - total / n, 0.0) for name, n in slots.items()]
    ends = np.cumsum(lengths)
    first, last = (ends - lengths) // max_length, (ends - 1) // max_length
    rows = -(-int(ends[-1]) // max_length)
    real = float(ends[-1] / (rows * max_length))
    return [*ways, Packing("concatenate and cut", real, 1 - real, float((first != last).mean()))]


# --- duplicates ------------------------------------------------------------------------------------

def normalised(text: str) -> str:
    """Lower case, words apart by one blank, without punctuation: what makes two texts the same to a reader."""
    return " ".join(re.findall(r"[\w'<>]+", text.lower()))


def exact_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Groups of indices of texts that are the same after ``normalised``, each group in order."""
    groups = defaultdict(list)
    for i, text in enumerate(texts):
        groups[normalised(text)].append(i)
    return [group for group in groups.values() if len(group) > 1]


def duplicate_share(texts: Sequence[str]) -> float:
    """Share of the texts that repeat an earlier one."""
    return sum(len(group) - 1 for group in exact_duplicates(texts)) / len(texts)


def shingles(text: str, n: int = 5) -> frozenset[str]:
    """All runs of ``n`` characters of the normalised text (the whole of it, when it is shorter)."""
    text = normalised(text)
    return frozenset(text[i:i + n] for i in range(max(1, len(text) - n + 1)))


def jaccard(a: frozenset, b: frozenset) -> float:
    """Size of the intersection by size of the union: 1 for equal sets, 0 for disjoint ones."""
    return len(a & b) / len(a | b)


def minhash(sets: Sequence[frozenset[str]], n_hashes: int = 128, seed: int = 0) -> np.ndarray:
    """A signature per set, (n_sets, n_hashes): two sets agree at a position with probability ``jaccard``.

    Position k holds the least value of the k-th random hash over the set. Source: Broder 1997.
    """
    prime = np.uint64(2**31 - 1)
    draw = np.random.default_rng(seed)
    a = draw.integers(1, int(prime), n_hashes, dtype=np.uint64)
    b = draw.integers(0, int(prime), n_hashes, dtype=np.uint64)
    values = [np.array([zlib.crc32(item.encode()) for item in items], dtype=np.uint64) % prime for items in sets]
    return np.stack([((value[:, None] * a + b) % prime).min(0) for value in values])


class Pair(NamedTuple):
    """Two texts that are nearly the same."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str], threshold: float = 0.8, n_bands: int = 32) -> list[Pair]:
    """Pairs of texts, not the same, whose shingles have a Jaccard similarity of at least ``threshold``.

    Candidates share a band of four of their 128 MinHash values, then the true similarity decides: nothing false is
    given, and a pair at 0.8 is missed once in ten million. The first of exact duplicates stands for them all.
    """
    firsts = list({normalised(text): i for i, text in reversed(list(enumerate(texts)))}.values())[::-1]
    sets = [shingles(texts[i]) for i in firsts]
    bands = np.split(minhash(sets), n_bands, axis=1)
    candidates = set()
    for band in bands:
        buckets = defaultdict(list)
        for i, key in enumerate(band):
            buckets[key.tobytes()].append(i)
        for bucket in buckets.values():
            candidates.update(combinations(bucket, 2))
    pairs = [Pair(firsts[i], firsts[j], jaccard(sets[i], sets[j])) for i, j in sorted(candidates)]
    return [pair for pair in pairs if pair.similarity >= threshold]


class Leakage(NamedTuple):
    """Shares of the validation texts."""

    exact: float  # stand in the training set
    near: float  # do not, but something nearly the same does


def leakage(train: Sequence[str], validation: Sequence[str], threshold: float = 0.8) -> Leakage:
    """How much of ``validation`` a model has seen in ``train``."""
    known = {normalised(text) for text in train}
    exact = [normalised(text) in known for text in validation]
    n = len(train)
    close = {max(pair[:2]) - n for pair in near_duplicates([*train, *validation], threshold)
             if min(pair[:2]) < n <= max(pair[:2])}
    return Leakage(sum(exact) / len(exact), len(close) / len(exact))


# --- words -----------------------------------------------------------------------------------------

def word_counts(texts: Iterable[str]) -> Counter:
    """How often each word comes, in lower case."""
    return Counter(word for text in texts for word in re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", text.lower()))


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


# --- a verdict on pairs ----------------------------------------------------------------------------

class Finding(NamedTuple):
    """One question to a dataset: what was measured, what is allowed."""

    question: str
    measured: float
    allowed: str
    passed: bool


# question -> the largest share that a set may have and still be called clean
PAIR_LIMITS = {"repeated pairs": 0.01, "one input, two outputs": 0.01, "output equals input": 0.01,
               "validation inputs seen in training": 0.0, "pairs with a word seen once": 0.1}
MIN_PAIRS = 1000


def judge_pairs(train: Sequence[Mapping], validation: Sequence[Mapping]) -> list[Finding]:
    """Asks a set of modern to Shakespearean pairs six questions; the limits are ``PAIR_LIMITS``, ``MIN_PAIRS``.

    The limits are the course's own, set from what lesson 04 shows: below a thousand pairs a small model
    memorises, and what stands in both parts makes its validation loss too good.
    """
    rows = [*train, *validation]
    outputs = defaultdict(set)
    for row in rows:
        outputs[normalised(row["modern"])].add(normalised(row["shakespearean"]))
    modern = [row["modern"] for row in rows]
    measured = {
        "repeated pairs": duplicate_share([row_text(row) for row in rows]),
        "one input, two outputs": sum(len(outputs[normalised(text)]) > 1 for text in modern) / len(rows),
        "output equals input": float(np.mean([row["modern"] == row["shakespearean"] for row in rows])),
        "validation inputs seen in training": leakage([row["modern"] for row in train],
                                                      [row["modern"] for row in validation]).exact,
        "pairs with a word seen once": rare_words([row_text(row) for row in rows]).texts_with_one,
    }
    shares = [Finding(question, measured[question], f"at most {limit:.0%}", measured[question] <= limit)
              for question, limit in PAIR_LIMITS.items()]
    return [Finding("number of pairs", len(rows), f"at least {MIN_PAIRS}", len(rows) >= MIN_PAIRS), *shares]
