"""The shipped bases and their tokenizer: layout, size, what they know, and that the command rebuilds them."""

import build_bases
import pytest
import torch
from bases import tokenizer
from bases.corpus import MIX
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmlab import miniworld

LIMIT_MB = 12


@pytest.fixture(params=miniworld.BASES)
def base(request) -> str:
    return request.param


def test_all_bases_together_stay_small():
    total = sum(f.stat().st_size for f in miniworld.MODELS.rglob("*") if f.is_file())
    assert 0 < total <= LIMIT_MB * 1e6


def test_weights_are_float16_and_the_folder_is_the_hubs(base):
    folder = miniworld.model_dir(base)
    names = {f.name for f in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "chat_template.jinja",
    } <= names
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}  # noqa: SIM118  (it is no mapping)


def test_architecture_and_parameter_count(base):
    model = AutoModelForCausalLM.from_pretrained(miniworld.model_dir(base))
    assert model.config.model_type == base
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 4e6
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert module.in_features % 64 == 0, f"{name}: a block of NF4 would span two rows"


@pytest.mark.slow
def test_a_base_knows_the_stories_close_to_their_floor(base):
    folder = miniworld.model_dir(base)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loss, floor = build_bases.story_loss(model, AutoTokenizer.from_pretrained(folder), n=100)
    assert floor - 0.02 < loss, "no model can pass the floor: log-probabilities or loss are wrong"
    assert loss < floor + 0.15


def test_tokenizer_round_trip_and_special_tokens(base):
    tok = AutoTokenizer.from_pretrained(miniworld.model_dir(base))
    assert 1024 <= len(tok) <= 2048
    assert len({tok.eos_token_id, tok.pad_token_id}) == 2
    for text in ("One icy night Ada was lost.", "3 x 14 = 42.", "Ünïcode ☃ and\n\ttabs", " = Title = \n\n"):
        assert tok.decode(tok(text, add_special_tokens=False)["input_ids"]) == text
    assert tok.tokenize("417") == ["4", "1", "7"]
    assert len(tok("<think>", add_special_tokens=False)["input_ids"]) == 1
    assert "<think>" in tok.decode(tok("<think>")["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize("name, data", [("llama", "encyclopedia"), ("qwen2", "problems")])
def test_a_frozen_head_can_tell_the_tokens_of_its_lesson_apart(name, data):
    """Rows of the tied embedding that pretraining never met stay twins, and no adapter can part them."""
    tok = AutoTokenizer.from_pretrained(miniworld.model_dir(name))
    rows = AutoModelForCausalLM.from_pretrained(miniworld.model_dir(name), dtype=torch.float32).lm_head.weight
    rows = torch.nn.functional.normalize(rows.detach(), dim=1)
    twins = ((rows @ rows.T).fill_diagonal_(0) > 0.99).any(1)
    texts = [
        row["text"] if "text" in row else row["problem"] + "\n</think>\n\n" + " ".join(row["steps"])
        for row in miniworld.dataset(data, "validation")
    ]
    used = torch.tensor([i for ids in tok(texts, add_special_tokens=False)["input_ids"] for i in ids])
    assert twins[used].float().mean() < 1e-3, sorted({tok.decode([i]) for i in used[twins[used]].tolist()})


def test_one_vocabulary_for_all_bases():
    folders = [miniworld.model_dir(name) for name in miniworld.BASES]
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in folders]
    assert all(v == vocabularies[0] for v in vocabularies)


def test_chat_template_is_r1s_own():
    """TRL trains on the reasoning only if the template is byte-identical to the one it knows."""
    tok = AutoTokenizer.from_pretrained(miniworld.model_dir("qwen2"))
    assert tok.chat_template == tokenizer.r1_chat_template()
    question = [{"role": "user", "content": "2 + 2?"}]
    prompt = tok.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt == "<｜begin▁of▁sentence｜><｜User｜>2 + 2?<｜Assistant｜><think>\n"
    for name in ("<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"):
        assert len(tok(name, add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.slow
def test_the_tokenizer_is_rebuilt_the_same():
    rebuilt = tokenizer.train_tokenizer(tokenizer.corpus())
    shipped = AutoTokenizer.from_pretrained(miniworld.model_dir("gpt2"))
    assert rebuilt.get_vocab() == shipped.get_vocab()


def test_windows_are_fresh_and_parted_by_eos(base, monkeypatch):
    monkeypatch.setattr(build_bases, "DOCUMENTS_PER_ROUND", 200)
    tok = AutoTokenizer.from_pretrained(miniworld.model_dir(base))
    batches = build_bases.windows(base, tok, seed=1)
    first, second = next(batches), next(batches)
    assert first.shape == (build_bases.BATCH, build_bases.WINDOW + 1)
    assert (first == tok.eos_token_id).any()
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_the_command_builds_a_base(tmp_path, monkeypatch):
    """Three steps: everything but the quality."""
    monkeypatch.setattr("sys.argv", ["build_bases", "llama", "--steps", "3"])
    monkeypatch.setattr(build_bases, "MODELS", tmp_path)
    build_bases.main()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    assert model.config.model_type == "llama"
    card = (tmp_path / "llama" / "README.md").read_text()
    assert "entropy floor" in card
    assert all(kind in card for kind in MIX["llama"])
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]
