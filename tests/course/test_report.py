"""The report: complete, honest about failures, usable offline, on a phone, by keyboard and screen reader."""

import base64
import io
import json
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lmlab.course.mathml import formula
from lmlab.course.pages import markdown, render_notebook
from lmlab.course.report import Lesson, build_site
from lmlab.course.runner import Outcome

PROJECT = Path(__file__).resolve().parents[2]

WIDGET, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def picture(width: int, height: int) -> str:
    from matplotlib.image import imsave
    from numpy import full

    file = io.BytesIO()
    imsave(file, full((height, width, 3), width / 999), format="png")
    return base64.b64encode(file.getvalue()).decode()


WIDE, SQUARE = picture(300, 100), picture(100, 100)


def shown(**data):
    return new_output("display_data", data={key.replace("__", "/"): value for key, value in data.items()})


def first_notebook():
    text = (
        "# 01 · One fine lesson\nYou will see **something**. And then $x^2$! But this is the third.\n\n"
        "$$\\begin{matrix}1\\end{matrix}$$ and $\\left(x$, then `a $b$ c`.\n\n## Same name\n\n"
        "[This](01_data_analysis.ipynb), [next](02_gpt2_from_scratch.ipynb), [file](../recipes/x.yaml).\n\n"
        "[![Open it](https://x.org/badge.svg)](https://x.org/open)"
    )
    plot = 'ax.set(xlabel="steps", ylabel="loss (nats)", title=f"after {n} steps")'
    long = "word = " + " + ".join(["a_long_name"] * 20)
    view = {WIDGET: {"model_id": "box"}, "text/plain": "interactive(children=(FloatSlider(value=1.0),))"}
    return new_notebook(
        cells=[
            new_markdown_cell(text),
            new_code_cell('recipe = "default"', metadata={"tags": ["parameters"]}),
            new_code_cell('recipe = "of the run"', metadata={"tags": ["injected-parameters"]}),
            new_code_cell(plot, outputs=[shown(image__png=WIDE)]),
            new_markdown_cell("## Same name\n\nOne zebra.\n\n| a | b |\n|---|---|\n| " + "x" * 90 + " | y |"),
            new_code_cell(
                long,
                outputs=[
                    new_output("display_data", data=view),
                    shown(image__png=SQUARE),
                    shown(text__html="<table><tr><td>" + "y" * 90 + "</td></tr></table>"),
                ],
            ),
        ]
    )


def make_run(run, good, settings):
    """A run of three lessons: one with all there is, one that died, one with text only."""
    run.mkdir()
    notebook = first_notebook()
    saved = new_output("stream", text=f"saved in {run}/01_data_analysis/model")
    notebook.cells.append(new_code_cell("print(saved)", outputs=[saved]))
    nbformat.write(notebook, run / "01_data_analysis.ipynb")
    short = new_markdown_cell("# 03 · Another\nIt has text.\n\n## An okapi\n\nNo more.")
    nbformat.write(new_notebook(cells=[short]), run / "03_hellaswag.ipynb")
    out = run / "01_data_analysis"
    out.mkdir()
    (out / "metrics.json").write_text(
        json.dumps(
            {
                "recipe": "tiny",
                "metrics": {"good": good, "bad": 3.0, "free": 7},
                "settings": settings,
                "expected": {"good": [0, 1], "bad": [None, 1]},
            }
        )
    )
    record = {"status": "ok", "seconds": 61.0, "peak_memory_gb": 1.2, "error": "", "recipe": "tiny"}
    (run / "run.json").write_text(
        json.dumps(
            {
                "lessons": [
                    {**record, "lesson": "01_data_analysis"},
                    {
                        **record,
                        "lesson": "02_gpt2_from_scratch",
                        "status": "kernel died",
                        "seconds": 3.0,
                        "error": "<b>boom</b>",
                    },
                    {**record, "lesson": "03_hellaswag", "seconds": 2.0},
                ]
            }
        )
    )
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return (
        make_run(folder / "calm", 0.5, {"learning_rate": 0.001, "seed": 0}),
        make_run(folder / "hasty", 0.75, {"learning_rate": 0.01, "seed": 0}),
    )


@pytest.fixture(scope="module")
def site(runs, tmp_path_factory):
    return build_site(runs[0], tmp_path_factory.mktemp("out") / "site", runs[1]).parent


def soup(site, name):
    return BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def test_index_tells_what_ran_what_was_promised_and_what_was_measured(site):
    index = soup(site, "index")
    words = " ".join(index.get_text(" ", strip=True).split())
    assert "2 of 3 notebooks ran through" in words and "1 of 2 metrics are inside" in words
    card = index.find(id="01_data_analysis")
    assert card.select_one(".promise").get_text().startswith("You will see something. And then")
    assert "the third" not in card.select_one(".promise").get_text()
    assert "recipe tiny" in card.get_text(" ", strip=True) and "61 s" in card.get_text()
    rows = [
        [cell.get_text() for cell in row.find_all(["th", "td"])] for row in card.select(".bands tbody tr")
    ]
    assert rows == [["good", "0 to 1", "0.5", "✓ inside"], ["bad", "at most 1", "3", "✗ outside"]]
    assert "learning rate" in card.get_text(), "the recipe's values are there to unfold"


def test_result_and_samples_are_what_the_marked_cells_print(tmp_path):
    (tmp_path / "figures").mkdir()
    texts = {"result": "a table\nThe loss fell by <b>half</b>.\n", "sample": "before: x\nafter: y\n"}
    cells = [
        new_code_cell("", metadata={"tags": [tag]}, outputs=[new_output("stream", text=text)])
        for tag, text in texts.items()
    ]
    page = render_notebook(new_notebook(cells=cells), "x", tmp_path)
    assert Lesson(Outcome("x", "ok", 1.0, 1.0), None, page).result == "The loss fell by <b>half</b>."
    assert page.sample == "before: x\nafter: y"


def test_guides_are_pages_of_the_site(site):
    menu = [link["href"] for link in soup(site, "index").select("header .menu a")]
    assert {"01_data_analysis.html", "finetuning_guide.html", "glossary.html"} <= set(menu)
    guide = soup(site, "finetuning_guide")
    assert guide.find("a", href="quick_start.html") and guide.select("article h2")


def test_a_failed_lesson_shows_its_error_escaped(site):
    card = soup(site, "index").find(id="02_gpt2_from_scratch")
    assert "kernel died" in card.get_text() and card.pre.get_text() == "<b>boom</b>"


def test_the_cover_is_the_marked_figure_or_the_last(tmp_path):
    (tmp_path / "figures").mkdir()
    outcome = Outcome("01_data_analysis", "ok", 1.0, 1.0)
    cells = [new_code_cell("", outputs=[shown(image__png=data)]) for data in (SQUARE, WIDE)]
    for number, tags in ((2, []), (1, ["cover"])):
        cells[0].metadata["tags"] = tags
        page = render_notebook(new_notebook(cells=cells), "x", tmp_path)
        assert Lesson(outcome, None, page).cover.path == f"figures/x-{number}.png"
    assert Lesson(outcome, None, None).cover is None


def test_every_link_and_anchor_leads_somewhere(site):
    for file in site.glob("*.html"):
        page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
        for tag in page.find_all(["a", "img", "link", "script"]):
            target = tag.get("href") or tag.get("src") or ""
            if target.startswith(("data:", "http")) or not target:
                continue
            path, _, anchor = target.partition("#")
            assert (site / path).exists(), f"{file.name}: {target}"
            there = soup(site, path.removesuffix(".html")) if anchor and path else page
            assert not anchor or there.find(id=unquote(anchor)), f"{file.name}: {target}"
    page = soup(site, "01_data_analysis")
    assert page.find("a", string="This")["href"] == "01_data_analysis.html"
    missing = page.find("a", string="next")
    assert missing["title"] == "not in this run" and not missing.get("href")
    assert not page.find("a", string="file").get("href"), "a file outside the site"


def test_every_picture_says_what_it_shows(site):
    for file in site.glob("*.html"):
        for tag in BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser").find_all("img"):
            assert len(tag.get("alt", "")) > 10, f"{file.name}: {tag}"
    first, second = [tag["alt"] for tag in soup(site, "01_data_analysis").find_all("img")]
    assert first == "Plot under “Same name”. x axis: steps. y axis: loss (nats). after … steps"
    assert (site / "figures" / "01_data_analysis-1.png").read_bytes() == base64.b64decode(WIDE)


def test_pages_fetch_nothing(site):
    for file in site.iterdir():
        if file.suffix not in (".html", ".js", ".css"):
            continue
        text = file.read_text(encoding="utf-8")
        tags = r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//'
        imports = r'(?:import\(?|from)\s*["\']https?://|@import url\(["\']?https?://|url\(["\']?https?://'
        assert not re.search(f"{tags}|{imports}", text), file.name


def test_a_widget_which_only_lives_in_jupyter_leaves_nothing(site):
    page = soup(site, "01_data_analysis").get_text()
    assert "interactive(children" not in page and "widget-view" not in page


def test_the_parameters_of_the_run_stand_alone(site):
    page = soup(site, "01_data_analysis").get_text()
    assert 'recipe = "of the run"' in page and 'recipe = "default"' not in page


def test_formulas_are_mathml_and_what_cannot_be_is_shown_as_code(site):
    page = soup(site, "01_data_analysis")
    inline = page.find("span", class_="math").math
    assert inline["alttext"] == "x^2" and [tag.name for tag in inline.msup.find_all(True)] == ["mi", "mn"]
    assert page.find("div", class_="math").math["display"] == "block"
    assert "\\left(x" in [code.get_text() for code in page.select(".math code")], "no MathML, so its TeX"
    assert "a $b$ c" in [code.get_text() for code in page.find_all("code")], "a dollar in code is no formula"


@pytest.mark.parametrize("path", sorted((PROJECT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_the_course_is_mathml(path):
    cells = nbformat.read(path, as_version=4)["cells"]
    for cell in cells:
        if cell["cell_type"] == "markdown":
            assert not re.findall(r'class="math"><code>.*?</code>', markdown(cell["source"]))


@pytest.mark.parametrize(
    "tex, elements",
    [
        (r"\frac{a}{b}", ["mfrac", "mi", "mi"]),
        (r"\sqrt{x_1}", ["msqrt", "msub", "mi", "mn"]),
        (r"\sum_{i=1}^n p_i \ln \frac{p_i}{q_i}", ["munderover", "mfrac"]),
        (r"\hat{\theta} \le \begin{matrix} 1 & 2 \\ 3 & 4 \end{matrix}", ["mover", "mtable", "mtd"]),
    ],
)
def test_formulas_have_the_elements_of_mathml(tex, elements):
    names = [tag.name for tag in BeautifulSoup(formula(tex, block=True), "html.parser").find_all(True)]
    assert [name for name in names if name in elements][: len(elements)] == elements or set(elements) <= set(
        names
    )


@pytest.mark.parametrize("tex", [r"\left(x", r"\nosuchcommand{x}", "x^", "", "{" * 3000 + "x" + "}" * 3000])
def test_what_is_no_formula_stays_as_it_was_written(tex):
    shown = BeautifulSoup(formula(tex), "html.parser")
    assert shown.get_text() == tex and [tag.name for tag in shown.find_all(True)] == ["code"]


def test_only_an_older_report_is_replaced(tmp_path):
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    precious.mkdir()
    (run / "run.json").write_text('{"lessons": []}')
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="thesis.txt"):
        build_site(run, precious)
    assert [f.name for f in precious.iterdir()] == ["thesis.txt"]
    assert build_site(run, tmp_path / "site") == build_site(run, tmp_path / "site")


def test_a_folder_without_a_run_is_refused(tmp_path, runs):
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        build_site(tmp_path, tmp_path / "site")
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        build_site(runs[0], tmp_path / "site", tmp_path)


# two runs ---------------------------------------------------------------------------------------------------


def test_no_page_names_a_folder_of_this_machine(site, runs):
    """What a notebook printed of its run's folder is shortened: a site is made to be shown."""
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*") if path.suffix in (".html", ".js")]
    assert f"saved in {runs[0].name}/01" in "".join(pages)
    assert not any(str(run.resolve()) in page for page in pages for run in runs)


def test_a_comparison_shows_the_metrics_their_bands_and_the_differences(site):
    section = soup(site, "comparison").find(id="01_data_analysis")
    metrics, settings = section.find_all("table", class_="numbers")
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in metrics.select("tbody tr")]
    assert rows == [
        ["seconds", "", "–", "–", ""],
        ["good", "0 to 1", "0.5", "0.75", "+0.25 (+50.0%)"],
        ["bad", "at most 1", "3", "3", ""],
        ["free", "", "7", "7", ""],
    ]
    assert settings.tbody.get_text("|", strip=True) == "learning_|rate|0.001|0.01", "may break there"


# in a browser -----------------------------------------------------------------------------------------------


def address(site, name):
    return (site / name).as_uri()


def pages_of(site):
    return sorted(file.name for file in site.glob("*.html"))


def test_pages_load_quietly_and_ask_no_network(site, page):
    for name in pages_of(site):
        page.requests.clear()
        page.open(address(site, name))
        assert page.errors == [], name
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == [], name


def test_nothing_sticks_out_of_a_phone(site, page):
    page.size(390, 844)
    for name in pages_of(site):
        page.open(address(site, name))
        width = page.js("document.documentElement.scrollWidth")
        assert width <= 390, f"{name} is {width} px wide"
        assert page.js("innerWidth") == 390
    page.size(1280, 900)


def luminance(page, of):
    """Relative luminance (WCAG) of a computed colour."""
    parts = page.js(f"getComputedStyle(document.body).{of}.match(/[\\d.]+/g).map(Number)")[:3]
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_dark_follows_the_system_and_the_toggle_is_remembered(site, page):
    page.size(1280, 900, dark=True)
    page.open(address(site, "index.html"))
    dark, ink = luminance(page, "backgroundColor"), luminance(page, "color")
    assert dark < 0.05 and (ink + 0.05) / (dark + 0.05) > 7
    assert page.js("document.getElementById('theme').getAttribute('aria-pressed')") == "true"
    page.js("document.getElementById('theme').click(); return 1")
    light, ink = luminance(page, "backgroundColor"), luminance(page, "color")
    assert light > 0.8 and (light + 0.05) / (ink + 0.05) > 7
    page.open(address(site, "01_data_analysis.html"))
    assert luminance(page, "backgroundColor") == light, "another page remembers it"
    page.js("localStorage.clear(); return 1")
    page.size(1280, 900)


CONTRASTS = """
const luminance = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = element => {
  const colour = getComputedStyle(element).backgroundColor;
  return /^rgb\\(/.test(colour) || !element.parentElement ? colour : ground(element.parentElement);
};
const poor = [];
for (const element of document.querySelectorAll("body, body *:not(svg *)")) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!own || !element.getClientRects().length) continue;
  const pair = [getComputedStyle(element).color, ground(element)].map(luminance).sort((a, b) => b - a);
  const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (ratio < 4.5) poor.push(`${element.tagName}.${element.className} ${element.textContent} ${ratio}`);
}
return poor;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out_from_its_ground(site, page, dark):
    """4.5 to 1, as WCAG 2 asks for (AA)."""
    page.size(1280, 900, dark)
    for name in pages_of(site):
        page.open(address(site, name))
        page.js("document.querySelectorAll('details').forEach(d => { d.open = true; }); return 1")
        assert page.js(CONTRASTS) == [], name
    page.size(1280, 900)


def test_contents_stay_beside_the_text_and_follow_it(site, page):
    page.size(1280, 500)
    page.open(address(site, "01_data_analysis.html"))
    page.js("document.getElementById('same-name').scrollIntoView({behavior: 'instant'}); return 1")
    page.wait_for("document.querySelector('.contents [aria-current]')?.hash === '#same-name'")
    beside = page.js(
        "const [box, text] = ['.contents', 'article'].map(name =>"
        " document.querySelector(name).getBoundingClientRect());"
        "return [box.top, box.right, text.left]"
    )
    assert 0 < beside[0] < 200 and beside[1] < beside[2]
    page.size(390, 844)
    page.open(address(site, "01_data_analysis.html"))
    assert page.js("document.querySelector('.contents').open") is False, "on a phone it is folded"
    page.size(1280, 900)
