"""Where runs lie, and what they left: runs/<run>/<lesson>/model, adapter, checkpoints, ...

A run is a folder in ``runs`` of the working directory, whoever made it: ``lmlab run``, ``lmlab finetune``,
``lmlab pretrain``, or a notebook that someone stepped through. So a later lesson, chat and report find what
any of them left.
"""

import logging
import re
import time
from pathlib import Path

from lmlab.files import MODEL_FILES, remove_temporary
from lmlab.recipes import LESSONS, find_lesson

log = logging.getLogger(__name__)

# A notebook that is stepped through works in its own folder, commands mostly in the one above.
RUN_FOLDERS = (Path("runs"), Path("notebooks/runs"), Path("../runs"))
RESULTS = ("model", "adapter")  # what a lesson is about, before anything else that it saved


def new_run(root: Path = RUN_FOLDERS[0]) -> Path:
    """Makes an empty folder for a run, named by the time.

    Args:
        root: The folder in which runs lie.

    Returns:
        Its absolute path. Two runs that begin in the same second wait for each other.
    """
    while True:
        folder = root.expanduser().resolve() / time.strftime("%Y%m%d-%H%M%S")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            time.sleep(0.2)


def list_runs() -> list[Path]:
    """Every run folder within reach, in no order: it has a run.json, or a folder of at least one lesson."""
    runs = []
    for root in RUN_FOLDERS:
        # a study of lmlab search has neither, so it is no run
        for folder in root.glob("*"):
            if any((folder / name).exists() for name in ("run.json", *LESSONS)):
                runs.append(folder.resolve())
    return runs


def newest_run() -> Path:
    """The run in which a lesson came to its end last.

    Raises:
        FileNotFoundError: There is none.
    """
    newest, when = None, 0.0
    for run in list_runs():
        for path in [*run.glob("run.json"), *run.glob("*/metrics.json")]:
            if _written(path) > when:
                newest, when = run, _written(path)
    if newest is None:
        raise FileNotFoundError(f"no lesson has ended in {RUN_FOLDERS[0].resolve()}; first: lmlab run all")
    return newest


def find_result(lesson: str, name: str, run: Path | None = None, from_run: str | None = None) -> Path | None:
    """What a lesson left: in this run, else in the newest run that has it.

    Args:
        lesson: Its number or full name, "02".
        name: Of the file or folder in the lesson's folder, "model".
        run: The run at hand, which is looked at first.
        from_run: The only run to look at, by path or by its name in runs/.

    Returns:
        The path, or None where no run has it.

    Raises:
        ValueError: ``from_run`` is not there, or has no such result.
    """
    lesson = find_lesson(lesson)
    if from_run:
        path = resolve_run(from_run) / lesson / name
        if not path.exists():
            raise ValueError(f"from_run got {from_run!r}, and {path} is not there; name a run that has it")
        return path
    # What this run made goes before what is newer elsewhere: lessons of one run belong together.
    found = _result(run, lesson, name) if run else None
    if found is None:
        others = [_result(folder, lesson, name) for folder in list_runs()]
        found = max(filter(None, others), key=_written, default=None)
    if found is None:
        log.warning("no run has left %s of lesson %s", name, lesson[:2])
    else:
        log.info("using %s of lesson %s: %s", name, lesson[:2], found)
    return found


def _result(run: Path, lesson: str, name: str) -> Path | None:
    # A lesson that was killed while it replaced its result has left it under another name.
    remove_temporary(run / lesson)
    path = run / lesson / name
    return path if path.exists() else None


def resolve_run(name: str) -> Path:
    """The folder of a run that is named by path, or by its name in runs/.

    Raises:
        ValueError: There is none.
    """
    for folder in [Path(name).expanduser(), *(root / name for root in RUN_FOLDERS)]:
        if folder.is_dir():
            return folder.resolve()
    known = ", ".join(sorted(run.name for run in list_runs())) or "none"
    raise ValueError(f"there is no run {name!r}; runs here: {known}")


# --- a model to chat with -------------------------------------------------------------------------


def find_model(source: str) -> str:
    """The model that a reader's word names: a model folder or GGUF file, or a hub id or miniworld base as it
    is.

    Args:
        source: A model's or adapter's folder, a .gguf file, the number of a lesson ("06": what its newest run
            left), the folder of a run or lesson (its main result), "miniworld/qwen2", or a hub id.

    Raises:
        ValueError: A lesson that no run has a model of, a folder without one, a file that is no .gguf.
    """
    path = Path(source).expanduser()
    if is_model(path):
        return str(path)
    if path.is_dir():
        # the folder of a lesson, else that of a run with its lessons
        folders = [path] if models_in(path) else list(path.iterdir())
    elif re.fullmatch(r"\d\d?", source) or source in LESSONS:
        folders = [run / find_lesson(source.zfill(2)) for run in list_runs()]
    elif path.exists():
        raise ValueError(f"{source} is a file that is no .gguf; give a GGUF file or a model's folder")
    else:
        return source
    found = [_main_model(models) for models in map(models_in, folders) if models]
    if not found:
        raise ValueError(
            f"{source} names no model; train one (lmlab run), or give a folder with config.json or "
            "adapter_config.json, or a .gguf file"
        )
    # of several runs or lessons what was written last
    chosen = max(found, key=_written)
    log.info("using %s", chosen)
    return str(chosen)


def is_model(path: Path) -> bool:
    """Whether a path is a GGUF file, or a folder with a model or an adapter."""
    if path.is_file():
        return path.suffix == ".gguf"
    return any((path / name).is_file() for name in MODEL_FILES)


def models_in(folder: Path) -> list[Path]:
    """The folders with models in a lesson's folder. (A GGUF file is named by its own path.)"""
    candidates = {path for pattern in ("*", "models/*", "export/*") for path in folder.glob(pattern)}
    return sorted(path for path in candidates if path.is_dir() and is_model(path))


def _main_model(models: list[Path]) -> Path:
    """A lesson's main result, else what was written last."""
    for name in RESULTS:
        for path in models:
            if path.name == name:
                return path
    return max(models, key=_written)


def _written(path: Path) -> float:
    return path.stat().st_mtime
