"""Notebooks as they are committed: valid, without outputs, one parameters cell, short cells, nothing dead."""

import ast
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import nbformat
import pytest

from lmlab.course.runner import NEEDS
from lmlab.recipes import LESSONS

PROJECT = Path(__file__).resolve().parents[1]
PARAMETERS = ['recipe = "tiny"', "overrides = {}", 'output_dir = "runs/notebook"']
LONGEST_CELL, LONGEST_CELL_OF_02 = 30, 40
REPOSITORY = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
COLAB = (
    REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
    + "/blob/main/notebooks"
)

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
    """A reader who thinks for an hour, or takes a name that the lesson uses, must not change what was measured."""
    checks = ["lmlab.check(" in cell.source for cell in code_cells(notebook)]
    n = checks.count(True)
    assert n and checks == [False] * (len(checks) - n) + [True] * n


@of_a_lesson
def test_the_repository_is_the_one_of_pyproject(notebook):
    """After a move: change pyproject.toml, then replace the old address in notebooks/ and README.md."""
    assert notebook.cells[0].source.rstrip().endswith(f"]({COLAB}/{notebook.stem}.ipynb)")
    set_up = code_cells(notebook)[0].source
    assert f'repository = "{REPOSITORY}"' in set_up and f'suggest_recipe("{notebook.stem}")' in set_up
    first = NOTEBOOKS[0].stem
    assert set_up == first_code_cell(NOTEBOOKS[0]).source.replace(first, notebook.stem)
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
    assert "board = lesson.cfg" in cells[2].source and "lesson.tensorboard" in cells[2].source
    assert "board.figure(" in source
    assert "board.text(" in source or "sample=" in source  # pretrain's samples go there too
    assert not re.search(r"report_to|savefig\(|TENSORBOARD_LOGGING_DIR|SummaryWriter", source)
    trainers = len(re.findall(r"(?<!import )(?<!class )\b\w*Trainer\((?!Token)", source))
    assert len(re.findall(r"TensorBoardCurves\(", source)) >= trainers


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
        lines = [line for line in cell.source.splitlines() if not line.startswith(("%", "!"))]
        ast.parse("\n".join(lines), cell.id)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_nothing_dead_or_private(notebook, pattern):
    found = [cell.id for cell in code_cells(notebook) if re.search(pattern, cell.source)]
    assert not found, f"{FORBIDDEN[pattern]} in {found}"


def first_code_cell(path):
    return code_cells(nbformat.read(path, as_version=4))[0]


@pytest.fixture
def without_lmlab(monkeypatch, tmp_path):
    """The set-up cell where lmlab seems not to be installed; what it would run is noted."""
    import importlib.util

    ran, real = [], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lmlab" else real(name))
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command) if check else None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return ran


def test_set_up_in_colab_keeps_its_torch(without_lmlab, monkeypatch, capsys):
    from importlib.metadata import version

    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(first_code_cell(NOTEBOOKS[0]).source, {})
    clone, install = without_lmlab
    assert clone[:2] == ["git", "clone"] and clone[-2:] == [REPOSITORY, "lmlab-course"]
    assert install[1:4] == ["-m", "pip", "install"] and f"torch=={version('torch')}" in install
    assert sys.path[0].endswith("lmlab-course") and 'recipe = "' in capsys.readouterr().out


def test_set_up_elsewhere_installs_nothing(without_lmlab, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    with pytest.raises(ModuleNotFoundError, match="QUICK_START"):
        exec(first_code_cell(NOTEBOOKS[0]).source, {})
    monkeypatch.undo()
    exec(first_code_cell(NOTEBOOKS[0]).source, {})
    assert not without_lmlab and "runs here" in capsys.readouterr().out
