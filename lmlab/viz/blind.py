"""Which text is better? Two models side by side, a judge who does not see which is which.

Whoever knows which text is the tuned model's finds it better. So the sides are drawn by a seed, and names are
told when every pair has been judged.
"""

import hashlib
import html
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lmlab.evaluation.statistics import wilson_interval
from lmlab.files import write_atomic

QUALITIES = ("fluency", "relevance", "correctness")
GRADES = (1, 2, 3, 4, 5)
SIDES = ("A", "B")
PREFERENCES = (*SIDES, "tie")


class Item(NamedTuple):
    """What is judged: a prompt, how its text truly goes on, and what two models wrote (name -> text)."""

    prompt: str
    truth: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Summary:
    """What the judge said of two models, names told. Ties are in no share."""

    wins: dict[str, int]
    ties: int
    grades: dict[str, dict[str, float]]  # quality -> name -> mean grade

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of the share in which the second was preferred; (0, 1) if all were ties."""
        decided = sum(self.wins.values())
        return wilson_interval(list(self.wins.values())[1], decided) if decided else (0.0, 1.0)

    def __str__(self) -> str:
        (first, n_first), (second, n_second) = self.wins.items()
        low, high = self.interval
        decided = n_first + n_second
        share = f"{n_second / decided:.0%} (ties left out), " if decided else "all ties, nothing is known; "
        verdict = (
            f"{second} is better"
            if low > 0.5
            else f"{first} is better"
            if high < 0.5
            else "this could be chance: the interval has one half in it"
        )
        grades = [
            f"{quality:<12}" + "".join(f"  {name} {grade:.1f}" for name, grade in row.items())
            for quality, row in self.grades.items()
        ]
        return "\n".join(
            [
                f"{first} preferred {n_first} times, {second} {n_second} times, {self.ties} ties",
                f"share of {second}: {share}95% interval {low:.0%} to {high:.0%}; {verdict}",
                *grades,
            ]
        )


class BlindTest:
    """Pairs of texts in an order and on sides drawn by ``seed``, and their ratings in a JSON-lines file.

    Each model stands on side A as often as on B, so that a liking for one side does no harm. The file takes a
    line per rating as it is given and names no model; with the same texts and seed a test goes on.
    Ratings of other texts in the file are left alone. Raises ValueError for items of other than two names.
    """

    def __init__(self, items: Sequence[Item], path: Path, seed: int = 0):
        names = {tuple(item.texts) for item in items}
        if len(names) != 1 or len(next(iter(names))) != 2:
            raise ValueError(
                f"a blind test got {len(items)} items of {sorted(names)}; "
                "give one or more, each with the same two names"
            )
        self.names = names.pop()
        self.path = path
        drawn = random.Random(seed)
        self._items = drawn.sample(list(items), len(items))
        sides = [self.names, self.names[::-1]] * len(items)
        self._sides = drawn.sample(sides[: len(items)], len(items))  # of each order one half
        self._digests = [_digest(*self.shown(i)) for i in range(len(items))]
        self._rated = self._read()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def n_rated(self) -> int:
        return sum(digest in self._rated for digest in self._digests)

    def shown(self, i: int) -> tuple[str, str, str, str]:
        """Of the i-th pair: prompt, truth, the text on side A, the text on side B."""
        item = self._items[i]
        return item.prompt, item.truth, *(item.texts[name] for name in self._sides[i])

    def next(self) -> int | None:
        """The first pair without a rating; None when all have one."""
        return next((i for i, digest in enumerate(self._digests) if digest not in self._rated), None)

    def rate(self, i: int, grades: Mapping[str, Mapping[str, int]], preferred: str) -> None:
        """Writes down the i-th pair's grades (side -> quality -> 1 to 5) and which is preferred (or "tie").

        A later rating of a pair replaces an earlier one. Raises ValueError for one that is not whole.
        """
        if preferred not in PREFERENCES:
            raise ValueError(f"preferred got {preferred!r}; give {', '.join(PREFERENCES)}")
        for side in SIDES:
            wrong = [name for name in QUALITIES if grades.get(side, {}).get(name) not in GRADES]
            if wrong:
                raise ValueError(f"side {side} got no grade of 1 to 5 for {', '.join(wrong)}; give all")
        row = {
            "pair": self._digests[i],
            "grades": {side: dict(grades[side]) for side in SIDES},
            "preferred": preferred,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._rated[row["pair"]] = row

    def _read(self) -> dict[str, dict]:
        """The last rating of each of our pairs. A line that was cut off is taken out of the file."""
        if not self.path.exists():
            return {}
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_atomic(self.path, whole)
        rows = {row["pair"]: row for row in map(json.loads, whole.splitlines())}
        return {digest: rows[digest] for digest in self._digests if digest in rows}

    def summary(self) -> Summary:
        """Who was preferred, and the mean grades. Raises ValueError while a pair is without a rating."""
        if self.next() is not None:
            raise ValueError(f"{self.n_rated} of {len(self)} pairs are rated; rate all, then ask who is who")
        rows = [
            (dict(zip(SIDES, sides, strict=True)), self._rated[digest])
            for sides, digest in zip(self._sides, self._digests, strict=True)
        ]
        preferred = [names.get(row["preferred"]) for names, row in rows]
        grades = {quality: dict.fromkeys(self.names, 0.0) for quality in QUALITIES}
        for names, row in rows:
            for side, name in names.items():
                for quality in QUALITIES:
                    grades[quality][name] += row["grades"][side][quality] / len(rows)
        return Summary({name: preferred.count(name) for name in self.names}, preferred.count(None), grades)

    def table(self) -> "Table":
        """All pairs with the models' names: for those who only read."""
        return Table(
            ("prompt", *self.names, "truth"),
            [(item.prompt, *item.texts.values(), item.truth) for item in self._items],
        )

    def panel(self):
        """An ipywidgets box that asks for the ratings pair after pair, and tells the names at the end."""
        return _Panel(self).box


@dataclass(frozen=True)
class Table:
    """Texts in columns; they may have several lines."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def __str__(self) -> str:
        return "\n\n".join(
            "\n".join(f"{name}: {text!r}" for name, text in zip(self.header, row, strict=True))
            for row in self.rows
        )

    def _repr_html_(self) -> str:
        def line(tag: str, cells: Sequence[str]) -> str:
            style = "text-align:left;vertical-align:top;white-space:pre-wrap"
            inner = (f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for cell in cells)
            return f"<tr>{''.join(inner)}</tr>"

        return f"<table>{line('th', self.header)}{''.join(line('td', row) for row in self.rows)}</table>"


def is_interactive() -> bool:
    """Whether a reader sits here: in a batch run (papermill, nbconvert) the kernel may ask nothing."""
    from IPython import get_ipython

    # Jupyter, VS Code and Colab send allow_stdin=True with every cell, nbclient sends False
    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


class _Panel:
    """The widgets of a BlindTest: one pair at a time, a button that waits until everything is answered."""

    def __init__(self, test: BlindTest):
        import ipywidgets as widgets

        self.test = test
        self.text = widgets.HTML()
        self.grades = {
            (side, quality): widgets.ToggleButtons(
                options=GRADES, value=None, description=quality, style={"button_width": "2.5em"}
            )
            for side in SIDES
            for quality in QUALITIES
        }
        self.preferred = widgets.ToggleButtons(options=PREFERENCES, value=None, description="better")
        self.button = widgets.Button(description="save", disabled=True, button_style="primary")
        for question in (*self.grades.values(), self.preferred):
            question.observe(self._answered, "value")
        self.button.on_click(self._save)
        columns = [
            widgets.VBox(
                [widgets.HTML(f"<b>text {side}</b>"), *(self.grades[side, quality] for quality in QUALITIES)]
            )
            for side in SIDES
        ]
        apart = widgets.HBox(columns, layout=widgets.Layout(grid_gap="4em"))
        self.questions = widgets.VBox([apart, self.preferred, self.button])
        self.box = widgets.VBox([self.text, self.questions])
        self._show()

    def _show(self) -> None:
        self.current = self.test.next()
        if self.current is None:
            self.text.value = f"<pre>{html.escape(str(self.test.summary()))}</pre>"
            self.questions.layout.display = "none"
            return
        prompt, truth, *sides = self.test.shown(self.current)
        shown = Table(("prompt", *SIDES, "how it truly goes on"), [(prompt, *sides, truth)])
        self.text.value = f"{self.test.n_rated} of {len(self.test)} rated{shown._repr_html_()}"
        for question in (*self.grades.values(), self.preferred):
            question.value = None

    def _answered(self, _) -> None:
        self.button.disabled = any(q.value is None for q in (*self.grades.values(), self.preferred))

    def _save(self, _) -> None:
        grades = {
            side: {quality: self.grades[side, quality].value for quality in QUALITIES} for side in SIDES
        }
        self.test.rate(self.current, grades, self.preferred.value)
        self._show()
