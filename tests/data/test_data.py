"""Sources and splits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset

from lmlab import miniworld
from lmlab.data.readers import paragraphs
from lmlab.data.sources import data_source, load_rows
from lmlab.data.splits import split_indices
from lmlab.data.streams import stream_texts
from lmlab.models.sources import load_model, load_tokenizer, model_source


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("n", [1, 2, 9, 10, 274, 6000])
def test_train_and_validation_are_disjoint_and_together_everything(n):
    train, validation = split_indices(n, "train", seed=3), split_indices(n, "validation", seed=3)
    assert sorted(train + validation) == list(range(n))
    assert len(validation) == (max(1, round(n / 10)) if n > 1 else 0)


def test_split_never_changes():
    assert split_indices(10, "validation", seed=0) == [3]
    assert split_indices(10, "train", seed=0) == [7, 5, 2, 8, 4, 9, 1, 6, 0]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_files_of_rows_give_the_same_rows_in_every_format(tmp_path, suffix):
    rows = [{"modern": f"you {i}", "shakespearean": f"thou {i}"} for i in range(20)]
    path = tmp_path / f"pairs{suffix}"
    if suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows), "utf-8")
    assert load_rows(str(path), "all").to_list() == rows
    assert load_rows(str(path), "validation").to_list() == [rows[9], rows[19]]
    assert len(load_rows(str(path))) == 18
    assert load_rows(str(path), limit=5).to_list() == load_rows(str(path)).to_list()[:5]


def test_a_key_missing_in_some_rows_is_none_there(tmp_path):
    source = write_lines(tmp_path / "rows.jsonl", [{"a": 1}, {"a": 2, "solution": "x"}])
    assert load_rows(source, "all").to_list() == [{"a": 1, "solution": None}, {"a": 2, "solution": "x"}]


def test_text_file_gives_paragraphs_and_holds_out_its_end(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("\n\n".join(f"ChatModel {i}:\nWords." for i in range(20)) + "\n", encoding="utf-8")
    assert load_rows(str(path), "train")["text"][0] == "ChatModel 0:\nWords."
    assert load_rows(str(path), "validation")["text"][:] == ["ChatModel 18:\nWords.", "ChatModel 19:\nWords."]


def test_wikitext_heading_stays_with_its_paragraph():
    text = " \n = Lobster = \n \n It lives in the sea . \n \n = = Size = = \n \n It grows . \n"
    assert list(paragraphs(text.split("\n"))) == [
        " = Lobster =\n\n It lives in the sea .",
        " = = Size = =\n\n It grows .",
    ]


def test_folder_finds_the_file_named_after_its_split(tmp_path):
    write_lines(tmp_path / "train-0.jsonl", [{"text": "a"}])
    write_lines(tmp_path / "validation-0.jsonl", [{"text": "b"}])
    assert load_rows(str(tmp_path), "train")["text"][:] == ["a"]
    assert load_rows(str(tmp_path), "validation")["text"][:] == ["b"]
    assert load_rows(str(tmp_path), "all")["text"][:] == ["a", "b"]


@pytest.fixture
def hub(monkeypatch):
    """A hub with one dataset, whose splits the test sets."""
    splits = {}

    def load_dataset(path, split, name=None, streaming=False):
        rows = [{"text": f"{split} {i}"} for i in range(splits[split])]
        rows = Dataset.from_list(rows)
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_, **__: list(splits))
    return splits


@pytest.mark.parametrize(
    "splits, validation",
    [
        ({"train": 30, "validation": 4, "test": 5}, [f"validation {i}" for i in range(4)]),
        ({"train": 30, "test": 5}, [f"test {i}" for i in range(5)]),
        ({"train": 30}, ["train 9", "train 19", "train 29"]),
    ],
)
def test_hub_validation_is_validation_or_test_or_every_tenth(hub, splits, validation):
    hub.update(splits)
    assert load_rows("a/b:main", "validation")["text"][:] == validation
    assert load_rows("a/b:main", "validation", limit=2)["text"][:] == validation[:2]
    train = load_rows("a/b:main", "train")["text"][:]
    assert not set(train) & set(validation)
    assert len(train) == 30 if len(splits) > 1 else 27
    assert load_rows("a/b:main", "train", limit=12)["text"][:] == train[:12]


@pytest.mark.parametrize("limit", [None, 6])
def test_lines_of_a_hub_set_become_paragraphs(monkeypatch, limit):
    """As Salesforce/wikitext is published: a row for each line, blank ones between."""
    lines = ["", " = Valkyria = \n", "", " The first . \n", " The second . \n", ""]

    def load_dataset(path, split, streaming=False):
        rows = [{"text": line} for line in lines]
        rows = Dataset.from_list(rows)
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_, **__: ["train", "validation"])
    rows = load_rows("a/b", "train", limit=limit)["text"][:]
    assert rows == [" = Valkyria =\n\n The first .", " The second ."]


def test_documents_of_a_hub_set_stay_whole(monkeypatch):
    """A blank row among documents of several paragraphs is no reason to cut them up."""
    documents = ["One.\n\nTwo.", "", "Three."]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Dataset.from_dict({"text": documents}))
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_, **__: ["train", "validation"])
    assert load_rows("a/b", "train")["text"][:] == documents


def test_hub_all_joins_the_splits(hub):
    hub.update(train=2, test=1)
    assert load_rows("a/b", "all")["text"][:] == ["train 0", "train 1", "test 0"]


@pytest.mark.parametrize(
    "source", ["/no/such.jsonl", "data.jsonl", "a/b/c", "two words", "miniworld/nothing"]
)
def test_unknown_sources_are_refused(source):
    with pytest.raises(ValueError, match=source.removeprefix("miniworld/")):
        load_rows(source)


def test_unreachable_hub_set_says_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.get_dataset_split_names", offline)
    with pytest.raises(ValueError, match="a/b.*no route"):
        load_rows("a/b")


def test_wrong_requests_are_refused(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    (tmp_path / "x.xlsx").write_text("a\n")
    one = write_lines(tmp_path / "one.jsonl", [{"a": 1}])
    for message, arguments in {
        "line 2": (str(bad),),
        "'test'": ("miniworld/stories", "test"),
        ".xlsx": (str(tmp_path / "x.xlsx"),),
        "validation": (one, "validation"),
    }.items():
        with pytest.raises(ValueError, match=message):
            load_rows(*arguments)


@pytest.mark.parametrize("name", miniworld.dataset_names())
def test_a_miniworld_is_read_as_it_is_generated(name):
    loaded = load_dataset(**data_source(f"miniworld/{name}"))
    for split in miniworld.SPLITS:
        assert loaded[split].select(range(20)).to_list() == miniworld.dataset(name, split, n=20)


def test_own_files_are_kept_as_parquet_under_a_hash_of_what_is_in_them(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    lines = [json.dumps({"id": f"00{i}", "n": i}) for i in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*lines, "[1]"]))
    first = data_source(str(path))
    assert Path(first["path"]).parent == tmp_path / "cache"
    assert load_dataset(**first)["train"].to_list() == [{"id": f"00{i}", "n": i} for i in range(40)]
    caplog.clear()
    assert data_source(str(path)) == first and "line 41" in caplog.text, "said each time, not when read alone"
    with pytest.raises(ValueError, match="max_invalid_fraction"):
        data_source(str(path), max_invalid_fraction=0.0)
    path.write_text("\n".join(lines))
    assert data_source(str(path)) != first


@pytest.mark.slow
def test_many_processes_make_a_cached_set_once(tmp_path):
    code = "from lmlab.data.sources import data_source; print(data_source('miniworld/fantasy')['path'])"
    environment = os.environ | {"LMLAB_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    paths = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0] and len(paths) == 1
    left = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock")
    assert left == [Path(paths.pop()).name], "nothing half-made is left"


def test_arguments_of_load_dataset(tmp_path):
    assert data_source("openai/gsm8k:main") == {"path": "openai/gsm8k", "name": "main"}
    assert data_source("a/b") == {"path": "a/b"}
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        Dataset.from_list([{"text": name}]).to_parquet(tmp_path / name)
    assert load_dataset(**data_source(str(tmp_path)))["test"]["text"][:] == ["test-00000-of-00001.parquet"]


def test_miniworld_limit_and_all():
    assert len(load_rows("miniworld/stories", limit=7)) == 7
    assert len(load_rows("miniworld/pairs-274", "all")) == 274


# --- texts as a stream -------------------------------------------------------------------------------


def write_texts(path, texts):
    """Texts in a file of the kind that its ending says."""
    if path.suffix == ".parquet":
        Dataset.from_dict({"text": texts}).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    else:
        path.write_text("\n\n".join(texts), encoding="utf-8")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".txt"])
def test_a_stream_gives_every_text_in_order(tmp_path, suffix):
    texts = [f"text {i}\nof two lines ✓" for i in range(12)]
    path = tmp_path / f"texts{suffix}"
    write_texts(path, texts)
    for skip in (0, 3, 12, 13):
        assert list(stream_texts(str(path), skip=skip)) == texts[skip:]
        assert list(stream_texts(str(path), skip=skip, limit=4)) == texts[skip : skip + 4]
    assert load_rows(str(path), "all")["text"][:] == texts


def test_a_stream_of_a_folder_is_its_train_split(tmp_path):
    for name in ("train-0", "train-1", "test-0", "validation-0"):
        write_texts(tmp_path / f"{name}.jsonl", [name])
    assert list(stream_texts(str(tmp_path))) == ["train-0", "train-1"]
    (tmp_path / "train-0.jsonl").unlink()
    (tmp_path / "train-1.jsonl").unlink()
    with pytest.raises(ValueError, match="train"):
        list(stream_texts(str(tmp_path)))


def test_memory_of_a_stream_does_not_grow_with_the_file(tmp_path):
    import tracemalloc

    path = tmp_path / "large.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(800):
            file.write(json.dumps({"text": "word " * 1000}) + "\n")
    tracemalloc.start()
    n = sum(1 for _ in stream_texts(str(path)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 800
    assert most < 2e6 < path.stat().st_size


def test_a_stream_of_miniworld_is_its_rows():
    streamed = list(stream_texts("miniworld/stories", skip=3, limit=4))
    assert streamed == load_rows("miniworld/stories", "train", limit=7)["text"][3:]


def test_a_stream_of_a_hub_set(monkeypatch):
    def load_dataset(path, name, split, streaming):
        assert (path, name, split, streaming) == ("a/b", "sample-10BT", "train", True)
        return Dataset.from_dict({"text": [f"text {i}" for i in range(6)]}).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert list(stream_texts("a/b:sample-10BT", skip=2, limit=2)) == ["text 2", "text 3"]


def test_wrong_streams_are_refused_by_name(tmp_path):
    def refused(name, content, message):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            list(stream_texts(str(tmp_path / name)))

    refused("a.jsonl", '{"body": "x", "id": 1}', "a.jsonl, line 1 .*'text'.*body")
    refused("b.jsonl", '{"text": "x"}\n\n{"text": ', "b.jsonl, line 3 ")
    refused("c.jsonl", '{"text": null}', "c.jsonl, line 1 .*None")
    refused("d.jsonl", '["x"]', "d.jsonl, line 1 ")
    Dataset.from_list([{"body": "x"}]).to_parquet(tmp_path / "g.parquet")
    with pytest.raises(ValueError, match="g.parquet .*'text'.*body"):
        list(stream_texts(str(tmp_path / "g.parquet")))


def test_model_path_and_loaders(tmp_path, gpt2_folder):
    assert model_source("openai-community/gpt2") == "openai-community/gpt2"
    assert model_source(str(tmp_path)) == str(tmp_path)
    with pytest.raises(ValueError, match="found no file or folder"):
        model_source(str(tmp_path / "missing"))
    model = load_model(str(gpt2_folder))
    assert model.loss_type == "ForCausalLM"
    assert str(model.dtype) == "torch.float32"
    assert load_tokenizer(str(gpt2_folder)).eos_token == "<|endoftext|>"


def test_the_one_piece_gelu_is_gpt2s_own(gpt2_folder):
    import torch
    from transformers import AutoModelForCausalLM

    model, published = load_model(str(gpt2_folder)), AutoModelForCausalLM.from_pretrained(gpt2_folder)
    assert type(model.transformer.h[0].mlp.act) is not type(published.transformer.h[0].mlp.act)
    ids = torch.arange(60).view(2, 30)
    torch.testing.assert_close(model.eval()(ids).logits, published.eval()(ids).logits, rtol=1e-5, atol=1e-5)
    assert model.config.activation_function == published.config.activation_function == "gelu_new"


def test_loss_of_a_loaded_gpt2_is_the_mean_that_trainer_divides_right(gpt2_folder):
    """With num_items_in_batch, as Trainer calls it, the loss is the sum by that number."""
    import torch

    model = load_model(str(gpt2_folder)).eval()
    ids = torch.arange(12).view(1, 12)
    with torch.no_grad():
        plain = model(ids, labels=ids).loss
        counted = model(ids, labels=ids, num_items_in_batch=torch.tensor(11)).loss
    assert counted == pytest.approx(plain.item(), rel=1e-6)


def test_importing_data_loads_no_heavy_library():
    code = (
        "import sys, lmlab.data.sources; "
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
