"""Lessons run in batch into a new folder of runs/: what ``lmlab run`` does."""

import logging
import signal
from pathlib import Path

from lmlab.course import runner
from lmlab.course.runs import new_run, resolve_run
from lmlab.recipes import (
    LESSONS,
    find_lesson,
    find_recipe,
    is_shipped,
    list_recipes,
    load_recipe,
    parse_settings,
)
from lmlab.signals import handle_signals

log = logging.getLogger(__name__)


def run_lessons(
    lessons: list[str],
    recipe: str,
    settings: list[str],
    runs: Path,
    jobs: int = 1,
    from_run: str | None = None,
) -> tuple[Path, list[runner.Outcome]]:
    """Runs notebooks into a new folder below ``runs``.

    Args:
        lessons: Numbers or names; "all" stands for every lesson that has the recipe.
        recipe: A recipe's name or path.
        settings: Overrides as "key=value"; each goes to the lessons that have the key.
        runs: Where runs go.
        jobs: Notebooks at the same time.
        from_run: The only run whose results these lessons may use, by path or name; None: this run, else the
            newest that has them.

    Returns:
        The run's folder, and how each notebook ended, in course order.

    Raises:
        ValueError: A request that cannot be met. Everything is checked before anything starts.
    """
    # the folder of the run is made only when nothing can be refused any more
    prepared = prepare_jobs(choose_lessons(lessons, recipe), recipe, parse_settings(settings))
    earlier_run = str(resolve_run(from_run)) if from_run else None
    run_dir = new_run(runs)
    for job in prepared:
        job.parameters["output_dir"] = str(run_dir)
        if earlier_run and job.lesson in runner.NEEDS:
            job.parameters["from_run"] = earlier_run
    # SIGTERM ends the notebooks as Ctrl-C does
    with handle_signals([signal.SIGTERM], signal.default_int_handler):
        return run_dir, runner.run_jobs(prepared, run_dir, jobs)


def choose_lessons(texts: list[str], recipe: str) -> list[str]:
    """Full names in course order; of "all", those that have the recipe."""
    if "all" not in texts:
        asked = {find_lesson(text) for text in texts}
        return [lesson for lesson in LESSONS if lesson in asked]
    having = [lesson for lesson in LESSONS if recipe in list_recipes(lesson)]
    if not having:
        find_recipe(next(iter(LESSONS)), recipe)  # raises, and says which there are
    for lesson in LESSONS:
        if lesson not in having:
            log.info("%s: left out, it has no recipe %s", lesson, recipe)
    return having


def prepare_jobs(lessons: list[str], recipe: str, settings: dict) -> list[runner.Job]:
    """A job for each lesson, with the checked recipe and overrides as its notebook's parameters."""
    jobs = []
    for lesson, overrides in share_settings(lessons, settings).items():
        cfg = load_recipe(lesson, recipe, **overrides)
        path = find_recipe(lesson, recipe)
        parameters = {
            # a shipped recipe by its name, a reader's own by its path: the notebook may run in another folder
            "recipe": path.stem if is_shipped(path) else str(path),
            # numbers and paths as they were checked
            "overrides": {key: getattr(cfg, key) for key in overrides},
        }
        jobs.append(runner.Job(lesson, runner.NOTEBOOKS / f"{lesson}.ipynb", parameters))
    return jobs


def share_settings(lessons: list[str], settings: dict) -> dict[str, dict]:
    """The settings that each lesson takes: with several lessons, a setting goes to those that have its key.

    Raises ValueError for a key that none of them has.
    """
    shared: dict[str, dict] = {lesson: {} for lesson in lessons}
    for key, value in settings.items():
        takers = [lesson for lesson in lessons if key in LESSONS[lesson].settable_keys()]
        if not takers:
            load_recipe(lessons[0], "tiny", **{key: value})  # raises, and names the nearest key
        for lesson in takers:
            shared[lesson][key] = value
    return shared
