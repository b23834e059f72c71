"""Small talk in R1's chat format, answered at once: what a base knows of conversations before lesson 06.

The reasoning is empty, the usual way to have a reasoning model not reason: the model sees every special token
of the chat template, but never any reasoning, and no word problem that is asked.
"""

from bases.textbook import bare_step
from lmlab.miniworld.grammar import Sampler
from lmlab.miniworld.world import VILLAGE, World

BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"


def about_the_village(rng: Sampler, world: World = VILLAGE) -> tuple[str, str]:
    """(question, answer) on a rule of the world."""
    theme = rng.zipf(world.themes)
    thing = rng.zipf(theme.objects)
    # read off the theme's row, so every answer is true in the world of the stories
    exchanges = (
        (f"Who works at the {theme.place}?", f"The {theme.trade} works at the {theme.place}."),
        (f"Where does one go when {theme.feeling}?", f"To the {theme.place}."),
        (f"Where is the {thing} to be had?", f"At the {theme.place}, from the {theme.trade}."),
    )
    return rng.choice(exchanges)


def about_arithmetic(rng: Sampler) -> tuple[str, str]:
    """(question, answer) on one calculation."""
    question, result = bare_step(rng).removesuffix(".").split(" = ")
    return f"What is {question}?", f"The answer is {result}."


def chat(rng: Sampler) -> str:
    """One question and its answer, without EOS, which whoever packs documents puts after each."""
    # mostly about the village, so that questions are not a signal for numbers
    ask = rng.choice((about_the_village, about_arithmetic), (2, 1))
    question, answer = ask(rng)
    return f"{BEGIN}{USER}{question}{ASSISTANT}<think>\n</think>\n\n{answer}"
