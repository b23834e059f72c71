"""Judging translations beside their loss: likeness to a reference, old forms used rightly, variety.

chrF and BLEU are sacrebleu's. No single number says "good": a copy of the modern sentence has a high chrF,
for most letters stay; the rules of Early Modern English need no reference, but a model may keep them in
another sentence. So they are shown together.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmlab.data.pairs import PROMPT
from lmlab.data.statistics import distinct_n
from lmlab.miniworld.archaic import archaic_forms, check_archaic
from lmlab.models.generation import generate_greedy

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedTokenizerBase


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """{"chrf", "bleu"}, each 0 to 100, over all sentences, with sacrebleu's defaults (chrF2; BLEU-4, 13a,
    exp).

    Sources: Popović 2015; Papineni et al. 2002; Post 2018.
    """
    from sacrebleu.metrics import BLEU, CHRF

    _same_length(hypotheses, references)
    return {
        "chrf": CHRF().corpus_score(hypotheses, [references]).score,
        "bleu": BLEU().corpus_score(hypotheses, [references]).score,
    }


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """chrF2 of each sentence, (n,), 0 to 100. Their mean is near the corpus' chrF, and not the same number.

    It is what an interval is taken from: ``paired_bootstrap(a, b)`` resamples sentences.
    """
    from sacrebleu.metrics import CHRF

    _same_length(hypotheses, references)
    metric = CHRF()
    return np.array(
        [
            metric.sentence_score(text, [reference]).score
            for text, reference in zip(hypotheses, references, strict=True)
        ]
    )


def edit_distance(a: str, b: str) -> int:
    """How many letters must be put in, taken out or exchanged to make ``b`` of ``a`` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))  # row[j]: from the part of a that is done to b[:j]
    for i, letter in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def edit_fraction(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Edit distance of each sentence as a share of its longer side: 0 if equal, 1 for nothing in common."""
    _same_length(hypotheses, references)
    return np.array(
        [edit_distance(a, b) / max(len(a), len(b), 1) for a, b in zip(hypotheses, references, strict=True)]
    )


def length_ratio(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Words written for each word of the references."""
    _same_length(hypotheses, references)
    written, wanted = (sum(len(text.split()) for text in texts) for texts in (hypotheses, references))
    if wanted == 0:
        raise ValueError(
            f"length_ratio got {len(references)} references without a word; give references with text"
        )
    return written / wanted


def score_translations(hypotheses: Sequence[str], rows: Sequence[Mapping]) -> dict[str, float]:
    """All of the above for translations of pairs {"modern", "shakespearean"}, in their order.

    chrf, bleu: 0 to 100. exact: share equal to the reference. edit_fraction: mean. rules_kept: share of
    sentences that keep every rule of ``check_archaic``. forms_correct: of the old forms written, the share
    used rightly (nan where there are none); forms_per_sentence: how many that were, for who writes none makes
    no mistake. length_ratio, distinct_2.
    """
    references = [row["shakespearean"] for row in rows]
    _same_length(hypotheses, references)
    sources = [row["modern"] for row in rows]
    right, wrong = map(sum, zip(*map(archaic_forms, sources, hypotheses), strict=True))
    return {
        **corpus_scores(hypotheses, references),
        "exact": float(np.mean([a == b for a, b in zip(hypotheses, references, strict=True)])),
        "edit_fraction": float(edit_fraction(hypotheses, references).mean()),
        "rules_kept": float(
            np.mean([check_archaic(*texts)["all"] for texts in zip(sources, hypotheses, strict=True)])
        ),
        "forms_correct": right / (right + wrong) if right + wrong else float("nan"),
        "forms_per_sentence": (right + wrong) / len(rows),
        "length_ratio": length_ratio(hypotheses, references),
        "distinct_2": distinct_n(hypotheses, 2),
    }


def _same_length(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or len(references) == 0:
        raise ValueError(
            f"got {len(hypotheses)} translations and {len(references)} references; "
            "give one of each per sentence"
        )


def translate(
    model: "Module",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Mapping],
    max_new_tokens: int = 64,
    **settings,
) -> list[str]:
    """The greedy translation of each pair's modern side, without blanks at its ends.

    settings: of ``generate``.
    """
    prompts = [PROMPT.format(modern=row["modern"]) for row in rows]
    return [text.strip() for text in generate_greedy(model, tokenizer, prompts, max_new_tokens, **settings)]
