"""All notebooks on the tiny recipes, their measurements held to the bands in tests/expected/.

LMLAB_RUN=runs/<time> looks at a finished run instead of running the course.
"""

import json
import os
from pathlib import Path

import pytest
from record_expected import EXPECTED, band, banded_metrics, outside, run_course

from lmlab.hardware import available_cores
from lmlab.recipes import LESSONS

_LOSSES = ("train/loss", "train/learning_rate", "train/grad_norm", "eval/loss")
CURVES = {
    **dict.fromkeys(
        (
            "00_start_here",
            "02_gpt2_from_scratch",
            "04_shakespeare_full_finetune",
            "05_llama_lora_4bit",
            "06_deepseek_qlora_think",
            "08_fantasy_locations",
            "11_style_gpt2_sizes",
        ),
        _LOSSES,
    ),
    "09_grpo_reasoning": ("train/loss", "train/learning_rate", "train/grad_norm", "train/reward"),
}


@pytest.fixture(scope="session")
def course(tmp_path_factory):
    """(folder of the run, lesson -> its entry in run.json)."""
    finished = os.environ.get("LMLAB_RUN")
    jobs = str(min(2, available_cores()))
    run = Path(finished) if finished else run_course(tmp_path_factory.mktemp("course"), "all", "--jobs", jobs)
    entries = json.loads((run / "run.json").read_text(encoding="utf-8"))["lessons"]
    return run, {entry["lesson"]: entry for entry in entries}


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson_measures_what_it_should(course, lesson):
    run, entries = course
    assert entries[lesson]["status"] == "ok", entries[lesson]["error"]
    recorded = EXPECTED / f"{lesson}.json"
    assert recorded.exists(), f"{recorded} is missing; python tests/record_expected.py --lessons {lesson[:2]}"
    wrong = outside(banded_metrics(run, lesson), json.loads(recorded.read_text(encoding="utf-8")))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson_stands_in_tensorboard(course, lesson):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = course[0] / lesson
    numbers, texts, pictures = set(), set(), set()
    for where in {path.parent for path in folder.glob("tensorboard/**/events*")}:
        events = EventAccumulator(str(where))
        events.Reload()
        numbers |= set(events.Tags()["scalars"])
        texts |= set(events.Tags()["tensors"])
        pictures |= set(events.Tags()["images"])
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert {f"result/{name}" for name, value in metrics.items() if isinstance(value, float)} <= numbers
    assert lesson not in CURVES or set(CURVES[lesson]) <= numbers
    assert {tag.split("/")[0] for tag in numbers} <= {"train", "eval", "result"}
    of_trainers = {"args", "model_config"}  # by transformers' callback
    assert {tag.split("/")[0] for tag in texts} - of_trainers == {"recipe", "samples"}
    assert pictures and {tag.split("/")[0] for tag in pictures} == {"figures"}


def test_memory_stays_under_four_gib(course):
    peaks = {lesson: entry["peak_memory_gb"] for lesson, entry in course[1].items()}
    assert max(peaks.values()) < 4, peaks


def test_a_band_holds_its_seeds_and_a_tenth_around_them():
    assert band([2.0, 2.0]) == pytest.approx([1.8, 2.2])
    low, high = band([0.5, 1.5])
    assert low == pytest.approx(1 - 4 * 0.5**0.5) and high == pytest.approx(1 + 4 * 0.5**0.5)
    assert band([0.98, 0.99], [0.95, 1.0]) == [0.95, 1.0]
    with pytest.raises(ValueError, match="recipe expects"):
        band([0.5, 0.9], [0.8, None])


def test_what_is_outside_is_said():
    bands = {"loss": [1.0, 2.0], "accuracy": [0.5, None], "gone": [0, 1]}
    assert outside({"loss": 1.5, "accuracy": 0.9, "gone": 0.0}, bands) == []
    assert outside({"loss": 2.5, "accuracy": 0.4, "new": 3.0}, bands) == [
        "gone: not measured, expected [0, 1]",
        "new = 3: has no band; record again",
        "loss = 2.5, expected 1.0 to 2.0",
        "accuracy = 0.4, expected 0.5 to None",
    ]


def test_only_what_does_not_depend_on_the_machine_is_held(tmp_path):
    (tmp_path / "x").mkdir()
    path = tmp_path / "x" / "metrics.json"
    path.write_text(
        json.dumps(
            {
                "metrics": {
                    "loss": 1.5,
                    "equal": True,
                    "n": 3,
                    "name": "a",
                    "tokens_per_second": 9.0,
                    "peak_memory_gb": 1.0,
                }
            }
        )
    )
    assert banded_metrics(tmp_path, "x") == {"loss": 1.5, "equal": 1.0, "n": 3.0}
    path.write_text(json.dumps({"metrics": {"loss": float("nan")}}))
    with pytest.raises(ValueError, match="loss not finite"):
        banded_metrics(tmp_path, "x")
