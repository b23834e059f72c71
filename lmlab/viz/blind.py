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
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmlab.evaluation.statistics import wilson_interval
from lmlab.files import write_atomic
from lmlab.viz.display import html_table

if TYPE_CHECKING:
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
        if decided == 0:  # all ties: nothing is known
            return 0.0, 1.0
        return wilson_interval(n_second, decided)

    def __str__(self) -> str:
        (first, n_first), (second, n_second) = self.wins.items()
        low, high = self.interval
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


@dataclass(frozen=True)
class Table:
    """Texts in columns; they may have several lines."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def _repr_html_(self) -> str:
        return html_table(self.header, self.rows)


class BlindTest:
    """Pairs of texts in random order and on random sides, and their ratings in a JSON-lines file.

    Each model stands on side A in half of the pairs, so that a preference for one side does no harm. A rating
    is appended to the file as it is given and names no model; with the same texts and seed an interrupted
    test resumes. Ratings of other texts in the file stay there.

    Args:
        items: what to judge, all with the same two names.
        path: the file of ratings.
        seed: decides order and sides.

    Raises:
        ValueError: no items, or items of other than two names.
    """

    def __init__(self, items: Sequence[Item], path: Path, seed: int = 0):
        names = {tuple(item.texts) for item in items}
        if len(names) != 1 or len(next(iter(names))) != 2:
            raise ValueError(
                f"items got {len(items)} with the names {sorted(names)}; give one or more, each with the same two"
            )
        self.names = names.pop()
        self.path = path
        rng = random.Random(seed)
        self._items = rng.sample(list(items), len(items))
        # of either order one half, shuffled
        sides = [self.names, self.names[::-1]] * len(items)
        self._sides = rng.sample(sides[: len(items)], len(items))
        # of the texts as shown: a rating holds for these texts on these sides
        self._hashes = [_hash(*self.shown(i)) for i in range(len(items))]
        self._ratings = self._read()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def n_rated(self) -> int:
        """How many pairs have a rating."""
        return len(self._ratings)

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

    def rate(self, i: int, grades: Mapping[str, Mapping[str, int]], preferred: str) -> None:
        """Saves the rating of the i-th pair; a later one replaces an earlier one.

        Args:
            grades: side -> quality -> 1 to 5.
            preferred: a side, or "tie".

        Raises:
            ValueError: the rating is incomplete.
        """
        if preferred not in PREFERENCES:
            raise ValueError(f"preferred got {preferred!r}; give {', '.join(PREFERENCES)}")
        for side in SIDES:
            missing = [name for name in QUALITIES if grades.get(side, {}).get(name) not in GRADES]
            if missing:
                raise ValueError(f"side {side} got no grade of 1 to 5 for {', '.join(missing)}; give all")
        row = {
            "pair": self._hashes[i],
            "grades": {side: dict(grades[side]) for side in SIDES},
            "preferred": preferred,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # appended at once: a closed browser loses nothing
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._ratings[row["pair"]] = row

    def _read(self) -> dict[str, dict]:
        """The last rating of each of our pairs. A line that was cut off is removed from the file."""
        if not self.path.exists():
            return {}
        text = self.path.read_text(encoding="utf-8")
        complete = text[: text.rfind("\n") + 1]
        if complete != text:  # the process died while it wrote
            write_atomic(self.path, complete)
        rows = map(json.loads, complete.splitlines())
        return {row["pair"]: row for row in rows if row["pair"] in self._hashes}

    def summary(self) -> Summary:
        """Who was preferred, and the mean grades. Raises ValueError while a pair is without a rating."""
        if self.next() is not None:
            raise ValueError(f"{self.n_rated} of {len(self)} pairs are rated; rate all before you ask")
        wins, ties = dict.fromkeys(self.names, 0), 0
        grades = {quality: dict.fromkeys(self.names, 0.0) for quality in QUALITIES}
        for sides, pair in zip(self._sides, self._hashes, strict=True):
            rating = self._ratings[pair]
            if rating["preferred"] == "tie":
                ties += 1
            for side, name in zip(SIDES, sides, strict=True):
                # a bool counts as 0 or 1
                wins[name] += rating["preferred"] == side
                for quality in QUALITIES:
                    grades[quality][name] += rating["grades"][side][quality] / len(self)
        return Summary(wins, ties, grades)

    def table(self) -> Table:
        """All pairs with the models' names, for those who only read."""
        rows = [(item.prompt, *item.texts.values(), item.reference) for item in self._items]
        return Table(("prompt", *self.names, "reference"), rows)

    def panel(self) -> "VBox":
        """An ipywidgets box that asks for the ratings pair after pair, and reveals the names at the end."""
        return _Panel(self).box


def _hash(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


class _Panel:
    """The widgets of a BlindTest: one pair at a time, and a button that waits until everything is answered."""

    def __init__(self, test: BlindTest):
        import ipywidgets as widgets

        self.test = test
        self.text = widgets.HTML()
        self.grades = {side: {} for side in SIDES}  # side -> quality -> its buttons
        columns = []
        for side in SIDES:
            for quality in QUALITIES:
                self.grades[side][quality] = widgets.ToggleButtons(
                    options=GRADES, value=None, description=quality, style={"button_width": "2.5em"}
                )
            columns.append(widgets.VBox([widgets.HTML(f"<b>text {side}</b>"), *self.grades[side].values()]))
        self.preferred = widgets.ToggleButtons(options=PREFERENCES, value=None, description="better")
        self.questions = [*self.grades["A"].values(), *self.grades["B"].values(), self.preferred]
        for question in self.questions:
            question.observe(self._update_button, "value")
        self.button = widgets.Button(description="save", disabled=True, button_style="primary")
        self.button.on_click(self._save)
        side_by_side = widgets.HBox(columns, layout=widgets.Layout(grid_gap="4em"))
        self.form = widgets.VBox([side_by_side, self.preferred, self.button])
        self.box = widgets.VBox([self.text, self.form])
        self._show_next()

    def _show_next(self) -> None:
        self.current = self.test.next()
        if self.current is None:
            self.text.value = f"<pre>{html.escape(str(self.test.summary()))}</pre>"
            self.form.layout.display = "none"
            return
        prompt, reference, *sides = self.test.shown(self.current)
        table = html_table(("prompt", *SIDES, "reference"), [(prompt, *sides, reference)])
        self.text.value = f"{self.test.n_rated} of {len(self.test)} rated{table}"
        # also disables the button, by way of _update_button
        for question in self.questions:
            question.value = None

    def _update_button(self, _) -> None:
        self.button.disabled = any(question.value is None for question in self.questions)

    def _save(self, _) -> None:
        grades = {
            side: {quality: buttons.value for quality, buttons in self.grades[side].items()} for side in SIDES
        }
        self.test.rate(self.current, grades, self.preferred.value)
        self._show_next()
