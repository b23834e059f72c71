"""A real JupyterLab for tests, looked at through a page of ``chromium``."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

HOW_TO_GET_IT = "no JupyterLab here; pip install --no-deps -r requirements-dev.txt"
_LONG = 180  # seconds: where other work is done beside, the page takes a minute to load
_PANEL = "[...window.jupyterapp.shell.widgets('main')][0]"
_SETTINGS = {  # no question about news on top of the notebook; cells out of sight are drawn, too
    "apputils-extension/notification": {"fetchNews": "false"},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
_CELLS = f"{_PANEL}.content.model.toJSON().cells.filter(c => c.cell_type === 'code' && c.source.trim())"


def is_installed() -> bool:
    return importlib.util.find_spec("jupyterlab") is not None


class Lab:
    """A server on a free port whose files all lie in ``folder``; notebooks lie in ``folder / "work"``."""

    def __init__(self, folder: Path):
        self.root = folder / "work"
        self.root.mkdir()
        for name, settings in _SETTINGS.items():
            file = folder / "config/lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(settings))
        places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        python_path = os.pathsep.join(
            filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))
        )
        self._log = open(folder / "log", "w+")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--expose-app-in-browser",
                "--ServerApp.ip=127.0.0.1",
                f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0",
                "--IdentityProvider.token=",
                f"--ServerApp.root_dir={self.root}",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            env={**os.environ, **places, "IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": python_path},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.root,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self, seconds: float = _LONG) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                return urlopen(f"{self.url}/api/status", timeout=5).close()
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def open(self, page, name: str) -> None:
        """Opens a notebook of ``root`` and waits for its kernel."""
        page.call(
            "Emulation.setFocusEmulationEnabled", enabled=True
        )  # commands are for the notebook in focus
        page.open(f"{self.url}/lab/tree/{name}?reset")
        page.wait_for(
            f"window.jupyterapp && {_PANEL}?.sessionContext?.session?.kernel?.status === 'idle'", _LONG
        )
        page.js(f"window.jupyterapp.shell.activateById({_PANEL}.id); return 1")
        page.wait_for(f"window.jupyterapp.shell.currentWidget === {_PANEL}")

    def run_all(self, page, seconds: float) -> list[str]:
        """Runs every cell and waits for the end; the errors in their outputs."""
        page.js("window.jupyterapp.commands.execute('notebook:run-all-cells'); return 1")
        errors = f"{_CELLS}.flatMap(c => c.outputs.filter(o => o.output_type === 'error'))"
        # a cell has its number when it begins, the kernel is idle when the last has ended
        page.wait_for(
            f"{errors}.length || ({_CELLS}.every(c => c.execution_count) && "
            f"{_PANEL}.sessionContext.session.kernel.status === 'idle')",
            seconds,
        )
        return page.js(f"{errors}.map(o => o.ename + ': ' + o.evalue)")

    def close(self) -> None:
        """Ends the server, and its kernels with it."""
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # it waits for a page that has gone
            self._process.kill()
            self._process.wait(timeout=30)
        self._log.close()
