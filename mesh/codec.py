"""Bytes <-> messages. Total: whatever comes in, `decode` gives a message of the right shape or raises MalformedMessage.

Every field of every message and record is checked here, once, so that the machines behind need not doubt types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack

from mesh import messages as m
from mesh.exceptions import MalformedMessage
from mesh.ids import ID_BYTES

_KIND_OF: Final = {message: kind for kind, message in m.KINDS.items()}
_pack: Final = msgpack.packb
_unpack: Final = msgpack.unpackb


def encode(message: m.Message) -> bytes:
    """The header frame of a message. Buffers of its records are sent behind it, as they are."""
    packed: bytes = _pack((_KIND_OF[type(message)], *message))
    return packed


def decode(header: Any, n_frames: int = 0) -> m.Message:
    """The message of a header frame that came with `n_frames` buffers behind it.

    Raises:
        MalformedMessage: no message of this protocol, or one whose records claim another number of frames.
    """
    try:
        fields = _unpack(header, strict_map_key=False)
        message = m.KINDS[fields[0]]
        known = len(message._fields)  # type: ignore[attr-defined]
        decoded = message(*fields[1 : known + 1])
    except Exception as error:  # msgpack raises many kinds; all mean the same here
        raise MalformedMessage(f"{type(error).__name__}: {error}") from None
    try:
        claimed = _CHECKS[message](decoded)
    except (TypeError, ValueError) as error:
        raise MalformedMessage(f"{message.__name__}: {error}") from None
    if claimed != n_frames:
        raise MalformedMessage(f"{message.__name__}: {n_frames} frames came, its records own {claimed}")
    return decoded  # type: ignore[return-value]


# --- checks: each raises TypeError or ValueError, and returns how many frames the records own ------


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _call_records(records: Any) -> int:
    _need(type(records) is list, "calls")
    frames = 0
    last = 0
    for sequence, name, queue, priority, flags, body, n_frames, options in records:
        if not (
            type(sequence) is int
            and type(name) is str
            and type(queue) is str
            and type(priority) is int
            and 0 <= priority <= 9
            and type(flags) is int
            and type(body) is bytes
            and type(n_frames) is int
            and n_frames >= 0
            and last < sequence < 1 << 40
        ):
            raise ValueError("call record")
        if options is not None:
            _call_options(options)
        last = sequence
        frames += n_frames
    return frames


_OPTION_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "eta": (float, int),
    "expires": (float, int),
    "id": (str,),
    "root": (bytes,),
    "parent": (bytes,),
    "headers": (dict,),
}


def _call_options(options: Any) -> None:
    _need(type(options) is dict, "options")
    for key, value in options.items():
        allowed = _OPTION_TYPES.get(key)
        _need(type(key) is str and (allowed is None or type(value) in allowed), f"option {key!r}")
        _need(type(value) is not float or value == value, f"option {key!r} is not a number")


def _assignment_records(records: Any) -> int:
    _need(type(records) is list, "tasks")
    frames = 0
    for task_id, name, attempt, flags, body, n_frames, options in records:
        if not (
            type(task_id) is bytes
            and len(task_id) == ID_BYTES
            and type(name) is str
            and type(attempt) is int
            and type(flags) is int
            and type(body) is bytes
            and type(n_frames) is int
            and n_frames >= 0
            and (options is None or type(options) is dict)
        ):
            raise ValueError("task record")
        frames += n_frames
    return frames


def _outcome_records(records: Any) -> int:
    _need(type(records) is list, "outcomes")
    frames = 0
    for lease, task_id, status, runtime_us, body, n_frames, delivered in records:
        if not (
            type(lease) is int
            and type(task_id) is bytes
            and len(task_id) == ID_BYTES
            and type(status) is int
            and 0 <= status <= 2
            and type(runtime_us) is int
            and runtime_us >= 0
            and type(body) is bytes
            and type(n_frames) is int
            and n_frames >= 0
            and type(delivered) is bool
        ):
            raise ValueError("outcome record")
        frames += n_frames
    return frames


def _result_records(records: Any) -> int:
    _need(type(records) is list, "results")
    frames = 0
    for task_id, status, body, n_frames in records:
        if not (
            type(task_id) is bytes
            and len(task_id) == ID_BYTES
            and type(status) is int
            and 0 <= status <= 2
            and type(body) is bytes
            and type(n_frames) is int
            and n_frames >= 0
        ):
            raise ValueError("result record")
        frames += n_frames
    return frames


def _ranges(value: Any) -> None:
    _need(type(value) is list, "ranges")
    previous = -1
    for first, last in value:
        _need(type(first) is int and type(last) is int and previous < first <= last, "ranges")
        previous = last


def _ids(value: Any) -> None:
    _need(type(value) is list, "ids")
    for one in value:
        _need((type(one) is bytes and len(one) == ID_BYTES) or type(one) is str, "id")


def _states(value: Any) -> None:
    _need(type(value) is list, "states")
    for _, task_id, state, info in value:
        _need(task_id is None or (type(task_id) is bytes and len(task_id) == ID_BYTES), "state id")
        _need(type(state) is str and (info is None or type(info) is dict), "state")


def _refused(value: Any) -> None:
    _need(type(value) is list, "refused")
    for sequence, reason in value:
        _need(type(sequence) is int and type(reason) is str, "refused")


def _types(*types: type | None) -> Callable[[Any], int]:
    """A check of plain fields by exact type; None lets anything pass."""

    def check(message: Any) -> int:
        for value, wanted, name in zip(message, types, message._fields, strict=True):
            if wanted is None or type(value) is wanted:
                continue
            if wanted is float and type(value) is int:
                continue
            raise TypeError(f"{name} is {type(value).__name__}")
        return 0

    return check


def _then(plain: Callable[[Any], int], *more: tuple[int, Callable[[Any], Any]]) -> Callable[[Any], int]:
    """A check of plain fields, then of the fields at the given places; record checks add up their frames."""

    def check(message: Any) -> int:
        plain(message)
        return sum(fn(message[place]) or 0 for place, fn in more)

    return check


def _check_leases(value: Any) -> None:
    _need(all(type(n) is int for n in value), "leases")


def _check_destination(value: Any) -> None:
    _need(value is None or (type(value) is list and all(type(n) is str for n in value)), "destination")


_CHECKS: Final[dict[type[Any], Callable[[Any], int]]] = {
    m.Hello: _types(int, int, int, str, int, int, dict),
    m.HelloOk: _types(int, bytes, bytes, int, dict),
    m.HelloRefused: _types(int, str, str),
    m.NeedHello: _types(bytes),
    m.Bye: _types(str),
    m.Malformed: _types(str),
    m.Publish: _then(_types(bool, list), (1, _call_records)),
    m.Confirm: _then(_types(int, list, list), (1, _ranges), (2, _refused)),
    m.Received: _then(_types(list), (0, _ranges)),
    m.Results: _then(_types(list), (0, _result_records)),
    m.Reconcile: _then(_types(list), (0, _ranges)),
    m.Missing: _then(_types(list), (0, _ranges)),
    m.Ask: _then(_types(int, bool, list), (2, _ids)),
    m.States: _then(_types(int, list), (1, _states)),
    m.Tasks: _then(_types(int, int, list), (2, _assignment_records)),
    m.Outcomes: _then(_types(list), (0, _outcome_records)),
    m.Receipt: _types(int),
    m.Started: _types(int, float),
    m.Returned: _then(_types(list), (0, _check_leases)),
    m.Recall: _types(int, int),
    m.Recalled: _types(int, int, int, int),
    m.SlotLost: _types(int, int, int, str, bool),
    m.Quiet: _types(str),
    m.Request: _then(_types(int, str, dict, None, float), (3, _check_destination)),
    m.Reply: _types(int, bool, None),
    m.Replies: _types(int, dict, dict),
}
