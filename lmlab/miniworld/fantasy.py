"""Short descriptions of fantasy locations between <LOC> and </LOC>, for the lessons on style and format."""

import math

from lmlab.miniworld.grammar import Sampler
from lmlab.miniworld.tables import indefinite_article, read_table
from lmlab.miniworld.world import PEOPLE, VILLAGE

WORDS = read_table("fantasy")
MAX_DETAILS = 3


def _detail(rng: Sampler, kind: str) -> str:
    """One sentence about a location of this kind."""

    def word(name: str) -> str:
        return rng.choice(WORDS[name])

    form = rng.choice(("dweller", "air", "light", "rule", "visitor"), (4, 2, 2, 2, 2))
    if form == "dweller":
        color = rng.choice(VILLAGE.colors)
        return f"There {indefinite_article(color)} {color} {word('dwellers')} {word('deeds')}."
    if form == "air":
        return f"The air smells of {word('smells')} and is full of {word('sounds')}."
    if form == "light":
        return f"The {kind} is lit by {word('lights')}."
    if form == "rule":
        return f"{word('rules')}."
    visitor, treasure = rng.choice(PEOPLE), word("treasures")
    return f"{visitor} once left {indefinite_article(treasure)} {treasure} here."


def location(rng: Sampler) -> dict:
    """{"text", "logprob"}: two to four sentences about one place, and the log-probability of the text (nats).

    A detail that is sampled twice is said once, so several sequences of choices give one text: all of them
    count.
    """
    begin = rng.logprob
    name = rng.choice(WORDS["first"]) + rng.choice(WORDS["second"])
    look, kind = rng.choice(WORDS["looks"]), rng.choice(WORDS["kinds"])
    opening = f"{name} is {indefinite_article(look)} {look} {kind} {rng.choice(WORDS['sites'])}."
    logprob = rng.logprob - begin  # of the opening; the details are counted apart
    probabilities: dict[str, float] = {}  # of each detail; a dict keeps one of each, in order
    for _ in range(rng.choice(range(1, MAX_DETAILS + 1))):
        begin = rng.logprob
        detail = _detail(rng, kind)
        probabilities[detail] = math.exp(rng.logprob - begin)
    logprob += math.log(_probability_in_order(list(probabilities.values())))
    return {"text": f"<LOC>{' '.join((opening, *probabilities))}</LOC>", "logprob": logprob}


def _probability_in_order(probabilities: list[float]) -> float:
    """The probability that one to three samples (each number equally often) give just these details, in this
    order.

    Dynamic programming over samples: the next one repeats a detail already said, or gives the one that is
    due.
    """
    # said[m]: probability that the first m are said, and nothing else
    said = [1.0] + [0.0] * len(probabilities)
    total = 0.0
    for _ in range(MAX_DETAILS):
        after = [0.0]  # a sample always says something
        for m in range(1, len(said)):
            after.append(said[m] * sum(probabilities[:m]) + said[m - 1] * probabilities[m - 1])
        said = after
        total += said[-1] / MAX_DETAILS
    return total
