"""Predictions of time and memory: by hand, and against what torch really keeps."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from lmlab import cost

SMALL = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=100)
FULL = SimpleNamespace(device="cpu", dtype="float32", bf16=False, fp16=False)


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
    speed = cost.measured_speed(model, [batch(2, 8), batch(2, 8), batch(2, 24)], FULL)
    assert speed.tokens_per_batch == 32 and speed.flops_per_second > 0
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="got 1 batches; give two or more"):
        cost.measured_speed(model, [batch(1, 8)], FULL)


def test_the_measured_seconds_are_those_of_the_steps_after_the_first(monkeypatch):
    steps = iter([100.0, 2.0, 3.0])
    monkeypatch.setattr(cost, "_step", lambda *_: next(steps))
    model = AutoModelForCausalLM.from_config(SMALL)
    speed = cost.measured_speed(model, [batch(2, 8), batch(2, 8), batch(2, 24)], FULL)
    n_weights = sum(p.numel() for p in model.parameters())
    assert speed.flops_per_second == pytest.approx(6 * n_weights * (16 + 48) / 5)


def test_the_speed_is_that_of_the_machines_number_format(monkeypatch):
    seen, product = set(), torch.nn.functional.scaled_dot_product_attention

    def spy(query, *others, **settings):
        seen.add(query.dtype)
        return product(query, *others, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    half = SimpleNamespace(device="cpu", dtype="bfloat16", bf16=True, fp16=False)
    cost.measured_speed(AutoModelForCausalLM.from_config(SMALL), [batch(2, 8)] * 2, half)
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("half", [True, False])
def test_a_block_keeps_as_many_bytes_as_predicted(half):
    """What autograd saves for a third block beside two. Tensors over tokens alone: casts of weights are counted
    elsewhere."""
    n_tokens, width = 127, 256

    def saved(n_layer):
        model = AutoModelForCausalLM.from_config(GPT2Config(
            n_layer=n_layer, n_head=4, n_embd=width, n_positions=128, vocab_size=100, attn_pdrop=0,
            activation_function="gelu_pytorch_tanh", bos_token_id=0, eos_token_id=0)).train()
        kept = {}  # the tensors, too: a freed one's address would be used again

        def pack(tensor):
            if n_tokens in tensor.shape:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
            model(input_ids=torch.zeros(1, n_tokens, dtype=torch.long))
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    predicted = cost.BLOCK_BYTES["half" if half else "full"]
    assert (saved(3) - saved(2)) / (n_tokens * width) == pytest.approx(predicted, rel=0.03)


def test_what_takes_less_memory():
    n = 1000
    whole = cost.full_memory_gib(SMALL, n, 8)
    kept_inputs, kept_whole = (cost.full_memory_gib(SMALL, 0, 8, checkpointing=c) * 2**30 - 10 * 8 * 100
                               for c in (True, False))
    assert kept_whole == pytest.approx(2 * 44 * 8 * 32)
    assert kept_inputs == pytest.approx(44 * 8 * 32 + 2 * 4 * 8 * 32)  # a block anew, and two inputs in float32
    assert cost.full_memory_gib(SMALL, n, 8, half=False) > whole
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
