"""Models and tokenizers by source name: miniworld, a local folder, or a hub id."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def refuse_remote_code(source: str | Path) -> Iterator[None]:
    """Raises ValueError where torch refuses a file that would run code as it is loaded.

    source: the file, or the folder or model that it is in. torch's own message says how to run it all the
        same.
    """
    try:
        yield
    except UnpicklingError as error:
        raise ValueError(
            f"{source} cannot be read: it holds more than tensors and plain values, which would "
            "run as code, or is damaged; nothing of it was run: take weights in safetensors, "
            "and checkpoints of your own alone"
        ) from error


def local_path(source: str) -> Path | None:
    """The absolute path that ``source`` names, or None where it can only be a hub id.

    Raises:
        ValueError: It looks like a path, and there is nothing.
    """
    path = Path(source).expanduser()
    # absolute: a notebook may change its working directory later
    if path.exists():
        return path.absolute()
    # a hub id is "name" or "owner/name"; a misspelled path should not become a download
    looks_local = source.startswith(("/", ".", "~")) or source.count("/") > 1
    if looks_local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", source):
        raise ValueError(
            f"found no file or folder {source!r}; give 'miniworld/<name>', an existing path or a hub id"
        )
    return None


def model_source(source: str) -> str:
    """What ``from_pretrained`` takes: the folder of a base ("miniworld/gpt2"), a local one, or a hub id."""
    # imported here: who loads real models needs no miniworld
    if source.startswith("miniworld/"):
        from lmlab import miniworld

        return str(miniworld.model_dir(source.removeprefix("miniworld/")))
    path = local_path(source)
    if path is not None and not path.is_dir():
        raise ValueError(f"model {source!r} is a file; give the folder that holds config.json")
    return source if path is None else str(path)


def load_tokenizer(source: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model source. It is left as published: GPT-2's has no pad token."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_source(source))


def load_model(source: str, **kwargs) -> "PreTrainedModel":
    """The causal language model of a source, by AutoModelForCausalLM; float32 unless ``dtype`` is given.

    GPT-2's GELU is made one operation (``fused_gelu``).
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = {"dtype": torch.float32} | kwargs
    with refuse_remote_code(source):
        model = AutoModelForCausalLM.from_pretrained(model_source(source), **options)
    # GPT-2's is not set, and the Trainer then reports the loss too low by the factor (T - 1) / T
    model.loss_type = "ForCausalLM"
    return fused_gelu(model)


def fused_gelu(model: "PreTrainedModel") -> "PreTrainedModel":
    """The model, with GPT-2's GELU as PyTorch's one operation.

    transformers computes the same function in eight, whose results are all kept for the backward pass.
    """
    from transformers.activations import ACT2FN, NewGELUActivation

    # the tanh form, which GPT-2 was trained with: the exact GELU would change the outputs
    for module in model.modules():
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = ACT2FN["gelu_pytorch_tanh"]
    return model


def context_length(model: "Module") -> int:
    """The most tokens that the model can read at once."""
    config = model.config
    # lmlab's GPT has block_size; transformers' GPT-2 gives its n_positions under the other name, too
    return getattr(config, "block_size", None) or config.max_position_embeddings


def eos_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The tokenizer's EOS. Raises ValueError for one without: nothing would teach where a text ends."""
    if tokenizer.eos_token_id is None:
        raise ValueError("eos_token of the tokenizer is None, and a text to train on must end; set one")
    return tokenizer.eos_token_id


def pad_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """What fills up a row; EOS where the tokenizer comes without a pad token, as GPT-2's and Llama's."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
