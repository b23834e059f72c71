"""What Ollama needs beside a GGUF file: a Modelfile with the chat format as a Go template, and stops.

Ollama does not read the chat template of transformers. So the format is found by rendering conversations with
sentinels in them and looking at what stands between the sentinels, and is checked on further ones.
Sources: Ollama, docs/modelfile.md and docs/template.md; Go, package text/template.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.export.generation_config import eos_token_ids, read_generation_config, sampling_parameters
from lmlab.export.gguf_metadata import adds_bos
from lmlab.files import write_atomic
from lmlab.models.chat_template import CLOSING, OPENING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# tokens for prompt and answer: enough for a reasoning trace, and the KV cache stays below 300 MB (predicted
# for R1-Distill-1.5B and Llama-3.2-1B in 16 bits)
MAX_CONTEXT = 8192
# no real text has these; and none is a part of another
_SYSTEM, _USER, _NEXT, _ANSWER, _REASONING = "SysMark", "AskMark", "NextMark", "SayMark", "ThinkMark"


@dataclass(frozen=True)
class ChatFormat:
    """The text between the messages of a conversation. ``render`` applies it, ``to_go`` writes it in Go."""

    start: str  # of a conversation without a system message
    system: tuple[str, str] | None  # before and after a system message; None: the template takes none
    before_user: str
    after_user: str  # where an answer follows
    generation_prompt: str  # after the user's last message
    after_answer: str
    # what becomes of an earlier answer's reasoning, in Go; None for a model that does not reason
    earlier_reasoning: str | None

    def render(self, turns: Sequence[tuple[str, str]]) -> str:
        """The prompt for turns of (role, content), of which the last is the user's."""
        text = self.start
        for i, (role, content) in enumerate(turns):
            if role == "system":
                text = self.system[0] + content + self.system[1]
            elif role == "assistant":
                text += content + self.after_answer
            else:
                is_last = i == len(turns) - 1
                text += self.before_user + content + (self.generation_prompt if is_last else self.after_user)
        return text

    def to_go(self) -> str:
        """The format in Go's template language, for Ollama 0.9 or later (it knows .Thinking).

        Without spaces or line breaks of its own: each would be in the prompt. An answer that comes last,
        which the model shall continue, is not ended.
        """
        start, reasoning = self.start, ""
        if self.system:
            before, after = self.system
            start = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ else }}}}{start}{{{{ end }}}}"
        if self.earlier_reasoning is not None:
            # Ollama takes the tags of the reasoning from what stands around .Thinking
            current = f"{OPENING}\n{{{{ .Thinking }}}}\n{CLOSING}\n\n"
            parts = f"{{{{ if $last }}}}{current}{{{{ else }}}}{self.earlier_reasoning}{{{{ end }}}}"
            reasoning = f"{{{{ if .Thinking }}}}{parts}{{{{ end }}}}"
        return (
            start + "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
            f'{{{{ if eq .Role "user" }}}}{self.before_user}{{{{ .Content }}}}'
            f"{{{{ if $last }}}}{self.generation_prompt}{{{{ else }}}}{self.after_user}{{{{ end }}}}"
            f'{{{{ else if eq .Role "assistant" }}}}{reasoning}{{{{ .Content }}}}'
            f"{{{{ if not $last }}}}{self.after_answer}{{{{ end }}}}"
            "{{ end }}{{ end }}"
        )


# --- finding the format ----------------------------------------------------------------------------


def chat_format(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """The format of a tokenizer's chat template, BOS and all; tools are left out.

    Raises:
        ValueError: The template is no such format, as one that treats the third turn in another way.
    """
    question, answer, next_question = ("user", _USER), ("assistant", _ANSWER), ("user", _NEXT)
    # each text stands between two sentinels, in a conversation of one, two and three turns
    opened, generation_prompt = _split_at(_render(tokenizer, question), _USER)
    _, after_user, between, _ = _split_at(
        _render(tokenizer, question, answer, next_question), _USER, _ANSWER, _NEXT
    )
    _, after_answer = _split_at(_render(tokenizer, question, answer, generate=False), _ANSWER)
    before_user = between.removeprefix(after_answer)
    system = None
    rendered = _render(tokenizer, ("system", _SYSTEM), question)
    if _SYSTEM in rendered:
        before, after, _ = _split_at(rendered, _SYSTEM, _USER)
        system = before, after.removesuffix(before_user)
    earlier_reasoning = None
    # R1's template drops the reasoning of earlier answers, others keep it
    if CLOSING in tokenizer.chat_template or OPENING in generation_prompt:
        content = f"{OPENING}\n{_REASONING}\n{CLOSING}\n\n{_ANSWER}"
        rendered = _render(tokenizer, question, ("assistant", content), next_question)
        _, before_answer, _, _ = _split_at(rendered, _USER, _ANSWER, _NEXT)
        earlier_reasoning = before_answer.removeprefix(after_user).replace(_REASONING, "{{ .Thinking }}")
    found = ChatFormat(
        start=opened.removesuffix(before_user),
        system=system,
        before_user=before_user,
        after_user=after_user,
        generation_prompt=generation_prompt,
        after_answer=after_answer,
        earlier_reasoning=earlier_reasoning,
    )
    _check(found, tokenizer)
    return found


def _render(tokenizer, *turns: tuple[str, str], generate: bool = True) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False)


def _split_at(text: str, *sentinels: str) -> list[str]:
    """What stands before, between and after the sentinels; "" after one that the template does not show."""
    parts = []
    for sentinel in sentinels:
        before, _, text = text.partition(sentinel)
        parts.append(before)
    return [*parts, text]


def _check(found: ChatFormat, tokenizer) -> None:
    """Raises ValueError where the format renders a conversation in another way than the chat template."""
    # braces, line breaks and a third turn, by which templates trip
    turns = [("user", "{you}"), ("assistant", "Yes?\n1. a"), ("user", "b"), ("assistant", "c"), ("user", "?")]
    conversations = [turns[:1], turns[:3], turns]
    if found.system:
        conversations.append([("system", "Be brief."), *turns])
    for conversation in conversations:
        expected = _render(tokenizer, *conversation)
        rendered = found.render(conversation)
        if rendered != expected:
            at = len(os.path.commonprefix([rendered, expected]))
            raise ValueError(f"the chat template has {expected[at : at + 40]!r}; write TEMPLATE by hand")


# --- the Modelfile ---------------------------------------------------------------------------------


def write_modelfile(folder: str | Path, gguf: str | Path) -> Path:
    """Writes "Modelfile" beside a GGUF file: ``ollama create NAME -f Modelfile``, then ``ollama run NAME``.

    A model without a chat template continues the text that it is given.

    Args:
        folder: The model folder that the file was exported from.
        gguf: The GGUF file.

    Returns:
        The path of the Modelfile.

    Raises:
        ValueError: The chat template cannot be written in Go (see ``chat_format``).
    """
    from transformers import AutoConfig, AutoTokenizer

    gguf, tokenizer = Path(gguf), AutoTokenizer.from_pretrained(str(folder))
    config = read_generation_config(folder)
    context_length = AutoConfig.from_pretrained(str(folder)).max_position_embeddings
    found, template = None, "{{ .Prompt }}"
    if tokenizer.chat_template:
        found = chat_format(tokenizer)
        template = found.to_go()
        # llama.cpp adds BOS to each prompt where the tokenizer does; one of the template would be a second
        if adds_bos(tokenizer):
            template = template.replace(tokenizer.bos_token, "")
    lines = [f"FROM ./{gguf.name}", f'TEMPLATE """{template}"""']
    lines.append(f"PARAMETER num_ctx {min(MAX_CONTEXT, context_length)}")
    for name, value in sampling_parameters(config).items():
        lines.append(f"PARAMETER {name.replace('repetition', 'repeat')} {value}")
    for stop in _stops(found, tokenizer, eos_token_ids(config)):
        lines.append(f'PARAMETER stop "{stop}"')
    return write_atomic(gguf.with_name("Modelfile"), "\n".join(lines) + "\n")


def _stops(found: ChatFormat | None, tokenizer, ends: Sequence[int]) -> list[str]:
    """The ends of an answer, and the special tokens that begin or end a turn: no answer holds them."""
    stops = tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, *ends])
    turn = found.before_user + found.after_user + found.after_answer if found else ""
    stops += [token.content for token in tokenizer.added_tokens_decoder.values() if token.content in turn]
    return [stop for stop in dict.fromkeys(stops) if stop not in (OPENING, CLOSING)]
