"""A conversation with a model on the command line: a folder, an adapter, a lesson's model or a GGUF file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.export.chat_models import FolderChatModel
from lmlab.export.generation_config import sampling_parameters
from lmlab.export.llama_cpp import LlamaCpp
from lmlab.models.chat_template import CLOSING, OPENING

if TYPE_CHECKING:
    from transformers import GenerationConfig

# the two have the same render, tokenize and answer
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


# --- the conversation ------------------------------------------------------------------------------


@dataclass
class ChatSession:
    """A conversation on the terminal: answers on stdout as they come, everything else on stderr."""

    model: ChatModel
    generation_config: GenerationConfig  # a sampling_config
    seed: int = 0
    raw: bool = False  # continues each text by itself, without the chat template
    messages: list[dict] = field(default_factory=list)  # questions and answers in turn

    def __post_init__(self):
        self.raw = self.raw or not self.model.chat_template

    def banner(self) -> str:
        """What is shown before the first question."""
        sampling = sampling_parameters(self.generation_config) or "greedy decoding"
        context = f"context {self.model.context_length:,} tokens"
        setting = f"{self.model.name}, {sampling}, seed {self.seed}, {context}"
        return f"{setting}\nCtrl-C ends an answer, Ctrl-D the chat"

    def run(self, read: Callable[[], str]) -> None:
        """Answers until ``read``, which gives the next text, raises EOFError or KeyboardInterrupt."""
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
        """Prints the answer to a text, its reasoning first where the model reasons.

        Ctrl-C ends it, and what was written of it is remembered.

        Raises:
            ValueError: The text leaves no room for an answer, or the chat template refuses it.
        """
        if self.raw:
            self._show_answer(text)
            return
        question = {"role": "user", "content": text}
        prompt = self._prompt(question)
        answer = self._show_answer(prompt)
        # R1's template opens the reasoning in the prompt, and looks for all of it in the answer
        opened = f"{OPENING}\n" if prompt.rstrip().endswith(OPENING) else ""
        # a question without an answer is forgotten: two questions in a row are no conversation
        if (answer.partition(CLOSING)[2] if opened else answer).strip():
            self.messages += [question, {"role": "assistant", "content": opened + answer}]

    def _show_answer(self, prompt: str) -> str:
        """Prints an answer as it comes, and returns it."""
        ids = self.model.tokenize(prompt, add_special_tokens=self.raw)
        limit = self.model.context_length
        if len(ids) >= limit:
            raise ValueError(f"the text has {len(ids)} tokens, the context {limit}; give a shorter one")
        n_tokens = min(self.generation_config.max_new_tokens, limit - len(ids))
        chunks = []

        def show(chunk: str) -> None:
            """The next part of the answer."""
            chunks.append(chunk)
            print(chunk, end="", flush=True)

        with suppress(KeyboardInterrupt):
            self.model.answer(ids, n_tokens, self.generation_config, self.seed, show)
        self.seed += 1  # the same question gets another answer next time, and the same one in another session
        print(flush=True)
        return "".join(chunks)

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
