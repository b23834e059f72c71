"""Problems in think form: conversion from their publishers' layouts, every row checked; division; order."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from lmlab.data.answers import answers_match, arithmetic, extract_answer
from lmlab.data.dedup import near_duplicates, normalize_text
from lmlab.data.numbers import parse_gold, read_answer, unread_parts
from lmlab.data.rows import UnusableRow, block_text, is_missing, problem_row
from lmlab.data.splits import VALIDATION_FRACTION, split_indices
from lmlab.data.usable import MAX_INVALID_FRACTION, BadRow, leave_out

# --- conversion --------------------------------------------------------------------------------------

CALCULATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")  # GSM8K's notes for a calculator: <<48/2=24>>
_MARKS = re.compile(r"</?think>|<[｜|][^>]*[｜|]>")  # of the chat template; in a text they would end it
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}")  # but commands of LaTeX
_ROUNDING = Fraction(1, 100)  # GSM8K writes cents


def to_reasoning_format(row: Mapping) -> dict:
    """A problem as a conversation whose answer is thought out first, in DeepSeek-R1's form.

    row: MathCodeInstruct (messages), SciBench (problem_text, answer_number, unit, maybe solution), GSM8K
    (question, answer) or a miniworld problem in one of these schemas.
    Returns {"prompt": [..., user], "completion": [assistant], "answer", "unit"}, where the assistant says
    "<think>\\n...\\n</think>\\n\\nThe answer is 12." An answer that is no number stands in \\boxed{}. A row without a
    worked solution (most of SciBench) has completion None: it serves to measure, not to train. Where no final answer
    can be found, answer and completion are None. unit: in which the answer is asked for, SciBench alone. Of a
    conversation of several turns the last is the completion, all before it the prompt, a system turn too.
    Raises UnusableRow, a ValueError, for a row of another schema, and for one with fields that are empty or of the
    wrong kind.
    """
    row, unit = problem_row(row), ""
    if "messages" in row:
        prompt, reasoning, answer = _math_code_instruct(row["messages"])
    elif "problem_text" in row:
        question, reasoning, answer, unit = _scibench(row)
    else:
        question, reasoning, answer = _gsm8k(row)
    if "messages" not in row:
        prompt = [{"role": "user", "content": question}]
    said = answer if answer is None or read_answer(answer).value is not None else f"$\\boxed{{{answer}}}$"
    spoken = f"<think>\n{reasoning}\n</think>\n\nThe answer is {said}."
    completion = [{"role": "assistant", "content": spoken}] if reasoning and answer else None
    return {"prompt": prompt, "completion": completion, "answer": answer, "unit": unit}


def _gsm8k(row: Mapping) -> tuple[str, str, str | None]:
    reasoning, _, answer = row["answer"].partition("####")
    return row["question"].strip(), re.sub(r"<<.*?>>", "", reasoning).strip(), _gold(answer)


def _scibench(row: Mapping) -> tuple[str, str, str, str]:
    question, unit = row["problem_text"].strip(), (row.get("unit") or "").strip()
    if unit and unit not in question:
        question += f" Give the answer in {unit}."
    return question, (row.get("solution") or "").strip(), _gold(row["answer_number"]), unit


def _gold(text: str | float | None) -> str | None:
    """A gold answer, read as a whole (``numbers.parse_gold``) and as one writes it; None where it is none."""
    gold = parse_gold(text)
    return None if gold is None else gold.written


def _math_code_instruct(messages: list[dict]) -> tuple[list[dict], str, str | None]:
    """(prompt, reasoning, answer). What was said last is the answer, what stands before it the reasoning.

    Code and what it printed are kept, fenced, as part of the thought.
    """
    *before, last = messages
    prompt = [
        {"role": turn["role"], "content": "\n".join(map(block_text, turn["content"])).strip()}
        for turn in before
    ]
    parts = list(map(block_text, last["content"]))
    boxed, said = _last_answers(last["content"])
    return prompt, "\n".join(parts[:-1] or parts).strip(), boxed or said


def _last_answers(parts: Sequence[Mapping]) -> tuple[str | None, str | None]:
    """(the answer in the last \\boxed{}, that of the last text); None where there is none.

    Most rows have both: a text with "\\boxed{-8, 1}", and then one with nothing but "-8,1". Such a bare one
    is the answer as a whole; of a sentence it is what ``extract_answer`` finds, unless there is a box.
    """
    texts = [part["content"] for part in parts if part["type"] == "text" and part["content"].strip()]
    boxed = next((extract_answer(text) for text in reversed(texts) if "\\boxed" in text), None)
    last = texts[-1] if texts else ""
    if "\\boxed" not in last and len(_WORD.findall(last)) < 2:
        return boxed, extract_answer(f"\\boxed{{{last}}}")
    return boxed, boxed or extract_answer(last)


def reasoning_rows(
    rows: Iterable[Mapping],
    source: str,
    max_invalid_fraction: float = MAX_INVALID_FRACTION,
    tolerance: float = 0.0,
) -> list[dict]:
    """The problems of a source in think form (``to_reasoning_format``), each checked, with "tolerance", "steps", "row".

    A row that fails (``why_bad``) is left out, and it is said how many and which. tolerance: of SciBench's
    answers, which are rounded measurements; all others must be right exactly. steps: see ``difficulty``. row: as
    published, its fields as text (``rows.problem_row``).
    Raises ValueError when more than ``max_invalid_fraction`` of the rows fail, or the schema is unknown.
    """
    good, bad, n_rows = [], [], 0
    for i, published in enumerate(rows):
        n_rows += 1
        try:
            row = problem_row(published)
            problem = to_reasoning_format(row)
        except UnusableRow as error:
            bad.append(BadRow(i, str(error), repr(published)))
            continue
        if why := why_bad(row, problem):
            bad.append(BadRow(i, why, repr(question_of(problem))))
        else:
            share = tolerance if "problem_text" in row else 0.0
            good.append(problem | {"tolerance": share, "steps": difficulty(problem), "row": row})
    leave_out(bad, n_rows, source, max_invalid_fraction)
    return good


def why_bad(row: Mapping, problem: Mapping) -> str:
    """Why a row cannot be used; empty if it can. row: of ``problem_row``; problem: what ``to_reasoning_format`` made of it."""
    asked, answer = "\n".join(turn["content"] for turn in problem["prompt"]), problem["answer"]
    if is_missing(answer):
        return "no final answer"
    if problem["completion"] is None:
        return "" if "problem_text" in row else "no solution"  # SciBench without one serves to measure
    spoken = problem["completion"][0]["content"]
    reasoning = spoken.removeprefix("<think>\n").partition("\n</think>")[0]
    if _MARKS.search(asked + reasoning):
        return "a mark of the chat template in the text"
    if not answers_match(extract_answer(spoken), answer):
        return "the answer is not read back"
    published = _published_answer(row)
    if published is not None and unread_parts(published, answer):
        return "the answer is not read whole"
    return _why_wrong(row)


def _published_answer(row: Mapping) -> str | None:
    """The text of the answer, where it stands apart."""
    if "messages" in row:
        return None
    return str(row["answer_number"]) if "problem_text" in row else row["answer"].partition("####")[2]


def _why_wrong(row: Mapping) -> str:
    """Why a solution cannot be believed, as far as its layout lets one see."""
    if "messages" in row:
        parts = row["messages"][-1]["content"]
        printed = [part["content"] for part in parts if part["type"] == "execution"]
        if printed and re.search(r"Traceback|\b\w+Error:", printed[-1]):
            return "its code failed"
        boxed, last = _last_answers(parts)
        return "two answers" if boxed and last and not answers_match(last, boxed) else ""
    if "question" in row:
        wrong = [note for note, value in CALCULATION.findall(row["answer"]) if not _is_true(note, value)]
        return f"a calculation that is wrong: {wrong[0]}" if wrong else ""
    return ""


def _is_true(calculation: str, value: str) -> bool:
    result, said = arithmetic(calculation), read_answer(value).value
    return result is not None and said is not None and abs(result - said) <= _ROUNDING


def difficulty(problem: Mapping) -> int | None:
    """How hard a problem is: the equals signs of its solution, each of which is a step; at least 1.

    It counts sums in a text and assignments in code alike. None for a problem without a solution.
    """
    if problem["completion"] is None:
        return None
    return max(1, len(re.findall(r"(?<![=<>!])=(?!=)", problem["completion"][0]["content"])))


_LEVELS = (1, 2, 3, 4, 5, 7, 10, 20)  # where a range of steps begins


def level(steps: int) -> tuple[int, int | None]:
    """The range of steps, (first, last), in which a problem is reported: (2, 2), (5, 6), (20, None)."""
    i = max(i for i, low in enumerate(_LEVELS) if low <= steps)
    return _LEVELS[i], _LEVELS[i + 1] - 1 if i + 1 < len(_LEVELS) else None


def level_name(steps: tuple[int, int | None]) -> str:
    low, high = steps
    return f"{low} or more" if high is None else f"{low}" if low == high else f"{low} to {high}"


# --- division and order ------------------------------------------------------------------------------


def question_of(problem: Mapping) -> str:
    """What the user asks, over all turns."""
    return "\n".join(turn["content"] for turn in problem["prompt"] if turn["role"] == "user")


def problem_groups(questions: Sequence[str], near: float | None = None) -> list[int]:
    """The group of each question: those that are the same to a reader, or nearly, are in one.

    near: the similarity (Jaccard, of runs of five characters) from which two questions are one problem; chains
    of such pairs are one group. None: only the same texts are.
    """
    first: dict[str, int] = {}
    leader = [first.setdefault(normalize_text(question), i) for i, question in enumerate(questions)]

    def top(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    for pair in near_duplicates(questions, near) if near is not None else []:
        a, b = sorted((top(pair.first), top(pair.second)))
        leader[b] = a
    return [top(i) for i in range(len(questions))]


def split_by_problem(
    problems: Sequence[dict], share: float = VALIDATION_FRACTION, seed: int = 0, near: float | None = None
) -> tuple[list[dict], list[dict]]:
    """(train, held out): no problem has a version on both sides (see ``problem_groups``).

    share: of the groups that are held out. Both keep the order of a shuffle by ``seed``.
    """
    groups = problem_groups([question_of(problem) for problem in problems], near)
    order = sorted(set(groups))
    held_out = {order[i] for i in split_indices(len(order), "validation", seed, share)}
    shuffled = [
        *split_indices(len(problems), "train", seed),
        *split_indices(len(problems), "validation", seed),
    ]
    sides: tuple[list[dict], list[dict]] = ([], [])
    for i in shuffled:
        sides[groups[i] in held_out].append(problems[i])
    return sides


def easy_first(problems: Iterable[dict]) -> list[dict]:
    """From easy to hard: by the steps of the solution, then by its length. Source: Bengio et al. 2009."""
    return sorted(problems, key=lambda row: (row["steps"], len(row["completion"][0]["content"])))
