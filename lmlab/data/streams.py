"""Texts one by one, in constant memory, from files of any size or the hub."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from lmlab.data.loading import _hub_splits, _miniworld_rows, _paragraphs
from lmlab.data.readers import csv_rows, files_of_split, json_row, open_text, text_lines
from lmlab.data.rows import UnusableRow
from lmlab.data.splits import SPLITS
from lmlab.models.sources import _local_path

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
