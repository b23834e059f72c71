"""Tokens in a second: lmlab's tokenise, tokenizers' encode_batch, and tiktoken.

The three must give identical ids. They take turns (A, B, C, A, B, C, ...) after one untimed round; of each
the median counts. Needs ``pip install tiktoken``. Run: python benchmarks/tokenisation.py [--text FILE]
"""

import argparse
import json
import os
import statistics
import time
from importlib.metadata import version

import numpy as np

from lmlab.data import load_tokenizer, stream_texts
from lmlab.shards import tokenise

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# what the miniworld's tokenizer does: a digit stands alone and never takes the space before it
DIGITS_PATTERN = GPT2_PATTERN.replace(r" ?\p{N}+", r"\p{N}").replace(r"\s+(?!\S)", r"\s+(?=\p{N})|\s+(?!\S)")


def tiktoken_encoding(tokenizer):
    """The same vocabulary as a tiktoken.Encoding, and the id of each of its ranks, (n_ranks,)."""
    import tiktoken
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    special = {token["content"] for token in parts["added_tokens"]}
    ids = {bytes(byte_of[c] for c in token): number for token, number in parts["model"]["vocab"].items()
           if token not in special}
    # tiktoken merges by rank: bytes first, then the merges in their order, which that of the ids need not be
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in parts["model"]["merges"]]
    tokens = dict.fromkeys([token for token in ids if len(token) == 1]
                           + [bytes(byte_of[c] for c in left + right) for left, right in pairs])
    pattern = DIGITS_PATTERN if "Digits" in json.dumps(parts["pre_tokenizer"]) else GPT2_PATTERN
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("lmlab", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return encoding, np.array([ids[token] for token in tokens], np.uint16)


def contenders(tokenizer, texts: list[str]) -> dict:
    """Each returns the ids of every document, joined: (n_tokens,) of uint16."""
    encoding, id_of_rank = tiktoken_encoding(tokenizer)
    backend, eos = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    return {
        "tokenise": lambda: np.concatenate(list(tokenise(texts, tokenizer))),
        "encode_batch": lambda: np.concatenate([np.array([eos, *document.ids], np.uint16) for document in
                                                backend.encode_batch(texts, add_special_tokens=False)]),
        "tiktoken": lambda: np.concatenate([
            part for document in encoding.encode_ordinary_batch(texts, num_threads=os.cpu_count())
            for part in ([eos], id_of_rank[document])]).astype(np.uint16),
    }


def documents(text: str, characters: int) -> list[str]:
    """Texts joined to documents of about 3,000 characters, as a web page has, repeated to size."""
    joined = "\n\n".join(stream_texts(text, limit=8_000))
    found = [joined[begin:begin + 3_000] for begin in range(0, len(joined), 3_000)]
    return found * max(1, round(characters / len(joined)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", default="miniworld/stories", help="what stream_texts takes")
    parser.add_argument("--tokenizer", default="miniworld/gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--characters", type=int, default=8_000_000)
    arguments = parser.parse_args()
    texts, seconds = documents(arguments.text, arguments.characters), {}
    ways = contenders(load_tokenizer(arguments.tokenizer), texts)
    ids = {name: act() for name, act in ways.items()}  # the untimed round
    for name in [*ways] * arguments.rounds:
        began = time.perf_counter()
        ways[name]()
        seconds.setdefault(name, []).append(time.perf_counter() - began)
    print(f"{len(texts):,} documents, {len(ids['tokenise']):,} tokens, {os.cpu_count()} cores, "
          f"tokenizers {version('tokenizers')}, tiktoken {version('tiktoken')}")
    for name, times in seconds.items():
        rates = sorted(len(ids["tokenise"]) / 1e6 / second for second in times)
        print(f"{name:14}{statistics.median(rates):6.2f}M tokens/s ({rates[0]:.2f} to {rates[-1]:.2f}), ids "
              f"{'identical' if np.array_equal(ids[name], ids['tokenise']) else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
