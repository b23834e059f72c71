"""Published models at full size, with random weights: do they train here, and what do they take?

python benchmarks/real_sizes.py gpt2 distilgpt2 --tokenizers FOLDER --pairs FILE.jsonl [--steps 20]

No weights are downloaded: a model built from its published config costs as much memory and time as the trained one.
FOLDER holds gpt2/, as the publisher lays it out; FILE has the keys modern and shakespearean. A first loss near ln V,
finite gradients and an equal loss after reloading are asserted, so a figure is only written when they hold.
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

RESULTS = Path(__file__).parent / "results" / "real_sizes"
STEPS = 20
GPT2 = {"gpt2": {}, "distilgpt2": {"n_layer": 6}}  # what differs from GPT-2 small, in transformers' names


def peak_gib() -> float:
    """The most memory that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def full_fine_tuning(name: str, tokenizers: Path, pairs: Path, steps: int = STEPS) -> dict:
    """Lesson 04's training at full size: batch 4 x 2, AdamW, 5e-5, saved half-way and at the end."""
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback

    from lmlab.cost import full_memory_gib
    from lmlab.data import load_model, load_rows, load_tokenizer
    from lmlab.finetune import answer_loss, answer_only_collator, pair_examples, training_arguments
    from lmlab.hardware import describe_machine, fast_matmul
    from lmlab.pairs import usable_pairs

    machine = describe_machine()
    tokenizer = load_tokenizer(str(tokenizers / "gpt2"))
    rows = usable_pairs(load_rows(str(pairs), "all"), str(pairs))
    examples = pair_examples(rows, tokenizer, 512)
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
        args = training_arguments(folder, machine, epochs=1, max_steps=steps, batch_size=4, grad_accumulation=2,
                                  learning_rate=5e-5, logging_steps=1, report_to="none",
                                  checkpoint_every=max(1, steps // 2))
        trainer = Trainer(model=model, args=args, train_dataset=training, callbacks=[watch],
                          data_collator=answer_only_collator(tokenizer))
        loss_before = answer_loss(model, held_out)["loss"]
        with fast_matmul(machine.device, 512):
            trainer.train()
        peak = peak_gib()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        after = answer_loss(model, held_out)
        reloaded = answer_loss(load_model(f"{folder}/checkpoint-{steps}").to(model.device), held_out)
    uniform = math.log(model.config.vocab_size)
    assert abs(losses[0] - uniform) < 0.5 and abs(loss_before - uniform) < 0.5, (losses[0], loss_before, uniform)
    assert np.isfinite(losses).all() and np.isfinite(watch.norms).all() and len(watch.norms) == steps
    assert after["loss"] < loss_before - 1 and reloaded["loss"] == after["loss"]
    seconds = statistics.median(b - a for a, b in zip(watch.times, watch.times[1:], strict=False))
    tokens = statistics.mean(len(row) for row in training["input_ids"])
    return {"parameters": model.num_parameters(), "steps": steps, "ln_V": uniform, "first_loss": losses[0],
            "last_loss": losses[-1], "held_out_before": loss_before, "held_out_after": after["loss"],
            "held_out_reloaded": reloaded["loss"], "largest_gradient_norm": max(watch.norms),
            "seconds_per_step": seconds, "tokens_per_second": 8 * tokens / seconds,
            "peak_gib": peak, "peak_gib_before_the_model": before,
            "predicted_gib": full_memory_gib(model.config, model.num_parameters(),
                                             4 * max(map(len, training["input_ids"])),
                                             half=machine.bf16 or machine.fp16)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(GPT2), help="one at a time, for the peak is that of a process")
    parser.add_argument("--tokenizers", type=Path, required=True, help="a folder with gpt2/ in it")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines with modern and shakespearean")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    measured = {"conditions": conditions(batch="4 x 2", rate=5e-5, dtype="as lmlab.hardware chooses"),
                args.name: full_fine_tuning(args.name, args.tokenizers, args.pairs, args.steps)}
    out = RESULTS / f"{args.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(measured, indent=1))
    print(out.read_text())


if __name__ == "__main__":
    main()
