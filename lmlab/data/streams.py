"""Texts one by one, in constant memory, from files of any size or the hub."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lmlab.data.readers import numbered_rows
from lmlab.data.rows import UnusableRow
from lmlab.data.sources import data_source, split_files, split_names, wanted_splits
from lmlab.models.sources import local_path


def stream_texts(source: str, split: str = "train", skip: int = 0, limit: int | None = None) -> Iterator[str]:
    """The texts (column "text") of a source, one by one; memory does not grow with a file or a hub set.

    Own .jsonl, .csv and .txt files are read line by line, everything else by
    ``load_dataset(streaming=True)``. A source without splits is read whole, as whoever streams holds out the
    first part of the stream. A row without a text stops the stream: were it left out, later texts would have
    other positions.

    Args:
        source: As ``data_source`` takes it.
        split: "train", "validation" (the test split where there is none) or "all", one after the other.
        skip: At which text to begin.
        limit: At most so many texts; None: all.

    Returns:
        The texts in order; the same ones at every call, so that ``skip`` resumes exactly.

    Raises:
        ValueError: The source, split or column is unknown, or a text is none.
    """
    path = None if source.startswith("miniworld/") else local_path(source)
    files = {} if path is None else split_files(path)
    if any(file.suffix != ".parquet" for its_files in files.values() for file in its_files):
        chosen = [file for name in _chosen(source, list(files), split) for file in files[name]]
        texts = (text for file in chosen for text in _file_texts(file))
        return islice(texts, skip, limit and skip + limit)
    rows = _dataset_rows(source, split).skip(skip)
    return islice((_text_of(row, source) for row in rows), limit)


def _chosen(source: str, names: list[str], split: str) -> list[str]:
    chosen, divided = wanted_splits(source, names, split)
    if divided and split == "validation":
        raise ValueError(
            f"{source} has no validation split to stream apart from the rest; give split='all', and hold out "
            "the first shard"
        )
    return chosen


def _file_texts(path: Path) -> Iterator[str]:
    for number, row, _ in numbered_rows(path):
        where = f"{path}, line {number}"
        if isinstance(row, UnusableRow):
            raise ValueError(f"{where} is no row: {row}; fix or remove it")
        yield _text_of(row, where)


def _dataset_rows(source: str, split: str):
    from datasets import concatenate_datasets, load_dataset

    arguments = data_source(source)
    names = _chosen(source, split_names(source, arguments), split)
    parts = [load_dataset(**arguments, split=name, streaming=True) for name in names]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _text_of(row: dict, where: str) -> str:
    if "text" not in row:
        raise ValueError(f"{where} has no column 'text' but {', '.join(row)}; rename the one with the texts")
    if not isinstance(row["text"], str):
        raise ValueError(f"{where} has a text that is {row['text']!r:.60}; give a string, or remove the row")
    return row["text"]
