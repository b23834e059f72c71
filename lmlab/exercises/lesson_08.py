"""Lesson 08: packing, copying, diversity, temperature."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from lmlab.exercises.judging import EXERCISES, compare, exercise, random_tensors


@exercise("08.1")
def blocks(answer: Any) -> None:
    """All complete blocks of a packed sequence that begin at an EOS."""
    mistakes = {
        # one token longer, and its EOS cut off
        "after_eos": lambda *case: [block[1:] for block in _blocks(*case[:2], case[2] + 1)],
        "anywhere": partial(_blocks, stride=1),
        "consecutive": lambda documents, eos, length: _blocks(documents, eos, length, stride=length),
        "short_blocks": partial(_blocks, complete=False),
    }
    compare(answer, _blocks, EXERCISES["08.1"].cases, mistakes)


def _blocks(
    documents: Sequence[Sequence[int]],
    eos: int,
    length: int,
    stride: int | None = None,
    complete: bool = True,
) -> list[list[int]]:
    """Blocks of the packed sequence that begin at each EOS, or every ``stride`` tokens."""
    sequence = [eos]
    for document in documents:
        sequence += [*document, eos]
    starts = [i for i, token in enumerate(sequence) if token == eos]
    if stride:
        starts = range(0, len(sequence), stride)
    found = [sequence[i : i + length] for i in starts]
    return [block for block in found if len(block) == length or not complete]


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@exercise("08.2")
def copied_fraction(answer: Any) -> None:
    """The fraction of a text's n-grams that occur in a training text."""
    mistakes = {
        # each n-gram of the text once
        "distinct_counted": lambda text, training, n: _fraction_in(list(set(_ngrams(text, n))), training, n),
        # makes n-grams that reach from one text into the next
        "training_texts_joined": lambda text, training, n: _copied(text, [" ".join(training)], n),
        "words_counted": lambda text, training, n: _copied(text, training, 1),
        "divided_by_words": lambda text, training, n: (
            _copied(text, training, n) * len(_ngrams(text, n)) / len(text.split())
        ),
        "new_counted": lambda text, training, n: 1 - _copied(text, training, n),
    }
    compare(answer, _reference_copied, EXERCISES["08.2"].cases, mistakes)


def _reference_copied(text: str, training: Sequence[str], n: int) -> float:
    from lmlab.data.dedup import copied_ngrams

    # the course's own measure, so that exercise and lesson cannot disagree
    copied, total = copied_ngrams([text], training, n)
    return copied[0] / total[0]


def _copied(text: str, training: Sequence[str], n: int) -> float:
    return _fraction_in(_ngrams(text, n), training, n)


def _fraction_in(ngrams: Sequence[tuple], training: Sequence[str], n: int) -> float:
    known = {ngram for text in training for ngram in _ngrams(text, n)}
    return fmean(ngram in known for ngram in ngrams)


@exercise("08.3")
def distinct(answer: Any) -> None:
    """The fraction of different n-grams over all texts."""
    from lmlab.data.statistics import distinct_n

    mistakes = {
        "mean_over_texts": lambda texts, n: fmean(_distinct_in(text, n) for text in texts),
        "texts_joined": lambda texts, n: _distinct_in(" ".join(texts), n),
        "not_divided": lambda texts, n: len({ngram for text in texts for ngram in _ngrams(text, n)}),
        "words_counted": lambda texts, n: _distinct_in(" ".join(texts), 1),
    }
    compare(answer, distinct_n, EXERCISES["08.3"].cases, mistakes)


def _distinct_in(text: str, n: int) -> float:
    return len(set(_ngrams(text, n))) / len(_ngrams(text, n))


@exercise("08.4")
def sampling_probabilities(answer: Any) -> None:
    """The probabilities of sampling with a temperature among the k most likely tokens."""
    # a cold one, a hot one without a cut, and one between
    cases = []
    for vocab_size, temperature, k in ((8, 0.5, 3), (12, 1.5, 12), (10, 0.9, 4)):
        [logits] = random_tensors((vocab_size,))
        cases.append((2 * logits, temperature, k))
    mistakes = {
        "multiplied": lambda logits, t, k: (_cut(logits, k) * t).softmax(0),
        # not normalized again: adds up to less than one
        "cut_after_softmax": lambda logits, t, k: (logits / t).softmax(0) * _is_kept(logits, k),
        # a logit of 0 is not unlikely
        "cut_with_zero": lambda logits, t, k: (logits * _is_kept(logits, k) / t).softmax(0),
        "temperature_unused": lambda logits, t, k: _cut(logits, k).softmax(0),
        "nothing_cut": lambda logits, t, k: (logits / t).softmax(0),
        "probabilities_divided": lambda logits, t, k: _cut(logits, k).softmax(0) / t,
    }
    compare(answer, lambda logits, t, k: (_cut(logits, k) / t).softmax(0), cases, mistakes)


def _is_kept(logits: Any, k: int) -> Any:
    return logits >= logits.topk(k).values[-1]


def _cut(logits: Any, k: int) -> Any:
    # exp(-inf) is 0, so the softmax gives these nothing
    return logits.masked_fill(~_is_kept(logits, k), float("-inf"))
