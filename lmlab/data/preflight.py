"""Preflight: what a trainer would learn from, checked before it does, as it comes out of the collator."""

import html
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from lmlab.data.token_view import TokenView, token_view
from lmlab.models import IGNORE_INDEX
from lmlab.models.chat_template import CLOSING, OPENING, end_of_turn, generation_prompt, prompt_text
from lmlab.models.types import PreTrainedTokenizerBase

_BATCH_SIZE = 8  # rows that are collated together, so that some are padded
# what must hold of every conversation -> what is wrong where it does not
_MUST_HOLD = {
    "one BOS": "more or less than one BOS",
    "the prompt is masked": (
        "the first label is not right after the prompt: nothing is masked, or the wrong part"
    ),
    "every completion token is a label": "a label after the first is masked, or another token",
    "EOS contributes to the loss": "the token that ends an answer is missing or masked: no end is learned",
}
_MUST_HOLD_OF_REASONING = {
    f"one {OPENING}, one {CLOSING}": f"{OPENING} or {CLOSING} doubled or missing",
    "the reasoning contributes to the loss": (
        f"no reasoning before {CLOSING} among the labels: dropped by the template, or masked"
    ),
    f"an answer follows {CLOSING}": "no answer there, or not one EOS after it",
}


class Conversation(NamedTuple):
    """One conversation as the model gets it, without padding."""

    ids: list[int]
    labels: list[int]

    @property
    def n_prompt(self) -> int:
        """Tokens before the first label."""
        return len(list(takewhile(lambda label: label == IGNORE_INDEX, self.labels)))

    @property
    def supervised(self) -> list[int]:
        """The labels that contribute to the loss: nothing predicts the first token, so it never does."""
        return [label for label in self.labels[1:] if label != IGNORE_INDEX]


class Check(NamedTuple):
    """One thing that must hold of every conversation."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, repr=False)
class Preflight:
    """What was found. It shows itself in a notebook, and as text."""

    checks: tuple[Check, ...]
    tokens: TokenView  # of a few rows

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return not self.failed

    def require(self) -> None:
        """Raises ValueError that names every check that failed."""
        if self.failed:
            found = "; ".join(f"{check.name}: {check.found}" for check in self.failed)
            raise ValueError(
                f"preflight: {len(self.failed)} of {len(self.checks)} checks failed; fix the data, the "
                f"template or the collator before training. {found}"
            )

    def __repr__(self) -> str:
        lines = []
        for check in self.checks:
            lines.append(f"{'ok  ' if check.passed else 'FAIL'} {check.name:<37} {check.found}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = ""
        for check in self.checks:
            sign = "&#10003;" if check.passed else "<b>FAIL</b>"
            name, found = html.escape(check.name), html.escape(check.found)
            rows += f"<tr><td>{sign}</td><td>{name}</td><td>{found}</td></tr>"
        return f"<table>{rows}</table>{self.tokens._repr_html_()}"


def preflight(
    dataset: Sequence[Mapping],
    tokenizer: PreTrainedTokenizerBase,
    collator: Callable,
    *,
    n_conversations: int | None = None,
    max_length: int | None = None,
    opening: str | None = None,
    reasoning: bool = True,
    n_shown: int = 3,
) -> Preflight:
    """Checks a tokenized dataset as a trainer would see it, through its collator.

    Args:
        dataset: Rows with input_ids, maybe labels and, if packed, seq_lengths, as
            ``SFTTrainer.train_dataset``.
        tokenizer: The one that made them.
        collator: Makes a batch of rows; its output is checked, since that is what the model learns from.
        n_conversations: How many went in, so that those that the trainer dropped are missed.
        max_length: Where the trainer truncated.
        opening: With what the prompt of a plain pair ends, whose answer ends in EOS. None: the rows are
            conversations by the tokenizer's chat template.
        reasoning: Whether the reasoning format of such conversations is checked too.
        n_shown: Rows to show.
    """
    conversations, rows = _collate(dataset, collator)
    # the trainer drops what has no label left after truncation, without a word
    n = max(n_conversations or 0, len(conversations))
    end = end_of_turn(tokenizer) if opening is None else tokenizer.eos_token_id

    n_truncated = n - len(conversations)  # these the trainer has dropped
    for each in conversations:
        # a shorter one without its end was never truncated: its EOS is missing or masked, which has
        # its own check
        if each.ids[-1] != end and (max_length is None or len(each.ids) >= max_length):
            n_truncated += 1

    # the first token of a conversation has nothing before it, so it can never contribute
    n_tokens = max(1, sum(len(each.ids) - 1 for each in conversations))
    supervised = sum(len(each.supervised) for each in conversations) / n_tokens
    # padding is known from the lengths, not from the token: a pad token equal to EOS is no fault by itself
    pad_labels = []
    for row in rows:
        pad_labels += row["labels"][sum(row["attention_mask"]) :]
    n_labelled = sum(label != IGNORE_INDEX for label in pad_labels)
    some_masked = 0 < supervised < 1
    checks = [
        *_conversation_checks(conversations, tokenizer, end, opening, reasoning),
        Check(
            "padding is masked", n_labelled == 0, f"{n_labelled} of {len(pad_labels)} pad tokens have a label"
        ),
        Check("some tokens are masked, not all", some_masked, f"{supervised:.1%} of {n_tokens:,} are labels"),
        Check("nothing is truncated", n_truncated == 0, f"{n_truncated} of {n} lost their end"),
    ]
    return Preflight(tuple(checks), token_view(rows[:n_shown], tokenizer))


def _collate(dataset: Sequence[Mapping], collator: Callable) -> tuple[list[Conversation], list[dict]]:
    """Every conversation after the collator, and the batches' rows, with a mask that is 0 on padding."""
    conversations, batch_rows = [], []
    for start in range(0, len(dataset), _BATCH_SIZE):
        rows = []
        for i in range(start, min(start + _BATCH_SIZE, len(dataset))):
            columns = ("input_ids", "labels", "seq_lengths")
            rows.append({name: dataset[i][name] for name in columns if name in dataset[i]})
        # a packed row holds several conversations, which are checked one by one
        lengths = [row.get("seq_lengths", [len(row["input_ids"])]) for row in rows]
        batch = collator(rows)
        if len(batch["input_ids"]) < len(rows):  # without padding: all rows in one
            lengths = [[n for row in lengths for n in row]]
        all_ids, all_labels = batch["input_ids"].tolist(), batch["labels"].tolist()
        for ids, labels, row_lengths in zip(all_ids, all_labels, lengths, strict=True):
            begin = 0
            for n in row_lengths:
                conversations.append(Conversation(ids[begin : begin + n], labels[begin : begin + n]))
                begin += n
            mask = [1] * begin + [0] * (len(ids) - begin)
            batch_rows.append({"input_ids": ids, "labels": labels, "attention_mask": mask})
    return conversations, batch_rows


def _conversation_checks(
    conversations: Sequence[Conversation], tokenizer, end: int | None, opening: str | None, reasoning: bool
) -> list[Check]:
    must_hold, template_ids = dict(_MUST_HOLD), []
    reasoning = reasoning and opening is None
    if reasoning:
        must_hold |= _MUST_HOLD_OF_REASONING
    if opening is None:
        opening = generation_prompt(tokenizer)
        prompt = prompt_text(tokenizer, [{"role": "user", "content": "?"}])
        # a chat template may write BOS itself; then the tokenizer must not add another
        template_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    results = defaultdict(list)
    for each in conversations:
        prompt = tokenizer.decode(each.ids[: each.n_prompt])
        # in the order of ``must_hold``
        holds = [
            _has_one_bos(each.ids, template_ids, tokenizer),
            prompt.endswith(opening),
            each.labels[each.n_prompt :] == each.ids[each.n_prompt :],
            each.labels[-1] == each.ids[-1] == end,
        ]
        if reasoning:
            holds += _reasoning_holds(each, tokenizer, end, opening)
        for name, good in zip(must_hold, holds, strict=True):
            results[name].append(good)
    checks = []
    # all([]) is true, so that no conversation at all must be asked for by itself
    for name, wrong in must_hold.items():
        good = results[name]
        found = "all" if good else "no conversation is left to look at"
        if False in good:
            found = f"{good.count(False)} of {len(good)}: {wrong}, first in conversation {good.index(False)}"
        checks.append(Check(name, bool(good) and all(good), found))
    return checks


def _has_one_bos(ids: list[int], template_ids: list[int], tokenizer) -> bool:
    """As many BOS as the template writes, and never two at the beginning; plain pairs have none.

    SmolLM2's BOS is <|im_start|>, which also begins each turn: there only the beginning can be counted.
    """
    bos = tokenizer.bos_token_id
    if bos in (None, tokenizer.eos_token_id):
        return True
    n_leading = len(list(takewhile(lambda token: token == bos, ids)))
    if n_leading != int(template_ids[:1] == [bos]):
        return False
    return template_ids.count(bos) > 1 or ids.count(bos) == template_ids.count(bos)


def _reasoning_holds(each: Conversation, tokenizer, end: int, opening: str) -> list[bool]:
    """The reasoning format of the last turn, tags that the generation prompt has written included."""
    turn = tokenizer.decode(each.ids).rpartition(opening.partition(OPENING)[0])[2]
    # what is trained on is read from the labels, as they may differ from the ids
    labelled = tokenizer.decode(each.supervised)
    reasoning = labelled.partition(CLOSING)[0].rpartition(OPENING)[2].strip()
    # nothing where the reasoning does not end
    answer, end_token = turn.partition(CLOSING)[2].strip(), tokenizer.decode([end])
    return [
        turn.count(OPENING) == turn.count(CLOSING) == 1,
        CLOSING in labelled and reasoning != "",
        answer.count(end_token) == 1 and answer.endswith(end_token) and answer != end_token,
    ]
