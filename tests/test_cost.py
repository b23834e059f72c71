"""Predictions of time and memory: by hand, and against what torch really keeps."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from lmlab import cost

SMALL = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=100)


def batch(n: int, length: int) -> dict:
    ids = torch.randint(0, 100, (n, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_weights_are_counted_without_the_model():
    real = AutoModelForCausalLM.from_config(SMALL)
    assert cost.n_weights_of(SMALL) == sum(p.numel() for p in real.parameters())
    assert cost.n_weights_of(GPT2Config()) == 124_439_808


def test_six_operations_for_each_weight_and_token():
    """Against torch's own count of the matrix products, of which attention over the texts is beside the rule."""
    from torch.utils.flop_counter import FlopCounterMode

    model = AutoModelForCausalLM.from_config(SMALL)
    inputs = batch(2, 16)
    with FlopCounterMode(display=False) as counter:
        model(**inputs).loss.backward()
    embedded = 64 * 32  # places are looked up, not multiplied
    n_weights = sum(p.numel() for p in model.parameters() if p.ndim > 1) - embedded
    assert counter.get_total_flops() == pytest.approx(cost.training_flops(n_weights, 32), rel=0.1)


def test_speed_is_measured_on_a_copy():
    model = AutoModelForCausalLM.from_config(SMALL).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    speed = cost.measured_speed(model, [batch(2, 8), batch(2, 8), batch(2, 24)])
    assert speed.tokens_per_batch == 32 and speed.flops_per_second > 0
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="got 1 batches; give two or more"):
        cost.measured_speed(model, [batch(1, 8)])


def test_memory_by_hand():
    n = 1000
    weights = 4 + 4 + 8 + 2
    logits, one_block = 10 * 8 * 100, 34 * 8 * 32
    wanted = weights * n + logits + 2 * one_block
    assert cost.full_memory_gib(SMALL, n, 8) == pytest.approx(wanted / 2**30)
    saved = weights * n + logits + one_block + 2 * (2 * 8 * 32)
    assert cost.full_memory_gib(SMALL, n, 8, checkpointing=True) == pytest.approx(saved / 2**30)
    eight = cost.full_memory_gib(SMALL, n, 8) - cost.full_memory_gib(SMALL, n, 8, "adamw_8bit")
    assert eight == pytest.approx(6 * n / 2**30)
    with pytest.raises(ValueError, match="optimizer got 'sgd'; give one of adamw_torch, adamw_8bit"):
        cost.full_memory_gib(SMALL, n, 8, "sgd")


def test_the_bytes_of_weights_gradients_and_averages_are_real():
    model = AutoModelForCausalLM.from_config(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    model(**batch(1, 8)).loss.backward()
    optimizer.step()
    kept = [*model.parameters(), *(p.grad for p in model.parameters())]
    kept += [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    n_weights = sum(p.numel() for p in model.parameters())
    assert sum(t.numel() * t.element_size() for t in kept) == 16 * n_weights
    assert cost.full_memory_gib(SMALL, n_weights, 0, half=False) == pytest.approx(16 * n_weights / 2**30)
