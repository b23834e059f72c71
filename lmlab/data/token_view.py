"""Tokens as a reader can see them: which bear loss, which are padding or special, and their ids."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from lmlab.models import IGNORE_INDEX

_SHOWN = 120  # tokens of a long row, at its beginning and at its end
_PADS_SHOWN = 2  # of those at an end of a row
PAD, MASKED, LABELLED, READ, SKIPPED = "pad", "masked", "labelled", "read", "skipped"
# each kind looks different without colour, too; dark ink on a light ground is legible in every theme
_STYLES = {
    LABELLED: "background:#cfe8d5;color:#111;border-bottom:3px solid #009E73;font-weight:bold",
    MASKED: "border-bottom:3px dotted #999",
    PAD: "opacity:.55;text-decoration:line-through",
    READ: "border-bottom:3px solid #7fb2d6",
    SKIPPED: "opacity:.7",
}
_SIGNS = {LABELLED: "█", MASKED: "·", PAD: "░", READ: "|", SKIPPED: ""}
_MEANINGS = {
    LABELLED: "bears loss (its label below)",
    MASKED: "no loss",
    PAD: "padding",
    READ: "a token (its id below)",
}
_PLACE = "display:inline-block;text-align:center;line-height:1.25em;margin:1px;vertical-align:top"


class Place(NamedTuple):
    """One token of a row."""

    kind: str
    token: str
    id: int
    label: int = IGNORE_INDEX
    name: str = ""  # of a special token, "EOS"


@dataclass(frozen=True, repr=False)
class TokenView:
    """Rows of tokens, to be read in a notebook or as text."""

    rows: tuple[tuple[Place, ...], ...]

    def __repr__(self) -> str:
        return "\n".join([self._legend(), *("  ".join(map(_plain, row)) for row in self.rows)])

    def _repr_html_(self) -> str:
        rows = "".join(f'<p style="margin:.4em 0">{"".join(map(_span, row))}</p>' for row in self.rows)
        legend = " &nbsp; ".join(
            f'<span style="{_STYLES[kind]};padding:0 2px">{_MEANINGS[kind]}</span>' for kind in self._kinds()
        )
        return f"<p>{legend}</p>{rows}"

    def _kinds(self) -> list[str]:
        present = {place.kind for row in self.rows for place in row}
        return [kind for kind in _MEANINGS if kind in present]

    def _legend(self) -> str:
        return "   ".join(f"{_SIGNS[kind]} {_MEANINGS[kind].partition(' (')[0]}" for kind in self._kinds())


def token_view(rows: Sequence[Mapping], tokenizer) -> TokenView:
    """A view of tokenized rows.

    A row has input_ids, maybe labels (-100: no loss) and attention_mask (0: padding). Padding is known from the
    mask, for its token may be one that also stands in texts. Long rows lose their middle, and most padding.
    """
    return TokenView(tuple(_shortened(_places(row, tokenizer)) for row in rows))


def _places(row: Mapping, tokenizer) -> list[Place]:
    ids = [int(token) for token in row["input_ids"]]
    labels = [int(label) for label in row.get("labels", [IGNORE_INDEX] * len(ids))]
    real = [bool(bit) for bit in row.get("attention_mask", [1] * len(ids))]
    unlabelled = MASKED if "labels" in row else READ
    names = special_names(tokenizer)
    return [
        Place(
            PAD if not there else LABELLED if label != IGNORE_INDEX else unlabelled,
            tokenizer.decode([token]),
            token,
            label,
            names.get(token, "") if there else "",
        )
        for token, label, there in zip(ids, labels, real, strict=True)
    ]


def special_names(tokenizer) -> dict[int, str]:
    """What a tokenizer's special tokens are for, id -> "BOS" and the like; one may be for several things."""
    names: dict[int, str] = {}
    for name in ("bos", "eos", "unk", "pad"):
        token = getattr(tokenizer, f"{name}_token_id", None)
        if token is not None:
            names[token] = " = ".join(filter(None, (names.get(token, ""), name.upper())))
    return {**dict.fromkeys(tokenizer.all_special_ids, "special"), **names}


def _shortened(places: list[Place]) -> tuple[Place, ...]:
    """Without the middle of what is long, and without most padding."""
    shown = []
    for is_pad, run in groupby(places, lambda place: place.kind == PAD):
        run, n = list(run), _PADS_SHOWN if is_pad else 2 * _SHOWN
        if left_out := max(0, len(run) - n):  # noqa: B031
            gap = Place(SKIPPED, f"... {left_out} more ...", -1)
            run = [*run[:n], gap] if is_pad else [*run[:_SHOWN], gap, *run[-_SHOWN:]]
        shown += run
    return tuple(shown)


def visible(token: str) -> str:
    """A token whose blanks, line breaks and control characters can be seen."""
    shown = token.replace("\n", "⏎").replace(" ", "␣")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown) or "∅"


def _plain(place: Place) -> str:
    if place.kind == SKIPPED:
        return place.token
    return f"{_SIGNS[place.kind]}{visible(place.token)}" + (f"[{place.name}]" if place.name else "")


def _span(place: Place) -> str:
    if place.kind == SKIPPED:
        return f'<span style="{_PLACE};{_STYLES[SKIPPED]}">{html.escape(place.token)}</span>'
    loss = {
        LABELLED: f", label {place.label}",
        MASKED: f", label {IGNORE_INDEX}: no loss",
        PAD: f", padding, label {place.label}",
    }
    title = f"{place.name + ', ' if place.name else ''}id {place.id}{loss.get(place.kind, '')}"
    below = place.label if place.label != IGNORE_INDEX else place.id if place.kind == READ else "&nbsp;"
    name = f'<br><small style="opacity:.75">{html.escape(place.name)}</small>' if place.name else ""
    return (
        f'<span style="{_PLACE}" title="{html.escape(title)}">'
        f'<span style="{_STYLES[place.kind]};padding:0 2px">{html.escape(visible(place.token))}</span><br>'
        f'<small style="opacity:.75">{below}</small>{name}</span>'
    )
