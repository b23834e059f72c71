"""Which parameters train, how much memory they and the frozen ones take, and a hash of the frozen ones."""

import hashlib
from typing import TYPE_CHECKING

from lmlab.models.quantization import _constants

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer


def freeze_layers(model: "Module", n: int) -> int:
    """Freezes embeddings and the first ``n`` blocks of a GPT-2; 0: nothing. Returns the trainable parameters.

    The output head is the token embedding, so it is frozen with it. Raises ValueError for all blocks or more.
    """
    blocks = model.transformer.h
    # all frozen would leave nothing to train but the last norm
    if n >= len(blocks):
        raise ValueError(
            f"frozen_layers got {n}; give 0 to {len(blocks) - 1}, the model has {len(blocks)} blocks"
        )
    frozen = [model.transformer.wte, model.transformer.wpe, *blocks[:n]] if n else []
    for module in frozen:
        module.requires_grad_(False)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def trainable_to_float32(model: "Module") -> int:
    """Casts the trainable parameters to float32 and returns how many tensors were not.

    TRL casts them to bfloat16 whenever the base is in 4 bits: Adam's small updates are then rounded away, and
    on a GPU without bfloat16 the gradient scaler fails. Call it after SFTTrainer is built, before training.
    """
    import torch

    # in place, for the optimizer that is made later holds these tensors
    low = [p for p in model.parameters() if p.requires_grad and p.dtype != torch.float32]
    for parameter in low:
        parameter.data = parameter.data.float()
    return len(low)


def trainable_names(model: "Module") -> list[str]:
    """The names of the trainable parameters."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def frozen_parameters_hash(model: "Module") -> str:
    """SHA-256 over the bytes of all frozen parameters, packed 4-bit weights and their scales among them."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            # bytes, not values: a bit that flips in a NaN or a packed weight counts, too
            for tensor in (parameter.data, *_constants(getattr(parameter, "quant_state", None))):
                digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def weight_bytes(model: "Module") -> dict[str, int]:
    """Bytes of a model's weights, counted from its tensors.

    four_bit: packed 4-bit weights; constants: their scales; other: weights that are not quantized; trainable:
    the trainable parameters (the adapter); float16: what all weights but the trainable ones would take in 16
    bits. Tied tensors count once.
    """
    import bitsandbytes

    sizes = dict.fromkeys(("four_bit", "constants", "other", "trainable", "float16"), 0)
    for parameter in model.parameters():
        n_bytes = parameter.nbytes
        if isinstance(parameter, bitsandbytes.nn.Params4bit):
            sizes["four_bit"] += n_bytes
            sizes["constants"] += sum(t.nbytes for t in _constants(parameter.quant_state))
            # two weights are in a byte, so the tensor's own shape says too little
            sizes["float16"] += 2 * parameter.quant_state.shape.numel()
        elif parameter.requires_grad:
            sizes["trainable"] += n_bytes
        else:
            sizes["other"] += n_bytes
            sizes["float16"] += 2 * parameter.numel()
    return sizes


def optimizer_bytes(optimizer: "Optimizer") -> int:
    """Bytes of an optimizer's state, such as Adam's two moments, counted from its tensors."""
    import torch

    n_bytes = 0
    for state in optimizer.state.values():
        for value in state.values():
            # a step count may be a plain number
            if torch.is_tensor(value):
                n_bytes += value.nbytes
    return n_bytes
