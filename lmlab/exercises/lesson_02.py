"""Lesson 02: the parts of GPT-2."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

from lmlab.exercises.judging import EXERCISES, compare, exercise, random_tensors


@exercise("02.1")
def count_parameters(answer: Any) -> None:
    """How many parameters a GPT-2 of some shape has."""
    cases = [(2, 32, 16, 50), (3, 24, 40, 101), (1, 8, 5, 7)]  # n_layer, n_embd, block_size, vocab_size
    # the right number and what each mistake adds or leaves out
    right = _parameters_of_built_model
    mistakes = {
        # the head is tied to the token embedding
        "head_counted": lambda L, C, T, V: right(L, C, T, V) + V * C,
        "positions_forgotten": lambda L, C, T, V: right(L, C, T, V) - T * C,
        # 9C a layer: 3C of c_attn, C and 4C and C of the three other linear layers
        "biases_forgotten": lambda L, C, T, V: right(L, C, T, V) - L * 9 * C,
        "last_norm_forgotten": lambda L, C, T, V: right(L, C, T, V) - 2 * C,
    }
    compare(answer, right, cases, mistakes, tolerance=1e-9)


def _parameters_of_built_model(n_layer: int, n_embd: int, block_size: int, vocab_size: int) -> int:
    import torch

    from lmlab.models.gpt import GPT, GPTConfig

    with torch.random.fork_rng(devices=[]):  # the reader's own random numbers stay as they are
        return GPT(GPTConfig(n_layer, 1, n_embd, block_size, vocab_size)).num_parameters()


@exercise("02.2")
def attention(answer: Any) -> None:
    """Causal attention, held to PyTorch's own."""
    from torch.nn.functional import scaled_dot_product_attention

    cases = [random_tensors(shape, shape, shape) for shape in ((2, 3, 5, 4), (1, 2, 7, 16))]
    mistakes = {
        "not_masked": partial(_attend, mask=None),
        "not_scaled": partial(_attend, scaled=False),
        "masks_itself": partial(_attend, mask="strict"),
        "masked_with_zero": partial(_attend, mask="zero"),
        "masked_after_softmax": partial(_attend, mask="after"),
    }
    compare(answer, partial(scaled_dot_product_attention, is_causal=True), cases, mistakes)


def _attend(q: Any, k: Any, v: Any, scaled: bool = True, mask: str | None = "causal") -> Any:
    import torch

    scores = q @ k.transpose(-2, -1)  # (B, H, T, T)
    if scaled:
        scores = scores / math.sqrt(q.shape[-1])
    seen = torch.ones(scores.shape[-2:]).tril(-1 if mask == "strict" else 0).bool()
    # minus infinity becomes a weight of zero, and the other weights still add up to one
    if mask in ("causal", "strict"):
        scores = scores.masked_fill(~seen, -math.inf)
    if mask == "zero":
        scores = scores.tril()
    weights = scores.softmax(-1)
    if mask == "after":
        weights = weights * seen
    return weights @ v


@exercise("02.3")
def next_token_loss(answer: Any) -> None:
    """The mean loss of predicting the next token."""
    import torch

    rng = torch.Generator().manual_seed(0)
    cases = []
    for B, T, V in ((2, 6, 11), (3, 4, 5)):  # logits far apart, so that each mistake changes the loss
        cases.append((3 * torch.randn(B, T, V, generator=rng), torch.randint(V, (B, T), generator=rng)))
    mistakes = {
        "not_shifted": lambda logits, ids: _cross_entropy(logits, ids),
        "shifted_backward": lambda logits, ids: _cross_entropy(logits[:, 1:], ids[:, :-1]),
        "rolled": lambda logits, ids: _cross_entropy(logits, ids.roll(-1, 1)),
        "summed": lambda logits, ids: _cross_entropy(logits[:, :-1], ids[:, 1:], reduction="sum"),
    }
    compare(answer, lambda logits, ids: _cross_entropy(logits[:, :-1], ids[:, 1:]), cases, mistakes)


def _cross_entropy(logits: Any, ids: Any, reduction: str = "mean") -> float:
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction=reduction).item()


@exercise("02.4")
def bigram_loss(answer: Any) -> None:
    """The validation loss of a table of bigram counts, in nats per token."""
    mistakes = {
        "counted_on_validation": lambda train, validation, *rest: _bigram(validation, validation, *rest),
        "evaluated_on_train": lambda train, validation, *rest: _bigram(train, train, *rest),
        "reversed": lambda train, validation, *rest: _bigram(train[::-1], validation[::-1], *rest),
        "joint": partial(_bigram, joint=True),
        "bits": lambda *case: _bigram(*case) / math.log(2),
    }
    compare(answer, _bigram, EXERCISES["02.4"].cases, mistakes)


def _bigram(
    train: Sequence[int], validation: Sequence[int], vocab_size: int, added: float, joint: bool = False
) -> float:
    # what is added keeps unseen pairs from probability 0, whose loss would be infinite
    counts = [[added] * vocab_size for _ in range(vocab_size)]
    for a, b in pairwise(train):
        counts[a][b] += 1
    losses = []
    for a, b in pairwise(validation):
        total = sum(map(sum, counts)) if joint else sum(counts[a])
        losses.append(-math.log(counts[a][b] / total))
    return fmean(losses)
