"""A loss curve that grows under the cell that trains."""

import time
from collections.abc import Mapping

from lmlab.viz import plots
from lmlab.viz.blind import is_interactive

SECONDS = 1.0  # between two pictures, at least
SHARE = 0.03  # of the time goes into drawing, at most
POINTS = 500  # of a line; more cannot be seen


class LiveLoss:
    """Draws the losses of a training while it runs, where a reader sits; in a batch run it does nothing.

    It is what ``pretrain.pretrain`` and ``tensorboard.TensorBoardLogger.callback`` take as ``watch``. The cell keeps one picture,
    the last. floor, title: as in ``plots.loss_curve``.
    """

    def __init__(self, title: str = "", floor: float | None = None):
        self.title, self.floor = title, floor
        self.losses = {"train": {}, "validation": {}}  # step -> loss
        self.watched, self.shown, self.due = is_interactive(), None, 0.0

    def __call__(self, part: str, row: Mapping, n_steps: int) -> None:
        """part: "train" or "validation". row: with "step", and with "loss" if that was measured."""
        if not self.watched:
            return
        if "loss" in row:
            self.losses[part][row["step"]] = row["loss"]
        begun = time.perf_counter()
        if begun >= self.due or row["step"] >= n_steps:
            self._show(self._picture(n_steps))
            now = time.perf_counter()
            self.due = now + max(SECONDS, (now - begun) / SHARE)

    def _picture(self, n_steps: int) -> bytes:
        from matplotlib.figure import Figure  # not pyplot's, or the cell would show it a second time

        figure = Figure(figsize=(8, 3.5))
        # given, for to find them doubles the time
        figure.subplots_adjust(left=0.08, right=0.98, top=0.9, bottom=0.15)
        ax = figure.subplots()
        train, validation = (_thinned(list(losses.items())) for losses in self.losses.values())
        plots.loss_curve(
            [step for step, _ in train],
            [loss for _, loss in train],
            [loss for _, loss in validation] or None,
            self.floor,
            val_steps=[step for step, _ in validation],
            title=self.title,
            ax=ax,
        )
        ax.set_xlim(0, max(1, n_steps))  # so that one sees how far it is
        return plots.png_bytes(figure, dpi=80)

    def _show(self, png: bytes) -> None:
        from IPython.display import Image, display

        image = Image(png, alt="training and validation loss so far")
        if self.shown is None:
            self.shown = display(image, display_id=True)
        else:
            self.shown.update(image)


def _thinned(points: list) -> list:
    """So many that all can be seen, the last among them."""
    return points[: -1 : 1 + len(points) // POINTS] + points[-1:]
