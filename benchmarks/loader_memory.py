"""Memory and batches in a second: WindowLoader over shards against all tokens in one int64 tensor.

Each runs in a process of its own, over the same file of random tokens. Memory is what the process holds
beyond its imports: at the end of reading, and the most that it ever held.
Run: python benchmarks/loader_memory.py
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

WAYS = ("WindowLoader", "int64 tensor")


def _batches(way: str, path: str, block_size: int, batch_size: int):
    """A function from the number of a batch to its (inputs, targets)."""
    import torch

    from lmlab.shards import WindowLoader

    if way == "WindowLoader":
        return WindowLoader([np.memmap(path, np.uint16, "r")], block_size, batch_size, seed=0).batch
    # the indexing of train.random_windows, with windows that begin where the others do
    tokens = torch.from_numpy(np.fromfile(path, np.uint16).astype(np.int64))
    n = (len(tokens) - 1) // block_size
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)) * block_size
    offsets = torch.arange(block_size + 1)

    def batch(k: int):
        window = tokens[order[torch.arange(k * batch_size, (k + 1) * batch_size) % n][:, None] + offsets]
        return window[:, :-1], window[:, 1:]

    return batch


def _measure(way: str, path: str, block_size: int, batch_size: int, n_batches: int, rounds: int) -> dict:
    """What one process prints: megabytes beyond the imports, and batches a second, median of rounds."""
    import psutil
    import torch

    from lmlab import shards, train

    assert shards and train  # imported before memory is looked at
    torch.arange(10)[torch.randperm(10)]
    process, rates = psutil.Process(), []
    before = process.memory_info().rss
    batch = _batches(way, path, block_size, batch_size)
    for round_ in range(rounds + 1):
        began = time.perf_counter()
        for k in range(round_ * n_batches, (round_ + 1) * n_batches):
            batch(k)
        rates.append(n_batches / (time.perf_counter() - began))
    held = process.memory_info().rss
    return {"megabytes": (held - before) / 1e6, "peak_megabytes": max(0, _peak() - before) / 1e6,
            "batches_per_second": statistics.median(rates[1:])}


def _peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write_tokens(path: Path, n_tokens: int) -> None:
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for begin in range(0, n_tokens, 1_000_000):
            rng.integers(0, 50_257, min(1_000_000, n_tokens - begin), dtype=np.uint16).tofile(file)


def run(n_tokens: int = 100_000_000, block_size: int = 1024, batch_size: int = 8, n_batches: int = 500,
        rounds: int = 5) -> dict:
    """Results and conditions. The file is in the system's cache when it is read; round one is a warm-up."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        _write_tokens(path, n_tokens)
        for way in WAYS:
            arguments = [way, str(path), block_size, batch_size, n_batches, rounds]
            done = subprocess.run([sys.executable, __file__, "--measure", json.dumps(arguments)], text=True,
                                  capture_output=True, check=True)
            rows.append({"name": way} | json.loads(done.stdout))
    conditions = {"n_tokens": n_tokens, "block_size": block_size, "batch_size": batch_size,
                  "batches_per_round": n_batches, "rounds": rounds, "warmup_rounds": 1, "statistic": "median",
                  "cores": os.cpu_count(), "python": platform.python_version(), "torch": version("torch"),
                  "numpy": version("numpy"), "note": "warm file cache; memory beyond that after the imports"}
    return {"results": rows, "conditions": conditions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-tokens", type=int, default=100_000_000)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure(*arguments.measure)))
        return
    found = run(arguments.n_tokens)
    print("{n_tokens:,} tokens, batches of {batch_size} x {block_size}, median of {rounds}".format(
        **found["conditions"]))
    print(f"{'':16}{'MB held':>10}{'MB at most':>12}{'batches/s':>12}")
    for row in found["results"]:
        print(f"{row['name']:16}{row['megabytes']:10,.0f}{row['peak_megabytes']:12,.0f}"
              f"{row['batches_per_second']:12,.0f}")


if __name__ == "__main__":
    main()
