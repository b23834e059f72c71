"""Lesson 09 with old problems mixed into the training and without: the record that its notebook shows.

python benchmarks/grpo_mixing.py --from RUN [--seeds 3]

RUN is a run with lesson 06's adapter. Each run trains it with the tiny recipe of lesson 09 as the
notebook does, and measures the greedy accuracy on new and on old held-out problems before and after. Runs
of one seed differ in ``mix_fraction`` alone. They are written to lmlab/course/data/grpo_mixing.json as
they finish, and a run that is there is not repeated.
"""

import argparse
from pathlib import Path

from study import DATA, make_runs

from lmlab.course.runs import find_result
from lmlab.data.reasoning import reasoning_rows
from lmlab.data.sources import load_rows
from lmlab.evaluation.reasoning import generate_answers
from lmlab.evaluation.rewards import accuracy_reward, format_reward
from lmlab.hardware import describe_machine, fast_matmul
from lmlab.models.chat_template import stop_token_ids
from lmlab.models.parameters import trainable_to_float32
from lmlab.models.quantization import load_four_bit
from lmlab.models.sources import load_tokenizer, model_source
from lmlab.recipes import Recipe, load_recipe


def problems(
    cfg: Recipe, source: str, split: str, n: int | None, most_steps: int | None = None
) -> list[dict]:
    """As in the notebook: the first n problems of a split that have at most so many steps."""
    rows = reasoning_rows(load_rows(source, split), f"{split} of {source}")
    return [row for row in rows if most_steps is None or row["steps"] <= most_steps][:n]


def run_arm(cfg: Recipe, adapter: Path, tokenizer) -> dict:
    """One training: which held-out problems, new and old, are answered correctly before and after."""
    import datasets
    from gpu import watched
    from peft import PeftModel
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    machine = describe_machine()
    base = load_four_bit(cfg.model, machine).dequantize()
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    model.peft_config["default"].base_model_name_or_path = model_source(cfg.model)
    n_old = round(cfg.mix_fraction * cfg.n_train)
    train = problems(cfg, cfg.data, "train", cfg.n_train - n_old)
    if n_old:
        train += problems(cfg, cfg.other_data, "train", None, cfg.other_steps)[-n_old:]
    held_out = {
        "new": problems(cfg, cfg.data, "validation", cfg.n_eval),
        "old": problems(cfg, cfg.other_data, "validation", cfg.n_other, cfg.other_steps),
    }

    def accuracies() -> dict[str, float]:
        answered = {}
        for name, rows in held_out.items():
            correct = generate_answers(
                model, tokenizer, rows, cfg.max_new_tokens, cfg.eval_batch_size
            ).correct
            answered[name] = round(sum(correct) / len(rows), 4)
        return answered

    before = accuracies()
    columns = ("prompt", "answer", "tolerance", "unit")
    args = GRPOConfig(
        output_dir="runs/grpo_mixing",
        seed=cfg.seed,
        reward_weights=[1.0, cfg.format_weight],
        lr_scheduler_type="linear",
        weight_decay=0.0,
        activation_checkpointing=cfg.activation_checkpointing,
        **watched.grpo_arguments(cfg, machine),
    )
    model.generation_config.eos_token_id = stop_token_ids(model, tokenizer)
    trainer = GRPOTrainer(
        model,
        reward_funcs=[accuracy_reward, format_reward],
        args=args,
        train_dataset=datasets.Dataset.from_list([{key: row[key] for key in columns} for row in train]),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainable_to_float32(trainer.model)
    with fast_matmul(machine.device, 256):
        trainer.train()
    return {"before": before, "after": accuracies()}


def main() -> None:
    """Makes the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="from_run", required=True, help="run folder with lesson 06's adapter")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    arguments = parser.parse_args()

    cfg = load_recipe("09", "tiny")
    adapter = find_result("06", "adapter", from_run=arguments.from_run)
    tokenizer = load_tokenizer(cfg.model)

    def run(mix_fraction: float, seed: int) -> dict:
        return run_arm(load_recipe("09", "tiny", seed=seed, mix_fraction=mix_fraction), adapter, tokenizer)

    head = {
        "command": "python benchmarks/grpo_mixing.py --from RUN",
        "recipe": "09 tiny",
        "model": cfg.model,
        "data": cfg.data,
        "other_data": cfg.other_data,
        "steps": cfg.max_steps,
        "problems": {"new": cfg.n_eval, "old": cfg.n_other},
    }
    seeds = range(cfg.seed, cfg.seed + arguments.seeds)
    arms = [
        {"mix_fraction": fraction, "seed": seed} for seed in seeds for fraction in (cfg.mix_fraction, 0.0)
    ]
    make_runs(DATA / "grpo_mixing.json", head, arms, run)


if __name__ == "__main__":
    main()
