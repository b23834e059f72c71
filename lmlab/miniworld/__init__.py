"""The miniworld: a small generated world that gives every lesson its data, and tiny models pretrained on it.

``dataset(name, split)`` gives rows in the schema of the real dataset that ``name`` stands in for.
``model_dir(name)`` gives the folder of a shipped base, in the hub's layout.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

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

MODELS = Path(__file__).parent / "models"
BASES = ("gpt2", "llama", "qwen2")  # the architectures of lessons 02 and 04, 05, 06
SPLITS = ("train", "validation")


def _texts(name: str, generate: Callable[[Sampler], str], split: str, n: int, seed: int) -> list[dict]:
    random_numbers = stream(name, split, seed)
    rows = []
    for _ in range(n):
        rng = Sampler(random_numbers)  # a new one for each text: its log-probability begins at 0
        rows.append({"text": generate(rng), "logprob": rng.logprob})
    return rows


def _encyclopedia(split: str, n: int, seed: int) -> list[dict]:
    rows = _texts("encyclopedia", encyclopedia.entry, split, n, seed)
    return [{"title": encyclopedia.title(row["text"]), **row} for row in rows]


class _Set(NamedTuple):
    rows: Callable[[str, int, int], list[dict]]  # split, n, seed -> rows
    train: int  # default numbers of rows
    validation: int


# the numbers are small enough to be made in seconds, and large enough for the effects that the lessons
# measure
_SETS = {
    "stories": _Set(partial(_texts, "stories", stories.story), 24_000, 500),
    "encyclopedia": _Set(_encyclopedia, 2_000, 200),
    "hellaswag": _Set(hellaswag.rows, 1_000, 400),
    "pairs": _Set(shakespeare.rows, 4_000, 400),
    "pairs-274": _Set(flawed_pairs.rows, 220, 54),
    "plays": _Set(plays.rows, 600, 60),
    "problems": _Set(partial(problems.rows, "problems"), 4_000, 400),
    "harder-problems": _Set(partial(problems.rows, "harder-problems"), 1_000, 200),
    "distracting-problems": _Set(partial(problems.rows, "distracting-problems"), 1_000, 200),
    "science": _Set(partial(problems.rows, "science"), 1_000, 200),
    "fantasy": _Set(fantasy.rows, 630, 70),
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
    if n is None:
        n = getattr(_SETS[name], split)
    return _SETS[name].rows(split, n, seed)


def model_dir(name: str) -> Path:
    """The folder of a shipped base: config, safetensors, tokenizer, model card.

    Args:
        name: "gpt2", "llama" or "qwen2".

    Raises:
        ValueError: unknown name, or a base that is not there.
    """
    if name not in BASES:
        raise ValueError(f"miniworld has no model {name!r}; it has {', '.join(BASES)}")
    folder = MODELS / name
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no model; rebuild it with: python -m lmlab.miniworld.bases {name}")
    return folder
