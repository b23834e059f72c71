"""Tokens in a second: lmlab's shards, tokenizers' encode_batch, and tiktoken. Their ids must be equal.

python benchmarks/tokenization.py [--text FILE] [--tokenizer FOLDER]
"""

import argparse
import json
import statistics
from importlib.metadata import version
from pathlib import Path

import numpy as np
from abab import MINIMUM, alternate, conditions

from lmlab.data.shards import tokenize
from lmlab.data.streams import stream_texts
from lmlab.hardware import available_cores
from lmlab.models.sources import load_tokenizer

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGITS_APART = r"\p{N}"  # what the Digits pre-tokenizer does before GPT-2's pattern


def tiktoken_encoding(tokenizer):
    """A tiktoken.Encoding with the ids of a GPT-2-like tokenizer, from its own vocabulary: no network."""
    import tiktoken
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    special = {token["content"] for token in parts["added_tokens"]}
    ids = {
        bytes(byte_of[c] for c in token): number
        for token, number in parts["model"]["vocab"].items()
        if token not in special
    }
    pattern = GPT2_PATTERN
    if "Digits" in json.dumps(parts["pre_tokenizer"]):  # a digit never takes the space before it
        pattern = pattern.replace(r" ?\p{N}+", DIGITS_APART)
        pattern = pattern.replace(r"\s+(?!\S)", r"\s+(?=\p{N})|\s+(?!\S)")
    return tiktoken.Encoding(
        "lmlab", pat_str=pattern, mergeable_ranks=_ranks(parts, byte_of, ids), special_tokens={}
    ), ids


def _ranks(parts: dict, byte_of: dict, ids: dict[bytes, int]) -> dict[bytes, int]:
    """Bytes first, then merges in their order: tiktoken merges by rank, and ids need not be in that order."""
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in parts["model"]["merges"]]
    merged = [bytes(byte_of[c] for c in left + right) for left, right in pairs]
    singles = sorted((token for token in ids if len(token) == 1), key=ids.__getitem__)
    return {token: rank for rank, token in enumerate(dict.fromkeys([*singles, *merged]))}


def contestants(tokenizer, texts: list[str]) -> dict:
    """Each gives the ids of every document, joined: (n_tokens,) of uint16."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.encode_special_tokens = True
    tiktoken_encoder, ids = tiktoken_encoding(tokenizer)
    eos = tokenizer.eos_token_id
    id_of_rank = np.zeros(tiktoken_encoder.n_vocab, np.uint16)
    for token, rank in tiktoken_encoder._mergeable_ranks.items():
        id_of_rank[rank] = ids[token]

    def tokenizers_ids() -> np.ndarray:
        found = encoder.encode_batch(texts, add_special_tokens=False)
        return np.concatenate([np.array([eos, *document.ids], np.uint16) for document in found])

    def tiktoken_ids() -> np.ndarray:
        found = tiktoken_encoder.encode_ordinary_batch(texts, num_threads=available_cores())
        return np.concatenate([part for document in found for part in ([eos], id_of_rank[document])])

    return {
        "lmlab": lambda: np.concatenate(list(tokenize(texts, tokenizer))),
        "tokenizers encode_batch": tokenizers_ids,
        "tiktoken": tiktoken_ids,
    }


def documents(text: str | None, characters: int) -> list[str]:
    """Paragraphs joined to documents of about 3,000 characters, as a web page has, repeated to size."""
    found, block = [], ""
    for paragraph in stream_texts(text) if text else stream_texts("miniworld/stories", limit=8_000):
        block += paragraph + "\n\n"
        if len(block) > 3_000:
            found.append(block)
            block = ""
    found = found or [block]
    return found * max(1, round(characters / sum(map(len, found))))


def run(
    text: str | None = None,
    tokenizer: str = "miniworld/gpt2",
    rounds: int = MINIMUM,
    characters: int = 8_000_000,
) -> dict:
    """{"conditions", "results": name -> tokens_per_second, identical}.

    text: a local file; None: generated stories.
    """
    loaded, texts = load_tokenizer(tokenizer), documents(text, characters)
    calls = contestants(loaded, texts)
    ids = {name: call() for name, call in calls.items()}  # the warm-up
    seconds = alternate(calls, rounds)
    n_tokens = len(ids["lmlab"])
    results = {
        name: {
            "tokens_per_second": n_tokens / statistics.median(seconds[name]),
            "documents_per_second": len(texts) / statistics.median(seconds[name]),
            "identical": bool(np.array_equal(ids[name], ids["tokenizers encode_batch"])),
            "seconds": seconds[name],
        }
        for name in calls
    }
    return {
        "conditions": conditions(
            documents=len(texts),
            characters=sum(map(len, texts)),
            tokens=n_tokens,
            tokenizer=tokenizer,
            text=Path(text).name if text else "miniworld/stories",
            rounds=rounds,
            warm_up="one turn each",
            order="in turn",
            statistic="median",
            tokenizers=version("tokenizers"),
            tiktoken=version("tiktoken"),
        ),
        "results": results,
    }


def table(measured: dict) -> str:
    lines = [f"{'':<26}{'documents/s':>12}{'tokens/s':>12}  identical ids"]
    for name, row in measured["results"].items():
        lines.append(
            f"{name:<26}{row['documents_per_second']:12,.0f}{row['tokens_per_second']:12,.0f}"
            f"  {row['identical']}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", help="a .txt, .jsonl or .parquet file")
    parser.add_argument("--tokenizer", default="miniworld/gpt2")
    parser.add_argument("--rounds", type=int, default=MINIMUM)
    parser.add_argument("--characters", type=int, default=8_000_000)
    measured = run(**vars(parser.parse_args()))
    print(measured["conditions"], table(measured), sep="\n")


if __name__ == "__main__":
    main()
