"""Where runs lie, and what they left: runs/<run>/<lesson>/model, adapter, checkpoints, ...

A run is a folder in ``runs`` of the working directory, whoever made it: ``lmlab run``, ``lmlab finetune``,
``lmlab pretrain``, or a notebook that someone stepped through. So a later lesson, chat and report find what
any of them left.
"""

import logging
import re
import time
from pathlib import Path

from lmlab.export.llama_cpp import is_installed as llama_cpp_is_installed
from lmlab.files import remove_temporary
from lmlab.recipes import LESSONS, find_lesson

log = logging.getLogger(__name__)

# A notebook that is stepped through works in its own folder, commands mostly in the one above.
RUN_FOLDERS = (Path("runs"), Path("notebooks/runs"), Path("../runs"))
RESULTS = ("model", "adapter", "best")  # what a lesson is about, before anything else that it saved


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
        if not root.is_dir():
            continue
        for folder in root.iterdir():
            has_lesson = any((folder / lesson).is_dir() for lesson in LESSONS)
            if has_lesson or (folder / "run.json").is_file():
                runs.append(folder.resolve())
    return runs


def newest_run() -> Path:
    """The run in which a lesson came to its end last.

    Raises:
        FileNotFoundError: There is none.
    """
    written = {}
    for run in list_runs():
        for path in [run / "run.json", *run.glob("*/metrics.json")]:
            if path.is_file():
                written[path] = path.stat().st_mtime
    if not written:
        raise FileNotFoundError(f"no lesson has ended in {RUN_FOLDERS[0].resolve()}; first: lmlab run all")
    newest = max(written, key=written.__getitem__)
    return newest.parent if newest.name == "run.json" else newest.parent.parent


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
    found = _result(run, lesson, name) if run else None
    if found is None:
        others = [_result(folder, lesson, name) for folder in list_runs()]
        found = max(filter(None, others), key=lambda path: path.stat().st_mtime, default=None)
    if found is None:
        log.warning("no run has left %s of lesson %s", name, lesson[:2])
    else:
        log.info("using %s of lesson %s: %s", name, lesson[:2], found)
    return found


def _result(run: Path, lesson: str, name: str) -> Path | None:
    remove_temporary(run / lesson)  # of a lesson that was killed while it replaced its result
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
    if not path.exists() and (re.fullmatch(r"\d\d?", source) or source in LESSONS):
        path = _newest_with_model(find_lesson(source.zfill(2)))
    if not path.exists():
        return source
    if is_model(path):
        return str(path)
    if path.is_file():
        raise ValueError(f"{source} is a file that is no .gguf; give a GGUF file or a model's folder")
    return str(_main_model(path))


def is_model(path: Path) -> bool:
    """Whether a path is a GGUF file, or a folder with a model or an adapter."""
    if path.is_file():
        return path.suffix == ".gguf"
    return (path / "adapter_config.json").is_file() or (path / "config.json").is_file()


def models_in(folder: Path) -> list[Path]:
    """The models of a lesson's folder: folders, and GGUF files where llama.cpp is here or nothing else is."""
    candidates = [*folder.iterdir()]
    for pattern in ("models/*", "export/*", "gguf*/*.gguf", "export/gguf*/*.gguf"):
        candidates += folder.glob(pattern)
    there = sorted({path for path in candidates if is_model(path)})
    folders = [path for path in there if path.is_dir()]
    return there if llama_cpp_is_installed() or not folders else folders


def _newest_with_model(lesson: str) -> Path:
    folders = [run / lesson for run in list_runs() if (run / lesson).is_dir() and models_in(run / lesson)]
    if not folders:
        raise ValueError(
            f"no run in runs/ has left a model of lesson {lesson[:2]}; first: lmlab run {lesson[:2]}"
        )
    return max(folders, key=lambda folder: folder.stat().st_mtime)


def _main_model(folder: Path) -> Path:
    """The model in a lesson's folder; in a run's folder, that of the lesson which wrote last."""
    models = models_in(folder)
    if models:
        chosen = _favourite(models)
    else:
        by_lesson = [models_in(part) for part in sorted(folder.iterdir()) if part.is_dir()]
        favourites = [_favourite(of_lesson) for of_lesson in by_lesson if of_lesson]
        if not favourites:
            raise ValueError(
                f"{folder} holds no model, nor does a folder in it; a model has config.json, adapter_config.json "
                "or the ending .gguf"
            )
        chosen = max(favourites, key=lambda path: path.stat().st_mtime)
        models = [model for of_lesson in by_lesson for model in of_lesson]
    others = [str(path.relative_to(folder)) for path in models if path != chosen]
    log.info("%s%s", chosen, f" (also there: {', '.join(others)})" if others else "")
    return chosen


def _favourite(models: list[Path]) -> Path:
    """A lesson's main result, else what was written last."""
    for name in RESULTS:
        for path in models:
            if path.name == name:
                return path
    return max(models, key=lambda path: path.stat().st_mtime)
