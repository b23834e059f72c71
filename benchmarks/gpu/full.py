"""Full fine-tuning of lesson 04, on full rows instead of padded pairs."""

from dataclasses import replace

from gpu import shared
from lmlab.course.trainings import trainings


def full_fine_tuning(sizes: dict) -> dict:
    """All weights of a random model of the recipe's size, in float32 with products in the machine's dtype."""
    import torch
    from transformers import Trainer

    from gpu import watched

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    [job] = trainings(cfg, machine)
    # rows here are as long as they may be, and nothing is padded
    job = replace(job, fill=1.0, padded=False, checkpointing=sizes["checkpointing"])
    model = shared.random_model(job.config, torch.float32, machine.device)
    args = watched.arguments(
        shared.work_folder() / "full",
        machine,
        job,
        sizes["steps"],
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="constant",
    )
    n_rows = job.batch_size * job.accumulation
    rows = watched.random_rows(sizes["steps"] * n_rows, job.length, job.config.vocab_size)
    trainer = Trainer(model, args, train_dataset=rows, data_collator=watched.collator(fused=False))
    measured = watched.watched_training(trainer, sizes["warm_up"], n_rows * job.length, job.length)
    return shared.beside_forecast(job, machine, measured)
