"""LoRA on a 4-bit base: what trains, what must not move, what it weighs, and a fault of bitsandbytes."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lmlab import finetune
from lmlab.data import load_model, load_tokenizer

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TEXTS = ["Anna walked to the bakery.", "The old mill stood by the river, and nobody went there.", "It rained."]


@pytest.fixture
def base(machine):
    return finetune.load_four_bit("miniworld/llama", machine)


@pytest.fixture
def model(base):
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(r=8, lora_alpha=32, target_modules=ATTENTION, task_type="CAUSAL_LM"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("miniworld/llama")


def batch(model) -> torch.Tensor:
    return torch.randint(8, 1500, (2, 16), generator=torch.Generator().manual_seed(1)).to(model.device)


def gradients(model) -> dict:
    model.zero_grad(set_to_none=True)
    model.train()
    model(input_ids=batch(model), labels=batch(model)).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def read(model) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(batch(model)).logits


def test_base_is_in_nf4_with_double_quantisation(base):
    layers = finetune.four_bit_layers(base)
    assert len(layers) == 7 * base.config.num_hidden_layers  # q, k, v, o, gate, up, down
    for layer in layers.values():
        state = layer.weight.quant_state
        assert layer.weight.dtype == torch.uint8 and layer.weight.numel() * 2 == state.shape.numel()
        assert state.quant_type == "nf4" and state.nested and state.blocksize == 64


def test_refuses_a_machine_without_four_bits():
    with pytest.raises(ValueError, match="mps"):
        finetune.four_bit_config(SimpleNamespace(four_bit=False, device="mps", compute_dtype="float32"))


def test_fresh_adapter_changes_nothing(base):
    before = read(base)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=32, target_modules=ATTENTION, task_type="CAUSAL_LM"))
    assert torch.equal(read(model), before)


def test_evaluating_in_between_does_not_disturb_training(model):
    """bitsandbytes repacks weights in the first forward pass without gradients, unless it is told not to."""
    packed = {name: layer.weight.data.clone() for name, layer in finetune.four_bit_layers(model).items()}
    undisturbed = gradients(model)
    read(model)
    after = gradients(model)
    assert all(torch.equal(layer.weight.data, packed[name]) for name, layer in finetune.four_bit_layers(model).items())
    for name, gradient in undisturbed.items():
        torch.testing.assert_close(after[name], gradient)
    assert all(gradient.abs().max() > 0 for name, gradient in undisturbed.items() if "lora_B" in name)


def test_the_fault_that_keep_packing_mends_is_still_there(model):
    from bitsandbytes.nn.modules import has_avx512bf16

    if model.device.type != "cpu" or not has_avx512bf16():
        pytest.skip("only CPUs with AVX512-BF16 have it")
    digest = finetune.frozen_digest(model)
    for layer in finetune.four_bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = True
    read(model)
    assert finetune.frozen_digest(model) != digest


def test_training_changes_the_adapter_alone(model):
    assert finetune.trainable_names(model) and all("lora_" in name for name in finetune.trainable_names(model))
    digest = finetune.frozen_digest(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trainable]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    losses = []
    for _ in range(4):
        model.train()
        loss = model(input_ids=batch(model), labels=batch(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert finetune.frozen_digest(model) == digest
    assert all(not torch.equal(p, before) for p, before in zip(trainable, start, strict=True))


def test_digest_notices_one_bit(model):
    digest = finetune.frozen_digest(model)
    next(iter(finetune.four_bit_layers(model).values())).weight.data.view(-1)[7] ^= 1
    assert finetune.frozen_digest(model) != digest


def test_bytes_are_those_of_the_shapes(model):
    full = load_model("miniworld/llama")
    linear = sum(m.weight.numel() for n, m in full.named_modules()
                 if isinstance(m, torch.nn.Linear) and n != "lm_head")
    everything = sum(p.numel() for p in full.parameters())
    adapter = sum(8 * (m.in_features + m.out_features) for n, m in full.named_modules()
                  if n.rsplit(".", 1)[-1] in ATTENTION)
    sizes = finetune.weight_bytes(model)
    assert sizes["four_bit"] == linear / 2 and sizes["float16"] == 2 * everything
    assert sizes["trainable"] == 4 * adapter
    assert 1 / 64 <= sizes["constants"] / linear < 1.3 / 64  # a byte for 64 weights and a little


def test_adam_keeps_two_numbers_per_trained_one(model):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    assert finetune.optimizer_bytes(optimizer) == 0
    gradients(model)
    optimizer.step()
    n_tensors = len(finetune.trainable_names(model))
    assert finetune.optimizer_bytes(optimizer) == 2 * finetune.weight_bytes(model)["trainable"] + 4 * n_tensors


def test_batched_generation_equals_one_by_one(model, tokenizer):
    """Left padding, positions and order: none of them may show in what is written."""
    model.eval()
    together = finetune.generate_greedy(model, tokenizer, TEXTS, max_new_tokens=12, batch_size=3)
    alone = [finetune.generate_greedy(model, tokenizer, [text], max_new_tokens=12)[0] for text in TEXTS]
    assert together == alone and len(set(alone)) == len(alone)


def test_generation_does_without_a_padding_token(model):
    """Llama's tokenizer is published without one."""
    tokenizer = load_tokenizer("miniworld/llama")
    wanted = finetune.generate_greedy(model, tokenizer, TEXTS, max_new_tokens=12)
    tokenizer.pad_token = None
    assert finetune.generate_greedy(model, tokenizer, TEXTS, max_new_tokens=12) == wanted


def test_adapter_folder_names_its_base(model, tmp_path):
    from peft import PeftConfig

    folder = finetune.save_adapter(model, tmp_path / "adapter", "miniworld/llama")
    assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == "miniworld/llama"
    assert (folder / "adapter_model.safetensors").stat().st_size < 250_000
