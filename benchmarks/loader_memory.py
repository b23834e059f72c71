"""Memory of a data loader: WindowLoader over a file of tokens, against all tokens in one int64 tensor.

python benchmarks/loader_memory.py [--n-tokens 100000000]

Each runs in processes of its own, over the same file. Memory is what a process holds beyond its imports.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from abab import MINIMUM, conditions

MERGE_STRATEGIES = ("lmlab WindowLoader", "int64 tensor")


def batches(way: str, path: str, block_size: int, batch_size: int):
    """A function from the number of a batch to its (inputs, targets)."""
    import torch

    from lmlab.data.loader import WindowLoader

    if way == MERGE_STRATEGIES[0]:
        return WindowLoader([np.memmap(path, np.uint16, "r")], block_size, batch_size).batch
    tokens = torch.from_numpy(np.fromfile(path, np.uint16).astype(np.int64))
    n = (len(tokens) - 1) // block_size
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)) * block_size
    offsets = torch.arange(block_size + 1)

    def batch(k: int):
        window = tokens[order[torch.arange(k * batch_size, (k + 1) * batch_size) % n][:, None] + offsets]
        return window[:, :-1], window[:, 1:]

    return batch


def measure(way: str, path: str, block_size: int, batch_size: int, n_batches: int) -> dict:
    """What one process finds: megabytes beyond the imports, and batches a second."""
    import psutil
    import torch

    from lmlab.data import loader

    assert loader  # imported before memory is looked at
    torch.arange(10)[torch.randperm(10)]
    process = psutil.Process()
    before, batch = process.memory_info().rss, batches(way, path, block_size, batch_size)
    for k in range(20):  # the warm-up
        batch(k)
    began = time.perf_counter()
    for k in range(n_batches):
        batch(k)
    return {
        "batches_per_second": n_batches / (time.perf_counter() - began),
        "resident_mb": (process.memory_info().rss - before) / 1e6,
    }


def run(
    n_tokens: int = 100_000_000,
    block_size: int = 1024,
    batch_size: int = 8,
    n_batches: int = 500,
    rounds: int = MINIMUM,
) -> dict:
    """{"conditions", "results": name -> resident_mb, batches_per_second}: medians over rounds."""
    found = {way: [] for way in MERGE_STRATEGIES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        rng = np.random.default_rng(0)
        with open(path, "wb") as file:
            for begin in range(0, n_tokens, 1_000_000):
                rng.integers(0, 50_257, min(1_000_000, n_tokens - begin), dtype=np.uint16).tofile(file)
        for _ in range(rounds):
            for way in MERGE_STRATEGIES:
                arguments = json.dumps([way, str(path), block_size, batch_size, n_batches])
                done = subprocess.run(
                    [sys.executable, __file__, "--measure", arguments],
                    text=True,
                    capture_output=True,
                    check=True,
                )
                found[way].append(json.loads(done.stdout))
    results = {
        way: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for way, rows in found.items()
    }
    return {
        "conditions": conditions(
            n_tokens=n_tokens,
            block_size=block_size,
            batch_size=batch_size,
            batches=n_batches,
            rounds=rounds,
            order="in turn",
            statistic="median",
            warm_up="20 batches; the file is in the system's cache",
        ),
        "results": results,
    }


def table(measured: dict) -> str:
    lines = [f"{'':<22}{'MB held':>10}{'batches/s':>12}"]
    for name, row in measured["results"].items():
        lines.append(f"{name:<22}{row['resident_mb']:>10,.0f}{row['batches_per_second']:>12,.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-tokens", type=int, default=100_000_000)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    measured = run(arguments.n_tokens)
    print(measured["conditions"], table(measured), sep="\n")


if __name__ == "__main__":
    main()
