"""Batched generation with transformers' ``generate``, configured by its GenerationConfig."""

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from lmlab.models.chat_template import stop_token_ids
from lmlab.models.sources import context_length, pad_id

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedTokenizerBase


def generate_greedy(
    model: "Module",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 64,
    **settings: object,
) -> list[str]:
    """What the model writes after each prompt, greedily, without special tokens.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        prompts: Texts with their special tokens in them.
        max_new_tokens: At most so many; an answer also ends at any of the stop tokens (``stop_token_ids``),
            and where the model's context does.
        batch_size: Prompts at a time; those of similar length go together.
        settings: Any further ones of transformers' GenerationConfig.

    Returns:
        A text for each prompt.

    Raises:
        ValueError: A prompt fills the context.
    """
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens} | settings
    return _generate(model, tokenizer, prompts, batch_size, settings)


def generate_sampled(
    model: "Module",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int,
    k: int,
    temperature: float,
    batch_size: int = 64,
    seed: int = 0,
) -> list[list[str]]:
    """``k`` answers to each prompt, sampled from the softmax of logits / temperature (see
    ``generate_greedy``).
    """
    import torch

    settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    settings["max_new_tokens"] = max_new_tokens
    repeated = [prompt for prompt in prompts for _ in range(k)]
    # the seed is for these samples alone: a training that goes on keeps its random numbers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        texts = _generate(model, tokenizer, repeated, batch_size, settings)
    return [texts[i : i + k] for i in range(0, len(texts), k)]


def _generate(model, tokenizer, prompts: Sequence[str], batch_size: int, settings: dict) -> list[str]:
    import torch
    from transformers import GenerationConfig

    stops, pad, limit = stop_token_ids(model, tokenizer), pad_id(tokenizer), context_length(model)
    config = GenerationConfig(**settings, pad_token_id=pad, eos_token_id=stops or None, use_cache=True)
    # prompts of similar length together, so that little is padded
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers, was_training = [""] * len(prompts), model.training
    model.eval()
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        rows = tokenizer([prompts[i] for i in batch], add_special_tokens=False)["input_ids"]
        width = max(map(len, rows))
        if width >= limit:
            raise ValueError(f"a prompt has {width} tokens, the model's context {limit}; cut the text")
        # padded on the left, so that every prompt ends where its answer begins
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)  # (B, T)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        # positions beyond the context were never trained
        config.max_new_tokens = min(settings["max_new_tokens"], limit - width)
        with torch.no_grad():
            written = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        for i, row in zip(batch, written[:, width:].tolist(), strict=True):
            # a stop token need not be a special one, which decoding would skip, and padding follows it
            answer = list(takewhile(lambda token: token not in stops, row))
            answers[i] = tokenizer.decode(answer, skip_special_tokens=True)
    model.train(was_training)
    return answers
