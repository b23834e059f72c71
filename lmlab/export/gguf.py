"""A model folder as one GGUF file, which llama.cpp, Ollama and LM Studio read.

The format: ggml-org/ggml, docs/gguf.md. Weights are read, converted and written one tensor at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import gguf
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors import safe_open

from lmlab.export.generation_config import read_generation_config
from lmlab.export.gguf_metadata import add_config, add_stops, add_tokenizer, check_config
from lmlab.export.weight_files import HEAD, stored_tensors
from lmlab.files import replace_file, require_disk_space

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# in a block of 32 weights each is a small integer times one scale: the gguf package computes these with
# numpy. Kinds with larger blocks (the K-quants) are made by llama.cpp's own program, from a file in f16
QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q5_0", "q4_0")

ROWS = 8192  # of a matrix that are converted at a time


def check_quantization(name: str) -> None:
    """Raises ValueError for a quantization that is not known."""
    if name not in QUANTIZATIONS:
        raise ValueError(f"quantization got {name!r}; give one of {', '.join(QUANTIZATIONS)}")


def export_gguf(folder: str | Path, path: str | Path, quantization: str = "f16") -> Path:
    """Writes the GPT-2, Llama or Qwen2 in a transformers folder as a GGUF file.

    Args:
        folder: A plain model with its tokenizer, as ``save_pretrained`` writes it.
        path: The file. It is complete or absent: after a full disk or Ctrl-C there is none, or the older one.
        quantization: One of QUANTIZATIONS. Norms and biases stay float32, as do GPT-2's positional
            embeddings; below 8 bits the embeddings and the head are q8_0; rows that are no multiple of 32 are
            float16.

    Returns:
        The path.

    Raises:
        ValueError: The model cannot be written in this format, or the disk has too little space.
    """
    plan, path = _plan(Path(folder), quantization), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    require_disk_space(path.parent, plan.n_bytes)
    with replace_file(path) as partial:
        _write(plan, partial)
    return path


def gguf_bytes(folder: str | Path, quantization: str) -> int:
    """The size of the file, in bytes, to a few thousand. Reads no weights."""
    return _plan(Path(folder), quantization).n_bytes


def load_gguf(path: str | Path) -> PreTrainedModel:
    """The model in a GGUF file, its weights unpacked to float32 by transformers' own reader."""
    from transformers import AutoModelForCausalLM

    path = Path(path)
    # transformers shows a progress bar for each file, and has no switch for it
    with patch("transformers.modeling_gguf_pytorch_utils.tqdm", lambda tensors, **_: tensors):
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval()


# --- the plan --------------------------------------------------------------------------------------


@dataclass
class _Tensor:
    """One tensor as it is in the folder, and as it will be in the file."""

    file: Path | None  # None: computed, not stored
    source: str  # its name in there
    shape: tuple[int, ...]  # in the GGUF file, rows first, as numpy has it
    kind: GGMLQuantizationType

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """Its shape in bytes: the last dimension is what a row takes."""
        return gguf.quants.quant_shape_to_byte_shape(self.shape, self.kind)


@dataclass
class _Plan:
    config: PretrainedConfig
    tensors: Mapping[str, _Tensor]  # by their names in the GGUF file
    writer: gguf.GGUFWriter  # it has all metadata
    n_bytes: int  # of the file, about


def _plan(folder: Path, quantization: str) -> _Plan:
    """Everything but the weights, so that every mistake shows before the first byte is written."""
    from transformers import AutoConfig, AutoTokenizer

    check_quantization(quantization)
    config = AutoConfig.from_pretrained(str(folder))
    check_config(config)
    tensors = _tensors(folder, config, quantization)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    writer = gguf.GGUFWriter(None, config.model_type)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(folder.resolve().name)
    file_type = "ALL_F32" if quantization == "f32" else f"MOSTLY_{quantization.upper()}"
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_config(writer, config)
    n_bytes = add_tokenizer(writer, tokenizer, n_vocab=tensors["token_embd.weight"].shape[0])
    add_stops(writer, read_generation_config(folder), tokenizer)
    n_bytes += sum(math.prod(tensor.byte_shape) + 100 for tensor in tensors.values())
    return _Plan(config, tensors, writer, n_bytes)


def _tensors(folder: Path, config: PretrainedConfig, quantization: str) -> dict[str, _Tensor]:
    """The tensors of the file, in the order of the layers of which they are read."""
    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors = {}
    for file, source, shape in stored_tensors(folder):
        # old files hold masks and frequencies, which llama.cpp computes
        if source.endswith((".attn.bias", ".attn.masked_bias", ".inv_freq")):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"{file} holds {source}, which no plain {config.model_type} has; merge first")
        shape = shape[::-1] if _is_conv1d(source, config, shape) else shape
        tensors[name] = _Tensor(file, source, shape, _kind(name, shape, quantization))
    # without a head llama.cpp takes the embeddings, and transformers random numbers
    if "output.weight" not in tensors and not config.tie_word_embeddings:
        raise ValueError(f"{folder} got tie_word_embeddings false, and no {HEAD}; save the model again")
    if config.model_type == "llama" and config.rope_parameters["rope_type"] == "llama3":
        shape = (config.head_dim // 2,)
        tensors["rope_freqs.weight"] = _Tensor(None, "", shape, GGMLQuantizationType.F32)
    return tensors


def _is_conv1d(source: str, config: PretrainedConfig, shape: tuple[int, ...]) -> bool:
    """GPT-2 stores its projections as (n_in, n_out), all else is (n_out, n_in)."""
    return config.model_type == "gpt2" and len(shape) == 2 and "c_" in source


def _kind(name: str, shape: tuple[int, ...], quantization: str) -> GGMLQuantizationType:
    """The GGMLQuantizationType of a tensor."""
    if len(shape) == 1 or name == "position_embd.weight":
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[quantization.upper()]
    if name in ("token_embd.weight", "output.weight") and quantization.startswith(("q4", "q5")):
        # llama.cpp gives these 6 bits, to which the gguf package cannot quantize
        kind = GGMLQuantizationType.Q8_0
    block_size, _ = GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block_size == 0 else GGMLQuantizationType.F16


# --- writing ---------------------------------------------------------------------------------------


def _write(plan: _Plan, path: Path) -> None:
    # everything is known before the weights are read: the header names each tensor with its place
    writer = plan.writer
    for name, tensor in plan.tensors.items():
        n_bytes = math.prod(tensor.byte_shape)
        writer.add_tensor_info(name, tensor.byte_shape, np.dtype(np.uint8), n_bytes, raw_dtype=tensor.kind)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in plan.tensors.items():
            writer.write_tensor_data(_encoded(name, tensor, plan.config))
    finally:
        writer.close()


def _encoded(name: str, tensor: _Tensor, config: PretrainedConfig) -> np.ndarray:
    """The bytes of a tensor as the file holds them, a numpy array in its ``byte_shape``."""
    if tensor.file is None:
        return _rope_factors(config).view(np.uint8)
    with safe_open(tensor.file, framework="pt") as tensors:
        values = tensors.get_tensor(tensor.source)
    if _is_conv1d(tensor.source, config, values.shape):
        values = values.T
    if config.model_type == "llama" and ".attn_q." in name:
        values = _interleaved(values, config.num_attention_heads)
    if config.model_type == "llama" and ".attn_k." in name:
        values = _interleaved(values, config.num_key_value_heads)
    rows = values.reshape(-1, values.shape[-1])  # a bias or a norm is one row
    encoded = np.empty((len(rows), tensor.byte_shape[-1]), np.uint8)
    for start in range(0, len(rows), ROWS):  # float32 copies of some rows at a time
        encoded[start : start + ROWS] = _encoded_rows(rows[start : start + ROWS], tensor)
    return encoded.reshape(tensor.byte_shape)


def _encoded_rows(values: torch.Tensor, tensor: _Tensor) -> np.ndarray:
    values = values.to(torch.float32)
    largest = values.abs().max().item()
    limit = torch.finfo(torch.float16 if tensor.kind.name == "F16" else torch.float32).max
    if not largest <= limit:  # NaN too
        kind = tensor.kind.name.lower()
        raise ValueError(f"{tensor.source} goes up to {largest:g}, which {kind} cannot hold; take bf16")
    return gguf.quants.quantize(np.ascontiguousarray(values.numpy()), tensor.kind).view(np.uint8)


def _interleaved(values: torch.Tensor, n_head: int) -> torch.Tensor:
    """Rows of a projection in llama.cpp's order for a Llama, whose RoPE rotates neighbors (0, 1).

    transformers rotates (0, head_dim / 2). Qwen2 stays as it is: there llama.cpp rotates as transformers
    does.
    """
    halves = values.reshape(n_head, 2, values.shape[0] // n_head // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _rope_factors(config: PretrainedConfig) -> np.ndarray:
    """What each RoPE frequency is divided by in Llama 3.1 and later, (head_dim / 2,) float32."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    frequencies = config.rope_parameters["rope_theta"] ** -exponents
    return (frequencies / scaled).float().numpy()
