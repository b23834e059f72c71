"""A look at what a trainer would learn from, before it does: tokens, labels, and what is wrong with them."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lmlab.data.token_view import TokenView, token_view
from lmlab.models import IGNORE_INDEX
from lmlab.models.chat_template import CLOSING, OPENING, end_of_turn, generation_prompt, prompt_text

_BATCH = 8  # rows that are collated together, so that some are padded


class Conversation(NamedTuple):
    """One conversation as the model gets it; all of one length, padding left out."""

    ids: list[int]
    labels: list[int]


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
    supervised_share: float  # of all tokens but the first of each conversation and padding
    cut_share: float  # of the conversations, that lost their end
    answers_lost: int  # of the conversations, whose answer is not whole any more
    n_conversations: int

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def require(self) -> None:
        """Raises ValueError that names every check that failed."""
        failed = [f"{check.name}: {check.found}" for check in self.checks if not check.passed]
        if failed:
            raise ValueError(
                f"preflight: {len(failed)} of {len(self.checks)} checks failed; mend the data, the "
                f"template or the collator before training. {'; '.join(failed)}"
            )

    def summary(self) -> str:
        """One line; of checks that failed their names."""
        failed = [check.name for check in self.checks if not check.passed]
        result = (
            f"{len(failed)} of {len(self.checks)} checks FAILED ({', '.join(failed)})"
            if failed
            else (f"{len(self.checks)} checks passed")
        )
        return (
            f"{result} on {self.n_conversations:,} examples, {self.supervised_share:.1%} of their tokens "
            "contribute to the loss"
        )

    def __repr__(self) -> str:
        lines = [
            f"{'ok  ' if check.passed else 'FAIL'} {check.name:<34} {check.found}" for check in self.checks
        ]
        return "\n".join([*lines, "", repr(self.tokens)])

    def _repr_html_(self) -> str:
        checks = "".join(
            f"<tr><td>{'&#10003;' if check.passed else '<b>FAIL</b>'}</td>"
            f"<td>{html.escape(check.name)}</td><td>{html.escape(check.found)}</td></tr>"
            for check in self.checks
        )
        return f"<table>{checks}</table>{self.tokens._repr_html_()}"


def preflight(
    dataset: Sequence[Mapping],
    tokenizer,
    collator: Callable,
    *,
    n_conversations: int | None = None,
    max_length: int | None = None,
    opening: str | None = None,
    n_shown: int = 3,
) -> Preflight:
    """Checks a tokenized dataset as a trainer would see it, through its collator.

    dataset: rows with input_ids, maybe labels and, if packed, seq_lengths, as ``SFTTrainer.train_dataset``. The
    checks read what comes out of ``collator``, since that is what the model learns from. n_conversations: how
    many went in, so that those that the trainer dropped are missed. max_length: where it cut. opening: with what
    the prompt of a plain pair ends, whose answer ends in EOS; None: the rows are conversations by the
    tokenizer's chat template, and their reasoning format is checked too.
    """
    conversations, padded = _collated(dataset, collator)
    dropped = max(0, (n_conversations or 0) - len(conversations))
    n_all = max(1, len(conversations) + dropped)
    end = end_of_turn(tokenizer) if opening is None else tokenizer.eos_token_id
    prompt_end = generation_prompt(tokenizer) if opening is None else opening
    cut = [
        each
        for each in conversations
        if each.ids[-1] != end and (max_length is None or len(each.ids) >= max_length)
    ]
    n_cut = dropped + len(cut)
    # of a cut one the answer is whole if only its end is missing; an answer ends in a full stop
    lost = n_cut - sum(_spoken(tokenizer.decode(each.ids)).endswith(".") for each in cut)
    n_tokens = max(1, sum(len(each.ids) - 1 for each in conversations))  # the trainer may have dropped all
    share = sum(len(_supervised(each)) for each in conversations) / n_tokens
    checks = [
        _bos_check(conversations, tokenizer, opening),
        *_structure(conversations, tokenizer, prompt_end, end),
        *(_reasoning(conversations, tokenizer, end) if opening is None else []),
        _padding_check(padded, tokenizer),
        Check("some tokens bear loss, not all", 0 < share < 1, f"{share:.1%} of {n_tokens:,} tokens"),
        Check(
            "nothing is cut off",
            not n_cut,
            f"{n_cut / n_all:.1%} of {n_all} lost their end, {lost} some or all of their answer",
        ),
    ]
    return Preflight(
        tuple(checks),
        token_view([row.view() for row in padded[:n_shown]], tokenizer),
        share,
        n_cut / n_all,
        lost,
        len(conversations) + dropped,
    )


class _Padded(NamedTuple):
    """A row of a batch with its padding; ``n`` tokens are real."""

    ids: list[int]
    labels: list[int]
    n: int

    def view(self) -> dict[str, list[int]]:
        mask = [1] * self.n + [0] * (len(self.ids) - self.n)
        return {"input_ids": self.ids, "labels": self.labels, "attention_mask": mask}


def _collated(dataset: Sequence[Mapping], collator: Callable) -> tuple[list[Conversation], list[_Padded]]:
    """Every conversation after the collator, and the rows of the batches with their padding."""
    conversations, padded = [], []
    columns = ("input_ids", "labels", "seq_lengths")
    for start in range(0, len(dataset), _BATCH):
        rows = [dataset[i] for i in range(start, min(start + _BATCH, len(dataset)))]
        rows = [{name: row[name] for name in columns if name in row} for row in rows]
        batch = collator(rows)
        ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
        lengths = [row.get("seq_lengths", [len(row["input_ids"])]) for row in rows]
        if len(ids) < len(rows):  # without padding: all rows in one
            lengths = [[n for row in lengths for n in row]]
        for row_ids, row_labels, parts in zip(ids, labels, lengths, strict=True):
            padded.append(_Padded(row_ids, row_labels, sum(parts)))
            begin = 0
            for n in parts:
                conversations.append(Conversation(row_ids[begin : begin + n], row_labels[begin : begin + n]))
                begin += n
    return conversations, padded


def _supervised(each: Conversation) -> list[int]:
    """The labels that bear loss. The first token has nothing before it, and no trainer counts it."""
    return [label for label in each.labels[1:] if label != IGNORE_INDEX]


def _spoken(text: str) -> str:
    """What follows the thought; empty where it does not end."""
    return text.rpartition(CLOSING)[2].strip() if CLOSING in text else ""


def _bos_check(conversations: Sequence[Conversation], tokenizer, opening: str | None) -> Check:
    """As many BOS as the template writes, and never two at the beginning; plain pairs have none.

    SmolLM2's BOS is <|im_start|>, which also begins each turn: there only the beginning can be counted.
    """
    bos = tokenizer.bos_token_id
    written = []
    if opening is None:
        prompt = prompt_text(tokenizer, [{"role": "user", "content": "?"}])
        written = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    n_first, n_all = min(1, _n_leading(written, bos)), written.count(bos)
    good = [
        bos in (None, tokenizer.eos_token_id)
        or (_n_leading(each.ids, bos) == n_first and (n_all > 1 or each.ids.count(bos) == n_all))
        for each in conversations
    ]
    return _check("one beginning (BOS)", good, "more or less than one BOS")


def _n_leading(ids: list[int], token: int | None) -> int:
    """How often a token stands at the very beginning."""
    return next((i for i, other in enumerate(ids) if other != token), len(ids))


def _structure(
    conversations: Sequence[Conversation], tokenizer, prompt_end: str, end: int | None
) -> list[Check]:
    """What must hold of any prompt and its answer. end: the answer's last token."""
    prompts = [tokenizer.decode(each.ids[: _first_label(each)]) for each in conversations]
    found = [
        (
            "the question bears no loss",
            [text.endswith(prompt_end) for text in prompts],
            f"loss does not begin right after {prompt_end!r}: nothing is masked, or the wrong part",
        ),
        (
            "from the first label on, all are",
            [each.labels[_first_label(each) :] == each.ids[_first_label(each) :] for each in conversations],
            "a label behind the first is masked or not the token in its place",
        ),
        (
            "the end (EOS) bears loss",
            [each.labels[-1] == each.ids[-1] == end for each in conversations],
            "the token that ends an answer is missing or masked: no end is learnt",
        ),
    ]
    return [_check(name, good, wrong) for name, good, wrong in found]


def _reasoning(conversations: Sequence[Conversation], tokenizer, end: int) -> list[Check]:
    """The reasoning format of the last turn, tags that the generation prompt has written included."""
    turn, end = generation_prompt(tokenizer).partition(OPENING)[0], tokenizer.decode([end])
    turns = [tokenizer.decode(each.ids).rpartition(turn)[2] for each in conversations]
    labelled = [tokenizer.decode(_supervised(each)) for each in conversations]
    found = [
        (
            f"one {OPENING}, one {CLOSING}",
            [text.count(OPENING) == text.count(CLOSING) == 1 for text in turns],
            f"{OPENING} or {CLOSING} doubled or missing",
        ),
        (
            "the reasoning bears loss",
            [
                CLOSING in text and bool(text.partition(CLOSING)[0].rpartition(OPENING)[2].strip())
                for text in labelled
            ],
            f"no reasoning before {CLOSING} among the labels: dropped by the template, or masked",
        ),
        (
            f"an answer follows {CLOSING}",
            [
                _spoken(text).count(end) == 1 and _spoken(text).endswith(end) and _spoken(text) != end
                for text in turns
            ],
            f"no answer there, or not one {end} behind it",
        ),
    ]
    return [_check(name, good, wrong) for name, good, wrong in found]


def _check(name: str, good: list[bool], wrong: str) -> Check:
    if not good:
        return Check(name, False, "no conversation is left to look at")
    return Check(
        name,
        all(good),
        "all"
        if all(good)
        else f"{good.count(False)} of {len(good)}: {wrong}, first in conversation {good.index(False)}",
    )


def _first_label(each: Conversation) -> int:
    """Where loss begins; the whole length where there is none."""
    return next((i for i, label in enumerate(each.labels) if label != IGNORE_INDEX), len(each.labels))


def _padding_check(padded: Sequence[_Padded], tokenizer) -> Check:
    """Padding is known from the lengths, not from the token: a pad token equal to EOS is no fault by itself."""
    n_pads = sum(len(row.ids) - row.n for row in padded)
    wrong = sum(label != IGNORE_INDEX for row in padded for label in row.labels[row.n :])
    return Check(
        "padding bears no loss", wrong == 0, f"{wrong} of {n_pads} paddings ({tokenizer.pad_token}) bear loss"
    )
