"""Rows and models by source name.

A source is "miniworld/<name>" (shipped), a local file or folder in its publisher's layout, or a hub id
("openai/gsm8k:main" names a config after a colon). One loader serves the three.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from lmlab.checkpoints import code_refused
from lmlab.pairs import MAX_BAD_SHARE
from lmlab.readers import ENDINGS, csv_rows, files_of_split, json_row, open_text, read_table, text_lines
from lmlab.rows import UnusableRow

VALIDATION_SHARE = 0.1  # of a source that comes without a validation split
SPLITS = ("train", "validation", "all")


# --- rows -----------------------------------------------------------------------------------------


def load_rows(
    source: str,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
):
    """The rows of one split of a source.

    A folder has the splits that the names of its folders and files say (``readers.split_files``), all files of
    each; "validation" is its test files where it has no validation files. A file, and a folder that names no
    validation, is divided 90 to 10, always in the same way: rows after a shuffle by ``seed``; a .txt file, of
    which each paragraph is a row {"text"}, as it stands, its end being the validation part. A hub set without a
    validation split gives its "test" split, and without that every tenth row of "train".

    Args:
        source: miniworld/NAME, a file or folder, or a hub id.
        split: "train", "validation" or "all".
        limit: At most so many rows; None: all.
        seed: Of the division of a file.
        max_bad_share: Of the lines of a .jsonl, .json or .csv file, that may be no rows; these are counted,
            shown and left out.

    Returns:
        A ``datasets.Dataset``.

    Raises:
        ValueError: The source or split is unknown, there are no rows, or too many unusable ones.
    """
    if split not in SPLITS:
        raise ValueError(f"split of {source} got {split!r}; give one of {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit of {source} got {limit}; give a positive number, or None for all rows")
    if source.startswith("miniworld/"):
        return _miniworld_rows(source.removeprefix("miniworld/"), split, limit, seed)
    path = _local_path(source)
    rows = _hub_rows(source, split, limit) if path is None else _local_rows(path, split, seed, max_bad_share)
    rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
    if len(rows) == 0:
        raise ValueError(f"{source} has no rows in {split}; give a source with more rows, or split='all'")
    return rows


def split_indices(n: int, split: str, seed: int = 0, share: float = VALIDATION_SHARE) -> list[int]:
    """Which of ``n`` rows belong to a split, in shuffled order ("all": 0 to n - 1, as they stand).

    Train and validation of one seed are disjoint and together everything. Python promises that
    ``random.random`` of an integer seed stays the same in later versions; of ``random.shuffle`` it does not.
    """
    if split == "all":
        return list(range(n))
    draw = random.Random(seed).random
    keys = [draw() for _ in range(n)]
    order = sorted(range(n), key=keys.__getitem__)
    n_validation = max(1, round(n * share)) if n > 1 else 0
    return order[:n_validation] if split == "validation" else order[n_validation:]


def _miniworld_rows(name: str, split: str, limit: int | None, seed: int):
    from datasets import Dataset

    from lmlab import miniworld

    parts = ("train", "validation") if split == "all" else (split,)
    rows = [row for part in parts for row in _miniworld_part(miniworld, name, part, limit, seed)]
    return Dataset.from_list(rows[:limit])


def _miniworld_part(miniworld, name: str, split: str, limit: int | None, seed: int) -> list[dict]:
    if limit is None or name == "pairs-274":  # this one has an end
        return miniworld.dataset(name, split, seed=seed)
    return miniworld.dataset(name, split, n=limit, seed=seed)


def _local_path(source: str) -> Path | None:
    """The path that ``source`` names, or None where it can only be a hub id."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    looks_local = source.startswith(("/", ".", "~")) or path.suffix in ENDINGS or source.count("/") > 1
    if looks_local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", source):
        raise ValueError(
            f"found no file or folder {source!r}; give 'miniworld/<name>', an existing path or a hub id"
        )
    return None


def _local_rows(path: Path, split: str, seed: int, max_bad_share: float):
    if path.is_file() and path.suffix not in ENDINGS:
        raise ValueError(f"{path} ends in {path.suffix!r}; give a file ending in {', '.join(ENDINGS)}")
    files, mixed = files_of_split(path, split)
    part = split if mixed else "all"
    if files[0].suffix == ".txt":
        return _text_rows(files, part)
    rows = _parquet_rows(files) if files[0].suffix == ".parquet" else read_table(files, max_bad_share)
    return rows.select(split_indices(len(rows), part, seed))


def _parquet_rows(files: list[Path]):
    from datasets import Dataset, concatenate_datasets
    from pyarrow import ArrowException, parquet

    try:
        return concatenate_datasets([Dataset(parquet.read_table(file)) for file in files])
    except (ArrowException, ValueError) as error:
        names = ", ".join(str(file) for file in files[:5])
        raise ValueError(
            f"could not read {names} as parquet files with the same columns ({error}); fetch them "
            "again, or move away what does not belong to the set"
        ) from error


def _text_rows(files: list[Path], split: str):
    from datasets import Dataset

    texts = [text for file in files for text in _paragraphs(text_lines(file))]
    cut = len(texts) - round(len(texts) * VALIDATION_SHARE)
    part = {"train": texts[:cut], "validation": texts[cut:], "all": texts}[split]
    return Dataset.from_dict({"text": part})


def paragraphs(text: str) -> list[str]:
    """What stands between blank lines; a WikiText heading (" = Title = ") stays with what follows it."""
    return list(_paragraphs(text.split("\n")))


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    heading = ""
    for block in _blocks(lines):
        if re.fullmatch(r"\s*(= )+.*( =)+\s*", block):
            heading += block.rstrip() + "\n\n"
        elif block.strip():
            yield heading + block.rstrip()
            heading = ""


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    """Lines joined up to the next blank one. A blank line at the very beginning belongs to what follows."""
    block: list[str] = []
    for number, line in enumerate(lines):
        if line.strip() or number == 0:
            block.append(line.rstrip("\n"))
        elif block:
            yield "\n".join(block)
            block = []
    yield "\n".join(block)


def _hub_rows(source: str, split: str, limit: int | None):
    from datasets import concatenate_datasets

    name, _, config = source.partition(":")
    there = _hub_splits(source)
    if split == "all":
        return concatenate_datasets([_hub_split(name, config, part, limit) for part in there])
    held_out = next((part for part in ("validation", "test") if part in there), None)
    part = held_out if split == "validation" and held_out else "train"
    if part not in there:
        raise ValueError(f"{source} has the splits {', '.join(there)} and no {part}; give split='all'")
    return _hub_split(name, config, part, limit, tenth=None if held_out else split)


def _hub_splits(source: str) -> list[str]:
    from datasets import get_dataset_split_names

    name, _, config = source.partition(":")
    try:
        return get_dataset_split_names(name, config or None)
    except Exception as error:  # offline, unknown, gated: the hub's own words say which
        raise ValueError(
            f"could not open {source!r} as a hub dataset ({type(error).__name__}: {error}); "
            "check name and network, or give 'miniworld/<name>' or a local path"
        ) from error


def _hub_split(name: str, config: str, part: str, limit: int | None, tenth: str | None = None):
    """One split of a hub set. With a limit it is streamed, so that a part of a huge set loads in seconds.

    tenth: "train" leaves every tenth row out, "validation" takes those alone.
    """
    from datasets import Dataset, load_dataset

    def wanted(i: int) -> bool:
        return tenth is None or (i % 10 == 9) == (tenth == "validation")

    if limit is None:
        rows = _whole_paragraphs(load_dataset(name, config or None, split=part))
        return rows if tenth is None else rows.select([i for i in range(len(rows)) if wanted(i)])
    stream = load_dataset(name, config or None, split=part, streaming=True)
    return _whole_paragraphs(
        Dataset.from_list(list(islice((r for i, r in enumerate(stream) if wanted(i)), limit)))
    )


def _whole_paragraphs(rows):
    """The hub's WikiText has a row for each line, blank ones too: makes rows like those of a .txt file of it.

    Rows that hold line breaks are documents, and stay as they are.
    """
    from datasets import Dataset

    if (
        rows.column_names != ["text"]
        or all(text.strip() for text in rows["text"])
        or any("\n" in text.strip() for text in rows["text"])
    ):
        return rows
    return Dataset.from_dict({"text": paragraphs("\n\n".join(rows["text"]))})


# --- texts as a stream ----------------------------------------------------------------------------

_STREAMED = (".jsonl", ".csv", ".parquet", ".txt")


def stream_texts(source: str, split: str = "train", skip: int = 0, limit: int | None = None) -> Iterator[str]:
    """The texts (column "text") of a source, one by one; memory does not grow with a file or a hub set.

    A local source is a .jsonl, .csv, .parquet or .txt file (of which each paragraph is a text), or a folder of
    many files of one of these kinds, read in the order of their paths, as FineWeb-Edu's sample/10BT has them. It
    is read whole, as whoever streams holds out the first part of the stream; but where files of a folder are
    named after splits (see ``load_rows``), those of ``split`` are read, or all. A row without a text stops the
    stream, as later positions would be others if it were left out.
    miniworld and hub sets give ``split`` as published. skip: at which text to begin; limit: at most so many.
    Raises ValueError for an unknown source, split or column, and for a text that is none.
    """
    if split not in SPLITS:
        raise ValueError(f"split of {source} got {split!r}; give one of {', '.join(SPLITS)}")
    if skip < 0 or (limit is not None and limit < 1):
        raise ValueError(
            f"stream of {source} got skip {skip} and limit {limit}; "
            "give a skip from 0 and a positive limit, or None for all"
        )
    if source.startswith("miniworld/"):
        rows = _miniworld_rows(source.removeprefix("miniworld/"), split, limit and skip + limit, 0)
        texts = (_text_of(row, source) for row in islice(rows, skip, None))
    else:
        path = _local_path(source)
        texts = _hub_texts(source, split, skip) if path is None else _file_texts(_files(path, split), skip)
    return islice(texts, limit)


def _text_of(row, where: str) -> str:
    if not isinstance(row, dict) or "text" not in row:
        there = ", ".join(row) if isinstance(row, dict) else f"none, it is a {type(row).__name__}"
        raise ValueError(
            f"{where} has no column 'text'; its columns are: {there}; rename the one that holds the texts"
        )
    if not isinstance(row["text"], str):
        raise ValueError(f"{where} has a text that is {row['text']!r:.60}; give a string, or remove the row")
    return row["text"]


def _hub_texts(source: str, split: str, skip: int) -> Iterator[str]:
    from datasets import concatenate_datasets, load_dataset

    name, _, config = source.partition(":")
    there = _hub_splits(source)
    if split != "all" and split not in there:
        raise ValueError(f"{source} has the splits {', '.join(there)}, no {split}; give one of them or 'all'")
    parts = [
        load_dataset(name, config or None, split=part, streaming=True)
        for part in (there if split == "all" else [split])
    ]
    rows = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    return (_text_of(row, source) for row in rows.skip(skip))


def _files(path: Path, split: str) -> list[Path]:
    """The files of a local source in the order in which they are read."""
    files, mixed = files_of_split(path, split)
    if files[0].suffix not in _STREAMED:
        raise ValueError(
            f"{path} gives files ending in {files[0].suffix}; "
            f"give a file, or a folder with files, of one kind: {', '.join(_STREAMED)}"
        )
    if mixed and split == "validation":
        raise ValueError(
            f"{path} has no validation part to stream apart from the rest; give split='all', "
            "and hold out the first shard"
        )
    return files


def _file_texts(files: list[Path], skip: int) -> Iterator[str]:
    """Skipped rows are counted and not parsed; parquet's row groups are not even read."""
    for file in files:
        for n_rows, read in _PIECES[file.suffix](file):
            if skip >= n_rows:
                skip -= n_rows
            else:
                yield from islice(read(), skip, None)
                skip = 0


# how many texts a piece of a file has, and what reads it
Pieces = Iterator[tuple[int, Callable[[], Iterable[str]]]]


def _txt_pieces(path: Path) -> Pieces:
    for paragraph in _paragraphs(text_lines(path)):
        yield 1, lambda text=paragraph: [text]


def _jsonl_pieces(path: Path) -> Pieces:
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield 1, lambda line=line, number=number: [_line_text(line, f"{path}, line {number}")]


def _line_text(line: str, where: str) -> str:
    try:
        return _text_of(json_row(line), where)
    except UnusableRow as error:
        raise _no_row(where, error) from error


def _csv_pieces(path: Path) -> Pieces:
    for number, row, _ in csv_rows(path):
        if isinstance(row, UnusableRow):
            raise _no_row(f"{path}, line {number}", row)
        yield 1, lambda row=row, number=number: [_text_of(row, f"{path}, line {number}")]


def _no_row(where: str, reason: UnusableRow) -> ValueError:
    return ValueError(f"{where} is no row: {reason}; mend or remove it")


def _parquet_pieces(path: Path) -> Pieces:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no whole parquet file ({error}); fetch it again or remove it") from error
    with file:
        names = file.schema_arrow.names
        _text_of(dict.fromkeys(names, ""), str(path))  # the column is there
        for group in range(file.num_row_groups):
            yield file.metadata.row_group(group).num_rows, lambda group=group: _group_texts(file, group, path)


def _group_texts(file, group: int, path: Path) -> Iterator[str]:
    for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=["text"]):
        for row in batch.to_pylist():
            yield _text_of(row, str(path))


_PIECES = {".txt": _txt_pieces, ".jsonl": _jsonl_pieces, ".csv": _csv_pieces, ".parquet": _parquet_pieces}


# --- models ---------------------------------------------------------------------------------------


def model_path(source: str) -> str:
    """What ``from_pretrained`` takes: the folder of a base ("miniworld/gpt2"), a local one, or a hub id."""
    if source.startswith("miniworld/"):
        from lmlab import miniworld

        return str(miniworld.model_dir(source.removeprefix("miniworld/")))
    path = _local_path(source)
    if path is not None and not path.is_dir():
        raise ValueError(f"model {source!r} is a file; give the folder that holds config.json")
    return source if path is None else str(path)


def load_tokenizer(source: str):
    """The tokenizer of a model source. It is left as published: GPT-2's has no pad token."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path(source))


def load_model(source: str, **kwargs):
    """The causal language model of a source, by AutoModelForCausalLM; float32 unless ``dtype`` is given.

    transformers leaves GPT-2 without a ``loss_type``, and its Trainer then reports the loss too low by the
    factor (T - 1) / T; it is set here. GPT-2's GELU is made one operation (``one_piece_gelu``).
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    choices = {"dtype": torch.float32} | kwargs
    with code_refused(source):
        model = AutoModelForCausalLM.from_pretrained(model_path(source), **choices)
    model.loss_type = "ForCausalLM"
    return one_piece_gelu(model)


def one_piece_gelu(model):
    """The model, with GPT-2's GELU as PyTorch's one operation.

    transformers computes the same function in eight, whose results are all kept for the backward pass.
    """
    from transformers.activations import ACT2FN, NewGELUActivation

    for module in model.modules():
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = ACT2FN["gelu_pytorch_tanh"]
    return model
