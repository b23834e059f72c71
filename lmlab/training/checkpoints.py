"""Checkpoints of a training run: complete or not there, the newest and the best kept, found again.

The course's own training loop (``lmlab.training.pretrain``) has folders step_<n>: the model in transformers' layout and, in
trainer.pt, all else that is needed to go on as if nothing had happened. The Trainer of transformers has folders
checkpoint-<n>, which it writes in place; so each gets, last of all, a file that says what belongs to it.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lmlab.files import check_replaceable, replace_folder, sync_tree, write_atomic
from lmlab.models.sources import refuse_remote_code

STATE = "trainer.pt"
COMPLETE = "complete.json"  # in a Trainer's checkpoint: the size in bytes of every other file


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
    found = {
        int(path.name.removeprefix("step_")): path
        for path in folder.glob("step_*")
        if path.name.removeprefix("step_").isdigit()
    }
    return dict(sorted(found.items()))


def newest_state(folder: Path) -> tuple[Path, dict] | None:
    """The newest checkpoint that training can go on from, and its state; None if there is none.

    Raises ValueError for a state that cannot be read.
    """
    whole = [path for path in list_checkpoints(folder).values() if (path / STATE).exists()]
    if not whole:
        return None
    try:
        return whole[-1], load_state(whole[-1] / STATE)
    except ValueError as error:
        raise ValueError(
            f"{error}; remove {whole[-1]}, and training goes on from the checkpoint before it"
        ) from error


def load_state(path: Path):
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
    if measured := [step for step in found if step in losses]:
        kept.add(min(measured, key=losses.__getitem__))
    for step in found.keys() - kept:
        shutil.rmtree(found[step])


def trainer_checkpoints(folder: Path) -> dict[int, Path]:
    """step -> checkpoint-<step>, complete or not, in order of steps."""
    found = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and path.is_dir()
    }
    return dict(sorted(found.items()))


def mark_complete(checkpoint: Path) -> None:
    """Has the disk write a checkpoint, and then a file with the size of each of its files."""
    sync_tree(checkpoint)
    write_atomic(checkpoint / COMPLETE, json.dumps(_sizes(checkpoint), indent=1))


def is_complete(checkpoint: Path) -> bool:
    """Whether all that was in a checkpoint when it was marked is there, and as large as it was."""
    try:
        noted = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    there = _sizes(checkpoint)
    return all(there.get(name) == size for name, size in noted.items())


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path != checkpoint / COMPLETE
    }


def find_resumable_checkpoint(folder: Path, report: Callable[[str], None] = print) -> Path | None:
    """The newest complete checkpoint of a Trainer that was interrupted; None: there is none, begin anew.

    It is what ``trainer.train(resume_from_checkpoint=...)`` takes. What was cut off while it was written, or
    while it was removed, is removed; it is said which. Of several processes one alone may call this.
    """
    complete = None
    for step, path in trainer_checkpoints(folder).items():
        if is_complete(path):
            complete = path
        else:
            report(f"the checkpoint of step {step} is not complete: removed ({path})")
            shutil.rmtree(path)
    if complete is not None:
        report(f"goes on from step {complete.name.removeprefix('checkpoint-')} ({complete})")
    return complete


def remove_checkpoints(folder: Path) -> None:
    """Removes the Trainer's checkpoints of a run that is done; each is three times what trains."""
    for path in trainer_checkpoints(folder).values():
        _remove(path)


def _remove(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).unlink(missing_ok=True)  # first, so that half a checkpoint is not taken for one
    shutil.rmtree(checkpoint)


def complete_checkpoints(before_mark: Callable[[Path], None] | None = None):
    """A TrainerCallback that marks each checkpoint as complete, and then removes the older ones.

    The Trainer would remove them before the new one is safe, so this callback takes ``save_total_limit`` over:
    so many stay, the newest and the best among them. before_mark: puts something more into each checkpoint.
    """
    from transformers import TrainerCallback

    class Complete(TrainerCallback):
        limit = None

        def on_train_begin(self, args, state, control, **_):
            if args.save_total_limit is not None:
                self.limit, args.save_total_limit = args.save_total_limit, None

        def on_save(self, args, state, control, **_):
            _wait_for_all()  # each process writes its own random state, and with FSDP its piece of the rest
            if state.is_world_process_zero:
                folder = Path(args.output_dir)
                checkpoint = folder / f"checkpoint-{state.global_step}"
                if before_mark is not None:
                    before_mark(checkpoint)
                mark_complete(checkpoint)
                self.remove_older(folder, state)
            _wait_for_all()

        def remove_older(self, folder: Path, state) -> None:
            *older, newest = trainer_checkpoints(folder).values()
            best = Path(state.best_model_checkpoint or newest)
            removable = [path for path in older if path != best]
            too_many = len(older) + 1 - self.limit if self.limit else 0
            for path in removable[: max(0, too_many)]:
                _remove(path)

    return Complete()


def _wait_for_all() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()
