"""What the bases read in pretraining: every kind of text but the ones that the lessons teach.

No pairs side by side (04), little of the encyclopedia (05), no thoughts in <think> (06): the fine-tunings have
something to do.
"""

from lmlab.miniworld import chats, encyclopedia, fantasy, problems, shakespeare, stories
from lmlab.miniworld.grammar import Draw, stream
from lmlab.miniworld.splits import split_of


def training_pair(d: Draw) -> dict:
    """A pair that is not in the validation split of the pairs."""
    while split_of((pair := shakespeare.pair(d))["modern"]) != "train":
        pass
    return pair


_KINDS = {
    "stories": stories.story,
    "modern": lambda d: training_pair(d)["modern"],
    "plays": lambda d: training_pair(d)["shakespearean"],
    "textbook": problems.textbook,
    "fantasy": fantasy.location,
    "encyclopedia": encyclopedia.entry,
    "chats": chats.chat,
}
# share of documents of each kind, per base
MIX = {
    "gpt2": {"stories": 60, "modern": 25, "plays": 5, "textbook": 5, "fantasy": 5},
    "llama": {"stories": 60, "modern": 19.5, "plays": 5, "textbook": 10, "fantasy": 5, "encyclopedia": 0.5},
    "qwen2": {"stories": 15, "modern": 5, "plays": 2, "textbook": 67, "fantasy": 3, "chats": 8},
}


def pretraining_texts(architecture: str, n: int, seed: int = 0) -> list[str]:
    """``n`` documents in the mix of one base ("gpt2", "llama", "qwen2")."""
    draw = Draw(stream("corpus", architecture, seed))
    kinds, shares = list(MIX[architecture]), list(MIX[architecture].values())
    return [_KINDS[draw.choice(kinds, shares)](draw) for _ in range(n)]
