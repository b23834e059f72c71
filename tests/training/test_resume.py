"""Fine-tuning jobs that are killed, or find the disk full, and resume: the losses of an uninterrupted one."""

import shutil
import signal
import time
from pathlib import Path

import pytest
from kills import FULL, KILLED, Job

from lmlab.training.checkpoints import find_resumable_checkpoint
from lmlab.training.progress import read_progress

SMALL = {
    "04_shakespeare_full_finetune": {
        "n_train": 48,
        "n_validation": 20,
        "study_sizes": [20],
        "epochs": 1,
        "evaluations": 3,
    },
    "05_llama_lora_4bit": {"n_train": 120, "n_validation": 5, "evaluations": 2, "lora_dropout": 0.1},
    "06_deepseek_qlora_think": {
        "n_train": 48,
        "n_validation": 5,
        "n_eval": 5,
        "n_harder": 0,
        "augmented_copies": 0,
        "lora_dropout": 0.1,
        "evaluations": 3,
    },
}
LESSONS = list(SMALL)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory, machine):
    """lesson -> (its folder, what it answered), of a job that never stops; made at the first use."""
    made: dict = {}

    def of(lesson: str) -> tuple[Path, dict]:
        if lesson not in made:
            out = tmp_path_factory.mktemp("whole") / lesson
            job = Job(lesson, SMALL[lesson], out)
            assert job.wait() == 0
            made[lesson] = out, job.read()
            assert "losses" in job.read(), job.read()
        return made[lesson]

    return of


def resume_and_compare(lesson: str, out: Path, whole: tuple[Path, dict]) -> None:
    """Gives the same command again, and compares all that it leaves with an uninterrupted job's."""
    job = Job(lesson, SMALL[lesson], out)
    assert job.wait() == 0
    folder, expected = whole
    answer = job.read()
    if "error" in answer:  # it was stopped when all was done, save removing the checkpoints
        assert answer["error"][0] == "ValueError" and "finished run" in answer["error"][1]
    else:
        assert answer["losses"] == expected["losses"]
    assert (out / "progress.jsonl").read_bytes() == (folder / "progress.jsonl").read_bytes()
    ours, theirs = curves(out), curves(folder)
    if not lesson.startswith(
        "04"
    ):  # they log means of 5 steps, which transformers begins anew when it resumes
        ours.pop("train/loss", None), theirs.pop("train/loss", None)
    assert ours == theirs != {}
    result = "model" if lesson.startswith("04") else "adapter"
    assert contents(out / result) == contents(folder / result)
    assert not list((out / "trainer").glob("checkpoint-*")) and not list(out.rglob("*.lmlab"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def curves(out: Path) -> dict[str, list[tuple]]:
    """TensorBoard's training and validation losses: (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(out / "tensorboard")).Reload()
    return {
        tag: [(row.step, row.value) for row in shown.Scalars(tag)]
        for tag in ("train/loss", "eval/loss", "train/learning_rate")
        if tag in shown.Tags()["scalars"]
    }


def kill_at_write(lesson: str, out: Path, whole, at: int) -> None:
    job = Job(lesson, SMALL[lesson], out, stop_at=at)
    assert job.wait() == KILLED
    resume_and_compare(lesson, out, whole)


def writes_of(whole: tuple[Path, dict], word: str) -> list[int]:
    return [i for i, write in enumerate(whole[1]["writes"]) if word in write]


def kill_at(write: int, lesson: str, out: Path) -> None:
    """Runs the job of a lesson until it is killed at a write."""
    assert Job(lesson, SMALL[lesson], out, stop_at=write).wait() == KILLED


def test_killed_in_the_second_checkpoint_it_goes_on_from_the_first(whole, tmp_path):
    lesson = LESSONS[0]
    whole = whole(lesson)
    kill_at(writes_of(whole, "torch.save trainer/checkpoint-4/optimizer.pt")[0], lesson, tmp_path / "out")
    assert (tmp_path / "out" / "trainer" / "checkpoint-4").exists()
    copy = shutil.copytree(tmp_path / "out" / "trainer", tmp_path / "copy")
    assert find_resumable_checkpoint(copy) == str(copy / "checkpoint-2")
    assert not (copy / "checkpoint-4").exists()
    resume_and_compare(lesson, tmp_path / "out", whole)


def test_killed_in_the_final_save_it_is_not_finished(whole, tmp_path):
    lesson = LESSONS[1]
    whole = whole(lesson)
    kill_at(writes_of(whole, "adapter_model.safetensors")[-1], lesson, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()
    resume_and_compare(lesson, tmp_path / "out", whole)


def test_killed_before_it_has_removed_its_checkpoints_it_is_finished(whole, tmp_path):
    lesson = LESSONS[1]
    whole = whole(lesson)
    kill_at(writes_of(whole, "remove trainer/checkpoint-")[-1], lesson, tmp_path / "out")
    assert list((tmp_path / "out" / "trainer").glob("checkpoint-*"))
    resume_and_compare(lesson, tmp_path / "out", whole)


@pytest.mark.parametrize("word", ["torch.save trainer/checkpoint-6/optimizer.pt", "/model.safetensors"])
def test_a_full_disk_is_told_and_nothing_is_lost(whole, tmp_path, word):
    lesson = LESSONS[0]
    whole = whole(lesson)
    job = Job(lesson, SMALL[lesson], tmp_path / "out", stop_at=writes_of(whole, word)[-1], full=True)
    assert job.wait() == FULL
    kind, text = job.read()["error"]
    assert kind == "OSError" and str(tmp_path / "out") in text and "full" in text
    resume_and_compare(lesson, tmp_path / "out", whole)


@pytest.mark.drill
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("lesson", LESSONS)
def test_killed_at_any_write(whole, tmp_path, lesson, part):
    whole = whole(lesson)
    n = len(whole[1]["writes"])
    begun = writes_of(whole, "mkdir trainer/checkpoint-")[0]
    kill_at_write(lesson, tmp_path / "out", whole, begun + int((part + 0.5) * (n - begun) / 5))


@pytest.mark.drill
@pytest.mark.parametrize(
    "lesson, step, delay",
    [
        (LESSONS[0], 4, 0.0),
        (LESSONS[0], 6, 0.03),
        (LESSONS[1], 3, 0.01),
        (LESSONS[1], 6, 0.02),
        (LESSONS[2], 4, 0.0),
    ],
)
def test_killed_by_a_signal_while_it_saves(whole, tmp_path, lesson, step, delay):
    whole, out = whole(lesson), tmp_path / "out"
    job = Job(lesson, SMALL[lesson], out)
    checkpoint = out / "trainer" / f"checkpoint-{step}"
    while not checkpoint.exists() and job.process.is_alive():
        time.sleep(0.001)
    time.sleep(delay)
    job.process.kill()
    assert job.wait() in (-signal.SIGKILL, 0)
    resume_and_compare(lesson, out, whole)


def test_losses_are_those_of_the_file(whole):
    folder, answer = whole(LESSONS[0])
    rows = [[row["step"], row["val_loss_large"]] for row in read_progress(folder)]
    assert rows == answer["losses"]
