"""Token shards on disk: a stream of texts of any length becomes a folder of binary files.

``prepare_shards`` writes them, ``open_shards`` maps them into memory. A set is one stream of tokens (eos,
document, eos, document, ..., eos, as ``packing.pack`` has it), cut every ``shard_tokens`` tokens; a document may
span files.

A file is a header of 256 bytes and then the tokens, all little endian, tokens of 16 bits. A file under its
final name is complete: it is written under a temporary one, synced and renamed. Its header says where the next file
begins (document, token), so a run that was stopped goes on exactly there.
"""

import hashlib
import json
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmlab.files import replace_file

TOKEN = np.dtype("<u2")
MAX_VOCABULARY = 65_536  # ids that 16 bits can hold
MAGIC, VERSION, HEADER_BYTES = b"lmlabtok", 1, 256
_LAYOUT = struct.Struct("<8sI QQ? 32s QQ 32s32sQQ?")  # magic, version, then Header's fields in order
_CHUNK_CHARACTERS = 1_000_000  # encoded at once: enough work for every thread, little to hold


# --- files ----------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What all shards of a set have in common; the names are those of prepare_shards' arguments."""

    tokenizer: bytes  # ``fingerprint``
    source: bytes  # sha256 of its description
    shard_tokens: int
    n_docs: int  # 0: no limit
    validation: bool

    def path(self, folder: Path, number: int) -> Path:
        return folder / f"{'validation' if self.validation and number == 0 else 'train'}_{number:06d}.bin"


class Header(NamedTuple):
    """What a shard says of itself."""

    number: int  # place in the set, from 0
    n_tokens: int
    last: bool
    checksum: bytes  # sha256 of the tokens as they lie in the file
    next_document: int  # in which the next shard begins
    next_offset: int  # how many tokens of it, with the eos before it, stand in this shard and earlier ones
    plan: Plan

    def pack(self) -> bytes:
        fields = _LAYOUT.pack(MAGIC, VERSION, *self[:-1], *self.plan).ljust(HEADER_BYTES - 4, b"\0")
        return fields + zlib.crc32(fields).to_bytes(4, "little")

    @classmethod
    def read(cls, path: Path) -> "Header":
        """The header of a file, checked, with the file's size. Raises ValueError that names file and mend."""
        with open(path, "rb") as file:
            raw = file.read(HEADER_BYTES)
        if not raw.startswith(MAGIC):
            raise ValueError(
                f"{path} is no shard: it does not begin with {MAGIC.decode()!r}; "
                "move it elsewhere, or give another folder"
            )
        if len(raw) < HEADER_BYTES or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            raise _damaged(path, "its header is damaged")
        _, version, *own = _LAYOUT.unpack_from(raw)
        if version != VERSION:
            raise ValueError(
                f"{path} has version {version}, this lmlab reads {VERSION}; "
                "read it with the lmlab that wrote it, or give another folder"
            )
        header = cls(*own[:6], Plan(*own[6:]))
        expected, size = HEADER_BYTES + header.n_tokens * TOKEN.itemsize, path.stat().st_size
        if size != expected:
            raise _damaged(path, f"it has {size:,} bytes and should have {expected:,}")
        return header


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {what}; delete it with the shards after it, and prepare_shards makes them again"
    )


def _verify(path: Path, header: Header) -> None:
    with open(path, "rb") as file:
        file.seek(HEADER_BYTES)
        if hashlib.file_digest(file, "sha256").digest() != header.checksum:
            raise _damaged(path, "its tokens do not have the checksum of its header")


def _read_headers(folder: Path) -> dict[Path, Header]:
    """The shards of a folder in order, each checked on its own, and all for gaps in their numbering."""
    found = {path: Header.read(path) for path in folder.glob("*.bin")}
    headers = dict(sorted(found.items(), key=lambda item: (item[1].number, item[0])))
    for place, (path, header) in enumerate(headers.items()):
        name = header.plan.path(folder, header.number).name
        if path.name != name:
            raise ValueError(
                f"{path} holds shard number {header.number} under another name; "
                f"give it its name back, {name}, or move it elsewhere"
            )
        if header.number != place:
            raise ValueError(
                f"{folder} has {name} where shard number {place} should come; bring back what "
                "is missing, or delete those after it and run prepare_shards again"
            )
    return headers


def open_shards(folder: str | Path, split: str, tokenizer=None, verify: bool = False) -> list[np.memmap]:
    """The shards of a split as read-only memory maps, each (n_tokens,) of uint16, in order.

    split: "train" or "validation". Headers, sizes and numbering are always checked; ``tokenizer``: also that
    it is the one that made them; ``verify``: also the checksums of the split, for which all of it is read.
    Raises ValueError that names the file, what is wrong and the mend.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"open_shards got split {split!r}; give 'train' or 'validation'")
    headers = _read_headers(Path(folder).expanduser())
    if not any(header.last for header in headers.values()):
        raise ValueError(
            f"{folder} holds {len(headers)} shards and no last one: the set is not finished; "
            "run prepare_shards with the same arguments, which goes on where it stopped"
        )
    chosen = {path: header for path, header in headers.items() if path.name.startswith(split)}
    if not chosen:
        raise ValueError(f"{folder} has no {split} shard; prepare the set with validation=True")
    made_by = {} if tokenizer is None else {"tokenizer": fingerprint(tokenizer)}
    for path, header in chosen.items():
        _check_plan(path, header.plan, header.plan._replace(**made_by))
        if verify:
            _verify(path, header)
    return [np.memmap(path, TOKEN, "r", HEADER_BYTES, header.n_tokens) for path, header in chosen.items()]


def _check_plan(path: Path, there: Plan, wanted: Plan) -> None:
    for name, old, new in zip(Plan._fields, there, wanted, strict=True):
        if old != new:
            values = "" if isinstance(old, bytes) else f" ({old}, not {new})"
            raise ValueError(
                f"{path} was made with another {name}{values}; "
                f"give the {name} that it was made with, or another folder"
            )


# --- tokens ---------------------------------------------------------------------------------------


def fingerprint(tokenizer) -> bytes:
    """sha256 over what decides the ids: normalizer, pre-tokenizer, model, added words and eos.

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
        raise ValueError(
            f"shards need a fast tokenizer with an eos token, got {type(tokenizer).__name__}; "
            "load one with load_tokenizer, and set its eos_token"
        )
    largest = max(inner.get_vocab().values())
    if largest >= MAX_VOCABULARY:
        raise ValueError(
            f"the tokenizer has ids up to {largest:,}; shards hold 16 bits, ids below "
            f"{MAX_VOCABULARY:,}: give a tokenizer with a smaller vocabulary, as GPT-2's"
        )
    encoder = Tokenizer.from_str(inner.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True  # else a text that mentions <|endoftext|> would end there
    return encoder


def tokenize(texts: Iterable[str], tokenizer) -> Iterator[np.ndarray]:
    """Each text in order as eos and its tokens, (n_tokens,) of uint16. Special tokens in a text are characters.

    The tokenizer's own threads share the documents of a chunk: on 2 cores they gave 2.2M tokens/s at 0.80
    CPU seconds per million, and worker processes 2.0M at 0.95. Raises ValueError for an item that is no text.
    """
    encoder, eos = _encoder(tokenizer), tokenizer.eos_token_id
    for chunk in _chunks(texts):
        for document in encoder.encode_batch_fast(chunk, add_special_tokens=False):
            yield np.array([eos, *document.ids], TOKEN)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk, size = [], 0
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a document is a {type(text).__name__} ({str(text)[:60]!r}); give texts")
        # half a surrogate pair, which JSON can smuggle in, is no character: it becomes "?"
        chunk.append(text.encode("utf-8", "replace").decode("utf-8"))
        size += len(text) + 1  # empty texts must not pile up
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    yield chunk


# --- preparing ------------------------------------------------------------------------------------


def prepare_shards(
    texts: Callable[[int], Iterator[str]],
    tokenizer,
    folder: str | Path,
    *,
    source: str,
    shard_tokens: int = 100_000_000,
    validation: bool = True,
    n_docs: int | None = None,
    expected_tokens: int | None = None,
    report: Callable[[str], None] = print,
) -> list[Path]:
    """Tokenizes texts into shards of ``shard_tokens`` tokens (2 bytes each) in ``folder``; gives their paths.

    texts: called with a document number, gives the texts from there on, as
    ``lambda skip: stream_texts(source, skip=skip)``. source: a description of them; a folder keeps to one.
    validation: the first shard is validation_000000.bin, the others train_000001.bin and so on.
    n_docs: stop after so many documents. expected_tokens: of the whole set where it is known, for the disk
    need and the time left (with n_docs it is estimated from the first documents).
    Stopped at any point and called again with the same arguments it goes on after the last whole shard, to
    files that are the same byte for byte; a finished set is left as it is. One shard is held in memory.
    Raises ValueError for a vocabulary over 65,536, too little room on the disk, a damaged or foreign .bin, or
    shards of another tokenizer, source or size.
    """
    for name, value in {
        "shard_tokens": shard_tokens,
        "n_docs": n_docs,
        "expected_tokens": expected_tokens,
    }.items():
        if value is not None and value < 1:
            raise ValueError(f"prepare_shards.{name} got {value}; give a positive number")
    plan = Plan(
        fingerprint(tokenizer),
        hashlib.sha256(source.encode()).digest(),
        shard_tokens,
        n_docs or 0,
        validation,
    )
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    shards = _resumable(folder, plan)
    finished = bool(shards) and shards[-1].last
    if not finished:
        if n_docs and not expected_tokens:
            sample = [len(tokens) for tokens in tokenize(islice(texts(0), 64), tokenizer)]
            expected_tokens = sum(sample) * n_docs // max(1, len(sample)) or None
        _write_set(texts, tokenizer, folder, plan, shards, expected_tokens, report)
        shards = _resumable(folder, plan)
    n_tokens = sum(shard.n_tokens for shard in shards)
    report(f"{'already ' if finished else ''}finished: {len(shards)} shards, {n_tokens:,} tokens")
    return [plan.path(folder, shard.number) for shard in shards]


def _resumable(folder: Path, plan: Plan) -> list[Header]:
    """The headers of the whole shards that are there. Those of an unfinished set are verified."""
    headers = _read_headers(folder)
    finished = any(header.last for header in headers.values())
    for path, header in headers.items():
        _check_plan(path, header.plan, plan)
        if not finished:
            _verify(path, header)
    return list(headers.values())


def _write_set(
    texts, tokenizer, folder: Path, plan: Plan, shards: list[Header], expected: int | None, report
) -> None:
    writer = _Writer(folder, plan, shards, expected, report)
    writer.check_room()
    document, offset = 0, 0
    if shards:
        document, offset = shards[-1].next_document, shards[-1].next_offset
        report(f"goes on after {len(shards)} shards, at document {document:,}")
    remaining = islice(texts(document), plan.n_docs - document if plan.n_docs else None)
    for tokens in tokenize(remaining, tokenizer):
        writer.add(document, tokens, offset)
        document, offset = document + 1, 0
    writer.finish(document, tokenizer.eos_token_id)


class _Writer:
    """Cuts a stream of tokens into files. A full shard is written when the next token comes, which says where
    the next one begins; so the eos that ends the set may be one token more than ``shard_tokens``."""

    def __init__(self, folder: Path, plan: Plan, shards: list[Header], expected: int | None, report):
        self.folder, self.plan, self.expected, self.report = folder, plan, expected, report
        self.number, self.count = len(shards), 0  # of the shard that is filled, and its tokens so far
        self.tokens = np.empty(plan.shard_tokens + 1, TOKEN)
        self.before = self.written = sum(shard.n_tokens for shard in shards)
        self.began = time.perf_counter()

    def check_room(self) -> None:
        tokens = self.plan.shard_tokens if self.expected is None else max(0, self.expected - self.written)
        need, free = tokens * TOKEN.itemsize + HEADER_BYTES, shutil.disk_usage(self.folder).free
        about = "a shard or more, of" if self.expected is None else "about"
        self.report(f"to write: {about} {tokens:,} tokens, {need / 1e6:,.2f} MB; free: {free / 1e6:,.0f} MB")
        if need > free:
            raise ValueError(
                f"{self.folder} has {free:,} bytes free and {need:,} are needed for {tokens:,} "
                "tokens; free some, give a folder on another disk, or lower n_docs"
            )

    def add(self, document: int, tokens: np.ndarray, offset: int) -> None:
        """The tokens from ``offset`` on of a document."""
        while offset < len(tokens):
            if self.count == self.plan.shard_tokens:
                self._write(document, offset, last=False)
            part = tokens[offset : offset + self.plan.shard_tokens - self.count]
            self.tokens[self.count : self.count + len(part)] = part
            self.count += len(part)
            offset += len(part)

    def finish(self, n_documents: int, eos: int) -> None:
        if self.count == 0:
            raise ValueError(
                f"the source gave no text from document {n_documents:,} on; give one that has documents"
            )
        if self.plan.validation and self.number == 0:
            raise ValueError(
                f"the whole set, {self.count + 1:,} tokens, fits into the validation shard of "
                f"{self.plan.shard_tokens:,}; give a smaller shard_tokens or validation=False"
            )
        self.tokens[self.count] = eos
        self.count += 1
        self._write(n_documents, 0, last=True)

    def _write(self, next_document: int, next_offset: int, last: bool) -> None:
        path, tokens = self.plan.path(self.folder, self.number), self.tokens[: self.count]
        header = Header(
            self.number,
            self.count,
            last,
            hashlib.sha256(tokens).digest(),
            next_document,
            next_offset,
            self.plan,
        )
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            file.write(header.pack())
            file.write(tokens)
        self._progress()
        self.number, self.count = self.number + 1, 0

    def _progress(self) -> None:
        self.written += self.count
        rate = (self.written - self.before) / (time.perf_counter() - self.began)
        left = ""
        if self.expected:
            seconds = max(0, self.expected - self.written) / rate
            left = f", {seconds:.0f} s left" if seconds < 60 else f", {seconds / 60:,.1f} min left"
        self.report(f"shard {self.number}: {self.written:,} tokens, {rate / 1e6:.1f}M tokens/s{left}")
