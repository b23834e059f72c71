"""A loss curve that grows under the cell that trains."""

import time
from collections.abc import Mapping

from lmlab.viz import display, plots

MIN_INTERVAL = 1.0  # seconds between two figures
MAX_TIME_FRACTION = 0.03  # of the training time may go into drawing


class LiveLoss:
    """Draws the losses of a training run while it runs, where a reader sits; in a batch run it does nothing.

    Training calls it with every logged row. The cell keeps one figure, the latest.

    Args:
        title, floor: as in ``plots.loss_curve``.
    """

    def __init__(self, title: str = "", floor: float | None = None):
        self.title, self.floor = title, floor
        self.losses = {"train": {}, "validation": {}}  # part -> optimizer step -> loss
        self.active = display.is_interactive()
        self._handle, self._due = None, 0.0

    def __call__(self, part: str, row: Mapping, n_steps: int) -> None:
        """Takes a row of "train" or "validation": its "step", and its "loss" if that was measured."""
        if not self.active:
            return
        if "loss" in row:
            self.losses[part][row["step"]] = row["loss"]
        start = time.perf_counter()
        if start >= self._due or row["step"] >= n_steps:
            self._show(self._draw(n_steps))
            end = time.perf_counter()
            self._due = end + max(MIN_INTERVAL, (end - start) / MAX_TIME_FRACTION)

    def _draw(self, n_steps: int) -> bytes:
        from matplotlib.figure import Figure  # not pyplot's, or the cell would show it a second time

        figure = Figure(figsize=(8, 3.5))
        # by hand: a layout engine takes as long again as the drawing
        figure.subplots_adjust(left=0.08, right=0.98, top=0.9, bottom=0.15)
        ax = figure.subplots()
        train, val = self.losses["train"], self.losses["validation"]
        look = {"floor": self.floor, "title": self.title, "ax": ax}
        val_losses = list(val.values()) or None
        plots.loss_curve(list(train), list(train.values()), val_losses, val_steps=list(val), **look)
        ax.set_xlim(0, max(1, n_steps))  # shows how far training has come
        return display.png_bytes(figure, dpi=80)

    def _show(self, png: bytes) -> None:
        from IPython.display import Image
        from IPython.display import display as show

        # in the metadata, for Colab's IPython has no argument for it
        image = Image(png, metadata={"alt": "training and validation loss so far"})
        if self._handle is None:
            self._handle = show(image, display_id=True)
        else:
            self._handle.update(image)
