"""Bytes <-> messages: the bytes are pinned; whatever comes in is a message of the right types or MalformedMessage."""

from __future__ import annotations

import math
import random
import tracemalloc
import types
import typing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from mesh import messages as m
from mesh.codec import NESTING_MAX, decode, encode
from mesh.exceptions import MalformedMessage
from mesh.ids import prefix, stamp
from mesh.states import Status

GOLDEN = Path(__file__).parent / "golden"

ID = stamp(prefix(b"owner!", 0x2_3456_789A), 7)
OTHER_ID = stamp(prefix(b"owner!", 0x2_3456_789A), 8)
BOOT = bytes(range(8))
OPTIONS = {
    "eta": 1_700_000_000.5,
    "expires": 1_700_000_060,
    "id": "order-7",
    "root": ID,
    "parent": ID,
    "headers": {"trace": [1, None, {"deep": True}]},
}

#: {name of the golden file: (message, frames behind it)}. Every message, each field with a value of its own.
EXAMPLES: dict[str, tuple[m.Message, int]] = {
    "hello": (m.Hello(1, 2, m.Role.SLOT, "default", 0x2_3456_789A, 4321, {"node": "w@h", "queues": ["celery"]}), 0),
    "hello_ok": (m.HelloOk(3, BOOT, b"owner!", 99, {"version": "1"}), 0),
    "hello_refused": (m.HelloRefused(2, "version", "this router speaks protocol 2"), 0),
    "need_hello": (m.NeedHello(BOOT), 0),
    "bye": (m.Bye("the client ends"), 0),
    "malformed": (m.Malformed("no list"), 0),
    "publish": (
        m.Publish(
            True,
            [
                [7, "shop.pay", "celery", 0, 0, b"body", 0, None],
                [8, "shop.ship", "slow", 9, int(m.Flag.EARLY_ACK), b"", 2, OPTIONS],
            ],
            [[1, 3], [5, 5]],
        ),
        2,
    ),
    "confirm": (m.Confirm(m.Durability.SYNCED, [[1, 5], [7, 7]], [[6, m.Refused.FULL, "it is full"]]), 0),
    "received": (m.Received([[1, 3], [9, 12]]), 0),
    "results": (m.Results([[ID, 0, b"value", 0], [OTHER_ID, 1, b"error", 3]]), 3),
    "reconcile": (m.Reconcile([[4, 4], [6, 4000]]), 0),
    "missing": (m.Missing([[5, 6]]), 0),
    "ask": (m.Ask(17, True, [ID, "order-7"]), 0),
    "states": (m.States(17, [[ID, ID, "STARTED", {"known": True}], ["order-7", None, "PENDING", None]]), 0),
    "tasks": (
        m.Tasks(
            31,
            29,
            [
                [ID, "shop.pay", 0, 0, b"body", 0, None],
                [OTHER_ID, "shop.ship", 2, int(m.Flag.REDELIVERED), b"", 1, OPTIONS],
            ],
        ),
        1,
    ),
    "outcomes": (m.Outcomes([[31, ID, 0, 1500, b"value", 0, True], [32, OTHER_ID, 2, 0, b"", 1, False]]), 1),
    "outcomes_retry": (
        m.Outcomes(
            [
                [31, ID, 3, 1500, b"why", 0, True, [1_700_000_000.5, None]],
                [32, OTHER_ID, 3, 0, b"why", 1, True, [1_700_000_000.5, b"body"]],
            ]
        ),
        1,
    ),
    "outcomes_unrunnable": (
        m.Outcomes(
            [
                [31, ID, 1, 90, b"error", 0, True, m.Unrunnable.UNKNOWN],
                [32, OTHER_ID, 1, 90, b"error", 0, False, m.Unrunnable.UNDECODABLE],
            ]
        ),
        0,
    ),
    "receipt": (m.Receipt(32), 0),
    "started": (m.Started(33, 1_700_000_000.25), 0),
    "returned": (m.Returned([34, 35]), 0),
    "blocked": (m.Blocked(True), 0),
    "recall": (m.Recall(1, 40), 0),
    "recalled": (m.Recalled(1, 4321, 36, 40), 0),
    "demand": (m.Demand(5), 0),
    "terminate": (m.Terminate(1, 4321, 36, 15), 0),
    "slot_lost": (m.SlotLost(1, 4321, 36, "killed by signal 9", True, 1.5), 0),
    "quiet": (m.Quiet("w@h"), 0),
    "ask_adoptions": (m.AskAdoptions(b"owner!"), 0),
    "adoptions": (m.Adoptions([[ID[:11], [[2, 3], [5, 5]]]]), 0),
    "request": (m.Request(5, "ping", {"limit": 3}, ["w@h"], 1.5), 0),
    "reply": (m.Reply(5, False, "unknown command"), 0),
    "replies": (m.Replies(5, {"w@h": {"ok": "pong"}}, {"v@h": "no answer in 1 s"}), 0),
}

#: What stands in a batch, by message and field.
RECORDS: dict[tuple[type[Any], str], type[Any]] = {
    (m.Publish, "calls"): m.Call,
    (m.Tasks, "tasks"): m.Assignment,
    (m.Outcomes, "outcomes"): m.Outcome,
    (m.Results, "results"): m.Result,
}

#: One of each kind of value, to stand where it does not belong.
ZOO: list[Any] = [
    *(None, True, False, 0, 1, -1, 1 << 40, (1 << 64) - 1, -(1 << 63), 1.5, math.nan, math.inf, "", "x", b"", b"x"),
    *(ID, [], [1], [[1]], [[1, 2]], [None], {}, {1: 2}, {"a": []}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1)),
]


def kind_of(message: object) -> int:
    return next(kind for kind, known in m.KINDS.items() if known is type(message))


def example_of(kind: type[Any]) -> tuple[Any, int]:
    return next(one for one in EXAMPLES.values() if type(one[0]) is kind)


def packed(*fields: object) -> bytes:
    raw: bytes = msgpack.packb(fields)
    return raw


def with_fields(message: Any, fields: list[Any]) -> bytes:
    return packed(kind_of(message), *fields)


def fits(value: object, hint: Any) -> bool:
    """Whether a decoded value is what the annotation says, read off the schema and not off the codec."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return type(value) is list and all(fits(one, inner[0]) for one in value)
    if origin is dict:
        return type(value) is dict
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return type(value) is hint


def assert_well_formed(message: Any) -> None:
    """The types are right throughout, and the message can be sent on."""
    hints = typing.get_type_hints(type(message))
    for name, value in zip(message._fields, message, strict=True):
        assert fits(value, hints[name]), (name, message)
        record = RECORDS.get((type(message), name))
        if record is None:
            continue
        inner = typing.get_type_hints(record)
        for row in value:
            common, more = row[: len(record._fields)], row[len(record._fields) :]
            if record is m.Outcome and more:
                assert fits(more.pop(), {Status.FAILURE: str, Status.RETRY: list[Any]}[row[2]]), message
            assert not more, message
            assert all(fits(one, inner[field]) for field, one in zip(record._fields, common, strict=True)), message
    encode(message)


def survives(header: bytes, n_frames: int) -> bool:
    """Whether it was taken for a message; then that is well formed. Anything but MalformedMessage escapes."""
    try:
        message = decode(header, n_frames)
    except MalformedMessage:
        return False
    assert_well_formed(message)
    return True


examples = pytest.mark.parametrize(("message", "n_frames"), EXAMPLES.values(), ids=list(EXAMPLES))


# --- what is meant to be understood --------------------------------------------------------------


def test_there_is_an_example_of_every_message():
    assert {type(message) for message, _ in EXAMPLES.values()} == set(m.KINDS.values())
    assert {path.stem for path in GOLDEN.iterdir()} == set(EXAMPLES)


@examples
def test_a_message_comes_out_as_it_went_in(message, n_frames):
    # When it is encoded and decoded
    decoded = decode(encode(message), n_frames)

    # Then it is the same, of the same types
    assert decoded == message
    assert_well_formed(decoded)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_bytes_on_the_wire_have_not_changed(name):
    # Given the bytes that releases before this one send and understand
    message, n_frames = EXAMPLES[name]
    path = GOLDEN / f"{name}.hex"
    assert path.exists(), f"new message: put {encode(message).hex()} into {path.name}"
    golden = bytes.fromhex(path.read_text())

    # Then this one sends and understands the same
    assert encode(message) == golden, "the wire changed: other releases will not understand it"
    assert decode(golden, n_frames) == message


@examples
def test_a_message_is_read_from_any_buffer(message, n_frames):
    assert decode(memoryview(bytearray(encode(message))), n_frames) == message


@examples
def test_fields_that_a_later_minor_version_adds_are_ignored(message, n_frames):
    for more in ([None], [1, "x"], [[[]], {"a": 1}]):
        assert decode(with_fields(message, [*message, *more]), n_frames) == message


def test_unknown_options_of_a_call_are_let_through():
    # Given an option that a later minor version has
    call = [1, "f", "q", 0, 0, b"", 0, {"later": [1, 2]}]

    # Then the call is taken with it
    assert decode(encode(m.Publish(False, [call]))) == m.Publish(False, [call])


def test_a_whole_number_may_stand_for_seconds():
    assert decode(packed(23, 1, 5)) == m.Started(1, 5)
    assert decode(packed(40, 1, "ping", {}, None, 2)) == m.Request(1, "ping", {}, None, 2)


def test_as_many_levels_as_are_allowed_pass():
    value: Any = 1
    for _ in range(NESTING_MAX):
        value = [value]
    assert decode(encode(m.Reply(1, True, value))) == m.Reply(1, True, value)


# --- what is not ---------------------------------------------------------------------------------


@examples
@pytest.mark.parametrize("off_by", [-1, 1, 4000])
def test_another_number_of_frames_than_the_records_own_is_malformed(message, n_frames, off_by):
    if n_frames + off_by < 0:
        off_by = 2
    with pytest.raises(MalformedMessage):
        decode(encode(message), n_frames + off_by)


@examples
def test_a_message_that_ends_early_is_malformed(message, n_frames):
    whole = encode(message)
    for length in range(len(whole)):
        with pytest.raises(MalformedMessage):
            decode(whole[:length], n_frames)


@examples
def test_bytes_behind_a_message_are_malformed(message, n_frames):
    for rest in (b"\x00", b"\xc0", encode(message)):
        with pytest.raises(MalformedMessage):
            decode(encode(message) + rest, n_frames)


@examples
def test_a_message_that_lacks_a_field_is_malformed(message, n_frames):
    for length in range(len(message)):
        with pytest.raises(MalformedMessage):
            decode(with_fields(message, list(message[:length])), n_frames)


@examples
def test_a_field_of_another_type_is_malformed(message, n_frames):
    # Given a message of which one field is of a type that the schema does not name
    hints = typing.get_type_hints(type(message))
    for at, name in enumerate(message._fields):
        for stranger in ZOO:
            header = with_fields(message, [*message[:at], stranger, *message[at + 1 :]])

            # Then it is refused
            if not fits(stranger, hints[name]):
                with pytest.raises(MalformedMessage):
                    decode(header, n_frames)
            # And where the type would do, so does the rest of it
            else:
                survives(header, n_frames)


@pytest.mark.parametrize(("kind", "field"), RECORDS, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_a_record_with_a_field_of_another_type_is_malformed(kind, field):
    # Given a batch of which one record has one field of a type that the schema does not name
    message, n_frames = example_of(kind)
    record = RECORDS[kind, field]
    hints = typing.get_type_hints(record)
    batch_at = message._fields.index(field)
    for row_at, row in enumerate(message[batch_at]):
        for at, name in enumerate(record._fields):
            for stranger in ZOO:
                batch = [list(one) for one in message[batch_at]]
                batch[row_at] = [*row[:at], stranger, *row[at + 1 :]]
                header = with_fields(message, [*message[:batch_at], batch, *message[batch_at + 1 :]])

                # Then it is refused
                if not fits(stranger, hints[name]):
                    with pytest.raises(MalformedMessage):
                        decode(header, n_frames)
                else:
                    survives(header, n_frames)


@pytest.mark.parametrize(("kind", "field"), RECORDS, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_a_record_of_another_shape_is_malformed(kind, field):
    message, n_frames = example_of(kind)
    at = message._fields.index(field)
    good = message[at][0]
    for bad in ([], good[:-1], [*good, None], dict.fromkeys(good, 1), "x" * len(good), bytes(len(good)), None, 3):
        header = with_fields(message, [*message[:at], [bad, *message[at][1:]], *message[at + 1 :]])
        with pytest.raises(MalformedMessage):
            decode(header, n_frames)


CALL = [1, "f", "q", 0, 0, b"", 0, None]
ASSIGNMENT = [ID, "f", 0, 0, b"", 0, None]
OUTCOME = [1, ID, 0, 0, b"", 0, True]
FAILED = [1, ID, 1, 0, b"", 0, True]


def changed(record: list[Any], at: int, value: Any) -> list[Any]:
    return [*record[:at], value, *record[at + 1 :]]


@pytest.mark.parametrize(
    ("desc", "header"),
    [
        ("nothing", b""),
        ("never used by msgpack", b"\xc1"),
        ("a number", packed()[:0] + b"\x16"),
        ("an array of nothing", packed()),
        ("a map whose keys are places", msgpack.packb({0: 22, 1: 5})),
        ("bytes that begin with a kind", msgpack.packb(bytes([22, 5]))),
        ("text", msgpack.packb("\x16\x05")),
        ("an unknown kind", packed(99, 1)),
        ("kind 0", packed(0)),
        ("a negative kind", packed(-1)),
        ("a kind that is true", packed(True, 1, 2, 1, "default", 5, 6, {})),
        ("a kind that is a float", packed(22.0, 5)),
        ("a kind that is a list", packed([22], 5)),
        ("a kind that is text", packed("22", 5)),
        ("text that is no UTF-8", b"\x92\x05\xa1\xff"),
        ("a map with a list for a key", b"\x98\x01\x01\x00\x01\xa1m\x05\x06\x81\x90\x01"),
        ("a time that can't be", b"\x93\x29\x05\xc7\x0c\xff" + b"\xff" * 12),
        ("a sequence twice", packed(10, False, [CALL, CALL], [])),
        ("sequences that go down", packed(10, False, [changed(CALL, 0, 2), CALL], [])),
        ("received ranges that overlap", packed(10, False, [CALL], [[1, 5], [2, 3]])),
        ("nothing received", packed(10, False, [CALL], None)),
        ("sequence 0", packed(10, False, [changed(CALL, 0, 0)], [])),
        ("a sequence that no id can hold", packed(10, False, [changed(CALL, 0, 1 << 40)], [])),
        ("priority 10", packed(10, False, [changed(CALL, 3, 10)], [])),
        ("priority -1", packed(10, False, [changed(CALL, 3, -1)], [])),
        ("frames fewer than none", packed(10, False, [changed(CALL, 6, -1), changed(changed(CALL, 0, 2), 6, 1)], [])),
        ("more frames than came", packed(10, False, [changed(CALL, 6, (1 << 64) - 1)], [])),
        ("an eta that is no number", packed(10, False, [changed(CALL, 7, {"eta": math.nan})], [])),
        ("an expires that is no number", packed(10, False, [changed(CALL, 7, {"expires": math.nan})], [])),
        ("an eta that is text", packed(10, False, [changed(CALL, 7, {"eta": "soon"})], [])),
        ("an eta that is true", packed(10, False, [changed(CALL, 7, {"eta": True})], [])),
        ("an id that is bytes", packed(10, False, [changed(CALL, 7, {"id": b"x"})], [])),
        ("a root that is text", packed(10, False, [changed(CALL, 7, {"root": "x"})], [])),
        ("headers that are a list", packed(10, False, [changed(CALL, 7, {"headers": []})], [])),
        ("an option whose name is a number", packed(10, False, [changed(CALL, 7, {1: 2})], [])),
        ("a short id", packed(20, 1, 0, [changed(ASSIGNMENT, 0, ID[:-1])])),
        ("a long id", packed(20, 1, 0, [changed(ASSIGNMENT, 0, ID + b"x")])),
        ("an attempt below none", packed(20, 1, 0, [changed(ASSIGNMENT, 2, -1)])),
        ("an attempt that no page can hold", packed(20, 1, 0, [changed(ASSIGNMENT, 2, 1 << 32)])),
        ("a lease below none", packed(20, -1, 0, [ASSIGNMENT])),
        ("a lease that no page can hold", packed(20, (1 << 64) - 1, 0, [ASSIGNMENT])),
        ("an unknown status", packed(21, [changed(OUTCOME, 2, 3)])),
        ("a negative status", packed(21, [changed(OUTCOME, 2, -1)])),
        ("less than no time", packed(21, [changed(OUTCOME, 3, -1)])),
        ("a success that could not run", packed(21, [[*OUTCOME, "unknown task"]])),
        ("a revoked task that could not run", packed(21, [[*changed(OUTCOME, 2, 2), "unknown task"]])),
        ("a failure for no reason", packed(21, [[*FAILED, ""]])),
        ("a failure for a long reason", packed(21, [[*FAILED, "x" * 201]])),
        ("a failure for a number", packed(21, [[*FAILED, 5]])),
        ("a failure to be retried", packed(21, [[*FAILED, [1.0, None]]])),
        ("a failure with a ninth field", packed(21, [[*FAILED, "unknown task", None]])),
        ("a failure that is true", packed(21, [[*changed(OUTCOME, 2, True), "unknown task"]])),
        ("a retry for a reason alone", packed(21, [[*changed(OUTCOME, 2, 3), "unknown task"]])),
        ("a retry at no time", packed(21, [[*changed(OUTCOME, 2, 3), [math.nan, None]]])),
        ("a retry at a whole second", packed(21, [[*changed(OUTCOME, 2, 3), [1, None]]])),
        ("a retry of a text", packed(21, [[*changed(OUTCOME, 2, 3), [1.0, "body"]]])),
        ("a success to be retried", packed(21, [[*OUTCOME, [1.0, None]]])),
        ("a revoked task to be retried", packed(21, [[*changed(OUTCOME, 2, 2), [1.0, None]]])),
        ("delivered by a number", packed(21, [changed(OUTCOME, 6, 1)])),
        ("a result with an unknown status", packed(13, [[ID, 7, b"", 0]])),
        ("ranges that overlap", packed(12, [[1, 5], [5, 9]])),
        ("ranges that go down", packed(12, [[7, 9], [1, 2]])),
        ("a range from its end", packed(14, [[5, 4]])),
        ("a range from 0", packed(14, [[0, 4]])),
        ("a range from below", packed(15, [[-3, 4]])),
        ("a range of three", packed(15, [[1, 2, 3]])),
        ("a range that is a map", packed(15, [{1: 0, 2: 0}])),
        ("a range of floats", packed(12, [[1.0, 2.0]])),
        ("a range beyond all sequences", packed(12, [[1, 1 << 40]])),
        ("confirmed ranges that overlap", packed(11, 0, [[1, 5], [2, 3]], [])),
        ("refused without a reason", packed(11, 0, [], [[1]])),
        ("refused by a map", packed(11, 0, [], [{1: 0, 2: 0}])),
        ("refused without a code", packed(11, 0, [], [[1, "full"]])),
        ("refused by a number", packed(11, 0, [], [[1, 5, "it is full"]])),
        ("refused below", packed(11, 0, [], [[-1, "full", "it is full"]])),
        ("refused beyond all sequences", packed(11, 0, [], [[1 << 40, "full", "it is full"]])),
        ("an id that is a number", packed(16, 1, False, [5])),
        ("a state of a list", packed(17, 1, [[[], None, "PENDING", None]])),
        ("a state with half an id", packed(17, 1, [[ID, b"x", "PENDING", None]])),
        ("a state that is a map", packed(17, 1, [{ID: 0, "": 1, "PENDING": 2, None: 3}])),
        ("a moment that is no number", packed(23, 1, math.nan)),
        ("a lease that is a float", packed(24, [1.0])),
        ("a lease that is true", packed(24, [True])),
        ("a patience that is no number", packed(40, 1, "ping", {}, None, math.nan)),
        ("a destination that is a number", packed(40, 1, "ping", {}, [1], 1.0)),
        ("a destination that is text", packed(40, 1, "ping", {}, "w@h", 1.0)),
        ("errors that are lists", packed(42, 1, {}, {"w@h": []})),
        ("a pid that no process can have", packed(1, 1, 0, 1, "m", 5, 1 << 40, {})),
        ("a negative pid", packed(1, 1, 0, 1, "m", 5, -1, {})),
    ],
    ids=lambda one: one.replace(" ", "-") if isinstance(one, str) else "",
)
def test_what_is_no_message_is_malformed(desc, header):
    with pytest.raises(MalformedMessage):
        decode(header, 0)


@pytest.mark.parametrize("form", [list, dict])
@pytest.mark.parametrize(
    ("desc", "build"),
    [
        ("a reply's value", lambda deep: (41, 1, True, deep)),
        ("the values of replies", lambda deep: (42, 1, {"n": deep}, {})),
        ("a request's arguments", lambda deep: (40, 1, "ping", {"n": deep}, None, 1.0)),
        ("what a hello tells", lambda deep: (1, 1, 0, 1, "m", 5, 6, {"n": deep})),
        ("what a hello's answer tells", lambda deep: (2, 0, BOOT, b"owner!", 6, {"n": deep})),
        ("an option of a call", lambda deep: (10, False, [changed(CALL, 7, {"headers": {"n": deep}})], [])),
        ("an unknown option", lambda deep: (10, False, [changed(CALL, 7, {"later": deep})], [])),
        ("an option of an assignment", lambda deep: (20, 1, 0, False, [changed(ASSIGNMENT, 6, {"n": deep})])),
        ("what is known of a state", lambda deep: (17, 1, [[ID, None, "PENDING", {"n": deep}]])),
        ("a call itself", lambda deep: (10, False, deep, [])),
        ("a kind", lambda deep: (deep,)),
        ("a field nobody knows", lambda deep: (22, 1, deep)),
    ],
    ids=lambda one: one.replace(" ", "-") if isinstance(one, str) else "",
)
def test_what_is_nested_too_deep_is_malformed_or_ignored(desc, build, form):
    # Given levels from a little too many up to far more than a stack holds
    for levels in (NESTING_MAX + 2, 400, 1_000, 100_000):
        # (put together from bytes, as msgpack itself does not pack the deepest)
        deep = (b"\x91" if form is list else b"\x81\xa1a") * levels + b"\x01"
        header = msgpack.packb(build("@")).replace(msgpack.packb("@"), deep)

        # Then none gets through that could not be sent on
        taken = survives(header, 0)
        assert not taken or (desc == "a field nobody knows" and levels <= 1_000)


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desc", "claim"),
    [
        ("array 16", b"\xdc\xff\xff"),
        ("array 32", b"\xdd\xff\xff\xff\xff"),
        ("array as long as the frame", b"\xdd\x00\x00\xff\x00"),
        ("map 16", b"\xde\xff\xff"),
        ("map 32", b"\xdf\xff\xff\xff\xff"),
        ("text 32", b"\xdb\xff\xff\xff\xff"),
        ("bytes 32", b"\xc6\xff\xff\xff\xff"),
        ("extension 32", b"\xc9\xff\xff\xff\xff\x05"),
    ],
    ids=lambda one: one.replace(" ", "-") if isinstance(one, str) else "",
)
@pytest.mark.parametrize("filler", [b"", b"\x01" * 65_000, b"\x90" * 65_000], ids=["bare", "numbers", "lists"])
def test_a_claim_of_length_takes_no_more_memory_than_what_came(desc, claim, filler):
    # Given headers that promise far more than they hold
    headers = [before + claim + filler for before in (b"", b"\x92\x0c", b"\x93\x0a\xc2", b"\x92\x0d\x91")]
    for header in headers:
        # When they are decoded
        tracemalloc.start()
        try:
            assert not survives(header, 0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        # Then what was allocated is in proportion to what came: one byte may be an empty list of 56 + 8 bytes
        assert peak < 200 * len(header) + 50_000


def test_refusing_a_large_message_does_not_copy_it_into_the_error():
    # Given a message whose fault is a very long text
    header = packed(10, False, [changed(CALL, 7, {"x" * 1_000_000: 1, "eta": "y" * 1_000_000})], [])

    # When it is refused
    with pytest.raises(MalformedMessage) as refused:
        decode(header)

    # Then the error, which is logged, is short
    assert len(str(refused.value)) < 200


# --- chance --------------------------------------------------------------------------------------


def mutated(chance: random.Random, header: bytearray, others: list[bytes]) -> bytes:
    """A header with a few faults: bits, bytes, pieces cut, doubled, or from another message."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(header) + 1)
        match chance.randrange(7):
            case 0 if at < len(header):
                header[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(header):
                header[at] = chance.choice(
                    b"\x00\x01\x7f\x80\x90\x9f\xa0\xc0\xc1\xc2\xc3\xc4\xca\xcb\xcf\xd3\xd9\xdc\xdd\xde\xdf\xff"
                )
            case 2:
                header[at:at] = chance.randbytes(chance.randint(1, 9))
            case 3:
                del header[at : at + chance.randint(1, 9)]
            case 4:
                piece = header[at : at + chance.randint(1, 30)]
                header[at:at] = piece
            case 5:
                other = chance.choice(others)
                start = chance.randrange(len(other))
                header[at : at + chance.randint(0, 9)] = other[start : start + chance.randint(1, 20)]
            case _:
                header[at:at] = msgpack.packb(chance.choice(ZOO))
        if not header:
            return b""
    return bytes(header)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_message_is_refused_or_a_message_of_the_right_types(seed):
    # Given the golden frames, damaged by chance
    chance = random.Random(seed)
    goldens = [(encode(message), n_frames) for message, n_frames in EXAMPLES.values()]
    others = [header for header, _ in goldens]
    taken = 0
    for _ in range(4_000):
        whole, n_frames = chance.choice(goldens)

        # When they are decoded, then nothing else comes of it
        taken += survives(mutated(chance, bytearray(whole), others), chance.choice((n_frames, n_frames, 0, 1)))

    # And the damage is neither so small nor so great that nothing was tried
    assert 0 < taken < 2_000


def rearranged(chance: random.Random, value: Any, depth: int = 0) -> Any:
    """A value like this one in which some parts are others."""
    if chance.random() < 0.08:
        return chance.choice(ZOO)
    if isinstance(value, list | tuple) and depth < 5:
        parts = [rearranged(chance, one, depth + 1) for one in value]
        if parts and chance.random() < 0.1:
            parts.append(chance.choice(parts))
        if parts and chance.random() < 0.05:
            parts.pop(chance.randrange(len(parts)))
        return parts
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.1:
        return value + chance.choice((-1, 1, 1 << 32, 1 << 40))
    return value


@pytest.mark.parametrize("seed", range(4))
def test_a_message_of_other_parts_is_refused_or_of_the_right_types(seed):
    # Given messages that are sound msgpack, with parts exchanged by chance
    chance = random.Random(seed)
    taken = 0
    for _ in range(4_000):
        message, n_frames = chance.choice(list(EXAMPLES.values()))
        header = packed(kind_of(message), *(rearranged(chance, field) for field in message))

        # When they are decoded, then nothing else comes of it
        taken += survives(header, n_frames)
    assert 0 < taken < 4_000
