"""A fine-tuning job in a process of its own, which can be stopped at any of its writes.

A write is what changes the job's folder: a file opened for writing, a rename, a removal, a file of torch or
safetensors. They are counted; at the chosen one the process ends on the spot, as by a power cut, with half of
that file written, or the disk is full from then on.
"""

import errno
import json
import multiprocessing
import os
import sys
from pathlib import Path

KILLED, FULL = 77, 78  # exit codes: ended at the chosen write; the disk was full, and the job said so
_FORKS = multiprocessing.get_context("forkserver")  # imports the libraries once, and not for each job
_FORKS.set_forkserver_preload(["transformers", "trl", "peft", "bitsandbytes", "lmlab.training.sft"])


class Job:
    """``lmlab.training.sft.run_recipe`` in a process.

    stop_at: the number of a write; full: the disk is, from then on.
    """

    def __init__(
        self, lesson: str, overrides: dict, out: Path, stop_at: int | None = None, full: bool = False
    ):
        self.answer = out.with_name(f"{out.name}-{os.urandom(4).hex()}.json")
        self.process = _FORKS.Process(target=_work, args=(lesson, overrides, out, stop_at, full, self.answer))
        self.process.start()

    def wait(self) -> int:
        """Its exit code."""
        self.process.join(300)
        assert not self.process.is_alive(), "it hangs"
        return self.process.exitcode

    def read(self) -> dict:
        """After an end of its own: losses, or the error that was told; and what it wrote, in order."""
        return json.loads(self.answer.read_text())


def _work(lesson: str, overrides: dict, out: Path, stop_at: int | None, full: bool, answer: Path) -> None:
    import torch

    from lmlab.recipes import load_recipe
    from lmlab.training.sft import run_recipe

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    writes = _Writes(out, stop_at, full)
    found: dict = {}
    try:
        found["losses"] = run_recipe(load_recipe(lesson, **overrides), out)
    except (ValueError, OSError) as error:
        found["error"] = [type(error).__name__, str(error)]
    stopped, writes.stop_at = writes.stopped, None
    answer.write_text(json.dumps(found | {"writes": writes.seen}))
    os._exit(FULL if stopped else 0)


class _Writes:
    def __init__(self, folder: Path, stop_at: int | None, full: bool):
        self.folder, self.stop_at, self.full = str(folder), stop_at, full
        self.seen: list[str] = []
        self.stopped = self.busy = False
        self.watch_libraries()
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: tuple) -> None:
        if self.busy:
            return
        if event == "open" and isinstance(args[0], str) and _writing(args[1], args[2]):
            self.count("open", args[0])
        elif event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            self.count(event.partition(".")[2], os.fspath(args[0]))

    def watch_libraries(self) -> None:
        """They write from C++ and Rust, unheard."""
        import safetensors.torch
        import torch

        torch_save, serialize = torch.save, safetensors.torch.serialize_file

        def save(obj, file, *args, **kwargs):
            self.count("torch.save", str(file))
            torch_save(obj, file, *args, **kwargs)

        def serialize_file(tensors, path, *args, **kwargs):
            self.count("safetensors", str(path))
            serialize(tensors, path, *args, **kwargs)

        torch.save, safetensors.torch.serialize_file = save, serialize_file

    def count(self, kind: str, path: str) -> None:
        if not os.path.isabs(path) or not path.startswith(
            self.folder
        ):  # shutil removes by names within a folder
            return
        self.seen.append(f"{kind} {os.path.relpath(path, self.folder)}")
        if self.stop_at is None or len(self.seen) <= self.stop_at:
            return
        self.busy = True
        if not self.full:
            if kind in ("open", "torch.save", "safetensors"):
                Path(path).write_bytes(b"" if "tfevents" in path else b'{"half":')
            os._exit(KILLED)
        self.busy, self.stopped = False, True
        if kind == "torch.save":
            raise RuntimeError(
                "[enforce fail] . PytorchStreamWriter failed writing file data/0: file write failed"
            )
        if kind in ("open", "mkdir", "safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device", path)


def _writing(mode: str | None, flags: int) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) and flags & os.O_TMPFILE != os.O_TMPFILE
