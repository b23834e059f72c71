"""Merging: equal to the adapter, and every broken merge is noticed; the saved folder is a plain model."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lmlab import export, finetune
from lmlab.data import load_model, load_tokenizer

EXACT = ("16-bit base", "dequantized base")
SEQUENCES = [[5, 90, 700, 301, 44, 9, 1200, 63], [8, 1400, 77, 77, 1001]]


@pytest.fixture(scope="module", params=["miniworld/llama", "miniworld/qwen2"])
def adapter(request, tmp_path_factory):
    """An adapter with random numbers in it, large enough to matter, on all linear layers."""
    torch.manual_seed(0)
    model = get_peft_model(load_model(request.param), LoraConfig(
        r=4, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return finetune.save_adapter(model, tmp_path_factory.mktemp("adapter"), request.param)


def merged_and_reference(adapter, way, machine):
    adapted = export.load_adapted(adapter, way, machine)
    reference = export.logits_of(adapted, SEQUENCES)
    return adapted.merge_and_unload(), reference


@pytest.mark.parametrize("way", EXACT)
def test_merged_logits_are_the_adapters(adapter, way, machine):
    merged, reference = merged_and_reference(adapter, way, machine)
    agreement = export.verify_merge(reference, merged, SEQUENCES, tolerance=1e-4)
    assert agreement.top1 == 1 and agreement.positions == sum(map(len, SEQUENCES))
    plain = export.logits_of(load_model(export.adapter_base(adapter)), SEQUENCES)
    assert export.compare_logits(reference, plain).max_difference > 0.1  # the adapter did something


def test_dequantized_merge_is_what_was_trained(adapter, machine):
    trained = export.logits_of(export.load_adapted(adapter, "4-bit base", machine), SEQUENCES)
    merged, _ = merged_and_reference(adapter, "dequantized base", machine)
    assert export.compare_logits(trained, export.logits_of(merged, SEQUENCES)).max_difference < 1e-4


def test_rounding_leaves_the_rotary_frequencies_alone(tmp_path):
    """What is saved and loaded again computes what the model in memory computes, far along a text too."""
    long = [[(7 * i) % 1500 for i in range(200)]]
    model = export.round_weights(load_model("miniworld/llama"), torch.float16)
    export.save_model_folder(model, load_tokenizer("miniworld/llama"), tmp_path / "m", title="t", base="b", facts={})
    kept = export.logits_of(model.float(), long)
    assert torch.equal(kept[0], export.logits_of(load_model(str(tmp_path / "m")).float(), long)[0])
    careless = load_model("miniworld/llama").half().float()
    assert export.compare_logits(kept, export.logits_of(careless, long)).max_difference > 1e-3


def test_merging_into_four_bits_rounds_again(adapter, machine):
    merged, reference = merged_and_reference(adapter, "4-bit base", machine)
    with pytest.raises(ValueError, match="alpha / r"):
        export.verify_merge(reference, merged, SEQUENCES)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.01])
def test_wrong_scale_in_one_layer_is_noticed(adapter, factor, machine):
    adapted = export.load_adapted(adapter, "dequantized base", machine)
    reference = export.logits_of(adapted, SEQUENCES)
    layer = next(module for module in adapted.modules() if hasattr(module, "lora_B"))
    layer.scaling["default"] *= factor
    with pytest.raises(ValueError, match="allowed are"):
        export.verify_merge(reference, adapted.merge_and_unload(), SEQUENCES)


def test_nan_is_noticed(adapter, machine):
    merged, reference = merged_and_reference(adapter, "16-bit base", machine)
    with torch.no_grad():
        merged.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="nan"):
        export.verify_merge(reference, merged, SEQUENCES)


def test_saved_folder_loads_without_peft_and_says_the_same(adapter, machine, tmp_path):
    from transformers import AutoModelForCausalLM

    merged, reference = merged_and_reference(adapter, "dequantized base", machine)
    base = export.adapter_base(adapter)
    folder = export.save_model_folder(merged, load_tokenizer(base), tmp_path / "merged", title="Merged", base=base,
                                      facts={"lesson": "05"})
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert export.compare_logits(export.logits_of(merged, SEQUENCES),
                                 export.logits_of(again, SEQUENCES)).max_difference == 0
    assert again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()  # still tied
    n_parameters = sum(p.numel() for p in again.parameters())
    assert (folder / "model.safetensors").stat().st_size < 4 * n_parameters * 1.02  # and stored once
    card = (folder / "README.md").read_text()
    assert f"base_model: {base}" in card and "| lesson | 05 |" in card
    assert load_tokenizer(str(folder))("Anna").input_ids == load_tokenizer(base)("Anna").input_ids
    assert export.folder_bytes(folder) > (folder / "model.safetensors").stat().st_size


def test_base_dtype_is_the_published_one(adapter):
    assert export.base_dtype(export.adapter_base(adapter)) == torch.float16


def test_errors_say_what_to_do(tmp_path, machine):
    with pytest.raises(ValueError, match="adapter_config.json"):
        export.adapter_base(tmp_path)
    with pytest.raises(ValueError, match="dequantized base"):
        export.load_adapted(tmp_path, "8-bit base", machine)
    with pytest.raises(ValueError, match="shapes"):
        export.compare_logits([torch.zeros(3, 5)], [torch.zeros(3, 6)])
    with pytest.raises(ValueError, match="no sequences"):
        export.compare_logits([], [])
