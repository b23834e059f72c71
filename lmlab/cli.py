"""The command line: ``lmlab run``, ``search``, ``pretrain``, ``generate-data``, ... (also ``python -m lmlab``)."""

import argparse
import difflib
import logging
import signal
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

from lmlab.files import write_atomic
from lmlab.hardware import GPUS
from lmlab.recipes import LESSONS, PROJECT, RECIPES, find_lesson, list_recipes, load_recipe, parse_setting
from lmlab.signals import discard, handle_signals, unbreakable_output


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns its exit code.

    0: done; 1: a notebook failed, a plan does not fit, the best is not known yet, or a question could not be
    asked; 2: a request that cannot be met; 130: interrupted.
    """
    args = build_parser().parse_args(argv)
    works = getattr(
        args, "works", False
    )  # for hours maybe, with results in files: whether or not anybody looks on
    try:
        with unbreakable_output() if works else nullcontext():
            code = args.command(args)
        print(end="", flush=True)
        return code
    except BrokenPipeError as error:
        if works:
            print(f"lmlab: {error}", file=sys.stderr)
            return 2
        discard(sys.stdout)  # whoever read the output has enough of it
        return 0
    except (ValueError, OSError) as error:
        print(f"lmlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"lmlab: {str(error) or 'interrupted; no notebook is left running'}", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lmlab", description="Run the course, see its recipes, read its report."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run notebooks in batch")
    run.add_argument("lessons", nargs="+", help="01 to 09, a full name, or all")
    run.add_argument("--recipe", default="tiny", help="tiny (default), t4, gpu, local, ...")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the recipe; may be given again",
    )
    run.add_argument("--jobs", type=int, default=1, help="notebooks at the same time (default 1)")
    run.add_argument(
        "--output-dir", type=Path, default=PROJECT / "runs", help="where runs go (default runs/)"
    )
    run.set_defaults(command=run_command, works=True)
    pretrain = commands.add_parser(
        "pretrain",
        help="train the model of lesson 02 without its notebook; also by torchrun -m lmlab pretrain",
    )
    pretrain.add_argument(
        "--recipe", default="tiny", help="a recipe of lesson 02: tiny (default), t4, gpu, ..."
    )
    pretrain.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the recipe; may be given again",
    )
    pretrain.add_argument(
        "--out",
        type=Path,
        help="where everything goes (default runs/pretrain/<recipe>); an unfinished run there goes on",
    )
    pretrain.add_argument(
        "--replace",
        action="store_true",
        help="begin again where a finished or another run is; that one goes to OUT/previous",
    )
    pretrain.add_argument("--data-only", action="store_true", help="prepare the shards, and stop")
    pretrain.set_defaults(command=pretrain_command, works=True)
    tune = commands.add_parser(
        "finetune",
        help="lesson 04, 05 or 06 without its notebook; also by accelerate launch ... -m lmlab finetune",
    )
    tune.add_argument("lesson", help="04, 05, 06, or a full name")
    tune.add_argument("--recipe", default="tiny", help="tiny (default), t4, gpu, local, ...")
    tune.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the recipe; may be given again",
    )
    tune.add_argument(
        "--bits",
        type=int,
        choices=(4, 16),
        help="of the frozen weights of 05 and 06 (default 4; FSDP and ZeRO-3 need 16)",
    )
    tune.add_argument(
        "--out",
        type=Path,
        help="where everything goes (default runs/finetune/<lesson>-<recipe>); "
        "an unfinished run there goes on",
    )
    tune.set_defaults(command=finetune_command, works=True)
    search = commands.add_parser("search", help="try many values of a recipe, and find the best")
    search.add_argument("lesson", help="01 to 09, or a full name")
    search.add_argument("--recipe", default="tiny", help="the recipe to begin with: tiny (default), t4, ...")
    search.add_argument(
        "--space",
        action="append",
        required=True,
        metavar="KEY=RANGE",
        help="a key of the recipe and its values; may be given again. RANGE is LOW:HIGH, "
        "log:LOW:HIGH, int:LOW:HIGH, one:A,B,C (drawn) or grid:A,B,C (each in turn)",
    )
    search.add_argument("--metric", required=True, help="what is judged: a name in the lesson's metrics.json")
    search.add_argument(
        "--direction",
        default="minimize",
        choices=("minimize", "maximize"),
        help="whether the least (default) or the most is the best",
    )
    search.add_argument(
        "--trials",
        type=int,
        help="how many the study shall have, with those that it has "
        "already (default 12; with grids alone, all of their combinations)",
    )
    search.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the recipe; may be given again",
    )
    search.add_argument("--name", help="of the study, which goes on if it exists (default: from the others)")
    search.add_argument(
        "--storage",
        metavar="URL",
        help="a database, shared by several processes (default sqlite, in the study's folder)",
    )
    search.add_argument("--timeout", type=float, metavar="SECONDS", help="begin no trial after so many")
    search.add_argument("--no-pruning", action="store_true", help="let every trial come to its end")
    search.add_argument("--save-recipe", metavar="NAME", help="write the best values as a recipe")
    search.add_argument("--output-dir", type=Path, help="where studies go (default runs/search/)")
    search.set_defaults(command=search_command, works=True)
    _add_generate(commands)
    _add_chat(commands)
    forecast = commands.add_parser(
        "plan", help="predict memory, disk, time and cost of a recipe; nothing is loaded"
    )
    forecast.add_argument("lesson", help="02, 04, 05, 06, 08, 09, or a full name")
    forecast.add_argument("--recipe", default="tiny", help="tiny (default), t4, gpu, local, ...")
    forecast.add_argument("--gpu", help=f"{', '.join(GPUS)} (default: this machine)")
    forecast.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace one value of the recipe; may be given again",
    )
    forecast.set_defaults(command=plan_command)
    recipes = commands.add_parser("recipes", help="list the recipes of every lesson, or show one")
    recipes.add_argument("lesson", nargs="?", help="01 to 09, or a full name")
    recipes.add_argument("name", nargs="?", default="tiny", help="tiny (default), t4, gpu, local, ...")
    recipes.set_defaults(command=recipes_command)
    report = commands.add_parser("report", help="render executed notebooks as a static site")
    report.add_argument("run_dir", nargs="?", type=Path, help="a folder under runs/ (default: the latest)")
    report.add_argument("other", nargs="?", type=Path, help="a second run, to be compared with the first")
    report.add_argument(
        "--output",
        type=Path,
        default=PROJECT / "site",
        help="where the site goes; an older report there is replaced (default site/)",
    )
    report.set_defaults(command=report_command)
    doctor = commands.add_parser("doctor", help="what this machine can run, and why")
    doctor.set_defaults(command=doctor_command)
    return parser


def _add_generate(commands) -> None:
    generate = commands.add_parser(
        "generate-data",
        help="have a model behind an OpenAI-compatible endpoint write lesson 08's texts",
        description="The key comes from LMLAB_API_KEY, else OPENAI_API_KEY, and is neither shown nor saved. "
        "Stopped, the same command goes on.",
    )
    generate.add_argument("--base-url", required=True, help="such as http://localhost:8080/v1")
    generate.add_argument("--model", required=True, help="its name at the endpoint")
    generate.add_argument("--n", type=int, default=1000, help="descriptions in the file (default 1000)")
    generate.add_argument("--output", type=Path, required=True, help="a .jsonl file; it only grows")
    generate.add_argument("--concurrency", type=int, default=8, help="requests at the same time (default 8)")
    generate.add_argument("--temperature", type=float, default=1.0, help="of the sampling (default 1.0)")
    generate.add_argument(
        "--max-tokens",
        type=int,
        default=600,
        help="longest answer (default 600); a model that thinks first needs more",
    )
    generate.add_argument("--seed", type=int, default=0, help="another one asks other questions (default 0)")
    generate.add_argument(
        "--price-input", type=float, metavar="P", help="of a million tokens, to know the cost"
    )
    generate.add_argument("--price-output", type=float, metavar="P", help="of a million tokens")
    generate.add_argument("--yes", action="store_true", help="begin without asking back")
    generate.set_defaults(command=generate_command, works=True)


def _add_chat(commands) -> None:
    chat = commands.add_parser(
        "chat",
        help="talk with a model: a folder, an adapter, what a lesson left, a GGUF file",
        description="The answer goes to stdout as it comes, all else to stderr. How tokens are drawn is the "
        "model's own choice, where it has one. Ctrl-C ends an answer, twice the chat. Without a "
        "terminal each line of stdin is a question.",
    )
    chat.add_argument(
        "model",
        help="a model's or adapter's folder, a .gguf file, a lesson (06: what the last run "
        "left), a run's folder (what was written last), miniworld/qwen2, or a hub id",
    )
    chat.add_argument("--prompt", metavar="TEXT", help="one question; shows the answer and ends")
    chat.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    chat.add_argument("--temperature", type=float, help="0: the likeliest token each time (default 0.7)")
    chat.add_argument(
        "--top-p", type=float, help="draw among the likeliest with this share together (default 0.95)"
    )
    chat.add_argument("--top-k", type=int, help="draw among so many (default 0: no limit)")
    chat.add_argument(
        "--max-new-tokens", type=int, default=512, help="longest answer, thought included (default 512)"
    )
    chat.add_argument("--seed", type=int, default=0, help="of the drawing (default 0)")
    chat.add_argument(
        "--show-thinking", action="store_true", help="show the thought too, not its length alone"
    )
    chat.add_argument(
        "--raw",
        action="store_true",
        help="go on with the text, without a chat template: for models of lessons 02, 04, 05 and 08",
    )
    chat.set_defaults(command=chat_command)


def run_command(args) -> int:
    from lmlab.course.runner import NOTEBOOKS, Job, run_jobs

    if args.jobs < 1:
        raise ValueError(f"--jobs got {args.jobs}; give 1 or more")
    lessons = choose_lessons(args.lessons)
    if "all" in args.lessons:
        lessons = with_recipe(lessons, args.recipe)
    overrides = shared_overrides(lessons, [parse_setting(text) for text in args.set])
    for lesson in lessons:  # everything is checked before anything starts
        load_recipe(lesson, args.recipe, **overrides[lesson])
        if not (NOTEBOOKS / f"{lesson}.ipynb").exists():
            raise FileNotFoundError(
                f"{NOTEBOOKS / lesson}.ipynb is missing; install from a clone: pip install -e ."
            )
    run_dir, began = fresh_run_dir(args.output_dir), time.monotonic()
    jobs = [
        Job(
            lesson,
            NOTEBOOKS / f"{lesson}.ipynb",
            {"recipe": args.recipe, "overrides": overrides[lesson], "output_dir": str(run_dir)},
        )
        for lesson in lessons
    ]
    write_atomic(run_dir.parent / "latest", run_dir.name)
    with handle_signals([signal.SIGTERM], signal.default_int_handler):  # ends the notebooks as Ctrl-C does
        outcomes = run_jobs(jobs, run_dir, args.jobs)
    print(f"\n{'lesson':<32} {'status':<12} {'seconds':>8} {'peak GiB':>9}")
    for o in outcomes:
        print(f"{o.lesson:<32} {o.status:<12} {o.seconds:>8.1f} {o.peak_memory_gb:>9.2f}")
    print(f"{'from start to end':<45} {time.monotonic() - began:>8.1f}\n{run_dir}")
    return 0 if all(o.ok for o in outcomes) else 1


def choose_lessons(texts: list[str]) -> list[str]:
    """Full names in course order; "all" is every lesson."""
    chosen = set(LESSONS) if "all" in texts else {find_lesson(text) for text in texts}
    return [lesson for lesson in LESSONS if lesson in chosen]


def with_recipe(lessons: list[str], name: str) -> list[str]:
    """Those of ``lessons`` that have a recipe ``name``; says which have none. RecipeError when none has."""
    having = [lesson for lesson in lessons if name in list_recipes(lesson)]
    if not having:
        load_recipe(lessons[0], name)
    for lesson in set(lessons) - set(having):
        print(f"{lesson}: left out, it has no recipe {name}")
    return having


def fresh_run_dir(root: Path) -> Path:
    """A new folder named by the time; waits for the next second rather than share one."""
    while True:
        folder = root.expanduser().resolve() / time.strftime("%Y%m%d-%H%M%S")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            time.sleep(0.2)


def shared_overrides(lessons: list[str], settings: list[tuple[str, object]]) -> dict[str, dict]:
    """The settings each lesson takes: with several lessons, a setting goes to those that have its key.

    Raises ValueError for a key that none of them has.
    """
    overrides: dict[str, dict] = {lesson: {} for lesson in lessons}
    keys = {lesson: set(LESSONS[lesson].__dataclass_fields__) - {"lesson", "name"} for lesson in lessons}
    for key, value in settings:
        takers = [lesson for lesson in lessons if key in keys[lesson]]
        if not takers:
            near = difflib.get_close_matches(key, sorted(set().union(*keys.values())), n=1, cutoff=0.4)
            raise ValueError(
                f"--set got {key!r}, expected a key of {', '.join(lessons)}; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"lmlab recipes {lessons[0][:2]} shows them"
            )
        for lesson in takers:
            overrides[lesson][key] = value
    return overrides


def _settings(args, lesson: str) -> dict:
    """What --set says, for the one lesson of a command."""
    return shared_overrides([lesson], [parse_setting(text) for text in args.set])[lesson]


def pretrain_command(args) -> int:
    lesson = "02_gpt2_from_scratch"
    cfg = load_recipe(lesson, args.recipe, **_settings(args, lesson))
    from lmlab.training.pretrain_recipe import run_recipe

    out = (args.out or PROJECT / "runs" / "pretrain" / args.recipe).expanduser().resolve()
    run_recipe(cfg, out, args.replace, args.data_only, report=lambda line: print(line, flush=True))
    return 0


def finetune_command(args) -> int:
    lesson = find_lesson(args.lesson)
    cfg = load_recipe(lesson, args.recipe, **_settings(args, lesson))
    from lmlab.training.sft import run_recipe

    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of an optional kernel package
    out = (args.out or PROJECT / "runs" / "finetune" / f"{lesson[:2]}-{args.recipe}").expanduser().resolve()
    run_recipe(cfg, out, args.bits, report=lambda line: print(line, flush=True))
    return 0


def search_command(args) -> int:
    from lmlab.course.search import STUDIES, check_new_recipe, save_recipe, search

    lesson = find_lesson(args.lesson)
    if args.save_recipe:
        check_new_recipe(lesson, args.save_recipe)
    settings = _settings(args, lesson)
    with handle_signals([signal.SIGTERM], signal.default_int_handler):  # ends the notebook as Ctrl-C does
        found = search(
            lesson,
            args.space,
            args.metric,
            recipe=args.recipe,
            direction=args.direction,
            overrides=settings,
            trials=args.trials,
            name=args.name,
            storage=args.storage,
            timeout=args.timeout,
            pruning=not args.no_pruning,
            root=args.output_dir or STUDIES,
            report=lambda line: print(line, flush=True),
        )
    print(f"\n{found}\n{found.folder}")
    if not args.save_recipe:
        return 0 if found.best else 1
    if any(trial.state == "running" for trial in found.trials):
        print(
            "not saved: another process is at a trial; give the same command again when it is done",
            file=sys.stderr,
        )
        return 1
    print(f"saved: {save_recipe(found, args.save_recipe)}")
    return 0


def generate_command(args) -> int:
    from lmlab.course.generate_data import Endpoint, check_counts, find_key, generate, read_rows

    check_counts(args.n, args.concurrency)
    prices = checked_prices(args.price_input, args.price_output)
    variable, key = find_key()
    endpoint = Endpoint(args.base_url, args.model, key, args.temperature, args.max_tokens)
    there = len(read_rows(args.output)[0])
    if there >= args.n:
        print(f"{args.output} holds {there:,} descriptions already; nothing to do")
        return 0
    print(generation_plan(endpoint, variable, args.n - there, there, args.seed, prices))
    if not args.yes and not confirmed():
        print("nothing was asked")
        return 0
    try:
        tally = generate(
            endpoint,
            args.output,
            args.n,
            seed=args.seed,
            concurrency=args.concurrency,
            report=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {args.output} keeps its rows, the same command goes on") from None
    print(
        f"{args.output}: {tally}; {tally.asked:,} answers, {tally.tokens_in:,} tokens in, "
        f"{tally.tokens_out:,} out, as the endpoint counts them{shown_cost(tally, prices)}"
    )
    return 0


def checked_prices(price_input: float | None, price_output: float | None) -> tuple[float, float] | None:
    """Both prices or none. Raises ValueError for one alone, or one that is no price."""
    if price_input is None and price_output is None:
        return None
    if None in (price_input, price_output) or not (0 <= price_input < 1e9 and 0 <= price_output < 1e9):
        raise ValueError(
            f"got --price-input {price_input}, --price-output {price_output}; give both as "
            "numbers from 0, per million tokens, or none"
        )
    return price_input, price_output


def generation_plan(endpoint, variable: str, n: int, there: int, seed: int, prices) -> str:
    """What will be asked of whom, with which key, and what it may cost."""
    from lmlab.course.generate_data import estimate

    plan = estimate(n, endpoint.max_tokens, seed)
    key = f"with the key in {variable}" if variable else "without a key"
    clear = "\nthe key will travel unencrypted: the URL begins with http://" if endpoint.in_the_clear else ""
    return (
        f"{n:,} requests to {endpoint.host} for {endpoint.model}, {key}; {there:,} rows are there\n"
        f"about {plan.tokens_in:,} tokens in, at most {plan.tokens_out:,} out{shown_cost(plan, prices)}, "
        f"if no answer has to be left out{clear}"
    )


def shown_cost(used, prices) -> str:
    """What tokens cost at the given prices; nothing where none were given."""
    if prices is None:
        return ""
    cost = (used.tokens_in * prices[0] + used.tokens_out * prices[1]) / 1e6
    return f": {cost:,.2f} in the prices' currency"


def confirmed() -> bool:
    """Whether the reader agrees. Raises ValueError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ValueError("nobody is at the terminal to agree to the cost; give --yes")
    return input("begin? [y/N] ").strip().lower() in ("y", "yes")


def chat_command(args) -> int:
    from lmlab.export.chat import ChatSession, Sampling, check_sampling, greet, hold, load_chat_model

    given = {
        name: value for name, value in vars(args).items() if name in Sampling._fields and value is not None
    }
    check_sampling(Sampling(**given), args.max_new_tokens)
    warnings.simplefilter("ignore")
    for library in ("bitsandbytes", "transformers"):  # they warn of optional packages
        logging.getLogger(library).setLevel(logging.ERROR)
    speaker = load_chat_model(args.model, say=lambda line: print(line, file=sys.stderr))
    talk = ChatSession(
        speaker,
        speaker.sampling._replace(**given),
        args.max_new_tokens,
        args.seed,
        args.show_thinking,
        args.raw,
        [{"role": "system", "content": args.system}] if args.system else [],
    )
    terminal = sys.stdin.isatty()
    if args.prompt is not None:
        return 0 if talk.ask(args.prompt) else 130
    if terminal:
        import readline  # noqa: F401  input() then has a history and arrow keys

        greet(talk)
    return 0 if hold(talk, lambda: input("> " if terminal else "")) or terminal else 1


def plan_command(args) -> int:
    from lmlab.course.plan import plan
    from lmlab.hardware import describe_machine, gpu

    lesson = find_lesson(args.lesson)
    cfg = load_recipe(lesson, args.recipe, **{"data_dir": "DATA_DIR", **_settings(args, lesson)})
    machine = gpu(args.gpu) if args.gpu else describe_machine()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of an optional kernel package
    try:
        made = plan(cfg, machine)
    except ValueError as error:
        if "DATA_DIR" not in str(error):
            raise
        raise ValueError(
            str(error).replace("DATA_DIR", "{data_dir}") + "; give --set data_dir=FOLDER"
        ) from error
    print(made)
    return 0 if all(forecast.fits for forecast in made.forecasts.values()) else 1


def recipes_command(args) -> int:
    if args.lesson:
        cfg = load_recipe(find_lesson(args.lesson), args.name, data_dir="DATA_DIR")
        text = (RECIPES / cfg.lesson / f"{cfg.name}.yaml").read_text(encoding="utf-8")
        print(*(line for line in text.splitlines() if line.startswith("#")), cfg, sep="\n")
        for metric, band in cfg.expected.items():
            print(f"{'expected ' + metric:<32} {band}")
        return 0
    for lesson in LESSONS:
        print(f"{lesson:<32} {', '.join(list_recipes(lesson))}")
    return 0


def report_command(args) -> int:
    from lmlab.course.report import build_site

    index = build_site(args.run_dir or latest_run(PROJECT / "runs"), args.output, args.other)
    print(f"report: {index}")
    return 0


def latest_run(runs: Path) -> Path:
    pointer = runs / "latest"
    if not pointer.exists():
        raise FileNotFoundError(f"{runs} holds no finished run; first: lmlab run all")
    return runs / pointer.read_text(encoding="utf-8").strip()


def doctor_command(args) -> int:
    from lmlab.course.doctor import examine

    print(examine())
    return 0
