"""Eager mode by itself: what it adds to a call, keeps, and leaves alone. tests/mesh holds it against a real node."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from mesh import EagerResult, eager, exceptions
from mesh_cli import call
from tests.edges.recording import RecordingMesh

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def app():
    """An app whose calls are eager. To no test may it connect: what is eager needs no mesh."""
    app = RecordingMesh("proj")
    app.conf.task_always_eager = True
    yield app
    assert "opened" not in vars(app)


@pytest.fixture
def real():
    """An app whose calls are sent."""
    return RecordingMesh("proj")


def add(x, y=1):
    return x + y


def fail(text):
    raise ValueError(text)


# --- where calls go ------------------------------------------------------------------------------


def test_every_way_to_call_runs_the_task_here_and_now(app):
    # Given a task
    ran_in = []
    task = app.task(name="note")(lambda: ran_in.append(threading.get_ident()))

    # When it is called in each way
    results = [task.delay(), task.apply_async(), task.apply(), app.send_task("note")]

    # Then it has run as often, in this thread
    assert ran_in == [threading.get_ident()] * 4
    assert {type(result) for result in results} == {EagerResult}
    assert len({result.id for result in results}) == 4


def test_a_result_is_there_at_once(app):
    result = app.task(add).delay(2, 3)

    assert (result.get(), result.wait(timeout=float("inf")), result.result) == (5, 5, 5)
    assert (result.state, result.status, result.traceback) == ("SUCCESS", "SUCCESS", None)
    assert (result.ready(), result.successful(), result.failed()) == (True, True, False)
    assert (result.confirmed(), result.durability, result.revoke()) == (True, None, "ended")
    assert repr(result) == f"<EagerResult: {result.id}>"


def test_calls_may_be_eager_for_a_while(real):
    # Given a task that has been sent
    task = real.task(add)
    task.delay(1, 1)

    # When calls are eager, and then not
    real.conf.task_always_eager = True
    here = task.delay(1, 2)
    real.conf.task_always_eager = False
    there = task.delay(1, 3)

    # Then only those before and after were sent
    assert [sent.args for sent in real.opened[-1].sent] == [[1, 1], [1, 3]]
    assert (type(here), here.get()) == (EagerResult, 3)
    assert not isinstance(there, EagerResult)


@pytest.mark.parametrize("way", ["delay", "apply_async", "send_task"])
def test_what_an_applied_task_calls_runs_here_too(real, way):
    # Given a task that calls another, of another app
    other = RecordingMesh("other")
    inner = other.task(name="inner")(add)

    @real.task
    def outer():
        made = {"delay": inner.delay, "send_task": lambda x: other.send_task("inner", (x,))}
        result = made[way](1) if way in made else inner.apply_async((1,))
        return [type(result).__name__, result.get(), other.AsyncResult(result.id).state]

    # When it is applied, then nothing is sent
    assert outer.apply().get() == ["EagerResult", 2, "SUCCESS"]
    assert "opened" not in vars(real) | vars(other)

    # And again when the other has been sent before, by itself
    inner.delay(5)
    assert outer.apply().get() == ["EagerResult", 2, "SUCCESS"]
    inner.delay(6)
    assert [sent.args for sent in other.opened[-1].sent] == [[5], [6]]


def test_an_applied_task_can_ask_for_results_of_the_mesh(real):
    # Given a task that asks for a call that was sent by somebody
    @real.task
    def ask():
        return real.AsyncResult("there").state

    # When it is applied, then the mesh is asked
    assert ask.apply().get() == "PENDING"
    assert real.opened[-1].asked == ["there"]


@pytest.mark.parametrize("options", [{}, {"throw": True}, {"priority": 10}], ids=["returned", "raised", "refused"])
def test_calls_are_sent_again_after_an_applied_task_has_failed(real, options):
    # Given a task that fails when it is applied
    failing, task = real.task(fail), real.task(add)
    try:
        failing.apply(("no",), **options)
    except ValueError:
        assert options

    # When another one is called, then it is sent
    assert not isinstance(task.delay(1), EagerResult)
    assert real.last.args == [1]


def test_a_batch_holds_nothing_back(app):
    task = app.task(add)

    with app.batch():
        assert task.delay(2).get() == 3


def test_the_command_line_calls_the_mesh_though_the_app_is_eager(app):
    with call._app(SimpleNamespace(find_app=lambda: app)) as called:
        assert called is app
        assert not app.conf.task_always_eager


# --- what a run gets -----------------------------------------------------------------------------


def test_a_task_can_tell_that_it_runs_eagerly(app):
    @app.task(bind=True)
    def who(self):
        return [self.request.is_eager, self.request.hostname, self.request.called_directly]

    assert who.delay().get() == [True, f"eager@{os.uname().nodename}", False]
    assert who() == [False, None, True]


def test_nothing_is_shared_with_the_caller(app):
    # Given a task that writes to all that it gets, and keeps what it returns
    returned = []

    @app.task(bind=True)
    def write(self, numbers):
        numbers.append(3)
        self.request.headers["who"].append("task")
        returned.append({"numbers": numbers})
        return returned[-1]

    # When it is called
    numbers, headers = [1, 2], {"who": ["caller"]}
    value = write.apply_async((numbers,), headers=headers).get()
    returned[-1]["numbers"].append(4)

    # Then the caller's are as they were, and the value is the caller's own
    assert (numbers, headers) == ([1, 2], {"who": ["caller"]})
    assert value == {"numbers": [1, 2, 3]}


def test_a_large_array_is_not_shared_either(app):
    # Given a task that returns an array which it keeps
    kept = numpy.zeros(1 << 16)
    got = []

    @app.task
    def keep(array):
        got.append(array)
        return kept

    # When it is called, and the arrays on either side are written to
    sent = numpy.zeros(1 << 16)
    value = keep.delay(sent).get()
    sent[0] = kept[0] = 1

    # Then nobody sees it on the other
    assert (got[0][0], value[0]) == (0, 0)


def test_retries_begin_with_the_arguments_and_headers_that_were_sent(app):
    # Given a task that spoils what it gets before it asks for another run
    @app.task(bind=True)
    def spoil(self, numbers):
        seen = [list(numbers), dict(self.request.headers)]
        numbers.clear()
        self.request.headers.clear()
        if self.request.retries < 2:
            raise self.retry()
        return seen

    assert spoil.apply_async(([1],), headers={"a": 1}).get() == [[1], {"a": 1}]


def test_a_retry_may_bring_large_arguments(app):
    @app.task(bind=True)
    def grow(self, data=b""):
        if not data:
            raise self.retry(args=(bytes(1 << 16),))
        return len(data)

    assert grow.delay().get() == 1 << 16


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "throw", "raised"),
    [(False, None, False), (False, True, True), (True, None, True), (True, False, False)],
)
def test_a_failure_is_raised_by_get_or_where_it_is_called(app, setting, throw, raised):
    # Given a task that fails
    task = app.task(fail)
    app.conf.task_eager_propagates = setting

    # When it is applied, and what it returned is got
    told = []

    def apply_and_get():
        told.append(task.apply(("no",), throw=throw))
        told[0].get()

    with pytest.raises(ValueError, match="no") as caught:
        apply_and_get()

    # Then it raises at the one or the other, and says where
    assert bool(told) is not raised
    assert "raise ValueError(text)" in vars(caught.value)["remote_traceback"]


@pytest.mark.parametrize("way", ["delay", "send_task"])
def test_the_setting_makes_every_call_raise(app, way):
    task = app.task(name="fail")(fail)
    app.conf.task_eager_propagates = True

    with pytest.raises(ValueError, match="no"):
        task.delay("no") if way == "delay" else app.send_task("fail", ("no",))


def test_throw_is_not_for_what_an_applied_task_calls(app):
    # Given a task that looks at how another one fails
    failing = app.task(fail)

    @app.task
    def look():
        return str(failing.delay("inner").get(propagate=False))

    # When it is applied with throw
    assert look.apply(throw=True).get() == "inner"


def test_what_is_raised_where_it_is_called_leads_into_the_task(app):
    # Given a task that fails
    task = app.task(fail)

    # When it raises where it is called
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - where, not what
        task.apply(("no",), throw=True)

    # Then a debugger finds the line and the variables
    assert (caught.traceback[-1].name, caught.traceback[-1].locals) == ("fail", {"text": "no"})


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        pytest.param({"expires": PAST}, exceptions.TaskRevokedError, id="expired"),
        pytest.param({"task_id": "taken"}, exceptions.TaskIdTaken, id="refused"),
        pytest.param({"ignore_result": True}, TypeError, id="ignored"),
    ],
)
def test_whatever_get_would_raise_is_raised_where_it_is_called(app, options, kind):
    # Given a task, an id that is taken, and arguments that don't add up
    task = app.task(add)
    task.apply_async((1,), task_id="taken")

    with pytest.raises(kind):
        task.apply(("a",), throw=True, **options)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"throw": 1}, exceptions.InvalidCall, "throw=1 is not possible: give True or False"),
        ({"logfile": None}, exceptions.UnknownOption, "apply has no option 'logfile'"),
        ({"link": None}, exceptions.OptionNotAvailable, "option 'link' of apply is not available"),
        ({"kwargs": {"z": 1}}, exceptions.WrongArguments, "unexpected keyword argument 'z'"),
    ],
)
def test_apply_refuses_what_it_does_not_take(app, options, kind, said):
    with pytest.raises(kind, match=said):
        app.task(add).apply((1,), **options)


def test_ctrl_c_ends_the_process_and_not_the_task(app):
    # Given a task in which Ctrl-C is typed
    @app.task
    def interrupted(really):
        if really:
            raise KeyboardInterrupt
        return "done"

    # When it is called, then the caller is interrupted
    with pytest.raises(KeyboardInterrupt):
        interrupted.apply_async((True,), task_id="mine")

    # And it is as if the call had never been made
    assert app.AsyncResult("mine").state == "PENDING"
    assert interrupted.apply_async((False,), task_id="mine").get() == "done"


def test_failures_are_logged_as_a_node_logs_them_unless_they_are_raised_here(app, caplog):
    # Given a task that fails, and one that may
    failing = app.task(name="fails")(fail)
    expected = app.task(name="may_fail", throws=ValueError)(fail)

    # When both do
    with caplog.at_level(logging.INFO, "mesh"):
        with pytest.raises(ValueError, match="zero"):
            failing.apply(("zero",), throw=True)
        failing.delay("one")
        expected.delay("two")

    # Then the one is told with its traceback, the other without
    told = [(entry.levelname, entry.message.partition("[")[0], bool(entry.exc_info)) for entry in caplog.records]
    assert told == [("ERROR", "task fails", True), ("INFO", "task may_fail", False)]
    assert [entry.message.partition("] ")[2] for entry in caplog.records] == [
        "raised ValueError: one",
        "raised ValueError: two",
    ]


# --- what is kept --------------------------------------------------------------------------------


def test_outcomes_can_be_read_by_id(app):
    # Given two calls, one with an id of its own
    task = app.task(add)
    results = [task.delay(1), task.apply_async((2,), task_id="mine")]

    # When they are read by id, also after they were forgotten
    for result in results:
        result.forget()

    # Then all say the same
    assert [app.AsyncResult(result.id).get() for result in results] == [2, 3]
    assert [result.get() for result in results] == [2, 3]
    assert [app.AsyncResult(result.id).state for result in results] == ["SUCCESS", "SUCCESS"]
    assert pickle.loads(pickle.dumps(results[1])).get() == 3


def test_an_id_that_nobody_knows_is_pending(app):
    unknown = app.AsyncResult("unheard-of")

    assert (unknown.state, unknown.result, unknown.confirmed()) == ("PENDING", None, True)
    assert app.control.revoke("unheard-of") == {"unheard-of": "unknown"}
    with pytest.raises(exceptions.TimeoutError):
        unknown.get(timeout=0.001)


def test_an_ignored_outcome_is_not_kept(app):
    # Given a call that is ignored
    task = app.task(add)
    result = task.apply_async((1,), ignore_result=True, task_id="mine")

    # Then nobody has its value, and its id is free
    assert (result.get(), result.state, app.AsyncResult("mine").state) == (None, "PENDING", "PENDING")
    assert task.apply_async((2,), task_id="mine").get() == 3


def test_of_an_ignored_call_that_was_applied_the_mesh_is_not_asked(real):
    # Given a call that ran here, and whose outcome is not kept
    result = real.task(add).apply((1,), ignore_result=True)

    # When it is asked about
    assert (result.state, result.revoke(), result.get()) == ("PENDING", "ended", None)

    # Then nobody is connected to
    assert "opened" not in vars(real)


def test_who_waits_for_an_id_before_the_call_is_made_gets_its_value(app):
    # Given a result that was waited for in vain
    result = app.AsyncResult("later")
    with pytest.raises(exceptions.TimeoutError):
        result.get(timeout=0.001)

    # When the call is made
    app.task(add).apply_async((1,), task_id="later")

    # Then its value is there
    assert result.get(timeout=20) == 2


def test_the_oldest_outcomes_make_room(app, monkeypatch):
    # Given room for two
    monkeypatch.setattr(eager, "KEPT_MAX", 2)
    task = app.task(add)

    # When there are three
    results = [task.delay(n) for n in range(3)]

    # Then the first can't be read by its id; who holds it still can
    assert [app.AsyncResult(result.id).state for result in results] == ["PENDING", "SUCCESS", "SUCCESS"]
    assert results[0].get() == 1


def test_closing_the_app_forgets_outcomes(app):
    result = app.task(add).apply_async((1,), task_id="mine")

    app.close()

    assert app.AsyncResult("mine").state == "PENDING"
    assert result.get() == 2


def test_another_thread_can_wait_for_a_call_that_runs(app):
    # Given a call that runs in another thread
    begun, go_on = threading.Event(), threading.Event()

    @app.task
    def wait():
        begun.set()
        return go_on.wait(20)

    caller = threading.Thread(target=lambda: wait.apply_async(task_id="slow"))
    caller.start()
    assert begun.wait(20)

    # When this one waits for it by its id, before and after it ends
    result, got = app.AsyncResult("slow"), []
    states = [result.state]
    infinite_s = float("inf")
    waiter = threading.Thread(target=lambda: got.append(app.AsyncResult("slow").get(infinite_s)), daemon=True)
    waiter.start()
    with pytest.raises(exceptions.TaskIdTaken):
        wait.apply_async(task_id="slow").get()
    go_on.set()
    for thread in (caller, waiter):
        thread.join(20)

    # Then both get its value
    assert [*got, result.get(timeout=20)] == [True, True]
    assert [*states, result.state] == ["PENDING", "SUCCESS"]


def test_a_forked_child_makes_ids_of_its_own(app):
    # Given an app that has made ids
    task = app.task(add)
    first = task.delay(1)
    reader, writer = os.pipe()

    # When a child and its parent make the next
    pid = os.fork()
    if not pid:
        os.write(writer, task.delay(2).id.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        of_child = file.read()

    # Then they differ
    assert of_child
    assert of_child not in {first.id, task.delay(2).id}


def test_a_call_that_has_run_at_once_can_not_be_terminated_any_more(app):
    assert app.task(add).delay(1).revoke(terminate=True) == "ended"


def test_storing_results_elsewhere_is_refused_with_the_reason(app):
    with pytest.raises(exceptions.SettingNotAvailable, match="kept in their process until app"):
        app.conf.task_store_eager_result = True


def test_results_are_typed() -> None:
    """For mypy: what `apply` gives is what the function returns."""
    typed = RecordingMesh("typed")

    @typed.task
    def half(x: int) -> float:
        return x / 2

    result: EagerResult[float] = half.apply((3,))
    value: Any = result.get()
    assert value == 1.5
