"""What may not end a run of many hours: a hang-up that was to be ignored, and a reader that has gone."""

import os
import signal
import sys
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


class _Unbreakable:
    """A stream whose reader may go away, as with ``| head``: from then on all goes to /dev/null."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        """As of a stream; a text that nobody reads counts as written."""
        # BrokenPipeError is an OSError
        try:
            return self._stream.write(text)
        except OSError:
            discard(self._stream)
            return len(text)

    def flush(self) -> None:
        """As of a stream."""
        try:
            self._stream.flush()
        except OSError:
            discard(self._stream)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def discard(stream: TextIO) -> None:
    """Has a stream's file, of which somebody may hold a copy, be /dev/null."""
    # the file descriptor itself: C code and child processes write to it too
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


@contextmanager
def unbreakable_output() -> Iterator[None]:
    """Lets no ``print`` fail, for the time of the block: output that nobody reads must not end a training."""
    # None where there is no console, as under pythonw
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Unbreakable(stream) for stream in streams)
    try:
        yield
    finally:
        # what is still buffered must meet the wrapper, not the exit of the interpreter
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = streams
