"""Lesson 03: scoring endings, and how sure a share is."""

import math
import random

from lmlab.exercises.judging import compare, exercise


def _first_n(p, low):
    return next(n for n in range(10, 100_000, 10) if low(round(p * n), n) > 0.25)


@exercise(
    "03.1",
    "How many items?",
    "Try n = 10, 20, 30 and so on, and stop at the first that will do.",
    "`wilson_interval(round(p * n), n)[0]` is the lower end. It must be above 0.25.",
)
def items_needed(answer):
    from lmlab.evaluation.statistics import wilson_interval

    cases = [(0.3,), (0.35,), (0.5,), (0.28,)]
    compare(
        answer,
        lambda p: _first_n(p, lambda k, n: wilson_interval(k, n)[0]),
        cases,
        {
            "This is the normal interval, p ± 1.96 √(p (1 − p) / n); with few items it is too narrow. Take "
            "Wilson's.": lambda p: _first_n(
                p, lambda k, n: k / n - 1.959964 * math.sqrt(k / n * (1 - k / n) / n)
            ),
            "You stop when the share is above 0.25; the lower end of its interval must be.": lambda p: (
                _first_n(p, lambda k, n: k / n)
            ),
        },
        tolerance=1e-9,
    )
    return "Half the distance to 25% takes about four times the items."


def _ending(logits, ids, first, shift=1, start=None, normalize=True, mean=False):
    scores = logits.log_softmax(-1) if normalize else logits
    places = range(first if start is None else start, len(ids))
    found = [scores[min(i - shift, len(ids) - 1), ids[i]].item() for i in places]
    return sum(found) / (len(found) if mean else 1)


@exercise(
    "03.2",
    "Score an ending",
    "The token at place i is foretold by the logits at place i - 1.",
    "`logits.log_softmax(-1)` first; then the entries [i - 1, ids[i]] for i from `first` on, added up.",
)
def ending_logprob(answer):
    import torch

    dice = torch.Generator().manual_seed(0)
    cases = [
        (2 * torch.randn(T, 9, generator=dice), torch.randint(9, (T,), generator=dice), first)
        for T, first in ((6, 3), (9, 4), (5, 4))
    ]
    compare(
        answer,
        _ending,
        cases,
        {
            "Off by one: you read the probability of a token where the model has already seen it.": lambda *case: (
                _ending(*case, shift=0)
            ),
            "You score the context too; only the ending counts, from `first` on.": lambda *case: _ending(
                *case, start=1
            ),
            "The first token of the ending is missing.": lambda *case: _ending(*case, start=case[2] + 1),
            "Logits are no log-probabilities: take `log_softmax` first.": lambda *case: _ending(
                *case, normalize=False
            ),
            "The sum is wanted; this is the mean per token.": lambda *case: (
                _ending(*case, mean=True) if case[2] + 1 < len(case[1]) else _ending(*case)
            ),
        },
    )
    return (
        "Off by one nothing crashes: the model is scored on what it was just told, and the accuracy "
        "falls to chance."
    )


@exercise(
    "03.3",
    "Choose",
    "Divide each sum of log-probabilities by its number of tokens.",
    "Log-probabilities are negative: the best is the largest, the one nearest to 0.",
)
def chosen(answer):
    dice = random.Random(0)
    counts = [[dice.randint(2, 9) for _ in range(4)] for _ in range(12)]
    sums = [[-n * (1 + dice.random()) for n in row] for row in counts]

    def best(score, take=max):
        return lambda sums, counts: [
            take(range(4), key=lambda j: score(sums[i][j], counts[i][j])) for i in range(len(sums))
        ]

    compare(
        answer,
        best(lambda s, n: s / n),
        [(sums[:3], counts[:3]), (sums, counts)],
        {
            "You choose by the sum, which prefers short endings.": best(lambda s, n: s),
            "You choose the least likely: log-probabilities are negative, the best is the largest.": best(
                lambda s, n: s / n, min
            ),
            "Multiplied by the number of tokens, length counts twice; divide.": best(lambda s, n: s * n),
        },
    )
    return "One line of code lies between the conventions; section 6 shows what it is worth."


def _counts(a, b):
    return (
        sum(x and not y for x, y in zip(a, b, strict=True)),
        sum(y and not x for x, y in zip(a, b, strict=True)),
    )


@exercise(
    "03.4",
    "Chance, or better?",
    "Count the items on which exactly one of the two is right; call them n.",
    "If both were equally good, the fewer k of these would follow a coin: add `comb(n, i)` for i from "
    "0 to k.",
    "Divide by 2**n, and double it, for either might have won. It is never above 1.",
)
def p_value(answer):
    from lmlab.evaluation.statistics import mcnemar

    dice = random.Random(0)
    yes, no = [True], [False]
    cases = [(no * 28 + yes * 12 + yes * 9, yes * 28 + no * 12 + yes * 9), (yes * 2 + no, yes * 2 + no)]
    cases += [
        tuple([dice.random() < p for _ in range(40)] for p in shares) for shares in ((0.3, 0.6), (0.5, 0.5))
    ]

    def tail(n, k):
        return sum(math.comb(n, i) for i in range(k + 1)) / 2**n

    compare(
        answer,
        lambda a, b: mcnemar(a, b).p_value,
        cases,
        {
            "This is one-sided: either model might have won, so double it (but never above 1).": lambda a, b: (
                tail(sum(_counts(a, b)), min(_counts(a, b)))
            ),
            "A probability is never above 1: with equal counts the middle is counted twice.": lambda a, b: (
                2 * tail(sum(_counts(a, b)), min(_counts(a, b)))
            ),
            "Items on which both are right or both wrong tell nothing: leave them out.": lambda a, b: min(
                1, 2 * tail(len(a), min(_counts(a, b)))
            ),
        },
    )
    return "The items on which the models agree do not enter at all, however many there are."
