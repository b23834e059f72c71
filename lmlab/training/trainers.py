"""What the notebooks need around the trainers of transformers and TRL, which they call."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmlab.evaluation.perplexity import completion_loss
from lmlab.files import replace_folder, write_atomic, write_jsonl
from lmlab.training.checkpoints import (
    complete_checkpoints,
    find_resumable_checkpoint,
    remove_checkpoints,
    trainer_checkpoints,
)
from lmlab.training.progress import report_progress


def training_arguments(
    folder: str | Path,
    machine,
    *,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    grad_accumulation: int = 1,
    seed: int = 0,
    checkpoint_every: float | None = None,
    **others,
):
    """``TrainingArguments`` whose number format is the machine's.

    Weights stay float32 and the forward pass runs in bf16 or fp16 where the machine has it. Warm-up over the
    first twentieth of the steps, then a straight line down to 0. checkpoint_every: optimizer steps between two
    checkpoints (below 1: the fraction of all steps), of which the last two are kept. others: any further
    TrainingArguments.
    """
    from transformers import TrainingArguments

    if checkpoint_every is not None:
        others = {"save_strategy": "steps", "save_steps": checkpoint_every, "save_total_limit": 2} | others
    choices = {
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.05,
        "weight_decay": 0.01,
        "logging_steps": 10,
        "save_strategy": "no",
        "disable_tqdm": True,
    } | others
    if "activation_checkpointing" in choices and not hasattr(TrainingArguments, "activation_checkpointing"):
        choices["gradient_checkpointing"] = choices.pop(
            "activation_checkpointing"
        )  # before transformers 5.23
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=grad_accumulation,
        learning_rate=learning_rate,
        seed=seed,
        bf16=machine.bf16,
        fp16=machine.fp16,
        use_cpu=machine.use_cpu,
        **choices,
    )


def stopping_point(losses: Sequence[float], patience: int | None) -> int | None:
    """The measurement after which training stops: ``patience`` in a row brought no new lowest loss. Or None."""
    best = 0
    for i, loss in enumerate(losses):
        best = i if loss < losses[best] else best
        if patience is not None and i - best >= patience:
            return i
    return None


@dataclass
class History:
    """Losses on fixed sets of examples in the course of a training, all measured at the same moments.

    sets: name -> examples; "validation" must be among them. every: optimizer steps between two measurements
    (the first is before training, the last at its end). folder: where the model is kept, if given: that with
    the lowest validation loss, or the last where ``keep_best`` is false; with the tokenizer, if given. patience:
    training stops after so many measurements without a new lowest validation loss. progress: called with each
    step and validation loss, if given. log: a .jsonl file of them, if given. report: is told of each measurement.
    seconds: what measuring took. elapsed: what training and measuring took, over all sessions of a run that was
    interrupted.
    """

    sets: Mapping
    every: int
    folder: Path | None = None
    progress: Callable[[int, float], None] | None = None
    patience: int | None = None
    keep_best: bool = True
    tokenizer: object = None
    log: Path | None = None
    report: Callable[[str], None] = print
    steps: list[int] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    elapsed: float = 0.0

    @property
    def best(self) -> int:
        """The measurement with the lowest validation loss."""
        return self.losses["validation"].index(min(self.losses["validation"]))

    def measure(self, model, step: int, epoch: float) -> None:
        begun = time.perf_counter()
        now = {name: completion_loss(model, examples)["loss"] for name, examples in self.sets.items()}
        for name, loss in now.items():
            self.losses.setdefault(name, []).append(loss)
        self.steps.append(step)
        self.epochs.append(epoch)
        shown = "  ".join(f"{name} {loss:.3f}" for name, loss in now.items())
        self.report(f"step {step:>6,}  epoch {epoch:5.2f}  {shown}")
        if self.progress is not None:
            self.progress(step, now["validation"])
        self._write_log()
        if self.folder is not None and (not self.keep_best or self.best == len(self.steps) - 1):
            with replace_folder(self.folder) as new:
                model.save_pretrained(str(new))
                if self.tokenizer is not None:
                    self.tokenizer.save_pretrained(str(new))
        self.seconds += time.perf_counter() - begun

    def _write_log(self) -> None:
        if self.log is not None:
            write_jsonl(
                self.log,
                (
                    {"step": step, "loss": loss}
                    for step, loss in zip(self.steps, self.losses["validation"], strict=True)
                ),
            )

    def save(self, folder: Path) -> None:
        """Puts the kept model and the measurements into a checkpoint."""
        if self.folder is not None and self.folder.exists():
            shutil.copytree(self.folder, folder / "kept")
        state = {name: getattr(self, name) for name in ("steps", "epochs", "losses", "seconds", "elapsed")}
        write_atomic(folder / _MEASURED, json.dumps(state))

    def load(self, folder: Path) -> None:
        """Takes over what ``save`` has put into a checkpoint, in place of what came after it."""
        for name, value in json.loads((folder / _MEASURED).read_text(encoding="utf-8")).items():
            setattr(self, name, value)
        self._write_log()
        if self.folder is not None and (folder / "kept").exists():  # it may have been overwritten since
            with replace_folder(self.folder) as new:
                shutil.copytree(folder / "kept", new, dirs_exist_ok=True)

    def callback(self):
        """A TrainerCallback that measures, stops in time, and takes up the measurements of a resumed run.

        It does what ``complete_checkpoints`` does, too. Every process measures: weights in pieces answer only
        where all ask.
        """
        from transformers import TrainerCallback

        history, checkpoints = self, complete_checkpoints(before_mark=self.save)

        class Measure(TrainerCallback):
            def clock(self) -> None:
                history.elapsed += time.perf_counter() - self.looked
                self.looked = time.perf_counter()

            def on_train_begin(self, args, state, control, model=None, **_):
                self.looked = time.perf_counter()
                checkpoints.on_train_begin(args, state, control)
                if state.global_step:
                    history.load(Path(args.output_dir) / f"checkpoint-{state.global_step}")
                else:
                    history.measure(model, 0, 0.0)

            def on_step_end(self, args, state, control, model=None, **_):
                if state.global_step % history.every == 0 or state.global_step == state.max_steps:
                    history.measure(model, state.global_step, state.epoch)
                stop = stopping_point(history.losses["validation"], history.patience) is not None
                control.should_training_stop |= stop

            def on_save(self, args, state, control, **_):
                self.clock()
                checkpoints.on_save(args, state, control)

            def on_train_end(self, args, state, control, **_):
                self.clock()

        return Measure()


_MEASURED = "history.json"


def progress_callback(out: Path, metric: str):
    """A TrainerCallback that notes each eval_loss in out/progress.jsonl, as ``metric`` of metrics.json.

    A search that looks for this metric can then end a trial that falls behind.
    """
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **_):
            if state.is_world_process_zero and "eval_loss" in (metrics or {}):
                report_progress(out, state.global_step, **{metric: metrics["eval_loss"]})

    return Progress()


def unfinished(folder: Path, choices: Mapping, examples) -> str | None:
    """The newest complete checkpoint of an interrupted run with the same choices and examples; None: there is none.

    It is what ``trainer.train(resume_from_checkpoint=...)`` takes. Checkpoints of another run are removed, and
    it is said why: going on from them would give a run that no recipe describes.
    """
    rows = json.dumps({name: examples[name][:] for name in examples.column_names})
    now = json.loads(
        json.dumps({**choices, "examples": hashlib.sha256(rows.encode()).hexdigest()}, default=str)
    )
    note = folder / "choices.json"
    found = trainer_checkpoints(folder)
    then = json.loads(note.read_text(encoding="utf-8")) if found and note.exists() else {}
    if found and then != now:
        other = sorted(key for key in {**then, **now} if then.get(key) != now.get(key))
        print(f"the checkpoints in {folder} are of another run (other: {', '.join(other)}): removed")
        remove_checkpoints(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(note, json.dumps(now))
    checkpoint = find_resumable_checkpoint(folder)
    return None if checkpoint is None else str(checkpoint)


def stop_after(step: int):
    """A TrainerCallback that ends a training after ``step`` optimizer steps, whatever its schedule foresaw."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop |= state.global_step >= step

    return Stop()


def optimizer_name(choice: str, machine) -> str:
    """What TrainingArguments calls an optimizer: "adamw_torch", or "adamw_8bit", whose moments take a byte each.

    Source: Dettmers et al. 2022. Raises ValueError where the machine cannot: bitsandbytes' needs a CUDA GPU.
    """
    if choice == "adamw_8bit" and machine.device != "cuda":
        raise ValueError(
            f"optimizer adamw_8bit got device {machine.device!r}; it needs a CUDA GPU: give adamw_torch"
        )
    return {"adamw_torch": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}[choice]


def best_optimizer(machine) -> str:
    """QLoRA's: AdamW with averages of a byte each in pages that may leave the GPU; elsewhere plain AdamW.

    Source: Dettmers et al. 2023, section 3. Says which and why.
    """
    name = "paged_adamw_8bit" if machine.device == "cuda" else "adamw_torch_fused"
    why = (
        "a CUDA GPU" if machine.device == "cuda" else f"paging needs a CUDA GPU, and this is {machine.device}"
    )
    print(f"{name}: {why}")
    return name
