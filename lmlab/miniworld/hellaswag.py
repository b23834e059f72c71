"""HellaSwag-format items: one ending follows from the world's rules, three are fluent but false.

Keys as in Rowan/hellaswag (Zellers et al. 2019): ind, activity_label, ctx_a, ctx_b, ctx, endings, label, split.
The wrong endings are, in turn: another need's way and end with the thing at hand, the right way with a thing that was
not given, and another need's whole ending. None of them can be told from the right one without the context.
"""

from lmlab.miniworld.grammar import Draw, stream
from lmlab.miniworld.stories import Scene, ending, scene
from lmlab.miniworld.world import VILLAGE, World


def wrong_endings(d: Draw, world: World, s: Scene) -> list[str]:
    """Three endings that break the rules, each in its own way."""
    others = [theme for theme in world.themes if theme != s.theme]
    first = d.choice(others)
    second = d.choice([theme for theme in others if theme != first])
    things = [thing for thing in s.theme.objects if thing != s.thing]
    return [ending(first, s.thing), ending(s.theme, d.choice(things)), ending(second, d.choice(second.objects))]


def item(d: Draw, world: World = VILLAGE) -> dict:
    """One item; ``label`` (0 to 3) is the place of the right ending."""
    s, *_ = scene(d, world)
    label = d.choice(range(4))
    endings = wrong_endings(d, world, s)
    endings.insert(label, ending(s.theme, s.thing))
    return {"activity_label": f"At the {s.theme.place}", "ctx_a": s.context, "ctx_b": s.pronoun.capitalize(),
            "ctx": f"{s.context} {s.pronoun.capitalize()}", "endings": endings, "label": label}


def rows(split: str, n: int, seed: int) -> list[dict]:
    """``n`` items in a fixed order."""
    rng = stream("hellaswag", split, seed)
    return [{"ind": i, **item(Draw(rng)), "split": split} for i in range(n)]
