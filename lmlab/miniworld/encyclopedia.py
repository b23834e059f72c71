"""The encyclopedia of the village, in WikiText's form: a title between equals signs, then plain sentences.

It tells in third person and present tense what the stories only show, so a model pretrained on stories
finds the words familiar and the facts and form new. Each entry carries its exact log-probability.
"""

from lmlab.miniworld.grammar import Draw
from lmlab.miniworld.stories import person
from lmlab.miniworld.world import VILLAGE, Theme, World


def thing_entry(d: Draw, world: World) -> str:
    theme = d.zipf(world.themes)
    thing = d.zipf(theme.objects)
    colours = d.zipf(world.colours), d.zipf(world.colours)
    return (
        f" = {thing.capitalize()} = \n\n The {thing} is one of the {len(theme.objects)} things of the {theme.place}. "
        f"It is {theme.made} by the {theme.trade}. Most of them are {d.zipf(world.qualities)} and {colours[0]}, "
        f"a few are {colours[1]}. It costs {d.zipf(world.numbers)} coins. "
        f"People who are {theme.feeling} come for it."
    )


def person_entry(d: Draw, world: World) -> str:
    name, pronoun = person(d, world)
    theme: Theme = d.zipf(world.themes)
    relative = d.choice(world.relatives_f if pronoun == "she" else world.relatives_m)
    other, _ = person(d, world)
    return (
        f" = {name} the {theme.trade} = \n\n {name} is a {theme.trade} of the village. {pronoun.capitalize()} works at "
        f"the {theme.place}, {d.zipf(world.routes)}, for {d.zipf(world.numbers)} years now, and is the {relative} "
        f"of {other}. The first {d.zipf(theme.objects)} of the house was {theme.made} by {name}."
    )


def animal_entry(d: Draw, world: World) -> str:
    animal, action = d.zipf(world.animals)
    weather, path = d.choice(world.weather)
    return (
        f" = {animal.capitalize()} = \n\n The {animal} is an animal of the valley. It is {d.zipf(world.colours)} and "
        f"lives {d.zipf(world.routes)}. It is seen on {weather} days, when the path is {path}. "
        f"In the year of the {d.zipf(world.qualities)} winter {d.zipf(world.numbers)} of them {action}."
    )


def entry(d: Draw, world: World = VILLAGE) -> str:
    """One entry: a thing, a person or an animal."""
    kind = d.choice(("thing", "person", "animal"), (3, 2, 1))
    return {"thing": thing_entry, "person": person_entry, "animal": animal_entry}[kind](d, world)


def title(text: str) -> str:
    return text.split("=")[1].strip()
