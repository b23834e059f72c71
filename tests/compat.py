"""The course with other versions of its libraries: ``make compat``, or ``python tests/compat.py colab``.

Three environments, each in a folder of its own under .compat, which stays for the next time:

- ``lowest``: the lowest versions that pyproject.toml allows (constraints/lowest.txt, made by ``uv pip
  compile --resolution lowest-direct``);
- ``colab``: what Colab has installed (constraints/colab.txt), to which a notebook's setup cell adds
  lmlab;
- ``latest``: the newest that pip offers.

Each runs the quick tests and lessons; docs/COMPATIBILITY.md is written from what came out. This file imports
nothing but the standard library: it runs before anything is installed.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = PROJECT / ".compat"
TABLE = PROJECT / "docs/COMPATIBILITY.md"
SHOWN = "torch transformers peft trl bitsandbytes datasets accelerate ipython ipywidgets pyarrow".split()
QUICK = [
    "-n",
    "2",
    "--dist",
    "loadfile",
    "-m",
    "not course and not drill and not compat and not slow and not browser",
]
SOME = "01 05 06 07 09".split()
ALL = "00 01 02 03 04 05 06 07 08 09 10 11".split()


@dataclass(frozen=True)
class Environment:
    """One set of versions. ``requirements`` are pip's arguments; ``lessons`` run on the tiny recipe."""

    name: str
    pythons: tuple[str, ...]
    requirements: tuple[str, ...]
    lessons: tuple[str, ...]


ENVIRONMENTS = {
    "lowest": Environment(
        "lowest", ("3.11",), ("-r", "constraints/lowest.txt", "-e", ".[test]"), tuple(SOME)
    ),
    # without lmlab: the setup cell of the first notebook brings it
    "colab": Environment("colab", ("3.13",), ("-r", "constraints/colab.txt"), tuple(ALL)),
    "latest": Environment("latest", ("3.12", "3.13"), ("-e", ".[test]"), tuple(SOME)),
}


def find_python(versions: tuple[str, ...]) -> str | None:
    """A Python of one of these versions: by name, then pyenv's, then uv's; None where there is none."""
    for version in versions:
        found = shutil.which(f"python{version}")
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        if not found and pyenv:
            found = str(pyenv[-1])
        if not found and shutil.which("uv"):
            asked = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True)
            found = asked.stdout.strip() if asked.returncode == 0 else None
        # pyenv's shims are found by name and may not run
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    return None


def install(environment: Environment, python: str) -> Path:
    """The environment's python, installed anew when what it is made from has changed."""
    folder = FOLDER / environment.name
    files = [PROJECT / "pyproject.toml", *(PROJECT / "constraints").glob(f"{environment.name}*.txt")]
    made_from = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()
    stamp = folder / "made_from"
    executable = folder / "bin/python"
    if stamp.exists() and stamp.read_text() == made_from and environment.name != "colab":
        return executable
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    command = [executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):  # many times faster
        command = [uv, "pip", "install", "-q", "--python", executable]
    subprocess.run([*command, *environment.requirements], check=True, cwd=PROJECT)
    stamp.write_text(made_from)
    return executable


def versions(python: Path) -> dict[str, str]:
    """The versions of the libraries that matter most, and Python's."""
    code = (
        "import importlib.metadata as m, json, platform\n"
        "have = {d.name.lower(): d.version for d in m.distributions()}\n"
        f"shown = {{name: have.get(name, '') for name in {SHOWN!r}}}\n"
        "print(json.dumps({'python': platform.python_version(), **shown}))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def run_step(environment: Environment, name: str, command: list, **variables: str) -> dict:
    """Runs one command; its output goes to .compat/<environment>-<name>.log."""
    log = FOLDER / f"{environment.name}-{name.replace(' ', '-')}.log"
    start = time.time()
    with open(log, "w") as file:
        done = subprocess.run(
            command, cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, env=os.environ | variables
        )
    ok = done.returncode == 0
    seconds = round(time.time() - start)
    print(
        f"{environment.name:<8} {name:<12} {'ok' if ok else 'FAILED: ' + str(log)}, {seconds} s", flush=True
    )
    return {"ok": ok, "seconds": seconds}


def run_in_colab(environment: Environment, python: Path, runs: Path) -> dict[str, dict]:
    """One kernel after the other, each beginning with the setup cell, as a reader has them."""
    done = {}
    for lesson in environment.lessons:
        command = [python, PROJECT / "tests/colab.py", lesson, "--output-dir", runs]
        done[f"lesson {lesson}"] = run_step(environment, f"lesson {lesson}", command)
    return done


def run_tests(environment: Environment, python: Path, runs: Path) -> dict[str, dict]:
    """The quick tests; the lessons in batch; and whether these measured what they should."""
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider"]
    done = {"quick tests": run_step(environment, "quick tests", [*pytest, *QUICK])}
    command = [python, "-m", "lmlab", "run", *environment.lessons, "--jobs", "2", "--output-dir", runs]
    done["lessons"] = run_step(environment, "lessons", command)
    (run,) = [path.parent for path in runs.glob("*/run.json")]
    bands = [*pytest, "tests/test_notebooks.py", "-k", f"measures and ({' or '.join(environment.lessons)})"]
    done["bands"] = run_step(environment, "bands", bands, LMLAB_RUN=str(run))
    return done


def check(environment: Environment) -> dict:
    """Everything of one environment: its versions, and each step's outcome and seconds."""
    python = find_python(environment.pythons)
    if python is None:
        wanted = " or ".join(environment.pythons)
        print(f"{environment.name}: skipped, no Python {wanted} by name, by pyenv or by uv", flush=True)
        return {"skipped": f"no Python {wanted}"}
    executable = install(environment, python)
    runs = FOLDER / f"{environment.name}-runs"
    shutil.rmtree(runs, ignore_errors=True)
    run = run_in_colab if environment.name == "colab" else run_tests
    done = run(environment, executable, runs)
    return {"versions": versions(executable), "steps": done, "date": time.strftime("%Y-%m-%d")}


def write_table(results: dict) -> None:
    """docs/COMPATIBILITY.md from all results that there are."""
    lines = [
        "# Other versions of the libraries",
        "",
        "Written by `make compat`: quick tests and lessons on the tiny recipes, in three sets of versions.",
        "",
        f"| | {' | '.join(results)} |",
        f"|---|{'---|' * len(results)}",
    ]
    rows = {"date": [result.get("date", result.get("skipped")) for result in results.values()]}
    for name in ("python", *SHOWN):
        rows[name] = [result.get("versions", {}).get(name, "") for result in results.values()]
    names = dict.fromkeys(name for result in results.values() for name in result.get("steps", {}))
    for name in names:
        rows[name] = []
        for result in results.values():
            step = result.get("steps", {}).get(name)
            verdict = (
                "" if step is None else f"{'passed' if step['ok'] else '**failed**'}, {step['seconds']} s"
            )
            rows[name].append(verdict)
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", nargs="*", help=f"of {', '.join(ENVIRONMENTS)}; by default all")
    names = parser.parse_args().environments or list(ENVIRONMENTS)
    if unknown := set(names) - set(ENVIRONMENTS):
        parser.error(f"there is no environment {', '.join(sorted(unknown))}; give {', '.join(ENVIRONMENTS)}")
    FOLDER.mkdir(exist_ok=True)
    os.environ.pop("PYTHONPATH", None)  # or the wrong lmlab might be tested
    kept = FOLDER / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for name in names:
        results[name] = check(ENVIRONMENTS[name])
        kept.write_text(json.dumps(results, indent=1))
    write_table({name: results[name] for name in ENVIRONMENTS if name in results})
    failed = [
        name for name in names if not all(step["ok"] for step in results[name].get("steps", {}).values())
    ]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
