"""Checkpoints of a training run: whole or not there, the newest and the best kept, found again.

A checkpoint is a folder step_<n> with the model in transformers' layout and, in trainer.pt, all else that is
needed to go on as if nothing had happened.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

STATE = "trainer.pt"


def save_checkpoint(folder: Path, step: int, save_model: Callable[[Path], None], state: dict) -> Path:
    """Writes folder/step_<step> under another name first, so that a folder of that name is always whole.

    save_model: writes the model into the folder that it is given. state: what ``torch.save`` can write.
    """
    import torch

    partial, final = folder / f".partial_step_{step}", folder / f"step_{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(partial)
    torch.save(state, partial / STATE)
    for file in partial.iterdir():
        _sync(file)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    _sync(folder)
    return final


def _sync(path: Path) -> None:
    """Has the disk really write: a rename must not arrive there before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """step -> its whole checkpoint, in order of steps."""
    found = {int(path.name.removeprefix("step_")): path for path in folder.glob("step_*")
             if path.name.removeprefix("step_").isdigit()}
    return dict(sorted(found.items()))


def newest_state(folder: Path) -> tuple[Path, dict] | None:
    """The newest checkpoint that training can go on from, and its state; None if there is none.

    Raises ValueError for a state that cannot be read.
    """
    import torch

    whole = [path for path in list_checkpoints(folder).values() if (path / STATE).exists()]
    if not whole:
        return None
    try:
        # only tensors and plain Python values are in it: nothing in the file is executed
        return whole[-1], torch.load(whole[-1] / STATE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{whole[-1] / STATE} cannot be read ({type(error).__name__}: {error}); "
                         f"remove {whole[-1]}, and training goes on from the checkpoint before it") from error


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
