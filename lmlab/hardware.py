"""What this machine is and which dtypes follow. The one module that probes, and only when called."""

import html
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SHORT_WINDOW = 256  # tokens; up to here the attention scores are small enough to be computed whole on a CPU


@dataclass(frozen=True)
class Machine:
    """Facts about a machine, and why each choice was made. Memory in GiB; dtypes as torch's names."""

    device: str  # "cuda", "mps" or "cpu"
    device_name: str
    dtype: str  # of weights and activations
    four_bit: bool  # bitsandbytes can load in 4 bits here
    n_cpu: int
    memory_gb: float
    gpu_memory_gb: float | None
    reasons: tuple[str, ...]

    # the next three are named as in transformers' TrainingArguments
    @property
    def bf16(self) -> bool:
        """Train in bfloat16."""
        return self.dtype == "bfloat16"

    @property
    def fp16(self) -> bool:
        """Train in float16, with a gradient scaler."""
        return self.dtype == "float16"

    @property
    def use_cpu(self) -> bool:
        """Train on the CPU."""
        return self.device == "cpu"

    @property
    def compute_dtype(self) -> str:
        """What 4-bit weights are dequantized to."""
        return self.dtype

    @property
    def torch_dtype(self) -> "torch.dtype":
        """``dtype`` as torch's object."""
        import torch

        return getattr(torch, self.dtype)

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) to show."""
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

    dtype, gpu_memory = "float32", None
    if torch.cuda.is_available():
        device, name = "cuda", torch.cuda.get_device_name()
        dtype, reason = _half_precision(*torch.cuda.get_device_capability())
        gpu_memory = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    elif torch.backends.mps.is_available():
        device, name, reason = "mps", "Apple GPU", "float32: training on mps is safest in it"
    else:
        device, name, reason = "cpu", _cpu_name(), "float32: no GPU, and it is exact"
    four_bit, four_bit_reason = _four_bit(device)
    memory = round(_memory_bytes() / 2**30, 1)
    reasons = (reason, four_bit_reason)
    return Machine(device, name, dtype, four_bit, available_cores(), memory, gpu_memory, reasons)


def gpu(name: str) -> Machine:
    """The machine that a rented GPU would be, to plan for it.

    Raises ValueError for one that is not in the table.
    """
    # "t4" as well as "T4"
    rentable = rentable_gpus()
    name = next((known for known in rentable if known.lower() == name.lower()), name)
    if name not in rentable:
        raise ValueError(f"gpu got {name!r}; give one of {', '.join(rentable)}")
    dtype, reason = _half_precision(*known_gpus()[name]["capability"])
    reasons = (reason, "from a table: no GPU was looked at")
    return Machine("cuda", name, dtype, True, available_cores(), 0.0, rentable[name], reasons)


def _half_precision(major: int, minor: int) -> tuple[str, str]:
    # is_bf16_supported() says yes to emulation as well, so the capability decides
    if major >= 8:
        return "bfloat16", f"bfloat16: compute capability {major}.{minor} has it in hardware"
    return "float16", f"float16: compute capability {major}.{minor} has no bfloat16 in hardware (8.0 has)"


def _four_bit(device: str) -> tuple[bool, str]:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        return False, "no 4-bit: bitsandbytes is not installed"
    if device == "mps":
        return False, "no 4-bit: bitsandbytes has no training kernels for mps"
    return True, "4-bit by bitsandbytes"


def peak_flops(device: "torch.device", dtype: str) -> float | None:
    """Peak FLOPS of a device in ``dtype`` by its data sheet; None where there is none.

    A GPU computes float32 in TF32 or slower, a CPU as its clock allows: no number.
    """
    if device.type != "cuda" or dtype == "float32":
        return None
    import torch

    peak = by_gpu_name("tflops", torch.cuda.get_device_name(device))
    return peak and 1e12 * peak


@cache
def known_gpus() -> dict[str, dict]:
    """name -> what is known of a GPU: the table gpus.yaml."""
    import yaml

    return yaml.safe_load(Path(__file__).with_name("gpus.yaml").read_text(encoding="utf-8"))


def rentable_gpus() -> dict[str, float]:
    """name -> GiB of memory of the GPUs that one can rent."""
    return {name: facts["memory"] for name, facts in known_gpus().items() if "memory" in facts}


def by_gpu_name(key: str, name: str) -> float | None:
    """A value of the GPU that ``name`` speaks of, such as "NVIDIA A100-SXM4-40GB"; None where it is not
    known.
    """
    for known, facts in known_gpus().items():
        if re.search(rf"\b{known}\b", name):
            return facts.get(key)
    return None


@contextmanager
def fast_matmul(device: str, block_size: int) -> Iterator[None]:
    """Lets float32 matrix products take the fast kernels while a model trains, and restores the setting
    after.

    On a CPU every product stays float32: where oneDNN's float32 kernels are used at all (``onednn_is_exact``)
    they take MKL's place, which on AMD CPUs with AVX-512 halves the time; elsewhere nothing changes. On a GPU
    the products of float32 tensors use TF32. A precision that the caller has lowered already stays as it is.
    oneDNN is slow at the many small products of fused attention, so for short windows attention is computed
    whole.

    Args:
        device: a torch device type: "cpu", "cuda" or "mps".
        block_size: sequence length in tokens.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = torch.get_float32_matmul_precision()
    # anything lower was chosen by the caller
    if before == "highest":
        torch.set_float32_matmul_precision(_training_precision(device))
    short = device == "cpu" and block_size <= SHORT_WINDOW
    try:
        with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _training_precision(device: str) -> str:
    """What ``torch.set_float32_matmul_precision`` gets for training: its names say less than they do."""
    if device != "cpu":
        return "high"  # TF32
    return "medium" if onednn_is_exact() else "highest"


def onednn_is_exact() -> bool:
    """Whether "medium" precision means oneDNN's kernels in plain float32 on this CPU.

    PyTorch documents "medium" as leave to round float32 factors to bfloat16, and on a CPU it hands the
    products to oneDNN. That rounds only where the CPU multiplies bfloat16 matrices in hardware (AMX,
    AVX10.2); with AVX-512 alone its kernels are float32. Without AVX-512 PyTorch does not use them, so there
    is nothing to gain.
    """
    import torch

    has = torch.cpu.get_capabilities()
    # the CPUs that multiply bfloat16 matrices in hardware
    rounds = any(has.get(name) for name in ("amx_tile", "amx_bf16", "amx_fp16", "avx10_2"))
    return bool(has.get("avx512_f")) and not rounds


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
