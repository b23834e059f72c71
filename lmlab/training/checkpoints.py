"""Checkpoints of a training run: complete or not there, the newest and the best kept, found again.

The course's own training loop (``lmlab.training.pretrain``) has folders step_<n>: the model in transformers'
layout and, in trainer.pt, all else that is needed to resume as if nothing had happened. The Trainer of
transformers has folders checkpoint-<n>, which it writes in place; so each gets, last of all, a file that says
that it is complete.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.files import check_replaceable, replace_folder, sync_tree, write_atomic
from lmlab.models.sources import refuse_remote_code

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
STATE = "trainer.pt"
COMPLETE = "complete.json"  # in a Trainer's checkpoint: all other files are there


def save_checkpoint(folder: Path, step: int, save_model: Callable[[Path], None], state: dict) -> Path:
    """Writes folder/step_<step>, complete or not at all.

    save_model: writes the model into the folder that it is given. state: what ``torch.save`` can write.
    """
    import torch

    final = folder / f"step_{step}"
    with replace_folder(final, partial(check_replaceable, ours=(STATE,))) as new:
        save_model(new)
        torch.save(state, new / STATE)
    return final


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """step -> its complete checkpoint, in order of steps."""
    return _by_step(folder, "step_")


def newest_state(folder: Path) -> tuple[Path, dict] | None:
    """The newest checkpoint that training can go on from, and its state; None if there is none.

    Raises ValueError for a state that cannot be read.
    """
    # a checkpoint of the model alone, from which a reader may have removed the state, cannot be resumed
    resumable = [path for path in list_checkpoints(folder).values() if (path / STATE).exists()]
    if not resumable:
        return None
    return resumable[-1], load_state(resumable[-1] / STATE)


def load_state(path: Path) -> Any:
    """What ``torch.save`` wrote, if that is tensors and plain Python values: nothing in the file is executed.

    Raises ValueError for a file that holds anything else, or is damaged.
    """
    import torch

    try:
        with refuse_remote_code(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def prune_checkpoints(folder: Path, losses: dict[int, float], keep: int | None) -> None:
    """Removes all but the newest ``keep`` checkpoints and the one with the lowest loss. None keeps all.

    losses: step -> validation loss, for the steps that have one.
    """
    found = list_checkpoints(folder)
    if keep is None or len(found) <= keep:
        return
    kept = set(list(found)[-keep:])
    # a checkpoint saved on a signal has no loss
    if measured := [step for step in found if step in losses]:
        kept.add(min(measured, key=losses.__getitem__))
    for step in found.keys() - kept:
        shutil.rmtree(found[step])


def trainer_checkpoints(folder: Path) -> dict[int, Path]:
    """step -> checkpoint-<step>, complete or not, in order of steps."""
    return _by_step(folder, "checkpoint-")


def _by_step(folder: Path, prefix: str) -> dict[int, Path]:
    found = {}
    # by number: sorted by name, step 100 would come before step 20
    for path in folder.glob(f"{prefix}*"):
        step = path.name.removeprefix(prefix)
        if step.isdigit() and path.is_dir():
            found[int(step)] = path
    return dict(sorted(found.items()))


def mark_complete(checkpoint: Path) -> None:
    """Has the disk write a checkpoint, and then the file that says so."""
    # the disk may write files in another order than they were written here
    sync_tree(checkpoint)
    write_atomic(checkpoint / COMPLETE, "{}")


def find_resumable_checkpoint(
    folder: Path, config: Mapping | None = None, examples: "Dataset | None" = None, replace: bool = True
) -> str | None:
    """The newest complete checkpoint of a Trainer's run that was interrupted; None: begin anew.

    It is what ``trainer.train(resume_from_checkpoint=...)`` takes. A checkpoint that was cut off while it was
    written or removed is removed. Of several processes one alone may call this.

    Args:
        folder: The Trainer's output_dir.
        config: All that decides how the run continues, as plain values; it is noted in the folder. To resume
            from a checkpoint of another config would give a run that no recipe describes. None: it is not
            compared.
        examples: A Dataset to train on, which is compared too.
        replace: What happens to checkpoints of another config: they are removed, or it is an error.

    Raises:
        ValueError: There are checkpoints of another config, and ``replace`` is false.
    """
    if config is not None:
        _compare_config(folder, config, examples, replace)
    complete = None
    # all are looked at, so that no half checkpoint stays on the disk
    for step, path in trainer_checkpoints(folder).items():
        if (path / COMPLETE).exists():
            complete = path
        else:
            logger.info("the checkpoint of step %d is not complete: removed (%s)", step, path)
            shutil.rmtree(path)
    if complete is None:
        return None
    logger.info("resumes from step %s (%s)", complete.name.removeprefix("checkpoint-"), complete)
    return str(complete)


def _compare_config(folder: Path, config: Mapping, examples, replace: bool) -> None:
    noted = dict(config)
    if examples is not None:
        # the same recipe may name a file that was edited since
        rows = json.dumps({name: examples[name][:] for name in examples.column_names})
        noted["examples"] = hashlib.sha256(rows.encode()).hexdigest()
    # through JSON and back, so that tuples, paths and the like compare equal to what was written
    now = json.loads(json.dumps(noted, default=str))
    note = folder / "run_config.json"
    if trainer_checkpoints(folder):
        then = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        others = ", ".join(sorted(key for key in {**then, **now} if then.get(key) != now.get(key)))
        if others and not replace:
            raise ValueError(f"{folder} holds an unfinished run with other values of {others}; remove it")
        if others:
            logger.warning("checkpoints with other values of %s: removed (%s)", others, folder)
            remove_checkpoints(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(note, json.dumps(now, indent=1))


def remove_checkpoints(folder: Path) -> None:
    """Removes the Trainer's checkpoints of a run that is done; each is three times what trains."""
    for path in trainer_checkpoints(folder).values():
        remove_checkpoint(path)


def remove_checkpoint(checkpoint: Path) -> None:
    """Removes one checkpoint so that, killed on the way, it leaves none that looks complete."""
    # the mark goes first
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)
