"""Widgets: they compute what transformers does, show all of it escaped, and draw in batch runs, too."""

import io
import itertools
from types import SimpleNamespace

import matplotlib
import numpy
import pytest

from lmlab.data.token_view import LABELLED, MASKED, PAD, READ, token_view, visible
from lmlab.evaluation.attention import attention_weights
from lmlab.evaluation.hellaswag import HellaSwagScores
from lmlab.models.sources import load_tokenizer
from lmlab.viz import display, hellaswag_browser, widgets
from lmlab.viz.attention_explorer import attention_explorer

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "Ada was hungry"


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder):
    return load_tokenizer(str(gpt2_folder))


@pytest.fixture(scope="module")
def own(gpt2_folder):
    """lmlab's GPT with logits that differ enough for a cut to matter."""
    import torch

    from lmlab.models.gpt import GPT

    model = GPT.from_pretrained(gpt2_folder)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(8)
        for block in model.transformer.h:
            block.attn.c_attn.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def theirs(own, gpt2_folder, tmp_path_factory):
    from transformers import GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("theirs")
    own.save_pretrained(folder)
    return GPT2LMHeadModel.from_pretrained(folder).eval()


@pytest.fixture(params=["own", "theirs"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[True, False], ids=["reader", "batch"])
def there(request, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setattr(display, "is_interactive", lambda: request.param)
    yield request.param
    pyplot.close("all")


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(display, "is_interactive", lambda: False)


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(display, "is_interactive", lambda: True)


def control(box, description: str):
    return next(child for child in box.children if getattr(child, "description", "").startswith(description))


def image(box):
    """The image of a box as an array."""
    from PIL import Image

    return numpy.asarray(Image.open(io.BytesIO(bytes(box.children[-2].value))).convert("L")).astype(int)


# --- sampling ---


@pytest.mark.parametrize(
    "setting",
    [
        *widgets.SETTINGS.values(),
        {"temperature": 1.7},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 1000},
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.7},
        {"temperature": 1.3, "top_k": 3, "top_p": 0.99},
    ],
)
def test_what_is_sampled_from_equals_transformers_warpers(own, tokenizer, setting):
    import torch
    from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    ids = tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        logits = own(torch.tensor([ids]))[0][:, -1]
    warped = TemperatureLogitsWarper(setting["temperature"])(torch.tensor([ids]), logits)
    if "top_k" in setting:
        warped = TopKLogitsWarper(setting["top_k"])(torch.tensor([ids]), warped)
    if "top_p" in setting:
        warped = TopPLogitsWarper(setting["top_p"])(torch.tensor([ids]), warped)
    before, after = widgets.next_tokens(own, ids, setting)
    assert after == pytest.approx(warped.softmax(-1)[0].numpy(), abs=1e-6)
    assert ((after == 0) == (warped[0] == -torch.inf).numpy()).all()
    assert before == pytest.approx(logits.softmax(-1)[0].numpy(), abs=1e-6)


def test_temperature_0_leaves_the_most_likely(own, tokenizer):
    before, after = widgets.next_tokens(own, tokenizer(PROMPT)["input_ids"], {"temperature": 0.0})
    assert (after > 0).sum() == 1 and after[before.argmax()] == 1


def test_a_continuation_belongs_to_its_seed_and_leaves_the_model_in_training(own, tokenizer):
    import torch

    own.train()
    ids, state = tokenizer(PROMPT)["input_ids"], torch.get_rng_state()
    texts = [widgets.continuation(own, tokenizer, ids, {"temperature": 1.0}, seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), state), "the reader's own random numbers are left alone"
    widgets.next_tokens(own, ids, {"temperature": 1.0})
    assert own.training
    own.eval()


def test_cut_tokens_have_no_bar(own, tokenizer):
    ax = widgets.box_figure(6, 4).subplots()
    found = widgets.next_tokens(own, tokenizer(PROMPT)["input_ids"], widgets.SETTINGS["top-k 3"])
    widgets.draw_next_tokens(ax, tokenizer, *found)
    assert "3 of 400" in ax.get_title()
    assert not any(label.get_parse_math() for label in ax.get_yticklabels()), "a dollar is no formula"
    before, after = ax.containers
    assert [bar.get_width() > 0 for bar in after] == [True] * 3 + [False] * 8  # ten tokens and all others
    assert {bar.get_hatch() for bar in before} != {bar.get_hatch() for bar in after}
    for bars in (before, after):
        assert sum(bar.get_width() for bar in bars) == pytest.approx(1, abs=1e-5)


def test_the_playground(there, own, tokenizer, capsys):
    from matplotlib import pyplot

    box = widgets.sampling_playground(own, tokenizer, PROMPT, start_tokens=[0])
    if not there:
        said = capsys.readouterr().out
        assert box is None and said.count("---") == 4 and not pyplot.get_fignums()
        assert all(name in said for name in widgets.SETTINGS)
        return
    assert not pyplot.get_fignums(), "it would be shown a second time below the box"
    before, text = image(box), box.children[-1].value
    control(box, "top-k").value = 2
    assert (image(box) != before).any() and box.children[-1].value != text
    control(box, "prompt").value = "<i>"
    assert "&lt;i&gt;" in box.children[-1].value and "<i>" not in box.children[-1].value
    control(box, "prompt").value = PROMPT
    control(box, "top-k").value = 0
    assert (image(box) == before).all() and box.children[-1].value == text


def test_a_prompt_longer_than_the_context_is_continued(there, own, tokenizer, capsys):
    box = widgets.sampling_playground(own, tokenizer, "so " * 400, start_tokens=[0])
    assert "so so" in (box.children[-1].value if there else capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "told"),
    [(RuntimeError("out of <memory>"), "out of &lt;memory&gt;"), (AssertionError(), "AssertionError")],
)
def test_every_error_is_shown_in_place_of_the_image(watched, own, tokenizer, monkeypatch, error, told):
    box = widgets.sampling_playground(own, tokenizer, PROMPT, start_tokens=[0])

    def fail(*_, **__):
        raise error

    for module, name in ((widgets, "next_tokens"), (display, "png_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            control(box, "seed").value += 1
        assert told in box.children[-1].value
        assert box.children[-2].value == b"" and box.children[-2].layout.display == "none"
    control(box, "seed").value = 0
    assert image(box).size and box.children[-2].layout.display is None


# --- attention ---


def test_attention_is_causal_weights_equal_to_transformers(own, theirs, tokenizer):
    import torch

    ids = tokenizer(PROMPT)["input_ids"]
    theirs.set_attn_implementation("eager")
    expected = torch.cat(theirs(torch.tensor([ids]), output_attentions=True).attentions).detach().numpy()
    for each in (own, theirs):
        weights = attention_weights(each, ids)
        assert weights.shape == (2, 2, len(ids), len(ids))
        assert weights == pytest.approx(expected, abs=1e-5)
        assert weights.sum(-1) == pytest.approx(numpy.ones(weights.shape[:3]), abs=1e-5)
        assert (weights == numpy.tril(weights)).all()


@pytest.mark.slow
def test_the_explorer(there, model, tokenizer):
    from matplotlib import pyplot

    ids = tokenizer("Ada was hungry. Ada ate $2 and $3.")["input_ids"]
    box = attention_explorer(model, tokenizer, ids, layer=1, head=0, token=5)
    if not there:
        [one] = (pyplot.figure(number) for number in pyplot.get_fignums())
        assert box is None and [ax.get_title()[:7] for ax in one.axes[:2]] == ["Layer 1", "Token 5"]
        [heatmap] = one.axes[0].images
        bars = [bar.get_width() for bar in one.axes[1].patches]
        assert bars == pytest.approx(list(heatmap.get_array()[5, :6]))
        return
    images = [image(box)]
    for name, value in (("layer", 0), ("head", 1), ("token", 3)):
        control(box, name).value = value
        images.append(image(box))
    assert all((a != b).any() for a, b in itertools.pairwise(images))


def test_dollars_are_no_formula(alone, own, tokenizer):
    from matplotlib import pyplot

    ids = tokenizer("Ada ate $2$")["input_ids"]
    attention_explorer(own, tokenizer, ids, layer=0, head=0, token=len(ids) - 1)
    for ax in pyplot.gcf().axes:
        assert ax.get_title().count("$") == ax.get_title().count(r"\$")
    pyplot.close("all")


# --- HellaSwag ---

ROWS = [{"ctx": f"Item {i} <b>", "endings": ["a", "bb", "ccc", "d & d"], "label": "0"} for i in range(4)]
SCORES = HellaSwagScores(
    logprobs=numpy.array([[-1.0, -2, -3, -4], [-9, -2, -3, -4], [-2, -1.9, -9, -9], [-1.0, -1.5, -9, -9]]),
    n_tokens=numpy.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 2, 1, 1]]),
    n_chars=numpy.array([[1, 2, 3, 5]] * 4),
    n_bytes=numpy.array([[1, 2, 3, 5]] * 4),
    labels=numpy.zeros(4, int),
)


def test_items_are_filtered_and_the_worst_come_first():
    assert hellaswag_browser.filter_items(SCORES, "all").tolist() == [1, 3, 2, 0]
    assert hellaswag_browser.filter_items(SCORES, "incorrect").tolist() == [1, 3, 2]
    assert hellaswag_browser.filter_items(SCORES, "correct").tolist() == [0]
    assert 3 in hellaswag_browser.filter_items(SCORES, "conventions differ")


def test_an_item_says_who_picks_what():
    text = hellaswag_browser.item_text(ROWS, SCORES, 3)
    assert "incorrect by token, margin -0.25" in text and "✓ a\n" in text
    assert "1 tokens, sum ▶-1.00, token -1.00, char -1.00" in text
    assert "2 tokens, sum -1.50, token ▶-0.75, char ▶-0.75" in text


def test_the_browser(there, capsys):
    shown = hellaswag_browser.hellaswag_browser(ROWS, SCORES)
    if not there:
        printed = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "margin" in line]
        assert shown is None and printed == ["item 1", "item 2", "item 0"]
        return
    page = shown.children[-1]
    assert "1 of 4, 100.0% of all" in page.value and "item 1:" in page.value
    assert "Item 1 &lt;b&gt;" in page.value and "d &amp; d" in page.value
    control(shown, "item").value = 4
    assert "4 of 4" in page.value and "item 0:" in page.value
    control(shown, "show").value = "correct"
    assert "1 of 1" in page.value and "item 0:" in page.value and control(shown, "item").max == 1


def test_a_batch_run_also_shows_where_the_conventions_differ(alone, capsys):
    scores = HellaSwagScores(
        numpy.array([[-9.0, -1], [-2, -2.1], [-1, -9], [-3, -4]]),
        *(numpy.array([[1, 1], [1, 1], [1, 1], [1, 2]]) for _ in range(3)),
        labels=numpy.zeros(4, int),
    )
    rows = [{**row, "endings": row["endings"][:2]} for row in ROWS]
    hellaswag_browser.hellaswag_browser(rows, scores)
    printed = capsys.readouterr().out
    assert all(f"item {i}:" in printed for i in range(4))


def test_where_no_item_is_left_it_says_so(watched):
    right = HellaSwagScores(
        SCORES.logprobs[:1],
        *(part[:1] for part in (SCORES.n_tokens, SCORES.n_chars, SCORES.n_bytes, SCORES.labels)),
    )
    box = hellaswag_browser.hellaswag_browser(ROWS[:1], right)
    control(box, "show").value = "incorrect"
    assert "no such item" in box.children[-1].value


# --- tokens and labels ---


@pytest.fixture
def batch(tokenizer):
    """As a collator gives it: a prompt without loss, an answer, EOS, and padding by EOS."""
    import torch

    prompt, answer, eos = (
        tokenizer("2 < 3\n")["input_ids"],
        tokenizer(" yes")["input_ids"],
        tokenizer.eos_token_id,
    )
    ids, labels = [*prompt, *answer, eos], [-100] * len(prompt) + [*answer, eos]
    return {
        "input_ids": torch.tensor([ids + [eos] * 5, ids + [eos] * 5]),
        "labels": torch.tensor([labels + [-100] * 5] * 2),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * 5] * 2),
    }


def test_tokens_are_told_apart_with_and_without_color(batch, tokenizer):
    view = token_view([{name: column[0] for name, column in batch.items()}], tokenizer)
    [row] = view.rows
    n_prompt = int((batch["labels"][0] == -100).sum()) - 5
    kinds = [place.kind for place in row]
    n = kinds.index(PAD)
    assert kinds[:n] == [MASKED] * n_prompt + [LABELLED] * (n - n_prompt)
    assert row[n - 1].name == "EOS" and row[n].name == "", (
        "padding is known from the mask, not from the token"
    )
    assert row[-1].token == "... 3 more ...", "most padding is left out"
    page = view._repr_html_()
    assert "&lt;|endoftext|&gt;" in page and "&lt;</span>" in page and "<|" not in page
    assert f'title="id {tokenizer.eos_token_id}, label {tokenizer.eos_token_id}"' in page
    assert f'title="id {row[0].id}, label -100"' in page
    for style in ("font-weight:bold", "dotted", "line-through"):
        assert style in page


def test_tokens_without_labels_are_only_read(tokenizer):
    view = token_view([tokenizer(PROMPT)], tokenizer)
    assert {place.kind for place in view.rows[0]} == {READ} and "no loss" not in view._repr_html_()
    assert "".join(place.token for place in view.rows[0]) == PROMPT


def test_a_long_row_loses_its_middle(tokenizer):
    view = token_view([{"input_ids": list(range(1, 301))}], tokenizer)
    assert len(view.rows[0]) == 241 and "... 60 more ..." in view._repr_html_()
    assert view.rows[0][-1].id == 300


def test_what_cannot_be_seen_is_named():
    assert visible(" a\n\x1a\t") == "␣a⏎\\x1a\\t" and visible("") == "∅"


def test_a_pad_token_that_is_eos_is_named_eos():
    from lmlab.data.token_view import special_names

    some = SimpleNamespace(bos_token_id=1, eos_token_id=2, pad_token_id=2, unk_token_id=None)
    assert special_names(some) == {1: "BOS", 2: "EOS"}


def test_the_viewer(there, batch, tokenizer):
    shown = widgets.token_viewer(batch, tokenizer)
    if not there:
        assert len(shown.rows) == 2
        return
    shown = widgets.token_viewer([tokenizer("Ada"), tokenizer("Ben ran")], tokenizer)
    first = shown.children[-1].value
    control(shown, "example").value = 2
    assert shown.children[-1].value != first and "Ben"[1:] in shown.children[-1].value
