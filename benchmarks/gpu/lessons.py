"""What the project's own tests and commands do on this device."""

import json
import math
import subprocess
import sys
from pathlib import Path

from gpu import shared

PROJECT = Path(__file__).resolve().parents[2]
BANDS = PROJECT / "benchmarks" / "results" / "gpu" / "cpu_bands.json"


def marked_tests(sizes: dict) -> dict:
    """tests/test_gpu.py; where there is no GPU those tests of it that have a form for the CPU."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/test_gpu.py",
        "-p",
        "no:cacheprovider",
        "-rs",
        "--tb=line",
        "-m",
        "gpu" if sizes["device"] == "cuda" else "not gpu",
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    counts = {
        "summary": lines[-1] if lines else "",
        "skipped": [line for line in lines if line.startswith("SKIPPED")],
    }
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]
    return counts | {"losses": [], "forecast": {}, "peak_gib": None, "reserved_gib": None}


def lesson(sizes: dict) -> dict:
    """``lmlab finetune`` by a recipe; at the full size its last loss must lie in the CPU's band."""
    from lmlab.course.trainings import trainings
    from lmlab.training.sft import run_recipe

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    out = shared.work_folder() / cfg.lesson
    shared.forget_peak()
    history = run_recipe(cfg, out)
    losses = [loss for _, loss in history]
    assert all(map(math.isfinite, losses)), losses
    band = json.loads(BANDS.read_text(encoding="utf-8"))[cfg.lesson]["band"] if sizes["in_band"] else None
    if band:
        assert band[0] <= losses[-1] <= band[1], (
            f"the last loss {losses[-1]:.4f} is outside the CPU's band {band}"
        )
    return shared.beside_forecast(
        trainings(cfg, machine)[0], machine, {"losses": losses, "band_of_the_last": band, **shared.peaks()}
    )
