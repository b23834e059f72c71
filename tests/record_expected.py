"""Records the bands of the notebook regression test: ``python tests/record_expected.py --seeds 0 1 2``.

Runs the tiny course once per seed, and the first seed once more with PyTorch's generic kernels in place
of those for this CPU's vector instructions: their sums and exponentials round differently, as another
vendor's CPU does. (Of lesson 04, whose metrics hang on 274 pairs, that moves no metric by more than 5e-4
of its value, where seeds move them by percents. What samples, as lesson 09 does, moves far, and has its
bands by hand.) Writes tests/expected/<lesson>.json, metric -> [low, high]. A band is the mean over the
runs, give or take four standard deviations, 10% or 0.01, whichever is most, cut to what the recipe
expects.
Where tests/expected/limits.json names a metric, that hand-written band stands instead. What depends on
the machine (seconds, memory, throughput) gets no band.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from lmlab.course.results import inside
from lmlab.course.runner import NEEDS
from lmlab.recipes import LESSONS, find_lesson, load_recipe

PROJECT = Path(__file__).resolve().parents[1]

EXPECTED = Path(__file__).parent / "expected"
LIMITS = EXPECTED / "limits.json"
MACHINE_DEPENDENT = re.compile(r"second|memory|throughput|(^|_)(gb|gib|mb|mib|ms)(_|$)")
STANDARD_DEVIATIONS, RELATIVE_MARGIN, ABSOLUTE_MARGIN = (
    4,
    0.10,
    0.01,
)  # the last for a fraction that is always 0
GENERIC_KERNELS = {"ATEN_CPU_CAPABILITY": "default"}


def run_course(output_dir: Path, *arguments: str, **environment: str) -> Path:
    """Runs the tiny course by the command line; returns the run's folder. Its exit code is not looked at."""
    command = [sys.executable, "-m", "lmlab", "run", *arguments, "--output-dir", str(output_dir)]
    subprocess.run(command, check=False, env=os.environ | environment)
    return max(output_dir.glob("*/run.json"), key=lambda path: path.stat().st_mtime).parent


def banded_metrics(run_dir: Path, lesson: str) -> dict[str, float]:
    """The numbers of a lesson's metrics.json that a band can hold; true and false count as 1 and 0.

    Raises FileNotFoundError when the lesson wrote none, ValueError for one that is not finite.
    """
    metrics = json.loads((run_dir / lesson / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    numbers = {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, bool | int | float) and not MACHINE_DEPENDENT.search(name)
    }
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    if wrong:
        raise ValueError(
            f"{run_dir / lesson}: {', '.join(wrong)} not finite; the lesson measured nothing there"
        )
    return numbers


def band(values: list[float], wanted: list | None = None) -> list[float]:
    """[low, high] around observed values, cut to ``wanted`` ([low, high], None for an open side).

    Raises ValueError when an observed value is outside ``wanted``.
    """
    low, high = wanted or (None, None)
    if (low is not None and min(values) < low) or (high is not None and max(values) > high):
        raise ValueError(f"observed {values}, but the recipe expects {wanted}; fix the lesson, or its recipe")
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    margin = max(STANDARD_DEVIATIONS * deviation, RELATIVE_MARGIN * abs(mean), ABSOLUTE_MARGIN)
    return [
        mean - margin if low is None else max(low, mean - margin),
        mean + margin if high is None else min(high, mean + margin),
    ]


def record(lesson: str, run_dirs: list[Path]) -> dict[str, list]:
    """The bands of one lesson from several runs of it."""
    runs = [banded_metrics(run_dir, lesson) for run_dir in run_dirs]
    wanted = load_recipe(lesson).expected
    by_hand = json.loads(LIMITS.read_text(encoding="utf-8")).get(lesson, {}) if LIMITS.exists() else {}
    return {
        name: by_hand[name]
        if name in by_hand
        else _rounded(band([run[name] for run in runs], wanted.get(name)))
        for name in runs[0]
    }


def _rounded(pair: list[float]) -> list[float]:
    return [float(f"{side:.6g}") for side in pair]


def outside(metrics: dict[str, float], bands: dict[str, list]) -> list[str]:
    """What is wrong with ``metrics``: one line for each that is missing, unknown or out of its band."""
    missing = [f"{name}: not measured, expected {bands[name]}" for name in bands if name not in metrics]
    unknown = [
        f"{name} = {metrics[name]:g}: has no band; record again" for name in metrics if name not in bands
    ]
    return (
        missing
        + unknown
        + [
            f"{name} = {metrics[name]:g}, expected {low} to {high}"
            for name, (low, high) in bands.items()
            if name in metrics and not inside(metrics[name], [low, high])
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lessons", nargs="+", default=list(LESSONS), help="only these, and what they need")
    parser.add_argument("--runs", type=Path, nargs="+", help="folders of finished runs; nothing is run then")
    parser.add_argument("--jobs", default="1", help="notebooks at the same time")
    args = parser.parse_args()
    lessons = [find_lesson(text) for text in args.lessons]
    before = {needed for lesson in lessons for needed in NEEDS.get(lesson, ())}
    settings = [(seed, {}) for seed in args.seeds] + [(args.seeds[0], GENERIC_KERNELS)]
    runs = args.runs or [
        run_course(
            PROJECT / "runs" / "recorded",
            *lessons,
            *before,
            "--set",
            f"seed={seed}",
            "--jobs",
            args.jobs,
            **kernels,
        )
        for seed, kernels in settings
    ]
    EXPECTED.mkdir(exist_ok=True)
    for lesson in lessons:
        bands = record(lesson, runs)
        (EXPECTED / f"{lesson}.json").write_text(json.dumps(bands, indent=1) + "\n", encoding="utf-8")
        print(f"{lesson}: {len(bands)} bands from {len(runs)} runs")


if __name__ == "__main__":
    main()
