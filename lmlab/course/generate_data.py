"""Training texts written by a model behind an OpenAI-compatible endpoint: ``lmlab generate-data``.

It speaks the chat-completions protocol (OpenAI's, and also that of llama.cpp, Ollama, vLLM and most hosts)
with the standard library. The key comes from the environment, and no file, line or error text holds it.
"""

import email.utils
import http.client
import json
import math
import os
import random
import re
import sys
import threading
import time
import unicodedata
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from lmlab import __version__
from lmlab.data.dedup import TextIndex
from lmlab.miniworld.grammar import stream

KEY_VARIABLES = ("LMLAB_API_KEY", "OPENAI_API_KEY")
SHORTEST, LONGEST = 80, 1500  # characters between the markers
WATCHED = 50  # of so many last answers half may be left out
LONGEST_WAIT = 300.0  # seconds; who is told to wait longer comes back later
QUOTA_WAIT = 60.0  # seconds more before the last try after a 429: a quota of a minute is over then
LARGEST_REPLY = 2**22  # bytes; an answer of some sentences has thousands
CHARACTERS_PER_TOKEN = 4  # of English, about
SHORTEST_KEY = 8  # letters; what is shorter ("none", "x") is no secret, and may stand in a text
_TRY_AGAIN = {408, 409, 425, 429}  # and 500 and above
_THIS_PROMPT = {400, 413, 422}  # of an endpoint that has answered others: a content filter, say


class EndpointError(ValueError):
    """The endpoint cannot be used, or its answers cannot: says what it answered and how to go on."""


# --- what is asked ---------------------------------------------------------------------------------

SYSTEM = (
    "You write short descriptions of places for a fantasy game. Answer with one description between "
    "<LOC> and </LOC> and with nothing else. Give the place a name of its own. Write three to six "
    "sentences in the present tense, plain prose, no list, no title, no line break."
)


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(entry.split()) for entry in text.split(","))


_KINDS = _list("""
a castle, a tower, a cave, a forest, a temple, a mountain village, a harbour, a bridge, a garden, a library,
a night market, a mine, a swamp, an island, a tomb, an inn, a lighthouse, a bathhouse, a monastery, an
observatory, a ferry landing, a quarry, a windmill, a crossroads, a graveyard, a canal town, an orchard, a
glacier, a desert well, a theatre, a prison, a guildhall, a shipwreck, a stone circle, a hot spring, a
greenhouse, a salt flat, a city gate
""")
_MOODS = _list("""
cheerful, eerie, solemn, busy, forlorn, cosy, menacing, dreamy, austere, festive, secretive, decaying,
proud, sleepy, hungry, holy, mocking, homesick, watchful, playful, grand, feverish
""")
_DETAILS = _list("""
a sound that never stops, a smell that visitors remember, an odd law, a keeper who is not human, something
that was stolen, a door that is never opened, a light with no source, a bargain made long ago, a local dish,
a family quarrel, weather of its own, a clock that is wrong, an animal that guards it, a song that is
forbidden, a debt that is still owed, a stair that leads nowhere, a healing herb, a traveller who stayed, a
map with a mistake, a yearly festival, a colour that is missing, a voice under the ground, a trade in
something strange, a child who knows too much, a wound in the land, a game that is played there, a bell that
rings by itself, a tree that moves
""")
_VIEWS = _list("""
as a traveller sees it first, as those who live there tell it, as an old map notes it, as a warning, as a
merchant would praise it, as it is at dawn, as it is at night, as it is after a storm
""")


def messages(number: int, seed: int = 0) -> list[dict]:
    """The chat that asks for description ``number``: always the same for the same number and seed."""
    draw = stream("locations", seed, number)

    def one(options: tuple[str, ...]) -> str:
        return options[int(draw.random() * len(options))]

    first, second = one(_DETAILS), one(_DETAILS)
    details = first if first == second else f"{first} and {second}"
    asked = f"Describe {one(_KINDS)}, {one(_VIEWS)}. The mood is {one(_MOODS)}. Work in {details}."
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]


# --- what is accepted ------------------------------------------------------------------------------


def clean(content: str) -> str:
    """An answer without the thoughts of a reasoning model before it, in one line."""
    return " ".join(re.sub(r"^\s*<think>.*?</think>", "", content, flags=re.DOTALL).split())


def why_not(text: str) -> str | None:
    """Why a cleaned answer cannot be used, in a few words; None for a description in its right form."""
    found = re.search("<LOC>(.*?)</LOC>", text)
    if not text:
        return "empty"
    if found is None:
        return "not between <LOC> and </LOC>"
    if found[0] != text:
        return "text around the markers"
    inside = found[1].strip()
    if re.search("[<>]", inside):
        return "markers inside"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in inside):
        return "characters that are no text"
    if not SHORTEST <= len(inside) <= LONGEST:
        return f"shorter than {SHORTEST} characters" if len(inside) < SHORTEST else f"longer than {LONGEST}"
    return None


# --- the endpoint ----------------------------------------------------------------------------------


def find_key(environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """(name of the variable, key) from the environment; two empty strings where none is set."""
    for name in KEY_VARIABLES:
        if key := environment.get(name, "").strip():
            return name, key
    return "", ""


class Answer(NamedTuple):
    """What came back for one prompt."""

    text: str
    reason: str | None = None  # why it cannot be used
    tokens_in: int = 0
    tokens_out: int = 0


class _TryAgain(Exception):
    """A trouble that may pass; ``wait``: the seconds that the endpoint asks for."""

    def __init__(self, trouble: str, wait: float = 0.0):
        super().__init__(trouble)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # urllib would take the key along, to whatever host the answer names


@dataclass
class Endpoint:
    """A model behind ``base_url``/chat/completions, and how it is asked. Several threads may ask at once.

    base_url: up to and with its "/v1". timeout: seconds until an answer must be complete. tries: per prompt.
    first_wait: seconds before the second try; doubled for each further one.
    Raises ValueError for values that cannot be meant; never with the key in it.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False)
    temperature: float = 1.0
    max_tokens: int = 600
    timeout: float = 120.0
    tries: int = 7
    first_wait: float = 1.0

    def __post_init__(self):
        parts = _split_url(self.base_url)
        if not re.fullmatch("[!-~]*", self.key):
            raise ValueError("the key has blanks, line breaks or letters beyond ASCII in it; set it again")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature got {self.temperature}; give 0 to 2")
        if self.max_tokens < 1 or not self.model:
            raise ValueError(
                f"got model {self.model!r}, max_tokens {self.max_tokens}; give a name, and 1 or more tokens"
            )
        self.host, self.limit, self.has_answered = parts.netloc, "max_tokens", False
        self.shown_key = _key_pattern(self.key)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self.in_the_clear = bool(self.key) and parts.scheme == "http" and not local
        proxies = [urllib.request.ProxyHandler({})] if local else []
        self.opener = urllib.request.build_opener(_NoRedirect, *proxies)

    def ask(self, messages: list[dict], stop: threading.Event | None = None) -> Answer:
        """One answer, after as many tries as it takes. Raises EndpointError when there is none to be had."""
        stop = stop or threading.Event()
        for attempt in range(self.tries):
            try:
                return self._ask_once(messages)
            except _TryAgain as trouble:
                wait, last = trouble.wait, str(trouble)
            if wait > LONGEST_WAIT:
                raise EndpointError(
                    f"{self.host} asks to wait {wait:.0f} s ({last}); give the same command later"
                )
            pause = min(60.0, self.first_wait * 2**attempt) * random.uniform(0.5, 1)  # not all at once
            pause += QUOTA_WAIT if attempt + 2 == self.tries and last.startswith("429") else 0.0
            if attempt + 1 == self.tries or stop.wait(wait + pause):
                break
        raise EndpointError(
            f"{self.host} gave no answer in {self.tries} tries ({last}); see whether it "
            "runs, or ask less at once (--concurrency); the same command goes on"
        )

    def _ask_once(self, messages: list[dict]) -> Answer:
        limit = self.limit  # another thread may change it meanwhile
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            limit: self.max_tokens,
        }
        headers = {"Content-Type": "application/json", "User-Agent": f"lmlab/{__version__}"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(
            f"{self.base_url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        try:
            with self.opener.open(request, timeout=self.timeout) as response:
                return self._read_answer(_read(response, self.timeout))
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error.code, error.headers, _read_or_nothing(error, self.timeout), limit)
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            raise _TryAgain(self._hidden(f"{type(error).__name__}: {error}")) from None

    def _refused(self, status: int, headers, body: bytes, limit: str) -> Answer:
        said = f"{status} {self._hidden(body.decode('utf-8', 'replace'))}".strip()
        if status in _TRY_AGAIN or status >= 500:
            raise _TryAgain(said, retry_after(headers.get("Retry-After", ""))) from None
        if status == 400 and b"max_completion_tokens" in body and limit == "max_tokens":
            self.limit = "max_completion_tokens"  # newer models of OpenAI take it by this name alone
            raise _TryAgain(said) from None
        if status in _THIS_PROMPT and self.has_answered:
            return Answer(said, f"refused ({status})")
        advice = {
            401: f"check the key in {' or '.join(KEY_VARIABLES)}",
            403: "check the key and what it may do",
            404: "check the base URL (most end in /v1) and the model's name",
        }
        moved = "give the address that it has now"
        other = "check the model's name and the settings; where it is the prompt, another --seed asks others"
        mend = advice.get(status, moved if 300 <= status < 400 else other)
        raise EndpointError(f"{self.host} refused: {said}; {mend}") from None

    def _read_answer(self, body: bytes) -> Answer:
        try:
            reply = json.loads(body)
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            content, ended = choice["message"]["content"] or "", choice.get("finish_reason")
            text, used = clean(content), [usage.get(f"{kind}_tokens") for kind in ("prompt", "completion")]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return Answer(self._hidden(body.decode("utf-8", "replace")), "no chat completion")
        self.has_answered = True
        reason = f"cut off at {self.max_tokens} tokens" if ended == "length" else why_not(text)
        if self.shown_key.search(text):
            text, reason = self._hidden(text), "the key stands in it"
        return Answer(text, reason, *(n if type(n) is int else 0 for n in used))

    def _hidden(self, text: str) -> str:
        """A stranger's text, fit to be shown: without the key, in one line, short."""
        text = re.sub(r"(?i)bearer\s+\S+", "[key]", self.shown_key.sub("[key]", text))
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200]


def _split_url(url: str) -> SplitResult:
    """Raises ValueError for a URL that no request can go to; never with a password in it."""
    if re.search("[@?#]", url):
        raise ValueError(
            "base_url holds more than scheme, host and path; give it without user name, "
            f"password and query, and the key in {KEY_VARIABLES[0]}"
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", url):
        raise ValueError(f"base_url got {url!r}; give a URL such as http://localhost:8080/v1")
    return parts


def _key_pattern(key: str) -> re.Pattern:
    """Finds a key in a text, also where letters are escaped as in JSON or a URL; never one too short."""
    letters = (rf"(?:\\?{re.escape(one)}|(?i:\\u00{ord(one):02x}|%{ord(one):02x}))" for one in key)
    return re.compile("".join(letters) if len(key) >= SHORTEST_KEY else "(?!)")


def retry_after(value: str) -> float:
    """Seconds from a Retry-After header: a number or a date (RFC 9110, 10.2.3); 0 for anything else."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _read(response, timeout: float) -> bytes:
    """The whole body; a socket's own timeout would not end an answer that comes drop by drop."""
    body, deadline = b"", time.monotonic() + timeout
    while chunk := response.read1(65536):
        body += chunk
        if time.monotonic() > deadline:
            raise TimeoutError(f"the answer was not complete after {timeout:g} s")
        if len(body) > LARGEST_REPLY:
            raise OSError(f"the answer has more than {LARGEST_REPLY:,} bytes")
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    return body


def _read_or_nothing(error: urllib.error.HTTPError, timeout: float) -> bytes:
    try:
        return _read(error.fp, timeout)
    except (OSError, http.client.HTTPException, AttributeError):
        return b""


# --- the file --------------------------------------------------------------------------------------


class DataFile:
    """Rows in a .jsonl file that only grows: each is on the disk before the next one is written.

    A last row that was cut off is removed. Raises ValueError as read_rows does, and for a file that another
    process is writing.
    """

    def __init__(self, path: str | Path, report: Callable[[str], None] = print):
        self.path = Path(path).expanduser()
        read_rows(self.path)  # before anything is made
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab")
        try:
            self._lock()
            self.rows, torn = read_rows(self.path)
            self._mend_end(torn, report)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> "DataFile":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def append(self, row: dict) -> None:
        self.file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.rows.append(row)

    def _lock(self) -> None:
        if sys.platform == "win32":  # has no flock
            return
        import fcntl

        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except OSError:
            raise ValueError(
                f"{self.path} is being written by another process; wait for it, or give another file"
            ) from None

    def _mend_end(self, torn: bytes, report: Callable[[str], None]) -> None:
        if torn:
            report(f"{self.path}: the last row was cut off; it is removed: {torn[:80]!r}")
            self.file.truncate(self.file.seek(0, os.SEEK_END) - len(torn))
        elif self.rows and not self.path.read_bytes().endswith(b"\n"):
            self.file.write(b"\n")


def read_rows(path: str | Path) -> tuple[list[dict], bytes]:
    """The rows of a .jsonl file, none where there is no file; and the beginning of a row that ends it.

    Raises ValueError for a file of another kind and a line that is no row {"text": ...}.
    """
    path = Path(path).expanduser()
    if path.suffix != ".jsonl":
        raise ValueError(f"output got {path}; give a name that ends in .jsonl")
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    torn = lines.pop() if _is_torn(lines[-1]) else b""
    return [_row(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()], torn


def _is_torn(line: bytes) -> bool:
    """Whether a last line is a row that a crash cut off: it begins as one, and nothing in it is whole.

    (Zeros are what some file systems leave of what had not reached the disk.)
    """
    begins, text = '{"text": "', line.rstrip(b"\0").decode(errors="ignore")
    try:
        json.JSONDecoder().raw_decode(text)
    except ValueError:
        return text.startswith(begins) or begins.startswith(text)
    return False


def _row(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ValueError(f'{where} is no row {{"text": ...}}; mend the line, or give another file')
    return row


# --- the run ---------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a run came to."""

    written: int = 0  # rows in the file, those of earlier runs among them
    asked: int = 0
    left_out: Counter = field(default_factory=Counter)  # reason -> answers
    tokens_in: int = 0
    tokens_out: int = 0

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.left_out.most_common())
        return f"{self.written:,} written; left out: {reasons or 'none'}"


class _Workers:
    """Threads that ask, each one prompt at a time. They do not keep the process alive."""

    def __init__(self, ask: Callable[[int], Answer], n: int):
        self.jobs, self.done, self.busy = SimpleQueue(), SimpleQueue(), 0
        self.threads = [threading.Thread(target=self._work, args=(ask,), daemon=True) for _ in range(n)]
        for thread in self.threads:
            thread.start()

    def put(self, number: int) -> None:
        self.busy += 1
        self.jobs.put(number)

    def get(self) -> tuple[int, Answer]:
        """The next prompt that is done. Raises what asking it raised."""
        number, outcome = self.done.get()
        self.busy -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return number, outcome

    def close(self) -> None:
        for _ in self.threads:
            self.jobs.put(None)

    def _work(self, ask: Callable[[int], Answer]) -> None:
        while (number := self.jobs.get()) is not None:
            try:
                self.done.put((number, ask(number)))
            except Exception as error:
                self.done.put((number, error))


def generate(
    endpoint: Endpoint,
    path: str | Path,
    n: int,
    *,
    seed: int = 0,
    concurrency: int = 8,
    report: Callable[[str], None] = print,
) -> Tally:
    """Fills the file up to ``n`` different descriptions, rows {"text", "model", "prompt", "seed"}.

    Stopped in whatever way, it goes on when it is called again; answers under way are lost. An answer in the
    wrong form, or nearly the same as an earlier one, is left out and counted.
    Raises EndpointError when the endpoint refuses, or more than half of the last 50 answers were left out.
    """
    check_counts(n, concurrency)
    with DataFile(path, report) as file:
        return _fill(endpoint, file, n, seed, concurrency, report)


def check_counts(n: int, concurrency: int) -> None:
    """Raises ValueError for numbers that cannot be meant."""
    if n < 1 or concurrency < 1:
        raise ValueError(f"got n {n}, concurrency {concurrency}; give 1 or more of both")


def _fill(endpoint: Endpoint, file: DataFile, n: int, seed: int, concurrency: int, report) -> Tally:
    tally, index, stop = Tally(len(file.rows)), TextIndex(row["text"] for row in file.rows), threading.Event()
    endpoint.has_answered |= any(row.get("model") == endpoint.model for row in file.rows)
    numbers, recent = count(_next_number(file.rows, seed)), deque(maxlen=WATCHED)
    workers = _Workers(lambda number: endpoint.ask(messages(number, seed), stop), min(concurrency, n))
    try:
        while tally.written < n:
            while workers.busy < min(concurrency, n - tally.written):
                workers.put(next(numbers))
            number, answer = workers.get()
            reason = answer.reason or index.repeats(answer.text)
            if reason is None:
                index.add(answer.text)
                file.append({"text": answer.text, "model": endpoint.model, "prompt": number, "seed": seed})
            _count(tally, answer, reason, n, report)
            recent.append(reason)
            _check_recent(recent, endpoint.host)
    finally:
        stop.set()
        workers.close()
    return tally


def _next_number(rows: list[dict], seed: int) -> int:
    asked = [row["prompt"] for row in rows if row.get("seed") == seed and type(row.get("prompt")) is int]
    return max(asked, default=-1) + 1


def _count(tally: Tally, answer: Answer, reason: str | None, n: int, report) -> None:
    tally.asked += 1
    tally.tokens_in += answer.tokens_in
    tally.tokens_out += answer.tokens_out
    if reason is None:
        tally.written += 1
        if tally.written % max(1, n // 20) == 0:
            report(f"{tally} (of {n:,})")
        return
    if reason not in tally.left_out:
        report(f"left out, {reason}: {answer.text[:100]!r}")
    tally.left_out[reason] += 1


def _check_recent(recent: deque, host: str) -> None:
    left_out = Counter(reason for reason in recent if reason)
    if len(recent) == WATCHED and left_out.total() > WATCHED / 2:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.most_common())
        raise EndpointError(
            f"{left_out.total()} of the last {WATCHED} answers of {host} had to be left out "
            f"({reasons}); try another model or temperature; what is written stays, and the "
            "same command goes on"
        )


# --- what it will cost -----------------------------------------------------------------------------


class Estimate(NamedTuple):
    """Tokens of a run in which no answer has to be left out: about so many in, at most so many out."""

    requests: int
    tokens_in: int
    tokens_out: int


def estimate(requests: int, max_tokens: int, seed: int = 0) -> Estimate:
    """From the length of the first prompt, at about four characters a token."""
    characters = sum(len(message["content"]) for message in messages(0, seed))
    return Estimate(requests, requests * round(characters / CHARACTERS_PER_TOKEN), requests * max_tokens)
