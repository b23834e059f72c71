"""What the bases read in pretraining: every kind of text but those that the lessons teach.

No pairs side by side (04), little of the encyclopedia (05), no reasoning in <think> (06): the fine-tunings
have something to do.
"""

import json
from pathlib import Path

from bases import chats, textbook
from lmlab.miniworld import encyclopedia, fantasy, shakespeare, stories
from lmlab.miniworld.grammar import Sampler, stream
from lmlab.miniworld.splits import split_of


def training_pair(rng: Sampler) -> dict:
    """A pair that is not in the validation split of the pairs."""
    # rejection sampling: the generator does not know the splits, the text's hash decides
    pair = shakespeare.pair(rng)
    while split_of(pair["modern"]) != "train":
        pair = shakespeare.pair(rng)
    return pair


_GENERATORS = {
    "stories": stories.story,
    "modern": lambda rng: training_pair(rng)["modern"],
    "plays": lambda rng: training_pair(rng)["shakespearean"],
    "textbook": textbook.textbook,
    "fantasy": lambda rng: fantasy.location(rng)["text"],
    "encyclopedia": encyclopedia.entry,
    "chats": chats.chat,
}
BASE_TABLE = json.loads(Path(__file__).with_name("bases.json").read_text(encoding="utf-8"))
# percentage of documents of each kind, per base: llama reads some encyclopedia so that lesson 05's words are
# no strangers to it, qwen2 mostly arithmetic, so that lesson 06 teaches the format and the plan, not the
# tables
MIX = {name: base["mix"] for name, base in BASE_TABLE.items()}


def pretraining_texts(architecture: str, n: int, seed: int | str = 0) -> list[str]:
    """``n`` documents in the mix of one base ("gpt2", "llama", "qwen2")."""
    rng = Sampler(stream("corpus", architecture, seed))
    kinds, percentages = list(MIX[architecture]), list(MIX[architecture].values())
    texts = []
    for _ in range(n):
        kind = rng.choice(kinds, percentages)
        texts.append(_GENERATORS[kind](rng))
    return texts
