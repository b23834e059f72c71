"""Hyperparameter search over a recipe: a trial is one run of the lesson's notebook, a study all of them.

Optuna (Akiba et al. 2019) samples the values, prunes, and keeps the study in a database in its folder. A
trial that was interrupted is retried with its values when the study resumes.
"""

import json
import logging
import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from lmlab.course import runner
from lmlab.course.search_space import SearchPlan
from lmlab.files import write_atomic
from lmlab.recipes import Recipe, find_recipe, load_recipe
from lmlab.recipes.types import nearest
from lmlab.training.progress import read_progress

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
RANDOM_TRIALS = 5  # before the sampler begins to learn from the others
# a learning rate that is good early may not be so in the end: only what falls behind half of the others is
# pruned
PRUNING = {"n_startup_trials": 4, "n_warmup_steps": 1, "n_min_trials": 3}


class TrialFailed(ValueError):
    """The notebook of a trial failed, or its metric is not finite; the search goes on."""


@dataclass(frozen=True)
class StudyResult:
    """A study as it stands, and the folder where its trials are."""

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
    plan: SearchPlan, *, root: Path, trials: int | None = None, name: str | None = None
) -> StudyResult:
    """Runs trials until the study has enough; those of earlier calls count.

    Args:
        plan: What is searched.
        root: Studies lie below it, each in a folder of its name.
        trials: How many the study shall have; by default 12, or all combinations of a grid.
        name: Of the study, which resumes if it exists; by default made from the plan.

    Returns:
        The study's result.

    Raises:
        ValueError: A request that cannot be met, before anything runs; or an unknown metric.
    """
    plan.check()
    wanted = plan.number_of_trials(trials)
    recipe = load_recipe(plan.lesson, plan.recipe, **plan.overrides)
    name = name or f"{plan.lesson[:2]}-{Path(plan.recipe).stem}-{plan.metric}"
    folder = (root / name).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # One process at a time; the lock of one that was killed is free again.
    with FileLock(folder / "study.lock", timeout=0):
        study = _open_study(folder, plan, recipe)
        while (begun := _count_begun(study)) < wanted:
            study.sampler = _sampler(plan, recipe.seed, begun)
            # One trial a call: the next one's sampler has another seed. What fails does not end the search.
            study.optimize(partial(_objective, plan, folder), n_trials=1, catch=TrialFailed)
        return StudyResult(plan, _ranked(study, plan.direction), folder)


def _count_begun(study: optuna.Study) -> int:
    # An interrupted trial is queued again as a new one, so it does not count.
    states = [state_of(trial) for trial in study.get_trials(deepcopy=False)]
    return sum(state not in ("waiting", "interrupted") for state in states)


def _ranked(study: optuna.Study, direction: str) -> list[FrozenTrial]:
    """All trials that have begun: the complete ones, the best first, then the others."""
    begun = [trial for trial in study.trials if state_of(trial) != "waiting"]
    complete = [trial for trial in begun if state_of(trial) == "complete"]
    complete.sort(key=lambda trial: trial.value, reverse=direction == "maximize")
    return complete + [trial for trial in begun if state_of(trial) != "complete"]


def _open_study(folder: Path, plan: SearchPlan, recipe: Recipe) -> optuna.Study:
    """The study in a folder, new or as it was left.

    Raises:
        ValueError: It is of another plan, or of a recipe with other values.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name=folder.name,
        direction=plan.direction,
        pruner=optuna.pruners.MedianPruner(**PRUNING),
        load_if_exists=True,
    )
    # By way of JSON, as the study keeps it: tuples become lists.
    mine = json.loads(json.dumps({**dict(recipe.rows()), **asdict(plan)}))
    kept = study.user_attrs.get("plan")
    if kept is None:
        study.set_user_attr("plan", mine)
    elif kept != mine:
        changed = ", ".join(key for key in mine if kept.get(key) != mine[key])
        raise ValueError(f"study {folder.name!r} is another search ({changed} differ); give another --name")
    # Nobody else has the lock: what is still running was killed with its process.
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        _retry(study, trial)
    return study


def _objective(plan: SearchPlan, folder: Path, trial: optuna.Trial) -> float:
    """Runs the notebook with a trial's values; returns its metric."""
    values = {dimension.key: dimension.suggest(trial) for dimension in plan.space}
    log.info("trial %d: %s", trial.number, values)
    try:
        value = _run_notebook(plan, folder, trial, values)
    except ValueError as error:
        trial.set_user_attr("error", str(error))
        log.info("trial %d failed: %s", trial.number, error)
        raise
    except (KeyboardInterrupt, OSError):  # no fault of the values
        _retry(trial.study, trial.study.trials[trial.number])
        raise
    log.info("trial %d: %s %.4g", trial.number, plan.metric, value)
    return value


def _run_notebook(plan: SearchPlan, folder: Path, trial: optuna.Trial, values: dict) -> float:
    """The metric of the notebook with these values. Raises TrialFailed where it has none."""
    out = folder / "trials" / f"{trial.number:04d}"
    out.mkdir(parents=True)
    parameters = {
        "recipe": str(find_recipe(plan.lesson, plan.recipe)),
        "overrides": {**plan.overrides, **values},
        "output_dir": str(out),
    }
    job = runner.Job(plan.lesson, runner.NOTEBOOKS / f"{plan.lesson}.ipynb", parameters)
    # Steps: the file of progress is read from its begin each time, and Optuna takes a step once.
    reported: set[int] = set()
    outcome = _run_watched(job, out, lambda: _report(trial, plan.metric, out / plan.lesson, reported))
    if not outcome.ok:
        write_atomic(out / "error.txt", outcome.error)
        raise TrialFailed(outcome.error.strip().splitlines()[-1].strip())
    value = _read_metric(out / plan.lesson / "metrics.json", plan.metric)
    if not math.isfinite(value):
        raise TrialFailed(f"diverged: {value}")
    return value


def _report(trial: optuna.Trial, metric: str, lesson_folder: Path, reported: set[int]) -> None:
    """Passes on what the notebook has reported since. Raises TrialPruned where it falls behind."""
    for row in read_progress(lesson_folder):
        if metric in row and row["step"] not in reported:
            reported.add(row["step"])
            trial.report(row[metric], row["step"])
            if trial.should_prune():
                log.info("trial %d: pruned at step %d", trial.number, row["step"])
                raise optuna.TrialPruned


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
            # Again and again: the notebook's process may not have begun yet.
            while not wait([running], timeout=0.1).done:
                for process in list(live):
                    runner.kill_process_tree(process)
            raise
    outcome = running.result()
    if outcome.ok:
        # Later trials are compared with its last values too.
        look()
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
