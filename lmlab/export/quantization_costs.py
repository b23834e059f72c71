"""What each quantization of a model takes on disk, and what it costs in loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

from lmlab.evaluation.statistics import Difference, paired_bootstrap
from lmlab.export.gguf import QUANTIZATIONS, export_gguf, n_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_gguf(path: str | Path) -> PreTrainedModel:
    """The model in a GGUF file, its weights unpacked to float32 by transformers' own reader."""
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(path)
    # transformers shows a progress bar for each file, and has no switch for it
    with patch("transformers.modeling_gguf_pytorch_utils.tqdm", lambda tensors, **_: tensors):
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval()


class QuantizationCost(NamedTuple):
    """One quantization of a model."""

    quantization: str
    megabytes: float  # of the file, 10^6 bytes
    bits_per_weight: float  # of the file as a whole
    loss: float  # nats per token
    loss_increase: Difference | None  # nats per token against the first one, with its interval

    @property
    def perplexity(self) -> float:
        """exp of the loss."""
        return math.exp(self.loss)


def quantization_costs(
    folder: str | Path,
    out: str | Path,
    measure: Callable[[Path], tuple[Sequence, Sequence]],
    quantizations: Sequence[str] = QUANTIZATIONS,
) -> list[QuantizationCost]:
    """Exports a model folder in each quantization and measures each file; the disk holds one at a time.

    Args:
        folder: A plain model with its tokenizer.
        out: Where the files are written, and removed again.
        measure: Takes a file's path; returns the nats and the number of tokens of each text, (n_texts,) each.
        quantizations: The first one is what the others are compared with, text by text.
    """
    costs = []
    first_nats = None
    for quantization in quantizations:
        path = export_gguf(folder, Path(out) / f"{Path(folder).name}-{quantization}.gguf", quantization)
        nats, counts = measure(path)
        n_bytes = path.stat().st_size
        increase = None
        if first_nats is None:
            first_nats = nats
        else:
            increase = paired_bootstrap(first_nats, nats, counts)
        bits_per_weight = 8 * n_bytes / n_weights(folder)
        costs.append(
            QuantizationCost(quantization, n_bytes / 1e6, bits_per_weight, sum(nats) / sum(counts), increase)
        )
        path.unlink()
    return costs
