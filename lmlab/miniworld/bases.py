"""Builds the tiny pretrained bases: ``python -m lmlab.miniworld.bases [gpt2] [llama] [qwen2] [--minutes 15]``.

Each is a real architecture of transformers with about 1.5 to 2 million parameters, trained from scratch on the
miniworld, saved as float16 safetensors in the hub's folder layout with a tokenizer and a model card.
"""

import argparse
import math
import shutil
import time
from pathlib import Path

from lmlab.miniworld import BASES, MODELS, dataset
from lmlab.miniworld.corpus import MIX, pretraining_texts
from lmlab.miniworld.tokenizer import N_VOCAB, corpus, train_tokenizer, wrap

CONTEXT = 256  # tokens, the longest text the bases know
WINDOW, BATCH = 128, 32  # tokens in a training row, rows in a step
DOCUMENTS_PER_ROUND = 20_000  # fresh texts are drawn round by round: nothing is seen twice


def build_model(architecture: str, tokenizer):
    """A transformers model with random weights. Widths are multiples of 64, the block of NF4."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
               "pad_token_id": tokenizer.pad_token_id, "vocab_size": N_VOCAB}
    rotary = {"max_position_embeddings": CONTEXT, "num_key_value_heads": 2, "num_attention_heads": 4,
              "tie_word_embeddings": True, **special}
    configs = {
        "gpt2": lambda: GPT2Config(n_embd=128, n_layer=6, n_head=4, n_positions=CONTEXT, resid_pdrop=0.0,
                                   embd_pdrop=0.0, attn_pdrop=0.0, **special),
        "llama": lambda: LlamaConfig(hidden_size=128, num_hidden_layers=6, intermediate_size=384, **rotary),
        "qwen2": lambda: Qwen2Config(hidden_size=192, num_hidden_layers=4, intermediate_size=512, **rotary),
    }
    model = AutoModelForCausalLM.from_config(configs[architecture]())
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def windows(architecture: str, tokenizer, seed: int):
    """Endless batches of packed tokens, (BATCH, WINDOW + 1); documents are parted by EOS."""
    import torch

    rest, round_ = torch.empty(0, dtype=torch.long), 0
    while True:
        texts = pretraining_texts(architecture, DOCUMENTS_PER_ROUND, seed=f"{seed}-{round_}")
        ids = tokenizer([text + tokenizer.eos_token for text in texts], add_special_tokens=False)["input_ids"]
        stream = torch.cat([rest, torch.tensor([t for row in ids for t in row])])
        size = BATCH * (WINDOW + 1)
        for start in range(0, len(stream) - size, size):
            yield stream[start:start + size].view(BATCH, WINDOW + 1)
        rest, round_ = stream[len(stream) - len(stream) % size:], round_ + 1


def learning_rate_at(progress: float, peak: float) -> float:
    """Warm-up over the first 2% of the time, then a cosine down to a hundredth."""
    if progress < 0.02:
        return peak * progress / 0.02
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98)))


def pretrain(model, batches, minutes: float, peak: float = 4e-3) -> tuple[int, float]:
    """Trains for a given time (the schedule runs on the clock). Returns (steps, last mean loss in nats per token)."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                  lr=peak, betas=(0.9, 0.98))
    began, step, recent = time.monotonic(), 0, []
    model.train()
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(progress, peak)
        batch = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits  # (B, T, V)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, recent = step + 1, [*recent[-99:], loss.item()]
        if step % 100 == 0:
            print(f"step {step} ({progress:.0%}): {sum(recent) / len(recent):.3f} nats per token", flush=True)
    return step, sum(recent) / len(recent)


def story_loss(model, tokenizer, n: int = 300) -> tuple[float, float]:
    """(loss, entropy floor) on unseen stories, nats per token, EOS counted in both."""
    import torch

    rows = dataset("stories", "validation", n=n, seed=7)
    nats, tokens = 0.0, 0
    model.eval()
    for row in rows:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = model(ids[:, :-1], use_cache=False).logits
        nats += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    return nats / tokens, -sum(row["logprob"] for row in rows) / tokens


def model_card(architecture: str, model, tokenizer, steps: int, train_loss: float, minutes: float) -> str:
    loss, floor = story_loss(model, tokenizer)
    mix = ", ".join(f"{share}% {kind}" for kind, share in MIX[architecture].items())
    parameters = sum(p.numel() for p in model.parameters())
    return f"""---
license: apache-2.0
library_name: transformers
tags: [lmlab, miniworld, {architecture}]
---
# miniworld/{architecture}

A {architecture} architecture with {parameters:,} parameters, trained from scratch on lmlab's generated miniworld.
A base for lessons, not for use: it knows one village and nothing else.

| what | value |
|---|---|
| data (share of documents) | {mix} |
| tokens seen | {steps * BATCH * WINDOW:,} in {steps:,} steps of {BATCH} x {WINDOW} |
| time | {minutes:g} minutes on two CPU cores |
| last training loss | {train_loss:.3f} nats per token, mean of 100 steps, whole mix |
| loss on 300 unseen stories | {loss:.3f} nats per token |
| entropy floor of these stories | {floor:.3f} nats per token |

Built by `python -m lmlab.miniworld.bases {architecture} --minutes {minutes:g}`. The schedule runs on the clock, so a
rebuild on another machine gives another, equally good model, not the same bytes.
"""


def build(architecture: str, minutes: float, folder: Path, seed: int = 0) -> None:
    """Trains one base and writes its folder; an older one is replaced only once the new one is whole."""
    import torch

    torch.manual_seed(seed)
    tokenizer = wrap(train_tokenizer(corpus()), architecture)
    model = build_model(architecture, tokenizer)
    steps, train_loss = pretrain(model, windows(architecture, tokenizer, seed), minutes)
    model.half().float()  # the card speaks of the weights as they are saved
    fresh = folder.with_name(folder.name + ".new")
    card = model_card(architecture, model, tokenizer, steps, train_loss, minutes)
    model.half().save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    (fresh / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    print(card)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lmlab.miniworld.bases", description="Rebuild the tiny bases.")
    parser.add_argument("names", nargs="*", choices=BASES, default=list(BASES))
    parser.add_argument("--minutes", type=float, default=15, help="training time of each base (default 15)")
    parser.add_argument("--output", type=Path, default=MODELS, help="where the folders go")
    args = parser.parse_args()
    for name in args.names:
        build(name, args.minutes, args.output / name)


if __name__ == "__main__":
    main()
