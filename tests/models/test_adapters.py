"""Adapters of every kind: merged, they say what they said beside their base; or they are refused, and why."""

import json
from pathlib import Path

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)

from lmlab.export import merge, verify
from lmlab.models.sources import load_model, load_tokenizer

BASE = "miniworld/llama"
SEQUENCES = [[5, 90, 700, 301, 44, 9, 1200, 63], [8, 1400, 77, 77, 1001]]
LAYERS = ["q_proj", "v_proj", "down_proj"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

MERGED = {  # what peft's B A and its scale are the whole of
    "plain": {"target_modules": "all-linear"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "random from the start": {"init_lora_weights": False},
    "eva": {"init_lora_weights": "eva"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "rank-stabilized": {"use_rslora": True, "lora_alpha": 5},
    "ranks by layer": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 3}},
    "alphas by layer": {"alpha_pattern": {"v_proj": 33}, "use_rslora": True},
    "some layers": {"layers_to_transform": [0]},
    "all but some": {"target_modules": "all-linear", "exclude_modules": ["q_proj"]},
    "biases, of which the base has none": {"bias": "all"},
}
REFUSED = {  # (config, the key or tensor that the message names)
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
    "fast pissa": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
    "rank-stabilized pissa": ({"init_lora_weights": "pissa", "use_rslora": True}, "init_lora_weights"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
    "dora": ({"use_dora": True}, "use_dora"),
    "a bias of its own": ({"lora_bias": True}, "lora_bias"),
    "a norm": ({"modules_to_save": ["norm"]}, "modules_to_save"),
    "a head": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "lora on a tied head": ({"target_modules": ["q_proj", "lm_head"]}, "tie_word_embeddings"),
    "lora on tied embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, "tie_word_embeddings"),
    "tokens": ({"trainable_token_indices": [5, 90]}, "trainable_token_indices"),
    "layers twice": ({"layer_replication": [(0, 2), (1, 2)]}, "layer_replication"),
    "from a token on": ({"alora_invocation_tokens": [44]}, "alora_invocation_tokens"),
    "parameters": (
        {"target_modules": [], "target_parameters": ["self_attn.q_proj.weight"]},
        "target_parameters",
    ),
    "ia3": (IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), "'IA3'"),
    "loha": (LoHaConfig(target_modules=LAYERS), "'LOHA'"),
    "lokr": (LoKrConfig(target_modules=LAYERS), "'LOKR'"),
    "oft": (OFTConfig(target_modules=LAYERS, oft_block_size=8), "'OFT'"),
    "vera": (VeraConfig(target_modules=["q_proj"], r=4), "'VERA'"),
    "adalora": (AdaLoraConfig(target_modules=LAYERS, init_r=4, target_r=2, total_step=10), "'ADALORA'"),
    "prompts": (PromptTuningConfig(num_virtual_tokens=4), "'PROMPT_TUNING'"),
    "prefixes": (PrefixTuningConfig(num_virtual_tokens=4), "'PREFIX_TUNING'"),
}


def config_of(choices):
    if isinstance(choices, dict):
        choices = LoraConfig(**({"r": 4, "lora_alpha": 16, "target_modules": LAYERS} | choices))
    choices.task_type = "CAUSAL_LM"
    return choices


def train(choices, base: str = BASE) -> PeftModel:
    """A base with an adapter whose parameters have moved, as training moves them."""
    torch.manual_seed(0)
    model = get_peft_model(load_model(base), config_of(choices))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape)
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
    return model.eval()


def save(model: PeftModel, folder: Path) -> Path:
    model.save_pretrained(str(folder))
    return folder


def merged_logits(adapter: Path, folder: Path, machine, base: str | None = None) -> list:
    tokenizer = load_tokenizer(BASE)
    merge.merge_to_folder(adapter, folder, "16-bit base", machine, tokenizer, torch.float32, base)
    return verify.logits_of(load_model(str(folder)), SEQUENCES)


def apart(one, other) -> float:
    return verify.compare_logits(one, other).max_difference


@pytest.mark.parametrize("name", MERGED)
def test_what_is_merged_says_what_the_adapter_said_in_training(name, machine, tmp_path):
    model = train(MERGED[name])
    trained = verify.logits_of(model, SEQUENCES)
    with model.disable_adapter():
        assert apart(verify.logits_of(model, SEQUENCES), trained) > 0.1
    assert apart(merged_logits(save(model, tmp_path / "a"), tmp_path / "m", machine), trained) < 3e-5


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_say_something_else_is_refused_by_the_name_of_its_key(name, machine, tmp_path):
    choices, key = REFUSED[name]
    adapter = save(train(choices), tmp_path / "a")
    with pytest.raises(ValueError, match=key):
        merged_logits(adapter, tmp_path / "m", machine)
    assert not (tmp_path / "m").exists()


def test_biases_that_the_base_has_are_refused_by_name(machine, tmp_path):
    adapter = save(train({"bias": "all"}, "miniworld/qwen2"), tmp_path / "a")
    with pytest.raises(ValueError, match=r"_proj\S*\.bias"):
        merged_logits(adapter, tmp_path / "m", machine)


# --- what to do, done ------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_a_converted_adapter_is_merged_right(start, machine, tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(load_model(BASE), config_of({"init_lora_weights": start}))
    model.peft_config["default"].init_lora_weights = True  # as peft's guide has it
    model.save_pretrained(str(tmp_path / "before"))
    model.peft_config["default"].init_lora_weights = start
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape)
    trained = verify.logits_of(model, SEQUENCES)
    model.save_pretrained(
        str(tmp_path / "a"), path_initial_model_for_weight_conversion=str(tmp_path / "before")
    )
    assert apart(merged_logits(tmp_path / "a", tmp_path / "m", machine, BASE), trained) < 3e-5


@pytest.mark.parametrize("name", ["pissa", "olora", "dora", "a norm", "a head", "tokens"])
def test_in_memory_it_is_merged_right(name, machine, tmp_path):
    model = train(REFUSED[name][0])
    trained = verify.logits_of(model, SEQUENCES)
    adapted = merge.load_adapted(save(model, tmp_path / "a"), "16-bit base", machine)
    assert apart(verify.logits_of(adapted, SEQUENCES), trained) < 1e-5
    adapted.merge_and_unload().save_pretrained(str(tmp_path / "m"))
    assert apart(verify.logits_of(load_model(str(tmp_path / "m")), SEQUENCES), trained) < 3e-5


@pytest.mark.parametrize("stored", [False, True])
def test_a_head_of_its_own_is_merged_right(stored, machine, tmp_path):
    """Untied as the message says; or in a file that has the head beside the embeddings, equal to them."""
    from safetensors.torch import load_file, save_file

    base = load_model(BASE)
    base.config.tie_word_embeddings = stored
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.clone())
    base.save_pretrained(str(tmp_path / "base"))
    if stored:  # save_pretrained leaves out a head that is the embeddings
        file = tmp_path / "base" / "model.safetensors"
        weights = load_file(file)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, file, metadata={"format": "pt"})
    model = train(REFUSED["lora on a tied head"][0], str(tmp_path / "base"))
    trained = verify.logits_of(model, SEQUENCES)
    model.save_pretrained(str(tmp_path / "a"), save_embedding_layers=False)
    assert apart(merged_logits(tmp_path / "a", tmp_path / "m", machine), trained) < 3e-5
    assert json.loads((tmp_path / "m" / "config.json").read_text())["tie_word_embeddings"] is False


# --- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["dequantized base", "4-bit base"])
def test_an_adapter_of_a_changed_base_is_not_put_beside_another(way, machine, tmp_path):
    adapter = save(train({"init_lora_weights": "pissa"}), tmp_path / "a")
    with pytest.raises(ValueError, match="init_lora_weights 'pissa'"):
        merge.load_adapted(adapter, way, machine)


@pytest.mark.parametrize("name", ["fast pissa", "from a token on", "prompts", "prefixes"])
def test_what_peft_would_load_as_something_else_is_refused(name, machine, tmp_path):
    choices, key = REFUSED[name]
    with pytest.raises(ValueError, match=key):
        merge.load_adapted(save(train(choices), tmp_path / "a"), "16-bit base", machine)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"use_new_trick": True}, "use_new_trick"),
        ({"peft_type": "NEXT"}, "'NEXT'"),
        ({"peft_type": None}, "peft_type"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"init_lora_weights": "next_year"}, "next_year"),
        ({"revision": "abc"}, "revision 'abc'"),
    ],
)
def test_settings_that_the_peft_here_would_pass_over_are_refused(changes, key, machine, tmp_path):
    adapter = save(train({}), tmp_path / "a")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    for act in (
        lambda: merge.load_adapted(adapter, "16-bit base", machine),
        lambda: merged_logits(adapter, tmp_path / "m", machine),
    ):
        with pytest.raises(ValueError, match=key):
            act()


def test_settings_that_say_nothing_are_let_pass(machine, tmp_path):
    model = train({})
    adapter = save(model, tmp_path / "a")
    file = adapter / "adapter_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"use_new_trick": None, "another": False, "third": []})
    )
    trained = verify.logits_of(model, SEQUENCES)
    assert apart(merged_logits(adapter, tmp_path / "m", machine), trained) < 3e-5


# --- files that do not fit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (
            lambda weights: {"base_model.model.model.layers.9.mlp.down_proj.lora_A.weight": torch.ones(4, 8)},
            "layers.9",
        ),
        (
            lambda weights: {
                name: torch.cat([w, w], dim=0 if "lora_A" in name else 1) for name, w in weights.items()
            },
            "size mismatch",
        ),
    ],
)
def test_factors_for_other_layers_or_of_another_rank_are_refused(change, key, machine, tmp_path):
    from safetensors.torch import load_file, save_file

    adapter = save(train({}), tmp_path / "a")
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(weights | change(weights), file, metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match=key):
        merged_logits(adapter, tmp_path / "m", machine)


def with_tokens(n: int):
    tokenizer = load_tokenizer(BASE)
    tokenizer.add_tokens([f"<extra {i}>" for i in range(n)])
    return tokenizer


def test_more_tokens_than_embeddings_are_refused(machine, tmp_path):
    adapter = save(train({}), tmp_path / "a")
    rows = load_model(BASE).get_input_embeddings().weight.shape[0]
    more = with_tokens(rows - len(load_tokenizer(BASE)) + 2)
    assert len(more) == rows + 2
    with pytest.raises(ValueError, match=f"{rows + 2:,} tokens"):
        merge.merge_to_folder(adapter, tmp_path / "m", "16-bit base", machine, more)
    assert not (tmp_path / "m").exists()


def test_fewer_tokens_than_embeddings_are_padding(machine, tmp_path):
    base = load_model(BASE)
    base.resize_token_embeddings(1600)
    base.save_pretrained(str(tmp_path / "base"))
    adapter = save(train({}, str(tmp_path / "base")), tmp_path / "a")
    with_tokens(2).save_pretrained(adapter)
    merge.merge_to_folder(adapter, tmp_path / "m", "16-bit base", machine, with_tokens(2))
    assert len(load_tokenizer(str(tmp_path / "m"))) == len(load_tokenizer(BASE)) + 2


# --- chat ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dora", "pissa", "lora on a tied head", "layers twice", "ia3"])
def test_chat_speaks_as_the_adapter_does_in_its_own_forward_pass(name, machine, tmp_path):
    from lmlab.export.chat import load_chat_model
    from lmlab.export.generation_config import sampling_config

    model = train(REFUSED[name][0])
    adapter = save(model, tmp_path / "a")
    if name != "pissa":  # which is put beside the base in 16 bits, the others beside the 4-bit base, unpacked
        model = merge.load_adapted(adapter, "dequantized base", machine)
    chat_model = load_chat_model(str(adapter))
    if machine.torch_dtype == torch.float32:
        assert apart(verify.logits_of(chat_model.model, SEQUENCES), verify.logits_of(model, SEQUENCES)) < 1e-5
    with torch.no_grad():
        ids = torch.tensor([SEQUENCES[0]])
        written = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, use_cache=True)
    said = []
    chat_model.answer(SEQUENCES[0], 8, sampling_config(temperature=0), 0, said.append)
    assert "".join(said) == load_tokenizer(BASE).decode(written[0, ids.shape[1] :], skip_special_tokens=True)
