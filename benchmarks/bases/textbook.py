"""Pretraining text of the skills that word problems need, without question-and-answer format."""

from lmlab.miniworld.calculations import LARGEST, MULTIPLICATIONS, step
from lmlab.miniworld.grammar import Sampler
from lmlab.miniworld.splits import split_of
from lmlab.miniworld.tasks import Task, math_task, science_task


def bare_step(rng: Sampler) -> str:
    """A calculation without a story: "3 + 4 = 7."."""
    sign = rng.choice("+-x/", (4, 4, 3, 1))
    if sign in "x/":
        a, b = rng.choice(MULTIPLICATIONS)
        return step(a, "x", b) if sign == "x" else step(a * b, "/", a)
    # the second number keeps the result within 0 to LARGEST
    a = rng.integer(1, LARGEST - 1 if sign == "+" else LARGEST)
    return step(a, sign, rng.integer(1, min(20, LARGEST - a if sign == "+" else a)))


def textbook(rng: Sampler) -> str:
    """Plain text of the same skills: two to six bare calculations, or a story with its steps and its
    conclusion.

    No chat, no reasoning tags. Stories of the validation split never come up, so a base that read this has
    not seen the problems that it is asked.
    """
    if rng.choice(("calculations", "story"), (1, 3)) == "calculations":
        return " ".join(bare_step(rng) for _ in range(rng.integer(2, 6)))
    # what the lessons test must not be in what the bases read
    task = _textbook_task(rng)
    while split_of(task.text) == "validation":
        task = _textbook_task(rng)
    # now and then without its question: plain prose, not an exam
    asked = [task.question] if rng.choice((True, False)) else []
    law = [task.law] if task.law else []
    return " ".join([*task.facts, *asked, *law, *task.steps, task.conclusion])


def _textbook_task(rng: Sampler) -> Task:
    sample_task = rng.choice((math_task, science_task), (5, 1))
    return sample_task(rng)
