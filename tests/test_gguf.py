"""GGUF files against transformers, in real llama.cpp where the xllamacpp wheel is installed."""

import errno
import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from lmlab import gguf_export, llama_cpp, miniworld
from lmlab.data import load_model, load_tokenizer
from lmlab.evaluate import perplexity
from lmlab.gguf_export import adds_bos, export_gguf, gguf_bytes, pre_tokenizer_name, read_metadata
from lmlab.llama_cpp import LlamaCpp, bit_costs

gguf = pytest.importorskip("gguf")
BASES = ("gpt2", "llama", "qwen2")
needs_llama_cpp = pytest.mark.skipif(not llama_cpp.is_installed(), reason="xllamacpp is not installed: pip install "
                                     "--no-deps -r requirements-dev.txt")

TEXTS = [
    "The miller grinds the corn.", "the Miller's wife doesn't know; they'd've asked, I'm sure", "", " ", "a",
    " a leading blank", "a trailing blank ", "two  blanks", "   three before", "many          blanks", "a\tb\t\tc",
    "line\nline", "line\n\n\nline", "\n", "\n\n", " \n ", "line \n  indented", "windows\r\nlines\r\n", "\u00a0no-break",
    "1", "12", "123", "1234567890", "3.14159", "1,234,567.89", "2 + 3 = 5", "10^-3 * 4e5", "½ and ² and Ⅷ",
    "café", "naïve Zoë's déjà vu", "Ærøskøbing, Åse, Øl", "Ελληνικά", "по-русски", "日本語のテキスト", "한국어", "שלום", "العربية",
    "हिन्दी", "ไทย", "😀", "👩‍👩‍👧 family 🇩🇪 flag", "a😀b 12😀34", "def f(x):\n    return x**2 + 1  # square",
    'for (int i = 0; i < 10; ++i) { printf("%d\\n", i); }', "<html lang='en'>&amp;</html>", "$E = mc^2$ \\frac{1}{2}",
    "https://example.org/a_b?c=d&e=%20f", "<think>\nfirst, 2 + 3\n</think>\n\nThe answer is 5.",
    "<｜User｜>What is 2 + 3?<｜Assistant｜><think>\n", "<|endoftext|>text<|endoftext|> <|im_start|>user\nHi<|im_end|>",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name -> its base in float32, as a GGUF file."""
    out = tmp_path_factory.mktemp("gguf")
    return {name: export_gguf(miniworld.model_dir(name), out / f"{name}.gguf", "f32") for name in BASES}


@pytest.fixture(scope="module")
def opened(files):
    return {name: LlamaCpp(path, exact=True) for name, path in files.items()}


def test_there_are_fifty_texts():
    assert len(TEXTS) == 50 == len(set(TEXTS))


@needs_llama_cpp
@pytest.mark.parametrize("name", BASES)
def test_token_ids_are_the_tokenizers(opened, name):
    tokenizer = load_tokenizer(f"miniworld/{name}")
    for text in TEXTS:
        assert opened[name].tokenise(text, begin=True) == tokenizer(text)["input_ids"], repr(text)


# --- tokenizers ------------------------------------------------------------------------------------

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")


def make_tokenizer(name: str):
    """A small tokenizer that cuts text as the big one of that name does; llama-bpe begins with BOS."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pattern = {"gpt-2": None, "llama-bpe": LLAMA3}.get(name, QWEN2)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    made = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    made.pre_tokenizer = bytes_ if pattern is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_])
    made.decoder = decoders.ByteLevel()
    begin, end = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>") if "r1" in name else ("<|begin|>", "<|end|>")
    made.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(
        vocab_size=600, special_tokens=[begin, end, "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made.add_tokens([AddedToken(word, special=False, normalized=False) for word in ("<think>", "</think>")])
    if name == "llama-bpe":
        made.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=begin, eos_token=end)


def make_folder(folder: Path, tokenizer, **changes) -> Path:
    """A Llama with random weights, so large that every position and head matters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    choices = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
               "intermediate_size": 96, "max_position_embeddings": 512, "vocab_size": len(tokenizer) + 7,
               "initializer_range": 0.2, "tie_word_embeddings": False, "bos_token_id": tokenizer.bos_token_id,
               "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(LlamaConfig(**(choices | changes))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "deepseek-r1-qwen"])
def test_each_pre_tokenizer_is_known_and_cuts_alike(tmp_path, name):
    tokenizer = make_tokenizer(name)
    assert pre_tokenizer_name(tokenizer) == name
    assert adds_bos(tokenizer) == (name == "llama-bpe")
    if not llama_cpp.is_installed():
        pytest.skip("xllamacpp is not installed")
    file = LlamaCpp(export_gguf(make_folder(tmp_path / "m", tokenizer), tmp_path / "m.gguf"))
    for text in TEXTS:
        assert file.tokenise(text, begin=True) == tokenizer(text)["input_ids"], repr(text)


def test_a_tokenizer_that_llama_cpp_would_cut_otherwise_is_refused():
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = make_tokenizer("qwen2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="cuts text by .*Whitespace"):
        pre_tokenizer_name(tokenizer)
    tokenizer = make_tokenizer("qwen2")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="changes text first .Lowercase"):
        pre_tokenizer_name(tokenizer)


def test_what_the_file_says_of_the_tokenizer(tmp_path):
    tokenizer = make_tokenizer("llama-bpe")
    tokenizer.chat_template = "{{ messages[0].content }}"
    folder = make_folder(tmp_path / "m", tokenizer)
    ends = {"eos_token_id": [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot_id|>")],
            "do_sample": True, "temperature": 0.6, "top_p": 0.95}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    data = read_metadata(export_gguf(folder, tmp_path / "m.gguf"))
    tokens, types = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == len(tokenizer) + 7 == data["tensors"]["token_embd.weight"][0]
    kinds = dict(zip(tokens, types, strict=True))
    assert (kinds["<|end|>"], kinds["<think>"], kinds["a"], kinds[f"[PAD{len(tokenizer)}]"]) == (3, 4, 1, 5)
    assert data["tokenizer.ggml.add_bos_token"] is True
    assert tokens[data["tokenizer.ggml.eos_token_id"]] == "<|end|>"
    assert tokens[data["tokenizer.ggml.eot_token_id"]] == "<|eot_id|>"
    assert data["tokenizer.chat_template"] == tokenizer.chat_template
    assert data["general.sampling.temp"] == pytest.approx(0.6)
    assert data["general.sampling.top_p"] == pytest.approx(0.95)


def test_more_tokens_than_embeddings_are_refused(tmp_path):
    tokenizer = make_tokenizer("gpt-2")
    folder = make_folder(tmp_path / "m", tokenizer, vocab_size=len(tokenizer) - 1)
    with pytest.raises(ValueError, match="the tokenizer has .* tokens, the model's embeddings .* rows"):
        export_gguf(folder, tmp_path / "m.gguf")


# --- weights ---------------------------------------------------------------------------------------


def hf_logprobs(model, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    return torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


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
            written = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0, len(ids):].tolist()
        assert file.greedy(ids, 30) == written
    ids = tokenizer(miniworld.dataset("stories", "validation", n=1)[0]["text"])["input_ids"]
    # llama.cpp looks GPT-2's GELU up in a table of float16
    assert np.abs(file.logprobs(ids) - hf_logprobs(model, ids)).max() < (2e-3 if name == "gpt2" else 2e-4)


@needs_llama_cpp
def test_perplexity_is_transformers(opened):
    texts = [row["text"] for row in miniworld.dataset("stories", "validation", n=3)]
    theirs = perplexity(load_model("miniworld/llama"), load_tokenizer("miniworld/llama"), texts)
    ours = opened["llama"].perplexity(texts)
    assert ours["tokens"] == theirs["tokens"]
    assert ours["nats"] == pytest.approx(theirs["nats"], rel=1e-4)


@needs_llama_cpp
@pytest.mark.parametrize("rope", [
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64}])
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
    assert np.abs(file.logprobs(ids) - hf_logprobs(model, ids)).max() < 2e-3
