"""What a call can be told, and what its result tells: against a node in the test's own process."""

from __future__ import annotations

import builtins
import datetime
import json
import os
import pickle
import signal
import time
from pathlib import Path

import numpy
import pytest

from mesh import Mesh, current_app
from mesh.exceptions import NotRegistered, TaskIdTaken, TaskRevokedError, TimeoutError, UnserialisableArgument
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, eventually

UTC = datetime.UTC
pytestmark = pytest.mark.usefixtures("in_process_app")


# --- results -------------------------------------------------------------------------------------


def test_a_call_returns_its_value_and_says_so():
    # When a task has run
    result = tasks.add.delay(2, 3)

    # Then its result says how it ended
    assert result.get(DEADLINE_S) == 5
    assert (result.state, result.ready(), result.successful(), result.failed()) == ("SUCCESS", True, True, False)


def test_a_built_in_exception_is_raised_with_its_own_type_and_the_remote_traceback():
    # When a task divides by zero
    result = tasks.divide.delay(1, 0)

    # Then get raises what the task raised, and the traceback names the line over there
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        result.get(DEADLINE_S)
    assert (result.state, result.failed(), result.successful()) == ("FAILURE", True, False)
    assert result.traceback is not None
    assert "return x / y" in result.traceback


def test_an_exception_of_the_projects_own_class_arrives_with_its_fields():
    # When a task raises one
    with pytest.raises(tasks.Refused) as raised:
        tasks.refuse.delay(7).get(DEADLINE_S)

    # Then it is that class
    assert (raised.value.order, raised.value.reason) == (7, "out of stock")


def test_get_returns_the_exception_where_it_is_not_to_propagate():
    failure = tasks.divide.delay(1, 0).get(DEADLINE_S, propagate=False)
    assert isinstance(failure, ZeroDivisionError)


def test_a_value_that_can_not_be_sent_fails_the_task_and_not_the_slot():
    # When a task returns such a value
    with pytest.raises(UnserialisableArgument, match="object"):
        tasks.unserialisable.delay().get(DEADLINE_S)

    # Then the slot runs on
    assert tasks.whoami.delay().get(DEADLINE_S)["attempt"] == 0


@pytest.mark.parametrize("level", ["none", "journaled", "synced"])
def test_a_confirmed_call_says_what_it_survives(level: str):
    # Given a call that does not end before it is confirmed, when that is waited for
    result = tasks.add.apply_async((2, 3), durability=level, countdown=0.3, confirm=True)

    # Then the level is told that was asked for
    assert (result.durability, result.get(DEADLINE_S)) == (level, 5)


def test_a_name_that_the_node_does_not_know_is_a_failure_that_says_so(in_process_app: Mesh):
    result = in_process_app.send_task("proj.unheard_of", (1,))
    with pytest.raises(NotRegistered, match=r"proj\.unheard_of.*not registered"):
        result.get(DEADLINE_S)
    assert result.failed()


def test_arguments_that_can_not_be_decoded_over_there_fail_the_task(in_process_app: Mesh):
    # When a call by name does not fit the function
    result = in_process_app.send_task(tasks.add.name, (1, 2, 3))

    # Then the task fails as the call of a function does
    with pytest.raises(TypeError, match="argument"):
        result.get(DEADLINE_S)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"\x00\xff" * (1 << 19), id="1 MiB of bytes"),
        pytest.param(b"x" * (5 << 20), id="5 MiB of bytes"),
        pytest.param("ü" * (1 << 20), id="2 MiB of text"),
        pytest.param(list(range(100_000)), id="a long list"),
    ],
)
def test_a_big_value_goes_both_ways(value: object):
    assert tasks.echo.delay(value).get(DEADLINE_S) == value


def test_arrays_go_both_ways():
    # Given arrays of several shapes, one of them large
    arrays = [numpy.arange(300_000, dtype="f8").reshape(300, 1000), numpy.zeros((0, 3)), numpy.arange(4)]

    # When they are doubled over there
    doubled = [result.get(DEADLINE_S) for result in [tasks.twice.delay(array) for array in arrays]]

    # Then all come back as arrays of their own type
    for array, came in zip(arrays, doubled, strict=True):
        assert came.dtype == array.dtype
        assert numpy.array_equal(came, array * 2)


def test_a_result_is_read_by_id_from_another_process_any_number_of_times(in_process_host: Host):
    # Given a task that has ended
    result = tasks.echo.delay({"a": [1, 2]})
    result.get(DEADLINE_S)

    # When another process reads it by its id, twice, and this one too
    code = """
import json, sys
from tests.mesh.proj import app
one, other = app.AsyncResult(sys.argv[1]), app.AsyncResult(sys.argv[1])
print(json.dumps([one.get(30), other.get(30), one.state]))
"""
    said = json.loads(in_process_host.run_script(code, result.id))

    # Then each read gives the value
    assert said == [{"a": [1, 2]}, {"a": [1, 2]}, "SUCCESS"]
    again = current_app.AsyncResult(result.id)
    assert [again.get(DEADLINE_S), pickle.loads(pickle.dumps(result)).get(DEADLINE_S)] == [{"a": [1, 2]}] * 2


def test_an_unknown_id_is_pending(in_process_app: Mesh):
    # Given ids that no call ever had
    ids = ["nobody-has-this-id", tasks.add.delay(0, 0).id[:-4] + "beef"]

    # Then they are pending, and waiting for one ends by its time-out
    for unknown in ids:
        result = in_process_app.AsyncResult(unknown)
        assert (result.state, result.ready()) == ("PENDING", False)
        with pytest.raises(TimeoutError):
            result.get(timeout=0.01)


def test_get_that_times_out_says_what_to_do_and_the_task_goes_on(tmp_path: Path):
    # Given a task that runs
    end = tmp_path / "end"
    result = tasks.hold.delay(str(tmp_path / "begun"), str(end))

    # When get waits less long than it takes
    with pytest.raises(TimeoutError, match=r"The task goes on: .*AsyncResult") as raised:
        result.get(timeout=0.05)

    # Then that is a TimeoutError of Python's too, and a later get has the value
    assert isinstance(raised.value, builtins.TimeoutError)
    end.touch()
    assert result.get(DEADLINE_S)["attempt"] == 0


def test_ctrl_c_ends_a_waiting_get_and_leaves_the_client_in_order(in_process_host: Host, tmp_path: Path):
    # Given a program that waits for a task
    code = """
import sys, signal
from tests.mesh.proj import tasks
result = tasks.hold.delay(sys.argv[1], sys.argv[2])
print("waits", flush=True)
try:
    result.get()
except KeyboardInterrupt:
    open(sys.argv[2], "w").close()
    print("interrupted, then", result.get(30)["attempt"], tasks.add.delay(1, 1).get(30))
"""
    script = in_process_host.start_script(code, str(tmp_path / "begun"), str(tmp_path / "end"))
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When Ctrl-C is pressed
    script.send(signal.SIGINT)

    # Then get raises KeyboardInterrupt, and the client works on
    assert script.wait() == 0
    assert script.said.split("\n") == ["waits", "interrupted, then 0 2", ""]


# --- when ----------------------------------------------------------------------------------------


def test_a_task_does_not_begin_before_its_countdown():
    # When a task is due in a while
    asked_wall_s = time.time()
    result = tasks.echo.apply_async((1,), countdown=0.3)

    # Then it waits for that, and then runs
    assert result.state == "PENDING"
    assert result.get(DEADLINE_S) == 1
    assert time.time() - asked_wall_s >= 0.3


@pytest.mark.parametrize("form", [lambda moment: moment, lambda moment: moment.isoformat()], ids=["datetime", "text"])
def test_a_task_does_not_begin_before_its_eta(form):
    moment = datetime.datetime.now(UTC) + datetime.timedelta(seconds=0.3)
    assert tasks.echo.apply_async((1,), eta=form(moment)).get(DEADLINE_S) == 1
    assert datetime.datetime.now(UTC) >= moment


def test_tasks_run_in_the_order_of_their_eta(tmp_path: Path):
    # When tasks are sent in another order than they are due
    log = tmp_path / "log"
    delays = [0.4, 0.2, 0.3, 0.1]
    now = datetime.datetime.now(UTC)
    results = [
        tasks.note.apply_async((str(log), str(delay)), eta=now + datetime.timedelta(seconds=delay)) for delay in delays
    ]
    for result in results:
        result.get(DEADLINE_S)

    # Then they run as they are due
    assert log.read_text().split() == ["0.1", "0.2", "0.3", "0.4"]


@pytest.mark.parametrize(
    "options",
    [
        {"expires": 0.05},
        {"expires": 0.05, "countdown": 0.2},
        {"expires": datetime.datetime(2020, 1, 1, tzinfo=UTC)},
    ],
    ids=["seconds", "before it is due", "long ago"],
)
def test_a_task_that_expires_before_it_begins_is_revoked(options, tmp_path: Path):
    # Given slots that are all taken
    end, ran = tmp_path / "end", tmp_path / "ran"
    holds = [tasks.hold.delay(str(tmp_path / f"begun.{number}"), str(end)) for number in range(2)]
    eventually(lambda: len(list(tmp_path.glob("begun.*"))) == 2)

    # When a task behind them expires
    result = tasks.touch.apply_async((str(ran),), **options)

    # Then its caller is told at once, and it never runs
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(DEADLINE_S)
    assert result.state == "REVOKED"
    end.touch()
    for hold in holds:
        hold.get(DEADLINE_S)
    assert tasks.echo.delay(1).get(DEADLINE_S) == 1
    assert not ran.exists()


def test_a_task_that_begins_in_time_is_not_revoked():
    assert tasks.echo.apply_async((1,), expires=DEADLINE_S).get(DEADLINE_S) == 1


# --- ids, states, confirmations ------------------------------------------------------------------


def test_a_task_is_found_by_the_id_its_caller_chose(in_process_host: Host):
    # Given a task with such an id, which it sees itself
    chosen = f"order-{os.getpid()}-1"
    result = tasks.whoami.apply_async(task_id=chosen)
    assert (result.id, result.get(DEADLINE_S)["id"]) == (chosen, chosen)

    # When another process asks by it
    code = "import sys; from tests.mesh.proj import app; print(app.AsyncResult(sys.argv[1]).get(30)['id'])"

    # Then it reads the same outcome
    assert in_process_host.run_script(code, chosen).strip() == chosen


def test_an_id_that_is_watched_before_its_task_is_sent_is_told_of_the_outcome(in_process_app: Mesh):
    # Given somebody who waits for an id that nobody has used
    chosen = f"order-{os.getpid()}-2"
    early = in_process_app.AsyncResult(chosen)
    with pytest.raises(TimeoutError):
        early.get(timeout=0.01)

    # When a task gets it
    tasks.echo.apply_async(("here",), task_id=chosen)

    # Then the waiting has an end
    assert early.get(DEADLINE_S) == "here"


def test_an_id_that_is_taken_is_refused():
    # Given a task with an id of its caller's choice
    chosen = f"order-{os.getpid()}-3"
    first = tasks.echo.apply_async(("first",), task_id=chosen, confirm=True)

    # When another is sent under it
    with pytest.raises(TaskIdTaken, match="is taken"):
        tasks.echo.apply_async(("second",), task_id=chosen, confirm=True)

    # Then the first is untouched
    assert first.get(DEADLINE_S) == "first"


def test_a_task_that_is_tracked_says_that_it_has_started(in_process_app: Mesh, tmp_path: Path):
    # Given a task that is tracked and one that is not, both running
    end = tmp_path / "end"
    tracked = tasks.hold.apply_async((str(tmp_path / "begun.1"), str(end)), track_started=True)
    silent = tasks.hold.delay(str(tmp_path / "begun.2"), str(end))
    eventually(lambda: len(list(tmp_path.glob("begun.*"))) == 2)

    # Then one of them says so, also to others
    eventually(lambda: tracked.state == "STARTED")
    assert in_process_app.AsyncResult(tracked.id).state == "STARTED"
    assert silent.state == "PENDING"

    # When they end
    end.touch()

    # Then both have succeeded
    tracked.get(DEADLINE_S), silent.get(DEADLINE_S)
    assert (tracked.state, silent.state) == ("SUCCESS", "SUCCESS")


def test_a_call_can_wait_for_the_routers_confirmation():
    # When a call is confirmed, before or after it was sent
    before = tasks.echo.apply_async((1,), countdown=1000, expires=0.2, confirm=True)
    after = tasks.echo.delay(1)

    # Then both say so
    assert before.confirmed(0)
    assert after.confirmed(DEADLINE_S)


def test_calls_of_a_batch_all_run(in_process_app: Mesh):
    # When calls are made in a batch
    with in_process_app.batch():
        results = [tasks.add.delay(number, 1) for number in range(300)]

    # Then each has its result
    assert [result.get(DEADLINE_S) for result in results] == [number + 1 for number in range(300)]


def test_a_call_without_result_runs_and_stores_nothing(in_process_app: Mesh, tmp_path: Path):
    # When a call's result is of no interest
    result = tasks.touch.apply_async((str(tmp_path / "ran"),), ignore_result=True)

    # Then it runs, and get says at once that there is nothing
    eventually((tmp_path / "ran").exists)
    assert result.get(DEADLINE_S) is None
    assert in_process_app.AsyncResult(result.id).state == "PENDING"


def test_headers_reach_the_task():
    assert tasks.whoami.apply_async(headers={"tenant": "a"}).get(DEADLINE_S)["headers"] == {"tenant": "a"}


def test_a_task_calls_another(in_process_app: Mesh):
    # When a task sends a call
    inner = tasks.call_another.delay(41).get(DEADLINE_S)

    # Then that one runs, and its result is read by its id
    assert in_process_app.AsyncResult(inner).get(DEADLINE_S) == 42


def test_results_belong_to_their_calls_under_many_threads():
    # When several threads call and wait at once
    import concurrent.futures

    def round_trips(thread: int) -> bool:
        return all(tasks.add.delay(thread, number).get(DEADLINE_S) == thread + number for number in range(100))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        told = list(pool.map(round_trips, range(8)))

    # Then each gets its own results
    assert all(told)
