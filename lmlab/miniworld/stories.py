"""Stories: somebody needs something, goes where it is to be had, and the need ends.

Every story is drawn with its exact log-probability, so the entropy of the language is known.
The texts are unambiguous: reading a story from left to right, each choice shows at the place where it is made.
"""

from dataclasses import dataclass

from lmlab.miniworld.grammar import Draw
from lmlab.miniworld.world import VILLAGE, Theme, World


@dataclass(frozen=True)
class Scene:
    """What a story has fixed before its need is met; a HellaSwag item continues from here."""

    hero: str
    pronoun: str  # "she" or "he"
    theme: Theme
    thing: str
    context: str  # sentences up to and including the offer


def person(d: Draw, world: World = VILLAGE) -> tuple[str, str]:
    """(name, pronoun)."""
    pronoun = d.choice(("she", "he"))
    return d.zipf(world.women if pronoun == "she" else world.men), pronoun


def opening(d: Draw, world: World, hero: str, feeling: str) -> tuple[str, str, str]:
    """(first sentence, state of the path, time of day that follows)."""
    weather, path = d.zipf(world.weather)
    daytime, after = d.choice(world.daytimes)
    article = "an" if weather[0] in "aeiou" else "a"
    form = d.choice((
        f"One {weather} {daytime} {hero} was {feeling}.",
        f"{hero} was {feeling} one {weather} {daytime}.",
        f"It was {article} {weather} {daytime} and {hero} was {feeling}.",
    ), (3, 2, 1))
    return form, path, after


def journey(d: Draw, world: World, pronoun: str, place: str, path: str) -> tuple[str, str | None]:
    """(the sentences of the way, the animal that was met or None)."""
    move, route = d.zipf(world.moves), d.zipf(world.routes)
    text = f"So {pronoun} {move} {route} to the {place}."
    event = d.choice(("none", "path", "animal"), (2, 1, 1))
    if event == "path":
        return f"{text} The path was {path}.", None
    if event == "animal":
        animal, action = d.zipf(world.animals)
        return f"{text} On the way a {d.zipf(world.colours)} {animal} {action}.", animal
    return text, None


def offer(d: Draw, world: World, theme: Theme, pronoun: str) -> tuple[str, str, str]:
    """(the sentence in which the trade gives the thing, the thing, the name of the helper)."""
    helper, _ = person(d, world)
    thing = d.zipf(theme.objects)
    quality = d.zipf(world.qualities)
    them = "her" if pronoun == "she" else "him"
    if d.choice(("gift", "sale")) == "gift":
        deal = f"gave {them} the {quality} {thing} that was {theme.made} there"
    else:
        deal = f"sold {them} the {quality} {thing} for {d.zipf(world.numbers)} coins"
    return f"The {theme.trade}, {helper}, {deal}.", thing, helper


def scene(d: Draw, world: World = VILLAGE) -> tuple[Scene, str | None, str, str]:
    """(scene, animal or None, helper, the time of day that follows)."""
    hero, pronoun = person(d, world)
    theme = d.zipf(world.themes)
    first, path, after = opening(d, world, hero, theme.feeling)
    way, animal = journey(d, world, pronoun, theme.place, path)
    given, thing, helper = offer(d, world, theme, pronoun)
    return Scene(hero, pronoun, theme, thing, f"{first} {way} {given}"), animal, helper, after


def ending(theme: Theme, thing: str) -> str:
    """How a need ends, as a continuation after the pronoun: 'ate the loaf and was full.'"""
    return f"{theme.use} the {thing} and {theme.outcome}."


def closing(d: Draw, world: World, s: Scene, animal: str | None, helper: str, after: str) -> str:
    """The last sentence, which looks back at something said before."""
    if animal is not None:
        return f"The {animal} followed {s.hero} home."
    form = d.choice(("home", "thanks", "wave"))
    if form == "home":
        her = "her" if s.pronoun == "she" else "his"
        return f"By {after} {s.hero} was home with {her} {d.zipf(world.relatives_f + world.relatives_m)}."
    manner = d.zipf(world.manners)
    if form == "thanks":
        return f"Then {s.hero} thanked {helper} {manner}."
    return f"{helper} waved {manner} to {s.hero}."


def story(d: Draw, world: World = VILLAGE) -> str:
    """One story of four to six sentences."""
    s, animal, helper, after = scene(d, world)
    last = closing(d, world, s, animal, helper, after)
    return f"{s.context} {s.pronoun.capitalize()} {ending(s.theme, s.thing)} {last}"
