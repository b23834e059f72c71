"""Which optimizer of bitsandbytes or torch a recipe gets on a machine."""

import logging

from lmlab.hardware import Machine

logger = logging.getLogger(__name__)


def optimizer_name(name: str) -> str:
    """What TrainingArguments calls an optimizer of a recipe.

    Args:
        name: "adamw_torch"; "adamw_8bit", whose two moments take one byte each per parameter (Dettmers et al.
            2022, https://arxiv.org/abs/2110.02861); or "adafactor", which has no first moment, and of the
            second of a matrix the means of rows and columns (Shazeer and Stern 2018,
            https://arxiv.org/abs/1804.04235).
    """
    # fused: one kernel for all parameters instead of several for each
    names = {"adamw_torch": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit", "adafactor": "adafactor"}
    return names[name]


def qlora_optimizer(machine: Machine) -> str:
    """QLoRA's optimizer: 8-bit AdamW, whose moments are paged out of a full GPU; elsewhere plain AdamW.

    Source: Dettmers et al. 2023, section 3 (https://arxiv.org/abs/2305.14314).
    """
    # bitsandbytes' paged memory is CUDA's unified memory
    if machine.device == "cuda":
        return "paged_adamw_8bit"
    logger.info("adamw_torch_fused: 8-bit AdamW needs a CUDA GPU, and this is %s", machine.device)
    return "adamw_torch_fused"
