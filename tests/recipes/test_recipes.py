"""Every recipe loads; every mistake is named with file, key, what was got and the nearest valid key."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lmlab.recipes import (
    LESSONS,
    RecipeError,
    find_lesson,
    find_recipe,
    list_recipes,
    load_recipe,
    parse_settings,
)
from lmlab.recipes.loading import SHIPPED

ALL = [(lesson, name) for lesson in LESSONS for name in list_recipes(lesson)]
LORA = "05_llama_lora_4bit"


@pytest.mark.parametrize("lesson, name", ALL)
def test_every_recipe_loads(lesson, name):
    cfg = load_recipe(lesson, name, data_dir="somewhere")
    assert (cfg.lesson, cfg.name) == (lesson, name)
    assert "{data_dir}" not in str(cfg)
    assert LESSONS[lesson].model_validate(json.loads(json.dumps(cfg.model_dump()))) == cfg


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_has_its_recipes(lesson):
    assert {"tiny", "t4", "gpu", "local"} <= set(list_recipes(lesson))
    assert list_recipes(lesson)[0] == "tiny"


def test_no_recipe_lies_outside_a_lesson():
    assert {path.parent.name for path in SHIPPED.rglob("*.yaml")} == set(LESSONS)


def test_a_recipe_names_a_file_beside_it_also_where_another_extends_it(tmp_path):
    example = SHIPPED / "00_start_here" / "information_desk.csv"
    for name in ("tiny", "gpu"):
        assert load_recipe("00", name).data == str(example)
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: tiny\nbatch_size: 4\n")
    assert load_recipe("00", mine).data == str(example)
    mine.write_text("extends: tiny\ndata: '{recipe_dir}/pairs.csv'\n")
    assert load_recipe("00", mine).data == str(tmp_path / "pairs.csv")


def test_overrides_replace_single_values():
    cfg = load_recipe(LORA, "tiny", learning_rate=1, target_modules="all-linear")
    assert cfg.learning_rate == 1.0 and isinstance(cfg.learning_rate, float)
    assert cfg.target_modules == "all-linear"
    assert cfg.lora_r == load_recipe("05").lora_r


def test_recipes_are_frozen():
    with pytest.raises(ValidationError, match="lora_r"):
        load_recipe(LORA).lora_r = 3


@pytest.mark.parametrize(
    "override, nearest",
    [
        ({"lora_rank": 4}, "did you mean 'lora_r'"),
        ({"name": "mine"}, ""),
        ({"lora_r": "8"}, "'8'"),
        ({"lora_r": True}, "True"),
        ({"lora_r": 0}, "greater than 0"),
        ({"lora_r": 1.5}, "integer"),
        ({"learning_rate": -1e-3}, "greater than 0"),
        ({"learning_rate": "fast"}, "number"),
        ({"lora_dropout": 1.5}, "less than or equal to 1"),
        ({"activation_checkpointing": 1}, "boolean"),
        ({"target_modules": []}, "at least 1"),
        ({"target_modules": 3}, "list"),
        ({"n_train": "many"}, "integer"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"expected": {"loss": 3}}, "list"),
    ],
)
def test_bad_overrides_are_named(override, nearest):
    key = next(iter(override))
    with pytest.raises(RecipeError, match=f"override: .*{key}.*{nearest}"):
        load_recipe(LORA, "tiny", **override)


@pytest.mark.parametrize(
    "lesson, overrides, keys",
    [
        ("02", {"n_embd": 100, "n_head": 3}, ("n_embd 100", "n_head 3")),
        ("04", {"study_sizes": [10, 9000]}, ("study_sizes has 9000", "n_train 3200")),
        ("04", {"small_schedule": "step"}, ("small_schedule", "constant", "'step'")),
        ("06", {"packing": True, "order": "curriculum"}, ("packing", "order")),
        ("07", {"push_to_hub": True}, ("push_to_hub", "hub_owner")),
        ("11", {"blocks_per_step": 6}, ("blocks_per_step 6", "S's batch_size 4")),
        ("11", {"sizes": [{"name": "a", "batch_size": 1}] * 2}, ("sizes", "n_layer")),
        (
            "11",
            {"sizes": [{"name": "a", "batch_size": 1, "model": "gpt2", "n_layer": 2}] * 2},
            ("sizes", "leave n_layer"),
        ),
        ("11", {"sizes": [{"name": "a", "batch_size": 1, "model": "gpt2"}] * 2}, ("same name",)),
    ],
)
def test_impossible_and_contradicting_values_are_named(lesson, overrides, keys):
    with pytest.raises(RecipeError) as error:
        load_recipe(lesson, "tiny", **overrides)
    for key in keys:
        assert key in str(error.value)


def test_unknown_lesson_and_recipe_suggest_the_nearest():
    with pytest.raises(RecipeError, match=f"'{LORA}'"):
        load_recipe("05_lama_lora")
    with pytest.raises(RecipeError, match="'tinny'.*did you mean 'tiny'"):
        load_recipe(LORA, "tinny")
    assert find_lesson("05") == LORA


def test_data_dir_must_be_given_where_it_is_used():
    with pytest.raises(RecipeError, match=r"local\.yaml: data .*--set data_dir=FOLDER"):
        load_recipe(LORA, "local")


# --- one's own recipes ---


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """./recipes/<lesson>/ of a working directory."""
    folder = tmp_path / "recipes" / LORA
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    "text, key",
    [
        ("model: [", "YAML"),
        ("- a\n- b", "list"),
        ("model: x", "learning_rate(.|\n)*data"),
        ("modle: x", "'modle'.*did you mean 'model'"),
        ("extends: tiny\nlearning_rate: fast", "learning_rate"),
        ("extends: tinny", "'tinny'.*did you mean 'tiny'"),
        ("extends: mine", "extends"),
    ],
)
def test_a_bad_file_is_named(own, text, key):
    (own / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=key) as error:
        load_recipe(LORA, "mine")
    assert "tinny" in text or str(own / "mine.yaml") in str(error.value)


def test_a_recipe_of_ones_own_is_found_by_name_and_by_path(own, tmp_path):
    (own / "mine.yaml").write_text("extends: tiny\nlora_r: 7\nlearning_rate: 1e-3\n")
    mine = load_recipe(LORA, "mine", epochs=5)
    assert (mine.name, mine.lora_r, mine.epochs, mine.learning_rate) == ("mine", 7, 5, 1e-3)
    assert mine.model == load_recipe(LORA).model and "mine" in list_recipes(LORA)
    (tmp_path / "child.yaml").write_text("extends: mine\nlora_alpha: 9\n")
    child = load_recipe(LORA, "child.yaml")
    assert (child.name, child.lora_r, child.lora_alpha) == ("child", 7, 9)
    assert load_recipe(LORA, tmp_path / "child.yaml") == child
    with pytest.raises(RecipeError, match="absent.yaml"):
        load_recipe(LORA, "absent.yaml")


def test_a_recipe_of_ones_own_does_not_hide_a_shipped_one(own):
    (own / "tiny.yaml").write_text("extends: t4\n")
    with pytest.raises(RecipeError, match="tiny.yaml.*'tiny'"):
        find_recipe(LORA, "tiny")


# --- values as they come from the command line and from papermill ---


@pytest.mark.parametrize(
    "text, value",
    [
        ("a=3", 3),
        ("a=true", True),
        ("a=null", None),
        ("a=x=y", "x=y"),
        ("a=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("a=all-linear", "all-linear"),
        ("a=[", "["),
        ("a=org/set:config", "org/set:config"),
    ],
)
def test_settings_are_parsed(text, value):
    assert parse_settings([text]) == {"a": value}


@pytest.mark.parametrize("text", ["limit", "=3", "a b=3"])
def test_settings_of_another_form_are_refused(text):
    with pytest.raises(ValueError, match=text.partition("=")[2] or text):
        parse_settings([text])


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001"])
def test_a_number_written_as_text_is_a_number(text):
    assert load_recipe(LORA, "tiny", **parse_settings([f"learning_rate={text}"])).learning_rate == 1e-3
    assert load_recipe(LORA, "tiny", learning_rate=text).learning_rate == 1e-3
    rates = load_recipe("08", "tiny", learning_rates=[text, 1]).learning_rates
    assert rates == [1e-3, 1.0]


def test_local_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").touch()
    cfg = load_recipe("04", "tiny", data="pairs.jsonl", other_data="../plays.txt", prompts=["pairs.jsonl"])
    assert cfg.data == str(tmp_path / "pairs.jsonl") and cfg.prompts == ["pairs.jsonl"]
    assert cfg.other_data == str(tmp_path.parent / "plays.txt")
    assert cfg.small_data == "miniworld/pairs-274"
    (tmp_path / "data").mkdir()
    local = load_recipe("05", "local", data_dir="data")
    assert local.data == str(tmp_path / "data" / "wikitext2_valid.txt")
    home = load_recipe("06", "tiny", data=["~/problems.jsonl"]).data
    assert home == [str(Path("~/problems.jsonl").expanduser())]
