"""The live loss curve: in a notebook that somebody runs it is drawn, elsewhere it is not."""

import subprocess
import sys
from io import BytesIO
from types import SimpleNamespace

import pytest

from lmlab.viz import display, live


class Clock:
    """Time that passes only as it is told; a figure takes ``cost``."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(live, "time", clock)
    return clock


@pytest.fixture
def shown(monkeypatch):
    """What the notebook's cell is told: ("new" or "update", image)."""
    from IPython import display as ipython_display

    told = []

    def fake(image, display_id):
        told.append(("new", image))
        return SimpleNamespace(update=lambda image: told.append(("update", image)))

    monkeypatch.setattr(ipython_display, "display", fake)
    return told


def losses(watch, n: int, clock, seconds: float) -> None:
    for step in range(1, n + 1):
        clock.now += seconds
        watch("train", {"step": step, "loss": 1 / step}, n)
        if step % 10 == 0:
            watch("validation", {"step": step, "loss": 1.1 / step}, n)


def test_a_batch_run_sees_nothing(clock, shown):
    curve = live.LiveLoss()
    losses(curve, 30, clock, 5.0)
    assert shown == [] and not curve.active


def test_where_someone_sits_one_figure_grows(clock, shown, monkeypatch):
    from matplotlib import image

    monkeypatch.setattr(display, "is_interactive", lambda: True)
    losses(live.LiveLoss("a run", floor=0.01), 100, clock, 0.1)  # 10 seconds
    kinds = [kind for kind, _ in shown]
    assert kinds == ["new"] + ["update"] * (len(kinds) - 1), "a cell that trains keeps one figure"
    assert 10 <= len(kinds) <= 13
    first, last = (image.imread(BytesIO(png.data)) for _, png in (shown[0], shown[-1]))
    assert first.shape[0] > 200 and (first.shape != last.shape or (first != last).any())


def test_drawing_takes_a_small_share_of_the_time(clock, shown, monkeypatch):
    monkeypatch.setattr(display, "is_interactive", lambda: True)

    def slow(self, n_steps):
        clock.now += 0.3
        return b""

    monkeypatch.setattr(live.LiveLoss, "_draw", slow)
    monkeypatch.setattr(live.LiveLoss, "_show", lambda self, png: shown.append(png))
    began = clock.now
    losses(live.LiveLoss(), 1000, clock, 0.1)
    assert 0.3 * len(shown) < 0.04 * (clock.now - began) and len(shown) > 5


def test_what_came_last_is_drawn(clock, monkeypatch):
    monkeypatch.setattr(display, "is_interactive", lambda: True)
    monkeypatch.setattr(live.LiveLoss, "_show", lambda self, png: None)
    drawn = []
    monkeypatch.setattr(
        live.LiveLoss,
        "_draw",
        lambda self, n_steps: drawn.append({part: dict(some) for part, some in self.losses.items()}),
    )
    losses(live.LiveLoss(), 10, clock, 0.001)
    assert max(drawn[-1]["train"]) == 10 and list(drawn[-1]["validation"]) == [10]


def test_a_training_of_no_steps_is_drawn_without_a_warning(monkeypatch, recwarn):
    monkeypatch.setattr(display, "is_interactive", lambda: True)
    monkeypatch.setattr(live.LiveLoss, "_show", lambda self, png: None)
    live.LiveLoss()("validation", {"step": 0, "loss": 1.0}, 0)
    assert not recwarn.list


@pytest.mark.slow
def test_a_kernel_shows_it_and_an_interrupt_does_no_harm():
    """In a real kernel, as Jupyter and as nbclient ask it; the third cell stops in the middle of drawing."""
    code = r"""
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
train = '''
from lmlab.viz import live
curve = live.LiveLoss()
for step in range(1, 4):
    curve._due = 0
    curve("train", {"step": step, "loss": 1 / step}, 3)
'''
cut = train + '''
def stop(*_): raise KeyboardInterrupt
before, live.plots.loss_curve = live.plots.loss_curve, stop
try:
    curve("train", {"step": 4, "loss": 0.2}, 3)
finally:
    live.plots.loss_curve = before
    curve("train", {"step": 4, "loss": 0.2}, 3)
'''
for source, allow in ((train, True), (train, False), (cut, True)):
    said = []
    client.execute_interactive(source, timeout=60, allow_stdin=allow, output_hook=lambda m: said.append(
        m["msg_type"] + ("!" if "image/png" in m["content"].get("data", {}) else "")))
    print([kind for kind in said if "display" in kind or kind == "error"])
client.stop_channels(); manager.shutdown_kernel(now=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    three = ["display_data!", "update_display_data!", "update_display_data!"]
    assert done.stdout.strip().split("\n") == [
        str(three),
        "[]",
        str([*three, "update_display_data!", "error"]),
    ], done.stdout
