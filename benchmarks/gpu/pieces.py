"""The list of pieces, the most valuable first: which function, at which sizes, by which recipe, for how long.

``real`` are the sizes on a GPU, from the recipes; ``dry`` are tiny ones for a CPU.
"""

import hashlib
from dataclasses import dataclass

from lmlab.recipes import load_recipe

TRAINERS = ("bitsandbytes", "trl", "datasets")
STEPS, DRY_STEPS = {"steps": 15, "warm_up": 5}, {"steps": 4, "warm_up": 3}
LESSONS = {
    "02": "02_gpt2_from_scratch",
    "03": "03_hellaswag",
    "04": "04_shakespeare_full_finetune",
    "05": "05_llama_lora_4bit",
    "06": "06_deepseek_qlora_think",
    "09": "09_grpo_reasoning",
}


@dataclass(frozen=True)
class Piece:
    """One measurement, carried out in a process of its own."""

    name: str
    function: (
        str  # module in the folder gpu, and the function in it; or any other module that can be imported
    )
    real: dict
    dry: dict
    limit: int  # seconds, after which it is cut off: about three times what it should take on an H100
    needs: tuple[str, ...] = ()  # packages that the machine may lack

    def sizes(self, dry: bool) -> dict:
        """The sizes, with a hash of the recipe, so that a recipe that has changed is measured anew."""
        sizes = self.dry if dry else self.real
        if "lesson" not in sizes:
            return sizes
        cfg = load_recipe(sizes["lesson"], sizes["recipe"], **sizes["changes"])
        return sizes | {
            "recipe_hash": hashlib.sha256(repr(sorted(cfg.model_dump().items())).encode()).hexdigest()[:8]
        }


def by_recipe(lesson: str, recipe: str, changes: dict | None = None, **others) -> dict:
    """Sizes that follow from a recipe with some changes."""
    return {"lesson": LESSONS[lesson], "recipe": recipe, "changes": changes or {}, **others}


def lora(name: str, lesson: str, bits: int, **others) -> Piece:
    """An adapter by a lesson's gpu recipe; ``others`` are changes of it."""
    length = {"05": "block_size", "06": "max_length"}[lesson]
    tiny = {
        length: 64,
        "batch_size": 2,
        "activation_checkpointing": others.get("activation_checkpointing", True),
    }
    keep = {"keep": name == "qlora", "bits": bits}
    return Piece(
        name,
        "adapters:adapter",
        by_recipe(lesson, "gpu", others, **keep, **STEPS),
        by_recipe(lesson, "tiny", tiny, **keep, **DRY_STEPS),
        limit=90,
        needs=TRAINERS,
    )


def full(name: str, model: str, batch_size: int, checkpointing: bool) -> Piece:
    """Lesson 04; eight steps of 32 rows of 1,024 tokens."""
    real = {
        "model": model,
        "max_length": 1024,
        "batch_size": batch_size,
        "grad_accumulation": 32 // batch_size,
    }
    tiny = {"max_length": 32, "batch_size": 2, "grad_accumulation": 2, "study_sizes": [50]}
    return Piece(
        name,
        "full:full_fine_tuning",
        by_recipe("04", "gpu", real, checkpointing=checkpointing, steps=8, warm_up=3),
        by_recipe("04", "tiny", tiny, checkpointing=checkpointing, **DRY_STEPS),
        limit=90,
    )


def pretraining(name: str, function: str, recipe: str, limit: int, **changes) -> Piece:
    """Lesson 02 on tinyshakespeare where the data folder is given, else on stories."""
    real = {"eval_every": 1000, "checkpoint_every": 1000, "log_every": 5} | changes
    tiny = {
        "max_steps": 10,
        "warmup_steps": 2,
        "batch_size": 2,
        "grad_accumulation": 2,
        "block_size": 32,
        "n_layer": 2,
        "log_every": 5,
        "compile": False,
    }
    data = {"shard_tokens": 50_000, "stories": 12_000}
    return Piece(
        name,
        f"pretraining:{function}",
        by_recipe("02", recipe, real, **data),
        by_recipe("02", "tiny", tiny, shard_tokens=2000, stories=120),
        limit,
    )


def lesson(name: str) -> Piece:
    """``lmlab finetune`` by recipe tiny, and a small part of it."""
    tiny = {"n_train": 16, "n_validation": 8} | (
        {"block_size": 64} if name == "05" else {"n_eval": 8, "n_harder": 2}
    )
    return Piece(
        f"lesson {name}",
        "lessons:lesson",
        by_recipe(name, "tiny", in_band=True),
        by_recipe(name, "tiny", tiny, in_band=False),
        limit=120,
        needs=TRAINERS,
    )


SFT = {"activation_checkpointing": True}
PIECES = (
    lora("qlora", "06", 4),
    lora("qlora, nothing recomputed", "06", 4, activation_checkpointing=False),
    Piece(
        "qlora by SFTTrainer",
        "adapters:sft_trainer",
        by_recipe("06", "gpu", **STEPS),
        by_recipe("06", "tiny", {"max_length": 64, "batch_size": 2} | SFT, **DRY_STEPS),
        90,
        TRAINERS,
    ),
    # of the recipe's 32 micro-batches a step four, so that 100 steps are soon done
    pretraining(
        "pretraining", "pretraining", "gpu", 240, grad_accumulation=4, max_steps=100, warmup_steps=10
    ),
    lora("lora in 4 bits", "05", 4),
    lora("lora in 16 bits", "05", 16),
    full("full gpt2", "openai-community/gpt2", 4, checkpointing=False),
    full("full gpt2-medium", "openai-community/gpt2-medium", 2, checkpointing=True),
    Piece(
        "float16 adapter",
        "adapters:float16_adapter",
        by_recipe("06", "t4", bits=4, steps=20, warm_up=5),
        by_recipe("06", "tiny", {"max_length": 64, "batch_size": 2}, bits=4, **DRY_STEPS),
        90,
        TRAINERS,
    ),
    pretraining("float16 pretraining", "float16_pretraining", "t4", 90, max_steps=20, warmup_steps=10),
    Piece(
        "hellaswag",
        "scoring:hellaswag",
        by_recipe("03", "gpu", items=10_042, compared=50, in_bfloat16=10_042, seconds_wanted=3),
        by_recipe("03", "tiny", items=40, compared=10, in_bfloat16=4, seconds_wanted=3),
        120,
    ),
    Piece(
        "merge and GGUF",
        "export:merge_and_gguf",
        by_recipe("06", "gpu", way="dequantized base", positions=64, quantization="f16"),
        by_recipe("06", "tiny", way="dequantized base", positions=32, quantization="f16"),
        200,
        (*TRAINERS, "gguf"),
    ),
    Piece(
        "generation",
        "export:generation",
        by_recipe("06", "gpu", {"max_new_tokens": 128}),
        by_recipe("06", "tiny", {"max_new_tokens": 8, "eval_batch_size": 4}),
        90,
        TRAINERS,
    ),
    Piece(
        "grpo",
        "export:grpo",
        by_recipe("09", "gpu", {"max_new_tokens": 64, "grad_accumulation": 2, "max_steps": 5}),
        by_recipe("09", "tiny", {"max_new_tokens": 8, "batch_size": 8, "num_generations": 4, "max_steps": 4}),
        150,
        TRAINERS,
    ),
    Piece("marked tests", "lessons:marked_tests", {}, {}, 120, ("pytest",)),
    lesson("05"),
    lesson("06"),
)
