"""Exceptions there and back: the same class where it is known, a stand-in where not, and no code run for a stranger."""

import asyncio
import json
import random
import subprocess
import sys
import traceback
import types
from typing import Any

import msgpack
import numpy as np
import pytest

from mesh import remote_errors
from mesh.exceptions import NotRegistered, RemoteError, UndecodableBody
from mesh.remote_errors import decode_exception, encode_exception

TEXT = "Traceback (most recent call last):\n  line 7, in work\nremote"


class Composed(Exception):
    """Composes its message from what it is given, as most exceptions of applications do."""

    made = 0

    def __init__(self, name, *, code):
        type(self).made += 1
        self.name, self.code = name, code
        super().__init__(f"no {name} ({code})")


class OfTheSystem(OSError):
    def __init__(self, text):
        super().__init__(7, text, "a.txt")


class Guarded(Exception):
    """Notices whoever sets its attribute."""

    touched = False

    @property
    def field(self):
        return None

    @field.setter
    def field(self, value):
        type(self).touched = True


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Outer:
    class Inner(Exception):
        pass


class NotAnError:
    pass


@pytest.fixture(autouse=True)
def _own_stand_ins(monkeypatch):
    monkeypatch.setattr(remote_errors, "_stand_ins", {})


def there_and_back(exc: BaseException) -> Exception:
    return decode_exception(encode_exception(exc, TEXT))


def document(**changes: Any) -> bytes:
    """A well-formed document, as changed."""
    fields = {
        "module": "builtins",
        "qualname": "ValueError",
        "content": msgpack.packb([["x"], {}]),
        "frames": [],
        "message": "x",
        "traceback": TEXT,
        "notes": [],
    }
    packed: bytes = msgpack.packb(list((fields | changes).values()))
    return packed


# --- known classes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desc", "exc", "attributes"),
    [
        ("no args", ValueError(), {}),
        ("args of many types", ValueError(1, ("a", {2}), None), {}),
        ("a KeyError", KeyError("k"), {}),
        (
            "an OSError with a file, of the class its number means",
            OSError(2, "gone", "a.txt"),
            {"errno": 2, "filename": "a.txt"},
        ),
        ("an ImportError with fields in C", ImportError("m", name="n", path="p"), {"name": "n", "path": "p"}),
        ("an AttributeError with a name", AttributeError("m", name="n"), {}),
        ("a StopIteration", StopIteration(3), {"value": 3}),
        ("a UnicodeError", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"), {"start": 0, "object": b"\xff"}),
        ("a SyntaxError", SyntaxError("m", ("f", 1, 2, "text")), {"lineno": 1, "text": "text"}),
        ("a JSONDecodeError", json.JSONDecodeError("m", "doc", 1), {"doc": "doc", "pos": 1}),
        ("a CalledProcessError", subprocess.CalledProcessError(3, ["ls"], b"out"), {"returncode": 3, "output": b"out"}),
        ("an error of mesh", NotRegistered("t", "n@h"), {"name": "t", "where": "n@h"}),
        ("one that composes its message", Composed("x", code=4), {"name": "x", "code": 4}),
        ("an OSError that composes its args", OfTheSystem("t"), {"errno": 7, "strerror": "t", "filename": "a.txt"}),
        ("a nested class", Outer.Inner("x"), {}),
        ("large content", ValueError(b"x" * 100_000, np.arange(9).tolist()), {}),
    ],
)
def test_an_exception_of_a_known_class_comes_back_as_itself(desc, exc, attributes):
    came = there_and_back(exc)
    assert type(came) is type(exc)
    assert came.args == exc.args
    assert str(came) == str(exc)
    assert {name: getattr(came, name) for name in attributes} == attributes


def test_arrays_in_args_come_back():
    came = there_and_back(ValueError(np.arange(100_000)))
    assert came.args[0].sum() == np.arange(100_000).sum()


def test_no_init_is_run_so_no_message_is_composed_twice():
    # Given
    exc = Composed("x", code=4)
    before = Composed.made

    # When
    came = there_and_back(exc)

    # Then
    assert str(came) == "no x (4)"
    assert Composed.made == before


def test_no_setter_of_a_property_is_run():
    content = msgpack.packb([[], {"field": 1, "__class__": 2, "__secret": 3, "plain": 3}])
    came: Any = decode_exception(document(module=__name__, qualname="Guarded", content=content))
    assert type(came) is Guarded
    assert set(vars(came)) == {"field", "plain", "remote_traceback", "__notes__"}
    assert not Guarded.touched


def test_what_has_no_form_goes_as_its_repr_or_not_at_all():
    # Given an exception with a value that can't be sent among its args and attributes
    exc = Composed("x", code=NotAnError)
    exc.args = ("x", NotAnError)

    # When
    came: Any = there_and_back(exc)

    # Then all the rest is there
    assert type(came) is Composed
    assert came.args == ("x", repr(NotAnError))
    assert came.name == "x"
    assert not hasattr(came, "code")


def test_reprs_stand_in_the_args_even_where_the_class_wants_other_types():
    exc = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why")
    exc.args = ("utf-8", NotAnError, 0, 1, "why")
    assert there_and_back(exc).args[1] == repr(NotAnError)


def test_an_arg_of_a_type_that_is_not_registered_here_leaves_class_and_message():
    content = msgpack.packb([[[msgpack.ExtType(17, b""), "some:Type", 1]], {}])
    came = decode_exception(document(content=content, message="the message"))
    assert type(came) is ValueError
    assert came.args == ("the message",)


def test_an_exception_that_can_not_be_printed_is_encoded_all_the_same():
    # Given
    exc = Unprintable(Unprintable())

    # When
    came = there_and_back(exc)

    # Then
    assert type(came) is Unprintable
    assert came.args == ("<Unprintable, whose repr raised RuntimeError>",)


def test_an_exception_whose_parts_nest_too_deep_together_is_encoded_all_the_same():
    value: list[Any] = []
    for _ in range(509):
        value = [value]
    assert type(there_and_back(ValueError(value))) is ValueError


def test_lone_surrogates_survive():
    came = decode_exception(encode_exception(ValueError("\udcff"), "trace \udcff"))
    assert came.args == ("\udcff",)
    assert came.remote_traceback == "trace \udcff"  # type: ignore[attr-defined]


# --- traceback and notes --------------------------------------------------------------------------


def test_the_remote_traceback_shows_wherever_the_exception_is_printed():
    # Given
    exc = ValueError("x")
    exc.add_note("a hint")

    # When
    came: Any = there_and_back(exc)

    # Then
    assert came.remote_traceback == TEXT
    assert came.__notes__[0] == "a hint"
    printed = "".join(traceback.format_exception(came))
    assert "Remote traceback:\nTraceback (most recent call last):\n  line 7, in work" in printed


def test_nothing_is_sent_that_is_not_needed():
    # Given an exception with a note, and one that holds on to a large object
    noted, attribute = ValueError("x"), AttributeError("x", name="n", obj=b"secret")
    noted.add_note("a hint")

    # When, then the note goes once and the object not at all
    assert encode_exception(noted, TEXT).count(b"a hint") == 1
    assert b"secret" not in encode_exception(attribute, TEXT)


def test_an_exception_that_travels_twice_tells_of_the_first_way_once():
    # Given one that came from elsewhere, and whose printed text so has the first traceback
    first = there_and_back(ValueError("x"))
    text = "".join(traceback.format_exception(first))

    # When it travels again
    came = decode_exception(encode_exception(first, text))

    # Then
    assert "".join(traceback.format_exception(came)).count("line 7, in work") == 1


def test_without_a_traceback_there_is_no_note_of_one():
    assert not hasattr(decode_exception(encode_exception(ValueError(), "")), "__notes__")


def test_notes_that_are_no_text_are_left_out():
    exc: Any = ValueError()
    exc.__notes__ = ["a", 1]
    assert there_and_back(exc).__notes__[:-1] == ["a"]
    exc.__notes__ = 7
    assert len(there_and_back(exc).__notes__) == 1


# --- stand-ins ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desc", "exc", "name"),
    [
        ("an exit", SystemExit(3), "SystemExit"),
        ("an interrupt", KeyboardInterrupt(), "KeyboardInterrupt"),
        ("a generator's exit", GeneratorExit(), "GeneratorExit"),
        ("a cancellation", asyncio.CancelledError(), "CancelledError"),
        ("a group", ExceptionGroup("g", [ValueError()]), "ExceptionGroup"),
        ("a class of a function", type("Local", (ValueError,), {"__qualname__": "f.<locals>.Local"})("x"), "Local"),
        (
            "a class of a module that is not imported",
            type("Far", (ValueError,), {"__module__": "far.away"})("x"),
            "Far",
        ),
    ],
)
def test_where_the_class_can_not_be_used_a_remote_error_bears_its_name(desc, exc, name):
    came = there_and_back(exc)
    assert isinstance(came, RemoteError)
    assert type(came).__name__ == name
    assert type(came).__module__ == type(exc).__module__
    assert str(came) == str(exc)


def test_a_stand_in_is_made_once_and_can_travel_on():
    # Given
    exc = type("Far", (ValueError,), {"__module__": "far.away"})("x")

    # When it comes twice, and is sent on
    came, again = there_and_back(exc), there_and_back(exc)
    onward = there_and_back(came)

    # Then
    assert type(came) is type(again) is type(onward)
    assert str(onward) == "x"


def test_strangers_can_not_fill_the_memory_with_classes():
    # When
    for index in range(remote_errors._STAND_INS_MAX):
        decode_exception(document(module="far", qualname=f"E{index}"))
    came = decode_exception(document(module="far", qualname="OneMore"))

    # Then
    assert len(remote_errors._stand_ins) == remote_errors._STAND_INS_MAX
    assert type(came) is RemoteError
    assert str(came) == "far.OneMore: x"


@pytest.mark.parametrize("qualname", ["", "a b", "x" * 1000, "a\0", "\udcff", "1"])
def test_a_name_no_class_can_have_gives_a_plain_remote_error(qualname):
    packed = document(module="far").replace(b"\xaaValueError", msgpack.packb(qualname, unicode_errors="surrogatepass"))
    assert type(decode_exception(packed)) is RemoteError


@pytest.mark.parametrize(
    ("desc", "module", "qualname"),
    [
        ("a class that is no exception", "builtins", "int"),
        ("a class with side effects", "subprocess", "Popen"),
        ("a function", "builtins", "eval"),
        ("a name that is no class on the way", "os", "path.join"),
        ("a class of this project that is no exception", __name__, "NotAnError"),
        ("a base exception", "builtins", "BaseException"),
        ("a module that is None", "no.module", "ValueError"),
    ],
)
def test_only_classes_of_exceptions_are_ever_made(desc, module, qualname, monkeypatch):
    monkeypatch.setitem(sys.modules, "no.module", None)
    assert isinstance(decode_exception(document(module=module, qualname=qualname)), RemoteError)


def test_no_module_is_imported_and_no_lazy_attribute_resolved(monkeypatch):
    # Given a module that is not imported, and one that resolves names on demand
    lazy: Any = types.ModuleType("lazy")
    lazy.__getattr__ = lambda name: pytest.fail(f"resolved {name}")
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)

    # When
    decode_exception(document(module="colorsys", qualname="Error"))
    decode_exception(document(module="lazy", qualname="Error"))

    # Then
    assert "colorsys" not in sys.modules


# --- hostile documents ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desc", "content"),
    [
        ("nothing", b""),
        ("no list", msgpack.packb(1)),
        ("too few fields", msgpack.packb(["builtins"])),
        ("a module that is a list", document(module=[])),
        ("a name that is bytes", document(qualname=b"ValueError")),
        ("a message that is None", document(message=None)),
        ("a traceback that is a number", document(traceback=1)),
        ("notes that are a text", document(notes="ab")),
        ("notes of numbers", document(notes=[1])),
        ("frames that are None", document(frames=None)),
        ("frames of text", document(frames=["a"])),
        ("content that is no bytes", document(content="a")),
        ("100,000 lists", b"\x91" * 100_000),
    ],
)
def test_a_document_that_is_wrong_is_undecodable(desc, content):
    with pytest.raises(UndecodableBody):
        decode_exception(content)


@pytest.mark.parametrize("content", [b"", msgpack.packb([]), msgpack.packb([1, 2]), msgpack.packb(None), b"\xc1"])
def test_content_that_is_wrong_leaves_class_and_message(content):
    came = decode_exception(document(content=content))
    assert type(came) is ValueError
    assert came.args == ("x",)


def test_mutations_of_good_documents_give_an_exception_or_are_undecodable():
    # Given
    rng = random.Random(7)
    good = [
        encode_exception(exc, TEXT)
        for exc in (Composed("x", code=4), OSError(2, "gone", "f"), ImportError("m", name="n"), SystemExit(1))
    ]

    # When each is damaged, then nothing else comes out
    undecodable = 0
    for _ in range(5_000):
        damaged = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 3))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            assert isinstance(decode_exception(bytes(damaged)), Exception)
        except UndecodableBody:
            undecodable += 1
    assert 0 < undecodable < 5_000
