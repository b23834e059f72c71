"""Rows by source name: miniworld, a local file or folder in the publisher's layout, or a hub id."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from lmlab.data.readers import files_of_split, read_table, text_lines
from lmlab.data.splits import SPLITS, VALIDATION_FRACTION, split_indices
from lmlab.data.usable import MAX_INVALID_FRACTION
from lmlab.models.sources import ENDINGS, _local_path


def load_rows(
    source: str,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    max_invalid_fraction: float = MAX_INVALID_FRACTION,
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
        max_invalid_fraction: Of the lines of a .jsonl, .json or .csv file, that may be no rows; these are counted,
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
    rows = (
        _hub_rows(source, split, limit)
        if path is None
        else _local_rows(path, split, seed, max_invalid_fraction)
    )
    rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
    if len(rows) == 0:
        raise ValueError(f"{source} has no rows in {split}; give a source with more rows, or split='all'")
    return rows


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


def _local_rows(path: Path, split: str, seed: int, max_invalid_fraction: float):
    if path.is_file() and path.suffix not in ENDINGS:
        raise ValueError(f"{path} ends in {path.suffix!r}; give a file ending in {', '.join(ENDINGS)}")
    files, mixed = files_of_split(path, split)
    part = split if mixed else "all"
    if files[0].suffix == ".txt":
        return _text_rows(files, part)
    rows = _parquet_rows(files) if files[0].suffix == ".parquet" else read_table(files, max_invalid_fraction)
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
    cut = len(texts) - round(len(texts) * VALIDATION_FRACTION)
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
