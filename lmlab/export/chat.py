"""A conversation with a model on the command line: a folder, an adapter, what a lesson left, or a GGUF file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.export.chat_models import FolderChatModel
from lmlab.export.generation_config import describe_sampling
from lmlab.export.llama_cpp import LlamaCpp
from lmlab.models.chat_template import CLOSING, OPENING

if TYPE_CHECKING:
    from transformers import GenerationConfig

ChatModel = FolderChatModel | LlamaCpp
logger = logging.getLogger(__name__)


def load_chat_model(source: str) -> ChatModel:
    """The model of a source; what was chosen, and why, is logged.

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
    if changes_base(read_adapter_config(folder)):
        strategy, reason = "16-bit base", "it was trained beside those weights, changed"
    elif machine.four_bit:
        strategy, reason = "dequantized base", "what the lessons train adapters on"
    else:
        strategy, reason = "16-bit base", "bitsandbytes is not here"
    logger.info("adapter on %s, %s: %s", base, strategy, reason)
    model = load_adapted(folder, strategy, machine).to(machine.torch_dtype)
    return FolderChatModel(folder, model, load_tokenizer(base))


# --- reasoning -------------------------------------------------------------------------------------


def split_reasoning(chunks: Iterable[str], in_reasoning: bool) -> Iterator[tuple[bool, str]]:
    """Splits a streamed answer into (is it reasoning, text), without the tags and the whitespace around them.

    Args:
        chunks: The answer as it comes. A tag may be spread over several chunks.
        in_reasoning: Whether the prompt has opened the reasoning already, as R1's does.
    """
    buffer = ""  # what is not decided yet: it may be the beginning of a tag
    in_answer = False  # once the answer has begun, a tag is only text
    for chunk in chunks:
        buffer += chunk
        if not in_reasoning and not in_answer:
            buffer = buffer.lstrip()
            if OPENING.startswith(buffer):  # a part of the tag, or nothing yet
                continue
            in_reasoning = buffer.startswith(OPENING)
            in_answer = not in_reasoning
            buffer = buffer.removeprefix(OPENING)
        if in_reasoning:
            reasoning, tag, rest = buffer.partition(CLOSING)
            if not tag:
                n_ready = len(buffer) - _started_tag_length(buffer, CLOSING)
                reasoning, rest = buffer[:n_ready], buffer[n_ready:]
            if reasoning:
                yield True, reasoning
            buffer = rest
            if tag:
                in_reasoning = False
                buffer = buffer.lstrip()
                in_answer = bool(buffer)
        if in_answer:
            yield False, buffer
            buffer = ""
    if buffer:
        yield in_reasoning, buffer


def _started_tag_length(text: str, tag: str) -> int:
    """How many characters at the end of a text may be the beginning of a tag."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0


# --- the conversation ------------------------------------------------------------------------------


@dataclass
class ChatSession:
    """A conversation on the terminal: answers on stdout as they come, everything else on stderr."""

    model: ChatModel
    generation_config: GenerationConfig  # a sampling_config
    seed: int = 0
    show_reasoning: bool = False
    raw: bool = False  # continues each text by itself, without the chat template
    messages: list[dict] = field(default_factory=list)  # a system message may come first

    def __post_init__(self):
        self.raw = self.raw or not self.model.chat_template
        if self.raw and self.messages:
            raise ValueError("--system needs a chat template; leave it out, or take a model with one")

    def banner(self) -> str:
        """What is shown before the first question."""
        name = f"{self.model.name}: continues each text, and remembers none" if self.raw else self.model.name
        return (
            f"{name}\n{describe_sampling(self.generation_config)}, seed {self.seed}, "
            f"context {self.model.context_length:,} tokens\nCtrl-C ends an answer, twice the chat"
        )

    def run(self, read: Callable[[], str]) -> bool:
        """Asks and answers until ``read`` raises EOFError, or Ctrl-C is pressed twice with nothing asked
        between.

        Args:
            read: Gives the next text.

        Returns:
            Whether every text could be asked.
        """
        interrupted, all_asked = False, True
        while True:
            try:
                text = read()
                if text.strip():
                    interrupted = not self.ask(text)
            except EOFError:
                return all_asked
            except KeyboardInterrupt:
                if interrupted:
                    return all_asked
                interrupted = True
                _note("\nCtrl-C again, or Ctrl-D, ends the chat")
            except ValueError as error:  # too long a text; the conversation goes on
                all_asked = False
                _note(str(error))

    def ask(self, text: str) -> bool:
        """Prints the answer to a text. False where Ctrl-C ended it; what was written of it is remembered.

        Raises:
            ValueError: The text leaves no room for an answer, or the chat template refuses it.
        """
        answer = _Answer(self)
        if self.raw:
            return self._answer(text, answer)
        # the prompt is made of all messages, so the question stands among them before it is answered
        self.messages.append({"role": "user", "content": text})
        try:
            return self._answer(self._prompt(), answer)
        finally:
            if answer.content:
                self.messages.append({"role": "assistant", "content": answer.content})
            else:  # refused or interrupted: two questions in a row are no conversation
                self.messages.pop()

    def _answer(self, prompt: str, answer: _Answer) -> bool:
        ids = self.model.tokenize(prompt, add_special_tokens=self.raw)
        room = self.model.context_length - len(ids)
        if room < 1:
            limit = self.model.context_length
            raise ValueError(f"the text has {len(ids)} tokens, the context {limit}; give a shorter one")
        n_tokens = min(self.generation_config.max_new_tokens, room)
        chunks = self.model.stream(ids, n_tokens, self.generation_config, self.seed)
        self.seed += 1  # the same question gets another answer next time, and the same one in another session
        finished = True
        # whatever happens, the model stops when nobody reads any more
        with closing(chunks):
            try:
                if self.raw:
                    parts = ((False, chunk) for chunk in chunks)
                else:
                    parts = split_reasoning(chunks, prompt.rstrip().endswith(OPENING))
                for is_reasoning, text in parts:
                    answer.show(is_reasoning, text)
            except KeyboardInterrupt:
                finished = False
        answer.end(finished)
        return finished

    def _prompt(self) -> str:
        """The conversation, without its oldest turns where they leave too little room for an answer."""
        context_length = self.model.context_length
        needed = min(self.generation_config.max_new_tokens, context_length // 4)
        while True:
            prompt = self.model.render(self.messages)
            room = context_length - len(self.model.tokenize(prompt, add_special_tokens=False))
            first = 1 if self.messages[0]["role"] == "system" else 0
            if room >= needed or len(self.messages) - first < 3:
                return prompt
            del self.messages[first : first + 2]
            _note(f"the context of {context_length:,} tokens is full: the oldest question is forgotten")


class _Answer:
    """One answer on its way to the terminal."""

    def __init__(self, session: ChatSession):
        self._session = session
        self.reasoning = ""
        self.text = ""

    @property
    def content(self) -> str:
        """The turn as a chat template takes it, with the reasoning, if any."""
        if not self.reasoning:
            return self.text
        # as R1 and the course's training data have it
        return f"{OPENING}\n{self.reasoning.strip()}\n{CLOSING}\n\n{self.text}"

    def show(self, is_reasoning: bool, text: str) -> None:
        """Prints a part of the answer; of its reasoning only if asked for."""
        if not is_reasoning:
            if not self.text:
                self._end_reasoning("")
            self.text += text
            print(text, end="", flush=True)
            return
        # shown as it is, dimmed; or one line that says that there is some
        starts = bool(text.strip()) and not self.reasoning.strip()  # an empty reasoning is not shown
        if self._session.show_reasoning:
            shown = text if self.reasoning else text.lstrip()
            print(_dim(shown, sys.stdout), end="", flush=True)
        elif starts and sys.stderr.isatty():
            _note("thinking ...")
        self.reasoning += text

    def end(self, finished: bool) -> None:
        """Prints what comes after the last part."""
        if not self.text:
            self._end_reasoning(" without coming to an answer")
        print(flush=True)
        if not finished:
            _note("stopped")

    def _end_reasoning(self, outcome: str) -> None:
        if not self.reasoning.strip():
            return
        if self._session.show_reasoning:
            print(flush=True)
        n_tokens = len(self._session.model.tokenize(self.reasoning, add_special_tokens=False))
        _note(f"thought for {n_tokens:,} tokens{outcome}")


def _note(text: str) -> None:
    """Prints beside the answer, on stderr: stdout holds nothing but what the model writes."""
    print(_dim(text, sys.stderr), file=sys.stderr, flush=True)


def _dim(text: str, stream) -> str:
    return f"\x1b[2m{text}\x1b[0m" if stream.isatty() else text
