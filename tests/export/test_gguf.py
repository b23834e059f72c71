"""GGUF files against transformers, in real llama.cpp where the xllamacpp wheel is installed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lmlab import miniworld
from lmlab.evaluation.perplexity import perplexity
from lmlab.export import gguf as gguf_export
from lmlab.export import llama_cpp
from lmlab.export.generation_config import sampling_config
from lmlab.export.gguf import QUANTIZATIONS, check_quantization, export_gguf, gguf_bytes, load_gguf
from lmlab.export.gguf_metadata import adds_bos, pre_tokenizer_name
from lmlab.export.llama_cpp import LlamaCpp
from lmlab.models.sources import load_model, load_tokenizer

gguf = pytest.importorskip("gguf")
BASES = ("gpt2", "llama", "qwen2")
pytestmark = pytest.mark.usefixtures("one_thread")
needs_llama_cpp = pytest.mark.skipif(
    not llama_cpp.is_installed(),
    reason="xllamacpp is not installed: pip install --no-deps -r requirements-dev.txt",
)

TEXTS = [
    "The miller grinds the corn.",
    "the Miller's wife doesn't know; they'd've asked, I'm sure",
    "",
    " ",
    "a",
    " a leading blank",
    "a trailing blank ",
    "two  blanks",
    "   three before",
    "many          blanks",
    "a\tb\t\tc",
    "line\nline",
    "line\n\n\nline",
    "\n",
    "\n\n",
    " \n ",
    "line \n  indented",
    "windows\r\nlines\r\n",
    "\u00a0no-break",
    "1",
    "12",
    "123",
    "1234567890",
    "3.14159",
    "1,234,567.89",
    "2 + 3 = 5",
    "10^-3 * 4e5",
    "½ and ² and Ⅷ",
    "café",
    "naïve Zoë's déjà vu",
    "Ærøskøbing, Åse, Øl",
    "Ελληνικά",
    "по-русски",
    "日本語のテキスト",
    "한국어",
    "שלום",
    "العربية",
    "हिन्दी",
    "ไทย",
    "😀",
    "👩‍👩‍👧 family 🇩🇪 flag",
    "a😀b 12😀34",
    "def f(x):\n    return x**2 + 1  # square",
    'for (int i = 0; i < 10; ++i) { printf("%d\\n", i); }',
    "<html lang='en'>&amp;</html>",
    "$E = mc^2$ \\frac{1}{2}",
    "https://example.org/a_b?c=d&e=%20f",
    "<think>\nfirst, 2 + 3\n</think>\n\nThe answer is 5.",
    "<｜User｜>What is 2 + 3?<｜Assistant｜><think>\n",
    "<|endoftext|>text<|endoftext|> <|im_start|>user\nHi<|im_end|>",
]


def metadata(path: Path) -> dict:
    """Keys and values of a file's header, by the gguf package's own reader."""
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name -> its base in float32, as a GGUF file."""
    out = tmp_path_factory.mktemp("gguf")
    return {name: export_gguf(miniworld.model_dir(name), out / f"{name}.gguf", "f32") for name in BASES}


@pytest.fixture(scope="module")
def opened(files):
    return {name: LlamaCpp(path, exact=True) for name, path in files.items()}


@needs_llama_cpp
@pytest.mark.parametrize("name", BASES)
def test_token_ids_are_the_tokenizers(opened, name):
    tokenizer = load_tokenizer(f"miniworld/{name}")
    assert len(TEXTS) == 50 == len(set(TEXTS))
    for text in TEXTS:
        assert opened[name].tokenize(text, add_special_tokens=True) == tokenizer(text)["input_ids"], repr(
            text
        )


# --- tokenizers ------------------------------------------------------------------------------------

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def make_tokenizer(name: str):
    """A small tokenizer that cuts text as the big one of that name does; llama-bpe begins with BOS."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    pattern = {"gpt-2": None, "llama-bpe": LLAMA3}.get(name, QWEN2)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    made = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    made.pre_tokenizer = (
        bytes_
        if pattern is None
        else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_])
    )
    made.decoder = decoders.ByteLevel()
    begin, end = (
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>") if "r1" in name else ("<|begin|>", "<|end|>")
    )
    made.train_from_iterator(
        TEXTS * 4,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=[begin, end, "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    made.add_tokens([AddedToken(word, special=False, normalized=False) for word in ("<think>", "</think>")])
    if name == "llama-bpe":
        made.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=begin, eos_token=end)


def make_folder(folder: Path, tokenizer, **changes) -> Path:
    """A Llama with random weights, so large that every position and head matters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    choices = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "vocab_size": len(tokenizer) + 7,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    LlamaForCausalLM(LlamaConfig(**(choices | changes))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "deepseek-r1-qwen"])
def test_each_pre_tokenizer_is_known_and_cuts_alike(tmp_path, name):
    tokenizer = make_tokenizer(name)
    assert pre_tokenizer_name(tokenizer) == name
    assert adds_bos(tokenizer) == (name == "llama-bpe")
    if not llama_cpp.is_installed():
        pytest.skip("xllamacpp is not installed")
    file = LlamaCpp(export_gguf(make_folder(tmp_path / "m", tokenizer), tmp_path / "m.gguf"))
    for text in TEXTS:
        assert file.tokenize(text, add_special_tokens=True) == tokenizer(text)["input_ids"], repr(text)


def test_a_tokenizer_that_llama_cpp_would_cut_otherwise_is_refused():
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = make_tokenizer("qwen2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="Whitespace"):
        pre_tokenizer_name(tokenizer)
    tokenizer = make_tokenizer("qwen2")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="Lowercase"):
        pre_tokenizer_name(tokenizer)


@needs_llama_cpp
@pytest.mark.parametrize("written", ["{{ bos_token }}", "<|begin|>", ""])
def test_a_prompt_has_bos_where_the_chat_template_writes_it(tmp_path, written):
    """Llama 3 and R1-Distill: the tokenizer adds BOS to a text, and the template writes it too."""
    tokenizer = make_tokenizer("llama-bpe")
    tokenizer.chat_template = (
        written + "{% for m in messages %}<|start_header_id|>{{ m.content }}{% endfor %}"
    )
    file = LlamaCpp(export_gguf(make_folder(tmp_path / "m", tokenizer), tmp_path / "m.gguf"))
    chat = [{"role": "user", "content": "The miller"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert file.render(chat) == prompt and prompt.startswith("<|begin|>") == bool(written)
    assert file.tokenize(prompt) == tokenizer(prompt, add_special_tokens=False)["input_ids"]


@needs_llama_cpp
def test_a_base_without_a_chat_template(tmp_path):
    folder = shutil.copytree(miniworld.model_dir("llama"), tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    file, tokenizer = (LlamaCpp(export_gguf(folder, tmp_path / "m.gguf", "f32")), load_tokenizer(str(folder)))
    ids = file.tokenize("The miller", add_special_tokens=True)
    assert not file.chat_template and ids == tokenizer("The miller")["input_ids"]
    with torch.no_grad():
        written = load_model(str(folder)).generate(torch.tensor([ids]), max_new_tokens=9, do_sample=False)
    said = []
    file.answer(ids, 9, sampling_config(temperature=0), 0, said.append)
    assert "".join(said) == tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True) != ""


@needs_llama_cpp
def test_an_answer_ends_at_every_end_of_the_model(tmp_path):
    """Forced to one of the generation config's tokens, the model stops; forced to another, it goes on."""
    tokenizer = make_tokenizer("llama-bpe")
    folder = make_folder(tmp_path / "m", tokenizer)
    ends = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<think>", "<|start_header_id|>"])]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    file = LlamaCpp(export_gguf(folder, tmp_path / "m.gguf"))
    for token in [*ends, tokenizer.convert_tokens_to_ids("</think>")]:
        request = {"prompt": [20], "n_predict": 3, "logit_bias": [[token, 1000.0]], "return_tokens": True}
        assert file._ask("/completion", request)["tokens_predicted"] == (1 if token in ends else 3)
    (folder / "generation_config.json").write_text('{"eos_token_id": [10, 11, 12]}')
    with pytest.raises(ValueError, match="eos_token_id"):
        export_gguf(folder, tmp_path / "m.gguf")


def test_what_the_file_says_of_the_tokenizer(tmp_path):
    tokenizer = make_tokenizer("llama-bpe")
    tokenizer.chat_template = "{{ messages[0].content }}"
    folder = make_folder(tmp_path / "m", tokenizer)
    data = metadata(export_gguf(folder, tmp_path / "m.gguf"))
    tokens, types = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == len(tokenizer) + 7
    kinds = dict(zip(tokens, types, strict=True))
    assert (kinds["<|end|>"], kinds["<think>"], kinds["a"], kinds[f"[PAD{len(tokenizer)}]"]) == (3, 4, 1, 5)
    assert data["tokenizer.ggml.add_bos_token"] is True
    assert tokens[data["tokenizer.ggml.eos_token_id"]] == "<|end|>"
    assert data["general.type"] == "model"
    assert data["tokenizer.chat_template"] == tokenizer.chat_template


def test_more_tokens_than_embeddings_are_refused(tmp_path):
    tokenizer = make_tokenizer("gpt-2")
    folder = make_folder(tmp_path / "m", tokenizer, vocab_size=len(tokenizer) - 1)
    with pytest.raises(ValueError, match="embeddings"):
        export_gguf(folder, tmp_path / "m.gguf")


# --- weights ---------------------------------------------------------------------------------------


def eos_id(llama: LlamaCpp) -> int:
    return llama.tokenize(llama._ask("/props")["eos_token"])[0]


def llama_logprobs(llama: LlamaCpp, ids: list[int]) -> np.ndarray:
    """Log probability of each token given those before it, (T - 1,), by llama.cpp.

    The server tells only the probability of the token that it samples. So each token is made certain, by
    a bias that is added after the probabilities. The tokens before it are in the KV cache.
    """

    def sample_certainly(before: list[int], token: int, n_probs: int) -> dict | None:
        request = {
            "prompt": before,
            "n_predict": 1,
            "temperature": 0,
            "n_probs": n_probs,
            "cache_prompt": True,
            "logit_bias": [[token, 1000.0]],
        }
        logprobs = llama._server.handle_completions(request)["choices"][0]["logprobs"]
        return logprobs and logprobs["content"][0]

    found = []
    for i in range(1, len(ids)):
        sampled = sample_certainly(ids[:i], ids[i], 1)
        if (
            sampled is None
        ):  # a part of a character, for whose rest the server waits: EOS is sampled, all are told
            others = sample_certainly(ids[:i], eos_id(llama), 2000)["top_logprobs"]
            sampled = next(other for other in others if other["id"] == ids[i])
        assert sampled["id"] == ids[i]
        found.append(sampled["logprob"])
    return np.array(found)


def llama_perplexity(llama: LlamaCpp, texts: list[str]) -> dict:
    """Like ``perplexity.perplexity``: each text is read as BOS + text + EOS."""
    scores = [llama_logprobs(llama, [llama.bos_id, *llama.tokenize(text), eos_id(llama)]) for text in texts]
    nats, counts = np.array([-row.sum() for row in scores]), np.array([len(row) for row in scores])
    return {"nats": nats, "counts": counts, "tokens": counts.sum()}


def hf_logprobs(model, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    return torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("name", BASES)
def test_what_the_model_says_stays_the_same(opened, name):
    """Greedy continuations token by token, and the probability of every token of a story."""
    tokenizer, model = load_tokenizer(f"miniworld/{name}"), load_model(f"miniworld/{name}").eval()
    file = opened[name]
    prompts = [row["text"][:40] for row in miniworld.dataset("stories", "validation", n=4)]
    chats = [[{"role": "user", "content": text}] for text in ("What is 12 + 30?", "Who works at the mill?")]
    for chat in chats:
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert file.render(chat) == rendered
        prompts.append(rendered)
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            written = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[
                0, len(ids) :
            ].tolist()
        assert file.greedy(ids, 30) == written
    ids = tokenizer(miniworld.dataset("stories", "validation", n=1)[0]["text"])["input_ids"]
    # llama.cpp looks GPT-2's GELU up in a table of float16
    assert np.abs(llama_logprobs(file, ids) - hf_logprobs(model, ids)).max() < (
        2e-3 if name == "gpt2" else 2e-4
    )


def with_a_head(folder: Path, name: str, other: bool) -> Path:
    """A base whose config ties its head, its file with a head beside the embeddings: another, or the same."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(miniworld.model_dir(name), folder)
    weights = load_file(folder / "model.safetensors")
    head = next(
        weights[key] for key in weights if key.endswith(("embed_tokens.weight", "wte.weight"))
    ).clone()
    if other:
        head[5:] = head[5:].flip(0)
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    return folder


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("other", [True, False])
@pytest.mark.parametrize("name", BASES)
def test_a_head_beside_the_embeddings_is_used_as_transformers_uses_it(tmp_path, name, other):
    """transformers ties the two where they are equal, whatever the config says; the file holds both."""
    folder = with_a_head(tmp_path / "m", name, other)
    path = export_gguf(folder, tmp_path / "m.gguf", "f32")
    model, ids = (
        load_model(str(folder)).eval(),
        load_tokenizer(str(folder))("The miller grinds the corn.")["input_ids"],
    )
    theirs = hf_logprobs(model, ids)
    assert np.abs(llama_logprobs(LlamaCpp(path, exact=True), ids) - theirs).max() < (
        2e-3 if name == "gpt2" else 2e-4
    )
    tied = hf_logprobs(load_model(f"miniworld/{name}").eval(), ids)
    assert (np.abs(theirs - tied).max() > 1) == other
    if name != "gpt2":  # of which transformers reads no context length
        assert np.abs(hf_logprobs(load_gguf(path), ids) - theirs).max() < 1e-4


def test_a_head_that_is_nowhere_is_refused(tmp_path):
    """llama.cpp would take the embeddings, transformers random numbers."""
    folder = shutil.copytree(miniworld.model_dir("llama"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        export_gguf(folder, tmp_path / "m.gguf")


def test_a_file_in_one_piece_comes_before_older_pieces(tmp_path):
    """As in transformers, which reads model.safetensors where both are there."""
    load_model("miniworld/llama").save_pretrained(tmp_path / "m", max_shard_size="1MB")
    shutil.copytree(miniworld.model_dir("llama"), tmp_path / "m", dirs_exist_ok=True)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    both = export_gguf(tmp_path / "m", tmp_path / "m.gguf").read_bytes()
    alone = export_gguf(
        shutil.copytree(miniworld.model_dir("llama"), tmp_path / "alone" / "m"), tmp_path / "a.gguf"
    )
    assert both == alone.read_bytes()


@pytest.mark.slow
@needs_llama_cpp
def test_perplexity_is_transformers(opened):
    texts = [row["text"] for row in miniworld.dataset("stories", "validation", n=3)]
    theirs = perplexity(load_model("miniworld/llama"), load_tokenizer("miniworld/llama"), texts)
    ours = llama_perplexity(opened["llama"], texts)
    assert ours["tokens"] == theirs["tokens"]
    assert ours["nats"] == pytest.approx(theirs["nats"], rel=1e-4)


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 500.0},
        {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
)
def test_rope_base_factors_and_biases_of_llama(tmp_path, rope):
    """Long after the original context, an untied head, more key heads than one, biases everywhere."""
    tokenizer = make_tokenizer("llama-bpe")
    folder = make_folder(tmp_path / "m", tokenizer, rope_parameters=rope, attention_bias=True, head_dim=32)
    model = load_model(str(folder)).eval()
    torch.manual_seed(1)
    for parameter in (p for name, p in model.named_parameters() if name.endswith("bias")):
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    file = LlamaCpp(export_gguf(folder, tmp_path / "m.gguf", "f32"), exact=True)
    ids = [tokenizer.bos_token_id, *np.random.default_rng(0).integers(10, 500, size=250).tolist()]
    assert np.abs(llama_logprobs(file, ids) - hf_logprobs(model, ids)).max() < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_stored_weights_are_near_by_their_bits(tmp_path, quantization):
    """Read back by the gguf package: every tensor is there, off by at most half a step of its block."""
    from gguf.quants import dequantize

    from lmlab.export.gguf import _interleaved

    folder = miniworld.model_dir("llama")
    path = export_gguf(folder, tmp_path / "m.gguf", quantization)
    assert path.stat().st_size == pytest.approx(gguf_bytes(folder, quantization), abs=40_000)
    state, stored = (
        load_model("miniworld/llama").state_dict(),
        {t.name: t for t in gguf.GGUFReader(path).tensors},
    )
    assert len(stored) == len(state) - 1  # the head is the embeddings
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 6)
    for name, weight in state.items():
        if name == "lm_head.weight":
            continue
        tensor = stored[names.get_name(name, try_suffixes=(".weight",))]
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        weight = (_interleaved(weight, heads) if heads else weight).numpy()
        read = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.tensor_type.name.lower()
        assert kind == (
            "f32"
            if weight.ndim == 1
            else "q8_0"
            if quantization[:2] in ("q4", "q5") and "embed" in name
            else quantization
        )
        if kind in ("f32", "f16"):
            assert (read == weight).all()  # the base is float16
        else:
            blocks = weight.reshape(-1, 32)
            steps = {"q8_0": 254, "q5_0": 31, "q4_0": 15, "bf16": 256}[kind]
            spans = 2 * np.abs(blocks).max(1)
            half = 1.0 if kind in ("q5_0", "q4_0") else 0.5  # they cut one side by a step
            allowed = half * spans / steps + np.abs(blocks).max(1) / 1000  # the scale is a float16
            assert (np.abs(read.reshape(-1, 32) - blocks).max(1) <= allowed + 1e-6).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["transformers", pytest.param("llama.cpp", marks=needs_llama_cpp)])
def test_what_each_bit_costs(tmp_path, reader):
    """Nats per token more than in float32, at most: none, a few thousandths with 8 bits, some with 4."""
    texts = [row["text"] for row in miniworld.dataset("stories", "validation", n=4)]
    tokenizer = load_tokenizer("miniworld/qwen2")
    truth = perplexity(load_model("miniworld/qwen2"), tokenizer, texts)
    for quantization, most in (("f32", 1e-4), ("f16", 2e-4), ("q8_0", 3e-3), ("q4_0", 0.05)):
        path = export_gguf(miniworld.model_dir("qwen2"), tmp_path / "m.gguf", quantization)
        if reader == "llama.cpp":
            there = llama_perplexity(LlamaCpp(path, exact=True), texts)
        else:
            there = perplexity(load_gguf(path), tokenizer, texts)
        assert abs(sum(there["nats"]) - sum(truth["nats"])) / truth["tokens"] < most, quantization


def test_a_folder_in_shards_gives_the_same_file(tmp_path, files):
    load_model("miniworld/llama").save_pretrained(tmp_path / "m", max_shard_size="1MB")
    load_tokenizer("miniworld/llama").save_pretrained(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 3
    there = {
        t.name: t.data
        for t in gguf.GGUFReader(export_gguf(tmp_path / "m", tmp_path / "m.gguf", "f32")).tensors
    }
    whole = {t.name: t.data for t in gguf.GGUFReader(files["llama"]).tensors}
    assert there.keys() == whole.keys() and all((there[name] == whole[name]).all() for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_rows_some_at_a_time_give_the_same_file(tmp_path, monkeypatch, name):
    whole = export_gguf(miniworld.model_dir(name), tmp_path / "m.gguf", "q5_0").read_bytes()
    monkeypatch.setattr(gguf_export, "ROWS", 100)
    assert export_gguf(miniworld.model_dir(name), tmp_path / "m.gguf", "q5_0").read_bytes() == whole


def test_gpt2_as_the_hub_has_it(tmp_path, files):
    """Names without "transformer.", masks among the weights."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(miniworld.model_dir("gpt2"), tmp_path / "m")
    state = {
        name.removeprefix("transformer."): w for name, w in load_file(folder / "model.safetensors").items()
    }
    state["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    save_file(state, folder / "model.safetensors")
    there = {t.name: t.data for t in gguf.GGUFReader(export_gguf(folder, tmp_path / "m.gguf", "f32")).tensors}
    whole = {t.name: t.data for t in gguf.GGUFReader(files["gpt2"]).tensors}
    assert there.keys() == whole.keys() and all((there[name] == whole[name]).all() for name in whole)


# --- whole or not there ----------------------------------------------------------------------------


def break_after(monkeypatch, n: int, error: BaseException) -> None:
    real, count = gguf.GGUFWriter.write_tensor_data, iter(range(n))

    def write(self, tensor):
        if next(count, None) is None:
            raise error
        real(self, tensor)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", write)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(28, "No space left on device"), OSError, "No space"),
        (OSError(5, "Input/output error"), OSError, "output error"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["full", "broken", "ctrl-c"],
)
def test_a_break_leaves_the_older_file_and_no_half_one(tmp_path, monkeypatch, error, raised, message):
    target = tmp_path / "m.gguf"
    target.write_bytes(b"GGUF, older")
    break_after(monkeypatch, 5, error)
    with pytest.raises(raised, match=message):
        export_gguf(miniworld.model_dir("gpt2"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"] and target.read_bytes() == b"GGUF, older"


def test_room_is_asked_for_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    break_after(monkeypatch, 0, AssertionError("a tensor was written"))
    with pytest.raises(ValueError, match="2 MB"):
        export_gguf(miniworld.model_dir("llama"), tmp_path / "m.gguf", "f32")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    assert export_gguf(miniworld.model_dir("llama"), tmp_path / "m.gguf", "q8_0").exists()


def test_files_of_the_users_are_never_removed(tmp_path):
    names = (".partial_m.gguf", "m.gguf.partial", "notes.txt")
    for name in names:
        (tmp_path / name).write_text("mine")
    for _ in range(2):  # a GGUF file of this name is replaced
        export_gguf(miniworld.model_dir("gpt2"), tmp_path / "m.gguf")
    kept = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "m.gguf"}
    assert kept == dict.fromkeys(names, "mine")


def test_one_tensor_at_a_time(tmp_path, monkeypatch):
    """No tensor is read before the one before it is written."""
    alive, real = [], gguf_export._encoded

    def encoded(*args):
        import weakref

        assert not any(reference() is not None for reference in alive)
        made = real(*args)
        alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(gguf_export, "_encoded", encoded)
    export_gguf(miniworld.model_dir("gpt2"), tmp_path / "m.gguf", "q8_0")
    assert len(alive) > 70


# --- refusals -------------------------------------------------------------------------


def change_config(folder: Path, name: str, **changes) -> Path:
    shutil.copytree(miniworld.model_dir(name), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"model_type": "mistral"}, "model_type got mistral"),
        ("gpt2", {"activation_function": "relu"}, "activation_function got 'relu'"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window got True"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
            "rope_type got 'yarn'",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message):
        export_gguf(change_config(tmp_path / "m", name, **changes), tmp_path / "m.gguf")


def test_weights_that_are_no_plain_models_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(miniworld.model_dir("llama"), tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    wild = state | {"model.norm.weight": torch.full((128,), float("nan"))}
    save_file(wild, folder / "model.safetensors")
    with pytest.raises(ValueError, match="model.norm.weight .*nan"):
        export_gguf(folder, tmp_path / "m.gguf")
    large = state | {"model.layers.0.mlp.up_proj.weight": torch.full((384, 128), 1e5)}
    save_file(large, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"up_proj.weight .*100000.* f16"):
        export_gguf(folder, tmp_path / "m.gguf")
    save_file(state | {"model.layers.0.lora_A.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="lora_A.weight"):
        export_gguf(folder, tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*m.gguf*"))
    with pytest.raises(ValueError, match="config.json"):
        export_gguf(tmp_path, tmp_path / "m.gguf")
    with pytest.raises(ValueError, match="'q3'"):
        export_gguf(folder, tmp_path / "m.gguf", "q3")
    with pytest.raises(ValueError, match="'q9'"):
        check_quantization("q9")
    with pytest.raises(ValueError, match="'q4_k_m'"):
        gguf_bytes(folder, "q4_k_m")


@needs_llama_cpp
@pytest.mark.parametrize("at", [10, 24, 2000, -1000])
def test_a_file_that_is_cut_short_is_refused(tmp_path, files, at):
    (tmp_path / "x.gguf").write_bytes(files["llama"].read_bytes()[:at])
    with pytest.raises(ValueError, match=r"x.gguf"):
        LlamaCpp(tmp_path / "x.gguf")


@needs_llama_cpp
def test_other_files_are_refused(tmp_path, files):
    content = bytearray(files["llama"].read_bytes())
    (tmp_path / "x.gguf").write_bytes(b"PK12" + content[4:])
    content[16:24] = b"\xff" * 8  # the number of keys
    (tmp_path / "y.gguf").write_bytes(content)
    for name in ("x.gguf", "y.gguf"):
        with pytest.raises(ValueError, match=name):
            LlamaCpp(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="not-there.gguf"):
        LlamaCpp(tmp_path / "not-there.gguf")


def test_without_the_wheel_it_is_said_how_to_get_it(files, monkeypatch):
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install xllamacpp"):
        LlamaCpp(files["gpt2"])
