"""Lesson 04: which tokens bear loss, and what a validation loss is."""

import math
import random

from lmlab.exercises.judging import compare, exercise
from lmlab.models import IGNORE_INDEX


@exercise(
    "04.1",
    "Mask by hand",
    "As many -100 as the prompt has tokens; then the ids themselves.",
    "The EOS at the end is part of the answer.",
)
def mask(answer):
    dice = random.Random(0)
    cases = [([dice.randrange(1, 99) for _ in range(n)] + [0], k) for n, k in ((6, 3), (9, 5), (4, 1))]

    def from_place(shift, last=None):
        return lambda ids, n: (
            [IGNORE_INDEX] * (n + shift) + ids[n + shift : last] + [IGNORE_INDEX] * (last is not None)
        )

    compare(
        answer,
        from_place(0),
        cases,
        {
            "The last token, the EOS, must be learned too, or the model never stops.": from_place(0, -1),
            "One too few is masked: the last token of the prompt bears loss.": from_place(-1),
            "One too many is masked: the first token of the answer bears no loss. (The shift is made in the "
            "loss.)": from_place(1),
            "You masked the answer and left the prompt.": lambda ids, n: (
                ids[:n] + [IGNORE_INDEX] * (len(ids) - n)
            ),
            "Nothing is masked.": lambda ids, n: ids,
        },
    )
    return "Compare it with `examples['train']`: rows whose labels begin with as many -100."


def _collated(rows, pad, by_token=False, label=IGNORE_INDEX, seen_by_token=False):
    import torch

    width = max(len(row["input_ids"]) for row in rows)

    def padded(lists, filling):
        return torch.tensor([some + [filling] * (width - len(some)) for some in lists])

    ids = padded([row["input_ids"] for row in rows], pad)
    labels = padded([row["labels"] for row in rows], label)
    seen = padded([[1] * len(row["input_ids"]) for row in rows], 0)
    return {
        "input_ids": ids,
        "labels": labels.masked_fill(ids == pad, IGNORE_INDEX) if by_token else labels,
        "attention_mask": (ids != pad).long() if seen_by_token else seen,
    }


@exercise(
    "04.2",
    "Pad without harm",
    "Padding is known by its place: all that lies behind a row's own length.",
    "Pad `input_ids` with `pad`, `labels` with -100, `attention_mask` (ones) with 0.",
)
def collate(answer):
    dice = random.Random(0)

    def row(n):
        ids = [dice.randrange(1, 50) for _ in range(n)] + [0]
        return {"input_ids": ids, "labels": [IGNORE_INDEX] * 2 + ids[2:]}

    compare(
        answer,
        _collated,
        [([row(3), row(6)], 0), ([row(5), row(2), row(8)], 0)],
        {
            "Here the true EOS has lost its label: it is the same token as padding. Know padding by its place.": lambda *case: (
                _collated(*case, by_token=True)
            ),
            "The true EOS has lost its label and its place in the attention mask: know padding by its place.": lambda *case: (
                _collated(*case, by_token=True, seen_by_token=True)
            ),
            "The attention mask hides the true EOS, which is the same token as padding.": lambda *case: (
                _collated(*case, seen_by_token=True)
            ),
            "You counted padding: its labels must be -100.": lambda rows, pad: _collated(
                rows, pad, label=pad
            ),
        },
    )
    return "That is `completion_only_collator`. With the usual one no EOS would have been learned."


@exercise(
    "04.3",
    "One perplexity",
    "A batch of 100 tokens must count ten times as much as one of 10.",
    "Mean times number is the sum of nats. Add these up, divide by all tokens, and take exp last.",
)
def perplexity(answer):
    dice = random.Random(0)
    cases = [([(1.0, 10), (3.0, 30)],)] + [
        ([(4 * dice.random(), dice.randint(1, 60)) for _ in range(n)],) for n in (4, 9)
    ]

    def total(batches):
        return sum(mean * n for mean, n in batches)

    def tokens(batches):
        return sum(n for _, n in batches)

    compare(
        answer,
        lambda batches: math.exp(total(batches) / tokens(batches)),
        cases,
        {
            "A mean of batch means: a batch of few tokens counts as much as one of many.": lambda batches: (
                math.exp(sum(mean for mean, _ in batches) / len(batches))
            ),
            "You took exp of each batch and averaged these: take exp once, at the end.": lambda batches: (
                sum(math.exp(mean) * n for mean, n in batches) / tokens(batches)
            ),
            "A mean of the batches' perplexities: weigh by tokens, and take exp once, at the end.": lambda batches: (
                sum(math.exp(mean) for mean, _ in batches) / len(batches)
            ),
            "This is the loss; perplexity is its exponential.": lambda batches: (
                total(batches) / tokens(batches)
            ),
            "The losses are added up, not averaged.": lambda batches: math.exp(min(700, total(batches))),
        },
    )
    return "The Trainer's `eval_loss` is a mean of batch means: its exponential is a perplexity only by luck."


def _stop(losses, patience, against_best=True, ties=False, extra=0):
    best, bad = losses[0], 0
    for i, loss in enumerate(losses[1:], 1):
        good = loss <= best if ties else loss < best
        bad, best = 0 if good else bad + 1, min(best, loss) if against_best else loss
        if bad >= patience + extra:
            return i
    return len(losses) - 1


@exercise(
    "04.4",
    "Patience",
    "Remember the lowest loss so far, and how many measurements ago it was.",
    "Stop at the measurement at which that number reaches `patience`; if it never does, at the last.",
)
def stops_at(answer):
    from lmlab.training.trainers import stopping_point

    def reference(losses, patience):
        stop = stopping_point(losses, patience)
        return len(losses) - 1 if stop is None else stop

    cases = [
        ([3, 2, 1, 2, 1.5, 1.4, 0.9], 2),
        ([3, 2, 1, 1.2, 0.8, 1, 1, 1, 0.5], 3),
        ([3, 2, 1], 2),
        ([3, 2, 2.5, 2.4, 2.3, 2.2, 2.1], 2),
        ([2, 1, 1, 1, 0.5], 2),
    ]
    compare(
        answer,
        reference,
        cases,
        {
            "You compare with the measurement before; what counts is the lowest so far.": lambda *case: _stop(
                *case, against_best=False
            ),
            "One too late: stop at the measurement that uses up the patience.": lambda *case: _stop(
                *case, extra=1
            ),
            "A loss that only equals the lowest is no new lowest.": lambda *case: _stop(*case, ties=True),
            "This is where the best was; asked is the measurement at which training stops.": lambda losses, patience: (
                losses.index(min(losses[: reference(losses, patience) + 1]))
            ),
        },
    )
    return "Note the first case: patience 2 never sees the 0.9 at the end. Patience is a bet."
