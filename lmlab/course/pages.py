"""Pages of the report: their templates, and an executed notebook as HTML. They fetch nothing."""

import ast
import base64
import functools
import html
import io
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lmlab.course.sanitize import sanitize
from lmlab.viz import plots

WEB = Path(__file__).parent / "web"
COPIED = ("style.css", "site.js", "search.js")  # beside the pages
_PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of a file
_KINDS = {name for name, value in vars(plots).items() if getattr(value, "__module__", "") == plots.__name__}
_WIDGET = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


@dataclass(frozen=True)
class Picture:
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
    pictures: list[Picture]
    headings: list[tuple[int, Markup, str]] = field(default_factory=list)  # level, HTML, anchor


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(WEB / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values) -> Markup:
    """A template of web/templates with its values, each of which is escaped unless it is Markup."""
    return Markup(_templates().get_template(template).render(**values))


def render_notebook(notebook, lesson: str, folder: Path, pages: Collection[str] = ()) -> NotebookPage:
    """One executed notebook by nbconvert, sanitized, its formulas drawn as SVG.

    Args:
        notebook: nbformat's NotebookNode; its outputs are changed.
        lesson: Its name.
        folder: The site; pictures become files there.
        pages: Lessons that links may lead to.
    """
    from nbconvert import HTMLExporter

    _show_widgets_still(notebook)
    pictures = _save_pictures(notebook, lesson, folder)
    headings: list[tuple[int, Markup, str]] = []
    exporter = HTMLExporter(template_name="basic", sanitize_html=True)
    exporter.register_filter("markdown2html", lambda source: _markdown(source, headings))
    # each part by itself, so that none can close what is around it; then all that the template put together
    exporter.register_filter("clean_html", lambda part: sanitize(part, pages))
    body, _ = exporter.from_notebook_node(notebook)
    title, promise = _opening(notebook, pages)
    return NotebookPage(_draw_formulas(sanitize(body, pages)), title, promise, pictures, headings)


def markdown(source: str, pages: Collection[str] = ()) -> Markup:
    """Markdown as sanitized HTML by nbconvert's own renderer, its formulas as SVG."""
    return _draw_formulas(sanitize(_markdown(source, []), pages))


def _markdown(source: str, headings: list) -> str:
    """Markdown as raw HTML, formulas as their TeX in elements of the class "math".

    headings: gets (level, HTML, anchor) of each heading; the anchors are unique in the list.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def heading(self, text: str, level: int, **attributes) -> str:
            shown = _draw_formulas(sanitize(text, inline=True))
            anchor = _anchor(shown, {taken for _, _, taken in headings})
            headings.append((level, shown, anchor))
            return f'<h{level} id="{anchor}">{text}</h{level}>\n'

        def block_math(self, body: str) -> str:
            return f'<div class="math"><code>{html.escape(body.strip())}</code></div>'

        def inline_math(self, body: str) -> str:
            return f'<span class="math"><code>{html.escape(body.strip())}</code></span>'

    made = MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)
    return made.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _draw_formulas(text: str) -> Markup:
    """Sanitized HTML with its formulas drawn. They come last: SVG is not let through before."""

    def draw(match: re.Match) -> str:
        name, tex = match[1], html.unescape(match[2])
        return f'<{name} class="math">{formula_svg(tex, points=15 if name == "div" else 13)}</{name}>'

    return Markup(re.sub(r'<(div|span) class="math"><code>([^<]*)</code></\1>', draw, text))


def _anchor(text: str, taken: set[str]) -> str:
    """A name for a heading as Jupyter gives it, with only letters, digits and hyphens; unique."""
    name = re.sub(r"[^\w]+", "-", html.unescape(plain_text(text))).strip("-") or "section"
    return next(
        candidate
        for n in range(1, len(taken) + 2)
        if (candidate := name if n == 1 else f"{name}-{n}") not in taken
    )


def plain_text(markup: str) -> str:
    """HTML without its tags; formulas as their TeX."""
    markup = re.sub(r'<svg[^>]* aria-label="([^"]*)".*?</svg>', r" \1 ", markup, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


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
        with rc_context(
            {
                "mathtext.fontset": "stix",
                "svg.fonttype": "path",
                "svg.hashsalt": tex,
                "savefig.transparent": True,
            }
        ):
            depth = math_to_image(
                f"${' '.join(tex.split())}$",
                picture,
                FontProperties(size=points),
                dpi=72,
                format="svg",
                color=colour,
            )
    except (ValueError, RecursionError):
        return f"<code>{html.escape(tex.strip())}</code>"
    svg = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", picture.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].strip().replace(colour, "currentColor")
    label = html.escape(tex.strip(), quote=True)
    named = f'<svg role="img" aria-label="{label}" style="vertical-align: {-depth:.1f}pt"'
    return svg.replace("<svg", named, 1)


def _opening(notebook, pages: Collection[str]) -> tuple[str | None, Markup]:
    """The title, and HTML of the first two sentences under it."""
    sources = [
        cell["source"]
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown" and cell["source"].startswith("# ")
    ]
    if not sources:
        return None, Markup()
    title, _, rest = sources[0].partition("\n")
    paragraph = " ".join(rest.strip().split("\n\n")[0].split())
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", paragraph)
    return title.removeprefix("# ").strip(), markdown(" ".join(sentences[:2]), pages)


# widgets and pictures -----------------------------------------------------------------------------------


def _show_widgets_still(notebook) -> None:
    """Puts in the place of each widget what it last showed; a live one would need scripts from a network."""
    models = notebook["metadata"].get("widgets", {}).get(_WIDGET_STATE, {}).get("state", {})
    for cell in notebook["cells"]:
        outputs = []
        for output in cell.get("outputs", ()):
            view = output.get("data", {}).pop(_WIDGET, None)
            if view is None or output["data"].keys() - {"text/plain"}:
                outputs.append(output)
            else:
                outputs += _shown_in(view["model_id"], models) or [_note("a widget, alive only in Jupyter")]
        if "outputs" in cell:
            cell["outputs"] = outputs


def _shown_in(model_id: str, models: dict) -> list:
    """The outputs and HTML texts in a widget and in those inside it."""
    from nbformat import from_dict
    from nbformat.v4 import new_output

    state = models.get(model_id, {}).get("state", {})
    if "outputs" in state:
        return [from_dict(output) for output in state["outputs"] if _WIDGET not in output.get("data", {})]
    if state.get("_model_name") == "HTMLModel":
        return [new_output("display_data", data={"text/html": state.get("value", "")})]
    inside = [child.removeprefix("IPY_MODEL_") for child in state.get("children", ())]
    return [output for child in inside for output in _shown_in(child, models)]


def _note(text: str):
    from nbformat.v4 import new_output

    return new_output("display_data", data={"text/html": f'<p class="note">{text}</p>'})


def _save_pictures(notebook, lesson: str, folder: Path) -> list[Picture]:
    """Writes every PNG output and tells nbconvert its file, size and alternative text."""
    pictures, heading = [], ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ +(.*)", cell["source"], flags=re.MULTILINE) or [heading])[-1]
        for output in cell.get("outputs", ()):
            given = output.get("metadata", {}).get("image/png", {}).get("alt")
            output["metadata"] = {}  # nbconvert would put sizes of other images into the page as they are
            if "image/png" not in output.get("data", {}):
                continue
            data = base64.b64decode("".join(output["data"]["image/png"]))
            if not data.startswith(_PNG):
                raise ValueError(f"{lesson}: an image/png output got {data[:8]!r}, which begins no PNG")
            path = f"pictures/{lesson}-{len(pictures) + 1}.png"
            (folder / path).write_bytes(data)
            width, height = (
                int.from_bytes(data[at : at + 4], "big") for at in (16, 20)
            )  # of the PNG's header
            alt = given or describe_plot(cell["source"], heading)
            pictures.append(Picture(path, alt, width, height, "cover" in cell["metadata"].get("tags", ())))
            output["metadata"] = {
                "filenames": {"image/png": path},
                "image/png": {"alt": alt, "width": width, "height": height},
            }
    return pictures


def describe_plot(source: str, heading: str) -> str:
    """What the picture of a cell shows, from the titles and axis labels in its code.

    Values that are only known at run time stand as "…". heading: what the cell stands under.
    """
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a cell with a magic
        nodes = []
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    said = {name: [] for name in ("title", "xlabel", "ylabel")}
    for call in calls:
        for keyword in call.keywords:
            if keyword.arg in said and (text := _literal(keyword.value)):
                said[keyword.arg].append(text)
        if isinstance(call.func, ast.Attribute) and call.func.attr.removeprefix("set_") in said and call.args:
            said[call.func.attr.removeprefix("set_")].append(_literal(call.args[0]))
    names = [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls]
    kinds = [name.replace("_", " ") for name in dict.fromkeys(names) if name in _KINDS]
    parts = ["; ".join(dict.fromkeys(filter(None, said["title"])))]
    for name, axis in (("xlabel", "across"), ("ylabel", "upwards")):
        labels = ", ".join(dict.fromkeys(filter(None, said[name])))
        parts.append(f"{axis}: {labels}" if labels else "")
    under = f" under “{heading.replace('`', '')}”" if heading else ""
    kind = (", ".join(kinds) or "plot").capitalize() + under
    return ". ".join([kind, *(part for part in parts if part.strip("…: "))])


def _literal(node) -> str:
    """The text of a string in code; "…" for what it takes from variables."""
    if isinstance(node, ast.JoinedStr):
        node_parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        return " ".join("".join(node_parts).split())
    constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return " ".join(node.value.split()) if constant else ""
