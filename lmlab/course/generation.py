"""What ``lmlab generate-data`` does: the cost first, then the texts, then what they did cost."""

import sys
from pathlib import Path

from lmlab.course.generate_data import Endpoint, check_counts, estimate, find_key, generate
from lmlab.course.resumable_file import read_rows

Prices = tuple[float, float]  # of a million tokens in and out


def run_generation(
    base_url: str,
    model: str,
    output: Path,
    n: int,
    *,
    temperature: float,
    max_tokens: int,
    seed: int,
    concurrency: int,
    prices: Prices | None,
    agreed: bool,
) -> None:
    """Fills a file up to ``n`` descriptions, after the reader has agreed to the cost.

    Raises ValueError for a request that cannot be met, and where nobody can agree.
    """
    check_counts(n, concurrency)
    variable, key = find_key()
    endpoint = Endpoint(base_url, model, key, temperature, max_tokens)
    there = len(read_rows(output)[0])
    if there >= n:
        print(f"{output} holds {there:,} descriptions already; nothing to do")
        return
    print(describe_plan(endpoint, variable, n - there, there, seed, prices), flush=True)
    if not agreed and not confirm():
        print("nothing was asked")
        return
    try:
        tally = generate(endpoint, output, n, seed=seed, concurrency=concurrency)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {output} keeps its rows, the same command resumes") from None
    print(
        f"{output}: {tally}; {tally.asked:,} answers, {tally.tokens_in:,} tokens in, "
        f"{tally.tokens_out:,} out, as the endpoint counts them"
        f"{cost(tally.tokens_in, tally.tokens_out, prices)}"
    )


def check_prices(price_input: float | None, price_output: float | None) -> Prices | None:
    """Both prices or none. Raises ValueError for one alone, or one that is no price."""
    if price_input is None and price_output is None:
        return None
    if None in (price_input, price_output) or not (0 <= price_input < 1e9 and 0 <= price_output < 1e9):
        raise ValueError(
            f"got --price-input {price_input}, --price-output {price_output}; give both as "
            "numbers from 0, per million tokens, or none"
        )
    return price_input, price_output


def describe_plan(
    endpoint: Endpoint, variable: str, n: int, there: int, seed: int, prices: Prices | None
) -> str:
    """What will be asked of whom, with which key, and what it may cost."""
    plan = estimate(n, endpoint.max_tokens, seed)
    key = f"with the key in {variable}" if variable else "without a key"
    text = (
        f"{n:,} requests to {endpoint.host} for {endpoint.model}, {key}; {there:,} rows are there\n"
        f"about {plan.tokens_in:,} tokens in, at most {plan.tokens_out:,} out"
        f"{cost(plan.tokens_in, plan.tokens_out, prices)}, if no answer has to be left out"
    )
    if endpoint.in_the_clear:
        text += "\nthe key will travel unencrypted: the URL begins with http://"
    return text


def cost(tokens_in: int, tokens_out: int, prices: Prices | None) -> str:
    """What tokens cost at the given prices; nothing where none were given."""
    if prices is None:
        return ""
    total = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
    return f": {total:,.2f} in the prices' currency"


def confirm() -> bool:
    """Whether the reader agrees. Raises ValueError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ValueError("nobody is at the terminal to agree to the cost; give --yes")
    return input("begin? [y/N] ").strip().lower() in ("y", "yes")
