"""What this machine is and which number formats follow. The one module that probes, and only when called."""

import html
import os
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Machine:
    """Facts about a machine, and why each choice was made. Memory in GiB; dtypes as torch's names."""

    device: str  # "cuda", "mps" or "cpu"
    device_name: str
    dtype: str  # of weights and activations
    bf16: bool  # train in bfloat16
    fp16: bool  # train in float16 with a gradient scaler
    use_cpu: bool  # what transformers' TrainingArguments calls it
    four_bit: bool  # bitsandbytes can load in 4 bits here
    compute_dtype: str  # what 4-bit weights are unpacked to
    n_cpu: int
    memory_gb: float
    gpu_memory_gb: float | None
    reasons: tuple[str, ...]

    @property
    def torch_dtype(self):
        import torch

        return getattr(torch, self.dtype)

    def rows(self) -> list[tuple[str, str]]:
        shown = [(f.name, str(getattr(self, f.name))) for f in fields(self) if f.name != "reasons"]
        return [*shown, ("why", "; ".join(self.reasons))]

    def __str__(self) -> str:
        return "\n".join(f"{name:<14} {value}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        rows = [f"<tr><td>{name}</td><td>{html.escape(value)}</td></tr>" for name, value in self.rows()]
        return f"<table>{''.join(rows)}</table>"


def describe_machine() -> Machine:
    """Looks at this machine. Never fails for want of a GPU or of bitsandbytes; says what is missing."""
    import torch

    if torch.cuda.is_available():
        device, name, dtype, reason = _cuda(torch)
    elif torch.backends.mps.is_available():
        device, name, dtype = "mps", "Apple GPU", "float32"
        reason = "float32: training on mps is safest in it"
    else:
        device, name, dtype, reason = "cpu", _cpu_name(), "float32", "float32: no GPU, and it is exact"
    four_bit, four_bit_reason = _four_bit(device)
    gpu_memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if device == "cuda" else None
    return Machine(
        device, name, dtype, bf16=dtype == "bfloat16", fp16=dtype == "float16", use_cpu=device == "cpu",
        four_bit=four_bit, compute_dtype=dtype, n_cpu=available_cores(), memory_gb=round(_memory_bytes() / 2**30, 1),
        gpu_memory_gb=gpu_memory and round(gpu_memory, 1), reasons=(reason, four_bit_reason))


def _cuda(torch) -> tuple[str, str, str, str]:
    major, minor = torch.cuda.get_device_capability()
    name = torch.cuda.get_device_name()
    # is_bf16_supported() says yes to emulation as well, so the capability decides
    if major >= 8:
        return "cuda", name, "bfloat16", f"bfloat16: compute capability {major}.{minor} has it in hardware"
    reason = f"float16: compute capability {major}.{minor} has no bfloat16 in hardware (8.0 has)"
    return "cuda", name, "float16", reason


def _four_bit(device: str) -> tuple[bool, str]:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        return False, "no 4-bit: bitsandbytes is not installed"
    if device == "mps":
        return False, "no 4-bit: bitsandbytes has no training kernels for mps"
    return True, "4-bit by bitsandbytes"


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
