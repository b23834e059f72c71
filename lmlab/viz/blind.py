"""A blind test: which of two models writes better, judged by someone who does not see which is which.

Whoever knows which text is the tuned model's finds it better. So sides are assigned at random, and the
models' names are revealed when every pair has been rated.
"""

import hashlib
import html
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmlab.evaluation.statistics import wilson_interval
from lmlab.files import read_jsonl, write_jsonl
from lmlab.viz.display import html_table

if TYPE_CHECKING:
    from IPython.display import HTML
    from ipywidgets import VBox

QUALITIES = ("fluency", "relevance", "correctness")
GRADES = (1, 2, 3, 4, 5)
SIDES = ("A", "B")
PREFERENCES = (*SIDES, "tie")


class Item(NamedTuple):
    """What is judged: a prompt, its true continuation, and what two models wrote (name -> text)."""

    prompt: str
    reference: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Summary:
    """The result of a blind test, with the models' names."""

    wins: dict[str, int]  # name -> pairs in which it was preferred
    ties: int
    grades: dict[str, dict[str, float]]  # quality -> name -> mean grade

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of the fraction in which the second was preferred, ties left out."""
        _, n_second = self.wins.values()
        decided = sum(self.wins.values())
        # all ties: nothing is known
        if decided == 0:
            return 0.0, 1.0
        return wilson_interval(n_second, decided)

    def __str__(self) -> str:
        (first, n_first), (second, n_second) = self.wins.items()
        low, high = self.interval
        # the names alone would tempt to read a winner into five of nine
        verdict = "this could be chance: the interval contains one half"
        if low > 0.5:
            verdict = f"{second} is better"
        elif high < 0.5:
            verdict = f"{first} is better"
        lines = [
            f"{first} preferred {n_first} times, {second} {n_second} times, {self.ties} ties",
            f"fraction of {second} without ties: 95% interval {low:.0%} to {high:.0%}; {verdict}",
        ]
        for quality, means in self.grades.items():
            lines.append(f"{quality:<12}  {first} {means[first]:.1f}  {second} {means[second]:.1f}")
        return "\n".join(lines)


class BlindTest:
    """Pairs of texts in random order and on random sides, and their ratings in a JSON-lines file.

    Each model stands on side A in half of the pairs, so that a preference for one side does no harm. A rating
    is saved as it is given and names no model; with the same texts and seed an interrupted test resumes.
    Ratings of other texts in the file stay there.

    Args:
        items: what to judge, all with the same two names.
        path: the file of ratings.
        seed: decides order and sides.
    """

    def __init__(self, items: Sequence[Item], path: Path, seed: int = 0):
        # fails unless all items have the same names
        [self.names] = {tuple(item.texts) for item in items}
        self.path = path
        # order and sides are the same whenever the test is opened again
        rng = random.Random(seed)
        self._items = rng.sample(list(items), len(items))
        # of either order one half, shuffled
        sides = [self.names, self.names[::-1]] * len(items)
        self._sides = rng.sample(sides[: len(items)], len(items))
        # of the texts as shown: a rating holds for these texts on these sides
        self._hashes = []
        for i in range(len(items)):
            shown = json.dumps(self.shown(i)).encode()
            self._hashes.append(hashlib.sha256(shown).hexdigest()[:16])
        self._ratings = {rating["pair"]: rating for rating in read_jsonl(path)}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def n_rated(self) -> int:
        """How many pairs have a rating."""
        return sum(pair in self._ratings for pair in self._hashes)

    def shown(self, i: int) -> tuple[str, str, str, str]:
        """Of the i-th pair: prompt, reference, the text on side A, the text on side B."""
        item, (a, b) = self._items[i], self._sides[i]
        return item.prompt, item.reference, item.texts[a], item.texts[b]

    def next(self) -> int | None:
        """The first pair without a rating; None when all have one."""
        for i, pair in enumerate(self._hashes):
            if pair not in self._ratings:
                return i
        return None

    def rate(self, i: int, answers: Mapping[str, int | str]) -> None:
        """Saves the rating of the i-th pair; a later one replaces an earlier one.

        answers: "A fluency", ... -> 1 to 5, and "better" -> a side or "tie".
        """
        pair = self._hashes[i]
        self._ratings[pair] = {"pair": pair, **answers}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # saved at once: a closed browser loses nothing
        write_jsonl(self.path, self._ratings.values())

    def summary(self) -> Summary:
        """Who was preferred, and the mean grades. Raises ValueError while a pair is without a rating."""
        if self.next() is not None:
            raise ValueError(f"{self.n_rated} of {len(self)} pairs are rated; rate all before you ask")
        wins, ties = dict.fromkeys(self.names, 0), 0
        grades = {quality: dict.fromkeys(self.names, 0.0) for quality in QUALITIES}
        for sides, pair in zip(self._sides, self._hashes, strict=True):
            rating = self._ratings[pair]
            ties += rating["better"] == "tie"
            for side, name in zip(SIDES, sides, strict=True):
                # a bool counts as 0 or 1
                wins[name] += rating["better"] == side
                for quality in QUALITIES:
                    grades[quality][name] += rating[f"{side} {quality}"] / len(self)
        return Summary(wins, ties, grades)

    def table(self) -> "HTML":
        """All pairs with the models' names, for those who only read."""
        from IPython.display import HTML

        # in a batch run nobody judges, so nothing is given away
        rows = [(item.prompt, *item.texts.values(), item.reference) for item in self._items]
        return HTML(html_table(("prompt", *self.names, "reference"), rows))

    def panel(self) -> "VBox":
        """An ipywidgets box that asks for the ratings pair after pair, and reveals the names at the end."""
        import ipywidgets as widgets

        text = widgets.HTML()
        questions = {}
        for side in SIDES:
            for quality in QUALITIES:
                questions[f"{side} {quality}"] = widgets.ToggleButtons(options=GRADES)
        questions["better"] = widgets.ToggleButtons(options=PREFERENCES)
        for name, question in questions.items():
            question.description = name
            question.style.button_width = "3em"
        save = widgets.Button(description="save", button_style="primary")
        form = widgets.VBox([*questions.values(), save])

        def show_next() -> None:
            """The next pair without answers; after the last one the result."""
            i = self.next()
            if i is None:
                text.value = f"<pre>{html.escape(str(self.summary()))}</pre>"
                form.layout.display = "none"
                return
            prompt, reference, a, b = self.shown(i)
            table = html_table(("prompt", *SIDES, "reference"), [(prompt, a, b, reference)])
            text.value = f"{self.n_rated} of {len(self)} rated{table}"
            # this disables the button, too, by way of enable_save
            for question in questions.values():
                question.value = None

        def enable_save(_: object) -> None:
            """A rating is complete once every question has an answer."""
            save.disabled = any(question.value is None for question in questions.values())

        def save_rating(_: object) -> None:
            """Keeps the answers, and goes on."""
            self.rate(self.next(), {name: question.value for name, question in questions.items()})
            show_next()

        for question in questions.values():
            question.observe(enable_save, "value")
        save.on_click(save_rating)
        show_next()
        return widgets.VBox([text, form])
