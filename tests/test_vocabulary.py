"""The field's words: those of a private dialect do not come back, in prose, docstrings, comments, names.

Only words that have no other use here are refused. "Place", "share", "rate" and the like also have a
right use, so they are for the reader of a change to judge.
"""

import io
import json
import re
import tokenize
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PROSE = [PROJECT / name for name in ("README.md", "QUICK_START.md", "FINETUNING_GUIDE.md")]
PROSE += sorted((PROJECT / "docs").glob("*.md"))
NOTEBOOKS = sorted((PROJECT / "notebooks").rglob("*.ipynb"))
MODULES = sorted((PROJECT / "lmlab").rglob("*.py"))

# private word -> the field's word
PRIVATE = {
    r"foretell|foretold": "predict",
    r"by heart": "memorized",
    r"bears? (no )?loss|loss-bearing|bear (no )?loss": "contributes to the loss",
    r"by lot": "sampled",
    r"likeliest": "most likely",
    r"think[ -]form(at)?": "reasoning format",
    r"re-?drawn": "augmented, resampled",
    r"silent groups?|silent_share": "zero-variance group",
    r"bell curve": "normal distribution",
    r"answer-only": "completion-only",
    r"number formats?": "dtype",
    r"well-formed (answer|response|thought)": "format-valid",
    r"loss in pieces": "chunked cross-entropy",
    r"end tokens?": "EOS",
    r"walls? for attention": "block-diagonal mask",
    r"runs of \w+ words": "n-grams",
    r"careless\w*": "naive",
    r"rehearsal\w*": "meta-device memory estimate",
    r"four_bits_and_back": "quantize-dequantize",
    r"normalis\w+": "normalize",
}
REFUSED = re.compile(r"\b(" + "|".join(f"(?:{word})" for word in PRIVATE) + r")\b", re.IGNORECASE)


def texts_of(path: Path) -> list[str]:
    """All cells of a notebook; comments, strings and names of a module; the whole of anything else."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
    if path.suffix == ".py":
        kinds = (tokenize.COMMENT, tokenize.STRING, tokenize.NAME)
        return [
            token.string
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type in kinds
        ]
    return [text]


@pytest.mark.parametrize(
    "path", [*PROSE, *NOTEBOOKS, *MODULES], ids=lambda path: str(path.relative_to(PROJECT))
)
def test_private_words_do_not_come_back(path):
    found = {match[0] for text in texts_of(path) for match in REFUSED.finditer(" ".join(text.split()))}
    assert not found


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "tests" / "expected").glob("*.json")), ids=lambda path: path.stem
)
def test_metrics_have_the_fields_names(path):
    names = " ".join(json.loads(path.read_text(encoding="utf-8"))).replace("_", " ")
    assert not REFUSED.search(names)


def test_the_words_are_found():
    assert REFUSED.search("the likeliest token") and REFUSED.search("learnt by heart")
    assert not REFUSED.search("the most likely token is sent token by token")
