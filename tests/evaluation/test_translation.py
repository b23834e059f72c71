"""Scores of translations: sacrebleu is the reference, brute force, and sentences judged by hand."""

import functools
import itertools
import math
import random

import numpy as np
import pytest
import sacrebleu

from lmlab.evaluation import translation
from lmlab.miniworld import dataset
from lmlab.miniworld.archaic import archaic_forms

SAID = ["Thou art wise.", "I know thee not, good sir.", "Whither goest thou?", ""]
WANTED = ["Thou art wise.", "I know not thee, sir.", "Where goest thou now?", "Aye."]


def test_corpus_scores_are_sacrebleus():
    rows = [{"modern": text, "shakespearean": text} for text in WANTED]
    scores = translation.score_translations(SAID, rows)
    assert scores["chrf"] == sacrebleu.corpus_chrf(SAID, [WANTED]).score
    assert scores["bleu"] == sacrebleu.corpus_bleu(SAID, [WANTED]).score
    assert (scores["exact"], scores["length_ratio"]) == (0.25, 12 / 13)


def test_sentence_scores_are_sacrebleus():
    scores = translation.sentence_chrf(SAID, WANTED)
    assert scores.tolist() == [
        sacrebleu.sentence_chrf(a, [b]).score for a, b in zip(SAID, WANTED, strict=True)
    ]
    assert scores[0] == pytest.approx(100) and scores[3] == 0


def distance_by_definition(a: str, b: str) -> int:
    @functools.cache
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            between(i - 1, j) + 1, between(i, j - 1) + 1, between(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        )

    return between(len(a), len(b))


def test_edit_distance_is_that_of_the_definition():
    assert translation.edit_distance("kitten", "sitting") == 3
    words = ["".join(letters) for n in range(4) for letters in itertools.product("ab", repeat=n)]
    draw = random.Random(0)
    words += ["".join(draw.choices("abc", k=draw.randrange(12))) for _ in range(20)]
    for a, b in itertools.product(words, words):
        assert translation.edit_distance(a, b) == distance_by_definition(a, b), (a, b)


def test_one_edit_is_a_distance_of_one():
    for changed in ("thou ar", "thou arts", "thau art", "hou art", "tthou art"):
        assert translation.edit_distance("thou art", changed) == 1


def test_edit_share_goes_from_equal_to_all_other():
    shares = translation.edit_fraction(["abc", "abc", "", "", "abcd"], ["abc", "xyz", "", "ab", "ab"])
    assert shares.tolist() == [0, 1, 0, 1, 0.5]


@pytest.mark.parametrize(
    ("modern", "old", "right", "wrong"),
    [
        ("You know the baker.", "Thou knowest the baker.", 1, 0),
        ("You know the baker.", "Thou know the baker.", 0, 1),
        ("You know the baker.", "Thou knoweth the baker.", 0, 2),  # thou with -eth, -eth with thou
        ("Do you know me?", "Knowest thou me?", 1, 0),
        ("You are late.", "Thou art late.", 1, 0),
        ("You never sleep.", "Thou ne'er sleepest.", 1, 0),
        ("Go to the well.", "Go thou to the well.", 1, 0),  # a command: the verb is bare
        ("You go to the well.", "Go thou to the well.", 0, 1),
        ("I love you.", "I love thee.", 1, 0),
        ("You love me.", "Thee lovest me.", 0, 1),
        ("He loves you.", "He loveth thee.", 2, 0),
        ("I love you.", "I loveth thee.", 1, 1),
        ("They have bread.", "They hath bread.", 0, 1),
        ("Your drum is old.", "Thy drum is old.", 1, 0),
        ("Your drum is old.", "Thine drum is old.", 0, 1),
        ("Your apple is old.", "Thine apple is old.", 1, 0),
        ("Your apple is old.", "Thy apple is old.", 0, 1),
        ("Your honest aunt.", "Thine honest aunt.", 1, 0),
        ("The drum is yours.", "The drum is thine.", 1, 0),
        ("His teeth are old.", "His teeth are old.", 0, 0),
        ("You know the baker.", "You know the baker.", 0, 0),
    ],
)
def test_old_forms_are_judged(modern, old, right, wrong):
    assert archaic_forms(modern, old) == (right, wrong)


def test_generated_pairs_have_no_wrong_form():
    counts = [archaic_forms(row["modern"], row["shakespearean"]) for row in dataset("pairs", "train", 3000)]
    right, wrong = np.sum(counts, axis=0)
    assert wrong == 0 and right > 1500


def test_all_scores_of_references_copies_and_nonsense():
    rows = dataset("pairs", "validation", 100)
    wanted, copied = ([row[side] for row in rows] for side in ("shakespearean", "modern"))
    best = translation.score_translations(wanted, rows)
    assert (best["exact"], best["rules_kept"], best["forms_correct"], best["edit_fraction"]) == (1, 1, 1, 0)
    assert (
        best["chrf"] == pytest.approx(100) and best["length_ratio"] == 1 and best["forms_per_sentence"] > 0.3
    )
    copy = translation.score_translations(copied, rows)
    assert copy["forms_per_sentence"] == 0 and copy["rules_kept"] < 0.2 and 30 < copy["chrf"] < 90
    same = translation.score_translations(["la la la la"] * 100, rows)
    assert same["chrf"] < 15 and same["distinct_2"] == pytest.approx(1 / 300)
    assert math.isnan(copy.pop("forms_correct")), "none written, so none right or wrong"
    assert math.isnan(same.pop("forms_correct"))
    assert all(math.isfinite(value) for scores in (best, copy, same) for value in scores.values())


def test_unequal_numbers_are_refused():
    with pytest.raises(ValueError):
        translation.edit_fraction(["a"], ["a", "b"])
