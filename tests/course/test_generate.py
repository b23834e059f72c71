"""``lmlab generate-data`` against a local server: failures, format, resuming, and no trace of the key."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lmlab import cli
from lmlab.course import generate_data
from lmlab.course.generate_data import (
    Endpoint,
    EndpointError,
    find_key,
    format_problem,
    prompt_messages,
    strip_reasoning,
)
from lmlab.course.resumable_file import ResumableFile
from lmlab.miniworld import grammar

KEY = "sk-very-secret-0123456789"
WORDS = [a + b for a in "b d f g h k l m n p r s t v w z".split() for b in "a e i o u an en or ul".split()]


def description(number) -> str:
    """A text of its own for each number."""
    draw = grammar.stream("test", number)
    syllables = [WORDS[int(draw.random() * len(WORDS))] for _ in range(60)]
    return f"<LOC>{' '.join(map(''.join, zip(syllables[::2], syllables[1::2], strict=True)))}.</LOC>"


def chat(content, **more) -> dict:
    message = {"role": "assistant", "content": content}
    return {
        "choices": [{"message": message, "finish_reason": "stop", **more}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50},
    }


class Server:
    """Speaks chat completions on a free port. ``script``: request number -> what to do in place of an answer.

    An entry is (status, headers, body) or a function of the handler.
    """

    def __init__(self):
        self.script, self.requests, self.active, self.most_active, self.delay = {}, [], 0, 0, 0.0
        self.default = None
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.body = body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append(
                        {"path": self.path, "headers": self.headers, "body": body, "time": time.monotonic()}
                    )
                    outer.active += 1
                    outer.most_active = max(outer.most_active, outer.active)
                try:
                    time.sleep(outer.delay)
                    self.answer(number)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with lock:
                        outer.active -= 1

            def answer(self, number):
                planned = outer.script.get(number, outer.default)
                if callable(planned):
                    return planned(self)
                self.reply(*planned or (200, {}, chat(description(number))))
                return None

            def reply(self, status, headers, reply):
                raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def endpoint(server):
    return Endpoint(server.url, "writer", KEY, timeout=5, max_retries=2)


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ask(endpoint, number=0):
    async def once():
        async with endpoint.connect() as client:
            return await endpoint.ask(client, prompt_messages(number))

    return asyncio.run(once())


def all_texts(error: BaseException | None) -> str:
    """Of an exception and all that led to it."""
    return (
        ""
        if error is None
        else (f"{error!r} {error} " + all_texts(error.__cause__) + all_texts(error.__context__))
    )


@pytest.mark.slow
def test_it_asks_as_the_protocol_wants_and_fills_the_file(server, endpoint, tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    tally = generate_data.generate(endpoint, path, 20, concurrency=3)
    rows = rows_of(path)
    assert len(rows) == len({row["text"] for row in rows}) == tally.written == tally.asked == 20
    assert all(format_problem(row["text"]) is None and row["model"] == "writer" for row in rows)
    assert (tally.tokens_in, tally.tokens_out) == (2000, 1000)
    first = server.requests[0]
    assert first["path"] == "/v1/chat/completions" and first["headers"]["Authorization"] == f"Bearer {KEY}"
    assert first["body"]["messages"] in [prompt_messages(number) for number in range(3)]
    assert first["body"]["temperature"] == 1.0 and first["body"]["max_tokens"] == 600
    assert len({json.dumps(request["body"]["messages"]) for request in server.requests}) == 20
    assert server.most_active <= 3


def test_no_more_is_asked_than_needed_and_so_many_at_once(server, endpoint, tmp_path):
    server.delay = 0.05
    generate_data.generate(endpoint, tmp_path / "out.jsonl", 10, concurrency=4)
    assert len(server.requests) == 10 and server.most_active == 4


def hang(handler):
    time.sleep(1.0)


def hang_up(handler):
    handler.close_connection = True


def cut_off(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.close_connection = True


def test_what_may_pass_is_tried_again(server, endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.05)  # seconds; 8 in the client
    endpoint.timeout, endpoint.max_retries = 0.4, 6
    soon = {"retry-after-ms": "10"}
    server.script = {
        0: (429, {"Retry-After": "0.3"}, {}),
        1: (500, soon, b"\x1b[31moh"),
        2: (503, soon, b""),
        3: hang,
        4: hang_up,
        5: cut_off,
    }
    tally = generate_data.generate(endpoint, tmp_path / "out.jsonl", 2, concurrency=1)
    assert tally.written == 2 and not tally.left_out
    assert server.requests[1]["time"] - server.requests[0]["time"] >= 0.3
    asked = [json.dumps(request["body"]["messages"]) for request in server.requests]
    assert len(set(asked[:7])) == 1, "a prompt is asked again, not left out"


@pytest.mark.parametrize(
    "planned, shown", [((502, {}, {"error": "overloaded"}), "502.*overloaded"), (hang_up, "")]
)
def test_an_endpoint_that_stays_away_ends_the_run(server, endpoint, tmp_path, planned, shown):
    server.default, endpoint.max_retries = planned, 1
    with pytest.raises(EndpointError, match=f"127.0.0.1.*{shown}"):
        generate_data.generate(endpoint, tmp_path / "out.jsonl", 3, concurrency=1)
    assert len(server.requests) == 2


def garbled(handler):
    """No status line at all; an HTTP library quotes such a line in its error."""
    handler.wfile.write(f"{KEY}\r\n\r\n".encode())
    handler.close_connection = True


def test_trouble_on_the_way_shows_no_key(server):
    server.default = garbled
    for url in (server.url, "http://127.0.0.1:9/v1"):  # where nobody listens
        with pytest.raises(EndpointError, match="127.0.0.1") as caught:
            ask(Endpoint(url, "writer", KEY, max_retries=0))
        assert KEY not in all_texts(caught.value)


def test_the_retries_outlast_a_quota_of_a_minute():
    from openai._constants import INITIAL_RETRY_DELAY, MAX_RETRY_DELAY

    waits = [min(INITIAL_RETRY_DELAY * 2**n, MAX_RETRY_DELAY) for n in range(generate_data.MAX_RETRIES)]
    assert 0.75 * sum(waits) > 60  # the client shortens each by up to a quarter


@pytest.mark.parametrize(
    "status, headers",
    [
        (401, {}),
        (403, {}),
        (404, {}),
        (307, {"Location": "http://127.0.0.1:9/v1"}),
        (302, {"Location": "http://127.0.0.1:9/v1"}),
        (429, {"Retry-After": "4000"}),
    ],
)
def test_a_refusal_ends_the_run_at_once(server, endpoint, tmp_path, status, headers):
    server.default = (status, headers, {"error": {"message": f"no, {KEY}!"}})
    with pytest.raises(EndpointError, match=str(status)) as caught:
        generate_data.generate(endpoint, tmp_path / "out.jsonl", 3, concurrency=1)
    assert len(server.requests) == 1 and KEY not in all_texts(caught.value)


def test_newer_models_get_their_own_name_for_the_limit(server, endpoint, tmp_path):
    def wants_the_new_name(handler):
        if "max_tokens" in handler.body:
            return handler.reply(400, {}, b"no. " * 100 + b"use max_completion_tokens instead")
        return handler.reply(200, {}, chat(description(handler.body["messages"][1]["content"])))

    server.default = wants_the_new_name
    generate_data.generate(endpoint, tmp_path / "out.jsonl", 4, concurrency=2)
    assert server.requests[-1]["body"]["max_completion_tokens"] == 600
    assert "max_tokens" not in server.requests[-1]["body"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_prompt_is_left_out(server, endpoint, tmp_path, status, caplog):
    caplog.set_level("INFO", "lmlab")
    server.script = {2: (status, {}, {"error": f"content filter, {KEY}"})}
    tally = generate_data.generate(endpoint, tmp_path / "out.jsonl", 4, concurrency=1)
    assert tally.written == 4 and tally.left_out == {f"refused ({status})": 1}
    assert "content filter, [key]" in caplog.text


@pytest.mark.parametrize("status, requests", [(400, 50), (401, 3), (404, 3)])
def test_what_refuses_everything_ends_the_run(server, endpoint, tmp_path, status, requests):
    server.script = {number: (200, {}, chat(description(number))) for number in range(2)}
    server.default = (status, {}, {"error": "closed"})
    with pytest.raises(EndpointError, match=f"{status}"):
        generate_data.generate(endpoint, tmp_path / "out.jsonl", 90, concurrency=1)
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    "sent", ["sk/covert+word", r"sk\/covert+word", r"sk\u002fcovert\u002Bword", "sk%2Fcovert%2bword"]
)
def test_the_key_is_hidden_in_whatever_form_it_comes_back(server, sent):
    endpoint = Endpoint(server.url, "writer", "sk/covert+word")
    server.default = (401, {}, f'{{"error": "no {sent}!"}}'.encode())
    with pytest.raises(EndpointError, match="no .key.!") as caught:
        ask(endpoint)
    assert "covert" not in all_texts(caught.value)
    server.default = (200, {}, json.dumps(chat(f"<LOC>SENT {GOOD}</LOC>")).replace("SENT", sent).encode())
    answer = ask(endpoint)
    assert answer.problem == "the key stands in it" and "covert" not in answer.text


def test_a_key_that_is_no_secret_hides_no_text(server):
    server.default = (401, {}, {"error": "none of the models"})
    with pytest.raises(EndpointError, match="none of the models"):
        ask(Endpoint(server.url, "writer", "none"))


NO_TAGS = "not one text between <LOC> and </LOC>"
GOOD = "A hall of mirrors stands on the hill, and every mirror shows another winter, said the keeper. " * 2


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", NO_TAGS),
        (GOOD, NO_TAGS),
        (f"<LOC>{GOOD}", NO_TAGS),
        (f"Sure! <LOC>{GOOD}</LOC>", NO_TAGS),
        (f"<LOC>{GOOD}</LOC> <LOC>{GOOD}</LOC>", NO_TAGS),
        (f"<LOC><b>{GOOD}</b></LOC>", NO_TAGS),
        ("<LOC>A hill.</LOC>", "not of 80 to 1500 characters"),
        (f"<LOC>{GOOD * 20}</LOC>", "not of 80 to 1500 characters"),
        (f"<LOC>{GOOD}\ud800</LOC>", "control characters"),
        (f"<LOC>{GOOD}\x00</LOC>", "control characters"),
        (f"<LOC>{GOOD}</LOC>", None),
    ],
)
def test_the_format_is_checked(text, problem):
    assert format_problem(text) == problem


def test_reasoning_and_line_breaks_are_stripped():
    assert strip_reasoning("<think>Hm.\n<LOC></think>\n\n<LOC>A\n hill</LOC>\n") == "<LOC>A hill</LOC>"


def test_what_cannot_be_used_is_counted_by_its_problem(server, endpoint, tmp_path, caplog):
    good = description(0)
    near = good.replace(".</LOC>", " end.</LOC>")
    server.script = {
        0: (200, {}, chat(good)),
        1: (200, {}, chat(good.upper())),
        2: (200, {}, chat(near)),
        3: (200, {}, b"<html>"),
        4: (200, {}, {"choices": []}),
        5: (200, {}, chat(None)),
        6: (200, {}, chat("no tags")),
        7: (200, {}, chat(good[:-6], finish_reason="length")),
        8: (200, {}, chat([{"type": "text"}])),
        9: (200, {}, chat(f"<LOC>{KEY} {GOOD}</LOC>")),
        10: (200, {}, b"[" * 100_000),
    }
    caplog.set_level("INFO", "lmlab")
    tally = generate_data.generate(endpoint, tmp_path / "out.jsonl", 5, concurrency=1)
    assert tally.left_out == {
        "repeats another": 1,
        "nearly repeats another": 1,
        "no chat completion": 4,
        NO_TAGS: 2,
        "cut off at 600 tokens": 1,
        "the key stands in it": 1,
    }
    assert tally.written == 5 and tally.asked == 15
    assert KEY not in caplog.text + (tmp_path / "out.jsonl").read_text()


def test_it_stops_when_most_answers_are_of_no_use(server, endpoint, tmp_path):
    server.script = {number: (200, {}, chat("Sure!")) for number in range(200) if number % 5}
    with pytest.raises(EndpointError, match="50"):
        generate_data.generate(endpoint, tmp_path / "out.jsonl", 500, concurrency=1)
    assert len(server.requests) == 50 and len(rows_of(tmp_path / "out.jsonl")) == 10


def test_half_left_out_is_tolerated(server, endpoint, tmp_path):
    server.script = {number: (200, {}, chat("Sure!")) for number in range(0, 300, 2)}
    tally = generate_data.generate(endpoint, tmp_path / "out.jsonl", 60, concurrency=1)
    assert tally.written == 60 and tally.left_out.total() == 60


# --- the file ---


def test_it_resumes_and_asks_other_things(server, endpoint, tmp_path):
    path = tmp_path / "out.jsonl"
    generate_data.generate(endpoint, path, 6, concurrency=2)
    generate_data.generate(endpoint, path, 10, concurrency=2)
    assert len(server.requests) == 10 and sorted(row["prompt"] for row in rows_of(path)) == list(range(10))


def test_a_half_written_last_line_is_removed(tmp_path, caplog):
    path = tmp_path / "out.jsonl"
    whole = b'{"text": "one"}\n{"text": "zw\xc3\xb6lf"}\n'
    for half in (b'{"text": "th', b'{"text": "th\xc3', b'{"text": "th"', b'{"te', b"\0\0\0", b'{"te\0\0'):
        path.write_bytes(whole + half)
        with ResumableFile(path) as file:
            assert [row["text"] for row in file.rows] == ["one", "zwölf"]
            file.append({"text": "three"})
        assert path.read_bytes() == whole + b'{"text": "three"}\n'
    assert len(caplog.records) == 6
    path.write_bytes(whole + b'{"text": "by hand"}')
    with ResumableFile(path) as file:
        file.append({"text": "four"})
    assert [row["text"] for row in rows_of(path)] == ["one", "zwölf", "by hand", "four"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"text": "one"}\nnonsense\n', "line 2"),
        (b'{"txt": "one"}\n', "line 1"),
        (b'["text"]\n', "line 1"),
        (b'[{"text": "a"}, {"text": "b"}]', "line 1"),
        (b'{"text": "one"}\n{"txt": "two"}', "line 2"),
        (b"12", "line 1"),
        (b'{"text": "one"}\nthe end', "line 2"),
        (b'{"text": "a"} {"text": "b"}', "line 1"),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path, content, message):
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ResumableFile(path)
    assert path.read_bytes() == content


def test_a_file_of_another_name_is_not_made(tmp_path):
    with pytest.raises(ValueError, match="output"):
        ResumableFile(tmp_path / "new" / "out.txt")
    assert not list(tmp_path.iterdir())


def test_two_writers_do_not_mix(tmp_path):
    path = tmp_path / "out.jsonl"
    with ResumableFile(path), pytest.raises(TimeoutError, match="out.jsonl"):
        ResumableFile(path)
    with ResumableFile(path):
        pass


# --- the command ---


def command(server, path, *more, n=30):
    return [
        "generate-data",
        "--base-url",
        server.url,
        "--model",
        "writer",
        "--n",
        str(n),
        "--output",
        str(path),
        *more,
    ]


def start(server, path, *more, key=KEY, n=30):
    environment = {**os.environ, "LMLAB_API_KEY": key}
    return subprocess.Popen(
        [sys.executable, "-m", "lmlab", *command(server, path, *more, n=n)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.drill
def test_killed_at_any_moment_it_resumes_up_to_n(server, tmp_path):
    path, shown, server.delay = tmp_path / "out.jsonl", "", 0.05
    server.script = {
        7: (429, {"Retry-After": "0"}, {"error": f"slow down, {KEY}"}),
        9: (200, {}, chat("Sure!")),
    }
    for wanted in (5, 12):
        process = start(server, path, "--yes", "--concurrency", "4")
        while not path.exists() or path.read_bytes().count(b"\n") < wanted:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        shown += "".join(process.communicate())
        kept = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"text": "<LOC>half')
    done = start(server, path, "--yes", "--concurrency", "4")
    shown += "".join(done.communicate(timeout=60))
    rows = rows_of(path)
    assert done.returncode == 0 and len(rows) == len({row["text"] for row in rows}) == 30
    assert path.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert "incomplete" in shown and "30 written" in shown
    assert all(request["headers"]["Authorization"] == f"Bearer {KEY}" for request in server.requests)
    assert KEY not in shown and KEY.encode() not in path.read_bytes()
    again = start(server, path, "--yes")
    assert "nothing to do" in again.communicate(timeout=60)[0] and again.returncode == 0


@pytest.mark.drill
def test_ctrl_c_ends_it_at_once_and_says_how_to_go_on(server, tmp_path):
    path, server.delay = tmp_path / "out.jsonl", 0.05
    server.script = dict.fromkeys(range(6, 20), hang)
    process = start(server, path, "--yes", "--concurrency", "2")
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "keeps its rows" in error
    assert len(rows_of(path)) >= 3 and KEY not in error


@pytest.mark.parametrize("key", [KEY + "\nX: y", "schlüssel-0123456789", KEY + " two"])
def test_a_bad_key_is_refused_unseen(server, tmp_path, capsys, monkeypatch, key):
    monkeypatch.setenv("LMLAB_API_KEY", key)
    assert cli.main(command(server, tmp_path / "out.jsonl", "--yes")) == 2
    shown = "".join(capsys.readouterr())
    assert "the key" in shown and key[:8] not in shown
    assert server.requests == []


def test_a_refusal_shows_no_key(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LMLAB_API_KEY", KEY)
    server.default = (401, {"X-Echo": KEY}, {"error": {"message": f"Incorrect key: {KEY}; Bearer {KEY}"}})
    assert cli.main(command(server, tmp_path / "out.jsonl", "--yes")) == 2
    shown = "".join(capsys.readouterr())
    assert "401" in shown and "[key]" in shown and KEY not in shown


def test_without_a_terminal_yes_is_needed(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    monkeypatch.setenv("LMLAB_API_KEY", KEY)
    path = tmp_path / "new" / "out.jsonl"
    assert cli.main(command(server, path)) == 2
    assert not path.parent.exists(), "nothing is made before the cost is agreed to"
    out, error = capsys.readouterr()
    assert "--yes" in error and server.requests == []
    assert "30 requests to 127.0.0.1" in out and "with the key in LMLAB_API_KEY" in out


def test_the_estimate_comes_first_and_no_means_no(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("LMLAB_API_KEY", raising=False)
    arguments = command(server, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").write_text('{"te')
    assert cli.main(arguments) == 0 and server.requests == []
    assert (tmp_path / "out.jsonl").read_text() == '{"te'
    out = capsys.readouterr().out
    characters = sum(len(message["content"]) for message in prompt_messages(0))
    tokens = 30 * round(characters / 4)
    assert f"about {tokens:,} tokens in, at most 18,000 out" in out
    assert "without a key" in out and "nothing was asked" in out
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "30 answers, 3,000 tokens in, 1,500 out" in out
    assert "Authorization" not in server.requests[0]["headers"]


@pytest.mark.parametrize(
    "more, named",
    [
        (["--max-tokens", "0"], "--max-tokens"),
        (["--n", "0"], "--n"),
        (["--concurrency", "0"], "concurrency"),
        (["--base-url", "localhost:80"], "base_url"),
        (["--base-url", "http://localhost:80a/v1"], "base_url"),
        (["--base-url", "http://[::1/v1"], "base_url"),
        (["--base-url", "http://u:pw@[x/v1"], "base_url"),
        (["--base-url", "http://x/v1?key=pw@"], "base_url"),
    ],
)
def test_bad_arguments_are_named(server, tmp_path, capsys, more, named):
    assert cli.main(command(server, tmp_path / "out.jsonl", "--yes", *more)) == 2
    shown = capsys.readouterr().err
    assert named in shown and "pw@" not in shown and server.requests == []


def test_a_folder_is_no_file(server, tmp_path, capsys):
    (tmp_path / "out.jsonl").mkdir()
    assert cli.main(command(server, tmp_path / "out.jsonl", "--yes")) == 2
    assert "out.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key, url, warned",
    [
        (KEY, "http://far.example/v1", True),
        ("", "http://far.example/v1", False),
        (KEY, "https://far.example/v1", False),
    ],
)
def test_a_key_in_the_clear_is_warned_of(server, tmp_path, capsys, monkeypatch, key, url, warned):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("LMLAB_API_KEY", key)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert cli.main(command(server, tmp_path / "out.jsonl", "--base-url", url)) == 2  # nobody agrees
    assert ("the key will travel unencrypted" in capsys.readouterr().out) == warned


def test_whose_key_it_is(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("LMLAB_API_KEY", " mine\n")
    assert find_key() == ("LMLAB_API_KEY", "mine")
    monkeypatch.setenv("LMLAB_API_KEY", "")
    assert find_key() == ("OPENAI_API_KEY", "other")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert find_key() == ("", "")
    assert KEY not in repr(Endpoint("https://x/v1", "m", KEY))
    assert Endpoint("http://far.example/v1", "m", KEY).in_the_clear
    assert not Endpoint("http://localhost/v1", "m", KEY).in_the_clear


def test_prompts_vary_and_come_again():
    many = [prompt_messages(number)[1]["content"] for number in range(1000)]
    assert len(set(many)) > 990 and many[:3] == [prompt_messages(number)[1]["content"] for number in range(3)]
