"""Recipes: every choice of a lesson as a typed, frozen, checked config.

They are read from recipes/<lesson>/<name>.yaml. A recipe holds choices (model, data, lengths, rates); what
follows from the machine comes from ``lmlab.hardware``.
"""

import dataclasses
import difflib
import html
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
RECIPES = Path(__file__).resolve().parent

Positive = typing.Annotated[int, "positive"]
PositiveFloat = typing.Annotated[float, "positive"]
Fraction = typing.Annotated[float, "fraction"]
Count = typing.Annotated[int, "zero or more"]
Rate = typing.Annotated[float, "zero or more"]
Schedule = typing.Annotated[str, "schedule"]  # of the learning rate, as transformers names it
Optimizer = typing.Annotated[str, "optimizer"]  # adamw_8bit keeps Adam's averages in a byte each
Order = typing.Annotated[str, "order"]  # of the training problems
Bands = dict[str, list]

_RULES = {
    "positive": (lambda v: v > 0, "a positive number"),
    "zero or more": (lambda v: v >= 0, "zero or a positive number"),
    "fraction": (lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    "schedule": (lambda v: v in ("linear", "cosine", "constant"), "linear, cosine or constant"),
    "order": (lambda v: v in ("shuffled", "easy_first"), "shuffled or easy_first"),
    "optimizer": (lambda v: v in ("adamw_torch", "adamw_8bit"), "adamw_torch or adamw_8bit"),
}
_WANTED = {
    int: "a whole number",
    float: "a number (write 1.0e-3, not 1e-3)",
    str: "text",
    bool: "true or false",
    list: "a list with at least one entry",
}


class RecipeError(ValueError):
    """A recipe or an override that cannot be used: says where, what was expected, what was got, the fix."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every lesson has. ``expected`` gives for a metric [low, high], null for an open side."""

    lesson: str
    name: str
    seed: Count = 0
    data_dir: str | None = None  # fills {data_dir} in the other values
    expected: Bands = field(default_factory=dict)

    def rows(self) -> list[tuple[str, object]]:
        return [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "expected"]

    def contradictions(self) -> list[str]:
        """What in the values cannot be together; a lesson that has such values says so."""
        return []

    def __str__(self) -> str:
        return "\n".join(f"{key:<22} {value}" for key, value in self.rows())

    def _repr_html_(self) -> str:
        rows = [f"<tr><td>{key}</td><td>{html.escape(str(value))}</td></tr>" for key, value in self.rows()]
        return f"<table>{''.join(rows)}</table>"


@dataclass(frozen=True, kw_only=True)
class DataAnalysis(Recipe):
    datasets: list[str]
    tokenizer: str
    max_lengths: list[int]
    small_pairs: str  # the two sets on which the verdict is given
    large_pairs: str
    near_duplicate_threshold: Fraction = 0.7
    limit: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class FromScratch(Recipe):
    data: str
    tokenizer: str
    n_docs: Positive | None = None
    shards_dir: str | None = None  # where tokens are kept; None: with the run
    shard_tokens: Positive = 100_000_000  # tokens in one file
    data_tokens: Positive | None = None  # of all the data, where it is known: for disk need and time left
    eval_docs: Positive = 250  # texts of validation in a miniworld
    validation_tokens: Positive = 10_000_000  # elsewhere, at most one shard
    hellaswag: str | None = None  # items that are scored at each evaluation
    hellaswag_items: Positive = 100
    n_layer: Positive
    n_head: Positive
    n_embd: Positive
    block_size: Positive
    dropout: Fraction = 0.0
    vocab_multiple: Positive = 1
    batch_size: Positive  # windows in one forward pass of one process
    grad_accumulation: Positive = 1  # forward passes in one step, over all processes
    max_steps: Positive
    learning_rate: PositiveFloat
    min_learning_rate: Rate = 0.0
    warmup_steps: Count = 0
    weight_decay: Rate = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    grad_clip: PositiveFloat = 1.0
    log_every: Positive = 10
    eval_every: Positive = 100
    checkpoint_every: Positive = 500
    keep_checkpoints: Positive | None = None  # the newest so many and the best; None: all
    compile: bool = False
    prompts: list[str]  # what the trained model is asked to continue

    def contradictions(self) -> list[str]:
        found = []
        if self.n_embd % self.n_head:
            found.append(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.min_learning_rate > self.learning_rate:
            found.append(
                f"min_learning_rate {self.min_learning_rate:g} is above learning_rate {self.learning_rate:g}"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class HellaSwag(Recipe):
    model: str
    data: str
    split: str = "validation"
    limit: Positive | None = None
    batch_tokens: Positive = 8192
    start_token: bool = False  # put EOS before every context, as documents began in pretraining


@dataclass(frozen=True, kw_only=True)
class FullFinetune(Recipe):
    model: str
    data: str
    small_data: str  # where it is the same as data, its first rows
    small_train: Positive = 220
    small_validation: Positive = 54
    n_train: Positive
    n_validation: Positive
    max_length: Positive  # tokens of prompt and answer together
    batch_size: Positive
    grad_accumulation: Positive = 1
    learning_rate: PositiveFloat
    epochs: Positive
    small_epochs: Positive
    small_schedule: Schedule = "linear"
    frozen_layers: Count = 0  # of the first blocks, and with them the embeddings; 0: every weight trains
    early_stopping_patience: Positive | None = None  # measurements without a new best; None: to the end
    load_best_model: bool = True  # keep the weights with the lowest validation loss, not the last
    checkpoint_every: Positive | None = 200  # steps; an interrupted run goes on from there. None: it cannot
    max_invalid_fraction: Fraction = 0.05  # of rows that cannot be used; more stop the run
    n_memorised: Positive = 100  # pairs of the memorisation test, seen and unseen
    study_sizes: list[Positive]  # pairs to train on, for the same number of steps
    study_steps: Positive
    sweep_rates: list[PositiveFloat] = field(
        default_factory=lambda: [1e-4, 2.3e-4, 5.5e-4, 1.3e-3, 3e-3, 7e-3]
    )
    sweep_steps: Positive
    other_data: str  # text that has no part in the training, to see what is forgotten
    hellaswag: str  # items, for the same purpose
    hellaswag_items: Positive = 200
    prompts: list[str]
    max_new_tokens: Positive = 50
    temperature: PositiveFloat = 0.7
    top_p: Fraction = 0.9
    repetition_penalty: PositiveFloat = 1.1
    style_model: str  # part B: plain text in windows, at a constant rate
    style_data: str
    style_steps: Positive = 20
    style_block_size: Positive = 1024  # tokens in one window
    style_batch_size: Positive = 1
    style_grad_accumulation: Positive = 32
    style_learning_rate: PositiveFloat = 3e-5
    style_optimizer: Optimizer = "adamw_torch"
    style_checkpointing: bool = False  # recompute activations: less memory, a third more time
    style_prompt: str = "\n"

    def contradictions(self) -> list[str]:
        largest, there = max(self.study_sizes), self.n_train
        visits = self.study_steps * self.batch_size * self.grad_accumulation
        found = [f"study_sizes has {largest}, more than n_train {there}"] if largest > there else []
        return found + (
            [f"study_sizes has {largest}, and study_steps {self.study_steps} visit {visits} pairs"]
            if largest > visits
            else []
        )


@dataclass(frozen=True, kw_only=True)
class LoraFinetune(Recipe):
    model: str
    data: str
    lora_r: Positive
    lora_alpha: Positive
    lora_dropout: Fraction = 0.05
    target_modules: list[str] | str  # names of layers, or "all-linear"
    block_size: Positive
    batch_size: Positive
    grad_accumulation: Positive = 1
    activation_checkpointing: bool = False  # recompute activations: less memory, a third more time
    epochs: Positive = 3
    learning_rate: PositiveFloat
    evaluations: Positive = 4  # in the course of training, evenly
    checkpoint_every: Positive | None = 200  # steps; an interrupted run goes on from there. None: it cannot
    study_steps: Positive = 10  # of each short run that compares ranks, alphas, targets and dropouts
    n_train: Positive | None = None
    n_validation: Positive | None = None
    max_new_tokens: Positive = 40


@dataclass(frozen=True, kw_only=True)
class ReasoningFinetune(Recipe):
    model: str
    data: list[str]
    n_rows: Positive | None = None  # read of each source; None: all. A miniworld draws as many as are needed
    n_train: Positive | None = (
        None  # problems to train on, without the redrawn ones; None: all that there are
    )
    n_validation: Positive  # choose the best model
    n_eval: Positive  # measure it
    n_harder: Count = 0  # measure it on problems that are harder than those of the training
    trained_steps: Positive | None = None  # steps of the hardest problem to train on; None: none is too hard
    near_duplicate: Fraction | None = None  # questions more alike than this stay on one side of the split
    max_invalid_fraction: Fraction = 0.05  # of rows that cannot be used; more stop the run
    redrawn: Count = 0  # versions of each training problem with other numbers
    order: Order = "shuffled"
    lora_r: Positive
    lora_alpha: Positive
    lora_dropout: Fraction = 0.0
    target_modules: list[str] | str  # names of layers, or "all-linear"
    max_length: Positive  # tokens; longer conversations are left out
    packing: bool = False  # several conversations in one row of max_length
    batch_size: Positive
    grad_accumulation: Positive = 1
    activation_checkpointing: bool = False  # recompute activations: less memory, a third more time
    epochs: Positive = 3
    learning_rate: PositiveFloat
    evaluations: Positive = 4  # in the course of training, evenly; each leaves a checkpoint
    max_new_tokens: Positive
    eval_batch_size: Positive = 64
    answer_tolerance: Fraction = 0.0  # relative; SciBench's is 0.05
    votes: Positive = 5  # samples of each problem for the majority vote
    n_votes: Positive = 50  # problems that are voted on
    temperature: PositiveFloat = 0.6  # of the samples

    def contradictions(self) -> list[str]:
        packed = self.packing and self.order == "easy_first"
        found = ["packing sorts by length, and order is easy_first"] if packed else []
        if self.evaluations < 2:
            found.append("evaluations is 1, and the best of one model is no choice")
        if self.n_harder and self.trained_steps is None:
            found.append(f"n_harder is {self.n_harder}, and trained_steps does not say what is harder")
        return found


@dataclass(frozen=True, kw_only=True)
class MergeExport(Recipe):
    model: str  # of the small adapter that is trained when there is none to merge
    data: str  # and its texts; adapters of 05 and 06 come with their own
    lora_r: Positive = 8
    lora_alpha: Positive = 32
    warm_up_steps: Positive = 20
    learning_rate: PositiveFloat = 2e-3
    n_eval: Positive = 40
    n_compared: Positive = 8  # of the texts, whose logits are kept and compared
    n_problems: Positive = 40  # that are answered, where the adapter is lesson 06's
    max_length: Positive = 256  # tokens of a text that is read
    max_new_tokens: Positive = 24
    answer_tokens: Positive = 64  # at most, of an answer to a problem
    quantizations: list[str] = field(
        default_factory=lambda: ["f16", "q8_0", "q5_0", "q4_0"]
    )  # with the first
    keep_quantization: str = "q8_0"  # of the GGUF file that stays
    proof_dtypes: list[str] = field(
        default_factory=lambda: ["float32", "float16", "bfloat16"]
    )  # that are proved
    push_to_hub: bool = False  # upload the merged folders; without it, only say what would be sent
    hub_owner: str | None = None  # whose repositories they are

    def contradictions(self) -> list[str]:
        wrong = (
            ["push_to_hub is true, and hub_owner names nobody"]
            if self.push_to_hub and not self.hub_owner
            else []
        )
        if "float32" not in self.proof_dtypes or set(self.proof_dtypes) - {"float32", "float16", "bfloat16"}:
            wrong.append(f"proof_dtypes has {self.proof_dtypes}: float32, and maybe float16 and bfloat16")
        return wrong


@dataclass(frozen=True, kw_only=True)
class FantasyLocations(Recipe):
    model: str  # where lesson 02 has left none
    data: str
    n_train: Positive
    n_validation: Positive
    near_duplicate: Fraction = 0.6  # texts more alike than this stay on one side of the split
    other_data: str  # text that has no part in the training, to see what is forgotten
    n_other: Positive = 100
    block_size: Positive  # a window; at most the model's context
    batch_size: Positive
    grad_accumulation: Positive = 1
    learning_rates: list[PositiveFloat]  # the candidates of the search
    search_epochs: Positive = 1  # of each candidate
    epochs: Positive = 7
    warmup_steps: Count = 0
    weight_decay: Rate = 0.1
    beta2: Fraction = 0.99
    grad_clip: PositiveFloat = 1.0
    log_every: Positive = 10
    keep_checkpoints: Positive | None = None  # the newest so many and the best; None: all
    n_samples: Positive
    max_new_tokens: Positive = 300
    temperature: PositiveFloat = 0.9
    top_k: Positive = 50


@dataclass(frozen=True, kw_only=True)
class RewardFinetune(Recipe):
    model: str  # where lesson 06 has left no adapter
    data: str  # problems to learn from, and held-out ones of the same kind
    other_data: str  # problems that have no part in the training, to see what is forgotten
    n_train: Positive
    n_eval: Positive
    n_other: Positive = 100
    n_probe: Positive = 60  # held-out problems that are answered num_generations times each
    max_invalid_fraction: Fraction = 0.05  # of rows that cannot be used; more stop the run
    answer_tolerance: Fraction = 0.0  # relative; SciBench's is 0.05
    lora_r: Positive  # of the adapter that is made where lesson 06 has left none
    lora_alpha: Positive
    form_problems: Count = 0  # on which that adapter learns the form; 0: the model knows it
    form_learning_rate: PositiveFloat = 4e-3
    num_generations: Positive = 8  # answers to one problem: a group
    batch_size: Positive  # answers in one forward pass
    grad_accumulation: Positive = 1
    activation_checkpointing: bool = False  # recompute activations: less memory, a third more time
    max_steps: Positive
    learning_rate: PositiveFloat
    temperature: PositiveFloat = 1.0
    beta: Rate = 0.0  # weight of the distance to the model as it was; 0: none is kept
    form_weight: Rate = 0.1  # of the reward for the form; that of a right answer is 1
    max_new_tokens: Positive
    eval_batch_size: Positive = 64

    @property
    def answers_per_step(self) -> int:
        return self.batch_size * self.grad_accumulation

    def contradictions(self) -> list[str]:
        found = []
        if self.num_generations < 2:
            found.append(
                "num_generations is 1, and an answer alone is neither better nor worse than its group"
            )
        elif self.answers_per_step % self.num_generations:
            found.append(
                f"batch_size x grad_accumulation is {self.answers_per_step}, "
                f"not a multiple of num_generations {self.num_generations}"
            )
        if self.n_probe > self.n_eval:
            found.append(f"n_probe is {self.n_probe}, more than n_eval {self.n_eval}")
        return found


LESSONS: dict[str, type[Recipe]] = {
    "01_data_analysis": DataAnalysis,
    "02_gpt2_from_scratch": FromScratch,
    "03_hellaswag": HellaSwag,
    "04_shakespeare_full_finetune": FullFinetune,
    "05_llama_lora_4bit": LoraFinetune,
    "06_deepseek_qlora_think": ReasoningFinetune,
    "07_merge_export": MergeExport,
    "08_fantasy_locations": FantasyLocations,
    "09_grpo_reasoning": RewardFinetune,
}


def load_recipe(lesson: str, name: str = "tiny", **overrides) -> Recipe:
    """The config of ``lesson`` from recipe ``name``, with single values replaced by ``overrides``.

    Raises RecipeError for an unknown lesson, recipe or key, a value of the wrong type, an impossible value.
    """
    import yaml

    cls = _known(lesson, LESSONS, "lesson")
    path = RECIPES / lesson / f"{_known(name, list_recipes(lesson), f'recipe of {lesson}')}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected keys and values, got {type(values).__name__}")
    values = _with_like(values, lesson, path)
    origin = dict.fromkeys(values, str(path)) | dict.fromkeys(overrides, "override")
    return _build(cls, {**values, **overrides}, origin, lesson, name, path)


def _with_like(values: dict, lesson: str, path: Path) -> dict:
    """The values of a recipe that says ``like: other``: those of the other recipe, then its own."""
    import yaml

    values = dict(values)
    like = values.pop("like", None)
    if like is None:
        return values
    other = RECIPES / lesson / f"{_known(like, list_recipes(lesson), f'recipe of {lesson}', str(path))}.yaml"
    base = yaml.safe_load(other.read_text(encoding="utf-8"))
    if "like" in base:
        raise RecipeError(f"{path}: like got {like!r}, which is like {base['like']!r} itself; name that one")
    return {**base, **values}


def list_recipes(lesson: str) -> list[str]:
    """Names of the recipes of one lesson, ``tiny`` first."""
    if not RECIPES.is_dir():
        raise RecipeError(f"{RECIPES} is missing; install lmlab from a clone: pip install -e .")
    names = sorted(p.stem for p in (RECIPES / lesson).glob("*.yaml"))
    return sorted(names, key=lambda n: n != "tiny")


def find_lesson(text: str) -> str:
    """The full name of a lesson from its number ("05") or name. Raises RecipeError for another."""
    for lesson in LESSONS:
        if text in (lesson, lesson[:2]):
            return lesson
    return _known(text, LESSONS, "lesson, by name or number")


def _build(cls, values: dict, origin: dict, lesson: str, name: str, path: Path) -> Recipe:
    hints = typing.get_type_hints(cls, include_extras=True)
    allowed = [f.name for f in dataclasses.fields(cls) if f.name not in ("lesson", "name")]
    for key in values:
        _known(key, allowed, f"key of {cls.__name__}", where=origin[key])
    checked = {key: _check(value, hints[key], key, origin[key]) for key, value in values.items()}
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name in allowed
        and f.name not in checked
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{path}: {cls.__name__} needs {', '.join(missing)}; add them")
    filled = {key: _fill(value, checked.get("data_dir"), key, path) for key, value in checked.items()}
    cfg = cls(lesson=lesson, name=name, **filled)
    if cfg.contradictions():
        raise RecipeError(
            f"{path}{' with overrides' if 'override' in origin.values() else ''}: "
            f"{'; '.join(cfg.contradictions())}; change one of the two"
        )
    return cfg


def _known(got, known, what: str, where: str = ""):
    if got in known:
        return known[got] if isinstance(known, dict) else got
    near = difflib.get_close_matches(str(got), list(known), n=1, cutoff=0.4)
    nearest = f"; did you mean {near[0]!r}?" if near else ""
    raise RecipeError(
        f"{where + ': ' if where else ''}got {got!r}, expected a {what}: "
        f"{', '.join(map(str, known))}{nearest}"
    )


def _check(value, hint, key: str, where: str):
    """``value`` as ``hint`` wants it (an int where a float is due becomes one), or a RecipeError."""

    def refuse(expected: str):
        raise RecipeError(f"{where}: {key}: expected {expected}, got {value!r} ({type(value).__name__})")

    if typing.get_origin(hint) is typing.Annotated:
        base, rule = typing.get_args(hint)
        checked = _check(value, base, key, where)
        holds, wanted = _RULES[rule]
        return checked if holds(checked) else refuse(wanted)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _check_union(value, hint, key, where, refuse)
    if typing.get_origin(hint) is list:
        if not isinstance(value, list | tuple) or not value:
            refuse(_WANTED[list])
        return [_check(item, typing.get_args(hint)[0], key, where) for item in value]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(hint) is dict:
        return value if _are_bands(value) else refuse("metric: [low, high] with null for an open side")
    if type(value) is not hint:
        refuse(_WANTED[hint])
    if hint is float and not math.isfinite(value):
        refuse("a finite number")
    return value


def _are_bands(value) -> bool:
    return isinstance(value, dict) and all(
        isinstance(band, list)
        and len(band) == 2
        and all(side is None or type(side) in (int, float) for side in band)
        and (None in band or band[0] <= band[1])
        for band in value.values()
    )


def _check_union(value, hint, key, where, refuse):
    options = typing.get_args(hint)
    if value is None and types.NoneType in options:
        return None
    for option in (o for o in options if o is not types.NoneType):
        try:
            return _check(value, option, key, where)
        except RecipeError as error:
            last = error
    if len(options) == 2 and types.NoneType in options:
        raise last
    refuse(" or ".join(_WANTED[typing.get_origin(o) or o] for o in options))
    return None


def _fill(value, data_dir: str | None, key: str, path: Path):
    if isinstance(value, list):
        return [_fill(item, data_dir, key, path) for item in value]
    if not isinstance(value, str) or "{data_dir}" not in value:
        return value
    if data_dir is None:
        raise RecipeError(f"{path}: {key} is {value!r} and needs data_dir; give it: --set data_dir=FOLDER")
    return value.replace("{data_dir}", str(Path(data_dir).expanduser()))


def parse_setting(text: str) -> tuple[str, object]:
    """``key=value`` with the value as YAML has it, save that 1e-3 is a number and a path becomes absolute.

    Raises ValueError for another form, and for a data_dir that is no folder.
    """
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ValueError(f"--set got {text!r}; expected key=value, as in --set learning_rate=1e-3")
    try:
        settled = _settled(yaml.safe_load(value))
    except yaml.YAMLError:
        settled = value
    if key != "data_dir" or not isinstance(settled, str):
        return key, settled
    folder = Path(settled).resolve()
    if not folder.is_dir():
        raise ValueError(f"--set data_dir got {value!r}, expected a folder; there is no folder {folder}")
    return key, str(folder)


def _settled(value):
    """YAML 1.1 takes 1e-3 for text; and notebooks run in another folder, so a relative path would be lost."""
    if isinstance(value, list):
        return [_settled(item) for item in value]
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    path = Path(value).expanduser()
    is_path = value.startswith((".", "~")) or (("/" in value or path.suffix) and path.exists())
    return str(path.resolve()) if is_path else value
