"""Lesson 06: the reasoning format, what contributes to the loss in a conversation, and majority votes."""

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from lmlab.exercises.judging import EXERCISES, Mistake, call_each, check_kind, compare, exercise
from lmlab.models import IGNORE_INDEX


@exercise("06.1")
def format_valid(answer: Any) -> None:
    """Whether a response has the reasoning format."""
    mistakes = {
        "empty_reasoning": partial(_is_valid, needs_reasoning=False),
        "second_tag": partial(_is_valid, one_tag=False),
        "answer_in_reasoning": partial(_is_valid, answer_after_tag=False),
        # both at once: a function is told a mistake only if it explains all cases
        "empty_reasoning_and_second_tag": partial(_is_valid, needs_reasoning=False, one_tag=False),
        "tag_alone": lambda text: "</think>" in text,
        "correctness_required": lambda text: all(_grade(text)),
    }
    cases = [(text,) for text in EXERCISES["06.1"].cases]
    compare(answer, lambda text: _grade(text)[0], cases, mistakes)


def _grade(text: str) -> tuple[bool, bool]:
    """Whether a response is format-valid, and whether it is correct."""
    from lmlab.data.answers import grade_response

    grade = grade_response(text, "7")
    return grade["format_valid"], grade["correct"]


def _is_valid(
    text: str, needs_reasoning: bool = True, one_tag: bool = True, answer_after_tag: bool = True
) -> bool:
    # the chat template may have opened the reasoning already, so the tag at the start is optional
    reasoning, tag, spoken = text.removeprefix("<think>").partition("</think>")
    if not tag:
        return False
    if needs_reasoning and not reasoning.strip():
        return False
    if one_tag and "</think>" in spoken:
        return False
    return "answer is" in (spoken if answer_after_tag else text)


@exercise("06.2")
def conversation_labels(answer: Any) -> None:
    """The labels of a conversation of which the assistant's turns are learned."""
    mistakes = {
        "nothing_masked": partial(_labels, learned=("system", "user", "assistant")),
        # all turns but the last count as the user's
        "last_turn_only": lambda turns: _labels([("user", ids) for _, ids in turns[:-1]] + turns[-1:]),
        "end_masked": partial(_labels, learns_end=False),
        "wrong_roles": partial(_labels, learned=("system", "user")),
    }
    compare(answer, _labels, EXERCISES["06.2"].cases, mistakes)


def _labels(
    turns: Sequence[tuple[str, list[int]]], learned: Sequence[str] = ("assistant",), learns_end: bool = True
) -> list[int]:
    labels = []
    for role, ids in turns:
        if role not in learned:
            labels += [IGNORE_INDEX] * len(ids)
        elif learns_end:
            labels += ids
        else:
            # without the end of a turn the model never learns to stop
            labels += [*ids[:-1], IGNORE_INDEX]
    return labels


@exercise("06.3")
def vote_wins(answer: Any) -> None:
    """The probability that a majority vote is correct, if no two wrong answers agree."""
    mistakes = {
        # more than half of all, as if wrong answers agreed
        "majority": lambda p, n: _probability(p, n, range(n // 2 + 1, n + 1)),
        "one_is_enough": lambda p, n: _probability(p, n, range(1, n + 1)),
        "exactly_two": lambda p, n: _probability(p, n, [2]),
    }
    compare(answer, _wins, [(0.75, 5), (0.5, 3), (0.3, 8), (0.9, 2)], mistakes)


def _wins(p: float, n: int) -> float:
    """By enumeration of all outcomes of n samples, so that no formula is taken on trust."""
    total = 0.0
    for outcome in itertools.product((True, False), repeat=n):
        n_correct = sum(outcome)
        if n_correct >= 2:
            total += p**n_correct * (1 - p) ** (n - n_correct)
    return total


def _probability(p: float, n: int, numbers: Iterable[int]) -> float:
    """That the number of correct answers among n is one of ``numbers``."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in numbers)


@exercise("06.4")
def vote(answer: Any) -> None:
    """The answer of the majority, where "1/2" and "0.5" are one answer."""
    from lmlab.data.answers import answers_match, majority_vote

    cases = EXERCISES["06.4"].cases
    # not by ``compare``: any spelling of the right value is a right answer
    results = call_each(answer, [(votes,) for votes in cases], if_none="none_counted")
    for result in results:
        check_kind(result, "", "your function's result")
    wrong = [i for i, votes in enumerate(cases) if not answers_match(results[i], majority_vote(votes))]
    if not wrong:
        return
    # compares spellings: right where all votes are written alike
    if all(answers_match(result, _most_common(votes)) for result, votes in zip(results, cases, strict=True)):
        raise Mistake("texts_counted")
    votes, got = cases[wrong[0]], results[wrong[0]]
    raise Mistake("not_the_most_votes", votes=votes, got=got, wanted=majority_vote(votes))


def _most_common(votes: Sequence[str | None]) -> str:
    # a sample without an answer votes for nobody
    given = [vote for vote in votes if vote]
    return max(given, key=given.count)
