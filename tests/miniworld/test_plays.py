"""Scenes: the form of printed plays, and nothing of validation in train."""

import re

from lmlab.miniworld import dataset
from lmlab.miniworld.archaic import archaic_forms


def speeches(text: str) -> list[tuple[str, list[str]]]:
    blocks = text.split("\n\n")[1:-1]
    return [(block.split("\n")[0].removesuffix(":"), block.split("\n")[1:]) for block in blocks]


def sentences(split: str, seed: int) -> list[str]:
    return [
        line
        for row in dataset("plays", split, 100, seed)
        for _, lines in speeches(row["text"])
        for line in lines
    ]


def test_scenes_have_the_form_of_plays():
    for row in dataset("plays", "train", 200):
        first, second = re.fullmatch(r"Enter (.+) and (.+)\.", row["text"].split("\n")[0]).groups()
        said = speeches(row["text"])
        assert row["text"].endswith("\n\nExeunt.") and first != second and 4 <= len(said) <= 6
        names = [name for name, _ in said]
        assert set(map(str.lower, names)) == {first.lower(), second.lower()}
        assert all(a != b for a, b in zip(names, names[1:], strict=False)), "somebody speaks twice in a row"
        assert all(1 <= len(sentences) <= 2 for _, sentences in said)


def test_the_english_is_old():
    said = sentences("train", 0)
    assert sum(archaic_forms("you", sentence)[0] for sentence in said) > 0.3 * len(said)


def test_no_sentence_of_validation_is_in_train():
    train, validation = (
        {text for text in sentences(split, seed) if len(text.split()) > 5}
        for split, seed in (("train", 0), ("validation", 1))
    )
    assert len(validation & train) <= 0.02 * len(validation), "some old sentences have two modern ones"


def test_scenes_are_the_same_each_time_and_fit_the_bases():
    from lmlab.models.sources import load_tokenizer

    rows = dataset("plays", "validation", 60)
    assert rows == dataset("plays", "validation", 60) and rows[:5] == dataset("plays", "validation", 5)
    tokenizer = load_tokenizer("miniworld/gpt2")
    lengths = [len(ids) for ids in tokenizer([row["text"] for row in rows])["input_ids"]]
    assert max(lengths) <= 256 and min(lengths) > 40
