"""How answers are judged: an exercise, its verdict, and the comparison of an answer with a reference."""

import copy
import functools
import html
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from numbers import Real
from typing import Any

import yaml

TOLERANCE = 1e-4  # relative: answers may be computed in float32
_MAX_SHOWN = 200  # characters of a value in a message


class Wrong(Exception):
    """What is wrong with an answer, as a sentence for the reader."""


class Mistake(Exception):
    """The answer makes a known mistake; its message stands in the lesson's YAML file under ``key``."""

    def __init__(self, key: str, **values: object):
        super().__init__(key)
        self.key, self.values = key, values


class NotYet(Exception):
    """The answer is the stub."""


@dataclass(frozen=True)
class Exercise:
    """An exercise: its texts, from the lesson's YAML file, and the judge of its answers.

    ``judge`` takes the answer and raises Wrong, Mistake or NotYet, or returns if the answer is right.
    """

    judge: Callable[[Any], None]
    title: str
    hints: list[str]
    correct: str  # what a right answer is told
    mistakes: dict[str, str]  # key -> message; {placeholders} take the values of the Mistake
    cases: Sequence[list] = ()  # the arguments of each call, where they are not computed


EXERCISES: dict[str, Exercise] = {}


@functools.cache
def _lesson_texts(lesson: str) -> dict[str, dict]:
    file = resources.files(__package__) / f"lesson_{lesson}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def exercise(name: str) -> Callable:
    """Registers the function below it as the judge of an exercise, such as "05.2"."""

    def register(judge: Callable[[Any], None]) -> Callable[[Any], None]:
        """Joins the judge with the texts of its exercise."""
        EXERCISES[name] = Exercise(judge, **_lesson_texts(name[:2])[name])
        return judge

    return register


@dataclass(frozen=True)
class Verdict:
    """What ``check`` says. status: "right", "wrong" or "not yet"."""

    name: str
    status: str
    message: str
    hints: Sequence[str] = ()

    def __bool__(self) -> bool:
        return self.status == "right"

    @property
    def _head(self) -> str:
        mark = {"right": "✓", "wrong": "✗"}.get(self.status, "·")
        return f"{mark} {self.name}: {self.status}."

    def __repr__(self) -> str:
        return "\n".join([f"{self._head} {self.message}", *(f"  Hint: {hint}" for hint in self.hints)])

    def _repr_html_(self) -> str:
        color = {"right": "#2e8b57", "wrong": "#c0392b"}.get(self.status, "#888888")
        lines = [f"<b>{html.escape(self._head)}</b> {_marked_up(self.message)}"]
        lines += [f"<i>Hint:</i> {_marked_up(hint)}" for hint in self.hints]
        style = f"border-left: 4px solid {color}; padding: 0.2em 0.8em"
        return f'<div style="{style}">{"<br>".join(lines)}</div>'


def _marked_up(text: str) -> str:
    """`code` and *stress* in HTML."""
    # escaped first, so that only these two become tags
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"(?<!\*)\*(\w+)\*(?!\*)", r"<em>\1</em>", text)


def random_tensors(*shapes: tuple[int, ...], seed: int = 0) -> tuple:
    """Normally distributed tensors, the same in every run."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=rng) for shape in shapes)


# --- running what the reader wrote -------------------------------------------------------------------


def is_stub(answer: Any) -> bool:
    """Whether nothing was written yet, or a part is left open: {"q8_0": ...}."""
    # exact types: an object of another class may raise at every touch
    if type(answer) is dict:
        return any(value is ... for value in answer.values())
    if type(answer) in (list, tuple):
        return any(part is ... for part in answer)
    return answer is None or answer is ... or answer is NotImplemented


def call_each(function: Any, cases: Sequence[Sequence], if_none: str | None = None) -> list:
    """What the reader's function returns for each case.

    Args:
        if_none: key of the mistake of a function that returns nothing for some cases.

    Raises:
        NotYet: it returns nothing for any case.
    """
    # all cases first: only a function that returns nothing for any of them is the stub
    results = [_call(function, case) for case in cases]
    if all(map(is_stub, results)):
        raise NotYet
    for case, result in zip(cases, results, strict=True):
        if is_stub(result):
            if if_none:
                raise Mistake(if_none)
            nothing = "nothing (None)" if result is None else show(result)
            raise Wrong(f"For ({_show_all(case)}) your function returns {nothing}.")
    return results


def _call(function: Any, arguments: Sequence) -> Any:
    """The function gets copies, so that it cannot change the checker's own values."""
    if not callable(function):
        raise Wrong(
            f"Expected a function, got {show(function)}: pass the function itself, without calling it."
        )
    shown = _show_all(arguments)
    try:
        return function(*copy.deepcopy(arguments))
    except NotImplementedError:
        raise NotYet from None  # a stub may raise this, too
    except Exception as error:
        what = f"{type(error).__name__}{_line_of(error, function)}"
        first_line = str(error).partition("\n")[0]
        raise Wrong(f"Your function raised {what}: {first_line}. It was given {shown}.") from None


def _line_of(error: Exception, function: Any) -> str:
    """Where in the reader's own function an error began; a function that is not Python has no lines."""
    frame = error.__traceback__.tb_next
    if frame is None or frame.tb_frame.f_code is not getattr(function, "__code__", None):
        return ""
    return f" in line {frame.tb_lineno} of its cell"


class _ShortRepr(reprlib.Repr):
    """Values in few characters. reprlib calls the method that is named after the type of a value."""

    def __init__(self):
        super().__init__()
        self.maxlist = self.maxtuple = 20
        self.maxother = self.maxstring = 80

    def repr_float(self, value: float, level: int) -> str:
        """A whole number without a fraction, any other number with six digits."""
        if value.is_integer() and abs(value) < 1e15:
            return f"{value:.0f}"
        return f"{value:.6g}"

    def repr_Tensor(self, value: Any, level: int) -> str:  # noqa: N802  named after torch.Tensor
        """The elements of a small tensor, the shape of a larger one."""
        if value.numel() > 8:
            return f"a tensor of shape {tuple(value.shape)}"
        return self.repr1(value.tolist(), level)


def show(value: Any) -> str:
    """A value in a few characters."""
    text = repr(value) if isinstance(value, str) else _ShortRepr().repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def _show_all(values: Sequence) -> str:
    return ", ".join(map(show, values))


# --- comparing ---------------------------------------------------------------------------------------


def compare(
    function: Any,
    reference: Callable,
    cases: Sequence[Sequence],
    mistakes: Mapping[str, Callable],
    tolerance: float = TOLERANCE,
) -> None:
    """Holds the reader's function to a reference on some cases.

    Args:
        cases: the arguments of each call.
        mistakes: key of a known mistake -> the function that someone writes who makes it.
        tolerance: relative.

    Raises:
        Mistake: the function does what one of ``mistakes`` does.
        Wrong: it is wrong in another way.
    """
    results = call_each(function, cases)
    wanted = [reference(*case) for case in cases]
    # a mistake must explain all cases, those that it gets right by luck, too
    failed = [i for i in range(len(cases)) if not _equal(results[i], wanted[i], tolerance)]
    if not failed:
        return
    for key, mistake in mistakes.items():
        if all(_equal(results[i], mistake(*case), tolerance) for i, case in enumerate(cases)):
            raise Mistake(key)
    i = failed[0]  # an unknown mistake: show its first case
    check_kind(results[i], wanted[i], "your function's result")
    raise Wrong(f"For ({_show_all(cases[i])}) {_difference(results[i], wanted[i], tolerance)} is right.")


def compare_value(value: Any, wanted: Any, mistakes: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    """Holds a value to the right one, which is not told. mistakes: key -> the value of who makes it."""
    # unlike a function's result, the wanted value would be the whole solution
    if _equal(value, wanted, tolerance):
        return
    for key, mistake in mistakes.items():
        if _equal(value, mistake, tolerance):
            raise Mistake(key)
    check_kind(value, wanted, "your answer")
    raise Wrong(f"{show(value)} is not right.")


def _flatten(value: Any, path: tuple = ()) -> dict[tuple, Any]:
    """Path -> number or text: the elements of dicts, lists and tensors, ("labels", 0, 2) for a dict's."""
    # a list of lists is as good as a tensor
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return {path: value}
    elements = {}
    for key, part in parts:
        elements |= _flatten(part, (*path, key))
    return elements


def _off(value: Any, wanted: Any, tolerance: float) -> list[tuple] | None:
    """The paths of the elements that differ; None where keys, shapes or kinds do."""
    right = _flatten(wanted)
    # a tensor with one element counts as a number
    if () in right and getattr(value, "shape", None) == (1,):
        value = value[0]
    found = _flatten(value)
    if found.keys() != right.keys():
        return None
    off = []
    for path, expected in right.items():
        if not isinstance(found[path], str if isinstance(expected, str) else Real):
            return None
        # a number alone may be tiny; an element beside others is as good as zero there
        if not _is_close(found[path], expected, tolerance, tolerance if path else 1e-9):
            off.append(path)
    return off


def _is_close(value: Any, wanted: Any, relative: float, absolute: float) -> bool:
    """Whether two numbers or texts are the same; NaN is the same as NaN."""
    if isinstance(wanted, str):
        return value == wanted
    both_nan = math.isnan(value) and math.isnan(wanted)
    return both_nan or math.isclose(value, wanted, rel_tol=relative, abs_tol=absolute)


def _equal(value: Any, wanted: Any, tolerance: float) -> bool:
    return _off(value, wanted, tolerance) == []


def check_kind(value: Any, wanted: Any, what: str) -> None:
    """Wrong where a value is of another kind, shape or length than the wanted one, or has other keys."""
    if _off(value, wanted, TOLERANCE) is None:
        raise Wrong(f"Expected {_kind(wanted)}; {what} is {show(value)}.")


def _kind(wanted: Any) -> str:
    if isinstance(wanted, Mapping):
        return "a dict with the keys " + ", ".join(f"{key!r} ({_kind(wanted[key])})" for key in wanted)
    if getattr(wanted, "shape", ()) != ():
        return f"a tensor of shape {tuple(wanted.shape)}"
    if isinstance(wanted, tuple):  # several results
        return f"a list of {len(wanted)}: " + ", ".join(map(_kind, wanted))
    if isinstance(wanted, list):
        return f"a list of {len(wanted)}" + (f", each {_kind(wanted[0])}" if wanted else "")
    names = {str: "a text", bool: "True or False"}
    return names.get(type(wanted), "a number")


def _difference(value: Any, wanted: Any, tolerance: float) -> str:
    """Where two values of one kind differ first."""
    first, *others = _off(value, wanted, tolerance)
    found, right = _flatten(value), _flatten(wanted)
    shown = f"your function returns {show(found[first])}, and {show(right[first])}"
    if first == ():
        return shown
    n_off = len(others) + 1
    return f"{n_off} of {len(right)} elements are off, the first at {list(first)}: {shown}"
