"""HellaSwag-format items: one ending follows from the world's rules, three are fluent but false.

Keys as in Rowan/hellaswag (Zellers et al. 2019): ind, activity_label, ctx_a, ctx_b, ctx, endings, label, split.
Half of the items have one person: the wrong endings are another need's way and end with the thing at hand, the right
way with a thing that was not given, and another need's whole ending. The others have two people with different needs:
there the endings name one of them, and the right one must be found by what the place is for.
"""

from lmlab.miniworld.grammar import Draw, stream
from lmlab.miniworld.stories import Scene, ending, scene
from lmlab.miniworld.world import VILLAGE, World


def wrong_endings(d: Draw, world: World, s: Scene) -> list[str]:
    """Three endings that break the rules, each in its own way; without the subject."""
    others = [theme for theme in world.themes if theme != s.theme]
    first = d.choice(others)
    second = d.choice([theme for theme in others if theme != first])
    things = [thing for thing in s.theme.objects if thing != s.thing]
    return [ending(first, s.thing), ending(s.theme, d.choice(things)), ending(second, d.choice(second.objects))]


def wrong_endings_of_two(d: Draw, s: Scene) -> list[str]:
    """The wrong one's need met, a thing that was not given, and the companion's need, for which this is not the place."""
    things = [thing for thing in s.theme.objects if thing != s.thing]
    return [f"{s.companion} {ending(s.theme, s.thing)}", f"{s.hero} {ending(s.theme, d.choice(things))}",
            f"{s.companion} {ending(s.other_theme, d.choice(s.other_theme.objects))}"]


def item(d: Draw, world: World = VILLAGE) -> dict:
    """One item; ``label`` (0 to 3) is the place of the right ending."""
    s, *_ = scene(d, world, together=d.choice((True, False)))
    label = d.choice(range(4))
    right = ending(s.theme, s.thing)
    if s.companion is None:
        endings, begin = wrong_endings(d, world, s), s.subject
    else:
        endings, begin, right = wrong_endings_of_two(d, s), "Then", f"{s.hero} {right}"
    endings.insert(label, right)
    return {"activity_label": f"At the {s.theme.place}", "ctx_a": s.context, "ctx_b": begin,
            "ctx": f"{s.context} {begin}", "endings": endings, "label": label}


def rows(split: str, n: int, seed: int) -> list[dict]:
    """``n`` items in a fixed order."""
    rng = stream("hellaswag", split, seed)
    return [{"ind": i, **item(Draw(rng)), "split": split} for i in range(n)]
