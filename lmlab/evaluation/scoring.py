"""Log-probabilities of tokens under a model, batched by length, with logits in chunks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from lmlab.models.sources import context_length

_PIECE = 2**25  # logits that are in memory at a time, in float32 128 MiB


class TokenScores(NamedTuple):
    """What a model made of each wanted token of one sequence; both (n_wanted,)."""

    logprobs: np.ndarray  # natural log of the probability of the token
    hits: np.ndarray  # whether it was the likeliest


def score_tokens(
    model, sequences: Sequence[Sequence[int]], starts: Sequence[int], batch_tokens: int = 2048
) -> list[TokenScores]:
    """Scores each token of ``sequences[i][starts[i]:]`` given all those before it.

    starts are at least 1: the first token has nothing before it. The last token of a sequence is predicted
    and never read, so a sequence may have one token more than the model's context. batch_tokens: tokens in
    one forward pass, padding included. Raises ValueError for a longer sequence.
    """
    longest = max(map(len, sequences))
    if longest - 1 > (limit := context_length(model)):
        raise ValueError(f"a sequence has {longest} tokens, the model's context {limit}; cut the text")
    if min(starts) < 1:
        raise ValueError(f"starts got {min(starts)}; give 1 or more, the first token has nothing before it")
    results: list[TokenScores | None] = [None] * len(sequences)
    with evaluating(model):
        for batch in _batches([len(tokens) - 1 for tokens in sequences], batch_tokens):
            scored = _score_batch(model, [sequences[i] for i in batch], [starts[i] for i in batch])
            for i, scores in zip(batch, scored, strict=True):
                results[i] = scores
    return results


@contextmanager
def evaluating(model) -> Iterator[None]:
    """Without dropout and gradients inside; afterwards the model is in the mode that it was in."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows of like length, so that little is padded; longest first."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _score_batch(model, sequences: list[Sequence[int]], starts: list[int]) -> list[TokenScores]:
    import torch

    ids = _padded(sequences, 0)  # (B, T + 1)
    wanted = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (tokens, start) in enumerate(zip(sequences, starts, strict=True)):
        wanted[row, start : len(tokens)] = True
    device = next(model.parameters()).device
    targets, logprobs, hits = ids[wanted].to(device), [], []
    for logits in _logits_at(model, ids[:, :-1].to(device), wanted[:, 1:].to(device)):
        part, targets = targets[: len(logits)], targets[len(logits) :]
        logprobs.append(logits.gather(1, part[:, None])[:, 0] - logits.logsumexp(1))
        hits.append(logits.argmax(1) == part)
    logprobs, hits = torch.cat(logprobs), torch.cat(hits)
    ends = np.cumsum([len(tokens) - start for tokens, start in zip(sequences, starts, strict=True)])[:-1]
    return [
        TokenScores(*parts)
        for parts in zip(
            np.split(logprobs.double().cpu().numpy(), ends), np.split(hits.cpu().numpy(), ends), strict=True
        )
    ]


def _padded(rows: Sequence[Sequence[int]], value: int):
    """Rows as one tensor (B, T), filled up at their ends."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _logits_at(model, ids, at, **kwargs):
    """float32 logits (n, V) at the marked positions of ids (B, T), row by row, in pieces; kwargs go to the model.

    The output head runs at those positions alone: with 50,000 entries it is most of a small model's work. And it
    runs on few at a time: the logits of 2,048 tokens and 128,256 entries would be a GiB.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else model.lm_head
    hidden, n_entries = [], model.config.vocab_size  # the head may have rows of padding

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
    for piece in hidden[0].split(max(1, _PIECE // n_entries)):
        yield head(piece)[:, :n_entries].float()
