"""Searches over a recipe: on small notebooks, and on a stand-in for the runner where none is needed."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nbformat
import psutil
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_notebook

from lmlab import cli
from lmlab.course import runner
from lmlab.course import search as searching
from lmlab.course.search import search, state_of
from lmlab.course.search_space import SearchDimension, SearchPlan
from lmlab.recipes import load_recipe
from lmlab.training.progress import report_progress

LESSON = "05_llama_lora_4bit"
PARAMETERS = 'recipe = "tiny"\noverrides = {}\noutput_dir = "runs"'
SETUP = (
    "import json, math, os, pathlib, time\n"
    f"out = pathlib.Path(output_dir) / '{LESSON}'\nout.mkdir()\nrate = overrides['learning_rate']\n"
)
MEASURE = (
    "if rate > 0.5:\n    raise ValueError('too fast')\n"
    "metrics = {'val_loss': (math.log10(rate) + 3) ** 2, 'note': 'x', 'seconds': 1}\n"
    "(out / 'metrics.json').write_text(json.dumps({'metrics': metrics}))"
)
BLOCK = "(out.parents[1] / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)"
REPORT_BADLY = (
    "from lmlab.training.progress import report_progress\nreport_progress(out, 0, val_loss=9.5, other=1)\n"
    "report_progress(out, 10, other=5)\nreport_progress(out, 10, val_loss=9.0)\n"
)
RATE, DROPOUT = "learning_rate=log:1e-4:1e-2", "lora_dropout=0.0:0.5"
RATES = "learning_rate=categorical:1e-4,3e-4,1e-3,3e-3,1e-2"


def plan_of(*space: str, metric: str = "val_loss", **others) -> SearchPlan:
    return SearchPlan(LESSON, "tiny", tuple(map(SearchDimension.parse, space)), metric, **others)


def write_notebook(folder: Path, source: str) -> None:
    notebook = new_notebook(
        cells=[new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(SETUP + source)]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{LESSON}.ipynb")


def stand_in(seconds: float = 0.0, block_at: int | None = None, reports=()):
    """What replaces runner.run_notebook: a known function, without a notebook. reports: (step, val_loss)."""

    def run(job, run_dir, live):
        values = job.parameters["overrides"]
        out = run_dir / job.lesson
        out.mkdir()
        if int(run_dir.name) == block_at:
            (run_dir.parent / "blocked").touch()
            time.sleep(600)
        for step, reported in reports:
            report_progress(out, step, val_loss=reported)
        time.sleep(seconds)
        loss = (math.log10(values["learning_rate"]) + 3) ** 2 + values.get("lora_dropout", 0.0)
        loss = math.nan if values["learning_rate"] > 0.5 else loss
        (out / "metrics.json").write_text(json.dumps({"metrics": {"val_loss": loss, "gain": -loss}}))
        return runner.Outcome(job.lesson, "ok", seconds, 0.0)

    return run


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(runner, "run_notebook", stand_in())
    monkeypatch.setattr(searching, "POLL_SECONDS", 0.02)


def start_worker(root: Path, *arguments: str, code: str) -> subprocess.Popen:
    """``lmlab search`` in another process, after ``code``."""
    preamble = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from lmlab.course import runner, search\nfrom lmlab.cli import main\n"
        "from test_search import stand_in; search.POLL_SECONDS = 0.02\n"
        f"{code}\n"
    )
    command = ["search", "05", "--metric", "val_loss", "--name", "s", "--output-dir", str(root), *arguments]
    return subprocess.Popen(
        [sys.executable, "-c", f"{preamble}sys.exit(main({command!r}))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def values_of(result) -> list[dict]:
    """Of each trial that counts, in their order."""
    counted = [trial for trial in result.trials if state_of(trial) != "interrupted"]
    return [trial.params for trial in sorted(counted, key=lambda trial: trial.number)]


def states_of(result) -> Counter:
    return Counter(map(state_of, result.trials))


# --- with notebooks ---


@pytest.mark.slow
def test_a_search_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    write_notebook(tmp_path / "notebooks", MEASURE)
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)
    command = ["search", "05", "--space", "learning_rate=categorical:1.0,1e-3", "--metric", "val_loss"]
    assert cli.main([*command, "--set", "lora_r=4"]) == 0
    header, best, failed = (line.split() for line in capsys.readouterr().out.splitlines()[-4:-1])
    assert header == ["trial", "state", "val_loss", "learning_rate", "seconds", "error"]
    assert best[1:4] == ["complete", "0", "0.001"]
    assert failed[1:3] == ["failed", "1"] and failed[-3:] == ["ValueError:", "too", "fast"]
    folder = tmp_path / "runs" / "search" / "05-tiny-val_loss"
    assert "too fast" in (folder / "trials" / f"{int(failed[0]):04d}" / "error.txt").read_text()


def seed_study(folder: Path, plan: SearchPlan, n: int) -> None:
    """``n`` complete trials that were good at step 10, in a study's folder."""
    import optuna

    folder.mkdir()
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}", study_name=folder.name, direction="minimize"
    )
    recipe = load_recipe(plan.lesson, plan.recipe)
    kept = {**dict(recipe.rows()), **dataclasses.asdict(plan)}
    study.set_user_attr("plan", json.loads(json.dumps(kept)))
    distribution = optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
    for i in range(n):
        study.add_trial(
            optuna.create_trial(
                params={"learning_rate": 1e-3},
                distributions={"learning_rate": distribution},
                value=0.1 + i,
                intermediate_values={0: 5.0, 10: 0.1},
            )
        )


@pytest.mark.slow
def test_a_trial_that_falls_behind_is_pruned_and_its_processes_are_gone(tmp_path, monkeypatch):
    write_notebook(tmp_path / "notebooks", BLOCK.replace("time.sleep", REPORT_BADLY + "time.sleep"))
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")
    seed_study(tmp_path / "s", plan_of(RATE), 4)
    result = search(plan_of(RATE), trials=5, name="s", root=tmp_path)
    assert [state_of(trial) for trial in result.trials] == ["complete"] * 4 + ["pruned"]
    assert result.trials[-1].value == 9.0
    assert is_gone(int((tmp_path / "s" / "trials" / "pid").read_text()))


@pytest.mark.drill
def test_a_killed_worker_takes_its_notebook_along_and_the_trial_is_retried(tmp_path, monkeypatch):
    write_notebook(tmp_path / "notebooks", BLOCK)
    code = f"runner.NOTEBOOKS = Path({str(tmp_path / 'notebooks')!r})"
    worker = start_worker(tmp_path, "--space", RATE, "--trials", "1", code=code)
    marker = tmp_path / "s" / "trials" / "pid"
    wait_for(lambda: marker.exists() and marker.read_text())
    worker.kill()
    wait_for(lambda: is_gone(int(marker.read_text())), 20)
    monkeypatch.setattr(runner, "run_notebook", stand_in())
    result = search(plan_of(RATE), trials=1, name="s", root=tmp_path)
    assert [(trial.number, state_of(trial)) for trial in result.trials] == [
        (1, "complete"),
        (0, "interrupted"),
    ]
    assert result.trials[0].params == result.trials[1].params
    worker.wait()


# --- without ---


@pytest.mark.slow
def test_a_search_in_two_parts_samples_what_one_does(tmp_path, quick):
    plan = plan_of(RATE, DROPOUT)
    whole = search(plan, trials=7, name="whole", root=tmp_path)  # five at random
    search(plan, trials=3, name="parts", root=tmp_path)
    assert values_of(search(plan, trials=7, name="parts", root=tmp_path)) == values_of(whole)
    assert len({trial.params["learning_rate"] for trial in whole.trials}) == 7
    assert whole.best.value == min(trial.value for trial in whole.trials)
    other = search(plan_of(RATE, DROPOUT, overrides={"seed": 1000}), trials=1, name="seed", root=tmp_path)
    assert values_of(other) != values_of(whole)[:1]


@pytest.mark.drill
@pytest.mark.parametrize("space", [RATES, RATE])
def test_killed_in_the_middle_nothing_is_lost_and_nothing_repeated(tmp_path, quick, space):
    plan = plan_of(space)
    whole = search(plan, trials=5, name="whole", root=tmp_path)
    code = "runner.run_notebook = stand_in(block_at=2)"
    worker = start_worker(tmp_path, "--space", space, "--trials", "5", code=code)
    wait_for((tmp_path / "s" / "trials" / "blocked").exists)
    worker.kill()
    worker.wait()
    result = search(plan, trials=5, name="s", root=tmp_path)
    assert states_of(result) == {"complete": 5, "interrupted": 1}
    rates = [values["learning_rate"] for values in values_of(result)]
    assert len(set(rates)) == 5
    if space == RATES:
        assert sorted(rates) == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2] and result.best.value == 0
    else:
        assert set(rates) == {values["learning_rate"] for values in values_of(whole)}


def test_a_study_is_one_processs_at_a_time(tmp_path, quick):
    (tmp_path / "s").mkdir()
    with FileLock(tmp_path / "s" / "study.lock"), pytest.raises(TimeoutError, match="study.lock"):
        search(plan_of(RATE), trials=1, name="s", root=tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_trial_is_retried_and_does_not_count(tmp_path, quick, monkeypatch, error):
    def interrupt(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_notebook", interrupt)
        with pytest.raises(error):
            search(plan_of(RATE), trials=2, name="s", root=tmp_path)
    result = search(plan_of(RATE), trials=2, name="s", root=tmp_path)
    assert states_of(result) == {"complete": 2, "interrupted": 1}
    assert values_of(result)[0] == next(
        trial.params for trial in result.trials if state_of(trial) == "interrupted"
    )


def test_kinds_of_values_reach_the_notebook(tmp_path, quick):
    plan = plan_of(
        "learning_rate=categorical:1e-3,1e-2",
        "lora_r=int:2:8",
        "activation_checkpointing=categorical:true,false",
        "target_modules=categorical:q_proj,all-linear",
        "n_train=categorical:null,50",
        metric="gain",
        direction="maximize",
    )
    result = search(plan, trials=6, name="s", root=tmp_path)
    rows = values_of(result)
    assert {row["learning_rate"] for row in rows} <= {1e-3, 1e-2} and len(rows) == 6
    assert {type(row["lora_r"]) for row in rows} == {int} and all(2 <= row["lora_r"] <= 8 for row in rows)
    assert {row["target_modules"] for row in rows} <= {"q_proj", "all-linear"}
    assert {row["n_train"] for row in rows} <= {None, 50}
    assert result.best.value == max(trial.value for trial in result.trials)


def test_a_grid_has_each_combination_once(tmp_path, quick):
    plan = plan_of("learning_rate=categorical:1e-3,1e-2", "n_train=categorical:null,50,70")
    result = search(plan, trials=12, name="s", root=tmp_path)
    pairs = {(values["learning_rate"], values["n_train"]) for values in values_of(result)}
    assert len(pairs) == len(result.trials) == 6


def test_a_diverged_trial_has_failed(tmp_path, quick):
    result = search(plan_of("learning_rate=categorical:1.0,1e-3"), name="s", root=tmp_path)
    assert [(state_of(trial), trial.user_attrs.get("error", "")) for trial in result.trials] == [
        ("complete", ""),
        ("failed", "diverged: nan"),
    ]


GOOD, BAD = [(0, 5.0), (10, 0.05)], [(0, 9.5), (10, 9.0)]


@pytest.mark.slow
@pytest.mark.parametrize(("reports", "state"), [(GOOD, "complete"), (BAD, "pruned")])
def test_only_what_falls_behind_is_pruned(tmp_path, quick, monkeypatch, reports, state):
    monkeypatch.setattr(runner, "run_notebook", stand_in(seconds=0.3, reports=reports))
    seed_study(tmp_path / "s", plan_of(RATE), 4)
    result = search(plan_of(RATE), trials=5, name="s", root=tmp_path)
    assert next(state_of(trial) for trial in result.trials if trial.number == 4) == state


def test_how_many_trials():
    sampled, grid = plan_of("learning_rate=1e-4:1e-2"), plan_of("learning_rate=categorical:1e-4,1e-3,1e-2")
    assert [sampled.number_of_trials(wanted) for wanted in (None, 2)] == [12, 2]
    assert [grid.number_of_trials(wanted) for wanted in (None, 2, 12)] == [3, 2, 3]


def test_an_unknown_metric_ends_the_search_and_names_those_that_exist(tmp_path, quick, capsys):
    command = ["search", "05", "--space", RATE, "--metric", "valloss", "--output-dir", str(tmp_path)]
    assert cli.main(command) == 2
    shown = capsys.readouterr().err
    assert "'valloss'" in shown and "val_loss, gain" in shown and "did you mean 'val_loss'" in shown
    assert len(list(tmp_path.glob("*/trials/*"))) == 1


def test_another_search_of_the_same_name_is_refused(tmp_path, quick, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "recipes" / LESSON / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("extends: tiny\n")
    plan = plan_of(RATE)
    search(plan, trials=1, name="s", root=tmp_path)
    with pytest.raises(ValueError, match="'s'.*metric"):
        search(plan_of(RATE, metric="gain"), trials=1, name="s", root=tmp_path)
    with pytest.raises(ValueError, match="lora_r"):
        search(plan_of(RATE, overrides={"lora_r": 4}), trials=1, name="s", root=tmp_path)
    mine = SearchPlan(LESSON, "mine", plan.space, "val_loss")
    search(mine, trials=1, name="m", root=tmp_path)
    own.write_text("extends: tiny\nstudy_steps: 7\n")
    with pytest.raises(ValueError, match="study_steps"):
        search(mine, trials=1, name="m", root=tmp_path)


@pytest.mark.parametrize(
    "space",
    [
        "learning_rate",
        "learning_rate=3",
        "learning_rate=log:0:1",
        "learning_rate=2:1",
        "learning_rate=1:inf",
        "learning_rate=lin:1:2",
        "learning_rate=1:2:3",
        "lora_r=int:1.5:2",
        "lora_r=categorical:",
        "lora_r=categorical:{",
        "lora_r=categorical:1,1",
    ],
)
def test_a_range_of_another_form_is_refused(space):
    with pytest.raises(ValueError, match=re.escape(space)):
        SearchDimension.parse(space)


@pytest.mark.parametrize(
    "space, named",
    [
        ("lora_r=2:8", "lora_r.*2.0"),
        ("lora_r=int:0:8", "lora_r.*0"),
        ("lora_dropout=0.5:1.5", "lora_dropout.*1.5"),
        ("lora_dropout=categorical:0.1,much", "lora_dropout.*'much'"),
        ("learning_rates=1:2", "did you mean 'learning_rate'"),
        ("name=categorical:a,b", "'name'"),
        ("seed=int:0:3", "seed twice"),
    ],
)
def test_a_space_that_cannot_be_starts_nothing(tmp_path, quick, space, named):
    with pytest.raises(ValueError, match=named):
        search(plan_of(space, overrides={"seed": 1}), name="s", root=tmp_path)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--trials", "0"], "--trials"),
        (["--recipe", "big"], "'big'"),
        (["--set", "lora_s=3"], "did you mean 'lora_r'"),
        (["--direction", "up"], "--direction"),
        (["--space", "lora_r"], "'lora_r'"),
    ],
)
def test_requests_that_cannot_be_met_run_nothing(tmp_path, quick, capsys, arguments, named):
    command = ["search", "05", "--space", RATE, "--metric", "val_loss", "--output-dir", str(tmp_path)]
    assert cli.main([*command, *arguments]) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.glob("*/trials"))


def test_values_that_contradict_each_other_are_refused():
    def plan(*space: str) -> SearchPlan:
        return SearchPlan(
            "02_gpt2_from_scratch", "tiny", tuple(map(SearchDimension.parse, space)), "val_loss"
        )

    with pytest.raises(ValueError, match="n_embd 128 .*n_head 3"):
        plan("n_embd=categorical:96,128", "n_head=categorical:3,4").check()
    # neither goes with the recipe's own 4 heads
    plan("n_embd=categorical:90,99", "n_head=categorical:3,9").check()
