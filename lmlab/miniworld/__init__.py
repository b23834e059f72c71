"""The miniworld: a small generated world that gives every lesson its data, and tiny models pretrained on it.

``dataset(name, split)`` gives rows in the schema of the real dataset that ``name`` stands in for.
``model_dir(name)`` gives the folder of a shipped base, in the hub's layout.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lmlab.miniworld import (
    encyclopedia,
    fantasy,
    flawed_pairs,
    hellaswag,
    plays,
    problems,
    shakespeare,
    stories,
)
from lmlab.miniworld.grammar import Sampler, stream
from lmlab.miniworld.splits import distinct_rows

MODELS = Path(__file__).parent / "models"
BASES = ("gpt2", "llama", "qwen2")  # the architectures of lessons 02 and 04, 05, 06
SPLITS = ("train", "validation")


def _texts(generate: Callable[[Sampler], str], name: str, split: str, n: int, seed: int) -> list[dict]:
    random_numbers = stream(name, split, seed)
    rows = []
    for _ in range(n):
        rng = Sampler(random_numbers)  # a new one for each text: its log-probability begins at 0
        rows.append({"text": generate(rng), "logprob": rng.logprob})
    return rows


def _encyclopedia(name: str, split: str, n: int, seed: int) -> list[dict]:
    rows = _texts(encyclopedia.entry, name, split, n, seed)
    # an entry begins with its title, " = Loaf = "
    return [{"title": row["text"].split("=")[1].strip(), **row} for row in rows]


def _distinct(
    generate: Callable[[Sampler], dict], key: str, name: str, split: str, n: int, seed: int
) -> list[dict]:
    return distinct_rows(generate, key, n, Sampler(stream(name, split, seed)), split)


def _science(name: str, split: str, n: int, seed: int) -> list[dict]:
    rows = _distinct(problems.science, "problem_text", name, split, n, seed)
    # SciBench's ids are unique within a book, these within a split
    return [{**row, "problemid": f"{split}-{i}"} for i, row in enumerate(rows)]


# name -> (function of name, split, n and seed that gives rows, default numbers of train and validation rows)
# the numbers are small enough to be made in seconds, and large enough for the effects that the lessons
# measure
_SETS = {
    "stories": (partial(_texts, stories.story), 24_000, 500),
    "encyclopedia": (_encyclopedia, 2_000, 200),
    "hellaswag": (hellaswag.rows, 1_000, 400),
    "pairs": (partial(_distinct, shakespeare.pair, "modern"), 4_000, 400),
    "pairs-274": (flawed_pairs.rows, 220, 54),
    "plays": (plays.rows, 600, 60),
    "problems": (partial(_distinct, problems.problem, "problem"), 4_000, 400),
    "harder-problems": (partial(_distinct, problems.harder_problem, "problem"), 1_000, 200),
    "multi-step-problems": (partial(_distinct, problems.multi_step_problem, "problem"), 2_000, 500),
    "distracting-problems": (partial(_distinct, problems.distracting_problem, "problem"), 1_000, 200),
    "science": (_science, 1_000, 200),
    "fantasy": (partial(_distinct, fantasy.location, "text"), 630, 70),
}


def dataset_names() -> tuple[str, ...]:
    """The names that ``dataset`` takes."""
    return tuple(_SETS)


def dataset(name: str, split: str = "train", n: int | None = None, seed: int = 0) -> list[dict]:
    """Rows of one split, the same for the same arguments on every machine.

    Args:
        name: one of ``dataset_names()``.
        split: "train" or "validation".
        n: how many rows; None is the set's own number.
        seed: another seed gives other rows.

    Returns:
        Rows in the schema of the real set. ``logprob``, where a row has it, is the natural log of the
        probability of the whole text (nats).

    Raises:
        ValueError: unknown name or split, or more rows asked for than there are.
    """
    if name not in _SETS:
        raise ValueError(f"miniworld has no dataset {name!r}; it has {', '.join(_SETS)}")
    if split not in SPLITS:
        raise ValueError(f"split of miniworld/{name} got {split!r}; expected one of {', '.join(SPLITS)}")
    rows, n_train, n_validation = _SETS[name]
    if n is None:
        n = n_train if split == "train" else n_validation
    return rows(name, split, n, seed)


def model_dir(name: str) -> Path:
    """The folder of a shipped base: config, safetensors, tokenizer, model card.

    Args:
        name: "gpt2", "llama" or "qwen2".

    Raises:
        ValueError: unknown name.
    """
    if name not in BASES:
        raise ValueError(f"miniworld has no model {name!r}; it has {', '.join(BASES)}")
    return MODELS / name
