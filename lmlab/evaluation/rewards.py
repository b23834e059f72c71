"""Rewards of answers that can be checked, and what a group of answers to one problem teaches (GRPO)."""

import re
import statistics
from collections.abc import Sequence
from math import comb

from lmlab.data.answers import answers_match, arithmetic, extract_answer, grade_response

_NUMBER = r"\(*-?\d[\d.,]*\)*"
_SUM = re.compile(rf"(?<![\w.])({_NUMBER}(?:\s*[-+*x/]\s*{_NUMBER})+)\s*=\s*(-?[\d.,]*\d)")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "$": ""})


# --- rewards, as TRL's GRPOTrainer calls them --------------------------------------------------------


def accuracy_reward(
    completions: Sequence[list[dict]],
    answer: Sequence[str],
    tolerance: Sequence[float],
    unit: Sequence[str],
    **_: object,
) -> list[float]:
    """Whether each final answer is the expected one (``answers.answers_match``).

    Args:
        completions: A list of messages each, the last of which is the model's.
        answer: What is expected; this and the next two come from the rows of ``reasoning.reasoning_rows``.
        tolerance: Relative error that is allowed.
        unit: Of the answer; "": none.

    Returns:
        1.0 or 0.0 for each completion.
    """
    return [
        float(answers_match(extract_answer(completion[-1]["content"]), *wanted))
        for completion, *wanted in zip(completions, answer, tolerance, unit, strict=True)
    ]


def format_reward(completions: Sequence[list[dict]], answer: Sequence[str], **_: object) -> list[float]:
    """Whether each completion is in reasoning format (``answers.grade_response``), correct or not: 1.0 or
    0.0.
    """
    return [
        float(grade_response(completion[-1]["content"], wanted)["format_valid"])
        for completion, wanted in zip(completions, answer, strict=True)
    ]


# --- what a group teaches ----------------------------------------------------------------------------


def zero_variance_fraction(hits: Sequence[Sequence[bool]]) -> float:
    """The fraction of groups (n_problems, group) whose answers are all correct or all wrong: they teach
    nothing.
    """
    return statistics.fmean(len(set(map(bool, group))) == 1 for group in hits)


def pass_at_k(hits: Sequence[Sequence[bool]], k: int) -> float:
    """How often at least one of ``k`` samples is correct, estimated from n samples of each problem.

    Of all ways to take k of the n, those without a correct one are counted; taking the first k would waste
    the others. Source: Chen et al. 2021, section 2.1.

    Args:
        hits: Whether each sample is correct, (n_problems, n).
        k: From 1 to n.
    """
    # comb(n, k) ways to take k samples, of which comb(n - c, k) have none of the c correct ones
    return statistics.fmean(1 - comb(len(group) - sum(group), k) / comb(len(group), k) for group in hits)


# --- does the answer follow from the reasoning? ------------------------------------------------------


def consistency_reward(text: str) -> bool:
    """Whether the reasoning holds: it has calculations, all are true (to 1%), the last gives the final
    answer.

    A correct answer whose reasoning does not hold was guessed, or the reward was got by a trick. Whether the
    calculations are those that the problem asks for, it does not see, and those in words ("half of 20 is 10")
    it does not read.
    """
    # the first tag ends the reasoning: the answer may repeat a calculation, which proves nothing
    reasoning = re.sub(r"\\(times|cdot)\b", "*", text.partition("</think>")[0]).translate(_SIGNS)
    calculations = _SUM.findall(reasoning)
    # 1%: a solution may round what it goes on with
    for expression, said in calculations:
        value = arithmetic(expression)
        if value is None or not answers_match(said, str(value), 0.01):
            return False
    return bool(calculations) and answers_match(extract_answer(text), calculations[-1][1])
