"""What ``datasets.load_dataset`` takes for the name of a source: miniworld, own files, a folder, a hub id.

Own files and miniworlds are kept as parquet in a cache, ``~/.cache/lmlab`` or where ``LMLAB_CACHE`` says. A
folder there is named after a hash of what it was made from, is complete or absent, and is made by one
process.
"""

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.data import readers
from lmlab.data.readers import lossless_column, nested_and_plain, numbered_rows, paragraphs
from lmlab.data.rows import UnusableRow
from lmlab.data.splits import SPLITS, VALIDATION_FRACTION
from lmlab.data.usable import MAX_INVALID_FRACTION, BadRow, leave_out
from lmlab.files import replace_folder
from lmlab.models.sources import local_path

if TYPE_CHECKING:
    from datasets import Dataset

ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".txt")
_LEFT_OUT = ".left_out.json"  # hidden, so that ``datasets`` does not take it for data
_SHARD = re.compile(r"(?P<name>.*?)-?\d{5}-of-(?P<count>\d{5})")

logger = logging.getLogger(__name__)


def data_source(source: str, max_invalid_fraction: float = MAX_INVALID_FRACTION) -> dict:
    """The keyword arguments of ``datasets.load_dataset`` for a source.

    Args:
        source: "miniworld/stories"; a .jsonl, .json, .csv, .txt or .parquet file; a folder of such files in a
            publisher's layout (train-00000-of-00002.parquet, validation/a.jsonl); or a hub id, with its
            configuration after a colon ("openai/gsm8k:main").
        max_invalid_fraction: Of the rows of an own file, that may be unusable. These are counted, shown with
            their numbers and left out.

    Returns:
        path, and where needed name or data_files: ``load_dataset(**data_source(cfg.data))``.

    Raises:
        ValueError: There is no such source, or too many of its rows are unusable.
    """
    if source.startswith("miniworld/"):
        return {"path": str(_miniworld_folder(source.removeprefix("miniworld/")))}
    path = local_path(source)
    if path is None and Path(source).suffix in ENDINGS:
        raise ValueError(f"found no file {source!r}; give an existing path, 'miniworld/<name>' or a hub id")
    if path is None:
        name, _, config = source.partition(":")
        return {"path": name, "name": config} if config else {"path": name}
    files = split_files(path)
    if _ending(files) == ".parquet":
        names = {split: [str(file) for file in its_files] for split, its_files in files.items()}
        return {"path": "parquet", "data_files": names}
    return {"path": str(_converted_folder(path, files, max_invalid_fraction))}


def split_files(path: Path) -> dict[str, list[Path]]:
    """The data files of a local source by split, as ``datasets`` finds them by their names and folders.

    Args:
        path: A file, which is all "train", or a folder.

    Returns:
        Split to files, in the order of their paths.

    Raises:
        ValueError: There are no data files, files of several kinds, or two sets in one folder.
    """
    if path.is_file():
        files = {"train": [path]}
    else:
        files = _files_of_folder(path)
    endings = sorted({file.suffix for its_files in files.values() for file in its_files})
    if len(endings) != 1 or endings[0] not in ENDINGS:
        raise ValueError(
            f"{path} has data files ending in {', '.join(endings) or 'nothing that is read'}; give files of "
            f"one kind of {', '.join(ENDINGS)}, and move the others away, as they may hold the same rows"
        )
    return files


def _files_of_folder(path: Path) -> dict[str, list[Path]]:
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    try:
        patterns = get_data_patterns(str(path))
    except EmptyDatasetError:
        return {}
    found = DataFilesDict.from_patterns(patterns, base_path=str(path), allowed_extensions=list(ENDINGS))
    files = {str(split): sorted(map(Path, names)) for split, names in found.items() if names}
    for split in files:
        _check_shards(path, split, files[split])
    return files


def _check_shards(path: Path, split: str, files: list[Path]) -> None:
    """Of "-00000-of-00002" each number must come once; warns where some are missing."""
    shards = [file for file in files if _SHARD.match(file.name)]
    names = {file.name for file in shards}
    if len(names) < len(shards):
        folders = sorted({str(file.parent.relative_to(path)) for file in shards})
        raise ValueError(
            f"{path} holds several sets, in {', '.join(folders)}; give the folder of one of them"
        )
    there = Counter(_SHARD.match(name).groups() for name in names)
    for (_, count), n in there.items():
        if n < int(count):
            logger.warning("%s has %d of %d shards of %s; the others are missing", path, n, int(count), split)


def _ending(files: dict[str, list[Path]]) -> str:
    return next(iter(files.values()))[0].suffix


# --- the cache ---------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """The folder of what is made once: ``LMLAB_CACHE``, or ``~/.cache/lmlab``."""
    return Path(os.environ.get("LMLAB_CACHE", "~/.cache/lmlab")).expanduser()


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, which ``make`` fills where it is not there."""
    from filelock import FileLock

    folder = cache_dir() / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():  # another process may have made it in the meantime
                with replace_folder(folder) as new:
                    make(new)
    return folder


def _hash(files: list[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode())
        with open(file, "rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()[:16]


def _write_parquet(folder: Path, split: str, columns: dict[str, list]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), folder / f"{split}-00000-of-00001.parquet")


def _miniworld_folder(name: str) -> Path:
    from lmlab import miniworld

    def make(folder: Path) -> None:
        for split in miniworld.SPLITS:
            rows = miniworld.dataset(name, split)
            _write_parquet(folder, split, {key: [row[key] for row in rows] for key in rows[0]})

    generator = Path(miniworld.__file__).parent
    sources = sorted(
        file for file in generator.rglob("*") if file.suffix in (".py", ".txt", ".json", ".yaml")
    )
    sources = [file for file in sources if miniworld.MODELS not in file.parents]
    return _made_once(f"miniworld-{name}-{_hash(sources)}", make)


def _converted_folder(path: Path, files: dict[str, list[Path]], max_invalid_fraction: float) -> Path:
    """A reader's own files as parquet, with what was left out of them, which is said each time."""
    every_file = [file for split in files for file in files[split]]
    key = _hash([*every_file, Path(readers.__file__), Path(__file__)])
    folder = _made_once(f"{path.stem}-{key}", lambda folder: _convert(files, folder))
    left_out = json.loads((folder / _LEFT_OUT).read_text(encoding="utf-8"))
    for file, (n_rows, bad) in zip(every_file, left_out, strict=True):
        leave_out([BadRow(*row) for row in bad], n_rows, str(file), max_invalid_fraction, place="line")
    if not any(folder.glob("*.parquet")):
        raise ValueError(f"{path} has no rows; give a source with rows")
    return folder


def _convert(files: dict[str, list[Path]], folder: Path) -> None:
    """Writes the rows of all splits with the same columns, and what cannot be a row to ``_LEFT_OUT``."""
    rows: list[dict] = []
    origins: list[tuple[str, int, int]] = []  # of each row: its split, its file, its number there
    left_out: list[tuple[int, list[BadRow]]] = []  # of each file: how many rows it has, the unusable ones
    for split in files:
        for file in files[split]:
            n_rows, bad = 0, []
            for number, row, found in numbered_rows(file):
                n_rows += 1
                if isinstance(row, UnusableRow):
                    bad.append(BadRow(number, str(row), _shortened(found)))
                else:
                    rows.append(row)
                    origins.append((split, len(left_out), number))
            left_out.append((n_rows, bad))
    keys = list(dict.fromkeys(key for row in rows for key in row))
    odd = nested_and_plain(rows, keys)
    for i, why in odd.items():
        _, file, number = origins[i]
        left_out[file][1].append(BadRow(number, why, _shortened(rows[i])))
    kept = [i for i in range(len(rows)) if i not in odd]
    columns = {key: lossless_column([rows[i].get(key) for i in kept]) for key in keys}
    for split, its_rows in _divided([origins[i][0] for i in kept], _ending(files)).items():
        _write_parquet(folder, split, {key: [column[k] for k in its_rows] for key, column in columns.items()})
    for _, bad in left_out:
        bad.sort()
    (folder / _LEFT_OUT).write_text(json.dumps(left_out), encoding="utf-8")


def _divided(splits: list[str], ending: str) -> dict[str, list[int]]:
    """Split to the rows that belong to it. A text without splits is one: its end is the validation part."""
    if ending == ".txt" and set(splits) == {"train"}:
        cut = len(splits) - round(len(splits) * VALIDATION_FRACTION)
        splits = ["train"] * cut + ["validation"] * (len(splits) - cut)
    rows: dict[str, list[int]] = {}
    for i, split in enumerate(splits):
        rows.setdefault(split, []).append(i)
    return rows


def _shortened(found: object) -> str:
    return (found if isinstance(found, str) else repr(found))[:80]


# --- the rows of a split -----------------------------------------------------------------------------


def load_rows(
    source: str,
    split: str = "train",
    limit: int | None = None,
    *,
    max_invalid_fraction: float = MAX_INVALID_FRACTION,
) -> "Dataset":
    """The rows of one split of a source, by ``load_dataset(**data_source(source))``.

    "validation" is the test split where there is no validation. Of a source with neither, every tenth row is
    validation and the others are train.

    Args:
        source: As ``data_source`` takes it.
        split: "train", "validation" or "all".
        limit: At most so many rows; None: all. A hub set is then streamed, so that a part of a huge one loads
            in seconds.
        max_invalid_fraction: See ``data_source``.

    Returns:
        The rows, in the order of the source.

    Raises:
        ValueError: The source or split is unknown, there are no rows, or too many unusable ones.
    """
    from datasets import Dataset, concatenate_datasets, disable_progress_bars, load_dataset

    arguments = data_source(source, max_invalid_fraction)
    wanted, divided = wanted_splits(source, split_names(source, arguments), split)
    on_hub = not Path(arguments["path"]).exists() and "data_files" not in arguments
    streaming = on_hub and limit is not None
    if not on_hub:
        disable_progress_bars()  # nothing is downloaded that one would watch
    parts = []
    for name in wanted:
        rows = load_dataset(**arguments, split=name, streaming=streaming)
        if divided:
            rows = rows.filter(lambda row, i: (i % 10 == 9) == (split == "validation"), with_indices=True)
        if limit is not None:
            rows = rows.take(limit if streaming else min(limit, len(rows)))
        parts.append(_whole_paragraphs(Dataset.from_list(list(rows)) if streaming else rows))
    rows = concatenate_datasets(parts)
    if len(rows) == 0:
        raise ValueError(f"{source} has no rows in {split}; give a source with more rows, or split='all'")
    return rows if limit is None else rows.take(min(limit, len(rows)))


def split_names(source: str, arguments: dict) -> list[str]:
    """The splits of a source. Raises ValueError with the hub's own words where it cannot be opened."""
    from datasets import get_dataset_split_names

    if "data_files" in arguments:
        return list(arguments["data_files"])
    try:
        return get_dataset_split_names(arguments["path"], arguments.get("name"))
    except Exception as error:  # offline, unknown, gated
        raise ValueError(
            f"could not open {source!r} as a hub dataset ({type(error).__name__}: {error}); "
            "check name and network, or give 'miniworld/<name>' or a local path"
        ) from error


def wanted_splits(source: str, names: list[str], split: str) -> tuple[list[str], bool]:
    """The published splits to read for ``split``, and whether train and validation are yet to be divided."""
    if split not in SPLITS:
        raise ValueError(f"split of {source} got {split!r}; give one of {', '.join(SPLITS)}")
    if split == "all":
        return names, False
    held_out = [name for name in ("validation", "test") if name in names]
    wanted = held_out[0] if split == "validation" and held_out else "train"
    if wanted not in names:
        raise ValueError(
            f"{source} has the splits {', '.join(names)} and no {wanted}; rename the files "
            f"({wanted}-0.jsonl, say), or give split='all'"
        )
    return [wanted], not held_out


def _whole_paragraphs(rows: "Dataset") -> "Dataset":
    """The hub's WikiText has a row for each line, blank ones too: makes rows like those of a .txt file of it.

    Rows that hold line breaks are documents, and stay as they are.
    """
    from datasets import Dataset

    if rows.column_names != ["text"] or all(text.strip() for text in rows["text"]):
        return rows
    if any("\n" in text.strip() for text in rows["text"]):
        return rows
    return Dataset.from_dict({"text": list(paragraphs("\n\n".join(rows["text"]).split("\n")))})
