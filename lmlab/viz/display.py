"""What all displays share: is a reader there, figures as PNG, and tables as HTML."""

import functools
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TABLE = """
<table>
<tr>{% for name in header %}<th style="{{ style }}">{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}<td style="{{ style }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>"""
_CELL_STYLE = "text-align:left;vertical-align:top;padding:3px 9px;white-space:pre-wrap"


def is_interactive() -> bool:
    """Whether someone sits in front of the notebook: a batch run (papermill, nbconvert) cannot ask for input."""
    from IPython import get_ipython

    # Jupyter, VS Code and Colab send allow_stdin=True with every cell, nbclient sends False
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def png_bytes(figure: "Figure", dpi: int) -> bytes:
    """A figure as the bytes of a PNG file."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


@functools.cache
def _table_template():
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True).from_string(_TABLE)


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML. Cells may have several lines; all of them are escaped."""
    return _table_template().render(header=header, rows=rows, style=_CELL_STYLE)
