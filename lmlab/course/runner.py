"""Runs notebooks in batch: a thin layer over papermill that survives failing cells and dying kernels.

Each notebook runs in a process of its own, so whatever happens to one, the others go on.
``python -m lmlab.course.runner IN OUT PARAMETERS_JSON`` is that process.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from lmlab.course.copies import notebooks_folder
from lmlab.files import write_atomic
from lmlab.hardware import available_cores

NOTEBOOKS = notebooks_folder()
# lesson -> those whose results it uses
NEEDS = {
    "03_hellaswag": ("02_gpt2_from_scratch",),
    "07_merge_export": ("05_llama_lora_4bit", "06_deepseek_qlora_think"),
    "08_fantasy_locations": ("02_gpt2_from_scratch",),
    "09_grpo_reasoning": ("06_deepseek_qlora_think",),
    "10_attention_heads": ("02_gpt2_from_scratch", "06_deepseek_qlora_think"),
}
CELL_FAILED, KERNEL_DIED = 1, 138  # papermill's own exit codes
_TERMINAL_COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Outcome:
    """How one notebook went. peak_memory_gb counts the process, its kernel and their children (GiB)."""

    lesson: str
    status: str  # "ok", "failed" or "kernel died"
    seconds: float
    peak_memory_gb: float
    recipe: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "ok"


@dataclass(frozen=True)
class Job:
    """One notebook to run, with its parameters."""

    lesson: str
    notebook: Path
    parameters: dict


def run_jobs(jobs: list[Job], run_dir: Path, parallel: int = 1) -> list[Outcome]:
    """Runs notebooks, each after those whose results it uses, whether they failed or not.

    When it is interrupted, so are the notebooks: none of their processes stays behind.

    Args:
        jobs: What to run.
        run_dir: Gets the executed notebooks, their logs and run.json.
        parallel: Notebooks at the same time.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lessons = {job.lesson for job in jobs}
    outcomes: dict[str, Outcome] = {}
    running: dict[Future, Job] = {}
    # whatever runs now, to be ended when this process is interrupted
    waiting, processes = list(jobs), set()
    with ThreadPoolExecutor(parallel) as pool:
        try:
            while len(outcomes) < len(jobs):
                # Start what has a free thread, and all of whose inputs are there.
                for job in list(waiting):
                    needs = lessons & set(NEEDS.get(job.lesson, ()))
                    if len(running) < parallel and needs <= outcomes.keys():
                        waiting.remove(job)
                        running[pool.submit(run_notebook, job, run_dir, processes, parallel)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    outcomes[job.lesson] = future.result()
                    _say(outcomes[job.lesson])
                # After each notebook: a run that is interrupted has a report of what it did.
                record = [asdict(outcomes[job.lesson]) for job in jobs if job.lesson in outcomes]
                write_atomic(run_dir / "run.json", json.dumps({"lessons": record}, indent=1))
        except BaseException:
            for process in list(processes):
                kill_process_tree(process)
            raise
    return [outcomes[job.lesson] for job in jobs]


def run_notebook(job: Job, run_dir: Path, processes: set, parallel: int = 1) -> Outcome:
    """Runs one notebook in its own process, which ends with this one, however this one ends.

    Args:
        job: What to run.
        run_dir: Gets <lesson>.ipynb and <lesson>.log.
        processes: Holds the process while it runs.
        parallel: Notebooks that share the cores.
    """
    # A process of its own: a kernel that dies or eats all memory takes nothing else with it.
    executed, log = run_dir / f"{job.lesson}.ipynb", run_dir / f"{job.lesson}.log"
    start = time.monotonic()
    with open(log, "w", encoding="utf-8") as errors:
        arguments = [str(job.notebook), str(executed), json.dumps(job.parameters)]
        process = subprocess.Popen(
            [sys.executable, "-m", "lmlab.course.runner", *arguments],
            stdin=subprocess.PIPE,
            # papermill's progress bar; of several notebooks they would overwrite each other
            stdout=None if parallel == 1 else subprocess.DEVNULL,
            stderr=errors,
            env=_environment(parallel),
            # Ctrl-C then comes to this process alone, which ends the others
            start_new_session=True,
        )
        processes.add(process)
        peak_gib = _wait_and_measure(process)
    process.stdin.close()
    processes.discard(process)
    status = {0: "ok", CELL_FAILED: "failed"}.get(process.returncode, "kernel died")
    # papermill writes the notebook as it goes, so the failing cell is in the executed copy.
    error = "" if status == "ok" else _describe(executed, log, status, process.returncode)
    seconds = round(time.monotonic() - start, 1)
    return Outcome(job.lesson, status, seconds, peak_gib, job.parameters.get("recipe", ""), error)


def _describe(executed: Path, log: Path, status: str, code: int) -> str:
    """The failing cell with its error; of a dead kernel the cell that had started, and the end of the log."""
    try:
        cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):  # never written, or cut off while writing
        cells = []
    started = ""
    for cell in cells:
        source = "".join(cell["source"])
        if cell["metadata"].get("papermill", {}).get("start_time"):
            started = source
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                error = _indent(f"{output['ename']}: {output['evalue']}")
                return f"  failing cell:\n{_indent(source)}\n  error:\n{error}"
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
    where = f" in this cell:\n{_indent(started)}" if started else ""
    return f"  {status} (exit code {code}){where}\n  end of {log}:\n{_indent(tail)}"


def _indent(text: str) -> str:
    return textwrap.indent(_TERMINAL_COLORS.sub("", text), "    ")


def _environment(parallel: int) -> dict[str, str]:
    """Of the notebook's process: this Python's own kernel, figures inline, cores shared with the others."""
    env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    env["JUPYTER_PREFER_ENV_PATH"] = "1"  # a kernel in the home directory may belong to another Python
    # Threads that spin for long while they wait bring training to a crawl as soon as anything else wants the
    # cores; threads that sleep at once cost a quarter of the speed where nothing does.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    env.setdefault("GOMP_SPINCOUNT", "1000")  # goes before the policy where there is GNU OpenMP
    if parallel > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // parallel)))
    return env


def _say(outcome: Outcome) -> None:
    """Prints how a notebook went."""
    print(f"{outcome.lesson}: {outcome.status}, {outcome.seconds:.0f} s, {outcome.peak_memory_gb:.1f} GiB")
    if outcome.error:
        print(outcome.error)
    sys.stdout.flush()


def _wait_and_measure(process: subprocess.Popen) -> float:
    """Waits for a process; returns the peak of the resident memory of it and its children together, GiB."""
    peak = 0
    while process.poll() is None:
        resident = 0
        for member in _process_tree(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                resident += member.memory_info().rss
        peak = max(peak, resident)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.4)
    return round(peak / 2**30, 2)


def _process_tree(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_process_tree(process: subprocess.Popen) -> None:
    """Ends a process and its children at once."""
    for member in _process_tree(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def execute(notebook: str, executed: str, parameters: dict) -> int:
    """Executes one notebook by papermill, whose progress bar goes to stdout where that is a terminal.

    Returns 0, CELL_FAILED or KERNEL_DIED (papermill's record says "completed" also when a kernel dies).
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    progress = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the kernel itself prints goes to the log
    # None: no bar where nobody looks, as each of its frames would be a line of its own
    bar = {"file": progress, "desc": Path(notebook).stem, "leave": False, "disable": None}
    try:
        # without cwd=: relative paths mean the same in the notebook as on the command line
        papermill.execute_notebook(notebook, executed, parameters, kernel_name="python3", progress_bar=bar)
    except papermill.PapermillExecutionError:
        return CELL_FAILED
    except DeadKernelError as error:
        print(error, file=sys.stderr)
        return KERNEL_DIED
    return 0


def _end_with_parent() -> None:
    """Waits until the process that started this one is gone (stdin then ends), and ends everything here."""
    os.read(0, 1)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(KERNEL_DIED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(execute(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
