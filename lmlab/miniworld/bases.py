"""Builds the tiny pretrained bases: ``python -m lmlab.miniworld.bases [gpt2] [llama] [qwen2] [--steps N]``.

Each is a real architecture of transformers with about 1.4 to 1.9 million parameters, trained from scratch on
the miniworld, saved as float16 safetensors in the hub's folder layout with a tokenizer and a model card.
"""

import argparse
import math
import shutil
import tempfile
from pathlib import Path

from lmlab.miniworld import BASES, MODELS, dataset
from lmlab.miniworld.corpus import MIX, pretraining_texts
from lmlab.miniworld.tokenizer import N_VOCAB, corpus, train_tokenizer, wrap

CONTEXT = 256  # tokens, the longest text the bases know
WINDOW, BATCH = 128, 8  # tokens in a training row, rows in a step
STEPS = {"gpt2": 3000, "llama": 3000, "qwen2": 5000}
DOCUMENTS_PER_ROUND = 10_000  # fresh texts are drawn round by round: nothing is seen twice


def build_model(architecture: str, tokenizer):
    """A transformers model with random weights. Widths are multiples of 64, the block of NF4."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "vocab_size": N_VOCAB,
    }
    rotary = {
        "max_position_embeddings": CONTEXT,
        "num_key_value_heads": 2,
        "num_attention_heads": 4,
        "tie_word_embeddings": True,
        **special,
    }
    configs = {
        "gpt2": lambda: GPT2Config(
            n_embd=128,
            n_layer=6,
            n_head=4,
            n_positions=CONTEXT,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **special,
        ),
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
            yield stream[start : start + size].view(BATCH, WINDOW + 1)
        rest, round_ = stream[len(stream) - len(stream) % size :], round_ + 1


def learning_rate_at(progress: float, peak: float) -> float:
    """Warm-up over the first 2% of the steps, then a cosine down to a hundredth."""
    if progress < 0.02:
        return peak * progress / 0.02
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98)))


def make_optimizers(model, peak: float) -> list:
    """(optimizer, its peak rate): Muon for the matrices, AdamW for embeddings, biases and norms.

    Muon needs a fraction of AdamW's steps for a small model (Jordan et al. 2024); lesson 02 keeps to AdamW.
    """
    import torch

    embeddings = {id(e.weight) for e in model.modules() if isinstance(e, torch.nn.Embedding)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in embeddings]
    return [
        (torch.optim.Muon(matrices, weight_decay=0.05), 5 * peak),
        (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0), peak),
    ]


def pretrain(model, batches, steps: int, peak: float = 4e-3) -> float:
    """Trains for ``steps`` steps. Returns the mean loss of the last 100, nats per token."""
    import torch

    optimizers, recent = make_optimizers(model, peak), []
    model.train()
    for step in range(1, steps + 1):
        for optimizer, top in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step / steps, top)
        batch = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits  # (B, T, V)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        recent = [*recent[-99:], loss.item()]
        if step % 100 == 0:
            print(f"step {step} of {steps}: {sum(recent) / len(recent):.3f} nats per token", flush=True)
    return sum(recent) / len(recent)


def story_loss(model, tokenizer, n: int = 300) -> tuple[float, float]:
    """(loss, entropy floor) on unseen stories, nats per token, EOS counted in both."""
    import torch

    rows = dataset("stories", "validation", n=n, seed=7)
    nats, tokens = 0.0, 0
    model.eval()
    for row in rows:
        end = tokenizer.eos_token_id
        ids = torch.tensor([[end, *tokenizer(row["text"])["input_ids"], end]])
        with torch.no_grad():
            logits = model(ids[:, :-1], use_cache=False).logits
        nats += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    return nats / tokens, -sum(row["logprob"] for row in rows) / tokens


def model_card(architecture: str, model, tokenizer, steps: int, train_loss: float) -> str:
    """The README.md of a base: data, steps, loss against the floor. train_loss: nats per token."""
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
| last training loss | {train_loss:.3f} nats per token, mean of 100 steps, whole mix |
| loss on 300 unseen stories | {loss:.3f} nats per token |
| entropy floor of these stories | {floor:.3f} nats per token |

Built by `python -m lmlab.miniworld.bases {architecture} --steps {steps}`, in about a quarter of an hour on two CPU cores.
Training runs in bfloat16, so a rebuild on another processor gives an equally good model, not the same bytes.
"""


def build(architecture: str, steps: int, folder: Path, seed: int = 0) -> None:
    """Trains one base and writes its folder; an older one is replaced only once the new one is whole."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    tokenizer = wrap(train_tokenizer(corpus()), architecture)
    model = build_model(architecture, tokenizer)
    train_loss = pretrain(model, windows(architecture, tokenizer, seed), steps)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary, folder.name)
        model.half().save_pretrained(new)
        tokenizer.save_pretrained(new)
        saved = AutoModelForCausalLM.from_pretrained(new, dtype=torch.float32)  # what the card speaks of
        card = model_card(architecture, saved, tokenizer, steps, train_loss)
        (new / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    print(card)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lmlab.miniworld.bases", description="Rebuild the tiny bases."
    )
    parser.add_argument("names", nargs="*", choices=BASES, default=list(BASES))
    parser.add_argument("--steps", type=int, help=f"training steps (default {STEPS})")
    parser.add_argument("--output", type=Path, default=MODELS, help="where the folders go")
    args = parser.parse_args()
    for name in args.names:
        build(name, args.steps or STEPS[name], args.output / name)


if __name__ == "__main__":
    main()
