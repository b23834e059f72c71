"""``lmlab report``: executed notebooks as a static site that opens from disk and fetches nothing."""

import base64
import functools
import html
import io
import json
import re
import shutil
from pathlib import Path

from lmlab.results import Expectations, expectation_table

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2433; --line: #8883; --soft: #8881;
  --link: #0b5cad; --ok: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171d; --ink: #d9dee7; --link: #7db7ff;
  --ok: #57c878; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin: 1.6rem 0 .4rem; } a { color: var(--link); }
section { border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem; margin: 1.2rem 0; }
section h2 { margin-top: 0; }
nav { display: flex; justify-content: space-between; gap: 1rem; font-size: .92rem; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .92rem; }
td, th { padding: .25rem .9rem .25rem 0; border: 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
.scroll, .output_subarea { overflow-x: auto; }
.ok { color: var(--ok); } .bad { color: var(--bad); font-weight: 600; }
details { margin: .4rem 0 .8rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem; }
.pictures img { max-width: 100%; max-height: 15rem; }
img { max-width: 100%; height: auto; background: white; border-radius: 6px; }
pre, code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .86rem; }
pre { line-height: 1.45; margin: 0; padding: .7rem .9rem; overflow-x: auto; }
section pre, .highlight { background: var(--soft); border-radius: 6px; }
:not(pre) > code { background: var(--soft);
  border-radius: 4px; padding: .1em .3em; }
.facts { opacity: .8; } .prompt, .anchor-link { display: none; } .cell { margin: .9rem 0; }
.input_area { border-left: 3px solid var(--line); }
.output_subarea { padding-left: .2rem; margin-top: .3rem; }
.output_stream pre, .output_text pre { white-space: pre-wrap; }
.output_stderr { opacity: .7; } .output_error pre { color: var(--bad); }
span.math { white-space: nowrap; } div.math { overflow-x: auto; text-align: center; margin: .4rem 0; }
svg { overflow: visible; }
"""
PICTURES_ON_INDEX = 3
INDEX_TITLE = "lmlab report"


def build_site(run_dir: Path, site: Path) -> Path:
    """Renders the notebooks of one run; returns the path of index.html.

    run_dir: a folder that ``lmlab run`` made. site: an older report there is replaced.
    Raises FileNotFoundError when run_dir holds no run, ValueError when site holds anything
    but a report.
    """
    record_file = run_dir / "run.json"
    if not record_file.exists():
        raise FileNotFoundError(f"{run_dir} holds no run.json; give a folder that lmlab run made")
    lessons = json.loads(record_file.read_text(encoding="utf-8"))["lessons"]
    _refuse_to_replace(site)
    fresh = site.with_name(site.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "pictures").mkdir(parents=True)
    sections = [_lesson_section(entry, run_dir, fresh, _links(number, lessons, run_dir))
                for number, entry in enumerate(lessons)]
    (fresh / "index.html").write_text(_index(run_dir.name, lessons, sections), encoding="utf-8")
    shutil.rmtree(site, ignore_errors=True)
    fresh.rename(site)
    return site / "index.html"


def _refuse_to_replace(site: Path) -> None:
    """ValueError for a folder that holds something else than a report: replacing it would delete that."""
    index = site / "index.html"
    page = index.read_text(encoding="utf-8", errors="replace") if index.is_file() else ""
    ours = f"<title>{INDEX_TITLE}</title>" in page
    if site.exists() and not ours and (site.is_file() or any(site.iterdir())):
        raise ValueError(f"--output got {site}, which is no older report and not empty; give a new folder")


def render_notebook(notebook, title: str, links: str = "") -> str:
    """One executed notebook as a page by nbconvert, formulas drawn as SVG, nothing fetched from a network.

    notebook: nbformat's NotebookNode. links: HTML that stands above and below the notebook.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", embed_images=True)
    exporter.register_filter("markdown2html", _markdown)
    body, _ = exporter.from_notebook_node(notebook)
    body = re.sub(r'<script[^>]*\bsrc="[^"]*"[^>]*>\s*</script>', "", body)  # a page on disk must do without
    return _page(title, f"<nav>{links}</nav>{body}<nav>{links}</nav>", _code_colours())


def _code_colours() -> str:
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return (f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"
            ".highlight { background: var(--soft) !important; }")


def _markdown(source: str) -> str:
    """A Markdown cell as HTML by nbconvert's own renderer, its formulas as SVG."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return f'<div class="math">{formula_svg(body, points=15)}</div>'

        def inline_math(self, body: str) -> str:
            return f'<span class="math">{formula_svg(body, points=13)}</span>'

    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)


@functools.cache
def formula_svg(tex: str, points: float) -> str:
    """A TeX formula as inline SVG in the colour of the text; as code where matplotlib cannot read it.

    points: size of the letters.
    """
    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    picture, colour = io.StringIO(), "#123456"  # a stand-in: matplotlib does not know currentColor
    try:
        with rc_context({"mathtext.fontset": "stix", "svg.fonttype": "path", "svg.hashsalt": tex,
                         "savefig.transparent": True}):
            depth = math_to_image(f"${' '.join(tex.split())}$", picture, FontProperties(size=points), dpi=72,
                                  format="svg", color=colour)
    except ValueError:
        return f"<code>{html.escape(tex.strip())}</code>"
    svg = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", picture.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg"):].strip().replace(colour, "currentColor")
    label = html.escape(tex.strip(), quote=True)
    named = f'<svg role="img" aria-label="{label}" style="vertical-align: {-depth:.1f}pt"'
    return svg.replace("<svg", named, 1)


def _lesson_section(entry: dict, run_dir: Path, site: Path, links: str) -> str:
    import nbformat

    lesson, executed = entry["lesson"], run_dir / f"{entry['lesson']}.ipynb"
    title, pictures, link = lesson, [], html.escape(lesson)
    if executed.exists():
        notebook = nbformat.read(executed, as_version=4)
        title = _title(notebook) or lesson
        page = _links_to_pages(render_notebook(notebook, title, links), run_dir)
        (site / f"{lesson}.html").write_text(page, encoding="utf-8")
        pictures = _save_pictures(notebook, lesson, site / "pictures")
        link = f'<a href="{lesson}.html">{html.escape(title)}</a>'
    return (f"<section><h2>{link}</h2>{_facts(entry, run_dir)}{_metrics(run_dir / lesson / 'metrics.json')}"
            f'<div class="pictures">{"".join(_image(p, title) for p in pictures[:PICTURES_ON_INDEX])}</div>'
            f"{_error(entry)}</section>")


def _links(number: int, lessons: list[dict], run_dir: Path) -> str:
    """To the lessons before and after, as far as they were executed, and to the index."""
    def link(at: int, text: str) -> str:
        lesson = lessons[at]["lesson"] if 0 <= at < len(lessons) else None
        executed = lesson and (run_dir / f"{lesson}.ipynb").exists()
        return f'<a href="{lesson}.html">{text.format(lesson)}</a>' if executed else "<span></span>"
    return f'{link(number - 1, "← {}")}<a href="index.html">all lessons</a>{link(number + 1, "{} →")}'


def _links_to_pages(page: str, run_dir: Path) -> str:
    """Links from notebook to notebook become links between pages; to one that did not run there is none."""
    def target(match: re.Match) -> str:
        executed = (run_dir / f"{match[1]}.ipynb").exists()
        return f'href="{match[1]}.html"' if executed else 'title="not in this run"'
    return re.sub(r'href="(?:\./)?([\w-]+)\.ipynb"', target, page)


def _facts(entry: dict, run_dir: Path) -> str:
    mark = "ok" if entry["status"] == "ok" else "bad"
    metrics = run_dir / entry["lesson"] / "metrics.json"
    recipe = entry.get("recipe", "?")
    if metrics.exists():
        recipe = json.loads(metrics.read_text(encoding="utf-8"))["recipe"]
    return (f'<p class="facts"><span class="{mark}">{entry["status"]}</span> · '
            f'recipe {html.escape(recipe)} · '
            f'{entry["seconds"]:.0f} s · peak memory {entry["peak_memory_gb"]:.1f} GiB</p>')


def _metrics(path: Path) -> str:
    if not path.exists():
        return "<p>No metrics were written.</p>"
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = expectation_table(record["metrics"], record["expected"]).rows
    expected, rest = rows[:len(record["expected"])], rows[len(record["expected"]):]
    table = "<p>Its recipe expects nothing in numbers.</p>"
    if expected:
        table = Expectations(expected)._repr_html_()
        table = table.replace("<td>NO</td>", '<td class="bad">NO</td>')
        table = table.replace("<td>yes</td>", '<td class="ok">yes</td>')
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
                    for name, _, value, _ in rest)
    more = f"<details><summary>more measurements</summary><table>{cells}</table></details>" if rest else ""
    return f'<div class="scroll">{table}{more}</div>'


def _error(entry: dict) -> str:
    return f"<pre>{html.escape(entry['error'])}</pre>" if entry["error"] else ""


def _title(notebook) -> str | None:
    headings = [cell["source"].splitlines()[0] for cell in notebook["cells"]
                if cell["cell_type"] == "markdown" and cell["source"].startswith("# ")]
    return headings[0].removeprefix("# ").strip() if headings else None


def _save_pictures(notebook, lesson: str, folder: Path) -> list[str]:
    """Writes every PNG output of a notebook; returns their paths from the site's top."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    encoded = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    for number, data in enumerate(encoded, 1):
        (folder / f"{lesson}-{number}.png").write_bytes(base64.b64decode("".join(data)))
    return [f"pictures/{lesson}-{number}.png" for number in range(1, len(encoded) + 1)]


def _image(path: str, title: str) -> str:
    return f'<a href="{path}"><img src="{path}" alt="a picture of {html.escape(title, quote=True)}"></a>'


def _index(name: str, lessons: list[dict], sections: list[str]) -> str:
    good = sum(entry["status"] == "ok" for entry in lessons)
    seconds = sum(entry["seconds"] for entry in lessons)
    return _page(INDEX_TITLE, f"<h1>lmlab: run {html.escape(name)}</h1>"
                 f"<p>{good} of {len(lessons)} notebooks ran through, "
                 f"{seconds / 60:.1f} minutes together.</p>{''.join(sections)}")


def _page(title: str, body: str, more_style: str = "") -> str:
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}{more_style}</style></head><body>{body}</body></html>\n")
