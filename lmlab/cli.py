"""The command line: ``lmlab run``, ``search``, ``pretrain``, ... (also ``python -m lmlab``).

A command reads its options and calls one function of the room that does the work. What takes long to import
is imported by the command that needs it.
"""

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperGroup

from lmlab import __version__
from lmlab.recipes import LESSONS, find_lesson, find_recipe, list_recipes, load_recipe, parse_settings
from lmlab.signals import discard, handle_signals, unbreakable_output


class ReaderErrors(TyperGroup):
    """Shows a reader's mistake as one line without a traceback, and sets the exit code."""

    def invoke(self, ctx: typer.Context) -> None:
        try:
            super().invoke(ctx)
            # What is still in the buffer fails here, within the try, and not as Python ends.
            print(end="", flush=True)
        except BrokenPipeError:
            # Whoever read the output has enough of it, as with ``| head``.
            discard(sys.stdout)
        except (ValueError, OSError) as error:
            print(f"lmlab: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as error:
            print(f"lmlab: {str(error) or 'interrupted; no notebook is left running'}", file=sys.stderr)
            raise typer.Exit(130) from None


# Typer's own rich tracebacks would hide the one that a bug should show.
app = typer.Typer(
    cls=ReaderErrors,
    help="Run the course, see its recipes, read its report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns its exit code.

    0: done; 1: a notebook failed, a plan does not fit, the best is not known yet, or a question could not be
    asked; 2: a request that cannot be met; 130: interrupted.
    """
    try:
        app(args=argv, prog_name="lmlab")
    except SystemExit as ended:
        # Typer always ends so; tests and other callers want the code.
        return ended.code or 0
    return 0


@contextmanager
def long_command() -> Iterator[None]:
    """For hours maybe, with results in files: shows the log, and goes on whether or not anybody reads it."""
    from lmlab.course.lesson import show_log

    with unbreakable_output():
        show_log()
        yield


def _quiet(*libraries: str) -> None:
    """Libraries that warn of optional packages."""
    # The commands that show a result to read: warnings of libraries would stand between its lines.
    warnings.simplefilter("ignore")
    for library in libraries:
        logging.getLogger(library).setLevel(logging.ERROR)


# Options that several commands share.
Lesson = Annotated[str, typer.Argument(help="00 to 11, or a full name")]
RecipeName = Annotated[str, typer.Option(help="tiny, t4, gpu, local, one in ./recipes, or a path")]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        default_factory=list,
        show_default=False,
        help="replace one value of the recipe; may be given again",
    ),
]
OutFolder = Annotated[
    Path | None,
    typer.Option(help="the run's folder (default runs/<command>-<recipe>); an unfinished run resumes"),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lmlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    lessons: Annotated[list[str], typer.Argument(help="00 to 11, a full name, or all")],
    settings: Settings,
    recipe: RecipeName = "tiny",
    jobs: Annotated[int, typer.Option(min=1, help="notebooks at the same time")] = 1,
    output_dir: Annotated[Path, typer.Option(help="where runs go")] = Path("runs"),
    from_run: Annotated[
        str | None, typer.Option("--from", help="use this run's models, not the newest")
    ] = None,
) -> None:
    """Run notebooks in batch."""
    from lmlab.course.batch import run_lessons

    with long_command():
        # A notebook that fails does not end the others: the table says which one did.
        run_dir, outcomes = run_lessons(lessons, recipe, settings, output_dir, jobs, from_run)
        print(f"\n{'lesson':<32} {'status':<12} {'seconds':>8} {'peak GiB':>9}")
        for one in outcomes:
            print(f"{one.lesson:<32} {one.status:<12} {one.seconds:>8.1f} {one.peak_memory_gb:>9.2f}")
        print(run_dir)
    raise typer.Exit(0 if all(one.ok for one in outcomes) else 1)


@app.command()
def pretrain(
    settings: Settings,
    recipe: RecipeName = "tiny",
    out: OutFolder = None,
    replace: Annotated[bool, typer.Option("--replace", help="begin anew, the old run is kept")] = False,
    data_only: Annotated[bool, typer.Option("--data-only", help="prepare the shards, and stop")] = False,
) -> None:
    """Train the model of lesson 02 without its notebook; also by torchrun -m lmlab pretrain."""
    from lmlab.course import jobs

    # Before the log is shown: a mistake in the recipe is one line.
    cfg = load_recipe("02", recipe, **parse_settings(settings))
    with long_command():
        jobs.pretrain(cfg, out, replace, data_only)


@app.command()
def finetune(
    lesson: Annotated[str, typer.Argument(help="00, 04, 05, 06, or a full name")],
    settings: Settings,
    recipe: RecipeName = "tiny",
    bits: Annotated[
        Literal["4", "16"] | None, typer.Option(help="of frozen weights (default 4; FSDP and ZeRO-3: 16)")
    ] = None,
    out: OutFolder = None,
) -> None:
    """Lesson 00, 04, 05 or 06 without its notebook; also by accelerate launch ... -m lmlab finetune."""
    from lmlab.course import jobs

    cfg = load_recipe(lesson, recipe, **parse_settings(settings))
    _quiet("bitsandbytes")
    with long_command():
        jobs.finetune(cfg, out, int(bits) if bits else None)


@app.command()
def search(
    lesson: Lesson,
    space: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=RANGE",
            help="LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH or categorical:A,B,C; may be given again",
        ),
    ],
    metric: Annotated[str, typer.Option(help="what is judged: a name in the lesson's metrics.json")],
    settings: Settings,
    recipe: RecipeName = "tiny",
    direction: Annotated[Literal["minimize", "maximize"], typer.Option(help="of the metric")] = "minimize",
    trials: Annotated[int | None, typer.Option(min=1, help="in all (default 12, or all of a grid)")] = None,
    name: Annotated[str | None, typer.Option(help="of the study, which resumes if it exists")] = None,
    output_dir: Annotated[Path, typer.Option(help="where studies go")] = Path("runs/search"),
) -> None:
    """Try many values of a recipe, and find the best."""
    from lmlab.course import search as searching
    from lmlab.course.search_space import SearchDimension, SearchPlan

    dimensions = tuple(SearchDimension.parse(text) for text in space)
    plan = SearchPlan(find_lesson(lesson), recipe, dimensions, metric, direction, parse_settings(settings))
    # SIGTERM, which a job queue sends, ends the notebook as Ctrl-C does.
    with long_command(), handle_signals([signal.SIGTERM], signal.default_int_handler):
        result = searching.search(plan, root=output_dir, trials=trials, name=name)
        # The executed notebooks of all trials are in the folder.
        print(f"\n{result}\n{result.folder}")
    raise typer.Exit(0 if result.best else 1)


@app.command("generate-data")
def generate_data(
    base_url: Annotated[str, typer.Option(help="such as http://localhost:8080/v1")],
    model: Annotated[str, typer.Option(help="its name at the endpoint")],
    output: Annotated[Path, typer.Option(help="a .jsonl file; it only grows")],
    n: Annotated[int, typer.Option("--n", min=1, help="descriptions in the file")] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, help="requests at the same time")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer; reasoning needs more")] = 600,
    yes: Annotated[bool, typer.Option("--yes", help="begin without asking back")] = False,
) -> None:
    """Have a model behind an OpenAI-compatible endpoint write lesson 08's texts.

    The key comes from LMLAB_API_KEY, else OPENAI_API_KEY, and is neither shown nor saved.
    Interrupted, the same command resumes.
    """
    from lmlab.course.generate_data import Endpoint, find_key
    from lmlab.course.generation import run_generation

    # Never an option: command lines are seen by all users of a machine, and kept in the shell's history.
    _, key = find_key()
    endpoint = Endpoint(base_url, model, key, max_tokens)
    with long_command():
        run_generation(endpoint, output, n, concurrency=concurrency, agreed=yes)


@app.command()
def chat(
    model: Annotated[
        str, typer.Argument(help="a folder, a .gguf file, a lesson (06), a run, miniworld/qwen2, or a hub id")
    ],
    prompt: Annotated[str | None, typer.Option(help="one question; shows the answer and ends")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0: greedy (default 0.7)")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer, reasoning included")] = 512,
    raw: Annotated[bool, typer.Option("--raw", help="continue the text; for 02, 04, 05, 08")] = False,
) -> None:
    """Talk with a model: a folder, an adapter, what a lesson left, a GGUF file.

    The answer goes to stdout as it comes, all else to stderr.
    Ctrl-C ends an answer, between answers the chat. Without a terminal each line of stdin is a question.
    """
    from lmlab.course.runs import find_model
    from lmlab.export.chat import ChatSession, load_chat_model
    from lmlab.export.generation_config import sampling_config

    _quiet("bitsandbytes", "transformers")
    # basicConfig logs to stderr: stdout is the answer's, which may go into a file.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lmlab").setLevel(logging.INFO)
    chat_model = load_chat_model(find_model(model))
    # What is not given is the model's own.
    config = sampling_config(chat_model.generation_config, max_new_tokens, temperature=temperature)
    session = ChatSession(chat_model, config, raw=raw)
    if prompt is not None:
        session.ask(prompt)
        raise typer.Exit
    terminal = sys.stdin.isatty()
    if terminal:
        # By its import alone input() gets a history and arrow keys.
        import readline  # noqa: F401

        print(session.banner(), file=sys.stderr)
    session.run(lambda: input("> " if terminal else ""))


@app.command()
def plan(
    lesson: Annotated[str, typer.Argument(help="00, 02, 04, 05, 06, 08, 09, 11, or a full name")],
    settings: Settings,
    recipe: RecipeName = "tiny",
    gpu: Annotated[
        str | None, typer.Option(help="T4, L4, A10G, A100, A100-80GB, H100 or H200 (default: this machine)")
    ] = None,
) -> None:
    """Predict memory, time and cost of a recipe; nothing is loaded."""
    from lmlab import hardware
    from lmlab.course.plan import plan as make_plan

    cfg = load_recipe(lesson, recipe, **parse_settings(settings))
    # A GPU of the table need not be here: nothing of the plan runs on it.
    machine = hardware.gpu(gpu) if gpu else hardware.describe_machine()
    _quiet("bitsandbytes")
    made = make_plan(cfg, machine)
    print(made)
    # A script can ask whether it fits by the exit code.
    raise typer.Exit(0 if all(forecast.fits for forecast in made.forecasts.values()) else 1)


@app.command()
def recipes(
    lesson: Annotated[str | None, typer.Argument(help="00 to 11, or a full name")] = None,
    recipe: Annotated[str, typer.Argument(help="a name or a path")] = "tiny",
) -> None:
    """List the recipes of every lesson, or show one."""
    if lesson is None:
        for known in LESSONS:
            print(f"{known:<32} {', '.join(list_recipes(known))}")
        return
    # The folder of a reader's files is a placeholder here: a recipe can be shown without them.
    cfg = load_recipe(lesson, recipe, data_dir="{data_dir}")
    # Only the YAML has the comments, and only the recipe has the values that it inherits.
    for line in find_recipe(cfg.lesson, recipe).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            print(line)
    print(cfg)
    for metric, band in cfg.expected.items():
        print(f"{'expected ' + metric:<32} {band}")


@app.command()
def report(
    run_dir: Annotated[Path | None, typer.Argument(help="a run's folder (default: the latest)")] = None,
    other: Annotated[Path | None, typer.Argument(help="a second run, compared with the first")] = None,
    output: Annotated[Path, typer.Option(help="where the site goes; replaces an older one")] = Path("site"),
) -> None:
    """Render executed notebooks as a static site."""
    from lmlab.course.report import build_site
    from lmlab.course.runs import newest_run

    print(f"report: {build_site(run_dir or newest_run(), output, other)}")


@app.command()
def notebooks(
    folder: Annotated[Path, typer.Argument(help="where the copies go; it may hold no notebooks")],
) -> None:
    """Copy the course's notebooks into a folder, to work through them there."""
    from lmlab.course.copies import copy_notebooks

    copies = copy_notebooks(folder)
    print(f"{len(copies)} notebooks in {folder}; next: jupyter lab {folder}")


@app.command()
def doctor() -> None:
    """Show what this machine can run, and why."""
    from lmlab.course.doctor import examine

    print(examine())
