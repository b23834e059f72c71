"""Texts that are the same or nearly: normalization, MinHash, leakage between splits, n-gram overlap."""

import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

# --- what makes two texts the same to a reader --------------------------------------------------------

_APOSTROPHES = str.maketrans("’‘ʼ`´", "'''''")
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_MEANINGFUL = ("<super>", "<sub>", "<fraction>")  # 10² is not 102, 5½ not 51/2
_OPENING = re.compile(r'(?<!\S)["“”„«»¿¡…]+')
# at the end of a word or alone; but a sign between two numbers, and one after a number, stay: 3 : 4, 5!, 6"
_CLOSING = re.compile(
    r'(?!(?<=[\d)])\s?[:?]\s?\d)(?!(?<=\d\s)[:!?])(?:(?<![\d)\]}])[!"]|[.,;:?”“»«…。、])+(?!\S)'
)
_HEADING = re.compile(r"^\s*(?:= )+|(?: =)+\s*$", re.MULTILINE)  # WikiText's " = Title = "


def normalize_text(text: str) -> str:
    """Lower case, single spaces, no quotation marks or punctuation at the ends of words.

    Two texts are duplicates if this makes them equal. Operators, parentheses, emoji and the vowel signs of
    other scripts stay: 7 + 2 is not 7 - 2. Letters that Unicode has in several forms become one (NFKC).
    """
    if not text.isascii():
        text = _nfkc(text.translate(_INVISIBLE)).translate(_APOSTROPHES)
    text = " ".join(_HEADING.sub(" ", text.casefold()).split())
    return " ".join(_CLOSING.sub("", _OPENING.sub("", text)).split())


def _nfkc(text: str) -> str:
    """NFKC, except for characters whose plain form would say something else."""
    plain = ""
    for character in text:
        if not unicodedata.decomposition(character).startswith(_MEANINGFUL):
            character = unicodedata.normalize("NFKC", character)
        plain += character
    # a letter and its accent, which NFKC joins only where they are given together
    return unicodedata.normalize("NFC", plain)


def exact_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Groups of indices of texts that are equal after ``normalize_text``, each group in order."""
    groups = defaultdict(list)
    for i, text in enumerate(texts):
        groups[normalize_text(text)].append(i)
    return [group for group in groups.values() if len(group) > 1]


def duplicate_fraction(texts: Sequence[str]) -> float:
    """Fraction of the texts that repeat an earlier one."""
    return sum(len(group) - 1 for group in exact_duplicates(texts)) / len(texts)


# --- near-duplicates ----------------------------------------------------------------------------------

THRESHOLD = 0.7  # Jaccard similarity from which two texts are nearly the same
_SHINGLE = 5  # characters
_HASHES = 128  # values of a signature
_BAND = 4  # consecutive ones that must agree for two texts to be compared at all


def shingles(text: str) -> frozenset[str]:
    """All runs of five characters of the normalized text (the whole of it, when it is shorter)."""
    text = normalize_text(text)
    n_runs = max(1, len(text) - _SHINGLE + 1)
    return frozenset(text[i : i + _SHINGLE] for i in range(n_runs))


def jaccard(a: frozenset, b: frozenset) -> float:
    """Size of the intersection over size of the union: 1 for equal sets, 0 for disjoint ones."""
    return len(a & b) / len(a | b)


def minhash(sets: Sequence[frozenset[str]]) -> np.ndarray:
    """MinHash signatures: two sets agree at a position with probability ``jaccard``. Source: Broder 1997.

    Args:
        sets: Such as ``shingles`` gives them.

    Returns:
        Signatures, (n_sets, 128); position k holds the minimum of the k-th random hash function over the set.
    """
    prime = np.uint64(2**31 - 1)
    rng = np.random.default_rng(0)
    a = rng.integers(1, int(prime), _HASHES, dtype=np.uint64)
    b = rng.integers(0, int(prime), _HASHES, dtype=np.uint64)
    signatures = []
    for items in sets:
        hashes = np.array([zlib.crc32(item.encode()) for item in items], dtype=np.uint64) % prime
        signatures.append(((hashes[:, None] * a + b) % prime).min(0))
    return np.stack(signatures)


class Pair(NamedTuple):
    """Two texts that are nearly the same."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> list[Pair]:
    """Pairs of different texts whose shingles have a Jaccard similarity of at least ``threshold``.

    MinHash finds candidates, then their true similarity decides: no pair is wrong, and of the pairs at 0.7
    about one in five thousand is missed. The first of exact duplicates stands for them all.
    """
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(normalize_text(text), i)
    kept = list(first.values())
    sets = [shingles(texts[i]) for i in kept]
    pairs = []
    for i, j in _candidates(minhash(sets), threshold):
        similarity = jaccard(sets[i], sets[j])
        if similarity >= threshold:
            pairs.append(Pair(kept[i], kept[j], similarity))
    return pairs


def _candidates(signatures: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Pairs that agree in a whole band of their signatures, and in nearly ``threshold`` of all positions."""
    buckets = defaultdict(list)
    for i, signature in enumerate(signatures):
        for key in _band_keys(signature):
            buckets[key].append(i)
    found = set()
    for bucket in buckets.values():
        found.update(combinations(bucket, 2))
    agree = _HASHES * (threshold - 0.16)  # four standard errors lower
    return [(i, j) for i, j in sorted(found) if (signatures[i] == signatures[j]).sum() >= agree]


def _band_keys(signature: np.ndarray) -> list[tuple[int, bytes]]:
    return [(k, signature[k : k + _BAND].tobytes()) for k in range(0, len(signature), _BAND)]


def duplicate_groups(texts: Sequence[str], threshold: float | None = None) -> list[list[int]]:
    """All indices in groups: (near-)duplicates are in one, with whatever they chain together.

    Args:
        texts: The texts.
        threshold: Of ``near_duplicates``; None: only the same texts are in one group.
    """
    links = [pair for same in exact_duplicates(texts) for pair in pairwise(same)]
    if threshold is not None:
        links += [(pair.first, pair.second) for pair in near_duplicates(texts, threshold)]
    group = [[i] for i in range(len(texts))]  # the group that each text is in
    # the smaller index keeps its group, and the other group joins it
    for i, j in links:
        joined, other = group[i], group[j]
        if joined is not other:
            joined += other
            for member in other:
                group[member] = joined
    return list({id(members): members for members in group}.values())


class TextIndex:
    """Finds whether a new text repeats any of those so far, as ``near_duplicates`` does, but one by one."""

    def __init__(self, texts: Iterable[str] = ()):
        self.exact: set[str] = set()
        self.buckets: dict[tuple[int, bytes], list[frozenset[str]]] = defaultdict(list)
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Adds a text to those that a new one may repeat."""
        self.exact.add(normalize_text(text))
        grams = shingles(text)
        for key in _band_keys(minhash([grams])[0]):
            self.buckets[key].append(grams)

    def repeats(self, text: str) -> str | None:
        """ "repeats another", "nearly repeats another", or None for a new text."""
        if normalize_text(text) in self.exact:
            return "repeats another"
        grams = shingles(text)
        for key in _band_keys(minhash([grams])[0]):
            if any(jaccard(grams, other) >= THRESHOLD for other in self.buckets.get(key, ())):
                return "nearly repeats another"
        return None


# --- leakage and copies -------------------------------------------------------------------------------


class Leakage(NamedTuple):
    """Fractions of the validation texts."""

    exact: float  # are in the training set
    near: float  # are not, but a near-duplicate is


def exact_leakage(train: Sequence[str], validation: Sequence[str]) -> float:
    """Fraction of ``validation`` that is in ``train``, compared after ``normalize_text``."""
    known = {normalize_text(text) for text in train}
    return sum(normalize_text(text) in known for text in validation) / len(validation)


def unseen(rows: Sequence[dict], others: Sequence[dict], text_of: Callable[[dict], str]) -> list[dict]:
    """Those of ``rows`` whose text, after ``normalize_text``, is that of none of ``others``."""
    known = {normalize_text(text_of(row)) for row in others}
    return [row for row in rows if normalize_text(text_of(row)) not in known]


def leakage(train: Sequence[str], validation: Sequence[str], threshold: float = THRESHOLD) -> Leakage:
    """How much of ``validation`` a model has seen in ``train``."""
    n_train = len(train)
    leaked = set()
    for pair in near_duplicates([*train, *validation], threshold):
        if pair.first < n_train <= pair.second:
            leaked.add(pair.second)
    return Leakage(exact_leakage(train, validation), len(leaked) / len(validation))


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All runs of ``n`` words of the normalized text, in order."""
    words = normalize_text(text).split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def copied_ngrams(texts: Sequence[str], training: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each text, how many of its n-grams are in a training text, and how many it has; both (n_texts,).

    The fraction over all texts is the quotient of their sums.
    """
    known = {gram for text in training for gram in ngrams(text, n)}
    copied, total = [], []
    for text in texts:
        grams = ngrams(text, n)
        copied.append(sum(gram in known for gram in grams))
        total.append(len(grams))
    return np.array(copied), np.array(total)


def longest_copies(texts: Sequence[str], training: Sequence[str]) -> list[str]:
    """Of each text, the longest run of its words that is in one training text (the first of several)."""
    # whitespace around each text, so that a search for " art " does not find it in "heart"
    corpus = "\n".join(f" {normalize_text(text)} " for text in training)
    return [_longest_copy(normalize_text(text).split(), corpus) for text in texts]


def _longest_copy(words: list[str], corpus: str) -> str:
    begin = length = 0
    for start in range(len(words)):
        # only a longer run than the best so far is of interest
        while start + length < len(words) and f" {' '.join(words[start : start + length + 1])} " in corpus:
            begin, length = start, length + 1
    return " ".join(words[begin : begin + length])
