"""Training texts written by a model behind an OpenAI-compatible endpoint: ``lmlab generate-data``.

The ``openai`` client speaks the chat-completions protocol, which llama.cpp, Ollama, vLLM and most hosts have
too; connections, timeouts, retries and Retry-After are its own. Ours are the prompts, the checks of the
answers, the deduplication, and a file that a stopped run resumes. The key comes from the environment; no
file, log or error shows it.
"""

import asyncio
import functools
import logging
import os
import re
import unicodedata
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from lmlab.course.resumable_file import ResumableFile
from lmlab.data.dedup import TextIndex
from lmlab.miniworld.grammar import stream

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY_VARIABLES = ("LMLAB_API_KEY", "OPENAI_API_KEY")
SHORTEST, LONGEST = 80, 1500  # characters of a description
# The client waits 0.5 s before the first retry, then twice as long each time up to 8 s: over a minute in all,
# so that a quota per minute is free again.
MAX_RETRIES = 15
RECENT = 50  # of so many last answers half may be left out
SHORTEST_SECRET = 8  # characters; a shorter key ("none", "x") is no secret and may occur in any text
URL = r"https?://([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/[\w.~/-]*)?"
PROMPT_REFUSED = (400, 413, 422)  # a content filter, say

logger = logging.getLogger(__name__)


class EndpointError(ValueError):
    """The endpoint refuses, does not answer, or answers nothing usable."""


# --- prompts ---------------------------------------------------------------------------------------


@functools.cache
def _word_lists() -> dict:
    import yaml

    return yaml.safe_load(Path(__file__).with_name("data").joinpath("locations.yaml").read_text("utf-8"))


def prompt_messages(number: int) -> list[dict[str, str]]:
    """The chat messages that ask for description ``number``: a function of the number alone."""
    lists, rng = _word_lists(), stream("locations", 0, number)

    def sample(name: str) -> str:
        """One entry of a list, uniformly at random."""
        return lists[name][int(rng.random() * len(lists[name]))]

    first, second = sample("details"), sample("details")
    details = first if first == second else f"{first} and {second}"
    request = (
        f"Describe {sample('kinds')}, {sample('views')}. The mood is {sample('moods')}. Work in {details}."
    )
    return [{"role": "system", "content": lists["system"]}, {"role": "user", "content": request}]


# --- answers ---------------------------------------------------------------------------------------


def strip_reasoning(content: str) -> str:
    """An answer in one line, without the reasoning trace that a reasoning model writes before it."""
    return " ".join(re.sub(r"^\s*<think>.*?</think>", "", content, flags=re.DOTALL).split())


def format_problem(text: str) -> str | None:
    """Why a stripped answer cannot be used; None if it is one description between its tags."""
    found = re.fullmatch("<LOC>([^<>]*)</LOC>", text)
    if found is None:
        return "not one text between <LOC> and </LOC>"
    description = found[1].strip()
    # Control characters, and halves of a surrogate pair, which no file in UTF-8 can hold.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in description):
        return "control characters"
    if not SHORTEST <= len(description) <= LONGEST:
        return f"not of {SHORTEST} to {LONGEST} characters"
    return None


class Answer(NamedTuple):
    """What came back for one prompt."""

    text: str
    problem: str | None = None  # why it cannot be used
    tokens_in: int = 0
    tokens_out: int = 0


# --- the endpoint ----------------------------------------------------------------------------------


def find_key() -> tuple[str, str]:
    """(name of the variable, key) from the environment; two empty strings where none is set."""
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()
        if key:
            return name, key
    return "", ""


@dataclass
class Endpoint:
    """A model behind ``base_url``/chat/completions, and how it is asked.

    Args:
        base_url: Up to and with its "/v1".
        model: Its name at the endpoint.
        key: Sent as bearer token; none if empty.
        max_tokens: Longest answer.
        timeout: Seconds that the endpoint may be silent.
        max_retries: Further tries per prompt.

    Raises:
        ValueError: An impossible URL or key; the message never holds the key or a password.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False)
    max_tokens: int = 600
    timeout: float = 120.0
    max_retries: int = MAX_RETRIES

    def __post_init__(self):
        # A user name, a password or a query may hold a secret, so a URL that is refused is not shown.
        if not re.fullmatch(URL, self.base_url):
            raise ValueError(
                "base_url is not scheme, host and path, such as http://localhost:8080/v1; give it without "
                f"user name, password and query, and the key in {KEY_VARIABLES[0]}"
            )
        if not re.fullmatch("[!-~]*", self.key):
            raise ValueError("the key has spaces, line breaks or characters beyond ASCII; set it again")
        parts = urlsplit(self.base_url)
        self.host = parts.netloc
        self.is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self.in_the_clear = bool(self.key) and parts.scheme == "http" and not self.is_local
        self.token_limit = "max_tokens"  # what the endpoint calls it

    def connect(self) -> "AsyncOpenAI":
        """An ``openai.AsyncOpenAI`` client for this endpoint."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        # A redirect could take the key to another host; no proxy stands between a machine and itself.
        http_client = DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not self.is_local)
        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.key or "none",
            timeout=self.timeout,
            max_retries=self.max_retries,
            http_client=http_client,
        )

    async def ask(self, client: "AsyncOpenAI", messages: list[dict[str, str]]) -> Answer:
        """One answer; the client tries again what may pass.

        Raises:
            EndpointError: The endpoint refuses, or gives no answer in all tries.
        """
        import openai

        limit = self.token_limit
        headers = {} if self.key else {"Authorization": openai.Omit()}
        try:
            reply = await client.chat.completions.create(
                model=self.model,
                messages=messages,
                temperature=1.0,
                extra_headers=headers,
                **{limit: self.max_tokens},
            )
            return self._read(reply)
        except openai.APIStatusError as error:
            status, message = error.status_code, str(error.body or "")
        except openai.APIConnectionError as error:
            status, message = None, f"{error} {error.__cause__ or ''}"
        except (ValueError, RecursionError):
            return Answer("", "no chat completion")
        # Outside of the except blocks: an error raised here carries no other one that may hold the key.
        if status == 400 and "max_completion_tokens" in message and limit == "max_tokens":
            self.token_limit = "max_completion_tokens"  # newer models of OpenAI know it by this name alone
            return await self.ask(client, messages)
        shown = self.redact(message)
        if status in PROMPT_REFUSED:
            return Answer(shown, f"refused ({status})")
        raise EndpointError(f"{self.host} refused: {status or 'no answer'} {shown}; the same command resumes")

    def _read(self, reply) -> Answer:
        """Checks a reply: the client hands on whatever JSON, or text, came."""
        try:
            choice = reply.choices[0]  # one was asked for
            text = strip_reasoning(choice.message.content or "")
        except (AttributeError, LookupError, TypeError):
            return Answer(self.redact(str(reply)), "no chat completion")
        # Not every endpoint counts them.
        tokens = [getattr(reply.usage, name, 0) for name in ("prompt_tokens", "completion_tokens")]
        if self._holds_key(text):  # it must not get into the file
            return Answer(self.redact(text), "the key stands in it", *tokens)
        if choice.finish_reason == "length":
            return Answer(text, f"cut off at {self.max_tokens} tokens", *tokens)
        return Answer(text, format_problem(text), *tokens)

    def _holds_key(self, text: str) -> bool:
        return len(self.key) >= SHORTEST_SECRET and (self.key in text or self.key in unquote(text))

    def redact(self, text: str) -> str:
        """What a server said, fit to be shown: without the key, in one short line of printable characters."""
        if self._holds_key(text):
            text = unquote(text.replace(self.key, "[key]")).replace(self.key, "[key]")
        printable = "".join(character if character.isprintable() else " " for character in text)
        return " ".join(printable.split())[:200]


# --- the run ---------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a run came to."""

    written: int = 0  # rows in the file, including those of earlier runs
    asked: int = 0
    left_out: Counter = field(default_factory=Counter)  # problem -> answers
    tokens_in: int = 0
    tokens_out: int = 0

    def add(self, answer: Answer, problem: str | None) -> None:
        """Counts an answer, and logs one of each problem and every hundredth row."""
        self.asked += 1
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out
        if problem is None:
            self.written += 1
            if self.written % 100 == 0:
                logger.info("%s", self)
            return
        if problem not in self.left_out:
            logger.info("left out, %s: %r", problem, answer.text[:100])
        self.left_out[problem] += 1

    def __str__(self) -> str:
        problems = ", ".join(f"{n} {problem}" for problem, n in self.left_out.most_common())
        return f"{self.written:,} written; left out: {problems or 'none'}"


def generate(endpoint: Endpoint, path: str | Path, n: int, *, concurrency: int = 8) -> Tally:
    """Fills a file up to ``n`` different descriptions, as rows {"text", "model", "prompt"}.

    However it was stopped, it resumes when called again; answers under way are lost. An answer in the wrong
    format, or nearly the same as an earlier one, is left out and counted. Progress goes to the log.

    Args:
        endpoint: Who is asked.
        path: A .jsonl file.
        n: Rows in the file at the end.
        concurrency: Requests at the same time.

    Raises:
        EndpointError: The endpoint refuses, or more than half of the last 50 answers were left out.
    """
    with ResumableFile(path) as file:
        return asyncio.run(_fill(endpoint, file, n, concurrency))


async def _fill(endpoint: Endpoint, file: ResumableFile, n: int, concurrency: int) -> Tally:
    # Rows of earlier runs count, and no new one may repeat them.
    tally, index = Tally(len(file.rows)), TextIndex(row["text"] for row in file.rows)
    # the first prompt number that no row has used
    number = 1 + max((row["prompt"] for row in file.rows if "prompt" in row), default=-1)
    recent = deque(maxlen=RECENT)
    async with endpoint.connect() as client:
        while tally.written < n:
            numbers = range(number, number + min(concurrency, n - tally.written))
            number = numbers.stop
            requests = [endpoint.ask(client, prompt_messages(asked)) for asked in numbers]
            for asked, answer in zip(numbers, await asyncio.gather(*requests), strict=True):
                problem = answer.problem or index.repeats(answer.text)
                if problem is None:
                    index.add(answer.text)
                    row = {"text": answer.text, "model": endpoint.model, "prompt": asked}
                    file.append(row)
                tally.add(answer, problem)
                recent.append(problem is not None)
                if len(recent) == RECENT and sum(recent) > RECENT / 2:
                    raise EndpointError(
                        f"more than half of the last {RECENT} answers of {endpoint.host} had to be left out "
                        f"({tally}); check the model's name, or try another one; the same command resumes"
                    )
    return tally
