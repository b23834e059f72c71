"""Lesson 09: what a group teaches, and rewards that cannot be had for nothing."""

import itertools
import math
import re
import statistics

from lmlab.exercises.judging import compare, exercise


@exercise(
    "09.1",
    "Better than its group",
    "Reward less the group's mean, over its standard deviation (n − 1).",
    "A group in which all rewards are equal has the deviation 0. What should it teach?",
    "Nothing: all advantages 0. TRL adds 0.0001 to the deviation, which gives just that.",
)
def advantages(answer):
    from lmlab.evaluation.rewards import group_advantages

    def over(spread):
        return lambda rewards: [
            (r - statistics.fmean(rewards)) / (spread(rewards) or math.nan) for r in rewards
        ]

    cases = [([1.0] * 2 + [0.0] * 6,), ([0.2, 0.9, 0.4],), ([1.0, 0.0],), ([1.0] * 4,), ([0.0] * 2,)]
    compare(
        answer,
        lambda rewards: group_advantages(rewards, len(rewards)),
        cases,
        {
            "Where all rewards are equal you divide 0 by 0: such a group must give zeros.": over(
                statistics.stdev
            ),
            "The deviation is that of a sample, divided by n − 1.": lambda rewards: [
                a if a == a else 0 for a in over(statistics.pstdev)(rewards)
            ],
            "The deviation is that of a sample, divided by n − 1, and where it is 0 the advantages are 0.": over(
                statistics.pstdev
            ),
            "The division by the standard deviation is missing.": lambda rewards: [
                r - statistics.fmean(rewards) for r in rewards
            ],
            "Subtract the mean: what is no better than its group should teach nothing.": lambda rewards: [
                r / (statistics.stdev(rewards) + 1e-4) for r in rewards
            ],
        },
        tolerance=2e-3,
    )
    return "Of eight answers the two right ones get 1.62 each, the six wrong ones -0.54: the sum is 0."


@exercise(
    "09.2",
    "pass@k without luck",
    "Of all ways to take k of the n samples, how many have no right one in them?",
    "`comb(n - c, k)` of `comb(n, k)`. What is left has at least one.",
)
def pass_at_k(answer):
    def reference(n, c, k):
        ways = list(itertools.combinations([True] * c + [False] * (n - c), k))
        return sum(map(any, ways)) / len(ways)

    cases = [(8, 2, 1), (8, 2, 4), (10, 3, 5), (6, 0, 3), (6, 5, 2), (5, 5, 5)]
    compare(
        answer,
        reference,
        cases,
        {
            "1 − (1 − c/n)^k draws with replacement, and is too low: the k samples are different ones of the n.": lambda n, c, k: (
                1 - (1 - c / n) ** k
            ),
            "That is pass@1, whatever k is.": lambda n, c, k: c / n,
            "Chances do not add up like that: two right ones among the k count once.": lambda n, c, k: min(
                1, k * c / n
            ),
            "That is the chance that none is right.": lambda n, c, k: 1 - reference(n, c, k),
            "That is the chance that all k are right.": lambda n, c, k: math.comb(c, k) / math.comb(n, k),
        },
    )
    return "Taking the first k samples would be right on average as well, but with far more luck in it."


def _least_group(silent, share) -> int:
    return next(group for group in itertools.count(2) if silent(group) <= share)


@exercise(
    "09.3",
    "How large a group?",
    "A group is silent when all are right (p to the power of its size) or all wrong.",
    "Try 2, 3, 4 and so on, until p**group + (1 - p)**group is at most `share`.",
)
def group_needed(answer):
    cases = [(0.5, 0.05), (0.9, 0.5), (0.2, 0.2), (0.8, 0.2), (0.5, 0.125)]
    compare(
        answer,
        lambda p, share: _least_group(lambda g: p**g + (1 - p) ** g, share),
        cases,
        {
            "Those that are all wrong are silent, too.": lambda p, share: _least_group(lambda g: p**g, share),
            "Those that are all right are silent, too.": lambda p, share: _least_group(
                lambda g: (1 - p) ** g, share
            ),
            "At most `share`: a group of which just that share is silent will do.": lambda p, share: next(
                g for g in itertools.count(2) if p**g + (1 - p) ** g < share
            ),
            "`share` is of those that are silent, not of those that teach.": lambda p, share: _least_group(
                lambda g: 1 - p**g - (1 - p) ** g if g < 99 else 0, share
            ),
        },
        tolerance=1e-9,
    )
    return "What is nearly learned wants large groups, and large groups cost as much as they hold."


@exercise(
    "09.4",
    "The clip",
    "Two candidates: ratio · advantage, and the same with the ratio held between 1 ± ε.",
    "The smaller of the two is taken, so the clip can only make the objective worse. The loss is its "
    "negative.",
)
def clipped_loss(answer):
    def clip(ratio, epsilon):
        return min(max(ratio, 1 - epsilon), 1 + epsilon)

    cases = [(ratio, advantage, 0.2) for ratio in (0.5, 0.9, 1.0, 1.1, 1.5) for advantage in (1.6, -0.5)]
    compare(
        answer,
        lambda r, a, e: -min(r * a, clip(r, e) * a),
        cases,
        {
            "You always clip; what has gone the wrong way must still be called back: take the smaller of the "
            "two.": lambda r, a, e: -clip(r, e) * a,
            "Nothing is clipped.": lambda r, a, e: -r * a,
            "The smaller of the two is taken, not the larger.": lambda r, a, e: -max(r * a, clip(r, e) * a),
            "This is the objective; a loss is its negative.": lambda r, a, e: min(r * a, clip(r, e) * a),
        },
    )
    return (
        "A good token that is already likelier by ε is not pushed on, and a bad one that became likelier is."
    )


_ANSWERS = [
    ("3 + 4 = 7.\n</think>\n\nThe answer is 7.", "7"),
    ("3 + 4 = 8.\n</think>\n\nThe answer is 8.", "7"),
    ("It is 7, or not.\n</think>\n\nThe answer is 9.", "7"),
    ("9 + 8 = 17.\n</think>\n\nThe answer is 17.", "7"),
    ("I do not know.\n</think>\n\nPerhaps 7, 12 or 8.", "7"),
    ("3.5 + 3.5\n</think>\n\nThe answer is 7.0.", "7"),
    ("7", "7"),
    ("Hm.\n</think>\n\nI cannot say.", "7"),
    ("1 + 2\n</think>\n\nThe answer is -7.", "7"),
]


def _found(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


@exercise(
    "09.5",
    "A checker without a hole",
    "Look only behind `</think>`; a text without it is all answer.",
    "One number is the answer: the last one. And compare numbers, not texts: 17 has a 7 in it, and 7.0 is 7.",
)
def reward(answer):
    from lmlab.evaluation.rewards import right

    def reference(text, wanted):
        return right([[{"content": text}]], [wanted], [0.0], [""])[0]

    def spoken(text):
        return text.rsplit("</think>", 1)[-1]

    compare(
        answer,
        reference,
        _ANSWERS,
        {
            "A hole: the number may stand in the thought, and the answer be another.": lambda text, wanted: (
                float(float(wanted) in _found(text))
            ),
            "A hole: 17 has a 7 in it. Compare numbers, and only the one that is the answer.": lambda text, wanted: (
                float(wanted in text)
            ),
            "A hole: 17 has a 7 in it. Compare numbers.": lambda text, wanted: float(wanted in spoken(text)),
            "A hole: who names many numbers behind the thought names the right one too.": lambda text, wanted: (
                float(float(wanted) in _found(spoken(text)))
            ),
            "Compare numbers, not texts: 7.0 is 7.": lambda text, wanted: float(
                re.findall(r"-?\d+(?:\.\d+)?", spoken(text))[-1:] == [wanted]
            ),
        },
    )
    return "Whatever the reward pays for is what you get. `rewards.right` reads units and fractions as well."
