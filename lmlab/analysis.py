"""What a dataset is made of: lengths, duplicates, leakage, rare words, packing, and a verdict on pairs."""

import random
import re
import unicodedata
import zlib
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lmlab.pairs import usable_pairs
from lmlab.rows import UnusableRow, conversation

# --- texts of rows ---------------------------------------------------------------------------------


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
    return [
        Truncation(
            limit,
            float((lengths > limit).mean()),
            float(np.maximum(lengths - limit, 0).sum() / lengths.sum()),
        )
        for limit in limits
    ]


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


# --- duplicates ------------------------------------------------------------------------------------

_APOSTROPHES = str.maketrans("’‘ʼ`´", "'''''")
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_MEANINGFUL = ("<super>", "<sub>", "<fraction>")  # 10² is not 102, 5½ not 51/2
_OPENING = re.compile(r'(?<!\S)["“”„«»¿¡…]+')
_CLOSING = (
    re.compile(  # at the end of a word or alone, but a sign between two numbers and after one: 3 : 4, 5!, 6"
        r'(?!(?<=[\d)])\s?[:?]\s?\d)(?!(?<=\d\s)[:!?])(?:(?<![\d)\]}])[!"]|[.,;:?”“»«…。、])+(?!\S)'
    )
)


_HEADING = re.compile(r"^\s*(?:= )+|(?: =)+\s*$", re.MULTILINE)  # WikiText's " = Title = "


def normalised(text: str) -> str:
    """Lower case, one blank between words, no quotation marks or stops at the ends of words.

    It is what makes two texts the same to a reader. Signs of operation, brackets, emoji and the vowel signs of
    other scripts stay: 7 + 2 is not 7 - 2. Letters that Unicode has in several forms become one (NFKC).
    """
    if not text.isascii():
        text = _one_form(text.translate(_INVISIBLE)).translate(_APOSTROPHES)
    text = " ".join(_HEADING.sub(" ", text.casefold()).split())
    return " ".join(_CLOSING.sub("", _OPENING.sub("", text)).split())


def _one_form(text: str) -> str:
    """NFKC, but for characters whose plain form would say something else."""
    plain = (
        char
        if unicodedata.decomposition(char).startswith(_MEANINGFUL)
        else unicodedata.normalize("NFKC", char)
        for char in text
    )
    return unicodedata.normalize("NFC", "".join(plain))


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
    return frozenset(text[i : i + n] for i in range(max(1, len(text) - n + 1)))


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
    crc = [np.array([zlib.crc32(item.encode()) for item in items], dtype=np.uint64) for items in sets]
    values = [value % prime for value in crc]
    return np.stack([((value[:, None] * a + b) % prime).min(0) for value in values])


class Pair(NamedTuple):
    """Two texts that are nearly the same."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str], threshold: float = 0.7) -> list[Pair]:
    """Pairs of texts, not the same, whose shingles have a Jaccard similarity of at least ``threshold``.

    Candidates are found by MinHash, then their true similarity decides: nothing false is given, and of the
    pairs at 0.7 about one in five thousand is missed. The first of exact duplicates stands for them all.
    """
    first = {}
    for i, text in enumerate(texts):
        first.setdefault(normalised(text), i)
    kept = list(first.values())
    sets = [shingles(texts[i]) for i in kept]
    candidates = _candidates(minhash(sets), threshold)
    pairs = [Pair(kept[i], kept[j], jaccard(sets[i], sets[j])) for i, j in candidates]
    return [pair for pair in pairs if pair.similarity >= threshold]


def _candidates(signatures: np.ndarray, threshold: float, band: int = 4) -> list[tuple[int, int]]:
    """Pairs that agree in a whole band of their signatures, and in nearly ``threshold`` of all positions."""
    found = set()
    for start in range(0, signatures.shape[1], band):
        buckets = defaultdict(list)
        for i, values in enumerate(signatures[:, start : start + band]):
            buckets[values.tobytes()].append(i)
        for bucket in buckets.values():
            found.update(combinations(bucket, 2))
    agree = signatures.shape[1] * (threshold - 0.16)  # four standard errors lower, with 128 positions
    return [(i, j) for i, j in sorted(found) if (signatures[i] == signatures[j]).sum() >= agree]


class TextIndex:
    """Texts by their MinHash, to ask one by one whether a new one repeats any of them.

    A question looks at those alone that may be near. Finds what ``exact_duplicates`` and ``near_duplicates``
    find.
    """

    def __init__(self, texts: Iterable[str] = (), threshold: float = 0.7):
        self.threshold = threshold
        self.exact: set[str] = set()
        self.buckets: dict[tuple, list[frozenset[str]]] = defaultdict(list)
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        grams = shingles(text)
        self.exact.add(normalised(text))
        for key in self._keys(grams):
            self.buckets[key].append(grams)

    def repeats(self, text: str) -> str | None:
        """ "repeats another", "nearly repeats another", or None for a new one."""
        if normalised(text) in self.exact:
            return "repeats another"
        grams = shingles(text)
        near = any(
            jaccard(grams, other) >= self.threshold
            for key in self._keys(grams)
            for other in self.buckets.get(key, ())
        )
        return "nearly repeats another" if near else None

    @staticmethod
    def _keys(grams: frozenset[str], band: int = 4) -> list[tuple]:
        signature = minhash([grams])[0]
        return [
            (start, signature[start : start + band].tobytes()) for start in range(0, len(signature), band)
        ]


def split_apart(
    texts: Sequence[str], n_validation: int, seed: int = 0, threshold: float = 0.6
) -> tuple[list[int], list[int]]:
    """Indices for training, and ``n_validation`` for validation, drawn by ``seed``; like texts stay together.

    Alike are texts with a Jaccard similarity of at least ``threshold``, and whatever they chain together.
    Raises ValueError when the groups do not come to ``n_validation``, or nothing is left to train on.
    """
    draw = random.Random(seed).random  # the one method whose stream Python promises to keep
    groups = sorted(_alike(texts, threshold), key=lambda _: draw())
    validation: list[int] = []
    for group in groups:
        if len(validation) + len(group) <= n_validation:
            validation += group
    if len(validation) < n_validation or len(texts) == n_validation:
        raise ValueError(
            f"n_validation got {n_validation} of {len(texts)} texts in {len(groups)} groups of "
            "like ones; give fewer, or more texts"
        )
    return sorted(set(range(len(texts))) - set(validation)), sorted(validation)


def _alike(texts: Sequence[str], threshold: float) -> list[list[int]]:
    """All indices in groups: who is joined to whom by (near) duplicates."""
    group = {i: [i] for i in range(len(texts))}
    links = [pair for same in exact_duplicates(texts) for pair in zip(same, same[1:], strict=False)]
    for i, j, *_ in [*links, *near_duplicates(texts, threshold)]:
        if group[i] is not group[j]:
            group[i] += group[j]
            group.update(dict.fromkeys(group[j], group[i]))
    return list({id(members): members for members in group.values()}.values())


class Leakage(NamedTuple):
    """Shares of the validation texts."""

    exact: float  # stand in the training set
    near: float  # do not, but something nearly the same does


def exact_leakage(train: Sequence[str], validation: Sequence[str]) -> float:
    """Share of ``validation`` that stands in ``train``, the same after ``normalised``."""
    known = {normalised(text) for text in train}
    return sum(normalised(text) in known for text in validation) / len(validation)


def leakage(train: Sequence[str], validation: Sequence[str], threshold: float = 0.7) -> Leakage:
    """How much of ``validation`` a model has seen in ``train``."""
    n = len(train)
    close = {
        max(pair[:2]) - n
        for pair in near_duplicates([*train, *validation], threshold)
        if min(pair[:2]) < n <= max(pair[:2])
    }
    return Leakage(exact_leakage(train, validation), len(close) / len(validation))


# --- words -----------------------------------------------------------------------------------------


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


# --- repetition and copying ------------------------------------------------------------------------


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All runs of ``n`` words of the normalised text, in order."""
    words = normalised(text).split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different runs of ``n`` words by all of them: 1 when none comes twice, 0 where there are none.

    It falls with more text, so only equal amounts compare.

    Source: Li et al. 2016, "A diversity-promoting objective function for neural conversation models".
    """
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / max(len(found), 1)


def copied_ngrams(texts: Sequence[str], training: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each text, how many of its runs of ``n`` words stand in a training text, and how many there are.

    Both (n_texts,); the share of all texts is the quotient of their sums.
    """
    known = {gram for text in training for gram in ngrams(text, n)}
    runs = [ngrams(text, n) for text in texts]
    return (
        np.array([sum(gram in known for gram in grams) for grams in runs]),
        np.array([len(grams) for grams in runs]),
    )


def longest_copies(texts: Sequence[str], training: Sequence[str]) -> list[str]:
    """Of each text, the longest run of its words that stands in one training text (the first, of several)."""
    corpus = "\n".join(f" {normalised(text)} " for text in training)
    return [_longest_copy(normalised(text).split(), corpus) for text in texts]


def _longest_copy(words: list[str], corpus: str) -> str:
    best = begin = 0
    for start in range(len(words)):
        while start + best < len(words) and f" {' '.join(words[start : start + best + 1])} " in corpus:
            best, begin = best + 1, start
    return " ".join(words[begin : begin + best])


# --- a verdict on pairs ----------------------------------------------------------------------------


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


def judge_pairs(train: Sequence[Mapping], validation: Sequence[Mapping]) -> list[Finding]:
    """Asks a set of modern to Shakespearean pairs six questions; see ``PAIR_LIMITS`` and ``MIN_PAIRS``.

    Rows that cannot be used are left out as lesson 04 does (``pairs.usable_pairs``), which also takes "input"
    and "output". The limits are the course's own. Natural text breaks the one on rare words at any size that fits a
    lesson: read it as "these words must be known to the model beforehand".
    """
    train, validation = (
        usable_pairs(rows, name) for name, rows in (("train", train), ("validation", validation))
    )
    rows = [*train, *validation]
    outputs = defaultdict(set)
    for row in rows:
        outputs[normalised(row["modern"])].add(normalised(row["shakespearean"]))
    modern = [row["modern"] for row in rows]
    measured = {
        "repeated pairs": duplicate_share([row_text(row) for row in rows]),
        "one input, two outputs": sum(len(outputs[normalised(text)]) > 1 for text in modern) / len(rows),
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
