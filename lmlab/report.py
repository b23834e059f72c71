"""``lmlab report``: executed notebooks as a static site that opens from disk and fetches nothing."""

import html
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lmlab import __version__
from lmlab.comparison import compare_lesson
from lmlab.pages import WEB, NotebookPage, Picture, page, plain_text, render_notebook
from lmlab.results import expectation_table, inside

INDEX_TITLE = "lmlab report"
ABOUT = ("A notebook course that trains, measures, fine-tunes and ships language models, on whatever machine "
         "there is. This page shows one run of it: what each lesson promised, and what came out.")
_VERDICTS = {"yes": "✓<span> inside</span>", "NO": "✗<span> outside</span>"}  # a phone has room for the sign


@dataclass
class Lesson:
    """What one run left of a lesson."""

    name: str
    outcome: dict  # of run.json
    record: dict | None  # metrics.json
    page: NotebookPage | None  # None when it was not executed

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def title(self) -> str:
        """Without its number."""
        title = self.page.title if self.page and self.page.title else self.name[3:].replace("_", " ")
        return re.sub(r"^\d+\s*·\s*", "", title)

    @property
    def recipe(self) -> str:
        return self.record["recipe"] if self.record else self.outcome.get("recipe") or "?"


def build_site(run_dir: Path, site: Path, other: Path | None = None) -> Path:
    """Renders the notebooks of one run, and compares it with another; returns the path of index.html.

    run_dir, other: folders that ``lmlab run`` made. site: an older report there is replaced.
    Raises FileNotFoundError when one holds no run, ValueError when site holds anything but a report.
    """
    outcomes = [_outcomes(run) for run in (run_dir, other) if run]
    _refuse_to_replace(site)
    fresh = site.with_name(site.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(WEB, fresh)
    (fresh / "pictures").mkdir()
    lessons = [_read_lesson(outcome, run_dir, fresh) for outcome in outcomes[0]]
    _write_pages(fresh, run_dir, lessons, _menu(lessons, bool(other)))
    if other:
        names = {outcome["lesson"] for outcome in outcomes[1]}
        _write_comparison(fresh, (run_dir, other), [lesson for lesson in lessons if lesson.name in names],
                          _menu(lessons, True))
    shutil.rmtree(site, ignore_errors=True)
    fresh.rename(site)
    return site / "index.html"


def _outcomes(run_dir: Path) -> list[dict]:
    record_file = run_dir / "run.json"
    if not record_file.exists():
        raise FileNotFoundError(f"{run_dir} holds no run.json; give a folder that lmlab run made")
    return json.loads(record_file.read_text(encoding="utf-8"))["lessons"]


def _refuse_to_replace(site: Path) -> None:
    """ValueError for a folder that holds something else than a report: replacing it would delete that."""
    index = site / "index.html"
    text = index.read_text(encoding="utf-8", errors="replace") if index.is_file() else ""
    ours = f"<title>{INDEX_TITLE}</title>" in text
    if site.exists() and not ours and (site.is_file() or any(site.iterdir())):
        raise ValueError(f"--output got {site}, which is no older report and not empty; give a new folder")


def _read_lesson(outcome: dict, run_dir: Path, site: Path) -> Lesson:
    import nbformat

    name = outcome["lesson"]
    executed, metrics = run_dir / f"{name}.ipynb", run_dir / name / "metrics.json"
    record = json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else None
    notebook = None
    if executed.exists():  # what is shown to others names no folder of this machine
        text = executed.read_text(encoding="utf-8").replace(json.dumps(str(run_dir.resolve()))[1:-1], run_dir.name)
        notebook = nbformat.reads(text, as_version=4)
    return Lesson(name, outcome, record, notebook and render_notebook(notebook, name, site))


def _menu(lessons: list[Lesson], compared: bool) -> str:
    numbers = "".join(f'<a class="number" href="{lesson.name}.html" '
                      f'title="{html.escape(lesson.title, quote=True)}">{lesson.number}</a>'
                      for lesson in lessons if lesson.page)
    return f'{numbers}{"<a href=comparison.html>Comparison</a>" if compared else ""}'


def _write(site: Path, name: str, title: str, body: str, menu: str) -> None:
    (site / f"{name}.html").write_text(page(title, body, menu), encoding="utf-8")


def _write_pages(site: Path, run_dir: Path, lessons: list[Lesson], menu: str) -> None:
    _write(site, "index", INDEX_TITLE, _index(run_dir.resolve().name, lessons), menu)
    executed = [lesson for lesson in lessons if lesson.page]
    for at, lesson in enumerate(executed):
        around = executed[at - 1] if at else None, executed[at + 1] if at + 1 < len(executed) else None
        title = f"{lesson.number} · {lesson.title}"
        _write(site, lesson.name, title, _lesson_page(lesson, *around, run_dir), menu)
    _write(site, "search", "Search", SEARCH, menu)
    (site / "search-index.js").write_text(f"const SECTIONS = {_sections(lessons)};\n", encoding="utf-8")


def _write_comparison(site: Path, runs: tuple[Path, Path], shared: list[Lesson], menu: str) -> None:
    """shared: the lessons that both runs hold."""
    names = tuple(run.resolve().name for run in runs)
    if len(set(names)) == 1:
        names = tuple("/".join(run.resolve().parts[-2:]) for run in runs)
    _write(site, "comparison", "Comparison", _comparison_index(shared, names), menu)
    for lesson in shared:
        body = _comparison_head(lesson, shared) + compare_lesson(lesson.name, runs, names)
        _write(site, f"comparison-{lesson.name}", f"Comparison: {lesson.title}", body, menu)


# the index --------------------------------------------------------------------------------------------------

def _index(run: str, lessons: list[Lesson]) -> str:
    steps = "".join(f'<li class="{_mark(lesson)}"><a href="#{lesson.name}"><b>{lesson.number}</b>'
                    f"<span>{html.escape(lesson.title)}</span></a></li>" for lesson in lessons)
    cards = "".join(_card(lesson) for lesson in lessons)
    return (f'<section class="hero"><p class="kicker">Run <span class="name">{html.escape(run)}</span></p>'
            f"<h1>The whole life of a language model</h1><p class='lead'>{ABOUT}</p>{_summary(lessons)}"
            f'</section><nav aria-label="Lessons" class="line"><ol>{steps}</ol></nav>{cards}'
            f'<footer><p>Made by <code>lmlab report</code>, version {__version__}.</p></footer>')


def _mark(lesson: Lesson) -> str:
    return "ok" if lesson.outcome["status"] == "ok" else "bad"


def _summary(lessons: list[Lesson]) -> str:
    good = sum(lesson.outcome["status"] == "ok" for lesson in lessons)
    seconds = sum(lesson.outcome["seconds"] for lesson in lessons)
    memory = max((lesson.outcome["peak_memory_gb"] for lesson in lessons), default=0)
    bands = [inside(lesson.record["metrics"][name], band) for lesson in lessons if lesson.record
             for name, band in lesson.record["expected"].items()]
    facts = [(f"{good} of {len(lessons)}", "notebooks ran through"),
             (f"{seconds / 60:.1f}", "minutes together"), (f"{memory:.1f} GiB", "of memory at the peak"),
             (f"{sum(bands)} of {len(bands)}" if bands else "no", "expectations met")]
    return f'<ul class="facts">{"".join(f"<li><b>{value}</b> {what}</li>" for value, what in facts)}</ul>'


def _card(lesson: Lesson) -> str:
    title = html.escape(lesson.title)
    link = f'<a href="{lesson.name}.html">{title}</a>' if lesson.page else title
    promise = lesson.page.promise if lesson.page else ""
    outcome = lesson.outcome
    status = "" if outcome["status"] == "ok" else f'<li class="bad">{html.escape(outcome["status"])}</li>'
    error = f'<pre class="error">{html.escape(outcome["error"])}</pre>' if outcome["error"] else ""
    cover = _cover(lesson.page.pictures) if lesson.page else None
    picture = (f'<a class="cover" href="{lesson.name}.html"><img src="{cover.path}" loading="lazy" '
               f'alt="{html.escape(cover.alt, quote=True)}" width="{cover.width}" height="{cover.height}">'
               "</a>"
               if cover else "")
    return (f'<section class="card" id="{lesson.name}"><div class="words">'
            f'<p class="kicker">Lesson {lesson.number}</p><h2>{link}</h2><div class="promise">{promise}</div>'
            f'<ul class="chips">{status}'
            f"<li>recipe <b>{html.escape(lesson.recipe)}</b></li><li>{outcome['seconds']:.0f} s</li>"
            f"<li>{outcome['peak_memory_gb']:.1f} GiB</li></ul></div>{picture}"
            f'<div class="results">{error}{_expectations(lesson)}</div></section>')


def _cover(pictures: list[Picture]) -> Picture | None:
    """The picture that stands for a lesson: the one marked by the cell tag ``cover``.

    Where none is: the widest beside its height, as it fills a card best; of equal ones the largest, then the
    last, as results come late.
    """
    marked = [picture for picture in pictures if picture.cover]
    legible = [picture for picture in pictures if picture.width <= 1500]  # a card shows it at about 600
    return max(marked or legible[::-1], key=lambda p: (round(2 * p.width / p.height), p.width),
               default=None)


def _expectations(lesson: Lesson) -> str:
    if not lesson.record:
        return "<p>No metrics were written.</p>"
    metrics, expected = lesson.record["metrics"], lesson.record["expected"]
    rows = expectation_table(metrics, expected).rows
    body = "".join(f"<tr><th scope='row'>{_words(name)}</th><td>{band}</td><td>{value}</td>"
                   f"<td>{_gauge(metrics[name], expected[name])}</td>"
                   f"<td class={'ok' if verdict == 'yes' else 'bad'}>{_VERDICTS[verdict]}</td></tr>"
                   for name, band, value, verdict in rows[:len(expected)])
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("", "expected", "measured", "", ""))
    table = (f'<div class="scroll"><table class="bands"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
             "</table></div>" if expected else "<p>Its recipe expects nothing in numbers.</p>")
    more = [(name, value) for name, _, value, _ in rows[len(expected):]]
    settings = [(name, str(value)) for name, value in lesson.record.get("settings", {}).items()]
    return table + _folded("more measurements", more) + _folded("the recipe's values", settings)


def _words(name: str) -> str:
    return html.escape(name.replace("_", " "))


def _folded(title: str, rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th scope='row'>{_words(name)}</th><td>{html.escape(value)}</td></tr>"
                    for name, value in rows)
    return (f'<details><summary>{title}</summary><div class="scroll"><table>{cells}</table></div></details>'
            if rows else "")


def _gauge(value: float, band: list) -> str:
    """A small picture of a band and of where the value lies; the words beside it say the same."""
    low, high = band
    scale = (high - low) / 60 if None not in (low, high) and high > low else \
        max(abs(v) for v in (low, high, value, 1e-9) if v is not None) / 60
    start = 20 if low is not None else 0
    end = start + (high - low) / scale if None not in (low, high) else (100 if high is None else 80)
    at = start + (value - low) / scale if low is not None else 80 - (high - value) / scale
    end = max(end, start + 2)  # a band of one value
    at = min(97.0, max(3.0, at))
    return (f'<svg class="gauge" viewBox="0 0 100 10" aria-hidden="true"><path class="all" d="M0 5H100"/>'
            f'<path class="band" d="M{start:.0f} 5H{end:.0f}"/><circle cx="{at:.1f}" cy="5" r="3.4"/></svg>')


# the other pages --------------------------------------------------------------------------------------------

SEARCH = """<section class="search"><h1>Search</h1><p id="count" role="status"></p><ol id="results"></ol>
<noscript><p>The search needs JavaScript.</p></noscript></section>
<script src="search-index.js"></script><script src="search.js"></script>"""


def _lesson_page(lesson: Lesson, before: Lesson | None, after: Lesson | None, run_dir: Path) -> str:
    entries = "".join(f'<li class="level{level}"><a href="#{anchor}">{text}</a></li>'
                      for level, text, anchor in lesson.page.headings[1:] if level <= 3)  # after the title
    around = "".join(f'<a rel="{rel}" href="{there.name}.html"><small>{word}</small>{there.number} · '
                     f"{html.escape(there.title)}</a>" if there else "<span></span>"
                     for rel, word, there in (("prev", "Before", before), ("next", "Next", after)))
    return (f'<div class="lesson"><details class="contents"><summary>In this lesson</summary><nav '
            f'aria-label="Headings"><ol>{entries}</ol></nav></details><article>'
            f"{_links_to_pages(lesson.page.body, run_dir)}"
            f"<nav class='around' aria-label='Other lessons'>{around}</nav></article></div>")


def _links_to_pages(body: str, run_dir: Path) -> str:
    """Links from notebook to notebook become links between pages; to a file that is not there, none."""
    def target(match: re.Match) -> str:
        executed = (run_dir / f"{match[1]}.ipynb").exists()
        return f'href="{match[1]}.html"' if executed else 'title="not in this run"'
    body = re.sub(r'href="(?:\./)?([\w-]+)\.ipynb"', target, body)
    return re.sub(r'href="(?!https?:|mailto:|#|[\w-]+\.html")[^"]*"', 'title="a file of the project"', body)


def _sections(lessons: list[Lesson]) -> str:
    """What the search looks through, as JSON: [page, lesson, heading, anchor, text] of every section."""
    found = []
    for lesson in lessons:
        name = f"{lesson.number} · {lesson.title}"
        if lesson.page:
            sections = _text_by_heading(lesson.page.body)
            found += [[f"{lesson.name}.html", name, *section] for section in sections]
        if lesson.record:
            measured = ", ".join(f"{name} {value}" for name, _, value, _ in
                                 expectation_table(lesson.record["metrics"], lesson.record["expected"]).rows)
            found.append(["index.html", name, "Expected and measured", lesson.name, measured])
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")


def _text_by_heading(body: str) -> list[list[str]]:
    """[heading, anchor, text] of each section of a notebook: prose and code, not what the code printed."""
    from bs4 import BeautifulSoup

    tree = BeautifulSoup(body, "html.parser")
    for aside in tree.select(".output_wrapper, .prompt"):
        aside.decompose()
    parts = re.split(r'(<h\d id="[^"]*">.*?</h\d>)', str(tree), flags=re.DOTALL)
    return [[plain_text(heading), re.search(r'id="([^"]*)"', heading)[1], plain_text(text)]
            for heading, text in zip(parts[1::2], parts[2::2], strict=True)]


def _comparison_index(shared: list[Lesson], names: tuple[str, str]) -> str:
    items = "".join(f'<li><a href="comparison-{lesson.name}.html"><b>{lesson.number}</b> '
                    f"{html.escape(lesson.title)}</a></li>" for lesson in shared)
    first, second = map(html.escape, names)
    return (f'<section class="hero"><p class="kicker">Comparison</p><h1>{first} <i>and</i> {second}</h1>'
            "<p class='lead'>The lessons that both runs hold: their curves on one plot, their measurements, "
            f"and where their recipes differ.</p></section><ol class='tiles'>{items}</ol>"
            + ("" if shared else "<p>The runs have no lesson in common.</p>"))


def _comparison_head(lesson: Lesson, shared: list[Lesson]) -> str:
    others = "".join(f'<a href="comparison-{there.name}.html" '
                     f'aria-current={"page" if there is lesson else "false"}>{there.number}</a>'
                     for there in shared)
    link = f' · <a href="{lesson.name}.html">the lesson</a>' if lesson.page else ""
    return (f'<p class="kicker"><a href="comparison.html">Comparison</a>{link}</p>'
            f'<h1>{html.escape(lesson.title)}</h1>'
            f'<nav class="switch" aria-label="Lessons compared">{others}</nav>')
