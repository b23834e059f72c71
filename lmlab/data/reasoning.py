"""Problems in reasoning format: conversion from their publishers' layouts, every row checked; difficulty."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from lmlab.data.answers import answers_match, arithmetic, extract_answer
from lmlab.data.numbers import parse_gold, read_answer
from lmlab.data.rows import UnusableRow, block_text, is_missing, problem_row
from lmlab.data.usable import MAX_INVALID_FRACTION, usable_rows

CALCULATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")  # GSM8K's notes for a calculator: <<48/2=24>>
_TAG = re.compile(r"</?think>|<[｜|][^>]*[｜|]>")  # of the chat template; in a text they would end it
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}")  # but no LaTeX command
_ROUNDING = Fraction(1, 100)  # GSM8K writes cents

# --- conversion --------------------------------------------------------------------------------------


def to_reasoning_format(row: Mapping) -> dict:
    """A problem as a conversation whose answer is reasoned out first, in DeepSeek-R1's format.

    Args:
        row: MathCodeInstruct (messages), SciBench (problem_text, answer_number, unit, maybe solution), GSM8K
            (question, answer) or a miniworld problem in one of these schemas.

    Returns:
        {"prompt": [..., user], "completion": [assistant], "answer", "unit"}. The assistant says
        "<think>\\n...\\n</think>\\n\\nThe answer is 12."; an answer that is no number is in \\boxed{}. Of
        several turns the last is the completion. completion is None without a worked solution (most of
        SciBench): such a row can only be evaluated on. answer is None where no final answer can be found.
        unit: in which SciBench asks for the answer.

    Raises:
        UnusableRow: A ValueError: the row has another schema, or fields that are empty or of the wrong type.
    """
    row = problem_row(row)
    if "messages" in row:
        prompt, reasoning, answer = _math_code_instruct(row["messages"])
    else:
        question, reasoning, answer = _scibench(row) if "problem_text" in row else _gsm8k(row)
        prompt = [{"role": "user", "content": question}]
    completion = None
    if reasoning and answer:
        shown = answer if read_answer(answer).value is not None else f"$\\boxed{{{answer}}}$"
        text = f"<think>\n{reasoning}\n</think>\n\nThe answer is {shown}."
        completion = [{"role": "assistant", "content": text}]
    return {"prompt": prompt, "completion": completion, "answer": answer, "unit": row.get("unit", "")}


def _gsm8k(row: Mapping) -> tuple[str, str, str | None]:
    reasoning, _, answer = row["answer"].partition("####")
    return row["question"], re.sub(r"<<.*?>>", "", reasoning).strip(), parse_gold(answer)


def _scibench(row: Mapping) -> tuple[str, str, str | None]:
    question, unit = row["problem_text"], row["unit"]
    if unit and unit not in question:
        question += f" Give the answer in {unit}."
    return question, row["solution"], parse_gold(row["answer_number"])


def _math_code_instruct(messages: list[dict]) -> tuple[list[dict], str, str | None]:
    """(prompt, reasoning, answer): the last block is the answer, those before it are the reasoning.

    Code and what it printed are kept, fenced, as part of the reasoning.
    """
    *before, last = messages
    prompt = []
    for turn in before:
        blocks = [block_text(block) for block in turn["content"]]
        prompt.append({"role": turn["role"], "content": "\n".join(blocks).strip()})
    blocks = [block_text(block) for block in last["content"]]
    boxed, stated = _last_answers(last["content"])
    return prompt, "\n".join(blocks[:-1] or blocks).strip(), boxed or stated


def _last_answers(blocks: Sequence[Mapping]) -> tuple[str | None, str | None]:
    """(the answer in the last \\boxed{}, that of the last text); None where there is none.

    Most rows have both: a text with "\\boxed{-8, 1}", and then one with nothing but "-8,1". Such a bare one
    is the answer as a whole; of a sentence it is what ``extract_answer`` finds, unless there is a box.
    """
    texts = [block["content"] for block in blocks if block["type"] == "text" and block["content"].strip()]
    boxed_texts = [text for text in texts if "\\boxed" in text]
    boxed = extract_answer(boxed_texts[-1]) if boxed_texts else None
    last = texts[-1] if texts else ""
    if "\\boxed" not in last and len(_WORD.findall(last)) < 2:
        return boxed, extract_answer(f"\\boxed{{{last}}}")
    return boxed, boxed or extract_answer(last)


# --- checks ------------------------------------------------------------------------------------------


def reasoning_rows(
    rows: Iterable[Mapping],
    source: str,
    max_invalid_fraction: float = MAX_INVALID_FRACTION,
    tolerance: float = 0.0,
) -> list[dict]:
    """The problems of a source in reasoning format, each checked; rows that fail are left out and reported.

    Args:
        rows: As published.
        source: What messages call them.
        max_invalid_fraction: Of the rows, that may fail.
        tolerance: Relative, of SciBench's answers, which are rounded measurements; all others are exact.

    Returns:
        What ``to_reasoning_format`` gives, with "tolerance", "steps" (``difficulty``) and "row", the
        published one with its fields as text (``rows.problem_row``).

    Raises:
        ValueError: More than ``max_invalid_fraction`` of the rows fail, or their schema is unknown.
    """

    def checked(published: Mapping) -> dict:
        row = problem_row(published)
        problem = to_reasoning_format(row)
        _check(row, problem)
        problem["tolerance"] = tolerance if "problem_text" in row else 0.0
        return problem | {"steps": difficulty(problem), "row": row}

    return usable_rows(rows, checked, source, max_invalid_fraction)


def _check(row: Mapping, problem: Mapping) -> None:
    """Raises UnusableRow for a row that would teach something wrong."""
    answer = problem["answer"]
    if is_missing(answer):
        raise UnusableRow("no final answer")
    if problem["completion"] is None:
        if "problem_text" in row:
            return  # SciBench without a solution serves to evaluate
        raise UnusableRow("no solution")
    completion = problem["completion"][0]["content"]
    reasoning = completion.removeprefix("<think>\n").partition("\n</think>")[0]
    if any(_TAG.search(text) for text in (reasoning, *(turn["content"] for turn in problem["prompt"]))):
        raise UnusableRow("a tag of the chat template in the text")
    if not answers_match(extract_answer(completion), answer):
        raise UnusableRow("the answer is not read back")
    if "messages" in row:
        _check_code(row["messages"][-1]["content"])
    # GSM8K's calculations; the other layouts have none
    for calculation, value in CALCULATION.findall(row.get("answer", "") if "question" in row else ""):
        result, stated = arithmetic(calculation), read_answer(value).value
        if result is None or stated is None or abs(result - stated) > _ROUNDING:
            raise UnusableRow(f"a calculation that is wrong: {calculation}")


def _check_code(blocks: Sequence[Mapping]) -> None:
    printed = [block["content"] for block in blocks if block["type"] == "execution"]
    if printed and re.search(r"Traceback|\b\w+Error:", printed[-1]):
        raise UnusableRow("its code failed")
    boxed, last = _last_answers(blocks)
    if boxed and last and not answers_match(last, boxed):
        raise UnusableRow("two answers")


# --- difficulty --------------------------------------------------------------------------------------


def difficulty(problem: Mapping) -> int | None:
    """How hard a problem is: the equals signs of its solution, each of which is a step; at least 1.

    Calculations in a text and assignments in code count alike. None for a problem without a solution.
    """
    if problem["completion"] is None:
        return None
    return max(1, len(re.findall(r"(?<![=<>!])=(?!=)", problem["completion"][0]["content"])))


def question_of(problem: Mapping) -> str:
    """What the user asks, over all turns."""
    return "\n".join(turn["content"] for turn in problem["prompt"] if turn["role"] == "user")


def curriculum_order(problems: Iterable[dict]) -> list[dict]:
    """From easy to hard: by the steps of the solution, then by its length. Source: Bengio et al. 2009."""
    return sorted(problems, key=lambda row: (row["steps"], len(row["completion"][0]["content"])))
