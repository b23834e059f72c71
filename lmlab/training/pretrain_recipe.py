"""Lesson 02's recipe carried out: its shards, its validation rows, its model and the run, on any number of
GPUs.

Notebook 02 takes these steps one by one; ``lmlab pretrain`` takes them all.
"""

import hashlib
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lmlab.data.loader import WindowLoader
from lmlab.data.packing import Rows, document_rows, text_rows
from lmlab.data.shards import open_shards, prepare_shards
from lmlab.data.sources import load_rows
from lmlab.data.streams import stream_texts
from lmlab.evaluation.hellaswag import score_hellaswag
from lmlab.hardware import describe_machine
from lmlab.models.gpt import GPT, GPTConfig
from lmlab.models.sources import load_tokenizer
from lmlab.recipes import FromScratch
from lmlab.training.distributed import DistributedContext, cleanup_distributed, init_distributed
from lmlab.training.pretrain import PretrainConfig, entropy_floor, pretrain
from lmlab.training.pretrain_state import History

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

logger = logging.getLogger(__name__)


def knows_probabilities(source: str) -> bool:
    """Whether the texts of a source come with the probability with which they were sampled."""
    return source.startswith("miniworld/")


def describe_source(source: str) -> str:
    """The name of a source; of a local one with size and time of its files, so that an edited text is
    another.
    """
    path = Path(source).expanduser()
    if not path.exists():
        return source
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return f"{source} {[(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]}"


def shards_folder(cfg: FromScratch, out: Path) -> Path:
    """Where the shards of a recipe are: one folder for each choice of data, in ``shards_dir`` or ``out``."""
    # an edited file gets shards of its own; the tokens of the old text would be taken for the new one's
    version = hashlib.sha256(describe_source(cfg.data).encode()).hexdigest()[:8]
    parts = (cfg.data, cfg.tokenizer, str(cfg.n_docs or "all"), str(cfg.shard_tokens), version)
    name = re.sub(r"[^\w.-]+", "-", "_".join(part.rsplit("/", 1)[-1] for part in parts))
    return Path(cfg.shards_dir or out / "shards").expanduser() / name


def make_shards(cfg: FromScratch, tokenizer: "Tokenizer", out: Path) -> Path:
    """Tokenizes the recipe's texts into shards, or finishes or finds what an earlier call made.

    The first shard is held out for validation, except in a miniworld, which has texts of their own for it.

    Returns:
        The folder of the shards.
    """
    folder = shards_folder(cfg, out)
    prepare_shards(
        partial(stream_texts, cfg.data),
        tokenizer,
        folder,
        source=describe_source(cfg.data),
        shard_tokens=cfg.shard_tokens,
        n_docs=cfg.n_docs,
        expected_tokens=cfg.data_tokens,
        validation=not knows_probabilities(cfg.data),
    )
    return folder


def training_batches(cfg: FromScratch, tokenizer: "Tokenizer", folder: Path) -> WindowLoader:
    """Batches of the training shards. In a miniworld a block begins where a text does, as in validation."""
    eos = tokenizer.eos_token_id if knows_probabilities(cfg.data) else None
    return WindowLoader(
        open_shards(folder, "train", tokenizer), cfg.block_size, cfg.batch_size, cfg.seed, eos
    )


def validation_rows(cfg: FromScratch, tokenizer: "Tokenizer", folder: Path) -> tuple[Rows, float | None]:
    """What the validation loss is measured on.

    In a miniworld: ``eval_docs`` texts of its validation split, one in a row. Elsewhere: the first
    ``validation_tokens`` of the validation shard, in consecutive blocks.

    Returns:
        (rows, their entropy floor in nats per token where it is known).
    """
    if not knows_probabilities(cfg.data):
        # one token more than is predicted: the first has no prediction
        shard = open_shards(folder, "validation", tokenizer)[0]
        tokens = torch.from_numpy(shard[: cfg.validation_tokens + 1].astype("int64"))
        return text_rows(tokens, cfg.block_size), None
    texts = load_rows(cfg.data, "validation", limit=cfg.eval_docs)
    # one text in a row, as its probability is known
    documents = tokenizer(list(texts["text"]))["input_ids"]
    # one more for the EOS, which a text's probability covers
    floor = entropy_floor(list(texts["logprob"]), [len(document) + 1 for document in documents])
    return document_rows(documents, tokenizer.eos_token_id, cfg.block_size), floor


def build_model(cfg: FromScratch, tokenizer: "Tokenizer") -> GPT:
    """An untrained GPT of the recipe's shape; the same for the same seed."""
    # the initial weights come from the global RNG
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


def text_writer(cfg: FromScratch, tokenizer: "Tokenizer") -> Callable[[GPT], str]:
    """A function that samples a text from a model, from the EOS alone and always with the same seed."""

    def write(model: GPT) -> str:
        """A text of at most 100 tokens."""
        # a generator of its own: sampling must not change what dropout draws next
        start = torch.tensor([[tokenizer.eos_token_id]], device=model.device)
        generator = torch.Generator(model.device).manual_seed(cfg.seed)
        ids = model.generate(start, min(100, cfg.block_size - 1), generator=generator)
        return tokenizer.decode(ids[0], skip_special_tokens=True)

    return write


def hellaswag_meter(cfg: FromScratch, tokenizer: "Tokenizer") -> Callable[[GPT], dict] | None:
    """A function that gives {"hellaswag": accuracy per token} on the recipe's items; None without items."""
    if cfg.hellaswag is None:
        return None
    rows = load_rows(cfg.hellaswag, "validation", limit=cfg.hellaswag_items).to_list()
    # texts of a miniworld begin after an EOS in training, so the items do too
    start = [tokenizer.eos_token_id] if knows_probabilities(cfg.data) else []
    return lambda model: {"hellaswag": score_hellaswag(model, tokenizer, rows, start_tokens=start).accuracy()}


def run_recipe(cfg: FromScratch, out: Path, replace: bool = False, data_only: bool = False) -> History | None:
    """Carries out a recipe of lesson 02 in folder ``out``.

    Under ``torchrun`` every process takes its part. Killed, the run is resumed when it is called again.

    Args:
        cfg: The recipe.
        out: The folder.
        replace: Moves a finished run in ``out``, or one of another recipe, to out/previous/.
        data_only: Only makes the shards.

    Returns:
        The history, or None where only data were wanted.

    Raises:
        ValueError: ``out`` holds a finished run, or one of another recipe, and ``replace`` is false.
    """
    machine = describe_machine()
    context = init_distributed(machine.device)
    # one process speaks
    if not context.is_main_process:
        logging.getLogger("lmlab").setLevel(logging.ERROR)
    try:
        tokenizer = load_tokenizer(cfg.tokenizer)
        # first one process alone, since several would write the same files
        if context.is_main_process:
            make_shards(cfg, tokenizer, out)
        context.barrier()
        # finds them where the hosts share a disk, makes them where each host has its own
        if context.is_local_main_process:
            make_shards(cfg, tokenizer, out)
        context.barrier()
        return None if data_only else _run(cfg, out, tokenizer, machine.dtype, replace, context)
    finally:
        cleanup_distributed()


def _run(
    cfg: FromScratch, out: Path, tokenizer, dtype: str, replace: bool, context: DistributedContext
) -> History:
    folder = shards_folder(cfg, out)
    model = build_model(cfg, tokenizer).to(context.device)
    config = PretrainConfig.from_recipe(cfg, dtype)
    validation, floor = validation_rows(cfg, tokenizer, folder)
    data = training_batches(cfg, tokenizer, folder)
    sizes = model.num_parameters(), config.max_steps * config.tokens_per_step, context.world_size
    logger.info("%d parameters, %d tokens, %d processes", *sizes)
    history = pretrain(
        model,
        data,
        config,
        validation=validation,
        floor=floor,
        sample=text_writer(cfg, tokenizer),
        # the others would read the items for nothing
        measure=hellaswag_meter(cfg, tokenizer) if context.is_main_process else None,
        out=out,
        tokenizer=tokenizer,
        replace=replace,
        context=context,
    )
    # the last step is always evaluated
    loss = history.evaluations[-1]["loss"]
    logger.info("done: validation loss %.3f nats/token; the model is in %s", loss, out / "model")
    return history
