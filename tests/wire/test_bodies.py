"""User data there and back: exactly, uncopied, and safe against whatever comes in."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import math
import pathlib
import random
import subprocess
import sys
import threading
import tracemalloc
import types
import uuid
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pytest

from mesh import body_types
from mesh.bodies import FRAME_MIN, decode_call, decode_value, encode_call, encode_value
from mesh.body_types import register_type
from mesh.exceptions import ImproperlyConfigured, UndecodableBody, UnserialisableArgument

BERLIN = ZoneInfo("Europe/Berlin")
LARGE = bytes(range(256)) * (FRAME_MIN // 256)


class Colour(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    HIGH = 3


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Place(NamedTuple):
    x: int
    name: str = "here"


@dataclasses.dataclass
class Order:
    number: int
    lines: list[Any] = dataclasses.field(default_factory=list)
    total: float = dataclasses.field(init=False, default=0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int

    def __post_init__(self):
        if self.x < 0:
            raise ValueError("left of the edge")


class Money:
    def __init__(self, pence):
        self.pence = pence

    def __eq__(self, other):
        return type(other) is Money and other.pence == self.pence

    def __hash__(self):
        return hash(self.pence)


@pytest.fixture(autouse=True)
def _own_registry():
    """What a test registers is gone after it."""
    body_types.meet_imported_types()
    tables: tuple[dict[Any, Any], ...] = (body_types.LOWER, body_types.REGISTERED_TYPES, body_types._BY_NAME)
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def packed(value: object) -> tuple[bytes, list[Any]]:
    document, frames = encode_value(value)
    return document, frames or []


def packed_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, list[Any]]:
    document, frames = encode_call(args, kwargs)
    return document, frames or []


def there_and_back(value):
    return decode_value(*packed(value))


def nested(value: Any, levels: int) -> Any:
    return functools.reduce(lambda inner, _: [inner], range(levels), value)


def shape(value):
    """The value with every type spelled out, so that 1, True, 1.0 and -0.0 differ, and nan equals itself."""
    cls = type(value)
    if cls in (list, tuple):
        return cls, [shape(item) for item in value]
    if cls in (set, frozenset):
        return cls, sorted((shape(item) for item in value), key=repr)
    if cls is dict:
        return cls, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, dt.datetime | dt.time):
        return cls, repr(value), value.fold, type(value.tzinfo)
    return cls, repr(value)


EXACT: list[tuple[str, Any]] = [
    ("nothing", None),
    ("the booleans apart from 0 and 1", [True, False, 0, 1, 1.0]),
    ("integers around the edges of 64 bits", [0, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1]),
    ("integers far beyond them", [10**300, -(10**300), 2**64 - 1 << 64]),
    ("floats, with those that are no number", [0.0, -0.0, 1e308, 5e-324, math.nan, math.inf, -math.inf]),
    ("complex numbers", [1j, complex(-0.0, math.nan)]),
    ("text, with a lone surrogate as os.listdir gives them", ["", "ä€😀\0", "report-\udcff.txt", {"\udc80": "\ud800"}]),
    ("bytes", [b"", b"\xc1\x00" * 200]),
    ("an empty one of each container", [[], (), {}, set(), frozenset()]),
    ("tuples inside lists inside tuples", ((1, [2, (3,)]), [[()]], (None,))),
    (
        "a dict in its order, with keys of any hashable type",
        {"z": 1, "a": 2, 3: 4, (1, ("b",)): 5, None: 6, 2.5: 7, b"k": 8},
    ),
    (
        "keys and members of every hashable kind",
        {frozenset({1}): {(1, 2), frozenset({b"x"})}, dt.date.min: {2**70, 1j}},
    ),
    ("keys that are dates, ids, paths", {dt.date(2024, 2, 29): 1, uuid.UUID(int=7): 2, pathlib.PurePosixPath("/x"): 3}),
    ("ranges", [range(3), range(5, -5, -2), range(2**70)]),
    ("a naive datetime", dt.datetime(2024, 10, 27, 2, 30, 0, 1)),
    ("the first and the last datetime", [dt.datetime.min, dt.datetime.max]),
    ("a datetime in UTC", dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
    (
        "a datetime at an odd offset",
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(-dt.timedelta(minutes=3, microseconds=7))),
    ),
    ("the second 2:30 of the night summer time ends", dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)),
    ("a naive datetime that is folded", dt.datetime(2024, 10, 27, 2, 30, fold=1)),
    (
        "times, with and without a zone",
        [dt.time(1, 2, 3, 4), dt.time(1, fold=1), dt.time(1, tzinfo=dt.UTC), dt.time(2, tzinfo=BERLIN)],
    ),
    ("durations", [dt.timedelta(0), dt.timedelta.min, dt.timedelta.max, dt.timedelta(microseconds=-1)]),
    (
        "decimals",
        [decimal.Decimal(text) for text in ("0.10", "-0", "1E+999999", "NaN12", "sNaN", "-Infinity", "1" * 60)],
    ),
    ("ids", uuid.uuid4()),
    (
        "paths",
        [pathlib.Path("a/b"), pathlib.PurePosixPath("/ä"), pathlib.PureWindowsPath("C:\\x"), pathlib.Path("\udcff")],
    ),
    (
        "numbers of numpy",
        [np.float64(1.5), np.int8(-3), np.bool_(True), np.complex64(1j), np.datetime64("2024-01-01T00:00", "s")],
    ),
    ("texts of numpy", [np.str_("ä"), np.str_(""), np.bytes_(b"x"), np.bytes_(b"")]),
    ("numbers of numpy as keys", {np.int64(1): np.float32(2)}),
]


@pytest.mark.parametrize(("desc", "value"), EXACT, ids=[desc for desc, _ in EXACT])
def test_a_value_comes_back_exactly(desc, value):
    assert shape(there_and_back(value)) == shape(value)


@pytest.mark.parametrize(("desc", "value"), EXACT, ids=[desc for desc, _ in EXACT])
def test_a_value_comes_back_exactly_from_within_a_call(desc, value):
    # Given a call that has it at every kind of place
    args, kwargs = (value, [{"deep": (value, [value])}]), {"name": value}

    # When it travels
    document, frames = packed_call(args, kwargs)
    args_back, kwargs_back = decode_call(document, frames)

    # Then every place has it, and the call has its form
    assert shape(args_back) == shape(list(args))
    assert shape(kwargs_back) == shape(kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((2, 2), {}), ((), {"a": 1}), (([],), {"self": None, "args": 2}), (({},), {})]
)
def test_a_call_comes_back_as_a_list_and_a_dict(args, kwargs):
    document, frames = packed_call(args, kwargs)
    assert not frames
    assert decode_call(document) == (list(args), kwargs)


def test_arguments_may_be_given_in_any_sequence_and_mapping():
    document, frames = encode_call([1, 2], collections.OrderedDict(a=3))
    assert decode_call(document) == ([1, 2], {"a": 3})
    assert frames is None


@pytest.mark.parametrize(
    ("desc", "value", "wire"),
    [
        ("tuple", (1,), "92c7000101"),
        ("set", {1}, "92c7000201"),
        ("frozenset", frozenset({1}), "92c7000301"),
        ("large int", 2**64, "92c70004c409010000000000000000"),
        ("complex", 1j, "93c70005cb0000000000000000cb3ff0000000000000"),
        ("datetime", dt.datetime(1, 1, 1), "93c70006b3303030312d30312d30315430303a30303a303000"),
        ("date", dt.date(1, 1, 1), "92c70007aa303030312d30312d3031"),
        ("time", dt.time(1), "93c70008a830313a30303a303000"),
        ("timedelta", dt.timedelta(1, 2, 3), "94c70009010203"),
        ("decimal", decimal.Decimal("1.0"), "92c7000aa3312e30"),
        ("uuid", uuid.UUID(int=1), "92c7000bc41000000000000000000000000000000001"),
        ("path", pathlib.PurePosixPath("a"), "93c7000c01a161"),
        ("range", range(1, 2, 3), "94c7000d010203"),
        ("frame", LARGE, "92c7000e00"),
        ("array", np.array([1], "<u2"), "95c7000fa33c75329101a143c4020100"),
        ("scalar", np.uint8(1), "93c70010a37c7531c40101"),
        ("registered", Colour.RED, "93c70011a6636f6c6f7572a3524544"),
    ],
)
def test_the_bytes_of_each_tag_stay_what_they_are(desc, value, wire):
    # Two versions of mesh may talk to each other: a tag's number and fields are never changed.
    register_type(Colour, name="colour")
    assert encode_value(value)[0].hex() == wire


def test_the_bytes_of_a_call_stay_what_they_are():
    assert encode_call((2, 2), {})[0].hex() == "91920202"
    assert encode_call((2,), {"a": None})[0].hex() == "92910281a161c0"


# --- buffers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"cXbXa")[::-2]])
def test_every_kind_of_buffer_arrives_as_bytes(buffer):
    wanted = buffer.tobytes() if isinstance(buffer, memoryview) else bytes(buffer)
    assert shape(there_and_back([buffer, (buffer,)])) == shape([wanted, (wanted,)])


@pytest.mark.parametrize(
    ("desc", "args", "kwargs"),
    [
        ("an argument", (LARGE,), {}),
        ("a named argument", (), {"data": LARGE}),
        ("inside a list inside a dict", ([{"rows": [1, LARGE]}],), {}),
        ("inside a tuple inside a tuple", (((LARGE,), 1),), {}),
        ("inside a set", ({LARGE},), {}),
        ("among tagged values", (dt.date.min, [2**70, LARGE, (1,)]), {}),
        ("beside a text that is no UTF-8", ("\udcff", LARGE), {}),
        ("300 levels down", (nested(LARGE, 300),), {}),
    ],
)
def test_large_bytes_travel_as_a_frame_of_their_own_uncopied(desc, args, kwargs):
    # When
    document, frames = packed_call(args, kwargs)

    # Then the frame is the very object, the document is small, and nothing is lost
    assert len(frames) == 1
    assert frames[0] is LARGE
    assert len(document) < 1000
    assert shape(decode_call(document, frames)) == shape((list(args), kwargs))


def test_large_bytes_inside_a_registered_type_travel_as_a_frame():
    # Given
    register_type(Order)
    order = Order(1, [LARGE])

    # When
    document, frames = packed([order])

    # Then
    assert frames[0] is LARGE
    assert decode_value(document, frames) == [order]


def test_a_received_frame_of_bytes_is_handed_on_uncopied():
    document, _ = encode_value(LARGE)
    assert decode_value(document, [LARGE]) is LARGE


def test_a_large_bytearray_and_a_large_view_are_not_copied():
    # Given a bytearray, and a view of numbers over another one
    array, memory = bytearray(LARGE), bytearray(LARGE)
    view = memoryview(memory).cast("I")

    # When both are encoded
    document, frames = packed_call((array, view), {})

    # Then the frames are their memory, in plain bytes
    assert frames[0] is array
    assert frames[1].obj is memory
    assert (frames[1].format, frames[1].nbytes) == ("B", FRAME_MIN)
    assert shape(decode_call(document, frames)[0]) == shape([LARGE, LARGE])


def test_a_view_that_is_not_contiguous_is_sent_by_copy():
    view = memoryview(LARGE * 2)[::2]
    document, frames = packed([view])
    assert decode_value(document, frames) == [view.tobytes()]


def test_frames_begin_at_their_size():
    assert encode_value(LARGE[1:])[1] is None
    assert encode_value([LARGE[1:]])[1] is None
    assert encode_value([[LARGE]])[1] == [LARGE]


def test_a_large_document_without_large_buffers_has_no_frames():
    value = [["é" * 50, b"\xc5\xc6" * 50, {"k": 1.5}] for _ in range(500)]
    document, frames = packed(value)
    assert not frames
    assert decode_value(document) == value


# --- numpy ----------------------------------------------------------------------------------------

STRUCTURED = np.dtype([("id", "<i4"), ("where", ">f8", (2,)), ("name", "U3")], align=True)
ARRAYS: list[tuple[str, Any]] = [
    ("of bytes in C order", np.arange(FRAME_MIN, dtype="u1").reshape(64, -1)),
    ("of floats in F order", np.asfortranarray(np.arange(FRAME_MIN, dtype="f8").reshape(64, -1))),
    ("of big-endian numbers in three dimensions", np.arange(FRAME_MIN, dtype=">i4").reshape(4, 8, -1)),
    ("of datetimes, which export no buffer", np.arange(FRAME_MIN).astype("M8[25s]")),
    ("of durations in F order", np.asfortranarray(np.arange(FRAME_MIN).astype("m8[ns]").reshape(2, -1))),
    ("of records", np.zeros(FRAME_MIN, STRUCTURED)),
    ("of texts", np.full(FRAME_MIN, "añ")),
    ("of booleans", np.arange(FRAME_MIN) % 3 == 0),
]
SMALL_ARRAYS: list[tuple[str, Any]] = [
    ("empty", np.zeros((0, 3))),
    ("of no dimension", np.array(7)),
    ("of records", np.ones(3, STRUCTURED)),
    ("in F order", np.asfortranarray(np.arange(6).reshape(2, 3))),
    ("reversed", np.arange(6)[::-1]),
    ("broadcast", np.broadcast_to(np.int32(1), (2, 3))),
]


def assert_same_array(came, sent):
    assert type(came) is np.ndarray
    assert (came.dtype, came.shape) == (sent.dtype, sent.shape)
    assert came.tobytes() == sent.tobytes()
    assert not came.flags.writeable


@pytest.mark.parametrize(("desc", "array"), ARRAYS, ids=[desc for desc, _ in ARRAYS])
def test_a_large_array_travels_uncopied_both_ways(desc, array):
    # When it is sent deep in a call
    document, frames = packed_call(([{"a": (array,)}],), {})

    # Then the frame is its memory, and flat bytes
    assert np.shares_memory(np.frombuffer(frames[0], "u1"), array)
    assert memoryview(frames[0]).format == "B"
    assert memoryview(frames[0]).ndim == 1

    # And what arrives lies over the frame, in the same order
    (came,) = decode_call(document, frames)[0][0][0]["a"]
    assert_same_array(came, array)
    assert np.shares_memory(came, array)
    assert came.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize(("desc", "array"), SMALL_ARRAYS, ids=[desc for desc, _ in SMALL_ARRAYS])
def test_a_small_array_travels_inline(desc, array):
    document, frames = packed([array])
    assert not frames
    (came,) = decode_value(document)
    assert_same_array(came, array)
    assert came.flags.f_contiguous or not array.flags.f_contiguous


def test_a_large_array_that_is_not_contiguous_is_sent_by_copy():
    array = np.arange(FRAME_MIN * 2)[::2]
    document, frames = packed(array)
    assert_same_array(decode_value(document, frames), array)


def test_an_array_over_a_writable_frame_is_read_only_too():
    array = np.arange(FRAME_MIN)
    document, frames = packed(array)
    assert_same_array(decode_value(document, [bytearray(frames[0])]), array)


def test_a_record_of_numpy_comes_back_as_one():
    record = np.ones(2, STRUCTURED)[0]
    came = there_and_back(record)
    assert (type(came), came.dtype, came) == (np.void, STRUCTURED, record)


def test_a_missing_numpy_is_named_with_the_package_to_install(monkeypatch):
    # Given a body with an array, and a process without numpy
    document, _ = encode_value(np.arange(3))
    monkeypatch.setitem(sys.modules, "numpy", None)

    # When it arrives, then
    with pytest.raises(UndecodableBody, match=r"pip install mesh-tasks\[numpy\]"):
        decode_value(document)


def test_numpy_is_not_imported_for_values_without_it():
    program = (
        "import sys, mesh.bodies as b\n"
        "d, f = b.encode_value([(1,), {2}, b'x' * 99999])\n"
        "b.decode_value(d, f)\n"
        "try: b.encode_value(object())\n"
        "except TypeError: pass\n"
        "sys.exit('numpy' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("desc", "value", "remedy"),
    [
        ("of objects", np.array([object()]), "tolist"),
        ("of records with objects", np.zeros(1, [("a", "O")]), "tolist"),
        ("of a class of records", np.rec.array([(1,)], [("a", int)]).view(np.ndarray), "a standard one"),
        (
            "of fields that overlap",
            np.zeros(1, {"names": "ab", "formats": ["u4", "u4"], "offsets": [0, 2]}),
            "standard",
        ),
        ("masked", np.ma.masked_array([1], [True]), "numpy.asarray"),
        ("with records as attributes", np.rec.array([(1,)], [("a", int)]), "numpy.asarray"),
    ],
)
def test_an_array_that_is_more_than_its_bytes_is_refused(desc, value, remedy):
    with pytest.raises(UnserialisableArgument, match=remedy):
        encode_value(value)


# --- registered types -----------------------------------------------------------------------------

REGISTRABLE: list[tuple[str, Any, dict[str, Any]]] = [
    ("an Enum", Colour.RED, {}),
    ("an IntEnum", Level.HIGH, {}),
    ("flags, combined", Access.READ | Access.WRITE, {}),
    ("flags, none of them", Access(0), {}),
    ("a frozen dataclass with slots", Point(1, 2), {}),
    ("a dataclass with a field that __init__ does not take", Order(1, [(2, decimal.Decimal(3))]), {}),
    ("a named tuple", Place(3), {}),
    (
        "a class with functions",
        Money(5),
        {"encode": lambda money: (money.pence,), "decode": lambda fields: Money(*fields)},
    ),
    (
        "a subclass of dict",
        collections.OrderedDict(b=1, a=2),
        {"encode": lambda value: list(value.items()), "decode": collections.OrderedDict},
    ),
]


@pytest.mark.parametrize(("desc", "value", "functions"), REGISTRABLE, ids=[desc for desc, *_ in REGISTRABLE])
def test_a_registered_type_comes_back_as_itself_wherever_it_stands(desc, value, functions):
    # Given
    register_type(type(value), **functions)

    # When
    document, frames = packed_call((value, [{"deep": (value,)}]), {"name": value})
    args, kwargs = decode_call(document, frames)

    # Then
    assert args == [value, [{"deep": (value,)}]]
    assert kwargs == {"name": value}
    assert type(args[0]) is type(value)


@pytest.mark.parametrize("value", [Colour.RED, Level.HIGH, Point(1, 2), Place(3), Money(5)])
def test_a_registered_type_may_be_a_key_and_a_member(value):
    functions: dict[str, Any] = {"encode": lambda money: money.pence, "decode": Money} if type(value) is Money else {}
    register_type(type(value), **functions)
    assert there_and_back({value: {value}}) == {value: {value}}


def test_register_type_serves_as_a_decorator():
    @register_type
    @dataclasses.dataclass
    class Local:
        a: int

    assert there_and_back(Local(1)) == Local(1)


def test_fields_that_init_does_not_take_keep_their_values():
    register_type(Order)
    order = Order(1)
    order.total = 9.5
    assert there_and_back(order).total == 9.5


def test_a_dataclass_comes_back_without_its_checks_being_run_again():
    register_type(Point)
    point = object.__new__(Point)
    object.__setattr__(point, "x", -1)
    object.__setattr__(point, "y", 0)
    assert there_and_back(point).x == -1


def test_a_field_the_sender_did_not_know_takes_its_default():
    # Given a sender whose version of the class has one field
    register_type(Money, name="order", encode=lambda money: {"number": money.pence}, decode=Money)
    document, _ = encode_value(Money(4))

    # When the receiver's version has three
    body_types._BY_NAME.clear()
    register_type(Order, name="order")

    # Then
    assert decode_value(document) == Order(4, [])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"lines": []}, "'number' did not come"),
        ({"number": 1, "colour": 2}, "does not have: 'colour'"),
        (7, "not rebuilt"),
    ],
)
def test_a_dataclass_of_another_version_is_undecodable_and_says_why(fields, reason):
    # Given a sender with another version of the class
    register_type(Money, name="order", encode=lambda money: money.pence, decode=Money)
    document, _ = encode_value(Money(fields))
    body_types._BY_NAME.clear()
    register_type(Order, name="order")

    # When, then
    with pytest.raises(UndecodableBody, match=reason):
        decode_value(document)


def test_a_type_that_is_not_registered_here_is_named():
    # Given
    register_type(Colour)
    document, _ = encode_value(Colour.RED)
    body_types._BY_NAME.clear()

    # When, then
    with pytest.raises(UndecodableBody, match=rf"{__name__}:Colour.*register_type"):
        decode_value(document)


def test_a_decode_function_that_fails_makes_the_body_undecodable():
    register_type(Money, encode=lambda money: 0, decode=lambda value: 1 // value)
    document, _ = encode_value(Money(1))
    with pytest.raises(UndecodableBody, match=r"Money.*ZeroDivisionError"):
        decode_value(document)


@pytest.mark.parametrize(
    ("desc", "arguments", "reason"),
    [
        ("a built-in type", {"cls": dict}, "nothing to register"),
        ("a class without a form", {"cls": Money}, "encode= and decode="),
        ("one function", {"cls": Money, "encode": str}, "neither"),
        ("a name that is taken", {"cls": Point, "name": "taken"}, "another name="),
    ],
)
def test_a_registration_that_can_not_work_is_refused(desc, arguments, reason):
    register_type(Colour, name="taken")
    with pytest.raises(ImproperlyConfigured, match=reason):
        register_type(**arguments)


def test_types_of_modules_that_nobody_has_imported_are_met_when_they_come():
    # Given a process that has imported neither
    code = """
import sys, types
from mesh.bodies import decode_value, encode_value
from mesh.body_types import register_type
from mesh.exceptions import ImproperlyConfigured, UnserialisableArgument
assert not {"decimal", "uuid", "zoneinfo"} & set(sys.modules)
def there_and_back(value):
    document, frames = encode_value(value)
    return decode_value(document, frames or ())

# When one of them comes, then its type travels, is decoded, and can't be registered
import decimal
try:
    register_type(decimal.Decimal)
except ImproperlyConfigured as error:
    print(error)
assert there_and_back(decimal.Decimal("1.50")) == decimal.Decimal("1.50")

# And one that has only the name of another is none of ours
sys.modules["uuid"] = types.ModuleType("uuid")
try:
    encode_value(object())
except UnserialisableArgument as error:
    print(error)
del sys.modules["uuid"]
import uuid
assert there_and_back(uuid.UUID(int=7)) == uuid.UUID(int=7)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    said = ended.stdout.splitlines()
    assert "Decimal travels as it is" in said[0]
    assert "the value of type object can't be sent: pass plain data" in said[1]


def test_a_time_travels_while_another_thread_imports_zoneinfo(monkeypatch):
    monkeypatch.setitem(sys.modules, "zoneinfo", types.ModuleType("zoneinfo"))
    assert there_and_back(dt.datetime(2026, 1, 2, tzinfo=dt.UTC)) == dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


def test_a_class_may_be_registered_again_as_after_a_reload():
    register_type(Colour, name="colour")
    register_type(Colour, name="colour")
    assert there_and_back(Colour.RED) is Colour.RED


# --- what is refused ------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("args", "kwargs", "where", "type_name", "remedy"),
    [
        ((1, {"x": object()}), {}, 'args[1]["x"]', "object", "plain data"),
        ((), {"job": [(1, Money(1))]}, 'kwargs["job"][0][1]', f"{__name__}.Money", "register_type(Money, encode="),
        ((Colour.RED,), {}, "args[0]", f"{__name__}.Colour", "register_type(Colour) in a module"),
        (({7: Level.HIGH},), {}, "args[0][7]", f"{__name__}.Level", "register_type(Level) in a module"),
        (([Place(1)],), {}, "args[0][0]", f"{__name__}.Place", "register_type(Place) in a module"),
        (({Point(1, 2): 1},), {}, "args[0].keys()[0]", f"{__name__}.Point", "register_type(Point) in a module"),
        ((collections.OrderedDict(),), {}, "args[0]", "collections.OrderedDict", "pass dict(...)"),
        ((collections.defaultdict(list),), {}, "args[0]", "collections.defaultdict", "pass dict(...)"),
        ((Text("a"),), {}, "args[0]", f"{__name__}.Text", "pass str(...)"),
        ((iter([1]),), {}, "args[0]", "list_iterator", "pass list(...)"),
        ((len,), {}, "args[0]", "builtin_function_or_method", "make it a task"),
        (
            ({frozenset({1, Colour.RED})},),
            {},
            f"args[0]{{an item of type frozenset}}{{an item of type {__name__}.Colour}}",
            f"{__name__}.Colour",
            "register_type(Colour)",
        ),
    ],
)
def test_a_value_without_a_form_is_refused_with_its_place_and_the_remedy(args, kwargs, where, type_name, remedy):
    with pytest.raises(UnserialisableArgument) as caught:
        encode_call(args, kwargs)
    assert (caught.value.where, caught.value.type_name) == (where, type_name)
    assert remedy in str(caught.value)


def test_a_place_inside_a_registered_type_is_named():
    register_type(Order)
    with pytest.raises(UnserialisableArgument) as caught:
        encode_value([Order(1, [Money(2)])])
    assert caught.value.where == "the value[0].lines[0]"


def test_an_encode_function_that_fails_is_named_as_the_reason():
    register_type(Money, encode=lambda money: 1 // 0, decode=Money)
    with pytest.raises(UnserialisableArgument, match="ZeroDivisionError") as caught:
        encode_call(([Money(1)],), {})
    assert caught.value.where == "args[0][0]"


def test_names_of_arguments_must_be_text():
    with pytest.raises(UnserialisableArgument, match="kwargs"):
        packed_call((), {1: 2})  # type: ignore[dict-item]


def test_a_list_that_contains_itself_is_refused():
    knot: list[Any] = [1]
    knot.append({"again": (knot,)})
    with pytest.raises(UnserialisableArgument, match="contains itself"):
        encode_call((knot,), {})


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"k": inner}])
def test_nesting_of_500_levels_travels_and_of_100_000_is_refused(wrap):
    # Given
    value = LARGE
    for _ in range(500):
        value = wrap(value)

    # When, then
    document, frames = packed(value)
    came = decode_value(document, frames)
    for _ in range(500):
        (came,) = came.values() if isinstance(came, dict) else came
    assert came == LARGE

    # And far more is refused without a crash
    for _ in range(100_000):
        value = wrap(value)
    with pytest.raises(UnserialisableArgument, match="nests deeper"):
        encode_value(value)


# --- threads and finalisers -----------------------------------------------------------------------


def test_many_threads_may_encode_and_decode_at_once():
    # Given values whose encoding runs Python, so that threads change in the middle
    register_type(Order)
    values = [[(index, Order(index, [str(index)] * index))] * 20 for index in range(8)]
    wrong: list[int] = []

    def work(value):
        wrong.extend(1 for _ in range(50) if there_and_back(value) != value)

    # When
    threads = [threading.Thread(target=work, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    # Then
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_a_call_may_be_encoded_while_another_is():
    # Given a type whose encode function itself encodes, as a finaliser that calls a task would
    register_type(
        Money, encode=lambda money: encode_value([(money.pence,)])[0], decode=lambda d: Money(decode_value(d)[0][0])
    )

    # When, then
    value = [1, Money(2), "x", [Money(3)]]
    assert there_and_back(value) == value


# --- hostile bodies -------------------------------------------------------------------------------


def tag(code, *fields):
    return [msgpack.ExtType(code, b""), *fields]


HOSTILE: list[tuple[str, Any, str]] = [
    ("nothing", b"", "incomplete|short"),
    ("cut short", encode_value([1, "abc"])[0][:-1], "incomplete|short"),
    ("long and cut short", encode_value(list(range(5000)))[0][:-1], "cut short"),
    ("bytes behind its end", encode_value([1])[0] + b"\x00", "behind its end"),
    ("a byte that msgpack never uses", b"\xc1", "Format"),
    ("100,000 lists in each other", b"\x91" * 100_000 + b"\xc0", "nests deeper"),
    ("100,000 dicts in each other", b"\x81\x01" * 100_000 + b"\xc0", "nests deeper"),
    ("100,000 tuples in each other", b"\x92\xc7\x00\x01" * 100_000 + b"\xc0", "nests deeper"),
    ("text that is no UTF-8", b"\xa1\xff", "Unicode"),
    ("a list as a key", b"\x81\x90\x01", "unhashable"),
    ("a list as a member of a set", tag(2, [1]), "unhashable"),
    ("a tag that does not exist", tag(99, 1), "number 99"),
    ("a tag with content", [msgpack.ExtType(1, b"x"), 1], "number 1"),
    ("a tag in the middle of a list", [1, *tag(1)], "no tag may"),
    ("a tag alone", msgpack.ExtType(1, b""), "no tag may"),
    ("a tag as a value of a dict", {"a": msgpack.ExtType(1, b"")}, "no tag may"),
    ("a tag behind another", [*tag(1), *tag(1)], "no tag may"),
    ("a frame that did not come", tag(14, 0), "frame 0"),
    ("an array of negative size", tag(15, "|u1", [-2, -2], "C", b"1234"), "negative"),
    ("an array of more dimensions than there are", tag(15, "|u1", [1] * 99, "C", b"1"), "dimension"),
    ("an array of a petabyte", tag(15, "|u1", [2**50], "C", b""), "came with 0"),
    ("an array shorter than its bytes", tag(15, "|u1", [1], "C", b"12"), "came with 2"),
    ("an array of objects", tag(15, "|O", [1], "C", b"12345678"), "Python objects"),
    ("an array of records with objects", tag(15, [tag(1, "a", "|O")], [1], "C", b"12345678"), "Python objects"),
    ("an array in no order", tag(15, "|u1", [1], 7, b"1"), "order"),
    ("an array of no type", tag(15, "nonsense", [1], "C", b"1"), "not understood"),
    ("an array without fields", tag(15), "unpack"),
    ("a scalar of another size", tag(16, "<i8", b"1234"), "came with 4"),
    ("a date that is none", tag(7, "2024-02-30"), "day"),
    ("a datetime of a number", tag(6, 7, 0), "fromisoformat"),
    ("a zone outside the database", tag(6, "2024-01-01T00:00:00", 0, "../../secret"), "time zone"),
    ("a zone that does not exist", tag(6, "2024-01-01T00:00:00", 0, "Mars/Olympus"), "tzdata"),
    ("a decimal that is none", tag(10, "1.2.3"), "InvalidOperation"),
    ("an id of three bytes", tag(11, b"abc"), "16"),
    ("a path of an unknown kind", tag(12, 9, "a"), "IndexError"),
    ("a range without a step", tag(13, 0, 1, 0), "zero"),
    ("a registered type nobody knows", tag(17, "os:system", "true"), "'os:system'.*register_type"),
    ("a registered type whose name is a list", tag(17, ["a"], 1), "unhashable"),
]


@pytest.mark.parametrize(("desc", "content", "reason"), HOSTILE, ids=[desc for desc, *_ in HOSTILE])
def test_a_body_that_is_wrong_is_undecodable_and_says_why(desc, content, reason):
    document = content if isinstance(content, bytes) else msgpack.packb(content)
    with pytest.raises(UndecodableBody, match=reason):
        decode_value(document)
    with pytest.raises(UndecodableBody):
        decode_call(b"\x91\x91" + document)


@pytest.mark.parametrize(
    ("desc", "content", "reason"),
    [
        ("an index past the last", tag(14, 1), "frame 1"),
        ("an index before the first", tag(14, -1), "frame -1"),
        ("an index that is a truth value", tag(14, False), "frame False"),
        ("an index that is a text", tag(14, "0"), "frame '0'"),
        ("one frame twice", [tag(14, 0), tag(14, 0)], "frame 0"),
        ("one frame as bytes and as an array", [tag(14, 0), tag(15, "|u1", [4], "C", 0)], "frame 0"),
        ("a frame nobody mentions", [1], "more frames"),
        ("a frame for an array of another size", tag(15, "|u1", [5], "C", 0), "came with 4"),
    ],
)
def test_a_frame_that_does_not_fit_makes_the_body_undecodable(desc, content, reason):
    with pytest.raises(UndecodableBody, match=reason):
        decode_value(msgpack.packb(content), [b"1234"])


@pytest.mark.parametrize(
    "content", [None, [], {}, [1], [[], {}, 1], [[], []], [[], {1: 2}], [tag(1)], [[], tag(1)], [[], None]]
)
def test_a_body_that_is_no_call_is_undecodable_as_one(content):
    with pytest.raises(UndecodableBody, match="call"):
        decode_call(msgpack.packb(content))


@pytest.mark.parametrize(
    ("desc", "document"),
    [
        ("short, claiming long lists", b"\xdd\x00\x0f\xff\xff" * 1000),
        ("long, claiming long lists", b"\xdd\x00\x0f\xff\xff" * 1000 + bytes(1 << 20)),
        ("tagged, claiming long lists", b"\x92\x92\xc7\x00\x01\x01" + b"\xdd\x00\x0f\xff\xff" * 1000 + bytes(1 << 20)),
        ("claiming long dicts", b"\xdf\x00\x0f\xff\xff\x01" * 1000 + bytes(1 << 20)),
        ("claiming long bytes", b"\xc6\xff\xff\xff\xff" + bytes(1000)),
    ],
)
def test_a_hostile_body_takes_no_more_memory_than_some_times_its_size(desc, document):
    # When
    tracemalloc.start()
    try:
        with pytest.raises(UndecodableBody):
            decode_value(document)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # Then
    assert peak_bytes < 10 * 2**20 + 20 * len(document)


def test_mutations_of_good_bodies_are_decoded_or_undecodable_and_nothing_else():
    # Given bodies that hold one of everything
    register_type(Colour)
    register_type(Order)
    seed = 20240229
    rng = random.Random(seed)
    bodies = [packed([value for _, value in EXACT])]
    bodies += [packed(value) for _, value in EXACT + ARRAYS[:3] + SMALL_ARRAYS]
    bodies += [packed_call((Colour.RED, Order(1, [LARGE]), LARGE), {"a": (1, {2})})]
    survivors = 0

    # When each is damaged again and again
    for _ in range(20_000):
        document, frames = rng.choice(bodies)
        damaged = damage(document, rng)
        frames = list(frames)
        if frames and rng.random() < 0.2:
            frames[rng.randrange(len(frames))] = b"\x07" * rng.randrange(9)

        # Then UndecodableBody is all that ever comes out
        try:
            rng.choice((decode_value, decode_call))(damaged, frames)
            survivors += 1
        except UndecodableBody:
            pass
    assert 0 < survivors < 20_000


def damage(document, rng):
    damaged = bytearray(document)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(damaged)) if damaged else 0
        kind = rng.randrange(5)
        if kind == 0:
            damaged[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del damaged[at : at + rng.randrange(1, 9)]
        elif kind == 2:
            damaged[at:at] = rng.randbytes(rng.randrange(1, 5))
        elif kind == 3:
            damaged[at:at] = damaged[at : at + rng.randrange(1, 30)]
        else:
            damaged[at : at + 1] = rng.choice(
                (b"\xc7\x00\x0e", b"\xc7\x00\x11", b"\xdd\xff\xff\xff\xff", b"\x92", b"\xc1")
            )
    return bytes(damaged)
