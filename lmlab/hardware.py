"""What this machine is and which number formats follow. The one module that probes, and only when called."""

import html
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields

# tera operations a second in dense bfloat16 or float16 products, from NVIDIA's data sheets (without sparsity)
PEAK_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "A10G": 70,
    "A10": 125,
    "L40S": 362,
    "L4": 121,
    "T4": 65,
    "V100": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
# what one can rent: its memory in GiB as torch reports it, and its compute capability
GPUS = {
    "T4": (14.7, (7, 5)),
    "L4": (22.0, (8, 9)),
    "A10G": (22.1, (8, 6)),
    "A100": (39.4, (8, 0)),
    "A100-80GB": (79.2, (8, 0)),
    "H100": (79.1, (9, 0)),
    "H200": (139.8, (9, 0)),
}
# 10^9 bytes a second between a GPU and its memory, by the data sheets (the A100's is that of 40 GB)
BANDWIDTH = {"H200": 4800, "H100": 3350, "A100": 1555, "A10G": 600, "L4": 300, "T4": 320}
SHORT_WINDOW = 256  # tokens; up to here attention's own products are few enough to be made whole on a CPU


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
        device,
        name,
        dtype,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=device == "cpu",
        four_bit=four_bit,
        compute_dtype=dtype,
        n_cpu=available_cores(),
        memory_gb=round(_memory_bytes() / 2**30, 1),
        gpu_memory_gb=gpu_memory and round(gpu_memory, 1),
        reasons=(reason, four_bit_reason),
    )


def gpu(name: str) -> Machine:
    """The machine that a rented GPU would be, to plan for it. Raises ValueError for one that is not in GPUS."""
    name = next((known for known in GPUS if known.lower() == name.lower()), name)
    if name not in GPUS:
        raise ValueError(f"gpu got {name!r}; give one of {', '.join(GPUS)}")
    memory, capability = GPUS[name]
    dtype, reason = _half(*capability)
    return Machine(
        "cuda",
        name,
        dtype,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=False,
        four_bit=True,
        compute_dtype=dtype,
        n_cpu=available_cores(),
        memory_gb=0.0,
        gpu_memory_gb=memory,
        reasons=(reason, "from a table: no GPU was looked at"),
    )


def _cuda(torch) -> tuple[str, str, str, str]:
    return "cuda", torch.cuda.get_device_name(), *_half(*torch.cuda.get_device_capability())


def _half(major: int, minor: int) -> tuple[str, str]:
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


def peak_flops(device, dtype: str) -> float | None:
    """Operations per second that a device is sold with in ``dtype``; None where no data sheet says.

    device: a torch.device. A GPU computes float32 in TF32 or slower, a CPU as its clock allows: no number.
    """
    if device.type != "cuda" or dtype == "float32":
        return None
    import torch

    peak = by_gpu_name(PEAK_TFLOPS, torch.cuda.get_device_name(device))
    return peak and 1e12 * peak


def by_gpu_name(table: Mapping[str, float], name: str) -> float | None:
    """The value of the GPU that ``name`` speaks of, such as "NVIDIA A100-SXM4-40GB"; None where there is none."""
    return next((value for known, value in table.items() if re.search(rf"\b{known}\b", name)), None)


@contextmanager
def fast_matmul(device: str, block_size: int):
    """Lets float32 matrix products take the fast kernels while a model trains, and restores the setting after.

    On a CPU every product stays float32: where oneDNN's float32 kernels are used at all (``onednn_is_exact``) they
    take MKL's place, which on AMD CPUs with AVX-512 halves the time; elsewhere nothing changes. On a GPU the
    products of float32 tensors use TF32. A precision that the caller has lowered already stays as it is.
    oneDNN is slow at the many small products of fused attention, so for short windows attention is computed whole.

    Args:
        device: a torch device type: "cpu", "cuda" or "mps".
        block_size: sequence length in tokens.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = torch.get_float32_matmul_precision()
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

    PyTorch documents "medium" as leave to round float32 factors to bfloat16, and on a CPU it hands the products to
    oneDNN. That rounds only where the CPU multiplies bfloat16 matrices in hardware (AMX, AVX10.2); with AVX-512
    alone its kernels are float32. Without AVX-512 PyTorch does not use them, so there is nothing to gain.
    """
    import torch

    has = torch.cpu.get_capabilities()
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
