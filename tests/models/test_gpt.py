"""lmlab.models.gpt against transformers, and against what must hold of any causal language model."""

import math
from dataclasses import replace

import pytest
import torch

from lmlab.models import gpt
from lmlab.models.gpt import GPT, GPT2_SIZES, GPTConfig
from lmlab.models.sampling import top_k_top_p_filter

CONFIG = GPTConfig(n_layer=3, n_head=4, n_embd=32, block_size=24, vocab_size=97, eos_token_id=0)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    gpt = GPT(CONFIG)
    for parameter in gpt.parameters():  # biases away from zero, so that a lost or transposed one shows
        parameter.data += 0.05 * torch.randn_like(parameter)
    return gpt.eval()


@pytest.fixture
def reference(model, tmp_path):
    """The same weights in transformers' own GPT-2, by way of the disk."""
    from transformers import GPT2LMHeadModel

    model.save_pretrained(tmp_path)
    return GPT2LMHeadModel.from_pretrained(tmp_path).eval()


def endless(model: GPT) -> GPT:
    """The model, which no token stops any more."""
    model.config = replace(model.config, eos_token_id=None)
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(1, CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def test_a_head_that_is_not_the_embeddings_is_refused(model, tmp_path):
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    head = weights["transformer.wte.weight"].clone()
    save_file(weights | {"lm_head.weight": head}, tmp_path / "model.safetensors")
    assert torch.equal(GPT.from_pretrained(tmp_path).lm_head.weight[: len(head)], head)
    save_file(weights | {"lm_head.weight": head + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lm_head.weight"):
        GPT.from_pretrained(tmp_path)


def test_logits_equal_transformers(model, reference):
    idx = tokens(3, 20)
    torch.testing.assert_close(model(idx)[0], reference(idx).logits, atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_equal_transformers(model, reference):
    idx = tokens(3, 20)
    labels = idx.clone()
    labels[0, 10:] = -100
    _, loss = model(idx[:, :-1], labels[:, 1:])
    theirs = reference(idx, labels=labels).loss
    torch.testing.assert_close(loss, theirs, atol=1e-6, rtol=1e-6)
    loss.backward()
    theirs.backward()
    named = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        expected = named[name].grad
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            expected = expected.T  # transformers' Conv1D
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-4, msg=name)
    assert len(named) == len(list(model.parameters()))


def test_greedy_tokens_equal_transformers(model, reference):
    idx = tokens(2, 5)
    ours = model.generate(idx, 15, temperature=0)
    theirs = reference.generate(
        idx, max_new_tokens=15, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(idx)
    )
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.7}, {"top_k": 9}, {"top_p": 0.8}, {"temperature": 1.3, "top_k": 30, "top_p": 0.9}],
)
def test_sampled_tokens_equal_transformers_with_one_seed(model, reference, settings):
    idx = tokens(2, 5)
    torch.manual_seed(3)
    ours = endless(model).generate(idx, 15, **settings)
    torch.manual_seed(3)
    theirs = reference.generate(
        idx,
        max_new_tokens=15,
        do_sample=True,
        pad_token_id=0,
        eos_token_id=None,
        attention_mask=torch.ones_like(idx),
        **{"top_k": 0, **settings},
    )
    assert ours.tolist() == theirs.tolist()


def padded(model) -> GPT:
    """The same weights with rows of padding, which hold large numbers that must not matter."""
    torch.manual_seed(1)
    wider = GPT(replace(CONFIG, vocab_multiple=64))
    own = model.state_dict()
    wide = torch.full((128, CONFIG.n_embd), 7.0)
    wide[: CONFIG.vocab_size] = own["lm_head.weight"]
    wider.load_state_dict({**own, "lm_head.weight": wide, "transformer.wte.weight": wide})
    return wider.eval()


def test_padding_of_the_vocabulary_changes_nothing(model, tmp_path):
    wider, idx = padded(model), tokens(3, 20)
    assert wider.lm_head.weight.shape[0] == 128 and wider.num_parameters() == model.num_parameters()
    assert wider(idx)[0].shape == (3, 20, 97)
    torch.testing.assert_close(wider(idx)[0], model(idx)[0])
    wider.save_pretrained(tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert again.lm_head.weight.shape[0] == 97
    torch.testing.assert_close(again(idx)[0], model(idx)[0])


@pytest.mark.parametrize("wide", [False, True])
def test_loss_in_chunks_equals_the_whole(model, wide, monkeypatch):
    """The same sum and gradients, with or without whole logits, with rows of padding or none."""
    idx, results = tokens(3, 20), []
    targets = tokens(3, 20).clone()
    targets[0, 10:], targets[2] = -100, -100
    if wide:
        model = padded(model)
    for piece in (2**23, 250):  # of 250 numbers: two tokens
        monkeypatch.setitem(gpt.LOSS_CHUNK, "cpu", piece)
        model.zero_grad()
        loss = model.summed_loss(idx, targets)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(pieces, whole, atol=2e-5, rtol=1e-4)
    assert results[0][0].item() == pytest.approx(30 * model(idx, targets)[1].item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sum_in_half_precision_neither_overflows_nor_loses_tokens(dtype, monkeypatch):
    """106,000 nats: float16 ends at 65,504, and bfloat16 has steps of 512 there."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=64, vocab_size=64))
    idx = torch.randint(64, (400, 65))
    losses = []
    for piece in (2**30, 2**16):
        monkeypatch.setitem(gpt.LOSS_CHUNK, "cpu", piece)
        with torch.autocast("cpu", dtype):
            losses.append(model.summed_loss(idx[:, :-1], idx[:, 1:]))
    expected = 400 * 64 * model(idx[:, :-1], idx[:, 1:])[1].item()
    assert expected > 100_000
    for loss in losses:
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=1e-4)
    losses[1].backward()
    assert model.lm_head.weight.grad.isfinite().all()


def test_filters_equal_transformers():
    from transformers.generation import TopKLogitsWarper, TopPLogitsWarper

    logits, idx = 3 * torch.randn(8, 97, generator=torch.Generator().manual_seed(0)), tokens(8, 6)
    torch.testing.assert_close(top_k_top_p_filter(logits, top_k=7), TopKLogitsWarper(7)(idx, logits))
    for top_p in (0.1, 0.5, 0.9):
        torch.testing.assert_close(
            top_k_top_p_filter(logits, top_p=top_p), TopPLogitsWarper(top_p)(idx, logits)
        )


def test_cache_changes_nothing(model):
    """Greedy generation, checked by recomputing every step without a cache, past the end of the window."""
    idx = tokens(2, 10)
    made = endless(model).generate(idx, 30, temperature=0)
    assert made.shape == (2, 40)
    for end in range(10, 40):
        window = made[:, max(0, end - CONFIG.block_size) : end]
        assert torch.equal(model(window)[0][:, -1].argmax(-1), made[:, end])


def test_prompt_longer_than_the_window(model):
    assert endless(model).generate(tokens(1, 40), 3, temperature=0).shape == (1, 43)


def test_generation_stops_at_eos(model):
    idx = tokens(2, 5)
    free = endless(model).generate(idx, 12, temperature=0)
    eos = int(free[0, 7])
    model.config = replace(model.config, eos_token_id=eos)
    made = model.generate(idx, 12, temperature=0)
    first = free[0].tolist().index(eos, 5)
    assert made[0, : first + 1].tolist() == free[0, : first + 1].tolist()
    assert set(made[0, first:].tolist()) == {eos}


def test_sampling_follows_its_seed_and_leaves_the_mode(model):
    model.train()
    made = [
        model.generate(tokens(1, 4), 8, top_k=20, generator=torch.Generator().manual_seed(seed))
        for seed in (5, 5, 6)
    ]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert model.training


def test_causality(model):
    """What comes later changes no logit before it, whatever the place."""
    idx = tokens(2, 20)
    before = model(idx)[0]
    for place in (1, 7, 19):
        changed = idx.clone()
        changed[:, place:] = (changed[:, place:] + 5) % CONFIG.vocab_size
        after = model(changed)[0]
        torch.testing.assert_close(after[:, :place], before[:, :place], atol=1e-6, rtol=0)
        assert (after[:, place:] - before[:, place:]).abs().max() > 1e-3


def test_attention_weights_equal_transformers(model, tmp_path):
    from transformers import GPT2LMHeadModel

    model.save_pretrained(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    idx = tokens(2, 20)
    weights = model.attention_weights(idx)
    assert weights.shape == (CONFIG.n_layer, 2, CONFIG.n_head, 20, 20)
    expected = torch.stack(theirs(idx, output_attentions=True).attentions)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-5)


def test_attention_weights_are_causal_shares_and_leave_no_trace(model):
    idx = tokens(2, 20)
    before = model(idx)[0]
    weights = model.train().attention_weights(idx)
    assert model.training and not weights.requires_grad
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert torch.equal(weights, weights.tril())
    with pytest.raises(ValueError, match="block_size is 24"):
        model.attention_weights(tokens(1, 25))
    assert not any(block.attn._forward_pre_hooks for block in model.transformer.h)
    assert torch.equal(model.eval()(idx)[0], before)


def test_first_loss_is_that_of_a_uniform_guess():
    torch.manual_seed(0)
    config = GPTConfig(n_layer=4, n_head=4, n_embd=64, block_size=64, vocab_size=1536)
    idx = torch.randint(0, 1536, (8, 65))
    _, loss = GPT(config)(idx[:, :-1], idx[:, 1:])
    assert abs(loss.item() - math.log(1536)) < 0.1


def test_init_is_that_of_gpt2():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=8, n_head=4, n_embd=128, block_size=64, vocab_size=500))
    assert gpt.lm_head.weight is gpt.transformer.wte.weight
    for name, parameter in gpt.named_parameters():
        scale = 0.02 / math.sqrt(2 * 8) if "c_proj" in name else 0.02
        if parameter.ndim == 2:
            assert abs(parameter.std().item() / scale - 1) < 0.05, name
        elif name.endswith("bias"):
            assert not parameter.any(), name


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_sizes_have_the_published_numbers_of_parameters(name, parameters):
    """As transformers counts the released models."""
    with torch.device("meta"):
        assert GPT(GPT2_SIZES[name]).num_parameters() == parameters
        assert GPT(replace(GPT2_SIZES[name], vocab_multiple=64)).num_parameters() == parameters


def test_save_and_load_give_the_same_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == CONFIG
    assert torch.equal(again(tokens(2, 9))[0], model(tokens(2, 9))[0])


def test_loads_what_transformers_saves(reference, tmp_path):
    reference.half().save_pretrained(tmp_path / "theirs")
    ours = GPT.from_pretrained(tmp_path / "theirs")
    assert ours.lm_head.weight.dtype == torch.float32
    theirs = reference.float()(tokens(2, 9)).logits
    torch.testing.assert_close(ours(tokens(2, 9))[0], theirs, atol=1e-5, rtol=1e-5)


def test_loads_files_without_prefix_and_with_mask_buffers(model, reference, tmp_path):
    """The layout of the hub's own gpt2."""
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in saved.items()}
    save_file({**old, "h.0.attn.bias": torch.ones(1, 1, 24, 24)}, tmp_path / "model.safetensors")
    assert torch.equal(GPT.from_pretrained(tmp_path)(tokens(1, 9))[0], model(tokens(1, 9))[0])


def test_files_of_another_shape_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"n_layer": 3', '"n_layer": 4'))
    with pytest.raises(RuntimeError, match="h.3.ln_1.weight"):
        GPT.from_pretrained(tmp_path)
    for key, wrong in (("vocab_size", (97, 90)), ("n_positions", (24, 30))):
        model.save_pretrained(tmp_path)
        config.write_text(config.read_text().replace(f'"{key}": {wrong[0]}', f'"{key}": {wrong[1]}'))
        with pytest.raises(RuntimeError, match="size mismatch"):
            GPT.from_pretrained(tmp_path)


def test_impossible_requests_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="block_size is 24"):
        model(tokens(1, 25))
    with pytest.raises(OSError, match="nowhere"):
        GPT.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(OSError, match="config.json"):
        GPT.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("gelu_new", "relu"))
    with pytest.raises(ValueError, match="activation_function"):
        GPT.from_pretrained(tmp_path)
