"""Forecasts against counted bytes: of weights, adapters, optimizers and checkpoints they are exact."""

import copy
import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lmlab import hardware
from lmlab.cli import main
from lmlab.course import cost
from lmlab.course.forecast import forecast, kv_cache_bytes
from lmlab.course.measured import compare, measure, peak_bytes
from lmlab.course.plan import changes, plan
from lmlab.course.trainings import published_config, published_models, trainings
from lmlab.models import quantization
from lmlab.models.gpt import GPT2_SIZES
from lmlab.models.sources import load_model
from lmlab.recipes import list_recipes, load_recipe
from lmlab.training.memory import in_four_bits, model_on_meta, with_adapter

T4 = hardware.gpu("T4")
CPU = dataclasses.replace(
    T4, device="cpu", device_name="a CPU", dtype="float32", memory_gb=16.0, gpu_memory_gb=None
)
PLANNED = ["00", "02", "04", "05", "06", "08", "09", "11"]


def recipe(number: str, name: str = "tiny", **overrides):
    from lmlab.recipes import find_lesson

    return load_recipe(find_lesson(number), name, **overrides)


# --- facts ---


@pytest.mark.parametrize(
    ("source", "n"),
    {
        **{f"openai-community/{name}": None for name in GPT2_SIZES},
        "distilbert/distilgpt2": 81_912_576,
        "meta-llama/Llama-3.2-1B": 1_235_814_400,
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
        "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
        "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
        "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    }.items(),
)
def test_built_in_configs_have_the_published_number_of_weights(source, n):
    n = n or model_on_meta(GPT2_SIZES[source.split("/")[1]]).num_parameters()
    config = published_config(source)
    assert sum(p.numel() for p in model_on_meta(config).parameters()) == n


def test_every_hub_model_of_a_recipe_is_built_in():
    named = {
        load_recipe(lesson, name, data_dir="x").model
        for lesson in (
            "00_start_here",
            "04_shakespeare_full_finetune",
            "05_llama_lora_4bit",
            "06_deepseek_qlora_think",
            "08_fantasy_locations",
            "09_grpo_reasoning",
        )
        for name in list_recipes(lesson)
    }
    assert {source for source in named if not source.startswith("miniworld/")} <= set(published_models())


def test_llama_with_an_adapter_of_rank_8():
    base = in_four_bits(model_on_meta(published_config("meta-llama/Llama-3.2-1B"), torch.float16))
    model = with_adapter(base, r=8, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    trained, everything = model.get_nb_trainable_parameters()
    assert (trained, everything) == (1_703_936, 1_237_518_336)
    assert f"{trained / everything:.4%}" == "0.1377%"


def test_bits_of_a_weight_in_nf4_with_double_quantization():
    n = 2048 * 8192
    assert 8 * (cost.four_bit_bytes(n) - 4) / n == 4 + 8 / 64 + 32 / (64 * 256)
    assert f"{8 * cost.four_bit_bytes(n) / n:.3f}" == "4.127"


@pytest.mark.parametrize("n", [100, 4095, 4096, 5000, 256 * 40])
def test_bytes_of_8_bit_adam_are_those_of_bitsandbytes(n):
    import bitsandbytes

    parameter = torch.nn.Parameter(torch.zeros(n))
    optimizer = bitsandbytes.optim.AdamW8bit([parameter])
    optimizer.init_state(optimizer.param_groups[0], parameter, 0, 0)
    state = {key: value for key, value in optimizer.state[parameter].items() if not key.startswith("qmap")}
    assert cost.adam_bytes([(n, False)], "adamw_8bit") == sum(
        t.nbytes for t in state.values() if torch.is_tensor(t)
    )
    assert cost.adam_bytes([(n, True)], "adamw_8bit") == 8 * n


def test_a_t4_has_no_bfloat16():
    assert (T4.dtype, T4.fp16, T4.bf16) == ("float16", True, False)
    assert hardware.gpu("L4").dtype == "bfloat16"
    assert hardware.gpu("a100-80gb").gpu_memory_gb > 70
    with pytest.raises(ValueError, match="T5"):
        hardware.gpu("T5")


# --- predicted is actual ---


@pytest.mark.parametrize(("number", "model"), [("05", "miniworld/llama"), ("06", "miniworld/qwen2")])
def test_an_adapter_is_predicted_to_the_byte(number, model, machine, tmp_path, one_thread):
    if machine.device != "cpu":
        pytest.skip("lesson 06 has another optimizer on a GPU")
    cfg = recipe(number)
    made = plan(cfg, machine)
    torch.manual_seed(0)
    adapted = get_peft_model(
        quantization.load_four_bit(cfg.model, machine),
        LoraConfig(
            r=cfg.lora_r, lora_alpha=cfg.lora_alpha, target_modules=cfg.target_modules, task_type="CAUSAL_LM"
        ),
    )
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad])
    ids = torch.randint(8, 1500, (1, 8))
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    found = measure(adapted, optimizer)
    assert set(found) == {"weights", "adapter", "optimizer"}
    assert found == dict(made.forecasts["adapter"].model_states)
    assert all(row.predicted == row.actual for row in compare(made, found).rows)


def test_full_fine_tuning_is_predicted_to_the_byte(tmp_path, one_thread):
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from lmlab.hardware import describe_machine

    machine = describe_machine()
    made = plan(recipe("04"), machine)
    model = load_model("miniworld/gpt2")
    args = TrainingArguments(
        str(tmp_path),
        use_cpu=machine.use_cpu,
        per_device_train_batch_size=1,
        report_to="none",
        max_steps=1,
        save_steps=1,
    )
    rows = Dataset.from_dict({"input_ids": [[8, 9, 10]], "labels": [[8, 9, 10]]})
    trainer = Trainer(model=model, args=args, train_dataset=rows)
    trainer.train()
    found = measure(model, trainer.optimizer)
    found.pop("peak memory", None)
    assert found == dict(made.forecasts["pairs"].model_states)


def test_a_new_gpt_is_predicted_to_the_byte():
    from lmlab.models.gpt import GPT, GPTConfig

    training = trainings(recipe("02", vocab_multiple=100), CPU)[0]
    assert isinstance(training.config, GPTConfig) and training.config.padded_vocab_size == 1600
    found = measure(GPT(training.config))
    assert found["weights"] == forecast(training, CPU).model_states["weights"]


# --- plans ---


@pytest.mark.parametrize("number", PLANNED)
def test_every_lesson_that_trains_has_a_plan(number):
    made = plan(recipe(number), T4)
    assert (
        all(f.fits and f.hours > 0 and f.hourly_cost > 0 for f in made.forecasts.values()) and not made.advice
    )
    assert "peak memory" in str(made) and "Predicted" in str(made)


def test_the_parts_are_the_peak():
    made = forecast(trainings(recipe("06"), T4)[0], T4)
    assert (
        sum(made.memory.values()) == made.peak > made.model_states["weights"] + made.model_states["adapter"]
    )
    assert made.memory["gradients"] <= made.model_states["adapter"]


@pytest.mark.slow
def test_what_does_not_fit_is_told_what_would_help():
    small = dataclasses.replace(T4, gpu_memory_gb=0.66)
    cfg = recipe("06", batch_size=16)
    made = plan(cfg, small)
    offered = made.advice["adapter"]
    assert not made.forecasts["adapter"].fits and len(offered) >= 3
    peaks = [change.forecast.peak for change in offered]
    assert peaks == sorted(peaks) and peaks[-1] < made.forecasts["adapter"].peak
    for change in offered:  # each is a recipe that can be run, and its plan says the same
        again = plan(cfg.model_copy(update=change.settings), small)
        assert again.forecasts["adapter"].peak == change.forecast.peak
    assert "--set activation_checkpointing=true" in str(made)


def test_a_change_keeps_the_tokens_of_a_step():
    cfg = recipe("06", batch_size=4, grad_accumulation=2)
    for change in changes(cfg, forecast(trainings(cfg, T4)[0], T4)):
        if "batch_size" in change.settings:
            assert change.settings["batch_size"] * change.settings["grad_accumulation"] == 8


@pytest.mark.slow
def test_chunked_logits_train_under_4_gib_and_whole_ones_do_not():
    l4 = hardware.gpu("L4")
    job = trainings(recipe("06", "gpu", batch_size=2, grad_accumulation=8), l4)[0]
    assert (job.batch_size, job.length, job.checkpointing, job.chunked) == (2, 2048, True, True)
    made = forecast(job, l4)
    assert made.peak < 4 * 2**30
    whole = forecast(shallow(job, chunked=False), l4)
    assert made.peak + whole.memory["logits"] > 8 * 2**30


def shallow(job, **others):
    """The same with two layers, which is quicker to trace."""
    config = copy.deepcopy(job.config)
    config.num_hidden_layers = 2
    return dataclasses.replace(job, config=config, **others)


def test_more_operations_take_longer_and_a_better_gpu_less():
    job = shallow(trainings(recipe("06", "gpu"), T4)[0])
    on_t4, on_l4 = (forecast(job, hardware.gpu(name)) for name in ("T4", "L4"))
    assert on_t4.hours > on_l4.hours
    assert forecast(dataclasses.replace(job, checkpointing=False), T4).hours < on_t4.hours
    assert dataclasses.replace(on_t4, training=dataclasses.replace(job, steps=None)).hours is None


@pytest.mark.slow
def test_answers_of_a_step_are_generated_before_it(one_thread):
    """The KV cache is transformers' own size; where it is the peak, a change names what makes it smaller."""
    cfg = recipe("09", n_train=8)
    job = trainings(cfg, CPU)[0]
    model = load_model(cfg.model)
    with torch.no_grad():
        cache = model(torch.ones(3, 11, dtype=torch.long), use_cache=True).past_key_values
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_cache_bytes(dataclasses.replace(job, rollouts=3, length=11), CPU) == real
    tight = dataclasses.replace(T4, gpu_memory_gb=0.9)
    made = plan(recipe("09", n_train=8, batch_size=1, grad_accumulation=512, max_new_tokens=1024), tight)
    writing = made.forecasts["adapter"]
    assert "KV cache" in writing.memory and not writing.fits
    fewer = min(made.advice["adapter"], key=lambda change: change.forecast.peak)
    assert {"max_new_tokens", "grad_accumulation"} & set(fewer.settings)
    without = dataclasses.replace(writing.training, rollouts=0, new_tokens=0)
    assert writing.seconds > forecast(without, tight).seconds


def test_memory_that_is_not_known_is_no_reason_to_refuse():
    assert plan(recipe("05"), dataclasses.replace(CPU, memory_gb=0.0)).forecasts["adapter"].fits


def test_a_folder_gives_the_config(gpt2_folder):
    made = plan(recipe("08", model=str(gpt2_folder)), T4)
    assert made.forecasts["locations"].training.config.n_embd == 32


@pytest.mark.slow
def test_the_command(capsys):
    assert main(["plan", "05", "--gpu", "T4", "--set", "lora_r=4"]) == 0
    shown = capsys.readouterr().out
    assert "float16" in shown and "fits" in shown and "cost" in shown
    assert main(["plan", "05", "--gpu", "T4", "--set", "batch_size=4096"]) == 1
    shown = capsys.readouterr().out
    assert "DOES NOT FIT" in shown and "--set batch_size=1 --set grad_accumulation=4096" in shown
    assert (
        main(["plan", "02", "--recipe", "local"]) == 2 and "--set data_dir=FOLDER" in capsys.readouterr().err
    )
    assert main(["plan", "03"]) == 2 and "00, 02, 04, 05, 06, 08, 09" in capsys.readouterr().err


# --- measured ---


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's allocator rounds")
def test_the_peak_is_what_is_there_at_once():
    def run():
        first = torch.ones(1000)
        del first
        kept = torch.ones(2000)
        return kept + torch.ones(2000)  # three of them at once

    assert peak_bytes(run) == 3 * 8000


def test_a_step_takes_what_the_plan_says(one_thread):
    """All that a step of lesson 11 allocates, with each optimizer, is in the forecast."""
    cfg = recipe("11")
    for optimizer in ("adamw_torch", "adafactor"):
        size = cfg.sizes[0].model_copy(update={"optimizer": optimizer})
        made = forecast(trainings(cfg.model_copy(update={"sizes": [size]}), CPU)[0], CPU)
        assert made.memory["optimizer"] == made.model_states["optimizer"] > 0
        assert made.memory["gradients"] <= made.model_states["weights"]
