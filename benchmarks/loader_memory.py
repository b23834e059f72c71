"""Memory and batches in a second: WindowLoader over a map against all tokens in one int64 tensor.

Each runs in a process of its own, over the same file of random tokens, which is in the system's cache when it
is read; the first round is a warm-up. Memory is what the process holds beyond its imports: at the end of
reading, and the most that it ever held. Run: python benchmarks/loader_memory.py
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

BLOCK_SIZE, BATCH_SIZE, N_BATCHES, ROUNDS = 1024, 8, 500, 5


def loader_batches(path: str):
    from lmlab.loader import WindowLoader

    return WindowLoader([np.memmap(path, np.uint16, "r")], BLOCK_SIZE, BATCH_SIZE).batch


def tensor_batches(path: str):
    """The indexing of train.random_windows, with windows that begin where the loader's do."""
    import torch

    tokens = torch.from_numpy(np.fromfile(path, np.uint16).astype(np.int64))
    n = (len(tokens) - 1) // BLOCK_SIZE
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)) * BLOCK_SIZE
    offsets = torch.arange(BLOCK_SIZE + 1)

    def batch(k: int):
        window = tokens[order[torch.arange(k * BATCH_SIZE, (k + 1) * BATCH_SIZE) % n][:, None] + offsets]
        return window[:, :-1], window[:, 1:]

    return batch


WAYS = {"WindowLoader": loader_batches, "int64 tensor": tensor_batches}


def measure(way: str, path: str) -> tuple[float, float, float]:
    """Megabytes held and at most, and batches a second, the median of the rounds."""
    import resource

    import torch

    torch.arange(10)[torch.randperm(10)]  # what torch sets up at first use does not count
    process, rates = psutil.Process(), []
    before = process.memory_info().rss
    batch = WAYS[way](path)
    for round_ in range(ROUNDS + 1):
        began = time.perf_counter()
        for k in range(round_ * N_BATCHES, (round_ + 1) * N_BATCHES):
            batch(k)
        rates.append(N_BATCHES / (time.perf_counter() - began))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return ((process.memory_info().rss - before) / 1e6, max(0, peak - before) / 1e6,
            statistics.median(rates[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-tokens", type=int, default=100_000_000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    print(f"{arguments.n_tokens:,} tokens, batches of {BATCH_SIZE} x {BLOCK_SIZE}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        np.random.default_rng(0).integers(0, 50_257, arguments.n_tokens, dtype=np.uint16).tofile(path)
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, "--measure", way, str(path)], text=True,
                                  stdout=subprocess.PIPE, check=True)
            print("{:14}{:8,.0f} MB held{:8,.0f} MB at most{:10,.0f} batches/s".format(
                way, *json.loads(done.stdout)))


if __name__ == "__main__":
    main()
