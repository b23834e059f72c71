"""README and guides: every code block runs, or is marked with what it needs and is parsed; every link holds.

A mark stands in a comment above a block: <!-- test: needs gpu, network --> or <!-- test: file PATH -->, whose
block is then written to PATH: below "home" it is the reader's home, else the project.
"""

import ast
import io
import json
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from lmlab import cli
from lmlab.course.batch import share_settings
from lmlab.recipes import LESSONS, find_lesson, list_recipes, load_recipe, parse_settings

ROOT = Path(__file__).parents[1]
TEXTS = ["README.md", "QUICK_START.md", "FINETUNING_GUIDE.md", "benchmarks/README.md"]
NEEDS = {"gpu", "network", "time", "a person"}
FENCE = re.compile(
    r"(?:<!-- test: (?P<mark>[^\n]*?) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)


class Block(NamedTuple):
    text: str
    line: int
    kind: str
    mark: str
    body: str

    def __str__(self) -> str:
        return f"{self.text}:{self.line}"


def blocks_of(text: str, content: str) -> list[Block]:
    found = [
        Block(text, content[: m.start()].count("\n") + 1, m["kind"], m["mark"] or "", m["body"])
        for m in FENCE.finditer(content)
    ]
    assert content.count("```") == 2 * len(found), f"{text}: a block was not understood"
    return found


BLOCKS = [block for text in TEXTS for block in blocks_of(text, (ROOT / text).read_text(encoding="utf-8"))]


def needs(block: Block) -> set[str]:
    """What a block's mark says that it needs. AssertionError for a mark of an unknown kind."""
    if not block.mark or block.mark.startswith("file "):
        return set()
    assert block.mark.startswith("needs "), f"{block}: mark {block.mark!r}; give needs ... or file PATH"
    said = {need.strip() for need in block.mark.removeprefix("needs ").split(",")}
    assert said <= NEEDS, f"{block}: needs {sorted(said - NEEDS)}; the test knows {sorted(NEEDS)}"
    return said


# --- a project for the reader's files --------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A home and a folder to work in, with what the texts' files say, a finished run, and an adapter."""
    with pytest.MonkeyPatch.context() as patch:
        home, project = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("project")
        for name in ("configs", "notebooks", "docs", "Makefile"):
            (project / name).symlink_to(ROOT / name)
        (home / "data").mkdir()
        patch.setattr("lmlab.course.doctor.reachable", lambda url: False)
        patch.setenv("HOME", str(home))
        patch.chdir(project)
        for block in BLOCKS:
            if block.mark.startswith("file "):
                write(block, home, project)
        made_run(project)
        yield project


def write(block: Block, home: Path, project: Path) -> None:
    name = block.mark.removeprefix("file ")
    path = home / name.removeprefix("home/") if name.startswith("home/") else project / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.body, encoding="utf-8")


def made_run(project: Path) -> None:
    from nbformat import write as write_notebook
    from nbformat.v4 import new_markdown_cell, new_notebook

    run = project / "runs" / "20260101-000000"
    run.mkdir(parents=True)
    (project / "runs" / "latest").write_text(run.name)
    write_notebook(new_notebook(cells=[new_markdown_cell("# Lesson")]), run / "01_data_analysis.ipynb")
    (run / "run.json").write_text(
        json.dumps(
            {
                "lessons": [
                    {
                        "lesson": "01_data_analysis",
                        "status": "ok",
                        "seconds": 1,
                        "peak_memory_gb": 1,
                        "error": "",
                    }
                ]
            }
        )
    )


@pytest.fixture(scope="module")
def adapter(reader, machine):
    """What ``lmlab finetune 05`` leaves, before a step."""
    from lmlab.models import adapters
    from lmlab.training.sft import build_model

    cfg = load_recipe("05_llama_lora_4bit")
    return adapters.save_adapter(
        build_model(cfg, machine), reader / "runs/finetune-tiny/05_llama_lora_4bit/adapter", cfg.model
    )


# --- the command line ------------------------------------------------------------------------------


def commands(block: Block) -> list[list[str]]:
    """The commands of a bash block, cut into words, without comments and variables."""
    lines = block.body.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        while "&&" in words:
            cut = words.index("&&")
            found.append(words[:cut])
            words = words[cut + 1 :]
        found.append(words)
    return [words for words in found if words]


PLAIN = {".", "export", "read", "nvidia-smi", "df", "tensorboard", "pip", "jupyter", "ollama", "cd", "hf"}


def parse(words: list[str]) -> list[str] | None:
    """Checks one command against what it calls; lmlab's own arguments, if it is lmlab."""
    while "=" in words[0] and words[0].split("=")[0].isidentifier():
        words = words[1:]
    name, rest = words[0], words[1:]
    if name in ("lmlab", "torchrun", "accelerate") or words[:3] == ["python", "-m", "lmlab"]:
        return lmlab_arguments(name, rest if name != "python" else rest[2:])
    if name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert all(word in targets for word in rest if "=" not in word), (
            f"make {rest}: the Makefile has {targets}"
        )
    elif name.endswith("python"):
        assert (ROOT / rest[0]).exists(), f"{rest[0]} is not there"
    else:
        assert name in PLAIN, f"{name!r} is no command that the texts use"
        for word in rest:
            assert not word.startswith(("notebooks/", "configs/")) or (ROOT / word).exists(), (
                f"{word} is not there"
            )
    return None


def lmlab_arguments(name: str, rest: list[str]) -> list[str]:
    if name == "torchrun":
        from torch.distributed.run import get_args_parser

        args = quietly(get_args_parser().parse_args, rest)
        assert args.module and args.training_script == "lmlab", f"torchrun starts {args.training_script}"
        rest = args.training_script_args
    if name == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        args = quietly(launch_command_parser().parse_args, rest[1:])
        assert rest[0] == "launch" and args.module and args.training_script == "lmlab", rest
        assert (ROOT / args.config_file).exists(), f"{args.config_file} is not there"
        rest = args.training_script_args
    check_lmlab(rest)
    return rest


def quietly(parse, words):
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parse(words)
    except SystemExit:
        raise AssertionError(f"{' '.join(words)}: {said.getvalue().strip().splitlines()[-1]}") from None


def parse_command(arguments: list[str]) -> dict:
    """The values of a command's options, by the command line's own parser; nothing runs."""
    app = typer.main.get_command(cli.app)
    outer = app.make_context("lmlab", list(arguments))
    name, command, rest = app.resolve_command(outer, [*outer._protected_args, *outer.args])
    return command.make_context(name, rest, parent=outer).params


def check_lmlab(arguments: list[str]) -> None:
    """Options by the command's own parser; lessons, recipes and settings by the recipes themselves."""
    try:
        given = parse_command(arguments)
    except Exception as error:
        raise AssertionError(f"{' '.join(arguments)}: {error}") from None
    asked = given.get("lessons") or [given.get("lesson") or "02"]
    lessons = [lesson for text in asked for lesson in (LESSONS if text == "all" else [find_lesson(text)])]
    if "settings" not in given:
        return
    name = given["recipe"]
    lessons = [lesson for lesson in lessons if name in list_recipes(lesson) or "all" not in asked]
    settings = parse_settings(text for text in given["settings"] if not text.startswith("data_dir="))
    for lesson, overrides in share_settings(lessons, settings).items():
        cfg = load_recipe(lesson, name, **{"data_dir": "DATA_DIR", **overrides})
        for space in given.get("space") or ():
            assert hasattr(cfg, space.split("=")[0]), f"{space}: lesson {lesson} has no such key"
        if given.get("save_as"):  # the texts go on with it
            own = Path("recipes", lesson, f"{given['save_as']}.yaml")
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(f"extends: {name}\n")


CHEAP = {"plan", "recipes", "doctor", "report"}


def run(arguments: list[str]) -> str:
    """What a cheap command of lmlab says; AssertionError for others, which want a mark, and if it fails."""
    assert arguments and arguments[0] in CHEAP, (
        f"{arguments}: not run by the test; mark the block with what it needs"
    )
    said, wrong = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(wrong):
        code = cli.main(arguments)
    allowed = (0, 1) if arguments[0] == "plan" else (0,)  # 1: the text shows what does not fit
    assert code in allowed, f"{arguments}: {wrong.getvalue()}"
    return said.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "bash"], ids=str)
def test_bash(block, reader):
    marked = needs(block)
    for words in commands(block):
        arguments = parse(words)
        if not marked:
            assert run(arguments)


# --- python, yaml, rows ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "python"], ids=str)
def test_python(block, adapter):
    assert not needs(block), f"{block}: Python blocks are run"
    with redirect_stdout(io.StringIO()):
        exec(compile(block.body, str(block), "exec"), {})  # noqa: S102  (the texts are the project's own)


def test_every_block_is_of_a_known_kind():
    assert {block.kind for block in BLOCKS} <= {"bash", "python", "yaml", "json"}
    assert all(block.mark.startswith("file ") for block in BLOCKS if block.kind in ("yaml", "json"))
    assert len(BLOCKS) > 15


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "yaml"], ids=str)
def test_a_recipe_of_ones_own_takes_ones_own_data(block, reader):
    from lmlab.data.pairs import pair_sets

    path = Path(block.mark.removeprefix("file "))
    folder = reader / "own"
    folder.mkdir(exist_ok=True)
    shown = [json.loads(line) for b in BLOCKS if b.kind == "json" for line in b.body.splitlines()]
    rows = [{key: f"{value} ({i})" for key, value in shown[i % len(shown)].items()} for i in range(1200)]
    (folder / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = load_recipe(path.parent.name, path.stem, data_dir=str(folder))
    sets = pair_sets(cfg)
    assert len(sets["train"]) == cfg.n_train and len(sets["validation"]) == cfg.n_validation


def table_rows(content: str, first: str) -> list[list[str]]:
    lines = content[content.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def test_every_row_of_the_formats_is_taken_by_its_lesson(tmp_path):
    from lmlab.data.conversations import read_conversations
    from lmlab.data.reasoning import reasoning_rows
    from lmlab.data.sources import load_rows
    from lmlab.data.usable import usable_pairs

    guide = (ROOT / "FINETUNING_GUIDE.md").read_text(encoding="utf-8")
    seen = set()
    for lesson, _, cell in table_rows(guide[guide.index("### Formats") :], "lesson | fields | a row"):
        path = tmp_path / "rows.jsonl"
        path.write_text(cell.strip("`").replace("\\\\n", "\\n") + "\n")
        row = load_rows(str(path), "all")[0]
        number = lesson[:2]
        seen.add(number)
        if number == "00":
            conversations, bad = read_conversations(load_recipe("00", data=str(path)))
            assert len(conversations) == 1 and not bad
        elif number == "04":
            assert usable_pairs([row], lesson, 0.0)
        elif number == "06":
            assert reasoning_rows([row], lesson, max_invalid_fraction=0.0)[0]["completion"]
        elif number == "03":
            assert len(row["endings"]) == 4 and row["endings"][int(row["label"])] and row["ctx"]
        else:
            assert row["text"].startswith("<LOC>") == (number == "08")
    assert seen == {"00", "02", "03", "04", "06", "08"}


# --- links -----------------------------------------------------------------------------------------


def anchors(content: str) -> set[str]:
    """GitHub's: small letters, blanks to hyphens, no other signs."""
    plain = FENCE.sub("", content)
    heads = re.findall(r"^#+ (.+)$", plain, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(text: Path) -> list[str]:
    content = text.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", content)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = text.parent / name if name else text
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("text", TEXTS)
def test_links_and_anchors_hold(text):
    assert broken_links(ROOT / text) == []


def test_the_guide_begins_with_all_its_sections():
    content = (ROOT / "FINETUNING_GUIDE.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(.+)\]\(#", content, re.M)
    assert listed == re.findall(r"^## (.+)$", content, re.M)[1:]


def test_lesson_and_section_numbers_name_sections_that_there_are():
    content = " ".join((ROOT / text).read_text(encoding="utf-8") for text in TEXTS)
    named = set(re.findall(r"\b(0[1-9]),? section (\d+)", content))
    assert len(named) > 8
    for lesson, section in named:
        cells = json.loads((ROOT / "notebooks" / f"{find_lesson(lesson)}.ipynb").read_text())["cells"]
        heads = [
            line
            for cell in cells
            if cell["cell_type"] == "markdown"
            for line in "".join(cell["source"]).split("\n")
        ]
        assert any(re.match(rf"#+ {section}\. ", head) for head in heads), (
            f"lesson {lesson} has no section {section}"
        )


def test_keys_in_the_table_of_symptoms_are_keys_of_recipes():
    section = (
        (ROOT / "FINETUNING_GUIDE.md").read_text(encoding="utf-8").partition("\n## When it goes wrong\n")[2]
    )
    known = {key for cls in LESSONS.values() for key in cls.model_fields} | names_in_lmlab()
    keys = re.findall(r"`([a-z_0-9]+): [\w.]+`", section) + re.findall(r"0\d `([a-z_0-9]+)[`:]", section)
    assert len(keys) > 15
    for key in keys:
        assert key in known, f"{key} is no key of a recipe"


def names_in_lmlab() -> set[str]:
    return {
        node.name
        for path in (ROOT / "lmlab").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


# --- the test itself -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark, line, told",
    [
        ("", "python -m lmlab run 05", "mark the block"),
        ("needs luck", "python -m lmlab run 05", "luck"),
        ("slow", "python -m lmlab run 05", "give needs"),
        ("needs time", "python -m lmlab run 05 --recpie t4", "--recpie"),
        ("needs time", "python -m lmlab run 05 --recipe t5", "t5"),
        ("needs time", "python -m lmlab run 05 --set learning_rat=1e-3", "learning_rate"),
        ("needs time", "python -m lmlab run 05 --set epochs=1.5", "valid integer"),
        ("needs time", "python -m lmlab run 15", "15"),
        ("needs time", "python -m lmlab finetune 05 --bits 8", "--bits"),
        ("needs time", "make cofee", "Makefile"),
        ("needs gpu", "torchrun --proc_per_node 4 -m lmlab pretrain", "unrecognized"),
        ("needs gpu", "torchrun --nproc_per_node 4 -m lmlab pretrain --recipe huge", "huge"),
        ("needs gpu", "accelerate launch --config_file configs/none.yaml -m lmlab finetune 05", "none.yaml"),
        (
            "needs gpu",
            "accelerate launch --config_file configs/accelerate/ddp.yaml -m lmlab finetune 05 --set x=1",
            "x",
        ),
        ("needs a person", "jupyter lab notebooks/12_none.ipynb", "12_none"),
        ("needs network", "curl http://x", "curl"),
        ("", "python -m lmlab plan 06 --recipe t4 --gpu T5", "T5"),
    ],
)
def test_a_wrong_block_is_found(mark, line, told, reader):
    content = (f"<!-- test: {mark} -->\n" if mark else "") + f"```bash\n{line}\n```\n"
    with pytest.raises((AssertionError, ValueError), match=re.escape(told)):
        test_bash(blocks_of("a text", content)[0], reader)


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.md").write_text("# A head, here\n[x](#a-head-here) [y](#none) [z](b.md) [w](http://x.y)\n")
    assert broken_links(tmp_path / "a.md") == ["#none", "b.md"]
