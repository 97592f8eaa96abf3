"""Running one task: whatever it does ends as an outcome."""

from __future__ import annotations

import math
import time
from typing import Any

import msgpack
import pytest

from mesh import exceptions as ex
from mesh import ids
from mesh import messages as m
from mesh.bodies import decode_value, encode_call
from mesh.core.limits import RunLimits
from mesh.execution import Execution
from mesh.messages import Unrunnable
from mesh.remote_errors import decode_exception
from mesh.states import Status
from tests.edges.recording import RecordingMesh

STAMP = ids.stamp(ids.prefix(b"owner!", 5), 7)


@pytest.fixture
def app():
    return RecordingMesh("proj")


@pytest.fixture
def ran(app):
    """Runs a task of the app as a slot does."""
    logged: list[tuple[str, BaseException, bool]] = []
    execution = Execution(app.tasks, "w1@host", lambda name, _, error, expected: logged.append((name, error, expected)))

    def run(name, *args, body=None):
        document = encode_call(args, {})[0] if body is None else body
        return execution.run(list(m.Assignment(STAMP, name, 0, 0, document, 0, None)), ())

    vars(run)["logged"] = logged
    return run


def test_what_a_task_returns_is_its_outcome(app, ran):
    app.task(name="add")(lambda x, y: x + y)

    outcome = ran("add", 2, 3)

    assert (outcome.status, decode_value(outcome.body), outcome.cause) == (Status.SUCCESS, 5, None)


def test_what_a_task_raises_is_its_outcome(app, ran):
    @app.task(name="fail", throws=KeyError)
    def fail():
        raise KeyError("gone")

    outcome = ran("fail")

    assert (outcome.status, outcome.cause) == (Status.FAILURE, None)
    assert type(decode_exception(outcome.body)) is KeyError
    assert [(name, expected) for name, _, expected in ran.logged] == [("fail", True)]


def test_a_task_that_nobody_knows_here_could_not_run(ran):
    outcome = ran("proj.unheard_of")

    assert (outcome.status, outcome.cause) == (Status.FAILURE, Unrunnable.UNKNOWN)
    error: Any = decode_exception(outcome.body)
    assert (type(error), error.name, error.where) == (ex.NotRegistered, "proj.unheard_of", "w1@host")
    assert len(ran.logged) == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(msgpack.packb({}), id="no call"),
        pytest.param(msgpack.packb([[msgpack.ExtType(99, b"")]]), id="a type that is not known here"),
    ],
)
def test_a_task_whose_arguments_cannot_be_read_here_could_not_run(app, ran, body):
    app.task(name="add")(lambda x, y: x + y)

    outcome = ran("add", body=body)

    assert (outcome.status, outcome.cause) == (Status.FAILURE, Unrunnable.UNDECODABLE)
    assert isinstance(decode_exception(outcome.body), ex.UndecodableBody)
    assert len(ran.logged) == 1


@pytest.mark.parametrize("error", [ex.NotRegistered("other", "elsewhere"), ex.UndecodableBody("not this one")])
def test_a_task_that_raises_such_an_error_itself_has_run(app, ran, error):
    # Given a task that reads a result of another one, which could not run
    @app.task(name="reads")
    def reads():
        raise error

    # When it raises what it read
    outcome = ran("reads")

    # Then that is its outcome, as it was, and it is no dead letter
    assert (outcome.status, outcome.cause) == (Status.FAILURE, None)
    assert decode_exception(outcome.body).args == error.args


def test_a_task_that_asks_for_another_run_says_when(app, ran):
    @app.task(name="later", bind=True)
    def later(self):
        raise ex.Retry(ValueError("busy"), 99.5, None)

    outcome = ran("later")

    assert (outcome.status, outcome.eta_wall_s, outcome.call, outcome.cause) == (Status.RETRY, 99.5, None, None)
    assert type(decode_exception(outcome.body)) is ValueError


def test_a_value_that_cannot_be_sent_is_a_failure_of_a_task_that_has_run(app, ran):
    app.task(name="makes")(object)

    outcome = ran("makes")

    assert (outcome.status, outcome.cause) == (Status.FAILURE, None)
    assert isinstance(decode_exception(outcome.body), ex.UnserialisableArgument)


# --- time limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "call", "limits"),
    [
        pytest.param({}, None, (60.0, 50.0), id="the app's"),
        pytest.param({"time_limit": 9}, None, (9.0, 50.0), id="the task's before the app's, each by itself"),
        pytest.param({"time_limit": 9, "soft_time_limit": 8}, [3, None], (3.0, 8.0), id="the call's before the task's"),
        pytest.param({"soft_time_limit": 8}, [None, 2.5], (60.0, 2.5), id="the call's soft one"),
        pytest.param({"time_limit": 9}, ["3", -1], (9.0, 50.0), id="nonsense of a call"),
        pytest.param({"time_limit": 9}, [True, 1e30], (9.0, 50.0), id="more nonsense"),
        pytest.param({"time_limit": 9}, [1, 2, 3], (9.0, 50.0), id="too many"),
    ],
)
def test_the_first_that_says_a_limit_counts(app, task, call, limits):
    app.task(name="t", **task)(lambda: None)
    execution = Execution(app.tasks, "w1@host", print, RunLimits(60.0, 50.0))
    options = None if call is None else {"limits": call}
    assert execution.limits_of("t", options) == limits
    assert execution.limits_of("t", {}) == execution.limits_of("t", None)


def test_a_name_that_nobody_registered_has_no_limit(app):
    assert not Execution(app.tasks, "w1@host", print, RunLimits(60.0, 50.0)).limits_of("nobody", None)


def test_an_interruption_that_comes_too_late_or_too_early_is_none(app):
    execution = Execution(app.tasks, "w1@host", print)
    execution.interruption.soft_deadline_mono_s = 0.0
    execution.interruption.strike()  # nothing runs
    execution.interruption.soft_deadline_mono_s = math.inf

    @app.task(name="t")
    def not_yet():
        execution.interruption.soft_deadline_mono_s = time.monotonic() + 3600
        execution.interruption.strike()
        return "ran on"

    ran = execution.run(list(m.Assignment(STAMP, "t", 0, 0, encode_call((), {})[0], 0, None)), ())
    assert decode_value(ran.body) == "ran on"


def test_a_soft_limit_that_was_over_before_the_function_began_interrupts_it(app):
    # Given a run whose signal came while its arguments were decoded
    execution = Execution(app.tasks, "w1@host", lambda *_: None)
    execution.interruption.soft_deadline_mono_s = 0.0
    execution.interruption.strike()
    app.task(name="t")(lambda: "never")

    # When it goes on
    ran = execution.run(list(m.Assignment(STAMP, "t", 0, 0, encode_call((), {})[0], 0, None)), ())

    # Then it is interrupted
    assert type(decode_exception(ran.body)) is ex.SoftTimeLimitExceeded


def test_what_strangers_call_is_not_remembered(app):
    execution = Execution(app.tasks, "w1@host", print)
    for number in range(10):
        execution.limits_of(f"nobody{number}", None)
    assert execution._own_limits == {}


def test_a_run_is_interrupted_once(app):
    execution = Execution(app.tasks, "w1@host", print)

    @app.task(name="t")
    def stubborn():
        execution.interruption.soft_deadline_mono_s = 0.0
        with pytest.raises(ex.SoftTimeLimitExceeded):
            execution.interruption.strike()
        execution.interruption.strike()
        return "tidied up"

    ran = execution.run(list(m.Assignment(STAMP, "t", 0, 0, encode_call((), {})[0], 0, None)), ())
    assert decode_value(ran.body) == "tidied up"
