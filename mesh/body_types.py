"""Which Python values travel beyond msgpack's own, as what, and the registry of the user's types.

A value msgpack has no form for is *lowered* to a list led by a tag, an extension type without content: `(1, 2)` travels
as `[<tuple>, 1, 2]`. No plain value looks like that, so nothing needs escaping. Tag numbers are part of the wire: never
reuse one.
"""

from __future__ import annotations

import enum
import functools
import importlib
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgpack

from mesh.exceptions import ImproperlyConfigured, UndecodableBody

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import PurePath
    from uuid import UUID
    from zoneinfo import ZoneInfo

C = TypeVar("C", bound=type)
Lowered = list[Any]


class Tag:
    """What leads a lowered list: `mark` on the way out; on the way in, the tag itself stands in the list."""

    __slots__ = ("mark", "rebuild")

    def __init__(self, code: int, rebuild: Callable[[list[Any]], object] | None) -> None:
        #: As msgpack packs it.
        self.mark: Final = msgpack.ExtType(code, b"")
        #: The rest of the list -> the value. None where the decoder does it, because frames are needed.
        self.rebuild: Final = rebuild
        TAGS[code] = self


#: {code: Tag}. Every tag there is.
TAGS: Final[dict[int, Tag]] = {}
#: {type: value -> lowered list}, by exact type: those below, the registered ones, and once met those of `_NOT_MET`
#: and numpy's scalars. It only grows.
LOWER: Final[dict[type, Callable[[Any], Lowered]]] = {}


# --- the types of the standard library ------------------------------------------------------------


def _zoned(value: Any) -> list[Any]:
    """The fields of a datetime or time. A ZoneInfo goes by its key, any other zone by its offset from UTC."""
    zone = value.tzinfo
    # Where that module is half imported there is none yet.
    if zone is not None and type(zone) is getattr(sys.modules.get("zoneinfo"), "ZoneInfo", None) and zone.key:
        return [value.replace(tzinfo=None).isoformat(), value.fold, zone.key]
    return [value.isoformat(), value.fold]


def _from_zoned(cls: Any, text: str, fold: int, zone: str | None = None) -> object:
    value = cls.fromisoformat(text)
    if zone is not None:
        return value.replace(fold=fold, tzinfo=_zone(zone))
    return value.replace(fold=fold) if fold else value


def _zone(key: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError, TypeError) as error:
        raise UndecodableBody(reason=f"the time zone {key!r:.80} is not known here: install tzdata") from error


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


@functools.cache
def _decimal() -> type[Decimal]:
    from decimal import Decimal

    return Decimal


@functools.cache
def _uuid() -> type[UUID]:
    from uuid import UUID

    return UUID


#: By number on the wire.
_PATH_NAMES: Final = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")


@functools.cache
def _paths() -> tuple[type[PurePath], ...]:
    import pathlib

    return tuple(getattr(pathlib, name) for name in _PATH_NAMES)


def _from_path(kind: int, text: str) -> PurePath:
    """A concrete path of the other kind of system arrives as a pure one."""
    from pathlib import Path

    cls = _paths()[kind]
    if issubclass(cls, Path) and cls is not type(Path()):
        cls = _paths()[kind + 1]
    return cls(text)


TUPLE: Final = Tag(1, tuple)
SET: Final = Tag(2, set)
FROZENSET: Final = Tag(3, frozenset)
_INT: Final = Tag(4, lambda fields: int.from_bytes(fields[0], "big", signed=True))
_COMPLEX: Final = Tag(5, lambda fields: complex(*fields))
_DATETIME: Final = Tag(6, lambda fields: _from_zoned(datetime, *fields))
_DATE: Final = Tag(7, lambda fields: date.fromisoformat(*fields))
_TIME: Final = Tag(8, lambda fields: _from_zoned(time, *fields))
_TIMEDELTA: Final = Tag(9, lambda fields: timedelta(*fields))
_DECIMAL: Final = Tag(10, lambda fields: _decimal()(*fields))
_UUID: Final = Tag(11, lambda fields: _uuid()(bytes=fields[0]))
_PATH: Final = Tag(12, lambda fields: _from_path(*fields))
_RANGE: Final = Tag(13, lambda fields: range(*fields))
FRAME: Final = Tag(14, None)
ARRAY: Final = Tag(15, None)
SCALAR: Final = Tag(16, None)
REGISTERED: Final = Tag(17, lambda fields: _from_registered(*fields))

LOWER.update(
    {
        tuple: lambda value: [TUPLE.mark, *value],
        set: lambda value: [SET.mark, *value],
        frozenset: lambda value: [FROZENSET.mark, *value],
        int: lambda value: [_INT.mark, _int_bytes(value)],  # only those beyond 64 bits come here
        complex: lambda value: [_COMPLEX.mark, value.real, value.imag],
        datetime: lambda value: [_DATETIME.mark, *_zoned(value)],
        date: lambda value: [_DATE.mark, value.isoformat()],
        time: lambda value: [_TIME.mark, *_zoned(value)],
        timedelta: lambda value: [_TIMEDELTA.mark, value.days, value.seconds, value.microseconds],
        range: lambda value: [_RANGE.mark, value.start, value.stop, value.step],
    }
)


#: Types that travel as themselves and can't be registered, as far as they have been met.
_TAKEN: Final = set(LOWER) | {type(None), bool, float, str, bytes, bytearray, memoryview, list, dict}


def _lower_path(kind: int) -> Callable[[Any], Lowered]:
    return lambda value: [_PATH.mark, kind, str(value)]


#: {module: (name of a type that travels, how)}. Not imported for that, since most calls need none of them.
_NOT_MET: Final[dict[str, tuple[tuple[str, Callable[[Any], Lowered]], ...]]] = {
    "decimal": (("Decimal", lambda value: [_DECIMAL.mark, str(value)]),),
    "uuid": (("UUID", lambda value: [_UUID.mark, value.bytes]),),
    "pathlib": tuple((name, _lower_path(kind)) for kind, name in enumerate(_PATH_NAMES)),
}


def meet_imported_types() -> None:
    """Has LOWER and `register_type` know those whose module has been imported meanwhile. Any thread."""
    for name, types in list(_NOT_MET.items()):
        if sys.modules.get(name) is None:
            continue
        module = importlib.import_module(name)  # which waits, where another thread is about it
        lower = {getattr(module, cls): how for cls, how in types if hasattr(module, cls)}
        if len(lower) == len(types):  # it is what we take it for, and whole
            _TAKEN.update(lower)
            LOWER.update(lower)
            _NOT_MET.pop(name, None)


# --- the user's types -----------------------------------------------------------------------------


class Registered(NamedTuple):
    """One registered type."""

    cls: type
    name: str
    encode: Callable[[Any], object]
    decode: Callable[[Any], object]


#: {type: its registration}, to encode by; and {name: registration}, to decode by. A type may have had several names.
REGISTERED_TYPES: Final[dict[type, Registered]] = {}
_BY_NAME: Final[dict[str, Registered]] = {}


def register_type(
    cls: C,
    *,
    name: str | None = None,
    encode: Callable[[Any], object] | None = None,
    decode: Callable[[Any], object] | None = None,
) -> C:
    """Lets instances of exactly `cls` travel. Call it on both sides, or put it over the class as a decorator.

    Without functions an Enum travels by member name (a Flag by value), a dataclass or named tuple by its fields. A
    field that the sender did not know takes its default. Neither `__init__` nor `__post_init__` of a dataclass is run.
    Any other class needs `encode` (instance -> a value that travels) and `decode` (that value -> instance).
    `name` is what stands on the wire, by default module:qualname. Both sides must share it, so give one where one side
    runs the module as a script.

    Raises:
        ImproperlyConfigured: the class travels anyway, has no form by itself, or the name belongs to another class.
    """
    meet_imported_types()
    if cls in _TAKEN:
        raise ImproperlyConfigured(f"{cls.__qualname__} travels as it is: there is nothing to register.")
    if (encode is None) != (decode is None):
        raise ImproperlyConfigured(
            f"register_type({cls.__qualname__}) needs encode and decode together, or neither of them."
        )
    name = name or f"{cls.__module__}:{cls.__qualname__}"
    known = _BY_NAME.get(name)
    if known is not None and (known.cls.__module__, known.cls.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ImproperlyConfigured(
            f"the name {name!r} is registered for {known.cls!r}: give register_type another name=."
        )
    if encode is None or decode is None:
        encode, decode = _by_kind(cls)
    _register(Registered(cls, name, encode, decode))
    return cls


def _register(entry: Registered) -> None:
    mark, name, encode = REGISTERED.mark, entry.name, entry.encode
    _BY_NAME[name] = REGISTERED_TYPES[entry.cls] = entry
    LOWER[entry.cls] = lambda value: [mark, name, encode(value)]


def _by_kind(cls: Any) -> tuple[Callable[[Any], object], Callable[[Any], object]]:
    if issubclass(cls, enum.Flag):
        return lambda member: member.value, cls
    if issubclass(cls, enum.Enum):
        return lambda member: member.name, lambda name: cls.__members__[name]
    if is_dataclass(cls):
        return _dataclass_fields, lambda values: _rebuild_dataclass(cls, values)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return lambda value: value._asdict(), lambda values: cls(**values)
    raise ImproperlyConfigured(
        f"{cls.__qualname__} is no Enum, dataclass or named tuple: give register_type encode= and decode= for it."
    )


def is_dataclass(cls: type) -> bool:
    """As `dataclasses.is_dataclass`, without that module: with `inspect`, it is a megabyte in every process."""
    return hasattr(cls, "__dataclass_fields__")


def _dataclass_fields(value: Any) -> dict[str, object]:
    import dataclasses

    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _rebuild_dataclass(cls: Any, values: dict[str, object]) -> object:
    import dataclasses

    rest = dict(values)
    instance = cls.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in rest:
            value = rest.pop(field.name)
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            value = field.default
        else:
            raise ValueError(f"the field {field.name!r} did not come and has no default")
        object.__setattr__(instance, field.name, value)  # frozen classes refuse the ordinary way
    if rest:
        raise ValueError(f"fields came that the class here does not have: {', '.join(map(repr, rest)):.200}")
    return instance


def _from_registered(name: str, content: object) -> object:
    entry = _BY_NAME.get(name)
    if entry is None:
        raise UndecodableBody(
            reason=f"it holds the type {name!r:.200}, which is not registered in this process. "
            "Call mesh.register_type for it in a module that both the callers and the nodes import"
        )
    try:
        return entry.decode(content)
    except Exception as error:
        raise UndecodableBody(
            reason=f"the registered type {name!r:.200} was not rebuilt, {type(error).__name__}: {error!s:.200}. "
            "Are both sides running the same version of it?"
        ) from error
