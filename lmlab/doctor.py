"""``lmlab doctor``: the machine, the packages against the tested set, what is reachable, what each tier can do here."""

import shutil
import socket
from importlib import metadata

from lmlab.hardware import Machine, describe_machine
from lmlab.recipes import PROJECT

PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "matplotlib", "ipywidgets",
            "ipykernel", "nbconvert", "papermill", "tensorboard")
HUB = ("huggingface.co", 443)


def examine() -> str:
    """The whole report as text. Never raises for something missing: it says so."""
    machine = describe_machine()
    online = reachable(*HUB)
    sections = {
        "machine": str(machine),
        "packages (tested set in requirements.txt)": "\n".join(package_lines()),
        "disk": f"{shutil.disk_usage(PROJECT).free / 2**30:.0f} GiB free in {PROJECT}",
        "network": f"model hub {HUB[0]}: {'reachable' if online else 'not reachable (tiny and local do not need it)'}",
        "notebook kernel": kernel_line(),
        "recipes": "\n".join(f"{name:<6} {verdict}" for name, verdict in tiers(machine, online).items()),
    }
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n{body}" for title, body in sections.items())


def reachable(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether a connection opens in time."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def tested_versions() -> dict[str, str]:
    """package -> version, as pinned in requirements.txt."""
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


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
    network = "" if online else "; needs the hub, which is not reachable (or models in the local cache)"
    gpu = machine.gpu_memory_gb or 0
    return {
        "tiny": "runs here: two CPU cores are enough",
        "local": "runs here with --set data_dir=FOLDER",
        "t4": f"GPU with {gpu:.0f} GiB{network}" if gpu >= 14 else "needs a GPU with 15 GB, none here" + network,
        "gpu": f"{machine.device_name}, bfloat16{network}" if gpu >= 22 and machine.bf16
               else "needs a GPU with 24 GB and bfloat16 (Ampere or later), none here" + network,
    }
