"""Pairs of lesson 04: modern English and Shakespearean, split, tokenized, labelled."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lmlab.data.dedup import normalize_text
from lmlab.data.loading import load_rows
from lmlab.data.splits import split_indices
from lmlab.data.usable import BadRow, leave_out, usable_pairs
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import eos_id

PROMPT = "Convert to Shakespearean: {modern}\nShakespearean:"


def pair_sets(cfg) -> dict[str, list[dict[str, str]]]:
    """The pairs of lesson 04: "small" and "small_validation" (as careless scripts split them), "train" and
    "validation", which shares no modern sentence with any of the others.

    Where ``small_data`` and ``data`` are one source, its first rows are the small set, the rest is shuffled. A file is
    checked whole and then divided, so that the rows that are shown have the numbers of the file. Rows that cannot be
    used are left out (``lmlab.data.usable.usable_pairs``). Raises ValueError when more than
    ``max_invalid_fraction`` of a source are such, and when a source has too few rows.
    """
    n_small = cfg.small_train + cfg.small_validation
    found = _usable(cfg, cfg.small_data, "all")
    small = found[:n_small]
    if cfg.small_data == cfg.data or Path(cfg.data).expanduser().is_file():
        rest = found[n_small:] if cfg.small_data == cfg.data else _usable(cfg, cfg.data, "all")
        train, validation = (
            [rest[i] for i in split_indices(len(rest), part, cfg.seed)] for part in ("train", "validation")
        )
    else:
        train, validation = (
            _usable(cfg, cfg.data, part, n)
            for part, n in (("train", cfg.n_train), ("validation", cfg.n_validation))
        )
    validation = _unseen(validation, small)[: cfg.n_validation]
    sets = {
        "small": small[: cfg.small_train],
        "small_validation": small[cfg.small_train :],
        "train": _unseen(train, validation)[: cfg.n_train],
        "validation": validation,
    }
    for name, pairs in sets.items():
        if len(pairs) < 20:
            sources = " and ".join(dict.fromkeys((cfg.small_data, cfg.data)))
            raise ValueError(
                f"{name} got {len(pairs)} pairs from {sources}, and needs 20; give more, or smaller "
                f"small_train ({cfg.small_train}) and small_validation, which take theirs first"
            )
    return sets


def _usable(cfg, source: str, part: str, n: int | None = None) -> list[dict]:
    seed = 0 if part == "all" else cfg.seed  # the small set is one and the same whatever the recipe's seed
    rows = load_rows(source, part, n, seed, cfg.max_invalid_fraction)
    return usable_pairs(rows, source if part == "all" else f"{part} of {source}", cfg.max_invalid_fraction)


def _unseen(rows: list[dict], others: list[dict]) -> list[dict]:
    """Those of ``rows`` whose modern side, normalize_text, is in none of ``others``."""
    seen = {normalize_text(row["modern"]) for row in others}
    return [row for row in rows if normalize_text(row["modern"]) not in seen]


def tokenize_pairs(
    rows: Sequence[Mapping],
    tokenizer,
    max_length: int,
    *,
    prompt_loss: bool = False,
    source: str = "the pairs",
    max_invalid_fraction: float = 1.0,
):
    """Pairs as token ids with labels: a ``datasets.Dataset`` of input_ids and labels, both (T,), unpadded.

    Prompt and answer are cut into tokens apart, so that the line between them is where the mask ends: labels
    of the prompt are -100, those of the answer and of the EOS after it are the tokens. prompt_loss: every
    token is a label, but the first, before which there is nothing. Pairs of more than ``max_length`` tokens
    are left out, not cut: a cut answer would have no EOS. Says how many, by the name ``source``. Raises
    ValueError when they are more than ``max_invalid_fraction`` of all, when none is left, or when the tokenizer has no
    EOS.
    """
    from datasets import Dataset

    if not rows:
        raise ValueError(f"tokenize_pairs got no rows of {source}; give one or more")
    eos = eos_id(tokenizer)
    prompts = [PROMPT.format(modern=row["modern"]) for row in rows]
    answers = [" " + row["shakespearean"] for row in rows]
    ids = [
        tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] for texts in (prompts, answers)
    ]
    pairs = [(prompt, [*answer, eos]) for prompt, answer in zip(*ids, strict=True)]
    why = f"longer than max_length, {max_length} tokens"
    long = [
        BadRow(i, why, prompts[i])
        for i, (prompt, answer) in enumerate(pairs)
        if len(prompt) + len(answer) > max_length
    ]
    if len(long) == len(pairs):
        raise ValueError(f"max_length got {max_length}, and no pair is that short; raise it")
    leave_out(long, len(pairs), source, max_invalid_fraction)
    kept = [pairs[i] for i in sorted(set(range(len(pairs))) - {row.row for row in long})]
    n_masked = [1 if prompt_loss else len(prompt) for prompt, _ in kept]
    ids = [prompt + answer for prompt, answer in kept]
    return Dataset.from_dict(
        {
            "input_ids": ids,
            "labels": [[IGNORE_INDEX] * n + row[n:] for n, row in zip(n_masked, ids, strict=True)],
        }
    )
