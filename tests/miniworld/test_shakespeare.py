"""The old side follows the rules, the modern side decides it, and the flawed set has its flaws."""

import functools
from collections import Counter

import pytest

from lmlab.miniworld import dataset, early_modern
from lmlab.miniworld import shakespeare as s
from lmlab.miniworld.archaic import check_archaic
from lmlab.miniworld.early_modern import Phrase, same
from lmlab.miniworld.grammar import Sampler, stream

# subject, verb, more of the clause, question?, modern, old; all written by hand
P = s.PRONOUNS
BAKER = same("the baker")
ANNA = s.Subject(same("Anna"), "he")
KNOW, SEE, GO, CRY, BE = same("know"), same("see"), same("go"), Phrase("cry", "weep"), same("be")
CARRY, LOVE, RUN, COME, WANT = (
    Phrase("carry", "bear"),
    same("love"),
    same("run"),
    same("come"),
    Phrase("want", "desire"),
)
HERE, AWAY, WHY = Phrase("here", "hither"), Phrase("away", "hence"), Phrase("why", "wherefore")
CLAUSES = [
    (P["you"], KNOW, {"object": BAKER}, False, "you know the baker", "thou knowest the baker"),
    (P["you"], KNOW, {"object": BAKER}, True, "do you know the baker", "knowest thou the baker"),
    (P["I"], KNOW, {"negated": True}, False, "I do not know", "I know not"),
    (ANNA, KNOW, {"object": BAKER}, False, "Anna knows the baker", "Anna knoweth the baker"),
    (ANNA, KNOW, {"object": BAKER}, True, "does Anna know the baker", "knoweth Anna the baker"),
    (
        P["you"],
        KNOW,
        {"object": same("me"), "negated": True},
        False,
        "you do not know me",
        "thou knowest me not",
    ),
    (
        P["you"],
        KNOW,
        {"object": BAKER, "negated": True},
        False,
        "you do not know the baker",
        "thou knowest not the baker",
    ),
    (
        P["you"],
        SEE,
        {"object": same("him"), "negated": True},
        True,
        "do you not see him",
        "seest thou him not",
    ),
    (P["they"], LOVE, {"object": Phrase("you", "thee")}, False, "they love you", "they love thee"),
    (P["she"], LOVE, {"object": Phrase("you", "thee")}, True, "does she love you", "loveth she thee"),
    (P["you"], GO, {"tail": HERE}, False, "you go here", "thou goest hither"),
    (P["he"], GO, {"tail": AWAY}, False, "he goes away", "he goeth hence"),
    (P["you"], GO, {"tense": "will", "tail": AWAY}, True, "will you go away", "wilt thou go hence"),
    (P["you"], RUN, {"tense": "can", "negated": True}, False, "you can not run", "thou canst not run"),
    (P["you"], RUN, {"tense": "can"}, True, "can you run", "canst thou run"),
    (P["he"], RUN, {"tense": "can"}, False, "he can run", "he can run"),
    (P["you"], CARRY, {"tense": "must"}, False, "you must carry", "thou must bear"),
    (P["you"], CRY, {"tense": "past"}, False, "you cried", "thou weptest"),
    (P["you"], CRY, {"tense": "past"}, True, "did you cry", "weptest thou"),
    (P["he"], CRY, {"tense": "past", "negated": True}, False, "he did not cry", "he wept not"),
    (P["you"], LOVE, {"tense": "past", "object": same("her")}, False, "you loved her", "thou lovedst her"),
    (P["you"], COME, {"tense": "past", "tail": HERE}, False, "you came here", "thou camest hither"),
    (P["you"], COME, {"tense": "perfect", "tail": HERE}, False, "you have come here", "thou art come hither"),
    (P["she"], COME, {"tense": "perfect", "tail": HERE}, False, "she has come here", "she is come hither"),
    (
        P["you"],
        SEE,
        {"tense": "perfect", "object": BAKER},
        True,
        "have you seen the baker",
        "hast thou seen the baker",
    ),
    (
        P["he"],
        SEE,
        {"tense": "perfect", "negated": True, "object": BAKER},
        False,
        "he has not seen the baker",
        "he hath not seen the baker",
    ),
    (P["you"], CARRY, {"adverb": Phrase("never", "ne'er")}, False, "you never carry", "thou ne'er bearest"),
    (
        P["she"],
        SEE,
        {"adverb": Phrase("often", "oft"), "object": BAKER},
        False,
        "she often sees the baker",
        "she oft seeth the baker",
    ),
    (
        P["you"],
        SEE,
        {"tense": "perfect", "adverb": Phrase("never", "ne'er"), "object": BAKER},
        False,
        "you have never seen the baker",
        "thou hast ne'er seen the baker",
    ),
    (P["you"], BE, {"tail": same("wise")}, False, "you are wise", "thou art wise"),
    (P["you"], BE, {"tail": same("wise")}, True, "are you wise", "art thou wise"),
    (P["you"], BE, {"tail": same("wise"), "negated": True}, False, "you are not wise", "thou art not wise"),
    (P["you"], BE, {"tail": same("late"), "tense": "past"}, True, "were you late", "wert thou late"),
    (P["he"], BE, {"tail": same("late"), "tense": "perfect"}, False, "he has been late", "he hath been late"),
    (P["I"], BE, {"tail": same("late"), "tense": "past"}, False, "I was late", "I was late"),
    (P["we"], WANT, {"object": Phrase("nothing", "naught")}, False, "we want nothing", "we desire naught"),
    (
        P["you"],
        WANT,
        {"object": Phrase("nothing", "naught")},
        False,
        "you want nothing",
        "thou desirest naught",
    ),
    (
        P["you"],
        Phrase("marry", "wed"),
        {"tense": "past", "object": BAKER},
        False,
        "you married the baker",
        "thou weddedst the baker",
    ),
    (
        ANNA,
        Phrase("hurry", "hasten"),
        {"tail": Phrase("over the bridge", "o'er the bridge")},
        False,
        "Anna hurries over the bridge",
        "Anna hasteneth o'er the bridge",
    ),
    (
        P["they"],
        Phrase("live", "dwell"),
        {"tail": same("here")},
        True,
        "do they live here",
        "dwell they here",
    ),
    (
        P["you"],
        Phrase("kill", "slay"),
        {"tense": "would", "negated": True, "object": same("us")},
        True,
        "would you not kill us",
        "wouldst thou not slay us",
    ),
]
# verb, with thou, with he, past with thou
CONJUGATION = """
go goest goeth wentest | have hast hath hadst | do dost doth didst | say sayest saith saidest |
be art is wert | know knowest knoweth knewest | see seest seeth sawest | love lovest loveth lovedst |
carry carriest carrieth carriedst | run runnest runneth rannest | forget forgettest forgetteth forgottest |
make makest maketh madest | keep keepest keepeth keptest | wed weddest weddeth weddedst |
come comest cometh camest | meet meetest meeteth mettest | pray prayest prayeth prayedst |
follow followest followeth followedst | visit visitest visiteth visitedst
"""


@pytest.mark.parametrize(("subject", "verb", "more", "question", "modern", "old"), CLAUSES)
def test_clause(subject, verb, more, question, modern, old):
    c = s.Clause(subject, verb, **more)
    assert s.modern(c, question) == modern
    assert s.old(c, question) == old


@pytest.mark.parametrize("row", [row.split() for row in CONJUGATION.split("|")])
def test_conjugation(row):
    verb, thou, he, past_thou = row
    assert (early_modern.with_thou(verb), early_modern.with_he(verb), early_modern.past_with_thou(verb)) == (
        thou,
        he,
        past_thou,
    )


@pytest.mark.parametrize(
    ("modern", "old"),
    [
        ("your apple", "thine apple"),
        ("your drum", "thy drum"),
        ("my uncle", "mine uncle"),
        ("my mother", "my mother"),
        ("your honest smith", "thine honest smith"),
        ("your horse", "thy horse"),
        ("your old drum", "thine old drum"),
        ("your own bread", "thine own bread"),
        ("the apple", "the apple"),
        ("his apple", "his apple"),
    ],
)
def test_possessives(modern, old):
    owner, rest = modern.split(" ", 1)
    assert early_modern.possessive(owner, rest) == (modern, old)


@functools.cache
def sampled(n, seed="test"):
    rng = Sampler(stream(seed))
    return [s.pair(rng) for _ in range(n)]


def starting(rows, modern, old):
    found = [row for row in rows if row["modern"].startswith(modern)]
    return found and all(row["shakespearean"].startswith(old) for row in found)


@pytest.mark.slow
def test_sentence_openings():
    rows = sampled(20_000)
    for modern, old in {
        "I think that you ": "Methinks thou ",
        "It is ": "'Tis ",
        "Is it ": "Is't ",
        "It was ": "'Twas ",
        "Please ": "Prithee, ",
        "Maybe ": "Perchance ",
        "Yes, ": "Aye, ",
        "No, ": "Nay, ",
        "Truly, ": "Verily, ",
        "Goodbye, ": "Farewell, ",
        "Sir, ": "Good sir, ",
        "Why do you ": "Wherefore ",
        "Where do you live ": "Where dwellest thou ",
        "Where do you go ": "Whither goest thou ",
        "Are you ": "Art thou ",
        "Have you ": ("Hast thou ", "Art thou "),
        "Will you ": "Wilt thou ",
        "You are ": "Thou art ",
        "You never ": "Thou ne'er ",
        "I do not know why ": "I know not wherefore ",
        "Do not ask ": "Ask not ",
        "Go to the ": "Go thou to the ",
    }.items():
        assert starting(rows, modern, old), modern


def test_the_modern_side_decides_the_old_one():
    seen = {}
    for row in sampled(20_000):
        assert seen.setdefault(row["modern"], row["shakespearean"]) == row["shakespearean"]
        assert 4 <= len(row["modern"].split()) <= 14
    assert len(seen) > 15_000
    assert sum(modern == old for modern, old in seen.items()) < 0.1 * len(seen)


def test_generated_pairs_pass_the_checker():
    for row in sampled(2_000):
        assert check_archaic(row["modern"], row["shakespearean"])["all"], row


@pytest.mark.parametrize(
    ("modern", "old", "broken"),
    [
        ("Do you know the baker?", "Do you know the baker?", "no_modern_words"),
        ("You know the baker.", "Thou know the baker.", "thou_agrees"),
        ("You know the baker.", "Thou knoweth the baker.", "no_eth_with_thou"),
        ("You see your apple.", "Thou seest thy apple.", "thine_before_vowel"),
        ("You see your drum.", "Thou seest thine drum.", "thine_before_vowel"),
        ("You do not know the baker.", "Thou knowest the baker.", "negation_kept"),
        ("You know the baker.", "Thou knowest the miller.", "content_kept"),
        ("You know the baker.", "He knoweth the baker.", "address_kept"),
        ("Anna knows the baker.", "Anna knows the baker.", "no_modern_words"),
    ],
)
def test_checker_finds(modern, old, broken):
    result = check_archaic(modern, old)
    assert not result[broken]
    assert not result["all"]


def test_copying_fails_the_checker_mostly():
    rows = sampled(2_000)
    passed = sum(check_archaic(row["modern"], row["modern"])["all"] for row in rows)
    unchanged = sum(row["modern"] == row["shakespearean"] for row in rows)
    assert unchanged <= passed < 0.1 * len(rows)


@pytest.mark.slow
def test_splits_are_disjoint_for_all_seeds():
    train = {row["modern"] for row in dataset("pairs", "train", 3_000, 0)}
    validation = {row["modern"] for seed in (0, 1) for row in dataset("pairs", "validation", 500, seed)}
    assert len(train) == 3_000
    assert not train & validation
    assert dataset("pairs", "train", 100, 0) == dataset("pairs", "train", 3_000, 0)[:100]


def test_flawed_set_has_its_flaws():
    rows = dataset("pairs-274", "train") + dataset("pairs-274", "validation")
    assert len(rows) == 274
    counts = Counter(tuple(row.values()) for row in rows)
    assert sum(n - 1 for n in counts.values()) >= 20
    renderings = Counter(modern for modern, _ in counts)
    assert sum(n > 1 for n in renderings.values()) >= 10
    assert {"modern": "That party was lit.", "shakespearean": "Verily, that revel was aflame."} in rows
    assert sum(row["modern"] == row["shakespearean"] for row in rows) >= 8


def test_flawed_split_leaks():
    train, validation = dataset("pairs-274", "train"), dataset("pairs-274", "validation")
    assert sum(row in train for row in validation) >= 2
