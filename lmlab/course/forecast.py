"""What one training will need on one machine: memory in bytes, time in seconds, the cost of a rented GPU.

Memory comes from a step on torch's meta device (``lmlab.training.memory``), and so do FLOPs; seconds follow
from the data sheet's peak and a utilization that is assumed. Everything is predicted.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmlab.course.cost import adafactor_bytes, adam_bytes, four_bit_bytes, product_speed
from lmlab.course.trainings import Training
from lmlab.hardware import Machine, by_gpu_name, rentable_gpus

if TYPE_CHECKING:
    from torch import nn

GIB = 2**30
# Fraction of the data sheet's FLOPS that training is assumed to reach; not measured on any GPU.
UTILIZATION = {"pretraining": 0.4, "full": 0.3, "qlora": 0.2}
# Of what one large product reaches on the same cores; measured 0.4 to 0.9 on the tiny models.
CPU_UTILIZATION = 0.6
CALL_SECONDS = 1e-5  # that a call of torch takes at least, from Python; assumed
OTHER_BANDWIDTH = 300  # GB/s, for a GPU that the table does not have
# CUDA's own memory, and the fraction that an allocator loses between tensors.
CUDA_GIB, FRAGMENTATION = 0.6, 0.05


@dataclass(frozen=True)
class Forecast:
    """What one training is predicted to need on one machine. Bytes by name; a name that is missing is 0."""

    training: Training
    machine: Machine
    n_parameters: int  # an adapter's among them
    n_trainable: int
    memory: Mapping[str, int]  # at the peak of a step; the parts add up to it
    # Weights, adapter, optimizer: what can be counted exactly after a run.
    model_states: Mapping[str, int]
    seconds: float | None  # of one step, at the batches' average fill; None where no data sheet says

    @property
    def peak(self) -> int:
        """Bytes of memory."""
        return sum(self.memory.values())

    @property
    def available(self) -> float:
        """Bytes that may be used: a CPU's memory, or a GPU's without CUDA's own and fragmentation."""
        if self.machine.gpu_memory_gb is not None:
            return usable_bytes(self.machine.gpu_memory_gb)
        return GIB * (self.machine.memory_gb or math.inf)  # 0: the size is not known

    @property
    def fits(self) -> bool:
        """Whether the peak is available."""
        return self.peak <= self.available

    @property
    def fitting_gpus(self) -> list[str]:
        """Those that one can rent on which this fits as it is."""
        return [name for name, memory in rentable_gpus().items() if self.peak <= usable_bytes(memory)]

    @property
    def tokens_per_second(self) -> float | None:
        """Padding included: it is computed as well."""
        job = self.training
        tokens = job.batch_size * job.length * job.fill * job.accumulation
        return None if self.seconds is None else tokens / self.seconds

    @property
    def hours(self) -> float | None:
        """Of all steps."""
        steps = self.training.steps
        return None if self.seconds is None or steps is None else steps * self.seconds / 3600

    @property
    def hourly_cost(self) -> float | None:
        """US dollars for an hour of this GPU; None where the table has none."""
        return by_gpu_name("hourly_cost", self.machine.device_name)

    def rows(self) -> list[tuple[str, str]]:
        """The forecast in words, as (name, value): memory, its verdict, time and cost."""
        rows = [
            ("model", f"{self.training.model}, {self.n_parameters:,} parameters"),
            ("trainable", f"{self.n_trainable:,}"),
        ]
        rows += [(name, format_bytes(size)) for name, size in self.memory.items()]
        verdict = "fits" if self.fits else "DOES NOT FIT"
        rows.append(
            ("peak memory", f"{format_bytes(self.peak)} of {format_bytes(self.available)}, {verdict}")
        )
        if self.seconds is None:
            return [*rows, ("time", "unknown: no data sheet for this machine")]
        rows.append(("tokens per second", f"{self.tokens_per_second:,.0f}"))
        if self.hours is None:
            return [*rows, ("time", f"{self.seconds:.3g} seconds a step; the steps depend on the data")]
        # Minutes: a tiny recipe takes one, a large one hundreds.
        rows.append(("time", f"{60 * self.hours:,.1f} minutes of training, {self.training.steps:,} steps"))
        if self.hourly_cost is not None:
            cost = f"${self.hourly_cost * self.hours:.2f} at ${self.hourly_cost:.2f} an hour"
            rows.append(("cost", cost))
        return rows


def usable_bytes(gpu_gib: float) -> float:
    """Of a GPU's memory, what tensors may take."""
    return GIB * (gpu_gib - CUDA_GIB) * (1 - FRAGMENTATION)


def format_bytes(size: float) -> str:
    """In MiB below a tenth of a GiB, else in GiB."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.2f} MiB"


def forecast(training: Training, machine: Machine) -> Forecast:
    """Builds the model on the meta device and traces one step of it.

    Args:
        training: From ``trainings``.
        machine: ``describe_machine()``, or ``hardware.gpu("T4")``.
    """
    from lmlab.models.gpt import GPT
    from lmlab.training.memory import estimate_step

    model = _meta_model(training, machine)
    n_parameters = sum(p.numel() for p in model.parameters())
    n_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if isinstance(model, GPT):
        n_parameters = n_trainable = model.num_parameters()  # without the vocabulary's padding
    step = estimate_step(
        model,
        training.batch_size,
        training.length,
        dtype=machine.dtype,
        accumulation=training.accumulation,
        checkpointing=training.checkpointing,
        chunked=training.chunked,
        padded=training.padded,
        flash=machine.bf16,
        cpu=machine.device != "cuda",
    )
    states = model_states(model, training.optimizer)
    learning = {"gradients": step.gradients, "activations": step.activations, "logits": step.logits}
    # Generating and learning take turns, so the larger of the two decides.
    cache = kv_cache_bytes(training, machine)
    larger = learning if cache <= sum(learning.values()) else {"KV cache": cache}
    return Forecast(
        training,
        machine,
        n_parameters,
        n_trainable,
        memory=states | larger,
        model_states=states,
        seconds=_step_seconds(training, machine, step, states["weights"]),
    )


def _meta_model(training: Training, machine: Machine):
    from lmlab.models.parameters import freeze_layers
    from lmlab.training.memory import in_four_bits, model_on_meta, with_adapter

    if training.lora is None:
        model = model_on_meta(training.config)
        if training.frozen_layers:
            freeze_layers(model, training.frozen_layers)
        return model
    base = model_on_meta(training.config, machine.torch_dtype)  # what stays out of 4 bits: embeddings, norms
    frozen = in_four_bits(base) if training.four_bit else base.requires_grad_(False)
    return with_adapter(frozen, **training.lora)


def kv_cache_bytes(training: Training, machine: Machine) -> int:
    """Bytes of the KV cache of all answers that are generated at once, at their full length."""
    if not training.rollouts:
        return 0
    config = training.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    elements = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim  # of one token
    return training.rollouts * training.length * elements * machine.torch_dtype.itemsize


def model_states(model: "nn.Module", optimizer: str) -> dict[str, int]:
    """Bytes that stay from step to step: weights, adapter (if any), optimizer.

    Args:
        model: On the meta device.
        optimizer: "adamw_torch", "adamw_8bit", "paged_adamw_8bit" or "adafactor".
    """
    from torch import nn

    from lmlab.training.memory import FourBitLinear

    # By identity: a tied head is the embedding itself, and parameters() lists it once.
    packed, embeddings = {}, set()
    for module in model.modules():
        if isinstance(module, FourBitLinear):
            packed[id(module.weight)] = four_bit_bytes(module.weight.numel())
        if isinstance(module, nn.Embedding):
            embeddings.add(id(module.weight))
    trainable = [p for p in model.parameters() if p.requires_grad]
    frozen_bytes = sum(packed.get(id(p), p.nbytes) for p in model.parameters() if not p.requires_grad)
    trainable_bytes = sum(p.nbytes for p in trainable)
    if optimizer == "adafactor":
        state = adafactor_bytes([p.shape for p in trainable])
    else:
        state = adam_bytes([(p.numel(), id(p) in embeddings) for p in trainable], optimizer)
    if hasattr(model, "peft_config"):
        return {"weights": frozen_bytes, "adapter": trainable_bytes, "optimizer": state}
    return {"weights": frozen_bytes + trainable_bytes, "optimizer": state}


def _step_seconds(training: Training, machine: Machine, step, weight_bytes: int) -> float | None:
    """Seconds of one optimizer step; None where the machine's speed is not known.

    A GPU computes while Python calls, so the longer of the two counts; on a CPU they add up. Answers are
    generated token by token: each is a forward pass that reads all weights.
    """
    if machine.device == "cpu":
        combine, speed, bandwidth = sum, CPU_UTILIZATION * _cpu_speed(), math.inf
    else:
        peak = by_gpu_name("tflops", machine.device_name)
        if peak is None:
            return None
        combine, speed = max, 1e12 * peak * UTILIZATION[training.method]
        bandwidth = 1e9 * (by_gpu_name("bandwidth", machine.device_name) or OTHER_BANDWIDTH)
    calls = CALL_SECONDS * step.operations
    learning = training.accumulation * combine((calls, training.fill * step.flops / speed))
    # A step's work in forward passes: the backward pass is two, recomputed activations are one more.
    passes = 4 if training.checkpointing else 3
    flops_per_token = step.flops / passes / (training.batch_size * training.length)
    forward = max(flops_per_token * training.rollouts / speed, weight_bytes / bandwidth)
    # Without generation there are no new tokens.
    return learning + training.new_tokens * combine((calls / passes, forward))


_cpu_speed = functools.cache(product_speed)
