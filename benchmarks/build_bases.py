"""Builds the tiny pretrained bases: ``python benchmarks/build_bases.py [gpt2] [llama] [qwen2] [--steps N]``.

Each is a real architecture of transformers with about 1.4 to 1.9 million parameters, trained from scratch on
the miniworld, saved as float16 safetensors in the hub's folder layout with a tokenizer and a model card.
Their configurations are in ``bases/bases.json``: widths are multiples of 64, the block size of NF4.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bases.corpus import BASE_TABLE, MIX, pretraining_texts
from bases.tokenizer import N_VOCAB, corpus, train_tokenizer, wrap

from lmlab.miniworld import BASES, MODELS, dataset

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WINDOW, BATCH = 128, 8  # tokens in a training sequence, sequences in a step
DOCUMENTS_PER_ROUND = 10_000  # fresh texts are sampled round by round: nothing is seen twice
PEAK_LEARNING_RATE = 4e-3  # of AdamW


def build_model(architecture: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        **BASE_TABLE[architecture]["config"],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        vocab_size=N_VOCAB,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def windows(architecture: str, tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches of packed token ids, (BATCH, WINDOW + 1); EOS separates the documents."""
    import torch

    # what does not fill a batch waits for the next round
    rest, round_ = torch.empty(0, dtype=torch.long), 0
    size = BATCH * (WINDOW + 1)
    while True:
        texts = pretraining_texts(architecture, DOCUMENTS_PER_ROUND, seed=f"{seed}-{round_}")
        ids = tokenizer([text + tokenizer.eos_token for text in texts], add_special_tokens=False)["input_ids"]
        tokens = torch.cat([rest, *(torch.tensor(document) for document in ids)])
        for start in range(0, len(tokens) - size, size):
            yield tokens[start : start + size].view(BATCH, WINDOW + 1)
        rest, round_ = tokens[len(tokens) - len(tokens) % size :], round_ + 1


def make_optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings, biases and norms.

    Muon needs a fraction of AdamW's steps for a small model (Jordan et al. 2024); lesson 02 keeps to AdamW.
    """
    import torch

    # a tied head is the embedding itself, and stays with it
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in embeddings]
    return [
        torch.optim.Muon(matrices, lr=5 * PEAK_LEARNING_RATE, weight_decay=0.05),
        torch.optim.AdamW(others, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def pretrain(model: PreTrainedModel, batches: Iterator[torch.Tensor], steps: int) -> float:
    """Trains for ``steps`` steps. Returns the mean loss of the last 100, nats per token."""
    import torch
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    optimizers = make_optimizers(model)
    schedules = [
        get_cosine_with_min_lr_schedule_with_warmup(optimizer, steps // 50, steps, min_lr_rate=0.01)
        for optimizer in optimizers
    ]
    losses: deque[float] = deque(maxlen=100)
    model.train()
    for step in range(1, steps + 1):
        batch = next(batches)
        # bfloat16 is about twice as fast on CPUs that have it; the loss is computed in float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits  # (B, T, V)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepped in (*optimizers, *schedules):  # a schedule steps after its optimizer
            stepped.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step} of {steps}: {sum(losses) / len(losses):.3f} nats per token", flush=True)
    return sum(losses) / len(losses)


def story_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int = 300
) -> tuple[float, float]:
    """(loss, entropy floor) on ``n`` unseen stories, nats per token, EOS counted in both."""
    import torch

    rows = dataset("stories", "validation", n=n, seed=7)
    nats, tokens = 0.0, 0
    model.eval()
    for row in rows:
        eos = tokenizer.eos_token_id
        # EOS before the text as well: the first token must be predicted from something
        ids = torch.tensor([[eos, *tokenizer(row["text"])["input_ids"], eos]])
        with torch.no_grad():
            logits = model(ids[:, :-1], use_cache=False).logits
        nats += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    return nats / tokens, -sum(row["logprob"] for row in rows) / tokens


def build(architecture: str, steps: int, folder: Path) -> None:
    """Trains one base and writes its folder: model, tokenizer, model card."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    tokenizer = wrap(train_tokenizer(corpus()), architecture)
    model = build_model(architecture, tokenizer)
    train_loss = pretrain(model, windows(architecture, tokenizer, seed=0), steps)
    model.half().save_pretrained(folder)  # half the download; the lessons compute in float32
    tokenizer.save_pretrained(folder)
    # the card is about what was saved, rounded to float16
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loss, floor = story_loss(saved, tokenizer)
    template = (Path(__file__).parent / "bases" / "model_card.md").read_text(encoding="utf-8")
    card = template.format(
        architecture=architecture,
        parameters=saved.num_parameters(),
        mix=", ".join(f"{percentage}% {kind}" for kind, percentage in MIX[architecture].items()),
        tokens=steps * BATCH * WINDOW,
        steps=steps,
        batch=BATCH,
        window=WINDOW,
        train_loss=train_loss,
        loss=loss,
        floor=floor,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python benchmarks/build_bases.py")
    parser.add_argument("names", nargs="*", choices=BASES, default=list(BASES))
    parser.add_argument("--steps", type=int, help="training steps (default: as in bases/bases.json)")
    args = parser.parse_args()
    for name in args.names:
        build(name, args.steps or BASE_TABLE[name]["steps"], MODELS / name)


if __name__ == "__main__":
    main()
