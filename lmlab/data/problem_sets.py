"""The problems of lesson 06 in reasoning format: train, validation, test and harder."""

from collections.abc import Mapping, Sequence

from lmlab.data import augmentation
from lmlab.data.dedup import unseen
from lmlab.data.reasoning import question_of, reasoning_rows
from lmlab.data.sources import load_rows
from lmlab.data.splits import VALIDATION_FRACTION, group_split, split_indices
from lmlab.models.chat_template import reference_labels
from lmlab.models.types import PreTrainedTokenizerBase
from lmlab.recipes import ReasoningFinetune


def reasoning_sets(cfg: ReasoningFinetune, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[dict]]:
    """The problems of lesson 06, each checked: "train", "validation", "test" and "harder".

    No problem of train, in any version, is in one of the others. Validation chooses the best model, test and
    harder measure it; harder has the held-out problems of more than ``trained_steps`` steps, and train has
    none of these. Problems whose conversation is longer than ``max_length`` serve to test alone.

    Args:
        cfg: The recipe of lesson 06; with ``augmented_copies`` train gets so many more versions of each
            problem with other numbers, as far as that is safe.
        tokenizer: One with a chat template.

    Raises:
        ValueError: A set is empty, or too many rows of a source cannot be used.
    """
    # each source is split by itself, so that every set has problems of every source
    train, held_out = [], []
    for source in cfg.data:
        for_training, for_evaluation = _split(cfg, source)
        train += for_training
        held_out += for_evaluation
    held_out = _shuffled(held_out, cfg.seed)
    harder = [row for row in held_out if _is_harder(cfg, row)]
    easy = [row for row in held_out if not _is_harder(cfg, row)]
    validation = _short_enough(easy, tokenizer, cfg.max_length)[: min(cfg.n_validation, len(easy) // 2)]
    harder = harder[: cfg.n_harder]

    # harder problems measure whether the model generalizes to more steps than it has seen
    train = [row for row in train if not _is_harder(cfg, row)]
    train = _short_enough(unseen(train, easy + harder, question_of), tokenizer, cfg.max_length)[: cfg.n_train]
    copies = augmentation.augment_problems(train, cfg.augmented_copies, cfg.seed)
    # resampled numbers may by chance give a held-out problem
    train += _short_enough(unseen(copies, train + held_out, question_of), tokenizer, cfg.max_length)

    # validation has chosen the model, so none of its problems may measure it
    test = unseen(easy, validation, question_of)[: cfg.n_eval]
    sets = {"train": train, "validation": validation, "test": test, "harder": harder}
    empty = [name for name in ("train", "validation", "test") if not sets[name]]
    if empty:
        raise ValueError(
            f"{', '.join(empty)} got no problem from {', '.join(cfg.data)}; give more data, or a "
            f"larger max_length than {cfg.max_length}"
        )
    return sets


def _split(cfg: ReasoningFinetune, source: str) -> tuple[list[dict], list[dict]]:
    """(train, held out) of one source. A miniworld comes split: its bases have read none of the held-out."""
    # SciBench's answers are rounded measurements, hence the tolerance
    checks = {"max_invalid_fraction": cfg.max_invalid_fraction, "tolerance": cfg.answer_tolerance}
    if source.startswith("miniworld/"):
        n_held_out = cfg.n_eval + cfg.n_validation
        train = load_rows(source, "train", cfg.n_train)
        held_out = load_rows(source, "validation", n_held_out)
        return (
            reasoning_rows(train, f"train of {source}", **checks),
            reasoning_rows(held_out, f"validation of {source}", **checks),
        )
    # versions of one problem stay on one side, or the test would measure memory
    rows = load_rows(source, "all", cfg.n_rows, max_invalid_fraction=cfg.max_invalid_fraction)
    problems = reasoning_rows(rows, source, **checks)
    questions = [question_of(problem) for problem in problems]
    n_held_out = max(1, round(VALIDATION_FRACTION * len(problems)))
    train, held_out = group_split(questions, n_held_out, cfg.seed, cfg.near_duplicate)
    return _shuffled([problems[i] for i in train], cfg.seed), [problems[i] for i in held_out]


def _shuffled(rows: Sequence[dict], seed: int) -> list[dict]:
    order = split_indices(len(rows), "train", seed) + split_indices(len(rows), "validation", seed)
    return [rows[i] for i in order]


def _is_harder(cfg: ReasoningFinetune, row: Mapping) -> bool:
    return cfg.trained_steps is not None and row["steps"] is not None and row["steps"] > cfg.trained_steps


def _short_enough(rows: Sequence[dict], tokenizer, max_length: int) -> list[dict]:
    """Those with a solution whose conversation fits; a truncated one has no EOS, so teaches not to stop."""
    solved = [row for row in rows if row["completion"] is not None]
    return [row for row in solved if len(reference_labels(tokenizer, row)[0]) <= max_length]
