"""Answers to problems: generated and graded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmlab.data.answers import grade_response
from lmlab.models.chat_template import prompt_text
from lmlab.models.generation import generate_greedy
from lmlab.models.types import Module, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Predictions:
    """What a model wrote for some problems; all (n_problems,)."""

    texts: list[str]
    format_valid: list[bool]
    correct: list[bool]
    lengths: list[int]  # tokens written, the end not counted


def generate_answers(
    model: Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping],
    max_new_tokens: int,
    batch_size: int = 64,
) -> Predictions:
    """Lets the model answer problems (of ``reasoning_sets``), greedily, and scores the answers."""
    prompts = [prompt_text(tokenizer, row["prompt"]) for row in rows]
    texts = generate_greedy(model, tokenizer, prompts, max_new_tokens, batch_size)
    # each problem has its own tolerance and unit
    scores = [
        grade_response(text, row["answer"], row["tolerance"], row["unit"])
        for text, row in zip(texts, rows, strict=True)
    ]
    # counted without special tokens: the end of the turn is no part of an answer
    return Predictions(
        texts,
        [score["format_valid"] for score in scores],
        [score["correct"] for score in scores],
        [len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in texts],
    )
