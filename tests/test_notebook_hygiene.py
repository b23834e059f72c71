"""Notebooks as they are committed: valid, without outputs, one parameters cell, short cells, nothing dead."""

import ast
import importlib.util
import inspect
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from lmlab.course.runner import NEEDS
from lmlab.recipes import LESSONS

PROJECT = Path(__file__).resolve().parents[1]
PARAMETERS = ['recipe = "tiny"', "overrides = {}", 'output_dir = "runs/notebook"']
LONGEST_CELL, LONGEST_CELL_OF_02 = 25, 40
MOST_NAMES = 25  # of lmlab in one notebook: what is the lesson is called by the field's own names
MOST_NAMES_OF = {"01": 20, "02": 20, "03": 20}
REPOSITORY = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
COLAB = (
    REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
    + "/blob/main/notebooks"
)

# the same in every notebook
SETUP = f"""# Colab: installs lmlab. Elsewhere it is installed already; QUICK_START.md says how.
import importlib.util

if importlib.util.find_spec("lmlab") is None:
    %pip install -q "lmlab @ git+{REPOSITORY}"
"""
SETUP = SETUP.rstrip()

LESSON_NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = [*LESSON_NOTEBOOKS, PROJECT / "notebooks" / "solutions" / "solutions.ipynb"]
of_a_lesson = pytest.mark.parametrize("notebook", LESSON_NOTEBOOKS, ids=lambda path: path.stem, indirect=True)
FORBIDDEN = {
    r"\bif (False|0):": "code that never runs",
    r"pip3? install|conda install|apt(-get)? install": "an install in mid-notebook",
    r"tqdm\.notebook": "a progress widget (its HTML needs a network)",
    r"(?<![\w.~}])/(home|root|work|tmp|Users|content)/": "a path of one machine",
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    notebook = nbformat.read(request.param, as_version=4)
    notebook.stem = request.param.stem
    return notebook


def plain_python(source: str) -> str:
    """A cell's code as IPython runs it: magics become function calls."""
    return TransformerManager().transform_cell(source)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_lesson_has_its_notebook():
    assert set(LESSONS) <= {path.stem for path in LESSON_NOTEBOOKS}


def test_format_is_valid_and_cells_have_distinct_ids(notebook):
    notebook = {key: value for key, value in notebook.items() if key != "stem"}
    nbformat.validate(nbformat.from_dict(notebook))
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))


def test_nothing_of_a_run_is_committed(notebook):
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert "papermill" not in cell.metadata and "execution" not in cell.metadata
    assert not {"widgets", "papermill"} & set(notebook.metadata)


def test_kernel_is_plain_python(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"


@of_a_lesson
def test_first_code_cell_sets_up_and_the_second_is_the_one_parameters_cell(notebook):
    _, parameters, *others = code_cells(notebook)
    assert "parameters" in parameters.metadata.get("tags", [])
    expected = PARAMETERS + ["from_run = None"] * (notebook.stem in NEEDS)
    assert [line.split("  #")[0].rstrip() for line in parameters.source.splitlines()] == expected
    for cell in others:
        assert not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))


@of_a_lesson
def test_recipe_is_resolved_next_and_metrics_are_written_last(notebook):
    cells = code_cells(notebook)
    given = "recipe, overrides, output_dir" + ", from_run" * (notebook.stem in NEEDS)
    assert f'lmlab.start_lesson("{notebook.stem[:2]}", {given})' in cells[2].source
    assert (
        "lesson.finish(metrics)" in [cell for cell in cells if "lmlab.check(" not in cell.source][-1].source
    )


@of_a_lesson
def test_exercises_come_after_the_metrics(notebook):
    """A reader who takes an hour, or a name that the lesson uses, must not change what was measured."""
    checks = ["lmlab.check(" in cell.source for cell in code_cells(notebook)]
    n = checks.count(True)
    assert n and checks == [False] * (len(checks) - n) + [True] * n


@of_a_lesson
def test_the_repository_is_the_one_of_pyproject(notebook):
    """After a move: change pyproject.toml, then replace the old address in notebooks/ and README.md."""
    assert notebook.cells[0].source.rstrip().endswith(f"]({COLAB}/{notebook.stem}.ipynb)")
    assert code_cells(notebook)[0].source == SETUP
    named = re.findall(r"github(?:\.com)?/[\w-]+/lmlab\b", "".join(cell.source for cell in notebook.cells))
    assert set(named) <= {
        REPOSITORY.removeprefix("https://"),
        REPOSITORY.removeprefix("https://").replace(".com", ""),
    }


def test_readme_opens_each_lesson_in_colab():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\((https://colab[^)]*)\)", readme) == [
        f"{COLAB}/{path.name}" for path in LESSON_NOTEBOOKS
    ]


@of_a_lesson
def test_it_shows_itself_in_tensorboard_and_trains_no_curve_past_the_board(notebook):
    cells = code_cells(notebook)
    source = "\n".join(cell.source for cell in cells)
    assert "lesson.tensorboard" in cells[2].source
    assert "tensorboard.figure(" in source
    assert "tensorboard.text(" in source or "sample=" in source  # pretrain's samples go there too
    assert not re.search(r"savefig\(|TENSORBOARD_LOGGING_DIR|SummaryWriter", source)
    # a training goes to TensorBoard by the lesson's callbacks, or not at all because it says so
    # (a tokenizer's BpeTrainer counts pairs and has no loss)
    trainers = len(re.findall(r"(?<!import )(?<!class )\b(?!Bpe)\w*Trainer\(", source))
    assert len(re.findall(r"lesson\.callbacks\(|report_to=\"none\"", source)) >= trainers


def test_begins_with_a_title(notebook):
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def test_cells_are_short(notebook):
    """Imports are no idea, and not counted."""
    limit = LONGEST_CELL_OF_02 if notebook.stem.startswith("02") else LONGEST_CELL
    lengths = {}
    for cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if not line.startswith(("import ", "from "))]
        lengths[cell.id] = len(lines)
    assert not {cell: length for cell, length in lengths.items() if length > limit}


def test_code_parses(notebook):
    for cell in code_cells(notebook):
        ast.parse(plain_python(cell.source), cell.id)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_nothing_dead_or_private(notebook, pattern):
    cells = [cell for cell in code_cells(notebook) if cell.source != SETUP]
    found = [cell.id for cell in cells if re.search(pattern, cell.source)]
    assert not found, f"{FORBIDDEN[pattern]} in {found}"


# --- how it teaches ----------------------------------------------------------------------------------


def names_of_lmlab(notebook) -> set[str]:
    """What a notebook uses of lmlab: names imported from modules, attributes of modules imported whole."""
    tree = ast.parse("\n".join(plain_python(cell.source) for cell in code_cells(notebook)))
    modules, names = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {
                alias.asname or alias.name: alias.name for alias in node.names if alias.name == "lmlab"
            }
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lmlab"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if importlib.util.find_spec(node.module) and _is_module(full):
                    modules[alias.asname or alias.name] = full
                else:
                    names.add(full)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            names.add(f"{modules[node.value.id]}.{node.attr}")
    return names


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@of_a_lesson
def test_few_names_of_lmlab(notebook):
    names = names_of_lmlab(notebook)
    assert len(names) <= MOST_NAMES_OF.get(notebook.stem[:2], MOST_NAMES), sorted(names)


@of_a_lesson
def test_figures_are_there_and_say_what_they_show(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    figures = re.findall(r"!\[([^\]]*)\]\((figures/[^)]*)\)", prose)
    assert "](figures/" in notebook.cells[0].source
    for alt, path in figures:
        assert (PROJECT / "notebooks" / path).is_file()
        assert len(alt.split()) > 3


@of_a_lesson
def test_the_parts_of_a_lesson(notebook):
    first = notebook.cells[0].source
    objectives = re.search(r"After this lesson you can[^\n]*\n((?:\s*[-*] .*\n(?:  .*\n)*)+)", first)
    assert objectives and len(re.findall(r"^\s*[-*] ", objectives[1], flags=re.MULTILINE)) == 3
    headings = re.findall(r"^## (.*)", "\n".join(cell.source for cell in notebook.cells), flags=re.MULTILINE)
    assert {"What you learned", "Further reading"} <= set(headings)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "without lmlab" in prose and "docs/GLOSSARY.md" in prose


def test_what_a_notebook_calls_of_lmlab_is_there(notebook):
    """Each imported name, and each keyword that one of them is called with: a run would find out late."""
    imported, calls = {}, []
    for node in ast.walk(ast.parse("\n".join(plain_python(cell.source) for cell in code_cells(notebook)))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lmlab"):
            exec(ast.unparse(node), imported)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            calls.append(node)
    for call in calls:
        function = imported.get(call.func.id)
        if inspect.isfunction(function):
            taken = inspect.signature(function).parameters.values()
            names = {parameter.name for parameter in taken}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
                unknown = {keyword.arg for keyword in call.keywords} - names - {None}
                assert not unknown, f"{call.func.id} takes no {unknown}"
