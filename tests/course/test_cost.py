"""Predictions of memory, against what torch really keeps."""

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from lmlab.course import cost
from lmlab.training import memory

SMALL = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=100)


def batch(n: int, length: int) -> dict:
    ids = torch.randint(0, 100, (n, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_the_bytes_of_adams_moments_are_real():
    model = AutoModelForCausalLM.from_config(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    model(**batch(1, 8)).loss.backward()
    optimizer.step()
    kept = sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    assert cost.adam_bytes([(p.numel(), False) for p in model.parameters()], "adamw_torch") == kept


def test_logits_are_chunked_where_they_are_many():
    assert not memory.prefer_chunked_loss(8 * 128, 1536) and memory.prefer_chunked_loss(4 * 512, 128_256)
    assert not memory.prefer_chunked_loss(2**15, 2**10) and memory.prefer_chunked_loss(
        2**15 + 1, 2**10
    )  # 128 MiB
