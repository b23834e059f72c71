"""Stories: somebody needs something, goes where it is to be had, and the need ends.

Every story is drawn with its exact log-probability, so the entropy of the language is known.
The texts are unambiguous: no two ways of choosing give one story.
In some stories two people go together, with different needs, and the place tells whose need is met: to name
the right one, a model must tie a name to a feeling, the feeling to a place, and find its way back.
"""

from dataclasses import dataclass

from lmlab.miniworld.grammar import Draw
from lmlab.miniworld.world import VILLAGE, Theme, World

TOGETHER_SHARE = 0.3  # of the stories have two people


@dataclass(frozen=True)
class Scene:
    """What a story has fixed before its need is met; a HellaSwag item continues from here."""

    hero: str  # whose need is met
    pronoun: str  # of the hero: "she" or "he"
    theme: Theme  # of the need that is met
    companion: str | None  # who came along, with another need
    other_theme: Theme | None
    thing: str
    context: str  # sentences up to and including the offer
    subject: str  # how the next sentence begins: "She", "He" or "Then Ada"


def person(d: Draw, world: World = VILLAGE, besides: str | None = None) -> tuple[str, str]:
    """(name, pronoun), of somebody else than ``besides``."""
    pronoun = d.choice(("she", "he"))
    names = world.women if pronoun == "she" else world.men
    return d.zipf([name for name in names if name != besides]), pronoun


def opening(d: Draw, world: World, who: str) -> tuple[str, str, str]:
    """(first sentence, state of the path, time of day that follows). who: "Ada was cold" or "... and ..."."""
    weather, path = d.zipf(world.weather)
    daytime, after = d.choice(world.daytimes)
    article = "an" if weather[0] in "aeiou" else "a"
    form = d.choice(
        (
            f"One {weather} {daytime} {who}.",
            f"{who} one {weather} {daytime}.",
            f"It was {article} {weather} {daytime} and {who}.",
        ),
        (3, 2, 1),
    )
    return form, path, after


def journey(d: Draw, world: World, walker: str, place: str, path: str) -> tuple[str, str | None]:
    """(the sentences of the way, the animal that was met or None). walker: "she", "he" or "they"."""
    move, route = d.zipf(world.moves), d.zipf(world.routes)
    text = f"So {walker} {move} {route} to the {place}."
    event = d.choice(("none", "path", "animal"), (2, 1, 1))
    if event == "path":
        return f"{text} The path was {path}.", None
    if event == "animal":
        animal, action = d.zipf(world.animals)
        return f"{text} On the way a {d.zipf(world.colours)} {animal} {action}.", animal
    return text, None


def offer(d: Draw, world: World, theme: Theme, walker: str) -> tuple[str, str, str]:
    """(the sentence in which the trade gives the thing, the thing, the name of the helper)."""
    helper, _ = person(d, world)
    thing = d.zipf(theme.objects)
    quality = d.zipf(world.qualities)
    them = {"she": "her", "he": "him", "they": "them"}[walker]
    if d.choice(("gift", "sale")) == "gift":
        deal = f"gave {them} the {quality} {thing} that was {theme.made} there"
    else:
        deal = f"sold {them} the {quality} {thing} for {d.zipf(world.numbers)} coins"
    return f"The {theme.trade}, {helper}, {deal}.", thing, helper


def scene(
    d: Draw, world: World = VILLAGE, together: bool | None = None
) -> tuple[Scene, str | None, str, str]:
    """(scene, animal or None, helper, the time of day that follows). together: two people; None draws it."""
    if together is None:
        together = d.choice((True, False), (TOGETHER_SHARE, 1 - TOGETHER_SHARE))
    people, themes = [person(d, world)], [d.zipf(world.themes)]
    if together:
        people.append(person(d, world, besides=people[0][0]))
        themes.append(d.zipf([theme for theme in world.themes if theme != themes[0]]))
    met = d.choice((0, 1)) if together else 0
    (hero, pronoun), theme = people[met], themes[met]
    who = " and ".join(f"{name} was {t.feeling}" for (name, _), t in zip(people, themes, strict=True))
    walker = "they" if together else pronoun
    first, path, after = opening(d, world, who)
    way, animal = journey(d, world, walker, theme.place, path)
    given, thing, helper = offer(d, world, theme, walker)
    companion, other_theme = (people[1 - met][0], themes[1 - met]) if together else (None, None)
    s = Scene(
        hero,
        pronoun,
        theme,
        companion,
        other_theme,
        thing,
        f"{first} {way} {given}",
        f"Then {hero}" if together else pronoun.capitalize(),
    )
    return s, animal, helper, after


def ending(theme: Theme, thing: str) -> str:
    """How a need ends, as a continuation after the subject: 'ate the loaf and was full.'"""
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
    return f"{s.context} {s.subject} {ending(s.theme, s.thing)} {last}"
