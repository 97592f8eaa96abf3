"""Tasks that wait for tasks: another slot stands in for them, up to so many; then it leaves."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from mesh import Mesh
from mesh.exceptions import SoftTimeLimitExceeded, TimeoutError, WouldDeadlock
from tests.mesh.proj import lasting, tasks
from tests.mesh.running import DEADLINE_S, Host, Node, eventually

POOLS = pytest.mark.parametrize("pool", ["prefork", "threads"])


def slots(node: Node) -> int:
    return len(node.report()["slots"])


@POOLS
def test_tasks_that_wait_for_each_other_end_on_one_slot_and_it_is_one_slot_again(
    host: Host, app: Mesh, pool: str
) -> None:
    # Given one slot
    node = host.start_node(slots=1, options=["-P", pool])

    # When a task calls itself five deep, twice
    for _ in range(2):
        chain = lasting.nest.delay(5).get(DEADLINE_S)

        # Then it ends, each level in a slot of its own
        assert len(chain) == 6
        assert len(set(chain)) == (6 if pool == "prefork" else 1)

    # And there is one slot in the end, which works
    eventually(lambda: slots(node) == 1)
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3


@POOLS
def test_more_waiting_tasks_than_are_allowed_fail_by_an_error_that_names_the_setting(
    host: Host, app: Mesh, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a node where two tasks may wait
    monkeypatch.setenv("MESH_WORKER_MAX_BLOCKED", "2")
    node = host.start_node(slots=1, options=["-P", pool])
    assert len(lasting.nest.delay(2).get(DEADLINE_S)) == 3

    # When three have to
    with pytest.raises(WouldDeadlock, match=r"2 tasks of this node .* worker_max_blocked"):
        lasting.nest.delay(3).get(DEADLINE_S)

    # Then the node is as it was
    assert len(lasting.nest.delay(2).get(DEADLINE_S)) == 3
    eventually(lambda: slots(node) == 1)


def test_a_task_that_waits_on_the_only_slot_there_can_be_is_refused_at_once(host: Host, app: Mesh) -> None:
    host.start_node(slots=None, options=["-P", "solo"])
    with pytest.raises(WouldDeadlock, match="-P prefork"):
        lasting.nest.delay(1).get(DEADLINE_S)
    assert lasting.nest.delay(0).get(DEADLINE_S)


@POOLS
def test_what_a_slot_was_granted_before_it_waits_is_run_by_the_others(
    host: Host, app: Mesh, tmp_path: Path, pool: str
) -> None:
    # Given one slot whose task waits for one that lasts, with others sent together with it
    host.start_node(slots=1, options=["-P", pool])
    with app.batch():
        waits = lasting.ask_for_hold.delay(str(tmp_path / "begun"), str(tmp_path / "until"))
        others = [tasks.echo.delay(number) for number in range(100)]
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When the one that lasts ends, then all end
    (tmp_path / "until").touch()
    assert [result.get(DEADLINE_S) for result in others] == list(range(100))
    assert waits.get(DEADLINE_S)


@POOLS
def test_many_tasks_that_wait_at_once_all_end(host: Host, app: Mesh, pool: str) -> None:
    node = host.start_node(slots=2, options=["-P", pool])
    results = [lasting.nest.delay(2) for _ in range(5)]
    assert [len(result.get(DEADLINE_S)) for result in results] == [3] * 5
    eventually(lambda: slots(node) == 2)


def test_slots_that_are_replaced_after_each_task_can_wait_too(host: Host, app: Mesh) -> None:
    node = host.start_node(slots=1, options=["--max-tasks-per-child", "1"])
    chains = [lasting.nest.delay(4).get(DEADLINE_S) for _ in range(3)]
    assert len({pid for chain in chains for pid in chain}) == 15
    eventually(lambda: slots(node) == 1)


def test_a_warm_stop_waits_for_a_task_that_waits_for_one_on_another_node(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given a task that waits for another one, which runs in a stand-in
    node = host.start_node(slots=1)
    waits = lasting.ask_for_hold.delay(str(tmp_path / "begun"), str(tmp_path / "until"))
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When the node is told to stop
    node.send(15)
    eventually(partial(says, node, "stopping"))
    assert node.popen.poll() is None

    # Then both end in order
    (tmp_path / "until").touch()
    assert waits.get(DEADLINE_S)
    assert node.wait() == 0


def says(node: Node, words: str) -> bool:
    return words in node.said


@POOLS
def test_what_strikes_a_task_as_it_begins_to_wait_leaves_its_slot_at_work(host: Host, app: Mesh, pool: str) -> None:
    # Given tasks that begin to wait and stop again all the time, and are interrupted somewhere in between
    node = host.start_node(slots=1, options=["-P", pool])
    for _ in range(8):
        with pytest.raises(SoftTimeLimitExceeded):
            lasting.wait_in_vain.apply_async((10_000_000,), soft_time_limit=0.1).get(DEADLINE_S)

    # Then the slot goes on, and is the only one
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    eventually(lambda: slots(node) == 1)


def test_a_slot_goes_on_though_the_router_can_not_hear_how_often_its_task_has_waited(host: Host, app: Mesh) -> None:
    # Given a slot that reaches its caller without the router
    host.start_node(slots=1)
    for _ in range(3):
        assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    router = psutil.Process(host.router_pid())

    # When its task begins to wait more often than there is room for messages, and the router hears some of them
    for _ in range(3):
        result = lasting.wait_in_vain.apply_async((60_000,), confirm=True)
        try:
            while not result.ready():
                router.suspend()
                with contextlib.suppress(TimeoutError):
                    result.get(0.3)
                router.resume()
                time.sleep(0.002)
        finally:
            router.resume()

        # Then the slot goes on when the router does
        assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3


def test_a_task_that_waits_again_and_again_has_one_slot_stand_in_for_it(host: Host, app: Mesh) -> None:
    # When a task on the only slot waits for many others, one after the other
    node = host.start_node(slots=1)
    pids = lasting.ask_again_and_again.delay(100).get(2 * DEADLINE_S)

    # Then hardly a new process had to be made for them, and there is one slot again
    assert len(set(pids)) < 20
    eventually(lambda: slots(node) == 1)


def test_a_thread_that_outlives_its_task_and_waits_blocks_nobody(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given a task that has left such a thread behind
    node = host.start_node(slots=1)
    begun, until = str(tmp_path / "begun"), str(tmp_path / "until")
    assert lasting.leave_one_waiting.delay(begun, until).get(DEADLINE_S)

    # Then its slot is like any other, also when the thread stops waiting
    (tmp_path / "until").touch()
    eventually(lambda: slots(node) == 1)
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3


def test_threads_that_tasks_leave_behind_do_not_keep_slots(host: Host, app: Mesh) -> None:
    node = host.start_node(slots=1, options=["--max-tasks-per-child", "1"])
    pids = [lasting.leave_a_thread.delay().get(DEADLINE_S) for _ in range(30)]
    assert len(set(pids)) == 30
    assert node.stop() == 0
