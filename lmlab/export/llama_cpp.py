"""A GGUF file in real llama.cpp, inside this process, through the xllamacpp wheel (a development extra).

It shows whether an exported file does what the model folder did. All that is known of the file is what
llama.cpp says of it: its own reader is quick, where the gguf package's takes many seconds and half a gigabyte
for a vocabulary of 150,000 tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from lmlab.export.generation_config import sampling_config

if TYPE_CHECKING:
    from transformers import GenerationConfig

INSTALL = "pip install xllamacpp"
_ONE_THREAD = 50_000_000  # bytes; below, two threads wait for each other longer than they compute (measured)
_LONGEST_HEADER = 2**26  # bytes; the vocabulary and merges of 150,000 tokens take about 10 MB


def is_installed() -> bool:
    """Whether the xllamacpp wheel is installed."""
    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """One GGUF file, loaded. llama.cpp's server answers on a free port of this machine alone (127.0.0.1).

    Attributes:
        name: Of the file.
        chat_template: The file's Jinja template; None where it has none, and only continues texts.
        context_length: Tokens at most, prompt and answer together.
        bos_id: The token that stands before a text: BOS, or EOS where there is none.
        generation_config: How it is sampled where nothing else is asked for.
    """

    def __init__(self, path: str | Path, context_length: int = 4096, exact: bool = False):
        """Loads the file.

        Args:
            path: A GGUF file.
            context_length: Tokens at most; never more than the model was trained for.
            exact: Keys and values in float32 instead of float16, attention step by step: for comparisons.

        Raises:
            ValueError: xllamacpp is missing, or the file is damaged.
            FileNotFoundError: There is no such file.
        """
        path = Path(path)
        if not is_installed():
            raise ValueError(f"{path} runs in llama.cpp, and the xllamacpp wheel is not installed: {INSTALL}")
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context_length  # llama.cpp lowers it to what the model was trained for
        params.n_parallel = 1
        params.warmup = False
        params.verbosity = -1
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if path.stat().st_size < _ONE_THREAD:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ValueError(f"{path} is no GGUF file, is cut short or damaged; export it again") from error
        self._opener = build_opener(ProxyHandler({}))  # no proxy: it is this process
        self.name = path.name
        self.generation_config = sampling_config()
        self._read_properties(path)

    def _read_properties(self, path: Path) -> None:
        properties = self._ask("/props")
        self.context_length = properties["default_generation_settings"]["n_ctx"]
        self._bos = properties["bos_token"] or properties["eos_token"]
        self.bos_id = self.tokenize(self._bos)[0]
        # for a file without a template llama.cpp names ChatML's, so the file itself is asked
        with path.open("rb") as file:
            has_template = b"tokenizer.chat_template" in file.read(_LONGEST_HEADER)
        self.chat_template = properties["chat_template"] if has_template else None

    # --- text and tokens

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids; special tokens in the text are read as such.

        BOS is added only if the file asks for it.
        """
        body = {"content": text, "add_special": add_special_tokens, "parse_special": True}
        return self._ask("/tokenize", body)["tokens"]

    def render(self, messages: Sequence[Mapping]) -> str:
        """The prompt for a conversation, by the file's own template, BOS and all."""
        prompt = self._ask("/apply-template", {"messages": list(messages)})["prompt"]
        # where it adds BOS to texts, llama.cpp takes away the one that the template has written
        adds_bos = self.bos_id in self.tokenize("", add_special_tokens=True)
        template = self.chat_template or ""
        if adds_bos and ("bos_token" in template or self._bos in template):
            return self._bos + prompt.removeprefix(self._bos)
        return prompt

    # --- answers

    def answer(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        config: GenerationConfig,
        seed: int,
        show: Callable[[str], None],
    ) -> None:
        """As ``FolderChatModel.answer``."""
        # of a greedy config the sampling parameters are None
        body = {
            "prompt": list(ids),
            "n_predict": max_new_tokens,
            "stream": True,
            "cache_prompt": True,
            "seed": seed,
            "temperature": config.temperature or 0,
            "top_p": config.top_p or 1,
            "top_k": config.top_k or 0,
            "repeat_penalty": config.repetition_penalty,
            "repeat_last_n": self.context_length,
            # transformers' steps in their order; by default llama.cpp takes more, and temperature last
            "samplers": ["penalties", "temperature", "top_k", "top_p"],
        }
        with self._open("/completion", body) as response:
            # server-sent events: a line "data: {...}" for each token
            for line in response:
                if line.startswith(b"data: {"):
                    show(json.loads(line.removeprefix(b"data: ")).get("content", ""))

    def greedy(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """The greedy continuation: token ids up to and with the EOS."""
        body = {"prompt": list(ids), "n_predict": max_new_tokens, "temperature": 0}
        return self._ask("/completion", body | {"return_tokens": True, "cache_prompt": False})["tokens"]

    # --- the server

    def _open(self, path: str, body: Mapping | None = None):
        """The response to a GET, or with a body to a POST. Raises ValueError with the server's message."""
        data = json.dumps(body).encode() if body else None
        address = self._server.listening_address + path
        try:
            return self._opener.open(Request(address, data, {"Content-Type": "application/json"}))
        except HTTPError as error:
            raise ValueError(f"llama.cpp: {error.read().decode()}") from error

    def _ask(self, path: str, body: Mapping | None = None) -> dict:
        with self._open(path, body) as response:
            return json.load(response)
