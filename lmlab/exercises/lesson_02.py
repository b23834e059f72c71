"""Lesson 02: GPT-2's parts."""

import math
import random

from lmlab.exercises.judging import compare, exercise


def _parameters(
    n_layer, n_embd, block_size, vocab_size, head=False, places=True, biases=True, last_norm=True
):
    per_layer = 12 * n_embd**2 + 4 * n_embd + 9 * n_embd * biases
    return (
        (1 + head) * vocab_size * n_embd
        + places * block_size * n_embd
        + n_layer * per_layer
        + last_norm * 2 * n_embd
    )


@exercise(
    "02.1",
    "Count before you build",
    "One layer: two norms (2C each), c_attn (C to 3C), c_proj (C to C), and "
    "an MLP (C to 4C to C). All but the norms are linear layers with a bias.",
    "Outside the layers: an embedding of tokens, one of places, a last norm. The output head is the "
    "embedding of tokens again.",
)
def count_parameters(answer):
    import torch

    from lmlab.models.gpt import GPT, GPTConfig

    def reference(n_layer, n_embd, block_size, vocab_size):
        with torch.random.fork_rng(devices=[]):  # the reader's own draws stay as they were
            return GPT(GPTConfig(n_layer, 1, n_embd, block_size, vocab_size)).num_parameters()

    cases = [(2, 32, 16, 50), (3, 24, 40, 101), (1, 8, 5, 7)]
    compare(
        answer,
        reference,
        cases,
        {
            "You counted the output head, but it shares its weights with the embedding.": lambda *shape: (
                _parameters(*shape, head=True)
            ),
            "Where are the embeddings of the places (`block_size` rows)?": lambda *shape: _parameters(
                *shape, places=False
            ),
            "Linear layers have biases.": lambda *shape: _parameters(*shape, biases=False),
            "There is one more norm, behind the last layer.": lambda *shape: _parameters(
                *shape, last_norm=False
            ),
        },
        tolerance=1e-9,
    )
    return "Try it on (12, 768, 1024, 50257): GPT-2 small. How much of it is the embedding?"


def _attend(q, k, v, scale=True, mask="causal"):
    import torch

    scores = q @ k.transpose(-2, -1) / (q.shape[-1] ** 0.5 if scale else 1)  # (B, H, T, T)
    seen = torch.ones(scores.shape[-2:]).tril(-1 if mask == "strict" else 0).bool()
    if mask in ("causal", "strict"):
        return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v
    if mask == "zero":
        return scores.tril().softmax(-1) @ v
    return (scores.softmax(-1) * (seen if mask == "after" else 1)) @ v


@exercise(
    "02.2",
    "Attention, whole",
    "Scores are `q @ k.transpose(-2, -1)`, divided by the root of the last size.",
    "Set the scores of later places to `-inf` *before* the softmax: `masked_fill(~seen, "
    "float('-inf'))`, with "
    "`seen = torch.ones(T, T).tril().bool()`.",
)
def attention(answer):
    import torch
    from torch.nn import functional

    dice = torch.Generator().manual_seed(0)
    cases = [
        tuple(torch.randn(shape, generator=dice) for _ in range(3)) for shape in ((2, 3, 5, 4), (1, 2, 7, 16))
    ]
    compare(
        answer,
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        cases,
        {
            "It sees the future: scores of later places must be masked.": lambda *qkv: _attend(
                *qkv, mask=None
            ),
            "The scores are not divided by the root of the head's size.": lambda *qkv: _attend(
                *qkv, scale=False
            ),
            "A place must see itself: your mask is one too narrow, and the first place sees nothing.": lambda *qkv: (
                _attend(*qkv, mask="strict")
            ),
            "A score of 0 is not unlikely: set the scores of later places to `-inf`.": lambda *qkv: _attend(
                *qkv, mask="zero"
            ),
            "You mask after the softmax: the weights of a place no longer add up to one, and it has already "
            "looked.": lambda *qkv: _attend(*qkv, mask="after"),
        },
    )
    return "Equal to PyTorch's own. That one never makes the (T, T) scores, which is why it is quick."


@exercise(
    "02.3",
    "The shift",
    "What the model says at place t is about the token at t + 1.",
    "`logits[:, :-1]` belong to `ids[:, 1:]`; `F.cross_entropy` wants (N, V) and (N,).",
)
def next_token_loss(answer):
    import torch
    from torch.nn.functional import cross_entropy

    def loss(logits, ids, reduction="mean"):
        return cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction=reduction)

    dice = torch.Generator().manual_seed(0)
    cases = [
        (3 * torch.randn(B, T, V, generator=dice), torch.randint(V, (B, T), generator=dice))
        for B, T, V in ((2, 6, 11), (3, 4, 5))
    ]
    compare(
        answer,
        lambda logits, ids: loss(logits[:, :-1], ids[:, 1:]).item(),
        cases,
        {
            "Without the shift each place is asked for the token that it was given.": lambda logits, ids: (
                loss(logits, ids).item()
            ),
            "You shifted the wrong way: this asks for the token before.": lambda logits, ids: loss(
                logits[:, 1:], ids[:, :-1]
            ).item(),
            "You rolled the tokens, so the last place is asked for the first token. It has no next one: leave "
            "it out.": lambda logits, ids: loss(logits, ids.roll(-1, 1)).item(),
            "A mean over tokens is wanted, this is their sum.": lambda logits, ids: loss(
                logits[:, :-1], ids[:, 1:], "sum"
            ).item(),
        },
    )
    return "Without the shift a model learns to copy its input, and its loss falls beautifully."


def _bigram(counted, judged, vocab_size, added, turned=False, joint=False, base=math.e):
    table = [[added] * vocab_size for _ in range(vocab_size)]
    for a, b in zip(counted, counted[1:], strict=False):
        table[b if turned else a][a if turned else b] += 1
    nats = [
        -math.log(
            table[b if turned else a][a if turned else b]
            / (sum(map(sum, table)) if joint else sum(table[b if turned else a]))
        )
        for a, b in zip(judged, judged[1:], strict=False)
    ]
    return sum(nats) / len(nats) / math.log(base)


@exercise(
    "02.4",
    "Bigrams",
    "A table (V, V) of `added`, and 1 more at [a, b] for each a that b follows in `train`.",
    "Divide each row by its sum: then row a holds the probabilities of what follows a.",
    "The loss is the mean of -log of the probability of each pair in `validation`.",
)
def bigram_loss(answer):
    dice = random.Random(0)

    # a walk that mostly goes one up, so that rows and columns of the table differ
    def walk(n, V):
        row = [0]
        while len(row) < n:
            row.append((row[-1] + 1) % V if dice.random() < 0.7 else dice.randrange(V))
        return row

    cases = [(walk(60, V), walk(20, V), V, added) for V, added in ((5, 1), (8, 0.1), (6, 0.5))]
    compare(
        answer,
        lambda train, judged, *rest: _bigram(train, judged, *rest),
        cases,
        {
            "You counted on the validation tokens: that is the exam.": lambda train, judged, *rest: _bigram(
                judged, judged, *rest
            ),
            "The loss is of the validation tokens, not of those that were counted.": lambda train, judged, *rest: (
                _bigram(train, train, *rest)
            ),
            "Rows and columns are exchanged: this is how likely the token before is.": lambda *all_: _bigram(
                *all_, turned=True
            ),
            "Each row must add up to one; you divided by the sum of the whole table.": lambda *all_: _bigram(
                *all_, joint=True
            ),
            "Nats are wanted: the natural logarithm, not that of base 2.": lambda *all_: _bigram(
                *all_, base=2
            ),
        },
    )
    return "What a model gains beyond such a table it has from more than one token before."
