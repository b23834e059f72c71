"""Token shards on disk: a stream of texts of any length becomes a folder of files.

``prepare_shards`` writes them, ``open_shards`` maps them into memory. A set is one stream of tokens (EOS,
document, EOS, document, ..., EOS, as ``packing.pack`` has it), cut every ``shard_tokens`` tokens; a document
may span files.

A file is an array of NumPy's (.npy) of 16-bit tokens. ``shards.json`` lists those that are complete, and says
in which document the next one begins, so that a run that was stopped resumes exactly there.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmlab.files import replace_file, require_disk_space, write_atomic
from lmlab.models.types import PreTrainedTokenizerBase

TOKEN = np.dtype("<u2")
MAX_VOCABULARY = 65_536  # ids that 16 bits can hold
INDEX = "shards.json"
_CHUNK_DOCUMENTS = 500  # encoded at once: enough work for every thread, little to hold

logger = logging.getLogger(__name__)


class Shard(NamedTuple):
    """A complete file of a set."""

    name: str  # "validation_000000.npy", "train_000001.npy", ...
    n_tokens: int
    sha256: str  # of the tokens
    next_document: int  # in which the next shard begins
    next_offset: int  # how many of its tokens, the EOS before it included, are in this shard and earlier ones


class ShardSet(NamedTuple):
    """What ``shards.json`` says."""

    made_with: dict  # what all shards have in common
    shards: list[Shard]
    finished: bool

    @classmethod
    def read(cls, folder: Path) -> "ShardSet | None":
        """The set in a folder; None where there is none."""
        path = folder / INDEX
        if not path.exists():
            return None
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls(saved["made_with"], [Shard(*shard) for shard in saved["shards"]], saved["finished"])

    def write(self, folder: Path) -> None:
        """Saves the index, all or nothing."""
        write_atomic(folder / INDEX, json.dumps(self._asdict(), indent=1))


def open_shards(
    folder: str | Path, split: str, tokenizer: PreTrainedTokenizerBase | None = None, verify: bool = False
) -> list[np.memmap]:
    """The shards of a split as read-only memory maps.

    Args:
        folder: As ``prepare_shards`` made it.
        split: "train" or "validation".
        tokenizer: If given, it must be the one that the shards were made with.
        verify: Also check the checksums, for which all of the split is read.

    Returns:
        One array (n_tokens,) of uint16 for each shard, in order.

    Raises:
        ValueError: The set is not finished, has no such split, was made with another tokenizer, or a file is
            damaged.
    """
    folder = Path(folder).expanduser()
    there = ShardSet.read(folder)
    if there is None or not there.finished:
        raise ValueError(f"{folder} is not finished; run prepare_shards, which resumes")
    chosen = [shard for shard in there.shards if shard.name.startswith(f"{split}_")]
    if not chosen:
        raise ValueError(
            f"{folder} has no shards of the split {split!r}; prepare them with smaller shard_tokens"
        )
    if tokenizer is not None:
        _check_made_with(folder, there.made_with, {"tokenizer": fingerprint(tokenizer)})
    return [_open_shard(folder / shard.name, shard, verify) for shard in chosen]


def _open_shard(path: Path, shard: Shard, verify: bool) -> np.memmap:
    damaged = f"{path} is damaged ({{}}); delete its folder, and run prepare_shards again"
    try:
        tokens = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(damaged.format(error)) from error
    # a header that is damaged may still name an array, of another shape or in another place
    whole = path.stat().st_size == tokens.offset + tokens.nbytes
    if not whole or tokens.shape != (shard.n_tokens,) or tokens.dtype != TOKEN:
        raise ValueError(damaged.format("its size is not that of its tokens"))
    if verify and hashlib.sha256(tokens).hexdigest() != shard.sha256:
        raise ValueError(damaged.format("its checksum is another"))
    return tokens


def _check_made_with(folder: Path, there: dict, wanted: dict) -> None:
    for name, value in wanted.items():
        if there[name] != value:
            raise ValueError(
                f"{folder} was made with {name} {there[name]!r:.40}, not {value!r:.40}; give another folder"
            )


# --- tokens ---------------------------------------------------------------------------------------


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over what decides the ids: normalizer, pre-tokenizer, model, added words and EOS.

    Special tokens other than EOS do not count, as texts are encoded without them; nor do padding, truncation
    and chat template.
    """
    parts = json.loads(_encoder(tokenizer).to_str())
    decisive = {name: parts[name] for name in ("normalizer", "pre_tokenizer", "model")}
    decisive["added"] = [token for token in parts["added_tokens"] if not token["special"]]
    decisive["eos"] = tokenizer.eos_token_id
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _encoder(tokenizer: PreTrainedTokenizerBase):
    """A copy of the ``tokenizers.Tokenizer`` inside, to which special tokens in texts are characters."""
    from tokenizers import Tokenizer

    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or tokenizer.eos_token_id is None:
        raise ValueError(f"shards need a fast tokenizer with an eos_token, got {type(tokenizer).__name__}")
    largest = max(inner.get_vocab().values())
    if largest >= MAX_VOCABULARY:
        raise ValueError(
            f"the tokenizer has ids up to {largest:,}; shards hold ids below {MAX_VOCABULARY:,}, as GPT-2's"
        )
    encoder = Tokenizer.from_str(inner.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True  # else a text that mentions <|endoftext|> would end there
    return encoder


def tokenize(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    """Each text as EOS and its tokens, (n_tokens,) of uint16. Special tokens in a text are characters.

    The tokenizer's own threads share the documents of a chunk: on 2 cores they gave 2.2M tokens/s at 0.80
    CPU seconds per million, and worker processes 2.0M at 0.95.
    """
    encoder, eos = _encoder(tokenizer), tokenizer.eos_token_id
    # a lone surrogate, which JSON can hold, is no character: it becomes "?"
    texts = (text.encode("utf-8", "replace").decode("utf-8") for text in texts)
    while chunk := list(islice(texts, _CHUNK_DOCUMENTS)):
        for document in encoder.encode_batch_fast(chunk, add_special_tokens=False):
            yield np.array([eos, *document.ids], TOKEN)


# --- preparing ------------------------------------------------------------------------------------


def prepare_shards(
    texts: Callable[[int], Iterator[str]],
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    source: str,
    shard_tokens: int = 100_000_000,
    validation: bool = True,
    n_docs: int | None = None,
    expected_tokens: int | None = None,
) -> list[Path]:
    """Tokenizes texts into shards of ``shard_tokens`` tokens, 2 bytes each.

    Stopped at any point and called again with the same arguments it resumes after the last complete shard, to
    files that are the same byte for byte; a finished set is left as it is. One shard is held in memory.

    Args:
        texts: Called with a document number, gives the texts from there on, as
            ``lambda skip: stream_texts(source, skip=skip)``.
        tokenizer: A fast one, of a vocabulary of at most 65,536.
        folder: Where the shards go; it keeps to one source, tokenizer and size.
        source: A description of the texts.
        shard_tokens: Tokens in a shard.
        validation: The first shard is validation_000000.npy, the others train_000001.npy and so on.
        n_docs: Stop after so many documents.
        expected_tokens: Of the whole set where it is known, to check that it fits on the disk.

    Returns:
        The paths of the shards, in order.

    Raises:
        ValueError: The vocabulary is too large, the disk too full, a complete shard is damaged, or the folder
            holds another set.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    made_with = {
        "tokenizer": fingerprint(tokenizer),
        "source": source,
        "shard_tokens": shard_tokens,
        "n_docs": n_docs,
        "validation": validation,
    }
    there = ShardSet.read(folder) or ShardSet(made_with, [], False)
    _check_made_with(folder, there.made_with, made_with)
    shards = there.shards
    if there.finished:
        return [folder / shard.name for shard in shards]
    for shard in shards:
        _open_shard(folder / shard.name, shard, verify=True)

    # checked before the first of what may be hours of work
    written = sum(shard.n_tokens for shard in shards)
    missing = (expected_tokens or written + shard_tokens) - written
    require_disk_space(folder, missing * TOKEN.itemsize)
    document, offset = 0, 0
    if shards:
        document, offset = shards[-1].next_document, shards[-1].next_offset
        logger.info("resumes after %d shards, at document %d", len(shards), document)
    remaining = texts(document)
    if n_docs is not None:
        remaining = islice(remaining, n_docs - document)
    documents = tokenize(remaining, tokenizer)
    cuts = _cut(documents, shard_tokens, document, offset, tokenizer.eos_token_id)
    for tokens, next_document, next_offset, last in cuts:
        split = "validation" if validation and not shards else "train"
        name = f"{split}_{len(shards):06d}.npy"
        with replace_file(folder / name) as temporary, open(temporary, "wb") as file:
            np.save(file, tokens)
        # the index comes after the file: a file that it does not list is written again
        checksum = hashlib.sha256(tokens).hexdigest()
        shards.append(Shard(name, len(tokens), checksum, next_document, next_offset))
        ShardSet(made_with, shards, last).write(folder)
        written += len(tokens)
        logger.info("%s: %s tokens so far", name, f"{written:,}")
    return [folder / shard.name for shard in shards]


def _cut(
    documents: Iterator[np.ndarray], shard_tokens: int, document: int, offset: int, eos: int
) -> Iterator[tuple[np.ndarray, int, int, bool]]:
    """Cuts documents, from token ``offset`` of number ``document`` on, into shards.

    A full shard is given when the next token comes, which says where the next one begins; so the EOS that
    ends the set may be one token more than ``shard_tokens``.

    Yields:
        (the tokens of a shard, document and offset at which the next one begins, whether it is the last).
    """
    # one array is filled again and again, as a shard is on disk before the next one is asked for
    shard, count = np.empty(shard_tokens + 1, TOKEN), 0
    for tokens in documents:
        while offset < len(tokens):
            if count == shard_tokens:
                yield shard[:count], document, offset, False
                count = 0
            part = tokens[offset : offset + shard_tokens - count]
            shard[count : count + len(part)] = part
            count += len(part)
            offset += len(part)
        document, offset = document + 1, 0
    if count == 0:
        raise ValueError(f"the source gave no text from document {document:,} on")
    shard[count] = eos
    yield shard[: count + 1], document, 0, True
