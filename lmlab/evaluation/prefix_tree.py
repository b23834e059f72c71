"""A shared context read once for all its endings (a tree of attention; SpecInfer, Miao et al. 2024)."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from lmlab.evaluation.scoring import batches_by_length, evaluating, logits_at, pad_right, score_tokens
from lmlab.models.types import Module

logger = logging.getLogger(__name__)


class Choices(NamedTuple):
    """A context and the endings that may follow it, in tokens."""

    contexts: list[list[int]]  # one per ending: alike, but where a long one had to lose its beginning
    endings: list[list[int]]


def score_choices(
    model: Module, items: Sequence[Choices], batch_tokens: int = 2048, share_context: bool = True
) -> list[list[float]]:
    """log p(ending | context) in nats, summed over tokens, for every ending of every item.

    Args:
        model: lmlab's GPT, or one of transformers.
        items: Contexts and endings.
        batch_tokens: Tokens in one forward pass, padding included.
        share_context: Read each context once, in one row with all its endings, each of which sees the context
            and itself, where the model can do it, which is tried on the longest item. Otherwise, and where
            this is False, it is read again for every ending.

    Returns:
        (n_items, n_endings).
    """
    if not share_context:
        return _score_rows(model, items, batch_tokens)
    if any(other != item.contexts[0] for item in items for other in item.contexts):
        reason = "a context is too long for the model, and cut differently for each ending"
    else:
        # the longest: a window of attention, counted in the row, hides what belongs to a text only
        # in long rows
        reason = _why_not_shared(model, max(items, key=_tree_length))
    if reason:
        logger.warning("each context is read again for every ending: %s", reason)
        return _score_rows(model, items, batch_tokens)
    return _score_trees(model, items, batch_tokens)


def _score_rows(model, items: Sequence[Choices], batch_tokens: int) -> list[list[float]]:
    """The plain way: every ending after its own copy of the context."""
    sequences, starts = [], []
    for item in items:
        for context, ending in zip(item.contexts, item.endings, strict=True):
            sequences.append(context + ending)
            starts.append(len(context))
    scores = iter(score_tokens(model, sequences, starts, batch_tokens))
    return [[float(next(scores).logprobs.sum()) for _ in item.endings] for item in items]


def _score_trees(model, items: Sequence[Choices], batch_tokens: int) -> list[list[float]]:
    results: list[list[float] | None] = [None] * len(items)
    with evaluating(model):
        for batch in batches_by_length([_tree_length(item) for item in items], batch_tokens):
            for i, sums in zip(batch, _score_tree_batch(model, [items[i] for i in batch]), strict=True):
                results[i] = sums
    return results


def _tree_length(item: Choices) -> int:
    return len(item.contexts[0]) + sum(len(ending) - 1 for ending in item.endings)


def _score_tree_batch(model, items: list[Choices]) -> list[list[float]]:
    """One row per item: context, ending, ending, ...; of no ending is the last token read."""
    import torch

    tokens, positions, parts = zip(*[_tree(item) for item in items], strict=True)
    ids, positions, parts = pad_right(tokens, 0), pad_right(positions, 0), pad_right(parts, -1)  # each (B, T)
    device = next(model.parameters()).device
    before, targets, owners = _tree_targets(items, ids.shape[1])
    # the first tokens of the endings share a position, whose logits are computed once
    at, row = before.unique(return_inverse=True)
    marked = torch.zeros(ids.numel(), dtype=torch.bool)
    marked[at] = True
    chunks = logits_at(
        model,
        ids.to(device),
        marked.view(ids.shape).to(device),
        position_ids=positions.to(device),
        attention_mask=_tree_mask(parts.to(device), model),
    )
    logits = torch.cat(list(chunks))  # (n_marked, V)
    row, targets = row.to(device), targets.to(device)
    logprobs = (logits[row, targets] - logits.logsumexp(1)[row]).double().cpu()
    n_endings = [len(item.endings) for item in items]
    sums = torch.zeros(sum(n_endings), dtype=torch.double).index_add(0, owners, logprobs)
    return [part.tolist() for part in sums.split(n_endings)]


def _tree(item: Choices) -> tuple[list[int], list[int], list[int]]:
    """Tokens, their positions in the text, and which part they are of: 0 the context, k the k-th ending."""
    context, n = item.contexts[0], len(item.contexts[0])
    tokens, positions, parts = list(context), list(range(n)), [0] * n
    for k, ending in enumerate(item.endings, start=1):
        tokens += ending[:-1]
        positions += range(n, n + len(ending) - 1)
        parts += [k] * (len(ending) - 1)
    return tokens, positions, parts


def _tree_targets(items: list[Choices], width: int):
    """For every token of every ending: the position (in the flat batch) before it, the token, its ending."""
    import torch

    before, targets, owners = [], [], []
    for row, item in enumerate(items):
        n, start = len(item.contexts[0]), row * width
        end = start + n  # where the ending's tokens begin
        for ending in item.endings:
            before += [start + n - 1, *range(end, end + len(ending) - 1)]
            owners += [owners[-1] + 1 if owners else 0] * len(ending)
            targets += ending
            end += len(ending) - 1
    return torch.tensor(before), torch.tensor(targets), torch.tensor(owners)


def _tree_mask(parts, model):
    """(B, 1, T, T): 0 where a token may attend, the lowest number elsewhere. parts: (B, T)."""
    import torch

    dtype = next(model.parameters()).dtype
    # packed 4-bit weights are bytes
    dtype = dtype if dtype.is_floating_point else torch.float32
    width = parts.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=parts.device).tril()
    # the context (part 0) is seen by all that comes after it, an ending by itself alone
    seen = earlier & ((parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None]))
    mask = torch.zeros(seen.shape, dtype=dtype, device=parts.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _why_not_shared(model, item: Choices) -> str:
    """Why the model cannot read ``item`` as a tree; empty if it can, which is tried."""
    import torch

    name = type(model).__name__
    try:
        tree = _score_trees(model, [item], 1)[0]
    except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError) as error:
        return f"{name} refused a tree of attention ({str(error).splitlines()[0]})"
    # a model may also take the mask and the positions and not heed them, which the scores show
    plain = _score_rows(model, [item], 1)[0]
    # half precision rounds a logit near 100 to half a nat
    tolerance = 1e-3 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 1.0
    difference = max(abs(a - b) for a, b in zip(tree, plain, strict=True))
    if difference < tolerance:
        return ""
    return f"{name} scores a tree of attention otherwise, by {difference:.1g} nats"
