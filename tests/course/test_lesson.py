"""A lesson's begin and end, and runs that find each other's results, whoever made them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lmlab
from lmlab.course import jobs
from lmlab.course.copies import copy_notebooks, notebooks_folder
from lmlab.course.lesson import recipe_of
from lmlab.course.report import build_site
from lmlab.course.runs import find_model, find_result, list_runs, models_in, new_run, newest_run
from lmlab.recipes import RecipeError, load_recipe

SHAKESPEARE, LLAMA, DEEPSEEK = "04_shakespeare_full_finetune", "05_llama_lora_4bit", "06_deepseek_qlora_think"


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def left(path: str, when: float | None = None) -> Path:
    """A file that a lesson has left, written at ``when``."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    os.utime(file.parent, (when or time.time(),) * 2)
    return file.parent.resolve()


def test_a_lesson_begins_with_its_recipe_and_ends_with_its_metrics():
    lesson = lmlab.start_lesson("05", "tiny", {"seed": 3, "expected": {"drop": [0.1, None]}}, "runs/a")
    assert lesson.out == Path("runs/a", LLAMA).resolve()
    assert not lesson.as_measured, "the bands are overridden, too"
    assert recipe_of(lesson.out) == lesson.cfg and lesson.cfg.seed == 3
    table = lesson.finish({"drop": 0.2, "note": "x"})
    assert table.rows[0][-1] == "yes"
    record = json.loads((lesson.out / "record.json").read_text())
    assert record["versions"]["torch"] and record["seconds"] >= 0 and record["peak_memory_gb"] > 0.01
    assert json.loads((lesson.out / "metrics.json").read_text())["metrics"]["drop"] == 0.2
    shown = lesson._repr_html_()
    assert "<details>" in shown and "lora_r" in shown and lesson.machine.device_name in shown


def test_effects_are_asserted_of_the_tiny_recipe_with_any_seed_alone():
    assert lmlab.start_lesson("01").as_measured
    assert lmlab.start_lesson("01", overrides={"seed": 7}).as_measured
    assert not lmlab.start_lesson("01", overrides={"limit": 20}).as_measured


def test_an_unknown_key_makes_no_folder():
    with pytest.raises(RecipeError, match="lora_rank"):
        lmlab.start_lesson("05", overrides={"lora_rank": 3})
    assert not Path("runs").exists()


def test_a_result_is_looked_for_in_this_run_then_in_the_newest():
    now = time.time()
    old = left(f"runs/old/{LLAMA}/adapter/adapter_config.json", now - 200)
    new = left(f"runs/new/{LLAMA}/adapter/adapter_config.json", now - 100)
    own = left(f"runs/own/{DEEPSEEK}/adapter/adapter_config.json", now)
    run = Path("runs/own").resolve()
    assert find_result("05", "adapter", run) == new
    assert find_result("06", "adapter", Path("runs/old").resolve()) == own
    assert find_result("05", "adapter", run, from_run="old") == old
    assert find_result("05", "adapter", run, from_run="runs/old") == old
    assert find_result("02", "model", run) is None
    for wrong in ("own", "nowhere"):
        with pytest.raises(ValueError, match=wrong):
            find_result("05", "adapter", run, from_run=wrong)
    mine = left(f"runs/own/{LLAMA}/adapter/adapter_config.json", now - 300)
    assert find_result("05", "adapter", run) == mine, "older, and of this run"


def test_a_notebook_in_its_folder_and_a_command_above_it_see_the_same_runs(monkeypatch):
    left(f"notebooks/runs/notebook/{LLAMA}/adapter/adapter_config.json")
    left(f"runs/batch/{DEEPSEEK}/adapter/adapter_config.json")
    above = {run.name for run in list_runs()}
    monkeypatch.chdir("notebooks")
    assert {run.name for run in list_runs()} == above == {"notebook", "batch"}


def test_what_any_run_left_can_be_chatted_with():
    now = time.time()
    left(f"runs/a/{LLAMA}/adapter/adapter_config.json", now - 50)
    newer = left(f"runs/finetune-tiny/{SHAKESPEARE}/model/config.json", now)
    left(f"runs/finetune-tiny/{SHAKESPEARE}/models/small/config.json", now)
    assert find_model("04") == find_model(SHAKESPEARE) == str(newer)
    assert find_model("runs/finetune-tiny") == str(Path("runs/finetune-tiny", SHAKESPEARE, "model"))
    assert find_model("miniworld/qwen2") == "miniworld/qwen2"
    for wrong in ("06", f"runs/a/{LLAMA}/adapter/adapter_config.json"):
        with pytest.raises(ValueError, match=Path(wrong).name):
            find_model(wrong)


def model_at(folder: Path, adapter: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / ("adapter_config.json" if adapter else "config.json")).write_text("{}")
    return folder


def test_a_folder_with_several_models(tmp_path, caplog):
    caplog.set_level("INFO")
    lesson = tmp_path / "run" / SHAKESPEARE
    model = model_at(lesson / "model")
    assert find_model(str(tmp_path / "run")) == str(model), "the only one of the run"
    model_at(lesson / "models" / "style")
    model_at(lesson / "checkpoints" / "step_7")
    assert find_model(str(lesson)) == str(model)
    assert str(model) in caplog.messages[-1]
    adapter = model_at(tmp_path / "run" / LLAMA / "adapter", adapter=True)
    os.utime(adapter, (2e9, 2e9))
    assert find_model(str(tmp_path / "run")) == str(adapter), "written last"
    os.utime(lesson / "models" / "style", (3e9, 3e9))  # later, but not what its lesson is about
    assert find_model(str(tmp_path / "run")) == str(adapter)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.bin").write_bytes(b"")
    for wrong in ("empty", "x.bin"):
        with pytest.raises(ValueError, match=wrong):
            find_model(str(tmp_path / wrong))
    (tmp_path / "x.gguf").write_bytes(b"")
    for source in (str(tmp_path / "x.gguf"), "miniworld/gpt2", "someone/a-model"):
        assert find_model(source) == source


def test_runs_that_begin_in_the_same_second_are_apart():
    assert new_run() != new_run()
    with pytest.raises(FileNotFoundError, match="runs"):
        newest_run()


@pytest.mark.slow
def test_a_job_leaves_a_run_like_any_other(monkeypatch):
    from lmlab.training import sft

    def train(cfg, out, bits):
        left(str(out / "adapter" / "adapter_config.json"))
        left(str(out / "trainer" / "run_config.json"))  # stays when the checkpoints are removed: no model
        return [(0, 2.5), (5, 1.5), (10, 1.75)]

    monkeypatch.setattr(sft, "run_recipe", train)
    cfg = load_recipe(DEEPSEEK, seed=5)
    out = jobs.finetune(cfg)
    assert out == Path("runs", "finetune-tiny", DEEPSEEK).resolve()
    assert recipe_of(out) == cfg
    assert find_result("06", "adapter", Path("runs/other")) == out / "adapter"
    assert newest_run() == out.parent and models_in(out) == [out / "adapter"]
    page = build_site(out.parent, Path("site")).read_text()
    assert "deepseek qlora think" in page and "shakespeare" not in page
    assert json.loads((out / "metrics.json").read_text())["metrics"] == {
        "eval_loss_before": 2.5,
        "eval_loss": 1.5,
    }


def test_the_course_is_copied_and_nothing_is_overwritten(tmp_path):
    copies = copy_notebooks(tmp_path / "course")
    names = {path.name for path in notebooks_folder().glob("*.ipynb")}
    assert len(names) >= 9 and names <= {path.name for path in copies}
    copies[0].write_text("answers")
    with pytest.raises(FileExistsError, match="course"):
        copy_notebooks(tmp_path / "course")
    assert copies[0].read_text() == "answers"


@pytest.mark.slow
def test_a_wheel_runs_a_lesson_without_the_clone(tmp_path):
    """Built from a copy, installed out of sight of this clone; its libraries are this environment's."""
    root = Path(__file__).parents[2]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone: which files belong to the project is not known")
    for name in filter(None, listed.stdout.split("\0")):
        if not (root / name).exists():
            continue
        copy = tmp_path / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((root / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(tmp_path / "source"),
    ]
    subprocess.run(built, check=True)
    wheel = next(tmp_path.glob("lmlab-*.whl"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    libraries = next((tmp_path / "env").rglob("site-packages"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(libraries), str(wheel)], check=True)
    # a path in a .pth file: what is installed there is seen, an editable lmlab is not
    (libraries / "libraries.pth").write_text(str(Path(pytest.__file__).parents[1]))
    python = str(next((tmp_path / "env").glob("*/python")))
    work = tmp_path / "work"
    work.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))  # nbconvert's templates

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, *arguments], cwd=work, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(libraries) in run("-c", "import lmlab; print(lmlab.__file__)")
    assert lmlab.__version__ in run("-m", "lmlab", "--version")
    run("-m", "lmlab", "notebooks", "course")
    assert len(list((work / "course").glob("*.ipynb"))) >= 9
    run("-m", "lmlab", "run", "01")
    metrics = next(work.glob("runs/*/01_data_analysis/metrics.json"))
    assert json.loads(metrics.read_text())["metrics"]["datasets"] > 1
    run("-m", "lmlab", "report")
    assert (work / "site" / "index.html").is_file()
