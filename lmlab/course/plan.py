"""What a recipe will need, before anything is loaded or rented: memory, disk, time, money; and what to change.

Memory is counted on a rehearsed step (``lmlab.training.memory``), operations too; seconds follow from the data sheet
and a share of it that is assumed. All is predicted. ``compare`` sets what was measured beside it.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from lmlab.course.cost import WEIGHT, adam_bytes, four_bit_bytes, product_speed
from lmlab.hardware import BANDWIDTH, GPUS, PEAK_TFLOPS, Machine, by_gpu_name
from lmlab.training.checkpoints import load_state
from lmlab.training.memory import many_logits

GIB = 2**30


# The published configs of the models that recipes name (config.json of each on the hub): what decides shapes.
PUBLISHED = {
    "openai-community/gpt2": {"model_type": "gpt2"},  # transformers' defaults
    "openai-community/gpt2-medium": {"model_type": "gpt2", "n_layer": 24, "n_head": 16, "n_embd": 1024},
    "openai-community/gpt2-large": {"model_type": "gpt2", "n_layer": 36, "n_head": 20, "n_embd": 1280},
    "openai-community/gpt2-xl": {"model_type": "gpt2", "n_layer": 48, "n_head": 25, "n_embd": 1600},
    "distilbert/distilgpt2": {"model_type": "gpt2", "n_layer": 6},
    "meta-llama/Llama-3.2-1B": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
}


# US dollars for an hour of one GPU on demand, May 2026; yours will differ by a factor of two either way.
# T4, L4: Google Cloud without the host; A10G: AWS g5.xlarge; the others lie between specialised clouds and the
# large ones (mercatus-ai.com/blog/cloud-gpu-pricing: A100 1.10 to 3.00, H100 2.00 to 5.00, H200 2.50 to 7.00).
RENT = {"H200": 3.50, "H100": 3.00, "A100": 1.80, "A10G": 1.01, "L4": 0.70, "T4": 0.35}


# The share of the data sheet's operations that training is assumed to reach; not measured here on any GPU.
UTILISATION = {"pretraining": 0.4, "full": 0.3, "qlora": 0.2}
CPU_SHARE = 0.6  # of what one large product reaches on the same core; measured 0.4 to 0.9 on the tiny models
CALL_SECONDS = 1e-5  # that a call of torch takes at least, from Python; assumed
SPARE_GIB, GAPS = 0.6, 0.05  # CUDA's own, and what an allocator loses between tensors, as a share
PAIR_TOKENS, STORY_TOKENS = 64, 120  # of a sentence pair with padding, and of a description: assumed
# Of a problem in lesson 09 and of one with its thought in lesson 06, at most and on average with padding: counted
# in the miniworld; elsewhere assumed (GSM8K's have 70 and 150 on average, with Qwen2's tokenizer; solutions with
# code and its output are longer).
PROMPT_TOKENS, THINK_TOKENS = {"miniworld/distracting-problems": 65}, {"miniworld/problems": 80}
SOME_PROMPT, SOME_THOUGHT = 128, 600
# Tokens of a text on average, and of all texts: counted; WikiText-2's 2,088,628 words (Merity et al. 2017) times
# the 1.28 tokens that Qwen2's tokenizer makes of a word of its validation part, so about.
TEXT_TOKENS = {"miniworld/encyclopedia": 55}
ALL_TOKENS = {"Salesforce/wikitext:wikitext-2-raw-v1": 2_670_000}


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of a lesson, as far as its cost goes. savers: settings of the recipe that can save memory."""

    name: str
    method: str  # a key of UTILISATION
    source: str  # of the model; of its shape, where it is new
    config: object  # of transformers, or a GPTConfig
    batch_size: int
    length: int
    accumulation: int
    steps: int | None  # of the optimizer; None: they depend on the data
    fill: float = 1.0  # the share of length that a batch fills on average; memory is for full ones
    checkpointing: bool = False
    optimizer: str = "adamw_torch"
    lora: Mapping | None = None  # what LoraConfig takes
    four_bit: bool = False
    generated: int = 0  # answers that are written at once, before a step learns from them
    new_tokens: int = 0  # of each
    frozen_layers: int = 0
    chunked: bool = False  # TRL's loss
    padded: bool = False
    checkpoints: int = 0  # on disk at one time, at most
    data_bytes: int = 0
    savers: Sequence[Mapping] = ()


# --- from a recipe to its trainings ----------------------------------------------------------------


def published_config(source: str):
    """The transformers config of a model source; those that recipes name are built in: no network is needed."""
    from transformers import AutoConfig

    from lmlab.models.sources import model_source

    if source in PUBLISHED:
        return AutoConfig.for_model(**PUBLISHED[source])
    path = Path(model_source(source))
    config = AutoConfig.from_pretrained(str(path))
    if config.tie_word_embeddings and path.is_dir() and any(path.glob("*.safetensors")):
        from lmlab.export.merge import own_head

        config.tie_word_embeddings = not own_head(path)
    return config


def trainings(cfg, machine: Machine) -> list[Training]:
    """The trainings of a recipe that cost something. Raises ValueError for a lesson that trains nothing."""
    lesson = cfg.lesson.partition("_")[0]
    if lesson == "02":
        return [_pretraining(cfg)]
    if lesson == "04":
        return [_pairs(cfg), _style(cfg, machine)]
    if lesson == "08":
        return [_locations(cfg)]
    if lesson == "05":
        return [_lora(cfg)]
    if lesson == "06":
        return [_think(cfg, machine)]
    if lesson == "09":
        return [_rewarded(cfg, machine)]
    raise ValueError(
        f"plan got lesson {cfg.lesson}, which trains nothing that needs a plan; give 02, 04, 05, 06, 08 or 09"
    )


def _pretraining(cfg) -> Training:
    from lmlab.models.gpt import GPTConfig
    from lmlab.models.sources import load_tokenizer

    known = PUBLISHED.get(cfg.tokenizer)
    entries = published_config(cfg.tokenizer).vocab_size if known else len(load_tokenizer(cfg.tokenizer))
    config = GPTConfig(
        n_layer=cfg.n_layer,
        n_head=cfg.n_head,
        n_embd=cfg.n_embd,
        block_size=cfg.block_size,
        dropout=cfg.dropout,
        vocab_size=entries,
        vocab_multiple=cfg.vocab_multiple,
    )
    saved = -(-cfg.max_steps // cfg.checkpoint_every)
    return Training(
        name="pretraining",
        method="pretraining",
        source="a new GPT-2",
        config=config,
        steps=cfg.max_steps,
        batch_size=cfg.batch_size,
        length=cfg.block_size,
        accumulation=cfg.grad_accumulation,
        checkpoints=_kept(saved, cfg.keep_checkpoints),
        data_bytes=2 * (cfg.data_tokens or 0),
        savers=_savers(cfg, "block_size"),
    )


def _pairs(cfg) -> Training:
    """Part A of lesson 04, all of its runs: the two main ones, two more of the small set, sweep and study."""
    epoch, small_epoch = (
        -(-n // (cfg.batch_size * cfg.grad_accumulation)) for n in (cfg.n_train, cfg.small_train)
    )
    steps = (
        cfg.epochs * epoch
        + 3 * cfg.small_epochs * small_epoch
        + len(cfg.sweep_rates) * cfg.sweep_steps
        + len(cfg.study_sizes) * cfg.study_steps
    )
    return Training(
        name="pairs",
        method="full",
        source=cfg.model,
        config=published_config(cfg.model),
        steps=steps,
        padded=True,
        batch_size=cfg.batch_size,
        length=cfg.max_length,
        accumulation=cfg.grad_accumulation,
        fill=min(1.0, PAIR_TOKENS / cfg.max_length),
        frozen_layers=cfg.frozen_layers,
        checkpoints=3 if cfg.checkpoint_every else 0,
        savers=_savers(cfg, "max_length"),
    )


def _style(cfg, machine: Machine) -> Training:
    from lmlab.training.trainers import optimizer_name

    optimizer_name(cfg.style_optimizer, machine)  # refuses what the machine cannot
    smaller = [{"style_optimizer": "adamw_8bit"}] if machine.device == "cuda" else []
    return Training(
        name="style",
        method="full",
        source=cfg.style_model,
        config=published_config(cfg.style_model),
        steps=cfg.style_steps,
        batch_size=cfg.style_batch_size,
        length=cfg.style_block_size,
        accumulation=cfg.style_grad_accumulation,
        checkpointing=cfg.style_checkpointing,
        optimizer=cfg.style_optimizer,
        savers=_savers(cfg, "style_block_size", "style_checkpointing", "style_") + smaller,
    )


def _locations(cfg) -> Training:
    """The last run of lesson 08 and those of its search."""
    from lmlab.models.gpt import GPTConfig

    base = published_config(cfg.model)
    config = GPTConfig(
        n_layer=base.n_layer,
        n_head=base.n_head,
        n_embd=base.n_embd,
        block_size=base.n_positions,
        vocab_size=base.vocab_size,
        dropout=base.resid_pdrop,
    )
    length = min(cfg.block_size, base.n_positions)
    epoch = max(1, round(cfg.n_train * STORY_TOKENS / (cfg.batch_size * cfg.grad_accumulation * length)))
    return Training(
        name="locations",
        method="pretraining",
        source=cfg.model,
        config=config,
        batch_size=cfg.batch_size,
        length=length,
        accumulation=cfg.grad_accumulation,
        checkpoints=_kept(cfg.epochs, cfg.keep_checkpoints),
        steps=epoch * (cfg.epochs + len(cfg.learning_rates) * cfg.search_epochs),
        savers=_savers(cfg, "block_size"),
    )


def _lora(cfg) -> Training:
    """Lesson 05: texts joined and cut into blocks, so the steps depend on their tokens."""
    n_tokens = ALL_TOKENS.get(cfg.data)
    if cfg.n_train is not None and cfg.data in TEXT_TOKENS:
        n_tokens = cfg.n_train * TEXT_TOKENS[cfg.data]
    per_step = cfg.batch_size * cfg.grad_accumulation * cfg.block_size
    config = published_config(cfg.model)
    return Training(
        name="adapter",
        method="qlora",
        source=cfg.model,
        config=config,
        steps=n_tokens and cfg.epochs * -(-n_tokens // per_step),
        batch_size=cfg.batch_size,
        length=cfg.block_size,
        accumulation=cfg.grad_accumulation,
        checkpointing=cfg.activation_checkpointing,
        chunked=many_logits(cfg.batch_size * cfg.block_size, config.vocab_size),
        lora=_lora_config(cfg),
        four_bit=True,
        checkpoints=3 if cfg.checkpoint_every else 0,
        savers=_savers(cfg, "block_size", "activation_checkpointing"),
    )


def _think(cfg, machine: Machine) -> Training:
    n_train = cfg.n_train or cfg.n_rows
    epoch = n_train and -(-n_train * (1 + cfg.redrawn) // (cfg.batch_size * cfg.grad_accumulation))
    n_tokens = THINK_TOKENS.get(cfg.data[0], SOME_THOUGHT)
    return Training(
        name="adapter",
        method="qlora",
        source=cfg.model,
        config=published_config(cfg.model),
        steps=epoch and cfg.epochs * epoch,
        batch_size=cfg.batch_size,
        length=cfg.max_length,
        fill=1.0 if cfg.packing else min(1.0, n_tokens / cfg.max_length),
        accumulation=cfg.grad_accumulation,
        checkpointing=cfg.activation_checkpointing,
        padded=True,
        chunked=True,
        optimizer=_small_optimizer(machine),
        lora=_lora_config(cfg),
        four_bit=True,
        checkpoints=4,
        savers=_savers(cfg, "max_length", "activation_checkpointing"),
    )


def _rewarded(cfg, machine: Machine) -> Training:
    """Lesson 09: the base is unpacked, and all answers of a step are written before the first is learnt from."""
    return Training(
        name="adapter",
        method="qlora",
        source=cfg.model,
        config=published_config(cfg.model),
        steps=cfg.max_steps,
        batch_size=cfg.batch_size,
        length=PROMPT_TOKENS.get(cfg.data, SOME_PROMPT) + cfg.max_new_tokens,
        accumulation=cfg.grad_accumulation,
        checkpointing=cfg.activation_checkpointing,
        padded=True,
        chunked=True,
        optimizer=_small_optimizer(machine),
        lora={"r": cfg.lora_r, "lora_alpha": cfg.lora_alpha, "target_modules": "all-linear"},
        generated=cfg.answers_per_step,
        new_tokens=cfg.max_new_tokens,
        checkpoints=2,
        savers=_savers(cfg, "max_new_tokens", "activation_checkpointing")
        + ([{"grad_accumulation": cfg.grad_accumulation // 2}] if cfg.grad_accumulation > 1 else []),
    )


def _small_optimizer(machine: Machine) -> str:
    return "paged_adamw_8bit" if machine.device == "cuda" else "adamw_torch"


def _lora_config(cfg) -> dict:
    return {
        "r": cfg.lora_r,
        "lora_alpha": cfg.lora_alpha,
        "lora_dropout": cfg.lora_dropout,
        "target_modules": cfg.target_modules,
    }


def _kept(saved: int, newest: int | None) -> int:
    """Checkpoints on disk at most: the newest so many, the best, and one that is written before one goes."""
    return saved if newest is None else min(saved, newest + 2)


def _savers(cfg, length: str, checkpointing: str | None = None, prefix: str = "") -> list[dict]:
    """Half the length, single rows in as large a step, and activations that are recomputed."""
    savers = [{length: getattr(cfg, length) // 2}]
    batch_size, accumulation = f"{prefix}batch_size", f"{prefix}grad_accumulation"
    if getattr(cfg, batch_size) > 1:
        savers.append({batch_size: 1, accumulation: getattr(cfg, batch_size) * getattr(cfg, accumulation)})
    if checkpointing and not getattr(cfg, checkpointing):
        savers.append({checkpointing: True})
    return savers


# --- one training's forecast -----------------------------------------------------------------------


@dataclass(frozen=True)
class Forecast:
    """What one training is predicted to need on one machine. Bytes by name; a name that is missing is 0."""

    training: Training
    machine: Machine
    n_weights: int  # those of an adapter among them
    n_trained: int
    memory: Mapping[str, int]  # at the fullest moment of a step; their sum is the peak
    kept: Mapping[
        str, int
    ]  # what can be counted exactly after a run: weights, adapter, optimizer, checkpoint
    disk: Mapping[str, int]
    seconds: float | None  # of one step, at the batches' average fill; None where no data sheet says

    @property
    def peak(self) -> int:
        return sum(self.memory.values())

    @property
    def room(self) -> float:
        """Bytes that may be used: a CPU's memory, or a GPU's less CUDA's own and gaps."""
        total = self.machine.gpu_memory_gb
        return GIB * (self.machine.memory_gb or math.inf) if total is None else _usable(total)

    def larger_gpus(self) -> list[str]:
        """Those in ``hardware.GPUS`` on which this fits as it is."""
        return [name for name, (memory, _) in GPUS.items() if self.peak <= _usable(memory)]

    @property
    def fits(self) -> bool:
        return self.peak <= self.room

    @property
    def tokens_per_second(self) -> float | None:
        """Padding included: it is computed as well."""
        job = self.training
        return self.seconds and job.batch_size * job.length * job.fill * job.accumulation / self.seconds

    @property
    def hours(self) -> float | None:
        steps = self.training.steps
        return None if self.seconds is None or steps is None else steps * self.seconds / 3600

    @property
    def rent(self) -> float | None:
        """US dollars for an hour of this GPU; None where RENT has none."""
        return by_gpu_name(RENT, self.machine.device_name) if self.machine.device == "cuda" else None

    def rows(self) -> list[tuple[str, str]]:
        """What there is to say, as (name, value)."""
        share = f" ({self.n_trained / self.n_weights:.4%})" if self.n_trained < self.n_weights else ""
        rows = [
            ("model", f"{self.training.source}, {self.n_weights:,} weights"),
            ("trained", f"{self.n_trained:,}{share}"),
        ]
        rows += [(name, shown_bytes(size)) for name, size in self.memory.items()]
        rows += [
            (
                "peak memory",
                f"{shown_bytes(self.peak)} of {shown_bytes(self.room)}, "
                f"{'fits' if self.fits else 'DOES NOT FIT'}",
            )
        ]
        rows += [(f"disk: {name}", shown_bytes(size)) for name, size in self.disk.items()]
        return [*rows, *self._time_rows()]

    def _time_rows(self) -> list[tuple[str, str]]:
        if self.seconds is None:
            return [("time", "unknown: no data sheet for this machine")]
        speed = ("tokens per second", f"{self.tokens_per_second:,.0f}")
        if self.hours is None:
            return [speed, ("time", f"{shown_hours(self.seconds / 3.6)} for 1,000 steps")]
        rows = [speed, ("time", f"{shown_hours(self.hours)} of training, {self.training.steps:,} steps")]
        return (
            rows
            if self.rent is None
            else [*rows, ("rent", f"${self.rent * self.hours:.2f} at ${self.rent:.2f} an hour")]
        )


def shown_bytes(size: float) -> str:
    """In the unit that reads best."""
    if size == math.inf:
        return "an unknown size"
    unit, name = next(
        ((unit, name) for unit, name in ((2**30, "GiB"), (2**20, "MiB")) if size >= unit / 10), (2**10, "KiB")
    )
    return f"{size / unit:.2f} {name}" if size else "0"


def _usable(gpu_gib: float) -> float:
    return GIB * (gpu_gib - SPARE_GIB) * (1 - GAPS)


def shown_hours(hours: float) -> str:
    """In the unit that reads best."""
    if hours >= 2:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.0f} minutes" if hours >= 1 / 30 else f"{3600 * hours:.0f} seconds"


def forecast(training: Training, machine: Machine) -> Forecast:
    """Builds the model without weights and rehearses a step of it."""
    from lmlab.models.gpt import GPT
    from lmlab.training.memory import estimate_step

    model = _without_weights(training, machine)
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    step = estimate_step(
        model,
        training.batch_size,
        training.length,
        dtype=machine.dtype,
        accumulation=training.accumulation,
        checkpointing=training.checkpointing,
        chunked=training.chunked,
        padded=training.padded,
        flash=machine.bf16,
        cpu=machine.device != "cuda",
    )
    kept = kept_bytes(model, training.optimizer)
    n_saved = model.num_parameters() if isinstance(model, GPT) else None  # files hold no rows of padding
    kept_part = {name: kept[name] for name in ("weights", "adapter", "optimizer") if name in kept}
    learning = {"gradients": step.gradients, "activations": step.activations, "logits": step.logits}
    writing = {"keys and values": _cache_bytes(training, machine)}
    return Forecast(
        training,
        machine,
        n_weights=n_saved or sum(p.numel() for p in parameters),
        n_trained=n_saved or sum(p.numel() for p in trained),
        memory=kept_part | max(learning, writing, key=lambda parts: sum(parts.values())),
        kept=kept,
        disk=_disk(training, kept, sum(p.numel() for p in parameters if not p.requires_grad)),
        seconds=_seconds(training, machine, step, kept["weights"]),
    )


def _cache_bytes(training: Training, machine: Machine) -> int:
    """Of the keys and values of all answers that are written at once, at their full length."""
    if not training.generated:
        return 0
    config = training.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    entries = 2 * config.num_hidden_layers * config.num_key_value_heads * head
    return training.generated * training.length * entries * machine.torch_dtype.itemsize


def _without_weights(training: Training, machine: Machine):
    from lmlab.models.parameters import freeze_layers
    from lmlab.training.memory import in_four_bits, model_on_meta, with_adapter

    if training.lora is None:
        model = model_on_meta(training.config)
        if training.frozen_layers:
            freeze_layers(model, training.frozen_layers)
        return model
    base = model_on_meta(training.config, machine.torch_dtype)  # what stays out of 4 bits: embeddings, norms
    frozen = in_four_bits(base) if training.four_bit else base.requires_grad_(False)
    return with_adapter(frozen, **training.lora)


def kept_bytes(model, optimizer: str) -> dict[str, int]:
    """Bytes that stay from step to step, of a model on meta: weights, adapter (if any), optimizer; and on disk
    those of a checkpoint: the trained weights and the optimizer's state.
    """
    from torch import nn

    from lmlab.training.memory import FourBit

    packed = {
        id(m.weight): four_bit_bytes(m.weight.numel()) for m in model.modules() if isinstance(m, FourBit)
    }
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = sum(packed.get(id(p), p.nbytes) for p in model.parameters() if not p.requires_grad)
    mine = sum(p.nbytes for p in trained)
    state = adam_bytes(((p.numel(), id(p) in embeddings) for p in trained), optimizer)
    if hasattr(model, "peft_config"):
        return {"weights": frozen, "adapter": mine, "optimizer": state, "checkpoint": mine + state}
    padding = _padding_bytes(model)
    return {"weights": frozen + mine, "optimizer": state, "checkpoint": frozen + mine - padding + state}


def _padding_bytes(model) -> int:
    """Of the rows that ``lmlab.models.gpt`` adds to the embedding and leaves out of files."""
    from lmlab.models.gpt import GPT

    own = isinstance(model, GPT)
    return WEIGHT * (sum(p.numel() for p in model.parameters()) - model.num_parameters()) if own else 0


def _disk(training: Training, kept: Mapping[str, int], n_frozen: int) -> dict[str, int]:
    disk = {"data": training.data_bytes, "checkpoints": training.checkpoints * kept["checkpoint"]}
    if training.lora is None:
        disk["model"] = kept["checkpoint"] - kept["optimizer"]
    else:
        disk |= {"adapter": kept["adapter"], "merged, 16 bits": 2 * n_frozen}
    return {name: size for name, size in disk.items() if size}


def _seconds(training: Training, machine: Machine, step, n_bytes: int) -> float | None:
    """Of one optimizer step, by operations and the speed that is assumed; None where that is not known.

    A GPU computes while Python calls, so the longer of the two counts; on a CPU both do. Answers are written
    token by token: each is a forward pass that reads all weights (n_bytes).
    """
    on_cpu = machine.device == "cpu"
    peak = by_gpu_name(PEAK_TFLOPS, machine.device_name) if machine.device == "cuda" else None
    if not on_cpu and peak is None:
        return None
    speed = CPU_SHARE * _cpu_speed() if on_cpu else 1e12 * peak * UTILISATION[training.method]
    calls, both = CALL_SECONDS * step.operations, sum if on_cpu else max
    learning = training.accumulation * both((calls, training.fill * step.flops / speed))
    if not training.generated:
        return learning
    passes = 4 if training.checkpointing else 3  # a step's work in forward passes: the backward pass is two
    forward = step.flops / passes / (training.batch_size * training.length) * training.generated / speed
    reading = 0.0 if on_cpu else n_bytes / (1e9 * (by_gpu_name(BANDWIDTH, machine.device_name) or 300))
    return learning + training.new_tokens * both((calls / passes, max(forward, reading)))


_cpu_speed = cache(product_speed)


# --- what to change --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """Settings of the recipe, and the forecast with them."""

    settings: Mapping[str, object]
    forecast: Forecast

    def __str__(self) -> str:
        told = " ".join(f"--set {key}={str(value).lower()}" for key, value in self.settings.items())
        return f"{told:<62} {shown_bytes(self.forecast.peak):>10}{'  fits' if self.forecast.fits else ''}"


def changes(cfg, made: Forecast) -> list[Change]:
    """What would lower the peak, each change alone, the most effective first; then all of them together.

    cfg: the recipe that ``made`` is a training of.
    """
    tried = sorted(
        (_changed(cfg, made, settings) for settings in made.training.savers),
        key=lambda change: change.forecast.peak,
    )
    helpful = [change for change in tried if change.forecast.peak < made.peak]
    if len(helpful) > 1 and not helpful[0].forecast.fits:
        every = {key: value for settings in made.training.savers[::-1] for key, value in settings.items()}
        helpful.append(_changed(cfg, made, every))
    return helpful


def _changed(cfg, made: Forecast, settings: Mapping) -> Change:
    again = trainings(replace(cfg, **settings), made.machine)
    job = next(job for job in again if job.name == made.training.name)
    return Change(settings, forecast(job, made.machine))


# --- the plan --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The forecasts of a recipe's trainings, by name."""

    title: str
    cfg: object
    machine: Machine
    forecasts: Mapping[str, Forecast]

    @cached_property
    def advice(self) -> dict[str, list[Change]]:
        """For each training that does not fit, what to change."""
        return {name: changes(self.cfg, made) for name, made in self.forecasts.items() if not made.fits}

    def notes(self) -> list[str]:
        """What the numbers assume."""
        jobs = [made.training for made in self.forecasts.values()]
        on_top = "measuring comes" if any(job.generated for job in jobs) else "generating and measuring come"
        notes = [
            f"Predicted; nothing was run. Memory is for full batches; {on_top} on top. Its parts are those of "
            "the fullest moment: what is 0 there has its turn at another."
        ]
        if self.machine.device == "cpu":
            notes.append(f"Time assumes {CPU_SHARE:.0%} of the speed of a large product, as it is just now.")
        if self.machine.device == "cuda":
            shares = ", ".join(sorted({f"{UTILISATION[job.method]:.0%}" for job in jobs}))
            notes.append(f"Time assumes {shares} of the data sheet's operations. Rent is of May 2026.")
        notes += [
            f"{job.name}: batches are assumed to be {job.fill:.0%} full." for job in jobs if job.fill < 1
        ]
        return notes

    def __str__(self) -> str:
        lines = [self.title]
        for name, made in self.forecasts.items():
            lines += ["", f"{name}:", *(f"  {key:<30} {value}" for key, value in made.rows())]
            if name in self.advice:
                lines += [
                    "  what would help, the most first:",
                    *(f"    {change}" for change in self.advice[name]),
                ]
                if not any(change.forecast.fits for change in self.advice[name]):
                    lines.append("    nothing of this makes it fit: take a smaller model or a larger GPU")
                lines.append(
                    f"  as it is, it fits on: {', '.join(made.larger_gpus()) or 'none of the GPUs here'}"
                )
        return "\n".join([*lines, "", *self.notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<b>{html.escape(self.title)}</b>"]
        for name, made in self.forecasts.items():
            rows = [
                (name, ""),
                *made.rows(),
                *(("instead", str(change)) for change in self.advice.get(name, ())),
            ]
            parts.append(_table(rows))
        return "".join([*parts, *(f"<p>{html.escape(note)}</p>" for note in self.notes())])


def _table(rows) -> str:
    cells = ("".join(f"<td>{html.escape(str(value))}</td>" for value in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def plan(cfg, machine: Machine) -> Plan:
    """What a recipe is predicted to need on ``machine`` (``describe_machine()``, or ``hardware.gpu("T4")``).

    Raises ValueError for a lesson that trains nothing.
    """
    made = {job.name: forecast(job, machine) for job in trainings(cfg, machine)}
    memory = machine.memory_gb if machine.gpu_memory_gb is None else machine.gpu_memory_gb
    title = f"{cfg.lesson}, recipe {cfg.name}, on {machine.device_name} ({memory:.1f} GiB, {machine.dtype})"
    return Plan(title, cfg, machine, made)


# --- after the run ---------------------------------------------------------------------------------


class Row(NamedTuple):
    """One quantity, predicted and measured, in bytes or as the name says."""

    name: str
    predicted: float
    actual: float


@dataclass(frozen=True)
class Comparison:
    """What was predicted and what came of it."""

    rows: Sequence[Row]

    def shown(self) -> list[tuple[str, str, str, str]]:
        bodies = [
            (
                row.name,
                f"{row.predicted:,.0f}",
                f"{row.actual:,.0f}",
                f"{row.actual / row.predicted - 1:+.1%}",
            )
            for row in self.rows
        ]
        return [("", "predicted", "measured", "difference"), *bodies]

    def __str__(self) -> str:
        return "\n".join(
            f"{name:<22} {predicted:>18} {actual:>18} {difference:>10}"
            for name, predicted, actual, difference in self.shown()
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _table(self.shown())


def forget_peak() -> None:
    """To be called before a training whose peak ``measure`` shall tell; without a GPU it does nothing."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def measure(
    model, optimizer=None, checkpoint: str | Path | None = None, seconds: float | None = None
) -> dict:
    """What can be counted after a training, for ``compare``.

    model: trained by transformers, TRL or ``lmlab.training.pretrain``, with or without an adapter. optimizer: after at least a
    step. checkpoint: a folder with the trained weights and the optimizer's state; its tensors are counted.
    seconds: of training. On a GPU the most memory that tensors had since ``forget_peak`` is in it.
    """
    import torch

    from lmlab.models.parameters import optimizer_bytes

    found = dict(_weight_bytes(model))
    if optimizer is not None:
        found["optimizer"] = optimizer_bytes(
            getattr(optimizer, "optimizer", optimizer)
        )  # accelerate wraps it
    if checkpoint is not None:
        found["checkpoint"] = stored_bytes(checkpoint)
    if seconds is not None:
        found["seconds"] = seconds
    if torch.cuda.is_available():
        found["peak memory"] = torch.cuda.max_memory_allocated()
    return found


def _weight_bytes(model) -> dict[str, int]:
    if not hasattr(model, "peft_config"):
        return {"weights": sum(p.nbytes for p in model.parameters())}
    from lmlab.models.parameters import weight_bytes

    sizes = weight_bytes(model)
    return {"weights": sizes["four_bit"] + sizes["constants"] + sizes["other"], "adapter": sizes["trainable"]}


def stored_bytes(folder: str | Path) -> int:
    """Bytes of the tensors in a checkpoint's folder: the weights', and those of the optimizer's state.

    Raises ValueError for a state that holds more than tensors and plain values: none of it is run.
    """
    import json

    import torch
    from torch.utils._pytree import tree_leaves

    total = 0
    for file in Path(folder).glob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        total += sum(
            entry["data_offsets"][1] - entry["data_offsets"][0]
            for name, entry in header.items()
            if name != "__metadata__"
        )
    for name in ("optimizer.pt", "trainer.pt"):
        if (Path(folder) / name).exists():
            state = load_state(Path(folder) / name)
            total += sum(t.nbytes for t in tree_leaves(state.get("optimizer", state)) if torch.is_tensor(t))
    return total


def compare(planned: Plan, measured: Mapping, name: str | None = None) -> Comparison:
    """Predicted and actual side by side. measured: from ``measure``. name: of the training, where there are
    several; by default the first. Raises ValueError for a training that is not in the plan.
    """
    name = name or next(iter(planned.forecasts))
    if name not in planned.forecasts:
        raise ValueError(f"compare got training {name!r}; the plan has {', '.join(planned.forecasts)}")
    made = planned.forecasts[name]
    predicted = dict(made.kept) | {"peak memory": made.peak}
    if made.hours is not None:
        predicted["seconds"] = 3600 * made.hours
    return Comparison(
        [Row(key, predicted[key], value) for key, value in measured.items() if key in predicted]
    )
