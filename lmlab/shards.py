"""Token shards on disk: texts of any size become binary files, and training batches are read from those.

``prepare_shards`` tokenises a stream of texts into files, ``open_shards`` maps them, ``WindowLoader`` cuts
batches from them. A set is one stream of tokens: eos, document, eos, document, ..., eos (as ``train.pack``
has it), cut every ``shard_tokens`` tokens; a document may span two files.

A file is a header of 256 bytes and its tokens, both little endian, tokens of 16 bits (as llm.c's files are).
Under its final name a file is whole: it is written as ``*.partial``, synced and renamed. Its header says
where the next file begins (document and token), so that a run that was stopped goes on exactly there.
"""

import hashlib
import json
import mmap
import os
import pickle
import queue
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

TOKEN = np.dtype("<u2")
MAX_VOCABULARY = 65_536  # ids that 16 bits can hold
HEADER_BYTES = 256
MAGIC, VERSION = b"lmlabtok", 1
NAME = re.compile(r"(train|validation)_(\d{6})\.bin")
REPORT_SECONDS = 30
_CHUNK_CHARACTERS = 256_000  # about 0.1 s of a core: enough to hide what a message costs, little to hold
_SAMPLE_DOCUMENTS = 64


# --- files ----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Header:
    """What a shard says of itself. Counts are of tokens, unless they say documents; hashes are sha256."""

    number: int  # place in the set, from 0
    n_tokens: int
    last: bool
    fingerprint: bytes  # of the tokenizer, see ``fingerprint``
    checksum: bytes  # of the tokens as they lie in the file
    source: bytes  # of the source's description
    next_document: int  # that the next shard begins in
    next_offset: int  # how many of its tokens, the eos before it included, this shard and earlier ones hold
    shard_tokens: int
    max_documents: int  # 0: no limit
    max_tokens: int  # 0: no limit

    _LAYOUT = struct.Struct("<8sI QQ? 32s32s32s QQ QQQ")

    def pack(self) -> bytes:
        fields = self._LAYOUT.pack(MAGIC, VERSION, *astuple(self)).ljust(HEADER_BYTES - 4, b"\0")
        return fields + zlib.crc32(fields).to_bytes(4, "little")

    @classmethod
    def read(cls, path: Path) -> "Header":
        """The header of a file, checked, with the file's size. Raises ValueError that names file and mend."""
        with open(path, "rb") as file:
            raw = file.read(HEADER_BYTES)
        if raw[:len(MAGIC)] != MAGIC:
            raise ValueError(f"{path} is no shard: it does not begin with {MAGIC.decode()!r}; "
                             "move it elsewhere, or give another folder")
        if len(raw) < HEADER_BYTES or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            raise _damaged(path, "its header is damaged")
        _, version, *fields = cls._LAYOUT.unpack_from(raw)
        if version != VERSION:
            raise ValueError(f"{path} has version {version}, this lmlab reads {VERSION}; "
                             "read it with the lmlab that wrote it, or give another folder")
        header = cls(*fields)
        expected, size = HEADER_BYTES + header.n_tokens * TOKEN.itemsize, path.stat().st_size
        if size != expected:
            raise _damaged(path, f"it has {size:,} bytes and should have {expected:,}")
        return header


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is damaged: {what}; delete it with the shards after it, "
                      "and prepare_shards makes them again")


def _verify(path: Path, header: Header) -> None:
    """Compares the tokens of a file with their checksum, block by block."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(HEADER_BYTES)
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.digest() != header.checksum:
        raise _damaged(path, "its tokens do not have the checksum of its header")


def _shard_files(folder: Path) -> list[tuple[Path, Header]]:
    """The shards of a folder in order, each checked on its own, and their numbering for gaps and doubles."""
    found = []
    for path in sorted(folder.glob("*.bin"), key=lambda path: (path.name[-10:], path.name)):
        header, name = Header.read(path), NAME.fullmatch(path.name)
        if not name or int(name[2]) != header.number:
            raise ValueError(f"{path} holds shard number {header.number} under another name; "
                             f"give it its name back: train_{header.number:06d}.bin (or validation_...)")
        if header.number != len(found):
            raise ValueError(f"{folder} has {path.name} where shard number {len(found)} should come; bring "
                             "back what is missing, or delete those after it and run prepare_shards again")
        found.append((path, header))
    return found


def open_shards(folder: str | Path, split: str, tokenizer=None, verify: bool = False) -> list[np.memmap]:
    """The shards of a split as read-only memory maps, each (n_tokens,) of uint16, in order.

    split: "train" or "validation". Headers, sizes and numbering are always checked; ``tokenizer``: also that
    it is the one that made them; ``verify``: also the checksums of the split, for which all of it is read.
    Raises ValueError that names the file, what is wrong and the mend.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"open_shards got split {split!r}; give 'train' or 'validation'")
    folder, shards = Path(folder), _shard_files(Path(folder))
    if not shards or not shards[-1][1].last:
        raise ValueError(f"{folder} holds {len(shards)} shards and no last one: the set is not finished; "
                         "run prepare_shards with the same arguments, which goes on where it stopped")
    wanted = None if tokenizer is None else fingerprint(tokenizer)
    for path, header in shards if wanted else ():
        _same(path, "tokenizer", header.fingerprint, wanted)
    chosen = [(path, header) for path, header in shards if path.name.startswith(split)]
    if not chosen:
        raise ValueError(f"{folder} has no {split} shard; prepare the set with validation=True")
    for path, header in chosen if verify else ():
        _verify(path, header)
    return [np.memmap(path, TOKEN, "r", HEADER_BYTES, (header.n_tokens,)) for path, header in chosen]


def _same(path: Path, what: str, there, wanted) -> None:
    if there != wanted:
        values = f" ({there:,}, not {wanted:,})" if isinstance(wanted, int) else ""
        raise ValueError(f"{path} was made with another {what}{values}; "
                         f"give the {what} that it was made with, or another folder")


# --- tokenizer ------------------------------------------------------------------------------------

def fingerprint(tokenizer) -> bytes:
    """sha256 over what decides the ids: model, normaliser, pre-tokeniser, added words and eos.

    Special tokens other than eos do not count, as texts are encoded without them; nor do padding, truncation
    and chat template.
    """
    parts = json.loads(_encoder(tokenizer).to_str())
    decisive = {name: parts[name] for name in ("normalizer", "pre_tokenizer", "model")}
    decisive["added"] = [token for token in parts["added_tokens"] if not token["special"]]
    decisive["eos"] = tokenizer.eos_token_id
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).digest()


def _encoder(tokenizer):
    """A copy of the ``tokenizers.Tokenizer`` inside, to which special tokens in texts are characters."""
    from tokenizers import Tokenizer

    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or tokenizer.eos_token_id is None:
        raise ValueError(f"shards need a fast tokenizer with an eos token, got {type(tokenizer).__name__}; "
                         "load one with load_tokenizer, and set its eos_token")
    largest = max(max(inner.get_vocab(with_added_tokens=True).values()), tokenizer.eos_token_id)
    if largest >= MAX_VOCABULARY:
        raise ValueError(f"the tokenizer has ids up to {largest:,}; shards hold 16 bits, ids below "
                         f"{MAX_VOCABULARY:,}: give a tokenizer with a smaller vocabulary, as GPT-2's")
    encoder = Tokenizer.from_str(inner.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True  # else a text that mentions <|endoftext|> would end there
    return encoder


class Encoded(NamedTuple):
    """Some documents, each as eos and its tokens: ids (n_tokens,) of uint16, lengths (n_documents,)."""

    tokens: np.ndarray
    lengths: np.ndarray


def _encode(encoder, eos: int, texts: list[str]) -> Encoded:
    # half a surrogate pair, which JSON can smuggle in, is no character: it becomes "?"
    clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    documents = [[eos, *found.ids] for found in encoder.encode_batch_fast(clean, add_special_tokens=False)]
    tokens = np.concatenate([np.array(document, TOKEN) for document in documents])
    return Encoded(tokens, np.array([len(document) for document in documents]))


def tokenise(texts: Iterable[str], tokenizer, n_processes: int | None = None) -> Iterator[Encoded]:
    """The texts in order, encoded in ``n_processes`` processes (None: one for each core), some at a time.

    At most two chunks of about 256,000 characters for each process are read ahead. The processes are started
    afresh, neither forked nor by ``multiprocessing``: so the threads of ``tokenizers`` cannot block, a script
    needs no ``if __name__ == "__main__"``, and a notebook, Linux and macOS behave alike.
    Special tokens inside a text are encoded as the characters that they are.
    Raises ValueError for an item that is no text, RuntimeError when a process ends before its work.
    """
    n_processes = n_processes or _cores()
    setup = (_encoder(tokenizer).to_str(), tokenizer.eos_token_id)
    workers = [_start_worker() for _ in range(n_processes)]
    pool, idle, asked = ThreadPoolExecutor(n_processes), queue.SimpleQueue(), deque()
    try:
        for worker in workers:
            _send(worker.stdin, setup)
            idle.put(worker)
        for chunk in _chunks(texts):
            asked.append(pool.submit(_ask, idle, chunk))
            if len(asked) > 2 * n_processes:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()
    finally:
        _stop(workers, pool)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk, size = [], 0
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a document is a {type(text).__name__} ({str(text)[:60]!r}); give texts")
        chunk.append(text)
        size += len(text) + 32  # an empty text takes room too
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


_WORKER = ("import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
           "from lmlab.shards import _serve; _serve()")


def _start_worker() -> subprocess.Popen:
    paths = json.dumps([str(Path(__file__).resolve().parents[1]), *map(str, sys.path)])
    return subprocess.Popen([sys.executable, "-c", _WORKER, paths], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})


def _serve() -> None:
    """The life of a worker: chunks of texts in on stdin, their tokens out on stdout, until stdin closes."""
    from tokenizers import Tokenizer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a notebook's interrupt is for the parent, which ends us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not come between the answers
    description, eos = pickle.load(sys.stdin.buffer)
    encoder = Tokenizer.from_str(description)
    encoder.encode_special_tokens = True  # not kept in the description
    try:
        while True:
            _send(answers, _answer(encoder, eos, pickle.load(sys.stdin.buffer)))
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):  # the parent ended, maybe in mid-sentence
        os._exit(0)


def _answer(encoder, eos: int, chunk: list[str]) -> Encoded | str:
    try:
        return _encode(encoder, eos, chunk)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _send(pipe, message) -> None:
    pickle.dump(message, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def _ask(idle: queue.SimpleQueue, chunk: list[str]) -> Encoded:
    worker = idle.get()
    try:
        _send(worker.stdin, chunk)
        answer = pickle.load(worker.stdout)
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise RuntimeError(f"a tokeniser process ended with exit code {worker.wait()}, perhaps for lack of "
                           "memory; run prepare_shards again with fewer n_processes, it goes on") from error
    if isinstance(answer, str):
        raise RuntimeError(f"a tokeniser process failed: {answer}")
    idle.put(worker)
    return answer


def _stop(workers: list[subprocess.Popen], pool: ThreadPoolExecutor) -> None:
    for worker in workers:
        worker.kill()  # they hold nothing, and a thread that waits for one wakes up
    pool.shutdown(cancel_futures=True)
    for worker in workers:
        worker.wait()
        worker.stdout.close()
        try:
            worker.stdin.close()
        except BrokenPipeError:  # half a chunk was still on its way
            pass


# --- preparing ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Plan:
    """What must be the same for a run to go on with the shards of another."""

    fingerprint: bytes
    source: bytes
    shard_tokens: int
    max_documents: int
    max_tokens: int
    validation: bool

    NAMES = {"fingerprint": "tokenizer", "max_documents": "n_docs", "max_tokens": "n_tokens"}

    def path(self, folder: Path, number: int) -> Path:
        return folder / f"{'validation' if self.validation and number == 0 else 'train'}_{number:06d}.bin"

    def check(self, path: Path, header: Header) -> None:
        for name, wanted in asdict(self).items():
            if name != "validation":
                _same(path, self.NAMES.get(name, name), getattr(header, name), wanted)
        expected = self.path(path.parent, header.number)
        if path != expected:
            raise ValueError(f"{path} should be {expected.name} with validation={self.validation}; "
                             f"give validation={not self.validation}, or another folder")


def prepare_shards(texts: Callable[[int], Iterator[str]], tokenizer, folder: str | Path, *, source: str,
                   shard_tokens: int = 100_000_000, n_processes: int | None = None, validation: bool = True,
                   n_docs: int | None = None, n_tokens: int | None = None, expected_tokens: int | None = None,
                   report: Callable[[str], None] = print) -> list[Path]:
    """Tokenises texts into shards of ``shard_tokens`` tokens (2 bytes each) in ``folder``; gives their paths.

    texts: called with a document number, gives the texts from there on, as
    ``lambda skip: stream_texts(source, skip=skip)``. source: a description of them; a folder keeps to one.
    validation: the first shard is validation_000000.bin, the others train_000001.bin and so on.
    n_docs, n_tokens: stop after so many documents, or with the document that reaches so many tokens.
    expected_tokens: of the whole set where it is known, for the disk need and the time left.
    Stopped at any point and called again with the same arguments it goes on after the last whole shard, to
    files that are the same byte for byte; a finished set is left as it is.
    Raises ValueError for a vocabulary over 65,536, too little room on the disk, a damaged or foreign .bin, or
    shards of another tokenizer, source or size.
    """
    for name, value in {"shard_tokens": shard_tokens, "n_processes": n_processes, "n_docs": n_docs,
                        "n_tokens": n_tokens, "expected_tokens": expected_tokens}.items():
        if value is not None and value < 1:
            raise ValueError(f"prepare_shards.{name} got {value}; give a positive number")
    plan = _Plan(fingerprint(tokenizer), hashlib.sha256(source.encode()).digest(), shard_tokens, n_docs or 0,
                 n_tokens or 0, validation)
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with _only_run(folder):
        shards = _resumable(folder, plan)
        if not (shards and shards[-1].last):
            total = _expected(texts, tokenizer, plan, expected_tokens)
            _write_set(texts, tokenizer, folder, plan, shards, n_processes, total, report)
        shards = _resumable(folder, plan)
    report(f"{folder}: {len(shards)} shards, {sum(shard.n_tokens for shard in shards):,} tokens, finished")
    return [plan.path(folder, shard.number) for shard in shards]


@contextmanager
def _only_run(folder: Path):
    """Refuses a second run in the same folder. The lock ends with the process, however that ends."""
    if os.name != "posix":
        yield
        return
    import fcntl

    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(place)
        raise ValueError(f"another run is preparing shards in {folder}; wait for it, "
                         "or give another folder") from error
    except OSError:
        pass  # some network disks have no locks
    try:
        yield
    finally:
        os.close(place)


def _resumable(folder: Path, plan: _Plan) -> list[Header]:
    """The headers of the whole shards that are there. Those of an unfinished set are read and verified."""
    shards = _shard_files(folder)
    for path, header in shards:
        plan.check(path, header)
        if not shards[-1][1].last:
            _verify(path, header)
    return [header for _, header in shards]


def _expected(texts, tokenizer, plan: _Plan, expected_tokens: int | None) -> int | None:
    """Tokens of the whole set: given, or from n_tokens, or n_docs and the mean of the first documents."""
    if expected_tokens is None and plan.max_documents:
        encoder, first = _encoder(tokenizer), list(islice(texts(0), _SAMPLE_DOCUMENTS))
        lengths = [len(encoder.encode(text, add_special_tokens=False)) + 1 for text in first]
        expected_tokens = round(sum(lengths) / max(1, len(first)) * plan.max_documents)
    limits = [tokens for tokens in (expected_tokens, plan.max_tokens) if tokens]
    return min(limits, default=None)


def _check_room(folder: Path, plan: _Plan, written: int, total: int | None, report) -> None:
    tokens = plan.shard_tokens if total is None else max(0, total - written)
    need, free = tokens * TOKEN.itemsize + HEADER_BYTES, shutil.disk_usage(folder).free
    what = "at least one shard, its length being unknown," if total is None else f"about {tokens:,} tokens"
    report(f"{folder}: {what} to write: {need / 1e9:,.2f} GB; free: {free / 1e9:,.2f} GB")
    if need > free:
        raise ValueError(f"{folder} has {free:,} bytes free and {need:,} are needed for {tokens:,} tokens; "
                         "free some, give a folder on another disk, or a smaller n_tokens or shard_tokens")


def _write_set(texts, tokenizer, folder, plan, shards, n_processes, total, report) -> None:
    written = sum(shard.n_tokens for shard in shards)
    _check_room(folder, plan, written, total, report)
    first, offset = (shards[-1].next_document, shards[-1].next_offset) if shards else (0, 0)
    if shards:
        report(f"{folder}: goes on after {len(shards)} whole shards, at document {first:,}")
    remaining = islice(texts(first), plan.max_documents - first if plan.max_documents else None)
    writer = _Writer(folder, plan, len(shards), _Progress(written, total, report))
    chunks = tokenise(remaining, tokenizer, n_processes)
    try:
        for chunk in chunks:
            ends = np.cumsum(chunk.lengths)
            reached = _stop_after(plan, written - offset + ends)
            writer.write(chunk.tokens[offset:ends[reached]], first, ends, offset)
            written += ends[reached] - offset
            first, offset = first + reached + 1, 0
            if plan.max_tokens and written >= plan.max_tokens:
                break
        writer.finish(tokenizer.eos_token_id, first)
    finally:
        chunks.close()
        writer.close()


def _stop_after(plan: _Plan, totals: np.ndarray) -> int:
    """The place, among documents after which the set has ``totals`` tokens, of the last one to write."""
    if not plan.max_tokens:
        return len(totals) - 1
    return min(int(np.searchsorted(totals, plan.max_tokens)), len(totals) - 1)


class _Writer:
    """Cuts a stream of tokens into files. A full file is closed by the token after it, which says where the
    next one begins; so the eos that ends the set may be one token more than ``shard_tokens``."""

    def __init__(self, folder: Path, plan: _Plan, number: int, progress: "_Progress"):
        self.folder, self.plan, self.number, self.progress, self.file = folder, plan, number, progress, None
        self._open()

    def _open(self) -> None:
        self.path = self.plan.path(self.folder, self.number)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.file = open(self.partial, "wb")
        self.file.write(bytes(HEADER_BYTES))
        self.count, self.digest = 0, hashlib.sha256()

    def write(self, tokens: np.ndarray, document: int, ends: np.ndarray, offset: int) -> None:
        """tokens: those of documents from number ``document`` on, ending at ``ends`` if ``offset`` more stood
        before them."""
        done = 0
        while done < len(tokens):
            if self.count == self.plan.shard_tokens:
                place = int(np.searchsorted(ends, offset + done, side="right"))
                begun = offset + done - (int(ends[place - 1]) if place else 0)
                self._complete(document + place, begun, last=False)
                self.number += 1
                self._open()
            part = tokens[done:done + self.plan.shard_tokens - self.count]
            self._append(part)
            done += len(part)

    def _append(self, part: np.ndarray) -> None:
        self.file.write(part.data)
        self.digest.update(part.data)
        self.count += len(part)
        self.progress.add(len(part))

    def finish(self, eos: int, document: int) -> None:
        """Ends the last document and with it the set. Raises ValueError where nothing is left to train on."""
        if self.count == 0:
            raise ValueError("the source gave no text; give one that has documents")
        if self.plan.validation and self.number == 0:
            raise ValueError(f"the whole set, {self.count + 1:,} tokens, fits into the validation shard of "
                             f"{self.plan.shard_tokens:,}; give a smaller shard_tokens or validation=False")
        self._append(np.array([eos], TOKEN))
        self._complete(document, 0, last=True)

    def _complete(self, next_document: int, next_offset: int, last: bool) -> None:
        plan = self.plan
        header = Header(self.number, self.count, last, plan.fingerprint, self.digest.digest(), plan.source,
                        next_document, next_offset, plan.shard_tokens, plan.max_documents, plan.max_tokens)
        self.file.seek(0)
        self.file.write(header.pack())
        self.file.flush()
        os.fsync(self.file.fileno())  # first the bytes, then the name
        self.file.close()
        os.replace(self.partial, self.path)
        _sync_folder(self.folder)
        self.progress.line(f"wrote {self.path.name}")

    def close(self) -> None:
        """Removes what is not whole; a run that is killed leaves it, and the next one writes over it."""
        self.file.close()
        self.partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a new name last through a power cut, where the system can."""
    if os.name != "posix":
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


class _Progress:
    def __init__(self, written: int, total: int | None, report: Callable[[str], None]):
        self.before = self.written = written
        self.total, self.report = total, report
        self.began = self.told = time.perf_counter()

    def add(self, tokens: int) -> None:
        self.written += tokens
        if time.perf_counter() - self.told >= REPORT_SECONDS:
            self.line("tokenising")

    def line(self, what: str) -> None:
        self.told = time.perf_counter()
        rate = (self.written - self.before) / max(self.told - self.began, 1e-9)
        left = ""
        if self.total and rate:
            left = f", about {max(0, self.total - self.written) / rate / 60:,.1f} min left"
        self.report(f"{what}: {self.written:,} tokens, {rate:,.0f} tokens/s{left}")


# --- loading --------------------------------------------------------------------------------------

class WindowLoader:
    """Training batches from token arrays; batch k is a pure function of ``seed`` and k, and k is endless.

    arrays: 1-D integer arrays, as ``open_shards`` gives them. A window has block_size + 1 tokens; the targets
    are its last block_size. Windows begin every block_size tokens of each array, the rest at its end being
    left out; with ``eos``, at every document, wherever so many tokens follow, as ``train.random_windows`` has
    it (the places take 8 bytes of memory for each document).
    Batch k holds the windows from k * batch_size on of an endless row, in which each epoch has all windows
    once in another shuffled order. So a checkpoint keeps the next k alone, and rank r of W takes the batches
    with k % W == r.

    Memory: the order is computed (see ``permuted``) and the tokens stay on disk. A map from ``open_shards``
    is read by ``pread`` and not through its pages: a page touched there stays resident, with up to 2 MB
    around it, until the whole file is; to hand pages back after each batch took five times as long.
    Raises ValueError for arrays of another kind, too few tokens for one window, or an eos that is not there.
    """

    def __init__(self, arrays: Sequence[np.ndarray], block_size: int, batch_size: int, seed: int = 0,
                 eos: int | None = None):
        for name, value in {"block_size": block_size, "batch_size": batch_size}.items():
            if value < 1:
                raise ValueError(f"WindowLoader.{name} got {value}; give a positive number")
        for array in arrays:
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(f"WindowLoader got an array of shape {array.shape} and type {array.dtype}; "
                                 "give 1-D arrays of integers, one token each")
        self.block_size, self.batch_size, self.seed = block_size, batch_size, seed
        self._readers = [_reader(array) for array in arrays]
        sizes = [len(array) for array in arrays]
        self._starts = None
        counts = [max(0, size - 1) // block_size for size in sizes]
        if eos is not None:
            self._starts = [_document_starts(read, size - block_size, eos)
                            for read, size in zip(self._readers, sizes, strict=True)]
            counts = [len(starts) for starts in self._starts]
        self._ends = np.cumsum(np.array(counts, np.int64))
        if len(self) == 0:
            raise self._no_window(max(sizes, default=0), eos)

    def _no_window(self, longest: int, eos: int | None) -> ValueError:
        if longest <= self.block_size:
            return ValueError(f"the data has {longest:,} tokens in its longest array; one window needs "
                              f"{self.block_size + 1:,}: lower block_size, or give more data")
        return ValueError(f"no document begins in the data with {self.block_size:,} tokens to follow: token "
                          f"{eos} is not there; give the eos it was made with, or lower block_size")

    def __len__(self) -> int:
        """Windows in one epoch."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def batch(self, k: int):
        """Micro-batch number k: (inputs, targets), torch int64, both (batch_size, block_size)."""
        import torch

        tokens = np.empty((self.batch_size, self.block_size + 1), np.int64)
        for row, window in enumerate(self.windows(k)):
            tokens[row] = self._tokens(int(window))
        both = torch.from_numpy(tokens)  # (B, T + 1)
        return both[:, :-1], both[:, 1:]

    def windows(self, k: int) -> np.ndarray:
        """The numbers, (batch_size,) below len(self), of the windows in micro-batch k."""
        if k < 0:
            raise ValueError(f"WindowLoader.batch got {k}; batches are numbered from 0")
        n, first = len(self), k * self.batch_size
        parts, position = [], first
        while position < first + self.batch_size:
            epoch, begin = divmod(position, n)
            end = min(n, begin + first + self.batch_size - position)
            parts.append(permuted(np.arange(begin, end), n, self.seed, epoch))
            position += end - begin
        return np.concatenate(parts)

    def _tokens(self, window: int) -> np.ndarray:
        place = int(np.searchsorted(self._ends, window, side="right"))
        local = window - (int(self._ends[place - 1]) if place else 0)
        start = local * self.block_size if self._starts is None else int(self._starts[place][local])
        return self._readers[place](start, start + self.block_size + 1)


def _reader(array: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """What gives the tokens from one place up to another: of a whole read-only map from its file.

    A part of a map is read through its pages, as numpy does not say where in the file it lies.
    """
    whole_map = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)
    if not (whole_map and array.mode == "r" and array.filename and hasattr(os, "pread")):
        return lambda start, end: array[start:end]
    file, size = open(array.filename, "rb", buffering=0), array.itemsize

    def read(start: int, end: int) -> np.ndarray:
        raw = os.pread(file.fileno(), (end - start) * size, array.offset + start * size)
        if len(raw) < (end - start) * size:
            raise ValueError(f"{array.filename} has become shorter while it was read; "
                             "prepare it again, and open it after that")
        return np.frombuffer(raw, array.dtype)

    return read


def _document_starts(read: Callable[[int, int], np.ndarray], last: int, eos: int) -> np.ndarray:
    """The places below ``last`` at which a token is eos: (n_documents,) of int64."""
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
    keys = np.frombuffer(hashlib.sha512(f"{seed} {epoch}".encode()).digest(), "<u8")  # one for each round
    values = _feistel(np.asarray(index, np.uint64), low, bits - low, keys)
    while (outside := values >= n).any():  # fewer than half of all values, as n > 2 ** (bits - 1)
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
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every bit depends on every bit."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
