"""What comes after training: the adapter merged and written as GGUF, answers generated, GRPO."""

import math
import statistics
import time
from contextlib import contextmanager

from gpu import shared
from lmlab.course.trainings import published_config
from lmlab.export.gguf import export_gguf
from lmlab.models.sources import load_tokenizer
from lmlab.training import sft

TOKENIZER = "miniworld/qwen2"  # has the chat template; its few entries are the first of a larger vocabulary


def merge_and_gguf(sizes: dict) -> dict:
    """The adapter of the QLoRA piece (where that has not run, a random one) merged into its base.

    The base is the same, since its weights follow from the seed. The logits of the merged model must be
    those of base and adapter, by ``verify.verify_merge``'s bound.
    """
    import torch

    from lmlab.export import merge

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    work, tokenizer = shared.work_folder(), load_tokenizer(TOKENIZER)
    seconds, losses = {}, []
    with clocked(seconds, "writing the base"):
        base = shared.random_model(published_config(cfg.model), torch.bfloat16, machine.device)
        base.save_pretrained(work / "base")
        tokenizer.save_pretrained(work / "base")
    adapter = adapter_of(base, cfg, work)
    del base
    shared.release_memory()
    shared.forget_peak()
    with clocked(seconds, "merging"):
        merged = merge.merge_to_folder(
            adapter, work / "merged", sizes["way"], machine, tokenizer, base=str(work / "base")
        )
    with clocked(seconds, "verifying"):
        agreement = verified(adapter, work, sizes["way"], machine, sizes["positions"])
    with clocked(seconds, "GGUF"):
        file = export_gguf(work / "merged", work / "merged.gguf", sizes["quantization"])
    losses.append(agreement.kl)
    return {
        "seconds_of": seconds,
        "tensors_changed": merged.n_changed,
        "merged_gib": merged.n_bytes / shared.GIB,
        "gguf_gib": file.stat().st_size / shared.GIB,
        "losses": losses,
        "largest_logit_difference": agreement.max_difference,
        "same_top_1": agreement.top1,
        "forecast": {"gguf_gib": predicted_gguf(work, sizes["quantization"])},
        **shared.peaks(),
    }


def predicted_gguf(work, quantization: str) -> float:
    from lmlab.export.gguf import gguf_bytes

    return gguf_bytes(work / "merged", quantization) / shared.GIB


@contextmanager
def clocked(seconds: dict, name: str):
    began = time.perf_counter()
    yield
    shared.wait_for_device()
    seconds[name] = time.perf_counter() - began


def adapter_of(base, cfg, work):
    """The folder of the kept adapter, or of a random one whose B is not 0, so that it changes something."""
    import torch

    from lmlab.models.adapters import save_adapter

    if (work / "adapter" / "adapter_config.json").exists():
        return work / "adapter"
    model = sft.with_lora(base, cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.01)
    return save_adapter(model, work / "adapter", cfg.model)


def verified(adapter, work, way: str, machine, positions: int):
    """How near merged model and adapter are; one model at a time is on the device."""
    import torch

    from gpu import watched
    from lmlab.export import merge, verify
    from lmlab.models.sources import load_model

    ids = [row["input_ids"] for row in watched.random_rows(2, positions, 1000)]
    adapted = merge.load_adapted(adapter, way, machine, base=str(work / "base"))
    beside = verify.logits_of(adapted, ids)
    with adapted.disable_adapter():
        alone = verify.logits_of(adapted, ids)
    config = adapted.config
    del adapted
    shared.release_memory()
    merged = load_model(str(work / "merged")).to(machine.device)
    bound = verify.logit_tolerance(beside, config, torch.bfloat16)
    return verify.verify_merge(beside, alone, verify.logits_of(merged, ids), bound)


# --- generation ------------------------------------------------------------------------------------


def generation(sizes: dict) -> dict:
    """Greedy answers in lesson 06's batches by a 4-bit base with its adapter, all of one length."""
    from lmlab import miniworld
    from lmlab.data.reasoning import to_reasoning_format
    from lmlab.models.chat_template import prompt_text
    from lmlab.models.generation import generate_greedy

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    tokenizer = load_tokenizer(TOKENIZER)
    model = sft.with_lora(shared.frozen_base(published_config(cfg.model), machine, 4), cfg)
    n, length = cfg.eval_batch_size, cfg.max_new_tokens
    rows = miniworld.dataset("problems", "validation", n)
    prompts = [prompt_text(tokenizer, to_reasoning_format(row)["prompt"]) for row in rows]
    generate_greedy(model, tokenizer, prompts[:2], 4, n, min_new_tokens=4)  # what is made once
    shared.forget_peak()
    shared.wait_for_device()
    began = time.perf_counter()
    texts = generate_greedy(model, tokenizer, prompts, length, n, min_new_tokens=length)
    shared.wait_for_device()
    seconds = time.perf_counter() - began
    assert len(texts) == n
    return {
        "batch_size": n,
        "new_tokens": length,
        "seconds_generating": seconds,
        "losses": [],
        "tokens_per_second": n * length / seconds,
        "forecast": {},
        **shared.peaks(),
    }


# --- GRPO ------------------------------------------------------------------------------------------


def grpo(sizes: dict) -> dict:
    """Steps of lesson 09's recipe on a random base; a reward that a random model can get makes gradients."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from gpu import watched
    from lmlab.course.measured import measure
    from lmlab.course.trainings import trainings
    from lmlab.evaluation import rewards
    from lmlab.hardware import fast_matmul
    from lmlab.models import parameters

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    job = trainings(cfg, machine)[0]
    base = shared.random_model(job.config, machine.torch_dtype, machine.device)
    model = lora_on(base, cfg)
    args = GRPOConfig(
        output_dir=str(shared.work_folder() / "grpo"),
        **watched.grpo_arguments(cfg, machine),
        **recomputing(GRPOConfig, cfg.activation_checkpointing),
    )
    watch = watched.Watch(looked_at=cfg.max_steps)
    trainer = GRPOTrainer(
        model,
        reward_funcs=[rewards.accuracy_reward, rewards.format_reward, even_ids],
        args=args,
        train_dataset=Dataset.from_list(problems(cfg)),
        processing_class=load_tokenizer(TOKENIZER),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    parameters.trainable_to_float32(trainer.model)
    shared.release_memory()
    shared.forget_peak()
    with fast_matmul(machine.device, job.length):
        trainer.train()
    memory, rows = shared.peaks(), [row for row in trainer.state.log_history if "reward" in row]
    losses = [float(row["loss"]) for row in rows]
    assert len(losses) == cfg.max_steps and all(map(math.isfinite, losses)), losses
    assert set(parameters.trainable_names(trainer.model)) <= watch.reached, "an adapter got no gradient"
    seconds = statistics.median(watch.seconds[1:])
    measured = {
        "losses": losses,
        "rewards": [float(row["reward"]) for row in rows],
        "seconds_per_step": seconds,
        "answers_per_step": cfg.answers_per_step,
        "counted": measure(trainer.model, trainer.optimizer),
        "tokens_per_second": cfg.answers_per_step * cfg.max_new_tokens / seconds,
        **memory,
    }
    return shared.beside_forecast(in_sixteen_bits(job), machine, measured)


def in_sixteen_bits(job):
    from dataclasses import replace

    return replace(job, padded=True, four_bit=False)


def lora_on(base, cfg):
    """As lesson 09 puts it on; TRL's trainer makes its own chunked loss."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        base,
        LoraConfig(
            r=cfg.lora_r, lora_alpha=cfg.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )


def recomputing(kind, on: bool) -> dict:
    """The argument by the name that this transformers has for it."""
    name = (
        "activation_checkpointing" if hasattr(kind, "activation_checkpointing") else "gradient_checkpointing"
    )
    return {name: on}


def even_ids(completion_ids, **_) -> list[float]:
    """The fraction of a completion's tokens that have an even id."""
    return [sum(token % 2 == 0 for token in ids) / max(1, len(ids)) for ids in completion_ids]


def problems(cfg) -> list[dict]:
    """Problems of the miniworld with the columns that lesson 09's rewards ask for."""
    from lmlab import miniworld
    from lmlab.data.reasoning import reasoning_rows

    rows = miniworld.dataset("distracting-problems", "train", 64)
    return [
        {name: row[name] for name in ("prompt", "answer", "tolerance", "unit")}
        for row in reasoning_rows(rows, "miniworld/distracting-problems", cfg.max_invalid_fraction)
    ]
