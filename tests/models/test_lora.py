"""LoRA on a 4-bit base: what trains, what must not move, what it weighs, and a fault of bitsandbytes."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lmlab.data import packing
from lmlab.hardware import describe_machine
from lmlab.models import adapters, generation, parameters, quantization
from lmlab.models.sources import load_model, load_tokenizer
from lmlab.recipes import load_recipe

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TEXTS = [
    "Anna walked to the bakery.",
    "The old mill stood by the river, and nobody went there.",
    "It rained.",
]


@pytest.fixture
def base(machine):
    return quantization.load_four_bit("miniworld/llama", machine)


@pytest.fixture
def model(base):
    torch.manual_seed(0)
    return get_peft_model(
        base, LoraConfig(r=8, lora_alpha=32, target_modules=ATTENTION, task_type="CAUSAL_LM")
    )


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


def test_base_is_in_nf4_with_double_quantization(base):
    layers = quantization.four_bit_layers(base)
    assert len(layers) == 7 * base.config.num_hidden_layers  # q, k, v, o, gate, up, down
    for layer in layers.values():
        state = layer.weight.quant_state
        assert layer.weight.dtype == torch.uint8 and layer.weight.numel() * 2 == state.shape.numel()
        assert state.quant_type == "nf4" and state.nested and state.blocksize == 64


def test_refuses_a_machine_without_four_bits():
    with pytest.raises(ValueError, match="mps"):
        quantization.four_bit_config(SimpleNamespace(four_bit=False, device="mps", compute_dtype="float32"))


def test_fresh_adapter_changes_nothing(base):
    before = read(base)
    model = get_peft_model(
        base, LoraConfig(r=8, lora_alpha=32, target_modules=ATTENTION, task_type="CAUSAL_LM")
    )
    assert torch.equal(read(model), before)


def test_evaluating_in_between_does_not_disturb_training(model):
    """bitsandbytes repacks weights in the first forward pass without gradients, unless it is told not to."""
    packed = {name: layer.weight.data.clone() for name, layer in quantization.four_bit_layers(model).items()}
    undisturbed = gradients(model)
    read(model)
    after = gradients(model)
    assert all(
        torch.equal(layer.weight.data, packed[name])
        for name, layer in quantization.four_bit_layers(model).items()
    )
    for name, gradient in undisturbed.items():
        torch.testing.assert_close(after[name], gradient)
    assert all(gradient.abs().max() > 0 for name, gradient in undisturbed.items() if "lora_B" in name)


def test_the_fault_that_keep_packing_mends_is_still_there(model):
    from bitsandbytes.nn.modules import has_avx512bf16

    if model.device.type != "cpu" or not has_avx512bf16():
        pytest.skip("only CPUs with AVX512-BF16 have it")
    digest = parameters.frozen_parameters_hash(model)
    for layer in quantization.four_bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = True
    read(model)
    assert parameters.frozen_parameters_hash(model) != digest


def test_training_changes_the_adapter_alone(model):
    assert parameters.trainable_names(model) and all(
        "lora_" in name for name in parameters.trainable_names(model)
    )
    digest = parameters.frozen_parameters_hash(model)
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
    assert parameters.frozen_parameters_hash(model) == digest
    assert all(not torch.equal(p, before) for p, before in zip(trainable, start, strict=True))


@pytest.mark.parametrize("of", ["weight", "scale", "scale of scales", "mean"])
def test_digest_notices_one_bit(model, of):
    digest = parameters.frozen_parameters_hash(model)
    weight = next(iter(quantization.four_bit_layers(model).values())).weight
    state = weight.quant_state
    tensor = {
        "weight": weight.data,
        "scale": state.absmax,
        "scale of scales": state.state2.absmax,
        "mean": state.offset,
    }[of]
    tensor.reshape(-1).view(torch.uint8)[0] ^= 1
    assert parameters.frozen_parameters_hash(model) != digest


def test_bytes_are_those_of_the_shapes(model):
    full = load_model("miniworld/llama")
    linear = sum(
        m.weight.numel() for n, m in full.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"
    )
    everything = sum(p.numel() for p in full.parameters())
    adapter = sum(
        8 * (m.in_features + m.out_features)
        for n, m in full.named_modules()
        if n.rsplit(".", 1)[-1] in ATTENTION
    )
    sizes = parameters.weight_bytes(model)
    assert sizes["four_bit"] == linear / 2 and sizes["float16"] == 2 * everything
    assert sizes["trainable"] == 4 * adapter
    assert 1 / 64 <= sizes["constants"] / linear < 1.3 / 64  # a byte for 64 weights and a little


def test_adam_keeps_two_numbers_per_trained_one(model):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    assert parameters.optimizer_bytes(optimizer) == 0
    gradients(model)
    optimizer.step()
    n_tensors = len(parameters.trainable_names(model))
    assert (
        parameters.optimizer_bytes(optimizer)
        == 2 * parameters.weight_bytes(model)["trainable"] + 4 * n_tensors
    )


def test_batched_generation_equals_one_by_one(model, tokenizer):
    """Left padding, positions and order: none of them may show in what is written."""
    model.eval()
    together = generation.generate_greedy(model, tokenizer, TEXTS, max_new_tokens=12, batch_size=3)
    alone = [generation.generate_greedy(model, tokenizer, [text], max_new_tokens=12)[0] for text in TEXTS]
    assert together == alone and len(set(alone)) == len(alone)


def test_generation_does_without_a_padding_token(model):
    """Llama's tokenizer is published without one."""
    tokenizer = load_tokenizer("miniworld/llama")
    wanted = generation.generate_greedy(model, tokenizer, TEXTS, max_new_tokens=12)
    tokenizer.pad_token = None
    assert generation.generate_greedy(model, tokenizer, TEXTS, max_new_tokens=12) == wanted


def test_adapter_folder_names_its_base(model, tmp_path):
    from peft import PeftConfig

    folder = adapters.save_adapter(model, tmp_path / "adapter", "miniworld/llama")
    assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == "miniworld/llama"
    assert (folder / "adapter_model.safetensors").stat().st_size < 250_000


# --- trained by transformers' Trainer --------------------------------------------------------------


def rows(n: int = 24, width: int = 16):
    """Random rows of one length, a Dataset as packed text gives it."""
    from datasets import Dataset

    ids = torch.randint(8, 1500, (n, width), generator=torch.Generator().manual_seed(2)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


@pytest.fixture
def held_out(tokenizer):
    return packing.document_windows(TEXTS, tokenizer, 64)


def trainer_of(machine, folder, callbacks=(), dropout=0.1, fused=True, **choices):
    """As the notebook's: logits in pieces."""
    from transformers import Trainer, TrainingArguments, default_data_collator
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    base = quantization.load_four_bit("miniworld/llama", machine)
    add_fused_lm_head(base)
    model = get_peft_model(
        base,
        LoraConfig(r=4, lora_alpha=16, lora_dropout=dropout, target_modules=ATTENTION, task_type="CAUSAL_LM"),
    )
    args = TrainingArguments(
        str(folder),
        **{
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "seed": 3,
            "bf16": machine.bf16,
            "fp16": machine.fp16,
            "use_cpu": machine.use_cpu,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        | choices,
    )
    return Trainer(
        model,
        args,
        train_dataset=rows(),
        eval_dataset=rows(8),
        callbacks=list(callbacks),
        data_collator=lambda found: default_data_collator(found) | {"fused_lm_head": fused},
    )


def course(trainer) -> tuple[list, dict]:
    """The loss of each step, and the adapter."""
    return (
        [row["loss"] for row in trainer.state.log_history if "loss" in row],
        {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad},
    )


def assert_same_course(a: tuple, b: tuple) -> None:
    assert a[0] == b[0] and len(a[0]) == 6
    assert all(torch.equal(a[1][name], b[1][name]) for name in a[1])


@pytest.mark.slow
def test_logits_in_pieces_train_as_whole_ones_do(machine, tmp_path, one_thread, monkeypatch):
    """Six steps with two micro-batches each; the vocabulary of 1,536 in three pieces."""
    monkeypatch.setattr("trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE", 512)
    choices = {"gradient_accumulation_steps": 2, "dropout": 0.0}
    pieces, whole = (
        trainer_of(machine, tmp_path / str(fused), fused=fused, **choices) for fused in (True, False)
    )
    for trainer in (pieces, whole):
        trainer.train()
    (losses, adapter), (wanted, wanted_adapter) = course(pieces), course(whole)
    assert losses == pytest.approx(wanted, rel=1e-4)
    for name, tensor in wanted_adapter.items():
        torch.testing.assert_close(adapter[name], tensor, atol=2e-3, rtol=1e-2)


@pytest.mark.slow
def test_evaluations_in_mid_training_change_nothing(machine, tmp_path, one_thread):
    """The Trainer's own, before the first step and after each; the weights keep their bytes."""
    plain = trainer_of(machine, tmp_path / "plain", dropout=0.0)
    plain.train()
    evaluated = trainer_of(
        machine, tmp_path / "eval", dropout=0.0, eval_strategy="steps", eval_steps=1, eval_on_start=True
    )
    digest = parameters.frozen_parameters_hash(evaluated.model)
    evaluated.train()
    assert len([row for row in evaluated.state.log_history if "eval_loss" in row]) == 7
    assert_same_course(course(plain), course(evaluated))
    assert parameters.frozen_parameters_hash(evaluated.model) == digest


def test_recomputed_activations_give_the_same_gradients(model):
    """All that trains lies behind frozen weights, where careless checkpointing drops the gradient."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # else no gradient reaches any A
            torch.nn.init.normal_(parameter, std=0.02)
    wanted = gradients(model)
    model.base_model.model.activation_checkpointing_enable()
    found = gradients(model)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_windows_of_documents_are_scored_as_perplexity_scores_them(model, tokenizer):
    from lmlab.evaluation.perplexity import completion_loss, perplexity

    for width in (8, 64):
        windows = packing.document_windows(TEXTS, tokenizer, width)
        wanted = perplexity(model, tokenizer, TEXTS, width)
        measured = completion_loss(model, windows)
        assert max(map(len, windows["input_ids"])) <= width and measured["tokens"] == wanted["tokens"]
        assert measured["loss"] == pytest.approx(wanted["loss"], rel=1e-6)


# --- a T4: float16, no bfloat16 but by emulation ---------------------------------------------------


@pytest.fixture
def t4(monkeypatch):
    """What lmlab makes of a T4, whose driver claims bfloat16 because it can emulate it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=2**34))
    found = describe_machine()
    monkeypatch.undo()
    return found


def test_a_t4_computes_in_float16(t4):
    assert (t4.device, t4.dtype, t4.compute_dtype, t4.fp16, t4.bf16, t4.use_cpu) == (
        "cuda",
        "float16",
        "float16",
        True,
        False,
        False,
    )
    assert "7.5 has no bfloat16 in hardware" in str(t4)
    assert quantization.four_bit_config(t4).bnb_4bit_compute_dtype == torch.float16


def test_an_ampere_computes_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A100")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=2**35))
    found = describe_machine()
    assert (found.dtype, found.bf16, found.fp16) == ("bfloat16", True, False)


@pytest.fixture
def t4_model(t4, machine):
    """The 4-bit base and adapter as a T4 has them, on this machine's device."""
    model = quantization.load_four_bit("miniworld/llama", dataclasses.replace(t4, device=machine.device))
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION, task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def test_on_a_t4_adapters_are_float32_beside_float16(t4_model):
    dtypes = {p.dtype for p in t4_model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in t4_model.parameters() if not p.requires_grad}
    assert dtypes == {torch.float32} and frozen == {torch.float16, torch.uint8}
    assert not any(t.dtype == torch.bfloat16 for t in (*t4_model.parameters(), *t4_model.buffers()))
    assert all(
        layer.compute_dtype == torch.float16 for layer in quantization.four_bit_layers(t4_model).values()
    )
    assert parameters.trainable_to_float32(t4_model) == 0


@pytest.mark.slow
def test_on_a_t4_the_trainer_trains_them(t4_model, t4, machine, tmp_path):
    """The real Trainer in float16; on a CPU accelerate leaves the scaler out: it has its own test."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    start = {name: p.detach().clone() for name, p in t4_model.named_parameters() if p.requires_grad}
    args = TrainingArguments(
        str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        fp16=t4.fp16,
        bf16=t4.bf16,
        use_cpu=machine.use_cpu,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        activation_checkpointing=True,
    )
    trainer = Trainer(t4_model, args, train_dataset=rows(), data_collator=default_data_collator)
    trainer.train()
    assert trainer.accelerator.mixed_precision == "fp16"
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    for name, p in t4_model.named_parameters():
        if p.requires_grad:
            assert p.dtype == torch.float32 and p.isfinite().all() and not torch.equal(p, start[name])


def test_the_scaler_refuses_what_trainable_to_float32_mends(t4_model, machine):
    """Adapters in 16 bits, as TRL leaves them, cannot be trained under the scaler."""
    for parameter in t4_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.half()

    def step():
        scaler = torch.amp.GradScaler(machine.device, init_scale=128.0)
        trainable = [p for p in t4_model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=1e-3)
        with torch.autocast(machine.device, dtype=torch.float16):
            loss = t4_model(input_ids=batch(t4_model), labels=batch(t4_model)).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)

    with pytest.raises(ValueError, match="unscale FP16 gradients"):
        step()
    t4_model.zero_grad()
    assert parameters.trainable_to_float32(t4_model) == len(parameters.trainable_names(t4_model))
    step()


# --- the lesson's recipes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t4", "gpu"])
def test_recipes_of_the_published_model(name):
    cfg = load_recipe("05_llama_lora_4bit", name)
    assert (cfg.model, cfg.data) == ("meta-llama/Llama-3.2-1B", "Salesforce/wikitext:wikitext-2-raw-v1")
    assert (cfg.lora_r, cfg.lora_alpha, cfg.lora_dropout, cfg.target_modules) == (8, 32, 0.05, ATTENTION)
    assert (cfg.batch_size, cfg.learning_rate, cfg.epochs, cfg.activation_checkpointing) == (4, 2e-4, 3, True)
    assert cfg.evaluations >= 12, "each leaves a checkpoint; a session on a lent GPU may end at any time"
