"""Judging translations beside their loss: likeness to a reference, correct old forms, variety.

chrF and BLEU are sacrebleu's. No single number says "good": a copy of the modern sentence has a high chrF,
for most characters stay; the rules of Early Modern English need no reference, but a model may keep them in
another sentence. So they are shown together.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lmlab.data.statistics import distinct_n
from lmlab.miniworld.archaic import archaic_forms, check_archaic


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """chrF2 of each sentence, (n,), 0 to 100. Their mean is near the corpus' chrF, and not the same number.

    It is what an interval is taken from: ``paired_bootstrap(a, b)`` resamples sentences.
    """
    from sacrebleu.metrics import CHRF

    # one metric for all sentences: it is slow to make
    metric = CHRF()
    pairs = zip(hypotheses, references, strict=True)
    return np.array([metric.sentence_score(text, [reference]).score for text, reference in pairs])


def edit_distance(a: str, b: str) -> int:
    """How many characters must be inserted, deleted or replaced to make ``b`` of ``a`` (Levenshtein 1966)."""
    # one row of the dynamic program: row[j] is the distance from the part of a that is done to b[:j]
    row = list(range(len(b) + 1))
    for i, character in enumerate(a, start=1):
        # diagonal: row[j - 1] as it was one character of a ago
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (character != other))
    return row[-1]


def edit_fraction(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Edit distance of each pair as a fraction of its longer side: 0 if equal, 1 for nothing in common."""
    fractions = []
    for a, b in zip(hypotheses, references, strict=True):
        fractions.append(edit_distance(a, b) / max(len(a), len(b), 1))
    return np.array(fractions)


def score_translations(hypotheses: Sequence[str], rows: Sequence[Mapping]) -> dict[str, float]:
    """All of the above for translations of pairs {"modern", "shakespearean"}, in their order.

    chrf, bleu: 0 to 100, over all sentences, with sacrebleu's defaults (chrF2; BLEU-4, 13a, exp). exact:
    fraction equal to the reference. edit_fraction: mean. rules_kept: fraction of sentences that keep
    every rule of ``check_archaic``. forms_correct: of the old forms written, the fraction that is correct
    (nan where there are none); forms_per_sentence: how many old forms there are. length_ratio: words
    written for each word of the references. distinct_2.

    Sources: Popović 2015; Papineni et al. 2002; Post 2018.
    """
    from sacrebleu.metrics import BLEU, CHRF

    references = [row["shakespearean"] for row in rows]
    n_exact = n_kept = n_correct = n_forms = 0
    for row, text in zip(rows, hypotheses, strict=True):
        n_exact += text == row["shakespearean"]
        n_kept += check_archaic(row["modern"], text)["all"]
        correct, wrong = archaic_forms(row["modern"], text)
        n_correct += correct
        n_forms += correct + wrong
    return {
        "chrf": CHRF().corpus_score(hypotheses, [references]).score,
        "bleu": BLEU().corpus_score(hypotheses, [references]).score,
        "exact": n_exact / len(rows),
        "edit_fraction": float(edit_fraction(hypotheses, references).mean()),
        "rules_kept": n_kept / len(rows),
        # a text without old forms has no mistakes in them, so their number is told, too
        "forms_correct": n_correct / n_forms if n_forms else float("nan"),
        "forms_per_sentence": n_forms / len(rows),
        "length_ratio": len(" ".join(hypotheses).split()) / len(" ".join(references).split()),
        "distinct_2": distinct_n(hypotheses, 2),
    }
