"""Searches over the values of a recipe: a trial is one run of the lesson's notebook, a study all of them.

Optuna (Akiba et al. 2019) draws the values and keeps the study in a database, which several processes may
share: each takes its next trial under a file lock, so that together they run no more than one alone would.
"""

import difflib
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import unquote

from lmlab import recipes
from lmlab.course import runner
from lmlab.files import replace_file, write_atomic
from lmlab.recipes import PROJECT, find_lesson, load_recipe, parse_setting
from lmlab.training.progress import read_progress
from lmlab.viz import plots

STUDIES = PROJECT / "runs" / "search"
POLL_SECONDS = 0.5
SIGN_SECONDS = 30.0  # a running trial gives a sign of life so often
DEAD_SECONDS = 300.0  # one that has given none for so long is run by nobody any more
# a rate that is good early on may not be in the end: only what falls behind half of the others is ended
PRUNING = {"n_startup_trials": 4, "n_warmup_steps": 1, "n_min_trials": 3}
RANDOM_TRIALS = 5  # before the sampler begins to learn from the others
DEFAULT_TRIALS = 12
_FORMS = "expected KEY=LOW:HIGH, KEY=log:LOW:HIGH, KEY=int:LOW:HIGH, KEY=one:A,B,C or KEY=grid:A,B,C"
_MOST_CHECKS = 1000  # combinations of bounds and choices


@dataclass(frozen=True)
class SearchDimension:
    """One key of a recipe and its values: (low, high), or the choices of "one" and "grid"."""

    key: str
    kind: str  # "float", "log", "int", "one" or "grid"
    values: tuple

    @classmethod
    def parse(cls, text: str) -> "SearchDimension":
        """From "learning_rate=log:1e-4:7e-3" and the like. Raises ValueError for another form."""
        key, _, range_ = text.partition("=")
        kind, colon, values = range_.partition(":")
        if not key.isidentifier() or not colon:
            raise ValueError(f"--space got {text!r}; {_FORMS}")
        if kind in ("one", "grid"):
            return cls(key, kind, _choices(text, key, values))
        if kind not in ("log", "int"):
            kind, values = "float", range_
        return cls(key, kind, _bounds(text, kind, values))

    @property
    def logarithmic(self) -> bool:
        """Whether a plot over it wants a logarithmic axis: choices do when they span a factor of 20."""
        numbers = [value for value in self.values if type(value) in (int, float)]
        return self.kind == "log" or (
            self.kind in ("one", "grid")
            and len(numbers) == len(self.values)
            and min(numbers) > 0
            and max(numbers) / min(numbers) >= 20
        )

    def suggest(self, trial):
        """The value that an Optuna trial has for it."""
        if self.kind == "int":
            return trial.suggest_int(self.key, *self.values)
        if self.kind in ("float", "log"):
            return trial.suggest_float(self.key, *self.values, log=self.kind == "log")
        return self.chosen(trial.suggest_categorical(self.key, [_stored(value) for value in self.values]))

    def chosen(self, stored):
        """The value that stands for what the database holds."""
        if self.kind in ("one", "grid"):
            return next(value for value in self.values if _stored(value) == stored)
        return stored


def _choices(text: str, key: str, values: str) -> tuple:
    found = parse_setting(f"{key}=[{values}]")[1]
    if not isinstance(found, list) or not found or not all(map(_is_choice, found)):
        raise ValueError(f"--space got {text!r}; after one: and grid: give values with commas between them")
    if len({_stored(value) for value in found}) < len(found):
        raise ValueError(f"--space got {text!r}, where a value stands twice; give each once")
    return tuple(found)


def _is_choice(value) -> bool:
    return isinstance(value, str | int | float | list | None)


def _stored(value):
    """As a database has it: lists as text."""
    return json.dumps(value) if isinstance(value, list) else value


def _bounds(text: str, kind: str, values: str) -> tuple:
    try:
        low, high = (int(part) if kind == "int" else float(part) for part in values.split(":"))
    except ValueError:
        raise ValueError(f"--space got {text!r}; {_FORMS}") from None
    if not (-math.inf < low < high < math.inf and (kind != "log" or low > 0)):
        wanted = "0 < LOW < HIGH" if kind == "log" else "LOW < HIGH"
        raise ValueError(f"--space got {text!r}; give finite bounds with {wanted}")
    return low, high


@dataclass(frozen=True)
class Plan:
    """What a study searches, the same for all who work on it. ``overrides`` replace the recipe's values."""

    lesson: str
    recipe: str
    space: tuple[SearchDimension, ...]
    metric: str
    direction: str = "minimize"
    overrides: dict = field(default_factory=dict)

    def check(self) -> recipes.Recipe:
        """The recipe with the overrides. Raises ValueError where any value of the space cannot be."""
        if self.direction not in ("minimize", "maximize"):
            raise ValueError(f"--direction got {self.direction!r}; give minimize or maximize")
        keys = [axis.key for axis in self.space]
        twice = {key for key in keys if keys.count(key) > 1 or key in self.overrides}
        if not keys or twice:
            raise ValueError(
                f"--space got {', '.join(sorted(twice)) or 'nothing'}"
                f"{' twice, or in --set too' if twice else ''}; give each key one range"
            )
        if reserved := set(keys) & {"lesson", "name", "expected"}:
            raise ValueError(f"--space got {', '.join(sorted(reserved))}, which is no choice; leave it out")
        corners = itertools.product(*(axis.values for axis in self.space))
        for values in itertools.islice(corners, _MOST_CHECKS):
            self.load(dict(zip(keys, values, strict=True)))
        return load_recipe(self.lesson, self.recipe, **self.overrides)

    def load(self, values: dict) -> recipes.Recipe:
        try:
            return load_recipe(self.lesson, self.recipe, **self.overrides, **values)
        except recipes.RecipeError as error:
            shown = ", ".join(f"{key}={value}" for key, value in values.items())
            raise ValueError(
                f"--space with {shown}: {error} (int:LOW:HIGH draws whole numbers; "
                f"lmlab recipes {self.lesson[:2]} shows the keys)"
            ) from None

    def grid(self) -> list[dict]:
        """Every combination of the grid's values, as the database has them; [{}] without a grid."""
        axes = [axis for axis in self.space if axis.kind == "grid"]
        return [
            dict(zip((axis.key for axis in axes), map(_stored, values), strict=True))
            for values in itertools.product(*(axis.values for axis in axes))
        ]

    def number_of_trials(self, wanted: int | None) -> int:
        """``wanted``, or what there is: a grid alone ends with its last combination."""
        if wanted is not None and wanted < 1:
            raise ValueError(f"--trials got {wanted}; give 1 or more")
        if any(axis.kind != "grid" for axis in self.space):
            return wanted or DEFAULT_TRIALS
        return min(wanted or math.inf, len(self.grid()))


@dataclass(frozen=True)
class Trial:
    """One run: its number, how it went, the metric (None where there is none), the values that were tried."""

    number: int
    state: str  # "ok", "pruned", "failed", "stopped" or "running"
    value: float | None
    values: dict
    seconds: float | None
    error: str = ""


@dataclass(frozen=True)
class StudyResult:
    """A study as it stands: all its trials, the best first, and the folder where the pictures are."""

    plan: Plan
    trials: list[Trial]
    folder: Path

    @property
    def best(self) -> Trial | None:
        """The best finished trial, if any has finished."""
        return next((trial for trial in self.trials if trial.state == "ok"), None)

    def table(self) -> list[list[str]]:
        """Header and rows, as text."""
        keys = [axis.key for axis in self.plan.space]
        rows = [
            [
                str(t.number),
                t.state,
                _shown(t.value),
                *(_shown(t.values.get(key)) for key in keys),
                "" if t.seconds is None else f"{t.seconds:.0f}",
                t.error,
            ]
            for t in self.trials
        ]
        return [["trial", "state", self.plan.metric, *keys, "seconds", "error"], *rows]

    def __str__(self) -> str:
        table = self.table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        padded = [[f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in table]
        return "\n".join("  ".join(row).rstrip() for row in padded)


def _shown(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def search(
    lesson: str,
    space: Sequence[str],
    metric: str,
    *,
    recipe: str = "tiny",
    direction: str = "minimize",
    overrides: dict | None = None,
    trials: int | None = None,
    name: str | None = None,
    storage: str | None = None,
    timeout: float | None = None,
    pruning: bool = True,
    root: Path = STUDIES,
    report: Callable[[str], None] = print,
) -> StudyResult:
    """Runs trials until the study has ``trials`` of them; what an earlier call or another process ran counts.

    space: texts as "learning_rate=log:1e-4:7e-3". metric: a name in the lesson's metrics.json. storage: the
    address of a database (root/name/study.db by default). timeout: seconds after which no trial begins.
    Raises ValueError for a request that cannot be met, before anything runs, and for an unknown metric.
    """
    axes = tuple(map(SearchDimension.parse, space))
    plan = Plan(find_lesson(lesson), recipe, axes, metric, direction, overrides or {})
    loaded = plan.check()
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"--timeout got {timeout}; give seconds from 0")
    wanted, name = plan.number_of_trials(trials), name or f"{plan.lesson[:2]}-{recipe}-{metric}"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"--name got {name!r}; give letters, digits, dots and dashes")
    if not (notebook := runner.NOTEBOOKS / f"{plan.lesson}.ipynb").exists():
        raise FileNotFoundError(f"{notebook} is missing; install from a clone: pip install -e .")
    work = _Work(plan, loaded, (root / name).expanduser().resolve(), storage, pruning, report)
    began = time.monotonic()
    while timeout is None or time.monotonic() - began < timeout:
        if claimed := work.claim(wanted):
            work.run(*claimed)
        elif work.awaits_a_sign():
            time.sleep(POLL_SECONDS)
        else:
            break
    return draw(work.findings())


class _Work:
    """One process's part in a study."""

    def __init__(self, plan: Plan, recipe, folder: Path, storage: str | None, pruning: bool, report):
        from filelock import FileLock

        self.plan, self.seed, self.folder, self.report = plan, recipe.seed, folder, report
        self.pruning, self.began, self.signed, self.awaited = pruning, time.time(), 0.0, []
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / "claims.lock")
        storage = storage or f"sqlite:///{folder / 'study.db'}"
        with self.lock:
            self.study = _open_study(folder.name, storage, plan.direction, pruning)
            self._agree(recipe)

    def _agree(self, recipe: recipes.Recipe) -> None:
        """The study is of this plan and of a recipe with these values, or new."""
        mine = json.loads(json.dumps({**dict(recipe.rows()), **asdict(self.plan)}))
        kept = self.study.user_attrs.get("plan")
        if kept is None and any((self.folder / "trials").glob("*")):
            raise ValueError(
                f"{self.folder} holds trials of a study that its database does not know; "
                "give another --name, or move the folder away"
            )
        # a key that is new since then had no part in the trials
        other = [
            f"{key} {there} there, {mine.get(key)} now"
            for key, there in (kept or {}).items()
            if there != mine.get(key)
        ]
        if kept is None:
            self.study.set_user_attr("plan", mine)
        elif other:
            raise ValueError(
                f"study {self.folder.name!r} is another search ({'; '.join(other)}); give another --name"
            )

    def claim(self, wanted: int):
        """(Optuna's trial, its values) of the next trial, or None when the study has all that are wanted."""
        with self.lock:
            self._retire_the_dead()
            trials = self.study.get_trials(deepcopy=False)
            counted = [trial for trial in trials if _state(trial) not in ("waiting", "stopped")]
            if len(counted) >= wanted:
                return None
            drawn = {trial.user_attrs.get("draw", trial.number) for trial in counted}
            draw = next(number for number in itertools.count() if number not in drawn)
            self.study.sampler = _sampler(self.seed + draw)
            point = self._rarest_point(counted)
            if point and not any(_state(trial) == "waiting" for trial in trials):
                self.study.enqueue_trial(point)
            trial = self.study.ask()
            trial.set_user_attr("draw", draw)
            self._give_sign(trial)
            return trial, {axis.key: axis.suggest(trial) for axis in self.plan.space}

    def _rarest_point(self, counted: list) -> dict:
        """The combination of the grid that had the fewest trials; {} without a grid."""

        def uses(point: dict) -> int:
            return sum(point.items() <= trial.params.items() for trial in counted)

        return min(self.plan.grid(), key=uses)

    def _retire_the_dead(self) -> None:
        """Trials that nobody runs any more do not count, and their values are drawn again."""
        for number, seen in self._signs().items():
            if time.time() - seen > DEAD_SECONDS:
                self._tell(number, "FAIL")
                self.report(f"trial {number} was stopped on its way; it begins anew")

    def awaits_a_sign(self) -> bool:
        """Whether a running trial was not heard of since this process began: it may have to be begun anew."""
        silent = [number for number, seen in self._signs().items() if seen < self.began]
        if silent and not self.awaited:
            self.report(
                f"trial {', '.join(map(str, silent))}: waiting for a sign of life; without one for "
                f"{DEAD_SECONDS:.0f} s it begins anew"
            )
        self.awaited = silent
        return bool(silent)

    def _signs(self) -> dict[int, float]:
        """Of each running trial, when it last gave a sign of life."""
        return {
            trial.number: trial.user_attrs.get("sign", trial.datetime_start.timestamp())
            for trial in self.study.get_trials(deepcopy=False)
            if _state(trial) == "running"
        }

    def _give_sign(self, trial) -> None:
        from optuna.exceptions import StorageInternalError

        self.signed = time.time()
        with suppress(StorageInternalError):  # away for a moment; hours of work shall not be lost for that
            trial.set_user_attr("sign", self.signed)

    def run(self, trial, values: dict) -> None:
        """Runs a trial and tells the study how it went; a failure of its notebook is only noted."""
        from optuna.exceptions import UpdateFinishedTrialError

        out = self.folder / "trials" / f"{trial.number:04d}"
        try:
            state, value, error = self._outcome(trial, values, out)
            self._tell(trial, state, value, error)
        except UpdateFinishedTrialError:
            self.report(f"trial {trial.number}: another process took it for dead, and begins it anew")
            return
        except BaseException as stopped:  # without an error it does not count
            self._tell(trial, "FAIL", error=str(stopped) if isinstance(stopped, _NoSuchMetric) else "")
            raise
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in values.items())
        word = {"COMPLETE": self.plan.metric, "PRUNED": "pruned", "FAIL": "failed:"}[state]
        self.report(f"trial {trial.number} ({shown}): {word} {_shown(value)}{error}")

    def _outcome(self, trial, values: dict, out: Path) -> tuple[str, float | None, str]:
        """(Optuna's name of the state, the metric, the error)."""
        try:
            self.plan.load(values)
        except ValueError as error:
            return "FAIL", None, str(error)
        out.mkdir(parents=True)
        parameters = {
            "recipe": self.plan.recipe,
            "overrides": {**self.plan.overrides, **values},
            "output_dir": str(out),
        }
        job = runner.Job(self.plan.lesson, runner.NOTEBOOKS / f"{self.plan.lesson}.ipynb", parameters)
        told: list[dict] = []
        outcome = _run_watched(job, out, lambda: self._look_in(trial, out / self.plan.lesson, told))
        if outcome is None:
            return "PRUNED", None, ""
        if not outcome.ok:
            write_atomic(out / "error.txt", outcome.error)
            return "FAIL", None, _last_line(outcome.error)
        written = out / self.plan.lesson / "metrics.json"
        if not written.exists():
            return "FAIL", None, "the notebook wrote no metrics.json"
        value = _read_metric(written, self.plan.metric)
        if self.pruning and not told:
            self.report(f"the lesson reports no {self.plan.metric} while it trains: nothing is pruned")
            self.pruning = False  # it is said once
        return ("COMPLETE", value, "") if math.isfinite(value) else ("FAIL", None, f"diverged: {value}")

    def _look_in(self, trial, lesson_folder: Path, told: list[dict]) -> bool:
        """Passes on what the notebook has reported since; whether the pruner would rather end it."""
        if time.time() - self.signed > SIGN_SECONDS:
            self._give_sign(trial)
        new = [row for row in read_progress(lesson_folder) if self.plan.metric in row][len(told) :]
        for row in new:
            trial.report(row[self.plan.metric], row["step"])
        told += new
        return bool(new) and trial.should_prune()

    def _tell(self, trial, state: str, value: float | None = None, error: str = "") -> None:
        from optuna.trial import TrialState

        if error:
            trial.set_user_attr("error", error)
        self.study.tell(trial, value, state=TrialState[state], skip_if_finished=True)

    def findings(self) -> StudyResult:
        order = ("ok", "pruned", "running", "failed", "stopped")
        trials = [self._read(t) for t in self.study.get_trials(deepcopy=False) if _state(t) != "waiting"]
        sign = 1 if self.plan.direction == "minimize" else -1
        results = {t.number: math.inf if t.value is None else sign * t.value for t in trials}
        trials.sort(key=lambda t: (order.index(t.state), results[t.number], t.number))
        return StudyResult(self.plan, trials, self.folder)

    def _read(self, trial) -> Trial:
        axes = {axis.key: axis for axis in self.plan.space}
        seconds = trial.duration.total_seconds() if trial.duration else None
        values = {key: axes[key].chosen(value) for key, value in trial.params.items()}
        error = trial.user_attrs.get("error", "")
        return Trial(trial.number, _state(trial), trial.value, values, seconds, error)


def _open_study(name: str, storage: str, direction: str, pruning: bool):
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    patience = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    try:
        database = optuna.storages.RDBStorage(storage, engine_kwargs=patience)
        pruner = optuna.pruners.MedianPruner(**PRUNING) if pruning else optuna.pruners.NopPruner()
        return optuna.create_study(
            storage=database, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
        )
    except (ImportError, ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise ValueError(
            _without_password(
                f"--storage got {storage!r}: {error}; give an address as sqlite:///study.db", storage
            )
        ) from None


def _without_password(text: str, storage: str) -> str:
    """A text without the password in a database's address, be that as wrong as it may."""
    account = re.sub(r"^[\w+]+:/+", "", storage).rpartition("@")[0]
    for password in (account.partition(":")[2], *re.findall(r"(?i)[?&]\w*pass\w*=([^&]+)", storage)):
        for form in filter(None, (repr(password)[1:-1], password, unquote(password))):
            text = text.replace(form, "***")
    return text


def _sampler(seed: int):
    """Another seed for each trial, so that a study that goes on draws what one without a break would."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)


def _state(trial) -> str:
    """ "stopped": neither the notebook nor the search came to an end."""
    if trial.state.name == "FAIL" and "error" not in trial.user_attrs:
        return "stopped"
    return {"COMPLETE": "ok", "FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())


def _run_watched(job: runner.Job, out: Path, falls_behind: Callable[[], bool]) -> runner.Outcome | None:
    """Runs a notebook and ends it, with all its processes, when it falls behind: then None is returned."""
    live: set = set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runner.run_notebook, job, out, live)
        try:
            while not wait([running], timeout=POLL_SECONDS).done:
                if falls_behind():
                    _end(running, live)
                    return None
        except BaseException:
            _end(running, live)
            raise
        falls_behind()  # the others will be compared with its last values too
        return running.result()


def _end(running, live: set) -> None:
    while not wait([running], timeout=0.1).done:  # it may not have begun yet
        for process in list(live):
            runner.kill_process_tree(process)


class _NoSuchMetric(ValueError):
    """The lesson does not measure it, so no further trial would."""


def _read_metric(path: Path, metric: str) -> float:
    """Raises _NoSuchMetric, which names those that there are."""
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    numbers = {name: value for name, value in metrics.items() if type(value) in (int, float)}
    if metric not in numbers:
        near = difflib.get_close_matches(metric, numbers, n=1, cutoff=0.4)
        raise _NoSuchMetric(
            f"--metric got {metric!r}, expected a number that the lesson measures: "
            f"{', '.join(numbers)}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return float(numbers[metric])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[-1].strip()


def draw(findings: StudyResult) -> StudyResult:
    """Saves the pictures of a study in its folder: the metric over each key, and over the trials."""
    plan, told = findings.plan, [t for t in findings.trials if t.state in ("ok", "failed")]
    if not any(trial.state == "ok" for trial in told):
        return findings
    best = min if plan.direction == "minimize" else max
    for axis in plan.space:
        with _picture(findings.folder / f"{axis.key}.png") as ax:
            plots.sweep(
                [t.values[axis.key] for t in told],
                [t.value for t in told],
                axis.key,
                best=best,
                ylabel=plan.metric,
                log=axis.logarithmic,
                joined=len(plan.space) == 1,
                ax=ax,
            )
    seen = sorted((t for t in findings.trials if t.value is not None), key=lambda t: t.number)
    with _picture(findings.folder / "history.png") as ax:
        plots.search_history(
            [t.number for t in seen],
            [t.value for t in seen],
            [t.state == "pruned" for t in seen],
            ylabel=plan.metric,
            best=best,
            ax=ax,
        )
    return findings


@contextmanager
def _picture(path: Path):
    """An Axes whose figure is saved, without a window."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    yield figure.subplots()
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def check_new_recipe(lesson: str, name: str) -> Path:
    """Where a recipe of this name would go. Raises ValueError for a name that cannot be, or is taken."""
    path = recipes.RECIPES / lesson / f"{name}.yaml"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"--save-recipe got {name!r}; give letters, digits, dots and dashes")
    if path.exists():
        raise ValueError(f"--save-recipe got {name!r}, and {path} exists; give another name")
    return path


def save_recipe(findings: StudyResult, name: str) -> Path:
    """Writes recipes/<lesson>/<name>.yaml: the values of the recipe searched from, with the winner's.

    Its expected bands are left out: they were measured with other values. Raises ValueError when the name is
    taken or no trial has finished.
    """
    import yaml

    plan, best = findings.plan, findings.best
    path = check_new_recipe(plan.lesson, name)
    if best is None:
        raise ValueError(f"--save-recipe got {name!r}, but no trial has finished; run more: --trials")
    base = yaml.safe_load((path.parent / f"{plan.recipe}.yaml").read_text(encoding="utf-8"))
    found = ", ".join(f"{key} {_shown(value)}" for key, value in best.values.items())
    head = (
        f"# Found by a search from recipe {plan.recipe}: {found}.\n"
        f"# Measured on {time.strftime('%Y-%m-%d')}: {plan.metric} {best.value:.6g}, the best "
        f"({plan.direction}) of {sum(trial.state == 'ok' for trial in findings.trials)} finished trials\n"
        f"# of study {findings.folder.name}, trial {best.number}. It has no expected bands yet.\n"
    )
    values = {**base, **plan.overrides, **best.values, "expected": {}}  # else it has those of "like"
    return write_atomic(path, head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))
