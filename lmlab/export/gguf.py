"""A model folder as one GGUF file, which llama.cpp, Ollama and LM Studio read; and the file's head read back.

The format: ggml-org/ggml, docs/gguf.md. What a file must hold per architecture is what llama.cpp's own
converter, convert_hf_to_gguf.py, writes.
"""

import json
import math
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lmlab.evaluation.statistics import Difference, paired_bootstrap
from lmlab.export.folders import disk_full_errors, require_room
from lmlab.export.merge import HEAD, own_head, weight_files
from lmlab.export.verify import ROWS
from lmlab.files import replace_file

# by numpy in the gguf package; a block of 32 weights shares a scale (the _1 kinds: and a smallest value)
QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
# of llama.cpp alone: blocks of 256 weights, and tensors that matter more in more bits
K_QUANTS = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k")


# how a tokenizer's file cuts text before it merges bytes -> the name that llama.cpp has for it
_GPT2_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_PRE_TOKENIZERS = {
    "gpt-2": [_GPT2_WORDS],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2_WORDS],
    "qwen2": [_split(_ENGLISH + _REST), _BYTES],
    "llama-bpe": [_split(_ENGLISH + "{1,3}" + _REST), _BYTES],
}


# --- the file --------------------------------------------------------------------------------------


def check_quantization(name: str) -> None:
    """Raises ValueError for a name that is not known, and for a K-quant that cannot be made here."""
    if name not in QUANTIZATIONS + K_QUANTS:
        raise ValueError(f"quantization got {name!r}; give one of {', '.join(QUANTIZATIONS + K_QUANTS)}")
    if name in K_QUANTS and not shutil.which("llama-quantize"):
        raise ValueError(
            f"quantization {name} needs llama.cpp's program llama-quantize, which is not on the "
            f"PATH; install llama.cpp, or take one of {', '.join(QUANTIZATIONS)}"
        )


def export_gguf(folder: str | Path, path: str | Path, quantization: str = "f16") -> Path:
    """Writes the GPT-2, Llama or Qwen2 in a transformers folder as a GGUF file. Returns its path.

    quantization: one of QUANTIZATIONS, or of K_QUANTS where llama.cpp's program ``llama-quantize`` is on the
    PATH. Norms and biases stay float32 in all, as do GPT-2's positions; below 8 bits the embeddings and the head
    are q8_0; rows that are no multiple of 32 are float16.
    Weights are read, converted and written one by one. The file has its name once it is whole: after a full
    disk or Ctrl-C there is none, or the older one.
    Raises ValueError for what cannot be written in this format, or where the disk has no room.
    """
    folder, path = Path(folder), Path(path)
    check_quantization(quantization)
    plain = quantization in QUANTIZATIONS
    plan = _plan(folder, quantization if plain else "f16")
    # a K-quant: its input too, and a result that is smaller
    with _whole(path, plan.n_bytes if plain else 2 * plan.n_bytes) as partial:
        _write(plan, partial) if plain else _quantize(plan, partial, quantization)
    return path


def gguf_bytes(folder: str | Path, quantization: str) -> int:
    """How large the file will be, in bytes, to a few thousand; one of QUANTIZATIONS. Reads no weights."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"quantization got {quantization!r}, whose size is not known before it is made; give one "
            f"of {', '.join(QUANTIZATIONS)}"
        )
    return _plan(Path(folder), quantization).n_bytes


@contextmanager
def _whole(path: Path, need: int) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` at the end; whatever goes wrong leaves nothing.

    need: bytes. Raises ValueError where the disk has less, or gets full, and where another kind of file has the
    name.
    """
    if path.exists() and not _is_gguf(path):
        raise ValueError(f"{path} is there already, and no GGUF file: it would be lost; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    require_room(path.parent, need)
    with disk_full_errors(path, need), replace_file(path) as temporary:
        yield temporary


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _quantize(plan: "_Plan", target: Path, quantization: str) -> None:
    """By llama.cpp's program, from a file in float16 that is removed."""
    source = target.with_name(f"{target.name}.f16")
    try:
        _write(plan, source)
        command = ["llama-quantize", str(source), str(target), quantization.upper()]
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        source.unlink(missing_ok=True)
    if done.returncode or not target.exists():
        raise OSError(f"llama-quantize failed ({done.returncode}): {done.stderr.strip()[-500:]}")


class _Tensor(NamedTuple):
    """One tensor as it is in the folder, and as it will be in the file."""

    file: Path | None  # None: computed, not stored
    source: str  # its name in there
    shape: tuple[int, ...]  # in the GGUF file, rows last to first as numpy has them
    kind: object  # a GGMLQuantizationType


class _Plan(NamedTuple):
    folder: Path
    config: object  # a PretrainedConfig
    tensors: Mapping[str, _Tensor]  # by their names in the GGUF file
    writer: object  # a GGUFWriter that has all metadata
    n_bytes: int  # of the file, about


def _plan(folder: Path, quantization: str) -> _Plan:
    """Everything but the weights, so that every mistake shows before the first byte is written."""
    import gguf
    from transformers import AutoConfig, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json; give a folder that save_pretrained has written")
    config = AutoConfig.from_pretrained(str(folder))
    _check_config(config)
    writer = gguf.GGUFWriter(None, config.model_type)
    tensors = _tensors(folder, config, quantization)
    n_vocab = tensors["token_embd.weight"].shape[0]
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(folder.resolve().name)
    writer.add_file_type(_file_type(quantization))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    (_add_gpt2 if config.model_type == "gpt2" else _add_rotary)(writer, config)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    vocabulary = _add_tokenizer(writer, tokenizer, n_vocab)
    _add_asking(writer, read_asking(folder), tokenizer)
    weights = sum(math.prod(_byte_shape(t)) * _dtype(t.kind).itemsize for t in tensors.values())
    return _Plan(folder, config, tensors, writer, weights + vocabulary + 100 * len(tensors))


def _file_type(quantization: str):
    from gguf import LlamaFileType

    return LlamaFileType["ALL_F32" if quantization == "f32" else f"MOSTLY_{quantization.upper()}"]


def _write(plan: _Plan, path: Path) -> None:
    writer = plan.writer
    for name, tensor in plan.tensors.items():
        shape, dtype = _byte_shape(tensor), _dtype(tensor.kind)
        writer.add_tensor_info(name, shape, dtype, math.prod(shape) * dtype.itemsize, raw_dtype=tensor.kind)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in plan.tensors.items():
            writer.write_tensor_data(_encoded(name, tensor, plan.config))
    finally:
        writer.close()


# --- tensors ---------------------------------------------------------------------------------------


def _tensors(folder: Path, config, quantization: str) -> dict[str, _Tensor]:
    """The tensors of the file, in the order of the layers of which they are read."""
    import gguf

    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors = {}
    tied = config.tie_word_embeddings and not own_head(folder)
    for file, source, shape in _stored(folder):
        if _is_left_out(source, tied):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(
                f"{file.name} holds {source}, which a {config.model_type} in GGUF has no place "
                "for; merge adapters first, and export a plain model"
            )
        shape = shape[::-1] if _is_conv1d(source, config, len(shape)) else shape
        tensors[name] = _Tensor(file, source, shape, _kind(name, shape, quantization))
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{folder} holds no embeddings; save the model again, with save_pretrained")
    if "output.weight" not in tensors and not tied:  # llama.cpp would take the embeddings
        raise ValueError(
            f"{folder} got tie_word_embeddings false, and its files hold no {HEAD}; set it to "
            "true in config.json if the head is the embeddings, else save the model again"
        )
    if getattr(config, "rope_parameters", None) and config.rope_parameters["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = _Tensor(
            None, "", (config.head_dim // 2,), gguf.GGMLQuantizationType.F32
        )
    return tensors


def _stored(folder: Path) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    """(file, name, shape) of each stored tensor. Reads the heads of the files alone."""
    from safetensors import safe_open

    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened:
                yield file, name, tuple(opened.get_slice(name).get_shape())


def _is_left_out(source: str, tied: bool) -> bool:
    """Masks and frequencies, which old files hold and llama.cpp computes; a head that is the embeddings."""
    return source.endswith((".attn.bias", ".attn.masked_bias", ".inv_freq")) or (source == HEAD and tied)


def _is_conv1d(source: str, config, n_dimensions: int) -> bool:
    """GPT-2 keeps its projections as (in, out), all else is (out, in)."""
    return config.model_type == "gpt2" and n_dimensions == 2 and ("c_" in source)


def _kind(name: str, shape: tuple[int, ...], quantization: str):
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kinds = GGMLQuantizationType
    if len(shape) == 1 or name == "position_embd.weight":
        return kinds.F32
    kind = kinds[quantization.upper()]
    if name in ("token_embd.weight", "output.weight") and quantization.startswith(("q4", "q5")):
        kind = kinds.Q8_0  # llama.cpp gives them 6 bits, for which the gguf package has no quantizer
    return kind if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0 else kinds.F16


def _dtype(kind):
    """numpy's dtype of a tensor: the blocks of quantized ones are bytes."""
    import numpy as np

    return np.dtype({"F32": np.float32, "F16": np.float16}.get(kind.name, np.uint8))


def _byte_shape(tensor: _Tensor) -> tuple[int, ...]:
    from gguf.quants import quant_shape_to_byte_shape

    plain = tensor.kind.name in ("F32", "F16")
    return tensor.shape if plain else quant_shape_to_byte_shape(tensor.shape, tensor.kind)


def _encoded(name: str, tensor: _Tensor, config):
    """The tensor as numpy, as the file holds it. The rows of a large one are converted some at a time."""
    import numpy as np
    from safetensors import safe_open

    if tensor.file is None:
        return _rope_factors(config)
    turned = config.model_type == "llama" and (".attn_q." in name or ".attn_k." in name)
    with safe_open(tensor.file, framework="pt") as opened:
        stored = opened.get_slice(tensor.source)
        if len(tensor.shape) == 1 or turned or config.model_type == "gpt2":
            return _encoded_rows(_in_place(stored[:], name, tensor, config, turned), tensor)
        whole = np.empty(_byte_shape(tensor), _dtype(tensor.kind))
        for start in range(0, len(whole), ROWS):
            whole[start : start + ROWS] = _encoded_rows(stored[start : start + ROWS], tensor)
    return whole


def _in_place(values, name: str, tensor: _Tensor, config, turned: bool):
    """The values in the order in which llama.cpp has them."""
    if turned:
        return _interleaved(
            values, config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        )
    return values.T if _is_conv1d(tensor.source, config, values.ndim) else values


def _encoded_rows(values, tensor: _Tensor):
    import numpy as np
    import torch
    from gguf import quants

    values = values.to(torch.float32)
    largest = max(-float(values.min()), float(values.max()))
    if not largest <= (65504 if tensor.kind.name == "F16" else torch.finfo(torch.float32).max):  # NaN too
        raise ValueError(
            f"{tensor.source} goes up to {largest:g}, which {tensor.kind.name.lower()} cannot "
            "hold; mend the model, or take bf16"
        )
    return quants.quantize(np.ascontiguousarray(values.numpy()), tensor.kind)


def _interleaved(values, n_head: int):
    """Rows of a projection in llama.cpp's order: it turns neighbours (0, 1), transformers (0, half).

    Qwen2 stays as it is: llama.cpp turns it as transformers does.
    """
    halves = values.reshape(n_head, 2, values.shape[0] // n_head // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _rope_factors(config):
    """What each rotary frequency is divided by in Llama 3.1 and later, (head_dim / 2,).

    Short waves stay, long ones are stretched by ``factor``, those between partly. Source: Llama Team 2024, and
    transformers' modeling_rope_utils.py.
    """
    import numpy as np

    rope = config.rope_parameters
    base, size = rope["rope_theta"], config.head_dim
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] / (2 * np.pi * base ** (np.arange(0, size, 2) / size))
    stretched = 1 - np.clip((turns - low) / (high - low), 0, 1)  # 0: as it was, 1: by the whole factor
    return (1 / (stretched / rope["factor"] + 1 - stretched)).astype(np.float32)


# --- metadata --------------------------------------------------------------------------------------


def _check_config(config) -> None:
    """Raises ValueError for what llama.cpp would compute otherwise than transformers does."""
    wrong = {
        "gpt2": {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
        },
        "llama": {"hidden_act": ("silu",)},
        "qwen2": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
    }
    if config.model_type not in wrong:
        raise ValueError(
            f"a {config.model_type} model cannot be exported here, only {', '.join(wrong)}; "
            "llama.cpp's convert_hf_to_gguf.py knows many more"
        )
    for key, allowed in wrong[config.model_type].items():
        if getattr(config, key) not in allowed:
            raise ValueError(
                f"{key} is {getattr(config, key)!r}, and llama.cpp computes a {config.model_type} "
                f"with {' or '.join(map(repr, allowed))}"
            )
    rope = getattr(config, "rope_parameters", None)
    known = ("default", "llama3") if config.model_type == "llama" else ("default",)
    if rope and rope["rope_type"] not in known:
        raise ValueError(
            f"rope_type {rope['rope_type']!r} of a {config.model_type} cannot be exported here; "
            "llama.cpp's convert_hf_to_gguf.py knows more"
        )


def _add_gpt2(writer, config) -> None:
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _add_rotary(writer, config) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config.model_type == "llama":  # of the others llama.cpp counts the tokens
        writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


# --- the tokenizer ---------------------------------------------------------------------------------


def pre_tokenizer_name(tokenizer) -> str:
    """llama.cpp's name for how a fast tokenizer cuts text before it merges.

    Raises ValueError for one that llama.cpp would cut otherwise: its token ids would differ without a word.
    NFC, which Qwen2's files ask for, is let pass though llama.cpp does not compose: an accent that is a
    character of its own (rare) gives other ids.
    """
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    if data["model"]["type"] != "BPE" or data["model"].get("byte_fallback"):
        raise ValueError(
            f"the tokenizer is {data['model']['type']}; byte-level BPE alone can be exported here"
        )
    if data["normalizer"] not in (None, {"type": "NFC"}):
        raise ValueError(
            f"the tokenizer changes text first ({data['normalizer']['type']}), llama.cpp does not"
        )
    steps = (data["pre_tokenizer"] or {}).get("pretokenizers", [data["pre_tokenizer"]])
    steps = [{key: value for key, value in (step or {}).items() if key != "trim_offsets"} for step in steps]
    name = next((name for name, known in _PRE_TOKENIZERS.items() if steps == known), None)
    merges_whole_words = bool(data["model"].get("ignore_merges"))
    if name is None or merges_whole_words != (name == "llama-bpe"):
        raise ValueError(
            f"the tokenizer cuts text by {steps} (ignore_merges: {merges_whole_words}), for which "
            f"no name of llama.cpp is known here; known are {', '.join(_PRE_TOKENIZERS)}"
        )
    r1 = name == "qwen2" and tokenizer.bos_token == "<｜begin▁of▁sentence｜>"
    return "deepseek-r1-qwen" if r1 else name


def _add_tokenizer(writer, tokenizer, n_vocab: int) -> int:
    """Adds the tokenizer's metadata; returns about how many bytes they take. n_vocab: rows of the embeddings."""
    writer.add_tokenizer_model("gpt2")  # ggml's word for byte-level BPE
    writer.add_tokenizer_pre(pre_tokenizer_name(tokenizer))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens, types = token_list(tokenizer, n_vocab)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for name in ("bos", "eos", "pad"):
        if (token := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(adds_bos(tokenizer))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    return sum(8 + len(text.encode()) for text in [*tokens, *merges]) + 4 * n_vocab + 20_000


def token_list(tokenizer, n_vocab: int) -> tuple[list[str], list[int]]:
    """(texts, types) of the ids 0 to n_vocab - 1, as GGUF has them.

    A control token is read only where special tokens are asked for, and not shown; one that the user has added
    ("<think>") is always read whole. Rows of the embeddings beyond the tokenizer are filled with unused ones.
    Raises ValueError where the tokenizer has more tokens than the model.
    """
    from gguf import TokenType

    if len(tokenizer) > n_vocab:
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model's embeddings {n_vocab:,} "
            "rows; give the tokenizer that the model was trained with"
        )
    added = tokenizer.added_tokens_decoder
    texts = {i: text for text, i in tokenizer.get_vocab().items()}
    types = [
        TokenType.UNUSED
        if i not in texts
        else TokenType.NORMAL
        if i not in added
        else TokenType.CONTROL
        if added[i].special
        else TokenType.USER_DEFINED
        for i in range(n_vocab)
    ]
    return [texts.get(i, f"[PAD{i}]") for i in range(n_vocab)], types


def adds_bos(tokenizer) -> bool:
    """Whether the tokenizer begins each text with BOS by itself, as Llama's does."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


# --- how the model wants to be asked ---------------------------------------------------------------


class Asking(NamedTuple):
    """What generation_config.json says: the ids that end an answer, and how to draw (None: not said)."""

    ends: tuple[int, ...]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None

    def sampling(self) -> dict[str, float]:
        """What is said of drawing."""
        return {name: value for name, value in self._asdict().items() if name != "ends" and value is not None}


def read_asking(folder: str | Path) -> Asking:
    """Reads generation_config.json; a file that does not ask for sampling says nothing of it."""
    file = Path(folder) / "generation_config.json"
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    ends = data.get("eos_token_id")
    ends = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    said = {
        name: data[name] for name in Asking._fields if data.get("do_sample") and data.get(name) is not None
    }
    return Asking(ends, **said)


# llama.cpp ends an answer at these by itself
_KNOWN_ENDS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
)


def _add_asking(writer, asking: Asking, tokenizer) -> None:
    # a known mark must not take a place from one that llama.cpp would not stop at: beside eos it has two
    others = [
        end
        for end in dict.fromkeys(asking.ends)
        if end != tokenizer.eos_token_id and tokenizer.convert_ids_to_tokens(end) not in _KNOWN_ENDS
    ]
    if len(others) > 2:
        raise ValueError(
            "generation_config.json ends an answer also at "
            f"{tokenizer.convert_ids_to_tokens(others)}; a GGUF file has places for two more: "
            "keep those that the chat template writes"
        )
    for end, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(end)
    add = {
        "temperature": writer.add_sampling_temp,
        "top_p": writer.add_sampling_top_p,
        "top_k": writer.add_sampling_top_k,
        "repetition_penalty": writer.add_sampling_penalty_repeat,
    }
    for name, value in asking.sampling().items():
        add[name](value)


# --- reading a file's head -------------------------------------------------------------------------

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_metadata(path: str | Path) -> dict:
    """Keys and values of a GGUF file, and under "tensors" name -> shape as numpy has it. Reads no weights.

    The gguf package's own reader does this too, in seconds where a vocabulary is large.
    Raises ValueError for another kind of file, and for one that ends too soon.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    with Path(path).open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file")
        try:
            return _read_head(file)
        except (struct.error, UnicodeDecodeError, KeyError, OverflowError, MemoryError) as error:
            raise damaged(path) from error


def damaged(path: str | Path) -> ValueError:
    return ValueError(f"{path} is cut short or damaged; export it again")


def _read_head(file) -> dict:
    _, n_tensors, n_values = struct.unpack("<IQQ", file.read(20))
    values: dict = {}
    for _ in range(n_values):
        key, kind = _read_string(file), _read_scalar(file, "I")
        values[key] = _read_value(file, kind)
    values["tensors"] = {}
    for _ in range(n_tensors):
        name, n_dimensions = _read_string(file), _read_scalar(file, "I")
        shape = struct.unpack(f"<{n_dimensions}Q", file.read(8 * n_dimensions))
        values["tensors"][name] = shape[::-1]
        file.read(12)  # kind and place
    return values


def _read_scalar(file, code: str):
    return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]


def _read_string(file) -> str:
    return file.read(_read_scalar(file, "Q")).decode()


def _read_value(file, kind: int):
    if kind == _STRING:
        return _read_string(file)
    if kind == _ARRAY:
        item, n = struct.unpack("<IQ", file.read(12))
        return [_read_value(file, item) for _ in range(n)]
    return _read_scalar(file, _SCALARS[kind])


# --- what each bit costs ---------------------------------------------------------------------------


def load_gguf(path: str | Path):
    """The model in a GGUF file, its weights unpacked to float32, by transformers' own reader: not by this module."""
    from unittest.mock import patch

    import torch
    from transformers import AutoModelForCausalLM

    path = Path(path)
    with patch(
        "transformers.modeling_gguf_pytorch_utils.tqdm", lambda tensors, **_: tensors
    ):  # a bar for each file
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ).eval()


class BitCost(NamedTuple):
    """One quantization of a model: what it takes and what it loses."""

    quantization: str
    megabytes: float  # of the file, 10^6 bytes
    bits_per_weight: float  # of the file as a whole
    loss: float  # nats per token
    worse_by: (
        Difference | None
    )  # nats per token more than the first one, with its interval; None for the first

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)


def bit_costs(
    folder: str | Path,
    out: str | Path,
    measure: Callable[[Path], tuple[Sequence, Sequence]],
    quantizations: Sequence[str] = QUANTIZATIONS,
) -> list[BitCost]:
    """Exports a model folder in each quantization and measures each file; the disk holds one at a time.

    measure: takes a file's path; returns the nats and the number of tokens of each text, (n_texts,) each. The first
    quantization is what the others are compared with, text by text.
    """
    rows, first = [], None
    for quantization in quantizations:
        path = export_gguf(folder, Path(out) / f"{Path(folder).name}-{quantization}.gguf", quantization)
        nats, counts = measure(path)
        worse_by = None if first is None else paired_bootstrap(first, nats, counts)
        first, size = nats if first is None else first, path.stat().st_size
        n_weights = sum(math.prod(shape) for shape in read_metadata(path)["tensors"].values())
        rows.append(
            BitCost(quantization, size / 1e6, 8 * size / n_weights, sum(nats) / sum(counts), worse_by)
        )
        path.unlink()
    return rows
