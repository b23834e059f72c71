"""Small talk in R1's chat form, answered at once: what a base knows of conversations before lesson 06.

The thought is empty, the usual way to have a reasoning model not reason: the model sees every mark of the chat
template, but never a thought, and no word problem that is asked.
"""

from lmlab.miniworld import problems
from lmlab.miniworld.grammar import Draw
from lmlab.miniworld.world import VILLAGE, World

BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"


def about_the_village(d: Draw, world: World = VILLAGE) -> tuple[str, str]:
    """(question, answer) on a rule of the world."""
    theme = d.zipf(world.themes)
    return d.choice(
        (
            (f"Who works at the {theme.place}?", f"The {theme.trade} works at the {theme.place}."),
            (f"Where does one go when {theme.feeling}?", f"To the {theme.place}."),
            (
                f"Where is the {d.zipf(theme.objects)} to be had?",
                f"At the {theme.place}, from the {theme.trade}.",
            ),
        )
    )


def about_a_sum(d: Draw) -> tuple[str, str]:
    """(question, answer) on one sum."""
    question, result = problems.bare_sum(d).removesuffix(".").split(" = ")
    return f"What is {question}?", f"The answer is {result}."


def chat(d: Draw) -> str:
    """One question and its answer, without the end mark, which whoever packs documents puts after each."""
    question, answer = (
        about_the_village(d) if d.choice(("village", "sum"), (2, 1)) == "village" else about_a_sum(d)
    )
    return f"{BEGIN}{USER}{question}{ASSISTANT}<think>\n</think>\n\n{answer}"
