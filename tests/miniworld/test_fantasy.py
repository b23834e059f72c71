"""Fantasy locations: form, number, splits, probability."""

import math
import re
from collections import Counter
from types import SimpleNamespace

import pytest
from enumeration import enumerate_all

from lmlab.miniworld import dataset, fantasy
from lmlab.miniworld.grammar import Sampler, stream


def test_form_and_number():
    rng = Sampler(stream("test"))
    texts = [fantasy.location(rng)["text"] for _ in range(5_000)]
    assert len(set(texts)) > 4_900
    for text in texts[:3_000]:
        inner = re.fullmatch(r"<LOC>([^<>]+)</LOC>", text).group(1)
        assert 2 <= len(re.findall(r"[a-z]\.(?: |$)", inner)) <= 4
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", inner)


def test_splits_are_disjoint_and_repeatable():
    train, validation = dataset("fantasy"), dataset("fantasy", "validation")
    texts = {row["text"] for row in train}
    assert len(texts) == 630
    assert not texts & {row["text"] for row in validation}
    assert dataset("fantasy") == train


def test_the_probability_counts_every_way_to_a_text(monkeypatch):
    """With short lists: the paths to each text, summed by brute force."""
    short = {name: words[: 2 if name == "smells" else 1] for name, words in fantasy.WORDS.items()}
    monkeypatch.setattr(fantasy, "WORDS", short)
    monkeypatch.setattr(fantasy, "PEOPLE", fantasy.PEOPLE[:1])
    monkeypatch.setattr(fantasy, "VILLAGE", SimpleNamespace(colors=("red",)))
    exact, found = Counter(), {}
    for row, path_logprob in enumerate_all(fantasy.location):
        text, logprob = row["text"], row["logprob"]
        exact[text] += math.exp(path_logprob)
        assert found.setdefault(text, logprob) == pytest.approx(logprob, abs=1e-12)
    assert exact.total() == pytest.approx(1) and len(exact) == 6 + 6 * 5 + 6 * 5 * 4
    assert {text: math.exp(logprob) for text, logprob in found.items()} == pytest.approx(dict(exact))


def test_two_names_are_never_one():
    names = [first + second for first in fantasy.WORDS["first"] for second in fantasy.WORDS["second"]]
    assert len(set(names)) == len(names)


def test_rows_have_the_probability_of_their_text():
    rows = dataset("fantasy", n=50)
    assert all(row.keys() == {"text", "logprob"} and -45 < row["logprob"] < -12 for row in rows)
