"""A headless Chromium for tests, driven through its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

HOW_TO_GET_IT = (
    "no Chromium here; on Debian and Ubuntu: apt-get install chromium (or set CHROMIUM to its path)"
)


def find_chromium() -> str | None:
    """Path of the browser: $CHROMIUM, or the first that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Navigated(AssertionError):
    """The page was left while it was asked."""


class Page:
    """One browser with one page. errors: what its console and its network complained of since ``open``;
    requests: every address it asked for."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900):
        import websocket

        self.errors, self.requests, self._n = [], [], 0
        self._process = subprocess.Popen(
            [
                find_chromium(),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--remote-debugging-port=0",
                "--remote-allow-origins=*",
                f"--window-size={width},{height}",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = self._wait(lambda: (profile / "DevToolsActivePort").read_text().split()[0])
            self._socket = websocket.create_connection(self._wait(lambda: _page_address(port)), timeout=120)
        except BaseException:
            self._process.kill()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _wait(self, get, seconds: float = 60):
        end = time.monotonic() + seconds
        while True:
            try:
                return get()
            except (OSError, IndexError, StopIteration):
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def call(self, method: str, **parameters) -> dict:
        """One command of the DevTools protocol; its result."""
        number = self._send(method, parameters)
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise Navigated(f"{method}: {message['error']}")
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message)

    def _send(self, method: str, parameters: dict) -> int:
        self._n += 1
        self._socket.send(json.dumps({"id": self._n, "method": method, "params": parameters}))
        return self._n

    def _note(self, message: dict) -> None:
        method, about = message.get("method"), message.get("params", {})
        if method == "Page.javascriptDialogOpening":  # "leave without saving?": it would wait for ever
            self._send("Page.handleJavaScriptDialog", {"accept": True})
        elif method == "Runtime.exceptionThrown":
            self.errors.append(about["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in about["args"]))

    def open(self, url: str) -> None:
        """Goes to ``url`` and waits until it has loaded; forgets earlier errors."""
        self.errors.clear()
        self.call("Page.navigate", url=url)
        self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")

    def js(self, code: str):
        """The value of an expression, or of an (async) function's ``return``."""
        body = code if "return" in code else f"return ({code})"
        answer = self.call(
            "Runtime.evaluate", expression=f"(async()=>{{{body}}})()", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{code}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 60):
        """Waits until a JavaScript expression is true; returns its value."""
        end = time.monotonic() + seconds
        while not (value := self._js_unless_navigated(condition)):
            assert time.monotonic() < end, f"{condition}: not within {seconds:.0f} s; console: {self.errors}"
            time.sleep(0.2)
        return value

    def _js_unless_navigated(self, condition: str):
        try:
            return self.js(condition)
        except Navigated:  # a link was followed in between: the new page is asked next
            return None

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Size of the page in CSS pixels, and whether the reader prefers dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of what is in the window, or of the whole page."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def picture(self, place: dict) -> bytes:
        """A PNG of a part of the window: x, y, width, height."""
        shot = self.call("Page.captureScreenshot", format="png", clip={**place, "scale": 1})
        return base64.b64decode(shot["data"])

    def press(self, key: str) -> None:
        """A key that writes no letter, as "ArrowRight", on what has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode={"ArrowLeft": 37, "ArrowRight": 39}[key],
            )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)


def _page_address(port: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
        return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
