"""Lesson 02's recipe carried out: its shards, its validation rows, its model and the run, on any number of GPUs.

Notebook 02 takes these steps one by one; ``lmlab pretrain`` takes them all.
"""

import hashlib
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from lmlab.data.loader import WindowLoader
from lmlab.data.loading import load_rows
from lmlab.data.packing import Rows, document_rows, text_rows
from lmlab.data.shards import open_shards, prepare_shards
from lmlab.data.streams import stream_texts
from lmlab.evaluation.hellaswag import score_hellaswag
from lmlab.hardware import describe_machine, peak_flops
from lmlab.models.gpt import GPT, GPTConfig
from lmlab.models.sources import load_tokenizer
from lmlab.recipes import FromScratch
from lmlab.training.distributed import DistributedContext, cleanup_distributed, init_distributed, silent
from lmlab.training.pretrain import History, PretrainConfig, entropy_floor, pretrain


def knows_probabilities(source: str) -> bool:
    """Whether the texts of a source come with the probability with which they were drawn."""
    return source.startswith("miniworld/")


def describe_source(source: str) -> str:
    """The name of a source; of a local one with size and time of its files, so that an edited text is another."""
    path = Path(source).expanduser()
    if not path.exists():
        return source
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return f"{source} {[(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]}"


def shards_folder(cfg: FromScratch, out: Path) -> Path:
    """Where the shards of a recipe are: one folder for each choice of data, in ``shards_dir`` or ``out``."""
    version = hashlib.sha256(describe_source(cfg.data).encode()).hexdigest()[:8]
    parts = (cfg.data, cfg.tokenizer, str(cfg.n_docs or "all"), str(cfg.shard_tokens), version)
    name = re.sub(r"[^\w.-]+", "-", "_".join(part.rsplit("/", 1)[-1] for part in parts))
    return Path(cfg.shards_dir or out / "shards").expanduser() / name


def make_shards(cfg: FromScratch, tokenizer, out: Path, report: Callable[[str], None] = print) -> Path:
    """Tokenizes the recipe's texts into shards, or finishes or finds what an earlier call made; the folder.

    The first shard is held out for validation, except in a miniworld, which has texts of their own for it.
    """
    folder = shards_folder(cfg, out)
    prepare_shards(
        partial(stream_texts, cfg.data, "train"),
        tokenizer,
        folder,
        source=describe_source(cfg.data),
        shard_tokens=cfg.shard_tokens,
        n_docs=cfg.n_docs,
        expected_tokens=cfg.data_tokens,
        validation=not knows_probabilities(cfg.data),
        report=report,
    )
    return folder


def training_batches(cfg: FromScratch, tokenizer, folder: Path) -> WindowLoader:
    """Batches of the training shards. In a miniworld a window begins where a text does, as in validation."""
    eos = tokenizer.eos_token_id if knows_probabilities(cfg.data) else None
    return WindowLoader(
        open_shards(folder, "train", tokenizer), cfg.block_size, cfg.batch_size, cfg.seed, eos
    )


def validation_rows(cfg: FromScratch, tokenizer, folder: Path) -> tuple[Rows, float | None]:
    """What the loss is measured on, and its entropy floor (nats per token) where it is known.

    In a miniworld: ``eval_docs`` texts of its validation split, one in a row. Elsewhere: the first
    ``validation_tokens`` of the validation shard, in consecutive windows.
    """
    if not knows_probabilities(cfg.data):
        shard = open_shards(folder, "validation", tokenizer)[0]
        return text_rows(
            torch.from_numpy(shard[: cfg.validation_tokens + 1].astype("int64")), cfg.block_size
        ), None
    texts = load_rows(cfg.data, "validation", limit=cfg.eval_docs)
    documents = tokenizer(list(texts["text"]))["input_ids"]
    floor = entropy_floor(list(texts["logprob"]), [len(document) + 1 for document in documents])
    return document_rows(documents, tokenizer.eos_token_id, cfg.block_size), floor


def build_model(cfg: FromScratch, tokenizer) -> GPT:
    """An untrained GPT of the recipe's shape; the same for the same seed."""
    torch.manual_seed(cfg.seed)
    return GPT(
        GPTConfig(
            n_layer=cfg.n_layer,
            n_head=cfg.n_head,
            n_embd=cfg.n_embd,
            block_size=cfg.block_size,
            dropout=cfg.dropout,
            vocab_size=len(tokenizer),
            vocab_multiple=cfg.vocab_multiple,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def text_writer(cfg: FromScratch, tokenizer) -> Callable[[GPT], str]:
    """A function that has a model write a text from nothing; always by the same dice."""

    def write(model: GPT) -> str:
        start = torch.tensor([[tokenizer.eos_token_id]], device=model.device)
        made = model.generate(
            start, min(100, cfg.block_size - 1), generator=torch.Generator(model.device).manual_seed(cfg.seed)
        )
        return tokenizer.decode(made[0], skip_special_tokens=True)

    return write


def hellaswag_meter(cfg: FromScratch, tokenizer) -> Callable[[GPT], dict] | None:
    """A function that gives {"hellaswag": accuracy per token} on the recipe's items; None without items."""
    if cfg.hellaswag is None:
        return None
    rows = load_rows(cfg.hellaswag, "validation", limit=cfg.hellaswag_items).to_list()
    start = [tokenizer.eos_token_id] if knows_probabilities(cfg.data) else []
    return lambda model: {"hellaswag": score_hellaswag(model, tokenizer, rows, start_tokens=start).accuracy()}


def predicted_hours(model: GPT, tokens: int, peak: float, mfu: float = 0.4) -> float:
    """Hours of training on a device that is sold with ``peak`` operations a second and reaches the share mfu."""
    return tokens * model.flops_per_token() / (peak * mfu) / 3600


def run_recipe(
    cfg: FromScratch,
    out: Path,
    replace: bool = False,
    data_only: bool = False,
    report: Callable[[str], None] = print,
) -> History | None:
    """Carries out a recipe of lesson 02 in folder ``out``; the history, or None where only data were wanted.

    Under ``torchrun`` every process takes its share. Killed, it goes on when it is called again.
    Raises ValueError when ``out`` holds another or a finished run, unless ``replace`` is true.
    """
    machine = describe_machine()
    ranks = init_distributed(machine.device)
    say = report if ranks.first else silent
    try:
        tokenizer = load_tokenizer(cfg.tokenizer)
        if ranks.first:
            make_shards(cfg, tokenizer, out, say)
        ranks.wait()
        if ranks.first_of_host:  # finds them where the hosts share a disk
            make_shards(cfg, tokenizer, out, silent)
        ranks.wait()
        if not data_only:
            return _run(cfg, out, tokenizer, machine.dtype, replace, ranks, say)
        for split in ("train",) if knows_probabilities(cfg.data) else ("train", "validation"):
            open_shards(shards_folder(cfg, out), split, tokenizer, verify=True)
        say("every shard has its checksum")
        return None
    finally:
        cleanup_distributed()


def _run(
    cfg: FromScratch, out: Path, tokenizer, dtype: str, replace: bool, ranks: DistributedContext, say
) -> History:
    folder = shards_folder(cfg, out)
    model = build_model(cfg, tokenizer).to(ranks.device)
    plan = PretrainConfig.from_recipe(cfg, dtype)
    validation, floor = validation_rows(cfg, tokenizer, folder)
    data = training_batches(cfg, tokenizer, folder)
    tokens = plan.max_steps * plan.tokens_per_step
    say(
        f"{model.num_parameters():,} parameters, {tokens:,} tokens in {plan.max_steps:,} steps "
        f"({tokens / (len(data) * cfg.block_size):.2f} times the data), {dtype}, {ranks.world} processes"
    )
    if peak := peak_flops(model.device, dtype):
        say(
            f"predicted, at 40% of what the device is sold with: "
            f"{predicted_hours(model, tokens, peak * ranks.world):.1f} hours"
        )
    meter = hellaswag_meter(cfg, tokenizer) if ranks.first else None
    history = pretrain(
        model,
        data,
        plan,
        validation=validation,
        floor=floor,
        sample=text_writer(cfg, tokenizer),
        measure=meter,
        out=out,
        tokenizer=tokenizer,
        replace=replace,
        ranks=ranks,
        report=say,
    )
    loss = history.evaluations[-1]["loss"]
    say(
        f"done: validation {loss:.3f} nats/token (perplexity {math.exp(loss):.2f}), {history.seconds:.0f} s, "
        f"{history.tokens_per_second:,.0f} tokens/s; the model is in {out / 'model'}"
    )
    return history
