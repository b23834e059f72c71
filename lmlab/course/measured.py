"""After a training: what was measured, beside what its plan predicted."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lmlab.course.plan import Plan

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

    def __str__(self) -> str:
        lines = [f"{'':<22} {'predicted':>18} {'measured':>18} {'difference':>10}"]
        for row in self.rows:
            difference = f"{row.actual / row.predicted - 1:+.1%}"
            lines.append(f"{row.name:<22} {row.predicted:>18,.0f} {row.actual:>18,.0f} {difference:>10}")
        return "\n".join(lines)

    __repr__ = __str__


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
    # else the profiler says on stderr that it begins and ends
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
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
    model: "nn.Module", optimizer: "Optimizer | None" = None, seconds: float | None = None
) -> dict[str, float]:
    """Counts after a training what a plan predicts.

    Args:
        model: Trained by transformers, TRL or ``lmlab.training.pretrain``, with or without an adapter.
        optimizer: After at least one step.
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
    if seconds is not None:
        found["seconds"] = seconds
    if torch.cuda.is_available():
        found["peak memory"] = torch.cuda.max_memory_allocated()
    return found


def compare(planned: Plan, measured: Mapping[str, float]) -> Comparison:
    """Predicted and measured side by side.

    Args:
        planned: From ``plan``.
        measured: From ``measure``.
    """
    made = next(iter(planned.forecasts.values()))
    predicted = {**made.model_states, "peak memory": made.peak}
    # Steps may depend on data that the plan does not read: there is no time to compare then.
    if made.hours is not None:
        predicted["seconds"] = 3600 * made.hours
    # What was measured and not predicted, or the other way round, has no row.
    rows = [Row(key, predicted[key], value) for key, value in measured.items() if key in predicted]
    return Comparison(rows)
