"""How a model asks to be sampled: transformers' GenerationConfig, read and completed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import GenerationConfig

# what transformers, llama.cpp and Ollama share (each has more of its own), and the value where a model
# publishes none; top_k 0 keeps all tokens
_DEFAULTS = {"temperature": 0.7, "top_p": 0.95, "top_k": 0, "repetition_penalty": 1.0}


def read_generation_config(folder: str | Path) -> GenerationConfig:
    """The ``GenerationConfig`` of a model folder; an empty one where it holds no generation_config.json."""
    from transformers import GenerationConfig

    if not (Path(folder) / "generation_config.json").is_file():
        return GenerationConfig()
    return GenerationConfig.from_pretrained(str(folder))


def eos_token_ids(config: GenerationConfig) -> list[int]:
    """The tokens that end an answer by a GenerationConfig, which holds none, one or a list of them."""
    if isinstance(config.eos_token_id, list):
        return config.eos_token_id
    return [] if config.eos_token_id is None else [config.eos_token_id]


def sampling_parameters(config: GenerationConfig) -> dict[str, float]:
    """temperature, top_p, top_k, repetition_penalty, as far as they are set; nothing where it is greedy."""
    if not config.do_sample:
        return {}
    found = {name: getattr(config, name) for name in _DEFAULTS}
    return {name: value for name, value in found.items() if value is not None}


def sampling_config(
    published: GenerationConfig | None = None, max_new_tokens: int = 512, **given: float | None
) -> GenerationConfig:
    """A ``GenerationConfig`` with all sampling parameters set: as given, else as published, else the
    defaults.

    Args:
        published: The model's own GenerationConfig.
        max_new_tokens: The longest answer, in tokens.
        given: temperature (0: greedy decoding), top_p (1: all tokens), top_k (0: all), repetition_penalty (1:
            none); None is as if it were not given.
    """
    from transformers import GenerationConfig

    values = _DEFAULTS | (sampling_parameters(published) if published else {})
    values |= {name: value for name, value in given.items() if value is not None}
    # transformers warns of sampling parameters beside greedy decoding
    if values["temperature"] == 0:
        values = {"repetition_penalty": values["repetition_penalty"]}
    return GenerationConfig(do_sample="temperature" in values, max_new_tokens=max_new_tokens, **values)
