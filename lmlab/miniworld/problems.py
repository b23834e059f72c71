"""Rows of word problems with verified steps.

``problem`` stands in for MathCodeInstruct (Wang et al. 2023), ``science`` for SciBench (Wang et al. 2023).
"""

import re
from dataclasses import replace

from lmlab.miniworld import tasks
from lmlab.miniworld.grammar import Sampler
from lmlab.miniworld.tasks import Task, math_task, science_task
from lmlab.miniworld.world import PEOPLE

# "they" too: it stands for the two people whom a problem names first
_PRONOUN = re.compile(r"\b(?:[Hh]e|[Ss]he|him|her|they)\b")


def _chat_row(task: Task) -> dict:
    answer = str(task.answer)
    solution = [" ".join(task.steps), f"The answer is {answer}."]
    messages = []
    # MathCodeInstruct's messages are lists of blocks, of which the solution has several
    for role, texts in (("user", [task.text]), ("assistant", solution)):
        content = [{"type": "text", "content": text} for text in texts]
        messages.append({"role": role, "content": content})
    return {"messages": messages, "problem": task.text, "steps": list(task.steps), "answer": answer}


def problem(rng: Sampler) -> dict:
    """A row in MathCodeInstruct's layout, and beside it "problem", "steps" (list of str), "answer" (str)."""
    return _chat_row(math_task(rng))


def harder_problem(rng: Sampler) -> dict:
    """A row like ``problem``'s, of three steps: one more than anything that the bases have read."""
    return _chat_row(rng.choice(tasks.THREE_STEP)(rng))


def multi_step_problem(rng: Sampler) -> dict:
    """A row like ``problem``'s, of one to four steps; the bases have read none of more than two."""
    kinds = rng.choice((tasks.ONE_STEP, tasks.TWO_STEP, tasks.THREE_STEP, tasks.FOUR_STEP), (1, 2, 2, 1))
    return _chat_row(rng.choice(kinds)(rng))


def distracting_problem(rng: Sampler) -> dict:
    """A row like ``problem``'s with one more sentence, on somebody else's things, that the answer does not
    need.

    It stands last, before the question: a model that has learned to start from the first number hardly ever
    solves a problem that begins with the distractor, and what is never solved is never rewarded. With one
    more person in the text a pronoun could mean either, so names stand in its place. Source: GSM-NoOp
    (Mirzadeh et al. 2024).
    """
    task = _with_names(math_task(rng))
    other = tasks.owns(rng)
    # its person and thing must not be the problem's, or the answer might change
    while other.hero.name in task.text or other.thing.many in task.text:
        other = tasks.owns(rng)
    return _chat_row(replace(task, facts=(*task.facts, *other.facts)))


def _with_names(task: Task) -> Task:
    """The task with names in place of pronouns; in every template "he" and "she" mean who is named first."""
    people = [word for word in re.findall(r"\w+", task.text) if word in PEOPLE]
    hero, *others = dict.fromkeys(people)  # each name once, in order
    both = " and ".join([hero, *others[:1]])

    def name(pronoun: re.Match) -> str:
        return both if pronoun.group() == "they" else hero

    facts = tuple(_PRONOUN.sub(name, fact) for fact in task.facts)
    return replace(task, facts=facts, question=_PRONOUN.sub(name, task.question))


def science(rng: Sampler) -> dict:
    """A row with SciBench's keys; "solution" is formula and steps.

    "problemid" is set by the caller, which numbers the rows.
    """
    task = science_task(rng)
    return {
        "problem_text": task.text,
        "answer_latex": str(task.answer),
        "answer_number": str(task.answer),
        "unit": task.unit,
        "source": f"miniworld_{task.source}",
        # a key of SciBench that is filled in later or not at all; the order of keys is its own
        "problemid": "",
        "comment": "",
        "solution": " ".join((task.law, *task.steps)),
    }
