"""The miniworld: a small generated world that gives every lesson its data, and tiny models pretrained on it.

``dataset(name, split)`` gives rows in the schema of the real dataset that ``name`` stands in for.
``model_dir(name)`` gives the folder of a shipped base, in the hub's layout.
"""

from pathlib import Path

from lmlab.miniworld import encyclopedia, fantasy, hellaswag, plays, problems, shakespeare, stories
from lmlab.miniworld.grammar import Draw, stream

MODELS = Path(__file__).parent / "models"
BASES = ("gpt2", "llama", "qwen2")
SPLITS = ("train", "validation")


def _drawn_texts(name: str, generate, split: str, n: int, seed: int) -> list[dict]:
    rng = stream(name, split, seed)
    rows = []
    for _ in range(n):
        draw = Draw(rng)
        rows.append({"text": generate(draw), "logprob": draw.logprob})
    return rows


def _stories(split: str, n: int, seed: int) -> list[dict]:
    return _drawn_texts("stories", stories.story, split, n, seed)


def _encyclopedia(split: str, n: int, seed: int) -> list[dict]:
    rows = _drawn_texts("encyclopedia", encyclopedia.entry, split, n, seed)
    return [{"title": encyclopedia.title(row["text"]), **row} for row in rows]


# name -> (rows of a split, default number of rows in train, in validation)
_DATASETS = {
    "stories": (_stories, 20_000, 500),
    "encyclopedia": (_encyclopedia, 2_000, 200),
    "hellaswag": (hellaswag.rows, 1_000, 400),
    "pairs": (lambda split, n, seed: shakespeare.rows("pairs", split, n, seed), 4_000, 400),
    "pairs-274": (lambda split, n, seed: shakespeare.rows("pairs-274", split, n, seed), 220, 54),
    "plays": (plays.rows, 600, 60),
    "problems": (lambda split, n, seed: problems.rows("problems", split, n, seed), 4_000, 400),
    "harder-problems": (lambda split, n, seed: problems.rows("harder-problems", split, n, seed), 1_000, 200),
    "distracting-problems": (
        lambda split, n, seed: problems.rows("distracting-problems", split, n, seed),
        1_000,
        200,
    ),
    "science": (lambda split, n, seed: problems.rows("science", split, n, seed), 1_000, 200),
    "fantasy": (fantasy.rows, 630, 70),
}


def dataset_names() -> tuple[str, ...]:
    return tuple(_DATASETS)


def dataset(name: str, split: str = "train", n: int | None = None, seed: int = 0) -> list[dict]:
    """Rows of one split, the same for the same arguments on every machine.

    name: one of ``dataset_names()``; split: "train" or "validation"; n: how many rows (default: as in the
    table).
    ``logprob``, where a row has it, is the natural log of the probability of the whole text (nats).
    Raises ValueError for an unknown name or split, or for more rows than there are.
    """
    if name not in _DATASETS:
        raise ValueError(f"miniworld has no dataset {name!r}; it has {', '.join(_DATASETS)}")
    if split not in SPLITS:
        raise ValueError(f"split of miniworld/{name} got {split!r}; expected one of {', '.join(SPLITS)}")
    rows, n_train, n_validation = _DATASETS[name]
    default = n_train if split == "train" else n_validation
    return rows(split, default if n is None else n, seed)


def model_dir(name: str) -> Path:
    """The folder of a shipped base ("gpt2", "llama" or "qwen2"): config, safetensors, tokenizer, model card.

    Raises ValueError for an unknown name, or a base that is not there.
    """
    if name not in BASES:
        raise ValueError(f"miniworld has no model {name!r}; it has {', '.join(BASES)}")
    folder = MODELS / name
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no model; rebuild it with: python -m lmlab.miniworld.bases {name}")
    return folder
