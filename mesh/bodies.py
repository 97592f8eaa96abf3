"""Python values <-> a body: one msgpack document, and frames of their own for large buffers.

What travels exactly, at any depth, also as dict keys and members of sets:
    None, bool, int of any size, float, complex, str (lone surrogates too), bytes, list, tuple, dict (in its order),
    set, frozenset, range, datetime, date, time, timedelta, Decimal, UUID, the paths of pathlib, arrays and scalars of
    numpy, and registered types: Enums, dataclasses, named tuples, whatever has functions for it (`register_type`).

What changes on the way: bytearray and memoryview arrive as bytes. An array arrives contiguous and read-only. A
ZoneInfo stays one; every other time zone becomes the fixed offset it had. A concrete path of the other kind of system
arrives as a pure path.

Nothing else changes: everything else is refused, with its place and the remedy. That includes subclasses, which are not
their base (OrderedDict, defaultdict, IntEnum, named tuples, datetimes of pandas), until they are registered.

Buffers of FRAME_MIN and more travel uncopied. So, as with any zero-copy send, a bytearray or an array must not be
written to until the call is confirmed; pass `bytes(...)` or `.copy()` of one that will be.

All functions may be called from any thread, and from a finaliser in the middle of another call: nothing is shared but
tables that only grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import msgpack
from msgpack import Packer, unpackb

from mesh.body_types import (
    ARRAY,
    FRAME,
    FROZENSET,
    LOWER,
    REGISTERED,
    REGISTERED_TYPES,
    SCALAR,
    SET,
    TAGS,
    TUPLE,
    Tag,
    meet_imported_types,
)
from mesh.exceptions import UndecodableBody, UnserialisableArgument
from mesh.numpy_frames import Parts, kind_of, put_together, scalar_of, scalar_parts, take_apart
from mesh.refusals import NoForm, refusal

Buffer = bytes | bytearray | memoryview

#: Bytes from which a buffer travels as a frame of its own: the size up to which bodies are inline (DESIGN, "Wire").
FRAME_MIN: Final = 16 * 1024
#: Items a list may claim, and bytes a document may have, to be built without a look whether it is whole. msgpack makes
#: room for what a list claims, and up to 1 024 claims can be nested: this bounds them to 8 MiB.
_UNCHECKED_MAX: Final = 1024

_BUFFERS: Final = frozenset({bytes, bytearray, memoryview})
_NAMES: Final = frozenset({str})
#: Types without an inside: a list of nothing else holds no buffer.
_LEAVES: Final = frozenset({type(None), bool, int, float, str})
_GROUPS: Final[dict[type, Any]] = {tuple: TUPLE.mark, set: SET.mark, frozenset: FROZENSET.mark}


# --- values to a body -----------------------------------------------------------------------------


def encode_call(args: Sequence[object], kwargs: dict[str, object]) -> tuple[bytes, list[Buffer] | None]:
    """The body of a call: [args, kwargs], or [args] alone. Frames are None where all is in the document.

    Raises:
        UnserialisableArgument: names the place, the type and the remedy.
    """
    if kwargs and not _NAMES.issuperset(map(type, kwargs)):
        raise UnserialisableArgument(
            "kwargs", "dict", "names of keyword arguments are plain str, and some of these are not"
        )
    call = [list(args), kwargs if type(kwargs) is dict else dict(kwargs)] if kwargs else [list(args)]
    try:
        if _any_large(args) or (kwargs and _any_large(kwargs.values())):
            return _encode_with_frames(call)
        return _encode(call)
    except Exception as error:
        labelled = [(f"args[{index}]", value) for index, value in enumerate(args)]
        labelled += [(f'kwargs["{name}"]', value) for name, value in kwargs.items()]
        raise refusal(labelled, _attempt, error) from error


def encode_value(value: object) -> tuple[bytes, list[Buffer] | None]:
    """The body of one value, as `encode_call`."""
    try:
        if type(value) in _BUFFERS:
            return _encode_with_frames(value)
        return _encode(value)
    except Exception as error:
        raise refusal([("the value", value)], _attempt, error) from error


def _encode(root: object) -> tuple[bytes, list[Buffer] | None]:
    try:
        # A packer for each document costs 80 ns; a shared one is safe neither from threads nor from finalisers.
        document = Packer(strict_types=True, default=_lower).pack(root)
    except (_ArrayForFrame, UnicodeEncodeError, BufferError, ValueError):
        return _encode_with_frames(root)
    if len(document) >= FRAME_MIN and (b"\xc5" in document or b"\xc6" in document):  # it may hold a long `bin`
        return _encode_with_frames(root)
    return document, None


def _encode_with_frames(root: object) -> tuple[bytes, list[Buffer] | None]:
    frames: list[Buffer] = []
    try:
        pulled = _pull(root, frames)
    except RecursionError:  # deeper than Python walks; whether it can be sent is for msgpack to say
        frames.clear()
        pulled = root
    lower = partial(_lower_to, frames)
    document = Packer(strict_types=True, default=lower, unicode_errors="surrogatepass").pack(pulled)
    return document, frames or None


def _attempt(value: object) -> Exception | None:
    try:
        _encode_with_frames(value)
    except Exception as error:
        return error
    return None


def _any_large(values: Iterable[Any]) -> bool:
    for value in values:  # noqa: SIM110 - `any` over a generator costs three times as much
        if type(value) in _BUFFERS and _nbytes(value) >= FRAME_MIN:
            return True
    return False


def _nbytes(buffer: Any) -> int:
    size: int = buffer.nbytes if type(buffer) is memoryview else len(buffer)
    return size


def _pull(value: Any, frames: list[Buffer]) -> object:
    """`value` with its large buffers moved to `frames`, in copies of the containers around them. Keys of dicts stay."""
    cls = type(value)
    if cls in _BUFFERS:
        return _pull_buffer(value, frames)
    if cls is list:
        return value if _LEAVES.issuperset(map(type, value)) else _pull_all([], value, frames)
    if cls is dict:
        return (
            value
            if _LEAVES.issuperset(map(type, value.values()))
            else dict(zip(value, _pull_all([], value.values(), frames), strict=True))
        )
    if cls in _GROUPS:
        return _pull_all([_GROUPS[cls]], value, frames)
    if cls in REGISTERED_TYPES:
        entry = REGISTERED_TYPES[cls]
        return [REGISTERED.mark, entry.name, _pull(entry.encode(value), frames)]
    return value


def _pull_all(into: list[Any], values: Iterable[object], frames: list[Buffer]) -> list[Any]:
    for value in values:  # no comprehension: in Python 3.11 each would halve the depth
        into.append(_pull(value, frames))
    return into


def _pull_buffer(value: Any, frames: list[Buffer]) -> object:
    if type(value) is memoryview:
        value = _flat(value)
    if _nbytes(value) < FRAME_MIN:
        return value
    frames.append(value)
    return [FRAME.mark, len(frames) - 1]


def _flat(view: memoryview) -> Buffer:
    """The bytes of a view in one dimension; copied only where they lie apart, or have a format of their own."""
    try:
        return view.cast("B")
    except TypeError:
        return view.tobytes()


class _ArrayForFrame(Exception):
    """An array is too large for the document, and no frames are being made."""


def _lower(value: Any) -> list[Any]:
    """Packer's `default` for a document without frames."""
    lower = LOWER.get(type(value))
    return lower(value) if lower is not None else _lower_other(value, None)


def _lower_to(frames: list[Buffer], value: Any) -> list[Any]:
    lower = LOWER.get(type(value))
    return lower(value) if lower is not None else _lower_other(value, frames)


def _lower_other(value: Any, frames: list[Buffer] | None) -> list[Any]:
    """Of numpy, or of a type that is met for the first time."""
    kind = kind_of(value)
    if kind == "scalar":
        LOWER[type(value)] = _lower_scalar
        return _lower_scalar(value)
    if kind is None:
        meet_imported_types()
        lower = LOWER.get(type(value))
        if lower is None:
            raise NoForm(type(value).__qualname__)
        return lower(value)
    if value.nbytes < FRAME_MIN:
        return [ARRAY.mark, *take_apart(value)]
    if frames is None:
        raise _ArrayForFrame
    dtype, shape, order, buffer = take_apart(value)
    frames.append(buffer)
    return [ARRAY.mark, dtype, shape, order, len(frames) - 1]


def _lower_scalar(value: Any) -> list[Any]:
    return [SCALAR.mark, *scalar_parts(value)]


# --- a body to values -----------------------------------------------------------------------------


def decode_call(document: Any, frames: Sequence[Any] = ()) -> tuple[list[Any], dict[str, Any]]:
    """The args and kwargs of a body that came from `encode_call`. `frames` are any buffers; arrays go on using theirs.

    Raises:
        UndecodableBody: whatever is wrong with the body, or a type in it that is not registered here.
    """
    call = decode_value(document, frames)
    if type(call) is list and 1 <= len(call) <= 2 and type(call[0]) is list:
        if len(call) == 1:
            return call[0], {}
        if type(call[1]) is dict and _NAMES.issuperset(map(type, call[1])):
            return call[0], call[1]
    raise UndecodableBody(reason="it is not the body of a call")


def decode_value(document: Any, frames: Sequence[Any] = ()) -> Any:
    """The value of a body that came from `encode_value`, as `decode_call`."""
    if not frames:
        try:
            return unpackb(document, strict_map_key=False, max_array_len=_UNCHECKED_MAX, ext_hook=_leave_to_decoder)
        except Exception:
            pass  # it has tags, or long lists, or is broken: the decoder tells
    try:
        return _Decoder(frames).decode(document)
    except UndecodableBody:
        raise
    except Exception as error:
        raise UndecodableBody(reason=_reason(error)) from error


def _leave_to_decoder(code: int, content: bytes) -> object:
    raise LookupError


class _Decoder:
    """1. Sees that a document is whole. 2. Rebuilds what the tags stand for. 3. Hands out each frame once."""

    __slots__ = ("_frames", "_open_tags")

    def __init__(self, frames: Sequence[Any]) -> None:
        #: By index. None once it is taken.
        self._frames = list(frames)
        #: Tags that were read and have not yet led a list: none is left at the end.
        self._open_tags = 0

    def decode(self, document: Any) -> object:
        """Raises UndecodableBody, or whatever msgpack or a constructor says of it."""
        if memoryview(document).nbytes > _UNCHECKED_MAX:
            _check_whole(document)
        value = unpackb(
            document,
            strict_map_key=False,
            ext_hook=self._tag,
            list_hook=self._rebuild,
            unicode_errors="surrogatepass",
        )
        if self._open_tags:
            raise UndecodableBody(reason="a tag stands where no tag may")
        if any(frame is not None for frame in self._frames):
            raise UndecodableBody(reason="more frames came than the document mentions")
        return value

    def _tag(self, code: int, content: bytes) -> Tag:
        tag = TAGS.get(code)
        if tag is None or content:
            raise UndecodableBody(reason=f"no tag has the number {code}: does the other side run a newer mesh?")
        self._open_tags += 1
        return tag

    def _rebuild(self, items: list[Any]) -> object:
        if not items or type(items[0]) is not Tag:
            return items
        self._open_tags -= 1
        tag: Tag = items[0]
        del items[0]
        return tag.rebuild(items) if tag.rebuild is not None else self._with_frames(tag, items)

    def _with_frames(self, tag: Tag, fields: list[Any]) -> object:
        if tag is SCALAR:
            return scalar_of(*fields)
        if tag is FRAME:
            return bytes(self._take(*fields))
        dtype, shape, order, buffer = fields
        return put_together(Parts(dtype, shape, order, buffer if type(buffer) is bytes else self._take(buffer)))

    def _take(self, index: int) -> Any:
        if type(index) is not int or not 0 <= index < len(self._frames) or self._frames[index] is None:
            raise UndecodableBody(reason=f"it mentions frame {index!r:.40}, which did not come or is used already")
        frame, self._frames[index] = self._frames[index], None
        return frame


def _check_whole(document: Any) -> None:
    """Raises unless the document begins with a complete value: then no list in it claims more items than it has."""
    size = memoryview(document).nbytes
    scanner = msgpack.Unpacker(max_buffer_size=size, read_size=size)
    scanner.feed(document)
    scanner.skip()


def _reason(error: Exception) -> str:
    if isinstance(error, msgpack.OutOfData):
        return "it is cut short"
    if isinstance(error, msgpack.ExtraData):
        return "there are bytes behind its end"
    if isinstance(error, msgpack.StackError):
        return "it nests deeper than 1,000 levels"
    return f"{type(error).__name__}: {error!s:.200}"
