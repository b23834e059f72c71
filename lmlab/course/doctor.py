"""``lmlab doctor``: the machine, packages against the tested set, what is reachable, what each tier can."""

import os
import platform
import re
import shutil
import threading
import urllib.error
import urllib.request
from importlib import metadata

from lmlab.hardware import Machine, describe_machine
from lmlab.recipes import PROJECT, list_recipes

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "datasets",
    "accelerate",
    "matplotlib",
    "ipywidgets",
    "ipykernel",
    "nbconvert",
    "papermill",
    "tensorboard",
)
# GiB; for GPUs a little below what is on the box: drivers keep some
TINY_MEMORY_GB, T4_MEMORY_GB, GPU_MEMORY_GB = 4, 14, 21


def examine() -> str:
    """The whole report as text. Never raises for something missing: it says so."""
    machine = describe_machine()
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    online = reachable(hub)
    sections = {
        "machine": str(machine),
        "packages (tested set in requirements.txt)": "\n".join([python_line(), *package_lines()]),
        "disk": f"{shutil.disk_usage(PROJECT).free / 2**30:.0f} GiB free in {PROJECT}",
        "network": f"model hub {hub}: "
        f"{'reachable' if online else 'not reachable (tiny and local do not need it)'}",
        "notebook kernel": kernel_line(),
        "recipes": "\n".join(f"{name:<6} {verdict}" for name, verdict in tiers(machine, online).items()),
    }
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n{body}" for title, body in sections.items())


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a server answers in time, through a proxy if one is set."""
    answers = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds)
            answers.append(True)
        except urllib.error.HTTPError:  # it answered, if only to refuse
            answers.append(True)
        except (OSError, ValueError):
            pass

    # the timeout does not bound the look-up of the name, so the question is asked from a thread
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return bool(answers)


def python_line() -> str:
    return f"{'python':<14} {platform.python_version():<15} 3.11 or newer needed, tested with 3.11"


def tested_versions() -> dict[str, str]:
    """package -> version, as pinned in requirements.txt."""
    text = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([^\s;#]+)", text, flags=re.MULTILINE))


def package_lines() -> list[str]:
    tested, lines = tested_versions(), []
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            lines.append(f"{name:<14} MISSING         install: pip install {name}=={tested.get(name, '')}")
            continue
        same = version.split("+")[0] == tested.get(name)
        lines.append(f"{name:<14} {version:<15} {'as tested' if same else f'tested with {tested.get(name)}'}")
    return lines


def kernel_line() -> str:
    try:
        from jupyter_client.kernelspec import KernelSpecManager

        return f"python3 in {KernelSpecManager().get_kernel_spec('python3').resource_dir}"
    except Exception as error:  # noqa: BLE001  (any failure here is the finding)
        return f"no python3 kernel: {error}; install: pip install ipykernel"


def tiers(machine: Machine, online: bool) -> dict[str, str]:
    """What each recipe name can do on this machine, and why."""
    network = "" if online else "; models and data must be in the local cache, the hub is not reachable"
    gpu = machine.gpu_memory_gb or 0
    here = f"{machine.device_name}, {gpu:.0f} GiB, {machine.dtype}" if gpu else "none here"
    enough = machine.memory_gb == 0 or machine.memory_gb >= TINY_MEMORY_GB
    tiny = (
        "runs here"
        if enough
        else f"may not fit: needs {TINY_MEMORY_GB} GiB of memory, here {machine.memory_gb:.1f}"
    )
    if not machine.four_bit:
        tiny += f", but for lessons 05 to 07 ({machine.reasons[-1]})"
    return {
        "tiny": f"{tiny}: no GPU and no network needed",
        "local": f"{tiny} on your files: --set data_dir=FOLDER",
        "t4": f"runs here: {here}{network}" if gpu >= T4_MEMORY_GB else f"no: needs a GPU with 15 GB, {here}",
        "gpu": f"runs here: {here}{network}"
        if gpu >= GPU_MEMORY_GB and machine.bf16
        else f"no: needs a GPU with 24 GB and bfloat16 (Ampere or later), {here}",
    }


def suggest_recipe(lesson: str) -> str:
    """One line: the largest of tiny, t4 and gpu that a lesson has and this machine carries, and why."""
    machine = describe_machine()
    verdicts = tiers(machine, online=True)
    known = [name for name in ("gpu", "t4") if name in list_recipes(lesson)]
    name = next((name for name in known if verdicts[name].startswith("runs")), "tiny")
    hub = "" if name == "tiny" else '; it loads from the hub, "tiny" needs no network'
    return f'recipe = "{name}" {verdicts[name]}{hub}'
