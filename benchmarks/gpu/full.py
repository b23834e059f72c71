"""Full fine-tuning on plain text in windows: part B of lesson 04."""

from gpu import shared
from lmlab.course.trainings import trainings


def full_fine_tuning(sizes: dict) -> dict:
    """All weights of a random model of the recipe's size, in float32 with products in the machine's dtype."""
    import torch
    from transformers import Trainer

    from gpu import watched

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    job = next(job for job in trainings(cfg, machine) if job.name == "style")
    model = shared.random_model(job.config, torch.float32, machine.device)
    args = watched.arguments(
        shared.work_folder() / "full",
        machine,
        job,
        sizes["steps"],
        learning_rate=cfg.style_learning_rate,
        lr_scheduler_type="constant",
    )
    n_rows = job.batch_size * job.accumulation
    rows = watched.random_rows(sizes["steps"] * n_rows, job.length, job.config.vocab_size)
    trainer = Trainer(model, args, train_dataset=rows, data_collator=watched.collator(fused=False))
    measured = watched.watched_training(trainer, sizes["warm_up"], n_rows * job.length, job.length)
    return shared.beside_forecast(job, machine, measured)
