"""``lmlab report``: executed notebooks as a static site that opens from disk and fetches nothing."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lmlab.course.compare import compare_lesson
from lmlab.course.copies import notebooks_folder
from lmlab.course.pages import Figure, Heading, NotebookPage, markdown, render_notebook
from lmlab.course.records import MetricsFile, own_file, read_metrics, read_outcomes
from lmlab.course.results import expectation_table
from lmlab.course.runner import Outcome
from lmlab.course.templates import WEB, render
from lmlab.files import list_files, replace_folder, unlisted

LISTING = ".lmlab-site"  # a file in every site: the names of the files that the report wrote
COPIED = ("style.css", "site.js")  # from lmlab/course/web
# the guides of a clone, by the names of their pages; an installed lmlab has none
GUIDES = {
    "quick_start": "QUICK_START.md",
    "finetuning_guide": "FINETUNING_GUIDE.md",
    "glossary": "docs/GLOSSARY.md",
    "metrics": "docs/METRICS.md",
}


@dataclass(frozen=True)
class Lesson:
    """What one run left of a lesson."""

    outcome: Outcome
    record: MetricsFile | None  # None when it wrote no metrics.json
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
    def rows(self) -> list[tuple[str, str, str, str]]:
        """(metric, band, value, "yes" or "NO" for inside); no band expected: band and verdict are empty."""
        return expectation_table(self.record.metrics, self.record.expected).rows if self.record else []

    @property
    def more_metrics(self) -> list[tuple[str, str]]:
        """(name, value) of the metrics without a band."""
        return [(name, value) for name, _, value, verdict in self.rows if not verdict]

    @property
    def result(self) -> str:
        """One plain sentence of what came out; "" where the notebook prints none."""
        return self.page.result.splitlines()[-1] if self.page and self.page.result else ""

    @property
    def n_inside(self) -> tuple[int, int]:
        """How many metrics are inside their bands, and how many have one."""
        verdicts = [verdict for _, _, _, verdict in self.rows if verdict]
        return verdicts.count("yes"), len(verdicts)

    @property
    def cover(self) -> Figure | None:
        """The figure that stands for it: the one with the cell tag ``cover``, else the last, a result."""
        figures = self.page.figures if self.page else []
        return next((figure for figure in figures if figure.cover), figures[-1] if figures else None)


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
    other_lessons = {outcome.lesson for outcome in read_outcomes(other)} if other else set()
    executed = [o.lesson for o in outcomes if own_file(run_dir, f"{o.lesson}.ipynb").is_file()]
    guides = {name: path for name, path in find_guides().items() if path.is_file()}
    pages = [*executed, *guides]
    with replace_folder(site, _check_site) as fresh:
        for name in COPIED:
            shutil.copyfile(WEB / name, fresh / name)
        (fresh / "figures").mkdir()
        # the diagrams that lessons show by their address
        for diagram in (notebooks_folder() / "figures").glob("*.svg"):
            shutil.copyfile(diagram, fresh / "figures" / diagram.name)
        lessons = [_read_lesson(outcome, run_dir, fresh, pages) for outcome in outcomes]
        titles = {
            name: path.read_text(encoding="utf-8").split("\n")[0].lstrip("# ")
            for name, path in guides.items()
        }
        # what the head of every page links to
        menu = {"lessons": lessons, "guides": titles, "compared": other is not None}
        _write_pages(fresh, run_dir, menu)
        for name, path in guides.items():
            _write_guide(fresh, name, path.read_text(encoding="utf-8"), pages, menu)
        if other:
            both = [lesson for lesson in lessons if lesson.name in other_lessons]
            _write_comparison(fresh, (run_dir, other), both, menu)
        list_files(fresh, LISTING)
    return site / "index.html"


def find_guides() -> dict[str, Path]:
    """name of its page -> a guide's file, which is there in a clone."""
    project = notebooks_folder().parent
    return {name: project / path for name, path in GUIDES.items()}


def _check_site(site: Path) -> None:
    """Raises ValueError for a file, or a folder with files that no report wrote: they would be deleted."""
    if not site.exists():
        return
    foreign = unlisted(site, LISTING) if site.is_dir() else [site.name]
    if foreign:
        raise ValueError(
            f"--output got {site}, where {foreign[0]} is not of a report and would be deleted; "
            "give a new folder, or move that away"
        )


def _read_lesson(outcome: Outcome, run_dir: Path, site: Path, pages: list[str]) -> Lesson:
    name = outcome.lesson
    record = read_metrics(run_dir, name)
    if name not in pages:
        return Lesson(outcome, record, None)
    path = run_dir / f"{name}.ipynb"
    try:
        page = render_notebook(_read_notebook(path, run_dir), name, site, pages)
    except Exception as error:  # it may be malformed anywhere, and what reads it was written for good ones
        raise ValueError(
            f"{path} cannot be shown, {type(error).__name__}: {error!s:.500}; run the lesson again, "
            "or take the notebook out of the run"
        ) from error
    return Lesson(outcome, record, page)


def _read_notebook(path: Path, run_dir: Path):
    """The notebook, with the path of the run's folder cut to its name: others will see the site."""
    import nbformat

    folder = run_dir.resolve()
    # as a notebook's JSON writes them: a quote or a backslash in a name is escaped there
    here, name = (json.dumps(text, ensure_ascii=False)[1:-1] for text in (str(folder), folder.name))
    notebook = nbformat.reads(path.read_text(encoding="utf-8").replace(here, name), as_version=4)
    nbformat.validate(notebook)
    return notebook


# --- pages -----------------------------------------------------------------------------------------


def _write(site: Path, name: str, template: str, **values: object) -> None:
    # JSON may hold a lone surrogate, which UTF-8 cannot
    (site / f"{name}.html").write_text(render(template, **values), encoding="utf-8", errors="replace")


def _write_pages(site: Path, run_dir: Path, menu: dict) -> None:
    lessons = menu["lessons"]
    verdicts = [verdict for lesson in lessons for _, _, _, verdict in lesson.rows if verdict]
    _write(
        site,
        "index",
        "index.html",
        title="lmlab",
        run=run_dir.resolve().name,
        n_ok=sum(lesson.outcome.ok for lesson in lessons),
        n_met=verdicts.count("yes"),
        n_expected=len(verdicts),
        **menu,
    )
    executed = [lesson for lesson in lessons if lesson.page]
    for before, lesson, after in zip([None, *executed], executed, [*executed[1:], None], strict=False):
        title = f"{lesson.number} · {lesson.title}"
        _write(
            site, lesson.name, "lesson.html", title=title, lesson=lesson, before=before, after=after, **menu
        )


def _write_guide(site: Path, name: str, text: str, pages: list[str], menu: dict) -> None:
    headings: list[Heading] = []
    body = markdown(text, pages, headings)
    title = menu["guides"][name]
    _write(site, name, "guide.html", title=title, body=body, headings=headings, **menu)


def _write_comparison(site: Path, runs: tuple[Path, Path], both: list[Lesson], menu: dict) -> None:
    """both: the lessons that both runs hold."""
    names = [run.resolve().name for run in runs]
    if names[0] == names[1]:  # runs of two folders
        names = ["/".join(run.resolve().parts[-2:]) for run in runs]
    sections = [(lesson, compare_lesson(lesson.name, runs)) for lesson in both]
    _write(site, "comparison", "comparison.html", title="Comparison", names=names, sections=sections, **menu)
