"""The small files that notebooks read: the studies' records of 05 and 09, an example of ratings."""

import json
from collections import Counter
from importlib.resources import files

from lmlab.recipes import load_recipe
from lmlab.viz import blind

DATA = files("lmlab.course") / "data"


def test_the_study_is_of_the_recipe_as_it_is_and_has_all_seeds():
    record = json.loads((DATA / "lora_study.json").read_text(encoding="utf-8"))
    cfg = load_recipe("05", "tiny")
    assert (record["model"], record["data"], record["steps"]) == (cfg.model, cfg.data, cfg.study_steps)
    seeds_of = Counter(run["setting"] for run in record["runs"])
    assert set(seeds_of.values()) == {3} and {"recipe", "rank 1", "all linear"} <= set(seeds_of)
    assert len({(run["setting"], run["seed"]) for run in record["runs"]}) == len(record["runs"])


def test_the_mixing_study_is_of_the_recipe_as_it_is_and_has_both_arms_on_all_seeds():
    record = json.loads((DATA / "grpo_mixing.json").read_text(encoding="utf-8"))
    cfg = load_recipe("09", "tiny")
    assert (record["model"], record["data"], record["other_data"]) == (cfg.model, cfg.data, cfg.other_data)
    assert record["steps"] == cfg.max_steps
    arms = {(run["mix_fraction"], run["seed"]) for run in record["runs"]}
    assert arms == {(fraction, seed) for fraction in (0.0, cfg.mix_fraction) for seed in range(3)}


def test_the_example_of_ratings_says_that_it_is_one(tmp_path):
    example = json.loads((DATA / "blind_rating_example.json").read_text(encoding="utf-8"))
    assert "made up" in example["note"]
    pairs = [blind.Item(**pair) for pair in example["pairs"]]
    test = blind.BlindTest(pairs, tmp_path / "ratings.jsonl", seed=0)
    for i, answers in enumerate(example["ratings"]):
        test.rate(i, answers)
    summary = test.summary()
    assert set(summary.wins) == {"X", "Y"}
    assert sum(summary.wins.values()) + summary.ties == len(pairs)
