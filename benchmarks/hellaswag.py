"""How fast HellaSwag is scored: here, one ending at a time, and by lm-evaluation-harness.

python benchmarks/hellaswag.py [--model FOLDER] [--tokenizer FOLDER] [--items FILE.jsonl] [--n 200]

All score the same texts (those of the harness) with the same model in float32; whether they give the same
verdicts is said in the last column.
"""

import argparse
import contextlib
import io
import statistics
import time
import warnings

import numpy as np
from abab import alternate, conditions, ratio

from lmlab.data.sources import load_rows
from lmlab.evaluation.hellaswag import HellaSwagScores, score_hellaswag
from lmlab.models.sources import load_model, load_tokenizer

HARNESS_BATCHES = (1, 4, 16, 64)
ONE = "one ending at a time"


def run(
    model: str = "miniworld/gpt2",
    tokenizer: str | None = None,
    items: str = "miniworld/hellaswag",
    n: int = 200,
    rounds: int = 5,
    batch_tokens: int = 768,
    threads: int | None = None,
) -> dict:
    """{"conditions": ..., "results": name -> items_per_second and more}.

    model, tokenizer, items: a source of ``lmlab.data.sources``. The harness is timed at the best of
    HARNESS_BATCHES (sequences in a batch), found on a quarter of the items. Without lm-eval it is left
    out, and "harness" says so.
    """
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())
    loaded, words = load_model(model, dtype=torch.float32).eval(), load_tokenizer(tokenizer or model)
    split = "validation" if items.startswith("miniworld/") else "all"
    rows = load_rows(items, split, n).to_list()
    methods = {
        "lmlab": lambda: _ours(loaded, words, rows, batch_tokens, True),
        ONE: lambda: _ours(loaded, words, rows, 1, False),
    }
    best, why = _best_harness(loaded, words, rows)
    if best:
        methods["lm-evaluation-harness"] = lambda: _harness(loaded, words, rows, best)
    verdicts = {name: method() for name, method in methods.items()}  # the warm-up
    seconds = alternate(methods, rounds)
    return {
        "conditions": conditions(
            model=model,
            parameters=loaded.num_parameters(),
            items=items,
            n=len(rows),
            batch_tokens=batch_tokens,
            dtype="float32",
            warm_up="one turn each",
            rounds=rounds,
            order="in turn",
            statistic="median",
            harness=why,
        ),
        "results": {
            name: {
                "items_per_second": len(rows) / statistics.median(seconds[name]),
                "times_lmlab": ratio(seconds["lmlab"], seconds[name]),
                "largest_difference_nats": float(
                    np.abs(verdicts[name].logprobs - verdicts[ONE].logprobs).max()
                ),
                "same_verdicts": all(
                    np.array_equal(verdicts[name].chosen(c), verdicts[ONE].chosen(c)) for c in ("sum", "char")
                ),
                "seconds": seconds[name],
            }
            for name in methods
        },
    }


def _ours(model, tokenizer, rows, batch_tokens: int, share_context: bool) -> HellaSwagScores:
    with contextlib.redirect_stdout(io.StringIO()):  # that ctx had to be parted by guess
        return score_hellaswag(
            model, tokenizer, rows, batch_tokens, texts="harness", share_context=share_context
        )


def _harness(model, tokenizer, rows, batch_size: int) -> HellaSwagScores:
    """The harness' own tokenization and scoring of the same texts; reading the task file is not timed."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from lmlab.evaluation.hellaswag import harness_clean, harness_context

    endings = [[harness_clean(ending) for ending in row["endings"]] for row in rows]
    requests = [
        Instance("loglikelihood", row, (harness_context(row), " " + ending), j)
        for row, four in zip(rows, endings, strict=True)
        for j, ending in enumerate(four)
    ]
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        scored = harness.loglikelihood(requests, True)
    lengths = np.array([[len(ending) for ending in four] for four in endings])
    return HellaSwagScores(
        np.array([logprob for logprob, _ in scored]).reshape(-1, 4),
        lengths,
        lengths,
        lengths,
        np.array([int(row["label"]) for row in rows]),
    )


def _best_harness(model, tokenizer, rows) -> tuple[int | None, str]:
    try:
        from importlib.metadata import version

        name = f"lm-eval {version('lm_eval')}"
    except ImportError as error:
        return None, f"left out: {error}; pip install --no-deps -r requirements-dev.txt"
    some, seconds = rows[::4], {}
    _harness(model, tokenizer, some[:4], 1)
    for size in HARNESS_BATCHES * 2:
        began = time.perf_counter()
        _harness(model, tokenizer, some, size)
        seconds[size] = min(time.perf_counter() - began, seconds.get(size, float("inf")))
    best = min(seconds, key=seconds.get)
    return best, f"{name} at batch size {best}, the fastest of {', '.join(map(str, HARNESS_BATCHES))}"


def table(measured: dict) -> str:
    lines = [f"{'':<24}{'items/s':>9}{'x lmlab':>9}{'difference':>12}  same verdicts"]
    for name, row in measured["results"].items():
        lines.append(
            f"{name:<24}{row['items_per_second']:9.2f}{row['times_lmlab']:9.2f}"
            f"{row['largest_difference_nats']:12.1e}  {row['same_verdicts']}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="miniworld/gpt2")
    parser.add_argument("--tokenizer")
    parser.add_argument("--items", default="miniworld/hellaswag")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=768)
    parser.add_argument("--threads", type=int)
    measured = run(**vars(parser.parse_args()))
    print(measured["conditions"], table(measured), sep="\n")


if __name__ == "__main__":
    main()
