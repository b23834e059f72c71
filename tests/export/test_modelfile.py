"""Ollama's Modelfile: its Go template renders what the chat template renders."""

import json
import re
import shutil
from pathlib import Path

import pytest

from lmlab import miniworld
from lmlab.export.gguf import export_gguf
from lmlab.export.ollama import chat_format, write_modelfile
from lmlab.models.sources import load_tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{% if m.role == 'user' %}Modern: {{ m.content }}\nShakespeare: {% else %}"
    "{{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}"
)
TURNS = [
    ("user", "What is 2 + 3?"),
    ("assistant", "The answer is 5."),
    ("user", "And {4 + 4}?\n\nSay it."),
    ("assistant", "8"),
    ("user", "Why?"),
]
CONVERSATIONS = {
    "one": TURNS[:1],
    "three": TURNS[:3],
    "five": TURNS,
    "system": [("system", "Be brief.\nAlways."), *TURNS[:3]],
}


# --- Go's text/template, as far as the Modelfile uses it -------------------------------------------


def render_go(template: str, data: dict) -> str:
    parts = re.split(r"\{\{(.*?)\}\}", template)
    nodes = [("text", part) if i % 2 == 0 else ("action", part.strip()) for i, part in enumerate(parts)]
    tree, rest = _block(nodes)
    assert not rest
    return _run(tree, data, data, {})


def _block(nodes: list) -> tuple[list, list]:
    """(the nodes up to the end or else of this block, what comes from there)."""
    tree = []
    while nodes:
        kind, text = nodes[0]
        if kind == "action" and (text == "end" or text.startswith("else")):
            return tree, nodes
        nodes = nodes[1:]
        if kind == "action" and text.startswith(("if ", "range ")):
            node, nodes = _branches(text, nodes)
            tree.append(node)
        else:
            tree.append((kind, text))
    return tree, nodes


def _branches(text: str, nodes: list) -> tuple[tuple, list]:
    body, nodes = _block(nodes)
    after, other = nodes[0][1], []
    nodes = nodes[1:]
    if after.startswith("else if "):
        inner, nodes = _branches(after.removeprefix("else "), nodes)
        other = [inner]
    elif after == "else":
        other, nodes = _block(nodes)
        nodes = nodes[1:]
    return (text, body, other), nodes


def _run(tree: list, dot: dict, root: dict, names: dict) -> str:
    out = ""
    for node in tree:
        if node[0] == "text":
            out += node[1]
        elif node[0] == "action":
            if ":=" in node[1]:
                name, _, expression = node[1].partition(" := ")
                names[name] = _value(expression, dot, root, names)
            else:
                out += str(_value(node[1], dot, root, names))
        elif node[0].startswith("range $i, $_ := "):
            for i, item in enumerate(_value(node[0].removeprefix("range $i, $_ := "), dot, root, names)):
                out += _run(node[1], item, root, {**names, "$i": i})
        else:
            chosen = node[1] if _value(node[0].removeprefix("if "), dot, root, names) else node[2]
            out += _run(chosen, dot, root, dict(names))
    return out


def _value(expression: str, dot: dict, root: dict, names: dict):
    words = re.findall(r'"[^"]*"|[()]|[^\s()]+', expression)

    def one():
        word = words.pop(0)
        if word == "(":
            inner = call()
            assert words.pop(0) == ")"
            return inner
        if word[0] == '"':
            return word[1:-1]
        if word.isdigit():
            return int(word)
        if word.startswith("$."):
            return root[word[2:]]
        return names[word] if word[0] == "$" else dot[word[1:]]

    def call():
        functions = {
            "eq": lambda a, b: a == b,
            "not": lambda a: not a,
            "and": lambda a, b: a and b,
            "len": len,
            "slice": lambda a, i: a[i:],
        }
        function = functions[words.pop(0)] if words[0] in functions else lambda a: a
        arguments = []
        while words and words[0] != ")":
            arguments.append(one())
        return function(*arguments)

    return call()


def as_ollama_gives(conversation: list, **more) -> dict:
    """Ollama's data: each message's fields, all there; system messages joined in .System and as messages."""
    messages = [
        {"Role": turn[0], "Content": turn[1], "Thinking": turn[2] if len(turn) > 2 else ""}
        for turn in conversation
    ]
    system = "\n\n".join(content for role, content, *_ in conversation if role == "system")
    return {"System": system, "Messages": messages} | more


def test_the_renderer_knows_go():
    template = (
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}U{{ .Content }}{{ else if .Content }}A'
        "{{ else }}-{{ end }}{{ if and $.Think (not .Thinking) }}!{{ end }}{{ end }}"
    )
    data = as_ollama_gives([("user", "x"), ("assistant", "y", "t"), ("assistant", "")], Think=True)
    assert render_go(template, data) == "Ux!A-!"


# --- the form --------------------------------------------------------------------------------------


def template_of(name: str) -> str:
    if name in ("chatml", "plain"):
        return {"chatml": CHATML, "plain": PLAIN}[name]
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def with_template(name: str):
    tokenizer = load_tokenizer("miniworld/qwen2")
    tokenizer.chat_template = template_of(name)
    return tokenizer


@pytest.mark.parametrize(
    "name", ["deepseek_r1_distill", "llama3", "llama3_1", "llama3_2", "qwen2_5", "chatml", "plain"]
)
@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_go_template_renders_what_the_chat_template_renders(name, conversation):
    tokenizer = with_template(name)
    if name == "plain" and conversation[0][0] == "system":
        conversation = conversation[1:]
    truth = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in conversation],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert render_go(chat_format(tokenizer).to_go(), as_ollama_gives(conversation)) == truth


def test_an_old_thought_is_dropped_as_r1_drops_it():
    """Ollama keeps thought and answer apart, transformers has them in one text."""
    tokenizer = with_template("deepseek_r1_distill")
    apart = [("user", "2 + 3?"), ("assistant", "It is 5.", "2 + 3 = 5"), ("user", "And 4?")]
    whole = [
        ("user", "2 + 3?"),
        ("assistant", "<think>\n2 + 3 = 5\n</think>\n\nIt is 5."),
        ("user", "And 4?"),
    ]
    truth = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in whole], add_generation_prompt=True, tokenize=False
    )
    go = chat_format(tokenizer).to_go()
    assert render_go(go, as_ollama_gives(apart)) == truth
    assert truth.endswith("<think>\n") and "2 + 3 = 5" not in truth
    begun = render_go(go, as_ollama_gives(apart[:2]))  # the model goes on with its own words
    assert begun.endswith("<｜Assistant｜><think>\n2 + 3 = 5\n</think>\n\nIt is 5.")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}[{{ m.role }}]{{ m.content[:3] }}{% endfor %}",
        "{% for m in messages %}{% if loop.index == 4 %}!{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}",
    ],
)
def test_a_template_that_is_no_plain_form_is_refused(template):
    tokenizer = load_tokenizer("miniworld/qwen2")
    tokenizer.chat_template = template
    with pytest.raises(ValueError):
        chat_format(tokenizer)


# --- the file --------------------------------------------------------------------------------------


def template_in(text: str) -> str:
    return re.search(r'TEMPLATE """(.*?)"""', text, re.S)[1]


def test_the_modelfile_of_a_base(tmp_path):
    folder = shutil.copytree(miniworld.model_dir("qwen2"), tmp_path / "m")
    settings = {
        "eos_token_id": [3, 0],
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    path = write_modelfile(folder, export_gguf(folder, tmp_path / "out" / "tiny.gguf"))
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "out" / "Modelfile" and text.startswith("FROM ./tiny.gguf\n")
    assert template_in(text) == chat_format(load_tokenizer("miniworld/qwen2")).to_go()
    assert [
        line.removeprefix("PARAMETER ") for line in text.splitlines() if line.startswith("PARAMETER")
    ] == [
        "num_ctx 256",
        "temperature 0.6",
        "top_p 0.95",
        "repeat_penalty 1.1",
        'stop "<｜end▁of▁sentence｜>"',
        'stop "<|endoftext|>"',
        'stop "<｜User｜>"',
        'stop "<｜Assistant｜>"',
    ]


def test_bos_stands_once(tmp_path):
    """Where llama.cpp puts BOS before each prompt, the template leaves it to that."""
    from tokenizers import processors

    tokenizer = load_tokenizer("miniworld/qwen2")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)]
    )
    folder = shutil.copytree(miniworld.model_dir("qwen2"), tmp_path / "m")
    tokenizer.save_pretrained(folder)
    template = template_in(write_modelfile(folder, export_gguf(folder, tmp_path / "t.gguf")).read_text())
    asked = render_go(template, as_ollama_gives(CONVERSATIONS["system"]))
    assert tokenizer(asked)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_without_a_chat_template_the_text_goes_on(tmp_path):
    folder = shutil.copytree(miniworld.model_dir("gpt2"), tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    text = write_modelfile(folder, export_gguf(folder, tmp_path / "t.gguf")).read_text()
    assert template_in(text) == "{{ .Prompt }}" and 'stop "<|endoftext|>"' in text
