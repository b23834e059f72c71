"""Shards: written exactly, resumed exactly, refused when damaged, and read as every window once."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lmlab import data, shards, train
from lmlab.shards import Header, WindowLoader, fingerprint, open_shards, permuted, prepare_shards, tokenise

SHARD = 3_000
MENTIONS = "The sign said <|endoftext|> and <think> hello </think>."


@pytest.fixture(scope="module")
def tokenizer():
    return data.load_tokenizer("miniworld/gpt2")


@pytest.fixture(scope="module")
def texts():
    stories = list(data.stream_texts("miniworld/stories", limit=200))
    return stories[:60] + [MENTIONS, "", "Ünïcode ✓"] + stories[60:]


@pytest.fixture(scope="module")
def reference(tokenizer, texts):
    """The set as one list: each document by the published tokenizer, joined as for training."""
    encoded = [tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts]
    return train.pack(encoded, tokenizer.eos_token_id).numpy()


def prepare(folder, texts, tokenizer, **changes):
    said = []
    arguments = {"source": "stories", "shard_tokens": SHARD, "n_processes": 1} | changes
    prepare_shards(lambda skip: iter(texts[skip:]), tokenizer, folder, report=said.append, **arguments)
    return said


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


def joined(folder):
    files = sorted(folder.glob("*.bin"), key=lambda path: path.name[-10:])
    return np.concatenate([np.frombuffer(path.read_bytes()[shards.HEADER_BYTES:], "<u2") for path in files])


# --- writing --------------------------------------------------------------------------------------

def test_the_files_hold_what_the_tokenizer_gives(whole, reference):
    assert np.array_equal(joined(whole), reference)
    names = list(contents(whole))
    assert names[-1] == "validation_000000.bin"
    assert names[:-1] == [f"train_{number:06d}.bin" for number in range(1, len(names))]
    assert len(names) > 3


def test_every_shard_is_full_but_the_last_and_says_where_the_next_begins(whole, tokenizer, texts, reference):
    headers = [Header.read(path) for path in sorted(whole.glob("*.bin"), key=lambda path: path.name[-10:])]
    assert [header.n_tokens for header in headers[:-1]] == [SHARD] * (len(headers) - 1)
    assert [header.last for header in headers] == [False] * (len(headers) - 1) + [True]
    lengths = [0] + [len(encoded) for text in texts for encoded in
                     [[0, *tokenizer(text, split_special_tokens=True)["input_ids"]]]]
    for number, header in enumerate(headers[:-1], 1):
        assert np.cumsum(lengths)[header.next_document] + header.next_offset == number * SHARD
        assert header.next_offset < lengths[header.next_document + 1]
    assert headers[-1].next_document == len(texts)


def test_a_special_token_in_a_text_is_plain_text(tokenizer):
    chunk, = tokenise([MENTIONS], tokenizer, 1)
    assert chunk.tokens[0] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in chunk.tokens[1:]
    assert tokenizer.decode(chunk.tokens[1:].tolist()) == MENTIONS
    assert tokenizer.eos_token_id in tokenizer(MENTIONS)["input_ids"]  # the caller's tokenizer is as it was


def test_order_and_tokens_do_not_depend_on_the_number_of_processes(monkeypatch, tokenizer, texts, reference):
    monkeypatch.setattr(shards, "_CHUNK_CHARACTERS", 500)
    chunks = list(tokenise(texts, tokenizer, 3))
    assert len(chunks) > 20
    assert np.array_equal(np.concatenate([chunk.tokens for chunk in chunks]), reference[:-1])


def test_the_stream_is_not_read_far_ahead(monkeypatch, tokenizer, texts):
    monkeypatch.setattr(shards, "_CHUNK_CHARACTERS", 1)
    read = []
    chunks = tokenise((read.append(text) or text for text in texts), tokenizer, 2)
    for number in range(10):
        next(chunks)
        assert len(read) <= number + 1 + 4
    chunks.close()


def test_half_a_surrogate_pair_does_not_stop_the_run(tokenizer):
    chunk, = tokenise(["a\ud800b"], tokenizer, 1)
    assert tokenizer.decode(chunk.tokens[1:].tolist()) == "a?b"


def test_a_tokeniser_process_that_is_killed_is_an_error(tokenizer, texts, monkeypatch):
    monkeypatch.setattr(shards, "_WORKER", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match="ended with exit code -9.*fewer n_processes"):
        list(tokenise(texts, tokenizer, 1))


def test_a_script_without_a_main_guard_and_with_used_threads(tmp_path):
    """What breaks multiprocessing's spawn, and what fork warns of."""
    script = tmp_path / "plain.py"
    script.write_text(STUB + "backend.encode_batch(['a b'] * 100)\n"
                      "chunks = shards.tokenise(['a b'] * 10, tokenizer, 2)\n"
                      "print(sum(len(chunk.tokens) for chunk in chunks))\n")
    done = run_script(script)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 20


@pytest.mark.parametrize("extra", [0, 1])
def test_the_final_eos_stays_with_a_last_shard_that_is_full(tmp_path, tokenizer, texts, extra):
    n = len(tokenizer(texts[0])["input_ids"]) + 1
    prepare(tmp_path, texts[:1] * 4, tokenizer, shard_tokens=2 * n - extra)
    sizes = [len(array) for split in ("validation", "train") for array in open_shards(tmp_path, split)]
    assert sizes == ([2 * n, 2 * n + 1] if extra == 0 else [2 * n - 1, 2 * n - 1, 3])
    header = Header.read(tmp_path / "validation_000000.bin")
    assert (header.next_document, header.next_offset) == ((2, 0) if extra == 0 else (1, n - 1))


def test_the_files_do_not_depend_on_chunks_and_processes(tmp_path, monkeypatch, tokenizer):
    documents = [" ".join(["the"] * n) for n in range(14)]  # with eos 1, 2, 3, ... tokens: some end at 6 of 7
    prepare(tmp_path / "whole", documents, tokenizer, shard_tokens=7)
    monkeypatch.setattr(shards, "_CHUNK_CHARACTERS", 1)
    prepare(tmp_path / "single", documents, tokenizer, shard_tokens=7, n_processes=2)
    assert len(contents(tmp_path / "whole")) > 10
    assert contents(tmp_path / "single") == contents(tmp_path / "whole")


def test_n_docs_and_n_tokens_stop_with_a_whole_document(tmp_path, tokenizer, texts, reference):
    ends = np.flatnonzero(reference == tokenizer.eos_token_id)
    prepare(tmp_path / "docs", texts, tokenizer, n_docs=70)
    assert np.array_equal(joined(tmp_path / "docs"), reference[:ends[70] + 1])
    for place, wanted in ((int(ends[70]), 70), (int(ends[70]) + 1, 71)):
        prepare(tmp_path / f"{place}", texts, tokenizer, n_tokens=place)
        assert np.array_equal(joined(tmp_path / f"{place}"), reference[:ends[wanted] + 1])


def test_without_validation_all_is_train(tmp_path, tokenizer, texts, reference):
    prepare(tmp_path, texts, tokenizer, validation=False, shard_tokens=10**6)
    assert list(contents(tmp_path)) == ["train_000000.bin"]
    assert np.array_equal(open_shards(tmp_path, "train", tokenizer, verify=True)[0], reference)
    with pytest.raises(ValueError, match="no validation shard"):
        open_shards(tmp_path, "validation")


# --- stopping and going on ------------------------------------------------------------------------

STUB = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from tokenizers import Tokenizer
from lmlab import miniworld, shards
backend = Tokenizer.from_file(str(miniworld.model_dir("gpt2") / "tokenizer.json"))
tokenizer = SimpleNamespace(backend_tokenizer=backend, eos_token_id=0)
"""
RUN = STUB + """
import json
folder, mode = Path(sys.argv[1]), sys.argv[2]
documents = json.loads(sys.stdin.read())
shards._CHUNK_CHARACTERS = 2_000

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def texts(skip):
    for text in documents[skip:]:
        if (folder / f"{mode}.partial").exists():
            die()
        yield text

def die_before(call, name, original):
    def wrapped(*arguments):
        if any(name in str(argument) for argument in arguments):
            die()
        return original(*arguments)
    setattr(os, call, wrapped)

if mode == "before rename":
    die_before("replace", "train_000002", os.replace)
if mode == "before sync":
    original, count = os.fsync, []
    os.fsync = lambda file: die() if count.append(file) or len(count) == 5 else original(file)
shards.prepare_shards(texts, tokenizer, folder, source="stories", shard_tokens=3_000, n_processes=2)
"""


def run_script(script, *arguments, stdin=""):
    root = str(Path(shards.__file__).parents[1])
    return subprocess.run([sys.executable, str(script), *arguments], input=stdin, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": root})


@pytest.mark.parametrize("mode, left", [
    ("validation_000000.bin", 0), ("train_000001.bin", 1), ("train_000003.bin", 3), ("before rename", 2),
    ("before sync", 2)])
def test_killed_and_started_again_gives_the_same_bytes(tmp_path, whole, texts, tokenizer, mode, left):
    import json

    script, folder = tmp_path / "run.py", tmp_path / "set"
    script.write_text(RUN)
    done = run_script(script, str(folder), mode, stdin=json.dumps(texts))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(folder.glob("*.bin"))) == left
    with pytest.raises(ValueError, match="not finished; run prepare_shards"):
        open_shards(folder, "train")
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    said = prepare(folder, texts, tokenizer)
    assert contents(folder) == contents(whole)
    assert all((folder / name).stat().st_mtime_ns == made for name, made in kept.items())
    assert any(f"goes on after {left} whole shards" in line for line in said) == (left > 0)


def test_going_on_reads_no_document_before_the_place(copy, texts, tokenizer, whole):
    (copy / "train_000002.bin").unlink()
    for path in copy.glob("train_00000[3-9].bin"):
        path.unlink()
    asked = []
    prepare_shards(lambda skip: asked.append(skip) or iter(texts[skip:]), tokenizer, copy, source="stories",
                   shard_tokens=SHARD, n_processes=1, report=lambda line: None)
    assert asked == [Header.read(whole / "train_000001.bin").next_document]
    assert contents(copy) == contents(whole)


def test_a_run_that_stops_at_n_tokens_goes_on_to_the_same_end(tmp_path, texts, tokenizer):
    prepare(tmp_path, texts, tokenizer, n_tokens=8_000)
    before = contents(tmp_path)
    (tmp_path / "train_000002.bin").unlink()
    prepare(tmp_path, texts, tokenizer, n_tokens=8_000)
    assert contents(tmp_path) == before


def test_a_finished_set_is_not_made_again(copy, tokenizer):
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}

    def no_texts(skip):
        raise AssertionError("read")

    said = []
    paths = prepare_shards(no_texts, tokenizer, copy, source="stories", shard_tokens=SHARD,
                           report=said.append)
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before
    assert sorted(path.name for path in paths) == sorted(before)
    assert "finished" in said[-1]


@pytest.mark.parametrize("changes, message", [
    ({"source": "other"}, "another source"),
    ({"shard_tokens": 4_000}, r"another shard_tokens \(3,000, not 4,000\)"),
    ({"n_docs": 5}, r"another n_docs \(0, not 5\)"), ({"n_tokens": 5}, "another n_tokens"),
    ({"validation": False}, "give validation=True")])
def test_a_folder_keeps_to_one_set(whole, texts, tokenizer, changes, message):
    with pytest.raises(ValueError, match=f"validation_000000.bin.*{message}"):
        prepare(whole, texts, tokenizer, **changes)


def test_another_tokenizer_is_refused(whole, texts, gpt2_folder):
    other = data.load_tokenizer(str(gpt2_folder))
    with pytest.raises(ValueError, match="validation_000000.bin was made with another tokenizer"):
        prepare(whole, texts, other)
    with pytest.raises(ValueError, match="validation_000000.bin was made with another tokenizer"):
        open_shards(whole, "train", other)


def test_the_fingerprint_changes_with_the_ids_alone(tokenizer):
    import copy

    changed = copy.deepcopy(tokenizer)
    changed.pad_token, changed.chat_template, changed.model_max_length = "<|pad|>", "{{ messages }}", 7
    changed("a", truncation=True, max_length=3)
    assert fingerprint(changed) == fingerprint(tokenizer)
    changed.add_tokens(["village"])
    assert fingerprint(changed) != fingerprint(tokenizer)


def test_a_second_run_in_the_folder_is_refused(tmp_path, texts, tokenizer):
    with pytest.raises(ValueError, match="another run is preparing shards"), shards._only_run(tmp_path):
        prepare(tmp_path, texts, tokenizer)
    assert list(tmp_path.iterdir()) == []


# --- what is refused ------------------------------------------------------------------------------

def test_too_large_a_vocabulary_and_a_tokenizer_without_eos_are_refused(tmp_path, tokenizer):
    large = SimpleNamespace(eos_token_id=0, backend_tokenizer=SimpleNamespace(
        get_vocab=lambda with_added_tokens: {"a": 0, "b": 65_536}))
    with pytest.raises(ValueError, match="ids up to 65,536; shards hold 16 bits"):
        prepare(tmp_path, ["a"], large)
    with pytest.raises(ValueError, match="fast tokenizer with an eos token, got SimpleNamespace"):
        prepare(tmp_path, ["a"], SimpleNamespace(backend_tokenizer=object(), eos_token_id=None))


def test_too_little_room_is_refused_before_anything_is_written(tmp_path, monkeypatch, tokenizer, texts):
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda folder: SimpleNamespace(free=7_000))
    for changes, tokens in (({"shard_tokens": 4_000}, "4,000"), ({"expected_tokens": 9_000}, "9,000"),
                            ({"n_tokens": 5_000}, "5,000")):
        with pytest.raises(ValueError, match=f"7,000 bytes free and .* needed for {tokens} tokens; free"):
            prepare(tmp_path, texts, tokenizer, **changes)
    with pytest.raises(ValueError, match="7,000 bytes free"):
        prepare(tmp_path, texts, tokenizer, n_docs=200)  # estimated from the first documents
    assert list(tmp_path.iterdir()) == []
    assert "GB; free:" in prepare(tmp_path, texts, tokenizer)[0]  # a shard of 3,000 tokens fits


def test_wrong_requests_and_texts_are_refused(tmp_path, tokenizer, texts):
    with pytest.raises(ValueError, match="shard_tokens got 0"):
        prepare(tmp_path, texts, tokenizer, shard_tokens=0)
    with pytest.raises(ValueError, match="a document is a dict"):
        prepare(tmp_path, [{"text": "a"}], tokenizer)
    with pytest.raises(ValueError, match="no text"):
        prepare(tmp_path, [], tokenizer)
    with pytest.raises(ValueError, match="fits into the validation shard of 1,000,000; give a smaller"):
        prepare(tmp_path, texts, tokenizer, shard_tokens=10**6)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="split 'test'"):
        open_shards(tmp_path, "test")


def flip(path, byte):
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 4
    path.write_bytes(raw)


def test_damage_is_named(copy, tokenizer, texts):
    flip(copy / "train_000002.bin", -1)
    assert open_shards(copy, "train")  # headers and sizes are right
    with pytest.raises(ValueError, match="train_000002.bin is damaged.*checksum.*delete it with the"):
        open_shards(copy, "train", verify=True)
    max(copy.glob("train*")).unlink()
    with pytest.raises(ValueError, match="train_000002.bin is damaged.*checksum"):
        prepare(copy, texts, tokenizer)  # an unfinished set is verified


@pytest.mark.parametrize("byte", [9, 20, 40, 130, 200, 253])
def test_a_damaged_header_is_refused(copy, byte):
    flip(copy / "train_000001.bin", byte)
    with pytest.raises(ValueError, match="train_000001.bin is damaged: its header"):
        open_shards(copy, "train")


@pytest.mark.parametrize("size", [100, 300, -2])
def test_a_truncated_file_is_refused(copy, tokenizer, texts, size):
    path = copy / "train_000001.bin"
    path.write_bytes(path.read_bytes()[:size])
    for act in (lambda: open_shards(copy, "train"), lambda: prepare(copy, texts, tokenizer)):
        with pytest.raises(ValueError, match="train_000001.bin is damaged"):
            act()


def test_a_foreign_a_renamed_and_a_missing_file_are_refused(copy, tokenizer, texts):
    (copy / "train.bin").write_bytes(bytes(1000))
    for act in (lambda: open_shards(copy, "train"), lambda: prepare(copy, texts, tokenizer)):
        with pytest.raises(ValueError, match="train.bin is no shard: .* move it elsewhere"):
            act()
    (copy / "train.bin").unlink()
    second = (copy / "train_000002.bin").rename(copy / "second")
    with pytest.raises(ValueError, match="train_000003.bin where shard number 2 should come; bring back"):
        open_shards(copy, "train")
    second.rename(copy / "train_000002.bin")
    max(copy.glob("train*")).rename(copy / "train_000099.bin")
    with pytest.raises(ValueError, match="train_000099.bin holds shard number . under another name"):
        prepare(copy, texts, tokenizer)


def test_a_shard_that_shrinks_under_the_loader_is_an_error_and_no_crash(copy):
    loader = WindowLoader(open_shards(copy, "train")[:1], 64, 4)
    os.truncate(copy / "train_000001.bin", 300)
    with pytest.raises(ValueError, match="train_000001.bin has become shorter"):
        loader.batch(0)


@pytest.mark.parametrize("part", [slice(None), slice(7, 1500), slice(None, None, 2)])
def test_maps_and_parts_of_maps_give_what_memory_gives(whole, part):
    maps = [array[part] if part != slice(None) else array for array in open_shards(whole, "train")]
    mapped, held = (WindowLoader(arrays, 32, 8) for arrays in (maps, [np.array(array) for array in maps]))
    assert len(mapped) == len(held)
    assert all(torch.equal(mapped.batch(k)[1], held.batch(k)[1]) for k in range(8))


def test_shards_are_read_only_maps(whole, reference):
    arrays = open_shards(whole, "train", verify=True)
    assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in arrays)
    assert np.array_equal(np.concatenate(arrays), reference[SHARD:])


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
    return [np.arange(0, 43, dtype=np.uint16), np.arange(100, 104, dtype=np.uint16),
            np.arange(200, 225, dtype=np.int32)]


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


def test_with_eos_windows_begin_where_documents_begin(whole, tokenizer, reference):
    eos, maps = tokenizer.eos_token_id, open_shards(whole, "train")
    loader = WindowLoader(maps, block_size=64, batch_size=1, eos=eos)
    found = sorted(tuple(window[0].tolist()) for window in (loader.batch(k)[0] for k in range(len(loader))))
    wanted = [tuple(array[start:start + 64].tolist()) for array in maps
              for start in range(len(array) - 64) if array[start] == eos]
    assert found == sorted(wanted)
    assert len(loader) > 50


def test_document_windows_agree_with_random_windows():
    """One array: the same set of windows in an epoch as train.random_windows, to the last one that fits."""
    tokens = np.array([0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 0, 8], np.uint16)
    loader = WindowLoader([tokens], block_size=4, batch_size=1, eos=0)
    batches = train.random_windows(torch.from_numpy(tokens.astype(np.int64)), 1, 4, eos=0)
    other = sorted(next(batches)[1].flatten().tolist() for _ in range(len(loader)))
    assert sorted(loader.batch(k)[1].flatten().tolist() for k in range(len(loader))) == other
    assert len(loader) == 3


def test_little_data_is_refused_with_the_mend(arrays):
    with pytest.raises(ValueError, match="43 tokens in its longest array; one window needs 51: lower"):
        WindowLoader(arrays, 50, 2)
    with pytest.raises(ValueError, match="0 tokens in its longest array"):
        WindowLoader([], 4, 2)
    assert len(WindowLoader(arrays, 42, 1)) == 1
    with pytest.raises(ValueError, match="token 999 is not there; give the eos"):
        WindowLoader(arrays, 4, 2, eos=999)
    with pytest.raises(ValueError, match=r"shape \(2, 2\) and type float64; give 1-D"):
        WindowLoader([np.ones((2, 2))], 4, 2)
    with pytest.raises(ValueError, match="batch_size got 0"):
        WindowLoader(arrays, 4, 0)
    with pytest.raises(ValueError, match="batch got -1"):
        WindowLoader(arrays, 4, 2).batch(-1)


MEMORY = """
import sys
import numpy as np, psutil
from lmlab.shards import WindowLoader
tokens = np.memmap(sys.argv[1], np.uint16, "r")
loader = WindowLoader([tokens], block_size=1024, batch_size=16, eos=int(sys.argv[2]) if sys.argv[2] else None)
loader.batch(0)
process = psutil.Process()
before, most = process.memory_info().rss, 0
for k in range(1, 300):
    loader.batch(k)
    most = max(most, process.memory_info().rss)
print(most - before, len(loader))
"""


@pytest.mark.parametrize("eos", ["", "0"])
def test_memory_does_not_grow_with_the_data(tmp_path, eos):
    """4,800 windows from all over 100 MB; read through the map, nearly all of it becomes resident."""
    megabytes, script, path = 100, tmp_path / "read.py", tmp_path / "tokens"
    block = np.arange(1 << 19, dtype=np.uint16)
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(block.data)
    script.write_text(MEMORY)
    done = run_script(script, str(path), eos)
    assert done.returncode == 0, done.stderr
    grown, n = map(int, done.stdout.split())
    assert n > 700
    assert grown < 25e6
