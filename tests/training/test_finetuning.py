"""The fine-tuning job: same losses in one process, two by DDP, two by FSDP; what it saves and refuses."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmlab.recipes import load_recipe
from lmlab.training.distributed import shards_weights
from lmlab.training.progress import read_progress
from lmlab.training.sft import check_request, run_recipe

LESSON = "04_shakespeare_full_finetune"
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "accelerate"
FULL = {
    "n_train": 64,
    "epochs": 1,
    "n_validation": 20,  # not a multiple of what two processes evaluate at a time
    "study_sizes": [20],
    "grad_accumulation": 2,
    "learning_rate": 3e-3,
    "evaluations": 2,
}
LORA = {"n_train": 40, "n_validation": 5, "grad_accumulation": 2, "evaluations": 2}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, one_thread):
    out = tmp_path_factory.mktemp("alone")
    return run_recipe(load_recipe("04_shakespeare_full_finetune", "tiny", **FULL), out), out


COMMANDS = {"ddp": ["-m", "lmlab"], "fsdp": [str(ROOT / "tests" / "fsdp_on_cpu.py")]}


@pytest.mark.slow
@pytest.mark.parametrize("config", COMMANDS)
def test_two_processes_learn_what_one_does(config, alone, tmp_path):
    process = launch(config, tmp_path, FULL)
    said, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    assert f"2 processes, {'FSDP' if config == 'fsdp' else 'MULTI_CPU'}" in said
    assert said.count("step 0 of ") == 1, "one process alone speaks"
    assert_learned_the_same(alone, tmp_path / LESSON)


def launch(config: str, out: Path, choices: dict) -> subprocess.Popen:
    settings = [part for key, value in choices.items() for part in ("--set", f"{key}={value}")]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(CONFIGS / f"{config}.yaml"),
            "--main_process_port",
            "0",
            *COMMANDS[config],
            "finetune",
            "04",
            *settings,
            "--out",
            str(out),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def assert_learned_the_same(alone, tmp_path):
    from safetensors.torch import load_file

    losses, out = alone
    noted = read_progress(tmp_path)
    assert [row["step"] for row in noted] == [step for step, _ in losses]
    assert [row["val_loss_large"] for row in noted] == pytest.approx([loss for _, loss in losses], abs=1e-4)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path))
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-3


@pytest.mark.drill
@pytest.mark.parametrize("config", COMMANDS)
def test_two_processes_that_are_killed_go_on(config, alone, tmp_path):
    from lmlab.course.runner import kill_process_tree

    process = launch(config, tmp_path, FULL)
    while not (tmp_path / LESSON / "trainer" / "checkpoint-2" / "complete.json").exists():
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.01)
    kill_process_tree(process)
    process.communicate()
    again = launch(config, tmp_path, FULL)
    said, errors = again.communicate()
    assert again.returncode == 0, errors[-3000:]
    assert "resumes from step" in said and "step 0 of" not in said
    assert_learned_the_same(alone, tmp_path / LESSON)


@pytest.mark.slow
def test_a_finished_run_is_not_overwritten(alone):
    _, out = alone
    before = (out / "progress.jsonl").read_text()
    with pytest.raises(ValueError, match="finished run"):
        run_recipe(load_recipe("04_shakespeare_full_finetune", "tiny", **FULL), out)
    assert (out / "progress.jsonl").read_text() == before


@pytest.mark.slow
def test_the_loss_falls_and_the_saved_model_has_it(alone):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from lmlab.evaluation import perplexity
    from lmlab.models.sources import load_model, load_tokenizer
    from lmlab.training.sft import examples

    losses, out = alone
    best = min(loss for _, loss in losses)
    assert best < losses[0][1]
    shown = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [row.step for row in shown.Scalars("eval/loss")] == [step for step, _ in losses]
    assert shown.Tensors("recipe/text_summary")
    model, tokenizer = load_model(str(out / "model")), load_tokenizer(str(out / "model"))
    cfg = load_recipe("04_shakespeare_full_finetune", "tiny", **FULL)
    again = perplexity.completion_loss(model, examples(cfg, tokenizer)[1])["loss"]
    assert again == pytest.approx(best, abs=1e-4)


@pytest.mark.slow
def test_an_adapter_on_four_bits_is_found_by_the_name_of_its_base(machine, tmp_path, one_thread):
    from lmlab.evaluation import perplexity
    from lmlab.export import merge
    from lmlab.models.sources import load_tokenizer
    from lmlab.training.sft import examples

    cfg = load_recipe("05_llama_lora_4bit", "tiny", **LORA)
    losses = run_recipe(cfg, tmp_path)
    assert merge.adapter_base(tmp_path / "adapter") == cfg.model
    model = merge.load_adapted(tmp_path / "adapter", "4-bit base", machine)
    validation = examples(cfg, load_tokenizer(cfg.model))[1]
    best = min(loss for _, loss in losses)
    assert perplexity.completion_loss(model, validation)["loss"] == pytest.approx(best, abs=1e-4)
    assert best < losses[0][1]


def test_conversations_bear_loss_on_thought_and_answer_alone():
    from lmlab.models.sources import load_tokenizer
    from lmlab.training.sft import examples

    cfg = load_recipe(
        "06_deepseek_qlora_think",
        n_train=20,
        n_validation=5,
        n_eval=5,
        n_harder=0,
        augmented_copies=0,
        trained_steps=4,  # all problems of the set
    )
    tokenizer = load_tokenizer(cfg.model)
    train, validation = examples(cfg, tokenizer)
    assert len(train) == 20 and len(validation) == 5
    for row in train:
        start = row["labels"].count(-100)
        assert tokenizer.decode(row["input_ids"][:start]).endswith("<think>\n")
        assert (
            row["labels"][start:] == row["input_ids"][start:] and row["labels"][-1] == tokenizer.eos_token_id
        )


@pytest.mark.parametrize(
    "lesson, choices, bits, env, told",
    [
        ("08_fantasy_locations", {}, None, {}, "08_fantasy"),
        ("04_shakespeare_full_finetune", {}, 16, {}, "--bits"),
        ("05_llama_lora_4bit", {}, None, {"ACCELERATE_USE_FSDP": "true"}, "--bits 16"),
        (
            "05_llama_lora_4bit",
            {},
            4,
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
            "--bits 16",
        ),
        (
            "05_llama_lora_4bit",
            {"grad_accumulation": 3},
            None,
            {"WORLD_SIZE": "2"},
            "grad_accumulation got 3",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(lesson, choices, bits, env, told, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=told):
        check_request(load_recipe(lesson, "tiny", **choices), bits)


def test_an_unfinished_run_of_other_choices_is_not_gone_on_with(tmp_path, one_thread):
    (tmp_path / "trainer" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "trainer" / "run_config.json").write_text("{}")
    with pytest.raises(ValueError, match="learning_rate"):
        run_recipe(load_recipe("04_shakespeare_full_finetune", "tiny", **FULL), tmp_path)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_accelerate_reads_every_config(name):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(name, "DEEPSPEED")
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / f"{name}.yaml"), "-m", "lmlab"])
    known = set(vars(args))
    assert {key if key.startswith("fsdp") else f"fsdp_{key}" for key in config.fsdp_config} <= known
    assert set(config.deepspeed_config) <= known
    assert _validate_launch_command(args)[0].num_processes == 2


@pytest.mark.parametrize(
    "name, pieces", [("fsdp", True), ("deepspeed_zero2", False), ("deepspeed_zero3", True)]
)
def test_what_accelerate_tells_its_processes_is_what_we_read(name, pieces, monkeypatch):
    """DeepSpeed itself is not here; the environment of its processes is made without it."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / f"{name}.yaml"), "-m", "lmlab"])
    args = _validate_launch_command(args)[0]
    args.deepspeed_fields_from_accelerate_config = ""
    env = prepare_multi_gpu_env(args) if name == "fsdp" else prepare_deepspeed_cmd_env(args)[1]
    for key, value in env.items():
        if key.startswith(("ACCELERATE_USE", "ACCELERATE_DEEPSPEED")):
            monkeypatch.setenv(key, value)
    assert shards_weights() is pieces
