"""A step on meta tensors against the same step on real ones; what stands in for CUDA and bitsandbytes."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from lmlab.models.gpt import GPT, GPTConfig
from lmlab.models.sources import fused_gelu
from lmlab.training import memory
from lmlab.training.memory import estimate_step, in_four_bits, model_on_meta, with_adapter

pytestmark = pytest.mark.usefixtures("one_thread")
GPT2 = GPT2Config(n_layer=3, n_head=2, n_embd=32, n_positions=64, vocab_size=300)
LLAMA = LlamaConfig(
    hidden_size=32,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=300,
    tie_word_embeddings=True,
)
OWN = GPTConfig(n_layer=3, n_head=2, n_embd=32, block_size=64, vocab_size=300)
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def real_step(config, **choices):
    """The same counter over real tensors: their storages are there."""
    with sdpa_kernel(SDPBackend.MATH):  # as hardware.fast_matmul has it for short windows
        return estimate_step(real(config), 2, 32, cpu=True, **choices)


def real(config):
    model = GPT(config) if isinstance(config, GPTConfig) else AutoModelForCausalLM.from_config(config)
    model.loss_type = "ForCausalLM"
    return fused_gelu(model)


@pytest.mark.parametrize("config", [GPT2, LLAMA, OWN], ids=["gpt2", "llama", "own"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_on_meta_makes_what_a_real_step_makes(config, accumulation):
    wanted = real_step(config, accumulation=accumulation)
    got = estimate_step(model_on_meta(config), 2, 32, accumulation=accumulation, cpu=True)
    assert got.flops == wanted.flops > 0
    assert got.peak_by_phase == pytest.approx(wanted.peak_by_phase, rel=0.01)
    assert (got.gradients, got.logits) == pytest.approx((wanted.gradients, wanted.logits), rel=0.01)


def test_checkpointing_on_meta_is_that_of_a_real_step():
    wanted = real_step(LLAMA, accumulation=2, checkpointing=True)
    got = estimate_step(model_on_meta(LLAMA), 2, 32, accumulation=2, checkpointing=True, cpu=True)
    assert got.peak_by_phase == pytest.approx(wanted.peak_by_phase, rel=0.01)
    plain = estimate_step(model_on_meta(LLAMA), 2, 32, accumulation=2, cpu=True)
    assert sum(got[:3]) < 0.7 * sum(plain[:3]) and got.flops > 1.2 * plain.flops


def test_saved_tensors_are_in_the_count():
    """What autograd says that it keeps is a lower bound, and most of the whole."""
    model = model_on_meta(OWN)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model.hidden(torch.zeros(2, 32, dtype=torch.long, device="meta"))
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in kept}
    saved = sum(size for key, size in sizes.items() if key not in weights)
    step = estimate_step(model, 2, 32)
    assert saved <= step.peak_by_phase[0] <= 1.5 * saved + step.logits


def test_autocast_chooses_the_types_that_cuda_does():
    half = memory._Autocast(torch.float16, flash=True, whole_attention=False, keeps_copies=True)
    x, weight = torch.ones(2, 8, device="meta"), torch.nn.Parameter(torch.ones(8, 8, device="meta"))
    with half:
        product = F.linear(x, weight)
        (copy,) = half.copies.values()
        assert product.dtype == (product @ weight).dtype == torch.float16
        assert product.pow(3).dtype == F.layer_norm(product, (8,)).dtype == torch.float32
        assert (product + x).dtype == torch.float32 and F.gelu(product).dtype == torch.float16
    assert half.copies[id(weight)] is copy, "one copy of a weight serves all of a forward pass"


def test_half_precision_needs_less_for_products_and_more_for_copies():
    def steps(*shape):
        return [
            estimate_step(model_on_meta(GPT2), *shape, accumulation=2, dtype=dtype)
            for dtype in ("float32", "bfloat16")
        ]

    full, half = steps(8, 64)
    assert half.activations < full.activations
    full, half = steps(1, 1)
    assert half.peak_by_phase[0] > full.peak_by_phase[0]


def test_a_four_bit_layer_keeps_nothing_for_the_backward_pass():
    layer = memory.FourBitLinear(8, 16, device="meta").requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        x = torch.ones(4, 8, device="meta", requires_grad=True)
        layer(x).sum().backward()
    assert x.grad.shape == x.shape and not [t for t in kept if t.shape in ((4, 8), (8, 16), (16, 8))]


def test_only_the_head_stays_out_of_four_bits_and_only_adapters_train():
    model = with_adapter(in_four_bits(model_on_meta(LLAMA, torch.bfloat16)), **LORA)
    packed = [name for name, module in model.named_modules() if isinstance(module, memory.FourBitLinear)]
    assert len(packed) == 7 * LLAMA.num_hidden_layers
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())


def test_pieces_of_the_logits_are_those_of_trl():
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    assert chunked_logprob.TOKEN_CHUNK_SIZE == memory.CHUNK_TOKENS
    assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == memory.CHUNK_ENTRIES


def test_logits_in_pieces_cost_little_where_whole_ones_cost_most():
    wide = LlamaConfig(**{**LLAMA.to_dict(), "vocab_size": 100_000})
    whole, pieces = (
        estimate_step(model_on_meta(wide), 2, 512, dtype="bfloat16", chunked=chunked)
        for chunked in (False, True)
    )
    logits = 2 * 512 * 100_000
    assert 8 * logits < whole.logits < 16 * logits
    assert pieces.logits < whole.logits / 8


def test_grouped_heads_need_whole_attention_without_flash():
    new, old = (
        estimate_step(model_on_meta(LLAMA), 1, 512, dtype="float16", flash=flash) for flash in (True, False)
    )
    assert old.activations > new.activations + 512 * 512 * 4 * 2
