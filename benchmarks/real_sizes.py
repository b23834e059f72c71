"""Published models at full size, with random weights: do they train here, and what do they take?

python benchmarks/real_sizes.py gpt2|distilgpt2 --tokenizers FOLDER --pairs FILE.jsonl [--steps 20]
python benchmarks/real_sizes.py llama-3.2-1b|r1-distill-1.5b --tokenizers FOLDER --pairs FILE.jsonl

No weights are downloaded: a model built from its published config costs as much memory and time as the
trained one. FOLDER holds gpt2/ and qwen2/, as the publishers lay them out; FILE has the keys modern and
shakespearean. The small ones are fine-tuned fully (lesson 04), the large ones with LoRA in 4 bits for two
steps (lessons 05 and 06). A first loss near ln V and finite gradients are asserted, of the small an equal
loss after reloading, of the large that no frozen byte changed: a figure is only written when they hold.
"""

import argparse
import json
import math
import resource
import statistics
import tempfile
import time
from pathlib import Path

from abab import conditions

from lmlab.course.trainings import published_models

RESULTS = Path(__file__).parent / "results" / "real_sizes"
STEPS = 20
LORA_STEPS, LORA_ROWS, LORA_TOKENS = 2, 2, 128
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# the published configs, with what decides no shape too, and the adapters of the lessons' recipes
LARGE = {
    "llama-3.2-1b": (
        published_models()["meta-llama/Llama-3.2-1B"]
        | {
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 128_000,
            "eos_token_id": 128_001,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        {"r": 8, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ATTENTION},
        1_235_814_400,
        1_703_936,
    ),
    "r1-distill-1.5b": (
        published_models()["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"]
        | {
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 151_643,
            "eos_token_id": 151_643,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"},
        1_777_088_000,
        18_464_768,
    ),
}
GPT2 = {"gpt2": {}, "distilgpt2": {"n_layer": 6}}  # what differs from GPT-2 small, in transformers' names


def peak_gib() -> float:
    """The most memory that this process has held so far, or since ``forget_peak``, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def forget_peak() -> None:
    """From now on the peak is what comes (Linux: man 5 proc, clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def full_fine_tuning(name: str, tokenizers: Path, pairs: Path, steps: int = STEPS) -> dict:
    """Lesson 04's training at full size: batch 4 x 2, AdamW, 5e-5, saved half-way and at the end."""
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    from lmlab.course.cost import full_memory_gib
    from lmlab.data.labels import completion_only_collator
    from lmlab.data.pairs import tokenize_pairs
    from lmlab.data.sources import load_rows
    from lmlab.data.usable import usable_pairs
    from lmlab.evaluation.perplexity import completion_loss
    from lmlab.hardware import describe_machine, fast_matmul
    from lmlab.models.sources import load_model, load_tokenizer

    machine = describe_machine()
    tokenizer = load_tokenizer(str(tokenizers / "gpt2"))
    rows = usable_pairs(load_rows(str(pairs), "all"), str(pairs))
    examples = tokenize_pairs(rows, tokenizer, 512)
    n_held_out = 40
    held_out = examples.select(range(n_held_out))
    training = examples.select(range(n_held_out, n_held_out + 8 * steps))
    torch.manual_seed(0)
    before = peak_gib()

    class StepTimes(TrainerCallback):
        times, norms = [], []

        def on_step_end(self, args, state, control, **others):
            self.times.append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **others):
            self.norms += [logs["grad_norm"]] if "grad_norm" in logs else []

    watch = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config(**GPT2[name])).save_pretrained(f"{folder}/base")
        model = load_model(f"{folder}/base").to(machine.device)
        args = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=5e-5,
            warmup_steps=0.05,
            weight_decay=0.01,
            bf16=machine.bf16,
            fp16=machine.fp16,
            use_cpu=machine.use_cpu,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            save_steps=max(1, steps // 2),
        )
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=training,
            callbacks=[watch],
            data_collator=completion_only_collator(tokenizer),
        )
        loss_before = completion_loss(model, held_out)["loss"]
        with fast_matmul(machine.device, 512):
            trainer.train()
        peak = peak_gib()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        after = completion_loss(model, held_out)
        reloaded = completion_loss(load_model(f"{folder}/checkpoint-{steps}").to(model.device), held_out)
    uniform = math.log(model.config.vocab_size)
    assert abs(losses[0] - uniform) < 0.5 and abs(loss_before - uniform) < 0.5, (
        losses[0],
        loss_before,
        uniform,
    )
    assert np.isfinite(losses).all() and np.isfinite(watch.norms).all() and len(watch.norms) == steps
    assert after["loss"] < loss_before - 1 and reloaded["loss"] == after["loss"]
    seconds = statistics.median(b - a for a, b in zip(watch.times, watch.times[1:], strict=False))
    tokens = statistics.mean(len(row) for row in training["input_ids"])
    return {
        "parameters": model.num_parameters(),
        "steps": steps,
        "ln_V": uniform,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "held_out_before": loss_before,
        "held_out_after": after["loss"],
        "held_out_reloaded": reloaded["loss"],
        "largest_gradient_norm": max(watch.norms),
        "seconds_per_step": seconds,
        "tokens_per_second": 8 * tokens / seconds,
        "peak_gib": peak,
        "peak_gib_before_the_model": before,
        "predicted_gib": full_memory_gib(
            model.config,
            model.num_parameters(),
            4 * max(map(len, training["input_ids"])),
            half=machine.bf16 or machine.fp16,
        ),
    }


def write_random(config, folder: Path) -> int:
    """A checkpoint of a config with random weights in bfloat16, written layer by layer; returns their number.

    No more than one tensor is in memory at a time, so the peak that is measured later is that of loading and
    training.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        shapes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for i, (name, shape) in enumerate(shapes.items()):
        ones, zeros = name.endswith("norm.weight"), name.endswith("bias")
        tensor = (
            torch.ones(shape)
            if ones
            else torch.zeros(shape)
            if zeros
            else torch.empty(shape).normal_(0, 0.02, generator=generator)
        )
        save_file({name: tensor.bfloat16()}, folder / f"{i}.safetensors", metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(2 * shape.numel() for shape in shapes.values())},
        "weight_map": {name: f"{i}.safetensors" for i, name in enumerate(shapes)},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.dtype = torch.bfloat16
    config.architectures = [f"{type(config).__name__.removesuffix('Config')}ForCausalLM"]
    config.save_pretrained(folder)
    return sum(shape.numel() for shape in shapes.values())


def lora_in_four_bits(name: str, tokenizers: Path, pairs: Path) -> dict:
    """Lessons 05 and 06 at full size: loaded in NF4 as they do, and two steps of LoRA, logits in pieces."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, Trainer, TrainerCallback, TrainingArguments, default_data_collator
    from trl.trainer.utils import add_fused_lm_head

    from lmlab.data.sources import load_rows
    from lmlab.hardware import describe_machine, fast_matmul
    from lmlab.models import parameters, quantization
    from lmlab.models.sources import load_tokenizer

    values, adapter, n_weights, n_adapter = LARGE[name]
    machine = describe_machine()
    config = AutoConfig.for_model(**values)
    ids = load_tokenizer(str(tokenizers / "qwen2"))(
        "\n".join(row["modern"] for row in load_rows(str(pairs), "all").select(range(400)))
    )["input_ids"]
    ids = [token % config.vocab_size for token in ids]  # Llama's vocabulary is smaller than the tokenizer's
    rows = [ids[i * LORA_TOKENS : (i + 1) * LORA_TOKENS] for i in range(LORA_STEPS * LORA_ROWS)]
    before = peak_gib()
    with tempfile.TemporaryDirectory() as folder:
        written = write_random(config, Path(folder))
        assert written == n_weights, (written, n_weights)
        peak_writing, began = peak_gib(), time.perf_counter()
        base = quantization.load_four_bit(folder, machine)
        seconds_loading, peak_loading = time.perf_counter() - began, peak_gib()
    forget_peak()
    held = peak_gib()
    add_fused_lm_head(base)
    model = get_peft_model(base, LoraConfig(**adapter, task_type="CAUSAL_LM"))
    assert model.get_nb_trainable_parameters()[0] == n_adapter
    digest = parameters.frozen_parameters_hash(model)
    times, norms = [], []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            times.append(-time.perf_counter())

        def on_step_end(self, args, state, control, **others):
            times[-1] += time.perf_counter()

        def on_log(self, args, state, control, logs=None, **others):
            norms.extend([logs["grad_norm"]] if "grad_norm" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=LORA_STEPS,
            per_device_train_batch_size=LORA_ROWS,
            learning_rate=2e-4,
            activation_checkpointing=True,
            bf16=machine.bf16,
            fp16=machine.fp16,
            use_cpu=machine.use_cpu,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = Dataset.from_dict({"input_ids": rows, "labels": rows})
        trainer = Trainer(
            model,
            args,
            train_dataset=data,
            callbacks=[Watch()],
            data_collator=lambda found: default_data_collator(found) | {"fused_lm_head": True},
        )
        with fast_matmul(machine.device, LORA_TOKENS):
            trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    uniform = math.log(config.vocab_size)
    assert abs(losses[0] - uniform) < 0.7, (losses, uniform)
    assert len(norms) == LORA_STEPS and all(math.isfinite(norm) and norm > 0 for norm in norms), norms
    assert parameters.frozen_parameters_hash(model) == digest
    assert all(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)
    sizes = parameters.weight_bytes(model)
    return {
        "weights": n_weights,
        "trainable": n_adapter,
        "steps": LORA_STEPS,
        "ln_V": uniform,
        "losses": losses,
        "gradient_norms": norms,
        "seconds_loading": seconds_loading,
        "seconds_per_step": times,
        "bits_per_weight": 8 * (sizes["four_bit"] + sizes["constants"]) / (2 * sizes["four_bit"]),
        "weights_gib": (sum(sizes.values()) - sizes["float16"]) / 2**30,
        "float16_gib": sizes["float16"] / 2**30,
        "peak_gib_training": peak_gib(),
        "held_gib_before_training": held,
        "peak_gib_loading": peak_loading,
        "peak_gib_writing": peak_writing,
        "peak_gib_before": before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "name", choices=[*GPT2, *LARGE], help="one at a time, for the peak is that of a process"
    )
    parser.add_argument("--tokenizers", type=Path, required=True, help="a folder with gpt2/ and qwen2/ in it")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines with modern and shakespearean")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    if args.name in LARGE:
        measured = {
            "conditions": conditions(
                batch=f"{LORA_ROWS} x {LORA_TOKENS} tokens", rate=2e-4, activation_checkpointing=True
            ),
            args.name: lora_in_four_bits(args.name, args.tokenizers, args.pairs),
        }
    else:
        measured = {
            "conditions": conditions(batch="4 x 2", rate=5e-5, dtype="as lmlab.hardware chooses"),
            args.name: full_fine_tuning(args.name, args.tokenizers, args.pairs, args.steps),
        }
    out = RESULTS / f"{args.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(measured, indent=1))
    print(out.read_text())


if __name__ == "__main__":
    main()
