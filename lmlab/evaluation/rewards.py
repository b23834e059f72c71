"""Rewards of answers that can be checked, and what a group of answers to one problem teaches (GRPO)."""

import re
import statistics
from collections.abc import Sequence
from math import comb

from lmlab.data.answers import answers_match, arithmetic, extract_answer, grade_response

_EPSILON = 1e-4  # keeps the division of a group without spread from failing; TRL's
_NUMBER = r"\(*-?\d[\d.,]*\)*"
_SUM = re.compile(rf"(?<![\w.])({_NUMBER}(?:\s*[-+*x/]\s*{_NUMBER})+)\s*=\s*(-?[\d.,]*\d)")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "$": ""})


# --- rewards, as TRL's GRPOTrainer calls them --------------------------------------------------------


def right(
    completions: Sequence[list[dict]],
    answer: Sequence[str],
    tolerance: Sequence[float],
    unit: Sequence[str],
    **_,
) -> list[float]:
    """1 for each conversation whose final answer is the expected one (``answers.answers_match``), else 0.

    completions: one list of messages each; the other columns come from the rows of ``reasoning.reasoning_rows``.
    """
    return [
        float(answers_match(extract_answer(_spoken(completion)), *wanted))
        for completion, *wanted in zip(completions, answer, tolerance, unit, strict=True)
    ]


def form(completions: Sequence[list[dict]], answer: Sequence[str], **_) -> list[float]:
    """1 for each conversation in think form (``answers.grade_response``), right or wrong, else 0."""
    return [
        float(grade_response(_spoken(completion), wanted)["format_valid"])
        for completion, wanted in zip(completions, answer, strict=True)
    ]


def _spoken(completion: list[dict]) -> str:
    return completion[-1]["content"]


# --- what a group teaches ----------------------------------------------------------------------------


def group_advantages(rewards: Sequence[float], group: int, scale: bool = True) -> list[float]:
    """How much better each answer is than its group: reward less mean, over the standard deviation (n - 1).

    rewards: those of ``group`` answers to one problem stand together. scale False leaves out the division, as
    Dr. GRPO (Liu et al. 2025) does. Source: Shao et al. 2024, section 4.1; TRL adds 0.0001 to the deviation.
    """
    if group < 2 or len(rewards) % group:
        raise ValueError(
            f"group_advantages got {len(rewards)} rewards in groups of {group}; give a multiple "
            "of group, which is 2 or more"
        )
    advantages = []
    for start in range(0, len(rewards), group):
        members = rewards[start : start + group]
        mean = statistics.fmean(members)
        spread = statistics.stdev(members) + _EPSILON if scale else 1.0
        advantages += [(reward - mean) / spread for reward in members]
    return advantages


def zero_variance_fraction(hits: Sequence[Sequence[bool]]) -> float:
    """The share of groups (n_problems, group) whose answers are all right or all wrong: they teach nothing."""
    return statistics.fmean(len(set(map(bool, group))) == 1 for group in hits)


def pass_at_k(hits: Sequence[Sequence[bool]], k: int) -> float:
    """How often at least one of ``k`` samples is right, from n samples of each problem, (n_problems, n).

    Of all ways to take k of the n, those without a right one are counted; taking the first k would waste the
    others. Source: Chen et al. 2021, section 2.1. Raises ValueError for more samples than there are.
    """
    if not 1 <= k <= min(map(len, hits)):
        raise ValueError(f"pass_at_k got k={k} and {min(map(len, hits))} samples; give 1 <= k <= samples")
    return statistics.fmean(1 - comb(len(group) - sum(group), k) / comb(len(group), k) for group in hits)


# --- is the thought what gives the answer? -----------------------------------------------------------


def sound(text: str) -> bool:
    """Whether the thought holds: it has sums, all are true (to 1%), and the last gives the final answer.

    A right answer whose thought does not hold was guessed, or the reward was got by a trick. Whether the sums
    are those that the problem asks for, it does not see, and sums in words ("half of 20 is 10") it does not read.
    """
    thought = re.sub(r"\\(times|cdot)\b", "*", text.partition("</think>")[0]).translate(_SIGNS)
    sums = [(arithmetic(left), same) for left, same in _SUM.findall(thought)]
    if not sums or any(value is None or not answers_match(said, str(value), 0.01) for value, said in sums):
        return False
    return answers_match(extract_answer(text), sums[-1][1])
