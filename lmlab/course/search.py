"""Hyperparameter search over a recipe: a trial is one run of the lesson's notebook, a study all of them.

Optuna (Akiba et al. 2019) samples the values, prunes, and keeps the study in a database in its folder, which
several worker processes may share. A running trial has a heartbeat there; the trial of a worker that died is
retried.
"""

import json
import logging
import math
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
import yaml
from filelock import FileLock
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial

from lmlab.course import runner
from lmlab.course.search_space import SearchPlan
from lmlab.files import replace_file, write_atomic
from lmlab.recipes import find_recipe, list_recipes, load_recipe
from lmlab.recipes.types import nearest
from lmlab.training.progress import read_progress

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 30
GRACE_SECONDS = 300  # a trial without a heartbeat for so long has died with its worker
RANDOM_TRIALS = 5  # before the sampler begins to learn from the others
# a learning rate that is good early may not be so in the end: only what falls behind half of the others is
# pruned
PRUNING = {"n_startup_trials": 4, "n_warmup_steps": 1, "n_min_trials": 3}


class TrialFailed(ValueError):
    """The notebook of a trial failed, or its metric is not finite; the search goes on."""


@dataclass(frozen=True)
class StudyResult:
    """A study as it stands, and the folder where its plots and trials are."""

    plan: SearchPlan
    trials: list[FrozenTrial]  # that have begun, the complete ones first, the best before all
    folder: Path

    @property
    def best(self) -> FrozenTrial | None:
        """The best complete trial, or None."""
        return next((trial for trial in self.trials if state_of(trial) == "complete"), None)

    def __str__(self) -> str:
        """A table of all trials."""
        import pandas as pd

        rows = []
        for trial in self.trials:
            row = {"trial": trial.number, "state": state_of(trial), self.plan.metric: trial.value}
            seconds = trial.duration.total_seconds() if trial.duration else None
            rows.append(row | trial.params | {"seconds": seconds, "error": trial.user_attrs.get("error", "")})
        return pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format, na_rep="")


def state_of(trial: FrozenTrial) -> str:
    """How an Optuna trial went. What failed without an error was interrupted: it does not count."""
    if trial.state.name == "FAIL":
        return "failed" if "error" in trial.user_attrs else "interrupted"
    return trial.state.name.lower()


def search(
    plan: SearchPlan, *, root: Path, trials: int | None = None, name: str | None = None, pruning: bool = True
) -> StudyResult:
    """Runs trials until the study has enough; those of earlier calls and of other workers count.

    Args:
        plan: What is searched.
        root: Studies lie below it, each in a folder of its name.
        trials: How many the study shall have; by default 12, or all combinations of a grid.
        name: Of the study, which resumes if it exists; by default made from the plan.
        pruning: Whether a trial that falls behind the others is ended early.

    Returns:
        The study's result. Trials of other workers may still run.

    Raises:
        ValueError: A request that cannot be met, before anything runs; or an unknown metric.
    """
    plan.check()
    wanted = plan.number_of_trials(trials)
    name = name or f"{plan.lesson[:2]}-{Path(plan.recipe).stem}-{plan.metric}"
    worker = _Worker(plan, (root / name).expanduser().resolve(), pruning)
    # Another worker's running trial may turn out to have died: it is then queued again, and run here.
    while worker.run_trial(wanted) or worker.others_run():
        time.sleep(POLL_SECONDS)
    result = worker.result()
    if result.best:
        save_plots(worker.study, plan, result.folder)
    return result


class _Worker:
    """One process's part in a study."""

    def __init__(self, plan: SearchPlan, folder: Path, pruning: bool):
        self.plan, self.folder = plan, folder
        self.recipe = load_recipe(plan.lesson, plan.recipe, **plan.overrides)
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / "study.lock")
        with self.lock:
            self.study = _open_study(folder, plan.direction, pruning)
            self._check_same_plan()

    def _check_same_plan(self) -> None:
        """The study is new, or of this plan and of a recipe with these values."""
        # By way of JSON, as the study keeps it: tuples become lists.
        mine = json.loads(json.dumps({**dict(self.recipe.rows()), **asdict(self.plan)}))
        kept = self.study.user_attrs.get("plan")
        if kept is None:
            self.study.set_user_attr("plan", mine)
            return
        changed = [key for key in mine if kept.get(key) != mine[key]]
        if changed:
            raise ValueError(
                f"study {self.folder.name!r} is another search ({', '.join(changed)} differ); give another --name"
            )

    def run_trial(self, wanted: int) -> bool:
        """Runs the next trial, or returns False when the study has all that are wanted."""
        # Until the trial has its values (in _objective): workers together begin no more than are wanted.
        self.lock.acquire()
        try:
            fail_stale_trials(self.study)
            states = [state_of(trial) for trial in self.study.get_trials(deepcopy=False)]
            begun = sum(state not in ("waiting", "interrupted") for state in states)
            if begun >= wanted:
                return False
            self.study.sampler = _sampler(self.plan, self.recipe.seed, begun)
            self.study.optimize(self._objective, n_trials=1, catch=TrialFailed)
        finally:
            self.lock.release()
        return True

    def others_run(self) -> bool:
        """Whether another worker is at a trial."""
        return any(state_of(trial) == "running" for trial in self.study.get_trials(deepcopy=False))

    def _objective(self, trial: optuna.Trial) -> float:
        """Runs the notebook with a trial's values; returns its metric."""
        values = {dimension.key: dimension.suggest(trial) for dimension in self.plan.space}
        self.lock.release()
        log.info("trial %d: %s", trial.number, values)
        try:
            value = self._run_notebook(trial, values)
        except ValueError as error:
            trial.set_user_attr("error", str(error))
            log.info("trial %d failed: %s", trial.number, error)
            raise
        except (KeyboardInterrupt, OSError):  # no fault of the values
            _retry(self.study, self.study.trials[trial.number])
            raise
        log.info("trial %d: %s %.4g", trial.number, self.plan.metric, value)
        return value

    def _run_notebook(self, trial: optuna.Trial, values: dict) -> float:
        """The metric of the notebook with these values. Raises TrialFailed where it has none."""
        lesson, overrides = self.plan.lesson, {**self.plan.overrides, **values}
        out = self.folder / "trials" / f"{trial.number:04d}"
        out.mkdir(parents=True)
        recipe = str(find_recipe(lesson, self.plan.recipe))
        parameters = {"recipe": recipe, "overrides": overrides, "output_dir": str(out)}
        job = runner.Job(lesson, runner.NOTEBOOKS / f"{lesson}.ipynb", parameters)
        reported: set[int] = set()  # steps
        outcome = _run_watched(job, out, lambda: self._report(trial, out / lesson, reported))
        if not outcome.ok:
            write_atomic(out / "error.txt", outcome.error)
            raise TrialFailed(outcome.error.strip().splitlines()[-1].strip())
        value = _read_metric(out / lesson / "metrics.json", self.plan.metric)
        if not math.isfinite(value):
            raise TrialFailed(f"diverged: {value}")
        return value

    def _report(self, trial: optuna.Trial, lesson_folder: Path, reported: set[int]) -> None:
        """Passes on what the notebook has reported since. Raises TrialPruned where it falls behind."""
        for row in read_progress(lesson_folder):
            if self.plan.metric in row and row["step"] not in reported:
                reported.add(row["step"])
                trial.report(row[self.plan.metric], row["step"])
                if trial.should_prune():
                    log.info("trial %d: pruned at step %d", trial.number, row["step"])
                    raise optuna.TrialPruned

    def result(self) -> StudyResult:
        """All trials that have begun, the best first."""
        begun = [trial for trial in self.study.trials if state_of(trial) != "waiting"]
        complete = [trial for trial in begun if state_of(trial) == "complete"]
        complete.sort(key=lambda trial: trial.value, reverse=self.plan.direction == "maximize")
        others = [trial for trial in begun if state_of(trial) != "complete"]
        return StudyResult(self.plan, complete + others, self.folder)


def _open_study(folder: Path, direction: str, pruning: bool) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    database = RDBStorage(
        f"sqlite:///{folder / 'study.db'}",
        # sqlite has one writer at a time: others wait for it
        engine_kwargs={"connect_args": {"timeout": 60}},
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=_retry,
    )
    pruner = optuna.pruners.MedianPruner(**PRUNING) if pruning else optuna.pruners.NopPruner()
    return optuna.create_study(
        storage=database, study_name=folder.name, direction=direction, pruner=pruner, load_if_exists=True
    )


def _sampler(plan: SearchPlan, seed: int, begun: int) -> optuna.samplers.BaseSampler:
    """A grid's combinations, or TPE with another seed for each trial.

    So a study that resumes samples what one without a break would.
    """
    grid = plan.grid()
    if grid is not None:
        return optuna.samplers.GridSampler(grid, seed=seed)
    return optuna.samplers.TPESampler(seed=seed + begun, n_startup_trials=RANDOM_TRIALS)


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues a trial that did not come to its end, with the same values."""
    log.info("trial %d was interrupted; it is retried", trial.number)
    RetryHeartbeatStaleTrialCallback()(study, trial)


def _run_watched(job: runner.Job, out: Path, look: Callable[[], None]) -> runner.Outcome:
    """Runs a notebook and calls ``look`` meanwhile; an exception there ends all processes of the notebook."""
    live: set = set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runner.run_notebook, job, out, live)
        try:
            while not wait([running], timeout=POLL_SECONDS).done:
                look()
        except BaseException:
            while not wait([running], timeout=0.1).done:  # it may not have begun yet
                for process in list(live):
                    runner.kill_process_tree(process)
            raise
    outcome = running.result()
    if outcome.ok:
        look()  # later trials are compared with its last values too
    return outcome


def _read_metric(path: Path, metric: str) -> float:
    """Raises ValueError, which names those that there are: no further trial would measure it either."""
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    if metric not in numbers:
        raise ValueError(
            f"--metric got {metric!r}, expected a number that the lesson measures: {', '.join(numbers)}"
            f"{nearest(metric, numbers)}"
        )
    return float(numbers[metric])


def save_plots(study: optuna.Study, plan: SearchPlan, folder: Path) -> None:
    """Saves a plot of the metric over each key, and one over the trials, in the study's folder."""
    import matplotlib

    matplotlib.use("agg")  # no window
    from optuna.visualization.matplotlib import plot_optimization_history, plot_slice

    plots = {"history": plot_optimization_history(study, target_name=plan.metric)}
    for dimension in plan.space:
        plots[dimension.key] = plot_slice(study, params=[dimension.key], target_name=plan.metric)
    for name, axes in plots.items():
        with replace_file(folder / f"{name}.png") as temporary:
            axes.figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")


def check_new_recipe(lesson: str, name: str) -> Path:
    """Where a recipe of this name would go. Raises ValueError for one that is taken, or is no name."""
    if name in list_recipes(lesson) or Path(name).name != name:
        raise ValueError(f"--save-recipe got {name!r}; give a new name without folders")
    return Path("recipes", lesson, f"{name}.yaml").resolve()


def save_recipe(result: StudyResult, name: str) -> Path:
    """Writes ./recipes/<lesson>/<name>.yaml: the searched recipe with the winner's values.

    Its expected bands are left out: they were measured with other values.

    Raises:
        ValueError: The name is taken, or no trial is complete.
    """
    plan, best = result.plan, result.best
    path = check_new_recipe(plan.lesson, name)
    if best is None:
        raise ValueError(f"--save-recipe {name}: not saved, no trial of {result.folder.name} is complete")
    head = (
        f"# Found by a search from recipe {plan.recipe}: {plan.metric} {best.value:.6g} ({plan.direction})\n"
        f"# in study {result.folder.name} ({time.strftime('%Y-%m-%d')}). It has no expected bands yet.\n"
    )
    values = {"extends": plan.recipe, **plan.overrides, **best.params, "expected": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(path, head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))
