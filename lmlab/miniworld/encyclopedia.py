"""The encyclopedia of the village, in WikiText's form: a title between equals signs, then plain sentences.

It tells in the third person and present tense what the stories only show: to a model pretrained on stories
the words are familiar, the facts and the form are new. Each entry carries its exact log-probability.
"""

from lmlab.miniworld.grammar import Sampler
from lmlab.miniworld.stories import person
from lmlab.miniworld.world import VILLAGE, World


def _thing_entry(rng: Sampler, world: World) -> str:
    theme = rng.zipf(world.themes)
    thing = rng.zipf(theme.objects)
    # may be the same color: two samples, each with its own probability
    most, few = rng.zipf(world.colors), rng.zipf(world.colors)
    return (
        f" = {thing.capitalize()} = \n\n "
        f"The {thing} is one of the {len(theme.objects)} things of the {theme.place}. "
        f"It is {theme.made} by the {theme.trade}. "
        f"Most of them are {rng.zipf(world.qualities)} and {most}, a few are {few}. "
        f"It costs {rng.zipf(world.numbers)} coins. People who are {theme.feeling} come for it."
    )


def _person_entry(rng: Sampler, world: World) -> str:
    # f-strings sample from left to right, so the order of the text is that of the choices
    name, pronoun = person(rng, world)
    theme = rng.zipf(world.themes)
    relative = rng.choice(world.female_relatives if pronoun == "she" else world.male_relatives)
    other, _ = person(rng, world)
    return (
        f" = {name} the {theme.trade} = \n\n {name} is a {theme.trade} of the village. "
        f"{pronoun.capitalize()} works at the {theme.place}, {rng.zipf(world.routes)}, "
        f"for {rng.zipf(world.numbers)} years now, and is the {relative} of {other}. "
        f"The first {rng.zipf(theme.objects)} of the house was {theme.made} by {name}."
    )


def _animal_entry(rng: Sampler, world: World) -> str:
    animal, action = rng.zipf(world.animals)
    weather, path = rng.choice(world.weather)
    return (
        f" = {animal.capitalize()} = \n\n The {animal} is an animal of the valley. "
        f"It is {rng.zipf(world.colors)} and lives {rng.zipf(world.routes)}. "
        f"It is seen on {weather} days, when the path is {path}. "
        f"In the year of the {rng.zipf(world.qualities)} winter {rng.zipf(world.numbers)} of them {action}."
    )


def entry(rng: Sampler, world: World = VILLAGE) -> str:
    """One entry: a thing, a person or an animal."""
    # the title tells the kind, so no two kinds give one text
    write = rng.choice((_thing_entry, _person_entry, _animal_entry), (3, 2, 1))
    return write(rng, world)
