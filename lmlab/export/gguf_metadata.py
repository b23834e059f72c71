"""What a GGUF file says beside the weights: the model's sizes, its tokenizer, and where an answer ends.

What must be there per architecture is what llama.cpp's own converter, convert_hf_to_gguf.py, writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from gguf import TokenType

from lmlab.export.generation_config import eos_token_ids

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

_KNOWN = yaml.safe_load(Path(__file__).with_name("gguf_known.yaml").read_text(encoding="utf-8"))
_COMPUTED, _PRE_TOKENIZERS = _KNOWN["computed"], _KNOWN["pre_tokenizers"]

# --- the model -------------------------------------------------------------------------------------


def check_config(config: PretrainedConfig) -> None:
    """Raises ValueError for a model that llama.cpp would compute in another way than transformers does."""
    architecture = config.model_type
    if architecture not in _COMPUTED:
        raise ValueError(f"model_type got {architecture}; give one of {', '.join(_COMPUTED)}")
    for key, allowed in _COMPUTED[architecture].items():
        value = getattr(config, key)
        if value not in allowed:
            raise ValueError(f"{key} got {value!r}, llama.cpp computes a {architecture} with {allowed[0]!r}")
    rope = getattr(config, "rope_parameters", None)
    known = ("default", "llama3") if architecture == "llama" else ("default",)
    if rope and rope["rope_type"] not in known:
        raise ValueError(f"rope_type got {rope['rope_type']!r}; a {architecture} may have {known}")


def add_config(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Adds the sizes and constants that llama.cpp builds the model from."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


# --- the tokenizer ---------------------------------------------------------------------------------


def pre_tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name for how a fast tokenizer splits text before it merges.

    NFC, which Qwen2's files ask for, is let pass though llama.cpp does not compose: an accent that is a
    character of its own (rare) gives other ids.

    Raises:
        ValueError: llama.cpp would split text in another way, and token ids would differ without a word.
    """
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = data["model"], data["normalizer"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ValueError(f"the tokenizer is {model['type']}; give a model with byte-level BPE")
    if normalizer not in (None, {"type": "NFC"}):
        raise ValueError(f"the tokenizer normalizes text by {normalizer['type']}, and llama.cpp does not")
    pre_tokenizer = data["pre_tokenizer"] or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    for step in steps:
        step.pop("trim_offsets", None)  # changes no token
    ignores_merges = bool(model.get("ignore_merges"))  # Llama 3: a word in the vocabulary is taken whole
    for name, known in _PRE_TOKENIZERS.items():
        if steps == known and ignores_merges == (name == "llama-bpe"):
            is_r1 = name == "qwen2" and tokenizer.bos_token == "<｜begin▁of▁sentence｜>"
            return "deepseek-r1-qwen" if is_r1 else name
    raise ValueError(f"the tokenizer splits text by {steps}; known are {', '.join(_PRE_TOKENIZERS)}")


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, n_vocab: int) -> int:
    """Adds vocabulary, merges, special tokens and chat template.

    Args:
        writer: A gguf.GGUFWriter.
        tokenizer: A fast tokenizer of transformers.
        n_vocab: Rows of the embeddings; those beyond the tokenizer are filled with unused tokens.

    Returns:
        About how many bytes this takes.

    Raises:
        ValueError: llama.cpp does not know such a tokenizer, or it has more tokens than the embeddings.
    """
    if len(tokenizer) > n_vocab:
        raise ValueError(f"the tokenizer has {len(tokenizer):,} tokens, the embeddings have {n_vocab:,} rows")
    writer.add_tokenizer_model("gpt2")  # ggml's word for byte-level BPE
    writer.add_tokenizer_pre(pre_tokenizer_name(tokenizer))
    texts = {token: text for text, token in tokenizer.get_vocab().items()}
    tokens = [texts.get(token, f"[PAD{token}]") for token in range(n_vocab)]
    writer.add_token_list(tokens)
    writer.add_token_types([_token_type(tokenizer, token, token in texts) for token in range(n_vocab)])
    pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    merges = [" ".join(pair) for pair in pairs]
    writer.add_token_merges(merges)
    for name in ("bos", "eos", "pad"):
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(adds_bos(tokenizer))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    return sum(8 + len(text.encode()) for text in [*tokens, *merges]) + 4 * n_vocab + 20_000


def _token_type(tokenizer: PreTrainedTokenizerBase, token: int, is_known: bool) -> TokenType:
    if not is_known:
        return TokenType.UNUSED
    added = tokenizer.added_tokens_decoder.get(token)
    if added is None:
        return TokenType.NORMAL
    # a control token is read only where special tokens are asked for, and not shown; one that the user has
    # added ("<think>") is always read whole
    return TokenType.CONTROL if added.special else TokenType.USER_DEFINED


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer begins each text with BOS by itself, as Llama's does."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][0] == bos


def add_stops(writer: GGUFWriter, config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Adds the tokens that end an answer beside EOS. Raises ValueError for too many of them."""
    others = [token for token in eos_token_ids(config) if token != tokenizer.eos_token_id]
    if len(others) > 2:
        raise ValueError(f"eos_token_id got {others} beside EOS; a GGUF file takes two more")
    # the places are called end of turn and end of message; llama.cpp stops at each of them
    for token, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(token)
