"""What the benchmarks share: contestants take turns, and what was measured is kept with its conditions."""

import os
import platform
import statistics
import time
from collections.abc import Callable

MINIMUM = 5  # rounds; of fewer the median says little


def alternate(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, in every round each contestant once: A, B, C, A, B, C, ...

    Whatever slows the machine for a while slows them all. Each must have been warmed up before.
    """
    if rounds < MINIMUM:
        raise ValueError(f"rounds got {rounds}; give at least {MINIMUM}")
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(slower: list[float], faster: list[float]) -> float:
    """The median over the rounds of how many times as long the first took as the second."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def conditions(**more) -> dict:
    """What the figures depend on: machine, threads, versions, and ``more``."""
    from importlib.metadata import version

    import torch

    from lmlab.hardware import describe_machine

    machine = describe_machine()
    return {
        "device": machine.device_name,
        "cores": machine.n_cpu,
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        **more,
    }
