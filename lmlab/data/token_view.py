"""Tokens as a reader can see them: which count in the loss, which are padding or special, and their ids."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from lmlab.models import IGNORE_INDEX
from lmlab.models.types import PreTrainedTokenizerBase

_SHOWN = 120  # tokens of a long row, at its beginning and at its end
_PADS_SHOWN = 2  # of those at an end of a row
PAD, MASKED, LABELLED, READ, SKIPPED = "pad", "masked", "labelled", "read", "skipped"


class _Kind(NamedTuple):
    """How one kind of token looks."""

    meaning: str
    style: str  # CSS


# each kind looks different without color, too; dark text on a light ground is legible in every theme
_KINDS = {
    LABELLED: _Kind(
        "contributes to the loss (its label below)",
        "background:#cfe8d5;color:#111;border-bottom:3px solid #009E73;font-weight:bold",
    ),
    MASKED: _Kind("masked, no loss", "border-bottom:3px dotted #999"),
    PAD: _Kind("padding", "opacity:.55;text-decoration:line-through"),
    READ: _Kind("a token (its id below)", "border-bottom:3px solid #7fb2d6"),
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
    """Rows of tokens, to be read in a notebook."""

    rows: tuple[tuple[Token, ...], ...]

    def __repr__(self) -> str:
        # a notebook stores this beside the HTML, so it is short
        return f"<{len(self.rows)} rows of tokens, shown as HTML>"

    def _repr_html_(self) -> str:
        present = {token.kind for row in self.rows for token in row}
        page = "<p>"
        for name, kind in _KINDS.items():
            if name in present:
                page += f'<span style="{kind.style};padding:0 2px">{kind.meaning}</span> &nbsp; '
        page += "</p>"
        for row in self.rows:
            page += f'<p style="margin:.4em 0">{"".join(map(_span, row))}</p>'
        return page


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
    # the mask decides first: a pad token is often EOS, which elsewhere ends a text
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
    """What a tokenizer's special tokens are for, id -> "EOS" and the like."""
    # the pad token is often EOS, so it comes first and gives way to it
    tokens = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "unk", "bos", "eos")}
    return {token: name.upper() for name, token in tokens.items() if token is not None}


def _shortened(tokens: list[Token]) -> tuple[Token, ...]:
    """Without the middle of what is long, and without most padding."""
    shown: list[Token] = []
    # in a set of one length most tokens may be padding, which says nothing
    for is_pad, group in groupby(tokens, lambda token: token.kind == PAD):
        run = list(group)
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


def _span(token: Token) -> str:
    # a token is text of a reader's file, which must not be read as tags
    if token.kind == SKIPPED:
        return f'<span style="{_BLOCK};opacity:.7">{html.escape(token.token)}</span>'
    text = html.escape(visible(token.token))
    title = f"id {token.id}" if token.kind == READ else f"id {token.id}, label {token.label}"
    below = "&nbsp;"
    if token.kind == READ:
        below = token.id
    elif token.label != IGNORE_INDEX:
        below = token.label
    name = html.escape(token.name)
    return (
        f'<span style="{_BLOCK}" title="{title}">'
        f'<span style="{_KINDS[token.kind].style};padding:0 2px">{text}</span><br>'
        f'<small style="opacity:.75">{below}<br>{name or "&nbsp;"}</small></span>'
    )
