"""The runner on small notebooks: success, a failing cell, a killed kernel; what doctor finds."""

import dataclasses
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lmlab import hardware
from lmlab.cli import main
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


@pytest.mark.slow
def test_the_others_go_on_after_a_failure_and_a_dead_kernel(outcomes):
    by_name, run_dir = outcomes
    assert {name: o.status for name, o in by_name.items()} == {
        "failing": "failed",
        "dying": "kernel died",
        "good": "ok",
    }
    executed = nbformat.read(run_dir / "good.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "recipe mine\n"


@pytest.mark.slow
def test_the_failing_cell_and_its_error_are_shown(outcomes):
    error = outcomes[0]["failing"].error
    assert "x = 1" in error
    assert "ValueError: got a bad thing" in error
    assert "\x1b" not in error


@pytest.mark.slow
def test_a_dead_kernel_is_reported_with_its_cell(outcomes):
    assert "os.kill" in outcomes[0]["dying"].error
    assert "Kernel died" in outcomes[0]["dying"].error


@pytest.mark.slow
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

    monkeypatch.setattr(runner, "run_notebook", fake)
    monkeypatch.setattr(runner, "NEEDS", {"b": ("a",), "c": ("b",)})
    jobs = [Job(name, folder / "good.ipynb", {}) for name in ("c", "b", "a")]
    assert [o.lesson for o in run_jobs(jobs, tmp_path, parallel=3)] == ["c", "b", "a"]
    assert order == ["a", "b", "c"], "b runs although a failed, and c waits for b"


def test_doctor_says_what_there_is(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "reachable", lambda url: False)
    assert main(["doctor"]) == 0
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
    monkeypatch.setattr(doctor, "describe_machine", lambda: machine)
    assert doctor.suggest_recipe("05_llama_lora_4bit").startswith(f'recipe = "{name}" runs here: ')


def test_a_card_of_24_gb_that_keeps_some_for_itself_carries_the_gpu_recipes():
    machine = dataclasses.replace(hardware.gpu("A10G"), gpu_memory_gb=21.9)
    assert doctor.tiers(machine, online=True)["gpu"].startswith("runs here")
