"""What a slot's death costs and whom; who waits for whom on one slot; that a long task holds nobody up."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from mesh import Mesh
from mesh.exceptions import WorkerLostError
from mesh.settings import Settings
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, eventually

#: Calls of a task that make its run time known, so that it is leased behind others.
ENOUGH = 50


def make_known() -> None:
    """Lets the router learn that these tasks are tiny."""
    for _ in range(3):
        for result in [tasks.whoami.delay() for _ in range(ENOUGH)] + [tasks.echo.delay(0) for _ in range(ENOUGH)]:
            result.get(DEADLINE_S)


# --- death ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "arguments", "cause"),
    [
        (tasks.leave, (7,), "exited with code 7"),
        (tasks.kill_itself, (), r"signal 9 \(SIGKILL\)"),
        (tasks.close_everything, (), "its process"),
    ],
    ids=["os._exit", "SIGKILL", "closes every descriptor"],
)
def test_a_task_that_kills_its_slot_each_time_fails_past_the_budget_and_no_other_is_charged(
    host: Host, app: Mesh, task, arguments, cause
):
    # Given one slot, and tasks that it knows as tiny
    node = host.start_node(slots=1)
    make_known()
    (slot,) = node.slots()

    # When a task that takes its slot down each time is sent together with such tasks
    with app.batch():
        before = [tasks.whoami.delay() for _ in range(20)]
        deadly = task.delay(*arguments)
        behind = [tasks.whoami.delay() for _ in range(20)]

    # Then it fails with the first death past its budget, naming what ended each delivery
    deaths = Settings().crash_budget + 1
    with pytest.raises(WorkerLostError, match=rf"took down {deaths} slots, and .*{cause}.* \({deaths} times\)\."):
        deadly.get(DEADLINE_S)
    assert (deadly.state, deadly.failed()) == ("FAILURE", True)

    # And the others run once each, without a stain
    ran = [result.get(DEADLINE_S) for result in before + behind]
    assert {(one["attempt"], one["redelivered"]) for one in ran} == {(0, False)}
    assert slot not in node.ready().slots()


def test_tasks_that_were_leased_behind_one_that_dies_are_not_charged(host: Host, app: Mesh, tmp_path: Path):
    # Given one slot that runs a task until its gate opens, with tiny ones sent together with it
    node = host.start_node(slots=1)
    make_known()
    with app.batch():
        first = [tasks.whoami.delay() for _ in range(10)]
        held = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "end"))
        behind = [tasks.whoami.delay() for _ in range(50)]
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When the slot is killed from outside
    (slot,) = node.slots()
    os.kill(slot, signal.SIGKILL)
    (tmp_path / "end").touch()

    # Then the running task is on its second attempt, and all others on their first
    assert held.get(DEADLINE_S)["attempt"] == 1
    assert {one.get(DEADLINE_S)["attempt"] for one in first + behind} == {0}


def test_a_process_that_a_task_has_forked_is_no_second_slot(host: Host, app: Mesh):
    # Given one slot
    node = host.start_node(slots=1)
    (slot,) = node.slots()

    # When a task forks and both processes return from it
    returned = [tasks.fork.delay().get(DEADLINE_S) for _ in range(3)]

    # Then only the slot's word counts, and the others are gone
    assert returned == [slot] * 3
    eventually(
        lambda: (
            not psutil.Process(slot).children()
            or all(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process(slot).children())
        )
    )


def test_what_a_task_forks_is_ended_by_sigterm(host: Host, app: Mesh):
    host.start_node(slots=1)
    assert tasks.pool_of_two.delay().get(DEADLINE_S) == 2


def test_what_a_task_forks_is_ended_by_sigterm_however_soon_that_comes(host: Host, app: Mesh):
    host.start_node(slots=1, options=["-I", "tests.mesh.proj.slow_fork"])
    assert app.send_task("tests.mesh.proj.slow_fork.fork_and_terminate").get(DEADLINE_S) == signal.SIGTERM


def test_a_task_whose_slot_died_once_runs_again_as_the_next_attempt(host: Host, app: Mesh):
    host.start_node(slots=1)
    assert tasks.leave_once.delay(3).get(DEADLINE_S) == 1


def test_a_task_that_may_run_at_most_once_fails_with_its_slot(host: Host, app: Mesh):
    # When the slot of such a task dies
    host.start_node(slots=1)
    result = tasks.leave_early.delay()

    # Then it fails after that one delivery
    with pytest.raises(WorkerLostError, match="exited with code 5"):
        result.get(DEADLINE_S)


# --- order ---------------------------------------------------------------------------------------


def test_the_caller_of_a_finished_task_does_not_wait_for_a_later_one_on_its_slot(host: Host, app: Mesh, tmp_path: Path):
    # Given one slot, and a task that it knows as tiny
    host.start_node(slots=1)
    make_known()

    # When such tasks are sent together with one that lasts until it is told
    with app.batch():
        tiny = [tasks.echo.delay(number) for number in range(5)]
        long = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "end"))
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # Then their results are there while it runs
    assert [result.get(DEADLINE_S) for result in tiny] == list(range(5))
    assert not long.ready()
    (tmp_path / "end").touch()
    assert long.get(DEADLINE_S)["attempt"] == 0


def test_a_task_that_was_known_as_tiny_and_lasts_holds_up_nobody(host: Host, app: Mesh, tmp_path: Path):
    # Given two slots, and a task that both know as tiny
    host.start_node(slots=2)
    (tmp_path / "open").touch()
    for _ in range(3):
        for result in [tasks.hold.delay(str(tmp_path / "early"), str(tmp_path / "open")) for _ in range(ENOUGH)]:
            result.get(DEADLINE_S)

    # When one of them lasts, and many are sent with it
    with app.batch():
        long = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "end"))
        short = [tasks.hold.delay(str(tmp_path / "early"), str(tmp_path / "open")) for _ in range(200)]

    # Then all others end while it runs: what lay behind it has been taken back
    assert {result.get(DEADLINE_S)["attempt"] for result in short} == {0}
    assert not long.ready()
    (tmp_path / "end").touch()
    long.get(DEADLINE_S)


def test_many_short_tasks_are_done_while_a_long_one_runs(host: Host, app: Mesh, tmp_path: Path):
    # Given two slots
    host.start_node(slots=2)

    # When a task that lasts until it is told is sent, and then many short ones
    long = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "end"))
    short = [tasks.work.delay(number, 500) for number in range(200)]

    # Then all the short are done while the long one still runs
    assert [result.get(DEADLINE_S) for result in short] == list(range(200))
    assert not long.ready()
    (tmp_path / "end").touch()
    long.get(DEADLINE_S)


def test_one_slot_serves_the_higher_priority_first_and_equals_as_they_came(host: Host, app: Mesh, tmp_path: Path):
    # Given one slot that is taken
    host.start_node(slots=1)
    log, end = tmp_path / "log", tmp_path / "end"
    hold = tasks.hold.delay(str(tmp_path / "begun"), str(end))
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When tasks of several priorities wait for it
    priorities = [0, 5, 9, 5, 0, 9, 3]
    results = [
        tasks.note.apply_async((str(log), f"{priority}-{number}"), priority=priority, confirm=True)
        for number, priority in enumerate(priorities)
    ]
    end.touch()
    hold.get(DEADLINE_S)
    for result in results:
        result.get(DEADLINE_S)

    # Then they run by priority, and in the order of their calls within one
    assert log.read_text().split() == ["9-2", "9-5", "5-1", "5-3", "3-6", "0-0", "0-4"]


def test_each_node_takes_from_its_own_queues(host: Host, app: Mesh):
    # Given one node for mail and one for the rest
    host.start_node("mail", slots=1, queues="mail,letters", wait=False)
    host.start_node("rest", slots=1, wait=False)

    # When calls go to several queues, one of which nobody serves
    routed = {queue: tasks.whoami.apply_async(queue=queue) for queue in ("mail", "letters", "celery")}
    unserved = tasks.echo.apply_async((1,), queue="unserved")

    # Then each runs where its queue is served, and the one that is not waits until somebody serves it
    served = {queue: result.get(DEADLINE_S)["node"] for queue, result in routed.items()}
    assert served == {"mail": "mail@here", "letters": "mail@here", "celery": "rest@here"}
    assert not unserved.ready()
    host.start_node("late", slots=1, queues="unserved", wait=False)
    assert unserved.get(DEADLINE_S) == 1


# --- slow is not dead ----------------------------------------------------------------------------


def test_a_stopped_slot_is_slow_and_not_dead(host: Host, app: Mesh, tmp_path: Path):
    # Given one of two slots that is stopped in the middle of a task
    node = host.start_node(slots=2)
    held = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "end"))
    (begun,) = eventually(lambda: list(tmp_path.glob("begun.*")))
    pid = int(begun.suffix[1:])
    os.kill(pid, signal.SIGSTOP)

    # When the mesh works on meanwhile
    others = [tasks.whoami.delay() for _ in range(100)]
    assert pid not in {result.get(DEADLINE_S)["pid"] for result in others}
    (tmp_path / "end").touch()
    assert not held.ready()

    # Then the task goes on where it was when the slot does
    os.kill(pid, signal.SIGCONT)
    came = held.get(DEADLINE_S)
    assert (came["pid"], came["attempt"]) == (pid, 0)
    assert pid in node.slots()


def test_a_stopped_node_is_slow_and_not_dead(host: Host, app: Mesh):
    # Given a node of which supervisor, template and slots are stopped
    node = host.start_node(slots=2)
    processes = node.processes()
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)

    # When it is called meanwhile
    results = [tasks.whoami.delay() for _ in range(100)]
    assert results[0].confirmed(DEADLINE_S)
    assert not any(result.ready() for result in results)

    # Then everything runs as soon as it goes on, in the same processes
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    ran = [result.get(DEADLINE_S) for result in results]
    assert {one["attempt"] for one in ran} == {0}
    assert {one["pid"] for one in ran} <= set(processes)
    assert node.processes() == processes


def test_a_stopped_router_is_slow_and_not_dead(host: Host, app: Mesh):
    # Given a router that is stopped
    node = host.start_node(slots=2)
    assert tasks.echo.delay(0).get(DEADLINE_S) == 0
    router, slots = host.router_pid(), node.slots()
    os.kill(router, signal.SIGSTOP)

    # When calls are made meanwhile, and it goes on
    results = [tasks.echo.delay(number) for number in range(100)]
    assert not results[0].confirmed(0.5)
    os.kill(router, signal.SIGCONT)

    # Then all of them run, with the same router and slots
    assert [result.get(DEADLINE_S) for result in results] == list(range(100))
    assert (host.router_pid(), node.slots()) == (router, slots)
