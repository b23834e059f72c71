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
from numbers import Number
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

    name: str
    title: str
    hints: tuple[str, ...]
    correct: str  # what a right answer is told
    mistakes: dict[str, str]  # key -> message; {placeholders} take the values of the Mistake
    judge: Callable[[Any], None]


EXERCISES: dict[str, Exercise] = {}


@functools.cache
def _lesson_texts(lesson: str) -> dict[str, dict]:
    file = resources.files(__package__) / f"lesson_{lesson}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def exercise(name: str) -> Callable:
    """Registers the function below it as the judge of an exercise, such as "05.2"."""

    def register(judge: Callable[[Any], None]) -> Callable[[Any], None]:
        """Joins the judge with the texts of its exercise."""
        texts = _lesson_texts(name[:2])[name]
        EXERCISES[name] = Exercise(
            name, texts["title"], tuple(texts["hints"]), texts["correct"], texts["mistakes"], judge
        )
        return judge

    return register


@dataclass(frozen=True)
class Verdict:
    """What ``check`` says.

    status: "right", "wrong", "not yet", or "unknown" for a name that does not exist.
    """

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


def fixed_cases(name: str) -> list:
    """The cases of an exercise that stand in its YAML file; those with several arguments are lists."""
    return list(_lesson_texts(name[:2])[name]["cases"])


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


def call_each(function: Any, cases: Sequence[tuple], if_none: str | None = None) -> list:
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


def _call(function: Any, arguments: tuple) -> Any:
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


def show(value: Any) -> str:
    """A value in a few characters."""
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        if math.prod(value.shape) > 8:
            return f"a {type(value).__name__.lower()} of shape {tuple(value.shape)}"
        value = value.tolist()
    text = repr(value) if isinstance(value, str) else _ShortRepr().repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def _show_all(values: tuple) -> str:
    return ", ".join(map(show, values))


class _ShortRepr(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlist = self.maxtuple = 20
        self.maxother = self.maxstring = 80

    def repr_float(self, value: float, level: int) -> str:  # called by reprlib for every float
        """A whole number without a fraction, any other number with six digits."""
        if value.is_integer() and abs(value) < 1e15:
            return f"{value:.0f}"
        return f"{value:.6g}"


# --- comparing ---------------------------------------------------------------------------------------


def compare(
    function: Any,
    reference: Callable,
    cases: Sequence[tuple],
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
    failed = [i for i in range(len(cases)) if not _matches(results[i], wanted[i], tolerance)]
    if not failed:
        return
    for key, mistake in mistakes.items():
        if all(_matches(results[i], mistake(*case), tolerance) for i, case in enumerate(cases)):
            raise Mistake(key)
    i = failed[0]  # an unknown mistake: show its first case
    difference = _difference(convert(results[i], wanted[i]), wanted[i], tolerance)
    raise Wrong(f"For ({_show_all(cases[i])}) {difference} is right.")


def compare_value(value: Any, wanted: Any, mistakes: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    """Holds a value to the right one, which is not told. mistakes: key -> the value of who makes it."""
    # unlike a function's result, the wanted value would be the whole solution
    value = convert(value, wanted, "your answer")
    if equal(value, wanted, tolerance):
        return
    for key, mistake in mistakes.items():
        if equal(value, mistake, tolerance):
            raise Mistake(key)
    raise Wrong(f"{show(value)} is not right.")


def _matches(result: Any, wanted: Any, tolerance: float) -> bool:
    try:
        return equal(convert(result, wanted), wanted, tolerance)
    except Wrong:  # of another kind or shape
        return False


def convert(value: Any, wanted: Any, what: str = "your function's result") -> Any:
    """The value in the kind of the wanted one; Wrong where it is of another kind, shape or length."""
    if isinstance(wanted, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(wanted):
            keys = ", ".join(map(repr, wanted))
            raise Wrong(f"Expected a dict with the keys {keys}; {what} is {show(value)}.")
        return {key: convert(value[key], part, f"{what}[{key!r}]") for key, part in wanted.items()}
    if _is_array(wanted):
        return _to_tensor(value, wanted.shape, what)
    if isinstance(wanted, list | tuple):
        value = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(wanted):
            raise Wrong(f"Expected a list of {len(wanted)}; {what} is {show(value)}.")
        return [convert(value[i], part, f"{what}[{i}]") for i, part in enumerate(wanted)]
    if isinstance(wanted, str):
        if not isinstance(value, str):
            raise Wrong(f"Expected a text; {what} is {show(value)}.")
        return value
    # a tensor with one element counts as a number, and so does True
    if hasattr(value, "item") and getattr(value, "shape", None) in ((), (1,)):
        value = value.item()
    if not isinstance(value, Number) or isinstance(value, complex):
        kind = "True or False" if isinstance(wanted, bool) else "a number"
        raise Wrong(f"Expected {kind}; {what} is {show(value)}.")
    return value


def _is_array(value: Any) -> bool:
    """A tensor or array with dimensions, not a single number."""
    return hasattr(value, "tolist") and getattr(value, "shape", ()) != ()


def _to_tensor(value: Any, shape: tuple, what: str) -> Any:
    import torch

    # a list of lists is as good as a tensor
    try:
        value = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"Expected a tensor; {what} is {show(value)}.") from None
    if value.shape != shape:
        raise Wrong(f"Expected a tensor of shape {tuple(shape)}; {what} has shape {tuple(value.shape)}.")
    return value.double()


def equal(value: Any, wanted: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two values of one kind are the same; NaN is the same as NaN."""
    if isinstance(wanted, Mapping):
        return all(equal(value[key], part, tolerance) for key, part in wanted.items())
    if _is_array(wanted):
        return bool(_is_close(value, wanted, tolerance).all())
    if isinstance(wanted, list | tuple):
        return len(value) == len(wanted) and all(
            map(functools.partial(equal, tolerance=tolerance), value, wanted)
        )
    if isinstance(wanted, str):
        return value == wanted
    both_nan = math.isnan(value) and math.isnan(wanted)
    return both_nan or math.isclose(value, wanted, rel_tol=tolerance, abs_tol=1e-9)


def _is_close(value: Any, wanted: Any, tolerance: float) -> Any:
    return value.double().isclose(wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def _difference(value: Any, wanted: Any, tolerance: float) -> str:
    """Where two values of one kind differ first."""
    if isinstance(wanted, Mapping | tuple):  # a tuple: several results
        parts = wanted.items() if isinstance(wanted, Mapping) else enumerate(wanted)
        key = next(key for key, part in parts if not equal(value[key], part, tolerance))
        return f"at [{key!r}] {_difference(value[key], wanted[key], tolerance)}"
    if not _is_array(wanted):
        return f"your function returns {show(value)}, and {show(wanted)}"
    off = ~_is_close(value, wanted, tolerance)
    first = tuple(off.nonzero()[0].tolist())
    return (
        f"{int(off.sum())} of {off.numel()} elements are off, the first at {list(first)}: "
        f"your function returns {show(value[first])}, and {show(wanted[first])}"
    )
