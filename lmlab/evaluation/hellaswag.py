"""HellaSwag in its published conventions (Zellers et al. 2019; lm-evaluation-harness)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmlab.evaluation.prefix_tree import Choices, score_choices
from lmlab.evaluation.statistics import wilson_interval
from lmlab.models.sources import context_length
from lmlab.models.types import Module, PreTrainedTokenizerBase


@dataclass(frozen=True)
class HellaSwagScores:
    """Log-probabilities of N items; arrays are (N, 4), one column per ending, labels (N,)."""

    logprobs: np.ndarray  # log p(ending | context), summed over the ending's tokens
    n_tokens: np.ndarray
    n_chars: np.ndarray
    n_bytes: np.ndarray
    labels: np.ndarray

    def scores(self, convention: str = "token") -> np.ndarray:
        """The scores (N, 4), of which the largest wins.

        "sum": the log-probability as it is (acc of build-nanogpt and of lm-evaluation-harness). "token": per
        token (acc_norm of build-nanogpt). "char": per character of the ending (acc_norm of the harness),
        "byte": per UTF-8 byte (its acc_bytes). Which texts were read is another matter: ``score_hellaswag``.
        """
        lengths = {"sum": 1, "token": self.n_tokens, "char": self.n_chars, "byte": self.n_bytes}
        return self.logprobs / lengths[convention]

    def chosen(self, convention: str = "token") -> np.ndarray:
        """The ending that wins, (N,) of int; of several equals the first."""
        return self.scores(convention).argmax(1)

    def correct(self, convention: str = "token") -> np.ndarray:
        """Whether each item was answered correctly: (N,) of bool."""
        return self.chosen(convention) == self.labels

    def accuracy(self, convention: str = "token") -> float:
        """The fraction of items that were answered correctly."""
        return float(self.correct(convention).mean())

    def interval(self, convention: str = "token") -> tuple[float, float]:
        """95% Wilson interval of the accuracy."""
        return wilson_interval(int(self.correct(convention).sum()), len(self.labels))

    def margins(self, convention: str = "token") -> np.ndarray:
        """Score of the correct ending less that of the best wrong one (N,): below 0 where it was missed."""
        scores, items = self.scores(convention), np.arange(len(self.labels))
        # without the correct ending, the largest is the best wrong one
        wrong = scores.copy()
        wrong[items, self.labels] = -np.inf
        return scores[items, self.labels] - wrong.max(1)


def score_hellaswag(
    model: Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping],
    batch_tokens: int = 2048,
    start_tokens: Sequence[int] = (),
    texts: str = "plain",
    share_context: bool = True,
) -> HellaSwagScores:
    """Scores every ending of HellaSwag rows. A context that is too long loses its beginning.

    Args:
        model: lmlab's GPT, or one of transformers.
        tokenizer: Its tokenizer.
        rows: Each with ctx, endings and label; for the harness' texts also activity_label, ctx_a and ctx_b.
        batch_tokens: Tokens in one forward pass, padding included.
        start_tokens: Before every context: give [eos] for a model that only ever saw documents begin so;
            published GPT-2 numbers have none.
        texts: "plain" reads the context and " " + ending, as build-nanogpt does. "harness" reads them as
            lm-evaluation-harness 0.4.13 does: cleaned, the activity in front, the tokenizer's own special
            tokens.
        share_context: See ``prefix_tree.score_choices``.

    Raises:
        ValueError: A row lacks its keys or its four endings.
    """
    rows = list(rows)
    for row in rows:
        if len(row["endings"]) != 4 or str(row["label"]) not in ("0", "1", "2", "3"):
            raise ValueError(
                f"a HellaSwag row needs 4 endings and a label of 0 to 3; test rows have none: {row}"
            )
    read = {"plain": _read_plain, "harness": _read_harness}[texts]
    endings, items = zip(*(read(tokenizer, row) for row in rows), strict=True)
    items = [_fitted(item, start_tokens, context_length(model)) for item in items]
    return HellaSwagScores(
        logprobs=np.array(score_choices(model, items, batch_tokens, share_context)),
        n_tokens=np.array([[len(tokens) for tokens in item.endings] for item in items]),
        n_chars=np.array([[len(ending) for ending in item] for item in endings]),
        n_bytes=np.array([[len(ending.encode()) for ending in item] for item in endings]),
        labels=np.array([int(row["label"]) for row in rows]),
    )


def harness_context(row: Mapping) -> str:
    """What lm-evaluation-harness 0.4.13 puts before an ending: "Roof shingle removal: A man sits. He".

    Source: its tasks/hellaswag/utils.py.
    """
    # ctx_b gets a capital and loses all others, so ctx, which has both parts, is of no use
    return harness_clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")


def harness_clean(text: str) -> str:
    """lm-evaluation-harness' clean-up of WikiHow's tags: " [title]" to ". ", other tags away."""
    # the order is the harness': a double space that the tags leave becomes one, a triple one two
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _read_plain(tokenizer, row: Mapping) -> tuple[list[str], Choices]:
    context = _encode(tokenizer, row["ctx"])
    return row["endings"], Choices([context] * 4, [_encode(tokenizer, " " + text) for text in row["endings"]])


def _read_harness(tokenizer, row: Mapping) -> tuple[list[str], Choices]:
    # as the harness does: context and ending are tokenized as one text, and whitespace at the end of the
    # context belongs to the ending
    endings = [harness_clean(ending) for ending in row["endings"]]
    text = harness_context(row)
    context = tokenizer(text.rstrip())["input_ids"]
    wholes = tokenizer([f"{text} {ending}" for ending in endings])["input_ids"]
    return endings, Choices([context] * 4, [whole[len(context) :] for whole in wholes])


def _fitted(item: Choices, start_tokens: Sequence[int], limit: int) -> Choices:
    """With the start tokens, and as much of the context as the model can read."""
    contexts = []
    for context, ending in zip(item.contexts, item.endings, strict=True):
        # the last token is predicted and not read
        room = limit + 1 - len(ending) - len(start_tokens)
        if room < 1:
            raise ValueError(f"an ending has {len(ending)} tokens, the model's context {limit}; leave it out")
        contexts.append([*start_tokens, *context[-room:]])
    return Choices(contexts, item.endings)


def _encode(tokenizer, text: str) -> list[int]:
    # verbose would warn of long texts, whose beginning _fitted cuts
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
