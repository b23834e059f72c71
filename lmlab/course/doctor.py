"""``lmlab doctor``: the machine, the packages, what is reachable, and which recipes can run here."""

import os
import platform
import shutil
import threading
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from lmlab.hardware import Machine, describe_machine
from lmlab.recipes import list_recipes

# GiB; for GPUs a little below what is on the box: drivers keep some
TINY_MEMORY_GB, T4_MEMORY_GB, GPU_MEMORY_GB = 4, 14, 21


def examine() -> str:
    """The whole report as text. It never raises for something missing: it says so."""
    machine = describe_machine()
    hub, here = os.environ.get("HF_ENDPOINT", "https://huggingface.co"), Path.cwd()
    online = reachable(hub)
    verdicts = [f"{name:<6} {verdict}" for name, verdict in tiers(machine, online).items()]
    sections = {
        "machine": str(machine),
        "packages": "\n".join([f"{'python':<14} {platform.python_version()}", *package_lines()]),
        "disk": f"{shutil.disk_usage(here).free / 2**30:.0f} GiB free in {here}",
        "network": f"model hub {hub}: {'' if online else 'not '}reachable (tiny and local do not need it)",
        "notebook kernel": kernel_line(),
        "recipes": "\n".join(verdicts),
    }
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n{body}" for title, body in sections.items())


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a server answers in time, through a proxy if one is set."""
    answers = []

    def ask() -> None:
        """Notes any answer of the server."""
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds)
            answers.append(True)
        except urllib.error.HTTPError:  # it answered, if only to refuse
            answers.append(True)
        except (OSError, ValueError):
            pass

    # the timeout does not bound the look-up of the name, so a thread asks
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return bool(answers)


def package_lines() -> list[str]:
    """One line for each package that lmlab needs: its version, and whether that will do."""
    lines = []
    # What pyproject.toml declares, as pip wrote it down: it is there without a clone, too.
    for text in metadata.requires("lmlab") or ():
        needed = Requirement(text)
        if "extra ==" in text:  # for tests only
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            lines.append(
                f"{needed.name:<14} MISSING         install: pip install '{needed.name}{needed.specifier}'"
            )
            continue
        fits = needed.specifier.contains(version, prereleases=True)
        verdict = (
            "ok" if fits else f"NEEDED {needed.specifier}: pip install '{needed.name}{needed.specifier}'"
        )
        lines.append(f"{needed.name:<14} {version:<15} {verdict}")
    return lines


def kernel_line() -> str:
    """Where Jupyter finds the kernel that runs the notebooks."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager

        return f"python3 in {KernelSpecManager().get_kernel_spec('python3').resource_dir}"
    except Exception as error:  # any failure here is the finding
        return f"no python3 kernel: {error}; install: pip install ipykernel"


def tiers(machine: Machine, online: bool) -> dict[str, str]:
    """What each recipe name can do on this machine, and why."""
    # tiny and local run anywhere, but for what a small machine or a missing library takes away.
    tiny = "runs here"
    if 0 < machine.memory_gb < TINY_MEMORY_GB:
        tiny = f"may not fit: needs {TINY_MEMORY_GB} GiB of memory, here {machine.memory_gb:.1f}"
    if not machine.four_bit:
        tiny += f", but for lessons 05 to 07 ({machine.reasons[-1]})"
    # t4 and gpu need a GPU, and the hub or its cache.
    gpu_gib = machine.gpu_memory_gb or 0
    here = f"{machine.device_name}, {gpu_gib:.0f} GiB, {machine.dtype}" if gpu_gib else "none here"
    runs = f"runs here: {here}"
    if not online:
        runs += "; models and data must be in the local cache, the hub is not reachable"
    t4 = gpu = runs
    if gpu_gib < T4_MEMORY_GB:
        t4 = f"no: needs a GPU with 15 GB, {here}"
    if gpu_gib < GPU_MEMORY_GB or not machine.bf16:
        gpu = f"no: needs a GPU with 24 GB and bfloat16 (Ampere or later), {here}"
    return {
        "tiny": f"{tiny}: no GPU and no network needed",
        "local": f"{tiny} on your files: --set data_dir=FOLDER",
        "t4": t4,
        "gpu": gpu,
    }


def suggest_recipe(lesson: str) -> str:
    """One line: the largest of tiny, t4 and gpu that a lesson has and this machine can run, and why."""
    verdicts = tiers(describe_machine(), online=True)
    for name in ("gpu", "t4"):
        if name in list_recipes(lesson) and verdicts[name].startswith("runs"):
            return f'recipe = "{name}" {verdicts[name]}; it loads from the hub, "tiny" needs no network'
    return f'recipe = "tiny" {verdicts["tiny"]}'
