"""What a lesson shows in TensorBoard, under the same tags in every lesson.

    recipe                                   the recipe of the run, as a table
    train/loss, train/learning_rate, ...     what a Trainer (or ``pretrain``) logs
    eval/loss, ...                           what it evaluates on held-out examples
    samples/<name>, figures/<name>           texts and figures
    result/<metric>                          what metrics.json holds, at the end

A lesson's folder ``tensorboard`` is one run there; trainings beside the main one are runs below it. Curves
have files of their own, for an interrupted training is resumed with them, and all else is made anew.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.files import write_atomic
from lmlab.recipes import Recipe

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
# how the names of their files end
CURVES, RESULTS = ".curves", ".results"


class TensorBoardLogger:
    """A lesson's log in out/tensorboard: its recipe, texts and figures. (Curves:
    ``callbacks.TensorBoardCurves``.)

    Of an earlier run nothing is left but the curves, which stay until the training begins anew: it may be
    resumed.
    """

    def __init__(self, out: Path, cfg: Recipe):
        from torch.utils.tensorboard import SummaryWriter

        self.out, self.folder = out, out / FOLDER
        for path in self.folder.glob("events*"):
            # an interrupted training will go on with its curves
            if path.suffix != CURVES:
                path.unlink()
        self.writer = SummaryWriter(str(self.folder), filename_suffix=".lesson")
        self.writer.add_text("recipe", recipe_table(cfg))
        self.writer.flush()

    def text(self, name: str, text: str, step: int = 0) -> None:
        """Shows a text as it is, under samples/``name``."""
        self.writer.add_text(f"samples/{name}", verbatim(text), step)
        self.writer.flush()

    def figure(self, name: str, axes: Any, step: int = 0) -> None:
        """Keeps the figure of ``axes`` (an Axes or a Figure) as out/``name``.png, and shows it as
        figures/``name``.
        """
        from matplotlib.image import imread

        buffer = io.BytesIO()
        axes.figure.savefig(buffer, format="png", dpi=120)
        write_atomic(self.out / f"{name}.png", buffer.getvalue())
        # the pixels of the file, so that both show the same
        buffer.seek(0)
        self.writer.add_image(f"figures/{name}", imread(buffer), step, dataformats="HWC")
        self.writer.flush()


def open_curves(folder: Path, step: int) -> "SummaryWriter":
    """A SummaryWriter for the curves of a training that begins (step 0) or is resumed after ``step``.

    Of an earlier training nothing is left; of a resumed one, what came after the step is hidden.
    """
    from torch.utils.tensorboard import SummaryWriter

    # the writer of a resumed training hides later rows itself, by purge_step
    if step == 0:
        for path in folder.glob(f"events*{CURVES}"):
            path.unlink()
    return SummaryWriter(str(folder), filename_suffix=CURVES, purge_step=step + 1 if step else None)


def write_results(out: Path, metrics: Mapping) -> None:
    """Shows the numbers among ``metrics`` as result/<metric>, in place of earlier ones."""
    from torch.utils.tensorboard import SummaryWriter

    root = out / FOLDER
    for path in root.glob(f"events*{RESULTS}"):
        path.unlink()
    with SummaryWriter(str(root), filename_suffix=RESULTS) as writer:
        for name, value in metrics.items():
            # a bool is an int in Python, and TensorBoard would draw it as 0 or 1
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and math.isfinite(value):
                writer.add_scalar(f"result/{name}", value)


def recipe_table(cfg: Recipe) -> str:
    """The recipe as a table in Markdown."""
    rows = [f"| {key} | `{value}` |".replace("\n", "\\n") for key, value in cfg.rows()]
    return "\n".join(["| choice | value |", "|---|---|", *rows])


def verbatim(text: str) -> str:
    """Markdown that shows ``text`` as it is; TensorBoard would take <think> for HTML, and drop it."""
    return "\n".join(f"    {line}" for line in text.split("\n"))
