"""docs/METRICS.md names every metric that a lesson writes, and none that it does not."""

import json
import re
from pathlib import Path

import pytest
from record_expected import EXPECTED

from lmlab.recipes import LESSONS

PROJECT = Path(__file__).resolve().parents[1]


def documented() -> dict[str, set[tuple[str, bool]]]:
    """Number of a lesson -> (name, whether it has no band)."""
    lines = (PROJECT / "docs" / "METRICS.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| \d\d \|", line)]
    found: dict[str, set] = {}
    for lesson, names, unit, definition in rows:
        assert unit and definition
        for name, star in re.findall(r"`([^`]+)`(\*?)", names):
            found.setdefault(lesson, set()).add((name, star == "*"))
    return found


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_table_has_the_metrics_of_a_lesson(lesson):
    measured = set(json.loads((EXPECTED / f"{lesson}.json").read_text(encoding="utf-8")))
    named = documented()[lesson[:2]]
    assert {name for name, without_band in named if not without_band} == measured
