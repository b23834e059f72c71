"""The loader: every window once in each epoch, from the number of the batch alone, in little memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lmlab.data.loader import WindowLoader, permuted

# --- the shuffled order ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 100, 255, 256, 257, 1000, 65_535, 65_537])
def test_the_order_is_a_permutation(n):
    for epoch in range(3):
        assert np.array_equal(np.sort(permuted(np.arange(n), n, 5, epoch)), np.arange(n))


def test_a_part_of_the_order_is_that_part_and_large_sizes_work():
    index = np.array([7, 0, 300])
    assert np.array_equal(permuted(index, 1000, 1, 2), permuted(np.arange(1000), 1000, 1, 2)[index])
    n = 2**40 + 1
    values = permuted(np.arange(10_000) * 1_000_003, n, 0, 0)
    assert len(set(values.tolist())) == 10_000
    assert 0 <= values.min() < n / 100
    assert n - n / 100 < values.max() < n


@pytest.mark.parametrize("n", [1000, 4097, 20_000])
def test_the_order_looks_shuffled(n):
    orders = np.stack([permuted(np.arange(n), n, seed, epoch) for seed in range(3) for epoch in range(3)])
    limit = 5 / np.sqrt(n)  # five standard deviations of the correlation of independent values
    assert np.abs(np.corrcoef([np.arange(n), *orders]) - np.eye(10)).max() < limit
    for order in orders:
        steps = np.diff(order)
        assert (np.abs(steps) == 1).sum() < 15  # two are expected
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < limit
        tenths = np.histogram2d(np.arange(n), order, bins=10)[0]
        chi_square = ((tenths - n / 100) ** 2 / (n / 100)).sum()
        assert 81 - 5 * np.sqrt(162) < chi_square < 81 + 5 * np.sqrt(162)


def test_small_orders_all_occur():
    orders = {tuple(permuted(np.arange(3), 3, seed, 0).tolist()) for seed in range(100)}
    assert len(orders) == 6


# --- batches --------------------------------------------------------------------------------------


@pytest.fixture
def arrays():
    """Three arrays whose every token says where it stands; 10, 0 and 6 windows of 4."""
    return [
        np.arange(0, 43, dtype=np.uint16),
        np.arange(100, 104, dtype=np.uint16),
        np.arange(200, 225, dtype=np.int32),
    ]


def firsts(loader, ks):
    return [int(value) for k in ks for value in loader.batch(k)[0][:, 0]]


def test_each_window_comes_once_in_each_epoch(arrays):
    loader = WindowLoader(arrays, block_size=4, batch_size=2, seed=3)
    assert len(loader) == 16
    windows = [*range(0, 40, 4), *range(200, 224, 4)]
    epochs = [firsts(loader, range(8 * epoch, 8 * epoch + 8)) for epoch in range(4)]
    assert all(sorted(epoch) == windows for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert firsts(WindowLoader(arrays, 4, 2, seed=4), range(8)) != epochs[0]


def test_targets_are_the_inputs_shifted(arrays):
    inputs, targets = WindowLoader(arrays, block_size=4, batch_size=3).batch(0)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (3, 4)
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs - inputs[:, :1], torch.arange(4).expand(3, 4))


def test_the_row_of_windows_does_not_depend_on_the_batch_size_and_batches_cross_epochs(arrays):
    row = firsts(WindowLoader(arrays, 4, 1, seed=9), range(80))
    assert firsts(WindowLoader(arrays, 4, 5, seed=9), range(16)) == row
    assert firsts(WindowLoader(arrays, 4, 40, seed=9), range(2)) == row


def test_a_batch_is_a_pure_function_of_its_number(arrays):
    loader = WindowLoader(arrays, 4, 3, seed=1)
    first = [loader.batch(k)[0] for k in range(6)]
    for k in (5, 0, 3):
        assert torch.equal(loader.batch(k)[0], first[k])
        assert torch.equal(WindowLoader(arrays, 4, 3, seed=1).batch(k)[0], first[k])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_take_disjoint_windows_and_together_all(arrays, world):
    loader = WindowLoader(arrays, 4, 2)
    ranks = [firsts(loader, range(rank, 8, world)) for rank in range(world)]
    assert sorted(sum(ranks, [])) == [*range(0, 40, 4), *range(200, 224, 4)]


def test_with_eos_windows_begin_where_documents_begin(maps):
    loader = WindowLoader(maps, block_size=64, batch_size=1, eos=0)
    found = sorted(tuple(window[0].tolist()) for window in (loader.batch(k)[0] for k in range(len(loader))))
    wanted = [
        tuple(array[start : start + 64].tolist())
        for array in maps
        for start in range(len(array) - 64)
        if array[start] == 0
    ]
    assert found == sorted(wanted)
    assert len(loader) > 50


def test_document_windows_begin_at_every_eos_that_enough_tokens_follow():
    tokens = np.array([0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 0, 8], np.uint16)
    loader = WindowLoader([tokens], block_size=4, batch_size=1, eos=0)
    found = sorted(loader.batch(k)[0][0].tolist() for k in range(len(loader)))
    assert found == [[0, 1, 2, 0], [0, 3, 4, 5], [0, 6, 7, 0]]  # not at 10: one token follows


def test_too_little_data_is_refused(arrays):
    with pytest.raises(ValueError, match="43 tokens.* block_size.* 51"):
        WindowLoader(arrays, 50, 2)
    with pytest.raises(ValueError, match="0 tokens"):
        WindowLoader([], 4, 2)
    assert len(WindowLoader(arrays, 42, 1)) == 1
    with pytest.raises(ValueError, match="999"):
        WindowLoader(arrays, 4, 2, eos=999)


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def maps(tmp_path):
    """Two files of 3,000 and 2,001 tokens after 256 other bytes, as read-only maps."""
    found, rng = [], np.random.default_rng(0)
    for n in (3_000, 2_001):
        tokens = rng.integers(0, 50, n, dtype=np.uint16)
        (tmp_path / f"{n}").write_bytes(bytes(range(256)) + tokens.tobytes())
        found.append(np.memmap(tmp_path / f"{n}", np.uint16, "r", 256, (n,)))
    return found


def test_maps_are_read_by_pread(maps, monkeypatch):
    monkeypatch.setattr(os, "pread", lambda file, size, offset: b"")
    with pytest.raises(ValueError, match="has become shorter"):
        WindowLoader(maps, 32, 8).batch(0)


def test_a_file_that_shrinks_under_the_loader_is_an_error_and_no_crash(maps, tmp_path):
    loader = WindowLoader(maps[:1], 64, 4)
    os.truncate(tmp_path / "3000", 300)
    with pytest.raises(ValueError, match="3000 has become shorter"):
        loader.batch(0)


@pytest.mark.parametrize("part", [slice(None), slice(7, 1500), slice(None, None, 2)])
def test_maps_and_parts_of_maps_give_what_memory_gives(maps, part):
    parts = [array[part] if part != slice(None) else array for array in maps]
    mapped, held = (WindowLoader(arrays, 32, 8) for arrays in (parts, [np.array(array) for array in parts]))
    assert len(mapped) == len(held)
    assert all(torch.equal(mapped.batch(k)[1], held.batch(k)[1]) for k in range(8))


MEMORY = """
import sys
import numpy as np, psutil
from lmlab.data.loader import WindowLoader
tokens = np.memmap(sys.argv[1], np.uint16, "r")
process = psutil.Process()
for eos in (None, 0):
    loader = WindowLoader([tokens], block_size=1024, batch_size=16, eos=eos)
    loader.batch(0)
    before, most = process.memory_info().rss, 0
    for k in range(1, 200):
        loader.batch(k)
        most = max(most, process.memory_info().rss)
    print(most - before, len(loader))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """3,200 windows from all over 64 MB; read through the map, nearly all of it becomes resident."""
    path, block = tmp_path / "tokens", np.arange(1 << 19, dtype=np.uint16)
    path.write_bytes(block.tobytes() * 64)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)],
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    (grown, n), (grown_eos, n_eos) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert n > 30_000
    assert n_eos > 500
    assert max(grown, grown_eos) < 16e6
