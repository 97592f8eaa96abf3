"""Where in a call the value is that can't be sent, why, and the remedy. Slow; runs only once encoding has failed."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from mesh.body_types import REGISTERED_TYPES, is_dataclass
from mesh.exceptions import UnserialisableArgument
from mesh.numpy_frames import CannotDescribe

#: Encodes a value on trial: the error, or None where it can be sent.
Attempt = Callable[[object], Exception | None]

#: Levels of nesting that msgpack packs are 511; beyond them a path would say nothing.
_DEEPEST: Final = 511
_TOO_DEEP: Final = "it contains itself, or nests deeper than 500 levels: pass it flattened, or by reference"


class NoForm(TypeError):
    """A value of a type that does not travel."""


def refusal(roots: Iterable[tuple[str, object]], attempt: Attempt, error: Exception) -> UnserialisableArgument:
    """The error to raise for `error`, which encoding the values `roots` (each with its label) together has met.

    Goes down into the first child that can't be encoded, until there is none: that value is the culprit.
    """
    where, culprit = "", None
    above: dict[int, object] = {}  # by id, and kept alive so that no id is used twice
    children: Iterable[tuple[str, object]] = roots
    while failed := _first_failing(children, attempt):
        step, culprit, error = failed
        if id(culprit) in above or len(above) > _DEEPEST:
            return UnserialisableArgument(where if len(above) < 10 else f"{where:.40}…", _type_name(culprit), _TOO_DEEP)
        where += step
        above[id(culprit)] = culprit
        children = _children(culprit)
    if not where:
        where, culprit = "the call", list(roots)
    return UnserialisableArgument(where, _type_name(culprit), _reason(culprit, error))


def _first_failing(children: Iterable[tuple[str, object]], attempt: Attempt) -> tuple[str, object, Exception] | None:
    for step, child in children:
        error = attempt(child)
        if error is not None:
            return step, child, error
    return None


def _children(value: Any) -> Iterator[tuple[str, object]]:
    """The values directly inside `value`, each with the step to it; none where it has no inside that travels."""
    cls = type(value)
    if cls in (list, tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif cls in (set, frozenset):
        yield from ((f"{{an item of type {_type_name(item)}}}", item) for item in value)
    elif cls is dict:
        yield from ((f".keys()[{index}]", key) for index, key in enumerate(value))
        yield from ((f"[{_key(key)}]", item) for key, item in value.items())
    elif cls in REGISTERED_TYPES:
        try:
            content = REGISTERED_TYPES[cls].encode(value)
        except Exception:
            return  # the encode function itself is what fails
        if is_dataclass(cls) and type(content) is dict:
            yield from ((f".{name}", item) for name, item in content.items())
        else:
            yield ".<as its encode function gave it>", content


def _key(key: object) -> str:
    if type(key) is str:
        return f'"{key:.40}"'
    return repr(key)[:40] if type(key) in (int, float, bool, bytes, type(None)) else f"a key of type {_type_name(key)}"


def _type_name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _reason(value: object, error: Exception) -> str:
    if isinstance(error, NoForm):
        return _remedy(value)
    if isinstance(error, CannotDescribe):
        return str(error)
    if "recursion limit" in str(error):
        return _TOO_DEEP
    return f"encoding it raised {type(error).__name__}: {error}"


def _remedy(value: object) -> str:
    cls = type(value)
    name = cls.__qualname__
    if is_dataclass(cls) or issubclass(cls, enum.Enum) or (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        return f"call mesh.register_type({name}) in a module that both sides import, or pass plain data"
    functions = f"mesh.register_type({name}, encode=..., decode=...) on both sides"
    for base in (str, int, float, bytes, tuple, list, dict, set):
        if issubclass(cls, base):
            plain = base.__name__
            return f"it would arrive as a plain {plain}: pass {plain}(...) if that will do, or call {functions}"
    if cls.__module__.partition(".")[0] == "numpy":
        return "only plain arrays and scalars of numpy travel: pass numpy.asarray(...), or .tolist()"
    if cls.__module__ != "builtins":
        return f"pass plain data, or call {functions}"
    if hasattr(cls, "__iter__"):
        return "pass list(...) of it"
    if callable(value):
        return "code does not travel: pass its name, or make it a task"
    return "pass plain data"
