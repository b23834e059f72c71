"""A conversation with a model on the command line: a folder, an adapter, what a lesson left, or a GGUF file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.export.chat_models import FolderChatModel
from lmlab.export.generation_config import sampling_parameters
from lmlab.export.llama_cpp import LlamaCpp
from lmlab.models.chat_template import CLOSING, OPENING

if TYPE_CHECKING:
    from transformers import GenerationConfig

# the two have the same render, tokenize and stream
ChatModel = FolderChatModel | LlamaCpp
logger = logging.getLogger(__name__)


def load_chat_model(source: str) -> ChatModel:
    """The model of a source.

    Args:
        source: A model's or an adapter's folder, a GGUF file, "miniworld/...", or a hub id.
    """
    if source.endswith(".gguf"):
        return LlamaCpp(source)
    from lmlab.hardware import describe_machine
    from lmlab.models.sources import load_model, load_tokenizer

    machine = describe_machine()
    if (Path(source) / "adapter_config.json").is_file():
        return _load_adapter(source, machine)
    model = load_model(source, dtype=machine.torch_dtype).to(machine.device)
    return FolderChatModel(source, model, load_tokenizer(source))


def _load_adapter(folder: str, machine) -> ChatModel:
    """The adapter beside its base, not merged: not every adapter can be."""
    from lmlab.export.merge import adapter_base, load_adapted
    from lmlab.models.adapters import changes_base, read_adapter_config
    from lmlab.models.sources import load_tokenizer

    base = adapter_base(folder)
    # the lessons train adapters on 4-bit weights; PiSSA and its kin are trained beside changed 16-bit ones
    use_16_bit = changes_base(read_adapter_config(folder)) or not machine.four_bit
    strategy = "16-bit base" if use_16_bit else "dequantized base"
    logger.info("adapter on %s, %s", base, strategy)
    model = load_adapted(folder, strategy, machine).to(machine.torch_dtype)
    return FolderChatModel(folder, model, load_tokenizer(base))


# --- reasoning -------------------------------------------------------------------------------------


def split_reasoning(chunks: Iterable[str], in_reasoning: bool) -> Iterator[tuple[bool, str]]:
    """Splits a streamed answer into (is it reasoning, text), without the tags and the whitespace around them.

    Args:
        chunks: The answer as it comes. A tag may be spread over several chunks.
        in_reasoning: Whether the prompt has opened the reasoning already, as R1's does.
    """
    state = "reasoning" if in_reasoning else "start"
    buffer = ""  # what is not decided yet: it may be the beginning of a tag
    for chunk in chunks:
        buffer += chunk
        if state == "start":
            buffer = buffer.lstrip()
            if OPENING.startswith(buffer):  # a part of the tag, or nothing yet
                continue
            state = "reasoning" if buffer.startswith(OPENING) else "answer"
            buffer = buffer.removeprefix(OPENING)
        if state == "reasoning":
            reasoning, tag, rest = buffer.partition(CLOSING)
            if tag:
                state = "closed"
            else:
                # the last characters may be all but one of the closing tag
                n_ready = max(0, len(buffer) - len(CLOSING) + 1)
                reasoning, rest = buffer[:n_ready], buffer[n_ready:]
            if reasoning:
                yield True, reasoning
            buffer = rest
        if state == "closed":
            buffer = buffer.lstrip()
            if buffer:
                state = "answer"
        if state == "answer":  # from here on a tag is only text
            yield False, buffer
            buffer = ""
    if buffer:
        yield state == "reasoning", buffer


# --- the conversation ------------------------------------------------------------------------------


@dataclass
class ChatSession:
    """A conversation on the terminal: answers on stdout as they come, everything else on stderr."""

    model: ChatModel
    generation_config: GenerationConfig  # a sampling_config
    seed: int = 0
    show_reasoning: bool = False
    raw: bool = False  # continues each text by itself, without the chat template
    messages: list[dict] = field(default_factory=list)  # questions and answers in turn

    def __post_init__(self):
        self.raw = self.raw or not self.model.chat_template

    def banner(self) -> str:
        """What is shown before the first question."""
        sampling = sampling_parameters(self.generation_config) or "greedy decoding"
        context = f"context {self.model.context_length:,} tokens"
        return f"{self.model.name}, {sampling}, seed {self.seed}, {context}\nCtrl-C ends an answer, Ctrl-D the chat"

    def run(self, read: Callable[[], str]) -> None:
        """Asks and answers until ``read``, which gives the next text, raises EOFError or KeyboardInterrupt."""
        while True:
            try:
                text = read()
            except (EOFError, KeyboardInterrupt):
                return
            try:
                if text.strip():
                    self.ask(text)
            except ValueError as error:  # too long a text; the conversation goes on
                _note(str(error))

    def ask(self, text: str) -> None:
        """Prints the answer to a text. Ctrl-C ends it, and what was written of it is remembered.

        Raises:
            ValueError: The text leaves no room for an answer, or the chat template refuses it.
        """
        if self.raw:
            self._show_answer(text)
            return
        question = {"role": "user", "content": text}
        reasoning, answer = self._show_answer(self._prompt(question))
        # a question without an answer is forgotten: two questions in a row are no conversation
        if answer:
            if reasoning:  # as R1 and the course's training data have it
                answer = f"{OPENING}\n{reasoning.strip()}\n{CLOSING}\n\n{answer}"
            self.messages += [question, {"role": "assistant", "content": answer}]

    def _show_answer(self, prompt: str) -> tuple[str, str]:
        """Prints an answer as it comes. Returns its reasoning and its text."""
        ids = self.model.tokenize(prompt, add_special_tokens=self.raw)
        limit = self.model.context_length
        if len(ids) >= limit:
            raise ValueError(f"the text has {len(ids)} tokens, the context {limit}; give a shorter one")
        n_tokens = min(self.generation_config.max_new_tokens, limit - len(ids))
        chunks = self.model.stream(ids, n_tokens, self.generation_config, self.seed)
        self.seed += 1  # the same question gets another answer next time, and the same one in another session
        if self.raw:
            parts = ((False, chunk) for chunk in chunks)
        else:
            parts = split_reasoning(chunks, prompt.rstrip().endswith(OPENING))
        reasoning, answer = "", ""
        # whatever happens, the model stops when nobody reads any more
        with closing(chunks), suppress(KeyboardInterrupt):
            for is_reasoning, text in parts:
                if is_reasoning:
                    reasoning += text
                else:
                    if not answer:
                        self._note_reasoning(reasoning)
                    answer += text
                if self.show_reasoning or not is_reasoning:
                    print(text, end="", flush=True)
        if not answer:
            self._note_reasoning(reasoning)
        print(flush=True)
        return reasoning, answer

    def _note_reasoning(self, reasoning: str) -> None:
        """Says how long the reasoning was, before the answer or in place of it."""
        if reasoning.strip():
            n_tokens = len(self.model.tokenize(reasoning, add_special_tokens=False))
            _note(f"thought for {n_tokens:,} tokens")

    def _prompt(self, question: dict) -> str:
        """The conversation up to a question, without its oldest turns where they leave too little room."""
        context_length = self.model.context_length
        needed = min(self.generation_config.max_new_tokens, context_length // 4)
        while True:
            prompt = self.model.render([*self.messages, question])
            room = context_length - len(self.model.tokenize(prompt, add_special_tokens=False))
            if room >= needed or not self.messages:
                return prompt
            del self.messages[:2]
            _note("the context is full: the oldest question is forgotten")


def _note(text: str) -> None:
    """Prints beside the answer, on stderr: stdout holds nothing but what the model writes."""
    print(text, file=sys.stderr, flush=True)
