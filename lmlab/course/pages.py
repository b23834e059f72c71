"""An executed notebook as HTML for the report: sanitized, still, and with an alternative text for each
figure.
"""

import base64
import html
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from lmlab.course.mathml import formula
from lmlab.course.sanitize import sanitize
from lmlab.course.templates import render_macro

if TYPE_CHECKING:
    from nbformat import NotebookNode

_PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of a PNG file
_WIDGET = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
# title="Loss", set_xlabel(f"step {n}")
_LABEL = re.compile(r"(?:\b|_)(title|xlabel|ylabel)[=(]f?([\"'])(.*?)\2")
_TEX = re.compile(r'<(div|span) class="math"><code>([^<]*)</code></\1>')


@dataclass(frozen=True)
class Figure:
    """A PNG that a cell showed, as a file of the site. Sizes in pixels."""

    path: str  # from the site's top
    alt: str
    width: int
    height: int
    cover: bool  # marked in the notebook as the one that stands for the lesson


@dataclass
class NotebookPage:
    """An executed notebook as HTML, and what other pages show of it."""

    body: Markup
    title: str | None
    promise: Markup  # of the first sentences under the title
    figures: list[Figure]
    headings: list[tuple[int, Markup, str]] = field(default_factory=list)  # level, HTML, anchor


def render_notebook(
    notebook: "NotebookNode", lesson: str, folder: Path, pages: Collection[str] = ()
) -> NotebookPage:
    """Renders one executed notebook by nbconvert.

    Args:
        notebook: nbformat's NotebookNode; its outputs are changed.
        lesson: Its name.
        folder: The site; figures become files there.
        pages: Lessons that links may lead to.
    """
    from nbconvert import HTMLExporter

    _freeze_widgets(notebook)
    figures = _save_figures(notebook, lesson, folder)
    headings: list[tuple[int, Markup, str]] = []
    exporter = HTMLExporter(template_name="basic", sanitize_html=True)
    exporter.register_filter("markdown2html", lambda source: _markdown(source, headings))
    # Each part by itself, so that none can close what is around it; then all that the template put together.
    exporter.register_filter("clean_html", lambda part: sanitize(part, pages))
    body, _ = exporter.from_notebook_node(notebook)
    title, promise = _opening(notebook, pages)
    return NotebookPage(_with_formulas(sanitize(body, pages)), title, promise, figures, headings)


# --- prose -----------------------------------------------------------------------------------------


def markdown(source: str, pages: Collection[str] = ()) -> Markup:
    """Markdown as sanitized HTML by nbconvert's own renderer, formulas as MathML."""
    return _with_formulas(sanitize(_markdown(source, []), pages))


def _markdown(source: str, headings: list[tuple[int, Markup, str]]) -> str:
    """Markdown as raw HTML, formulas as their TeX in elements of the class "math".

    headings: gets (level, HTML, anchor) of each heading; the anchors are unique in the list.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def heading(self, text: str, level: int, **attributes: str) -> str:
            """A heading with an anchor; it goes on the list."""
            shown = _with_formulas(sanitize(text, inline=True))
            anchor = _anchor(shown, {taken for _, _, taken in headings})
            headings.append((level, shown, anchor))
            return render_macro("fragments.html", "heading", level, anchor, Markup(text))

        def block_math(self, body: str) -> str:
            """A formula of its own line."""
            return render_macro("fragments.html", "tex", "div", body.strip())

        def inline_math(self, body: str) -> str:
            """A formula in a line of text."""
            return render_macro("fragments.html", "tex", "span", body.strip())

    shown = MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)
    return shown.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _with_formulas(text: str) -> Markup:
    """Sanitized HTML with MathML in the place of TeX. It comes last: the sanitizer lets no MathML through."""

    def convert(match: re.Match) -> str:
        """MathML for one element with TeX in it."""
        element, tex = match[1], html.unescape(match[2])
        return render_macro("fragments.html", "formula", element, formula(tex, block=element == "div"))

    return Markup(_TEX.sub(convert, text))


def _anchor(text: str, taken: set[str]) -> str:
    """A unique name for a heading, as Jupyter gives it, of letters, digits and hyphens alone."""
    name = re.sub(r"[^\w]+", "-", html.unescape(plain_text(text))).strip("-") or "section"
    # a heading that comes twice gets a number the second time
    anchor, n = name, 1
    while anchor in taken:
        n += 1
        anchor = f"{name}-{n}"
    return anchor


def plain_text(markup: str) -> str:
    """HTML without its tags; formulas as their TeX."""
    markup = re.sub(r'<math[^>]* alttext="([^"]*)".*?</math>', r" \1 ", markup, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def _opening(notebook, pages: Collection[str]) -> tuple[str | None, Markup]:
    """The title, and HTML of the first two sentences under it."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and cell["source"].startswith("# "):
            title, _, rest = cell["source"].partition("\n")
            paragraph = " ".join(rest.strip().split("\n\n")[0].split())
            sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", paragraph)
            return title.removeprefix("# ").strip(), markdown(" ".join(sentences[:2]), pages)
    return None, Markup()


# --- widgets ---------------------------------------------------------------------------------------


def _freeze_widgets(notebook) -> None:
    """Puts what each widget last showed in its place; a live one would need scripts from a network."""
    from nbformat.v4 import new_output

    models = notebook["metadata"].get("widgets", {}).get(_WIDGET_STATE, {}).get("state", {})
    note = render_macro("fragments.html", "note", "a widget, alive only in Jupyter")
    for cell in notebook["cells"]:
        outputs = []
        for output in cell.get("outputs", ()):
            view = output.get("data", {}).pop(_WIDGET, None)
            if view is None or output["data"].keys() - {"text/plain"}:
                outputs.append(output)
                continue
            shown = _shown_in(view["model_id"], models)
            # A widget that was saved without its state leaves a note.
            outputs += shown or [new_output("display_data", data={"text/html": note})]
        if "outputs" in cell:
            cell["outputs"] = outputs


def _shown_in(model_id: str, models: dict) -> list:
    """The outputs and HTML texts in a widget and in those inside it."""
    from nbformat import from_dict
    from nbformat.v4 import new_output

    # A widget keeps its outputs, its HTML, or other widgets that do.
    state = models.get(model_id, {}).get("state", {})
    if "outputs" in state:
        return [from_dict(output) for output in state["outputs"] if _WIDGET not in output.get("data", {})]
    if state.get("_model_name") == "HTMLModel":
        return [new_output("display_data", data={"text/html": state.get("value", "")})]
    shown = []
    for child in state.get("children", ()):
        shown += _shown_in(child.removeprefix("IPY_MODEL_"), models)
    return shown


# --- figures ---------------------------------------------------------------------------------------


def _save_figures(notebook, lesson: str, folder: Path) -> list[Figure]:
    """Writes every PNG output and tells nbconvert its file, size and alternative text."""
    figures, heading = [], ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ +(.*)", cell["source"], flags=re.MULTILINE)
            heading = found[-1] if found else heading
        for output in cell.get("outputs", ()):
            given = output.get("metadata", {}).get("image/png", {}).get("alt")
            output["metadata"] = {}  # nbconvert would put sizes of other images into the page as they are
            if "image/png" not in output.get("data", {}):
                continue
            data = base64.b64decode("".join(output["data"]["image/png"]))
            if not data.startswith(_PNG):
                raise ValueError(f"{lesson}: an image/png output got {data[:8]!r}, which begins no PNG")
            path = f"figures/{lesson}-{len(figures) + 1}.png"
            (folder / path).write_bytes(data)
            width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
            alt = given or describe_plot(cell["source"], heading)
            figures.append(Figure(path, alt, width, height, "cover" in cell["metadata"].get("tags", ())))
            size = {"alt": alt, "width": width, "height": height}
            output["metadata"] = {"filenames": {"image/png": path}, "image/png": size}
    return figures


def describe_plot(source: str, heading: str) -> str:
    """What the figure of a cell shows, from the titles and axis labels in its code.

    Args:
        source: The cell's code; values that are known at run time alone stand as "…".
        heading: What the cell stands under.
    """
    from lmlab.viz import attention_plots, plots

    # the functions of lmlab.viz that the cell calls say what kind of plot it is
    kinds = []
    for name in re.findall(r"\b([a-z]\w*)\(", source):
        for module in (plots, attention_plots):
            function = getattr(module, name, None)
            if getattr(function, "__module__", "") == module.__name__ and name not in kinds:
                kinds.append(name)
    kind = ", ".join(kinds).replace("_", " ") or "plot"
    under = f" under “{heading.replace('`', '')}”" if heading else ""
    texts: dict[str, list[str]] = {"title": [], "xlabel": [], "ylabel": []}
    for name, _, text in _LABEL.findall(source):
        shown = " ".join(re.sub(r"{[^{}]*}", "…", text).split())
        if shown.strip("…: ") and shown not in texts[name]:
            texts[name].append(shown)
    parts = [f"{kind.capitalize()}{under}", *texts["title"]]
    for name, axis in (("xlabel", "across"), ("ylabel", "upwards")):
        if texts[name]:
            parts.append(f"{axis}: {', '.join(texts[name])}")
    return ". ".join(parts)
