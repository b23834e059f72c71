"""Callbacks for transformers' and TRL's trainers: checkpoints that survive a kill, progress, TensorBoard."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainingArguments
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers.integrations import TensorBoardCallback

from lmlab.training.checkpoints import mark_complete, remove_checkpoint, trainer_checkpoints
from lmlab.training.progress import report_progress
from lmlab.training.tensorboard import open_curves

Args = TrainingArguments
logger = logging.getLogger(__name__)
OnLog = Callable[[str, Mapping, int], None]  # "train" or "validation", a row with step and loss, n_steps


class CompleteCheckpoints(TrainerCallback):
    """Marks each checkpoint as complete, and then removes the older ones.

    The Trainer would remove them before the new one is safe on the disk, so this callback takes over
    ``save_total_limit``: so many stay, the newest and the best among them. A resumed run does not evaluate on
    start, since it already has.
    """

    limit: int | None = None

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Takes over ``save_total_limit``."""
        if args.save_total_limit is not None:
            self.limit, args.save_total_limit = args.save_total_limit, None
        if state.global_step:  # what was measured before the first step is in its log already
            args.eval_on_start = False
            self._find_best(args, state)

    def on_save(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Marks the new checkpoint, and removes older ones."""
        # each process writes its own random state, and with FSDP its shard of the rest
        PartialState().wait_for_everyone()
        self._find_best(args, state)
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            # last of all that belongs to it, so that the mark says that the rest is there
            mark_complete(folder / f"checkpoint-{state.global_step}")
            self._remove_older(folder, state.best_model_checkpoint)
        PartialState().wait_for_everyone()

    def _find_best(self, args: Args, state: State) -> None:
        # transformers 5.23 looks for the best checkpoint before FSDP has made its folder, so that some
        # processes would load it at the end, and others not
        if state.best_global_step:
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best) if best.exists() else None

    def _remove_older(self, folder: Path, best: str | None) -> None:
        # the best stays whatever its age: load_best_model_at_end will want it
        *older, newest = trainer_checkpoints(folder).values()
        removable = [path for path in older if path != Path(best or newest)]
        n_too_many = len(older) + 1 - self.limit if self.limit else 0
        for path in removable[: max(0, n_too_many)]:
            remove_checkpoint(path)


class EvalProgress(TrainerCallback):
    """Writes each ``eval_loss`` to out/progress.jsonl, under the name that ``metric`` has in metrics.json.

    Of several sets that are evaluated, it is the loss of the one named "validation".
    """

    def __init__(self, out: Path, metric: str):
        self.out, self.metric = out, metric

    def on_evaluate(
        self, args: Args, state: State, control: Control, metrics: Mapping, **kwargs: Any
    ) -> None:
        """Writes a row."""
        loss = metrics.get("eval_loss", metrics.get("eval_validation_loss"))
        if state.is_world_process_zero and loss is not None:
            report_progress(self.out, state.global_step, **{self.metric: loss})
            logger.info("step %d of %d: eval_loss %.4f", state.global_step, state.max_steps, loss)


class TensorBoardCurves(TensorBoardCallback):
    """transformers' TensorBoardCallback for a run that may be interrupted: resumed, it shows each step once.

    Args:
        folder: Where the curves go.
        on_log: Is given each training loss and each ``eval_loss``; ``live.LiveLoss`` is one.
    """

    def __init__(self, folder: Path, on_log: OnLog | None = None):
        super().__init__()
        self.folder, self.show = folder, on_log

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Opens the file of the curves, where those of a resumed run end at its checkpoint."""
        if not state.is_world_process_zero:
            return
        # a cell that was stopped and runs again: transformers would go on writing to the old file
        if self.tb_writer is not None:
            self.tb_writer.close()
        self.tb_writer = open_curves(self.folder, state.global_step)
        super().on_train_begin(args, state, control, **kwargs)

    def on_log(self, args: Args, state: State, control: Control, logs: Mapping, **kwargs: Any) -> None:
        """Writes what the Trainer logs, with transformers' tags."""
        if self.tb_writer is None:  # an evaluation after the training
            return
        super().on_log(args, state, control, logs, **kwargs)
        if self.show is None:
            return
        names = (("train", "loss"), ("validation", "eval_loss"), ("validation", "eval_validation_loss"))
        # of several sets that are evaluated, the one named "validation" is shown
        for part, name in names:
            if name in logs:
                self.show(part, {"step": state.global_step, "loss": logs[name]}, state.max_steps)
