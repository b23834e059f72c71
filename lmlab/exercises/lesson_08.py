"""Lesson 08: windows, copying, variety, temperature."""

import random

from lmlab.exercises.judging import compare, exercise


def _packed(documents, eos):
    return [eos] + [token for document in documents for token in (*document, eos)]


@exercise(
    "08.1",
    "Windows that begin at a beginning",
    "Pack first: [eos], then each document and an eos behind it.",
    "A window begins at each eos of the row, if `length` tokens are left from there on.",
)
def windows(answer):
    def begun(documents, eos, length, starts, short=False):
        row = _packed(documents, eos)
        return [row[i : i + length] for i in starts(row) if short or i + length <= len(row)]

    def at_eos(row, behind=0):
        return [i + behind for i, token in enumerate(row) if token == 0]

    dice = random.Random(0)
    cases = [
        ([[dice.randrange(1, 50) for _ in range(dice.randint(2, 7))] for _ in range(n)], 0, length)
        for n, length in ((5, 6), (8, 4), (3, 9))
    ]
    compare(
        answer,
        lambda *case: begun(*case, at_eos),
        cases,
        {
            "Your windows begin behind the EOS: the model then never sees how a text begins.": lambda *case: (
                begun(*case, lambda row: at_eos(row, 1))
            ),
            "Your windows begin anywhere; those that begin in mid-text are not wanted.": lambda *case: begun(
                *case, lambda row: range(len(row))
            ),
            "Your windows follow each other without overlap, and begin anywhere.": lambda *case: begun(
                *case, lambda row: range(0, len(row), case[2])
            ),
            "The last windows have fewer than `length` tokens: leave them out.": lambda *case: begun(
                *case, at_eos, short=True
            ),
        },
    )
    return "Place 0 always holds the EOS, as it will when the model writes from nothing."


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _text(dice: random.Random, n: int) -> str:
    return " ".join(dice.choice("the red old witch fox sings here and there".split()) for _ in range(n))


@exercise(
    "08.2",
    "Does it copy?",
    "The runs of a text: `words[i:i + n]` for i from 0 to len(words) − n.",
    "Make one set of all runs of all training texts, text by text, and count how many of the text's "
    "are in it.",
)
def copied_share(answer):
    from lmlab.data.dedup import copied_ngrams

    def reference(text, training, n):
        copied, there = copied_ngrams([text], training, n)
        return copied[0] / there[0]

    def share(runs, known):
        return sum(run in known for run in runs) / max(1, len(runs))

    dice = random.Random(0)
    cases = [
        ("the red witch sings", ["a red witch sings here", "the red fox"], 2),
        ("the fox the fox the fox sings old", ["the fox", "here sings"], 2),
        ("here the red witch", ["the old fox sings here", "the red witch"], 2),
    ]
    cases += [(_text(dice, 14), [_text(dice, 12) for _ in range(3)], n) for n in (1, 2, 3)]

    def known_runs(training, n):
        return {run for text in training for run in _runs(text, n)}

    compare(
        answer,
        reference,
        cases,
        {
            "A run that is copied five times counts five times: do not make a set of the text's own runs.": lambda text, training, n: (
                share(list(set(_runs(text, n))), known_runs(training, n))
            ),
            "Joined to one text, two training texts make runs that stand in neither: go text by text.": lambda text, training, n: (
                share(_runs(text, n), known_runs([" ".join(training)], n))
            ),
            "That is the share of words; runs of `n` are asked.": lambda text, training, n: share(
                _runs(text, 1), known_runs(training, 1)
            ),
            "You divide by the number of words; a text of m words has m − n + 1 runs.": lambda text, training, n: (
                sum(run in known_runs(training, n) for run in _runs(text, n)) / len(text.split())
            ),
            "That is what is new; asked is what is copied.": lambda text, training, n: (
                1 - share(_runs(text, n), known_runs(training, n))
            ),
        },
    )
    return "By itself the number says nothing: compare it with texts that were held out."


@exercise(
    "08.3",
    "Variety",
    "Collect the runs of all texts in one list, then count the different ones.",
    "`len(set(runs)) / len(runs)`, over all texts together.",
)
def distinct(answer):
    from lmlab.data.statistics import distinct_n

    dice = random.Random(1)
    cases = [(["the fox sings", "the fox sings"], 2)]
    cases += [([_text(dice, 9) for _ in range(4)], n) for n in (1, 2, 3)]

    def single(text, n):
        return len(set(_runs(text, n))) / len(_runs(text, n))

    compare(
        answer,
        distinct_n,
        cases,
        {
            "A mean over texts does not see that two texts say the same: put all runs together.": lambda texts, n: (
                sum(single(text, n) for text in texts) / len(texts)
            ),
            "Where one text ends and the next begins there is no run.": lambda texts, n: single(
                " ".join(texts), n
            ),
            "That is how many different runs there are; divide by all.": lambda texts, n: len(
                {run for text in texts for run in _runs(text, n)}
            ),
            "These are words; runs of `n` are asked.": lambda texts, n: single(" ".join(texts), 1),
        },
    )
    return "It falls the more text there is: compare only equal amounts."


@exercise(
    "08.4",
    "Hot and cold",
    "Set all but the k largest logits to -inf: a softmax then gives these nothing.",
    "Divide the logits by the temperature before the softmax.",
)
def draw_probabilities(answer):
    import torch

    def kept(logits, k):
        return logits.masked_fill(logits < logits.topk(k).values[-1], -torch.inf)

    dice = torch.Generator().manual_seed(0)
    cases = [
        (2 * torch.randn(V, generator=dice), t, k) for V, t, k in ((8, 0.5, 3), (12, 1.5, 12), (10, 0.9, 4))
    ]
    compare(
        answer,
        lambda logits, t, k: (kept(logits, k) / t).softmax(0),
        cases,
        {
            "You multiply by the temperature: a low one must sharpen, so divide.": lambda logits, t, k: (
                kept(logits, k) * t
            ).softmax(0),
            "What is left after the cut no longer adds up to one: cut before the softmax.": lambda logits, t, k: (
                (logits / t).softmax(0) * (kept(logits, k) > -torch.inf)
            ),
            "A cut token has the logit 0 here, which is not unlikely; set it to -inf.": lambda logits, t, k: (
                logits * (kept(logits, k) > -torch.inf) / t
            ).softmax(0),
            "The temperature is not used.": lambda logits, t, k: kept(logits, k).softmax(0),
            "All tokens still take part: only the `k` likeliest may.": lambda logits, t, k: (
                logits / t
            ).softmax(0),
            "Probabilities divided by the temperature do not add up to one: divide the logits.": lambda logits, t, k: (
                kept(logits, k).softmax(0) / t
            ),
        },
    )
    return "At a temperature near 0 this is the likeliest token, at a high one a draw among the k."
