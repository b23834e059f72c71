"""Lesson 04: which tokens contribute to the loss, and what a validation loss is."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lmlab.exercises.judging import EXERCISES, compare, exercise
from lmlab.models import IGNORE_INDEX


@exercise("04.1")
def mask(answer: Any) -> None:
    """The labels of a row: the prompt masked, the answer and its EOS not."""
    mistakes = {
        "eos_masked": lambda ids, n_prompt: [*_masked(ids, n_prompt)[:-1], IGNORE_INDEX],
        "one_too_few": lambda ids, n_prompt: _masked(ids, n_prompt - 1),
        "one_too_many": lambda ids, n_prompt: _masked(ids, n_prompt + 1),
        # prompt and answer the wrong way round
        "answer_masked": lambda ids, n_prompt: ids[:n_prompt] + [IGNORE_INDEX] * (len(ids) - n_prompt),
        "nothing_masked": lambda ids, n_prompt: ids,
    }
    compare(answer, _masked, EXERCISES["04.1"].cases, mistakes)


def _masked(ids: list[int], n_prompt: int) -> list[int]:
    return [IGNORE_INDEX] * n_prompt + ids[n_prompt:]


@exercise("04.2")
def collate(answer: Any) -> None:
    """A padded batch in which padding and EOS are the same token."""
    # EOS and padding are token 0, and the first two tokens of each row are its prompt
    rows = []
    for n in (3, 6, 5, 2, 8):
        ids = [*range(11, 11 + n), 0]
        rows.append({"input_ids": ids, "labels": [IGNORE_INDEX] * 2 + ids[2:]})
    mistakes = {
        # what a collator does that knows padding by its token
        "eos_label_lost": partial(_collated, by_token=("labels",)),
        "eos_lost": partial(_collated, by_token=("labels", "attention_mask")),
        "eos_not_attended": partial(_collated, by_token=("attention_mask",)),
        "padding_counted": partial(_collated, padding_label=0),
    }
    compare(answer, _collated, [(rows[:2], 0), (rows[2:], 0)], mistakes)


def _collated(
    rows: list[dict], pad: int, by_token: Sequence[str] = (), padding_label: int = IGNORE_INDEX
) -> dict:
    """A batch. by_token: where every ``pad`` is taken for padding, the true EOS too."""
    from lmlab.evaluation.scoring import pad_right

    batch = {
        "input_ids": pad_right([row["input_ids"] for row in rows], pad),  # (B, T)
        "labels": pad_right([row["labels"] for row in rows], padding_label),
        "attention_mask": pad_right([[1] * len(row["input_ids"]) for row in rows], 0),
    }
    # true for the EOS at the end of a row, too
    is_pad = batch["input_ids"] == pad
    if "labels" in by_token:
        batch["labels"] = batch["labels"].masked_fill(is_pad, IGNORE_INDEX)
    if "attention_mask" in by_token:
        batch["attention_mask"] = (~is_pad).long()
    return batch


@exercise("04.3")
def perplexity(answer: Any) -> None:
    """The perplexity over batches, of each of which the mean loss and the number of tokens are known."""
    mistakes = {
        "mean_of_means": lambda batches: math.exp(sum(mean for mean, _ in batches) / len(batches)),
        "weighted_mean_of_perplexities": lambda batches: _loss([(math.exp(mean), n) for mean, n in batches]),
        # every batch weighs the same
        "mean_of_perplexities": lambda batches: _loss([(math.exp(mean), 1) for mean, _ in batches]),
        "loss_returned": _loss,
        # math.exp overflows above 709
        "losses_summed": lambda batches: math.exp(min(700, sum(mean * n for mean, n in batches))),
    }
    compare(answer, lambda batches: math.exp(_loss(batches)), EXERCISES["04.3"].cases, mistakes)


def _loss(batches: Sequence[tuple[float, int]]) -> float:
    """The mean of (mean, number of tokens), weighted by tokens."""
    return sum(mean * n for mean, n in batches) / sum(n for _, n in batches)


@exercise("04.4")
def early_stopping(answer: Any) -> None:
    """The evaluation at which early stopping ends training."""
    mistakes = {
        "compared_with_previous": partial(_stopping_point, best=lambda losses: losses[-1]),
        "one_too_late": lambda losses, patience: _stopping_point(losses, patience + 1),
        "tie_counted": partial(_stopping_point, tie_is_better=True),
        "best_returned": lambda losses, patience: losses.index(
            min(losses[: _stopping_point(losses, patience) + 1])
        ),
    }
    compare(answer, _stopping_point, EXERCISES["04.4"].cases, mistakes)


def _stopping_point(
    losses: Sequence[float], patience: int, best: Callable = min, tie_is_better: bool = False
) -> int:
    """best: of the losses so far, the one that a new loss must beat."""
    without_progress = 0
    # the first evaluation is always the best so far
    for i in range(1, len(losses)):
        to_beat = best(losses[:i])
        is_better = losses[i] < to_beat or (tie_is_better and losses[i] == to_beat)
        without_progress = 0 if is_better else without_progress + 1
        if without_progress >= patience:
            return i
    return len(losses) - 1
