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
from lmlab.course.pages import COPIED, WEB, NotebookPage, Picture, plain_text, render, render_notebook
from lmlab.course.records import own_file, read_metrics, read_outcomes
from lmlab.course.results import expectation_table, inside
from lmlab.course.runner import Outcome
from lmlab.files import list_files, replace_folder, unlisted

INDEX_TITLE = "lmlab report"
MARK = ".lmlab-site"  # a file in every site: the names of the files that the report wrote


class Gauge(NamedTuple):
    """Where a band and a value lie, on a line from 0 to 100."""

    start: float
    end: float
    value: float


class Expectation(NamedTuple):
    """A row of the table of a lesson's expectations."""

    name: str
    band: str
    value: str
    inside: bool
    gauge: Gauge


@dataclass
class Lesson:
    """What one run left of a lesson."""

    outcome: Outcome
    record: dict | None  # metrics.json
    page: NotebookPage | None  # None when it was not executed

    @property
    def name(self) -> str:
        return self.outcome.lesson

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
        return self.record and self.record.get("recipe") or self.outcome.recipe or "?"

    @property
    def expectations(self) -> list[Expectation]:
        metrics, expected = self.record["metrics"], self.record["expected"]
        rows = expectation_table(metrics, expected).rows[: len(expected)]
        return [
            Expectation(name, band, value, verdict == "yes", gauge(metrics[name], expected[name]))
            for name, band, value, verdict in rows
        ]

    @property
    def more_measurements(self) -> list[tuple[str, str]]:
        rows = expectation_table(self.record["metrics"], self.record["expected"]).rows
        return [(name, value) for name, _, value, _ in rows[len(self.record["expected"]) :]]

    @property
    def settings(self) -> list[tuple[str, object]]:
        return list(self.record.get("settings", {}).items())

    @property
    def cover(self) -> Picture | None:
        return choose_cover(self.page.pictures) if self.page else None


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
    outcomes = [read_outcomes(run) for run in (run_dir, other) if run]
    with replace_site(site) as fresh:
        for name in COPIED:
            shutil.copyfile(WEB / name, fresh / name)
        (fresh / "pictures").mkdir()
        executed = [
            outcome.lesson
            for outcome in outcomes[0]
            if own_file(run_dir, f"{outcome.lesson}.ipynb").is_file()
        ]
        lessons = [_read_lesson(outcome, run_dir, fresh, executed) for outcome in outcomes[0]]
        menu = Menu(lessons, compared=bool(other))
        _write_pages(fresh, run_dir, menu)
        if other:
            names = {outcome.lesson for outcome in outcomes[1]}
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
        list_files(fresh, MARK)


def _check_site(site: Path) -> None:
    if site.exists() and (others := _not_ours(site)):
        raise ValueError(
            f"--output got {site}, where {others[0]} is not of a report and would be deleted; "
            "give a new folder, or move that away"
        )


def _not_ours(site: Path) -> list[str]:
    """What no report wrote there, by its path in the site."""
    if not site.is_dir():
        return [site.name]
    others, index = unlisted(site, MARK), site / "index.html"
    if (site / MARK).is_file() or not index.is_file():
        return others
    if f"<title>{INDEX_TITLE}</title>" not in index.read_text("utf-8", errors="replace"):
        return others
    earlier = re.compile(r"[\w-]+\.(html|js|css)|pictures/[\w-]+\.png")  # of a version that wrote no list
    return [name for name in others if not earlier.fullmatch(name)]


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
            f"{path} cannot be shown, {type(error).__name__}: {error!s:.500}; run the lesson "
            "again, or take the notebook out of the run"
        ) from error


def _read_notebook(path: Path, run_dir: Path):
    """What is shown to others names no folder of this machine: the run's is shortened to its name."""
    import nbformat

    text, folder = path.read_text(encoding="utf-8"), run_dir.resolve()
    for ascii_only in (True, False):  # as JSON writes it, either way
        here, name = (json.dumps(part, ensure_ascii=ascii_only)[1:-1] for part in (str(folder), folder.name))
        text = text.replace(here, name)
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    return notebook


def _write(site: Path, name: str, title: str, menu: Menu, template: str, **values) -> None:
    page = render(template, title=title, menu=menu, **values)
    # a lone surrogate, which JSON may hold, is no UTF-8
    (site / f"{name}.html").write_text(page, encoding="utf-8", errors="replace")


def _write_pages(site: Path, run_dir: Path, menu: Menu) -> None:
    _write(
        site,
        "index",
        INDEX_TITLE,
        menu,
        "index.html",
        run=run_dir.resolve().name,
        version=__version__,
        facts=_facts(menu.lessons),
    )
    executed = [lesson for lesson in menu.lessons if lesson.page]
    for at, lesson in enumerate(executed):
        before = executed[at - 1] if at else None
        after = executed[at + 1] if at + 1 < len(executed) else None
        _write(
            site,
            lesson.name,
            f"{lesson.number} · {lesson.title}",
            menu,
            "lesson.html",
            lesson=lesson,
            before=before,
            after=after,
        )
    _write(site, "search", "Search", menu, "search.html")
    (site / "search-index.js").write_text(
        f"const SECTIONS = {_sections(menu.lessons)};\n", encoding="utf-8", errors="replace"
    )


def _write_comparison(site: Path, runs: tuple[Path, Path], shared: list[Lesson], menu: Menu) -> None:
    """shared: the lessons that both runs hold."""
    names = tuple(run.resolve().name for run in runs)
    if len(set(names)) == 1:
        names = tuple("/".join(run.resolve().parts[-2:]) for run in runs)
    _write(site, "comparison", "Comparison", menu, "comparison.html", names=names, shared=shared)
    for lesson in shared:
        compared = compare_lesson(lesson.name, runs, names)
        _write(
            site,
            f"comparison-{lesson.name}",
            f"Comparison: {lesson.title}",
            menu,
            "comparison_lesson.html",
            lesson=lesson,
            shared=shared,
            names=names,
            compared=compared,
        )


# the index --------------------------------------------------------------------------------------------------


def _facts(lessons: list[Lesson]) -> list[tuple[str, str]]:
    """What the whole run comes to: a value, and what it is."""
    good = sum(lesson.outcome.ok for lesson in lessons)
    seconds = sum(lesson.outcome.seconds for lesson in lessons)
    memory = max((lesson.outcome.peak_memory_gb for lesson in lessons), default=0)
    bands = [
        inside(lesson.record["metrics"][name], band)
        for lesson in lessons
        if lesson.record
        for name, band in lesson.record["expected"].items()
    ]
    return [
        (f"{good} of {len(lessons)}", "notebooks ran through"),
        (f"{seconds / 60:.1f}", "minutes together"),
        (f"{memory:.1f} GiB", "of memory at the peak"),
        (f"{sum(bands)} of {len(bands)}" if bands else "no", "expectations met"),
    ]


def choose_cover(pictures: list[Picture]) -> Picture | None:
    """The picture that stands for a lesson: the one marked by the cell tag ``cover``.

    Where none is: the widest beside its height, as it fills a card best; of equal ones the largest, then the
    last, as results come late.
    """
    marked = [picture for picture in pictures if picture.cover]
    legible = [picture for picture in pictures if picture.width <= 1500]  # a card shows it at about 600
    return max(marked or legible[::-1], key=lambda p: (round(2 * p.width / p.height), p.width), default=None)


def gauge(value: float, band: list) -> Gauge:
    """Where a band and the value lie, for a small picture; the words beside it say the same."""
    low, high = band
    scale = (
        (high - low) / 60
        if None not in (low, high) and high > low
        else max(abs(v) for v in (low, high, value, 1e-9) if v is not None) / 60
    )
    start = 20 if low is not None else 0
    end = start + (high - low) / scale if None not in (low, high) else (100 if high is None else 80)
    at = start + (value - low) / scale if low is not None else 80 - (high - value) / scale
    end = max(end, start + 2)  # a band of one value
    return Gauge(start, end, min(97.0, max(3.0, at)))


# the search -------------------------------------------------------------------------------------------------


def _sections(lessons: list[Lesson]) -> str:
    """What the search looks through, as JSON: [page, lesson, heading, anchor, text] of every section."""
    found = []
    for lesson in lessons:
        name = f"{lesson.number} · {lesson.title}"
        if lesson.page:
            sections = _text_by_heading(lesson.page.body)
            found += [[f"{lesson.name}.html", name, *section] for section in sections]
        if lesson.record:
            measured = ", ".join(
                f"{name} {value}"
                for name, _, value, _ in expectation_table(
                    lesson.record["metrics"], lesson.record["expected"]
                ).rows
            )
            found.append(["index.html", name, "Expected and measured", lesson.name, measured])
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")


def _text_by_heading(body: str) -> list[list[str]]:
    """[heading, anchor, text] of each section of a notebook: prose and code, not what the code printed."""
    from bs4 import BeautifulSoup

    tree = BeautifulSoup(body, "html.parser")
    for aside in tree.select(".output_wrapper, .prompt"):
        aside.decompose()
    parts = re.split(r'(<h\d id="[^"]*">.*?</h\d>)', str(tree), flags=re.DOTALL)
    return [
        [plain_text(heading), re.search(r'id="([^"]*)"', heading)[1], plain_text(text)]
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
