"""The records of studies that notebooks show: runs that are missing are made, and kept as they finish."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from abab import conditions

DATA = Path(__file__).parents[1] / "lmlab" / "course" / "data"


def make_runs(path: Path, head: dict, arms: Iterable[dict], run: Callable[..., dict]) -> None:
    """Writes a record {**head, "conditions", "runs"}, anew after each run; one that is there is not repeated.

    Args:
        path: The record, a JSON file.
        head: What all runs share.
        arms: What tells each run from the others, such as {"setting": "rank 1", "seed": 0}.
        run: Is given an arm by its keys; gives what was measured.
    """
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    for arm in arms:
        if any(arm.items() <= made.items() for made in runs):
            continue
        begin = time.time()
        runs.append({**arm, **run(**arm)})
        record = {**head, "conditions": conditions(), "runs": runs}
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{runs[-1]}, {time.time() - begin:.0f} s", flush=True)
