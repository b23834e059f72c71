"""Exercises of the lessons: ``check`` judges an answer, and opens a hint with each wrong try; all offline.

A lesson's ``lesson_XX.yaml`` holds the texts of its exercises, its ``lesson_XX.py`` their judges.
"""

import difflib
import re
from typing import Any

from lmlab.exercises import (
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_04,
    lesson_05,
    lesson_06,
    lesson_07,
    lesson_08,
    lesson_09,
)  # each registers its own
from lmlab.exercises.judging import EXERCISES, Mistake, NotYet, Verdict, Wrong, is_stub, show

_opened: dict[str, int] = {}  # exercise -> how many of its hints the reader has seen


def check(name: Any, answer: Any = ...) -> Verdict:
    """Judges the answer to an exercise, named as in the notebook ("05.2").

    Whatever it is given, it answers.
    """
    known = _find(name)
    if known is None:
        return _unknown(name)
    found = EXERCISES[known]
    try:
        if is_stub(answer):
            raise NotYet
        found.judge(answer)
        return Verdict(known, "right", found.correct)
    except NotYet:  # no try: it opens no hint
        write = f"Write your answer to “{found.title}”" + " and `return` it" * callable(answer)
        message = f'{write}, then run the cell again. `lmlab.hint("{known}")` opens a hint.'
        return Verdict(known, "not yet", message, _open_hints(known))
    except Mistake as mistake:
        message = found.mistakes[mistake.key].format(**mistake.values)
    except Wrong as wrong:
        message = str(wrong)
    except Exception as error:  # an object that no judge has thought of
        cause = f"{type(error).__name__}: {error}"
        message = f"This answer could not be read ({cause}). Look at what is asked for."
    _opened[known] = _opened.get(known, 0) + 1
    return Verdict(known, "wrong", message, _open_hints(known))


def hint(name: Any) -> Verdict:
    """Opens one more hint to an exercise."""
    known = _find(name)
    if known is None:
        return _unknown(name)
    found = EXERCISES[known]
    message = f"“{found.title}”."
    if _opened.get(known, 0) >= len(found.hints):
        message += " There are no more hints; the solutions show one way."
    else:
        _opened[known] = _opened.get(known, 0) + 1
    return Verdict(known, "not yet", message, _open_hints(known))


def _open_hints(name: str) -> tuple[str, ...]:
    return EXERCISES[name].hints[: _opened.get(name, 0)]


def _find(name: Any) -> str | None:
    """The name as it is registered; "5.2" and 5.2 are taken for "05.2"."""
    parts = re.fullmatch(r"\s*0?(\d)\D(\d)\s*", name if isinstance(name, str) else show(name))
    full = f"0{parts[1]}.{parts[2]}" if parts else None
    return full if full in EXERCISES else None


def _unknown(name: Any) -> Verdict:
    text = name if isinstance(name, str) else show(name)
    of_lesson = [each for each in EXERCISES if each.startswith(text.strip().zfill(2))]
    near = (of_lesson or difflib.get_close_matches(text, EXERCISES, n=1, cutoff=0))[0]
    message = f"There is no such exercise; the nearest is {near}, “{EXERCISES[near].title}”."
    return Verdict(text, "unknown", message)
