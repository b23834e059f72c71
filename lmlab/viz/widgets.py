"""Things to play with in a notebook: sampling, attention, HellaSwag items, tokens and labels.

Each is one call. Where a reader sits it returns a box of ipywidgets; in a batch run nobody can move a slider, so a
few settings are drawn and printed side by side instead.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lmlab.data.token_view import token_view, visible
from lmlab.evaluation.attention import attention_weights
from lmlab.evaluation.hellaswag import HellaSwagScores, hellaswag_context
from lmlab.evaluation.scoring import evaluating
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import context_length
from lmlab.viz import plots
from lmlab.viz.blind import is_interactive

# --- what all have in common -----------------------------------------------------------------------


def _box(controls: Mapping[str, object], draw: Callable):
    """Controls above what ``draw(**values)`` gives: a Figure or None, and HTML. An error is shown as text."""
    import ipywidgets

    picture, page = ipywidgets.Image(format="png", layout={"max_width": "100%"}), ipywidgets.HTML()
    picture.layout.align_self = "flex-start"  # a box would stretch it

    def show(_=None) -> None:
        try:
            figure, page.value = draw(**{name: control.value for name, control in controls.items()})
            picture.value = plots.png_bytes(figure, dpi=90) if figure else b""
        except Exception as error:  # what a callback raises, no notebook shows
            picture.value, page.value = b"", f"<b>{html.escape(str(error) or type(error).__name__)}</b>"
        picture.layout.display = None if picture.value else "none"

    for control in controls.values():
        control.observe(show, "value")
    show()
    return ipywidgets.VBox([*controls.values(), picture, page])


def _figure(width: float, height: float):
    """A Figure that pyplot does not know: at the end of a cell it would show all that it knows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _slider(kind: str, description: str, low, high, value, **more):
    """A slider that says its value when it is let go; the arrow keys move it, too."""
    import ipywidgets

    return getattr(ipywidgets, kind)(
        value=value,
        min=low,
        max=high,
        description=description,
        continuous_update=False,
        style={"description_width": "7em"},
        layout={"width": "32em"},
        **more,
    )


def _dropdown(description: str, options: Sequence[str], value: str):
    import ipywidgets

    return ipywidgets.Dropdown(
        options=options,
        value=value,
        description=description,
        style={"description_width": "7em"},
        layout={"width": "32em"},
    )


def _text(description: str, value: str):
    import ipywidgets

    return ipywidgets.Text(
        value=value,
        description=description,
        continuous_update=False,
        style={"description_width": "7em"},
        layout={"width": "48em"},
    )


def _encode(tokenizer, text: str, start_tokens: Sequence[int] = ()) -> list[int]:
    """Tokens of a text, at least one; start_tokens in place of what the tokenizer itself puts before it."""
    ids = [*start_tokens, *tokenizer(text, add_special_tokens=not start_tokens, verbose=False)["input_ids"]]
    if not ids:
        raise ValueError("the text got no token; write something, or give start_tokens")
    return ids


# --- sampling --------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """How the next token is drawn. top_k None and top_p None: nothing is cut."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __str__(self) -> str:
        parts = [
            f"temperature {self.temperature:g}",
            self.top_k and f"top-k {self.top_k}",
            self.top_p and f"top-p {self.top_p:g}",
        ]
        return ", ".join(filter(None, parts))


SETTINGS = (Setting(), Setting(temperature=0.5), Setting(top_k=3), Setting(top_p=0.8))
_N_BARS = 10
_ENDS_HERE = " (the text ends here)"


class NextTokens(NamedTuple):
    """Probabilities (V,) of the next token: the model's own, and those it is drawn from (0: cut)."""

    before: np.ndarray
    after: np.ndarray

    @property
    def n_kept(self) -> int:
        return int((self.after > 0).sum())


def next_tokens(model, ids: Sequence[int], sampling: Setting) -> NextTokens:
    """What may follow ``ids``. model: lmlab's GPT or of transformers."""
    import torch

    from lmlab.models.gpt import distribution

    with evaluating(model):
        logits = model(torch.tensor([list(ids)], device=model.device))[0][0, -1].float().cpu()  # (V,)
    return NextTokens(logits.softmax(-1).numpy(), distribution(logits, *sampling).numpy())


def continuation(
    model, tokenizer, ids: Sequence[int], sampling: Setting, n_tokens: int = 60, seed: int = 0
) -> str:
    """What the model writes after ``ids``; the same for the same seed. The context bounds its length."""
    import torch

    from lmlab.export import chat
    from lmlab.models.chat_template import stop_token_ids

    n_tokens = min(n_tokens, context_length(model) - len(ids))
    settings = chat.Sampling(sampling.temperature, sampling.top_p or 1.0, sampling.top_k or 0)
    with evaluating(model):
        if not hasattr(model, "attention_weights"):  # of transformers
            return "".join(chat.FolderChatModel("", model, tokenizer).stream(ids, n_tokens, settings, seed))
        start, stops = torch.tensor([list(ids)], device=model.device), stop_token_ids(model, tokenizer)
        made = model.generate(
            start,
            n_tokens,
            **sampling._asdict(),
            eos_token_id=stops,
            generator=torch.Generator(model.device).manual_seed(seed),
        )
        return tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)


def sampling_playground(model, tokenizer, prompt: str, *, start_tokens: Sequence[int] = ()):
    """Sliders for temperature, top-k and top-p; the next token's probabilities, and a text drawn from them.

    start_tokens stand before the prompt; give [eos] for a model that only ever saw documents begin so. Returns the
    box; where nobody is there, it draws and prints the four ``SETTINGS`` and returns None.
    """
    limit = context_length(model) // 2  # of a long prompt the end: room for what is to be written

    def read(prompt: str) -> tuple[list[int], str]:
        ids = _encode(tokenizer, prompt, start_tokens)
        return ids[-limit:], f"(the model reads the last {limit:,} of {len(ids):,} tokens)" * (
            len(ids) > limit
        )

    if not is_interactive():
        return _four_settings(model, tokenizer, prompt, *read(prompt))

    def draw(prompt: str, temperature: float, top_k: int, top_p: float, seed: int):
        ids, cut = read(prompt)
        sampling = Setting(round(temperature, 2), top_k or None, top_p if top_p < 1 else None)
        figure = _figure(7, 4.2)
        found = next_tokens(model, ids, sampling)
        _next_token_bars(
            found, tokenizer, f"{found.n_kept:,} of {len(found.after):,} tokens are left", figure.subplots()
        )
        written = continuation(model, tokenizer, ids, sampling, seed=seed) or _ENDS_HERE
        return figure, (
            f'<div style="white-space:pre-wrap;line-height:1.4;max-width:60em">{html.escape(prompt)}'
            f"<b>{html.escape(written)}</b></div>{cut}"
        )

    return _box(
        {
            "prompt": _text("prompt", prompt),
            "temperature": _slider("FloatSlider", "temperature", 0.0, 2.0, 1.0, step=0.1),
            "top_k": _slider("IntSlider", "top-k (0: all)", 0, 50, 0),
            "top_p": _slider("FloatSlider", "top-p (1: all)", 0.05, 1.0, 1.0, step=0.05),
            "seed": _slider("IntSlider", "seed", 0, 20, 0),
        },
        draw,
    )


def _next_token_bars(found: NextTokens, tokenizer, title: str, ax) -> None:
    """Bars of the likeliest tokens, and one of all others together."""
    best = found.before.argsort()[::-1][:_N_BARS]
    rest = [float(np.delete(part, best).sum()) for part in found]
    names = [visible(tokenizer.decode([token])) for token in best.tolist()]
    plots.next_tokens(
        [*names, f"{len(found.before) - len(best):,} others"],
        [*found.before[best], rest[0]],
        [*found.after[best], rest[1]],
        title=title,
        ax=ax,
    )


def _four_settings(model, tokenizer, prompt: str, ids: Sequence[int], cut: str) -> None:
    from matplotlib import pyplot

    if cut:
        print(cut)

    _, axes = pyplot.subplots(2, 2, figsize=(11, 7.6), layout="constrained")
    axes[0, 0].figure.suptitle(f"What follows {prompt!r}", parse_math=False)
    for sampling, ax in zip(SETTINGS, axes.flat, strict=True):
        found = next_tokens(model, ids, sampling)
        _next_token_bars(found, tokenizer, f"{sampling}: {found.n_kept:,} tokens are left", ax)
        print(f"--- {sampling}\n{prompt}{continuation(model, tokenizer, ids, sampling) or _ENDS_HERE}")


# --- attention -------------------------------------------------------------------------------------

_LONGEST_LOOK = 64  # tokens; the names of more cannot be read


def attention_explorer(
    model, tokenizer, ids: Sequence[int], *, layer: int = 0, head: int = 0, token: int | None = None
):
    """Choose a layer, a head and a token: what does it look at?

    ids: a text's tokens; in the box it can be rewritten. Of a long one the first tokens are shown. token: its place;
    the last without it. Returns the box; where nobody is there, it draws this token in this head and in every head,
    and returns None. Raises ValueError for no tokens, and for a layer, head or token that is not there.
    """
    if not len(ids):
        raise ValueError("ids got no token; give a text's tokens")
    looked = _Looked(model, tokenizer, ids)
    weights, names = looked(looked.text)
    token = len(names) - 1 if token is None else token
    for name, got, n in zip(("layer", "head", "token"), (layer, head, token), weights.shape, strict=False):
        if not 0 <= got < n:
            raise ValueError(f"{name} got {got}; give 0 to {n - 1}")
    if not is_interactive():
        from matplotlib import pyplot

        _look(
            weights, names, layer, head, token, pyplot.figure(figsize=_look_size(names), layout="constrained")
        )
        plots.attention_heads(
            weights[:, :, token, : token + 1],
            names[: token + 1],
            title=f"{_token_title(token, names)}, in every head",
        )
        return None
    return _explorer_box(looked, layer, head, token)


class _Looked:
    """Attention (n_layer, n_head, T, T) and the tokens' names of a text; of the last one they are kept."""

    def __init__(self, model, tokenizer, ids: Sequence[int]):
        self._model, self._tokenizer = model, tokenizer
        self._longest = min(_LONGEST_LOOK, context_length(model))
        self.text = tokenizer.decode(list(ids[: self._longest]))
        self._last = self.text, *self._look(ids)  # these tokens, for another way to cut the text may exist

    def __call__(self, text: str) -> tuple[np.ndarray, list[str]]:
        if self._last[0] != text:
            self._last = text, *self._look(_encode(self._tokenizer, text))
        return self._last[1:]

    def _look(self, ids: Sequence[int]) -> tuple[np.ndarray, list[str]]:
        ids = list(ids[: self._longest])
        return attention_weights(self._model, ids), [self._tokenizer.decode([one]) for one in ids]


def _explorer_box(looked: _Looked, layer: int, head: int, token: int):
    weights, names = looked(looked.text)
    n_layer, n_head = weights.shape[:2]
    controls = {
        "text": _text("text", looked.text),
        "layer": _slider("IntSlider", "layer", 0, n_layer - 1, layer),
        "head": _slider("IntSlider", "head", 0, n_head - 1, head),
        "token": _slider("IntSlider", "token", 0, len(names) - 1, token),
    }

    shown = looked.text

    def draw(text: str, layer: int, head: int, token: int):
        nonlocal shown
        weights, names = looked(text)
        if text != shown:
            shown, token = text, len(names) - 1
            controls["token"].max = controls["token"].value = token  # the slider draws, too
        figure = _figure(*_look_size(names))
        _look(weights, names, layer, head, token, figure)
        return figure, ""

    return _box(controls, draw)


def _look_size(names: Sequence[str]) -> tuple[float, float]:
    side = 2.2 + 0.13 * len(names)  # inches
    return side + 3.6, side


def _look(weights: np.ndarray, names: Sequence[str], layer: int, head: int, token: int, figure) -> None:
    """One head's map with a token's row framed, and that row as bars."""
    width, height = figure.get_size_inches()
    left, right = figure.subplots(1, 2, width_ratios=(height, width - height))
    plots.attention_map(weights[layer, head], names, row=token, title=f"Layer {layer}, head {head}", ax=left)
    plots.attention_row(
        weights[layer, head, token, : token + 1],
        names[: token + 1],
        ax=right,
        title=_token_title(token, names),
    )


def _token_title(token: int, names: Sequence[str]) -> str:
    return f"Token {token}, {visible(names[token])}".replace("$", r"\$")  # no formula


# --- HellaSwag -------------------------------------------------------------------------------------

READINGS = ("sum", "token", "char")  # the conventions of lesson 03
FILTERS = ("wrong", "right", "conventions differ", "all")


def chosen_items(scores: HellaSwagScores, which: str, convention: str = "token") -> np.ndarray:
    """Indices of the items of one kind, from the most surely wrong to the most surely right."""
    right = scores.correct(convention)
    chosen = np.array([scores.chosen(each) for each in READINGS])  # (3, N)
    kept = {
        "wrong": ~right,
        "right": right,
        "all": right | True,
        "conventions differ": (chosen != chosen[0]).any(axis=0),
    }
    if which not in kept:
        raise ValueError(f"which got {which!r}; give one of {', '.join(kept)}")
    order = scores.margins(convention).argsort(kind="stable")
    return order[kept[which][order]]


class Ending(NamedTuple):
    """One ending of an item with its scores."""

    text: str
    n_tokens: int
    scores: dict[str, float]  # convention -> nats, nats per token, nats per character
    picked_by: tuple[str, ...]  # conventions
    is_right: bool


@dataclass(frozen=True, repr=False)
class ItemView:
    """A HellaSwag item, what a model made of it, and under which convention it picks which ending."""

    title: str
    context: str
    endings: tuple[Ending, ...]

    def __repr__(self) -> str:
        lines = [f"{self.title}\n{self.context} ..."]
        for i, each in enumerate(self.endings):
            picked = f"   <- picked by {', '.join(each.picked_by)}" if each.picked_by else ""
            numbers = "  ".join(f"{name} {value:.2f}" for name, value in each.scores.items())
            lines.append(f"{'✓' if each.is_right else ' '} {i} {each.text}\n      {numbers}{picked}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th style="text-align:left;padding:3px 9px">{name}</th>'
            for name in ("", "ending", "tokens", "nats", "per token", "per character", "picked by")
        )
        return (
            f'<p style="max-width:60em"><b>{html.escape(self.title)}</b><br>{html.escape(self.context)} ...</p>'
            f"<table><tr>{head}</tr>{''.join(map(_ending_row, self.endings))}</table>"
        )


def _ending_row(each: Ending) -> str:
    share = np.exp(each.scores["token"])  # the mean probability of its tokens, as a bar
    bar = (
        f'<div style="background:{plots.BLUE};height:5px;width:{max(1, round(70 * share))}px" '
        f'title="{share:.1%} per token"></div>'
    )
    cells = ["✓ right" if each.is_right else "", html.escape(each.text), each.n_tokens]
    for name in READINGS:
        value = f"{each.scores[name]:.2f}"
        value = f"<b>▶ {value}</b>" if name in each.picked_by else value
        cells.append(value + (bar if name == "token" else ""))
    cells.append(", ".join(each.picked_by))
    weight = "font-weight:bold;" if each.is_right else ""
    style = f'style="text-align:left;vertical-align:top;padding:3px 9px;{weight}white-space:normal"'
    return f"<tr>{''.join(f'<td {style}>{cell}</td>' for cell in cells)}</tr>"


def item_view(
    rows: Sequence[Mapping], scores: HellaSwagScores, i: int, convention: str = "token"
) -> ItemView:
    """Item ``i`` of ``rows``, which ``scores`` belong to."""
    label, row = int(scores.labels[i]), rows[i]
    by = {name: scores.scores(name)[i] for name in READINGS}
    endings = tuple(
        Ending(
            text,
            int(scores.n_tokens[i, j]),
            {name: float(by[name][j]) for name in READINGS},
            tuple(name for name in READINGS if by[name].argmax() == j),
            j == label,
        )
        for j, text in enumerate(row["endings"])
    )
    verdict = "right" if scores.correct(convention)[i] else "wrong"
    title = f"item {i}: {verdict} by {convention}, margin {scores.margins(convention)[i]:+.2f} nats"
    return ItemView(title, hellaswag_context(row), endings)


@dataclass(frozen=True, repr=False)
class Several:
    """Views one below the other."""

    views: tuple

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.views))

    def _repr_html_(self) -> str:
        return "".join(view._repr_html_() for view in self.views)


def hellaswag_browser(rows: Sequence[Mapping], scores: HellaSwagScores):
    """Items with their endings' scores, filtered by right and wrong, the most surely wrong first.

    Returns the box; where nobody is there, a few items: the most surely wrong, the closest, the most surely right
    and one on which the conventions differ. Raises ValueError where rows and scores are not of the same items.
    """
    if len(rows) != len(scores.labels):
        raise ValueError(
            f"got {len(rows)} rows and scores of {len(scores.labels)}; give the rows that were scored"
        )
    if not is_interactive():
        order, closest = chosen_items(scores, "all"), int(np.abs(scores.margins()).argmin())
        differing = chosen_items(scores, "conventions differ")[:1]
        shown = dict.fromkeys(map(int, [order[0], closest, order[-1], *differing]))  # these may be one
        return Several(tuple(item_view(rows, scores, i) for i in shown))
    return _browser_box(rows, scores)


def _browser_box(rows: Sequence[Mapping], scores: HellaSwagScores):
    controls = {
        "convention": _dropdown("convention", READINGS, "token"),
        "which": _dropdown("show", FILTERS, "all"),
        "place": _slider("IntSlider", "item", 1, len(rows), 1),
    }

    def draw(convention: str, which: str, place: int):
        found = chosen_items(scores, which, convention)
        controls["place"].max = max(1, len(found))
        if not len(found):
            return None, "<p>There is no such item.</p>"
        place = min(place, len(found))
        view = item_view(rows, scores, int(found[place - 1]), convention)
        return (
            None,
            f"<p>{place} of {len(found)}, {len(found) / len(rows):.1%} of all</p>{view._repr_html_()}",
        )

    return _box(controls, draw)


# --- tokens and labels -----------------------------------------------------------------------------


def token_viewer(rows: Sequence[Mapping] | Mapping, tokenizer):
    """Tokens of an example: which bear loss, which are special or padding, and the ids where one points.

    rows: tokenized examples, or a batch as a collator gives it. Returns the box; where nobody is there, the first
    two examples. Raises ValueError for none.
    """
    if isinstance(rows, Mapping):
        rows = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    if not len(rows):
        raise ValueError("rows got no example; give tokenized examples, or a batch of them")
    if not is_interactive():
        return token_view([rows[i] for i in range(min(2, len(rows)))], tokenizer)

    def draw(example: int):
        row = rows[example - 1]
        return None, f"<p>{counted(row)}</p>{token_view([row], tokenizer)._repr_html_()}"

    return _box({"example": _slider("IntSlider", "example", 1, len(rows), 1)}, draw)


def counted(row: Mapping) -> str:
    """How many tokens of an example are of which kind."""
    real = [bool(bit) for bit in row.get("attention_mask", [1] * len(row["input_ids"]))]
    parts = [f"{sum(real)} tokens"]
    if "labels" in row:
        parts.append(f"{sum(int(label) != IGNORE_INDEX for label in row['labels'])} bear loss")
    if not all(real):
        parts.append(f"{real.count(False)} more are padding")
    return ", ".join(parts)
