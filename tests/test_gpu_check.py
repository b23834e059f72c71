"""The GPU check in dry run: every piece leaves its row, also if it fails, hangs or lacks a package."""

import importlib.util
import json
import math
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "benchmarks"))

import gpu_check  # noqa: E402
from gpu.pieces import PIECES, Piece  # noqa: E402

NAMES = [piece.name for piece in PIECES]
WITHOUT_LOSSES = {"generation", "marked tests"}
VERSIONS = dict.fromkeys(("python", *gpu_check.PACKAGES), "1.0")

MADE_UP = """
import json, os, sys, time

def good(sizes):
    return {"losses": [3.0, 2.0], "forecast": {"peak_gib": 1.0}, "peak_gib": 1.1, "reserved_gib": None}

def bad(sizes):
    print("it was read this far")
    raise RuntimeError("out of apples")

def hanging(sizes):
    print("waiting for ever", flush=True)
    time.sleep(600)

def infinite(sizes):
    return good(sizes) | {"norms": [float("inf"), 1.23456789]}

def reading(sizes):
    return good(sizes) | {"seen": [row["piece"] for row in json.load(open(sizes["record"]))]}

def importing(sizes):
    import apples
    return good(sizes) | {"apples": apples.COLOR}
"""


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A function that runs made-up pieces on a made-up machine; (rows by piece, lines that were said)."""
    (tmp_path / "made_up.py").write_text(MADE_UP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(
        gpu_check,
        "look",
        lambda environment: {"device": "Made Up 1", "cuda": True, "driver": "1", "versions": dict(VERSIONS)},
    )

    def run(*functions: str, limit: int = 60, needs: tuple = (), sizes: dict | None = None, **others):
        pieces = [Piece(name, f"made_up:{name}", sizes or {}, {}, limit, needs) for name in functions]
        said = []
        fine = gpu_check.check(pieces, tmp_path / "record.json", say=said.append, **others)
        return fine, {row["piece"]: row for row in gpu_check.read_record(tmp_path / "record.json")}, said

    return run


def test_a_piece_that_fails_says_why_and_the_next_one_runs(made_up):
    fine, rows, said = made_up("bad", "good")
    assert not fine and rows["bad"]["status"] == "failed" and rows["good"]["status"] == "ok"
    assert (
        "RuntimeError: out of apples" in rows["bad"]["error"][-1]
        and "it was read this far" in rows["bad"]["error"]
    )
    assert any("out of apples" in line for line in said)


@pytest.mark.slow
def test_a_piece_that_hangs_is_cut_off(made_up):
    fine, rows, _ = made_up("hanging", "good", limit=3)
    assert not fine and rows["hanging"]["status"] == "cut off" and rows["good"]["status"] == "ok"
    assert 3 <= rows["hanging"]["seconds"] < 30 and rows["hanging"]["error"] == ["waiting for ever"]


def test_a_row_is_in_the_record_before_the_next_piece_begins(made_up, tmp_path):
    _, rows, _ = made_up("good", "reading", sizes={"record": str(tmp_path / "record.json")})
    assert rows["reading"]["seen"] == ["good"]
    assert {"device", "driver", "versions", "sizes", "seconds", "peak_gib", "losses"} <= rows["good"].keys()


def test_a_second_run_repeats_what_failed_and_nothing_else(made_up, tmp_path):
    made_up("good", "bad")
    made_up_again = (
        (tmp_path / "made_up.py").read_text().replace("raise RuntimeError", "return good(sizes)  #")
    )
    (tmp_path / "made_up.py").write_text(made_up_again.replace("[3.0, 2.0]", "[1.0]"))
    fine, rows, said = made_up("good", "bad")
    assert fine and any("good" in line and "in the record" in line for line in said)
    assert rows["good"]["losses"] == [3.0, 2.0] and rows["bad"]["losses"] == [1.0] and len(rows) == 2


@pytest.mark.parametrize("changed", ["device", "versions", "sizes"])
def test_another_device_version_or_size_is_measured_beside(changed, made_up, monkeypatch):
    made_up("good")
    before = gpu_check.look({})
    other = {"device": {"device": "Made Up 2"}, "versions": {"versions": VERSIONS | {"torch": "2.0"}}}
    monkeypatch.setattr(gpu_check, "look", lambda environment: before | other.get(changed, {}))
    said = made_up("good", sizes={"steps": 2} if changed == "sizes" else None)[2]
    assert not any("in the record" in line for line in said)


def test_what_is_missing_is_said_and_left_out_until_it_is_there(made_up, monkeypatch):
    there = gpu_check.look({})
    monkeypatch.setattr(gpu_check, "look", lambda environment: there | {"versions": VERSIONS | {"trl": None}})
    fine, rows, said = made_up("good", needs=("trl", "datasets"))
    assert fine and rows["good"]["status"] == "left out" and "trl" in rows["good"]["why"]
    assert "datasets" not in rows["good"]["why"] and any("not installed: trl" in line for line in said)
    monkeypatch.setattr(gpu_check, "look", lambda environment: there)
    assert made_up("good", needs=("trl", "datasets"))[1]["good"]["status"] == "ok"


def test_numbers_that_json_lacks_have_names(made_up):
    assert made_up("infinite")[1]["infinite"]["norms"] == ["inf", 1.23457]


def wheel(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "apples-1.0-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


@pytest.mark.parametrize("where", ["apples.py", "apples-1.0.data/purelib/apples.py"])
def test_wheels_go_before_what_is_installed(where, made_up, tmp_path):
    (tmp_path / "apples.py").write_text("COLOR = 'installed'")
    wheel(tmp_path / "wheels" / "first", {where: "COLOR = 'red'"})
    assert made_up("importing", wheels=tmp_path / "wheels")[1]["importing"]["apples"] == "red"


def test_a_folder_without_wheels_is_refused(made_up, tmp_path):
    with pytest.raises(ValueError, match="--wheels"):
        made_up("good", wheels=tmp_path)


def test_without_a_gpu_the_real_sizes_are_refused(made_up, monkeypatch):
    there = gpu_check.look({})
    monkeypatch.setattr(gpu_check, "look", lambda environment: there | {"cuda": False})
    with pytest.raises(SystemExit, match="--dry-run"):
        made_up("good")


def test_a_recipe_that_changes_is_measured_anew(monkeypatch):
    piece = PIECES[0]
    before = piece.sizes(dry=False)
    assert piece.sizes(dry=False) == before and piece.sizes(dry=True) != before
    cfg = gpu_check.importlib.import_module("gpu.pieces").load_recipe
    monkeypatch.setattr(
        "gpu.pieces.load_recipe", lambda *given, **others: cfg(*given, **others | {"lora_r": 4})
    )
    assert piece.sizes(dry=False) != before


def test_make_installs_nothing_for_it():
    said = subprocess.run(
        ["make", "-n", "gpu-check"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert "gpu_check.py" in said and "pip" not in said


def test_the_table_has_a_row_for_each(made_up):
    _, rows, _ = made_up("good", "bad", "infinite")
    lines = gpu_check.table(list(rows.values())).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5 and len({line.count("|") for line in table}) == 1
    assert "1.10 GiB" in lines[2] and "failed" in lines[3] and "Made Up 1" in lines[-1]


# --- every piece -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """All pieces at tiny sizes, two at a time: (piece -> row, what a second run says)."""
    for name in gpu_check.PACKAGES:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("dry_run")

    def half(k: int):
        said, record = [], folder / f"{k}.json"
        gpu_check.check(PIECES[k::2], record, dry=True, say=lambda line: None)
        gpu_check.check(PIECES[k::2], record, dry=True, say=said.append)
        return gpu_check.read_record(record), said

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(half, range(2)))
    return {row["piece"]: row for rows, _ in halves for row in rows}, [
        line for _, said in halves for line in said
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_piece_runs_dry(name, dry_run):
    row = dry_run[0][name]
    assert row["status"] == "ok", "\n".join([row.get("why", ""), *row.get("error", [])])
    losses = row["losses"]
    assert all(isinstance(loss, float) and math.isfinite(loss) for loss in losses)
    assert losses or name in WITHOUT_LOSSES
    if "seconds_per_step" in row or name.endswith("pretraining"):
        forecast = row["forecast"]
        assert forecast["peak_gib"] > 0 and row["peak_gib"] > 0 and forecast["tokens_per_second"] > 0
        assert forecast["parts_gib"] and row["tokens_per_second"] > 0
    json.dumps(row, allow_nan=False)


@pytest.mark.slow
def test_weights_and_adapter_are_counted_as_forecast(dry_run):
    """Exactly: what differs at full size is what a step makes."""
    for name in ("qlora", "lora in 4 bits", "full gpt2"):
        parts = dry_run[0][name]["forecast"]["parts_gib"]
        assert {"weights", "optimizer"} <= parts.keys()
        for part, (predicted, actual) in parts.items():
            assert part == "made in a step" or actual == pytest.approx(predicted, rel=1e-4), (name, part)


@pytest.mark.slow
def test_a_second_dry_run_has_nothing_to_do(dry_run):
    said = dry_run[1]
    assert all(any(line.startswith(name) and "in the record" in line for line in said) for name in NAMES)
