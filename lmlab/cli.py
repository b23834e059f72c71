"""The command line: ``lmlab run | recipes | report | doctor`` (also ``python -m lmlab``)."""

import argparse
import ast
import sys
import time
from pathlib import Path

from lmlab.recipes import LESSONS, PROJECT, RecipeError, find_lesson, list_recipes, load_recipe


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0, 1 when a notebook failed, 2 for a request that cannot be met."""
    args = build_parser().parse_args(argv)
    try:
        return args.command(args)
    except (RecipeError, ValueError, FileNotFoundError) as error:
        print(f"lmlab: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lmlab", description="Run the course, see its recipes, read its report.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run notebooks in batch")
    run.add_argument("lessons", nargs="+", help="01 to 07, a full name, or all")
    run.add_argument("--recipe", default="tiny", help="tiny (default), t4, gpu, local, ...")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one value of the recipe")
    run.add_argument("--jobs", type=int, default=1, help="notebooks at the same time (default 1)")
    run.add_argument("--output-dir", type=Path, default=PROJECT / "runs", help="where runs go (default runs/)")
    run.set_defaults(command=run_command)
    recipes = commands.add_parser("recipes", help="list the recipes of every lesson, or show one")
    recipes.add_argument("lesson", nargs="?")
    recipes.add_argument("name", nargs="?", default="tiny")
    recipes.set_defaults(command=recipes_command)
    report = commands.add_parser("report", help="render executed notebooks as a static site")
    report.add_argument("run_dir", nargs="?", type=Path, help="a folder under runs/ (default: the latest)")
    report.add_argument("--output", type=Path, default=PROJECT / "site")
    report.set_defaults(command=report_command)
    doctor = commands.add_parser("doctor", help="what this machine can run, and why")
    doctor.set_defaults(command=doctor_command)
    return parser


def run_command(args) -> int:
    from lmlab.runner import NOTEBOOKS, Job, run_jobs

    if args.jobs < 1:
        raise ValueError(f"--jobs got {args.jobs}; give 1 or more")
    lessons = choose_lessons(args.lessons)
    overrides = shared_overrides(lessons, [parse_setting(text) for text in args.set])
    for lesson in lessons:  # everything is checked before anything starts
        load_recipe(lesson, args.recipe, **overrides[lesson])
    run_dir = fresh_run_dir(args.output_dir)
    jobs = [Job(lesson, NOTEBOOKS / f"{lesson}.ipynb",
                {"recipe": args.recipe, "overrides": overrides[lesson], "output_dir": str(run_dir)})
            for lesson in lessons]
    outcomes = run_jobs(jobs, run_dir, args.jobs)
    (run_dir.parent / "latest").write_text(run_dir.name, encoding="utf-8")
    print(f"\n{'lesson':<32} {'status':<12} {'seconds':>8} {'GiB':>6}")
    for o in outcomes:
        print(f"{o.lesson:<32} {o.status:<12} {o.seconds:>8.1f} {o.peak_memory_gb:>6.2f}")
    print(f"{'together':<32} {'':<12} {sum(o.seconds for o in outcomes):>8.1f}\n{run_dir}")
    return 0 if all(o.ok for o in outcomes) else 1


def choose_lessons(texts: list[str]) -> list[str]:
    """Full names in course order; "all" is every lesson."""
    chosen = set(LESSONS) if "all" in texts else {find_lesson(text) for text in texts}
    return [lesson for lesson in LESSONS if lesson in chosen]


def fresh_run_dir(root: Path) -> Path:
    """A new folder named by the time; waits for the next second rather than share one."""
    while True:
        folder = root.expanduser().resolve() / time.strftime("%Y%m%d-%H%M%S")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            time.sleep(0.2)


def parse_setting(text: str) -> tuple[str, object]:
    """``key=value`` with the value as a Python literal, YAML's true/false/null, or plain text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set got {text!r}; expected key=value, as in --set learning_rate=1e-3")
    words = {"true": True, "false": False, "null": None, "none": None}
    if value.lower() in words:
        return key, words[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def shared_overrides(lessons: list[str], settings: list[tuple[str, object]]) -> dict[str, dict]:
    """The settings each lesson takes. With several lessons, a setting goes to those that have its key."""
    overrides: dict[str, dict] = {lesson: {} for lesson in lessons}
    for key, value in settings:
        takers = [lesson for lesson in lessons if key in LESSONS[lesson].__dataclass_fields__]
        for lesson in takers or lessons[:1]:  # no taker: the first lesson's check names the nearest key
            overrides[lesson][key] = value
    return overrides


def recipes_command(args) -> int:
    if args.lesson:
        print(load_recipe(find_lesson(args.lesson), args.name, data_dir="DATA_DIR"))
        return 0
    for lesson in LESSONS:
        print(f"{lesson:<32} {', '.join(list_recipes(lesson))}")
    return 0


def report_command(args) -> int:
    from lmlab.report import build_site

    index = build_site(args.run_dir or latest_run(PROJECT / "runs"), args.output)
    print(f"report: {index}")
    return 0


def latest_run(runs: Path) -> Path:
    pointer = runs / "latest"
    if not pointer.exists():
        raise FileNotFoundError(f"{runs} holds no finished run; first: lmlab run all")
    return runs / pointer.read_text(encoding="utf-8").strip()


def doctor_command(args) -> int:
    from lmlab.doctor import examine

    print(examine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
