"""Shards: written exactly, resumed exactly, and refused when damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lmlab.data import packing, shards, streams
from lmlab.data.shards import ShardSet, fingerprint, open_shards, prepare_shards, tokenize
from lmlab.models import sources

SHARD = 3_000
MENTIONS = "The sign said <|endoftext|> and <think> hello </think>."


@pytest.fixture(scope="module")
def tokenizer():
    return sources.load_tokenizer("miniworld/gpt2")


@pytest.fixture(scope="module")
def texts():
    stories = list(streams.stream_texts("miniworld/stories", limit=200))
    return stories[:60] + [MENTIONS, "", "Ünïcode ✓"] + stories[60:]


@pytest.fixture(scope="module")
def reference(tokenizer, texts):
    """The set as one list: each document by the published tokenizer, joined as for training."""
    encoded = [tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts]
    return packing.pack(encoded, tokenizer.eos_token_id).numpy()


def prepare(folder, texts, tokenizer, **changes):
    arguments = {"source": "stories", "shard_tokens": SHARD} | changes
    return prepare_shards(lambda skip: iter(texts[skip:]), tokenizer, folder, **arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, texts, tokenizer):
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder, texts, tokenizer)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def files(folder):
    return sorted(folder.glob("*.npy"), key=lambda path: path.name[-10:])


def listed(folder):
    return ShardSet.read(folder).shards


def joined(folder):
    return np.concatenate([np.load(path) for path in files(folder)])


def shorten(folder, n):
    """Leaves the first ``n`` shards, as a run that was stopped does."""
    index = ShardSet.read(folder)
    for shard in index.shards[n:]:
        (folder / shard.name).unlink()
    index._replace(shards=index.shards[:n], finished=False).write(folder)


# --- writing --------------------------------------------------------------------------------------


def test_the_files_hold_what_the_tokenizer_gives(whole, reference):
    assert np.array_equal(joined(whole), reference)
    names = [shard.name for shard in listed(whole)]
    assert names[0] == "validation_000000.npy" and sorted(contents(whole)) == sorted([*names, "shards.json"])
    assert names[1:] == [f"train_{number:06d}.npy" for number in range(1, len(names))]
    assert len(names) > 3


def test_every_shard_is_full_but_the_last_and_says_where_the_next_begins(whole, tokenizer, texts, reference):
    found = listed(whole)
    assert [shard.n_tokens for shard in found[:-1]] == [SHARD] * (len(found) - 1)
    lengths = [0] + [
        len(encoded)
        for text in texts
        for encoded in [[0, *tokenizer(text, split_special_tokens=True)["input_ids"]]]
    ]
    for number, shard in enumerate(found[:-1], 1):
        assert np.cumsum(lengths)[shard.next_document] + shard.next_offset == number * SHARD
        assert shard.next_offset < lengths[shard.next_document + 1]
    assert found[-1].next_document == len(texts)


def test_a_special_token_in_a_text_is_plain_text(tmp_path, tokenizer):
    (tokens,) = tokenize([MENTIONS], tokenizer)
    assert tokens[0] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in tokens[1:]
    assert tokenizer.decode(tokens[1:].tolist()) == MENTIONS
    prepare(tmp_path, [MENTIONS] * 3, tokenizer, validation=False)
    assert np.flatnonzero(joined(tmp_path) == tokenizer.eos_token_id).tolist() == [
        place * len(tokens) for place in range(4)
    ]
    assert tokenizer.eos_token_id in tokenizer(MENTIONS)["input_ids"]  # the caller's tokenizer is as it was


def test_the_stream_is_not_read_ahead_of_a_chunk(monkeypatch, tokenizer, texts):
    monkeypatch.setattr(shards, "_CHUNK_DOCUMENTS", 1)
    read = []
    for number, _ in enumerate(tokenize((read.append(text) or text for text in texts), tokenizer), 1):
        assert len(read) == number


def test_half_a_surrogate_pair_does_not_stop_the_run(tokenizer):
    (tokens,) = tokenize(["a\ud800b"], tokenizer)
    assert tokenizer.decode(tokens[1:].tolist()) == "a?b"


def test_the_callers_padding_and_truncation_do_not_count(tokenizer, texts):
    changed = deepcopy(tokenizer)
    changed.backend_tokenizer.enable_truncation(3)
    changed.backend_tokenizer.enable_padding(length=50)
    for one, other in zip(tokenize(texts, tokenizer), tokenize(texts, changed), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_final_eos_stays_with_a_last_shard_that_is_full(tmp_path, tokenizer, texts, extra):
    n = len(tokenizer(texts[0])["input_ids"]) + 1
    prepare(tmp_path, texts[:1] * 4, tokenizer, shard_tokens=2 * n - extra)
    sizes = [len(array) for split in ("validation", "train") for array in open_shards(tmp_path, split)]
    assert sizes == ([2 * n, 2 * n + 1] if extra == 0 else [2 * n - 1, 2 * n - 1, 3])
    shard = listed(tmp_path)[0]
    assert (shard.next_document, shard.next_offset) == ((2, 0) if extra == 0 else (1, n - 1))


def test_the_files_do_not_depend_on_chunks_and_documents_span_shards(tmp_path, monkeypatch, tokenizer):
    documents = [" the" * n for n in range(16)]  # with eos 1, 2, ..., 16 tokens; one ends at 7
    prepare(tmp_path / "whole", documents, tokenizer, shard_tokens=7)
    monkeypatch.setattr(shards, "_CHUNK_DOCUMENTS", 1)
    prepare(tmp_path / "single", documents, tokenizer, shard_tokens=7)
    assert contents(tmp_path / "single") == contents(tmp_path / "whole")
    begin = [(shard.next_document, shard.next_offset) for shard in listed(tmp_path / "whole")]
    # 16 tokens, the last document's, begin at place 120 of 136, that is token 1 of shard 17
    assert begin[0] == (3, 1)
    assert begin[3] == (7, 0)
    assert begin[-3:] == [(15, 6), (15, 13), (16, 0)]


def test_n_docs_stops_after_so_many_documents(tmp_path, tokenizer, texts, reference):
    ends = np.flatnonzero(reference == tokenizer.eos_token_id)
    prepare(tmp_path, texts, tokenizer, n_docs=70)
    assert np.array_equal(joined(tmp_path), reference[: ends[70] + 1])
    before = contents(tmp_path)
    shorten(tmp_path, len(before) - 2)
    prepare(tmp_path, texts, tokenizer, n_docs=70)
    assert contents(tmp_path) == before


def test_without_validation_all_is_train(tmp_path, tokenizer, texts, reference):
    prepare(tmp_path, texts, tokenizer, validation=False, shard_tokens=10**6)
    assert [path.name for path in files(tmp_path)] == ["train_000000.npy"]
    assert np.array_equal(open_shards(tmp_path, "train", tokenizer, verify=True)[0], reference)
    with pytest.raises(ValueError, match="'validation'"):
        open_shards(tmp_path, "validation")


# --- stopping and going on ------------------------------------------------------------------------

RUN = """
import json, os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from tokenizers import Tokenizer
from lmlab import miniworld
from lmlab.data import shards

folder, mode = Path(sys.argv[1]), sys.argv[2]
documents = json.loads(sys.stdin.read())
backend = Tokenizer.from_file(str(miniworld.model_dir("gpt2") / "tokenizer.json"))
tokenizer = SimpleNamespace(backend_tokenizer=backend, eos_token_id=0)
shards._CHUNK_DOCUMENTS = 2
replace, fsync = os.replace, os.fsync

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def texts(skip):
    for text in documents[skip:]:
        yield text
        if len(list(folder.glob("*.npy"))) == 3 and mode == "between":
            die()

def replace_or_die(partial, path):
    if mode == "before rename" and path.name == "train_000002.npy":
        die()
    replace(partial, path)

def fsync_or_die(file):
    index = folder / "shards.json"
    second = (folder / "train_000001.npy").exists()
    listed = second and "train_000001" in index.read_text()
    if mode == "first" or (mode == "index" and second) or (mode == "half" and listed):
        os.truncate(file, 3_000)
        die()
    fsync(file)

os.replace, os.fsync = replace_or_die, fsync_or_die
shards.prepare_shards(texts, tokenizer, folder, source="stories", shard_tokens=3_000)
"""


@pytest.mark.drill
@pytest.mark.parametrize(
    "mode, left", [("first", 0), ("index", 2), ("half", 2), ("before rename", 2), ("between", 3)]
)
def test_killed_and_started_again_gives_the_same_bytes(tmp_path, caplog, whole, texts, tokenizer, mode, left):
    folder = tmp_path / "set"
    root = str(Path(shards.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), mode],
        input=json.dumps(texts),
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(files(folder)) == left
    assert len(list(folder.glob("*.lmlab"))) == (mode != "between")
    with pytest.raises(ValueError, match="not finished"):
        open_shards(folder, "train")
    n_listed = len(listed(folder)) if left else 0  # a file that is not yet listed is made again
    kept = {path.name: path.stat().st_mtime_ns for path in files(folder)[:n_listed]}
    caplog.set_level("INFO")
    prepare(folder, texts, tokenizer)
    assert contents(folder) == contents(whole)
    assert all((folder / name).stat().st_mtime_ns == made for name, made in kept.items())
    assert (f"resumes after {n_listed} shards" in caplog.text) == (left > 0)


def test_resuming_reads_no_document_before_the_place(copy, texts, tokenizer, whole):
    shorten(copy, 2)
    asked = []
    prepare_shards(
        lambda skip: asked.append(skip) or iter(texts[skip:]),
        tokenizer,
        copy,
        source="stories",
        shard_tokens=SHARD,
    )
    assert asked == [listed(whole)[1].next_document]
    assert contents(copy) == contents(whole)


def test_two_runs_at_once_do_not_mix(tmp_path, whole, texts, tokenizer):
    def texts_while(other):
        for text in texts:
            if (tmp_path / "train_000001.npy").exists() and other:
                prepare(tmp_path, texts, tokenizer, **other.pop())
            yield text

    prepare_shards(lambda skip: texts_while([{}]), tokenizer, tmp_path, source="stories", shard_tokens=SHARD)
    assert contents(tmp_path) == contents(whole)


def test_a_finished_set_is_not_made_again(copy, tokenizer):
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    paths = prepare_shards(None, tokenizer, copy, source="stories", shard_tokens=SHARD)
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before
    assert {path.name for path in paths} == before.keys() - {"shards.json"}


@pytest.mark.parametrize(
    "changes", [{"source": "other"}, {"shard_tokens": 4_000}, {"n_docs": 5}, {"validation": False}]
)
def test_a_folder_keeps_to_one_set(whole, texts, tokenizer, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        prepare(whole, texts, tokenizer, **changes)


def test_another_tokenizer_is_refused(whole, texts, gpt2_folder):
    other = sources.load_tokenizer(str(gpt2_folder))
    for act in (lambda: prepare(whole, texts, other), lambda: open_shards(whole, "train", other)):
        with pytest.raises(ValueError, match="made with tokenizer"):
            act()


def test_the_fingerprint_changes_with_the_ids_alone(tokenizer):
    changed = deepcopy(tokenizer)
    changed.pad_token, changed.chat_template, changed.model_max_length = "<|pad|>", "{{ messages }}", 7
    changed("a", truncation=True, max_length=3)
    assert fingerprint(changed) == fingerprint(tokenizer)
    changed.add_tokens(["village"])
    assert fingerprint(changed) != fingerprint(tokenizer)


# --- what is refused ------------------------------------------------------------------------------


def test_too_large_a_vocabulary_and_a_tokenizer_without_eos_are_refused(tmp_path, tokenizer):
    large = SimpleNamespace(
        eos_token_id=0, backend_tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 65_536})
    )
    with pytest.raises(ValueError, match="65,536"):
        prepare(tmp_path, ["a"], large)
    with pytest.raises(ValueError, match="eos_token"):
        prepare(tmp_path, ["a"], SimpleNamespace(backend_tokenizer=object(), eos_token_id=None))


def test_too_little_room_is_refused_before_anything_is_written(tmp_path, monkeypatch, tokenizer, texts):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=7_000))
    for changes in ({"shard_tokens": 4_000}, {"expected_tokens": 9_000}):
        with pytest.raises(ValueError, match=str(tmp_path)):
            prepare(tmp_path, texts, tokenizer, **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_texts_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="document 0"):
        prepare(tmp_path, [], tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_texts_that_fit_into_the_validation_shard_leave_no_train(tmp_path, tokenizer, texts):
    prepare(tmp_path, texts, tokenizer, shard_tokens=10**6)
    with pytest.raises(ValueError, match="'train'"):
        open_shards(tmp_path, "train")


def flip(path, byte):
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 4
    path.write_bytes(raw)


def test_damage_is_named(copy, tokenizer, texts):
    flip(copy / "train_000002.npy", -1)
    assert open_shards(copy, "train")  # headers and sizes are right
    with pytest.raises(ValueError, match="train_000002.npy is damaged.*checksum"):
        open_shards(copy, "train", verify=True)
    shorten(copy, 3)
    with pytest.raises(ValueError, match="train_000002.npy is damaged.*checksum"):
        prepare(copy, None, tokenizer)  # an unfinished set is verified, before any text is read


@pytest.mark.parametrize("byte", [0, 6, 8, 15, 61])
def test_a_damaged_header_is_refused(copy, byte):
    flip(copy / "train_000001.npy", byte)
    with pytest.raises(ValueError, match="train_000001.npy is damaged"):
        open_shards(copy, "train")


@pytest.mark.parametrize("size", [0, 100, 300, -2])
def test_a_truncated_or_missing_file_is_refused(copy, size):
    path = copy / "train_000001.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="train_000001.npy is damaged"):
        open_shards(copy, "train")
    path.unlink()
    with pytest.raises(ValueError, match="train_000001.npy is damaged"):
        open_shards(copy, "train")


def test_shards_are_read_only_maps(whole, reference):
    arrays = open_shards(whole, "train", verify=True)
    assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in arrays)
    assert np.array_equal(np.concatenate(arrays), reference[SHARD:])
