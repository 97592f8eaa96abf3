"""Exceptions <-> bytes, so that `except` clauses work across hosts without one side running the other's code.

An exception arrives as an instance of its own class where that class is imported already, with its args, attributes and
notes; an arg that has no form (`bodies`) as its repr, such an attribute not at all. The built-in class it derives from
rebuilds it. No `__init__` written in Python runs, so no message is composed twice and no sender runs anybody's code.
Where the class is not here, or is no Exception (SystemExit, KeyboardInterrupt, CancelledError), a RemoteError arrives
that bears its name; so does an ExceptionGroup. Causes and contexts travel in the text of the traceback.
"""

from __future__ import annotations

import builtins
import sys
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgpack

from mesh.bodies import decode_value, encode_value
from mesh.exceptions import RemoteError, UndecodableBody, UnserialisableArgument

#: How the note begins that carries the remote traceback.
REMOTE_NOTE: Final = "Remote traceback:\n"
#: Classes made for names that came from elsewhere: past these, strangers could fill the memory with them.
_STAND_INS_MAX: Final = 1024
#: Characters of the repr that stands for an arg.
_REPR_MAX: Final = 1000
#: Characters of a class name.
_NAME_MAX: Final = 200

_BUILTIN: Final = frozenset(
    cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, BaseException)
)
#: {(module, qualname): the subclass of RemoteError for it}. At most _STAND_INS_MAX.
_stand_ins: Final[dict[tuple[str, str], type[RemoteError]]] = {}


class _Record(NamedTuple):
    """An exception on the wire."""

    module: str
    qualname: str
    content: bytes  #: a body: [args, {attribute: value}]
    frames: list[bytes]  #: of that body
    message: str
    traceback: str
    notes: list[str]


# --- out ------------------------------------------------------------------------------------------


def encode_exception(exc: BaseException, traceback_text: str) -> bytes:
    """The exception as one document. Never raises, whatever the exception's own methods do."""
    try:
        content, frames = encode_value(_content(exc))
    except Exception:  # its parts can be sent and it can't: too deep, or it changes meanwhile
        content, frames = encode_value([[_text(str, exc)], {}])
    record = _Record(
        module=str(type(exc).__module__),
        qualname=type(exc).__qualname__,
        content=content,
        frames=[bytes(frame) for frame in frames or ()],
        message=_text(str, exc),
        traceback=traceback_text,
        notes=_notes(exc),
    )
    document: bytes = msgpack.packb(record, unicode_errors="surrogatepass")
    return document


def _content(exc: BaseException) -> list[object]:
    """[args, attributes] as the built-in base tells them, for it keeps some in C (`filename` of OSError)."""
    base = _builtin_base(type(exc))
    reduced: Any = base.__reduce__(exc)
    state = reduced[2] if len(reduced) > 2 and isinstance(reduced[2], dict) else {}
    left_out = ("args", "obj") if base is AttributeError else ("args",)  # obj may be as large as the whole application
    attributes = {
        name: value
        for name, value in state.items()
        if type(name) is str and not name.startswith("__") and name not in left_out and _travels(value)
    }
    return [[arg if _travels(arg) else _text(repr, arg)[:_REPR_MAX] for arg in reduced[1]], attributes]


def _travels(value: object) -> bool:
    try:
        encode_value(value)
    except UnserialisableArgument:
        return False
    return True


def _text(of: type[str] | Any, value: object) -> str:
    try:
        return str(of(value))
    except Exception as error:
        return f"<{type(value).__qualname__}, whose {of.__name__} raised {type(error).__name__}>"


def _notes(exc: BaseException) -> list[str]:
    """The notes, without those of an earlier hop: the traceback's text has them."""
    notes = _fields(exc).get("__notes__")
    if not isinstance(notes, list):
        return []
    return [str(note) for note in notes if isinstance(note, str) and not note.startswith(REMOTE_NOTE)]


# --- in -------------------------------------------------------------------------------------------


def decode_exception(document: Any) -> Exception:
    """The exception, ready to be raised; its last note and its attribute `remote_traceback` tell where it was raised.

    Raises:
        UndecodableBody: the document did not come from `encode_exception`.
    """
    record = _read(document)
    exc = _rebuild(record) or _stand_in(record)
    notes = [*record.notes, REMOTE_NOTE + record.traceback] if record.traceback else record.notes
    fields = _fields(exc)
    fields["remote_traceback"] = record.traceback
    if notes:
        fields["__notes__"] = notes
    return exc


def _read(document: Any) -> _Record:
    fields = decode_value(document)
    if type(fields) is not list or len(fields) != len(_Record._fields):
        raise UndecodableBody(reason="it is no exception")
    record = _Record(*fields)
    texts = (record.module, record.qualname, record.message, record.traceback, *_list(record.notes))
    if not all(type(text) is str for text in texts):
        raise UndecodableBody(reason="a text of an exception is none")
    if not all(type(content) is bytes for content in (record.content, *_list(record.frames))):
        raise UndecodableBody(reason="the content of an exception is no body")
    return record


def _list(value: object) -> list[Any]:
    if type(value) is not list:
        raise UndecodableBody(reason="an exception lacks a list")
    return value


def _rebuild(record: _Record) -> Exception | None:
    """The exception as its own class; None where that is not here, is no Exception, or can't be made from what came."""
    cls = _imported(record.module, record.qualname)
    if cls is None:
        return None
    args, attributes = _read_content(record)
    base = _builtin_base(cls)
    try:
        exc: Any = base.__new__(cls, *args)
        _set_args(base, exc, args)
    except Exception:
        return None
    if not isinstance(exc, cls):
        return None
    for name, value in attributes.items():
        _set_attribute(base, exc, name, value)
    return exc


def _imported(module: str, qualname: str) -> type[Exception] | None:
    """The class of that name, found without running code: no import, no module `__getattr__`, no lazy loading."""
    found: Any = sys.modules.get(module)
    if not isinstance(found, ModuleType):
        return None
    names = object.__getattribute__(found, "__dict__")
    for part in qualname.split("."):
        found = names.get(part)
        if not isinstance(found, type):
            return None
        names = type.__getattribute__(found, "__dict__")
    return found if issubclass(found, Exception) else None


def _read_content(record: _Record) -> tuple[list[Any], dict[str, Any]]:
    """Args and attributes; the message alone where they hold a type that is not registered here."""
    try:
        args, attributes = decode_value(record.content, record.frames)
        if type(args) is list and type(attributes) is dict:
            return args, attributes
    except (UndecodableBody, ValueError, TypeError):
        pass
    return [record.message], {}


def _set_args(base: Any, exc: BaseException, args: list[Any]) -> None:
    try:
        base.__init__(exc, *args)
    except Exception:  # reprs stand where there were values: show them all the same
        BaseException.__init__(exc, *args)


def _set_attribute(base: type[BaseException], exc: BaseException, name: Any, value: object) -> None:
    if type(name) is not str or name.startswith("__"):
        return
    try:
        if hasattr(base, name):
            BaseException.__setattr__(exc, name, value)  # a field of the built-in class
        else:
            _fields(exc)[name] = value  # passes by properties of the user's class
    except (AttributeError, TypeError):
        pass


def _fields(exc: BaseException) -> dict[str, Any]:
    """The attributes of the instance themselves: nothing of its class is run."""
    fields: dict[str, Any] = BaseException.__getattribute__(exc, "__dict__")
    return fields


def _builtin_base(cls: type[BaseException]) -> type[BaseException]:
    """The built-in exception class that lays out instances of `cls`."""
    return next(base for base in cls.__mro__ if base in _BUILTIN)


def _stand_in(record: _Record) -> RemoteError:
    """A RemoteError that bears the name of a class which is not here."""
    key = (record.module, record.qualname)
    cls = _stand_ins.get(key)
    if cls is None:
        cls = _make_stand_in(*key)
    if cls is RemoteError:
        return RemoteError(f"{record.module}.{record.qualname}: {record.message}"[: _NAME_MAX + len(record.message)])
    return cls(record.message)


def _make_stand_in(module: str, qualname: str) -> type[RemoteError]:
    name = qualname.rpartition(".")[2]
    if len(_stand_ins) >= _STAND_INS_MAX or not name.isidentifier() or len(module) + len(qualname) > _NAME_MAX:
        return RemoteError
    cls = type(name, (RemoteError,), {"__module__": module, "__qualname__": qualname, "__doc__": RemoteError.__doc__})
    _stand_ins[module, qualname] = cls
    return cls
