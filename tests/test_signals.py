"""A hang-up does not end a run under nohup, and a reader that goes away ends a command quietly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmlab.signals import handle_signals

ROOT = Path(__file__).parents[1]
SHORT = [
    "max_steps=30",
    "n_docs=60",
    "eval_docs=5",
    "n_layer=1",
    "n_head=2",
    "n_embd=16",
    "batch_size=2",
    "warmup_steps=2",
    "eval_every=10",
    "checkpoint_every=30",
    "log_every=5",
]


def start_pretraining(out: Path, stdout, **choices) -> subprocess.Popen:
    settings = [part for text in SHORT for part in ("--set", text)]
    return subprocess.Popen(
        [sys.executable, "-m", "lmlab", "pretrain", "--out", str(out), *settings],
        cwd=ROOT,
        stdout=stdout,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        **choices,
    )


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [True, False])
def test_a_hang_up_ends_a_run_only_without_nohup(tmp_path, nohup):
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    process = start_pretraining(tmp_path, subprocess.PIPE, text=True, preexec_fn=ignore)
    for line in process.stdout:
        if line.startswith("step 0 of"):  # it trains
            process.send_signal(signal.SIGHUP)
    assert process.wait() == (0 if nohup else 130)
    assert (tmp_path / "02_gpt2_from_scratch" / "model" / "model.safetensors").exists() is nohup


@pytest.mark.slow
@pytest.mark.parametrize("command", [["recipes"], ["plan", "04"]])
def test_a_command_that_only_prints_ends_quietly(command):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "lmlab", *command],
            cwd=ROOT,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_ignored_stays_ignored():
    heard = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with handle_signals([signal.SIGHUP, signal.SIGTERM], lambda *_: heard.append(1)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert heard == [1]
        assert (
            signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            and signal.getsignal(signal.SIGTERM) == before[1]
        )
    finally:
        signal.signal(signal.SIGHUP, before[0])
