"""What the pieces have in common: models with random weights, memory, and figures beside their forecast.

No weights are needed: a model built from its published config takes as much memory and time as the trained
one.
"""

import contextlib
import os
import resource
from pathlib import Path

from lmlab.course.forecast import forecast
from lmlab.course.measured import reset_peak_memory
from lmlab.hardware import Machine, describe_machine
from lmlab.models import quantization
from lmlab.models.sources import fused_gelu
from lmlab.recipes import load_recipe

GIB = 2**30
NEAR = 0.1  # a forecast of the peak that is off by more is said to be wrong
SHOWN = ("batch_size", "length", "accumulation", "checkpointing", "optimizer", "four_bit", "chunked")


def work_folder() -> Path:
    """Where pieces leave files for each other: the runner's folder, which goes when the check is done."""
    return Path(os.environ["LMLAB_GPU_CHECK"])


def recipe_of(sizes: dict):
    """The recipe that a piece's sizes name, with the piece's own changes."""
    return load_recipe(sizes["lesson"], sizes["recipe"], **sizes["changes"])


# --- models ----------------------------------------------------------------------------------------


def random_model(config, dtype, device: str, seed: int = 0):
    """The causal model of a transformers config; its weights are made on the device, so it takes no time."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.loss_type = "ForCausalLM"  # as lmlab.models.sources.load_model sets it
    return fused_gelu(model)


def in_four_bits(model, machine: Machine):
    """The same weights in NF4, by loader and config of ``quantization.load_four_bit``, without files."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = {"device_map": {"": torch.cuda.current_device()}} if machine.device == "cuda" else {}
    packed = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        dtype=machine.torch_dtype,
        quantization_config=quantization.four_bit_config(machine),
        **place,
    )
    packed.loss_type = "ForCausalLM"
    quantization.disable_cpu_repacking(packed)
    return packed


def frozen_base(config, machine: Machine, bits: int):
    """A random base as lessons 05 and 06 load theirs: in 4 bits, or in the machine's 16."""
    model = random_model(config, machine.torch_dtype, machine.device)
    if bits == 4:
        model = in_four_bits(model, machine)
    release_memory()
    return model


def release_memory() -> None:
    """Gives back what nobody holds any more, so that the next peak is that of what comes."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- memory ----------------------------------------------------------------------------------------


def forget_peak() -> None:
    """From now on the peak is what comes; on a CPU where Linux can (man 5 proc, clear_refs)."""
    reset_peak_memory()
    with contextlib.suppress(OSError):  # the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def peaks() -> dict:
    """Memory in GiB: a GPU's, as tensors had it and as torch reserved it; without one the process's."""
    import torch

    if torch.cuda.is_available():
        return {
            "peak_gib": torch.cuda.max_memory_allocated() / GIB,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
        }
    return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "reserved_gib": None}


def wait_for_device() -> None:
    """A GPU works on while Python goes on: before the clock is read, it must be done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- forecasts -------------------------------------------------------------------------------------


def beside_forecast(job, machine: Machine, measured: dict) -> dict:
    """The row's figures with what ``lmlab.course.forecast`` predicts of them, and where that is wrong.

    The state of a paged optimizer is in memory that bitsandbytes takes by itself: it is no part of torch's
    peak, so it is left out of the forecast of that.
    """
    made = forecast(job, machine)
    counted = measured.pop("counted", {})
    parts = {
        name: [made.model_states[name] / GIB, size / GIB]
        for name, size in counted.items()
        if name in made.model_states
    }
    paged = {"optimizer"} if job.optimizer.startswith("paged") else set()
    in_peak = [part for name, part in parts.items() if name not in paged]
    predicted_gib = (made.peak - sum(made.model_states[name] for name in paged)) / GIB
    actual_gib = measured["peak_gib"]
    parts["made in a step"] = [
        predicted_gib - sum(predicted for predicted, _ in in_peak),
        actual_gib - sum(actual for _, actual in in_peak),
    ]
    off = actual_gib / predicted_gib - 1
    verdict = "within 10%" if abs(off) <= NEAR else _where(parts)
    if machine.device == "cpu":
        verdict = "not comparable: the memory is that of the whole process"
    return measured | {
        "job": {name: getattr(job, name) for name in SHOWN},
        "forecast": {
            "peak_gib": predicted_gib,
            "tokens_per_second": made.tokens_per_second,
            "peak_off": off,
            "verdict": verdict,
            "parts_gib": parts,
        },
    }


def _where(parts: dict[str, list[float]]) -> str:
    """The part in GiB, predicted and actual, that is off by the most."""
    name, (predicted, actual) = max(parts.items(), key=lambda part: abs(part[1][1] - part[1][0]))
    return f"{name}: predicted {predicted:.3f} GiB, actual {actual:.3f}"


def this_machine() -> Machine:
    """``describe_machine``, with CUDA ready, so that its start is in no clock."""
    machine = describe_machine()
    if machine.device == "cuda":
        import torch

        torch.zeros(1, device="cuda")
    return machine
