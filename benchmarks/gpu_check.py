"""What a GPU makes of the recipes: memory, speed and losses, beside what was predicted of them.

python benchmarks/gpu_check.py                          every piece that the record does not have yet
python benchmarks/gpu_check.py --only qlora             one piece (may be given several times)
python benchmarks/gpu_check.py --dry-run                the same functions at tiny sizes, on a CPU
python benchmarks/gpu_check.py --table                  the record as a Markdown table

Each piece runs in a process of its own with a time limit, and its row is in the record as soon as it is done;
what fails says why, and the next piece runs. Nothing is installed and no network is used: wheels of what the
machine lacks can lie in a folder (--wheels), see benchmarks/README.md.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT)]  # lmlab need not be installed

from gpu.pieces import PIECES, Piece  # noqa: E402

RESULTS = PROJECT / "benchmarks" / "results" / "gpu"
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "trl",
    "bitsandbytes",
    "datasets",
    "gguf",
    "pytest",
)
KEY = ("piece", "device", "versions", "sizes")  # rows with all of these equal are of the same measurement
DRY_PATIENCE = 5  # times the limit, for a CPU that does other things too
KEPT_LINES = 25  # of the output of a piece that failed


# --- the record ------------------------------------------------------------------------------------


def read_record(path: Path) -> list[dict]:
    """The rows so far; none where there is no record."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def add_row(path: Path, row: dict) -> None:
    """Puts a row into the record, in place of an earlier one of the same measurement; atomically."""
    rows = [old for old in read_record(path) if not same_measurement(old, row)] + [row]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial_{path.name}")
    partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def same_measurement(a: dict, b: dict) -> bool:
    return all(a[name] == b[name] for name in KEY)


def done_before(rows: Sequence[dict], row: dict) -> bool:
    """Whether the record has this measurement, and it came off."""
    return any(same_measurement(old, row) and old["status"] == "ok" for old in rows)


# --- this machine ----------------------------------------------------------------------------------


def look(environment: dict) -> dict:
    """{"device", "cuda", "driver", "versions"}, as a child process sees them, wheels included."""
    done = subprocess.run(
        [sys.executable, __file__, "--look"], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"gpu_check could not look at this machine:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def look_here() -> dict:
    """What ``look`` prints, in the child."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from lmlab.hardware import describe_machine

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    machine = describe_machine()
    return {
        "device": machine.device_name,
        "cuda": machine.device == "cuda",
        "driver": driver(),
        "versions": versions,
    }


def driver() -> str | None:
    """The version of NVIDIA's driver; None where its program is not there."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def unpack_wheels(folder: Path, site: Path) -> None:
    """Every wheel below ``folder``, unpacked into ``site``: that is what installing one comes to.

    Raises ValueError for a folder without wheels.
    """
    wheels = sorted(folder.rglob("*.whl"))
    if not wheels:
        raise ValueError(
            f"--wheels got {folder}, where there is no .whl file; benchmarks/README.md says which to put"
        )
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    for part in site.glob("*.data/*lib"):  # purelib and platlib belong beside the rest
        for path in part.iterdir():
            path.rename(site / path.name)


# --- one piece -------------------------------------------------------------------------------------


def carry_out(piece: Piece, sizes: dict, limit: float, environment: dict, work: Path) -> dict:
    """Runs a piece in a process of its own for at most ``limit`` seconds; its figures with status."""
    result, log = work / "row.json", work / "log.txt"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--child", piece.function, json.dumps(sizes), str(result)]
    began = time.perf_counter()
    with open(log, "wb") as output:
        child = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = "ok" if child.wait(limit) == 0 and result.exists() else "failed"
        except subprocess.TimeoutExpired:
            status = "cut off"
        finally:
            end_group(child)
    row = {"status": status, "seconds": round(time.perf_counter() - began, 1)}
    if status == "ok":
        return row | json.loads(result.read_text(encoding="utf-8"))
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    why = f"after {limit:.0f} s" if status == "cut off" else f"exit status {child.returncode}"
    return row | {"why": why, "error": lines[-KEPT_LINES:]}


def end_group(child: subprocess.Popen) -> None:
    """Ends the piece's process and all that it started, if anything of it is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run_child(function: str, sizes: str, result: str) -> None:
    """In the child: calls module:function and writes what it returns."""
    module, name = function.split(":")
    try:
        found = importlib.import_module(f"gpu.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"gpu.{module}":
            raise
        found = importlib.import_module(module)
    figures = getattr(found, name)(json.loads(sizes))
    Path(result).write_text(json.dumps(plain(figures), allow_nan=False), encoding="utf-8")


def plain(value):
    """The value with numbers that JSON has: of infinity and NaN their names, floats to six digits."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


# --- all pieces ------------------------------------------------------------------------------------


def check(
    pieces: Sequence[Piece],
    record: Path | None = None,
    dry: bool = False,
    wheels: Path | None = None,
    data: Path | None = None,
    say=partial(print, flush=True),
) -> bool:
    """Carries out the pieces that the record does not have; whether none failed.

    record: by default a file named after the device, of a dry run one below runs/. wheels: a folder of wheels
    that go before what is installed. data: a folder with tinyshakespeare.txt and tokenizers/gpt2.
    """
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        work = Path(folder)
        environment = child_environment(work, wheels, data)
        machine = look(environment)
        cuda = machine.pop("cuda")
        if not cuda and not dry:
            raise SystemExit("gpu_check found no CUDA GPU; give --dry-run for tiny sizes on this CPU")
        record = record or default_record(machine["device"], dry)
        say(f"{machine['device']}, driver {machine['driver']}; record: {record}")
        missing = [name for name, version in machine["versions"].items() if version is None]
        say(f"not installed: {', '.join(missing) or 'nothing'}")
        extra = {
            "device": "cuda" if cuda else "cpu",
            "text": "tinyshakespeare" if data and not dry else "miniworld/stories",
        }
        good = True
        for piece in pieces:
            row = {"piece": piece.name, **machine, "sizes": piece.sizes(dry) | extra}
            if done_before(read_record(record), row):
                say(f"{piece.name:<26} in the record")
                continue
            if lacking := [name for name in piece.needs if name in missing]:
                row |= {"status": "left out", "seconds": 0.0, "why": f"needs {', '.join(lacking)}"}
            else:
                limit = piece.limit * (DRY_PATIENCE if dry else 1)
                row |= carry_out(piece, row["sizes"], limit, environment, work)
            add_row(record, row)
            say(line(row))
            good &= row["status"] in ("ok", "left out")
        return good


def child_environment(work: Path, wheels: Path | None, data: Path | None) -> dict:
    """Variables of the pieces' processes; unpacks the wheels."""
    paths = [str(PROJECT), str(PROJECT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    if wheels is not None:
        unpack_wheels(wheels, work / "site")
        paths.insert(0, str(work / "site"))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "LMLAB_GPU_CHECK": str(work),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    return environment | ({} if data is None else {"LMLAB_GPU_DATA": str(Path(data).resolve())})


def default_record(device: str, dry: bool) -> Path:
    if dry:
        return PROJECT / "runs" / "gpu_check_dry_run.json"
    return RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


# --- what is shown ---------------------------------------------------------------------------------


def line(row: dict) -> str:
    """A row in one line, and of one that failed the end of its output."""
    head = f"{row['piece']:<26} {row['status']:<8} {row['seconds']:6.1f} s  "
    if row["status"] != "ok":
        return head + row["why"] + "".join(f"\n    {text}" for text in row.get("error", [])[-8:])
    return head + ", ".join(f"{name} {value}" for name, value in cells(row).items() if value)


def cells(row: dict) -> dict[str, str]:
    """What a row shows, by column; empty where it has no such figure."""
    forecast, losses, job = row.get("forecast", {}), row.get("losses", []), row.get("job")
    return {
        "batch": f"{job['batch_size']} x {job['length']} x {job['accumulation']}" if job else "",
        "peak": number(row.get("peak_gib"), "{:.2f} GiB"),
        "predicted": number(forecast.get("peak_gib"), "{:.2f} GiB"),
        "tokens/s": number(row.get("tokens_per_second"), "{:,.0f}"),
        "predicted tokens/s": number(forecast.get("tokens_per_second"), "{:,.0f}"),
        "a step": number(row.get("seconds_per_step"), "{:.3f} s"),
        "loss": f"{losses[0]:.3f} to {losses[-1]:.3f}" if len(losses) > 1 else "",
        "else": other_figures(row),
    }


def number(value, form: str) -> str:
    return "" if value is None else form.format(value)


def other_figures(row: dict) -> str:
    """What single pieces have to tell."""
    told = []
    if row.get("mfu") is not None:
        told.append(f"{row['mfu']:.1%} of the data sheet")
    if "seconds_scoring" in row:
        told.append(
            f"{row['seconds_scoring']:.1f} s in float32, {row['seconds_scoring_bfloat16']:.1f} s in bfloat16"
        )
    if "seconds_of" in row:
        told.append(", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["seconds_of"].items()))
    if "summary" in row:
        told.append(row["summary"].strip("= "))
    if (verdict := row.get("forecast", {}).get("verdict")) and not verdict.startswith("within"):
        told.append(verdict)
    return "; ".join(told)


def table(rows: Sequence[dict]) -> str:
    """The record in Markdown."""
    if not rows:
        return "no rows yet"
    names = ["piece", *cells(rows[0])]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in rows:
        shown = (
            list(cells(row).values())
            if row["status"] == "ok"
            else [*[""] * (len(names) - 2), f"{row['status']}: {row['why']}"]
        )
        lines.append(f"| {' | '.join([row['piece'], *shown])} |")
    of = {
        f"{row['device']}, driver {row['driver']}, "
        + ", ".join(f"{name} {version}" for name, version in row["versions"].items() if version)
        for row in rows
    }
    return "\n".join([*lines, "", *(f"Measured on {text}." for text in sorted(of))])


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--look"]:
        print(json.dumps(look_here()))
        return 0
    if arguments[:1] == ["--child"]:
        run_child(*arguments[1:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        choices=[piece.name for piece in PIECES],
        metavar="NAME",
        help=f"one of: {', '.join(piece.name for piece in PIECES)}; may be given several times",
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on a CPU too")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels of what is not installed")
    parser.add_argument("--data", type=Path, help="a folder with tinyshakespeare.txt and tokenizers/gpt2")
    parser.add_argument("--record", type=Path, help="the JSON file that rows are added to")
    parser.add_argument(
        "--table", action="store_true", help="print the record as a Markdown table, and measure nothing"
    )
    given = parser.parse_args(arguments)
    if given.table:
        paths = [given.record] if given.record else sorted(RESULTS.glob("*.json"))
        print(table([row for path in paths if path.name != "cpu_bands.json" for row in read_record(path)]))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the piece under way is ended too
    wanted = [piece for piece in PIECES if not given.only or piece.name in given.only]
    return 0 if check(wanted, given.record, given.dry_run, given.wheels, given.data) else 1


if __name__ == "__main__":
    sys.exit(main())
