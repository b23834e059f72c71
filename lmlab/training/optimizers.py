"""Which optimizer of bitsandbytes or torch a recipe gets on a machine."""

import logging

from lmlab.hardware import Machine

logger = logging.getLogger(__name__)


def optimizer_name(name: str, machine: Machine) -> str:
    """What TrainingArguments calls an optimizer of a recipe.

    Args:
        name: "adamw_torch", or "adamw_8bit", whose two moments take one byte each per parameter (Dettmers et
            al.
            2022, https://arxiv.org/abs/2110.02861).
        machine: As ``describe_machine`` has it.

    Raises:
        ValueError: adamw_8bit without a CUDA GPU.
    """
    if name == "adamw_8bit" and machine.device != "cuda":
        raise ValueError(
            f"optimizer adamw_8bit got device {machine.device!r}; it needs a CUDA GPU: give adamw_torch"
        )
    # fused: one kernel for all parameters instead of several for each
    return {"adamw_torch": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}[name]


def qlora_optimizer(machine: Machine) -> str:
    """QLoRA's optimizer: 8-bit AdamW, whose moments are paged out of a full GPU; elsewhere plain AdamW.

    Source: Dettmers et al. 2023, section 3 (https://arxiv.org/abs/2305.14314).
    """
    # bitsandbytes' paged memory is CUDA's unified memory
    if machine.device == "cuda":
        return "paged_adamw_8bit"
    logger.info("adamw_torch_fused: 8-bit AdamW needs a CUDA GPU, and this is %s", machine.device)
    return "adamw_torch_fused"
