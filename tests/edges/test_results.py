"""AsyncResult: waiting for what a call returns, and looking at where it is."""

from __future__ import annotations

import pickle
import threading
import traceback

import pytest

from mesh import exceptions as ex
from mesh import ids
from mesh.interfaces import Ending, TaskState
from mesh.messages import Durability
from mesh.remote_errors import encode_exception
from mesh.results import AsyncResult
from mesh.states import Status
from tests.edges.recording import PREFIX, RecordingMesh, succeeded

STAMP = ids.stamp(PREFIX, 99)


@pytest.fixture
def app():
    return RecordingMesh("proj")


@pytest.fixture
def call(app):
    """Sends a call: its result, what the client holds of it, and the client."""

    def send(**options):
        result = app.send_task("t", **options)
        return result, app.last.pending, app.opened[-1]

    return send


def in_background(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


# --- waiting -------------------------------------------------------------------------------------


def test_get_waits_for_the_value_and_keeps_it(call):
    # Given a call, and somebody who waits for it
    result, pending, client = call()
    got = []
    thread = in_background(lambda: got.append(result.get(timeout=10)))

    # When it returns
    client.returns(pending, {"a": [1]})
    thread.join()

    # Then he has the value, and it stays
    assert got == [{"a": [1]}]
    assert result.get() is got[0]
    assert result.result is result.info is got[0]
    assert (result.state, result.status, result.ready(), result.successful(), result.failed()) == (
        *("SUCCESS", "SUCCESS"),
        *(True, True, False),
    )
    assert result.traceback is None


def test_get_that_runs_out_of_time_says_that_the_task_goes_on(call):
    result, pending, client = call()

    with pytest.raises(ex.TimeoutError, match="The task goes on: call get") as caught:
        result.get(timeout=0.001)
    assert isinstance(caught.value, TimeoutError)
    assert result.id in str(caught.value)

    client.returns(pending, 4)
    assert result.get(timeout=0) == 4


def test_a_failure_is_raised_as_it_was_each_time_anew(call):
    # Given a task that raised
    result, pending, client = call()
    client.raises(pending, ValueError("no", 7), "Traceback: far away\n")

    # When it is read again and again, in the middle of other troubles too
    def depth_of_get():
        try:
            raise RuntimeError("another")
        except RuntimeError:
            try:
                result.get()
            except ValueError as error:
                return len(traceback.format_exception(error))
        return None

    depths = {depth_of_get() for _ in range(5)}

    # Then it is the same each time, and does not grow
    assert len(depths) == 1
    with pytest.raises(ValueError, match="no") as caught:
        result.get()
    assert caught.value.args == ("no", 7)
    assert caught.value is not result.result
    assert result.result.__traceback__ is None
    assert len(caught.value.__notes__) == 1
    assert caught.value.__context__ is None
    assert "far away" in "".join(traceback.format_exception(caught.value))
    assert (result.state, result.failed(), result.successful()) == ("FAILURE", True, False)
    assert result.traceback == "Traceback: far away\n"


def test_a_failure_is_returned_where_it_is_not_to_be_raised(call):
    result, pending, client = call()
    client.raises(pending, KeyError("k"))

    assert isinstance(result.get(propagate=False), KeyError)


@pytest.mark.parametrize("has_body", [True, False])
def test_a_revoked_task_raises_that(call, has_body):
    # Given a task that was revoked, with an explanation or without
    result, pending, client = call()
    client.raises(pending, ex.TaskRevokedError("it expired"))
    body = pending.ending.body if has_body else b""
    client.ends(pending, Ending(Status.REVOKED, body, ()))

    # When it is read
    with pytest.raises(ex.TaskRevokedError, match="expired"):
        result.get()

    # Then its state is its own
    assert (result.state, result.ready(), result.failed()) == ("REVOKED", True, False)
    assert isinstance(result.get(propagate=False), ex.TaskRevokedError)


def test_a_refused_call_raises_why_whether_or_not_failures_are_wanted(call):
    result, pending, client = call()
    client.refuses(pending, ex.QueueFull("celery", "no room"))

    def get_amid_trouble():
        try:
            raise RuntimeError("another")
        except RuntimeError:
            result.get()

    with pytest.raises(ex.QueueFull):
        get_amid_trouble()
    for propagate in (True, False):
        with pytest.raises(ex.QueueFull, match="no room") as caught:
            result.get(propagate=propagate)
        assert caught.value.__context__ is None
    assert (result.state, result.ready()) == ("FAILURE", True)
    assert isinstance(result.result, ex.QueueFull)


def test_an_ignored_result_is_none_at_once(call):
    result, *_ = call(ignore_result=True)

    assert result.get() is None
    assert result.ignored


def test_the_keywords_of_celerys_get_are_taken(call):
    result, pending, client = call()
    client.returns(pending, 4)
    seen = []

    value = result.get(
        timeout=1,
        interval=0.1,
        no_ack=True,
        follow_parents=True,
        on_interval=print,
        disable_sync_subtasks=False,
        callback=lambda task_id, value: seen.append((task_id, value)),
    )

    assert (value, seen) == (4, [(result.id, 4)])
    assert result.wait(1) == 4
    with pytest.raises(ex.OptionNotAvailable):
        result.get(on_message=print)


def test_a_large_value_comes_out_of_its_frames(call):
    result, pending, client = call()
    value = b"x" * 100_000
    client.ends(pending, succeeded(value))

    assert pending.ending.frames
    assert result.get() == value


# --- confirmation --------------------------------------------------------------------------------


def test_confirmed_tells_when_the_router_answers_for_the_call(call):
    result, pending, client = call()

    assert not result.confirmed(timeout=0.001)
    client.confirms(pending)
    assert result.confirmed()


@pytest.mark.parametrize("level", list(Durability))
def test_a_confirmed_call_says_what_it_survives(call, level):
    result, pending, client = call()
    assert result.durability is None

    client.confirms(pending, level)

    assert result.durability == level.name.lower()


def test_nobody_says_what_the_call_of_somebody_else_survives(app, call):
    result, pending, client = call()
    client.confirms(pending, Durability.SYNCED)

    assert app.AsyncResult(result.id).durability is None


def test_what_has_its_outcome_is_confirmed(call):
    result, pending, client = call()
    client.returns(pending, 1)

    assert result.confirmed(timeout=0)


def test_confirmed_raises_the_refusal(call):
    result, pending, client = call()
    client.refuses(pending, ex.QueueFull("celery", "no room"))

    with pytest.raises(ex.QueueFull):
        result.confirmed()


def test_a_call_with_confirm_waits_for_the_router(app):
    app.conf.publish_timeout = 0.001

    with pytest.raises(ex.TimeoutError, match="may still arrive"):
        app.send_task("t", confirm=True)


def test_a_call_with_confirm_returns_when_the_router_has_answered(app):
    # Given a router that confirms, and one that refuses
    done = threading.Event()
    client = app.client

    def confirm():
        while not client.sent and not done.wait(0.001):
            pass
        client.confirms(client.sent[0].pending)

    thread = in_background(confirm)

    # When a call waits for it, then it returns with the result
    result = app.send_task("t", confirm=True)
    done.set()
    thread.join()
    assert result.confirmed(0)


# --- looking -------------------------------------------------------------------------------------


def test_the_owner_is_asked_for_a_state_that_is_not_known_here(call):
    # Given a call that runs, and is tracked
    result, pending, client = call()
    info = {"pid": 5, "hostname": "w1@host"}
    client.known[pending.task_id] = TaskState(pending.task_id, "STARTED", info)

    # Then the owner says so
    assert (result.state, result.result, result.ready()) == ("STARTED", info, False)
    assert client.asked == [pending.task_id] * 3


def test_what_nobody_knows_is_pending(app):
    result = app.AsyncResult("no-such-task")

    assert (result.state, result.result, result.ready(), result.traceback) == ("PENDING", None, False, None)
    assert app.opened[0].asked == ["no-such-task"] * 4


def test_where_the_owner_says_that_a_task_ended_its_outcome_is_fetched(app):
    client = app.client
    client.known[STAMP] = TaskState(STAMP, "SUCCESS", None)
    client.outcomes[STAMP] = succeeded(4)
    result = app.AsyncResult(ids.to_text(STAMP))

    assert result.ready()
    client.outcomes.clear()
    assert result.get(timeout=0) == 4
    assert client.watched == [STAMP]


# --- by id ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        pytest.param(ids.to_text(STAMP), STAMP, id="mesh's own"),
        pytest.param("order-7", "order-7", id="the caller's"),
        pytest.param("6ff1f2ae-8d0c-4d25-9d6b-3a1f4f3f0c11", "6ff1f2ae-8d0c-4d25-9d6b-3a1f4f3f0c11", id="a uuid4"),
    ],
)
def test_a_result_can_be_read_by_whoever_knows_the_id(app, text, asked):
    app.client.outcomes[asked] = succeeded("far")

    assert app.AsyncResult(text).get(timeout=1) == "far"
    assert app.task(name="t")(len).AsyncResult(text).get(timeout=1) == "far"
    assert app.client.watched == [asked, asked]


def test_making_a_result_of_an_id_asks_nobody(app):
    assert app.AsyncResult("order-7").id == "order-7"
    assert "opened" not in vars(app)


@pytest.mark.parametrize("wrong", ["", None, 7])
def test_an_id_is_a_text(app, wrong):
    with pytest.raises(ex.InvalidCall):
        app.AsyncResult(wrong)


def test_results_are_equal_by_id(app, call):
    result, *_ = call()

    assert result == app.AsyncResult(result.id)
    assert hash(result) == hash(app.AsyncResult(result.id))
    assert result != app.AsyncResult("another")
    assert result != result.id
    assert (str(result), repr(result)) == (result.id, f"<AsyncResult: {result.id}>")


def test_a_custom_id_is_the_results_id(call):
    result, *_ = call(task_id="order-7")

    assert result.id == result.task_id == "order-7"


def test_an_unpickled_result_belongs_to_the_app_made_last(call):
    # Given a result that was pickled where another app is
    result, *_ = call()
    ignored, *_ = call(ignore_result=True)
    pickled = pickle.dumps((result, ignored))
    elsewhere = RecordingMesh("elsewhere")
    elsewhere.send_task("t")
    elsewhere.opened[0].outcomes[ids.from_text(result.id)] = succeeded(4)

    # When it is read there
    back, back_ignored = pickle.loads(pickled)

    # Then it asks that app's client
    assert back == result
    assert back.get(timeout=1) == 4
    assert back_ignored.get() is None


def test_without_an_app_unpickling_says_what_is_missing(monkeypatch, call):
    result, *_ = call()
    pickled = pickle.dumps(result)
    monkeypatch.setattr("mesh.results._default.source", None)

    with pytest.raises(ex.NoCurrentApp, match="Import the module that makes one"):
        pickle.loads(pickled)


def test_forget_releases_the_value_and_reads_it_anew(call):
    result, pending, client = call()
    client.returns(pending, "old")
    assert result.get() == "old"

    result.forget()
    client.outcomes[pending.task_id] = succeeded("kept by the router")

    assert result.get(timeout=1) == "kept by the router"
    assert client.watched == [pending.task_id]


def test_a_result_outlives_the_client_it_was_made_with(app, call):
    # Given a result with its value, one without, and a new client
    ended, ended_pending, first = call()
    first.returns(ended_pending, 1)
    waiting, waiting_pending, _ = call()
    app.close()
    app.client.outcomes[waiting_pending.task_id] = succeeded(2)

    # Then the one is read as it is and the other through the new client
    assert (ended.get(), waiting.get(timeout=1)) == (1, 2)
    assert app.opened[1].watched == [waiting_pending.task_id]


def test_a_result_has_no_dict():
    assert not hasattr(AsyncResult(None, None, RecordingMesh("proj")), "__dict__")


def test_an_outcome_that_is_not_kept_any_more_is_a_failure_and_not_pending(app):
    # Given a task of which its router knows that it has ended, and no more
    result = app.AsyncResult(ids.to_text(STAMP))
    client = app.client
    client.known[STAMP] = TaskState(STAMP, "PENDING", {"known": True, "gone": True})
    client.outcomes[STAMP] = Ending(Status.FAILURE, encode_exception(ex.ResultExpired(result.id), ""), ())

    # When somebody polls for it
    # Then there is an end
    assert (result.state, result.ready(), result.successful()) == ("FAILURE", True, False)
    assert isinstance(result.result, ex.ResultExpired)
