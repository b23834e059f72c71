"""metrics.json and the table of expectations."""

import json

import pytest

from lmlab.course.results import inside, write_metrics
from lmlab.recipes import load_recipe
from lmlab.training.progress import read_progress, report_progress


@pytest.fixture
def cfg():
    return load_recipe("05_llama_lora_4bit", expected={"drop": [0.15, None]})


def test_metrics_are_written_and_compared(tmp_path, cfg):
    table = write_metrics(tmp_path, cfg, {"drop": 0.1, "tokens": 12})
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["metrics"] == {"drop": 0.1, "tokens": 12}
    assert record["recipe"] == "tiny"
    assert record["settings"]["lora_alpha"] == cfg.lora_alpha, "the values that the recipe came to"
    assert table.rows[0] == ("drop", "at least 0.15", "0.1", "NO")
    assert "NO" in str(table) and "at least 0.15" in table._repr_html_()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["metrics.json", "tensorboard"]


def test_numpy_and_torch_scalars_become_plain_numbers(tmp_path, cfg):
    import torch

    write_metrics(tmp_path, cfg, {"drop": torch.tensor(0.5)})
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == {"drop": 0.5}


def test_an_expected_metric_that_was_not_measured_is_an_error(tmp_path, cfg):
    with pytest.raises(ValueError, match="drop"):
        write_metrics(tmp_path, cfg, {"dorp": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value, band, expected",
    [
        (1, [0, 2], True),
        (0, [0, 2], True),
        (3, [0, 2], False),
        (-9, [None, 2], True),
        (9, [0, None], True),
        (float("nan"), [0, None], False),
    ],
)
def test_inside(value, band, expected):
    assert inside(value, band) is expected


def test_progress_is_read_line_by_line(tmp_path):
    assert read_progress(tmp_path) == []
    report_progress(tmp_path / "new", 0, val_loss=2)
    report_progress(tmp_path / "new", 5, val_loss=1.5, floor_gap=float("inf"))
    with open(tmp_path / "new" / "progress.jsonl", "a") as file:
        file.write('{"step": 10, "val')
    assert read_progress(tmp_path / "new") == [
        {"step": 0, "val_loss": 2.0},
        {"step": 5, "val_loss": 1.5, "floor_gap": float("inf")},
    ]


def test_progress_of_a_run_that_goes_on_has_each_step_once(tmp_path):
    for step in (0, 5, 10):
        report_progress(tmp_path, step, val_loss=step, gap=1)
    report_progress(tmp_path, 0, other=3)
    report_progress(tmp_path, 5, val_loss=50)  # it was killed, and went on after a step before this one
    assert [(row["step"], row.get("val_loss")) for row in read_progress(tmp_path)] == [
        (0, 0),
        (0, None),
        (5, 50),
    ]


def test_a_recipe_with_values_in_values_is_written(tmp_path):
    cfg = load_recipe("11_style_gpt2_sizes", expected={})
    write_metrics(tmp_path, cfg, {"loss": 1.0})
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["settings"]["sizes"][0]["n_layer"] == cfg.sizes[0].n_layer
