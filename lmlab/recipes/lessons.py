"""The typed config of each lesson: which values a recipe may set, their types, units and defaults."""

import html
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from lmlab.recipes.types import (
    AtLeastTwo,
    Band,
    Dtype,
    Fraction,
    LearningRates,
    NonNegativeNumber,
    Optimizer,
    Order,
    PositiveNumber,
    Schedule,
    Source,
    Sources,
    Texts,
)


class Recipe(BaseModel):
    """What every lesson has. A recipe holds choices; what follows from the machine is in lmlab.hardware."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    lesson: str
    name: str
    seed: NonNegativeInt = 0
    data_dir: Source | None = None  # fills {data_dir} in the other values
    expected: dict[str, Band] = {}  # metric: [low, high] of this recipe's own run, null for an open side

    @classmethod
    def settable_keys(cls) -> list[str]:
        """What a recipe's file may set; lesson and name follow from where it lies."""
        return [key for key in cls.model_fields if key not in ("lesson", "name")]

    def rows(self) -> list[tuple[str, object]]:
        """(key, value) of every choice; the expected bands are none."""
        return [(key, value) for key, value in self if key != "expected"]

    def __str__(self) -> str:
        return "\n".join(f"{key:<22} {value}" for key, value in self.rows())

    def _repr_html_(self) -> str:
        rows = [f"<tr><td>{key}</td><td>{html.escape(str(value))}</td></tr>" for key, value in self.rows()]
        return f"<table>{''.join(rows)}</table>"


class DataAnalysis(Recipe):
    """Lesson 01."""

    datasets: Sources
    tokenizer: Source
    max_lengths: list[PositiveInt]
    small_pairs: Source  # the two sets that are compared at the end
    large_pairs: Source
    limit: PositiveInt | None = None  # rows read of each set


class FromScratch(Recipe):
    """Lesson 02."""

    data: Source
    tokenizer: Source
    n_docs: PositiveInt | None = None
    shards_dir: Source | None = None  # where token shards are kept; None: with the run
    shard_tokens: PositiveInt = 100_000_000  # tokens in one shard
    data_tokens: PositiveInt | None = None  # in all the data, where known: for disk and time estimates
    eval_docs: PositiveInt = 250  # validation texts of a miniworld set
    validation_tokens: PositiveInt = 10_000_000  # of other data; at most one shard
    hellaswag: Source | None = None  # items scored at each evaluation step
    hellaswag_items: PositiveInt = 100
    n_layer: PositiveInt
    n_head: PositiveInt
    n_embd: PositiveInt
    block_size: PositiveInt  # tokens
    dropout: Fraction = 0.0
    vocab_multiple: PositiveInt = 1  # the vocabulary is padded to a multiple of it
    batch_size: PositiveInt  # blocks in one forward pass of one process
    grad_accumulation: PositiveInt = 1  # forward passes in one step, over all processes
    max_steps: PositiveInt
    learning_rate: PositiveNumber
    min_learning_rate: NonNegativeNumber = 0.0
    warmup_steps: NonNegativeInt = 0
    beta2: Fraction = 0.95
    log_every: PositiveInt = 10  # steps
    eval_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: PositiveInt | None = None  # the newest so many and the best; None: all
    compile: bool = False
    prompts: Texts  # that the trained model continues

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "FromScratch":
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        return self


class HellaSwag(Recipe):
    """Lesson 03."""

    model: Source
    data: Source
    split: str = "validation"
    limit: PositiveInt | None = None  # items
    batch_tokens: PositiveInt = 8192
    start_token: bool = False  # EOS before every context, as documents began in pretraining


class FullFinetune(Recipe):
    """Lesson 04."""

    model: Source
    data: Source
    small_data: Source  # where it is the same as data, its first rows
    small_train: PositiveInt = 220
    small_validation: PositiveInt = 54
    n_train: PositiveInt
    n_validation: PositiveInt
    max_length: PositiveInt  # tokens of prompt and answer together
    batch_size: PositiveInt
    grad_accumulation: PositiveInt = 1
    learning_rate: PositiveNumber
    epochs: PositiveInt
    small_epochs: PositiveInt
    small_schedule: Schedule = "linear"
    frozen_layers: NonNegativeInt = 0  # of the first blocks, with the embeddings; 0: every weight trains
    early_stopping_patience: PositiveInt | None = None  # evaluations without a new best; None: to the end
    load_best_model: bool = True  # keep the weights with the lowest validation loss, not the last
    evaluations: AtLeastTwo = 6  # during training, evenly spaced; each leaves a checkpoint
    max_invalid_fraction: Fraction = 0.05  # of rows that cannot be used; more stop the run
    n_memorized: PositiveInt = 100  # pairs of the memorization test, seen and unseen
    study_sizes: list[PositiveInt]  # pairs to train on, for the same number of steps
    study_steps: PositiveInt
    sweep_learning_rates: LearningRates = [1e-4, 2.3e-4, 5.5e-4, 1.3e-3, 3e-3, 7e-3]
    sweep_steps: PositiveInt
    other_data: Source  # text that has no part in the training, to measure forgetting
    hellaswag: Source  # items, for the same purpose
    prompts: Texts
    max_new_tokens: PositiveInt = 50
    temperature: PositiveNumber = 0.7
    top_p: Fraction = 0.9
    repetition_penalty: PositiveNumber = 1.1

    @model_validator(mode="after")
    def _enough_pairs(self) -> "FullFinetune":
        largest = max(self.study_sizes)
        visits = self.study_steps * self.batch_size * self.grad_accumulation
        if largest > self.n_train:
            raise ValueError(f"study_sizes has {largest}, more than n_train {self.n_train}")
        if largest > visits:
            raise ValueError(f"study_sizes has {largest}, and study_steps visit {visits} pairs")
        return self


class AdapterRecipe(Recipe):
    """What lessons 00, 05, 06 and 09 share: a LoRA adapter that trains beside frozen weights."""

    model: Source
    lora_r: PositiveInt
    lora_alpha: PositiveInt
    batch_size: PositiveInt  # sequences in one forward pass
    grad_accumulation: PositiveInt = 1
    activation_checkpointing: bool = False  # recompute activations: less memory, a third more time
    learning_rate: PositiveNumber
    max_new_tokens: PositiveInt


class AdapterFinetune(AdapterRecipe):
    """What lessons 00, 05 and 06 share: supervised fine-tuning over epochs, evaluated on the way."""

    lora_dropout: Fraction = 0.0
    target_modules: Texts | str  # names of layers, or "all-linear"
    epochs: PositiveInt = 3
    evaluations: AtLeastTwo = 4  # during training, evenly spaced; each leaves a checkpoint
    n_train: PositiveInt | None = None  # examples of the source; None: all that there are


class InstructionFinetune(AdapterFinetune):
    """Lesson 00."""

    data: Source  # pairs of a prompt and a response, or conversations
    prompt_column: str | None = None  # of the pairs; None: the usual names are looked for
    response_column: str | None = None
    max_invalid_fraction: Fraction = 0.05  # of rows that cannot be used; more stop the run
    n_validation: PositiveInt = 200  # conversations held out, at most a fifth of them
    max_length: PositiveInt  # tokens of prompt and answer together; longer ones are left out
    n_samples: PositiveInt = 20  # held-out prompts that are answered before and after
    quantization: str = "q8_0"  # of the GGUF file


class LoraFinetune(AdapterFinetune):
    """Lesson 05."""

    data: Source
    lora_dropout: Fraction = 0.05
    block_size: PositiveInt  # tokens
    # of a run that compares a rank, alpha, target or dropout with the recipe's
    study_steps: PositiveInt = 100
    n_validation: PositiveInt | None = None
    max_new_tokens: PositiveInt = 40


class ReasoningFinetune(AdapterFinetune):
    """Lesson 06. ``n_train`` counts problems before augmentation."""

    data: Sources
    n_rows: PositiveInt | None = None  # read of each source; None: all. A miniworld makes as many as needed
    n_validation: PositiveInt  # problems that choose the best model
    n_eval: PositiveInt  # problems that measure it
    n_harder: NonNegativeInt = 0  # measure it also on problems harder than those of the training
    trained_steps: PositiveInt | None = None  # steps of the hardest problem to train on; None: no limit
    near_duplicate: Fraction | None = None  # questions more similar than this stay on one side of the split
    max_invalid_fraction: Fraction = 0.05  # of rows that cannot be used; more stop the run
    augmented_copies: NonNegativeInt = 0  # copies of each training problem with resampled numbers
    order: Order = "shuffled"
    max_length: PositiveInt  # tokens; longer conversations are left out
    packing: bool = False  # several conversations in one sequence of max_length
    eval_batch_size: PositiveInt = 64
    answer_tolerance: Fraction = 0.0  # relative; SciBench's is 0.05
    votes: PositiveInt = 5  # samples of each problem for the majority vote
    n_votes: PositiveInt = 50  # problems that are voted on
    temperature: PositiveNumber = 0.6  # of the samples

    @model_validator(mode="after")
    def _training_makes_sense(self) -> "ReasoningFinetune":
        if self.packing and self.order == "curriculum":
            raise ValueError("packing sorts by length, and order is curriculum")
        if self.n_harder and self.trained_steps is None:
            raise ValueError(f"n_harder is {self.n_harder}, and trained_steps does not say what is harder")
        return self


class MergeExport(Recipe):
    """Lesson 07."""

    model: Source  # of the small adapter that is trained when there is none to merge
    data: Source  # and its texts; adapters of 05 and 06 come with their own
    lora_r: PositiveInt = 8
    lora_alpha: PositiveInt = 32
    warm_up_steps: PositiveInt = 20
    learning_rate: PositiveNumber = 2e-3
    n_eval: PositiveInt = 40
    n_compared: PositiveInt = 8  # texts whose logits are kept and compared
    n_problems: PositiveInt = 40  # that are answered, where the adapter is lesson 06's
    max_length: PositiveInt = 256  # tokens of a text that is read
    max_new_tokens: PositiveInt = 24
    answer_tokens: PositiveInt = 64  # at most, of an answer to a problem
    quantizations: Texts = ["f16", "q8_0", "q5_0", "q4_0"]  # compared with the first
    keep_quantization: str = "q8_0"  # of the GGUF file that stays
    proof_dtypes: list[Dtype] = ["float32", "float16", "bfloat16"]
    push_to_hub: bool = False  # upload the merged folders; without it, only say what would be sent
    hub_owner: str | None = None  # whose repositories they are

    @model_validator(mode="after")
    def _owner(self) -> "MergeExport":
        if self.push_to_hub and not self.hub_owner:
            raise ValueError("push_to_hub is true, and hub_owner names nobody")
        return self


class FantasyLocations(Recipe):
    """Lesson 08."""

    model: Source  # where lesson 02 has left none
    data: Source
    n_train: PositiveInt
    n_validation: PositiveInt
    near_duplicate: Fraction = 0.6  # texts more similar than this stay on one side of the split
    other_data: Source  # text that has no part in the training, to measure forgetting
    n_other: PositiveInt = 100
    block_size: PositiveInt  # tokens; at most the model's context
    batch_size: PositiveInt
    grad_accumulation: PositiveInt = 1
    learning_rates: LearningRates  # the candidates of the search
    search_epochs: PositiveInt = 1  # of each candidate
    epochs: PositiveInt = 7
    warmup_steps: NonNegativeInt = 0
    beta2: Fraction = 0.99
    keep_checkpoints: PositiveInt | None = None  # the newest so many and the best; None: all
    n_samples: PositiveInt
    max_new_tokens: PositiveInt = 300
    temperature: PositiveNumber = 0.9


class RewardFinetune(AdapterRecipe):
    """Lesson 09. ``model`` and the adapter's sizes count where lesson 06 has left no adapter."""

    data: Source  # problems to learn from, and held-out ones of the same kind
    other_data: (
        Source  # older problems, which measure forgetting; with mix_fraction some are trained on as well
    )
    other_steps: PositiveInt | None = None  # steps of the hardest of them; None: no limit
    n_train: PositiveInt
    mix_fraction: Fraction = 0.0  # of the training problems, that come from other_data, against forgetting
    n_eval: PositiveInt
    n_other: PositiveInt = 100
    n_probe: PositiveInt = 60  # held-out problems that are answered num_generations times each
    max_invalid_fraction: Fraction = 0.05  # of rows that cannot be used; more stop the run
    answer_tolerance: Fraction = 0.0  # relative; SciBench's is 0.05
    format_problems: NonNegativeInt = 0  # on which that adapter learns the format; 0: the model knows it
    # answers to one problem: a group, in which an answer alone is neither better nor worse than the others
    num_generations: AtLeastTwo = 8
    max_steps: PositiveInt
    temperature: PositiveNumber = 1.0
    beta: NonNegativeNumber = 0.0  # of the KL penalty to the reference model; 0: none is kept
    format_weight: NonNegativeNumber = 0.1  # of the format reward; the accuracy reward has 1
    eval_batch_size: PositiveInt = 64

    @property
    def answers_per_step(self) -> int:
        """Sampled answers in one optimizer step; TRL refuses what is no multiple of ``num_generations``."""
        return self.batch_size * self.grad_accumulation

    @model_validator(mode="after")
    def _enough_problems(self) -> "RewardFinetune":
        if self.n_probe > self.n_eval:
            raise ValueError(f"n_probe is {self.n_probe}, more than n_eval {self.n_eval}")
        return self


class AttentionHeads(Recipe):
    """Lesson 10."""

    model: Source  # where lesson 02 has left none; one from the hub is taken as it is
    data: Source
    n_texts: AtLeastTwo  # the first half chooses heads, the second measures them
    max_length: PositiveInt  # tokens of a text that are read
    batch_size: PositiveInt  # texts in one forward pass
    n_controls: PositiveInt  # other heads that are ablated for comparison, at most
    reasoning_model: Source  # where lesson 06 has left no adapter
    problems: Source
    problems_split: str = "validation"
    n_problems: PositiveInt
    max_invalid_fraction: Fraction = 0.05  # of rows that cannot be used; more stop the run
    answer_batch_size: PositiveInt = 60


class ModelSize(BaseModel):
    """One of the models that lesson 11 compares: a published one, or the shape of a new one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    model: Source | None = None  # None: a new GPT-2 of the shape below, pretrained in the lesson
    n_layer: PositiveInt | None = None
    n_head: PositiveInt | None = None
    n_embd: PositiveInt | None = None
    batch_size: PositiveInt  # blocks in one forward pass: what fits
    optimizer: Optimizer = "adamw_torch"
    activation_checkpointing: bool = False  # recompute activations: less memory, a third more time

    @property
    def is_new(self) -> bool:
        """Whether it has a shape alone, and no weights yet."""
        return self.model is None

    @model_validator(mode="after")
    def _model_or_shape(self) -> "ModelSize":
        shape = (self.n_layer, self.n_head, self.n_embd)
        if self.is_new and None in shape:
            raise ValueError(f"size {self.name} has neither a model nor all of n_layer, n_head and n_embd")
        if not self.is_new and shape != (None, None, None):
            raise ValueError(
                f"size {self.name} has a model, whose shape is known: leave n_layer and others out"
            )
        return self


class StyleSizes(Recipe):
    """Lesson 11."""

    sizes: Annotated[list[ModelSize], Field(min_length=2)]  # from small to large
    tokenizer: Source
    data: Source  # text in the style to learn
    plain_data: Sources  # text in another style: to pretrain new models on, and to measure forgetting
    n_plain: PositiveInt = 3000  # texts that new models are pretrained on, once
    n_plain_eval: PositiveInt = 60
    pretraining_learning_rate: PositiveNumber = 1e-3  # of new models, all the same
    block_size: PositiveInt  # tokens
    blocks_per_step: PositiveInt  # of every size, by gradient accumulation
    max_steps: PositiveInt
    warmup_steps: NonNegativeInt = 5
    search_steps: PositiveInt
    learning_rates: LearningRates  # the candidates of the search, the same for each size
    n_eval: PositiveInt = 60  # held-out texts; half of them choose the learning rate, half measure
    prompt: str
    n_samples: PositiveInt = 12
    max_new_tokens: PositiveInt = 100
    temperature: PositiveNumber = 0.8

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> "StyleSizes":
        for size in self.sizes:
            if self.blocks_per_step % size.batch_size:
                raise ValueError(
                    f"blocks_per_step {self.blocks_per_step} is not a multiple of {size.name}'s batch_size "
                    f"{size.batch_size}"
                )
        if len({size.name for size in self.sizes}) < len(self.sizes):
            raise ValueError("two sizes have the same name")
        return self


LESSONS: dict[str, type[Recipe]] = {
    "00_start_here": InstructionFinetune,
    "01_data_analysis": DataAnalysis,
    "02_gpt2_from_scratch": FromScratch,
    "03_hellaswag": HellaSwag,
    "04_shakespeare_full_finetune": FullFinetune,
    "05_llama_lora_4bit": LoraFinetune,
    "06_deepseek_qlora_think": ReasoningFinetune,
    "07_merge_export": MergeExport,
    "08_fantasy_locations": FantasyLocations,
    "09_grpo_reasoning": RewardFinetune,
    "10_attention_heads": AttentionHeads,
    "11_style_gpt2_sizes": StyleSizes,
}
