"""Pairs of lesson 04: modern English and Shakespearean, split, tokenized, labelled."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path

from lmlab.data.dedup import unseen
from lmlab.data.sources import load_rows
from lmlab.data.splits import split_indices
from lmlab.data.usable import BadRow, leave_out, usable_pairs
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import eos_id
from lmlab.models.types import Dataset, PreTrainedTokenizerBase
from lmlab.recipes import FullFinetune

PROMPT = "Convert to Shakespearean: {modern}\nShakespearean:"
_MIN_PAIRS = 20  # of each set


def pair_sets(cfg: FullFinetune) -> dict[str, list[dict[str, str]]]:
    """The pairs of lesson 04, split in two ways.

    Where ``small_data`` and ``data`` are one source, its first rows are the small set, the rest is shuffled.
    A file is checked as a whole before it is split, so that the rows that are shown have the numbers of the
    file.

    Args:
        cfg: The recipe of lesson 04.

    Returns:
        "small" and "small_validation", split naively; "train" and "validation", which shares no modern
        sentence with any of the others.

    Raises:
        ValueError: More than ``max_invalid_fraction`` of a source cannot be used, or a source has too few
            rows.
    """
    n_small = cfg.small_train + cfg.small_validation
    # the first rows as they are: the small set has the flaws that lesson 04 shows
    found = _usable_pairs(cfg, cfg.small_data, "all")
    small = found[:n_small]
    one_source = cfg.small_data == cfg.data
    if one_source or Path(cfg.data).expanduser().is_file():
        rest = found[n_small:] if one_source else _usable_pairs(cfg, cfg.data, "all")
        train = [rest[i] for i in split_indices(len(rest), "train", cfg.seed)]
        validation = [rest[i] for i in split_indices(len(rest), "validation", cfg.seed)]
    else:
        train = _usable_pairs(cfg, cfg.data, "train", cfg.n_train)
        validation = _usable_pairs(cfg, cfg.data, "validation", cfg.n_validation)
    modern = itemgetter("modern")
    # first validation against the small set, then train against both: train is what can spare rows
    validation = unseen(validation, small, modern)[: cfg.n_validation]
    train = unseen(train, validation, modern)[: cfg.n_train]
    sets = {
        "small": small[: cfg.small_train],
        "small_validation": small[cfg.small_train :],
        "train": train,
        "validation": validation,
    }
    for name, pairs in sets.items():
        if len(pairs) < _MIN_PAIRS:
            raise ValueError(
                f"{name} got {len(pairs)} pairs from {cfg.small_data} and {cfg.data}, and needs "
                f"{_MIN_PAIRS}; give more, or smaller small_train ({cfg.small_train}) and small_validation, "
                "which take theirs first"
            )
    return sets


def _usable_pairs(cfg: FullFinetune, source: str, split: str, n: int | None = None) -> list[dict]:
    rows = load_rows(source, split, n, max_invalid_fraction=cfg.max_invalid_fraction)
    return usable_pairs(rows, source if split == "all" else f"{split} of {source}", cfg.max_invalid_fraction)


def tokenize_pairs(
    rows: Sequence[Mapping],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    source: str = "the pairs",
    max_invalid_fraction: float = 1.0,
) -> Dataset:
    """Pairs as token ids with labels, completion-only: the prompt is masked.

    Prompt and answer are tokenized apart, so that the boundary between them is where the mask ends.

    Args:
        rows: Pairs {"modern", "shakespearean"}.
        tokenizer: One with an EOS, which ends each answer.
        max_length: Tokens; longer pairs are left out, not truncated: they would have no EOS.
        source: What messages call the rows.
        max_invalid_fraction: Of the pairs, that may be too long.

    Returns:
        A ``datasets.Dataset`` of input_ids and labels, both (T,), unpadded; labels of the prompt are -100.

    Raises:
        ValueError: No pair is left, too many are too long, or the tokenizer has no EOS.
    """
    from datasets import Dataset

    eos = eos_id(tokenizer)
    # the space belongs to the answer: GPT-2's tokens begin with theirs
    prompts = [PROMPT.format(modern=row["modern"]) for row in rows]
    answers = [" " + row["shakespearean"] for row in rows]
    prompt_ids = tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"]
    answer_ids = tokenizer(answers, add_special_tokens=False, verbose=False)["input_ids"]

    columns, too_long = {"input_ids": [], "labels": []}, []
    # input_ids end in EOS, and its label is learned: without it the model would not stop
    for i, (prompt, answer) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        ids = [*prompt, *answer, eos]
        # not truncated: the end of an answer is what would be lost, and EOS with it
        if len(ids) > max_length:
            too_long.append(BadRow(i, f"longer than max_length, {max_length} tokens", prompts[i]))
            continue
        columns["input_ids"].append(ids)
        columns["labels"].append([IGNORE_INDEX] * len(prompt) + ids[len(prompt) :])
    if len(too_long) == len(rows):
        raise ValueError(f"{source} has no pair of at most max_length, {max_length} tokens; raise it")
    leave_out(too_long, len(rows), source, max_invalid_fraction)
    return Dataset.from_dict(columns)
