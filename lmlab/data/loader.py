"""Training batches from token arrays of any size, shuffled anew in each epoch, resumable at any point."""

import hashlib
import mmap
import os
from collections.abc import Callable, Sequence

import numpy as np

from lmlab.models.types import Tensor


class WindowLoader:
    """Training batches from token arrays; batch k is a pure function of ``seed`` and k, and k is endless.

    arrays: 1-D integer arrays, as ``open_shards`` gives them. A window has block_size + 1 tokens; the targets
    are its last block_size. Windows begin every block_size tokens of each array, the rest at its end being
    left out; with ``eos``, at the eos before every document, wherever so many tokens follow (the
    positions take 8 bytes of memory for each document).
    Batch k holds the windows from k * batch_size on of an endless row, in which each epoch has all windows
    once in another shuffled order. So a checkpoint keeps the next k alone, and rank r of W takes the batches
    with k % W == r.

    Memory: the order is computed (see ``permuted``) and the tokens stay on disk. A map from ``open_shards``
    is read by ``pread`` and not through its pages: a page touched there stays resident, with up to 2 MB
    around it, until the whole file is; to hand pages back after each batch took five times as long.
    Raises ValueError for too few tokens for one window, or an eos that is not there.
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray],
        block_size: int,
        batch_size: int,
        seed: int = 0,
        eos: int | None = None,
    ):
        self.block_size, self.batch_size, self.seed = block_size, batch_size, seed
        longest = max(map(len, arrays), default=0)
        if longest <= block_size:
            raise ValueError(
                f"the longest array has {longest:,} tokens; "
                f"lower block_size, as a window needs {block_size + 1:,}"
            )
        self._readers = [_reader(array) for array in arrays]
        # where no window begins any more, as too few tokens follow
        lasts = [len(array) - block_size for array in arrays]
        self._starts = [
            range(0, last, block_size) if eos is None else _document_starts(read, last, eos)
            for read, last in zip(self._readers, lasts, strict=True)
        ]
        self._ends = np.cumsum([len(starts) for starts in self._starts])
        if len(self) == 0:
            raise ValueError(f"nowhere in the data do {block_size:,} tokens follow the EOS, {eos}")

    def __len__(self) -> int:
        """Windows in one epoch."""
        return int(self._ends[-1])

    def batch(self, k: int) -> tuple[Tensor, Tensor]:
        """Micro-batch number k: (inputs, targets), torch int64, both (batch_size, block_size)."""
        import torch

        tokens = np.empty((self.batch_size, self.block_size + 1), np.int64)
        for row, window in enumerate(self.windows(k)):
            tokens[row] = self._tokens(int(window))
        both = torch.from_numpy(tokens)  # (B, T + 1)
        return both[:, :-1], both[:, 1:]

    def windows(self, k: int) -> np.ndarray:
        """The numbers, (batch_size,) below len(self), of the windows in micro-batch k."""
        n = len(self)
        indices = k * self.batch_size + np.arange(self.batch_size)
        epochs = indices // n
        # a batch may begin in one epoch and end in the next, which is shuffled otherwise
        parts = [permuted(indices[epochs == epoch] % n, n, self.seed, epoch) for epoch in np.unique(epochs)]
        return np.concatenate(parts)

    def _tokens(self, window: int) -> np.ndarray:
        shard = int(np.searchsorted(self._ends, window, side="right"))
        # window less the end is negative: the starts of this array are counted from its last
        start = int(self._starts[shard][window - int(self._ends[shard])])
        return self._readers[shard](start, start + self.block_size + 1)


def _reader(array: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """What gives the tokens from one position up to another: of a whole read-only map from its file.

    A part of a map is read through its pages, as numpy does not say where in the file it lies; so is every
    map where the system has no pread.
    """
    whole_map = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.mode == "r"
    if not (whole_map and hasattr(os, "pread")):
        return lambda start, end: array[start:end]
    # unbuffered: a buffer would read more than the window, and pread needs only the descriptor
    file, size = open(array.filename, "rb", buffering=0), array.itemsize

    def read(start: int, end: int) -> np.ndarray:
        raw = os.pread(file.fileno(), (end - start) * size, array.offset + start * size)
        if len(raw) < (end - start) * size:
            raise ValueError(f"{array.filename} has become shorter while it was read; prepare it again")
        return np.frombuffer(raw, array.dtype)

    return read


def _document_starts(read: Callable[[int, int], np.ndarray], last: int, eos: int) -> np.ndarray:
    """The positions below ``last`` at which a token is eos: (n_documents,) of int64."""
    # a piece at a time, so that memory does not grow with the array
    step, found = 1 << 20, [np.empty(0, np.int64)]
    for begin in range(0, last, step):
        found.append(np.flatnonzero(read(begin, min(begin + step, last)) == eos) + begin)
    return np.concatenate(found)


def permuted(index: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """What a shuffle of range(n), another one for each seed and epoch, has at ``index``; (len(index),) int64.

    A Feistel network on the bits of the index, walked on until it falls below n (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains"): a bijection that is computed and takes no memory.
    """
    bits = (n - 1).bit_length()
    low = bits // 2
    # the 64 bytes of a SHA-512 are the keys of the eight rounds
    keys = np.frombuffer(hashlib.sha512(f"{seed} {epoch}".encode()).digest(), "<u8")
    values = _feistel(np.asarray(index, np.uint64), low, bits - low, keys)
    # fewer than half of all values are outside, as n > 2 ** (bits - 1), so this ends soon
    while (outside := values >= n).any():
        values[outside] = _feistel(values[outside], low, bits - low, keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, low: int, high: int, keys: np.ndarray) -> np.ndarray:
    """Eight rounds that mix the high bits into the low ones, then the low into the high, and so on."""
    low_bits, high_bits = np.uint64((1 << low) - 1), np.uint64((1 << high) - 1)
    right, left = values & low_bits, values >> np.uint64(low)
    for number, key in enumerate(keys):
        if number % 2:
            right = right ^ (_mixed(left ^ key) & low_bits)
        else:
            left = left ^ (_mixed(right ^ key) & high_bits)
    return left << np.uint64(low) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): every bit depends on every bit."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
