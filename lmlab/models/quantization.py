"""4-bit weights (NF4, QLoRA; Dettmers et al. 2023), safe to train and to evaluate in turn."""

from typing import TYPE_CHECKING

from lmlab.hardware import Machine

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import BitsAndBytesConfig, PreTrainedModel


def four_bit_config(machine: Machine) -> "BitsAndBytesConfig":
    """The BitsAndBytesConfig of QLoRA: NF4, double quantization, matrices multiplied in the machine's dtype.

    Source: Dettmers et al. 2023, sections 2 and 3. Raises ValueError where the machine has no 4-bit kernels.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if not machine.four_bit:
        raise ValueError(
            f"4-bit weights got device {machine.device!r}, where bitsandbytes cannot compute; "
            "use a CPU or CUDA machine, and check that bitsandbytes is installed"
        )
    # the weights are stored in 4 bits and multiplied in 16 or 32: a layer unpacks them as it needs them
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, machine.compute_dtype),
    )


def load_four_bit(
    source: str, machine: Machine, config: "BitsAndBytesConfig | None" = None
) -> "PreTrainedModel":
    """The causal model of a source with its linear layers in 4 bits, safe to train and to evaluate in turn.

    config: a BitsAndBytesConfig, ``four_bit_config(machine)`` by default. What is not quantized (embeddings,
    norms) is in the machine's dtype.
    """
    import torch

    from lmlab.models.sources import load_model

    config = four_bit_config(machine) if config is None else config
    # of several GPUs, the one that this process has chosen
    place = {"device_map": {"": torch.cuda.current_device()}} if machine.device == "cuda" else {}
    model = load_model(source, quantization_config=config, dtype=machine.torch_dtype, **place)
    # before the first forward pass, which would repack
    disable_cpu_repacking(model)
    return model


def disable_cpu_repacking(model: "Module") -> None:
    """Stops bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    Its first forward pass without gradients rewrites the weights for a faster kernel. Training after that
    crashes or gets zero gradients, and dequantizing gives garbage (seen with bitsandbytes 0.50).
    """
    for layer in four_bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = False


def four_bit_layers(model: "Module") -> dict:
    """name -> bitsandbytes ``Linear4bit`` of every layer in 4 bits."""
    import bitsandbytes

    kind = bitsandbytes.nn.Linear4bit
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def _constants(state) -> list:
    """Scales of the blocks; with double quantization these are bytes with float32 scales and a mean.

    state None: not in 4 bits, none.
    """
    if state is None:
        return []
    # the code books (16 and 256 values, the same for every layer) are left out
    if state.nested:
        return [state.absmax, state.state2.absmax, state.offset]
    return [state.absmax]
