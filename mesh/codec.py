"""Bytes <-> messages. Total: whatever comes in, `decode` gives a message of the right shape or raises MalformedMessage.

Every field of every message and record is checked here, once, so that the machines behind need not doubt types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isnan
from typing import Any, Final

import msgpack

from mesh import messages as m
from mesh.exceptions import MalformedMessage
from mesh.ids import ID_BYTES, OWNER_TAG_BYTES, PREFIX_BYTES, SEQUENCE_MAX
from mesh.states import Status

#: Levels of lists and maps in a field that holds whatever its sender likes: far below what can't be packed again.
NESTING_MAX: Final = 64
#: Pids and attempts are less.
_SMALL: Final = 1 << 31
#: Leases are less, so that numbering on from one never leaves what a word of the slot page holds.
_LEASES: Final = 1 << 62
_SEQUENCES: Final = SEQUENCE_MAX + 1
_FAILURE: Final = int(Status.FAILURE)
_RETRY: Final = int(Status.RETRY)

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
        if type(fields) is not list or type(fields[0]) is not int:
            raise TypeError("a message is a list that begins with its kind")
        kind = fields[0]
        if type(fields) is not list or type(kind) is not int:
            raise ValueError("not a list that begins with a kind")
        message, n_fields, check = _SHAPES[kind]
        decoded = message._make(fields[1:n_fields])
    except Exception as error:  # msgpack raises many kinds; all mean the same here
        raise MalformedMessage(f"{type(error).__name__}: {error}") from None
    try:
        claimed = check(decoded)
    except (TypeError, ValueError) as error:
        raise MalformedMessage(f"{message.__name__}: {error}") from None
    if claimed != n_frames:
        raise MalformedMessage(f"{message.__name__}: {n_frames} frames came, its records own {claimed}")
    return decoded  # type: ignore[no-any-return]


def decode_publish(header: bytes) -> m.Publish:
    """A Publish that was kept as it came; whoever took it has seen that it had the frames that it claims.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        fields = _unpack(header, strict_map_key=False)
        publish = m.Publish._make(fields[1 : len(m.Publish._fields) + 1])
        _publish(publish)
    except Exception as error:  # msgpack raises many kinds; all mean the same here
        raise MalformedMessage(f"a kept Publish: {type(error).__name__}: {error}") from None
    return publish


# --- checks: each raises TypeError or ValueError, and returns how many frames the records own ------


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _call_records(records: Any) -> int:
    _need(type(records) is list, "calls")
    frames = 0
    last = 0
    for record in records:
        sequence, name, queue, priority, flags, body, n_frames, options = record
        if not (
            type(record) is list
            and type(sequence) is int
            and type(name) is str
            and type(queue) is str
            and type(priority) is int
            and 0 <= priority <= 9
            and type(flags) is int
            and type(body) is bytes
            and type(n_frames) is int
            and n_frames >= 0
            and last < sequence < _SEQUENCES
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
    "retries": (int,),
    "root": (bytes,),
    "parent": (bytes,),
    "headers": (dict,),
    "limits": (list,),
}


def _call_options(options: Any) -> None:
    _need(type(options) is dict, "options")
    for key, value in options.items():
        _need(type(key) is str, "option")
        allowed = _OPTION_TYPES.get(key)
        _need(allowed is None or type(value) in allowed, f"option {key[:40]!r}")
        _need(type(value) is not float or not isnan(value), f"option {key[:40]!r} is not a number")
        _need(key != "retries" or 0 <= value < _SMALL, "retries out of bounds")
    _shallow(options)


def _assignment_records(records: Any) -> int:
    _need(type(records) is list, "tasks")
    frames = 0
    for record in records:
        task_id, name, attempt, flags, body, n_frames, options = record
        if not (
            type(record) is list
            and type(task_id) is bytes
            and len(task_id) == ID_BYTES
            and type(name) is str
            and type(attempt) is int
            and 0 <= attempt < _SMALL
            and type(flags) is int
            and type(body) is bytes
            and type(n_frames) is int
            and n_frames >= 0
            and (options is None or type(options) is dict)
        ):
            raise ValueError("task record")
        if options is not None:
            _shallow(options)
        frames += n_frames
    return frames


def _longer(record: Any) -> Any:
    """The seven common fields of an outcome that has an eighth."""
    _need(type(record) is list and len(record) == 8, "outcome record")
    *common, eighth = record
    if common[2] == _FAILURE:
        _need(type(eighth) is str and 0 < len(eighth) <= m.CAUSE_CHARS_MAX, "why it could not run")
    else:
        _retry(eighth)
    return common


def _retry(value: Any) -> None:
    _rows([value], 2, "retry")
    eta_wall_s, body = value
    _need(type(eta_wall_s) is float and not isnan(eta_wall_s), "when to retry")
    _need(body is None or type(body) is bytes, "what to retry")


def _outcome_records(records: Any) -> int:
    _need(type(records) is list, "outcomes")
    frames = 0
    for record in records:
        ends = len(record) == 7
        lease, task_id, status, runtime_us, body, n_frames, delivered = record if ends else _longer(record)
        if not (
            type(record) is list
            and type(lease) is int
            and type(task_id) is bytes
            and len(task_id) == ID_BYTES
            and type(status) is int
            and (0 <= status <= 2 if ends else status in (_FAILURE, _RETRY))
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
    for record in records:
        task_id, status, body, n_frames = record
        if not (
            type(record) is list
            and type(task_id) is bytes
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


def _rows(value: Any, width: int, what: str) -> None:
    _need(type(value) is list and all(type(row) is list and len(row) == width for row in value), what)


def _ranges(value: Any) -> None:
    _need(m.are_ranges(value, _SEQUENCES), "ranges")


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == ID_BYTES


def _ids(value: Any) -> None:
    _need(all(_is_id(one) or type(one) is str for one in value), "id")


def _states(value: Any) -> None:
    _rows(value, 4, "states")
    for asked, task_id, state, info in value:
        _need(_is_id(asked) or type(asked) is str, "state asked for")
        _need(task_id is None or _is_id(task_id), "state id")
        _need(type(state) is str and (info is None or type(info) is dict), "state")
        if info is not None:
            _shallow(info)


def _refused(value: Any) -> None:
    _rows(value, 3, "refused")
    for sequence, code, reason in value:
        _need(type(sequence) is int and 0 < sequence < _SEQUENCES, "refused")
        _need(type(code) is str and type(reason) is str, "refused")


def _tag(value: Any) -> None:
    _need(len(value) == OWNER_TAG_BYTES, "owner tag")


def _adopted(value: Any) -> None:
    _rows(value, 2, "adoptions")
    for prefix, ranges in value:
        _need(type(prefix) is bytes and len(prefix) == PREFIX_BYTES, "client prefix")
        _ranges(ranges)


def _below(limit: int) -> Callable[[int], None]:
    """A check of a number that counts something."""

    def check(value: int) -> None:
        _need(0 <= value < limit, "a number is out of bounds")

    return check


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if type(value) is dict else value


def _shallow(value: Any) -> None:
    """Refuses what is nested deeper than anybody needs: it could not be shown or packed again."""
    level = [value]
    for _ in range(NESTING_MAX + 1):
        level = [inner for one in level if type(one) in (list, dict) for inner in _inside(one)]
        if not level:
            return
    raise ValueError(f"nested deeper than {NESTING_MAX}")


def _publish(message: m.Publish) -> int:
    if type(message.confirm_now) is not bool:
        raise TypeError("confirm_now")
    _ranges(message.received)
    return _call_records(message.calls)


def _outcomes(message: m.Outcomes) -> int:
    return _outcome_records(message.outcomes)


def _results(message: m.Results) -> int:
    return _result_records(message.results)


def _tasks(message: m.Tasks) -> int:
    first, receipt, _ = message
    if not (type(first) is int and 0 <= first < _LEASES and type(receipt) is int and 0 <= receipt < _LEASES):
        raise TypeError("lease or receipt")
    return _assignment_records(message.tasks)


def _types(*types: type | None) -> Callable[[Any], int]:
    """A check of plain fields by exact type; None lets anything pass."""

    def check(message: Any) -> int:
        for value, wanted, name in zip(message, types, message._fields, strict=True):
            if wanted is float:
                if type(value) is int or (type(value) is float and not isnan(value)):
                    continue
            elif wanted is None or type(value) is wanted:
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


def _check_errors(value: Any) -> None:
    _need(all(type(key) is str and type(text) is str for key, text in value.items()), "errors")


def _check_destination(value: Any) -> None:
    _need(value is None or (type(value) is list and all(type(n) is str for n in value)), "destination")


_CHECKS: Final[dict[type[Any], Callable[[Any], int]]] = {
    m.Hello: _then(_types(int, int, int, str, int, int, dict), (5, _below(_SMALL)), (6, _shallow)),
    m.HelloOk: _then(_types(int, bytes, bytes, int, dict), (3, _below(_SMALL)), (4, _shallow)),
    m.HelloRefused: _types(int, str, str),
    m.NeedHello: _types(bytes),
    m.Bye: _types(str),
    m.Malformed: _types(str),
    m.Publish: _publish,
    m.Confirm: _then(_types(int, list, list), (1, _ranges), (2, _refused)),
    m.Received: _then(_types(list), (0, _ranges)),
    m.Results: _results,
    m.Reconcile: _then(_types(list), (0, _ranges)),
    m.Missing: _then(_types(list), (0, _ranges)),
    m.Ask: _then(_types(int, bool, list), (2, _ids)),
    m.States: _then(_types(int, list), (1, _states)),
    m.Tasks: _tasks,
    m.Outcomes: _outcomes,
    m.Receipt: _types(int),
    m.Started: _types(int, float),
    m.Returned: _then(_types(list), (0, _check_leases)),
    m.Blocked: _types(bool),
    m.Recall: _types(int, int),
    m.Recalled: _types(int, int, int, int),
    m.SlotLost: _types(int, int, int, str, bool, float),
    m.Quiet: _types(str),
    m.Demand: _types(int),
    m.Terminate: _types(int, int, int, int),
    m.AskAdoptions: _then(_types(bytes), (0, _tag)),
    m.Adoptions: _then(_types(list), (0, _adopted)),
    m.Request: _then(_types(int, str, dict, None, float), (2, _shallow), (3, _check_destination)),
    m.Reply: _then(_types(int, bool, None), (2, _shallow)),
    m.Replies: _then(_types(int, dict, dict), (1, _shallow), (2, _check_errors)),
}

#: {kind on the wire: (message, number of fields and one, check)}
_SHAPES: Final[dict[int, tuple[Any, int, Callable[[Any], int]]]] = {
    kind: (message, len(message._fields) + 1, _CHECKS[message])  # type: ignore[attr-defined]
    for kind, message in m.KINDS.items()
}
