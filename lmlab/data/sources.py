"""What ``datasets.load_dataset`` takes for the name of a source: miniworld, own files, a folder, a hub id.

Own files and miniworlds are kept as parquet in a cache, ``~/.cache/lmlab`` or where ``LMLAB_CACHE`` says. A
folder there is named after a hash of what it was made from, is complete or absent, and is made by one
process.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from lmlab.data import readers
from lmlab.data.readers import lossless_column, nested_or_plain, numbered_rows, paragraphs
from lmlab.data.splits import SPLITS, VALIDATION_FRACTION
from lmlab.data.usable import MAX_INVALID_FRACTION, BadRow, leave_out
from lmlab.files import replace_folder
from lmlab.models.sources import local_path
from lmlab.models.types import Dataset

OWN_FILES = (".jsonl", ".json", ".csv", ".txt")  # read here, everything else by ``datasets``
ENDINGS = (*OWN_FILES, ".parquet")
_LEFT_OUT = ".left_out.json"  # hidden, so that ``datasets`` does not take it for data


def data_source(source: str, max_invalid_fraction: float = MAX_INVALID_FRACTION) -> dict:
    """The keyword arguments of ``datasets.load_dataset`` for a source.

    Args:
        source: "miniworld/stories"; a .jsonl, .json, .csv, .txt or .parquet file; a folder in a publisher's
            layout (train-00000-of-00002.parquet, validation/a.jsonl), which ``datasets`` reads; or a hub id,
            with its configuration after a colon ("openai/gsm8k:main").
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
    # what names nothing here is a hub id; the hub says so where there is no such dataset
    if path is None:
        name, _, config = source.partition(":")
        return {"path": name, "name": config} if config else {"path": name}
    if path.is_dir():
        return {"path": str(path)}
    if path.suffix == ".parquet":
        return {"path": str(path.parent), "data_files": path.name}
    if path.suffix not in OWN_FILES:
        raise ValueError(f"{path} ends in {path.suffix!r}; give a file of the kind {', '.join(ENDINGS)}")
    return {"path": str(_converted_folder(path, max_invalid_fraction))}


def own_file(source: str) -> Path | None:
    """The path of a source that is a file read here, with row numbers; None for any other source."""
    path = None if source.startswith("miniworld/") else local_path(source)
    return path if path is not None and path.is_file() and path.suffix in OWN_FILES else None


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
        # several runs may begin at once, as the trials of a search do: one makes it, the others wait
        with FileLock(f"{folder}.lock"):
            if not folder.exists():  # another process may have made it in the meantime
                with replace_folder(folder) as new:
                    make(new)
    return folder


def _hash(files: list[Path]) -> str:
    # of names and contents, not of times: a copied or unpacked file has a new time
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
    # the generator is what a miniworld is made from; the models beside it are not
    sources = []
    for file in sorted(generator.rglob("*")):
        if file.suffix in (".py", ".txt", ".json", ".yaml") and miniworld.MODELS not in file.parents:
            sources.append(file)
    return _made_once(f"miniworld-{name}-{_hash(sources)}", make)


def _converted_folder(path: Path, max_invalid_fraction: float) -> Path:
    """A reader's own file as parquet, with what was left out of it, which is said each time."""
    # these two modules say what becomes of a file, so a newer version of them makes it anew
    key = _hash([path, Path(readers.__file__), Path(__file__)])
    folder = _made_once(f"{path.stem}-{key}", lambda folder: _convert(path, folder))
    n_rows, bad = json.loads((folder / _LEFT_OUT).read_text(encoding="utf-8"))
    leave_out([BadRow(*row) for row in bad], n_rows, str(path), max_invalid_fraction, place="line")
    if not any(folder.glob("*.parquet")):
        raise ValueError(f"{path} has no rows; give a source with rows")
    return folder


def _convert(path: Path, folder: Path) -> None:
    """Writes the rows of a file as parquet, and what cannot be a row to ``_LEFT_OUT``."""
    numbers, rows, bad = [], [], []
    for number, row in numbered_rows(path):
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            numbers.append(number)
            rows.append(row)
    n_rows = len(rows) + len(bad)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    odd = {}
    for key in keys:
        odd |= dict.fromkeys(nested_or_plain(rows, key), key)
    for i, key in odd.items():
        why = f"{key} is a plain value in some rows, a list or an object in others"
        bad.append(BadRow(numbers[i], why, readers.short_repr(rows[i])))
    kept = [row for i, row in enumerate(rows) if i not in odd]
    # a text without splits is one: its end is the validation part
    n_train = len(kept)
    if path.suffix == ".txt":
        n_train -= round(len(kept) * VALIDATION_FRACTION)
    columns = {key: lossless_column([row.get(key) for row in kept]) for key in keys}
    for split, part in (("train", slice(n_train)), ("validation", slice(n_train, None))):
        if kept[part]:
            _write_parquet(folder, split, {key: column[part] for key, column in columns.items()})
    (folder / _LEFT_OUT).write_text(json.dumps([n_rows, sorted(bad)]), encoding="utf-8")


# --- the rows of a split -----------------------------------------------------------------------------


def load_rows(
    source: str,
    split: str = "train",
    limit: int | None = None,
    *,
    max_invalid_fraction: float = MAX_INVALID_FRACTION,
) -> Dataset:
    """The rows of one split of a source, by ``load_dataset(**data_source(source))``.

    "validation" is the test split where there is no validation. Of a source with neither, every tenth row is
    validation and the others are train.

    Args:
        source: As ``data_source`` takes it.
        split: "train", "validation" or "all".
        limit: At most so many rows; None: all. The source is then streamed, so that a part of a huge hub set
            loads in seconds.
        max_invalid_fraction: See ``data_source``.

    Returns:
        The rows, in the order of the source.

    Raises:
        ValueError: The source or split is unknown, there are no rows, or too many unusable ones.
    """
    from datasets import Dataset, concatenate_datasets, disable_progress_bars, load_dataset

    if split not in SPLITS:
        raise ValueError(f"split of {source} got {split!r}; give one of {', '.join(SPLITS)}")
    arguments = data_source(source, max_invalid_fraction)
    if Path(arguments["path"]).exists():
        disable_progress_bars()  # nothing is downloaded that one would watch
    names = _split_names(source, arguments)
    # many published sets have a test split and no validation split
    held_out = [name for name in ("validation", "test") if name in names]
    if split == "all":
        wanted = names
    else:
        wanted = held_out[:1] if split == "validation" and held_out else ["train"]
    parts = []
    for name in wanted:
        rows = load_dataset(**arguments, split=name, streaming=limit is not None)
        # every tenth row, not the last tenth: many files are sorted
        if split != "all" and not held_out:
            rows = rows.filter(lambda _, i: (i % 10 == 9) == (split == "validation"), with_indices=True)
        if limit is not None:
            rows = Dataset.from_list(list(rows.take(limit)))
        parts.append(_whole_paragraphs(rows))
    rows = concatenate_datasets(parts)
    if len(rows) == 0:
        raise ValueError(f"{source} has no rows in {split}; give a source with more rows, or split='all'")
    return rows if limit is None else rows.take(min(limit, len(rows)))


def _split_names(source: str, arguments: dict) -> list[str]:
    """The splits of a source. Raises ValueError with the library's own words where it cannot be opened."""
    from datasets import get_dataset_split_names

    path, name, files = (arguments.get(key) for key in ("path", "name", "data_files"))
    try:
        return get_dataset_split_names(path, name, data_files=files)
    except Exception as error:  # offline, unknown, gated, a folder without data
        raise ValueError(
            f"could not open {source!r} as a dataset ({type(error).__name__}: {error}); "
            "check name and network, or give 'miniworld/<name>' or a local path"
        ) from error


def _whole_paragraphs(rows: Dataset) -> Dataset:
    """The hub's WikiText has a row for each line, blank ones too: makes rows like those of a .txt file of it.

    Rows that hold line breaks are documents, and stay as they are.
    """
    from datasets import Dataset

    if rows.column_names != ["text"] or all(text.strip() for text in rows["text"]):
        return rows
    if any("\n" in text.strip() for text in rows["text"]):
        return rows
    return Dataset.from_dict({"text": list(paragraphs("\n\n".join(rows["text"]).split("\n")))})
