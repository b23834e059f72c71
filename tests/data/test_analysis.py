"""Dataset measures against brute force and hand-made cases."""

import random
from itertools import combinations

import numpy as np
import pytest

from lmlab import miniworld
from lmlab.data.dedup import (
    TextIndex,
    copied_ngrams,
    duplicate_fraction,
    duplicate_groups,
    exact_duplicates,
    jaccard,
    leakage,
    longest_copies,
    minhash,
    near_duplicates,
    ngrams,
    normalize_text,
    shingles,
)
from lmlab.data.splits import group_split
from lmlab.data.statistics import (
    audit_pairs,
    best_fit,
    distinct_n,
    packing_efficiency,
    rare_words,
    row_input,
    row_text,
    word_counts,
)


def with_twins(n=75, seed=0):
    """Stories, and for every third one a twin with some words exchanged."""
    draw = random.Random(seed)
    texts = [row["text"] for row in miniworld.dataset("stories", n=n)]
    for text in texts[::3]:
        words = text.split()
        for _ in range(draw.randint(1, 8)):
            words[draw.randrange(len(words))] = draw.choice(("alpha", "beta", "gamma"))
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_near_duplicates_are_those_of_brute_force(threshold):
    texts = with_twins()
    sets = [shingles(text) for text in texts]
    pairs = combinations(range(len(texts)), 2)
    expected = [(i, j) for i, j in pairs if jaccard(sets[i], sets[j]) >= threshold]
    assert len(expected) > 5
    assert [pair[:2] for pair in near_duplicates(texts, threshold)] == expected


def test_minhash_estimates_jaccard():
    """Mean error 0, and each estimate within five standard errors of 128 draws."""
    sets = [shingles(text) for text in with_twins(60)]
    signatures = minhash(sets)
    errors = []
    for i, j in combinations(range(len(sets)), 2):
        true = jaccard(sets[i], sets[j])
        errors.append((signatures[i] == signatures[j]).mean() - true)
        assert abs(errors[-1]) < 5 * np.sqrt(true * (1 - true) / 128) + 1e-9 or abs(errors[-1]) < 0.1
    assert abs(np.mean(errors)) < 0.01


def test_exact_duplicates_do_not_count_as_near():
    texts = ["Ada ran home.", "ada ran  home!", "Tom slept.", "Ada ran home."]
    assert exact_duplicates(texts) == [[0, 1, 3]]
    assert duplicate_fraction(texts) == 0.5
    assert near_duplicates(texts) == []


def test_leakage_tells_exact_from_near():
    train = [row["text"] for row in miniworld.dataset("stories", n=50)]
    near = train[3].replace("morning", "evening").replace(train[3].split()[4], "Zoe", 1)
    fresh = [row["text"] for row in miniworld.dataset("stories", "validation", n=2)]
    assert leakage(train, [train[0], near, *fresh]) == (0.25, 0.25)


def plain_best_fit(lengths, capacity):
    rows = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in rows if sum(lengths[k] for k in row) + lengths[i] <= capacity]
        if fitting:
            max(fitting, key=lambda row: sum(lengths[k] for k in row)).append(i)
        else:
            rows.append([i])
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_best_fit_fills_as_the_plain_algorithm_does(seed):
    draw = random.Random(seed)
    lengths = [draw.randint(1, 100) for _ in range(200)]
    rows = best_fit(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(200))
    fill = sorted(sum(lengths[i] for i in row) for row in rows)
    assert fill == sorted(sum(lengths[i] for i in row) for row in plain_best_fit(lengths, 100))
    assert max(fill) <= 100
    with pytest.raises(ValueError, match="a row 50"):
        best_fit(lengths, 50)


def test_packing_by_hand():
    ways = {way.method: way for way in packing_efficiency([3, 5, 8, 4], max_length=8, batch_size=2)}
    assert ways["pad to max_length"].real == 20 / 32
    assert ways["pad to the longest of the batch"].real == 20 / (2 * 5 + 2 * 8)
    assert ways["best-fit packing"].real == 20 / 24
    assert ways["concatenate and cut"][1:] == (20 / 24, 1 - 20 / 24, 0.0)
    assert packing_efficiency([3, 6, 3], 4, 2)[3].split == 1 / 3  # 3 + 1 | 4 | 1 + 3: the second is cut


def test_words():
    assert word_counts(["Thou art; thou'rt ARRIVED to-day 12"]) == {
        "thou": 1,
        "art": 1,
        "thou'rt": 1,
        "arrived": 1,
        "to-day": 1,
    }
    assert rare_words(["a b", "a c", "a a"]) == (3, 2 / 3, 2 / 3)


@pytest.mark.parametrize("name", miniworld.dataset_names())
def test_every_dataset_of_the_miniworld_has_texts(name):
    for row in miniworld.dataset(name, n=5):
        assert row_input(row) in row_text(row)


def test_rows_of_real_schemas_have_texts():
    assert row_text({"question": "q?", "answer": "a"}) == "q?\na"
    assert row_text({"ctx": "c", "endings": list("wxyz"), "label": "2"}) == "c y"
    with pytest.raises(ValueError, match="keys foo"):
        row_text({"foo": 1})


def test_an_index_finds_what_a_comparison_of_all_finds():
    texts = with_twins(30) + with_twins(30, seed=1)[::7]
    index, found = TextIndex(), []
    for text in texts:
        found.append(index.repeats(text))
        index.add(text)
    for i, text in enumerate(texts):
        exact = normalize_text(text) in map(normalize_text, texts[:i])
        near = any(jaccard(shingles(text), shingles(other)) >= 0.7 for other in texts[:i])
        assert found[i] == ("repeats another" if exact else "nearly repeats another" if near else None)
    assert {None, "repeats another", "nearly repeats another"} == set(found)
    assert TextIndex(["A b!"]).repeats("a  B") == "repeats another"


ROBE = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"
)


def test_versions_of_one_question_are_one_group():
    questions = [
        ROBE,
        ROBE.upper() + "!",
        ROBE.replace("2 bolts", "4 bolts"),
        "How many eggs does Janet sell?",
    ]
    assert duplicate_groups(questions) == [[0, 1], [2], [3]]
    assert duplicate_groups(questions, 0.7) == [[0, 1, 2], [3]]
    chain = ["a b c d e f g h", "b c d e f g h i", "c d e f g h i j", "quite another text"]
    assert duplicate_groups(chain, 0.5) == [[0, 1, 2], [3]], "who is joined by a third is joined"


def test_a_group_split_keeps_duplicates_on_one_side():
    texts = with_twins() + with_twins()[:5]
    train, validation = group_split(texts, 20, seed=3, threshold=0.6)
    assert sorted(train + validation) == list(range(len(texts))) and len(validation) == 20
    assert not any(jaccard(shingles(texts[i]), shingles(texts[j])) >= 0.6 for i in train for j in validation)
    assert group_split(texts, 20, 3, 0.6) == (train, validation) != group_split(texts, 20, 4, 0.6)
    train, validation = group_split(texts, 20, seed=3)
    assert leakage([texts[i] for i in train], [texts[i] for i in validation]).exact == 0


def test_a_group_split_stays_whole_and_leaves_no_side_empty(caplog):
    chain = ["a b c d e f g h", "b c d e f g h i", "c d e f g h i j", "quite another text"]
    assert group_split(chain, 2, threshold=0.5) == ([0, 1, 2], [3]) and "1 of 2" in caplog.text
    for n in (0, 4):
        with pytest.raises(ValueError, match=f"n_validation got {n} "):
            group_split(chain, n, threshold=0.5)


def test_runs_of_words():
    assert ngrams("A b, c!", 2) == [("a", "b"), ("b", "c")] and ngrams("a b", 3) == []
    assert distinct_n(["a b a b", "a b"], 2) == 2 / 4  # ab ba ab | ab
    copied, there = copied_ngrams(["a b c", "x", "c d a"], ["a b", "b c d"], 2)
    assert copied.tolist() == [2, 0, 1] and there.tolist() == [2, 0, 2]


def test_longest_copies_against_brute_force():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("a b c aa ab <".split(), k=draw.randint(0, 12))) for _ in range(300)]
    training, asked = texts[:20], texts[20:]
    for text, found in zip(asked, longest_copies(asked, training), strict=True):
        words = normalize_text(text).split()
        runs = [words[i:j] for i, j in combinations(range(len(words) + 1), 2)]
        copies = [
            run
            for run in runs
            if any(
                run == known.split()[i : i + len(run)]
                for known in training
                for i in range(len(known.split()))
            )
        ]
        longest = max(map(len, copies), default=0)
        assert len(found.split()) == longest
        assert found.split() == next((run for run in copies if len(run) == longest), [])


def test_verdict_on_pairs_sees_each_flaw():
    clean = [{"modern": f"you see {i} men", "shakespearean": f"thou seest {i} men"} for i in range(1200)]
    assert all(finding.passed for finding in audit_pairs(clean[:1100], clean[1100:]))
    flaws = {
        "repeated pairs": clean + clean[:50],
        "one input, two outputs": clean + [{**row, "shakespearean": "nay"} for row in clean[:50]],
        "output equals input": clean
        + [dict.fromkeys(("modern", "shakespearean"), f"hey {i}") for i in range(300)],
        "number of pairs": clean[:274],
    }
    for question, train in flaws.items():
        assert question in [f.question for f in audit_pairs(train, clean[-1:]) if not f.passed]
    leaked = {f.question: f.measured for f in audit_pairs(clean[:1100], clean[1090:1110])}
    assert leaked["validation inputs seen in training"] == 0.5


# --- what makes two texts the same to a reader -------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [
        (
            "7 + 2",
            "7 - 2",
            "7 / 2",
            "7 * 2",
            "7.2",
            "7 × 2",
            "7 ÷ 2",
            "72",
            "7 − 2",
            "7 = 2",
            "7 < 2",
            "7 > 2",
            "7 ^ 2",
            "7 % 2",
        ),
        ("7+2", "7-2", "7/2", "7:2", "7,2", "7.2"),
        ("3 : 4", "3 4"),
        ("x + y", "x - y"),
        ("-5", "5"),
        (".5", "5"),
        ("5!", "5"),
        ("5 ! = 120", "5 = 120"),
        ("5%", "5"),
        ("$5", "5", "€5"),
        ("√2", "2"),
        ("10²", "102", "10"),
        ("5½", "51/2", "5"),
        ("H₂O", "HO"),
        ("[1, 2]", "(1, 2]", "[1, 2)"),
        ("(7 + 2) * 3", "7 + (2 * 3)"),
        ("x ∈ A", "x ∉ A"),
        ("a ≤ b", "a ≥ b"),
        ("a ∧ b", "a ∨ b"),
        ("I 😀", "I 😂", "I"),
        ("👍🏽", "👍🏿"),
        ("👩‍🚀", "👨‍🚀"),
        ("🇫🇷", "🇩🇪"),
        ("❤", "♥"),
        ("हिन्दी", "हिन्दु", "हन्द"),
        ("กิน", "กัน", "กน"),
        ("வி", "வு"),
        ("نَعَم", "نِعَم"),
        ("résumé", "resume"),
        ("C++", "C#", "C"),
        ("f(x)", "f x"),
        ("a_b", "ab"),
        ("6' 5\"", "6 5"),
        ("don't", "dont"),
    ],
    ids=repr,
)
def test_signs_emoji_and_vowels_part_texts(texts):
    assert len({normalize_text(text) for text in texts}) == len(texts)
    assert exact_duplicates(texts) == []


@pytest.mark.parametrize(
    "texts",
    [
        ("Good  morrow, Sir!", "good morrow sir", "GOOD\nmorrow , sir ."),
        ("“Hi,” he said.", '"Hi", he said', "hi he said…"),
        ("Don’t go", "don't GO"),
        ("é", "e\u0301"),
        ("ﬁne", "fine"),
        ("ｆｕｌｌ", "full"),
        ("STRASSE", "Straße"),
        ("\ufeffThe cat.", "the cat"),
        ("co\u00adoperate", "cooperate"),
        ("What is 7 + 2?", "what is 7 + 2"),
        ("It is 5.", "it is 5"),
        ("¿Qué?", "qué"),
        ("« Oui »", "oui"),
        (" = Lobster = \n It lives .", "lobster it lives"),
        ("7 + 2 =", "7 + 2"),
        ("...", "!", ""),
    ],
    ids=repr,
)
def test_case_blanks_and_stops_do_not(texts):
    assert len({normalize_text(text) for text in texts}) == 1


def test_normalizing_twice_changes_nothing():
    texts = [row_text(row) for name in miniworld.dataset_names() for row in miniworld.dataset(name, n=20)]
    for text in [*texts, "5 ! ? 3", '"(a)". "', "= = x = =", "« … »! 3 : : 4", "¿¡a!?"]:
        assert normalize_text(normalize_text(text)) == normalize_text(text)


def test_words_of_other_scripts_are_whole():
    assert word_counts(["हिन्दी में, กิน"]) == {"हिन्दी": 1, "में": 1, "กิน": 1}


def test_lesson_01_takes_the_columns_that_lesson_04_takes():
    pairs = [{"modern": f"you see {i} men", "shakespearean": f"thou seest {i} men"} for i in range(60)]
    renamed = [{"input": pair["modern"], "output": pair["shakespearean"]} for pair in pairs]
    assert audit_pairs(renamed[:50], renamed[50:]) == audit_pairs(pairs[:50], pairs[50:])
    assert [row_text(row) for row in renamed] == [row_text(row) for row in pairs]
    assert [row_input(row) for row in renamed] == [row_input(row) for row in pairs]
    row = {"instruction": "Say it.", "input": "You.", "output": "Thou."}
    assert row_text(row) == "Say it.\nYou.\nThou." and row_input(row) == "Say it.\nYou."


def test_odd_rows_are_read_as_far_as_they_go():
    for row in (
        {"modern": None, "shakespearean": "b"},
        {"question": None, "answer": None},
        {"text": None},
        {"messages": None},
        {"messages": []},
        {"messages": [{"role": "user", "content": None}]},
        {"ctx": "c", "endings": list("wxyz"), "label": ""},
        {"ctx": None, "endings": list("wxyz"), "label": None},
        {"ctx_a": "a", "ctx_b": "b", "endings": list("wxyz"), "label": 3},
        {"problem_text": None, "solution": 5},
    ):
        assert isinstance(row_text(row), str) and isinstance(row_input(row), str)
    pairs = [{"modern": f"you {i}", "shakespearean": f"thou {i}"} for i in range(60)]
    assert audit_pairs([*pairs, {"modern": None, "shakespearean": "b"}], pairs[:3]) == audit_pairs(
        pairs, pairs[:3]
    )
    assert (
        row_input({"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]})
        == "a?"
    )
