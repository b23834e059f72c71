"""What Ollama needs beside a GGUF file: a Modelfile with the chat form in Go's template language, and stops.

Ollama does not read the chat template of transformers. So the form is found by rendering conversations with
marks in them and looking at what stands between the marks, and is checked on further ones.
Sources: Ollama, docs/modelfile.md and docs/template.md; Go, package text/template.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmlab.export.gguf import adds_bos, read_asking, read_metadata
from lmlab.files import write_atomic
from lmlab.models.chat_template import CLOSING, OPENING

# tokens for prompt and answer: room for a thought, and the cache stays below 300 MB (predicted for
# R1-Distill-1.5B and Llama-3.2-1B in 16 bits)
MAX_CONTEXT = 8192
# no real text has these; and none is a part of another
_S, _U, _V, _A, _T = "SysMark", "AskMark", "NextMark", "SayMark", "ThinkMark"


@dataclass(frozen=True)
class ChatForm:
    """What stands between what is said. Rendering: see ``render``, and ``go`` for the same in Go."""

    start: str  # of a conversation without a system message, up to ``ask``
    system: tuple[str, str] | None  # before and after a system message; None: the template takes none
    ask: str  # before what the user says
    answered: str  # after it, where an answer follows
    generate: str  # after it, where the model is to answer
    end: str  # after an answer
    after_thought: tuple[
        str, ...
    ]  # in an old answer: (this,) for a thought; (before, after) one that is kept

    def render(self, messages: Sequence[Mapping]) -> str:
        """The prompt for messages {"role", "content", maybe "thinking"}; the last is the user's."""
        said = {message["role"]: message["content"] for message in messages}
        text = self.start
        if "system" in said and self.system:
            text = self.system[0] + said["system"] + self.system[1]
        for i, message in enumerate(messages):
            last = i == len(messages) - 1
            if message["role"] == "user":
                text += self.ask + message["content"] + (self.generate if last else self.answered)
            if message["role"] == "assistant":
                thought = message.get("thinking")
                text += (thought or "").join(self.after_thought) if thought else ""
                text += message["content"] + self.end
        return text

    @property
    def thinks(self) -> bool:
        return bool(self.after_thought)

    def go(self) -> str:
        """The form in Go's template language, for Ollama 0.9 or later (it knows .Thinking).

        Without spaces or line breaks of its own: each would be in the prompt. An answer that comes last, which
        the model shall go on with, is not ended.
        """
        start, thought, silent = self.start, "", ""
        if self.system:
            same = os.path.commonprefix([self.start, self.system[0]])
            asked, plain = self.system[0].removeprefix(same), self.start.removeprefix(same)
            other = f"{{{{ else }}}}{plain}" if plain else ""
            start = f"{same}{{{{ if .System }}}}{asked}{{{{ .System }}}}{self.system[1]}{other}{{{{ end }}}}"
        if self.thinks:
            kept = "{{ .Thinking }}".join(self.after_thought)
            # Ollama takes the marks of a thought from what stands around .Thinking
            thought = (
                "{{ if .Thinking }}{{ if $last }}"
                f"{OPENING}\n{{{{ .Thinking }}}}\n{CLOSING}\n\n"
                f"{{{{ else }}}}{kept}{{{{ end }}}}{{{{ end }}}}"
            )
        if self.generate.endswith(f"{OPENING}\n"):
            silent = f"{{{{ if and $.IsThinkSet (not $.Think) }}}}{CLOSING}\n\n{{{{ end }}}}"
        return (
            start + "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
            f'{{{{ if eq .Role "user" }}}}{self.ask}{{{{ .Content }}}}'
            f"{{{{ if $last }}}}{self.generate}{silent}{{{{ else }}}}{self.answered}{{{{ end }}}}"
            f'{{{{ else if eq .Role "assistant" }}}}{thought}{{{{ .Content }}}}'
            f"{{{{ if not $last }}}}{self.end}{{{{ end }}}}"
            "{{ end }}{{ end }}"
        )


def chat_form(tokenizer) -> ChatForm:
    """The form of a tokenizer's chat template, BOS and all; tools are left out.

    Raises ValueError for a template that is no such form, as one that treats the third turn in another way.
    """
    first = _render(tokenizer, ("user", _U))
    opened, generate = _cut(first, _U)
    further = _render(tokenizer, ("user", _U), ("assistant", _A), ("user", _V))
    _, answered, between, _ = _cut(further, _U, _A, _V)
    _, end = _cut(_render(tokenizer, ("user", _U), ("assistant", _A), generate=False), _A)
    ask = between.removeprefix(end)
    if not opened.endswith(ask):
        raise ValueError(
            f"the chat template begins its first turn with {opened!r}, a later one with {ask!r}; "
            "write the Modelfile's TEMPLATE by hand"
        )
    form = ChatForm(
        opened.removesuffix(ask),
        _system(tokenizer, ask),
        ask,
        answered,
        generate,
        end,
        _thought(tokenizer, answered, generate),
    )
    _check(form, tokenizer)
    return form


def _render(tokenizer, *turns: tuple[str, str], generate: bool = True) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False)


def _cut(text: str, *marks: str) -> list[str]:
    """What stands before, between and after the marks."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError(
                "the chat template does not show each message once, in order (at "
                f"{before[-40:]!r}); write the Modelfile's TEMPLATE by hand"
            )
        parts.append(before)
    return [*parts, text]


def _system(tokenizer, ask: str) -> tuple[str, str] | None:
    """What stands around a system message; None for a template that raises, or shows none."""
    from jinja2 import TemplateError

    try:
        rendered = _render(tokenizer, ("system", _S), ("user", _U))
    except TemplateError:
        return None
    if _S not in rendered:
        return None
    before, after, _ = _cut(rendered, _S, _U)
    return before, after.removesuffix(ask)


def _thought(tokenizer, answered: str, generate: str) -> tuple[str, ...]:
    """What becomes of the thought in an old answer; () for a template that knows of none."""
    if CLOSING not in tokenizer.chat_template and OPENING not in generate:
        return ()
    said = f"{OPENING}\n{_T}\n{CLOSING}\n\n{_A}"
    rendered = _render(tokenizer, ("user", _U), ("assistant", said), ("user", _V))
    _, before, _, _ = _cut(rendered, _U, _A, _V)
    return tuple(before.removeprefix(answered).split(_T))


def _check(form: ChatForm, tokenizer) -> None:
    turns = [
        ("user", "Hello, {you}"),
        ("assistant", "Yes?\n\n1. a"),
        ("user", "b"),
        ("assistant", "c"),
        ("user", "?"),
    ]
    for conversation in (turns[:1], turns[:3], turns, [("system", "Be brief."), *turns]):
        if conversation[0][0] == "system" and not form.system:
            continue
        rendered = _render(tokenizer, *conversation)
        made = form.render([{"role": role, "content": content} for role, content in conversation])
        if made != rendered:
            at = len(os.path.commonprefix([made, rendered]))
            raise ValueError(
                f"the chat template has {rendered[at : at + 40]!r} where a plain form has "
                f"{made[at : at + 40]!r}; write the Modelfile's TEMPLATE by hand"
            )


def write_modelfile(folder: str | Path, gguf: str | Path) -> Path:
    """Writes "Modelfile" beside a GGUF file that was exported from a model folder. Returns its path.

    Then: ``ollama create NAME -f Modelfile`` and ``ollama run NAME``.
    A model without a chat template goes on with the text that it is given.
    """
    from transformers import AutoTokenizer

    gguf, tokenizer = Path(gguf), AutoTokenizer.from_pretrained(str(folder))
    data, asking = read_metadata(gguf), read_asking(folder)
    context = min(MAX_CONTEXT, int(data[f"{data['general.architecture']}.context_length"]))
    form = _as_ollama_sends(chat_form(tokenizer), tokenizer) if tokenizer.chat_template else None
    template = form.go() if form else "{{ .Prompt }}"
    names = {"repetition_penalty": "repeat_penalty"}
    lines = [
        f"FROM ./{gguf.name}",
        f'TEMPLATE """{template}"""',
        f"PARAMETER num_ctx {context}",
        *(f"PARAMETER {names.get(name, name)} {value}" for name, value in asking.sampling().items()),
        *(f'PARAMETER stop "{stop}"' for stop in _stops(form, tokenizer, asking.ends)),
    ]
    if "strftime_now" in (tokenizer.chat_template or ""):
        lines.insert(1, "# the date in the template is that of the export: Ollama has no clock there")
    path = gguf.with_name("Modelfile")
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def _as_ollama_sends(form: ChatForm, tokenizer) -> ChatForm:
    """Without the BOS that llama.cpp puts before each prompt by itself. ValueError for what Go would read."""
    texts = [form.start, *(form.system or ()), form.ask, form.answered, form.generate, form.end]
    if wrong := next((mark for mark in ("{{", '"""') if any(mark in text for text in texts)), None):
        raise ValueError(f"the chat template writes {wrong}, which a Modelfile cannot hold; write it by hand")
    if not adds_bos(tokenizer):
        return form
    system = form.system and (form.system[0].removeprefix(tokenizer.bos_token), form.system[1])
    return replace(form, start=form.start.removeprefix(tokenizer.bos_token), system=system)


def _stops(form: ChatForm | None, tokenizer, ends: Sequence[int]) -> list[str]:
    """The ends of an answer, and the special tokens that begin or end a turn: no answer holds them."""
    stops = dict.fromkeys(tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, *ends]))
    turns = form.ask + form.answered + form.end if form else ""
    marks = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content in turns and token.content not in (OPENING, CLOSING)
    ]
    return list(stops | dict.fromkeys(sorted(marks, key=turns.index)))
