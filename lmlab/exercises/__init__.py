"""Exercises of the lessons: ``check`` judges an answer, and opens a hint with each wrong try; all offline."""

import difflib
import re

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
from lmlab.exercises.judging import EXERCISES, NotYet, Verdict, Wrong, is_stub, show

_opened: dict[str, int] = {}  # how many hints of an exercise the reader has seen


def check(name, answer=...) -> Verdict:
    """Judges the answer to an exercise, named as in the notebook ("05.2"). Whatever it is given, it answers."""
    if (known := _find(name)) is None:
        return _unknown(name)
    found = EXERCISES[known]
    try:
        if is_stub(answer):
            raise NotYet
        return Verdict(known, "right", found.judge(answer))
    except NotYet:  # no try: it opens no hint
        write = f"Write your answer to “{found.title}”" + callable(answer) * " and `return` it"
        return Verdict(
            known,
            "not yet",
            f'{write}, then run the cell again. `lmlab.hint("{known}")` opens a hint.',
            _open(known),
        )
    except Wrong as wrong:
        message = str(wrong)
    except Exception as error:  # an object that no judge has thought of
        message = (
            f"This answer could not be read ({type(error).__name__}: {error}). Look at what is asked for."
        )
    _opened[known] = _opened.get(known, 0) + 1
    return Verdict(known, "wrong", message, _open(known))


def hint(name) -> Verdict:
    """One more hint to an exercise."""
    if (known := _find(name)) is None:
        return _unknown(name)
    n = len(EXERCISES[known].hints)
    last = _opened.get(known, 0) >= n
    _opened[known] = min(_opened.get(known, 0) + 1, n)
    message = f"“{EXERCISES[known].title}”." + last * " There are no more hints; the solutions have one way."
    return Verdict(known, "not yet", message, _open(known))


def _open(name: str) -> tuple[str, ...]:
    return EXERCISES[name].hints[: _opened.get(name, 0)]


def _find(name) -> str | None:
    """The name as it is registered; "5.2" and 5.2 are taken for "05.2"."""
    parts = re.fullmatch(r"\s*0?(\d)\D(\d)\s*", name if isinstance(name, str) else show(name))
    full = f"0{parts[1]}.{parts[2]}" if parts else None
    return full if full in EXERCISES else None


def _unknown(name) -> Verdict:
    text = name if isinstance(name, str) else show(name)
    lesson = [each for each in EXERCISES if each.startswith(text.strip().zfill(2))]
    near = (lesson or difflib.get_close_matches(text, EXERCISES, n=1, cutoff=0))[0]
    return Verdict(
        text, "unknown", f"There is no such exercise; the nearest is {near}, “{EXERCISES[near].title}”."
    )
