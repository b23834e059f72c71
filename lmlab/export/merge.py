"""Merging a LoRA adapter into its base, in memory or streamed tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import safe_open

from lmlab.export.weight_files import HEAD, INDEX, layout_of, n_bytes, weight_files, write_safetensors
from lmlab.files import check_replaceable, replace_folder, require_disk_space
from lmlab.models.adapters import IN_MEMORY, UNTIE, check_loadable, check_mergeable, read_adapter_config
from lmlab.models.chat_template import stop_token_ids
from lmlab.models.quantization import four_bit_config, load_four_bit
from lmlab.models.sources import load_model, model_source, refuse_remote_code

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from lmlab.hardware import Machine

# 4-bit: multiply out inside the 4-bit weights, which are then rounded to 4 bits again; 16-bit: add to the
# original weights, which the adapter never saw in training; dequantized: unpack first, then add: what it was
# trained on
MERGE_STRATEGIES = ("4-bit base", "16-bit base", "dequantized base")
STREAMED = ("dequantized base", "16-bit base")
MERGED_MARK = ".lmlab-merge"  # an empty file in a folder that a merge wrote
TOKENIZER_BYTES = 2**26  # what stands beside the weights: a tokenizer of 128,000 tokens takes 17 MB


# --- in memory -------------------------------------------------------------------------------------


def adapter_base(adapter: str | Path) -> str:
    """The source of the base that an adapter folder names, such as "miniworld/llama" or a hub id."""
    config = read_adapter_config(adapter)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not base:
        raise ValueError(f"{adapter} got no base_model_name_or_path; write it into adapter_config.json")
    if revision not in (None, "main"):
        # without this the newest weights would be merged, without a word
        raise ValueError(f"{adapter} got revision {revision!r} of {base}; download it, and name its folder")
    return base


def load_adapted(adapter: str | Path, strategy: str, machine: Machine, base: str | None = None) -> PeftModel:
    """A ``PeftModel`` in eval mode: base and adapter side by side. Its ``merge_and_unload()`` merges in
    memory.

    Off the 4-bit base weights and adapter are float32: the sums are exact, and rounding to 16 bits can be
    measured by itself. On it, the layers that are not in 4 bits have the machine's dtype.

    Args:
        adapter: Its folder.
        strategy: One of ``MERGE_STRATEGIES``: what the base is.
        machine: A ``hardware.Machine``.
        base: The base's source; by default what the adapter names.

    Raises:
        ValueError: The adapter was trained beside other weights (see ``check_loadable``).
    """
    from peft import PeftModel

    if strategy not in MERGE_STRATEGIES:
        raise ValueError(f"strategy got {strategy!r}; give one of {', '.join(MERGE_STRATEGIES)}")
    check_loadable(adapter, strategy)
    base = base or adapter_base(adapter)
    model = load_model(base) if strategy == "16-bit base" else load_four_bit(base, machine)
    if strategy == "dequantized base":
        model = model.dequantize().to(torch.float32)
    if strategy != "4-bit base" and machine.device != "cpu":
        model.to(machine.device)
    with refuse_remote_code(adapter):
        return PeftModel.from_pretrained(model, str(adapter)).eval()


# --- the base's files ------------------------------------------------------------------------------


def base_folder(source: str) -> Path:
    """The folder with the files of a base; a hub's is fetched first, without weights in other formats."""
    path = Path(model_source(source))
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))


def base_dtype(source: str) -> torch.dtype:
    """The torch dtype in which a base is published: what a merged model should be saved in."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(model_source(source)).dtype
    # a base published in float32 is saved in half of that, as models of today are
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float16


def merged_bytes(source: str, dtype: torch.dtype | None = None) -> int:
    """Bytes that the weights of a base take in ``dtype``, by default that in which it is published."""
    dtype = dtype or base_dtype(source)
    return sum(n_bytes(layout_of(file, dtype)) for file in weight_files(base_folder(source)))


# --- streamed --------------------------------------------------------------------------------------


class Merged(NamedTuple):
    """A folder that was written, and what is in it."""

    folder: Path
    n_tensors: int
    n_changed: int  # to which the adapter was added
    n_bytes: int  # of the weights


@dataclass
class _Merge:
    """What every tensor of a merge is made by."""

    deltas: Mapping  # tensor name -> peft's layer with A and B
    four_bit: set[str]  # names of the matrices that go through 4 bits and back
    strategy: str
    machine: Machine
    dtype: torch.dtype

    def tensors(self, file: Path, names: Mapping) -> Iterator[torch.Tensor]:
        """The merged tensors of one of the base's files, in the order of ``names``."""
        for name in names:
            # opened anew for each: all pages of a map that were read count as memory
            with safe_open(file, "pt") as tensors:
                tensor = tensors.get_tensor(name)
            yield self._merged(name, tensor) if tensor.is_floating_point() else tensor

    def _merged(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name in self.four_bit:
            tensor = quantize_dequantize(tensor, self.machine)
        elif self.strategy == "dequantized base":
            tensor = tensor.to(self.machine.torch_dtype)  # as it was beside the 4-bit weights
        if name in self.deltas:
            tensor = tensor.float() + self.deltas[name].get_delta_weight("default")
        tensor = tensor.to(self.dtype)  # the one rounding of the merge
        if not torch.stack(tensor.aminmax()).isfinite().all():
            raise ValueError(f"{name} got a number that {self.dtype} cannot hold; give torch.bfloat16")
        return tensor


def merge_to_folder(
    adapter: str | Path,
    folder: str | Path,
    strategy: str,
    machine: Machine,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype | None = None,
    base: str | None = None,
) -> Merged:
    """Merges an adapter into its base and saves that: weights, config and tokenizer in the hub's layout.

    No model is built. Each tensor is read from the base's safetensors files, changed, rounded to ``dtype``
    and written before the next one is read; the files are cut as the base's are.

    Args:
        adapter: Its folder.
        folder: Where to write. It appears when it is complete; an older merge of that name is kept until
            then.
        strategy: "dequantized base" sends every matrix that the 4-bit base has in 4 bits through bitsandbytes
            and back, on the machine's device; "16-bit base" takes it as published.
        machine: A ``hardware.Machine``.
        tokenizer: What is saved beside the model.
        dtype: Of the saved weights; by default that in which the base is published.
        base: The base's source; by default what the adapter names.

    Raises:
        ValueError: A base or an adapter of another kind; an adapter whose own forward pass is another than
            that of W + scale * B A (see ``lmlab.models.adapters``); a tokenizer with more tokens than the
            base has embeddings; a folder that holds something else; a number that ``dtype`` cannot hold; too
            little space on the disk.
    """
    if strategy not in STREAMED:
        raise ValueError(f"strategy got {strategy!r}; give one of {', '.join(STREAMED)}: see lesson 07")
    base = base or adapter_base(adapter)
    check_mergeable(adapter)
    dtype = dtype or base_dtype(base)
    path, folder = base_folder(base), Path(folder)
    if folder.resolve() == path.resolve():
        raise ValueError(f"folder got {folder}, which is the base; give another one")
    layouts = {file: layout_of(file, dtype) for file in weight_files(path)}
    shapes = {name: entry["shape"] for layout in layouts.values() for name, entry in layout.items()}
    model = _adapted_outline(adapter, path)
    deltas = _deltas(model, adapter, base, shapes)
    n_rows, n_tokens = model.get_input_embeddings().weight.shape[0], 1 + max(tokenizer.get_vocab().values())
    if n_tokens > n_rows:
        raise ValueError(
            f"the tokenizer got {n_tokens:,} tokens, and the base {n_rows:,} rows of embeddings; give the "
            "base's own tokenizer, or train on a base with model.resize_token_embeddings(len(tokenizer))"
        )
    four_bit = _four_bit_names(model) if strategy == "dequantized base" else set()
    merge = _Merge(deltas, four_bit, strategy, machine, dtype)
    total_bytes = sum(n_bytes(layout) for layout in layouts.values())
    require_disk_space(folder, total_bytes + TOKENIZER_BYTES)
    # a folder that is in the way is replaced only where a merge wrote it
    with replace_folder(folder, partial(check_replaceable, ours=(MERGED_MARK,))) as new:
        (new / MERGED_MARK).touch()
        _save_config(path, new, dtype, tokenizer, untied=HEAD in shapes)
        tokenizer.save_pretrained(new)
        for file, layout in layouts.items():
            write_safetensors(new / file.name, layout, merge.tensors(file, layout))
        _save_index(path, new, total_bytes)
    return Merged(folder, len(shapes), len(deltas), total_bytes)


def _adapted_outline(adapter: str | Path, path: Path) -> PeftModel:
    """A PeftModel on meta, without memory: peft puts the adapter's A and B where they belong."""
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    if getattr(config, "quantization_config", None):
        raise ValueError(f"{path} got weights that are quantized already; give the base in 16 or 32 bits")
    with torch.device("meta"):
        lora = PeftConfig.from_pretrained(str(adapter))
        lora.base_model_name_or_path = None  # peft would warn that the base has another name here
        model = get_peft_model(AutoModelForCausalLM.from_config(config), lora)
    with refuse_remote_code(adapter):
        weights = load_peft_weights(str(adapter), device="cpu")
    factors = {}
    for name, tensor in weights.items():
        if not name.endswith((".lora_A.weight", ".lora_B.weight")):
            is_tied = config.tie_word_embeddings and ("embed_tokens" in name or "lm_head" in name)
            advice = UNTIE if is_tied else IN_MEMORY
            raise ValueError(f"{adapter} got {name}, more than plain LoRA on linear layers; {advice}")
        factors[name.replace(".weight", ".default.weight")] = tensor.float()
    missing, unexpected = model.load_state_dict(factors, strict=False, assign=True)
    # the base's own weights are not loaded, and stay on meta
    misfits = unexpected or [name for name in missing if "lora_" in name]
    if misfits:
        raise ValueError(f"{adapter} does not fit its config or base: {misfits[0]} is in one of them alone")
    return model.requires_grad_(False)


def _deltas(model: PeftModel, adapter: str | Path, base: str, shapes: Mapping) -> dict:
    """Tensor name -> the peft layer that changes it.

    Raises ValueError for what the base's files do not hold.
    """
    from peft.tuners.lora import LoraLayer

    deltas = {}
    for module_name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = f"{module_name.removeprefix('base_model.model.')}.weight"
        if layer.fan_in_fan_out:
            raise ValueError(f"{name} is stored as (n_in, n_out), as in GPT-2; {IN_MEMORY}")
        if name not in shapes:
            advice = UNTIE if name == HEAD else "give the base that it was trained on"
            raise ValueError(f"{adapter} got {name}, for which {base} has no tensor; {advice}")
        deltas[name] = layer
    return deltas


def _four_bit_names(model: PeftModel) -> set[str]:
    """The tensors that bitsandbytes has in 4 bits: matrices of all linear layers but the head."""
    names = set()
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name:
            names.add(f"{name.removesuffix('.base_layer')}.weight")
    return names - {HEAD}


def quantize_dequantize(weight: torch.Tensor, machine: Machine) -> torch.Tensor:
    """A matrix as the 4-bit base computes with it: NF4 and back, in the machine's dtype and on its device."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    config = four_bit_config(machine)
    packed, state = quantize_4bit(
        weight.to(machine.device, machine.torch_dtype),
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
    )
    return dequantize_4bit(packed, state).cpu()


# --- files -----------------------------------------------------------------------------------------


def _save_config(path: Path, folder: Path, dtype: torch.dtype, tokenizer, untied: bool) -> None:
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
    generation = {"eos_token_id": config.eos_token_id}
    if file.is_file():
        # as JSON, since transformers refuses to save again what some models are published with
        generation |= json.loads(file.read_text(encoding="utf-8"))
    published = SimpleNamespace(eos_token_id=generation["eos_token_id"])
    generation["eos_token_id"] = stop_token_ids(SimpleNamespace(generation_config=published), tokenizer)
    (folder / file.name).write_text(json.dumps(generation, indent=2), encoding="utf-8")


def _save_index(path: Path, folder: Path, total_bytes: int) -> None:
    """The index of a sharded model: which tensor is in which file, and the bytes of all."""
    if (folder / "model.safetensors").is_file():
        return
    index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    index["metadata"] = {"total_size": total_bytes}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
