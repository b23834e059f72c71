"""What each lesson trains: its recipe as sizes and steps, without its data, for ``lmlab.course.forecast``."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.hardware import Machine
from lmlab.recipes import Recipe
from lmlab.training.memory import prefer_chunked_loss

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lmlab.models.gpt import GPTConfig

# Tokens on average, padding included. A sentence pair of lesson 04 and a description of lesson 08: assumed.
PAIR_TOKENS, DESCRIPTION_TOKENS = 64, 120
# A problem of lesson 09 at most, and one with its reasoning of lesson 06: counted in the miniworld, elsewhere
# assumed. (GSM8K has 70 and 150 on average with Qwen2's tokenizer; solutions with code are longer.)
PROMPT_TOKENS, OTHER_PROMPT_TOKENS = {"miniworld/distracting-problems": 65}, 128
REASONING_TOKENS, OTHER_REASONING_TOKENS = {"miniworld/problems": 80}, 600
# Of a text of lesson 05: counted. Of all texts: WikiText-2's 2,088,628 words (Merity et al. 2017) times the
# 1.28 tokens that Qwen2's tokenizer makes of a word of its validation part, so roughly.
TEXT_TOKENS = {"miniworld/encyclopedia": 55}
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
    fill: float = (
        1.0  # of the length that a batch takes on average, padding included; memory is for full batches
    )
    checkpointing: bool = False
    optimizer: str = "adamw_torch"
    lora: Mapping | None = None  # what LoraConfig takes
    four_bit: bool = False
    rollouts: int = 0  # answers that are generated at once, before a step learns from them
    new_tokens: int = 0  # of each
    frozen_layers: int = 0
    chunked: bool = False  # TRL's chunked loss
    padded: bool = False
    checkpoints: int = 0  # on disk at one time, at most
    data_bytes: int = 0
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
    path = Path(model_source(source))
    config = AutoConfig.from_pretrained(str(path))
    if config.tie_word_embeddings and path.is_dir() and any(path.glob("*.safetensors")):
        from lmlab.export.weight_files import own_head

        config.tie_word_embeddings = not own_head(path)  # the files decide, whatever the config says
    return config


def trainings(cfg: Recipe, machine: Machine) -> list[Training]:
    """The trainings of a recipe.

    Raises:
        ValueError: The lesson trains nothing, or with an optimizer that the machine cannot have.
    """
    number = cfg.lesson.partition("_")[0]
    if number not in _LESSONS:
        raise ValueError(
            f"plan got lesson {cfg.lesson}, which trains nothing; give one of {', '.join(_LESSONS)}"
        )
    return _LESSONS[number](cfg, machine)


def _training(cfg: Recipe, length_key: str, **own: Any) -> Training:
    """A training with what all recipes call the same.

    Args:
        cfg: The recipe.
        length_key: Its key for the length of a sequence.
        own: Fields of ``Training``; they go before the recipe's.
    """
    shared = {
        "batch_size": cfg.batch_size,
        "length": getattr(cfg, length_key),
        "accumulation": cfg.grad_accumulation,
        "checkpointing": getattr(cfg, "activation_checkpointing", False),
        "memory_options": _memory_options(cfg, length_key, "activation_checkpointing"),
    }
    if "config" not in own:
        shared |= {"model": cfg.model, "config": published_config(cfg.model)}
    return Training(**shared | own)


def _adapter(cfg: Recipe, length_key: str, **own: Any) -> Training:
    """What lessons 05, 06 and 09 share: an adapter on the recipe's model."""
    lora = {"r": cfg.lora_r, "lora_alpha": cfg.lora_alpha}
    for name, default in (("lora_dropout", 0.0), ("target_modules", "all-linear")):
        lora[name] = getattr(cfg, name, default)
    return _training(cfg, length_key, name="adapter", method="qlora", lora=lora, **own)


def _gpt_config(shape: Any, **sizes: Any) -> "GPTConfig":
    """The package's own GPT-2 with the layers, heads and width of ``shape``."""
    from lmlab.models.gpt import GPTConfig

    return GPTConfig(n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd, **sizes)


def _lesson_02(cfg: Recipe, machine: Machine) -> list[Training]:
    """A GPT-2 from scratch."""
    from lmlab.models.sources import load_tokenizer

    if cfg.tokenizer in published_models():
        vocab_size = published_config(cfg.tokenizer).vocab_size
    else:
        vocab_size = len(load_tokenizer(cfg.tokenizer))
    sizes = {"block_size": cfg.block_size, "vocab_size": vocab_size, "vocab_multiple": cfg.vocab_multiple}
    training = _training(
        cfg,
        "block_size",
        name="pretraining",
        method="pretraining",
        model="a new GPT-2",
        config=_gpt_config(cfg, dropout=cfg.dropout, **sizes),
        steps=cfg.max_steps,
        checkpoints=_kept_checkpoints(math.ceil(cfg.max_steps / cfg.checkpoint_every), cfg.keep_checkpoints),
        data_bytes=2 * (cfg.data_tokens or 0),  # shards hold two bytes a token
    )
    return [training]


def _lesson_04(cfg: Recipe, machine: Machine) -> list[Training]:
    """Part A, all of its runs: the two main ones, two more of the small set, sweep and study; and part B."""
    from lmlab.training.optimizers import optimizer_name

    steps = cfg.epochs * _steps_per_epoch(cfg, cfg.n_train)
    steps += 3 * cfg.small_epochs * _steps_per_epoch(cfg, cfg.small_train)
    steps += len(cfg.sweep_learning_rates) * cfg.sweep_steps + len(cfg.study_sizes) * cfg.study_steps
    pairs = _training(
        cfg,
        "max_length",
        name="pairs",
        method="full",
        steps=steps,
        fill=min(1.0, PAIR_TOKENS / cfg.max_length),
        padded=True,
        frozen_layers=cfg.frozen_layers,
        checkpoints=3,
    )
    optimizer_name(cfg.style_optimizer, machine)  # raises for what the machine cannot have
    options = _memory_options(cfg, "style_block_size", "style_activation_checkpointing", "style_")
    if machine.device == "cuda":
        options.append({"style_optimizer": "adamw_8bit"})
    style = Training(
        name="style",
        method="full",
        model=cfg.style_model,
        config=published_config(cfg.style_model),
        batch_size=cfg.style_batch_size,
        length=cfg.style_block_size,
        accumulation=cfg.style_grad_accumulation,
        steps=cfg.style_steps,
        checkpointing=cfg.style_activation_checkpointing,
        optimizer=cfg.style_optimizer,
        memory_options=options,
    )
    return [pairs, style]


def _lesson_05(cfg: Recipe, machine: Machine) -> list[Training]:
    """Texts joined and cut into blocks, so the steps depend on their tokens."""
    n_tokens = ALL_TOKENS.get(cfg.data)
    if cfg.n_train is not None and cfg.data in TEXT_TOKENS:
        n_tokens = cfg.n_train * TEXT_TOKENS[cfg.data]
    tokens_per_step = cfg.batch_size * cfg.grad_accumulation * cfg.block_size
    vocab_size = published_config(cfg.model).vocab_size
    training = _adapter(
        cfg,
        "block_size",
        steps=n_tokens and cfg.epochs * math.ceil(n_tokens / tokens_per_step),
        chunked=prefer_chunked_loss(cfg.batch_size * cfg.block_size, vocab_size),
        four_bit=True,
        checkpoints=3,
    )
    return [training]


def _lesson_06(cfg: Recipe, machine: Machine) -> list[Training]:
    n_train = cfg.n_train or cfg.n_rows
    n_tokens = REASONING_TOKENS.get(cfg.data[0], OTHER_REASONING_TOKENS)
    training = _adapter(
        cfg,
        "max_length",
        steps=n_train and cfg.epochs * _steps_per_epoch(cfg, n_train * (1 + cfg.augmented_copies)),
        fill=1.0 if cfg.packing else min(1.0, n_tokens / cfg.max_length),
        padded=True,
        chunked=True,
        optimizer=_adapter_optimizer(machine),
        four_bit=True,
        checkpoints=4,
    )
    return [training]


def _lesson_08(cfg: Recipe, machine: Machine) -> list[Training]:
    """The last run and those of the search."""
    base = published_config(cfg.model)
    sizes = {"block_size": base.n_positions, "vocab_size": base.vocab_size, "dropout": base.resid_pdrop}
    length = min(cfg.block_size, base.n_positions)
    tokens_per_step = cfg.batch_size * cfg.grad_accumulation * length
    steps_per_epoch = max(1, round(cfg.n_train * DESCRIPTION_TOKENS / tokens_per_step))
    training = _training(
        cfg,
        "block_size",
        name="locations",
        method="pretraining",
        model=cfg.model,
        config=_gpt_config(base, **sizes),
        length=length,
        steps=steps_per_epoch * (cfg.epochs + len(cfg.learning_rates) * cfg.search_epochs),
        checkpoints=_kept_checkpoints(cfg.epochs, cfg.keep_checkpoints),
    )
    return [training]


def _lesson_09(cfg: Recipe, machine: Machine) -> list[Training]:
    """GRPO: the base is in 16 bits, and all answers of a step are generated before the first is learnt from."""
    options = _memory_options(cfg, "max_new_tokens", "activation_checkpointing")
    if cfg.grad_accumulation > 1:
        options.append({"grad_accumulation": cfg.grad_accumulation // 2})
    training = _adapter(
        cfg,
        "max_new_tokens",
        length=PROMPT_TOKENS.get(cfg.data, OTHER_PROMPT_TOKENS) + cfg.max_new_tokens,
        steps=cfg.max_steps,
        padded=True,
        chunked=True,
        optimizer=_adapter_optimizer(machine),
        rollouts=cfg.answers_per_step,
        new_tokens=cfg.max_new_tokens,
        checkpoints=2,
        memory_options=options,
    )
    return [training]


_LESSONS = {
    "02": _lesson_02,
    "04": _lesson_04,
    "05": _lesson_05,
    "06": _lesson_06,
    "08": _lesson_08,
    "09": _lesson_09,
}


def _steps_per_epoch(cfg: Recipe, n_rows: int) -> int:
    return math.ceil(n_rows / (cfg.batch_size * cfg.grad_accumulation))


def _adapter_optimizer(machine: Machine) -> str:
    return "paged_adamw_8bit" if machine.device == "cuda" else "adamw_torch"


def _kept_checkpoints(saved: int, newest: int | None) -> int:
    """On disk at most: the newest so many, the best, and one that is being written."""
    return saved if newest is None else min(saved, newest + 2)


def _memory_options(cfg: Recipe, length: str, checkpointing: str, prefix: str = "") -> list[dict]:
    """Half the length; single rows in as large a step; activation checkpointing.

    With the recipe's own keys.
    """
    options: list[dict] = [{length: getattr(cfg, length) // 2}]
    batch_size, accumulation = f"{prefix}batch_size", f"{prefix}grad_accumulation"
    rows = getattr(cfg, batch_size)
    if rows > 1:
        options.append({batch_size: 1, accumulation: rows * getattr(cfg, accumulation)})
    if not getattr(cfg, checkpointing, True):  # without the key there is none to switch on
        options.append({checkpointing: True})
    return options
