"""Stories: somebody needs something, goes where it can be had, and the need ends.

Every story is sampled with its exact log-probability, so the entropy of the language is known. The texts are
unambiguous: no two ways of choosing give the same story. In some stories two people with different needs go
together, and the place tells whose need is met: to name the right one, a model must tie a name to a feeling
and the feeling to a place.
"""

from dataclasses import dataclass

from lmlab.miniworld.grammar import Sampler
from lmlab.miniworld.tables import indefinite_article
from lmlab.miniworld.world import VILLAGE, Theme, World

TOGETHER_FRACTION = 0.3  # of the stories have two people
OBJECT_PRONOUN = {"she": "her", "he": "him", "they": "them"}


@dataclass(frozen=True)
class Scene:
    """What a story has fixed before its need is met; a HellaSwag item continues from here."""

    hero: str  # whose need is met
    pronoun: str  # of the hero: "she" or "he"
    theme: Theme  # of the need that is met
    companion: str | None  # who came along, with another need
    thing: str
    helper: str
    animal: str | None  # that was met on the way
    later: str  # the time of day that follows
    context: str  # sentences up to and including the offer

    @property
    def subject(self) -> str:
        """How the next sentence begins: "She", "He" or "Then Ada"."""
        return self.pronoun.capitalize() if self.companion is None else f"Then {self.hero}"


def person(rng: Sampler, world: World = VILLAGE, besides: str | None = None) -> tuple[str, str]:
    """(name, pronoun) of somebody other than ``besides``."""
    pronoun = rng.choice(("she", "he"))
    names = world.women if pronoun == "she" else world.men
    return rng.zipf([name for name in names if name != besides]), pronoun


def opening(rng: Sampler, world: World, who: str) -> tuple[str, str, str]:
    """(first sentence, state of the path, time of day that follows). who: "Ada was cold" or "... and ..."."""
    weather, path = rng.zipf(world.weather)
    daytime, later = rng.choice(world.daytimes)
    # three forms of one fact, so that a model must read and not only count positions
    sentences = (
        f"One {weather} {daytime} {who}.",
        f"{who} one {weather} {daytime}.",
        f"It was {indefinite_article(weather)} {weather} {daytime} and {who}.",
    )
    return rng.choice(sentences, (3, 2, 1)), path, later


def journey(rng: Sampler, world: World, walker: str, place: str, path: str) -> tuple[str, str | None]:
    """(the sentences about the way, the animal that was met or None). walker: "she", "he" or "they"."""
    move, route = rng.zipf(world.moves), rng.zipf(world.routes)
    text = f"So {walker} {move} {route} to the {place}."
    event = rng.choice(("none", "path", "animal"), (2, 1, 1))
    if event == "path":
        return f"{text} The path was {path}.", None
    if event == "animal":
        animal, action = rng.zipf(world.animals)
        return f"{text} On the way a {rng.zipf(world.colors)} {animal} {action}.", animal
    return text, None


def offer(rng: Sampler, world: World, theme: Theme, walker: str) -> tuple[str, str, str]:
    """(the sentence in which the trade gives the thing, the thing, the name of the helper)."""
    helper, _ = person(rng, world)
    thing = rng.zipf(theme.objects)
    quality = rng.zipf(world.qualities)
    receiver = OBJECT_PRONOUN[walker]
    if rng.choice(("gift", "sale")) == "gift":
        deal = f"gave {receiver} the {quality} {thing} that was {theme.made} there"
    else:
        deal = f"sold {receiver} the {quality} {thing} for {rng.zipf(world.numbers)} coins"
    return f"The {theme.trade}, {helper}, {deal}.", thing, helper


def scene(rng: Sampler, world: World = VILLAGE, together: bool | None = None) -> Scene:
    """Everything before the need is met. together: whether two people go; None samples it."""
    if together is None:
        together = rng.choice((True, False), (TOGETHER_FRACTION, 1 - TOGETHER_FRACTION))
    people, themes = [person(rng, world)], [rng.zipf(world.themes)]
    met = 0  # whose need is met
    if together:
        people.append(person(rng, world, besides=people[0][0]))
        themes.append(rng.zipf([theme for theme in world.themes if theme != themes[0]]))
        met = rng.choice((0, 1))
    (hero, pronoun), theme = people[met], themes[met]
    # both needs are told before the place, which alone decides whose is met
    needs = [f"{name} was {theme.feeling}" for (name, _), theme in zip(people, themes, strict=True)]
    walker = "they" if together else pronoun
    first, path, later = opening(rng, world, " and ".join(needs))
    way, animal = journey(rng, world, walker, theme.place, path)
    given, thing, helper = offer(rng, world, theme, walker)
    companion = people[1 - met][0] if together else None
    context = f"{first} {way} {given}"
    return Scene(hero, pronoun, theme, companion, thing, helper, animal, later, context)


def ending(theme: Theme, thing: str) -> str:
    """How a need ends, as a continuation after the subject: 'ate the loaf and was full.'"""
    return f"{theme.use} the {thing} and {theme.outcome}."


def closing(rng: Sampler, world: World, s: Scene) -> str:
    """The last sentence, which looks back at something said before."""
    # what was mentioned comes back: a model that attends to the journey can foresee it
    if s.animal is not None:
        return f"The {s.animal} followed {s.hero} home."
    form = rng.choice(("home", "thanks", "wave"))
    if form == "home":
        possessive = "her" if s.pronoun == "she" else "his"
        relative = rng.zipf(world.female_relatives + world.male_relatives)
        return f"By {s.later} {s.hero} was home with {possessive} {relative}."
    manner = rng.zipf(world.manners)
    if form == "thanks":
        return f"Then {s.hero} thanked {s.helper} {manner}."
    return f"{s.helper} waved {manner} to {s.hero}."


def story(rng: Sampler, world: World = VILLAGE) -> str:
    """One story of four to six sentences."""
    s = scene(rng, world)
    return f"{s.context} {s.subject} {ending(s.theme, s.thing)} {closing(rng, world, s)}"
