"""``lmlab plan``: what a recipe will need before anything is loaded or rented, and what to change if it does
not fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lmlab.course.forecast import CPU_UTILIZATION, UTILIZATION, Forecast, forecast, format_bytes
from lmlab.course.trainings import trainings
from lmlab.hardware import Machine
from lmlab.recipes import Recipe


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
    """What would lower the peak: each memory option alone, the most effective first; then all together.

    Args:
        cfg: The recipe that ``made`` is of.
        made: The forecast of one of its trainings.
    """
    options = made.training.memory_options
    # Each change is planned anew: what an option saves depends on the model and on the others.
    tried = [_changed(cfg, made, settings) for settings in options]
    tried.sort(key=lambda change: change.forecast.peak)
    helpful = [change for change in tried if change.forecast.peak < made.peak]
    # If the best one alone is not enough, all of them together may be.
    if len(helpful) > 1 and not helpful[0].forecast.fits:
        together: dict[str, object] = {}
        for settings in reversed(options):  # of two that set the same key, the first counts
            together |= settings
        helpful.append(_changed(cfg, made, together))
    return helpful


def _changed(cfg: Recipe, made: Forecast, settings: Mapping) -> Change:
    for job in trainings(cfg.model_copy(update=settings), made.machine):
        if job.name == made.training.name:
            return Change(settings, forecast(job, made.machine))
    # a recipe has the same trainings, whatever its settings
    raise AssertionError(f"no training {made.training.name} with {settings}")


@dataclass(frozen=True)
class Plan:
    """The forecasts of a recipe's trainings, by name; a notebook shows it as tables."""

    title: str
    cfg: Recipe
    machine: Machine
    forecasts: Mapping[str, Forecast]

    @cached_property
    def advice(self) -> dict[str, list[Change]]:
        """For each training that does not fit, what to change."""
        return {name: changes(self.cfg, made) for name, made in self.forecasts.items() if not made.fits}

    def notes(self) -> list[str]:
        """What the numbers assume."""
        jobs = [made.training for made in self.forecasts.values()]
        # A step of lesson 09 generates, so there its memory is counted already.
        extra = "evaluation comes" if any(job.rollouts for job in jobs) else "generation and evaluation come"
        notes = [
            f"Predicted; nothing was run. Memory is for full batches; {extra} on top. Its parts are those at the "
            "peak: what is 0 there is used in another phase of the step."
        ]
        if self.machine.device == "cpu":
            notes.append(f"Time assumes {CPU_UTILIZATION:.0%} of the speed of a large matrix product now.")
        if self.machine.device == "cuda":
            assumed = ", ".join(sorted({f"{UTILIZATION[job.method]:.0%}" for job in jobs}))
            notes.append(f"Time assumes {assumed} of the data sheet's FLOPS. Hourly costs are of May 2026.")
        for job in jobs:
            if job.fill < 1:
                notes.append(f"{job.name}: batches are assumed to be {job.fill:.0%} full.")
        return notes

    def __str__(self) -> str:
        lines = [self.title]
        for name, made in self.forecasts.items():
            lines += ["", f"{name}:"]
            lines += [f"  {key:<30} {value}" for key, value in made.rows()]
            if name in self.advice:
                lines += ["  what would help, the most effective first:"]
                lines += [f"    {change}" for change in self.advice[name]]
                if not any(change.forecast.fits for change in self.advice[name]):
                    lines.append("    nothing of this makes it fit: take a smaller model or a larger GPU")
                gpus = ", ".join(made.fitting_gpus) or "none of the GPUs here"
                lines.append(f"  as it is, it fits on: {gpus}")
        return "\n".join([*lines, "", *self.notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from lmlab.course.templates import render

        return render("plan.html", plan=self)


def plan(cfg: Recipe, machine: Machine) -> Plan:
    """What a recipe is predicted to need.

    Args:
        cfg: The recipe.
        machine: ``describe_machine()``, or ``hardware.gpu("T4")``.

    Raises:
        ValueError: The lesson trains nothing.
    """
    forecasts = {job.name: forecast(job, machine) for job in trainings(cfg, machine)}
    memory = machine.memory_gb if machine.gpu_memory_gb is None else machine.gpu_memory_gb
    title = f"{cfg.lesson}, recipe {cfg.name}, on {machine.device_name} ({memory:.1f} GiB, {machine.dtype})"
    return Plan(title, cfg, machine, forecasts)
