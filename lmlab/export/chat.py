"""A conversation with a model on the command line: a folder, an adapter, what a lesson left, or a GGUF file."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from lmlab.models.chat_template import CLOSING, OPENING, prompt_text, stop_token_ids
from lmlab.recipes import LESSONS, PROJECT, find_lesson

# of what lessons leave, what they were about; "untrained" and checkpoints are not
_RESULTS = ("adapter", "model", "best")


class Sampling(NamedTuple):
    """How tokens are drawn. temperature 0: the likeliest; top_k 0 and top_p 1: among all."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.0

    def __str__(self) -> str:
        penalty = f", repetition_penalty {self.repetition_penalty:g}" if self.repetition_penalty != 1 else ""
        if self.temperature == 0:
            return f"the likeliest token each time{penalty}"
        among = f", top_k {self.top_k}" if self.top_k else ""
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}{among}{penalty}"


def check_sampling(sampling: Sampling, max_new_tokens: int) -> None:
    """Raises ValueError for numbers out of range."""
    good = {
        "temperature": sampling.temperature >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "max_new_tokens": max_new_tokens >= 1,
    }
    ranges = {
        "temperature": "0 or more",
        "top_p": "a share above 0, at most 1",
        "top_k": "0 (all) or more",
        "max_new_tokens": "1 or more",
    }
    for name in (name for name, fine in good.items() if not fine):
        value = getattr(sampling, name, max_new_tokens)
        raise ValueError(f"--{name.replace('_', '-')} got {value}; give {ranges[name]}")


# --- who speaks ------------------------------------------------------------------------------------


class ChatModel(Protocol):
    """A model that can be asked."""

    name: str
    chats: bool  # it has a chat template; else it goes on with a text
    context: int  # tokens, prompt and answer together
    sampling: Sampling  # as the model asks for

    def render(self, messages: Sequence[Mapping]) -> str:
        """A conversation as the model reads it before it answers. ValueError where its template refuses."""

    def tokenize(self, text: str, begin: bool) -> list[int]:
        """begin: with what the tokenizer puts before a text."""

    def stream(self, ids: Sequence[int], max_new_tokens: int, sampling: Sampling, seed: int) -> Iterator[str]:
        """What the model writes, piece by piece, up to its end."""


class FolderChatModel:
    """A transformers model."""

    def __init__(self, name: str, model, tokenizer):
        from lmlab.models.sources import context_length

        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        self.chats, self.context = bool(tokenizer.chat_template), context_length(model)
        config = model.generation_config
        said = {key: getattr(config, key, None) for key in Sampling._fields if config.do_sample}
        self.sampling = Sampling(**{key: value for key, value in said.items() if value is not None})
        self._ends = stop_token_ids(model, tokenizer)

    def render(self, messages: Sequence[Mapping]) -> str:
        return prompt_text(self.tokenizer, messages)

    def tokenize(self, text: str, begin: bool) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=begin, verbose=False)["input_ids"]
        start = self.tokenizer.bos_token_id
        # a model cannot begin with nothing
        return ids or [self.tokenizer.eos_token_id if start is None else start]

    def stream(self, ids: Sequence[int], max_new_tokens: int, sampling: Sampling, seed: int) -> Iterator[str]:
        import torch

        draw = torch.Generator().manual_seed(seed)
        written, shown, cache, step = [], "", None, torch.tensor([list(ids)], device=self.model.device)
        while len(written) < max_new_tokens:
            with torch.no_grad():
                out = self.model(input_ids=step, past_key_values=cache, use_cache=True)
            seen = torch.tensor([[*ids, *written]])
            token = _drawn(out.logits[:, -1].float().cpu(), seen, sampling, draw)
            if token in self._ends:
                break
            cache, step = out.past_key_values, torch.tensor([[token]], device=self.model.device)
            written.append(token)
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # a part of a character: the rest is to come
                yield text[len(shown) :]
                shown = text


def _drawn(logits, seen, sampling: Sampling, draw) -> int:
    """A token by its logits (1, V); seen: the ids so far (1, T)."""
    import torch
    from transformers import generation

    if sampling.repetition_penalty != 1:
        logits = generation.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(seen, logits)
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    if sampling.top_k:
        logits = generation.TopKLogitsWarper(sampling.top_k)(seen, logits)
    if sampling.top_p < 1:
        logits = generation.TopPLogitsWarper(sampling.top_p)(seen, logits)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=draw))


class GGUFChatModel:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: str | Path):
        from lmlab.export.llama_cpp import LlamaCpp

        self.name, self._file = Path(path).name, LlamaCpp(path)
        self.chats, self.context = bool(self._file.chat_template), self._file.context
        keys = {
            "temperature": "temp",
            "top_p": "top_p",
            "top_k": "top_k",
            "repetition_penalty": "penalty_repeat",
        }
        said = {name: self._file.metadata.get(f"general.sampling.{key}") for name, key in keys.items()}
        self.sampling = Sampling(**{name: value for name, value in said.items() if value is not None})

    def render(self, messages: Sequence[Mapping]) -> str:
        return self._file.render(messages)

    def tokenize(self, text: str, begin: bool) -> list[int]:
        return self._file.tokenize(text, begin) or [self._file.start_id]

    def stream(self, ids: Sequence[int], max_new_tokens: int, sampling: Sampling, seed: int) -> Iterator[str]:
        # the steps of transformers, in its order; llama.cpp would take others, and temperature last
        return self._file.stream(
            ids,
            max_new_tokens,
            seed=seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repeat_penalty=sampling.repetition_penalty,
            repeat_last_n=self.context,
            samplers=["penalties", "temperature", "top_k", "top_p"],
        )


def load_chat_model(source: str, say: Callable[[str], None] = print) -> ChatModel:
    """The model of a source: a folder, an adapter's folder, a GGUF file, "miniworld/...", a hub id; a lesson
    ("06": what the last run left), a run's or a lesson's folder.

    say: is told what was chosen and why. Raises ValueError for a source without a model.
    """
    place = find_model(source, say)
    if place.endswith(".gguf"):
        return GGUFChatModel(place)
    from lmlab.hardware import describe_machine
    from lmlab.models.sources import load_model, load_tokenizer

    machine = describe_machine()
    if (Path(place) / "adapter_config.json").is_file():
        return _open_adapter(place, machine, say)
    model = load_model(place, dtype=machine.torch_dtype).to(machine.device)
    return FolderChatModel(place, model, load_tokenizer(place))


def _open_adapter(folder: str, machine, say: Callable[[str], None]) -> ChatModel:
    from lmlab.export.merge import adapter_base, load_adapted
    from lmlab.models.adapters import changes_base, read_adapter_config
    from lmlab.models.sources import load_tokenizer

    base = adapter_base(folder)
    if changes_base(read_adapter_config(folder)):
        way, why = "16-bit base", "it was trained beside those weights, changed"
    elif machine.four_bit:
        way, why = "dequantized base", "what the lessons train adapters on"
    else:
        way, why = "16-bit base", "bitsandbytes is not here"
    say(f"adapter on {base}, {way}: {why}")
    # beside the base, not merged: not every adapter can be
    model = load_adapted(folder, way, machine).to(machine.torch_dtype)
    return FolderChatModel(folder, model, load_tokenizer(base))


# --- finding it ------------------------------------------------------------------------------------


def find_model(source: str, say: Callable[[str], None] = print, runs: Path = PROJECT / "runs") -> str:
    """The model folder, GGUF file or name that a source speaks of. Says what it chose among several."""
    path = Path(source).expanduser()
    if not path.exists() and (re.fullmatch(r"\d\d?", source) or source in LESSONS):
        path = _newest_lesson(find_lesson(source.zfill(2)), runs)
        say(str(path))
    if not path.exists() or _is_model(path):
        return str(path) if path.exists() else source
    if path.is_file():
        raise ValueError(f"{source} is a file that is no .gguf; give a GGUF file or a model's folder")
    return str(_chosen(path, say))


def _is_model(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".gguf"
    return (path / "adapter_config.json").is_file() or (path / "config.json").is_file()


def _models_in(folder: Path) -> list[Path]:
    """Models in a folder, and GGUF files of lesson 07; these where they can run, or are all there is."""
    from lmlab.export.llama_cpp import is_installed

    there = sorted(path for path in (*folder.iterdir(), *folder.glob("gguf-*/*.gguf")) if _is_model(path))
    folders = [path for path in there if path.is_dir()]
    return there if is_installed() or not folders else folders


def _newest_lesson(lesson: str, runs: Path) -> Path:
    folders = [
        folder
        for folder in [*runs.glob(f"*/{lesson}"), runs / lesson]
        if folder.is_dir() and _models_in(folder)
    ]
    if not folders:
        number = lesson[:2]
        raise ValueError(f"no run in {runs} has left a model of lesson {number}; first: lmlab run {number}")
    return max(folders, key=lambda folder: folder.stat().st_mtime)


def _chosen(folder: Path, say: Callable[[str], None]) -> Path:
    """The model in a lesson's folder; in a run's, that of the lesson which wrote last."""
    there = _models_in(folder)
    lessons = [there] if there else [_models_in(part) for part in sorted(folder.iterdir()) if part.is_dir()]
    there = [model for models in lessons for model in models]
    if not there:
        raise ValueError(
            f"{folder} holds no model, nor does a folder in it; a model has config.json, "
            "adapter_config.json or the ending .gguf"
        )
    result = max((_favourite(models) for models in lessons if models), key=_written)
    others = ", ".join(str(path.relative_to(folder)) for path in there if path != result)
    say(str(result.relative_to(folder)) + (f" (also there: {others})" if others else ""))
    return result


def _favourite(models: Sequence[Path]) -> Path:
    """What a lesson was about, else what it wrote last."""
    named = {path.name: path for path in models}
    return next((named[name] for name in _RESULTS if name in named), None) or max(models, key=_written)


def _written(model: Path) -> float:
    return model.stat().st_mtime


# --- thoughts --------------------------------------------------------------------------------------


def fold(pieces: Iterable[str], inside: bool) -> Iterator[tuple[bool, str]]:
    """(is it thought, text) for what a model writes; the marks of the thought, and blanks after it, are left out.

    inside: the prompt has opened the thought already. A mark may come in several pieces.
    """
    held, begun = "", False  # begun: something of the answer was shown, so no thought can open any more
    for piece in pieces:
        held += piece
        if not inside and not begun and held.lstrip().startswith(OPENING):
            inside, held = True, held.lstrip().removeprefix(OPENING)
        if inside and CLOSING in held:
            thought, _, held = held.partition(CLOSING)
            yield True, thought
            inside = False
        if inside:
            ready, held = _before(held, CLOSING)
        elif begun:
            ready, held = held, ""
        else:
            held = held.lstrip()
            ready, held = ("", held) if OPENING.startswith(held) else (held, "")
            begun = bool(ready)
        if ready:
            yield inside, ready
    if held:
        yield inside, held


def _before(text: str, mark: str) -> tuple[str, str]:
    """(what surely stands before a mark, an end that may be its beginning)."""
    tails = range(max(0, len(text) - len(mark) + 1), len(text))
    at = next((i for i in tails if mark.startswith(text[i:])), len(text))
    return text[:at], text[at:]


# --- the conversation ------------------------------------------------------------------------------


@dataclass
class ChatSession:
    """A conversation that is being held."""

    speaker: ChatModel
    sampling: Sampling
    max_new_tokens: int = 512
    seed: int = 0
    show_thinking: bool = False
    raw: bool = False  # goes on with each text, without the chat template
    messages: list[dict] = field(default_factory=list)  # what was said; a system message may stand first

    def __post_init__(self):
        self.raw = self.raw or not self.speaker.chats
        if self.raw and self.messages:
            raise ValueError(
                "a system message got no place: without a chat template the model goes on with "
                "a text alone; leave --system out, or ask a chat model without --raw"
            )

    def ask(self, text: str) -> bool:
        """Shows the answer as it comes. Ctrl-C ends it: False. What was said of it stays in the conversation.

        Raises ValueError for a text that leaves no room for an answer, or that the chat template refuses.
        """
        answer = _Answer(self.speaker, self.show_thinking)
        if self.raw:
            return self._show(answer, text)
        self.messages.append({"role": "user", "content": text})
        try:
            return self._show(answer, self._prompt())
        finally:
            if answer.text:
                self.messages.append({"role": "assistant", "content": answer.text})
            else:  # refused or stopped: two questions in a row are no conversation
                self.messages.pop()

    def _show(self, answer: "_Answer", prompt: str) -> bool:
        ids = self.speaker.tokenize(prompt, begin=self.raw)
        room = min(self.max_new_tokens, self.speaker.context - len(ids))
        if room < 1:
            raise ValueError(f"the text has {len(ids)} tokens, the context {self.speaker.context}; say less")
        opened = prompt.rstrip().endswith(OPENING) and not self.raw
        finished = answer.show(self.speaker.stream(ids, room, self.sampling, self.seed), opened, self.raw)
        self.seed += 1  # the same words draw another answer the next time, and the same one in another talk
        return finished

    def _prompt(self) -> str:
        """The conversation, without its oldest turns where they leave too little room for an answer."""
        while True:
            prompt = self.speaker.render(self.messages)
            room = self.speaker.context - len(self.speaker.tokenize(prompt, begin=False))
            first = int(self.messages[0]["role"] == "system")
            if room >= min(self.max_new_tokens, self.speaker.context // 4) or len(self.messages) - first < 3:
                return prompt
            del self.messages[first : first + 2]
            _note(f"the context of {self.speaker.context:,} tokens is full: the oldest question is forgotten")


class _Answer:
    """One answer on its way to the terminal."""

    def __init__(self, speaker: ChatModel, show_thinking: bool):
        self.speaker, self.show_thinking = speaker, show_thinking
        self.thought = self.said = ""
        self.noted = False

    @property
    def text(self) -> str:
        """As a chat template wants it: with the thought, if any."""
        return f"{OPENING}\n{self.thought.strip()}\n{CLOSING}\n\n{self.said}" if self.thought else self.said

    def show(self, pieces: Iterator[str], inside: bool, raw: bool) -> bool:
        try:
            for is_thought, text in ((False, piece) for piece in pieces) if raw else fold(pieces, inside):
                self._think(text) if is_thought else self._say(text)
            finished = True
        except KeyboardInterrupt:
            finished = False
        finally:
            pieces.close()
        if self.thought and not self.said:
            self._note_thought(" without coming to an answer")
        print(flush=True)
        if not finished:
            _note("stopped")
        return finished

    def _think(self, text: str) -> None:
        if self.show_thinking:
            shown = text if self.thought else text.lstrip()
            print(_dim(shown, sys.stdout), end="", flush=True)
        # not at an empty thought: it gets no line that would take the place of this one
        elif sys.stderr.isatty() and text.strip() and not self.thought.strip():
            print(_dim("\rthinking ...", sys.stderr), end="", file=sys.stderr, flush=True)
        self.thought += text

    def _say(self, text: str) -> None:
        if self.thought and not self.said:
            self._note_thought("")
        self.said += text
        print(text, end="", flush=True)

    def _note_thought(self, how: str) -> None:
        if self.thought.strip() and not self.noted:
            if self.show_thinking:
                print(flush=True)
            _note(f"thought for {len(self.speaker.tokenize(self.thought, begin=False)):,} tokens{how}")
        self.noted = True


def _note(text: str) -> None:
    """Beside the answer: on stderr, so that stdout holds nothing but what the model says."""
    line = "\r" + text if sys.stderr.isatty() else text
    print(_dim(line, sys.stderr), file=sys.stderr, flush=True)


def _dim(text: str, stream) -> str:
    return f"\x1b[2m{text}\x1b[0m" if stream.isatty() else text


def greet(talk: ChatSession) -> None:
    what = ": it goes on with each text, and remembers none" if talk.raw else ""
    _note(
        f"{talk.speaker.name}{what}\n"
        f"{talk.sampling}, seed {talk.seed}, context {talk.speaker.context:,} tokens\n"
        "Ctrl-C ends an answer, twice the chat"
    )


def hold(talk: ChatSession, ask: Callable[[], str]) -> bool:
    """Asks and answers until there is no more to ask; returns whether each text could be asked.

    ask: gives the next text; raises EOFError at the end.

    Ctrl-C ends an answer; a second one, with nothing asked between, the conversation.
    """
    interrupted, fine = False, True
    while True:
        try:
            text = ask()
            interrupted = not talk.ask(text) if text.strip() else interrupted
        except EOFError:
            return fine
        except KeyboardInterrupt:
            if interrupted:
                return fine
            interrupted = True
            _note("\nCtrl-C again, or Ctrl-D, ends the chat")
        except ValueError as error:  # too long a text; the talk goes on
            fine = False
            _note(str(error))
