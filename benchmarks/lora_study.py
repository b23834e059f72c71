"""Rank, alpha and target modules of lesson 05's adapter: the record that its notebook shows.

python benchmarks/lora_study.py [--seeds 3]

Each run changes one setting of the tiny recipe, trains ``study_steps`` steps from the same 4-bit base,
and measures the loss on the held-out texts, as ``study_run`` of the notebook does. The runs of one seed
share the order of the data. They are written to lmlab/course/data/lora_study.json as they finish, and a
run that is there is not repeated.
"""

import argparse

from study import DATA, make_runs

from lmlab.data.labels import completion_only_collator
from lmlab.data.sources import load_rows
from lmlab.evaluation.perplexity import perplexity
from lmlab.hardware import describe_machine, fast_matmul
from lmlab.models.quantization import load_four_bit
from lmlab.models.sources import load_tokenizer
from lmlab.recipes import Recipe, load_recipe
from lmlab.training import sft


def settings_of(cfg: Recipe) -> dict[str, dict]:
    """name -> what differs from the recipe. With the rank alpha changes, so that alpha / r stays."""
    r, alpha = cfg.lora_r, cfg.lora_alpha
    return {
        "recipe": {},
        "all linear": {"target_modules": "all-linear"},
        "rank 1": {"r": 1, "lora_alpha": alpha / r},
        f"rank {4 * r}": {"r": 4 * r, "lora_alpha": 4 * alpha},
        "q and v only": {"target_modules": ["q_proj", "v_proj"]},
        f"alpha {alpha / 8:g}": {"lora_alpha": alpha / 8},
    }


def run_setting(cfg: Recipe, base, tokenizer, train_set, texts: list[str], changes: dict, seed: int) -> dict:
    """One run: its loss on the held-out texts in nats per token, and how many parameters it trains."""
    from gpu import watched
    from peft import get_peft_model
    from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

    machine = describe_machine()
    config = sft.lora_config(cfg)
    for key, value in changes.items():
        setattr(config, key, value)
    set_seed(seed)
    model = get_peft_model(base, config)
    args = TrainingArguments(
        output_dir="runs/lora_study",
        max_steps=cfg.study_steps,
        seed=seed,
        per_device_train_batch_size=cfg.batch_size,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        **watched.quiet(machine),
    )
    collate = sft.chunked_loss_collator(completion_only_collator(tokenizer), False)
    trainer = Trainer(model, args, train_dataset=train_set, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    with fast_matmul(machine.device, cfg.block_size):
        trainer.train()
    measured = perplexity(model, tokenizer, texts, cfg.block_size)
    n_trainable, _ = model.get_nb_trainable_parameters()
    model.unload()  # the base as it was
    return {"trainable": n_trainable, "loss": round(measured["loss"], 5)}


def main() -> None:
    """Makes the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting")
    arguments = parser.parse_args()

    from trl.trainer.utils import add_fused_lm_head

    cfg = load_recipe("05", "tiny")
    tokenizer = load_tokenizer(cfg.model)
    train_set, _ = sft.examples(cfg, tokenizer)
    trained = {row["text"].strip() for row in load_rows(cfg.data, "train", limit=cfg.n_train)}
    held_out = load_rows(cfg.data, "validation", limit=cfg.n_validation)["text"]
    texts = [text for text in held_out if text.strip() not in trained]
    base = load_four_bit(cfg.model, describe_machine()).requires_grad_(False)
    add_fused_lm_head(base)

    settings = settings_of(cfg)

    def run(setting: str, seed: int) -> dict:
        return run_setting(cfg, base, tokenizer, train_set, texts, settings[setting], seed)

    head = {
        "command": "python benchmarks/lora_study.py",
        "recipe": "05 tiny",
        "model": cfg.model,
        "data": cfg.data,
        "steps": cfg.study_steps,
        "texts": len(texts),
    }
    seeds = range(cfg.seed, cfg.seed + arguments.seeds)
    arms = [{"setting": name, "seed": seed} for seed in seeds for name in settings]
    make_runs(DATA / "lora_study.json", head, arms, run)


if __name__ == "__main__":
    main()
