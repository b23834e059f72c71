"""The command line: exit codes, what a reader's mistake is answered with, what reaches a notebook."""

import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import lmlab
from lmlab.cli import main
from lmlab.course import batch, runner
from lmlab.course.runs import newest_run

PARAMETERS = 'recipe = "tiny"\noverrides = {}\noutput_dir = "runs"'
LESSON = "01_data_analysis"


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Writes a notebook with one cell under the name of lesson 01, in whose place it runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")

    def write(source: str) -> None:
        cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(source)]
        content = new_notebook(cells=cells)
        content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(content, tmp_path / "notebooks" / f"{LESSON}.ipynb")

    return write


@pytest.mark.slow
def test_parameters_reach_the_notebook_which_runs_in_the_working_directory(notebook, tmp_path, capsys):
    own = tmp_path / "recipes" / LESSON / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("extends: t4\n")
    (tmp_path / "pairs.jsonl").touch()
    notebook("import os\nprint(os.getcwd())")
    settings = ["--set", "limit=7", "--set", "small_pairs=pairs.jsonl"]
    assert main(["run", "01", "--recipe", "mine", *settings]) == 0
    assert f"{LESSON:<32} ok" in capsys.readouterr().out
    executed = nbformat.read(newest_run() / f"{LESSON}.ipynb", as_version=4)
    assert executed.metadata.papermill.parameters == {
        "recipe": str(own),
        "overrides": {"limit": 7, "small_pairs": str(tmp_path / "pairs.jsonl")},
        "output_dir": str(newest_run().resolve()),
    }
    assert executed.cells[-1].outputs[0].text == f"{tmp_path}\n"


@pytest.mark.slow
def test_a_notebook_that_fails_gives_exit_code_1(notebook, capsys):
    notebook("raise ValueError('a bad thing')")
    assert main(["run", "01"]) == 1
    assert "failed" in capsys.readouterr().out


@pytest.mark.drill
def test_an_interrupted_run_leaves_no_process(notebook, tmp_path):
    notebook("import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)")
    code = (
        "import sys; from pathlib import Path; from lmlab.course import runner; from lmlab.cli import main\n"
        "runner.NOTEBOOKS = Path('notebooks')\nsys.exit(main(['run', '01']))"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    marker = tmp_path / "pid"
    deadline = time.monotonic() + 200
    while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    kernel = int(marker.read_text())
    assert not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["run", "12"], "'12'"),
        (["run", "01", "--recipe", "big"], "'big'"),
        (["run", "01", "--recipe", "big.yaml"], "big.yaml"),
        (["run", "01", "--set", "limit"], "'limit'"),
        (["run", "01", "--set", "limits=3"], "did you mean 'limit'"),
        (["run", "01", "--set", "limit=some"], "limit"),
        (["run", "01", "--recipe", "local", "--set", "data_dir=nowhere"], "nowhere"),
        (["run", "all", "--set", "nonsense=3"], "'nonsense'"),
        (["run", "01", "--jobs", "0"], "--jobs"),
        (["run", "01", "--recpie", "t4"], "--recpie"),
        (["run"], "lessons"),
        (["report", "/nowhere"], "/nowhere"),
        (["report"], "lmlab run all"),
        (["finetune", "05", "--bits", "8"], "8"),
        (["finetune", "01"], "01_data_analysis"),
        (["cook"], "cook"),
    ],
)
def test_requests_that_cannot_be_met_start_nothing(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert named in shown and "Traceback" not in shown
    assert not list(tmp_path.iterdir())


def test_with_all_a_lesson_without_the_recipe_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr(batch, "list_recipes", lambda lesson: ["tiny", "mine"][: 1 + (lesson[:2] == "02")])
    with caplog.at_level("INFO"):
        assert batch.choose_lessons(["all"], "mine") == ["02_gpt2_from_scratch"]
    assert LESSON in caplog.text and "02_gpt2" not in caplog.text


def test_with_several_lessons_a_setting_goes_where_its_key_is():
    lora = "05_llama_lora_4bit"
    assert batch.share_settings([LESSON, lora], {"lora_r": 4, "seed": 1}) == {
        LESSON: {"seed": 1},
        lora: {"lora_r": 4, "seed": 1},
    }


def test_recipes_are_listed_and_shown(capsys):
    assert main(["recipes"]) == 0
    assert "05_llama_lora_4bit               tiny, gpu, local, t4" in capsys.readouterr().out
    assert main(["recipes", "05", "t4"]) == 0
    printed = capsys.readouterr().out
    assert "meta-llama/Llama-3.2-1B" in printed and "# Llama-3.2-1B (gated" in printed
    assert main(["recipes", "05", "local"]) == 0
    printed = capsys.readouterr().out
    assert "{data_dir}/wikitext2_valid.txt" in printed and "expected perplexity_drop" in printed


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lmlab {lmlab.__version__}\n"
    assert main(["--help"]) == 0 and "generate-data" in capsys.readouterr().out
    assert main(["run", "--help"]) == 0 and "--recipe" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from lmlab.cli import main; assert main(['--help']) == 0\n"
        "print({'torch', 'transformers', 'datasets', 'optuna', 'papermill', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
