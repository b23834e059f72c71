"""Fantasy locations: form, number, splits."""

import re

from lmlab.miniworld import fantasy
from lmlab.miniworld.grammar import Draw, stream


def test_form_and_number():
    d = Draw(stream("test"))
    texts = [fantasy.location(d) for _ in range(22_000)]
    assert len(set(texts)) > 20_000
    for text in texts[:3_000]:
        inner = re.fullmatch(r"<LOC>([^<>]+)</LOC>", text).group(1)
        assert 2 <= len(re.findall(r"[a-z]\.(?: |$)", inner)) <= 4
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", inner)


def test_splits_are_disjoint_and_repeatable():
    train, validation = fantasy.rows("train", 630), fantasy.rows("validation", 70)
    texts = {row["text"] for row in train}
    assert len(texts) == 630
    assert not texts & {row["text"] for row in validation}
    assert fantasy.rows("train", 630) == train
