"""Running one task: whatever it does ends as an outcome."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from mesh import exceptions as ex
from mesh import ids
from mesh import messages as m
from mesh.bodies import decode_value, encode_call
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
