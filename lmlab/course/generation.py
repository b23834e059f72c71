"""What ``lmlab generate-data`` does: the cost first, then the texts, then what they did cost."""

import sys
from pathlib import Path

from lmlab.course.generate_data import Endpoint, find_key, generate, prompt_messages
from lmlab.course.resumable_file import read_rows

CHARACTERS_PER_TOKEN = 4  # of English text, roughly


def run_generation(endpoint: Endpoint, output: Path, n: int, *, concurrency: int, agreed: bool) -> None:
    """Fills a file up to ``n`` descriptions, after the reader has agreed to the cost.

    Args:
        endpoint: Who is asked.
        output: A .jsonl file; rows that are there count.
        n: Rows in the file at the end.
        concurrency: Requests at the same time.
        agreed: Begin without asking back.

    Raises:
        ValueError: Nobody is at the terminal to agree; or as ``generate``.
    """
    # Only looked at: nothing is written before the reader has agreed.
    there = len(read_rows(output)[0])
    if there >= n:
        print(f"{output} holds {there:,} descriptions already; nothing to do")
        return
    print(describe_plan(endpoint, n - there, there), flush=True)
    if not agreed and not confirm():
        print("nothing was asked")
        return
    try:
        tally = generate(endpoint, output, n, concurrency=concurrency)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {output} keeps its rows, the same command resumes") from None
    print(
        f"{output}: {tally}; {tally.asked:,} answers, {tally.tokens_in:,} tokens in, "
        f"{tally.tokens_out:,} out, as the endpoint counts them"
    )


def describe_plan(endpoint: Endpoint, n: int, there: int) -> str:
    """What will be asked of whom, with or without a key, and how many tokens it may take."""
    # All prompts are about as long as the first.
    characters = sum(len(message["content"]) for message in prompt_messages(0))
    tokens_in = n * round(characters / CHARACTERS_PER_TOKEN)
    # Which variable it is from: OPENAI_API_KEY may be meant for another host.
    variable, _ = find_key()
    key = f"with the key in {variable}" if variable else "without a key"
    text = (
        f"{n:,} requests to {endpoint.host} for {endpoint.model}, {key}; {there:,} rows are there\n"
        f"about {tokens_in:,} tokens in, at most {n * endpoint.max_tokens:,} out, "
        "if no answer has to be left out"
    )
    if endpoint.in_the_clear:
        text += "\nthe key will travel unencrypted: the URL begins with http://"
    return text


def confirm() -> bool:
    """Whether the reader agrees. Raises ValueError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ValueError("nobody is at the terminal to agree to the cost; give --yes")
    return input("begin? [y/N] ").strip().lower() in ("y", "yes")
