"""Widgets to play with in a notebook, each of them one call: a sampling playground and a viewer of tokens and
labels.

Where a reader sits, a call returns a box of ipywidgets. In a batch run nobody can move a slider, so a few
settings are printed instead. The controls here also serve ``attention_explorer`` and ``hellaswag_browser``.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmlab.data.token_view import token_view, visible
from lmlab.evaluation.scoring import evaluating
from lmlab.viz import display, style
from lmlab.viz.style import BLUE, GRAY

if TYPE_CHECKING:
    from ipywidgets import VBox, Widget
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase

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


def box_figure(width: float, height: float) -> Figure:
    """A figure (inches) unknown to pyplot, which would show it once more at the end of the cell."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


# --- sampling --------------------------------------------------------------------------------------

# how the next token is sampled, as ``sampling.distribution`` takes it
SETTINGS = {
    "temperature 1": {"temperature": 1.0},
    "temperature 0.5": {"temperature": 0.5},
    "top-k 3": {"temperature": 1.0, "top_k": 3},
    "top-p 0.8": {"temperature": 1.0, "top_p": 0.8},
}
_N_BARS = 10


def next_tokens(model: GPT, ids: Sequence[int], setting: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (V,) of the token after ``ids``: the model's, and those it is sampled from (0: cut)."""
    import torch

    from lmlab.models.sampling import distribution

    # of a long text the model can read the end alone
    window = torch.tensor([ids[-model.config.block_size :]], device=model.device)  # (1, T)
    # in evaluation mode, or dropout would give other probabilities each time
    with evaluating(model):
        logits = model(window)[0][0, -1].float().cpu()  # (V,)
    return logits.softmax(-1).numpy(), distribution(logits, **setting).numpy()


def continuation(
    model: GPT, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], setting: Mapping, seed: int
) -> str:
    """What the model writes after ``ids``, up to 60 tokens; the same for the same seed."""
    import torch

    # a generator of its own: the reader's random numbers stay as they are
    generator = torch.Generator(model.device).manual_seed(seed)
    prompt = torch.tensor([ids], device=model.device)  # (1, T)
    output = model.generate(prompt, 60, **setting, generator=generator)
    return tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)


def sampling_playground(
    model: GPT, tokenizer: PreTrainedTokenizerBase, prompt: str, *, start_tokens: Sequence[int]
) -> VBox | None:
    """Sliders for temperature, top-k and top-p above the next token's probabilities and a text sampled from
    them.

    Args:
        prompt: the text to continue.
        start_tokens: put before the prompt; [EOS] for a model whose training documents all began so.

    Returns:
        The box; in a batch run None, after printing a continuation for each of the ``SETTINGS``.
    """
    if not display.is_interactive():
        ids = [*start_tokens, *tokenizer(prompt)["input_ids"]]
        for name, setting in SETTINGS.items():
            written = prompt + continuation(model, tokenizer, ids, setting, seed=0)
            print("---", name)
            for line in written.splitlines():
                print(textwrap.fill(line, 60))
        return None

    def draw(prompt: str, temperature: float, top_k: int, top_p: float, seed: int) -> tuple[Figure, str]:
        """The next token's probabilities, and the prompt with its continuation."""
        ids = [*start_tokens, *tokenizer(prompt)["input_ids"]]
        # sliders cannot say None, so their ends mean that nothing is cut
        cut = {"top_k": top_k or None, "top_p": top_p if top_p < 1 else None}
        setting = {"temperature": round(temperature, 2), **cut}
        figure = box_figure(7, 4.2)
        draw_next_tokens(figure.subplots(), tokenizer, *next_tokens(model, ids, setting))
        written = continuation(model, tokenizer, ids, setting, seed)
        look = "white-space:pre-wrap;line-height:1.4;max-width:60em"
        return figure, f'<div style="{look}">{html.escape(prompt)}<b>{html.escape(written)}</b></div>'

    import ipywidgets

    text = ipywidgets.Text(value=prompt, description="prompt", continuous_update=False, **_LOOK)
    controls = {
        "prompt": text,
        "temperature": slider("temperature", 0.0, 2.0, 1.0, step=0.1),
        "top_k": slider("top-k (0: all)", 0, 50, 0),
        "top_p": slider("top-p (1: all)", 0.05, 1.0, 1.0, step=0.05),
        "seed": slider("seed", 0, 20, 0),
    }
    return control_box(controls, draw)


def draw_next_tokens(
    ax: Axes, tokenizer: PreTrainedTokenizerBase, before: np.ndarray, after: np.ndarray
) -> None:
    """Two bars for each of the most likely tokens, and for all others together: the model's, and after the
    cut. A token that was cut has no second bar.

    Args:
        before: the model's probabilities (V,).
        after: those it is sampled from (V,).
    """
    # the order of the model's own probabilities, so that bars stay in their position when a slider moves
    top = before.argsort()[::-1][:_N_BARS]
    # matplotlib's font lacks the wide bar of some special tokens
    names = [visible(tokenizer.decode([token])).replace("｜", "|") for token in top.tolist()]
    y = np.arange(len(names) + 1)
    hollow = {"color": "white", "edgecolor": GRAY, "hatch": "///"}
    filled = {"color": BLUE, "edgecolor": "black", "linewidth": 0.5}

    style.axes(ax, "probability", "", f"{(after > 0).sum():,} of {len(after):,} tokens are left")
    for probabilities, shift, label, look in (
        (before, -0.2, "of the model", hollow),
        (after, 0.2, "sampled from", filled),
    ):
        others = np.delete(probabilities, top).sum()
        ax.barh(y + shift, [*probabilities[top], others], height=0.38, label=label, **look)
    style.label_rows(ax, [*names, f"{len(before) - len(top):,} others"], fontsize=8)
    ax.legend(loc="lower right", fontsize=8)


# --- tokens and labels -----------------------------------------------------------------------------


def token_viewer(rows: Sequence[Mapping] | Mapping, tokenizer: PreTrainedTokenizerBase) -> VBox | TokenView:
    """The tokens of an example: which contribute to the loss, which are special or padding, and the ids on
    hover.

    Args:
        rows: tokenized examples, or a batch as a collator returns it.

    Returns:
        The box; in a batch run a view of the first two examples.
    """
    if isinstance(rows, Mapping):
        # a batch: a dict of columns becomes a list of dicts
        rows = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    if not display.is_interactive():
        return token_view([rows[i] for i in range(min(2, len(rows)))], tokenizer)

    def draw(example: int) -> tuple[None, str]:
        """The tokens of an example, counted from 1."""
        return None, token_view([rows[example - 1]], tokenizer)._repr_html_()

    return control_box({"example": slider("example", 1, len(rows), 1)}, draw)
