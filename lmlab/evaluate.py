"""Measuring a model: HellaSwag in its published conventions, perplexity, attention, and how sure they are.

Every function takes an ``lmlab.gpt.GPT`` or a transformers causal model. Texts of a batch are padded at the
end, where causal attention hides the padding from every real token, and padding is never counted.
"""

import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CONVENTIONS = ("sum", "token", "char", "byte")
TEXTS = ("plain", "harness")
_PIECE = 2**25  # logits that are in memory at a time, in float32 128 MiB


# --- log-probabilities of tokens -------------------------------------------------------------------


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


def context_length(model) -> int:
    """The most tokens that the model can read at once."""
    config = model.config
    return getattr(config, "block_size", None) or config.max_position_embeddings


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


# --- a context read once for all its endings -------------------------------------------------------


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


# --- HellaSwag -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HellaSwagScores:
    """What a model made of N items; arrays are (N, 4), one column per ending, labels (N,)."""

    logprobs: np.ndarray  # log p(ending | context), summed over the ending's tokens
    n_tokens: np.ndarray
    n_chars: np.ndarray
    n_bytes: np.ndarray
    labels: np.ndarray

    def scores(self, convention: str = "token") -> np.ndarray:
        """The number (N, 4) of which the largest wins.

        "sum": the log-probability as it is (acc of build-nanogpt and of lm-evaluation-harness). "token": per
        token (acc_norm of build-nanogpt). "char": per character of the ending (acc_norm of the harness),
        "byte": per UTF-8 byte (its acc_bytes). Which texts were read is another matter: ``score_hellaswag``.
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"convention got {convention!r}; give one of {', '.join(CONVENTIONS)}")
        return (
            self.logprobs
            / {"sum": 1, "token": self.n_tokens, "char": self.n_chars, "byte": self.n_bytes}[convention]
        )

    def chosen(self, convention: str = "token") -> np.ndarray:
        """The ending that wins, (N,) of int; of several equals the first."""
        return self.scores(convention).argmax(1)

    def correct(self, convention: str = "token") -> np.ndarray:
        """Whether each item was answered rightly: (N,) of bool."""
        return self.chosen(convention) == self.labels

    def accuracy(self, convention: str = "token") -> float:
        return float(self.correct(convention).mean())

    def interval(self, convention: str = "token") -> tuple[float, float]:
        """95% Wilson interval of the accuracy."""
        return wilson_interval(int(self.correct(convention).sum()), len(self.labels))

    def margins(self, convention: str = "token") -> np.ndarray:
        """Score of the right ending less that of the best wrong one (N,): below 0 where it was missed."""
        scores = self.scores(convention)
        right = scores[np.arange(len(scores)), self.labels]
        wrong = scores.copy()
        wrong[np.arange(len(scores)), self.labels] = -np.inf
        return right - wrong.max(1)


def score_hellaswag(
    model,
    tokenizer,
    rows: Iterable[Mapping],
    batch_tokens: int = 2048,
    start_tokens: Sequence[int] = (),
    texts: str = "plain",
    share_context: bool | None = None,
) -> HellaSwagScores:
    """Scores every ending of HellaSwag rows (Zellers et al. 2019): ctx, or ctx_a and ctx_b; endings; label.

    texts: "plain" reads the context and " " + ending, as build-nanogpt does. "harness" reads them as
    lm-evaluation-harness 0.4.13 does: cleaned, the activity in front, the tokenizer's own special tokens.
    start_tokens go before every context: give [eos] for a model that only ever saw documents begin so;
    published GPT-2 numbers have none. A context too long loses its beginning. share_context: see
    ``score_choices``. Raises ValueError for a row without its keys or its four endings.
    """
    if texts not in TEXTS:
        raise ValueError(f"texts got {texts!r}; give one of {', '.join(TEXTS)}")
    rows = [_checked(row) for row in rows]
    if texts == "harness" and (guessed := sum("ctx_a" not in row for row in rows)):
        print(f"{guessed} of {len(rows)} rows have no ctx_a, ctx_b: they are guessed from the stops in ctx.")
    read = _read_harness if texts == "harness" else _read_plain
    endings, items = zip(*(read(tokenizer, row) for row in rows), strict=True)
    items = [_fitted(item, start_tokens, context_length(model)) for item in items]
    return HellaSwagScores(
        logprobs=np.array(score_choices(model, items, batch_tokens, share_context)),
        n_tokens=np.array([[len(tokens) for tokens in item.endings] for item in items]),
        n_chars=np.array([[len(ending) for ending in four] for four in endings]),
        n_bytes=np.array([[len(ending.encode()) for ending in four] for four in endings]),
        labels=np.array([int(row["label"]) for row in rows]),
    )


def hellaswag_context(row: Mapping) -> str:
    """The context of a row, from ctx or from ctx_a and ctx_b."""
    if "ctx" in row:
        return row["ctx"]
    if "ctx_a" not in row:
        raise ValueError(f"a HellaSwag row needs ctx, or ctx_a and ctx_b; it has {', '.join(sorted(row))}")
    return f"{row['ctx_a']} {row['ctx_b']}".strip()


def harness_context(row: Mapping) -> str:
    """What lm-evaluation-harness 0.4.13 puts before an ending: "Roof shingle removal: A man sits. He".

    Source: its tasks/hellaswag/utils.py. It writes ctx_b with a capital, so it must know where ctx_b begins.
    A row with ctx alone is parted after its last full stop, question or exclamation mark if small letters
    follow: right for the sentences that HellaSwag leaves open (ActivityNet), but a guess.
    """
    if "activity_label" not in row:
        raise ValueError(f"the harness' texts need activity_label; the row has {', '.join(sorted(row))}")
    if "ctx_a" in row:
        a, b = row["ctx_a"], row["ctx_b"]
    else:
        parted = re.fullmatch(r"(.*[.!?][\"')]*) +([a-z][^.!?]*)", row["ctx"].strip(), re.DOTALL)
        a, b = parted.groups() if parted else (row["ctx"], "")
    return harness_clean(f"{row['activity_label']}: {a} {b.capitalize()}")


def harness_clean(text: str) -> str:
    """lm-evaluation-harness' clean-up of WikiHow's marks: " [title]" to ". ", other brackets away."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _checked(row: Mapping) -> Mapping:
    if len(row["endings"]) != 4 or str(row["label"]) not in ("0", "1", "2", "3"):
        raise ValueError(
            "a HellaSwag row needs 4 endings and a label of 0 to 3; row "
            f"{row.get('ind', '?')} has {len(row['endings'])} and {row['label']!r} "
            "(the test split has no labels)"
        )
    return row


def _read_plain(tokenizer, row: Mapping) -> tuple[list[str], Choices]:
    context = _encode(tokenizer, hellaswag_context(row))
    return row["endings"], Choices([context] * 4, [_encode(tokenizer, " " + text) for text in row["endings"]])


def _read_harness(tokenizer, row: Mapping) -> tuple[list[str], Choices]:
    """Context and ending are tokenised as one text, blanks at the end of the context belong to the ending."""
    endings = [harness_clean(ending) for ending in row["endings"]]
    text = harness_context(row)
    context = tokenizer(text.rstrip())["input_ids"]
    wholes = tokenizer([f"{text} {ending}" for ending in endings])["input_ids"]
    return endings, Choices([context] * 4, [whole[len(context) :] for whole in wholes])


def _fitted(item: Choices, start_tokens: Sequence[int], limit: int) -> Choices:
    """With the start tokens, and as much of the context as the model can read."""
    contexts = []
    for context, ending in zip(item.contexts, item.endings, strict=True):
        room = limit + 1 - len(ending) - len(start_tokens)  # the last token is not read
        if room < 1:
            raise ValueError(f"an ending has {len(ending)} tokens, the model's context {limit}; leave it out")
        contexts.append([*start_tokens, *context[-room:]])
    return Choices(contexts, item.endings)


def _encode(tokenizer, text: str) -> list[int]:
    # verbose would warn of long texts, which are cut later
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


# --- perplexity ------------------------------------------------------------------------------------


def perplexity(
    model,
    tokenizer,
    texts: Sequence[str],
    max_length: int | None = None,
    batch_tokens: int = 2048,
    stride: int | None = None,
) -> dict:
    """Loss over all texts, weighted by tokens: each token and the EOS of each text count once, padding never.

    Each text is read as bos + text + eos (a tokenizer without bos: eos); the first is given, not counted. A
    text longer than ``max_length`` (default: the model's context) is cut into windows:
    stride None: windows of max_length tokens, in each of which the first is the last of the window before.
    stride 1 to max_length: each window reads max_length tokens and begins ``stride`` after the one before, so
    that it counts only the last ``stride`` of its predictions, and each of those sees at least
    max_length - stride + 1 tokens: smaller is dearer and, as a rule, kinder. lm-evaluation-harness takes
    max_length.
    Returns loss (nats per token), perplexity, token_accuracy (share of tokens that were the likeliest),
    tokens, bits_per_byte (over the UTF-8 bytes of the texts; the bits of EOS are among the bits, it has no
    bytes), word_perplexity (exp of nats per word as WikiText counts them, see ``count_words``); and per text,
    for intervals: nats, hits, counts, bytes, words, each (n_texts,).
    """
    limit = min(max_length or context_length(model), context_length(model))
    if stride is not None and not 1 <= stride <= limit:
        raise ValueError(f"stride got {stride}; give 1 to {limit}, the length of a window, or None")
    reads, step = (limit - 1, limit - 1) if stride is None else (limit, stride)
    windows, starts, owners = [], [], []
    for i, text in enumerate(texts):
        for window, start in _windows(_document(tokenizer, text), reads, step):
            windows.append(window)
            starts.append(start)
            owners.append(i)
    scored = score_tokens(model, windows, starts, batch_tokens)
    nats, hits, counts = (
        np.bincount(owners, values, minlength=len(texts))
        for values in (
            [-score.logprobs.sum() for score in scored],
            [score.hits.sum() for score in scored],
            [len(score.hits) for score in scored],
        )
    )
    sizes = np.array([len(text.encode()) for text in texts])
    words = np.array([count_words(text) for text in texts])
    loss = float(nats.sum() / counts.sum())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "token_accuracy": float(hits.sum() / counts.sum()),
        "tokens": int(counts.sum()),
        "bits_per_byte": float(nats.sum() / math.log(2) / max(sizes.sum(), 1)),
        "word_perplexity": math.exp(nats.sum() / words.sum()),
        "nats": nats,
        "hits": hits,
        "counts": counts,
        "bytes": sizes,
        "words": words,
    }


def count_words(text: str) -> int:
    """Words as WikiText counts them: what stands between blanks, and one for the end of each line.

    The last line is ended by the EOS. Source: Merity et al. 2017, whose models read "<eos>" at every line's
    end and predict it as a word.
    """
    return len(text.split()) + text.count("\n") + 1


def _document(tokenizer, text: str) -> list[int]:
    eos = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("the tokenizer has no eos_token, with which a text ends; set one")
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [bos, *_encode(tokenizer, text), eos]


def _windows(tokens: list[int], reads: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """(window, where in it the tokens begin that no window before has predicted).

    A window has ``reads`` tokens and one more, which is predicted only.
    """
    done = 1  # the first token has nothing before it
    for begin in range(0, len(tokens), stride):
        window = tokens[begin : begin + reads + 1]
        yield window, done - begin
        done = begin + len(window)
        if done == len(tokens):
            return


# --- attention -------------------------------------------------------------------------------------


def attention_weights(model, tokens: Sequence[int]) -> np.ndarray:
    """What each token looks at, (n_layer, n_head, T, T): row t are the shares of token t's attention.

    model: lmlab's GPT or of transformers, with an adapter or without. Fused attention keeps its shares to itself,
    so they are computed plainly ("eager") for this one pass.
    """
    import torch

    ids = torch.tensor([list(tokens)], device=next(model.parameters()).device)  # (1, T)
    if hasattr(model, "attention_weights"):  # lmlab's
        return model.attention_weights(ids)[:, 0].float().cpu().numpy()
    config, set_implementation = model.config, model.set_attn_implementation
    before = config._attn_implementation
    set_implementation("eager")
    try:
        with evaluating(model):
            layers = model(ids, output_attentions=True, use_cache=False).attentions
    finally:
        set_implementation(before)
    return torch.cat(layers).float().cpu().numpy()


def attention_by_part(weights: np.ndarray, parts: Mapping[str, range]) -> dict[str, dict[str, float]]:
    """part that looks -> part looked at -> mean share of attention, over layers, heads and tokens.

    weights: (..., T, T). parts: name -> the places of its tokens, together all of them.
    """
    mean = weights.reshape(-1, *weights.shape[-2:]).mean(0)  # (T, T)
    return {
        looks: {
            seen: float(mean[rows.start : rows.stop, columns.start : columns.stop].sum(1).mean())
            for seen, columns in parts.items()
        }
        for looks, rows in parts.items()
    }


# --- how sure --------------------------------------------------------------------------------------


def wilson_interval(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share of which k in n were seen; z = 1.96 gives 95%. Source: Wilson 1927.

    Unlike p +- z * sqrt(p (1 - p) / n) it never leaves [0, 1] and is not empty at k = 0.
    """
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"wilson_interval got k={k}, n={n}; give 0 <= k <= n and n of at least 1")
    p, z2 = k / n, z * z / n
    centre, half = p + z2 / 2, z * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return max(0.0, (centre - half) / (1 + z2)), min(1.0, (centre + half) / (1 + z2))


class Share(NamedTuple):
    """k of n, with a 95% interval (Wilson's)."""

    k: int
    n: int

    @classmethod
    def of(cls, hits: Sequence[bool]) -> "Share":
        return cls(sum(map(bool, hits)), len(hits))

    @property
    def value(self) -> float:
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.k, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.k} of {self.n} = {self.value:.0%} [{low:.0%}, {high:.0%}]"


def shares_by(levels: Sequence, hits: Sequence[bool]) -> dict:
    """level -> ``Share`` of its hits, in the order of the levels; items whose level is None are left out."""
    pairs = [(level, hit) for level, hit in zip(levels, hits, strict=True) if level is not None]
    return {
        level: Share.of([hit for its, hit in pairs if its == level])
        for level in sorted({level for level, _ in pairs})
    }


class Difference(NamedTuple):
    """b less a, with a 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    weights: Sequence[float] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """sum(b - a) / sum(weights) with its 95% percentile interval, items drawn anew with replacement.

    a and b belong to the same items in the same order. weights: 1 per item by default; for losses, a and b
    are the nats and weights the tokens of each text. Source: Efron 1979; Koehn 2004 for pairs.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=float)
    if not len(a) == len(b) == len(w) or len(a) == 0:
        raise ValueError(f"paired_bootstrap got {len(a)}, {len(b)} and {len(w)} values; give as many of each")
    drawn = np.random.default_rng(seed).integers(len(a), size=(n_resamples, len(a)))
    means = (b - a)[drawn].sum(1) / w[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float((b - a).sum() / w.sum()), float(low), float(high))


class McNemar(NamedTuple):
    """Two models on the same items: of the items on which they differ, who was right."""

    n01: int  # the first wrong, the second right
    n10: int  # the first right, the second wrong
    p_value: float  # how often so lopsided a split or a more lopsided one comes by chance


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """McNemar's exact test: were two models right equally often? a and b: right or wrong, item by item.

    Items on which both are right or both wrong tell nothing. Of the others, were the models equally good,
    each would win as often as a coin: two-sided binomial test. Source: McNemar 1947; Dietterich 1998.
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"mcnemar got {len(a)} and {len(b)} items; give as many of each")
    n01, n10 = int((~a & b).sum()), int((a & ~b).sum())
    n = n01 + n10
    tail = sum(math.comb(n, k) for k in range(min(n01, n10) + 1))  # whole numbers: nothing underflows
    return McNemar(n01, n10, min(1.0, 2 * tail / 2**n))
