"""A shared context read once for all its endings (a tree of attention; SpecInfer, Miao et al. 2024)."""

import inspect
from collections.abc import Sequence
from typing import NamedTuple

from lmlab.evaluation.scoring import _batches, _logits_at, _padded, evaluating, score_tokens


class Choices(NamedTuple):
    """A context and the endings that may follow it, in tokens."""

    contexts: list[list[int]]  # one per ending: alike, but where a long one had to lose its beginning
    endings: list[list[int]]


def score_choices(
    model, items: Sequence[Choices], batch_tokens: int = 2048, share_context: bool | None = None
) -> list[list[float]]:
    """log p(ending | context) in nats, summed over tokens, for every ending of every item.

    share_context: read each context once, in one row with all its endings, each of which sees the context and
    itself (a tree of attention; SpecInfer, Miao et al. 2024). Without it the context is read again for every
    ending. None takes the tree where the model can do it: where it does on the longest item what it does on
    plain rows. Raises ValueError for True where it cannot.
    """
    whole = [i for i, item in enumerate(items) if all(other == item.contexts[0] for other in item.contexts)]
    if share_context is False or not whole:
        return _score_rows(model, items, batch_tokens)
    # the longest: a window of attention, counted in the row, hides what belongs to a text only in long rows
    if reason := _why_not_shared(model, items[max(whole, key=lambda i: _tree_length(items[i]))]):
        if share_context:
            raise ValueError(f"share_context got True, but {reason}; leave it out")
        print(f"Each context is read again for every ending: {reason}.")
        return _score_rows(model, items, batch_tokens)
    sums = dict(zip(whole, _score_trees(model, [items[i] for i in whole], batch_tokens), strict=True))
    rest = [i for i in range(len(items)) if i not in sums]  # those of a context that is cut
    sums.update(zip(rest, _score_rows(model, [items[i] for i in rest], batch_tokens), strict=True))
    return [sums[i] for i in range(len(items))]


def _score_rows(model, items: Sequence[Choices], batch_tokens: int) -> list[list[float]]:
    """The plain way: every ending after its own copy of the context."""
    if not items:
        return []
    pairs = [pair for item in items for pair in zip(item.contexts, item.endings, strict=True)]
    scored = score_tokens(
        model,
        [context + ending for context, ending in pairs],
        [len(context) for context, _ in pairs],
        batch_tokens,
    )
    sums = iter([score.logprobs.sum() for score in scored])
    return [[float(next(sums)) for _ in item.endings] for item in items]


def _score_trees(model, items: Sequence[Choices], batch_tokens: int) -> list[list[float]]:
    results: list[list[float] | None] = [None] * len(items)
    with evaluating(model):
        for batch in _batches([_tree_length(item) for item in items], batch_tokens):
            for i, sums in zip(batch, _score_tree_batch(model, [items[i] for i in batch]), strict=True):
                results[i] = sums
    return results


def _tree_length(item: Choices) -> int:
    return len(item.contexts[0]) + sum(len(ending) - 1 for ending in item.endings)


def _score_tree_batch(model, items: list[Choices]) -> list[list[float]]:
    """One row per item: context, ending, ending, ...; of no ending is the last token read."""
    import torch

    rows = [_tree(item) for item in items]
    ids, places, parts = (
        _padded(column, fill) for column, fill in zip(zip(*rows, strict=True), (0, 0, -1), strict=True)
    )  # each (B, T)
    device = next(model.parameters()).device
    before, targets, owners = _tree_targets(items, ids.shape[1])
    at, row = before.unique(return_inverse=True)  # the first tokens of the endings share a position
    marked = torch.zeros(ids.numel(), dtype=torch.bool)
    marked[at] = True
    logits = torch.cat(
        list(
            _logits_at(
                model,
                ids.to(device),
                marked.view(ids.shape).to(device),
                position_ids=places.to(device),
                attention_mask=_tree_mask(parts.to(device), model),
            )
        )
    )
    row, targets = row.to(device), targets.to(device)
    logprobs = (logits[row, targets] - logits.logsumexp(1)[row]).double().cpu()
    sums = torch.zeros(sum(len(item.endings) for item in items), dtype=torch.double)
    sums = sums.index_add(0, owners, logprobs).split([len(item.endings) for item in items])
    return [part.tolist() for part in sums]


def _tree(item: Choices) -> tuple[list[int], list[int], list[int]]:
    """Tokens, their places in the text, and which part they are of: 0 the context, k the k-th ending."""
    context, n = item.contexts[0], len(item.contexts[0])
    tokens, places, parts = list(context), list(range(n)), [0] * n
    for k, ending in enumerate(item.endings, start=1):
        tokens += ending[:-1]
        places += range(n, n + len(ending) - 1)
        parts += [k] * (len(ending) - 1)
    return tokens, places, parts


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
    """(B, 1, T, T): 0 where a token may look, the lowest number elsewhere. parts: (B, T)."""
    import torch

    dtype = next(model.parameters()).dtype
    dtype = dtype if dtype.is_floating_point else torch.float32
    width = parts.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=parts.device).tril()
    seen = earlier & ((parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None]))
    return torch.zeros(seen.shape, dtype=dtype, device=parts.device).masked_fill(
        ~seen, torch.finfo(dtype).min
    )[:, None]


def _why_not_shared(model, item: Choices) -> str:
    """Why the model cannot read ``item`` as a tree; empty if it can, which is tried."""
    import torch

    accepted = inspect.signature(model.forward).parameters
    if not {"position_ids", "attention_mask"} <= accepted.keys() and not any(
        p.kind is p.VAR_KEYWORD for p in accepted.values()
    ):
        return f"{type(model).__name__} takes no position_ids and attention_mask"
    try:
        tree = _score_trees(model, [item], 1)[0]
    except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError) as error:
        return f"{type(model).__name__} refused a tree of attention ({str(error).splitlines()[0]})"
    plain = _score_rows(model, [item], 1)[0]
    # half precision rounds a logit near 100 to half a nat
    tolerance = 1e-3 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 1.0
    difference = max(abs(a - b) for a, b in zip(tree, plain, strict=True))
    return (
        ""
        if difference < tolerance
        else (f"{type(model).__name__} scores a tree of attention otherwise, by {difference:.1g} nats")
    )
