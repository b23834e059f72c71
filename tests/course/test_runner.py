"""The runner on small notebooks: success, a failing cell, a killed kernel; the command line around it."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lmlab import cli, hardware
from lmlab.course import doctor, runner
from lmlab.course.runner import Job, run_jobs
from lmlab.hardware import describe_machine

PARAMETERS = 'recipe = "tiny"\noverrides = {}\noutput_dir = "runs"'
ENDINGS = {
    "good": "print('recipe', recipe)",
    "failing": "x = 1\nraise ValueError('got a bad thing')",
    "endless": "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)",
    "dying": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one small notebook per ending."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name, source in ENDINGS.items():
        notebook = new_notebook(
            cells=[new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(source)]
        )
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


@pytest.fixture(scope="module")
def outcomes(folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    jobs = [Job(name, folder / f"{name}.ipynb", {"recipe": "mine"}) for name in ("failing", "dying", "good")]
    return {outcome.lesson: outcome for outcome in run_jobs(jobs, run_dir)}, run_dir


def test_the_others_go_on_after_a_failure_and_a_dead_kernel(outcomes):
    by_name, run_dir = outcomes
    assert {name: o.status for name, o in by_name.items()} == {
        "failing": "failed",
        "dying": "kernel died",
        "good": "ok",
    }
    executed = nbformat.read(run_dir / "good.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "recipe mine\n"


def test_the_failing_cell_and_its_error_are_shown(outcomes):
    error = outcomes[0]["failing"].error
    assert "x = 1" in error
    assert "ValueError: got a bad thing" in error
    assert "\x1b" not in error


def test_a_dead_kernel_is_reported_with_its_cell(outcomes):
    assert "os.kill" in outcomes[0]["dying"].error
    assert "Kernel died" in outcomes[0]["dying"].error


def test_the_record_tells_time_and_memory(outcomes):
    record = json.loads((outcomes[1] / "run.json").read_text())["lessons"]
    assert [entry["lesson"] for entry in record] == ["failing", "dying", "good"]
    assert all(entry["seconds"] > 0 for entry in record)
    assert all(0 < entry["peak_memory_gb"] < 10 for entry in record)


def test_a_lesson_waits_for_those_it_needs(folder, tmp_path, monkeypatch):
    order = []

    def fake(job, *_):
        order.append(job.lesson)
        return runner.Outcome(job.lesson, "failed" if job.lesson == "a" else "ok", 0.1, 0.1)

    monkeypatch.setattr(runner, "run_job", fake)
    monkeypatch.setattr(runner, "NEEDS", {"b": ("a",), "c": ("b",)})
    jobs = [Job(name, folder / "good.ipynb", {}) for name in ("c", "b", "a")]
    assert [o.lesson for o in run_jobs(jobs, tmp_path, parallel=3)] == ["c", "b", "a"]
    assert order == ["a", "b", "c"], "b runs although a failed, and c waits for b"


@pytest.fixture
def command_line(folder, tmp_path, monkeypatch):
    """Runs ``lmlab`` on the small notebooks, under the name of a lesson."""

    def call(ending: str, *arguments: str) -> int:
        target = tmp_path / "notebooks"
        target.mkdir(exist_ok=True)
        (target / "01_data_analysis.ipynb").write_text((folder / f"{ending}.ipynb").read_text())
        monkeypatch.setattr(runner, "NOTEBOOKS", target)
        return cli.main(["run", "01", "--output-dir", str(tmp_path / "runs"), *arguments])

    return call


def test_exit_codes(command_line, capsys):
    assert command_line("good") == 0
    assert "01_data_analysis                 ok" in capsys.readouterr().out
    assert command_line("dying") == 1
    assert "kernel died" in capsys.readouterr().out


def test_with_all_a_lesson_without_the_recipe_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(cli, "list_recipes", lambda lesson: ["tiny", "mine"][: 1 + (lesson[:2] == "02")])
    assert cli.with_recipe(["01_data_analysis", "02_gpt2_from_scratch"], "mine") == ["02_gpt2_from_scratch"]
    assert "01_data_analysis: left out" in capsys.readouterr().out


def test_an_interrupted_run_leaves_no_process(folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from lmlab.course import runner; from lmlab.cli import main\n"
        "runner.NOTEBOOKS = Path(sys.argv[1])\n"
        "sys.exit(main(['run', '01', '--output-dir', sys.argv[2]]))"
    )
    (tmp_path / "01_data_analysis.ipynb").write_text((folder / "endless.ipynb").read_text())
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "runs")], stderr=subprocess.PIPE, text=True
    )
    marker = tmp_path / "pid"
    deadline = time.monotonic() + 200
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and "no notebook is left running" in errors
    kernel = int(marker.read_text())
    assert not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE


def test_parameters_reach_the_notebook(command_line, tmp_path):
    assert command_line("good", "--recipe", "t4", "--set", "limit=7") == 0
    run = tmp_path / "runs" / (tmp_path / "runs" / "latest").read_text()
    notebook = nbformat.read(run / "01_data_analysis.ipynb", as_version=4)
    assert notebook.metadata.papermill.parameters == {
        "recipe": "t4",
        "overrides": {"limit": 7},
        "output_dir": str(run),
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "10"], "expected a lesson"),
        (["run", "01", "--recipe", "big"], "expected a recipe of 01_data_analysis"),
        (["run", "01", "--set", "limit"], "expected key=value"),
        (["run", "01", "--set", "limits=3"], "did you mean 'limit'? lmlab recipes 01 shows them"),
        (["run", "01", "--recipe", "local", "--set", "data_dir=nowhere"], "there is no folder"),
        (["run", "all", "--set", "nonsense=3"], "expected a key"),
        (["run", "01", "--jobs", "0"], "--jobs got 0"),
        (["report", "/nowhere"], "holds no run.json"),
    ],
)
def test_requests_that_cannot_be_met_start_nothing(arguments, message, capsys, tmp_path):
    extra = ["--output-dir", str(tmp_path / "runs")] if arguments[0] == "run" else []
    assert cli.main([*arguments, *extra]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text, value",
    [
        ("a=1e-3", 1e-3),
        ("a=3", 3),
        ("a=true", True),
        ("a=null", None),
        ("a=[1, 2e-1]", [1, 0.2]),
        ("a=x=y", "x=y"),
        ("a=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("a=all-linear", "all-linear"),
        ("a=[", "["),
        ("a=org/set:config", "org/set:config"),
        ("a=miniworld/pairs", "miniworld/pairs"),
        ("a=../data", str(Path("../data").resolve())),
        ("a=~/data", str(Path("~/data").expanduser())),
    ],
)
def test_settings_are_parsed(text, value):
    assert cli.parse_setting(text) == ("a", value)


def test_paths_that_exist_become_absolute(tmp_path, monkeypatch):
    """Notebooks run in another folder than the command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").touch()
    (tmp_path / "validation").mkdir()
    assert cli.parse_setting("data=pairs.jsonl") == ("data", str(tmp_path / "pairs.jsonl"))
    assert cli.parse_setting("data_dir=validation") == ("data_dir", str(tmp_path / "validation"))
    assert cli.parse_setting("split=validation") == ("split", "validation"), "a word, not the folder"


def test_with_several_lessons_a_setting_goes_where_its_key_is():
    overrides = cli.shared_overrides(["01_data_analysis", "05_llama_lora_4bit"], [("lora_r", 4), ("seed", 1)])
    assert overrides == {"01_data_analysis": {"seed": 1}, "05_llama_lora_4bit": {"lora_r": 4, "seed": 1}}


def test_doctor_says_what_there_is(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "reachable", lambda url: False)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("dtype", "why", "torch", "GiB free", "model hub", "notebook kernel", "tiny", "t4", "gpu"):
        assert word in out


def test_a_closed_door_is_not_reachable():
    assert not doctor.reachable("http://127.0.0.1:1")
    assert not doctor.reachable("no address")


def test_doctor_tells_which_lessons_want_four_bits():
    machine = dataclasses.replace(describe_machine(), four_bit=False, reasons=("float32", "no bitsandbytes"))
    assert "but for lessons 05 to 07 (no bitsandbytes)" in doctor.tiers(machine, online=False)["tiny"]


@pytest.mark.parametrize("gpu, name", [("T4", "t4"), ("A100", "gpu"), ("L4", "gpu"), (None, "tiny")])
def test_the_largest_recipe_that_fits_is_suggested(monkeypatch, gpu, name):
    machine = hardware.gpu(gpu) if gpu else dataclasses.replace(describe_machine(), gpu_memory_gb=None)
    monkeypatch.setattr(hardware, "describe_machine", lambda: machine)
    assert doctor.suggest_recipe("05_llama_lora_4bit").startswith(f'recipe = "{name}" runs here: ')


def test_a_card_of_24_gb_that_keeps_some_for_itself_carries_the_gpu_recipes():
    machine = dataclasses.replace(hardware.gpu("A10G"), gpu_memory_gb=21.9)
    assert doctor.tiers(machine, online=True)["gpu"].startswith("runs here")


def test_recipes_are_listed(capsys):
    assert cli.main(["recipes"]) == 0
    assert "05_llama_lora_4bit               tiny, gpu, local, t4" in capsys.readouterr().out
    assert cli.main(["recipes", "05", "t4"]) == 0
    printed = capsys.readouterr().out
    assert "meta-llama/Llama-3.2-1B" in printed and "# Llama-3.2-1B (gated" in printed
    assert cli.main(["recipes", "05"]) == 0
    assert "expected perplexity_drop         [0.15, 1.0]" in capsys.readouterr().out
