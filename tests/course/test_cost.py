"""Predictions of time and memory: by hand, and against what torch really keeps."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from lmlab.course import cost
from lmlab.training import memory
from lmlab.training.memory import estimate_step, model_on_meta

SMALL = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=100)


def batch(n: int, length: int) -> dict:
    ids = torch.randint(0, 100, (n, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_weights_are_counted_without_the_model():
    real = AutoModelForCausalLM.from_config(SMALL)
    assert cost.n_weights_of(SMALL) == sum(p.numel() for p in real.parameters())
    assert cost.n_weights_of(GPT2Config()) == 124_439_808


def test_six_flops_for_each_parameter_and_token():
    """Against torch's own count of the matrix products; attention over the texts is beside the rule."""
    from torch.utils.flop_counter import FlopCounterMode

    model = AutoModelForCausalLM.from_config(SMALL)
    inputs = batch(2, 16)
    with FlopCounterMode(display=False) as counter:
        model(**inputs).loss.backward()
    embedded = 64 * 32  # positions are looked up, not multiplied
    n_weights = sum(p.numel() for p in model.parameters() if p.ndim > 1) - embedded
    assert counter.get_total_flops() == pytest.approx(cost.training_flops(n_weights, 32), rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_that_of_a_whole_trace(checkpointing):
    """Two blocks and three tell what five need: each phase's peak is a straight line in the blocks."""
    deep = GPT2Config(**{**SMALL.to_dict(), "n_layer": 5})
    n_weights = cost.n_weights_of(deep)
    step = estimate_step(
        model_on_meta(deep), 1, 24, dtype="bfloat16", accumulation=2, checkpointing=checkpointing
    )
    wanted = (4 + 8) * n_weights + 8 + max(step.peak_by_phase)
    assert cost.full_memory_gib(deep, n_weights, 24, checkpointing=checkpointing) * 2**30 == pytest.approx(
        wanted
    )


def test_what_saves_memory_and_what_does_not():
    n_weights = cost.n_weights_of(SMALL)
    plain, saved = (cost.full_memory_gib(SMALL, n_weights, 2000, checkpointing=c) for c in (False, True))
    assert saved < 0.8 * plain
    embedded = (100 + 64) * 32  # stay in 32 bits
    eight = plain - cost.full_memory_gib(SMALL, n_weights, 2000, "adamw_8bit")
    assert eight == pytest.approx((6 - 8 / 256) * (n_weights - embedded) / 2**30, rel=0.01)


def test_the_bytes_of_adams_moments_are_real():
    model = AutoModelForCausalLM.from_config(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    model(**batch(1, 8)).loss.backward()
    optimizer.step()
    kept = sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    assert cost.adam_bytes([(p.numel(), False) for p in model.parameters()], "adamw_torch") == kept


def test_the_bytes_of_adafactors_means_are_real():
    from transformers.optimization import Adafactor

    model = AutoModelForCausalLM.from_config(SMALL)
    optimizer = Adafactor(model.parameters(), lr=1e-3, relative_step=False, scale_parameter=False)
    model(**batch(1, 8)).loss.backward()
    optimizer.step()
    state = [value for values in optimizer.state.values() for value in values.values()]
    kept = sum(value.nbytes for value in state if torch.is_tensor(value))
    assert cost.adafactor_bytes([p.shape for p in model.parameters()]) == kept


def test_logits_are_chunked_where_they_are_many():
    assert not memory.prefer_chunked_loss(8 * 128, 1536) and memory.prefer_chunked_loss(4 * 512, 128_256)
    assert not memory.prefer_chunked_loss(2**15, 2**10) and memory.prefer_chunked_loss(
        2**15 + 1, 2**10
    )  # 128 MiB
