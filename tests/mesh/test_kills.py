"""`kill -9` of each role in the middle of many tasks: every call ends at its caller, with its own result.

The seed picks the moment and, among equals, the victim. MESH_STORM_TASKS and MESH_STORM_SEEDS make it longer.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal

import psutil
import pytest

from mesh import Mesh
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, Node, eventually, is_alive

TASKS = int(os.environ.get("MESH_STORM_TASKS", "3000"))
SEEDS = range(int(os.environ.get("MESH_STORM_SEEDS", "2")))


class Storm:
    """One call after the other, and a death at some moment among their results."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.moment = self.random.randrange(TASKS // 20, TASKS * 3 // 4)
        self.results = [
            tasks.work.delay(number, self.random.choice((0, 0, 50, 400))) if number % 97 else tasks.echo.delay(number)
            for number in range(TASKS)
        ]

    def until_the_moment(self) -> None:
        for result in self.results[: self.moment]:
            result.get(DEADLINE_S)

    def rest(self) -> list[int]:
        """What all calls returned."""
        return [result.get(DEADLINE_S) for result in self.results]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_task_ends_when_slots_are_killed(host: Host, app: Mesh, seed: int):
    # Given many tasks on one node
    node = host.start_node()
    storm = Storm(seed)
    storm.until_the_moment()

    # When a slot is killed, and then one of those that are there by then
    kill(storm.random.choice(node.slots()))
    kill(storm.random.choice(eventually(node.slots)))

    # Then every task has its own result, and the node its slots
    assert storm.rest() == list(range(TASKS))
    node.ready()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_task_ends_when_a_node_is_killed(host: Host, app: Mesh, seed: int):
    # Given many tasks on two nodes
    nodes = [host.start_node("n1", wait=False), host.start_node("n2", wait=False)]
    for node in nodes:
        node.ready()
    storm = Storm(seed)
    storm.until_the_moment()

    # When one of them loses its supervisor
    victim = storm.random.choice(nodes)
    processes = victim.processes()
    kill(victim.pid)

    # Then every task has its own result, and nothing of that node lives on
    assert storm.rest() == list(range(TASKS))
    eventually(lambda: not any(map(is_alive, processes)))
    assert victim.wait() != 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_every_task_ends_when_the_process_of_the_slots_is_killed_and_the_node_has_another(
    host: Host, app: Mesh, pool: str, seed: int
):
    # Given many tasks on one node
    node = host.start_node(options=["-P", pool])
    storm = Storm(seed)
    storm.until_the_moment()

    # When the process is killed from which its slots are forked, or in which they run
    supervisor, template, *slots = node.processes()
    kill(template)

    # Then the slots die with it, and others of the same node do the rest
    assert storm.rest() == list(range(TASKS))
    eventually(lambda: not any(map(is_alive, slots)))
    assert supervisor == node.ready().pid
    assert not set(node.slots()) & {template, *slots}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_no_process_is_left_whatever_of_a_node_is_killed_in_whatever_order(host: Host, app: Mesh, pool: str, seed: int):
    # Given a node that works
    node = host.start_node(options=["-P", pool])
    processes = node.processes()
    results = [tasks.work.delay(number, 200) for number in range(500)]

    # When supervisor, template and slots are killed, one after the other
    order = random.Random(seed).sample(sorted(set(processes)), len(set(processes)))
    for pid in order:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    # Then none is left, nor any that took their place, and another node does the rest
    node.wait()
    eventually(lambda: not any(map(is_alive, processes)))
    eventually(lambda: not of_session(node.pid))
    host.start_node("n2", wait=False)
    assert [result.get(DEADLINE_S) for result in results] == list(range(500))


def of_session(pid: int) -> list[int]:
    """The living processes of the session that this one began."""
    found = []
    for one in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(one) == pid and is_alive(one):
                found.append(one)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_every_task_ends_when_the_only_node_is_killed_and_another_is_started(host: Host, app: Mesh, seed: int):
    # Given many tasks on one node
    node = host.start_node()
    storm = Storm(seed)
    storm.until_the_moment()

    # When it is killed, and one of the same name is started
    kill(node.pid)
    host.start_node(wait=False)

    # Then every task has its own result
    assert storm.rest() == list(range(TASKS))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_task_ends_when_the_router_is_killed(host: Host, app: Mesh, seed: int):
    # Given many tasks on one node
    node = host.start_node()
    storm = Storm(seed)
    storm.until_the_moment()
    router, slots = host.router_pid(), node.slots()

    # When the router is killed
    kill(router)

    # Then every task has its own result; the node and its slots have gone on, with another router
    assert storm.rest() == list(range(TASKS))
    assert node.ready().slots() == slots
    assert host.router_pid() not in (0, router)


def test_every_task_ends_when_everything_but_the_caller_is_killed(host: Host, app: Mesh):
    # Given many tasks on one node
    node: Node = host.start_node()
    storm = Storm(seed=0)
    storm.until_the_moment()

    # When node and router are killed together, and another node is started
    for pid in (host.router_pid(), node.pid):
        os.kill(pid, signal.SIGKILL)
    host.start_node("n2", wait=False)

    # Then every task has its own result
    assert storm.rest() == list(range(TASKS))
