"""Merging an adapter into its base tensor by tensor, proving that the merge is right, and handing it on."""

import errno
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from lmlab.adapters import IN_MEMORY, UNTIE, check_loadable, check_mergeable, read_adapter_config
from lmlab.chat_template import stop_token_ids
from lmlab.checkpoints import code_refused
from lmlab.files import list_files, replace_folder, unlisted

WAYS = {
    "4-bit base": "multiply out inside the 4-bit weights, which are then rounded to 4 bits again",
    "16-bit base": "add to the original weights, which the adapter never saw in training",
    "dequantized base": "unpack the 4-bit weights first, then add: what the adapter was trained on",
}
STREAMED = ("dequantized base", "16-bit base")
INDEX, HEAD = "model.safetensors.index.json", "lm_head.weight"
ROWS = 8192  # of a matrix that are read at a time


# --- an adapter beside its base --------------------------------------------------------------------


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
    """A ``PeftModel`` in eval mode: the base in one of the ``WAYS``, with the adapter beside it, not merged yet.

    base: the base's source, by default what the adapter names. Off the 4-bit base weights and adapter are
    float32: the sums are exact, and rounding to 16 bits can be measured by itself. On it, the layers that are
    not in 4 bits have the machine's dtype.
    ``merge_and_unload()`` of the result merges in memory. Raises ValueError for an adapter that was trained
    beside other weights (see ``check_loadable``).
    """
    import torch
    from peft import PeftModel

    from lmlab.data import load_model
    from lmlab.finetune import load_four_bit

    if way not in WAYS:
        raise ValueError(f"way of merging got {way!r}; give one of {', '.join(WAYS)}")
    check_loadable(adapter, way)
    base = base or adapter_base(adapter)
    model = load_model(base) if way == "16-bit base" else load_four_bit(base, machine)
    if way == "dequantized base":
        model = model.dequantize()
        model = model.to(torch.float32)
    if way != "4-bit base" and machine.device != "cpu":
        model.to(machine.device)
    with code_refused(adapter):
        return PeftModel.from_pretrained(model, str(adapter)).eval()


# --- the proof -------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """How near two models are on the same tokens."""

    max_difference: float  # largest absolute difference of any logit
    mean_difference: float  # mean absolute difference over all logits
    kl: float  # KL(reference || candidate), nats per position
    top1: float  # share of positions at which both find the same token likeliest
    positions: int


def logits_of(model, sequences: Sequence[Sequence[int]]) -> list:
    """Float32 logits (T, V) on the CPU for each sequence of token ids, in eval mode, one by one: no padding."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = [
            model(torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu() for ids in sequences
        ]
    model.train(was_training)
    return logits


def compare_logits(reference: Sequence, candidate: Sequence) -> Agreement:
    """The agreement of two lists of logits (T, V), as ``logits_of`` gives them for the same sequences."""
    pairs = list(zip(reference, candidate, strict=True))
    if not pairs:
        raise ValueError("compare_logits got no sequences; give at least one")
    for a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(
                f"compare_logits got logits of shapes {tuple(a.shape)} and {tuple(b.shape)}; "
                "both models must read the same sequences with the same vocabulary"
            )
    positions = sum(len(a) for a, _ in pairs)
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs)
    total = sum(float((a - b).abs().sum(dtype=a.double().dtype)) for a, b in pairs)
    return Agreement(
        max(float((a - b).abs().max()) for a, b in pairs),
        total / sum(a.numel() for a, _ in pairs),
        sum(_kl(a, b) for a, b in pairs) / positions,
        same / positions,
        positions,
    )


def _kl(a, b) -> float:
    """KL(softmax a || softmax b), summed over positions; in float64, since float32 shows 1e-8 where it is 0."""
    a, b = (logits.double().log_softmax(-1) for logits in (a, b))
    return float((a.exp() * (a - b)).sum())


class Bound(NamedTuple):
    """How far logits may be apart that differ by rounding alone."""

    max: float
    mean: float


def logit_bound(reference: Sequence, config, *dtypes) -> Bound:
    """What rounding to ``dtypes`` may change: of the merged weights, and of the reference's computation.

    config: the model's, for its depth and width. The argument: a number rounded to a dtype is off by at most
    its unit u (2^-24 in float32, 2^-11 in float16, 2^-8 in bfloat16), and a sum of n_embd products in float32
    by about sqrt(n_embd) * 2^-24. Such errors know nothing of each other, so over n_layer layers they add like
    steps of a random walk: relative to the spread of the logits, sqrt(n_layer) * u on average. The largest of
    millions would be some six times the typical one if all were alike; on texts that a model does not know it was
    31 times, so thirty are allowed, and the mean has room too.
    Measured on the course's models, on their own and on foreign texts: at most 0.44 of the bound for the mean
    and 0.28 of that for the largest. dtypes: of all that was rounded; a reference that was itself computed in 16
    bits rounds some ten times a layer and needs more, so compare with one in float32.
    """
    import torch

    single = torch.finfo(torch.float32).eps / 2
    units = [torch.finfo(dtype).eps / 2 for dtype in dtypes] + [math.sqrt(config.hidden_size) * single]
    spread = torch.cat([logits.std(-1) for logits in reference]).mean().item()
    mean = math.sqrt(config.num_hidden_layers) * sum(units) * spread
    return Bound(30 * mean, mean)


def verify_merge(adapted: Sequence, base: Sequence, merged: Sequence, bound: Bound) -> Agreement:
    """Checks that a merged model says what base and adapter said and not what the base said; how near it is.

    All three: ``logits_of`` the same sequences, of the adapter beside its base, of that base alone, of the
    merged model. Raises ValueError when merged is within ``bound`` of the base, or not within it of adapted.
    """
    if _within(compare_logits(base, adapted), bound):
        raise ValueError(
            "the adapter got the base to change its logits by no more than rounding does "
            f"({bound.max:.2g}); give one that was trained, and a base that it fits"
        )
    if _within(compare_logits(base, merged), bound):
        raise ValueError(
            "the merged model got the logits of the base: the adapter was not added; merge again, "
            "and check that the adapter's names are those of the base's tensors"
        )
    agreement = compare_logits(adapted, merged)
    if not _within(agreement, bound):
        raise ValueError(
            f"the merged model's logits got as far as {agreement.max_difference:.2g} from the adapter's, on "
            f"average {agreement.mean_difference:.2g}; allowed are {bound.max:.2g} and {bound.mean:.2g} (same "
            f"likeliest token at {agreement.top1:.1%}); check alpha / r, and that the base is the adapter's own"
        )
    return agreement


def _within(agreement: Agreement, bound: Bound) -> bool:
    return agreement.max_difference <= bound.max and agreement.mean_difference <= bound.mean  # a NaN is not


# --- merging, tensor by tensor ---------------------------------------------------------------------


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
            than that of W + scale * B A (see ``lmlab.adapters``); for a tokenizer with more tokens than the base
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
    from lmlab.data import model_path

    path = Path(model_path(source))
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))


def base_dtype(source: str):
    """The torch dtype in which a base is published: what a merged model should be saved in."""
    import torch
    from transformers import AutoConfig

    from lmlab.data import model_path

    dtype = AutoConfig.from_pretrained(model_path(source)).dtype
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
        raise ValueError(f"{path} got weights that are quantised already; give the base in 16 or 32 bits")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        names = {module: f"{name}.weight" for name, module in model.named_modules()}
        head, embeddings = names[model.get_output_embeddings()], names[model.get_input_embeddings()]
        four_bit = {name for module, name in names.items() if isinstance(module, torch.nn.Linear)} - {head}
        lora = PeftConfig.from_pretrained(str(adapter))
        lora.base_model_name_or_path = None  # peft would warn that the base has another name here
        model = get_peft_model(model, lora)
    with code_refused(adapter):
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
                tensor = four_bits_and_back(tensor, machine)
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


def four_bits_and_back(weight, machine):
    """A matrix as the 4-bit base computes with it: NF4 and back, in the machine's dtype and on its device."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from lmlab.finetune import four_bit_config

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


# --- a folder that is whole or not there -----------------------------------------------------------

MARK = ".lmlab.json"  # in a folder that a merge wrote: the names of its files
SPARE = 2**26  # bytes for what stands beside the weights: a tokenizer of 128,000 tokens takes 17 MB


def require_room(folder: str | Path, need: int) -> int:
    """The free bytes of the disk of ``folder``. Raises ValueError where they are fewer than ``need``."""
    place = Path(folder)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if need > free:
        raise ValueError(_too_full(folder, need, free))
    return free


def _too_full(folder: str | Path, need: int, free: int) -> str:
    return (
        f"{folder} needs {need / 1e6:,.0f} MB, and its disk has {free / 1e6:,.0f} MB free; remove old runs "
        "and merged models, or give an output_dir on another disk"
    )


@contextmanager
def told_when_full(target: str | Path, need: int) -> Iterator[None]:
    """Raises ValueError, with what helps, where the disk gets full while ``target`` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(Path(target).parent).free
        raise ValueError(f"the disk got full: {_too_full(target, need, free)}") from error


def require_ours(folder: Path) -> None:
    """Raises ValueError where something has the name ``folder`` that ``whole_folder`` did not write alone.

    What is nobody's loss: an empty folder, and a card that was written again (README.md).
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder")
    others = unlisted(folder, MARK)
    if (folder / MARK).is_file() and "README.md" in others:
        others.remove("README.md")
    if others:
        raise ValueError(
            f"{folder} holds {others[0]}, which was not written by a merge, and would be lost; give "
            "another folder, or move it away"
        )


@contextmanager
def whole_folder(folder: str | Path, need: int) -> Iterator[Path]:
    """A folder to write into that gets the name ``folder`` when all is written; an older one gives way then.

    Only a folder that this has written gives way: it holds a list of its files (``MARK``). Where writing fails, or
    is interrupted, a folder of that name stays as it was (``files.replace_folder``).

    Args:
        folder: the name in the end.
        need: bytes of the weights; the disk is asked for them first.

    Raises:
        ValueError: where the disk is or gets too full, or the name is that of a file or of somebody's folder.
    """
    folder = Path(folder)
    require_ours(folder)
    require_room(folder, need + SPARE)
    folder.resolve().parent.mkdir(parents=True, exist_ok=True)
    with told_when_full(folder, need + SPARE), replace_folder(folder, require_ours) as new:
        yield new
        list_files(new, MARK)


# --- a model card ----------------------------------------------------------------------------------


class Result(NamedTuple):
    """One metric of a model on held-out data, with its 95% interval."""

    metric: str  # "perplexity", "right answers", ...
    value: float
    low: float
    high: float
    data: str  # the source of the data


def hub_id(source: str) -> str | None:
    """The hub's name in a source of data or of a model, or None where it is local or of a miniworld."""
    from lmlab.data import model_path

    name = source.partition(":")[0]
    if source.startswith("miniworld/") or Path(source).suffix in (".txt", ".jsonl", ".json", ".parquet"):
        return None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return None
    return name if model_path(name) == name and not Path(name).exists() else None


def _name_of(source: str) -> str:
    """A source by a name that says nothing of this machine's folders."""
    return source if hub_id(source) or source.startswith("miniworld/") else Path(source).name


def model_card(
    title: str,
    *,
    base: str,
    data: Sequence[str],
    recipe: str,
    results: Sequence[Result],
    facts: Mapping[str, object],
    limits: Sequence[str],
):
    """A ``huggingface_hub.ModelCard``: what the model is made of, what was measured and how sure, its limits.

    data: the sources that it was trained on. recipe: how, in one line. facts: what the table of the merge says.
    Base and data that are on the hub are linked in the metadata, others are named in the text.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    about = ModelCardData(
        base_model=hub_id(base),
        base_model_relation="finetune" if hub_id(base) else None,
        datasets=[hub_id(source) for source in data if hub_id(source)] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["lmlab", "lora", "merged"],
        model_name=title,
        eval_results=[
            EvalResult(
                "text-generation",
                hub_id(result.data) or _name_of(result.data),
                _name_of(result.data),
                result.metric.replace(" ", "_"),
                round(result.value, 4),
                metric_name=result.metric,
                dataset_split="held out",
                metric_args={"interval_95": [round(result.low, 4), round(result.high, 4)]},
            )
            for result in results
        ],
    )
    measured = "\n".join(
        f"| {r.metric} | {r.value:.4g} | {r.low:.4g} to {r.high:.4g} | {_name_of(r.data)} |" for r in results
    )
    merge = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return ModelCard(f"""---
{about.to_yaml()}
---
# {title}

{_name_of(base)} with a LoRA adapter merged into its weights. It needs neither peft nor bitsandbytes.

- **Base:** {_name_of(base)}
- **Data:** {", ".join(map(_name_of, data))}
- **Recipe:** {recipe}
- **Licence:** that of the base holds for this model too; read it before you share this

## Measured

On held-out data, with 95% intervals.

| metric | value | interval | data |
|---|---|---|---|
{measured}

## The merge

| what | value |
|---|---|
{merge}

## Limits

{chr(10).join(f"- {limit}" for limit in limits)}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```
""")


# --- to the hub ------------------------------------------------------------------------------------


class Upload(NamedTuple):
    """What goes, or would go, to the hub."""

    repo: str
    private: bool
    files: dict[str, int]  # path -> bytes
    done: bool

    def __str__(self) -> str:
        rows = [f"  {size / 1e6:12,.3f} MB  {name}" for name, size in self.files.items()]
        calls = [
            f"HfApi().create_repo({self.repo!r}, private={self.private}, exist_ok=True)",
            f"HfApi().upload_folder(repo_id={self.repo!r}, folder_path=...)",
        ]
        said = "uploaded:" if self.done else "a dry run, nothing is sent; what would be called:"
        total = f"  {sum(self.files.values()) / 1e6:12,.3f} MB  in {len(self.files)} files"
        return "\n".join([said, *(f"  {call}" for call in calls), *rows, total])


def push_to_hub(
    folder: str | Path, repo: str, *, really: bool = False, private: bool = True, api=None
) -> Upload:
    """Uploads a merged folder to a repository of the hub; without ``really`` it only says what it would do.

    api: a ``huggingface_hub.HfApi``, made where none is given. Raises ValueError for a folder that is not a
    whole model with a card, for a name that is no "owner/name", and where nobody is logged in.
    """
    folder = Path(folder)
    lacking = [name for name in ("config.json", "README.md") if not (folder / name).is_file()]
    if lacking or not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} lacks {', '.join(lacking) or 'weights'}; give a folder that merge_to_folder "
            "wrote, with its card"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"repo got {repo!r}; give owner/name, as in you/llama-encyclopedia")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("tie_word_embeddings", config.get("model_type") == "gpt2") and own_head(folder):
        raise ValueError(
            f"{folder} holds a {HEAD} that is not its embeddings, and tie_word_embeddings in "
            "config.json says that it is: many programs would drop it; set that to false"
        )
    files = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MARK
    }
    if really:
        _send(folder, repo, private, api)
    return Upload(repo, private, files, really)


def _send(folder: Path, repo: str, private: bool, api) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    api = api or HfApi()
    try:
        api.whoami()
    except LocalTokenNotFoundError as error:
        raise ValueError(f"pushing {repo} needs a login; run: hf auth login") from error
    if private and api.repo_exists(repo) and not api.repo_info(repo).private:
        raise ValueError(f"{repo} is there already, and public; give another name, or private=False")
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo,
        folder_path=str(folder),
        ignore_patterns=[MARK],
        commit_message="A merged model, by lmlab",
    )
