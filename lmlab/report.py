"""``lmlab report``: executed notebooks as a static site that opens from disk, with nothing fetched from outside."""

import base64
import html
import json
import shutil
from pathlib import Path

from lmlab.results import expectation_table

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --ok: #1a7f37; --bad: #c62828; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin: 0 0 .4rem; } a { color: inherit; }
section { border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem; margin: 1.2rem 0; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .92rem; }
td, th { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; }
.scroll { overflow-x: auto; } .ok { color: var(--ok); } .bad { color: var(--bad); font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem; }
.pictures img { max-width: 100%; height: 13rem; background: white; border-radius: 6px; border: 1px solid var(--line); }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: 6px; font-size: .85rem; }
.facts { opacity: .8; }
"""
PICTURES_ON_INDEX = 3


def build_site(run_dir: Path, site: Path) -> Path:
    """Renders the notebooks of one run; returns the path of index.html.

    run_dir: a folder that ``lmlab run`` made. site: is replaced.
    Raises FileNotFoundError when run_dir holds no run.
    """
    record_file = run_dir / "run.json"
    if not record_file.exists():
        raise FileNotFoundError(f"{run_dir} holds no run.json; give a folder that lmlab run made")
    lessons = json.loads(record_file.read_text(encoding="utf-8"))["lessons"]
    fresh = site.with_name(site.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "pictures").mkdir(parents=True)
    sections = [_lesson_section(entry, run_dir, fresh) for entry in lessons]
    (fresh / "index.html").write_text(_page(run_dir.name, lessons, sections), encoding="utf-8")
    shutil.rmtree(site, ignore_errors=True)
    fresh.rename(site)
    return site / "index.html"


def render_notebook(notebook: dict, title: str) -> str:
    """One executed notebook as a page by nbconvert, with formulas as text and no script from a network."""
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab")
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = exporter.widget_renderer_url = ""
    node = nbformat.from_dict(notebook)
    node.metadata.pop("widgets", None)
    body, _ = exporter.from_notebook_node(node, resources={"metadata": {"name": title}})
    return _without_remote_scripts(body)


def _without_remote_scripts(page: str) -> str:
    """nbconvert's template names CDNs for MathJax, RequireJS and Mermaid; a page on disk must do without."""
    import re

    page = re.sub(r'<script[^>]*\bsrc="[^"]*"[^>]*>\s*</script>', "", page)
    page = re.sub(r'<script type="module">.*?</script>', "", page, flags=re.DOTALL)
    return re.sub(r'<link[^>]*href="https?://[^"]*"[^>]*>', "", page)


def _lesson_section(entry: dict, run_dir: Path, site: Path) -> str:
    lesson, executed = entry["lesson"], run_dir / f"{entry['lesson']}.ipynb"
    title, pictures, link = lesson, [], html.escape(lesson)
    if executed.exists():
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        title = _title(notebook) or lesson
        (site / f"{lesson}.html").write_text(render_notebook(notebook, title), encoding="utf-8")
        pictures = _save_pictures(notebook, lesson, site / "pictures")
        link = f'<a href="{lesson}.html">{html.escape(title)}</a>'
    return (f"<section><h2>{link}</h2>{_facts(entry, run_dir)}{_metrics(run_dir / lesson / 'metrics.json')}"
            f'<div class="pictures">{"".join(_image(p, title) for p in pictures[:PICTURES_ON_INDEX])}</div>'
            f"{_error(entry)}</section>")


def _facts(entry: dict, run_dir: Path) -> str:
    mark = "ok" if entry["status"] == "ok" else "bad"
    metrics = run_dir / entry["lesson"] / "metrics.json"
    recipe = json.loads(metrics.read_text(encoding="utf-8"))["recipe"] if metrics.exists() else "?"
    return (f'<p class="facts"><span class="{mark}">{entry["status"]}</span> · recipe {html.escape(recipe)} · '
            f'{entry["seconds"]:.0f} s · peak memory {entry["peak_memory_gb"]:.1f} GiB</p>')


def _metrics(path: Path) -> str:
    if not path.exists():
        return "<p>No metrics were written.</p>"
    record = json.loads(path.read_text(encoding="utf-8"))
    table = expectation_table(record["metrics"], record["expected"])._repr_html_()
    table = table.replace("<td>NO</td>", '<td class="bad">NO</td>').replace("<td>yes</td>", '<td class="ok">yes</td>')
    return f'<div class="scroll">{table}</div>'


def _error(entry: dict) -> str:
    return f"<pre>{html.escape(entry['error'])}</pre>" if entry["error"] else ""


def _title(notebook: dict) -> str | None:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            first = "".join(cell["source"]).splitlines()[0]
            return first.lstrip("# ").strip()
    return None


def _save_pictures(notebook: dict, lesson: str, folder: Path) -> list[str]:
    """Writes every PNG output of a notebook; returns their paths from the site's top."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    encoded = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    for number, data in enumerate(encoded, 1):
        (folder / f"{lesson}-{number}.png").write_bytes(base64.b64decode("".join(data)))
    return [f"pictures/{lesson}-{number}.png" for number in range(1, len(encoded) + 1)]


def _image(path: str, title: str) -> str:
    return f'<a href="{path}"><img src="{path}" alt="{html.escape(title)}"></a>'


def _page(name: str, lessons: list[dict], sections: list[str]) -> str:
    good = sum(entry["status"] == "ok" for entry in lessons)
    seconds = sum(entry["seconds"] for entry in lessons)
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lmlab report</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
            f"<h1>lmlab: run {html.escape(name)}</h1><p>{good} of {len(lessons)} notebooks ran through, "
            f"{seconds / 60:.1f} minutes together.</p>{''.join(sections)}</body></html>")
