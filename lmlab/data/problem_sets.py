"""The problems of lesson 06 in reasoning format: train, validation, test and harder."""

from collections.abc import Mapping, Sequence

from lmlab.data import augmentation
from lmlab.data.dedup import normalize_text
from lmlab.data.loading import load_rows
from lmlab.data.reasoning import question_of, reasoning_rows, split_by_problem
from lmlab.data.splits import split_indices
from lmlab.models.chat_template import reference_labels


def reasoning_sets(cfg, tokenizer) -> dict[str, list[dict]]:
    """The problems of lesson 06 in think form, each checked: "train", "validation", "test" and "harder".

    No problem of train, in any version, is in one of the others. "validation" chooses the best model, "test"
    and "harder" measure it. harder: held-out problems of more than ``trained_steps`` steps; train has none of
    these. Problems whose conversation is longer than ``max_length`` serve to test alone. With ``redrawn``,
    train has so many versions more of each problem, with other numbers, as far as that is safe. Says what is
    left out.
    Raises ValueError when a set is empty.
    """
    train, held_out = [], []
    for source in cfg.data:
        for side, rows in zip((train, held_out), _divided(cfg, source), strict=True):
            side += rows
    held_out = [
        held_out[i] for part in ("train", "validation") for i in split_indices(len(held_out), part, cfg.seed)
    ]
    easy = [row for row in held_out if not _is_harder(cfg, row)]
    validation = _short_enough(easy, tokenizer, cfg.max_length)[: min(cfg.n_validation, len(easy) // 2)]
    sets = {
        "train": [row for row in train if not _is_harder(cfg, row)],
        "validation": validation,
        "test": _not_in(easy, validation)[: cfg.n_eval],
        "harder": [row for row in held_out if _is_harder(cfg, row)][: cfg.n_harder],
    }
    sets["train"] = _short_enough(_not_in(sets["train"], easy + sets["harder"]), tokenizer, cfg.max_length)[
        : cfg.n_train
    ]
    copies = augmentation.augment_problems(sets["train"], cfg.redrawn, cfg.seed)
    sets["train"] += _short_enough(_not_in(copies, sets["train"] + held_out), tokenizer, cfg.max_length)
    empty = [name for name in ("train", "validation", "test") if not sets[name]]
    if empty:
        raise ValueError(
            f"{', '.join(empty)} got no problem from {', '.join(cfg.data)}; give more data, or a "
            f"larger max_length than {cfg.max_length}"
        )
    return sets


def _divided(cfg, source: str) -> tuple[list[dict], list[dict]]:
    """(train, held out) of one source. A miniworld comes divided: its bases have read none of the held-out."""
    checks = {"max_invalid_fraction": cfg.max_invalid_fraction, "tolerance": cfg.answer_tolerance}
    if source.startswith("miniworld/"):
        sizes = {"train": cfg.n_train, "validation": cfg.n_eval + cfg.n_validation}
        train, held_out = (
            reasoning_rows(load_rows(source, part, n, cfg.seed), f"{part} of {source}", **checks)
            for part, n in sizes.items()
        )
        return train, held_out
    rows = reasoning_rows(
        load_rows(source, "all", cfg.n_rows, max_invalid_fraction=cfg.max_invalid_fraction), source, **checks
    )
    return split_by_problem(rows, seed=cfg.seed, near=cfg.near_duplicate)


def _is_harder(cfg, row: Mapping) -> bool:
    return cfg.trained_steps is not None and row["steps"] is not None and row["steps"] > cfg.trained_steps


def _short_enough(rows: Sequence[dict], tokenizer, max_length: int) -> list[dict]:
    """Those with a solution whose conversation fits; a cut one would lack its end, and teach not to stop."""
    solved = [row for row in rows if row["completion"] is not None]
    return [row for row in solved if len(reference_labels(tokenizer, row)[0]) <= max_length]


def _not_in(rows: Sequence[dict], others: Sequence[dict]) -> list[dict]:
    """Those of ``rows`` whose question, to a reader, is in none of ``others``."""
    seen = {normalize_text(question_of(row)) for row in others}
    return [row for row in rows if normalize_text(question_of(row)) not in seen]
