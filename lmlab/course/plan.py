"""``lmlab plan``: what a recipe will need before anything is loaded or rented, and what to change if it does
not fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lmlab.course.forecast import Forecast, forecast, format_bytes
from lmlab.course.trainings import trainings
from lmlab.hardware import Machine
from lmlab.recipes import Recipe

# The utilizations and prices that the numbers follow from stand in lmlab/course/forecast.py.
NOTE = (
    "Predicted; nothing was run. Memory is what is in use at the peak of a step on a full batch; gradients "
    "of 0 mean that the peak comes before the backward pass. Evaluation comes on top. Time assumes a "
    "utilization of the machine, cost a list price of May 2026."
)


@dataclass(frozen=True)
class Change:
    """Settings of the recipe, and the forecast with them."""

    settings: Mapping[str, object]
    forecast: Forecast

    def __str__(self) -> str:
        options = " ".join(f"--set {key}={str(value).lower()}" for key, value in self.settings.items())
        verdict = "  fits" if self.forecast.fits else ""
        return f"{options:<62} {format_bytes(self.forecast.peak):>10}{verdict}"


def changes(cfg: Recipe, made: Forecast) -> list[Change]:
    """What would lower the peak: each memory option alone, the most effective first.

    Args:
        cfg: The recipe that ``made`` is of.
        made: The forecast of one of its trainings.
    """
    found = []
    for settings in made.training.memory_options:
        # Each change is planned anew: what an option saves depends on the model.
        for job in trainings(cfg.model_copy(update=settings), made.machine):
            if job.name == made.training.name:
                found.append(Change(settings, forecast(job, made.machine)))
    # Where the peak is in the KV cache, say, checkpointing does not lower it.
    helpful = [change for change in found if change.forecast.peak < made.peak]
    return sorted(helpful, key=lambda change: change.forecast.peak)


@dataclass(frozen=True)
class Plan:
    """The forecasts of a recipe's trainings, by name; a notebook shows it as text."""

    title: str
    cfg: Recipe
    machine: Machine
    forecasts: Mapping[str, Forecast]

    # Cached: each change is a trace of its own.
    @cached_property
    def advice(self) -> dict[str, list[Change]]:
        """For each training that does not fit, what to change."""
        return {name: changes(self.cfg, made) for name, made in self.forecasts.items() if not made.fits}

    def __str__(self) -> str:
        lines = [self.title]
        for name, made in self.forecasts.items():
            lines += ["", f"{name}:"]
            lines += [f"  {key:<20} {value}" for key, value in made.rows()]
            if name in self.advice:
                lines.append("  what would help, the most effective first (all may be combined):")
                lines += [f"    {change}" for change in self.advice[name]]
                gpus = ", ".join(made.fitting_gpus) or "none of the GPUs here"
                lines.append(f"  as it is, it fits on: {gpus}")
        return "\n".join([*lines, "", NOTE])

    __repr__ = __str__


def plan(cfg: Recipe, machine: Machine) -> Plan:
    """What a recipe is predicted to need.

    Args:
        cfg: The recipe.
        machine: ``describe_machine()``, or ``hardware.gpu("T4")``.

    Raises:
        ValueError: The lesson trains nothing.
    """
    # A lesson may have several trainings: they run one after another, so their memory does not add up.
    forecasts = {job.name: forecast(job, machine) for job in trainings(cfg, machine)}
    memory = machine.memory_gb if machine.gpu_memory_gb is None else machine.gpu_memory_gb
    title = f"{cfg.lesson}, recipe {cfg.name}, on {machine.device_name} ({memory:.1f} GiB, {machine.dtype})"
    return Plan(title, cfg, machine, forecasts)
