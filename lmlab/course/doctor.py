"""``lmlab doctor``: the machine, the packages, what is reachable, and which recipes can run here."""

import os
import platform
import shutil
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from lmlab.hardware import Machine, describe_machine
from lmlab.recipes import list_recipes

# GiB, a little below what is on the box: drivers keep some.
T4_MEMORY_GB, GPU_MEMORY_GB = 14, 21


def examine() -> str:
    """The whole report as text. It never raises for something missing: it says so."""
    from jupyter_client.kernelspec import KernelSpecManager

    machine = describe_machine()
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    online = reachable(hub)
    packages = [f"{'python':<14} {platform.python_version()}", *package_lines()]
    kernel = KernelSpecManager().find_kernel_specs().get("python3")
    sections = {
        "machine": str(machine),
        "packages": "\n".join(packages),
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free in {Path.cwd()}",
        "network": f"model hub {hub}: {'' if online else 'not '}reachable (tiny and local do not need it)",
        "notebook kernel": f"python3 in {kernel}" if kernel else "no python3 kernel: pip install ipykernel",
        "recipes": "\n".join(f"{name:<6} {verdict}" for name, verdict in tiers(machine, online).items()),
    }
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n{body}" for title, body in sections.items())


def reachable(url: str) -> bool:
    """Whether a server answers in time, through a proxy if one is set."""
    # By urllib and not by a socket, as urllib knows the environment's proxies.
    try:
        urllib.request.urlopen(url, timeout=3).close()
    except urllib.error.HTTPError:
        return True  # it answered, if only to refuse
    except (OSError, ValueError):
        return False
    return True


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
            version = "MISSING"
        verdict = "ok"
        if version == "MISSING" or not needed.specifier.contains(version, prereleases=True):
            verdict = f"pip install '{needed.name}{needed.specifier}'"
        lines.append(f"{needed.name:<14} {version:<15} {verdict}")
    return lines


def tiers(machine: Machine, online: bool) -> dict[str, str]:
    """What each recipe name can do on this machine, and why."""
    # tiny and local run anywhere, but for what a missing library takes away.
    tiny = "runs here"
    if not machine.four_bit:
        tiny += f", but for lessons 05 to 07 ({machine.reasons[-1]})"
    # t4 and gpu need a GPU, and the hub or its cache.
    gpu_gib = machine.gpu_memory_gb or 0
    here = f"{machine.device_name}, {gpu_gib:.0f} GiB, {machine.dtype}" if gpu_gib else "none here"
    t4 = gpu = f"runs here: {here}"
    if not online:
        t4 = gpu = f"{t4}; models and data must be in the local cache, the hub is not reachable"
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
