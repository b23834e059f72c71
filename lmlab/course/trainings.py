"""What each lesson trains: its recipe as sizes and steps, without its data, for ``lmlab.course.forecast``."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.hardware import Machine
from lmlab.recipes import Recipe
from lmlab.recipes.lessons import ModelSize
from lmlab.training.memory import prefer_chunked_loss

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Tokens on average, padding included. A sentence pair of lesson 04 and a description of lesson 08,
# where the table below has none: assumed.
PAIR_TOKENS, DESCRIPTION_TOKENS = 64, 120
# A problem of lesson 09 at most, and one with its reasoning of lesson 06, where the table below has none:
# assumed. (GSM8K has 70 and 150 on average with Qwen2's tokenizer; solutions with code are longer.)
PROMPT_TOKENS, REASONING_TOKENS = 128, 600
# Of a file of lesson 00 the characters are counted: so many to a token of English. The chat template
# adds its own tokens.
TOKEN_CHARACTERS, TEMPLATE_TOKENS = 4, 15
# Tokens of a row, counted in the miniworld's sets.
ROW_TOKENS = {
    "miniworld/distracting-problems": 65,
    "miniworld/problems": 80,
    "miniworld/multi-step-problems": 101,
    "miniworld/encyclopedia": 55,
    "miniworld/fantasy": 55,  # with the tokenizer of lesson 02, which splits its words into more pieces
}
# Of all texts: WikiText-2's 2,088,628 words (Merity et al. 2017) times the 1.28 tokens that Qwen2's tokenizer
# makes of a word of its validation part, so roughly.
ALL_TOKENS = {"Salesforce/wikitext:wikitext-2-raw-v1": 2_670_000}


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of a lesson, as far as its cost goes."""

    name: str
    method: str  # "pretraining", "full" or "qlora"
    model: str  # its source; in words where it is new
    config: object  # of transformers, or a GPTConfig
    batch_size: int
    length: int  # tokens of a sequence
    accumulation: int
    steps: int | None  # of the optimizer; None: they depend on the data
    # The fraction of the length that a batch takes on average, padding included. It scales the time alone:
    # memory is for full batches.
    fill: float = 1.0
    checkpointing: bool = False  # of activations
    optimizer: str = "adamw_torch"
    lora: Mapping | None = None  # what LoraConfig takes
    four_bit: bool = False
    rollouts: int = 0  # answers that are generated at once, before a step learns from them
    new_tokens: int = 0  # of each
    frozen_layers: int = 0
    chunked: bool = False  # TRL's chunked loss
    padded: bool = False
    memory_options: Sequence[Mapping] = ()  # settings of the recipe that may lower the peak


@functools.cache
def published_models() -> dict[str, dict]:
    """source -> config of the models that recipes name, built in: a plan needs no network."""
    import yaml

    path = Path(__file__).with_name("data") / "published_models.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def published_config(source: str) -> "PretrainedConfig":
    """The transformers config of a model source, a hub id or a folder."""
    from transformers import AutoConfig

    from lmlab.models.sources import model_source

    if source in published_models():
        return AutoConfig.for_model(**published_models()[source])
    return AutoConfig.from_pretrained(model_source(source))


def trainings(cfg: Recipe, machine: Machine) -> list[Training]:
    """The trainings of a recipe.

    Args:
        cfg: The recipe.
        machine: Its device decides on 8-bit optimizers.

    Raises:
        ValueError: The lesson trains nothing.
    """
    number = cfg.lesson.partition("_")[0]
    if number not in _PLANNED:
        raise ValueError(
            f"plan got lesson {cfg.lesson}, which trains nothing; give one of {', '.join(_PLANNED)}"
        )
    return _PLANNED[number](cfg, machine)


def _training(cfg: Recipe, machine: Machine, name: str, method: str, length_key: str, details) -> Training:
    """One row of the table below, with what all recipes call the same.

    Args:
        cfg: The recipe.
        machine: Its device decides on 8-bit optimizers.
        name: Of the phase.
        method: "pretraining", "full" or "qlora".
        length_key: The recipe's key for the length of a sequence.
        details: Function of the recipe and the machine that gives the fields of this lesson alone.
    """
    own = details(cfg, machine)
    fields = {
        "batch_size": cfg.batch_size,
        "length": getattr(cfg, length_key),
        "accumulation": cfg.grad_accumulation,
        "checkpointing": getattr(cfg, "activation_checkpointing", False),
    }
    # Half the length; single rows in as large a step; activation checkpointing. By the recipe's own keys.
    options = [{length_key: fields["length"] // 2}]
    if cfg.batch_size > 1:
        options.append({"batch_size": 1, "grad_accumulation": cfg.batch_size * cfg.grad_accumulation})
    if hasattr(cfg, "activation_checkpointing") and not fields["checkpointing"]:
        options.append({"activation_checkpointing": True})
    options += own.pop("more_options", [])
    # Where the model is new, or is lesson 02's own GPT, the details have its config.
    if "config" not in own:
        fields |= {"model": cfg.model, "config": published_config(cfg.model)}
    if method == "qlora":
        lora = {"r": cfg.lora_r, "lora_alpha": cfg.lora_alpha}
        lora["lora_dropout"] = getattr(cfg, "lora_dropout", 0.0)
        lora["target_modules"] = getattr(cfg, "target_modules", "all-linear")
        fields["lora"] = lora
    return Training(name=name, method=method, memory_options=options, **fields | own)


def _conversations(cfg: Recipe, machine: Machine) -> dict:
    """Lesson 00: the reader's file is read, for its answers and their lengths decide on the time."""
    from lmlab.data.conversations import read_conversations
    from lmlab.data.sources import own_file

    steps, fill = None, 1.0
    if own_file(cfg.data):
        lengths = []
        for each in read_conversations(cfg)[0]:
            characters = 0  # up to this turn
            for turn in each["messages"]:
                characters += len(turn["content"])
                if turn["role"] == "assistant":
                    lengths.append(TEMPLATE_TOKENS + characters / TOKEN_CHARACTERS)
        short = [length for length in lengths if length <= cfg.max_length]
        if short:
            n_held_out = min(cfg.n_validation, len(short) // 5)
            n_train = min(cfg.n_train or len(short), len(short) - n_held_out)
            steps = cfg.epochs * _steps_per_epoch(cfg, n_train)
            fill = sum(short) / len(short) / cfg.max_length
    elif cfg.n_train is not None:
        steps = cfg.epochs * _steps_per_epoch(cfg, cfg.n_train)
    shared = {"padded": True, "chunked": True, "four_bit": True, "optimizer": _paged_optimizer(machine)}
    return {"steps": steps, "fill": fill, **shared}


def _from_scratch(cfg: Recipe, machine: Machine) -> dict:
    """Lesson 02: a GPT-2 from scratch."""
    from lmlab.models.gpt import GPTConfig
    from lmlab.models.sources import load_tokenizer

    # A published tokenizer is as large as its model's vocabulary, and need not be downloaded to know that.
    if cfg.tokenizer in published_models():
        vocab_size = published_config(cfg.tokenizer).vocab_size
    else:
        vocab_size = len(load_tokenizer(cfg.tokenizer))
    shape = (cfg.n_layer, cfg.n_head, cfg.n_embd, cfg.block_size, vocab_size)
    config = GPTConfig(*shape, dropout=cfg.dropout, vocab_multiple=cfg.vocab_multiple)
    return {"model": "a new GPT-2", "config": config, "steps": cfg.max_steps}


def _pairs(cfg: Recipe, machine: Machine) -> dict:
    """Lesson 04, all of its runs."""
    # The two main ones, two more of the small set, the learning rate sweep, and the study of sizes.
    steps = cfg.epochs * _steps_per_epoch(cfg, cfg.n_train)
    steps += 3 * cfg.small_epochs * _steps_per_epoch(cfg, cfg.small_train)
    steps += len(cfg.sweep_learning_rates) * cfg.sweep_steps + len(cfg.study_sizes) * cfg.study_steps
    fill = min(1.0, PAIR_TOKENS / cfg.max_length)
    return {"steps": steps, "fill": fill, "padded": True, "frozen_layers": cfg.frozen_layers}


def _lora(cfg: Recipe, machine: Machine) -> dict:
    """Lesson 05: texts joined and cut into blocks, so the steps depend on their tokens."""
    n_tokens = ALL_TOKENS.get(cfg.data)
    if cfg.n_train is not None and cfg.data in ROW_TOKENS:
        n_tokens = cfg.n_train * ROW_TOKENS[cfg.data]
    steps = None
    if n_tokens is not None:
        steps = cfg.epochs * math.ceil(n_tokens / (cfg.batch_size * cfg.grad_accumulation * cfg.block_size))
    vocab_size = published_config(cfg.model).vocab_size
    chunked = prefer_chunked_loss(cfg.batch_size * cfg.block_size, vocab_size)
    return {"steps": steps, "chunked": chunked, "four_bit": True}


def _reasoning(cfg: Recipe, machine: Machine) -> dict:
    """Lesson 06: prompts and reasoning, packed or padded."""
    n_rows = cfg.n_train or cfg.n_rows
    steps = None
    if n_rows is not None:
        steps = cfg.epochs * _steps_per_epoch(cfg, n_rows * (1 + cfg.augmented_copies))
    fill = 1.0
    if not cfg.packing:
        fill = min(1.0, ROW_TOKENS.get(cfg.data[0], REASONING_TOKENS) / cfg.max_length)
    shared = {"padded": True, "chunked": True, "four_bit": True, "optimizer": _paged_optimizer(machine)}
    return {"steps": steps, "fill": fill, **shared}


def _locations(cfg: Recipe, machine: Machine) -> dict:
    """Lesson 08: whole descriptions packed into blocks, in the last run and in those of the search."""
    length = min(cfg.block_size, published_config(cfg.model).n_positions)
    n_tokens = cfg.n_train * ROW_TOKENS.get(cfg.data, DESCRIPTION_TOKENS)
    steps_per_epoch = _steps_per_epoch(cfg, math.ceil(n_tokens / length))
    steps = steps_per_epoch * (cfg.epochs + len(cfg.learning_rates) * cfg.search_epochs)
    return {"length": length, "steps": steps}


def _grpo(cfg: Recipe, machine: Machine) -> dict:
    """Lesson 09: the base is in 16 bits, and all answers of a step are generated before it learns."""
    more = []
    if cfg.grad_accumulation > 1:
        more.append({"grad_accumulation": cfg.grad_accumulation // 2})  # fewer answers at once
    return {
        "length": ROW_TOKENS.get(cfg.data, PROMPT_TOKENS) + cfg.max_new_tokens,
        "steps": cfg.max_steps,
        "rollouts": cfg.answers_per_step,
        "new_tokens": cfg.max_new_tokens,
        "padded": True,
        "chunked": True,
        "optimizer": _paged_optimizer(machine),
        "more_options": more,
    }


def _size(cfg: Recipe, size: ModelSize) -> Training:
    """Lesson 11, the fine-tuning of one size, with the search of its learning rate."""
    if size.is_new:
        from transformers import GPT2Config

        from lmlab.models.sources import load_tokenizer

        shape = {"n_layer": size.n_layer, "n_head": size.n_head, "n_embd": size.n_embd}
        tokenizer = load_tokenizer(cfg.tokenizer)
        shape |= {"vocab_size": len(tokenizer), "n_positions": max(256, cfg.block_size)}
        config = GPT2Config(**shape, bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id)
    else:
        config = published_config(size.model)
    return Training(
        name=size.name,
        method="full",
        model=size.model or "a new GPT-2",
        config=config,
        batch_size=size.batch_size,
        length=cfg.block_size,
        accumulation=cfg.blocks_per_step // size.batch_size,
        steps=cfg.max_steps + len(cfg.learning_rates) * cfg.search_steps,
        checkpointing=size.activation_checkpointing,
        optimizer=size.optimizer,
        memory_options=[{"block_size": cfg.block_size // 2}],
    )


def _one(*row) -> Callable[[Recipe, Machine], list[Training]]:
    """A lesson that trains once: name, method, key of the length, function for the rest (``_training``)."""
    return lambda cfg, machine: [_training(cfg, machine, *row)]


# Lesson -> function of the recipe and the machine that gives its trainings.
_PLANNED: dict[str, Callable[[Recipe, Machine], list[Training]]] = {
    "00": _one("adapter", "qlora", "max_length", _conversations),
    "02": _one("pretraining", "pretraining", "block_size", _from_scratch),
    "04": _one("pairs", "full", "max_length", _pairs),
    "05": _one("adapter", "qlora", "block_size", _lora),
    "06": _one("adapter", "qlora", "max_length", _reasoning),
    "08": _one("locations", "full", "block_size", _locations),
    "09": _one("adapter", "qlora", "max_new_tokens", _grpo),
    "11": lambda cfg, machine: [_size(cfg, size) for size in cfg.sizes],
}


def _steps_per_epoch(cfg: Recipe, n_rows: int) -> int:
    return math.ceil(n_rows / (cfg.batch_size * cfg.grad_accumulation))


def _paged_optimizer(machine: Machine) -> str:
    return "paged_adamw_8bit" if machine.device == "cuda" else "adamw_torch"
