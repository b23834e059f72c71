"""Merging: equal to peft's by tensor; every broken merge is noticed; a folder is whole or not there."""

import dataclasses
import errno
import gc
import json
import shutil
import weakref
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lmlab.export import hub, merge, verify
from lmlab.export.weight_files import INDEX
from lmlab.models import adapters, quantization
from lmlab.models.sources import load_model, load_tokenizer, model_source

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SEQUENCES = [[5, 90, 700, 301, 44, 9, 1200, 63], [8, 1400, 77, 77, 1001]]


def random_adapter(model, folder, source, **choices):
    """An adapter with random numbers in it, large enough to matter, on all linear layers."""
    torch.manual_seed(0)
    choices = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"} | choices
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **choices))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return adapters.save_adapter(model, folder, source)


@pytest.fixture(scope="module", params=["miniworld/llama", "miniworld/qwen2"])
def adapter(request, tmp_path_factory):
    return random_adapter(load_model(request.param), tmp_path_factory.mktemp("adapter"), request.param)


@pytest.fixture(scope="module")
def llama_adapter(tmp_path_factory):
    return random_adapter(
        load_model("miniworld/llama"),
        tmp_path_factory.mktemp("adapter"),
        "miniworld/llama",
        target_modules=["q_proj", "o_proj"],
        use_rslora=True,
        alpha_pattern={"o_proj": 3},
    )


def by_peft(adapter, way, machine, base=None) -> dict:
    return merge.load_adapted(adapter, way, machine, base).merge_and_unload().state_dict()


def streamed(adapter, folder, way, machine, dtype=None, base=None) -> dict:
    """name -> tensor of the merged folder's files."""
    tokenizer = load_tokenizer("miniworld/llama")
    merge.merge_to_folder(adapter, folder, way, machine, tokenizer, dtype, base)
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_bits(ours: dict, theirs: dict):
    assert ours.keys() >= theirs.keys() - {"lm_head.weight"}  # tied, and stored once
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


# --- the merge -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", merge.STREAMED)
def test_the_streamed_merge_is_pefts_to_the_bit(adapter, way, machine, tmp_path):
    assert_same_bits(
        streamed(adapter, tmp_path / "m", way, machine, torch.float32), by_peft(adapter, way, machine)
    )


def test_scales_are_pefts_own(llama_adapter, machine, tmp_path):
    ours = streamed(llama_adapter, tmp_path / "m", "16-bit base", machine, torch.float32)
    assert_same_bits(ours, by_peft(llama_adapter, "16-bit base", machine))


def test_a_machine_with_16_bits_merges_what_it_trained_on(llama_adapter, machine, tmp_path):
    """A T4 or an A100 holds the base in 16 bits and unpacks 4-bit weights to them."""
    half = dataclasses.replace(machine, dtype="bfloat16")
    ours = streamed(llama_adapter, tmp_path / "m", "dequantized base", half, torch.float32)
    assert_same_bits(ours, by_peft(llama_adapter, "dequantized base", half))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_sharded_bases_give_shards_and_weights_are_rounded_once(llama_adapter, dtype, machine, tmp_path):
    base = tmp_path / "base"
    load_model("miniworld/llama").save_pretrained(base, max_shard_size="1MB")
    load_tokenizer("miniworld/llama").save_pretrained(base)
    ours = streamed(llama_adapter, tmp_path / "m", "16-bit base", machine, dtype, str(base))
    theirs = {
        name: tensor.to(dtype) for name, tensor in by_peft(llama_adapter, "16-bit base", machine).items()
    }
    assert_same_bits(ours, theirs)
    names = sorted(file.name for file in base.glob("*.safetensors"))
    assert len(names) > 2 and names == sorted(file.name for file in (tmp_path / "m").glob("*.safetensors"))
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in ours.values())
    assert index["weight_map"] == json.loads((base / INDEX).read_text())["weight_map"]
    loaded = load_model(str(tmp_path / "m"), dtype="auto")
    assert loaded.dtype == dtype and json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] in str(
        dtype
    )
    assert_same_bits(ours, loaded.state_dict())


def test_the_folder_is_a_plain_model(adapter, machine, tmp_path):
    """It loads without peft, says far along a text what is merged in memory, and names no folder of ours."""
    from transformers import AutoModelForCausalLM

    base = merge.adapter_base(adapter)
    merged = merge.merge_to_folder(adapter, tmp_path / "m", "16-bit base", machine, load_tokenizer(base))
    again = AutoModelForCausalLM.from_pretrained(merged.folder)
    assert again.dtype == merge.base_dtype(base) == torch.float16
    reference = merge.load_adapted(adapter, "16-bit base", machine).merge_and_unload()
    for parameter in reference.parameters():  # not .half(), which rounds the rotary frequencies too
        parameter.data = parameter.data.half().float()
    long = [[(7 * i) % 1500 for i in range(200)]]
    assert torch.equal(verify.logits_of(again.float(), long)[0], verify.logits_of(reference, long)[0])
    config = json.loads((merged.folder / "config.json").read_text())
    assert "quantization_config" not in config and config["architectures"] == [type(again).__name__]
    texts = [file.read_text() for file in merged.folder.glob("*.json")]
    assert not any(model_source(base) in text or str(tmp_path) in text for text in texts)
    assert load_tokenizer(str(merged.folder))("Anna").input_ids == load_tokenizer(base)("Anna").input_ids
    assert (
        merged.n_bytes
        == merge.merged_bytes(base)
        == sum(t.nbytes for t in load_file(merged.folder / "model.safetensors").values())
    )


class LiveBytes(TorchDispatchMode):
    """The most bytes of CPU tensors that were alive at once, of those that any operation saw."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_flatten((args, kwargs, result))[0]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self.note(tensor.untyped_storage())
        return result

    def note(self, storage):
        place = storage.data_ptr()
        if place and place not in self.live:
            self.live[place] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, place)

    def forget(self, place):
        self.now -= self.live.pop(place)


def deep_base(folder, n_layer=16, **choices):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        **{
            "model_type": "llama",
            "hidden_size": 64,
            "num_hidden_layers": n_layer,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 1500,
            "initializer_range": 0.1,
            "tie_word_embeddings": True,
        }
        | choices
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("way", merge.STREAMED)
def test_a_merge_holds_a_few_tensors_and_never_the_model(way, machine, gpt2_folder, tmp_path):
    model = deep_base(tmp_path / "base", n_layer=24, vocab_size=400, initializer_range=0.02)
    adapter = random_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    largest = max(parameter.nbytes for name, parameter in model.named_parameters() if "lora" not in name)
    whole = merge.merged_bytes(str(tmp_path / "base"), torch.float32)
    held = sum(tensor.nbytes for tensor in load_file(adapter / "adapter_model.safetensors").values())
    del model
    gc.collect()
    with LiveBytes() as counted:
        merge.merge_to_folder(adapter, tmp_path / "m", way, machine, load_tokenizer(str(gpt2_folder)))
    assert held + largest < counted.peak < held + 5 * largest < whole / 4


# --- the bounds ------------------------------------------------------------------------------------


def test_compare_logits_counts_what_it_says():
    torch.manual_seed(0)
    a, b = [torch.randn(3, 7), torch.randn(2, 7)], [torch.randn(3, 7), torch.randn(2, 7)]
    a_all, b_all = torch.cat(a), torch.cat(b)
    near = verify.compare_logits(a, b)
    kl = torch.nn.functional.kl_div(
        b_all.log_softmax(-1), a_all.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert near.kl == pytest.approx(kl.item(), rel=1e-5)
    assert near.max_difference == (a_all - b_all).abs().max() and near.positions == 5
    assert near.mean_difference == pytest.approx((a_all - b_all).abs().mean().item(), rel=1e-6)
    assert near.top1 == pytest.approx((a_all.argmax(-1) == b_all.argmax(-1)).float().mean().item())


@pytest.fixture(scope="module")
def logits(adapter, machine):
    """way -> (logits of the base, of the adapter beside it, config)."""
    found = {}
    for way, beside in (("16-bit base", "16-bit base"), ("dequantized base", "4-bit base")):
        adapted = merge.load_adapted(adapter, beside, machine)
        with adapted.disable_adapter():
            base = verify.logits_of(adapted, SEQUENCES)
        found[way] = base, verify.logits_of(adapted, SEQUENCES), adapted.config
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", merge.STREAMED)
def test_a_right_merge_is_within_its_bound(adapter, logits, way, dtype, machine, tmp_path):
    streamed(adapter, tmp_path / "m", way, machine, dtype)
    base, adapted, config = logits[way]
    bound = verify.logit_tolerance(adapted, config, torch.float32, dtype)
    merged = verify.logits_of(load_model(str(tmp_path / "m")), SEQUENCES)
    near = verify.verify_merge(adapted, base, merged, bound)
    assert near.max_difference > bound.max / 50  # nor is the bound so wide that it says nothing
    assert near.mean_difference > bound.mean / 50


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bounds_hold_for_28_layers(dtype, tmp_path):
    model = deep_base(tmp_path / "deep", n_layer=28).eval()
    exact = verify.logits_of(model.double(), SEQUENCES)
    bound = verify.logit_tolerance(exact, model.config, torch.float32, dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).double()
    near = verify.compare_logits(exact, verify.logits_of(model.float(), SEQUENCES))
    assert bound.max / 100 < near.max_difference < bound.max
    assert bound.mean / 100 < near.mean_difference < bound.mean


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(torch.float32, 1.001), (torch.float16, 1.1), (torch.bfloat16, 1.5), (torch.bfloat16, 0.5)],
)
def test_a_wrong_scale_is_noticed(adapter, logits, dtype, factor, machine, tmp_path):
    wrong = shutil.copytree(adapter, tmp_path / "wrong")
    config = json.loads((wrong / "adapter_config.json").read_text())
    (wrong / "adapter_config.json").write_text(
        json.dumps(config | {"lora_alpha": config["lora_alpha"] * factor})
    )
    streamed(wrong, tmp_path / "m", "dequantized base", machine, dtype)
    base, adapted, config = logits["dequantized base"]
    bound = verify.logit_tolerance(adapted, config, torch.float32, dtype)
    with pytest.raises(ValueError, match="alpha"):
        verify.verify_merge(
            adapted, base, verify.logits_of(load_model(str(tmp_path / "m")), SEQUENCES), bound
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merge_that_adds_nothing_is_noticed(logits, dtype):
    base, adapted, config = logits["16-bit base"]
    bound = verify.logit_tolerance(adapted, config, torch.float32, dtype)
    nearly = [row + bound.mean / 2 for row in base]
    with pytest.raises(ValueError, match="not added"):
        verify.verify_merge(adapted, base, nearly, bound)
    with pytest.raises(ValueError, match="trained"):
        verify.verify_merge(nearly, base, adapted, bound)
    broken = [row.clone() for row in adapted]
    broken[0][3, 5] = float("nan")
    with pytest.raises(ValueError, match="nan"):
        verify.verify_merge(adapted, base, broken, bound)


@pytest.mark.slow
def test_four_bits_again_and_another_base_are_noticed(adapter, logits, machine):
    base, adapted, config = logits["dequantized base"]
    bound = verify.logit_tolerance(adapted, config, torch.float32, torch.bfloat16)
    merged = merge.load_adapted(adapter, "4-bit base", machine).merge_and_unload()
    quantization.disable_cpu_repacking(merged)
    for wrong in (verify.logits_of(merged, SEQUENCES), logits["16-bit base"][1]):
        with pytest.raises(ValueError, match="allowed are"):
            verify.verify_merge(adapted, base, wrong, bound)


# --- whole or not there ----------------------------------------------------------------------------


def merge_into(adapter, folder, machine):
    return merge.merge_to_folder(adapter, folder, "16-bit base", machine, load_tokenizer("miniworld/llama"))


def test_the_disk_is_asked_first(llama_adapter, machine, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    need = merge.merged_bytes("miniworld/llama") + merge.TOKENIZER_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need - 1))
    with pytest.raises(ValueError, match="needs 70 MB"):
        merge_into(llama_adapter, tmp_path / "deep" / "merged", machine)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need))
    merge_into(llama_adapter, tmp_path / "deep" / "merged", machine)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError(errno.ENOSPC, "No space left on device"), OSError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_what_fails_midway_leaves_nothing_half(
    llama_adapter, machine, tmp_path, monkeypatch, failure, raised
):
    whole = merge.quantize_dequantize
    calls = []

    def fails(*args):
        calls.append(args)
        if len(calls) == 20:
            assert any(file.stat().st_size > 8 for file in tmp_path.glob(".m.*/new/*.safetensors"))
            raise failure
        return whole(*args)

    merge_into(llama_adapter, tmp_path / "m", machine)
    before = contents(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(merge, "quantize_dequantize", fails)
        with pytest.raises(raised, match="disk is full" if raised is OSError else None):
            merge.merge_to_folder(
                llama_adapter, tmp_path / "m", "dequantized base", machine, load_tokenizer("miniworld/llama")
            )
    assert len(calls) == 20 and contents(tmp_path) == before


def contents(folder) -> dict:
    """path -> bytes of every file under a folder, and None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_files_of_the_users_are_never_removed(llama_adapter, machine, tmp_path):
    """Neither beside the folder, whatever their names, nor one that no merge wrote, be it a model."""
    for name in ("m.old", "m.partial", "m.new", ".m.partial", ".partial_m"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text(name)
    (tmp_path / "file").write_text("mine")
    shutil.copytree(model_source("miniworld/llama"), tmp_path / "model")
    before = contents(tmp_path)
    for taken in ("file", "model", "m.old"):
        with pytest.raises(ValueError, match=taken):
            merge_into(llama_adapter, tmp_path / taken, machine)
    assert contents(tmp_path) == before
    (tmp_path / "m").mkdir()  # empty: nothing is lost
    merge_into(llama_adapter, tmp_path / "m", machine)
    (tmp_path / "m" / "README.md").write_text("a card")
    merge_into(llama_adapter, tmp_path / "m", machine)  # a merge may be done again
    beside = {name: data for name, data in contents(tmp_path).items() if name.split("/")[0] != "m"}
    assert beside == before


def test_a_folder_of_the_users_that_appears_meanwhile_stays(llama_adapter, machine, tmp_path, monkeypatch):
    whole = merge.write_safetensors

    def slow(*args):
        whole(*args)
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "mine").touch()

    monkeypatch.setattr(merge, "write_safetensors", slow)
    with pytest.raises(ValueError, match="holds something else"):
        merge_into(llama_adapter, tmp_path / "m", machine)
    assert list(contents(tmp_path)) == ["m", "m/mine"]


def test_a_link_is_kept_and_what_it_points_to_is_written(llama_adapter, machine, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "m")
    for _ in range(2):
        merge_into(llama_adapter, tmp_path / "link", machine)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "m" / "model.safetensors").is_file()
    assert len(list(tmp_path.iterdir())) == 2 and len(list((tmp_path / "disk").iterdir())) == 1


def test_a_merge_does_not_replace_what_it_reads(llama_adapter, machine, tmp_path):
    merge_into(llama_adapter, tmp_path / "base", machine)
    with pytest.raises(ValueError, match="folder got"):
        merge.merge_to_folder(
            llama_adapter,
            tmp_path / "base",
            "16-bit base",
            machine,
            load_tokenizer("miniworld/llama"),
            base=str(tmp_path / "base"),
        )


# --- a tied config, and a file with another head -----------------------------------------------------


@pytest.fixture()
def two_heads(tmp_path):
    """A base whose config ties its head, in a file with another head than the embeddings."""
    folder = tmp_path / "base"
    shutil.copytree(model_source("miniworld/llama"), folder)
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight"].flip(0).clone()
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_merge_keeps_the_head_that_transformers_uses_and_says_so(two_heads, machine, tmp_path):
    adapter = random_adapter(load_model(str(two_heads)), tmp_path / "adapter", str(two_heads))
    adapted = verify.logits_of(merge.load_adapted(adapter, "16-bit base", machine), SEQUENCES)
    streamed(adapter, tmp_path / "m", "16-bit base", machine, torch.float32)
    merged = verify.logits_of(load_model(str(tmp_path / "m")), SEQUENCES)
    assert verify.compare_logits(adapted, merged).max_difference < 1e-4
    assert json.loads((tmp_path / "m" / "config.json").read_text())["tie_word_embeddings"] is False
    assert merge.merged_bytes(str(two_heads)) == merge.merged_bytes("miniworld/llama") + 2 * 1536 * 128


# --- mistakes --------------------------------------------------------------------------------------


def test_numbers_that_float16_cannot_hold_are_refused(machine, tmp_path):
    model = load_model("miniworld/llama")
    model.model.norm.weight.data[3] = 1e5
    model.save_pretrained(tmp_path / "base")
    adapter = random_adapter(model, tmp_path / "adapter", str(tmp_path / "base"))
    with pytest.raises(ValueError, match=r"model.norm.weight got a number that torch.float16 cannot hold"):
        merge_into(adapter, tmp_path / "m", machine)
    assert not (tmp_path / "m").exists()
    streamed(adapter, tmp_path / "m", "16-bit base", machine, torch.bfloat16)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, "modules_to_save"),
    ],
)
def test_adapters_of_another_kind_are_refused(choices, said, machine, tmp_path):
    adapter = random_adapter(
        load_model("miniworld/llama"), tmp_path / "adapter", "miniworld/llama", **choices
    )
    with pytest.raises(ValueError, match=said):
        merge_into(adapter, tmp_path / "m", machine)


def test_a_lost_matrix_and_gpt2_are_refused(llama_adapter, gpt2_folder, machine, tmp_path):
    lossy = shutil.copytree(llama_adapter, tmp_path / "lossy")
    weights = load_file(lossy / "adapter_model.safetensors")
    del weights[next(name for name in weights if "lora_B" in name)]
    save_file(weights, lossy / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="lora_B"):
        merge_into(lossy, tmp_path / "m", machine)
    gpt2 = random_adapter(
        load_model(str(gpt2_folder)),
        tmp_path / "gpt2",
        str(gpt2_folder),
        fan_in_fan_out=True,
        target_modules=["c_attn"],
    )
    with pytest.raises(ValueError, match="c_attn"):
        merge_into(gpt2, tmp_path / "m", machine)


def test_bases_that_cannot_be_read_are_refused(llama_adapter, machine, tmp_path):
    base = shutil.copytree(model_source("miniworld/llama"), tmp_path / "base")

    def merge_it():
        streamed(llama_adapter, tmp_path / "m", "16-bit base", machine, base=str(base))

    config = json.loads((base / "config.json").read_text())
    quantized = config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (base / "config.json").write_text(json.dumps(quantized))
    with pytest.raises(ValueError, match="quantized"):
        merge_it()
    (base / "config.json").write_text(json.dumps(config))
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(ValueError, match="model.safetensors"):
        merge_it()


def test_a_base_of_the_hub_is_fetched_without_other_formats(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path)
    )
    assert merge.base_folder("meta-llama/Llama-3.2-1B") == tmp_path
    assert asked == [(("meta-llama/Llama-3.2-1B",), {"allow_patterns": ["*.json", "*.safetensors"]})]


def test_errors_say_what_to_do(tmp_path, machine):
    LoraConfig().save_pretrained(tmp_path / "nameless")
    with pytest.raises(ValueError, match="base_model_name_or_path"):
        merge.adapter_base(tmp_path / "nameless")
    with pytest.raises(ValueError, match="adapter_config.json"):
        merge.adapter_base(tmp_path)
    with pytest.raises(ValueError, match="dequantized base"):
        merge.load_adapted(tmp_path, "8-bit base", machine)
    with pytest.raises(ValueError, match="4-bit base"):
        merge.merge_to_folder(tmp_path, tmp_path / "m", "4-bit base", machine, None)


# --- card and hub ----------------------------------------------------------------------------------


RESULTS = [
    hub.Result("perplexity", 1.798, 1.743, 1.856, "Salesforce/wikitext:wikitext-2-raw-v1"),
    hub.Result("accuracy", 0.925, 0.80, 0.97, "miniworld/problems"),
]


def write_card(folder, base="meta-llama/Llama-3.2-1B"):
    folder.mkdir(exist_ok=True)
    data = ["Salesforce/wikitext:wikitext-2-raw-v1", str(folder / "own.txt")]
    card = hub.model_card(
        "A model",
        base=base,
        data=data,
        recipe="lesson 05, recipe tiny",
        results=RESULTS,
        facts={"merged into": "unpacked NF4"},
        limits=["English."],
    )
    card.save(folder / "README.md")


def test_the_card_is_read_back_by_the_hubs_library(tmp_path):
    write_card(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "meta-llama/Llama-3.2-1B" and card.data.datasets == ["Salesforce/wikitext"]
    for result, read in zip(RESULTS, card.data.eval_results, strict=True):
        assert (read.metric_name, read.metric_value) == (result.metric, result.value)
        assert read.metric_args == {"interval_95": [result.low, result.high]}
    for said in (
        "| perplexity | 1.798 | 1.743 to 1.856 |",
        "own.txt",
        "- English.",
        "unpacked NF4",
        "recipe tiny",
    ):
        assert said in card.text
    assert str(tmp_path) not in card.content
    write_card(tmp_path, base="miniworld/llama")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None and "miniworld/llama with a LoRA adapter" in card.text


class Api:
    """Stands in for HfApi: nothing is sent."""

    def __init__(self):
        self.token, self.calls = True, []

    def whoami(self):
        if not self.token:
            raise LocalTokenNotFoundError("no token")

    public = ()  # names that are there, for all to see

    def repo_exists(self, repo):
        return repo in self.public

    def repo_info(self, repo):
        return SimpleNamespace(private=repo not in self.public)

    def create_repo(self, repo, **choices):
        self.calls.append(("create_repo", repo, choices))

    def upload_folder(self, **choices):
        self.calls.append(("upload_folder", choices["repo_id"], choices["folder_path"]))


def test_a_push_is_a_dry_run_by_default(tmp_path, monkeypatch):
    api = Api()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    write_card(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="safetensors"):
        hub.push_to_hub(tmp_path, "me/model")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 3000)
    (tmp_path / merge.MERGED_MARK).touch()  # of no use to others
    planned = hub.push_to_hub(tmp_path, "me/model")
    assert api.calls == [] and "nothing is sent" in planned
    assert "0.003 MB  model.safetensors" in planned and "in 3 files" in planned
    api.token = False
    with pytest.raises(LocalTokenNotFoundError):
        hub.push_to_hub(tmp_path, "me/model", dry_run=False)
    api.token = True
    hub.push_to_hub(tmp_path, "me/model", dry_run=False)
    assert api.calls == [
        ("create_repo", "me/model", {"private": True, "exist_ok": True}),
        ("upload_folder", "me/model", str(tmp_path)),
    ]
    api.public = ("me/model",)
    with pytest.raises(ValueError, match="me/model"):
        hub.push_to_hub(tmp_path, "me/model", dry_run=False)
    (tmp_path / "README.md").unlink()
    with pytest.raises(ValueError, match="README.md"):
        hub.push_to_hub(tmp_path, "me/model")
