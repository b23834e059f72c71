"""After a training: what was measured, beside what its plan predicted."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmlab.course.plan import Plan
from lmlab.training.checkpoints import load_state

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class Row(NamedTuple):
    """One quantity, predicted and measured, in bytes or as the name says."""

    name: str
    predicted: float
    actual: float


@dataclass(frozen=True)
class Comparison:
    """What was predicted and what was measured; a notebook shows it as a table."""

    rows: Sequence[Row]

    def table(self) -> list[tuple[str, str, str, str]]:
        """The header, and each row as text."""
        lines = [("", "predicted", "measured", "difference")]
        for row in self.rows:
            difference = f"{row.actual / row.predicted - 1:+.1%}"
            lines.append((row.name, f"{row.predicted:,.0f}", f"{row.actual:,.0f}", difference))
        return lines

    def __str__(self) -> str:
        return "\n".join(f"{a:<22} {b:>18} {c:>18} {d:>10}" for a, b, c, d in self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from lmlab.course.templates import render_macro

        return render_macro("fragments.html", "table", self.table())


def reset_peak_memory() -> None:
    """Call before a training whose peak ``measure`` is to tell; without a GPU it does nothing."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors take at once while ``run`` is called, beyond those that are there before.

    On a GPU the allocator has counted them. A CPU's has not: there they are in torch's profile.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # else the profiler says on stderr that it begins and ends
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    live = peak = 0
    # the summed tables of torch.profiler have no order in time, from which a peak could be read
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measure(
    model: "nn.Module",
    optimizer: "Optimizer | None" = None,
    checkpoint: str | Path | None = None,
    seconds: float | None = None,
) -> dict[str, float]:
    """Counts after a training what a plan predicts.

    Args:
        model: Trained by transformers, TRL or ``lmlab.training.pretrain``, with or without an adapter.
        optimizer: After at least one step.
        checkpoint: A folder with the trained weights and the optimizer's state; its tensors are counted.
        seconds: Of training.

    Returns:
        Bytes (and seconds) by name; on a GPU with the peak of tensors' memory since ``reset_peak_memory``.
    """
    import torch

    from lmlab.models.parameters import optimizer_bytes, weight_bytes

    if hasattr(model, "peft_config"):
        # What is packed in 4 bits has its scales beside it (constants); the rest stays in 16 or 32 bits.
        sizes = weight_bytes(model)
        frozen = sizes["four_bit"] + sizes["constants"] + sizes["other"]
        found = {"weights": frozen, "adapter": sizes["trainable"]}
    else:
        found = {"weights": sum(p.nbytes for p in model.parameters())}  # tied weights come once
    if optimizer is not None:
        # accelerate wraps the Trainer's
        found["optimizer"] = optimizer_bytes(getattr(optimizer, "optimizer", optimizer))
    if checkpoint is not None:
        found["checkpoint"] = stored_bytes(checkpoint)
    if seconds is not None:
        found["seconds"] = seconds
    if torch.cuda.is_available():
        found["peak memory"] = torch.cuda.max_memory_allocated()
    return found


def stored_bytes(folder: str | Path) -> int:
    """Bytes of the tensors in a checkpoint's folder: the weights', and those of the optimizer's state.

    Raises:
        ValueError: A state holds more than tensors and plain values; nothing of it is run.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    total = 0
    for file in Path(folder).glob("*.safetensors"):
        with file.open("rb") as opened:  # 8 bytes with the header's length, the header, the tensors
            total += file.stat().st_size - 8 - int.from_bytes(opened.read(8), "little")
    # optimizer.pt is the Trainer's, trainer.pt that of lmlab.training.pretrain, with more than the optimizer
    # in it.
    for name in ("optimizer.pt", "trainer.pt"):
        if (Path(folder) / name).exists():
            state = load_state(Path(folder) / name)
            tensors = [leaf for leaf in tree_leaves(state.get("optimizer", state)) if torch.is_tensor(leaf)]
            total += sum(tensor.nbytes for tensor in tensors)
    return total


def compare(planned: Plan, measured: Mapping[str, float], name: str | None = None) -> Comparison:
    """Predicted and measured side by side.

    Args:
        planned: From ``plan``.
        measured: From ``measure``.
        name: Of the training, where the plan has several; by default its first.
    """
    made = planned.forecasts[name or next(iter(planned.forecasts))]
    predicted = {**made.model_states, "peak memory": made.peak}
    # Steps may depend on data that the plan does not read: there is no time to compare then.
    if made.hours is not None:
        predicted["seconds"] = 3600 * made.hours
    # What was measured and not predicted, or the other way round, has no row.
    rows = [Row(key, predicted[key], value) for key, value in measured.items() if key in predicted]
    return Comparison(rows)
