"""Eager mode against the real thing, in processes of its own and in this one: the same calls must come out the same."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy
import pytest

from mesh import EagerResult, Mesh, exceptions
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, eventually

pytestmark = pytest.mark.usefixtures("shared_host", "both_apps")

#: What tells a node from the process that runs calls itself.
PLACE = re.compile(r"\b(n1|eager)@[\w.-]+")
LATER = datetime(2100, 1, 1, tzinfo=UTC)
LARGE = 64 * 1024


@pytest.fixture(params=["a node", "a node in this process"])
def both_apps(request: pytest.FixtureRequest) -> Mesh:
    """The project's app, a client of a mesh of either kind."""
    name = {"a node": "shared_app", "a node in this process": "in_process_app"}[request.param]
    app: Mesh = request.getfixturevalue(name)
    return app


class Call(NamedTuple):
    """A call, as it is written down for both."""

    name: str
    args: Any = ()
    kwargs: Any = None
    options: Mapping[str, Any] = MappingProxyType({})

    def made(self, app: Mesh, by: str) -> Any:
        """What the call returns."""
        name = f"{tasks.__name__}.{self.name}"
        if by == "send_task":
            return app.send_task(name, self.args, self.kwargs, **self.options)
        if by == "delay":
            return app.tasks[name].delay(*self.args, **(self.kwargs or {}))
        return app.tasks[name].apply_async(self.args, self.kwargs, **self.options)


@contextlib.contextmanager
def eager(app: Mesh) -> Iterator[None]:
    """Calls run here meanwhile."""
    app.conf.task_always_eager = True
    try:
        yield
    finally:
        app.conf.task_always_eager = False


def outcome(result: Any) -> dict[str, Any]:
    """Everything that a caller can see of a call that has ended, in a form to be compared."""
    value = result.get(DEADLINE_S, propagate=False)
    return {
        "value": shown(value),
        "result": shown(result.result),
        "state": result.state,
        "ready": (result.ready(), result.successful(), result.failed()),
        "traceback": masked(result.traceback),
        "ignored": result.ignored,
        "raised": shown(raised_by(result)),
    }


def raised_by(result: Any) -> BaseException | None:
    try:
        result.get(DEADLINE_S)
    except Exception as error:
        return error
    return None


def shown(value: Any) -> Any:
    if isinstance(value, numpy.ndarray):
        return ["array", value.dtype.str, value.shape, value.tolist(), value.flags.writeable]
    if not isinstance(value, BaseException):
        return [type(value), repr(value)]
    fields = {key: masked(repr(field)) for key, field in vars(value).items() if key not in ("args", "__notes__")}
    notes = [masked(note) for note in getattr(value, "__notes__", ())]
    return [type(value), type(value).__mro__, masked(str(value)), masked(repr(value.args)), fields, notes]


def masked(text: str | None) -> str | None:
    return text and PLACE.sub("PLACE", text)


SAME = {
    "a value": Call("add", (2, 3)),
    "by keyword": Call("add", (2,), {"y": 3}),
    "a list of arguments": Call("add", [2, 3]),
    "types": Call("echo", ([None, (1, {2}, 2**80), date(2026, 1, 2), Decimal("1.5"), b"x", 1j, range(3)],)),
    "what changes on the way": Call("echo", (bytearray(b"abc"),)),
    "a large buffer": Call("echo", (bytes(LARGE),)),
    "a large array": Call("twice", (numpy.arange(LARGE),)),
    "a small array": Call("twice", (numpy.arange(3),)),
    "writing into a list": Call("scribble", ([1, 2],)),
    "writing into an array": Call("scribble", (numpy.arange(LARGE),)),
    "writing into a small array": Call("scribble", (numpy.arange(3),)),
    "an exception": Call("divide", (1, 0)),
    "an exception of the project": Call("refuse", (7,)),
    "an exception with a cause and a note": Call("raise_from", (7,)),
    "SystemExit": Call("raise_builtin", ("SystemExit", 3)),
    "GeneratorExit": Call("raise_builtin", ("GeneratorExit",)),
    "StopIteration": Call("raise_builtin", ("StopIteration", 3)),
    "OSError with its fields": Call("raise_builtin", ("OSError", 2, "gone", "a.txt")),
    "a value that does not travel": Call("unserialisable"),
    "what a run is told": Call("told", (1,), {"b": 2}),
    "headers": Call("told", (), {}, {"headers": {"a": [1, {"b": None}]}}),
    "an eta": Call("told", (), {}, {"eta": datetime(2020, 1, 1, tzinfo=UTC), "expires": LATER}),
    "limits": Call("told", (), {}, {"time_limit": 60, "soft_time_limit": 50}),
    "at most once": Call("told", (), {}, {"acks_late": False, "priority": 9, "durability": "none"}),
    "confirmed": Call("add", (2, 3), {}, {"confirm": True}),
    "ignored": Call("add", (2, 3), {}, {"ignore_result": True, "confirm": True}),
    "tracked": Call("add", (2, 3), {}, {"track_started": True}),
    "no retry": Call("told_again", (1,), {}, {"task_id": "none"}),
    "two retries": Call("told_again", (3,), {}, {"task_id": "two"}),
    "one too many": Call("told_again", (4,)),
    "other arguments each time": Call("count_down", (4,)),
    "expired": Call("add", (2, 3), {}, {"expires": datetime(2020, 1, 1, tzinfo=UTC)}),
    "expired before its time": Call("add", (2, 3), {}, {"expires": 0.1, "countdown": 60}),
    "expired before its retry": Call("told_again", (2, 60), {}, {"expires": 0.3}),
}

BY_NAME = {
    "a name that nobody knows": Call("unheard_of", (1,)),
    "arguments that the function does not take": Call("add", (1, 2, 3)),
    "a value": Call("add", (2, 3)),
}

REFUSED = {
    "wrong arguments": Call("add", (1,)),
    "an argument that does not travel": Call("echo", ([1, object()],)),
    "no arguments": Call("echo", "text"),
    "a priority": Call("add", (1, 2), {}, {"priority": 10}),
    "a queue": Call("add", (1, 2), {}, {"queue": "a b"}),
    "an id": Call("add", (1, 2), {}, {"task_id": ""}),
    "two times": Call("add", (1, 2), {}, {"countdown": 1, "eta": LATER}),
    "headers": Call("add", (1, 2), {}, {"headers": {"a": {1}}}),
    "limits": Call("add", (1, 2), {}, {"time_limit": 1, "soft_time_limit": 2}),
    "a word": Call("add", (1, 2), {}, {"prioritiy": 1}),
    "an option of Celery's": Call("add", (1, 2), {}, {"link": None}),
}


@pytest.mark.parametrize("case", SAME)
def test_a_call_comes_out_the_same(case: str, both_apps: Mesh):
    compared(SAME[case], both_apps, "apply_async")


@pytest.mark.parametrize("case", [case for case, call in SAME.items() if not call.options])
def test_a_call_by_delay_comes_out_the_same(case: str, both_apps: Mesh):
    compared(SAME[case], both_apps, "delay")


@pytest.mark.parametrize("case", BY_NAME)
def test_a_call_by_name_comes_out_the_same(case: str, both_apps: Mesh):
    compared(BY_NAME[case], both_apps, "send_task")


def compared(call: Call, app: Mesh, by: str) -> None:
    # Given what comes of a call that a node runs
    real = outcome(call.made(app, by))

    # When the same call runs here
    with eager(app):
        result = call.made(app, by)
        here = outcome(result)

    # Then everything that the caller sees is the same, and nothing was sent
    assert isinstance(result, EagerResult)
    assert here == real


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_the_same(case: str, both_apps: Mesh):
    # Given a call that is refused before anything is sent
    with pytest.raises(exceptions.MeshError) as real:
        REFUSED[case].made(both_apps, "apply_async")

    # When it is to run here, then it is refused in the same words
    with eager(both_apps), pytest.raises(type(real.value)) as here:
        REFUSED[case].made(both_apps, "apply_async")
    assert str(here.value) == str(real.value)


def test_that_an_ignored_call_was_not_run_is_told_the_same(both_apps: Mesh):
    # Given an ignored call that a router has let expire
    def made() -> Any:
        return tasks.add.apply_async((2, 3), expires=0.05, countdown=60, ignore_result=True)

    real = made()
    eventually(lambda: real.state == "REVOKED")

    # When such a call is to run here
    with eager(both_apps):
        here = made()

    # Then both say so, and to nobody else
    assert outcome(here) == outcome(real)
    assert here.state == "REVOKED"


def test_an_id_is_taken_the_same(both_apps: Mesh):
    # Given two calls of one id
    def made() -> list[Any]:
        results = [tasks.add.apply_async((1, n), task_id="order-7") for n in range(2)]
        return [results[0].get(DEADLINE_S), shown(raised_by(results[1])), results[1].state]

    real = made()

    # When they run here
    with eager(both_apps):
        here = made()

    # Then the second is refused, as a router does
    assert here == real


def test_results_of_the_mesh_can_be_read_while_calls_are_eager(both_apps: Mesh):
    # Given a call of the mesh whose result nobody has read, and its id alone
    real = tasks.add.delay(1, 2)
    other = tasks.add.delay(2, 3)

    # When calls are eager, then both are read, and asked about, where they are
    with eager(both_apps):
        assert real.get(DEADLINE_S) == 3
        assert both_apps.AsyncResult(other.id).get(DEADLINE_S) == 5
        # The caller has the result before the router does.
        eventually(lambda: both_apps.AsyncResult(other.id).state == "SUCCESS")
        eventually(lambda: both_apps.AsyncResult(real.id).state == "SUCCESS")
        assert real.revoke() == "ended"
        both = [other.id, tasks.add.delay(1, 1).id]
        assert both_apps.control.revoke(both) == dict.fromkeys(both, "ended")
        assert both_apps.control.ping() == [{"n1@here": {"ok": "pong"}}]


def test_results_of_eager_calls_can_be_read_when_calls_go_to_the_mesh_again(both_apps: Mesh):
    # Given an eager call, forgotten
    with eager(both_apps):
        result = tasks.add.delay(1, 2)
    result.forget()

    # When calls are real again, then its result is still its own, and those of new calls are the mesh's
    assert (result.get(1), result.state, result.revoke()) == (3, "SUCCESS", "ended")
    assert not isinstance(tasks.add.delay(1, 2), EagerResult)


def test_a_task_may_be_run_here_while_others_are_sent(both_apps: Mesh):
    # When a task that calls another is applied
    result = tasks.call_another.apply((1,))

    # Then both have run here, and calls outside go to the mesh
    inner = result.get()
    assert both_apps.AsyncResult(inner).state == "PENDING"
    assert tasks.whoami.delay().get(DEADLINE_S)["node"] == "n1@here"


def test_nobody_waits_for_a_countdown():
    # When calls and retries are to be an hour off
    begun_mono_s = time.monotonic()
    result = tasks.told_again.apply((2, 3600), countdown=3600)

    # Then they run at once
    assert result.get()[:2] == [1, 0]
    assert time.monotonic() - begun_mono_s < 60
