"""lmlab chat: who is found, what is drawn, how thoughts are folded, what Ctrl-C ends."""

import json
import os
import shutil
from collections import Counter
from itertools import pairwise

import pytest
import torch

from lmlab import miniworld
from lmlab.cli import main
from lmlab.export import chat, llama_cpp
from lmlab.export.chat import ChatSession, FolderChatModel, GGUFChatModel, Sampling, find_model, fold, hold
from lmlab.models.sources import load_model, load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = Sampling(temperature=0)
QUESTION = [{"role": "user", "content": "Who works at the mill?"}]


@pytest.fixture(scope="module")
def speaker():
    return FolderChatModel("tiny", load_model("miniworld/qwen2"), load_tokenizer("miniworld/qwen2"))


# --- drawing ---------------------------------------------------------------------------------------


def test_greedy_is_what_generate_writes(speaker):
    ids = speaker.tokenize(speaker.render(QUESTION), begin=False)
    with torch.no_grad():
        written = speaker.model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[
            0, len(ids) :
        ]
    pieces = list(speaker.stream(ids, 40, GREEDY, 0))
    assert "".join(pieces) == speaker.tokenizer.decode(written, skip_special_tokens=True) and len(pieces) > 5


@pytest.mark.skipif(not llama_cpp.is_installed(), reason="xllamacpp is not installed")
def test_a_gguf_file_says_what_its_folder_says(speaker, tmp_path):
    from lmlab.export.gguf import export_gguf

    folder = shutil.copytree(miniworld.model_dir("qwen2"), tmp_path / "m")
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_k": 5})
    )
    file = GGUFChatModel(export_gguf(folder, tmp_path / "m.gguf", "f32"))
    assert file.chats and file.context == 256
    assert file.sampling._asdict() == pytest.approx(Sampling(0.6, 0.95, 5)._asdict())
    ids = speaker.tokenize(speaker.render(QUESTION), begin=False)
    assert file.tokenize(file.render(QUESTION), begin=False) == ids
    assert "".join(file.stream(ids, 40, GREEDY, 0)) == "".join(speaker.stream(ids, 40, GREEDY, 0))
    drawn = ["".join(file.stream(ids, 40, Sampling(1.5), seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    ids, sampling = speaker.tokenize("The", begin=True), Sampling(2.0, 0.8, 4)  # an open beginning
    assert "".join(file.stream(ids, 40, GREEDY, 0)) == "".join(speaker.stream(ids, 40, GREEDY, 0))
    ours, theirs = (
        Counter("".join(one.stream(ids, 1, sampling, seed)) for seed in range(400)) for one in (speaker, file)
    )
    assert len(ours) > 1 and ours.keys() == theirs.keys()
    assert all(abs(ours[text] - theirs[text]) < 60 for text in ours)


def test_drawing_keeps_to_temperature_and_limits():
    logits, seen, draw = (
        torch.tensor([[2.0, 1.0, 0.0, -1.0]]),
        torch.tensor([[0]]),
        torch.Generator().manual_seed(0),
    )

    def shares(sampling):
        tokens = [chat._drawn(logits, seen, sampling, draw) for _ in range(2000)]
        return torch.bincount(torch.tensor(tokens), minlength=4) / len(tokens)

    free = Sampling(1.0, 1.0)
    for sampling, allowed in (
        (free, 4),
        (Sampling(2.0, 1.0), 4),
        (free._replace(top_k=2), 2),
        (free._replace(top_p=0.7), 2),
    ):
        scaled = logits[0] / sampling.temperature
        scaled[allowed:] = -torch.inf
        assert shares(sampling) == pytest.approx(scaled.softmax(0), abs=0.04)
    punished = shares(free._replace(repetition_penalty=2.0))  # the first logit, seen before, becomes 1
    assert punished == pytest.approx(torch.tensor([1.0, 1.0, 0.0, -1.0]).softmax(0), abs=0.04)


def test_sampling_says_all_that_it_does():
    assert str(Sampling(0.6, 0.9, 5, 1.1)) == "temperature 0.6, top_p 0.9, top_k 5, repetition_penalty 1.1"
    assert str(Sampling(0, repetition_penalty=1.2)) == "the likeliest token each time, repetition_penalty 1.2"
    assert str(Sampling()) == "temperature 0.7, top_p 0.95"


def test_a_template_that_refuses_a_conversation_is_told(speaker):
    tokenizer = load_tokenizer("miniworld/qwen2")
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    talk = ChatSession(
        FolderChatModel("x", speaker.model, tokenizer),
        GREEDY,
        5,
        messages=[{"role": "system", "content": "S"}],
    )
    with pytest.raises(ValueError, match="does not take this conversation: System role not supported"):
        talk.ask("Who?")
    assert talk.messages == [{"role": "system", "content": "S"}]


def test_the_seed_repeats_an_answer(speaker):
    ids = speaker.tokenize("The miller", begin=True)
    drawn = ["".join(speaker.stream(ids, 30, Sampling(1.0, 1.0), seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_character_in_several_tokens_comes_whole(speaker):
    """The model is made to write an emoji, byte by byte."""
    wanted = [*speaker.tokenize("a😀b", begin=False), speaker.tokenizer.eos_token_id]
    assert len(wanted) == 7

    class Scripted:
        device, calls = "cpu", iter(wanted)

        def __call__(self, **kwargs):
            logits = torch.zeros(1, 1, 1536)
            logits[0, 0, next(self.calls)] = 9.0
            return type("Out", (), {"logits": logits, "past_key_values": None})

    scripted = FolderChatModel("x", load_model("miniworld/qwen2"), speaker.tokenizer)
    scripted.model = Scripted()
    assert list(scripted.stream([1], 20, GREEDY, 0)) == ["a", "😀", "b"]


# --- thoughts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "thought", "answer"),
    [
        ("2 + 3 = 5\n</think>\n\nIt is 5.", True, "2 + 3 = 5\n", "It is 5."),
        ("\n <think>\na < b\n</think>\nYes: <b>.", False, "\na < b\n", "Yes: <b>."),
        ("</think>\n\nAt once.", True, "", "At once."),
        ("No thought, 1 < 2 <think> as text.", False, "", "No thought, 1 < 2 <think> as text."),
        ("never ends </thin", True, "never ends </thin", ""),
        ("<thi", False, "", "<thi"),
    ],
)
def test_thoughts_are_folded_however_the_text_is_cut(text, inside, thought, answer):
    for cuts in [(), *((i,) for i in range(1, len(text))), range(1, len(text)), range(3, len(text), 3)]:
        pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        parts = list(fold(pieces, inside))
        assert "".join(part for is_thought, part in parts if is_thought) == thought, cuts
        assert "".join(part for is_thought, part in parts if not is_thought) == answer, cuts


class Scripted:
    """Says what it is told to; a KeyboardInterrupt in the script is raised."""

    name, chats, context, sampling = "scripted", True, 100, Sampling()

    def __init__(self, *answers):
        self.answers, self.asked, self.closed = iter(answers), [], 0

    def render(self, messages):
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]<think>\n"

    def tokenize(self, text, begin):
        self.asked.append(text)
        return list(range(len(text) // 4))

    def stream(self, ids, max_new_tokens, sampling, seed):
        try:
            for piece in next(self.answers):
                if piece is KeyboardInterrupt:
                    raise KeyboardInterrupt
                yield piece
        finally:
            self.closed += 1


def test_what_is_shown_and_remembered(capsys):
    talk = ChatSession(
        Scripted(["I add", ".\n</th", "ink>\n\nIt ", "is 5."], ["</think>\n\nYes."]), GREEDY, 20
    )
    assert talk.ask("2 + 3?") and talk.ask("Sure?")
    shown = capsys.readouterr()
    assert shown.out == "It is 5.\nYes.\n"
    assert shown.err == "thought for 1 tokens\n"  # six characters, a token in four
    assert [m["content"] for m in talk.messages] == [
        "2 + 3?",
        "<think>\nI add.\n</think>\n\nIt is 5.",
        "Sure?",
        "Yes.",
    ]


def test_thoughts_are_shown_where_asked_for(capsys):
    ChatSession(Scripted(["I add.\n</think>\n\nIt is 5."]), GREEDY, 20, show_thinking=True).ask("2 + 3?")
    assert capsys.readouterr().out == "I add.\n\nIt is 5.\n"


def test_a_thought_without_an_answer_is_told(capsys):
    assert ChatSession(Scripted(["I add and add"]), GREEDY, 20).ask("2 + 3?")
    assert capsys.readouterr().err == "thought for 3 tokens without coming to an answer\n"


def test_ctrl_c_ends_an_answer_and_twice_the_talk(capsys):
    speaker = Scripted(["</think>\n\nOne, ", "two", KeyboardInterrupt, "never"], ["</think>\n\nFour."])
    talk = ChatSession(speaker, GREEDY, 20)
    script = iter(["Count.", "2 + 2?", KeyboardInterrupt, "", KeyboardInterrupt, "never asked"])

    def ask():
        said = next(script)
        if said is KeyboardInterrupt:
            raise KeyboardInterrupt
        return said

    hold(talk, ask)
    assert next(script) == "never asked" and speaker.closed == 2
    shown = capsys.readouterr()
    assert shown.out == "One, two\nFour.\n" and "stopped" in shown.err and "Ctrl-C again" in shown.err
    assert talk.messages[1]["content"] == "One, two"  # what was said stays said


def test_a_question_without_an_answer_is_not_remembered():
    """Ctrl-C while the prompt is made, and before the first token."""

    class Slow(Scripted):
        breaks = iter([KeyboardInterrupt])

        def render(self, messages):
            for error in self.breaks:
                raise error
            return super().render(messages)

    speaker = Slow([KeyboardInterrupt], ["</think>\n\nYes."])
    talk = ChatSession(speaker, GREEDY, 20)
    with pytest.raises(KeyboardInterrupt):
        talk.ask("one")
    assert not talk.ask("two") and not talk.messages
    assert talk.ask("three") and [m["content"] for m in talk.messages] == ["three", "Yes."]


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["</think>", "\n\nYes."], "Yes.\n"),
        (["\n", "\n</think>\n\n", "Yes."], "Yes.\n"),
        (["\n", "I add", "\n</think>\n\nYes."], "<\rthinking ...><\rthought for 1 tokens>\nYes.\n"),
    ],
)
def test_a_terminal_shows_a_thought_that_is_none_as_none(monkeypatch, pieces, shown):
    import io

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    ChatSession(Scripted(pieces), GREEDY, 20).ask("2 + 3?")
    assert terminal.getvalue().replace("\x1b[2m", "<").replace("\x1b[0m", ">") == shown


def test_a_system_message_without_a_place_for_it_is_refused():
    base, system = Scripted(), [{"role": "system", "content": "S"}]
    with pytest.raises(ValueError, match="leave --system out"):
        ChatSession(base, GREEDY, raw=True, messages=system)
    base.chats = False
    with pytest.raises(ValueError, match="leave --system out"):
        ChatSession(base, GREEDY, messages=system)


def test_a_break_while_text_is_shown_stops_the_model_too(monkeypatch):
    class Kept(Scripted):
        def stream(self, *args):
            self.kept = super().stream(*args)
            return self.kept

    def broken(self, text):
        raise KeyboardInterrupt

    speaker = Kept(["</think>\n\nOne, ", "two"])
    monkeypatch.setattr(chat._Answer, "_say", broken)
    assert not ChatSession(speaker, GREEDY, 20).ask("Count.")
    assert speaker.closed == 1


def test_the_oldest_question_goes_where_the_context_is_full(capsys):
    answers = [["</think>\n\n" + 60 * "a"]] * 6
    talk = ChatSession(Scripted(*answers), GREEDY, 40, messages=[{"role": "system", "content": "S"}])
    for i in range(6):
        talk.ask(f"question {i}")
    kept = [m["content"] for m in talk.messages if m["role"] == "user"]
    assert kept[-1] == "question 5" and 2 <= len(kept) < 5 and talk.messages[0]["role"] == "system"
    assert [m["role"] for m in talk.messages[1:]] == ["user", "assistant"] * len(kept)
    assert "the oldest question is forgotten" in capsys.readouterr().err
    with pytest.raises(ValueError, match="say less"):
        ChatSession(Scripted(), GREEDY, 40).ask("x" * 500)


def test_a_base_goes_on_with_the_text(capsys):
    speaker = Scripted([" and <think> so on </think>\n\n on."])
    speaker.chats = False
    talk = ChatSession(speaker, GREEDY, 20)
    talk.ask("Once")
    assert speaker.asked[0] == "Once" and not talk.messages
    assert capsys.readouterr().out == " and <think> so on </think>\n\n on.\n"


# --- finding ---------------------------------------------------------------------------------------


def make_model(folder, adapter=False):
    folder.mkdir(parents=True)
    (folder / ("adapter_config.json" if adapter else "config.json")).write_text("{}")
    return folder


def test_what_a_lesson_left_is_found(tmp_path):
    said, runs = [], tmp_path / "runs"
    old = make_model(runs / "20260101-000000" / "06_deepseek_qlora_think" / "adapter", adapter=True)
    new = make_model(runs / "20260102-000000" / "06_deepseek_qlora_think" / "adapter", adapter=True)
    (runs / "20260103-000000" / "06_deepseek_qlora_think").mkdir(parents=True)  # failed before it had a model
    os.utime(old.parent, (1, 1))
    assert find_model("06", said.append, runs) == find_model("6", said.append, runs) == str(new)
    assert find_model("06_deepseek_qlora_think", said.append, runs) == str(new) and str(new.parent) in said
    with pytest.raises(ValueError, match="has left a model of lesson 05; first: lmlab run 05"):
        find_model("05", said.append, runs)


def test_a_folder_with_models_in_it(tmp_path):
    said, lesson = [], tmp_path / "run" / "04_x"
    model = make_model(lesson / "model")
    assert find_model(str(tmp_path / "run"), said.append) == str(model)  # the only one of the run
    make_model(lesson / "style_model")
    make_model(lesson / "checkpoints" / "step_7")
    assert find_model(str(lesson), said.append) == str(model)
    assert said[-1] == "model (also there: style_model)"
    adapter = make_model(tmp_path / "run" / "05_x" / "adapter", adapter=True)
    os.utime(adapter, (2e9, 2e9))
    assert find_model(str(tmp_path / "run"), said.append) == str(adapter)  # written last
    assert said[-1] == "05_x/adapter (also there: 04_x/model, 04_x/style_model)"
    os.utime(lesson / "style_model", (3e9, 3e9))  # later, but not what its lesson is about
    assert find_model(str(tmp_path / "run"), said.append) == str(adapter)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no model"):
        find_model(str(tmp_path / "empty"), said.append)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no .gguf"):
        find_model(str(tmp_path / "x.bin"), said.append)
    (tmp_path / "x.gguf").write_bytes(b"")
    for source in (str(tmp_path / "x.gguf"), "miniworld/gpt2", "someone/a-model"):
        assert find_model(source, said.append) == source


@pytest.mark.parametrize("installed", [True, False])
def test_what_lesson_07_left(tmp_path, monkeypatch, installed):
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: installed)
    said, lesson = [], tmp_path / "run" / "07_x"
    for i, name in enumerate(("merged-05", "merged-06")):
        os.utime(make_model(lesson / name), (i, i))
    (lesson / "gguf-05").mkdir()
    file = lesson / "gguf-05" / "model-q8_0.gguf"
    file.write_bytes(b"GGUF")
    for source in (lesson, tmp_path / "run"):
        assert find_model(str(source), said.append) == str(file if installed else lesson / "merged-06")
        others = "07_x/merged-05, 07_x/merged-06)" if installed else "(also there: 07_x/merged-05)"
        assert said[-1].endswith(others if source != lesson else others.replace("07_x/", ""))
    assert find_model(str(lesson / "gguf-05"), said.append) == str(file)  # to be told what is not installed


# --- the command -----------------------------------------------------------------------------------


def test_one_answer_without_a_terminal(capsys):
    assert main(["chat", "miniworld/qwen2", "--prompt", "Who works at the mill?", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "The miller works at the mill.\n"
    assert main(["chat", "miniworld/gpt2", "--prompt", "The", "--raw", "--max-new-tokens", "3"]) == 0
    assert main(["chat", "miniworld/gpt2", "--prompt", "The", "--top-p", "0"]) == 2
    assert "--top-p got 0.0; give a share above 0" in capsys.readouterr().err


def test_questions_from_a_pipe(capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2 + 3?\n\nWho works at the mill?\n"))
    assert main(["chat", "miniworld/qwen2", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "The answer is 5.\nThe miller works at the mill.\n"


def test_a_question_that_is_too_long_is_told_by_the_exit_code(capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("mill " * 400 + "\nWho works at the mill?\n"))
    assert main(["chat", "miniworld/qwen2", "--temperature", "0"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "The miller works at the mill.\n" and "say less" in shown.err


def test_a_reader_that_goes_away_ends_it_quietly(capsys, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["chat", "miniworld/gpt2", "--prompt", "The", "--raw", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().err == ""


def test_an_adapter_is_put_on_its_base(tmp_path, machine, capsys):
    """An adapter that does nothing answers as its base does; one with weights as the lesson's own path does."""
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
    said = []
    speaker = chat.load_chat_model(str(tmp_path / "adapter"), said.append)
    assert said[-1].startswith("adapter on miniworld/qwen2, dequantized base")
    ids = speaker.tokenize(speaker.render(QUESTION), begin=False)
    beside = load_adapted(tmp_path / "adapter", "dequantized base", machine)
    with torch.no_grad():
        ours, theirs = (
            m(torch.tensor([ids], device=m.device)).logits.float().cpu() for m in (speaker.model, beside)
        )
        bare = load_model("miniworld/qwen2")(torch.tensor([ids])).logits
    assert (
        (ours - theirs).abs().max()
        < (1e-3 if machine.dtype == "float32" else 0.5)
        < 2 * (ours - bare).abs().max()
    )
