"""Searches over a recipe: on small notebooks, and on a stand-in for the runner where none is needed."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lmlab import cli, recipes
from lmlab.course import runner
from lmlab.course import search as search_module
from lmlab.course.search import Plan, SearchDimension, check_new_recipe, draw, save_recipe, search
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
    monkeypatch.setattr("lmlab.course.search.POLL_SECONDS", 0.02)
    monkeypatch.setattr(
        "lmlab.course.search.draw", lambda findings: findings
    )  # it takes the most time of all


def start_worker(root: Path, *arguments: str, code: str) -> subprocess.Popen:
    """``lmlab search`` in another process, after ``code``."""
    preamble = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from lmlab.course import runner, search\nfrom lmlab.cli import main\n"
        f"from test_search import stand_in; search.POLL_SECONDS = 0.02\n"
        f"search.draw = lambda findings: findings\n{code}\n"
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


# --- with notebooks ---


def test_a_search_goes_on_after_a_failure_and_saves_its_winner(tmp_path, monkeypatch, capsys):
    write_notebook(tmp_path / "notebooks", MEASURE)
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")
    recipes_folder = shutil.copytree(recipes.RECIPES, tmp_path / "recipes")
    monkeypatch.setattr(recipes, "RECIPES", recipes_folder)
    assert (
        cli.main(
            [
                "search",
                "05",
                "--space",
                "learning_rate=grid:1.0,1e-3",
                "--metric",
                "val_loss",
                "--set",
                "lora_r=4",
                "--output-dir",
                str(tmp_path),
                "--save-recipe",
                "found",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    header, first, second = (line.split() for line in printed.splitlines()[-5:-2])
    assert header == ["trial", "state", "val_loss", "learning_rate", "seconds", "error"]
    assert first[:4] == ["1", "ok", "0", "0.001"]
    assert second[:3] == ["0", "failed", "1"] and second[-3:] == ["ValueError:", "too", "fast"]
    folder = tmp_path / "05-tiny-val_loss"
    assert {path.name for path in folder.glob("*.png")} == {"learning_rate.png", "history.png"}
    assert "too fast" in (folder / "trials" / "0000" / "error.txt").read_text()
    wanted = load_recipe(LESSON, "tiny", learning_rate=1e-3, lora_r=4)
    assert load_recipe(LESSON, "found").rows() == dataclasses.replace(wanted, name="found").rows()
    said = (recipes_folder / LESSON / "found.yaml").read_text()
    assert "val_loss 0, the best (minimize) of 1 finished trials" in said


def seed_study(url: str, plan: Plan, n: int) -> None:
    """``n`` finished trials that were good at step 10."""
    import optuna

    study = optuna.create_study(storage=url, study_name="s", direction="minimize")
    study.set_user_attr("plan", json.loads(json.dumps(plan.__dict__, default=lambda axis: axis.__dict__)))
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


def test_a_trial_that_falls_behind_is_pruned_and_its_processes_are_gone(tmp_path, monkeypatch):
    write_notebook(tmp_path / "notebooks", BLOCK.replace("time.sleep", REPORT_BADLY + "time.sleep"))
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "notebooks")
    space, url = ["learning_rate=log:1e-4:1e-2"], f"sqlite:///{tmp_path / 'shared.db'}"
    seed_study(url, Plan(LESSON, "tiny", (SearchDimension.parse(space[0]),), "val_loss"), 4)
    found = search("05", space, "val_loss", trials=5, name="s", storage=url, root=tmp_path)
    assert [trial.state for trial in found.trials] == ["ok"] * 4 + ["pruned"]
    assert found.trials[-1].value == 9.0
    assert is_gone(int((tmp_path / "s" / "trials" / "pid").read_text()))


def test_a_killed_search_takes_its_notebook_along_and_begins_it_anew(tmp_path, monkeypatch):
    write_notebook(tmp_path / "notebooks", BLOCK)
    arguments = ["--space", "learning_rate=log:1e-4:1e-2", "--trials", "1"]
    code = f"runner.NOTEBOOKS = Path({str(tmp_path / 'notebooks')!r})"
    worker = start_worker(tmp_path, *arguments, code=code)
    marker = tmp_path / "s" / "trials" / "pid"
    wait_for(lambda: marker.exists() and marker.read_text())
    worker.kill()
    wait_for(lambda: is_gone(int(marker.read_text())), 20)
    monkeypatch.setattr("lmlab.course.search.DEAD_SECONDS", 0.1)
    monkeypatch.setattr(runner, "run_notebook", stand_in())
    said = []
    found = search("05", [arguments[1]], "val_loss", trials=1, name="s", root=tmp_path, report=said.append)
    assert [(trial.number, trial.state) for trial in found.trials] == [(1, "ok"), (0, "stopped")]
    assert found.trials[0].values == found.trials[1].values
    assert said[0] == "trial 0 was stopped on its way; it begins anew"
    worker.wait()


# --- without ---

SPACE = ["learning_rate=log:1e-4:1e-2", "lora_dropout=0.0:0.5"]


def values_of(found) -> list[dict]:
    return [t.values for t in sorted(found.trials, key=lambda t: t.number) if t.state != "stopped"]


def test_a_search_in_two_parts_draws_what_one_does(tmp_path, quick):
    whole = search("05", SPACE, "val_loss", trials=7, name="whole", root=tmp_path)  # five at random
    search("05", SPACE, "val_loss", trials=3, name="parts", root=tmp_path)
    parts = search("05", SPACE, "val_loss", trials=7, name="parts", root=tmp_path)
    assert values_of(parts) == values_of(whole)
    assert len({trial.values["learning_rate"] for trial in whole.trials}) == 7
    assert whole.best.value == min(trial.value for trial in whole.trials)
    other = search("05", SPACE, "val_loss", trials=1, name="seed", root=tmp_path, overrides={"seed": 1000})
    assert values_of(other) != values_of(whole)[:1]


def test_killed_in_the_middle_nothing_is_lost_and_nothing_repeated(tmp_path, quick, monkeypatch):
    monkeypatch.setattr("lmlab.course.search.DEAD_SECONDS", 1.0)
    space = "learning_rate=grid:1e-4,3e-4,1e-3,3e-3,1e-2"
    worker = start_worker(tmp_path, "--space", space, code="runner.run_notebook = stand_in(block_at=2)")
    wait_for((tmp_path / "s" / "trials" / "blocked").exists)
    worker.kill()
    worker.wait()
    found = search("05", [space], "val_loss", name="s", root=tmp_path)
    assert Counter(trial.state for trial in found.trials) == {"ok": 5, "stopped": 1}
    assert sorted(rates["learning_rate"] for rates in values_of(found)) == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert found.best.values == {"learning_rate": 1e-3} and found.best.value == 0


def test_two_processes_share_the_trials(tmp_path):
    space = "learning_rate=grid:" + ",".join(f"{i}e-3" for i in range(1, 9))
    code = "runner.run_notebook = stand_in(seconds=0.3)"
    workers = [start_worker(tmp_path, "--space", space, code=code) for _ in range(2)]
    printed = [worker.communicate(timeout=100)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    found = search("05", [space], "val_loss", name="s", root=tmp_path)
    assert sorted(rates["learning_rate"] for rates in values_of(found)) == [i / 1000 for i in range(1, 9)]
    done = [text.count("): val_loss") for text in printed]
    assert sum(done) == 8 and min(done) > 0


def test_an_interrupted_trial_does_not_count(tmp_path, quick, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_notebook", interrupt)
        with pytest.raises(KeyboardInterrupt):
            search("05", SPACE, "val_loss", trials=2, name="s", root=tmp_path)
    found = search("05", SPACE, "val_loss", trials=2, name="s", root=tmp_path)
    assert Counter(trial.state for trial in found.trials) == {"ok": 2, "stopped": 1}


def test_kinds_of_values_reach_the_notebook(tmp_path, quick):
    space = [
        "learning_rate=grid:1e-3,1e-2",
        "lora_r=int:2:8",
        "activation_checkpointing=one:true,false",
        "target_modules=one:[q_proj, v_proj],all-linear",
        "n_train=grid:null,50",
    ]
    found = search("05", space, "gain", direction="maximize", trials=6, name="s", root=tmp_path)
    rows = values_of(found)
    assert [(row["learning_rate"], row["n_train"]) for row in rows] == [
        (1e-3, None),
        (1e-3, 50),
        (1e-2, None),
        (1e-2, 50),
        (1e-3, None),
        (1e-3, 50),
    ]
    assert {type(row["lora_r"]) for row in rows} == {int} and all(2 <= row["lora_r"] <= 8 for row in rows)
    assert {str(row["target_modules"]) for row in rows} <= {"['q_proj', 'v_proj']", "all-linear"}
    assert found.best.value == max(trial.value for trial in found.trials) == 0
    assert {path.name for path in draw(found).folder.glob("*.png")} == {
        "history.png",
        *(f"{text.split('=')[0]}.png" for text in space),
    }


def test_a_diverged_trial_has_failed(tmp_path, quick):
    found = search("05", ["learning_rate=grid:1.0,1e-3"], "val_loss", name="s", root=tmp_path)
    assert [(trial.state, trial.error) for trial in found.trials] == [("ok", ""), ("failed", "diverged: nan")]


def running_trial(root: Path, sign: float, draw: int = 0):
    """A trial of another process in study "s", which gave its last sign of life at that time."""
    import optuna

    trial = optuna.load_study(study_name="s", storage=f"sqlite:///{root / 's' / 'study.db'}").ask()
    trial.set_user_attr("sign", sign)
    trial.set_user_attr("draw", draw)
    return trial


def test_a_trial_of_a_vanished_host_is_waited_for_and_begun_anew(tmp_path, quick, monkeypatch):
    space, said, waited = ["learning_rate=grid:1e-3,1e-2"], [], []
    search("05", space, "val_loss", name="s", root=tmp_path, trials=1)
    running_trial(tmp_path, time.time() - 100)
    monkeypatch.setattr(
        "lmlab.course.search.time",
        SimpleNamespace(
            time=lambda: time.time() + sum(waited),
            monotonic=time.monotonic,
            sleep=lambda _: waited.append(20),
        ),
    )
    found = search("05", space, "val_loss", name="s", root=tmp_path, report=said.append)
    assert Counter(trial.state for trial in found.trials) == {"ok": 2, "stopped": 1}
    assert said[0] == "trial 1: waiting for a sign of life; without one for 300 s it begins anew"
    assert said[1] == "trial 1 was stopped on its way; it begins anew" and len(said) == 4
    assert 180 <= sum(waited) <= 220


def test_a_living_trial_is_left_alone_and_no_recipe_is_saved(tmp_path, quick, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "RECIPES", shutil.copytree(recipes.RECIPES, tmp_path / "recipes"))
    search("05", SPACE[:1], "val_loss", name="s", root=tmp_path, trials=1)
    running_trial(tmp_path, time.time() + 60)
    command = [
        "search",
        "05",
        "--space",
        SPACE[0],
        "--metric",
        "val_loss",
        "--name",
        "s",
        "--trials",
        "2",
        "--output-dir",
        str(tmp_path),
        "--save-recipe",
        "found",
    ]
    assert cli.main(command) == 1
    assert "not saved: another process is at a trial" in capsys.readouterr().err
    assert not (recipes.RECIPES / LESSON / "found.yaml").exists()


def test_what_a_dead_trial_tried_is_tried_again_and_nothing_twice(tmp_path, quick):
    whole = search("05", SPACE, "val_loss", trials=3, name="whole", root=tmp_path)
    search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path)
    dead = running_trial(tmp_path, time.time() + 60, draw=1)
    search("05", SPACE, "val_loss", trials=3, name="s", root=tmp_path)
    dead.set_user_attr("sign", time.time() - 301)
    found = search("05", SPACE, "val_loss", trials=3, name="s", root=tmp_path)
    first, third, second = values_of(found)
    assert [first, second, third] == values_of(whole)


def test_a_running_trial_gives_signs_of_life(tmp_path, quick, monkeypatch):
    import optuna

    monkeypatch.setattr("lmlab.course.search.SIGN_SECONDS", 0.1)
    monkeypatch.setattr(runner, "run_notebook", stand_in(seconds=0.6))
    search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path)
    (trial,) = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 's' / 'study.db'}").trials
    assert trial.user_attrs["sign"] > trial.datetime_start.timestamp() + 0.3


def test_a_database_that_is_away_for_a_sign_ends_no_trial(tmp_path, quick, monkeypatch):
    import optuna

    def away(trial, name, value, write=optuna.trial.Trial.set_user_attr):
        if name == "sign":
            raise optuna.exceptions.StorageInternalError
        write(trial, name, value)

    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", away)
    found = search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path)
    assert [trial.state for trial in found.trials] == ["ok"]


def test_who_was_taken_for_dead_goes_on_with_the_next(tmp_path, quick, monkeypatch):
    import optuna

    def taken(job, run_dir, live):
        if run_dir.name == "0000":
            study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 's' / 'study.db'}")
            study.tell(0, state=optuna.trial.TrialState.FAIL)
            time.sleep(0.3)
        return stand_in()(job, run_dir, live)

    monkeypatch.setattr("lmlab.course.search.SIGN_SECONDS", 0.0)
    monkeypatch.setattr(runner, "run_notebook", taken)
    said = []
    found = search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path, report=said.append)
    assert said[0] == "trial 0: another process took it for dead, and begins it anew"
    assert [(trial.number, trial.state) for trial in found.trials] == [(1, "ok"), (0, "stopped")]


def test_an_interrupt_while_a_result_is_written_leaves_no_orphan(tmp_path, quick, monkeypatch):
    import optuna

    def interrupt(study, *_, write=optuna.study.Study.tell, **__):
        monkeypatch.setattr(optuna.study.Study, "tell", write)
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.study.Study, "tell", interrupt)
    with pytest.raises(KeyboardInterrupt):
        search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path)
    found = search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path)
    assert [(trial.number, trial.state) for trial in found.trials] == [(1, "ok"), (0, "stopped")]


GOOD, BAD = [(0, 5.0), (10, 0.05)], [(0, 9.5), (10, 9.0)]


@pytest.mark.parametrize(
    "reports, pruning, state", [(GOOD, True, "ok"), (BAD, True, "pruned"), (BAD, False, "ok")]
)
def test_only_what_falls_behind_is_pruned(tmp_path, quick, monkeypatch, reports, pruning, state):
    monkeypatch.setattr(runner, "run_notebook", stand_in(seconds=0.3, reports=reports))
    url, said = f"sqlite:///{tmp_path / 'shared.db'}", []
    seed_study(url, Plan(LESSON, "tiny", (SearchDimension.parse(SPACE[0]),), "val_loss"), 4)
    found = search(
        "05",
        SPACE[:1],
        "val_loss",
        trials=5,
        name="s",
        storage=url,
        root=tmp_path,
        pruning=pruning,
        report=said.append,
    )
    assert next(trial.state for trial in found.trials if trial.number == 4) == state
    assert not any("nothing is pruned" in line for line in said)


@pytest.mark.parametrize("pruning, times", [(True, 1), (False, 0)])
def test_a_lesson_that_reports_nothing_is_named_once(tmp_path, quick, pruning, times):
    said = []
    search("05", SPACE, "val_loss", trials=2, name="s", root=tmp_path, pruning=pruning, report=said.append)
    assert said.count("the lesson reports no val_loss while it trains: nothing is pruned") == times


def test_how_many_trials():
    drawn, grid = (
        Plan(LESSON, "tiny", (SearchDimension.parse(f"learning_rate={range_}"),), "val_loss")
        for range_ in ("1e-4:1e-2", "grid:1e-4,1e-3,1e-2")
    )
    assert [drawn.number_of_trials(wanted) for wanted in (None, 2)] == [12, 2]
    assert [grid.number_of_trials(wanted) for wanted in (None, 2, 12)] == [3, 2, 3]


def test_time_out_begins_no_trial(tmp_path, quick):
    assert search("05", SPACE, "val_loss", trials=2, name="s", root=tmp_path, timeout=0).trials == []


def test_an_unknown_metric_ends_the_search_and_names_those_that_exist(tmp_path, quick, capsys):
    command = ["search", "05", "--space", SPACE[0], "--metric", "valloss", "--output-dir", str(tmp_path)]
    assert cli.main(command) == 2
    assert (
        "got 'valloss', expected a number that the lesson measures: val_loss, gain; did you mean 'val_loss'?"
    ) in capsys.readouterr().err
    assert len(list(tmp_path.glob("*/trials/*"))) == 1


def test_another_search_of_the_same_name_is_refused(tmp_path, quick, monkeypatch):
    search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path)
    with pytest.raises(ValueError, match="study 's' is another search .metric val_loss there, gain now"):
        search("05", SPACE, "gain", trials=1, name="s", root=tmp_path)
    with pytest.raises(ValueError, match="lora_r 8 there, 4 now"):
        search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path, overrides={"lora_r": 4})
    monkeypatch.setattr(recipes, "RECIPES", shutil.copytree(recipes.RECIPES, tmp_path / "recipes"))
    tiny = recipes.RECIPES / LESSON / "tiny.yaml"
    tiny.write_text(re.sub("study_steps: .*", "study_steps: 7", tiny.read_text()))
    with pytest.raises(
        ValueError, match=r"another search \(study_steps \d+ there, 7 now\); give another --name"
    ):
        search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path)
    (tmp_path / "s" / "study.db").unlink()
    with pytest.raises(ValueError, match="holds trials of a study that its database does not know"):
        search("05", SPACE, "val_loss", trials=1, name="s", root=tmp_path)


@pytest.mark.parametrize(
    "space, message",
    [
        ("learning_rate", "expected KEY=LOW:HIGH"),
        ("learning_rate=3", "expected KEY=LOW:HIGH"),
        ("learning_rate=log:0:1", "0 < LOW < HIGH"),
        ("learning_rate=2:1", "finite bounds with LOW < HIGH"),
        ("learning_rate=1:inf", "finite bounds"),
        ("learning_rate=lin:1:2", "expected KEY=LOW:HIGH"),
        ("lora_r=int:1.5:2", "expected KEY=LOW:HIGH"),
        ("lora_r=one:", "values with commas"),
        ("lora_r=one:{", "values with commas"),
        ("lora_r=grid:1,1", "a value stands twice"),
        ("lora_r=2:8", "lora_r: expected a whole number, got 2.0 .float.*int:LOW:HIGH draws whole numbers"),
        ("lora_r=int:0:8", "expected a positive number, got 0"),
        ("lora_dropout=0.5:1.5", "a number from 0 to 1"),
        ("lora_dropout=one:0.1,much", "expected a number.*got 'much'"),
        ("learning_rates=1:2", "did you mean 'learning_rate'"),
        ("name=one:a,b", "is no choice"),
        ("seed=int:0:3", "seed twice, or in --set too"),
    ],
)
def test_a_space_that_cannot_be_starts_nothing(tmp_path, quick, space, message):
    with pytest.raises(ValueError, match=message):
        search("05", [space], "val_loss", name="s", root=tmp_path, overrides={"seed": 1})
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--trials", "0"], "--trials got 0"),
        (["--recipe", "big"], "expected a recipe"),
        (["--name", "a/b"], "--name got 'a/b'"),
        (["--save-recipe", "tiny"], "tiny.yaml exists; give"),
        (["--set", "lora_s=3"], "did you mean 'lora_r'"),
        (["--storage", "nowhere"], "--storage got 'nowhere'"),
        (["--timeout", "-5"], "--timeout got -5.0; give seconds from 0"),
        (["--timeout", "nan"], "--timeout got nan"),
    ],
)
def test_requests_that_cannot_be_met_run_nothing(tmp_path, quick, capsys, arguments, message):
    command = ["search", "05", "--space", SPACE[0], "--metric", "val_loss", "--output-dir", str(tmp_path)]
    assert cli.main([*command, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*/trials"))


@pytest.mark.parametrize(
    "address",
    [
        "nosuchdialect://me:s3cr%40t@host/db",
        "postgresql:/me:s3cr%40t@host/db",
        "me:s3cr%40t@host",
        "nosuchdialect://me@host/db?password=s3cr%40t",
        "sqlite://me:s3cr%40t@host/x.db",
    ],
)
def test_the_password_of_a_database_is_not_shown(tmp_path, address):
    with pytest.raises(ValueError, match="--storage got .*host") as caught:
        search("05", SPACE, "val_loss", name="s", root=tmp_path, storage=address)
    assert "s3cr" not in str(caught.value) and "***" in str(caught.value)


def test_the_password_is_not_shown_where_the_driver_says_it():
    text = search_module._without_password("cannot log in with s3cr@t", "postgresql://me:s3cr%40t@host/db")
    assert text == "cannot log in with ***"


def test_values_that_contradict_each_other_are_refused():
    axes = tuple(map(SearchDimension.parse, ["n_embd=one:96,128", "n_head=one:3,4"]))
    with pytest.raises(ValueError, match="n_embd 128 is not a multiple of n_head 3"):
        Plan("02_gpt2_from_scratch", "tiny", axes, "val_loss").check()
    axes = tuple(
        map(SearchDimension.parse, ["n_embd=one:90,99", "n_head=one:3,9"])
    )  # neither with the recipe's 4 heads
    Plan("02_gpt2_from_scratch", "tiny", axes, "val_loss").check()


def test_a_recipe_is_saved_once_and_only_of_a_finished_trial(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", shutil.copytree(recipes.RECIPES, tmp_path / "recipes"))
    found = search("05", ["learning_rate=grid:1.0"], "val_loss", name="bad", root=tmp_path)
    with pytest.raises(ValueError, match="no trial has finished"):
        save_recipe(found, "found")
    found = search("05", ["learning_rate=log:1e-5:1e-2"], "val_loss", trials=1, name="good", root=tmp_path)
    save_recipe(found, "found")
    assert load_recipe(LESSON, "found").learning_rate == found.best.values["learning_rate"]
    assert load_recipe(LESSON, "found").expected == {}
    (recipes.RECIPES / LESSON / "alike.yaml").write_text("like: tiny\n")
    assert load_recipe(LESSON, "alike").expected
    alike = dataclasses.replace(found, plan=dataclasses.replace(found.plan, recipe="alike"))
    save_recipe(alike, "found-alike")
    assert load_recipe(LESSON, "found-alike").expected == {}
    with pytest.raises(ValueError, match="exists; give another name"):
        save_recipe(found, "found")
    with pytest.raises(ValueError, match="give letters"):
        check_new_recipe(LESSON, "../x")


@pytest.mark.parametrize(
    "text, logarithmic",
    [
        ("a=log:1:2", True),
        ("a=1:100", False),
        ("a=grid:1e-4,1e-2", True),
        ("a=grid:1,2,4", False),
        ("a=grid:0,100", False),
        ("a=one:x,y", False),
        ("a=int:1:100", False),
    ],
)
def test_logarithmic_axes(text, logarithmic):
    assert SearchDimension.parse(text).logarithmic is logarithmic
