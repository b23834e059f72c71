"""Every recipe loads; every mistake is named with file, key, expectation and the nearest valid key."""

import dataclasses

import pytest

from lmlab import recipes
from lmlab.recipes import LESSONS, RECIPES, RecipeError, find_lesson, list_recipes, load_recipe

ALL = [(lesson, name) for lesson in LESSONS for name in list_recipes(lesson)]
LORA = "05_llama_lora_4bit"


@pytest.mark.parametrize("lesson, name", ALL)
def test_every_recipe_loads(lesson, name):
    cfg = load_recipe(lesson, name, data_dir="somewhere")
    assert (cfg.lesson, cfg.name) == (lesson, name)
    assert "{data_dir}" not in str(cfg)
    for low_high in cfg.expected.values():
        assert len(low_high) == 2


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_has_its_recipes(lesson):
    assert {"tiny", "t4", "gpu", "local"} <= set(list_recipes(lesson))
    assert list_recipes(lesson)[0] == "tiny"


def test_no_recipe_lies_outside_a_lesson():
    assert {path.parent.name for path in RECIPES.rglob("*.yaml")} == set(LESSONS)


def test_overrides_replace_single_values():
    cfg = load_recipe(LORA, learning_rate=1, target_modules="all-linear")
    assert cfg.learning_rate == 1.0 and isinstance(cfg.learning_rate, float)
    assert cfg.target_modules == "all-linear"
    assert cfg.lora_r == load_recipe(LORA).lora_r


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_recipe(LORA).lora_r = 3


@pytest.mark.parametrize(
    "override, message",
    [
        (
            {"lora_rank": 4},
            r"override: got 'lora_rank', expected a key of LoraFinetune.*did you mean 'lora_r",
        ),
        ({"lora_r": "8"}, r"lora_r: expected a whole number, got '8' \(str\)"),
        ({"lora_r": True}, r"lora_r: expected a whole number, got True"),
        ({"lora_r": 0}, r"lora_r: expected a positive number, got 0"),
        ({"learning_rate": -1e-3}, "learning_rate: expected a positive number"),
        ({"learning_rate": "1e-3"}, "write 1.0e-3"),
        ({"lora_dropout": 1.5}, "lora_dropout: expected a number from 0 to 1"),
        ({"activation_checkpointing": 1}, "activation_checkpointing: expected true or false"),
        (
            {"target_modules": []},
            "target_modules: expected a list with at least one entry or text, got \\[\\]",
        ),
        ({"target_modules": 3}, "target_modules: expected a list with at least one entry or text, got 3"),
        ({"n_train": "many"}, "n_train: expected a whole number"),
        ({"learning_rate": float("inf")}, "learning_rate: expected a finite number"),
        ({"expected": {"loss": 3}}, r"expected metric: \[low, high\] with null for an open side, got"),
        ({"expected": {"loss": [2, 1]}}, r"expected: expected metric: \[low, high\]"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(LORA, **override)


def test_values_that_contradict_each_other_are_named():
    with pytest.raises(RecipeError, match="tiny.yaml with overrides: n_embd 100 is not a multiple"):
        load_recipe("02_gpt2_from_scratch", n_embd=100, n_head=3)
    with pytest.raises(RecipeError, match="min_learning_rate 1 is above learning_rate"):
        load_recipe("02_gpt2_from_scratch", min_learning_rate=1.0)


def test_unknown_lesson_and_recipe_suggest_the_nearest():
    with pytest.raises(RecipeError, match="did you mean '05_llama_lora_4bit'"):
        load_recipe("05_lama_lora")
    with pytest.raises(RecipeError, match="expected a recipe of 05_llama.*: tiny, .*did you mean 'tiny'"):
        load_recipe(LORA, "tinny")


def test_data_dir_must_be_given_where_it_is_used():
    with pytest.raises(RecipeError, match=r"local\.yaml: data is .* needs data_dir.*--set data_dir=FOLDER"):
        load_recipe(LORA, "local")


@pytest.fixture
def private_recipes(tmp_path, monkeypatch):
    """A recipe folder of its own in which a test may write nonsense."""
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    (tmp_path / LORA).mkdir()
    return tmp_path / LORA


@pytest.mark.parametrize(
    "text, message",
    [
        ("model: [", "mine.yaml: not valid YAML"),
        ("- a\n- b", "mine.yaml: expected keys and values, got list"),
        ("model: x", "mine.yaml: LoraFinetune needs data, .*add them"),
        ("modle: x", "mine.yaml: got 'modle'.*did you mean 'model'"),
        (
            "learning_rate: 1e-3",
            r"mine.yaml: learning_rate: expected a number \(write 1.0e-3, not 1e-3\), got",
        ),
    ],
)
def test_a_bad_file_is_named(private_recipes, text, message):
    (private_recipes / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(LORA, "mine")


def test_a_recipe_can_be_like_another(private_recipes):
    (private_recipes / "mother.yaml").write_text(
        "model: x\ndata: y\nlora_r: 1\nlora_alpha: 2\ntarget_modules: all-linear\nblock_size: 8\nbatch_size: 1\n"
        "epochs: 3\nlearning_rate: 1.0e-3\n"
    )
    (private_recipes / "child.yaml").write_text("like: mother\nlora_r: 7\n")
    child = load_recipe(LORA, "child", epochs=5)
    assert (child.name, child.model, child.lora_r, child.epochs) == ("child", "x", 7, 5)
    (private_recipes / "grandchild.yaml").write_text("like: child\n")
    with pytest.raises(RecipeError, match="grandchild.yaml: like got 'child', which is like 'mother' itself"):
        load_recipe(LORA, "grandchild")
    (private_recipes / "orphan.yaml").write_text("like: mothre\n")
    with pytest.raises(RecipeError, match="orphan.yaml: got 'mothre'.*did you mean 'mother'"):
        load_recipe(LORA, "orphan")


def test_study_sizes_are_at_most_the_pairs():
    with pytest.raises(RecipeError, match="study_sizes has 9000, more than n_train 3200"):
        load_recipe("04_shakespeare_full_finetune", study_sizes=[10, 9000])
    with pytest.raises(RecipeError, match="style_optimizer: expected adamw_torch or adamw_8bit, got 'sgd'"):
        load_recipe("04_shakespeare_full_finetune", style_optimizer="sgd")


def test_missing_recipes_folder_says_how_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="install lmlab from a clone"):
        load_recipe(LORA)


def test_lessons_are_found_by_number():
    assert find_lesson("05") == LORA
    with pytest.raises(RecipeError, match="expected a lesson"):
        find_lesson("99")
