"""The safetensors files of a model folder: which they are, what they hold, writing them by tensor."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

INDEX, HEAD = "model.safetensors.index.json", "lm_head.weight"
# safetensors' names of dtypes, and bytes of an element
_N_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
_DTYPE_NAMES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder; as in transformers, a single file comes before shards."""
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if not (path / INDEX).is_file():
        raise ValueError(f"{path} holds neither model.safetensors nor {INDEX}; give a model that does")
    # tensor -> file, in the order of the layers
    names = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    return [path / name for name in dict.fromkeys(names)]


def stored_tensors(folder: Path) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    """(file, name, shape) of each tensor of a model folder. Reads the headers of the files alone."""
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no mapping
                yield file, name, tuple(tensors.get_slice(name).get_shape())


def layout_of(file: Path, dtype: torch.dtype) -> dict[str, dict]:
    """name -> {"dtype", "shape"} of each tensor as it will be written; integers keep their dtype."""
    layout = {}
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118, it is no mapping
            tensor = tensors.get_slice(name)
            is_float = "F" in tensor.get_dtype()
            dtype_name = _DTYPE_NAMES[str(dtype)] if is_float else tensor.get_dtype()
            layout[name] = {"dtype": dtype_name, "shape": tensor.get_shape()}
    return layout


def n_bytes(layout: Mapping[str, Mapping]) -> int:
    """Bytes of the tensors of a layout (``layout_of``)."""
    return sum(math.prod(entry["shape"]) * _N_BYTES[entry["dtype"]] for entry in layout.values())


def write_safetensors(path: Path, layout: Mapping[str, Mapping], tensors: Iterator[torch.Tensor]) -> None:
    """Writes a safetensors file tensor by tensor; the library's own ``save_file`` wants all of them in
    memory.

    The format: the header's length in 8 bytes, the header as JSON, the elements of all tensors end to end.
    Source: huggingface.co/docs/safetensors.

    Args:
        path: The file.
        layout: name -> {"dtype": as safetensors names it, "shape"} of each tensor.
        tensors: The tensors in the order of ``layout``.
    """
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, entry in layout.items():
        begin, end = end, end + n_bytes({name: entry})
        header[name] = {**entry, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the elements begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
