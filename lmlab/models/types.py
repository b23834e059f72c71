"""The libraries' types for annotations, without the seconds that importing torch and transformers takes.

A type checker sees the classes; where the code runs each is ``Any``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedTokenizerBase
else:
    Dataset = Module = PreTrainedTokenizerBase = Tensor = Any

__all__ = ["Dataset", "Module", "PreTrainedTokenizerBase", "Tensor"]
