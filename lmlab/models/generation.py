"""Batched generation with transformers' generate."""

from collections.abc import Sequence

from lmlab.models.chat_template import stop_token_ids
from lmlab.models.sources import _pad_id


def generate_greedy(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 64, **settings
) -> list[str]:
    """What the model writes after each prompt, likeliest token by token, without special tokens.

    prompts are texts with their special tokens in them. Batches are padded on the left, so that every prompt
    ends where its answer begins; those of like length go together. An answer ends at any of the stop tokens
    (``stop_token_ids``), after ``max_new_tokens``, or where the model's context does. settings: any further
    ones of ``generate``. Raises ValueError for a prompt that fills the context.
    """
    return _generate(model, tokenizer, prompts, max_new_tokens, batch_size, do_sample=False, **settings)


def generate_sampled(
    model,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    k: int,
    temperature: float,
    batch_size: int = 64,
    seed: int = 0,
) -> list[list[str]]:
    """``k`` answers to each prompt, drawn token by token from the softmax of logits / temperature."""
    import torch

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    repeated = [prompt for prompt in prompts for _ in range(k)]
    texts = _generate(
        model,
        tokenizer,
        repeated,
        max_new_tokens,
        batch_size,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
    )
    torch.set_rng_state(state)
    return [texts[i : i + k] for i in range(0, len(texts), k)]


def _generate(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int, batch_size: int, **choices
) -> list[str]:
    import torch

    from lmlab.models.sources import context_length

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers, was_training = [""] * len(prompts), model.training
    pad, stops = _pad_id(tokenizer), stop_token_ids(model, tokenizer)
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = tokenizer([prompts[i] for i in batch], add_special_tokens=False)["input_ids"]
        width = max(map(len, ids))
        if (room := context_length(model) - width) < 1:
            raise ValueError(
                f"a prompt has {width} tokens, the model's context {context_length(model)}; cut the text"
            )
        padded = torch.tensor(
            [[pad] * (width - len(row)) + row for row in ids], device=model.device
        )  # (B, T)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
        with torch.no_grad():
            written = model.generate(
                input_ids=padded,
                attention_mask=mask,
                use_cache=True,
                max_new_tokens=min(max_new_tokens, room),
                pad_token_id=pad,
                eos_token_id=stops or None,
                **choices,
            )
        texts = tokenizer.batch_decode(
            [_until_stop(row, stops) for row in written[:, width:].tolist()], skip_special_tokens=True
        )
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text
    model.train(was_training)
    return answers


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Without the end and what follows it: not every model's end is a special token, which decoding skips."""
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]
