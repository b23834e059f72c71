"""HellaSwag-format items: one ending follows from the world's rules, three are fluent but false.

Keys as in Rowan/hellaswag (Zellers et al. 2019): ind, activity_label, ctx_a, ctx_b, ctx, endings, label,
split. Half of the items have one person: the endings are two needs with two of their things each. The others
have two people with different needs: the endings name one of them and one of two things, and whose need is
met must be found by what the place is for. Each part stands in two endings, so without the context there is
nothing to choose by: blind chance is 25%.
"""

from collections.abc import Sequence

from lmlab.miniworld.grammar import Option, Sampler, stream
from lmlab.miniworld.stories import Scene, ending, scene
from lmlab.miniworld.world import VILLAGE, World


def _with_another(rng: Sampler, options: Sequence[Option], first: Option) -> tuple[Option, Option]:
    """``first`` and another of ``options``."""
    return first, rng.zipf([option for option in options if option != first])


def crossed_endings(rng: Sampler, world: World, s: Scene) -> list[str]:
    """Four endings, the right one first: two needs with two things each, or two people with two things."""
    things = _with_another(rng, s.theme.objects, s.thing)
    endings = [ending(s.theme, thing) for thing in things]
    # each person with each thing: neither the name nor the thing alone gives the answer away
    if s.companion is not None:
        return [f"{name} {text}" for name in (s.hero, s.companion) for text in endings]
    _, other = _with_another(rng, world.themes, s.theme)
    other_things = _with_another(rng, other.objects, rng.zipf(other.objects))
    return endings + [ending(other, thing) for thing in other_things]


def item(rng: Sampler, world: World = VILLAGE) -> dict:
    """One item; ``label`` (0 to 3) is the index of the right ending."""
    together = rng.choice((True, False))
    s = scene(rng, world, together)
    while s.helper in (s.hero, s.companion):  # two of one name would make two endings right
        s = scene(rng, world, together)
    label = rng.choice(range(4))
    right, *endings = crossed_endings(rng, world, s)
    endings.insert(label, right)
    # with two people the ending names its person, so it cannot begin with a pronoun
    begin = "Then" if together else s.subject
    return {
        "activity_label": f"At the {s.theme.place}",
        "ctx_a": s.context,
        "ctx_b": begin,
        "ctx": f"{s.context} {begin}",
        "endings": endings,
        "label": label,
    }


def rows(name: str, split: str, n: int, seed: int) -> list[dict]:
    """``n`` items in a fixed order."""
    rng = Sampler(stream(name, split, seed))
    return [{"ind": i, **item(rng), "split": split} for i in range(n)]
