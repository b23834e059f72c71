"""HellaSwag-format items: one ending follows from the world's rules, three are fluent but false.

Keys as in Rowan/hellaswag (Zellers et al. 2019): ind, activity_label, ctx_a, ctx_b, ctx, endings, label,
split. Half of the items have one person: the endings are two needs with two of their things each. The others have two
people with different needs: the endings name one of them and one of two things, and whose need is met must be found by
what the place is for. Each part stands in two endings, so without the context there is nothing to choose by: blind
chance is 25%.
"""

from lmlab.miniworld.grammar import Draw, stream
from lmlab.miniworld.stories import Scene, ending, scene
from lmlab.miniworld.world import VILLAGE, World


def _two(d: Draw, options, first):
    """``first`` and another of ``options``."""
    return first, d.zipf([option for option in options if option != first])


def crossed_endings(d: Draw, world: World, s: Scene) -> list[str]:
    """The four endings, the right one first: two needs with two things each, or two people with two things."""
    things = _two(d, s.theme.objects, s.thing)
    if s.companion is not None:
        return [f"{name} {ending(s.theme, thing)}" for name in (s.hero, s.companion) for thing in things]
    _, other = _two(d, world.themes, s.theme)
    return [
        *(ending(s.theme, thing) for thing in things),
        *(ending(other, thing) for thing in _two(d, other.objects, d.zipf(other.objects))),
    ]


def item(d: Draw, world: World = VILLAGE) -> dict:
    """One item; ``label`` (0 to 3) is the place of the right ending."""
    together = d.choice((True, False))
    s, _, helper, _ = scene(d, world, together)
    while helper in (s.hero, s.companion):  # two of one name would make two endings right
        s, _, helper, _ = scene(d, world, together)
    label = d.choice(range(4))
    right, *endings = crossed_endings(d, world, s)
    endings.insert(label, right)
    begin = "Then" if together else s.subject
    return {
        "activity_label": f"At the {s.theme.place}",
        "ctx_a": s.context,
        "ctx_b": begin,
        "ctx": f"{s.context} {begin}",
        "endings": endings,
        "label": label,
    }


def rows(split: str, n: int, seed: int) -> list[dict]:
    """``n`` items in a fixed order."""
    rng = stream("hellaswag", split, seed)
    return [{"ind": i, **item(Draw(rng)), "split": split} for i in range(n)]
