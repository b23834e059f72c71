"""lmlab chat: which model is found, what is sampled, what is remembered, what Ctrl-C ends."""

import os
from collections import Counter

import pytest
import torch

from lmlab import miniworld
from lmlab.cli import main
from lmlab.export import chat, llama_cpp
from lmlab.export.chat import ChatSession
from lmlab.export.chat_models import FolderChatModel
from lmlab.export.generation_config import sampling_config, sampling_parameters
from lmlab.models.sources import load_model, load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = sampling_config(temperature=0, max_new_tokens=20)
QUESTION = [{"role": "user", "content": "Who works at the mill?"}]


@pytest.fixture(scope="module")
def chat_model():
    return FolderChatModel("tiny", load_model("miniworld/qwen2"), load_tokenizer("miniworld/qwen2"))


def chunks_of(model, *request) -> list[str]:
    chunks = []
    model.answer(*request, chunks.append)
    return chunks


def said(model, *request) -> str:
    return "".join(chunks_of(model, *request))


# --- sampling --------------------------------------------------------------------------------------


def test_greedy_streaming_is_what_generate_writes(chat_model):
    ids = chat_model.tokenize(chat_model.render(QUESTION), add_special_tokens=False)
    with torch.no_grad():
        written = chat_model.model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)
    pieces = chunks_of(chat_model, ids, 40, GREEDY, 0)
    text = chat_model.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True)
    assert "".join(pieces) == text and len(pieces) > 3


@pytest.mark.slow
@pytest.mark.skipif(not llama_cpp.is_installed(), reason="xllamacpp is not installed")
def test_a_gguf_file_says_what_its_folder_says(chat_model, tmp_path):
    from lmlab.export.gguf import export_gguf

    file = llama_cpp.LlamaCpp(export_gguf(miniworld.model_dir("qwen2"), tmp_path / "m.gguf", "f32"))
    assert file.chat_template and file.context_length == 256
    ids = chat_model.tokenize(chat_model.render(QUESTION), add_special_tokens=False)
    assert file.tokenize(file.render(QUESTION), add_special_tokens=False) == ids
    assert said(file, ids, 40, GREEDY, 0) == said(chat_model, ids, 40, GREEDY, 0)
    hot = sampling_config(temperature=1.5)
    sampled = [said(file, ids, 40, hot, seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    ids = chat_model.tokenize("The", add_special_tokens=True)  # an open beginning
    assert said(file, ids, 40, GREEDY, 0) == said(chat_model, ids, 40, GREEDY, 0)
    config = sampling_config(temperature=2.0, top_p=0.8, top_k=4)
    ours, theirs = (
        Counter(said(one, ids, 1, config, seed) for seed in range(300)) for one in (chat_model, file)
    )
    assert len(ours) > 1 and ours.keys() == theirs.keys()
    assert all(abs(ours[text] - theirs[text]) < 50 for text in ours)


def test_the_seed_repeats_an_answer(chat_model):
    ids = chat_model.tokenize("The miller", add_special_tokens=True)
    config = sampling_config(temperature=1.0, top_p=1.0)
    sampled = [said(chat_model, ids, 30, config, seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_an_error_of_generate_reaches_the_reader(chat_model):
    with pytest.raises(IndexError):
        said(chat_model, [10**6], 5, GREEDY, 0)


def test_a_character_in_several_tokens_comes_whole(chat_model, monkeypatch):
    """The model is made to write an emoji, byte by byte."""
    wanted = [*chat_model.tokenize("a😀b", add_special_tokens=False), chat_model.tokenizer.eos_token_id]
    assert len(wanted) == 7

    def scripted(streamer, **settings):
        for token in [0, *wanted]:  # the prompt comes first
            streamer.put(torch.tensor([token]))
        streamer.end()

    monkeypatch.setattr(chat_model.model, "generate", scripted)
    pieces = chunks_of(chat_model, [0], 20, GREEDY, 0)
    assert "".join(pieces) == "a😀b" and not any("\ufffd" in piece for piece in pieces)


def test_given_before_published_before_default():
    from transformers import GenerationConfig

    published = GenerationConfig(do_sample=True, temperature=0.6, top_k=20)
    config = sampling_config(published, top_k=5, max_new_tokens=7)
    assert sampling_parameters(config) == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 5,
        "repetition_penalty": 1.0,
    }
    assert config.max_new_tokens == 7
    assert not sampling_config(published, temperature=0).do_sample


def test_a_template_that_refuses_a_conversation_is_told(chat_model):
    tokenizer = load_tokenizer("miniworld/qwen2")
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    refusing = FolderChatModel("x", chat_model.model, tokenizer)
    session = ChatSession(refusing, GREEDY)
    with pytest.raises(ValueError, match="System role not supported"):
        session.ask("Who?")
    assert session.messages == []


# --- the conversation ------------------------------------------------------------------------------


class Scripted:
    """Says what it is told to; a KeyboardInterrupt in the script is raised."""

    name, chat_template, context_length, generation_config = "scripted", "a template", 100, GREEDY

    def __init__(self, *answers):
        self.answers, self.asked = iter(answers), []

    def render(self, messages):
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]<think>\n"

    def tokenize(self, text, add_special_tokens):
        self.asked.append(text)
        return list(range(len(text) // 4))

    def answer(self, ids, max_new_tokens, config, seed, show):
        for piece in next(self.answers):
            if piece is KeyboardInterrupt:
                raise KeyboardInterrupt
            show(piece)


def test_what_is_shown_and_remembered(capsys):
    model = Scripted(["I add", ".\n</th", "ink>\n\nIt ", "is 5."], ["</think>\n\nYes."])
    session = ChatSession(model, GREEDY)
    session.ask("2 + 3?")
    session.ask("Sure?")
    shown = capsys.readouterr()
    assert shown.out == "I add.\n</think>\n\nIt is 5.\n</think>\n\nYes.\n" and not shown.err
    assert [m["content"] for m in session.messages] == [
        "2 + 3?",
        "<think>\nI add.\n</think>\n\nIt is 5.",
        "Sure?",
        "<think>\n</think>\n\nYes.",
    ]


def test_reasoning_that_does_not_end_is_not_remembered(capsys):
    session = ChatSession(Scripted(["I add and add"]), GREEDY)
    session.ask("2 + 3?")
    assert capsys.readouterr().out == "I add and add\n" and not session.messages


def test_ctrl_c_ends_an_answer_and_then_the_chat(capsys):
    model = Scripted(["</think>\n\nOne, ", "two", KeyboardInterrupt, "never"], ["</think>\n\nFour."])
    session = ChatSession(model, GREEDY)
    script = iter(["Count.", "", "2 + 2?", KeyboardInterrupt, "never asked"])

    def read():
        text = next(script)
        if text is KeyboardInterrupt:
            raise KeyboardInterrupt
        return text

    session.run(read)
    assert next(script) == "never asked"
    assert capsys.readouterr().out == "</think>\n\nOne, two\n</think>\n\nFour.\n"
    assert session.messages[1]["content"].endswith("One, two")  # what was said stays said


def test_a_question_without_an_answer_is_not_remembered():
    """Ctrl-C while the prompt is made, and before the first token."""

    class Slow(Scripted):
        breaks = iter([KeyboardInterrupt])

        def render(self, messages):
            for error in self.breaks:
                raise error
            return super().render(messages)

    session = ChatSession(Slow([KeyboardInterrupt], ["</think>\n\nYes."]), GREEDY)
    with pytest.raises(KeyboardInterrupt):
        session.ask("one")
    session.ask("two")
    assert not session.messages
    session.ask("three")
    assert session.messages[0]["content"] == "three" and len(session.messages) == 2


def test_the_oldest_question_goes_where_the_context_is_full(capsys):
    config = sampling_config(temperature=0, max_new_tokens=40)
    model = Scripted(*[["</think>\n\n" + 60 * "a"]] * 6)
    session = ChatSession(model, config)
    for i in range(6):
        session.ask(f"question {i}")
    kept = [m["content"] for m in session.messages if m["role"] == "user"]
    assert kept[-1] == "question 5" and 2 <= len(kept) < 5
    assert [m["role"] for m in session.messages] == ["user", "assistant"] * len(kept)
    assert "forgotten" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the context 100"):
        ChatSession(Scripted(), config).ask("x" * 500)


def test_a_base_continues_the_text(capsys):
    model = Scripted([" and <think> so on </think>\n\n on."])
    model.chat_template = None
    session = ChatSession(model, GREEDY)
    session.ask("Once")
    assert model.asked[0] == "Once" and not session.messages
    assert capsys.readouterr().out == " and <think> so on </think>\n\n on.\n"


# --- the command -----------------------------------------------------------------------------------


def test_one_answer_without_a_terminal(capsys):
    assert main(["chat", "miniworld/qwen2", "--prompt", "Who works at the mill?", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "</think>\n\nThe miller works at the mill.\n"
    assert main(["chat", "miniworld/gpt2", "--prompt", "The", "--raw", "--max-new-tokens", "3"]) == 0
    assert main(["chat", "miniworld/gpt2", "--prompt", "The", "--temperature", "-1"]) == 2
    assert "--temperature" in capsys.readouterr().err


def test_questions_from_a_pipe(capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2 + 3?\n\nWho works at the mill?\n"))
    assert main(["chat", "miniworld/qwen2", "--temperature", "0"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("</think>\n\nThe miller works at the mill.\n") and "The answer is 5.\n" in shown


def test_a_question_that_is_too_long_is_told(capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("mill " * 400 + "\nWho works at the mill?\n"))
    assert main(["chat", "miniworld/qwen2", "--temperature", "0"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "</think>\n\nThe miller works at the mill.\n" and "the context 256" in shown.err


def test_a_reader_that_goes_away_ends_it_quietly(capsys, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["chat", "miniworld/gpt2", "--prompt", "The", "--raw", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_an_adapter_is_put_on_its_base(tmp_path, machine, caplog):
    """An adapter that does nothing answers as its base; one with weights as the lesson's own path does."""
    from peft import LoraConfig, get_peft_model

    from lmlab.export.merge import load_adapted
    from lmlab.models.adapters import save_adapter

    torch.manual_seed(0)
    model = get_peft_model(
        load_model("miniworld/qwen2"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    save_adapter(model, tmp_path / "adapter", "miniworld/qwen2")
    with caplog.at_level("INFO", "lmlab"):
        chat_model = chat.load_chat_model(str(tmp_path / "adapter"))
    assert "adapter on miniworld/qwen2, dequantized base" in caplog.messages[-1]
    ids = chat_model.tokenize(chat_model.render(QUESTION), add_special_tokens=False)
    beside = load_adapted(tmp_path / "adapter", "dequantized base", machine)
    with torch.no_grad():
        ours, theirs = (
            m(torch.tensor([ids], device=m.device)).logits.float().cpu() for m in (chat_model.model, beside)
        )
        bare = load_model("miniworld/qwen2")(torch.tensor([ids])).logits
    assert (
        (ours - theirs).abs().max()
        < (1e-3 if machine.dtype == "float32" else 0.5)
        < 2 * (ours - bare).abs().max()
    )
