"""How fast HellaSwag is scored: here, one ending at a time, and by lm-evaluation-harness.

python benchmarks/hellaswag.py [--model FOLDER] [--tokenizer FOLDER] [--items FILE.jsonl] [--n 200]

All score the same texts (those of the harness) with the same model in float32; whether they give the same
verdicts is said in the last column.
"""

import argparse
import contextlib
import io
import platform
import statistics
import time
import warnings

import numpy as np

from lmlab.data import load_model, load_rows, load_tokenizer
from lmlab.evaluate import HellaSwagScores, score_hellaswag

HARNESS_BATCHES = (1, 4, 16, 64)


def run(model: str = "miniworld/gpt2", tokenizer: str | None = None, items: str = "miniworld/hellaswag",
        n: int = 200, repeats: int = 5, batch_tokens: int = 384, threads: int | None = None,
        harness_batches: tuple[int, ...] = HARNESS_BATCHES) -> dict:
    """{"conditions": ..., "results": name -> items_per_second, seconds, cpu_seconds and more}.

    model, tokenizer, items: a source of ``lmlab.data``. The harness is timed at the best of harness_batches
    (sequences in a batch), found on a quarter of the items. Each method warms up once, then all run in turn
    ``repeats`` times; what is given is the median. cpu_seconds add up over threads, and hold where other
    programs share the machine. Without lm-eval the harness is left out, and "harness" says so.
    """
    import torch

    if repeats < 5:
        raise ValueError(f"repeats got {repeats}; give at least 5, of fewer the median says little")
    torch.set_num_threads(threads or torch.get_num_threads())
    loaded, words = load_model(model, dtype=torch.float32).eval(), load_tokenizer(tokenizer or model)
    split = "validation" if items.startswith("miniworld/") else "all"
    rows = load_rows(items, split, n).to_list()
    methods = {
        "lmlab": lambda rows: _ours(loaded, words, rows, batch_tokens, None),
        "one ending at a time": lambda rows: _ours(loaded, words, rows, 1, False)}
    best, why = _best_harness(loaded, words, rows, harness_batches)
    if best:
        methods["lm-evaluation-harness"] = lambda rows: _harness(loaded, words, rows, best)
    verdicts = {name: method(rows) for name, method in methods.items()}  # the warm-up
    times = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            times[name].append(_timed(method, rows))
    return {"conditions": {
        "model": model, "parameters": loaded.num_parameters(), "items": items, "n": len(rows),
        "batch_tokens": batch_tokens, "threads": torch.get_num_threads(), "dtype": "float32", "device": "cpu",
        "torch": torch.__version__, "machine": platform.processor() or platform.machine(), "warm_up": 1,
        "repeats": repeats, "order": "in turn", "statistic": "median", "harness": why},
        "results": {name: _summary(times, verdicts, name) for name in methods}}


def _summary(times: dict, verdicts: dict, name: str) -> dict:
    wall, cpu = (statistics.median(part) for part in zip(*times[name], strict=True))
    reference = verdicts["one ending at a time"]
    speed_ups = {f"{kind}_times_{other.replace(' ', '_')}": statistics.median(
        theirs[i] / ours[i] for ours, theirs in zip(times[name], times[other], strict=True))
        for other in times if other != name for i, kind in enumerate(("wall", "cpu"))}
    return {"items_per_second": len(reference.labels) / wall, "seconds": wall, "cpu_seconds": cpu,
            "all_seconds": [part for part, _ in times[name]], **speed_ups,
            "largest_difference_nats": float(np.abs(verdicts[name].logprobs - reference.logprobs).max()),
            "same_verdicts": all(np.array_equal(verdicts[name].chosen(c), reference.chosen(c))
                                 for c in ("sum", "char"))}


def _timed(method, rows) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    method(rows)
    return time.perf_counter() - wall, time.process_time() - cpu


def _ours(model, tokenizer, rows, batch_tokens: int, share_context: bool | None) -> HellaSwagScores:
    with contextlib.redirect_stdout(io.StringIO()):  # that ctx had to be parted by guess
        return score_hellaswag(model, tokenizer, rows, batch_tokens, texts="harness",
                               share_context=share_context)


def _harness(model, tokenizer, rows, batch_size: int) -> HellaSwagScores:
    """The harness' own tokenisation and scoring of the same texts; reading the task file is not timed."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from lmlab.evaluate import harness_clean, harness_context

    endings = [[harness_clean(ending) for ending in row["endings"]] for row in rows]
    requests = [Instance("loglikelihood", row, (harness_context(row), " " + ending), j)
                for row, four in zip(rows, endings, strict=True) for j, ending in enumerate(four)]
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        scored = harness.loglikelihood(requests, True)
    lengths = np.array([[len(ending) for ending in four] for four in endings])
    return HellaSwagScores(np.array([logprob for logprob, _ in scored]).reshape(-1, 4), lengths, lengths,
                           lengths, np.array([int(row["label"]) for row in rows]))


def _best_harness(model, tokenizer, rows, batches) -> tuple[int | None, str]:
    try:
        from importlib.metadata import version
        name = f"lm-eval {version('lm_eval')}"
    except ImportError as error:
        return None, f"left out: {error}; pip install --no-deps -r requirements-dev.txt"
    some = rows[::4]
    _harness(model, tokenizer, some[:4], 1)
    seconds = {size: min(_timed(lambda rows, size=size: _harness(model, tokenizer, rows, size), some)[0]
                         for _ in range(2)) for size in batches}
    best = min(seconds, key=seconds.get)
    return best, f"{name} at batch size {best}, the fastest of {', '.join(map(str, batches))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="miniworld/gpt2")
    parser.add_argument("--tokenizer")
    parser.add_argument("--items", default="miniworld/hellaswag")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=384)
    parser.add_argument("--threads", type=int)
    measured = run(**vars(parser.parse_args()))
    for key, value in measured["conditions"].items():
        print(f"{key:<14} {value}")
    print(f"\n{'':<24}{'items/s':>9}{'seconds':>9}{'CPU s':>8}{'x ours':>8}{'CPU x':>8}  same verdicts")
    for name, row in measured["results"].items():
        ours = "lmlab"
        back = [1 / row[f"{kind}_times_{ours}"] if name != ours else 1 for kind in ("wall", "cpu")]
        print(f"{name:<24}{row['items_per_second']:9.2f}{row['seconds']:9.2f}{row['cpu_seconds']:8.2f}"
              f"{back[0]:8.2f}{back[1]:8.2f}  {row['same_verdicts']}")


if __name__ == "__main__":
    main()
