"""Lesson 06: thinking in form, what bears loss in a conversation, voting."""

import itertools
import math
import random

from lmlab.exercises.judging import Wrong, alike, calls, compare, exercise
from lmlab.models import IGNORE_INDEX

_THOUGHTS = [
    "3 + 4 = 7.\n</think>\n\nThe answer is 7.",
    "<think>\n3 + 4 = 7.\n</think>\n\nThe answer is 7.",
    "</think>\n\nThe answer is 7.",
    " \n</think>\n\nThe answer is 7.",
    "3 + 4 = 7. The answer is 7.",
    "3 + 4 = 7. The answer is 7.\n</think>\n",
    "3 + 4\n</think>\n7\n</think>\nThe answer is 7.",
    "3 + 4 = 7. The answer is 7.\n</think>\n\n7",
    "3 + 4 = 8.\n</think>\n\nThe answer is 8.",
    "",
    "<think>\n</think>\n\nThe answer is 7.",
]


def _form(thinks=True, once=True, behind=True):
    def judge(text):
        thought, close, spoken = text.removeprefix("<think>").partition("</think>")
        return bool(
            close
            and (thought.strip() or not thinks)
            and ("</think>" not in spoken or not once)
            and "answer is" in (spoken if behind else text)
        )

    return judge


@exercise(
    "06.1",
    "Well-formed",
    "`text.partition('</think>')` gives the thought, the mark and what is said after it.",
    "A `<think>` at the beginning belongs to neither. The thought may not be blank.",
    'A second `</think>` in what is said is wrong, and "answer is" must stand there, not in the thought.',
)
def format_valid(answer):
    from lmlab.data.answers import grade_response

    compare(
        answer,
        lambda text: grade_response(text, "7")["format_valid"],
        [(text,) for text in _THOUGHTS],
        {
            "You let an empty thought pass.": _form(thinks=False),
            "You let a second `</think>` pass.": _form(once=False),
            "You let an answer count that stands only in the thought.": _form(behind=False),
            "You let an empty thought and a second `</think>` pass.": _form(thinks=False, once=False),
            "It takes more than the mark: a thought before it, the answer behind it.": lambda text: (
                "</think>" in text
            ),
            "Form is not truth: an answer may be well-formed and wrong.": lambda text: (
                grade_response(text, "7")["format_valid"] and grade_response(text, "7")["correct"]
            ),
        },
    )
    return "Form and truth are measured apart: each can be learned without the other."


def _labelled(turns, roles=("assistant",), last_only=False, ends=True):
    labels = []
    for i, (role, ids) in enumerate(turns):
        counts = role in roles and (not last_only or i == len(turns) - 1)
        own = ids if ends else [*ids[:-1], IGNORE_INDEX]
        labels += own if counts else [IGNORE_INDEX] * len(ids)
    return labels


@exercise(
    "06.2",
    "What bears loss",
    "Go through the turns: the ids of the assistant's, -100 for all others.",
    "All of the assistant's turns, and of each the last token as well: it says that the turn is over.",
)
def conversation_labels(answer):
    dice = random.Random(0)
    roles = ["system", "user", "assistant", "user", "assistant"]
    cases = [
        ([(role, [dice.randrange(9, 99) for _ in range(dice.randint(2, 5))] + [1]) for role in some],)
        for some in (roles[1:3], roles, roles[1:])
    ]
    compare(
        answer,
        _labelled,
        cases,
        {
            "You mask nothing: the model learns to ask as well.": lambda turns: _labelled(
                turns, ("system", "user", "assistant")
            ),
            "Only the last turn bears loss here; each of the assistant's should.": lambda turns: _labelled(
                turns, last_only=True
            ),
            "The end of the turn is masked: the model would never learn to stop.": lambda turns: _labelled(
                turns, ends=False
            ),
            "You have it the wrong way round: the assistant is to be learned.": lambda turns: _labelled(
                turns, ("system", "user")
            ),
        },
    )
    return "This is what `assistant_only_loss` does, with the marks of the training template."


@exercise(
    "06.3",
    "How often does a vote win?",
    "The chance of exactly k right of n is comb(n, k) p^k (1 − p)^(n − k).",
    "Wrong answers scatter, so two right ones already outvote all others: add up k = 2 to n.",
)
def vote_wins(answer):
    def reference(p, n):
        outcomes = itertools.product((True, False), repeat=n)
        return sum(p ** sum(right) * (1 - p) ** (n - sum(right)) for right in outcomes if sum(right) >= 2)

    def exactly(p, n, ks):
        return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in ks)

    compare(
        answer,
        reference,
        [(0.75, 5), (0.5, 3), (0.3, 8), (0.9, 2)],
        {
            "A majority of all is not needed: no two wrong answers agree, so two right ones win.": lambda p, n: (
                exactly(p, n, range(n // 2 + 1, n + 1))
            ),
            "One right answer is one vote among equals: two are needed.": lambda p, n: exactly(
                p, n, range(1, n + 1)
            ),
            "That is exactly two; more are as good.": lambda p, n: exactly(p, n, [2]),
        },
    )
    return "And where wrong answers agree with each other, a vote makes a wrong habit certain."


@exercise(
    "06.4",
    "Count the votes",
    "Put each answer to the first camp that says the same, or into a camp of its own.",
    '`answers_match(a, b)` from `lmlab.data.answers` says whether "1/2" and "0.5" are the same. None '
    "votes for nobody.",
)
def vote(answer):
    from lmlab.data.answers import answers_match, majority_vote

    cases = [
        ["7", "8", "7"],
        ["1/2", "3", "0.5", "3", "0.50"],
        [None, None, None, "4", "4", "5"],
        ["1,200", "12", "12", "1200", "1200.0"],
        ["9"],
    ]

    def most_common(votes):
        return max(votes, key=votes.count)

    given = [
        alike(one, "")
        for one in calls(
            answer,
            [(case,) for case in cases],
            of_none="None is no vote: it stands for a sample without an answer. Leave it out before you count.",
        )
    ]
    wrong = [
        case for case, got in zip(cases, given, strict=True) if not answers_match(got, majority_vote(case))
    ]
    if wrong and all(
        answers_match(got, most_common([a for a in case if a]))
        for case, got in zip(cases, given, strict=True)
    ):
        raise Wrong('You count texts: "1/2" and "0.5" are votes for one answer.')
    if wrong:
        raise Wrong(
            f"Of {wrong[0]} your function takes {given[cases.index(wrong[0])]!r}; most votes has "
            f"{majority_vote(wrong[0])!r}."
        )
    return "Votes are for values, not for spellings."
