"""``lmlab report``: executed notebooks as a static site that opens from disk and fetches nothing."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lmlab import __version__
from lmlab.course.compare import compare_lesson
from lmlab.course.pages import Figure, NotebookPage, plain_text, render_notebook
from lmlab.course.records import own_file, read_metrics, read_outcomes
from lmlab.course.results import expectation_table, inside
from lmlab.course.runner import Outcome
from lmlab.course.templates import WEB, render
from lmlab.files import list_files, replace_folder, unlisted

LISTING = ".lmlab-site"  # a file in every site: the names of the files that the report wrote
COPIED = ("style.css", "site.js", "search.js")  # from lmlab/course/web
_LARGEST_COVER = 1500  # pixels wide; a card shows about 600 of them


class Expectation(NamedTuple):
    """A row of the table of a lesson's expectations."""

    name: str
    band: str
    value: str
    inside: bool


@dataclass
class Lesson:
    """What one run left of a lesson."""

    outcome: Outcome
    record: dict | None  # metrics.json
    page: NotebookPage | None  # None when it was not executed

    @property
    def name(self) -> str:
        """Such as "01_data_analysis"."""
        return self.outcome.lesson

    @property
    def number(self) -> str:
        """Such as "01"."""
        return self.name[:2]

    @property
    def title(self) -> str:
        """Without its number."""
        title = self.page.title if self.page and self.page.title else self.name[3:].replace("_", " ")
        return re.sub(r"^\d+\s*·\s*", "", title)

    @property
    def recipe(self) -> str:
        """The name of its recipe, "?" if no file has it."""
        return (self.record or {}).get("recipe") or self.outcome.recipe or "?"

    @property
    def expectations(self) -> list[Expectation]:
        """Each metric that its recipe expects something of, in a band."""
        metrics, expected = self.record["metrics"], self.record["expected"]
        rows = expectation_table(metrics, expected).rows[: len(expected)]
        return [Expectation(name, band, value, verdict == "yes") for name, band, value, verdict in rows]

    @property
    def more_measurements(self) -> list[tuple[str, str]]:
        """(name, value) of the other metrics."""
        expected = self.record["expected"]
        rows = expectation_table(self.record["metrics"], expected).rows[len(expected) :]
        return [(name, value) for name, _, value, _ in rows]

    @property
    def settings(self) -> list[tuple[str, object]]:
        """The recipe's keys and values."""
        return list(self.record.get("settings", {}).items())

    @property
    def cover(self) -> Figure | None:
        """The figure that stands for it."""
        return choose_cover(self.page.figures) if self.page else None


class Menu(NamedTuple):
    """What the head of every page links to."""

    lessons: list[Lesson]
    compared: bool


def build_site(run_dir: Path, site: Path, other: Path | None = None) -> Path:
    """Renders the notebooks of one run, and compares it with another.

    Args:
        run_dir: A folder that ``lmlab run`` made.
        site: Where the pages go; an older report there is replaced.
        other: A second run.

    Returns:
        Path of index.html.

    Raises:
        FileNotFoundError: A folder holds no run.
        ValueError: ``site`` holds anything but a report, or a run what ``lmlab run`` cannot have written.
    """
    # Both runs are read before anything is written.
    outcomes = read_outcomes(run_dir)
    other_outcomes = read_outcomes(other) if other else []
    executed = [o.lesson for o in outcomes if own_file(run_dir, f"{o.lesson}.ipynb").is_file()]
    with replace_site(site) as fresh:
        for name in COPIED:
            shutil.copyfile(WEB / name, fresh / name)
        (fresh / "figures").mkdir()
        lessons = [_read_lesson(outcome, run_dir, fresh, executed) for outcome in outcomes]
        menu = Menu(lessons, compared=bool(other))
        _write_pages(fresh, run_dir, menu)
        if other:
            names = {outcome.lesson for outcome in other_outcomes}
            shared = [lesson for lesson in lessons if lesson.name in names]
            _write_comparison(fresh, (run_dir, other), shared, menu)
    return site / "index.html"


@contextmanager
def replace_site(site: Path) -> Iterator[Path]:
    """An empty folder to fill, which then takes the place of an older report; if that fails, nothing changes.

    Raises:
        ValueError: ``site`` is a file, or a folder with files that no report wrote: they would be deleted.
    """
    with replace_folder(site, _check_site) as fresh:
        yield fresh
        list_files(fresh, LISTING)


def _check_site(site: Path) -> None:
    if not site.exists():
        return
    foreign = unlisted(site, LISTING) if site.is_dir() else [site.name]
    if foreign:
        raise ValueError(
            f"--output got {site}, where {foreign[0]} is not of a report and would be deleted; give a new folder, "
            "or move that away"
        )


def _read_lesson(outcome: Outcome, run_dir: Path, site: Path, executed: list[str]) -> Lesson:
    name = outcome.lesson
    record = read_metrics(run_dir, name)
    if name not in executed:
        return Lesson(outcome, record, None)
    path = run_dir / f"{name}.ipynb"
    try:
        return Lesson(outcome, record, render_notebook(_read_notebook(path, run_dir), name, site, executed))
    except Exception as error:  # it may be malformed anywhere, and what reads it was written for good ones
        raise ValueError(
            f"{path} cannot be shown, {type(error).__name__}: {error!s:.500}; run the lesson again, or take the "
            "notebook out of the run"
        ) from error


def _read_notebook(path: Path, run_dir: Path):
    """The notebook, with the path of the run's folder cut to its name: a site is made to be shown to others."""
    import nbformat

    text, folder = path.read_text(encoding="utf-8"), run_dir.resolve()
    for ascii_only in (True, False):  # JSON has two ways to write a name
        here = json.dumps(str(folder), ensure_ascii=ascii_only)[1:-1]
        name = json.dumps(folder.name, ensure_ascii=ascii_only)[1:-1]
        text = text.replace(here, name)
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    return notebook


# --- pages -----------------------------------------------------------------------------------------


def _write(site: Path, name: str, title: str, menu: Menu, template: str, **values) -> None:
    page = render(template, title=title, menu=menu, **values)
    # JSON may hold a lone surrogate, which UTF-8 cannot
    (site / f"{name}.html").write_text(page, encoding="utf-8", errors="replace")


def _write_pages(site: Path, run_dir: Path, menu: Menu) -> None:
    values = {"run": run_dir.resolve().name, "version": __version__, "facts": _facts(menu.lessons)}
    _write(site, "index", "lmlab report", menu, "index.html", **values)
    executed = [lesson for lesson in menu.lessons if lesson.page]
    for before, lesson, after in zip([None, *executed], executed, [*executed[1:], None], strict=False):
        title = f"{lesson.number} · {lesson.title}"
        _write(site, lesson.name, title, menu, "lesson.html", lesson=lesson, before=before, after=after)
    _write(site, "search", "Search", menu, "search.html")
    index = f"const SECTIONS = {_search_index(menu.lessons)};\n"
    (site / "search-index.js").write_text(index, encoding="utf-8", errors="replace")


def _write_comparison(site: Path, runs: tuple[Path, Path], shared: list[Lesson], menu: Menu) -> None:
    """shared: the lessons that both runs hold."""
    names = tuple(run.resolve().name for run in runs)
    if names[0] == names[1]:  # runs of two folders
        names = tuple("/".join(run.resolve().parts[-2:]) for run in runs)
    values = {"names": names, "shared": shared}
    _write(site, "comparison", "Comparison", menu, "comparison.html", **values)
    for lesson in shared:
        values |= {"lesson": lesson, "compared": compare_lesson(lesson.name, runs, names)}
        title = f"Comparison: {lesson.title}"
        _write(site, f"comparison-{lesson.name}", title, menu, "comparison_lesson.html", **values)


def _facts(lessons: list[Lesson]) -> list[tuple[str, str]]:
    """What the whole run comes to: a value, and what it is."""
    completed = sum(lesson.outcome.ok for lesson in lessons)
    seconds = sum(lesson.outcome.seconds for lesson in lessons)
    memory = max((lesson.outcome.peak_memory_gb for lesson in lessons), default=0)
    met = []
    for lesson in lessons:
        record = lesson.record or {"expected": {}}
        met += [inside(record["metrics"][name], band) for name, band in record["expected"].items()]
    return [
        (f"{completed} of {len(lessons)}", "notebooks ran through"),
        (f"{seconds / 60:.1f}", "minutes together"),
        (f"{memory:.1f} GiB", "of memory at the peak"),
        (f"{sum(met)} of {len(met)}" if met else "no", "expectations met"),
    ]


def choose_cover(figures: list[Figure]) -> Figure | None:
    """The figure that stands for a lesson: the one marked by the cell tag ``cover``.

    If none is: the widest for its height, as it fills a card best; of equal ones the largest, then the last,
    as results come late.
    """
    marked = [figure for figure in figures if figure.cover]
    legible = [figure for figure in figures if figure.width <= _LARGEST_COVER]
    candidates = marked or legible[::-1]  # max takes the first of equal ones, and that shall be the last
    return max(candidates, key=lambda f: (round(2 * f.width / f.height), f.width), default=None)


# --- the search ------------------------------------------------------------------------------------


def _search_index(lessons: list[Lesson]) -> str:
    """What the search looks through, as JSON: [page, lesson, heading, anchor, text] of every section."""
    sections = []
    for lesson in lessons:
        name = f"{lesson.number} · {lesson.title}"
        if lesson.page:
            for section in _text_by_heading(lesson.page.body):
                sections.append([f"{lesson.name}.html", name, *section])
        if lesson.record:
            rows = expectation_table(lesson.record["metrics"], lesson.record["expected"]).rows
            measured = ", ".join(f"{metric} {value}" for metric, _, value, _ in rows)
            sections.append(["index.html", name, "Expected and measured", lesson.name, measured])
    # no text may end the script that the index stands in
    return json.dumps(sections, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")


def _text_by_heading(body: str) -> list[list[str]]:
    """[heading, anchor, text] of each section of a notebook: prose and code, not what the code printed."""
    from bs4 import BeautifulSoup

    tree = BeautifulSoup(body, "html.parser")
    # Prose and code are searched; outputs would drown them.
    for aside in tree.select(".output_wrapper, .prompt"):
        aside.decompose()
    # re.split keeps what the group matched: text, heading, text, heading, text, ...
    parts = re.split(r'(<h\d id="[^"]*">.*?</h\d>)', str(tree), flags=re.DOTALL)
    sections = []
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        anchor = re.search(r'id="([^"]*)"', heading)[1]
        sections.append([plain_text(heading), anchor, plain_text(text)])
    return sections
