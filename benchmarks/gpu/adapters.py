"""LoRA beside frozen weights: lessons 05 and 06 at full size, TRL's trainer beside it, and a T4's float16."""

from dataclasses import replace
from unittest import mock

from gpu import shared
from lmlab.course.trainings import trainings
from lmlab.training import sft


def adapter(sizes: dict) -> dict:
    """An adapter on a random base of the recipe's model, trained as ``lmlab finetune`` does it."""
    from transformers import Trainer

    from gpu import watched

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    job = planned(cfg, machine, sizes["bits"])
    model = sft.with_lora(shared.frozen_base(job.config, machine, sizes["bits"]), cfg)
    args = watched.arguments(
        shared.work_folder() / "trainer",
        machine,
        job,
        sizes["steps"],
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="constant",
    )
    rows = watched.random_rows(sizes["steps"] * job.batch_size, job.length, job.config.vocab_size)
    trainer = Trainer(model, args, train_dataset=rows, data_collator=watched.collator(job.chunked))
    measured = watched.watched_training(trainer, sizes["warm_up"], job.batch_size * job.length, job.length)
    if sizes.get("keep"):  # for the piece that merges it
        keep(trainer.model, cfg.model)
    return shared.beside_forecast(job, machine, measured)


def planned(cfg, machine, bits: int):
    """The recipe's training as it is measured: full rows without padding, one batch a step."""
    job = trainings(cfg, machine)[0]
    return replace(job, padded=False, fill=1.0, accumulation=1, four_bit=bits == 4)


def keep(model, source: str) -> None:
    from lmlab.models.adapters import save_adapter

    save_adapter(model, shared.work_folder() / "adapter", source)


def sft_trainer(sizes: dict) -> dict:
    """TRL's SFTTrainer at its defaults on the rows of ``adapter``; but max_length, which would cut them."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from gpu import watched
    from lmlab.models.sources import load_tokenizer

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    job = planned(cfg, machine, 4)
    base = shared.frozen_base(job.config, machine, 4)
    rows = watched.random_rows(sizes["steps"] * job.batch_size, job.length, job.config.vocab_size)
    args = SFTConfig(
        output_dir=str(shared.work_folder() / "sft"),
        max_steps=sizes["steps"],
        max_length=job.length,
        per_device_train_batch_size=job.batch_size,
        **watched.quiet(machine),
    )
    lora = LoraConfig(task_type="CAUSAL_LM", **job.lora)
    trainer = SFTTrainer(
        base,
        args=args,
        processing_class=load_tokenizer("miniworld/qwen2"),
        peft_config=lora,
        train_dataset=Dataset.from_dict({"input_ids": [row["input_ids"] for row in rows]}),
    )
    measured = watched.watched_training(trainer, sizes["warm_up"], job.batch_size * job.length, job.length)
    return shared.beside_forecast(
        replace(job, checkpointing=True, optimizer="adamw_torch"), machine, measured
    )


def float16_adapter(sizes: dict) -> dict:
    """``adapter`` as on a T4: weights and products in float16, adapters in float32, the Trainer's GradScaler.

    accelerate refuses float16 on a CPU, so there it is ``adapter`` as it is.
    """
    with as_on_a_t4():
        return adapter(sizes)


def as_on_a_t4():
    """Within it a GPU says that its compute capability is 7.5, which has no bfloat16."""
    return mock.patch("torch.cuda.get_device_capability", lambda *_: (7, 5))
