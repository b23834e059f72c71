"""Notebooks as they are committed: valid, without outputs, one parameters cell, short cells, nothing dead."""

import ast
import re

import nbformat
import pytest

from lmlab.recipes import LESSONS, PROJECT

PARAMETERS = 'recipe = "tiny"\noverrides = {}\noutput_dir = "runs"'
LONGEST_CELL, LONGEST_CELL_OF_02 = 30, 40
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
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
    assert set(LESSONS) <= {path.stem for path in NOTEBOOKS}


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


def test_first_code_cell_is_the_one_parameters_cell(notebook):
    first, *others = code_cells(notebook)
    assert "parameters" in first.metadata.get("tags", [])
    assert [line.split("  #")[0].rstrip() for line in first.source.splitlines()] == PARAMETERS.splitlines()
    for cell in others:
        assert not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))


def test_recipe_is_resolved_next_and_metrics_are_written_last(notebook):
    cells = code_cells(notebook)
    assert f'load_recipe("{notebook.stem}", recipe, **overrides)' in cells[1].source
    assert "write_metrics(" in cells[-1].source


def test_it_shows_itself_in_tensorboard_and_trains_no_curve_past_the_board(notebook):
    cells = code_cells(notebook)
    source = "\n".join(cell.source for cell in cells)
    assert "board = Board(out, cfg)" in cells[1].source
    assert "board.figure(" in source
    assert "board.text(" in source or "sample=" in source  # pretrain's samples go there too
    assert not re.search(r"report_to|savefig\(|TENSORBOARD_LOGGING_DIR|SummaryWriter", source)
    trainers = len(re.findall(r"(?<!import )\b\w*Trainer\(", source))
    assert len(re.findall(r"board\.callback\(", source)) >= trainers


def test_begins_with_a_title(notebook):
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def test_cells_are_short(notebook):
    limit = LONGEST_CELL_OF_02 if notebook.stem.startswith("02") else LONGEST_CELL
    long = {cell.id: len(cell.source.splitlines()) for cell in code_cells(notebook)
            if len(cell.source.splitlines()) > limit}
    assert not long


def test_code_parses(notebook):
    for cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if not line.startswith(("%", "!"))]
        ast.parse("\n".join(lines), cell.id)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_nothing_dead_or_private(notebook, pattern):
    found = [cell.id for cell in code_cells(notebook) if re.search(pattern, cell.source)]
    assert not found, f"{FORBIDDEN[pattern]} in {found}"
