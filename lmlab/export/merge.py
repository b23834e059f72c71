"""Merging a LoRA adapter into its base, in memory or streamed tensor by tensor."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from lmlab.export.folders import whole_folder
from lmlab.export.verify import ROWS
from lmlab.models.adapters import IN_MEMORY, UNTIE, check_loadable, check_mergeable, read_adapter_config
from lmlab.models.chat_template import stop_token_ids
from lmlab.models.sources import refuse_remote_code

MERGE_STRATEGIES = {
    "4-bit base": "multiply out inside the 4-bit weights, which are then rounded to 4 bits again",
    "16-bit base": "add to the original weights, which the adapter never saw in training",
    "dequantized base": "unpack the 4-bit weights first, then add: what the adapter was trained on",
}
STREAMED = ("dequantized base", "16-bit base")
INDEX, HEAD = "model.safetensors.index.json", "lm_head.weight"


def adapter_base(adapter: str | Path) -> str:
    """The source of the base that an adapter folder names, such as "miniworld/llama" or a hub id."""
    config = read_adapter_config(adapter)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not base:
        raise ValueError(
            f"{adapter} got no base_model_name_or_path in adapter_config.json; write the base's name there"
        )
    if revision not in (None, "main"):
        raise ValueError(
            f"{adapter} got revision {revision!r} of {base}; fetch that (hf download {base} "
            f"--revision {revision} --local-dir FOLDER), and write FOLDER there as the base's "
            "name, without a revision"
        )
    return base


def load_adapted(adapter: str | Path, way: str, machine, base: str | None = None):
    """A ``PeftModel`` in eval mode: the base in one of the ``MERGE_STRATEGIES``, with the adapter beside it, not merged yet.

    base: the base's source, by default what the adapter names. Off the 4-bit base weights and adapter are
    float32: the sums are exact, and rounding to 16 bits can be measured by itself. On it, the layers that are
    not in 4 bits have the machine's dtype.
    ``merge_and_unload()`` of the result merges in memory. Raises ValueError for an adapter that was trained
    beside other weights (see ``check_loadable``).
    """
    import torch
    from peft import PeftModel

    from lmlab.models.quantization import load_four_bit
    from lmlab.models.sources import load_model

    if way not in MERGE_STRATEGIES:
        raise ValueError(f"way of merging got {way!r}; give one of {', '.join(MERGE_STRATEGIES)}")
    check_loadable(adapter, way)
    base = base or adapter_base(adapter)
    model = load_model(base) if way == "16-bit base" else load_four_bit(base, machine)
    if way == "dequantized base":
        model = model.dequantize()
        model = model.to(torch.float32)
    if way != "4-bit base" and machine.device != "cpu":
        model.to(machine.device)
    with refuse_remote_code(adapter):
        return PeftModel.from_pretrained(model, str(adapter)).eval()


class Merged(NamedTuple):
    """A folder that was written, and what is in it."""

    folder: Path
    n_tensors: int
    n_changed: int  # to which the adapter was added
    n_bytes: int  # of the weights


def merge_to_folder(
    adapter: str | Path, folder: str | Path, way: str, machine, tokenizer, dtype=None, base: str | None = None
) -> Merged:
    """Merges an adapter into its base and saves that: weights, config and tokenizer in the hub's layout.

    No model is built. Each tensor is read from the base's safetensors files, changed, rounded to ``dtype`` (by
    default that in which the base is published) and written before the next one is read; the files are cut
    as the base's are. way: "dequantized base" sends every matrix that the 4-bit base has in 4 bits through
    bitsandbytes and back, on the machine's device; "16-bit base" takes it as published.
    The disk is asked first, and ``folder`` appears when it is whole (see ``whole_folder``).

    Raises:
        ValueError: for a base or an adapter of another kind; where the adapter's own forward pass is another
            than that of W + scale * B A (see ``lmlab.models.adapters``); for a tokenizer with more tokens than the base
            has embeddings; for a folder that is not a merge's; for a number that ``dtype`` cannot hold.
    """
    if way not in STREAMED:
        raise ValueError(
            f"way of merging got {way!r}; give one of {', '.join(STREAMED)}: 4-bit weights that are "
            "rounded again are worse than both, see lesson 07"
        )
    base = base or adapter_base(adapter)
    check_mergeable(adapter)
    dtype = dtype or base_dtype(base)
    path = base_folder(base)
    if Path(folder).resolve() in (path.resolve(), Path(adapter).resolve()):
        raise ValueError(f"folder got {folder}, which is what is merged; give another one")
    deltas, four_bit, embeddings, head = _outline(adapter, path)
    layouts = {file: _layout(file, dtype) for file in weight_files(path)}
    shapes = {name: entry["shape"] for layout in layouts.values() for name, entry in layout.items()}
    _check_shapes(deltas, shapes, base, head)
    _check_vocabulary(adapter, tokenizer, shapes[embeddings][0])
    n_bytes = sum(_n_bytes(entry) for layout in layouts.values() for entry in layout.values())
    through_four_bit = four_bit if way == "dequantized base" else set()
    with whole_folder(folder, n_bytes) as partial:
        _save_config(path, partial, dtype, tokenizer, untied=head in deltas or own_head(path))
        tokenizer.save_pretrained(partial)
        for file, layout in layouts.items():
            write_safetensors(
                partial / file.name,
                layout,
                _merged_tensors(file, layout, deltas, through_four_bit, machine, way, dtype),
            )
        _save_index(path, partial, n_bytes)
    return Merged(Path(folder), len(shapes), len(deltas), n_bytes)


def base_folder(source: str) -> Path:
    """The folder with the files of a base; a hub's is fetched first, without weights in other formats."""
    from lmlab.models.sources import model_source

    path = Path(model_source(source))
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))


def base_dtype(source: str):
    """The torch dtype in which a base is published: what a merged model should be saved in."""
    import torch
    from transformers import AutoConfig

    from lmlab.models.sources import model_source

    dtype = AutoConfig.from_pretrained(model_source(source)).dtype
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float16


def merged_bytes(source: str, dtype=None) -> int:
    """Bytes that the weights of a base take in ``dtype``, by default that in which it is published."""
    dtype = dtype or base_dtype(source)
    return sum(
        _n_bytes(entry)
        for file in weight_files(base_folder(source))
        for entry in _layout(file, dtype).values()
    )


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model folder; as in transformers, a file in one piece comes before shards."""
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if not (path / INDEX).is_file():
        raise ValueError(
            f"{path} holds neither model.safetensors nor {INDEX}; give a model with safetensors weights"
        )
    names = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    return [path / name for name in dict.fromkeys(names)]


def own_head(path: Path) -> bool:
    """Whether the files of a Llama, Qwen2 or GPT-2 hold an output head that is not its embeddings.

    The tensors decide, not tie_word_embeddings in config.json: transformers ties the two only where a file has
    one of them, or both are equal. Other programs, and its older versions, believe the config and drop the head.
    """
    from safetensors import safe_open

    files = {}
    for file in weight_files(path):
        with safe_open(file, "pt") as tensors:
            files |= dict.fromkeys(tensors.keys(), file)
    embeddings = next((name for name in files if name.endswith(("embed_tokens.weight", "wte.weight"))), None)
    if embeddings is None or HEAD not in files:
        return False
    with safe_open(files[embeddings], "pt") as one, safe_open(files[HEAD], "pt") as other:
        one, other = one.get_slice(embeddings), other.get_slice(HEAD)
        if one.get_shape() != other.get_shape():
            return True
        return any(
            bool((one[i : i + ROWS].float() != other[i : i + ROWS].float()).any())
            for i in range(0, one.get_shape()[0], ROWS)
        )


class _Outline(NamedTuple):
    """What the layers of a model with its adapter are."""

    deltas: Mapping[str, object]  # tensor name -> peft's layer with A and B
    four_bit: set[str]  # names of the matrices that the 4-bit base has in 4 bits
    embeddings: str  # tensor names
    head: str


def _outline(adapter: str | Path, path: Path) -> _Outline:
    """Builds the model without memory, on meta; peft puts A and B where they belong and knows their scale."""
    import torch
    from peft import PeftConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    from peft.utils import load_peft_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    if getattr(config, "quantization_config", None):
        raise ValueError(f"{path} got weights that are quantized already; give the base in 16 or 32 bits")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        names = {module: f"{name}.weight" for name, module in model.named_modules()}
        head, embeddings = names[model.get_output_embeddings()], names[model.get_input_embeddings()]
        four_bit = {name for module, name in names.items() if isinstance(module, torch.nn.Linear)} - {head}
        lora = PeftConfig.from_pretrained(str(adapter))
        lora.base_model_name_or_path = None  # peft would warn that the base has another name here
        model = get_peft_model(model, lora)
    with refuse_remote_code(adapter):
        weights = load_peft_weights(str(adapter), device="cpu")
    weights = {name: tensor.float() for name, tensor in weights.items()}
    if odd := [name for name in weights if not name.endswith((".lora_A.weight", ".lora_B.weight"))]:
        both = config.tie_word_embeddings and any(
            name.removesuffix(".weight") in odd[0] for name in (embeddings, head)
        )
        raise ValueError(
            f"{adapter} got {odd[0]}, more than plain LoRA on linear layers; {UNTIE if both else IN_MEMORY}"
        )
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, layer in layers.items():
        for side, part in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            factor = weights.pop(f"{name}.{side}.weight", None)
            if factor is None:
                raise ValueError(f"{adapter} got no {side} of {name}, which its config names; save it again")
            if factor.shape != part["default"].weight.shape:
                raise ValueError(
                    f"{adapter} got {side} of {name} in shape {tuple(factor.shape)}, and its "
                    f"config and the base ask for {tuple(part['default'].weight.shape)}; check "
                    "r, and the base"
                )
            part["default"].weight = torch.nn.Parameter(factor, requires_grad=False)
        if layer.fan_in_fan_out:
            raise ValueError(
                f"{name} got its matrix the other way round, as GPT-2 has it; merge it in memory, "
                "by peft's merge_and_unload"
            )
    if weights:
        raise ValueError(
            f"{adapter} got {next(iter(weights))}, for which the base has no layer; give the "
            "base that it was trained on"
        )
    deltas = {f"{name.removeprefix('base_model.model.')}.weight": layer for name, layer in layers.items()}
    return _Outline(deltas, four_bit, embeddings, head)


def _check_shapes(deltas: Mapping, shapes: Mapping[str, Sequence[int]], base: str, head: str) -> None:
    """Raises ValueError where the base's files lack what the adapter changes, or have it in another shape."""
    missing = sorted(deltas.keys() - shapes.keys())
    if head in missing:
        raise ValueError(f"the adapter got {head}, for which {base} has no tensor; {UNTIE}")
    if missing:
        raise ValueError(
            f"the adapter got layers that {base} has no tensors for, such as {missing[0]}; give "
            "the base that it was trained on"
        )
    for name, layer in deltas.items():
        wanted = [layer.out_features, layer.in_features]
        if list(shapes[name]) != wanted:
            raise ValueError(
                f"{base} got {name} in shape {shapes[name]}, and its config.json asks for "
                f"{wanted}; give files of one model"
            )


def _check_vocabulary(adapter: str | Path, tokenizer, n_rows: int) -> None:
    """Raises ValueError for more tokens than embeddings: in the tokenizer, or in that beside the adapter."""
    from transformers import AutoTokenizer

    tokenizers = {"the tokenizer": tokenizer}
    if (Path(adapter) / "tokenizer_config.json").is_file():
        tokenizers[f"the tokenizer in {adapter}"] = AutoTokenizer.from_pretrained(str(adapter))
    for which, one in tokenizers.items():
        n_tokens = 1 + max(one.get_vocab().values())
        if n_tokens > n_rows:
            raise ValueError(
                f"{which} got {n_tokens:,} tokens, and the base {n_rows:,} rows of embeddings: "
                "those of the added tokens are neither in the base nor in the adapter; give "
                "the base's own tokenizer, or train on a base with "
                "model.resize_token_embeddings(len(tokenizer))"
            )


def _layout(file: Path, dtype) -> dict[str, dict]:
    """name -> {"dtype", "shape"} of each tensor as it will be written; whole numbers keep their dtype."""
    from safetensors import safe_open

    code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[str(dtype).removeprefix("torch.")]
    with safe_open(file, "pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118, it is no mapping
        return {
            name: {"dtype": code if "F" in part.get_dtype() else part.get_dtype(), "shape": part.get_shape()}
            for name, part in slices.items()
        }


def _n_bytes(entry: Mapping) -> int:
    bits = {"BOOL": 8}.get(entry["dtype"]) or int("".join(filter(str.isdigit, entry["dtype"])))
    return math.prod(entry["shape"]) * bits // 8


def _merged_tensors(
    file: Path, layout: Mapping, deltas: Mapping, through_four_bit: set[str], machine, way: str, dtype
) -> Iterator:
    """The tensors of one file, in the order of ``layout``, each as it is to be written."""
    import torch
    from safetensors import safe_open

    for name in layout:
        with safe_open(file, "pt") as tensors:  # opened anew: a map counts all pages that were read as memory
            tensor = tensors.get_tensor(name)
        if tensor.is_floating_point():
            if name in through_four_bit:
                tensor = quantize_dequantize(tensor, machine)
            elif way == "dequantized base" and machine.torch_dtype != torch.float32:
                tensor = tensor.to(machine.torch_dtype)  # as it was beside the 4-bit weights
            if name in deltas:
                tensor = tensor.float() + deltas[name].get_delta_weight("default")
            tensor = tensor.to(dtype)
            if not all(map(torch.isfinite, tensor.aminmax())):
                raise ValueError(
                    f"{name} got a number that {dtype} cannot hold, or none at all; give "
                    "torch.bfloat16, which reaches as far as float32, and check the adapter"
                )
        yield tensor


def quantize_dequantize(weight, machine):
    """A matrix as the 4-bit base computes with it: NF4 and back, in the machine's dtype and on its device."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from lmlab.models.quantization import four_bit_config

    config = four_bit_config(machine)
    packed, state = quantize_4bit(
        weight.to(machine.device, machine.torch_dtype),
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
    )
    return dequantize_4bit(packed, state).cpu()


def write_safetensors(path: Path, layout: Mapping[str, Mapping], tensors: Iterator) -> None:
    """A safetensors file, tensor by tensor; the library's own ``save_file`` wants all of them in memory.

    The format: the header's length in 8 bytes, the header as JSON, the numbers of all tensors end to end.
    Source: huggingface.co/docs/safetensors.
    """
    import torch

    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, entry in layout.items():
        begin, end = end, end + _n_bytes(entry)
        header[name] = {**entry, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))


def _save_config(path: Path, folder: Path, dtype, tokenizer, untied: bool) -> None:
    """The base's config, and its generation config with every token at which the adapter's model stops.

    A base model's EOS is often not the token with which its chat template, and so fine-tuning, ends a turn.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    config.dtype = dtype
    if untied:
        config.tie_word_embeddings = False
    config.save_pretrained(folder)
    file = path / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    published = SimpleNamespace(
        config=SimpleNamespace(eos_token_id=generation.get("eos_token_id", config.eos_token_id))
    )
    generation["eos_token_id"] = stop_token_ids(published, tokenizer)
    (folder / file.name).write_text(json.dumps(generation, indent=2), encoding="utf-8")


def _save_index(path: Path, folder: Path, n_bytes: int) -> None:
    if not (folder / "model.safetensors").is_file():
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        index["metadata"] = {"total_size": n_bytes}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
