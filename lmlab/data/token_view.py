"""Tokens as a reader can see them: which contribute to the loss, which are padding or special, and their ids."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from lmlab.models import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 120  # tokens of a long row, at its beginning and at its end
_PADS_SHOWN = 2  # of those at an end of a row
PAD, MASKED, LABELLED, READ, SKIPPED = "pad", "masked", "labelled", "read", "skipped"


class _Kind(NamedTuple):
    """How one kind of token looks."""

    sign: str  # as text
    meaning: str
    style: str  # CSS


# each kind looks different without color, too; dark text on a light ground is legible in every theme
_KINDS = {
    LABELLED: _Kind(
        "█",
        "contributes to the loss (its label below)",
        "background:#cfe8d5;color:#111;border-bottom:3px solid #009E73;font-weight:bold",
    ),
    MASKED: _Kind("·", "masked, no loss", "border-bottom:3px dotted #999"),
    PAD: _Kind("░", "padding", "opacity:.55;text-decoration:line-through"),
    READ: _Kind("|", "a token (its id below)", "border-bottom:3px solid #7fb2d6"),
}
_BLOCK = "display:inline-block;text-align:center;line-height:1.25em;margin:1px;vertical-align:top"


class Token(NamedTuple):
    """One token of a row."""

    kind: str
    token: str
    id: int
    label: int = IGNORE_INDEX
    name: str = ""  # of a special token, "EOS"


@dataclass(frozen=True, repr=False)
class TokenView:
    """Rows of tokens, to be read in a notebook or as text."""

    rows: tuple[tuple[Token, ...], ...]

    def __repr__(self) -> str:
        legend = [f"{kind.sign} {kind.meaning.partition(' (')[0]}" for kind in self._kinds()]
        return "\n".join(["   ".join(legend), *("  ".join(map(_plain, row)) for row in self.rows)])

    def _repr_html_(self) -> str:
        legend = [f'<span style="{kind.style};padding:0 2px">{kind.meaning}</span>' for kind in self._kinds()]
        page = f"<p>{' &nbsp; '.join(legend)}</p>"
        for row in self.rows:
            page += f'<p style="margin:.4em 0">{"".join(map(_span, row))}</p>'
        return page

    def _kinds(self) -> list[_Kind]:
        present = {token.kind for row in self.rows for token in row}
        return [kind for name, kind in _KINDS.items() if name in present]


def token_view(rows: Sequence[Mapping], tokenizer: PreTrainedTokenizerBase) -> TokenView:
    """A view of tokenized rows. Long rows lose their middle, and most padding.

    Args:
        rows: Each with input_ids, maybe labels (-100: no loss) and attention_mask (0: padding). Padding is
            known from the mask, because its token may be one that is also in texts.
        tokenizer: The one that made them.
    """
    return TokenView(tuple(_shortened(_tokens(row, tokenizer)) for row in rows))


def _tokens(row: Mapping, tokenizer) -> list[Token]:
    ids = [int(token) for token in row["input_ids"]]
    labels = [int(label) for label in row.get("labels", [IGNORE_INDEX] * len(ids))]
    mask = row.get("attention_mask", [1] * len(ids))
    names = special_names(tokenizer)
    tokens = []
    for token, label, real in zip(ids, labels, mask, strict=True):
        if not real:
            kind = PAD
        elif label != IGNORE_INDEX:
            kind = LABELLED
        else:
            kind = MASKED if "labels" in row else READ
        name = names.get(token, "") if real else ""
        tokens.append(Token(kind, tokenizer.decode([token]), token, label, name))
    return tokens


def special_names(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """What a tokenizer's special tokens are for, id -> "BOS" and the like; one may be for several things."""
    names = dict.fromkeys(tokenizer.all_special_ids, "special")
    for name in ("bos", "eos", "unk", "pad"):
        token = getattr(tokenizer, f"{name}_token_id", None)
        if token is not None:
            known = names.get(token, "special")
            names[token] = name.upper() if known == "special" else f"{known} = {name.upper()}"
    return names


def _shortened(tokens: list[Token]) -> tuple[Token, ...]:
    """Without the middle of what is long, and without most padding."""
    shown: list[Token] = []
    for is_pad, run in groupby(tokens, lambda token: token.kind == PAD):
        run = list(run)
        n_first, n_last = (_PADS_SHOWN, 0) if is_pad else (_SHOWN, _SHOWN)
        n_skipped = len(run) - n_first - n_last
        if n_skipped > 0:
            gap = Token(SKIPPED, f"... {n_skipped} more ...", -1)
            run = [*run[:n_first], gap, *run[len(run) - n_last :]]
        shown += run
    return tuple(shown)


def visible(token: str) -> str:
    """A token whose spaces, line breaks and control characters can be seen."""
    shown = token.replace("\n", "⏎").replace(" ", "␣")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown) or "∅"


def _plain(token: Token) -> str:
    if token.kind == SKIPPED:
        return token.token
    return f"{_KINDS[token.kind].sign}{visible(token.token)}" + (f"[{token.name}]" if token.name else "")


def _span(token: Token) -> str:
    if token.kind == SKIPPED:
        return f'<span style="{_BLOCK};opacity:.7">{html.escape(token.token)}</span>'
    label = {
        LABELLED: f", label {token.label}",
        MASKED: f", label {IGNORE_INDEX}: no loss",
        PAD: f", padding, label {token.label}",
        READ: "",
    }
    title = f"{token.name + ', ' if token.name else ''}id {token.id}{label[token.kind]}"
    below = "&nbsp;"
    if token.label != IGNORE_INDEX:
        below = token.label
    elif token.kind == READ:
        below = token.id
    name = f'<br><small style="opacity:.75">{html.escape(token.name)}</small>' if token.name else ""
    return (
        f'<span style="{_BLOCK}" title="{html.escape(title)}">'
        f'<span style="{_KINDS[token.kind].style};padding:0 2px">{html.escape(visible(token.token))}</span><br>'
        f'<small style="opacity:.75">{below}</small>{name}</span>'
    )
