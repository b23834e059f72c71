"""Documents and tokens in a second: the processes of prepare_shards, tokenizers' encode_batch, and tiktoken.

The three must give identical ids. They take turns (A, B, C, A, B, C, ...) after one untimed round; of each
the median counts. Needs ``pip install tiktoken``. Run: python benchmarks/tokenisation.py [--text FILE]
"""

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version

import numpy as np

from lmlab.data import load_tokenizer, stream_texts
from lmlab.shards import _cores, _encoder, tokenise

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGITS_APART = r"\p{N}"  # what the Digits pre-tokeniser does before GPT-2's pattern


def tiktoken_encoding(tokenizer):
    """A tiktoken.Encoding with the ids of a GPT-2-like tokenizer, from its own vocabulary: no network."""
    import tiktoken
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    special = {token["content"] for token in parts["added_tokens"]}
    ids = {bytes(byte_of[c] for c in token): number for token, number in parts["model"]["vocab"].items()
           if token not in special}
    pattern = GPT2_PATTERN
    if "Digits" in json.dumps(parts["pre_tokenizer"]):  # a digit never takes the space before it
        pattern = pattern.replace(r" ?\p{N}+", DIGITS_APART)
        pattern = pattern.replace(r"\s+(?!\S)", r"\s+(?=\p{N})|\s+(?!\S)")
    return tiktoken.Encoding("lmlab", pat_str=pattern, mergeable_ranks=_ranks(parts, byte_of, ids),
                             special_tokens={}), ids


def _ranks(parts: dict, byte_of: dict, ids: dict[bytes, int]) -> dict[bytes, int]:
    """Bytes first, then merges in their order: tiktoken merges by rank, and ids need not be in that order."""
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in parts["model"]["merges"]]
    merged = [bytes(byte_of[c] for c in left + right) for left, right in pairs]
    singles = sorted((token for token in ids if len(token) == 1), key=ids.__getitem__)
    return {token: rank for rank, token in enumerate(dict.fromkeys([*singles, *merged]))}


def _contenders(tokenizer, texts: list[str]) -> dict:
    """Each returns the ids of every document, joined: (n_tokens,) of uint16."""
    encoder, (tiktoken_encoder, ids) = _encoder(tokenizer), tiktoken_encoding(tokenizer)
    eos = tokenizer.eos_token_id
    id_of_rank = np.zeros(tiktoken_encoder.n_vocab, np.uint16)
    for token, rank in tiktoken_encoder._mergeable_ranks.items():
        id_of_rank[rank] = ids[token]

    def joined(documents) -> np.ndarray:
        return np.concatenate([np.array([eos, *document], np.uint16) for document in documents])

    def tiktoken_ids() -> np.ndarray:
        found = tiktoken_encoder.encode_ordinary_batch(texts, num_threads=_cores())
        return np.concatenate([part for document in found for part in ([eos], id_of_rank[document])])

    return {
        "prepare_shards": lambda: np.concatenate([chunk.tokens for chunk in tokenise(texts, tokenizer)]),
        "encode_batch": lambda: joined(found.ids for found in encoder.encode_batch(
            texts, add_special_tokens=False)),
        "tiktoken": tiktoken_ids,
    }


def _documents(text: str | None, characters: int) -> list[str]:
    """Paragraphs joined to documents of about 3,000 characters, as a web page has, repeated to size."""
    documents, block = [], ""
    for paragraph in stream_texts(text) if text else stream_texts("miniworld/stories", limit=8_000):
        block += paragraph + "\n\n"
        if len(block) > 3_000:
            documents.append(block)
            block = ""
    documents = documents or [block]
    return documents * max(1, round(characters / sum(map(len, documents))))


def run(text: str | None = None, tokenizer: str = "miniworld/gpt2", rounds: int = 5,
        characters: int = 8_000_000) -> dict:
    """Results and conditions. text: a local file, None for miniworld stories. Rates are medians of rounds."""
    loaded = load_tokenizer(tokenizer)
    texts = _documents(text, characters)
    contenders, seconds = _contenders(loaded, texts), {}
    ids = {name: act() for name, act in contenders.items()}  # the warm-up round
    for _ in range(rounds):
        for name, act in contenders.items():
            began = time.perf_counter()
            act()
            seconds.setdefault(name, []).append(time.perf_counter() - began)
    n_tokens = len(ids["encode_batch"])
    rows = [{"name": name, "identical": bool(np.array_equal(ids[name], ids["encode_batch"])),
             "documents_per_second": len(texts) / statistics.median(times),
             "tokens_per_second": n_tokens / statistics.median(times), "seconds": times}
            for name, times in seconds.items()]
    conditions = {"documents": len(texts), "characters": sum(map(len, texts)), "tokens": n_tokens,
                  "tokenizer": tokenizer, "text": text or "miniworld/stories", "cores": _cores(),
                  "rounds": rounds, "warmup_rounds": 1, "order": "alternating", "statistic": "median",
                  "python": platform.python_version(), "tokenizers": version("tokenizers"),
                  "tiktoken": version("tiktoken"),
                  "note": "prepare_shards starts its processes anew in each round, within the time"}
    return {"results": rows, "conditions": conditions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", help="a .txt, .jsonl or .parquet file")
    parser.add_argument("--tokenizer", default="miniworld/gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--characters", type=int, default=8_000_000)
    found = run(**vars(parser.parse_args()))
    print("{documents:,} documents, {tokens:,} tokens, {cores} cores, median of {rounds}".format(
        **found["conditions"]))
    print(f"{'':16}{'documents/s':>14}{'tokens/s':>14}  identical ids")
    for row in found["results"]:
        print(f"{row['name']:16}{row['documents_per_second']:14,.0f}{row['tokens_per_second']:14,.0f}"
              f"  {'yes' if row['identical'] else 'NO'}")


if __name__ == "__main__":
    main()
