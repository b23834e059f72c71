"""How answers are judged: an exercise, its verdict, and comparing what a reader wrote with a reference."""

import copy
import html
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

TOLERANCE = 1e-4  # relative: answers may be computed in float32
_LONGEST = 200  # letters of a value in a message


class Wrong(Exception):
    """What is off with an answer, in a sentence for the reader."""


class NotYet(Exception):
    """The answer is the stub."""


@dataclass(frozen=True)
class Exercise:
    """``judge`` takes the answer, raises Wrong or NotYet, or returns a remark on the right answer."""

    name: str
    title: str
    hints: tuple[str, ...]
    judge: Callable[[Any], str]


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, title: str, *hints: str):
    """Registers the function below it as the judge of an exercise."""

    def register(judge):
        EXERCISES[name] = Exercise(name, title, hints, judge)
        return judge

    return register


@dataclass(frozen=True)
class Verdict:
    """What ``check`` says. status: "right", "wrong", "not yet", or "unknown" for a name that there is not."""

    name: str
    status: str
    message: str
    hints: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.status == "right"

    @property
    def _head(self) -> str:
        mark = {"right": "✓", "wrong": "✗"}.get(self.status, "·")
        return f"{mark} {self.name}: {self.status}."

    def __repr__(self) -> str:
        return "\n".join([f"{self._head} {self.message}", *(f"  Hint: {hint}" for hint in self.hints)])

    def _repr_html_(self) -> str:
        colour = {"right": "#2e8b57", "wrong": "#c0392b"}.get(self.status, "#888888")
        lines = [
            f"<b>{html.escape(self._head)}</b> {_marked(self.message)}",
            *(f"<i>Hint:</i> {_marked(hint)}" for hint in self.hints),
        ]
        return (
            f'<div style="border-left: 4px solid {colour}; padding: 0.2em 0.8em">'
            + "<br>".join(lines)
            + "</div>"
        )


def _marked(text: str) -> str:
    """`code` and *stress* in HTML."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"(?<!\*)\*(\w+)\*(?!\*)", r"<em>\1</em>", text)


# --- running what the reader wrote -------------------------------------------------------------------


def is_stub(answer) -> bool:
    """Whether nothing was written yet, or some part is left open: {"q8_0": ...}."""
    if type(answer) in (dict, list, tuple):
        return any(part is ... for part in (answer.values() if isinstance(answer, dict) else answer))
    return answer is None or answer is ... or answer is NotImplemented


def call(function, *arguments):
    """What the reader's function returns. It gets copies, so that it cannot change the checker's own."""
    if not callable(function):
        raise Wrong(
            f"A function is wanted, got {show(function)}: hand over the function itself, without calling it."
        )
    shown = ", ".join(map(show, arguments))
    try:
        return function(*copy.deepcopy(arguments))
    except NotImplementedError:
        raise NotYet from None
    except Exception as error:
        raise Wrong(
            f"Your function raised {type(error).__name__}{_line(function, error)}: "
            f"{str(error).partition(chr(10))[0]}. It was given {shown}."
        ) from None


def calls(function, cases: Sequence[tuple], of_none: str = "") -> list:
    """What the reader's function returns for each case; the stub gives nothing for any.

    of_none: what is off with a function that gives nothing for some.
    """
    given = [call(function, *case) for case in cases]
    if all(map(is_stub, given)):
        raise NotYet
    for case, one in zip(cases, given, strict=True):
        if is_stub(one):
            nothing = "nothing (None)" if one is None else show(one)
            raise Wrong(of_none or f"For ({', '.join(map(show, case))}) your function gives {nothing}.")
    return given


def _line(function, error: Exception) -> str:
    """Where in the reader's own function an error began; it has no lines if it is not Python."""
    frame = error.__traceback__.tb_next
    own = frame is not None and frame.tb_frame.f_code is getattr(function, "__code__", None)
    return f" in line {frame.tb_lineno} of its cell" if own else ""


def _is_array(value) -> bool:
    """A tensor or array with places, not one number."""
    return hasattr(value, "tolist") and getattr(value, "shape", ()) != ()


def show(value) -> str:
    """A value in a few characters."""
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        if math.prod(value.shape) > 8:
            return f"a {type(value).__name__.lower()} of shape {tuple(value.shape)}"
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    if (
        isinstance(value, list | tuple)
        and len(value) <= 20
        and all(isinstance(part, Number) for part in value)
    ):
        shown = (f"{part:.5g}" if isinstance(part, float) else str(part) for part in value)
        return f"[{', '.join(shown)}]"
    text = repr(value) if isinstance(value, str) else _Short().repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


class _Short(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxother = self.maxstring = 80

    def repr_float(self, value: float, level: int) -> str:
        return f"{value:.5g}"


# --- comparing ---------------------------------------------------------------------------------------


def alike(given, wanted, what: str = "your function's result"):
    """The given value in the kind of the wanted one; Wrong where it is of another kind, shape or length."""
    if isinstance(wanted, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(wanted):
            keys = ", ".join(map(repr, wanted))
            raise Wrong(f"A dict with the keys {keys} is wanted; {what} is {show(given)}.")
        return {key: alike(given[key], value, f"{what}[{key!r}]") for key, value in wanted.items()}
    if _is_array(wanted):
        return _tensor(given, wanted, what)
    if isinstance(wanted, list | tuple):
        return _list(given, wanted, what)
    if isinstance(wanted, str):
        if not isinstance(given, str):
            raise Wrong(f"A text is wanted; {what} is {show(given)}.")
        return given
    return _number(given, what, "True or False" if isinstance(wanted, bool) else "A number")


def _number(given, what: str, kind: str) -> Number:
    if hasattr(given, "item") and getattr(given, "shape", None) in ((), (1,)):
        given = given.item()
    if not isinstance(given, Number) or isinstance(given, complex):
        raise Wrong(f"{kind} is wanted; {what} is {show(given)}.")
    return given


def _list(given, wanted, what: str) -> list:
    given = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise Wrong(f"A list of {len(wanted)} is wanted; {what} is {show(given)}.")
    if len(given) != len(wanted):
        raise Wrong(f"A list of {len(wanted)} is wanted; {what} has {len(given)}: {show(given)}.")
    return [alike(given[i], value, f"{what}[{i}]") for i, value in enumerate(wanted)]


def _tensor(given, wanted, what: str):
    import torch

    try:
        given = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"A tensor is wanted; {what} is {show(given)}.") from None
    if given.shape != wanted.shape:
        raise Wrong(
            f"A tensor of shape {tuple(wanted.shape)} is wanted; {what} has shape {tuple(given.shape)}."
        )
    return given.double()


def equal(given, wanted, tolerance: float = TOLERANCE) -> bool:
    """Whether two values of one kind are the same; NaN is the same as NaN."""
    if isinstance(wanted, Mapping):
        return all(equal(given[key], value, tolerance) for key, value in wanted.items())
    if _is_array(wanted):
        import torch

        return torch.allclose(given.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True)
    if isinstance(wanted, list | tuple):
        return len(given) == len(wanted) and all(map(lambda a, b: equal(a, b, tolerance), given, wanted))
    if isinstance(wanted, str):
        return given == wanted
    both_nan = math.isnan(given) and math.isnan(wanted)
    return both_nan or math.isclose(given, wanted, rel_tol=tolerance, abs_tol=1e-9)


def compare(
    function,
    reference: Callable,
    cases: Sequence[tuple],
    mistakes: Mapping[str, Callable],
    tolerance: float = TOLERANCE,
) -> None:
    """Holds the reader's function to a reference on some cases; Wrong, with a known mistake's message or without.

    mistakes: message -> the function that one has written who made it.
    """

    def matches(i, value) -> bool:
        try:
            return equal(alike(given[i], value), value, tolerance)
        except Wrong:  # of another kind or shape
            return False

    given = calls(function, cases)
    wanted = [reference(*case) for case in cases]
    failed = [i for i, value in enumerate(wanted) if not matches(i, value)]
    if not failed:
        return
    for message, mistake in mistakes.items():
        if all(matches(i, mistake(*case)) for i, case in enumerate(cases)):
            raise Wrong(message)
    i = failed[0]
    got, at = alike(given[i], wanted[i]), ", ".join(map(show, cases[i]))
    raise Wrong(f"For ({at}) {_off(got, wanted[i], tolerance)} is right.")


def _off(got, wanted, tolerance: float) -> str:
    """Where two values of one kind differ first."""
    if isinstance(wanted, Mapping | tuple):  # a tuple: several results
        parts = wanted.items() if isinstance(wanted, Mapping) else enumerate(wanted)
        key = next(key for key, part in parts if not equal(got[key], part, tolerance))
        return f"at [{key!r}] {_off(got[key], wanted[key], tolerance)}"
    if not _is_array(wanted):
        return f"your function gives {show(got)}, and {show(wanted)}"
    close = got.double().isclose(wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True)
    first = tuple((~close).nonzero()[0].tolist())
    return (
        f"{int((~close).sum())} of {close.numel()} numbers are off, the first at {list(first)}: "
        f"your function gives {show(got[first])}, and {show(wanted[first])}"
    )


def compare_value(given, wanted, mistakes: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    """Holds a value to the right one; the right one is not told."""
    given = alike(given, wanted, "your answer")
    if equal(given, wanted, tolerance):
        return
    for message, mistake in mistakes.items():
        if equal(given, mistake, tolerance):
            raise Wrong(message)
    raise Wrong(f"{show(given)} is not right.")
