"""An executed notebook as HTML for the report: sanitized, without live widgets, and with an alternative text
for each figure.
"""

import base64
import html
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from lmlab.course.mathml import formula
from lmlab.course.sanitize import sanitize

_WIDGET = "application/vnd.jupyter.widget-view+json"
# title="Loss", set_xlabel(f"step {n}")
_LABEL = re.compile(r"(?:\b|_)(title|xlabel|ylabel)[=(]f?([\"'])(.*?)\2")
_NOTEBOOK = re.compile(r"(?:\./|notebooks/|\.\./notebooks/)?([\w-]+)\.ipynb(#\S*)?")
# a guide of the project, by a path in it or by its address on the web
_GUIDE = re.compile(r"(?:https://github\.com/[^#]*/|[./\w-]*/)?([A-Z_]+)\.md(#\S*)?")
_TEX = re.compile(r'<(div|span) class="math"><code>([^<]*)</code></\1>')


class Figure(NamedTuple):
    """A PNG that a cell showed, as a file of the site."""

    path: str  # from the site's top
    alt: str
    cover: bool  # marked in the notebook as the one that stands for the lesson


class Heading(NamedTuple):
    """A heading of a notebook's text."""

    level: int
    text: str  # plain
    anchor: str


@dataclass(frozen=True)
class NotebookPage:
    """An executed notebook as HTML, and what other pages show of it."""

    body: Markup
    title: str | None
    promise: Markup  # of the first sentences under the title
    figures: list[Figure]
    headings: list[Heading]
    result: str  # what the cell with the tag "result" printed: one plain sentence; "" where there is none
    sample: str  # what the one with the tag "sample" printed: texts before and after


def render_notebook(notebook: dict, lesson: str, folder: Path, pages: Collection[str] = ()) -> NotebookPage:
    """Renders one executed notebook by nbconvert.

    Args:
        notebook: nbformat's NotebookNode; its outputs are changed.
        lesson: Its name.
        folder: The site; figures become files there.
        pages: Lessons and guides that links may lead to.
    """
    from nbconvert import HTMLExporter

    _drop_widgets(notebook)
    _drop_default_parameters(notebook)
    result, sample = (_printed(notebook, tag) for tag in ("result", "sample"))
    figures = _save_figures(notebook, lesson, folder)
    headings: list[Heading] = []
    exporter = HTMLExporter(template_name="basic", sanitize_html=True)
    exporter.register_filter("markdown2html", lambda source: _markdown(source, pages, headings))
    # Each part by itself, so that none can close what is around it; then all that the template put together,
    # as it writes names of cells and sizes of images into the page as they are.
    exporter.register_filter("clean_html", sanitize)
    body, _ = exporter.from_notebook_node(notebook)
    title, promise = _opening(notebook, pages)
    return NotebookPage(_with_formulas(sanitize(body)), title, promise, figures, headings, result, sample)


def _has_tag(cell: dict, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", ())


def _printed(notebook: dict, tag: str) -> str:
    """What the cells with a tag have printed."""
    outputs = []
    for cell in notebook["cells"]:
        if _has_tag(cell, tag):
            outputs += [output for output in cell.get("outputs", ()) if output.get("name") == "stdout"]
    return "".join(output["text"] for output in outputs).strip()


def _drop_widgets(notebook: dict) -> None:
    """Takes widgets out: a live one needs scripts from a network. (Batch runs show what it first shows.)"""
    for cell in notebook["cells"]:
        outputs = cell.get("outputs", [])
        for output in outputs:
            if output.get("data", {}).pop(_WIDGET, None):
                output["data"].pop("text/plain", None)  # "interactive(children=..."
        if "outputs" in cell:
            cell["outputs"] = [output for output in outputs if output.get("data", True)]


def _drop_default_parameters(notebook: dict) -> None:
    """Leaves the parameters of this run alone, where papermill has put them in a cell behind the defaults."""
    cells = notebook["cells"]
    if any(_has_tag(cell, "injected-parameters") for cell in cells):
        notebook["cells"] = [cell for cell in cells if not _has_tag(cell, "parameters")]


# --- prose -----------------------------------------------------------------------------------------


def markdown(source: str, pages: Collection[str] = (), headings: list[Heading] | None = None) -> Markup:
    """Markdown as sanitized HTML by nbconvert's own renderer, formulas as MathML.

    Args:
        source: The text.
        pages: Lessons and guides that links may lead to.
        headings: Gets each heading.
    """
    return _with_formulas(sanitize(_markdown(source, pages, [] if headings is None else headings)))


def _markdown(source: str, pages: Collection[str], headings: list[Heading]) -> str:
    """Markdown as raw HTML, formulas as their TeX in elements of the class "math".

    headings: gets each heading.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def heading(self, text: str, level: int, **attributes: str) -> str:
            """A heading with an anchor; it goes on the list."""
            plain = html.unescape(re.sub(r"<[^>]+>", "", text))
            anchor = _anchor(plain, {taken for _, _, taken in headings})
            headings.append(Heading(level, plain, anchor))
            return f'<h{level} id="{anchor}">{text}</h{level}>'

        def link(self, text: str, url: str, title: str | None = None) -> str:
            """A link; one to another lesson's notebook leads to its page, if this run has it."""
            notebook = _NOTEBOOK.fullmatch(url)
            if notebook and notebook[1] in pages:
                url = f"{notebook[1]}.html{notebook[2] or ''}"
            elif notebook:
                url, title = "", "not in this run"
            elif (guide := _GUIDE.fullmatch(url)) and guide[1].lower() in pages:
                url = f"{guide[1].lower()}.html"
            return super().link(text, url, title)

        def image(self, text: str, url: str, title: str | None = None) -> str:
            """A diagram of the course; in place of any other image, which the site may lack, its words."""
            return super().image(text, url, title) if url.startswith("figures/") else html.escape(text)

        def block_math(self, body: str) -> str:
            """A formula of its own line."""
            return f'<div class="math"><code>{html.escape(body.strip())}</code></div>'

        def inline_math(self, body: str) -> str:
            """A formula in a line of text."""
            return f'<span class="math"><code>{html.escape(body.strip())}</code></span>'

    shown = MarkdownWithMath(renderer=Renderer(escape=False)).render(source)
    return shown.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _anchor(heading: str, taken: set[str]) -> str:
    """A heading's anchor as GitHub makes it, so that links within a guide work in both places."""
    slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") or "section"
    anchor, n = slug, 0
    while anchor in taken:
        n += 1
        anchor = f"{slug}-{n}"
    return anchor


def _with_formulas(text: str) -> Markup:
    """Sanitized HTML with MathML in the place of TeX. It comes last: the sanitizer lets no MathML through."""

    def convert(match: re.Match) -> str:
        """MathML for one element with TeX in it."""
        element, tex = match[1], html.unescape(match[2])
        return f'<{element} class="math">{formula(tex, block=element == "div")}</{element}>'

    return Markup(_TEX.sub(convert, text))


def _opening(notebook: dict, pages: Collection[str]) -> tuple[str | None, Markup]:
    """The title, and HTML of the first two sentences under it."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and cell["source"].startswith("# "):
            title, _, rest = cell["source"].partition("\n")
            paragraph = " ".join(rest.strip().split("\n\n")[0].split())
            sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", paragraph)
            return title.removeprefix("# ").strip(), markdown(" ".join(sentences[:2]), pages)
    return None, Markup()


# --- figures ---------------------------------------------------------------------------------------


def _save_figures(notebook: dict, lesson: str, folder: Path) -> list[Figure]:
    """Writes every PNG output and tells nbconvert its file and alternative text."""
    figures, heading = [], ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ +(.*)", cell["source"], flags=re.MULTILINE)
            heading = found[-1] if found else heading
        for output in cell.get("outputs", ()):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            # nbconvert would follow what is asked for there, such as an iframe
            output["metadata"] = {}
            if "image/png" in output.get("data", {}):
                path = f"figures/{lesson}-{len(figures) + 1}.png"
                (folder / path).write_bytes(base64.b64decode("".join(output["data"]["image/png"])))
                alt = alt or describe_plot(cell["source"], heading)
                figures.append(Figure(path, alt, _has_tag(cell, "cover")))
                output["metadata"] = {"filenames": {"image/png": path}, "image/png": {"alt": alt}}
    return figures


def describe_plot(source: str, heading: str) -> str:
    """What the figure of a cell shows, from the titles and axis labels in its code.

    Args:
        source: The cell's code; values that are known at run time alone stand as "…".
        heading: What the cell stands under.
    """
    texts = [f"Plot under “{heading.replace('`', '')}”"]
    for name, _, text in _LABEL.findall(source):
        text = re.sub(r"{[^{}]*}", "…", text)
        said = text if name == "title" else f"{name[0]} axis: {text}"
        # Several panels often have the same axis.
        if said not in texts:
            texts.append(said)
    return ". ".join(texts)
