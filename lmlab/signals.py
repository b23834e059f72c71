"""Signals that a run heeds, and output whose reader has gone."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def handle_signals(numbers: Iterable[int], handler: Callable) -> Iterator[None]:
    """Sets a handler for signals, for the time of the block.

    Those that this process was started to ignore stay ignored: ``nohup`` does that with SIGHUP, and a shell
    with the SIGINT of what runs in the background.
    """
    # getsignal gives None for a handler that was not set from Python
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [number for number, earlier in before.items() if earlier != signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL if before[number] is None else before[number])


def discard(stream: TextIO) -> None:
    """Has a stream's file, of which somebody may hold a copy, be /dev/null."""
    # the file descriptor itself: C code and child processes write to it too
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
