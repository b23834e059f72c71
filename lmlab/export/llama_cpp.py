"""A GGUF file in real llama.cpp, inside this process, through the xllamacpp wheel (a development extra).

It shows whether an exported file does what the folder did, and what fewer bits cost.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lmlab.export.gguf import damaged, read_metadata

INSTALL = "pip install xllamacpp"
_ONE_THREAD = 50_000_000  # bytes; below, two threads wait for each other longer than they compute (measured)
_FORCED = 1000.0  # added to a logit, it leaves no other token a chance


def is_installed() -> bool:
    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """One GGUF file, loaded. llama.cpp's server answers on a free port of this machine alone (127.0.0.1)."""

    def __init__(self, path: str | Path, context: int = 4096, exact: bool = False):
        """context: tokens at most, prompt and answer together; never more than the model was trained for.

        exact: keys and values in float32 instead of float16, attention step by step: for comparisons.
        Raises ValueError where xllamacpp or the file is missing, and for a damaged file.
        """
        if not is_installed():
            raise ValueError(f"{path} runs in llama.cpp, and the xllamacpp wheel is not installed: {INSTALL}")
        import xllamacpp

        self.metadata = read_metadata(path)
        architecture = self.metadata["general.architecture"]
        self.context = min(context, int(self.metadata[f"{architecture}.context_length"]))
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = self.context, 1, False, -1
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if Path(path).stat().st_size < _ONE_THREAD:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise damaged(path) from error
        self._address = self._server.listening_address.removeprefix("http://")

    # --- text and tokens

    @property
    def chat_template(self) -> str | None:
        return self.metadata.get("tokenizer.chat_template")

    @property
    def eos_id(self) -> int:
        return int(self.metadata["tokenizer.ggml.eos_token_id"])

    @property
    def start_id(self) -> int:
        """What stands before a text: BOS, or EOS where there is none."""
        return int(self.metadata.get("tokenizer.ggml.bos_token_id", self.eos_id))

    def tokenize(self, text: str, begin: bool = False) -> list[int]:
        """Token ids; special tokens in the text are read as such. begin: with BOS where the file says so."""
        return self._post("/tokenize", {"content": text, "add_special": begin, "parse_special": True})[
            "tokens"
        ]

    def render(self, messages: Sequence[Mapping]) -> str:
        """A conversation as the model reads it before it answers, by the file's own template, BOS and all."""
        prompt = self._post("/apply-template", {"messages": list(messages)})["prompt"]
        bos = self.metadata["tokenizer.ggml.tokens"][self.start_id]
        # where it adds BOS to texts, llama.cpp takes away the one that the template has written
        taken = self.metadata.get("tokenizer.ggml.add_bos_token") and any(
            written in (self.chat_template or "") for written in ("bos_token", bos)
        )
        return bos + prompt.removeprefix(bos) if taken else prompt

    # --- answers

    def stream(self, ids: Sequence[int], max_new_tokens: int, **sampling) -> Iterator[str]:
        """What the model writes after the tokens, piece by piece as it comes, up to its end mark.

        sampling: temperature (0: the likeliest), top_k, top_p, seed, ... of llama.cpp's ``/completion``; what is
        not given is the file's choice, else llama.cpp's. A caller that stops early stops the model.
        """
        connection = self._send(
            "/completion",
            {
                "prompt": list(ids),
                "n_predict": max_new_tokens,
                "stream": True,
                "cache_prompt": True,
                **sampling,
            },
        )
        try:
            for line in self._answer(connection):
                if line.startswith(b"data: {") and (piece := json.loads(line[6:]).get("content")):
                    yield piece
        finally:
            connection.close()

    def greedy(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """The likeliest token, and the next one, ...: ids up to and with the end mark."""
        return self._post(
            "/completion",
            {
                "prompt": list(ids),
                "n_predict": max_new_tokens,
                "temperature": 0,
                "return_tokens": True,
                "cache_prompt": False,
            },
        )["tokens"]

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """ln p of each token given those before it, (T - 1,); the first is given.

        The server tells the probability of what it draws alone, so each token is asked for by itself, made
        certain by a bias that comes after the probabilities. The tokens before are in the cache.
        """
        if len(ids) > self.context:
            raise ValueError(f"got {len(ids)} tokens, the context is {self.context}; cut the text")
        return np.array([self._logprob(ids[:i], ids[i]) for i in range(1, len(ids))])

    def _logprob(self, before: Sequence[int], token: int) -> float:
        if (told := self._told(before, token, 1)) is not None:
            return told["logprob"]
        # a part of a character: the server waits for the rest. So the end is drawn, and all others are told
        told = self._told(before, self.eos_id, len(self.metadata["tokenizer.ggml.tokens"]))
        return next(other["logprob"] for other in told["top_logprobs"] if other["id"] == token)

    def _told(self, before: Sequence[int], token: int, n_probs: int) -> dict | None:
        """What the server says of a token that it is made to draw."""
        # not over HTTP: that would take longer than a step of a small model
        answer = self._server.handle_completions(
            {
                "prompt": list(before),
                "n_predict": 1,
                "temperature": 0,
                "n_probs": n_probs,
                "cache_prompt": True,
                "logit_bias": [[token, _FORCED]],
            }
        )
        if "error" in answer:
            raise ValueError(f"llama.cpp: {answer['error']['message']}")
        told = answer["choices"][0]["logprobs"]
        assert told is None or told["content"][0]["id"] == token, (told, token)
        return told and told["content"][0]

    def perplexity(self, texts: Sequence[str]) -> dict:
        """Like ``perplexity.perplexity``, for texts that fit the context; each is read as BOS + text + EOS.

        Returns loss (nats per token), perplexity, tokens; nats and counts per text, (n_texts,).
        """
        scores = [self.logprobs([self.start_id, *self.tokenize(text), self.eos_id]) for text in texts]
        nats, counts = np.array([-row.sum() for row in scores]), np.array([len(row) for row in scores])
        loss = float(nats.sum() / counts.sum())
        return {
            "loss": loss,
            "perplexity": math.exp(loss),
            "tokens": int(counts.sum()),
            "nats": nats,
            "counts": counts,
        }

    # --- the server

    def _send(self, path: str, request: Mapping) -> HTTPConnection:
        connection = HTTPConnection(self._address)  # no proxy: it is this process
        connection.request("POST", path, json.dumps(request), {"Content-Type": "application/json"})
        return connection

    def _answer(self, connection: HTTPConnection):
        response = connection.getresponse()
        if response.status != 200:
            message = json.loads(response.read()).get("error", {}).get("message", response.reason)
            raise ValueError(f"llama.cpp: {message}")
        return response

    def _post(self, path: str, request: Mapping) -> dict:
        connection = self._send(path, request)
        try:
            return json.loads(self._answer(connection).read())
        finally:
            connection.close()
