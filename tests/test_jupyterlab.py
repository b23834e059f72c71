"""Notebooks in a real JupyterLab and browser: all cells run, and moving a slider changes the figure."""

import io
import json
from pathlib import Path

import jupyterlab
import nbformat
import pytest

PROJECT = Path(__file__).resolve().parents[1]


BOX = "document.querySelectorAll('.jp-OutputArea-output .widget-vbox')"
SMALL = {
    "01_data_analysis": {"limit": 60},
    "02_gpt2_from_scratch": {
        "n_docs": 1500,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 64,
        "max_steps": 20,
        "warmup_steps": 2,
        "eval_every": 10,
        "checkpoint_every": 10,
        "hellaswag": None,
    },
}


@pytest.fixture(scope="module")
def lab(page, tmp_path_factory):
    if not jupyterlab.is_installed():
        pytest.skip(jupyterlab.HOW_TO_GET_IT)
    lab = jupyterlab.Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


def opened(lab, page, lesson: str, n_boxes: int, last: str = "") -> None:
    """Runs a small copy of a lesson, up to the cell that holds ``last``, and waits for its widgets."""
    notebook = nbformat.read(PROJECT / "notebooks" / f"{lesson}.ipynb", as_version=4)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    changed = {
        "overrides = {}": f"overrides = {SMALL[lesson]}",
        '"runs/notebook"': json.dumps(str(lab.root / "runs")),
    }
    for old, new in changed.items():
        assert old in parameters.source
        parameters.source = parameters.source.replace(old, new)
    if last:
        notebook.cells = notebook.cells[
            : 1 + next(i for i, cell in enumerate(notebook.cells) if last in cell.source)
        ]
    nbformat.write(notebook, lab.root / f"{lesson}.ipynb")
    lab.open(page, f"{lesson}.ipynb")
    assert lab.run_all(page, seconds=300) == []
    page.wait_for(f"{BOX}.length === {n_boxes} && [...{BOX}].every(b => b.querySelector('.noUi-handle'))")


def pixels(page, box: int):
    """What is to be seen of a widget under its controls."""
    import numpy
    from PIL import Image

    page.js(f"{BOX}[{box}].scrollIntoView({{block: 'start'}}); return 1")
    place = page.js(
        f"{{const last = [...{BOX}[{box}].children].filter(c => c.offsetHeight && "
        "c.matches('.widget-image, .widget-html'))[0].getBoundingClientRect(); "
        "return {x: last.x, y: last.y, width: last.width, height: Math.min(400, last.height)}}"
    )
    picture = page.picture(place)
    return numpy.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def moved(page, box: int, slider: int, key: str, times: int = 1) -> float:
    """Moves a slider by an arrow key, waits for the effect, and gives the fraction of pixels that changed."""
    before = pixels(page, box)
    shown = (
        "(b => (b.querySelector('img')?.src || '') + b.querySelector('.widget-html').innerHTML)"
        f"({BOX}[{box}])"
    )
    for _ in range(times):
        old = json.dumps(page.js(shown))
        page.js(f"{BOX}[{box}].querySelectorAll('.noUi-handle')[{slider}].focus(); return 1")
        page.press(key)
        page.wait_for(
            f"{shown} !== {old} && [...{BOX}[{box}].querySelectorAll('img')].every(i => i.complete)", 60
        )
    after = pixels(page, box)
    height, width = (min(sizes) for sizes in zip(before.shape[:2], after.shape[:2], strict=True))
    return (abs(before[:height, :width] - after[:height, :width]).max(axis=2) > 40).mean()


def test_lesson_01_runs_and_shows_another_text(lab, page):
    opened(lab, page, "01_data_analysis", n_boxes=1)
    text = page.js(f"{BOX}[0].querySelector('.widget-html').innerText")
    assert moved(page, 0, 0, "ArrowRight") > 0.01
    assert page.js(f"{BOX}[0].querySelector('.widget-html').innerText") != text


def test_lesson_02_runs_to_its_widgets_and_draws_anew(lab, page):
    opened(lab, page, "02_gpt2_from_scratch", n_boxes=1, last="sampling_playground(")
    written = page.js(f"{BOX}[0].querySelector('.widget-html').innerText")
    top_k = 1
    assert moved(page, 0, top_k, "ArrowRight", times=2) > 0.01
    assert page.js(f"{BOX}[0].querySelectorAll('.widget-readout')[{top_k}].innerText") == "2"
    assert page.js(f"{BOX}[0].querySelector('.widget-html').innerText") != written
