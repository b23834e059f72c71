"""Texts that are the same or nearly: normalized forms, MinHash, n-gram overlap, and splits that keep them together."""

import random
import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

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


def normalize_text(text: str) -> str:
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
    """Groups of indices of texts that are the same after ``normalize_text``, each group in order."""
    groups = defaultdict(list)
    for i, text in enumerate(texts):
        groups[normalize_text(text)].append(i)
    return [group for group in groups.values() if len(group) > 1]


def duplicate_fraction(texts: Sequence[str]) -> float:
    """Share of the texts that repeat an earlier one."""
    return sum(len(group) - 1 for group in exact_duplicates(texts)) / len(texts)


def shingles(text: str, n: int = 5) -> frozenset[str]:
    """All runs of ``n`` characters of the normalize_text text (the whole of it, when it is shorter)."""
    text = normalize_text(text)
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
        first.setdefault(normalize_text(text), i)
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
        self.exact.add(normalize_text(text))
        for key in self._keys(grams):
            self.buckets[key].append(grams)

    def repeats(self, text: str) -> str | None:
        """ "repeats another", "nearly repeats another", or None for a new one."""
        if normalize_text(text) in self.exact:
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


def group_split(
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
    """Share of ``validation`` that stands in ``train``, the same after ``normalize_text``."""
    known = {normalize_text(text) for text in train}
    return sum(normalize_text(text) in known for text in validation) / len(validation)


def leakage(train: Sequence[str], validation: Sequence[str], threshold: float = 0.7) -> Leakage:
    """How much of ``validation`` a model has seen in ``train``."""
    n = len(train)
    close = {
        max(pair[:2]) - n
        for pair in near_duplicates([*train, *validation], threshold)
        if min(pair[:2]) < n <= max(pair[:2])
    }
    return Leakage(exact_leakage(train, validation), len(close) / len(validation))


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All runs of ``n`` words of the normalize_text text, in order."""
    words = normalize_text(text).split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


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
    corpus = "\n".join(f" {normalize_text(text)} " for text in training)
    return [_longest_copy(normalize_text(text).split(), corpus) for text in texts]


def _longest_copy(words: list[str], corpus: str) -> str:
    best = begin = 0
    for start in range(len(words)):
        while start + best < len(words) and f" {' '.join(words[start : start + best + 1])} " in corpus:
            best, begin = best + 1, start
    return " ".join(words[begin : begin + best])
