"""Scores against plain one-at-a-time references, intervals against known values."""

import math

import numpy as np
import pytest
import torch

from lmlab import miniworld
from lmlab.evaluation.hellaswag import HellaSwagScores, harness_context, score_hellaswag
from lmlab.evaluation.perplexity import count_words, perplexity
from lmlab.evaluation.scoring import score_tokens
from lmlab.evaluation.statistics import mcnemar, paired_bootstrap, wilson_interval
from lmlab.models.gpt import GPT
from lmlab.models.sources import load_model, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder):
    return load_tokenizer(str(gpt2_folder))


def family(kind, folder):
    """A random model of each family, all with a vocabulary of 400."""
    if kind == "lmlab":
        return GPT.from_pretrained(folder)
    if kind == "gpt2":
        return load_model(str(folder))
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    torch.manual_seed(0)
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    return AutoModelForCausalLM.from_config(config)


def uniform_model(folder):
    """Every token equally likely: the output layer is tied to embeddings of zero."""
    model = GPT.from_pretrained(folder)
    torch.nn.init.zeros_(model.transformer.wte.weight)
    return model


def one_at_a_time(model, tokens, start):
    """Sum of log p of tokens[start:], in the plainest way."""
    total = 0.0
    with torch.no_grad():
        for t in range(start, len(tokens)):
            output = model(torch.tensor([tokens[:t]]))
            logits = output.logits if hasattr(output, "logits") else output[0]
            total += logits[0, -1].log_softmax(-1)[tokens[t]].item()
    return total


@pytest.mark.slow
@pytest.mark.parametrize("share_context", [True, False])
@pytest.mark.parametrize("kind", ["lmlab", "gpt2", "llama", "qwen2"])
def test_hellaswag_equals_one_item_at_a_time(kind, share_context, gpt2_folder, tokenizer, caplog):
    model = family(kind, gpt2_folder)
    rows = miniworld.dataset("hellaswag", "validation", n=2)
    scores = score_hellaswag(model, tokenizer, rows, batch_tokens=700, share_context=share_context)
    for i, row in enumerate(rows):
        context = tokenizer(row["ctx"])["input_ids"]
        for j, ending in enumerate(row["endings"]):
            tokens = tokenizer(" " + ending)["input_ids"]
            assert scores.logprobs[i, j] == pytest.approx(
                one_at_a_time(model, context + tokens, len(context)), abs=1e-3
            )
            assert scores.n_tokens[i, j] == len(tokens)
            assert scores.n_chars[i, j] == len(ending)
            assert scores.n_bytes[i, j] == len(ending.encode())
    assert scores.labels.tolist() == [row["label"] for row in rows]
    assert "read again for every ending" not in caplog.text


@pytest.mark.parametrize("batch_tokens", [1, 300, 10_000])
def test_hellaswag_does_not_depend_on_the_batch(batch_tokens, gpt2_folder, tokenizer):
    model, rows = family("lmlab", gpt2_folder), miniworld.dataset("hellaswag", n=5)
    expected = score_hellaswag(model, tokenizer, rows).logprobs
    assert score_hellaswag(model, tokenizer, rows, batch_tokens).logprobs == pytest.approx(expected, abs=1e-4)


def test_labels_may_be_text(gpt2_folder, tokenizer):
    model, rows = family("lmlab", gpt2_folder), miniworld.dataset("hellaswag", n=3)
    published = [{**row, "label": str(row["label"])} for row in rows]
    plain, other = (score_hellaswag(model, tokenizer, some) for some in (rows, published))
    assert np.array_equal(plain.labels, other.labels)


def test_start_tokens_are_read_but_not_scored(gpt2_folder, tokenizer):
    model, rows = family("lmlab", gpt2_folder), miniworld.dataset("hellaswag", n=2)
    scores = score_hellaswag(model, tokenizer, rows, start_tokens=[0])
    context = [0, *tokenizer(rows[0]["ctx"])["input_ids"]]
    ending = tokenizer(" " + rows[0]["endings"][0])["input_ids"]
    expected = one_at_a_time(model, context + ending, len(context))
    assert scores.logprobs[0, 0] == pytest.approx(expected, abs=1e-3)


def test_long_context_loses_its_beginning(gpt2_folder, tokenizer):
    model, row = family("lmlab", gpt2_folder), miniworld.dataset("hellaswag", n=1)[0]
    long = {**row, "ctx": "Far away and long ago. " * 60 + row["ctx"]}
    ending = tokenizer(" " + row["endings"][2])["input_ids"]
    context = tokenizer(long["ctx"])["input_ids"][-(257 - len(ending)) :]  # the last token is not read
    expected = one_at_a_time(model, context + ending, len(context))
    assert score_hellaswag(model, tokenizer, [long]).logprobs[0, 2] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": ""}, "label"),
        ({"endings": ["a", "b"]}, "4 endings"),
        ({"endings": ["x" * 999, "a", "b", "c"]}, "256"),
    ],
)
def test_bad_items_are_refused(change, message, gpt2_folder, tokenizer):
    row = {**miniworld.dataset("hellaswag", n=1)[0], **change}
    with pytest.raises(ValueError, match=message):
        score_hellaswag(family("lmlab", gpt2_folder), tokenizer, [row])


def test_conventions_choose_as_published():
    """By hand: the sum prefers the short ending, the mean per token the one with many likely tokens."""
    scores = HellaSwagScores(
        logprobs=np.array([[-4.0, -6.0, -9.0, -20.0]]),
        n_tokens=np.array([[1, 2, 4, 4]]),
        n_chars=np.array([[5, 9, 9, 5]]),
        n_bytes=np.array([[5, 12, 9, 10]]),
        labels=np.array([1]),
    )
    chosen = {"sum": 0, "token": 2, "char": 1, "byte": 1}
    assert {convention: int(scores.chosen(convention)[0]) for convention in chosen} == chosen
    assert [scores.accuracy(convention) for convention in chosen] == [0, 0, 1, 1]
    assert scores.margins("sum") == pytest.approx([-2.0])
    assert scores.margins("byte") == pytest.approx([-0.5 + 0.8])


# --- perplexity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lmlab", "gpt2", "llama"])
def test_perplexity_is_weighted_by_tokens(kind, gpt2_folder, tokenizer):
    model = family(kind, gpt2_folder)
    texts = ["Ada ran.", "One rainy morning Ada was hungry. So she ran to the bakery.", "No."]
    documents = [[0, *tokenizer(text)["input_ids"], 0] for text in texts]
    nats = [-one_at_a_time(model, document, 1) for document in documents]
    counts = [len(document) - 1 for document in documents]
    result = perplexity(model, tokenizer, texts, batch_tokens=60)
    assert result["nats"] == pytest.approx(nats, rel=1e-5)
    assert result["counts"].tolist() == counts
    assert result["tokens"] == sum(counts)
    assert result["loss"] == pytest.approx(sum(nats) / sum(counts), rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(sum(nats) / sum(counts)), rel=1e-5)


@pytest.mark.parametrize("kind", ["lmlab", "gpt2", "llama"])
def test_logits_in_pieces_score_as_whole_ones_do(kind, gpt2_folder, tokenizer, monkeypatch):
    model = family(kind, gpt2_folder)
    sequences = [
        tokenizer(text)["input_ids"] for text in ("One rainy morning Ada was hungry.", "So she ran.")
    ]
    whole = score_tokens(model, sequences, [1, 2])
    monkeypatch.setattr("lmlab.evaluation.scoring.LOGITS_CHUNK", 3 * model.config.vocab_size)
    sizes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    pieces = score_tokens(model, sequences, [1, 2])
    assert max(sizes) == 3 and len(sizes) > 3
    for a, b in zip(whole, pieces, strict=True):
        assert np.allclose(a.logprobs, b.logprobs, atol=1e-5) and (a.hits == b.hits).all()


def test_uniform_model_has_the_perplexity_of_its_vocabulary(gpt2_folder, tokenizer):
    texts = [row["text"] for row in miniworld.dataset("stories", n=5)]
    result = perplexity(uniform_model(gpt2_folder), tokenizer, texts)
    assert result["perplexity"] == pytest.approx(400, rel=1e-4)


def test_long_text_counts_every_token_once(gpt2_folder, tokenizer):
    model, text = family("lmlab", gpt2_folder), "Ada ran to the bakery. " * 40
    ids = [0, *tokenizer(text)["input_ids"], 0]
    result = perplexity(model, tokenizer, [text], max_length=32)
    assert result["tokens"] == len(ids) - 1
    windows = [ids[i : i + 32] for i in range(0, len(ids) - 1, 31)]
    assert result["nats"][0] == pytest.approx(-sum(one_at_a_time(model, w, 1) for w in windows), rel=1e-5)


def test_token_accuracy_is_the_share_of_likeliest_tokens(gpt2_folder, tokenizer):
    model, text = family("lmlab", gpt2_folder), "One rainy morning Ada was hungry."
    ids = torch.tensor([[0, *tokenizer(text)["input_ids"], 0]])
    with torch.no_grad():
        expected = (model(ids)[0][0, :-1].argmax(-1) == ids[0, 1:]).float().mean().item()
    assert perplexity(model, tokenizer, [text])["token_accuracy"] == pytest.approx(expected)


def test_scoring_leaves_the_model_as_it_was(gpt2_folder, tokenizer):
    model = family("lmlab", gpt2_folder).train()
    perplexity(model, tokenizer, ["Ada ran."])
    assert model.training
    assert not model.lm_head._forward_pre_hooks
    assert model(torch.zeros(1, 3, dtype=torch.long))[0].shape == (1, 3, 400)


def test_impossible_requests_are_refused(gpt2_folder):
    model = family("lmlab", gpt2_folder)
    with pytest.raises(ValueError, match="256"):
        score_tokens(model, [[1] * 300], [1])


# --- intervals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "k, n, low, high",
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_of_published_tables(k, n, low, high):
    """The last row is Newcombe 1998, table I."""
    assert wilson_interval(k, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_covers_the_truth_about_95_times_in_100():
    draws = np.random.default_rng(0).binomial(300, 0.3, size=4000)
    covered = [low <= 0.3 <= high for low, high in (wilson_interval(int(k), 300) for k in draws)]
    assert 0.935 < np.mean(covered) < 0.965


def test_paired_bootstrap_agrees_with_the_normal_interval_and_with_itself():
    draw = np.random.default_rng(1)
    a = draw.normal(0, 5, 400)
    b = a + draw.normal(0.3, 1, 400)  # items differ much, the two measurements of one item little
    result = paired_bootstrap(a, b)
    half = 1.96 * np.std(b - a, ddof=1) / 20
    assert result.low == pytest.approx(np.mean(b - a) - half, abs=0.02)
    assert result.high == pytest.approx(np.mean(b - a) + half, abs=0.02)
    assert result.excludes_zero
    assert result == paired_bootstrap(a, b)
    assert not paired_bootstrap(a, a + draw.normal(0, 1, 400)).excludes_zero


def test_paired_bootstrap_weights_make_it_a_difference_per_token():
    a, b, tokens = [10.0, 40.0], [8.0, 20.0], [4, 16]
    assert paired_bootstrap(a, b, tokens).mean == pytest.approx(-22 / 20)
    with pytest.raises(ValueError, match="k=3"):
        wilson_interval(3, 2)


# --- a context read once -----------------------------------------------------------------------------


def counted_tokens(model):
    """A list to which every forward pass of the model adds its number of input tokens."""
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    return seen


def test_context_is_read_once_for_its_endings(gpt2_folder, tokenizer):
    model, rows = family("lmlab", gpt2_folder), miniworld.dataset("hellaswag", n=20)
    seen = counted_tokens(model)
    apart = score_hellaswag(model, tokenizer, rows, 1, share_context=False)
    read_apart, seen[:] = sum(seen), []
    together = score_hellaswag(model, tokenizer, rows, 1, share_context=True)
    assert together.logprobs == pytest.approx(apart.logprobs, abs=1e-3)
    assert np.array_equal(together.chosen("sum"), apart.chosen("sum"))
    assert sum(seen) < 0.7 * read_apart  # the model is tried on one item, read both ways


@pytest.mark.parametrize("kind", ["bloom", "gpt_neo", "mamba"])
def test_other_models_are_scored_as_well(kind, tokenizer, caplog):
    """Whatever a model can do with a tree of attention, its scores are those of one ending at a time."""
    from transformers import AutoModelForCausalLM, BloomConfig, GPTNeoConfig, MambaConfig

    torch.manual_seed(0)
    config = {
        "bloom": BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=2, seq_length=256),
        "gpt_neo": GPTNeoConfig(
            vocab_size=400,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
        ),
        "mamba": MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4),
    }[kind]
    if not hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = 256
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # from small weights every token would be equally likely
    row = miniworld.dataset("hellaswag", n=1)[0]
    scores = score_hellaswag(model, tokenizer, [row])
    context = tokenizer(row["ctx"])["input_ids"]
    for j, ending in enumerate(row["endings"]):
        tokens = tokenizer(" " + ending)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([context + tokens])).logits[0, len(context) - 1 : -1].log_softmax(-1)
        expected = logits.gather(1, torch.tensor(tokens)[:, None]).sum().item()
        assert scores.logprobs[0, j] == pytest.approx(expected, abs=1e-3)
    assert "read again for every ending" in caplog.text


def test_model_is_tried_on_the_longest_item(tokenizer, caplog):
    """Of a short row a window of attention hides nothing, of a long one it would."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    model = GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=400,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=99,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    short = {"ctx": "Ada ran. she", "endings": ["fell.", "sang.", "ate.", "slept."], "label": 0}
    for rows, said in (([short], False), ([short, miniworld.dataset("hellaswag", n=1)[0]], True)):
        trees, plain = (score_hellaswag(model, tokenizer, rows, share_context=how) for how in (True, False))
        assert trees.logprobs == pytest.approx(plain.logprobs, abs=1e-3)
        assert ("read again for every ending" in caplog.text) is said


def test_long_context_is_cut_for_each_ending_alone(gpt2_folder, tokenizer):
    """Endings of other lengths leave other room, so there is no one context to share."""
    model, rows = family("lmlab", gpt2_folder), miniworld.dataset("hellaswag", n=3)
    rows[1] = {
        **rows[1],
        "ctx": "Far away and long ago. " * 60 + rows[1]["ctx"],
        "endings": ["He ran.", *rows[1]["endings"][1:]],
    }
    together, apart = (score_hellaswag(model, tokenizer, rows, share_context=how) for how in (True, False))
    assert together.logprobs == pytest.approx(apart.logprobs, abs=1e-3)


# --- the harness' texts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"ctx_a": "A man sits on a roof.", "ctx_b": "the Man"}, "Roofs: A man sits on a roof. The man"),
        ({"ctx_a": "[header] How to [title] Sit. [step] Down.", "ctx_b": ""}, "Roofs: How to. Sit. Down."),
    ],
)
def test_harness_context(row, expected):
    """As its source has it: capitals by str.capitalize, tags away, double spaces to one."""
    assert harness_context({"activity_label": "Roofs", **row}).rstrip() == expected


# --- strides, bytes and words ------------------------------------------------------------------------


def one_position_at_a_time(model, ids, limit, stride):
    """Nats of every token but the first, each with what its window gives it, found for it alone."""
    total = 0.0
    for t in range(1, len(ids)):
        windows = (begin for begin in range(0, len(ids), stride) if begin + limit >= t)
        begin = next(windows)  # the first window that reaches the token counts it
        total -= one_at_a_time(model, ids[begin : t + 1], t - begin)
    return total


@pytest.mark.parametrize("n_tokens", [5, 15, 16, 17, 18, 40])  # shorter than a window of 16, whole, longer
@pytest.mark.parametrize("stride", [1, 5, 16])
def test_stride_equals_one_position_at_a_time(n_tokens, stride, gpt2_folder, tokenizer):
    model = family("lmlab", gpt2_folder)
    long = tokenizer("Ada ran to the old bakery one rainy morning. " * 9)["input_ids"]
    text = tokenizer.decode(long[: n_tokens - 2])
    ids = [0, *tokenizer(text)["input_ids"], 0]
    result = perplexity(model, tokenizer, [text], max_length=16, stride=stride, batch_tokens=100)
    assert result["tokens"] == len(ids) - 1
    assert result["nats"][0] == pytest.approx(one_position_at_a_time(model, ids, 16, stride), rel=1e-5)


def test_stride_of_a_step_gives_every_token_all_the_context_there_is(gpt2_folder, tokenizer):
    model, text = family("lmlab", gpt2_folder), "Ada ran to the bakery. " * 4
    ids = [0, *tokenizer(text)["input_ids"], 0]
    expected = -sum(one_at_a_time(model, ids[max(0, t - 8) : t + 1], min(t, 8)) for t in range(1, len(ids)))
    assert perplexity(model, tokenizer, [text], 8, stride=1)["nats"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stride", [0, 17])
def test_impossible_strides_are_refused(stride, gpt2_folder, tokenizer):
    with pytest.raises(ValueError, match=f"stride got {stride}"):
        perplexity(family("lmlab", gpt2_folder), tokenizer, ["Ada ran."], max_length=16, stride=stride)


def test_bits_per_byte_and_word_perplexity_of_a_uniform_model(gpt2_folder, tokenizer):
    """Every token costs ln 400: the rest is counting, by hand."""
    text = "Zoë ran.\nShe fell ."
    result = perplexity(uniform_model(gpt2_folder), tokenizer, [text])
    nats = math.log(400) * (len(tokenizer(text)["input_ids"]) + 1)  # the EOS among them
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / 20, rel=1e-5)  # ë is two
    # five words and two lines' ends, the last the EOS
    assert result["word_perplexity"] == pytest.approx(math.exp(nats / 7), rel=1e-5)
    assert count_words("= Title = \n") == 5


# --- two models, the same items ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "n01, n10, p",
    [(0, 0, 1.0), (1, 0, 1.0), (0, 5, 0.0625), (9, 1, 22 / 1024), (4, 4, 1.0), (28, 12, 0.016589)],
)
def test_mcnemar_of_counts(n01, n10, p):
    """By hand, 2 (1 + 10) / 2**10 for (9, 1)."""
    a, b = [0] * n01 + [1] * n10 + [1, 0, 1], [1] * n01 + [0] * n10 + [1, 0, 1]
    assert mcnemar(a, b) == pytest.approx((n01, n10, p), abs=1e-6)
    assert mcnemar(b, a).p_value == mcnemar(a, b).p_value


def test_mcnemar_seldom_sees_what_is_not_there():
    draw = np.random.default_rng(0)
    p = [mcnemar(draw.random(200) < 0.6, draw.random(200) < 0.6).p_value for _ in range(500)]
    assert np.mean(np.array(p) < 0.05) < 0.06  # an exact test errs on the side of caution
