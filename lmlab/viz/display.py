"""What all displays share: is a reader there, figures as PNG, and tables as HTML."""

import html
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL_STYLE = "text-align:left;vertical-align:top;padding:3px 9px;white-space:pre-wrap"


def is_interactive() -> bool:
    """Whether someone sits at the notebook: a batch run (papermill, nbconvert) cannot ask for input."""
    from IPython import get_ipython

    # Jupyter, VS Code and Colab send allow_stdin=True with every cell, nbclient sends False
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def png_bytes(figure: "Figure", dpi: int) -> bytes:
    """A figure as the bytes of a PNG file."""
    # pyplot's figures and those unknown to it alike
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML. Cells may have several lines; all of them are escaped."""
    lines = []
    for tag, cells in [("th", header), *(("td", row) for row in rows)]:
        # escaped: a model may write anything, tags among it
        line = [f'<{tag} style="{_CELL_STYLE}">{html.escape(cell)}</{tag}>' for cell in cells]
        lines.append(f"<tr>{''.join(line)}</tr>")
    return f"<table>{''.join(lines)}</table>"
