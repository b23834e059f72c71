"""Texts one by one, in constant memory, from files of any size or the hub."""

from collections.abc import Iterator
from itertools import islice

from lmlab.data.readers import numbered_rows
from lmlab.data.sources import data_source, own_file
from lmlab.data.usable import BadRow


def stream_texts(source: str, skip: int = 0, limit: int | None = None) -> Iterator[str]:
    """The texts (column "text") of a source's train split, one by one; memory does not grow with the source.

    Own .jsonl, .csv and .txt files are read line by line, everything else by
    ``load_dataset(streaming=True)``. A source without splits is read whole, as whoever streams holds out the
    first part of the stream. A row without a text stops the stream: were it left out, later texts would have
    other positions.

    Args:
        source: As ``data_source`` takes it.
        skip: At which text to begin.
        limit: At most so many texts; None: all.

    Returns:
        The texts in order; the same ones at every call, so that ``skip`` resumes exactly.

    Raises:
        ValueError: The source or its train split is unknown, or a row has no text.
    """
    path = own_file(source)
    if path is not None:
        # not by ``data_source``: it converts a file as a whole, which may be larger than the memory
        return islice(_file_texts(path), skip, limit and skip + limit)
    from datasets import load_dataset  # a slow import

    # skip before the rows are looked at, so that a resumed run reaches its position quickly
    rows = load_dataset(**data_source(source), split="train", streaming=True).skip(skip)
    return islice((_text_of(row, source) for row in rows), limit)


def _file_texts(path) -> Iterator[str]:
    for number, row in numbered_rows(path):
        where = f"{path}, line {number}"
        if isinstance(row, BadRow):
            raise ValueError(f"{where} is no row: {row.why}; fix or remove it")
        yield _text_of(row, where)


def _text_of(row: dict, where: str) -> str:
    if not isinstance(row.get("text"), str):
        raise ValueError(f"{where} has no string in a column 'text' but {row!r:.80}; fix or remove the row")
    return row["text"]
