"""Exercises of the lessons: ``check`` judges an answer, and opens a hint with each wrong try; all offline.

A lesson's ``lesson_XX.yaml`` holds the texts of its exercises, its ``lesson_XX.py`` their judges.
"""

import difflib
import importlib
from typing import Any

from lmlab.exercises.judging import EXERCISES, Exercise, Mistake, NotYet, Verdict, Wrong, is_stub

for _number in range(12):
    importlib.import_module(f"lmlab.exercises.lesson_{_number:02}")  # each registers its exercises

_opened: dict[str, int] = {}  # exercise -> how many of its hints the reader has seen


def check(name: str, answer: Any = ...) -> Verdict:
    """Judges the answer to an exercise, named as in the notebook ("05.2"). Whatever the answer, it replies.

    Raises:
        ValueError: there is no exercise of that name.
    """
    found = _find(name)
    try:
        if is_stub(answer):
            raise NotYet
        found.judge(answer)
        return Verdict(name, "right", found.correct)
    except NotYet:  # no try: it opens no hint
        write = f"Write your answer to “{found.title}”" + " and `return` it" * callable(answer)
        message = f'{write}, then run the cell again. `lmlab.hint("{name}")` opens a hint.'
        return Verdict(name, "not yet", message, _open_hints(name))
    except Mistake as mistake:
        message = found.mistakes[mistake.key].format(**mistake.values)
    except Wrong as wrong:
        message = str(wrong)
    except Exception as error:  # an object that no judge has thought of
        cause = f"{type(error).__name__}: {error}"
        message = f"This answer could not be read ({cause}). Look at what is asked for."
    _opened[name] = _opened.get(name, 0) + 1
    return Verdict(name, "wrong", message, _open_hints(name))


def hint(name: str) -> Verdict:
    """Opens one more hint to an exercise.

    Raises:
        ValueError: there is no exercise of that name.
    """
    found = _find(name)
    message = f"“{found.title}”."
    if _opened.get(name, 0) >= len(found.hints):
        message += " There are no more hints; the solutions show one way."
    _opened[name] = _opened.get(name, 0) + 1
    return Verdict(name, "not yet", message, _open_hints(name))


def _open_hints(name: str) -> list[str]:
    return EXERCISES[name].hints[: _opened.get(name, 0)]


def _find(name: str) -> Exercise:
    if name not in EXERCISES:
        [nearest] = difflib.get_close_matches(str(name), EXERCISES, n=1, cutoff=0)
        raise ValueError(f'there is no exercise {name!r}; the nearest is "{nearest}"')
    return EXERCISES[name]
