"""Widgets to play with in a notebook, each of them one call: a sampling playground and a viewer of tokens and
labels.

Where a reader sits, a call returns a box of ipywidgets. In a batch run nobody can move a slider, so a few
settings are drawn and printed side by side instead. The controls here also serve ``attention_explorer`` and
``hellaswag_browser``.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lmlab.data.token_view import token_view, visible
from lmlab.evaluation.scoring import evaluating
from lmlab.models import IGNORE_INDEX
from lmlab.models.sources import context_length
from lmlab.viz import display, style
from lmlab.viz.style import BLUE, GRAY

if TYPE_CHECKING:
    from ipywidgets import VBox, Widget
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lmlab.data.token_view import TokenView
    from lmlab.models.gpt import GPT

# --- controls --------------------------------------------------------------------------------------

_LOOK = {"style": {"description_width": "7em"}, "layout": {"width": "32em"}}


def control_box(controls: Mapping[str, Widget], draw: Callable) -> VBox:
    """Controls above what they control.

    Args:
        controls: argument of ``draw`` -> the widget that sets it.
        draw: takes the values of all controls, and returns a Figure (or None) and HTML. An error it raises is
            shown as text.
    """
    import ipywidgets

    image, page = ipywidgets.Image(format="png", layout={"max_width": "100%"}), ipywidgets.HTML()
    image.layout.align_self = "flex-start"  # a box would stretch it

    def update(_: object = None) -> None:
        """Draws with what the controls say now."""
        try:
            figure, page.value = draw(**{name: control.value for name, control in controls.items()})
            image.value = display.png_bytes(figure, dpi=90) if figure else b""
        except Exception as error:  # notebooks do not show what a callback raises
            message = str(error) or type(error).__name__
            image.value, page.value = b"", f"<b>{html.escape(message)}</b>"
        image.layout.display = None if image.value else "none"

    for control in controls.values():
        control.observe(update, "value")
    update()
    return ipywidgets.VBox([*controls.values(), image, page])


def slider(description: str, low: float, high: float, value: float, step: float = 1) -> Widget:
    """A slider that reports its value when it is released; arrow keys move it, too."""
    import ipywidgets

    kind = ipywidgets.FloatSlider if isinstance(step, float) else ipywidgets.IntSlider
    # no updates while it moves: each costs a forward pass and a figure
    limits = {"min": low, "max": high, "step": step, "continuous_update": False}
    return kind(value=value, description=description, **limits, **_LOOK)


def text_field(description: str, value: str) -> Widget:
    """A line of text to edit; Enter takes it over."""
    import ipywidgets

    return ipywidgets.Text(value=value, description=description, continuous_update=False, **_LOOK)


def dropdown(description: str, options: Sequence[str], value: str) -> Widget:
    """A choice of one of several names."""
    import ipywidgets

    return ipywidgets.Dropdown(options=options, value=value, description=description, **_LOOK)


def box_figure(width: float, height: float) -> Figure:
    """A figure (inches) unknown to pyplot, which would show it once more at the end of the cell."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def encode(tokenizer: PreTrainedTokenizerBase, text: str, start_tokens: Sequence[int] = ()) -> list[int]:
    """Token ids of a text, at least one. start_tokens replace what the tokenizer itself puts in front."""
    ids = tokenizer(text, add_special_tokens=not start_tokens, verbose=False)["input_ids"]
    if not (start_tokens or ids):
        raise ValueError("the text got no token; write something, or give start_tokens")
    return [*start_tokens, *ids]


# --- sampling --------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """How the next token is sampled. None for top_k or top_p: no token is cut."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __str__(self) -> str:
        parts = [f"temperature {self.temperature:g}"]
        if self.top_k:
            parts.append(f"top-k {self.top_k}")
        if self.top_p:
            parts.append(f"top-p {self.top_p:g}")
        return ", ".join(parts)


SETTINGS = (Setting(), Setting(temperature=0.5), Setting(top_k=3), Setting(top_p=0.8))
_N_BARS = 10
_END = " (the text ends here)"


class NextTokens(NamedTuple):
    """Probabilities (V,) of the next token: the model's own, and those it is sampled from (0: cut)."""

    before: np.ndarray
    after: np.ndarray

    @property
    def n_kept(self) -> int:
        """How many tokens can be sampled."""
        return int((self.after > 0).sum())


def next_tokens(model: GPT | PreTrainedModel, ids: Sequence[int], setting: Setting) -> NextTokens:
    """Which tokens may follow ``ids``. model: lmlab's GPT or a model of transformers."""
    import torch

    from lmlab.models.sampling import distribution

    # in evaluation mode, or dropout would give other probabilities each time
    with evaluating(model):
        logits = model(torch.tensor([list(ids)], device=model.device))[0][0, -1].float().cpu()  # (V,)
    return NextTokens(logits.softmax(-1).numpy(), distribution(logits, *setting).numpy())


def continuation(
    model: GPT | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    setting: Setting,
    max_new_tokens: int = 60,
    seed: int = 0,
) -> str:
    """What the model writes after ``ids``, within its context; the same for the same seed."""
    import torch

    from lmlab.models.chat_template import stop_token_ids
    from lmlab.models.gpt import GPT

    prompt = torch.tensor([list(ids)], device=model.device)  # (1, T)
    max_new_tokens = min(max_new_tokens, context_length(model) - len(ids))
    stops = stop_token_ids(model, tokenizer)
    cuda = [model.device] if model.device.type == "cuda" else []
    # seeded inside a fork: the reader's own random numbers stay as they are
    with evaluating(model), torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        if isinstance(model, GPT):
            output = model.generate(prompt, max_new_tokens, **setting._asdict(), eos_token_id=stops)
        else:
            output = _generate(model, prompt, setting, max_new_tokens, stops)
    return tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)


def _generate(model, prompt, setting: Setting, max_new_tokens: int, stops: Sequence[int]):
    """``generate`` of transformers with all that the model's own generation config might say overridden."""
    # temperature 0 is greedy decoding; transformers wants it said like this
    sampling = {"do_sample": False}
    if setting.temperature > 0:
        cut = {"top_k": setting.top_k or 0, "top_p": setting.top_p or 1.0}
        sampling = {"do_sample": True, "temperature": setting.temperature, **cut}
    return model.generate(
        prompt,
        attention_mask=prompt.new_ones(prompt.shape),
        max_new_tokens=max_new_tokens,
        repetition_penalty=1.0,
        eos_token_id=list(stops) or None,
        pad_token_id=next(iter(stops), 0),
        **sampling,
    )


def sampling_playground(model, tokenizer, prompt: str, *, start_tokens: Sequence[int] = ()) -> VBox | None:
    """Sliders for temperature, top-k and top-p above the next token's probabilities and a text sampled from
    them.

    Args:
        model: lmlab's GPT or a model of transformers.
        prompt: the text to continue; of a long one the model reads the end.
        start_tokens: put before the prompt; [EOS] for a model whose training documents all began so.

    Returns:
        The box; in a batch run None, after drawing and printing the four ``SETTINGS``.
    """
    limit = context_length(model) // 2  # leaves room for what is to be written

    def read(prompt: str) -> tuple[list[int], str]:
        """The tokens that the model reads, and a remark where these are not all."""
        ids = encode(tokenizer, prompt, start_tokens)
        if len(ids) <= limit:
            return ids, ""
        return ids[-limit:], f"(the model reads the last {limit:,} of {len(ids):,} tokens)"

    if not display.is_interactive():
        ids, remark = read(prompt)
        print(remark, end="\n" if remark else "")
        _draw_settings(model, tokenizer, prompt, ids)
        return None

    def draw(prompt: str, temperature: float, top_k: int, top_p: float, seed: int) -> tuple[Figure, str]:
        """The next token's probabilities, and the prompt with its continuation."""
        ids, remark = read(prompt)
        # sliders cannot say None, so their ends mean that nothing is cut
        setting = Setting(round(temperature, 2), top_k or None, top_p if top_p < 1 else None)
        found = next_tokens(model, ids, setting)
        figure = box_figure(7, 4.2)
        title = f"{found.n_kept:,} of {len(found.after):,} tokens are left"
        draw_next_tokens(figure.subplots(), found, tokenizer, title)
        written = continuation(model, tokenizer, ids, setting, seed=seed) or _END
        look = "white-space:pre-wrap;line-height:1.4;max-width:60em"
        text = f"{html.escape(prompt)}<b>{html.escape(written)}</b>"
        return figure, f'<div style="{look}">{text}</div>{remark}'

    controls = {
        "prompt": text_field("prompt", prompt),
        "temperature": slider("temperature", 0.0, 2.0, 1.0, step=0.1),
        "top_k": slider("top-k (0: all)", 0, 50, 0),
        "top_p": slider("top-p (1: all)", 0.05, 1.0, 1.0, step=0.05),
        "seed": slider("seed", 0, 20, 0),
    }
    return control_box(controls, draw)


def _draw_settings(model, tokenizer, prompt: str, ids: Sequence[int]) -> None:
    """Next tokens and a continuation for each of the ``SETTINGS``."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.6), layout="constrained")
    figure.suptitle(f"What follows {prompt!r}", parse_math=False)
    for setting, ax in zip(SETTINGS, axes.flat, strict=True):
        found = next_tokens(model, ids, setting)
        draw_next_tokens(ax, found, tokenizer, f"{setting}: {found.n_kept:,} tokens are left")
        written = continuation(model, tokenizer, ids, setting) or _END
        print(f"--- {setting}\n{prompt}{written}")


def draw_next_tokens(ax: Axes, found: NextTokens, tokenizer: PreTrainedTokenizerBase, title: str) -> None:
    """Two bars for each of the most likely tokens, and for all others together: the model's, and after the
    cut.

    A token that was cut has an empty, dashed bar and the word "cut", so that it is told apart without color.
    """
    # the order of the model's own probabilities, so that bars stay in their place when a slider moves
    top = found.before.argsort()[::-1][:_N_BARS]
    names = [visible(tokenizer.decode([token])).replace("｜", "|") for token in top.tolist()]
    names.append(f"{len(found.before) - len(top):,} others")
    before = [*found.before[top], np.delete(found.before, top).sum()]
    after = [*found.after[top], np.delete(found.after, top).sum()]
    y = np.arange(len(names))

    style.axes(ax, "probability", "", title)
    colors = ["white" if p == 0 else "#bbbbbb" for p in after]
    look = {"hatch": "///", "edgecolor": GRAY, "linestyle": "--"}
    ax.barh(y - 0.2, before, height=0.38, label="of the model", color=colors, **look)
    ax.barh(y + 0.2, after, height=0.38, label="sampled from", color=BLUE, edgecolor="black", linewidth=0.5)
    for i in range(len(names)):
        if after[i] == 0:
            label, end = "cut", (before[i], i - 0.2)
        else:
            label, end = _percent(after[i]), (after[i], i + 0.2)
        ax.annotate(label, end, xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    style.label_rows(ax, names, fontsize=8)
    ax.set_xlim(0, min(1.1, 1.15 * max(*before, *after)))
    ax.legend(loc="lower right", fontsize=8)


def _percent(probability: float) -> str:
    return f"{probability:.0%}" if probability >= 0.005 else "<1%"


# --- tokens and labels -----------------------------------------------------------------------------


def token_viewer(rows: Sequence[Mapping] | Mapping, tokenizer: PreTrainedTokenizerBase) -> VBox | TokenView:
    """The tokens of an example: which contribute to the loss, which are special or padding, and the ids on
    hover.

    Args:
        rows: tokenized examples, or a batch as a collator returns it.

    Returns:
        The box; in a batch run a view of the first two examples.

    Raises:
        ValueError: there is no example.
    """
    if isinstance(rows, Mapping):
        # a batch: a dict of columns becomes a list of dicts
        rows = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    if not len(rows):
        raise ValueError("rows got no example; give tokenized examples, or a batch of them")
    if not display.is_interactive():
        return token_view([rows[i] for i in range(min(2, len(rows)))], tokenizer)

    def draw(example: int) -> tuple[None, str]:
        """The counts and the tokens of an example, counted from 1."""
        row = rows[example - 1]
        return None, f"<p>{count_tokens(row)}</p>{token_view([row], tokenizer)._repr_html_()}"

    return control_box({"example": slider("example", 1, len(rows), 1)}, draw)


def count_tokens(row: Mapping) -> str:
    """How many tokens of an example are real, contribute to the loss, and are padding."""
    mask = row.get("attention_mask", [1] * len(row["input_ids"]))
    n_real = sum(int(bit) for bit in mask)
    parts = [f"{n_real} tokens"]
    if "labels" in row:
        n_labels = sum(int(label) != IGNORE_INDEX for label in row["labels"])
        parts.append(f"{n_labels} contribute to the loss")
    if n_real < len(mask):
        parts.append(f"{len(mask) - n_real} more are padding")
    return ", ".join(parts)
