"""Log-probabilities of tokens under a model, batched by length, with logits in chunks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from lmlab.models.sources import context_length
from lmlab.models.types import Module, Tensor

LOGITS_CHUNK = 2**25  # logits that are in memory at a time, in float32 128 MiB


class TokenScores(NamedTuple):
    """How a model predicts the scored tokens of one sequence; both (n_scored,)."""

    logprobs: np.ndarray  # natural log of the probability of the token
    hits: np.ndarray  # whether it was the most likely one


def score_tokens(
    model: Module, sequences: Sequence[Sequence[int]], starts: Sequence[int], batch_tokens: int = 2048
) -> list[TokenScores]:
    """Scores each token of ``sequences[i][starts[i]:]`` given all those before it.

    The last token of a sequence is predicted and never read, so a sequence may have one token more than the
    model's context.

    Args:
        model: lmlab's GPT, or one of transformers.
        sequences: Token ids.
        starts: At least 1 each: the first token has nothing before it.
        batch_tokens: Tokens in one forward pass, padding included.

    Returns:
        The scores of each sequence, in order.

    Raises:
        ValueError: A sequence is longer than the context and one token.
    """
    longest, limit = max(map(len, sequences)), context_length(model)
    if longest - 1 > limit:
        raise ValueError(f"a sequence has {longest} tokens, the model's context {limit}; cut the text")
    results: list[TokenScores | None] = [None] * len(sequences)
    # in order of length, then put back in the order of the sequences
    with evaluating(model):
        for batch in batches_by_length([len(tokens) - 1 for tokens in sequences], batch_tokens):
            scored = _score_batch(model, [sequences[i] for i in batch], [starts[i] for i in batch])
            for i, scores in zip(batch, scored, strict=True):
                results[i] = scores
    return results


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Without dropout and gradients inside; afterwards the model is in the mode that it was in."""
    import torch

    was_training = model.training
    model.eval()
    # restored even after an error: a notebook goes on with the same model
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences of similar length, so that little is padded; longest first."""
    batch: list[int] = []
    # longest first: what does not fit into memory fails at once, and the first of a batch is its width
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _score_batch(model, sequences: list[Sequence[int]], starts: list[int]) -> list[TokenScores]:
    import torch

    ids = pad_right(sequences, 0)  # (B, T + 1)
    scored = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (tokens, start) in enumerate(zip(sequences, starts, strict=True)):
        scored[row, start : len(tokens)] = True
    device = next(model.parameters()).device
    targets, logprobs, hits = ids[scored].to(device), [], []
    # the logits at position t predict the token at t + 1
    for logits in logits_at(model, ids[:, :-1].to(device), scored[:, 1:].to(device)):
        chunk, targets = targets[: len(logits)], targets[len(logits) :]
        logprobs.append(logits.gather(1, chunk[:, None])[:, 0] - logits.logsumexp(1))
        hits.append(logits.argmax(1) == chunk)
    lengths = [len(tokens) - start for tokens, start in zip(sequences, starts, strict=True)]
    ends = np.cumsum(lengths)[:-1]
    logprobs = np.split(torch.cat(logprobs).double().cpu().numpy(), ends)
    hits = np.split(torch.cat(hits).cpu().numpy(), ends)
    return [TokenScores(*both) for both in zip(logprobs, hits, strict=True)]


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows as one tensor (B, T), filled up at their ends."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def logits_at(model: Module, ids: Tensor, at: Tensor, **kwargs) -> Iterator[Tensor]:
    """Logits at some positions alone, in chunks.

    The output head runs at those positions alone: with a vocabulary of 50,000 it is most of a small model's
    work. And it runs on few at a time: the logits of 2,048 tokens and 128,256 tokens of vocabulary take a
    GiB.

    Args:
        model: lmlab's GPT, or one of transformers.
        ids: Token ids (B, T).
        at: Which positions, (B, T) of bool.
        kwargs: Go to the model.

    Yields:
        float32 logits (n, V), row by row of ``ids``.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else model.lm_head
    # the head may have padding rows
    hidden, vocab_size = [], model.config.vocab_size

    # the head itself gets one position per row, whose logits nobody reads
    def keep(_, inputs):
        hidden.append(inputs[0][at])  # (n, C)
        return (inputs[0][:, -1:],)

    hook = head.register_forward_pre_hook(keep)
    if hasattr(model.config, "use_cache"):
        kwargs["use_cache"] = False  # nothing is generated
    try:
        model(ids, **kwargs)
    finally:
        hook.remove()
    for chunk in hidden[0].split(max(1, LOGITS_CHUNK // vocab_size)):
        yield head(chunk)[:, :vocab_size].float()
