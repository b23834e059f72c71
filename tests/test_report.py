"""The report: complete, honest about failures, and with nothing fetched from outside."""

import base64
import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lmlab.report import build_site

DOT = base64.b64encode(bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f0001050101"
    "2718e3660000000049454e44ae426082")).decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    picture = new_output("display_data", data={"image/png": DOT})
    text = ("# One fine lesson\nMath $x^2$, and $$\\begin{matrix}1\\end{matrix}$$, then `a $b$ c`.\n\n"
            "[This](01_data_analysis.ipynb), [next](02_gpt2_from_scratch.ipynb).")
    notebook = new_notebook(cells=[new_markdown_cell(text),
                                  new_code_cell("plot()\nx = 1", outputs=[picture])])
    nbformat.write(notebook, run / "01_data_analysis.ipynb")
    (run / "01_data_analysis").mkdir()
    (run / "01_data_analysis" / "metrics.json").write_text(json.dumps({
        "recipe": "tiny", "metrics": {"good": 0.5, "bad": 3.0, "free": 7},
        "expected": {"good": [0, 1], "bad": [None, 1]}}))
    (run / "run.json").write_text(json.dumps({"lessons": [
        {"lesson": "01_data_analysis", "status": "ok", "seconds": 61.0, "peak_memory_gb": 1.2, "error": ""},
        {"lesson": "02_gpt2_from_scratch", "status": "kernel died", "seconds": 3.0, "peak_memory_gb": 1.0,
         "error": "<b>boom</b>"}]}))
    return build_site(run, tmp_path_factory.mktemp("out") / "site").parent


def test_index_tells_what_ran_and_what_was_measured(site):
    index = (site / "index.html").read_text()
    assert "1 of 2 notebooks ran through, 1.1 minutes together" in index
    assert "One fine lesson" in index and "recipe tiny" in index and "61 s" in index
    assert '<td class="ok">yes</td>' in index and '<td class="bad">NO</td>' in index
    assert "at most 1" in index


def test_a_failed_lesson_shows_its_error_escaped(site):
    index = (site / "index.html").read_text()
    assert "kernel died" in index and "&lt;b&gt;boom" in index and "<b>boom" not in index


def test_pictures_are_files_and_every_link_leads_somewhere(site):
    index = (site / "index.html").read_text()
    links = re.findall(r'(?:href|src)="([^"]+)"', index)
    assert "pictures/01_data_analysis-1.png" in links
    assert all((site / link).exists() for link in links)
    assert (site / "pictures" / "01_data_analysis-1.png").read_bytes() == base64.b64decode(DOT)


def test_pages_fetch_nothing(site):
    for page in site.glob("*.html"):
        text = page.read_text()
        tags = r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//'
        imports = r'(?:import\(?|from)\s*["\']https?://|@import url\(["\']?https?://'
        assert not re.search(f"{tags}|{imports}", text), page.name


def test_formulas_are_drawn_and_what_cannot_be_is_shown_as_code(site):
    page = (site / "01_data_analysis.html").read_text()
    assert 'aria-label="x^2"' in page and "currentColor" in page and "#123456" not in page
    assert "<code>\\begin{matrix}1\\end{matrix}</code>" in page
    assert "<code>a $b$ c</code>" in page, "a dollar in code is no formula"


def test_links_between_notebooks_lead_to_pages(site):
    page = (site / "01_data_analysis.html").read_text()
    assert 'href="01_data_analysis.html"' in page and ".ipynb" not in page
    assert 'title="not in this run">next</a>' in page


def test_only_an_older_report_is_replaced(tmp_path):
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    precious.mkdir()
    (run / "run.json").write_text('{"lessons": []}')
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no older report and not empty"):
        build_site(run, precious)
    assert [f.name for f in precious.iterdir()] == ["thesis.txt"]
    assert build_site(run, tmp_path / "site") == build_site(run, tmp_path / "site")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run\.json"):
        build_site(tmp_path, tmp_path / "site")
