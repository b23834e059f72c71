"""Runs notebooks in batch: a thin layer over papermill that survives failing cells and dying kernels.

Each notebook runs in a process of its own, so whatever happens to one, the others go on.
``python -m lmlab.runner IN OUT PARAMETERS_JSON`` is that process.
"""

import json
import re
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from lmlab.recipes import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
# a lesson waits for those whose results it uses
NEEDS = {"03_hellaswag": ("02_gpt2_from_scratch",),
         "07_merge_export": ("05_llama_lora_4bit", "06_deepseek_qlora_think")}
CELL_FAILED, KERNEL_DIED = 1, 2
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Outcome:
    """How one notebook went. peak_memory_gb counts the process, its kernel and their children (GiB)."""

    lesson: str
    status: str  # "ok", "failed" or "kernel died"
    seconds: float
    peak_memory_gb: float
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Job:
    """One notebook to run, with its parameters."""

    lesson: str
    notebook: Path
    parameters: dict


def run_jobs(jobs: list[Job], run_dir: Path, parallel: int = 1) -> list[Outcome]:
    """Runs ``jobs`` into ``run_dir``, at most ``parallel`` at once, each after those it needs (failed or not)."""
    run_dir.mkdir(parents=True, exist_ok=True)
    waiting, running, outcomes = list(jobs), {}, {}
    with ThreadPoolExecutor(parallel) as pool:
        while waiting or running:
            unfinished = {job.lesson for job in waiting} | {job.lesson for job in running.values()}
            ready = [job for job in waiting if not unfinished & set(NEEDS.get(job.lesson, ()))]
            for job in ready[:parallel - len(running)]:
                waiting.remove(job)
                running[pool.submit(run_job, job, run_dir, parallel == 1)] = job
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes[running.pop(future).lesson] = future.result()
            write_record(run_dir, [outcomes[job.lesson] for job in jobs if job.lesson in outcomes])
    return [outcomes[job.lesson] for job in jobs]


def run_job(job: Job, run_dir: Path, show_progress: bool) -> Outcome:
    """Runs one notebook in its own process and watches its memory."""
    executed = run_dir / f"{job.lesson}.ipynb"
    print(f"{job.lesson}: running", flush=True)
    began = time.monotonic()
    with open(run_dir / f"{job.lesson}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lmlab.runner", str(job.notebook), str(executed), json.dumps(job.parameters)],
            stdout=log, stderr=None if show_progress else log, cwd=job.notebook.parent)
        peak = _watch(process)
    seconds = round(time.monotonic() - began, 1)
    status = {0: "ok", CELL_FAILED: "failed"}.get(process.returncode, "kernel died")
    error = "" if status == "ok" else _describe(executed, run_dir / f"{job.lesson}.log", status)
    outcome = Outcome(job.lesson, status, seconds, peak, error)
    print(f"{job.lesson}: {status}, {seconds:.0f} s, {peak:.1f} GiB" + (f"\n{error}" if error else ""), flush=True)
    return outcome


def write_record(run_dir: Path, outcomes: list[Outcome]) -> None:
    record = {"lessons": [asdict(outcome) for outcome in outcomes]}
    (run_dir / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def failing_cell(executed: Path) -> tuple[str, str] | None:
    """(source, error) of the cell that failed in an executed notebook, without terminal colours; None if none did."""
    for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                return "".join(cell["source"]), f"{output['ename']}: {_ANSI.sub('', output['evalue'])}"
    return None


def last_started_cell(executed: Path) -> str | None:
    """The source of the cell that papermill had begun when its record ends; None if there is no record."""
    begun = [cell for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]
             if cell["metadata"].get("papermill", {}).get("start_time")]
    return "".join(begun[-1]["source"]) if begun else None


def _describe(executed: Path, log: Path, status: str) -> str:
    found = failing_cell(executed) if executed.exists() else None
    if found:
        source, error = found
        return f"  failing cell:\n{_indent(source)}\n  {error}"
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    cell = last_started_cell(executed) if executed.exists() else None
    where = f" in this cell:\n{_indent(cell)}" if cell else ""
    return f"  {status}{where}\n{_indent(tail)}"


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _watch(process: subprocess.Popen) -> float:
    """Waits for a process; returns the peak of the summed resident memory of its family, GiB."""
    import psutil

    peak, family = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            members = [family, *family.children(recursive=True)]
            peak = max(peak, sum(_resident(member) for member in members))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.2)
    return round(peak / 2**30, 2)


def _resident(member) -> int:
    import psutil

    try:
        return member.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def execute(notebook: str, executed: str, parameters: dict) -> int:
    """Executes one notebook by papermill. Returns 0, CELL_FAILED or KERNEL_DIED."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    try:
        papermill.execute_notebook(notebook, executed, parameters, kernel_name="python3", cwd=str(Path(notebook).parent))
    except papermill.PapermillExecutionError:
        return CELL_FAILED
    except DeadKernelError as error:
        print(error)
        return KERNEL_DIED
    return 0


if __name__ == "__main__":
    sys.exit(execute(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
