"""A recipe carried out by command: killed, stopped, resumed, and shared by two processes."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
import torch
from datasets import Dataset

from lmlab.data import loader, shards
from lmlab.models import sources
from lmlab.recipes import load_recipe
from lmlab.training import distributed, pretrain, pretrain_recipe
from lmlab.training.checkpoints import (
    STATE,
    list_checkpoints,
    newest_state,
    prune_checkpoints,
    save_checkpoint,
)
from lmlab.training.pretrain_state import TrainState

SETTINGS = {
    "max_steps": 40,
    "n_docs": 400,
    "shard_tokens": 10_000,
    "eval_docs": 20,
    "n_layer": 2,
    "n_embd": 32,
    "batch_size": 4,
    "grad_accumulation": 2,
    "warmup_steps": 5,
    "log_every": 7,
    "eval_every": 15,
    "checkpoint_every": 10,
    "keep_checkpoints": 2,
    "dropout": 0.1,
    "hellaswag_items": 8,
}


pytestmark = pytest.mark.usefixtures("one_thread")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def recipe(**changes):
    return load_recipe("02_gpt2_from_scratch", "tiny", **{**SETTINGS, **changes})


def losses(history) -> list[float]:
    rows = history["steps"] if isinstance(history, dict) else history.steps
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    """(history, folder) of a run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    return pretrain_recipe.run_recipe(recipe(), out), out


# what happens to a process on its way; each line of code stands before the call of the run
KILLED_IN_A_STEP = """
rate = pretrain.learning_rate_at
pretrain.learning_rate_at = lambda step, cfg: os.kill(os.getpid(), 9) if step == 26 else rate(step, cfg)
"""
KILLED_WHILE_IT_SAVES = """
sync = files.sync
files.sync = lambda path: os.kill(os.getpid(), 9) if "step_20" in str(path) else sync(path)
"""
ASKED_TO_STOP = """
rate = pretrain.learning_rate_at
def ask(step, cfg):
    if step == 23:
        os.kill(os.getpid(), 15)
    return rate(step, cfg)
pretrain.learning_rate_at = ask
"""


def run_and_stop(out: Path, how: str) -> subprocess.CompletedProcess:
    code = f"""
import os
from pathlib import Path
from lmlab import files
from lmlab.training import pretrain_recipe
from lmlab.training import distributed
from lmlab.training import pretrain
from lmlab.data import loader
from lmlab.models import sources
from lmlab.data import shards
from lmlab.models import gpt
from lmlab.recipes import load_recipe
{how}
try:
    pretrain_recipe.run_recipe(load_recipe("02_gpt2_from_scratch", "tiny", **{SETTINGS}), Path({str(out)!r}))
except KeyboardInterrupt as stopped:
    print(stopped)
    raise SystemExit(130)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "last"),
    [(KILLED_IN_A_STEP, -9, 20), (KILLED_WHILE_IT_SAVES, -9, 10), (ASKED_TO_STOP, 130, 24)],
)
def test_a_stopped_run_goes_on_with_the_very_same_losses(whole, tmp_path, caplog, how, code, last):
    done = run_and_stop(tmp_path, how)
    assert done.returncode == code, done.stderr
    assert max(list_checkpoints(tmp_path / "checkpoints")) == last
    with caplog.at_level("INFO", "lmlab"):
        history = pretrain_recipe.run_recipe(recipe(), tmp_path)
    assert f"resumes from step {last} " in caplog.text
    assert losses(history) == losses(whole[0])  # bit for bit
    assert history.column("step") == whole[0].column("step")
    assert history.evaluations == whole[0].evaluations
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (whole[1] / "model" / name).read_bytes()
    assert ("saved at step" in done.stdout) == (code == 130)


def run_by_torchrun(out: Path, changes: dict, *stop: str) -> subprocess.CompletedProcess:
    """``lmlab pretrain`` in two processes; with "stop", rank 1 is asked to stop in step 12."""
    settings = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    program = ["-m", "lmlab"]
    if stop:
        script = out.parent / "stopped.py"
        script.write_text(
            f"import os, sys\nfrom lmlab.training import pretrain\nfrom lmlab.cli import main\n"
            f"if os.environ['RANK'] == '1':\n{indent(ASKED_TO_STOP.replace('23', '11'), '    ')}\n"
            "sys.exit(main())",
            encoding="utf-8",
        )
        program = [str(script)]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        *program,
        "pretrain",
        "--out",
        str(out),
        *settings,
    ]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    changes = {**SETTINGS, "dropout": 0.0, "max_steps": 20, "grad_accumulation": 4}
    alone = pretrain_recipe.run_recipe(recipe(**changes), tmp_path / "one")
    done = run_by_torchrun(tmp_path / "two", changes)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout and done.stdout.count("done: validation") == 1
    _, state = newest_state(tmp_path / "two" / "02_gpt2_from_scratch" / "checkpoints")
    assert losses(state["history"]) == pytest.approx(losses(alone), rel=1e-5)
    theirs = [row["loss"] for row in state["history"]["evaluations"]]
    assert theirs == pytest.approx(alone.column("loss", of="evaluations"), rel=1e-5)


def test_steps_that_processes_cannot_share_are_refused(tmp_path):
    context = distributed.DistributedContext(0, 3)
    with pytest.raises(ValueError, match="grad_accumulation got 2"):
        pretrain.pretrain(
            pretrain_recipe.build_model(recipe(), Tokenizer()),
            None,
            pretrain.PretrainConfig.from_recipe(recipe()),
            validation=None,
            context=context,
        )


@pytest.mark.slow
def test_two_stopped_processes_go_on_together(tmp_path):
    """The losses since the last row of the log are those of both."""
    changes = {**SETTINGS, "dropout": 0.0, "max_steps": 16, "checkpoint_every": 10}
    alone = pretrain_recipe.run_recipe(recipe(**changes), tmp_path / "one")
    shared = tmp_path / "two"
    assert run_by_torchrun(shared, changes, "stop").returncode != 0
    assert max(list_checkpoints(shared / "02_gpt2_from_scratch" / "checkpoints")) == 12
    done = run_by_torchrun(shared, changes)
    assert done.returncode == 0 and "resumes from step 12" in done.stdout, done.stderr
    _, state = newest_state(shared / "02_gpt2_from_scratch" / "checkpoints")
    assert losses(state["history"]) == pytest.approx(losses(alone), rel=1e-5)


def test_an_edited_text_is_tokenized_again(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("One cat.\n\nTwo cats.", encoding="utf-8")
    cfg = recipe(data=str(text), n_docs=None)
    before = pretrain_recipe.shards_folder(cfg, tmp_path)
    assert pretrain_recipe.shards_folder(cfg, tmp_path) == before
    text.write_text("One cat.\n\nTen cats.", encoding="utf-8")
    assert pretrain_recipe.shards_folder(cfg, tmp_path) != before


class Tokenizer:
    eos_token_id = 0

    def __len__(self):
        return 50


@pytest.mark.slow
def test_the_newest_checkpoints_stay(whole):
    assert list(list_checkpoints(whole[1] / "checkpoints")) == [30, 40]


def test_the_best_checkpoint_outlives_newer_ones(tmp_path):
    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, step, lambda folder: None, {})
    prune_checkpoints(tmp_path, {0: 0.1, 10: 3.0, 20: 2.0, 30: 2.5}, keep=2)
    assert list(list_checkpoints(tmp_path)) == [20, 30, 40]
    prune_checkpoints(tmp_path, {}, keep=None)
    assert list(list_checkpoints(tmp_path)) == [20, 30, 40]


def test_a_damaged_state_is_named(tmp_path):
    save_checkpoint(tmp_path, 10, lambda folder: None, {"step": 10})
    path = save_checkpoint(tmp_path, 20, lambda folder: None, {"step": 20})
    assert newest_state(tmp_path)[1] == {"step": 20}
    (path / STATE).write_bytes((path / STATE).read_bytes()[:100])
    with pytest.raises(ValueError, match="step_20"):
        newest_state(tmp_path)


@pytest.mark.slow
def test_a_finished_or_other_run_is_not_replaced_unasked(whole):
    history, out = whole
    before = (out / "model" / "model.safetensors").read_bytes()
    for changes, words in (({}, "a finished run"), ({"learning_rate": 1e-3}, "learning_rate")):
        with pytest.raises(ValueError, match=words):
            pretrain_recipe.run_recipe(recipe(**changes), out)
    assert (out / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_replaced_run_is_kept_once(whole, tmp_path):
    out = tmp_path / "run"
    for rate in (4e-3, 3e-3):
        pretrain_recipe.run_recipe(recipe(learning_rate=rate, max_steps=10), out, True)
    _, state = newest_state(out / "previous" / "checkpoints")
    assert state["config"]["learning_rate"] == 4e-3
    assert newest_state(out / "checkpoints")[1]["config"]["learning_rate"] == 3e-3


def test_log_and_checkpoint_rhythm_may_change_on_the_way():
    model = pretrain_recipe.build_model(recipe(), Tokenizer())
    data = loader.WindowLoader([torch.arange(400).numpy()], 128, 2)

    def config(**changes):
        plan = pretrain.PretrainConfig.from_recipe(recipe(**changes))
        optimizer = pretrain.build_optimizer(model, plan)
        return TrainState(model, optimizer, data, plan, distributed.DistributedContext()).config()

    assert config() == config(log_every=3, eval_every=4, checkpoint_every=5, keep_checkpoints=9)
    assert config() != config(learning_rate=1e-3) and config() != config(seed=1)


def write_texts(folder: Path, kind: str) -> Path:
    """900 short texts as one .txt file, or in a folder of several files as FineWeb-Edu's."""
    texts = [f"The {i} cats ran to the bakery and home." for i in range(900)]
    if kind == "txt":
        path = folder / "text.txt"
        path.write_text("\n\n".join(texts), encoding="utf-8")
        return path
    path = folder / "sample"
    path.mkdir()
    for n in range(3):
        rows = [{"id": i, "text": text} for i, text in enumerate(texts[300 * n : 300 * (n + 1)])]
        if kind == "parquet":
            Dataset.from_list(rows).to_parquet(path / f"00{n}_00000.parquet")
        else:
            Dataset.from_list(rows).to_json(path / f"00{n}_00000.jsonl")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "parquet", "jsonl"])
def test_a_text_without_probabilities_is_validated_on_its_first_shard(tmp_path, kind):
    cfg = recipe(
        data=str(write_texts(tmp_path, kind)),
        n_docs=None,
        shard_tokens=4_000,
        validation_tokens=2_000,
        max_steps=6,
    )
    history = pretrain_recipe.run_recipe(cfg, tmp_path / "out")
    assert history.floor is None and history.evaluations[-1]["loss"] < history.evaluations[0]["loss"]
    tokenizer = sources.load_tokenizer(cfg.tokenizer)
    folder = pretrain_recipe.shards_folder(cfg, tmp_path / "out")
    rows, _ = pretrain_recipe.validation_rows(cfg, tokenizer, folder)
    held_out = torch.from_numpy(shards.open_shards(folder, "validation")[0].astype("int64"))
    assert torch.equal(rows.inputs.flatten(), held_out[: rows.inputs.numel()])
    assert rows.inputs.numel() == 2_000 // cfg.block_size * cfg.block_size


def test_data_only_prepares_and_stops(tmp_path):
    assert pretrain_recipe.run_recipe(recipe(), tmp_path, data_only=True) is None
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
