"""Real processes killed and stopped in the middle of thousands of tasks of two clients: nothing lost, nothing hung.

One client is this process. The other is killed once its calls are confirmed, and its results are read by their ids: it
keeps them (`result_persistent`), for it may have got some of them before the router was killed.
Each run is registered with its process, so that what ran twice is known, and why. MESH_LOSS_SEEDS makes it longer.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh import Mesh
from tests.mesh.proj import tasks
from tests.mesh.running import Host, Node, eventually, is_alive

#: Calls of both clients together.
CALLS = int(os.environ.get("MESH_LOSS_CALLS", "20000"))
SEEDS = range(int(os.environ.get("MESH_LOSS_SEEDS", "1")))
#: Longest stop, s.
STOP_MAX_S = float(os.environ.get("MESH_LOSS_STOP_S", "3"))
#: Queued, and as many again with an eta, when everything is killed at once.
QUEUED = int(os.environ.get("MESH_LOSS_QUEUED", "50000"))
WITHIN_S = float(os.environ.get("MESH_LOSS_WITHIN_S", "90"))

OTHER_CLIENT = """
import signal, sys
from tests.mesh.proj import app, tasks
app.conf.update(result_persistent=True)
path, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
results = [tasks.register.delay(path, number, number % 400) for number in range(first, last)]
open(path + ".called", "w").close()
for result in results:
    assert result.confirmed(60)
with open(path + ".ids", "w") as file:
    file.write(" ".join(result.id for result in results) + " all")
signal.pause()
"""

QUEUE_AND_STAY = """
import sys, time, signal
from tests.mesh.proj import tasks
path, count, eta = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
from datetime import datetime, UTC
when = datetime.fromtimestamp(eta, UTC)
last = []
for number in range(count):
    last = [tasks.register.apply_async((path, number)), tasks.register.apply_async((path, count + number), eta=when)]
for result in last:
    assert result.confirmed(60) and result.durability == "journaled"
print("all", flush=True)
signal.pause()
"""


class Run(NamedTuple):
    """One beginning of a call."""

    pid: int
    wall_s: float


def runs_of(path: Path) -> dict[int, list[Run]]:
    """{number of the call: its runs in order}."""
    runs: dict[int, list[Run]] = defaultdict(list)
    for line in path.read_text().splitlines():
        number, pid, wall_s = line.split()
        runs[int(number)].append(Run(int(pid), float(wall_s)))
    return runs


class Storm:
    """Two clients with half of the calls each, and somebody who strikes while they run."""

    def __init__(self, host: Host, path: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.host = host
        self.path = path
        self.killed: set[int] = set()
        self.other = host.start_script(OTHER_CLIENT, str(path), str(CALLS // 2), str(CALLS))
        self.mine = [tasks.register.delay(str(path), number, number % 400) for number in range(CALLS // 2)]

    def until_the_moment(self) -> None:
        """Both clients have called; some of the calls have run, many have not."""
        eventually(self.path.with_suffix(".called").exists, WITHIN_S)
        wanted = self.random.randrange(CALLS // 20, CALLS // 3)
        eventually(lambda: self.path.exists() and self.path.read_bytes().count(b"\n") >= wanted, WITHIN_S)

    def kill(self, pid: int, *, with_slots_of: Node | None = None) -> None:
        self.killed |= {pid, *(with_slots_of.slots() if with_slots_of is not None else ())}
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not is_alive(pid))

    def stop_for_a_while(self, pid: int) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(self.random.uniform(1.0, STOP_MAX_S))
        os.kill(pid, signal.SIGCONT)

    def check(self, app: Mesh) -> None:
        """Every call of both clients has its own result; what ran twice did so because a process was killed."""
        assert [result.get(WITHIN_S) for result in self.mine] == list(range(CALLS // 2))
        told = self.path.with_suffix(".ids")
        eventually(lambda: told.exists() and told.read_text().endswith("all"), WITHIN_S)
        *ids, _ = told.read_text().split()
        self.other.send(signal.SIGKILL)
        self.other.wait()
        results = [app.AsyncResult(task_id) for task_id in ids]
        assert [result.get(WITHIN_S) for result in results] == list(range(CALLS // 2, CALLS))
        runs = runs_of(self.path)
        assert runs.keys() == set(range(CALLS))
        again = {number: had for number, had in runs.items() if len(had) > 1}
        for number, had in again.items():
            assert all(run.pid in self.killed for run in had[:-1]), f"call {number} ran again without need: {had}"


@pytest.fixture
def nodes(host: Host) -> list[Node]:
    """Two nodes of two slots."""
    started = [host.start_node("n1", wait=False), host.start_node("n2", wait=False)]
    for node in started:
        node.ready()
    return started


def kill_router(storm: Storm, nodes: list[Node]) -> None:
    storm.kill(storm.host.router_pid())


def end_router(storm: Storm, nodes: list[Node]) -> None:
    """In good order, in the middle of everything."""
    os.kill(storm.host.router_pid(), signal.SIGTERM)


def kill_node(storm: Storm, nodes: list[Node]) -> None:
    victim = storm.random.choice(nodes)
    storm.kill(victim.pid, with_slots_of=victim)


def kill_slots(storm: Storm, nodes: list[Node]) -> None:
    for node in nodes:
        storm.kill(storm.random.choice(eventually(node.slots)))


def stop_router(storm: Storm, nodes: list[Node]) -> None:
    storm.stop_for_a_while(storm.host.router_pid())


def stop_node(storm: Storm, nodes: list[Node]) -> None:
    storm.stop_for_a_while(storm.random.choice(nodes).pid)


def stop_slot(storm: Storm, nodes: list[Node]) -> None:
    storm.stop_for_a_while(storm.random.choice(eventually(storm.random.choice(nodes).slots)))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("strike", [kill_router, end_router, kill_node, kill_slots, stop_router, stop_node, stop_slot])
def test_nothing_is_lost_or_hangs(
    host: Host,
    app: Mesh,
    nodes: list[Node],
    tmp_path: Path,
    strike: Callable[[Storm, list[Node]], None],
    seed: int,
):
    # Given thousands of calls of two clients on two nodes
    storm = Storm(host, tmp_path / "runs", seed)
    storm.until_the_moment()

    # When something is killed, or stopped for a while
    strike(storm, nodes)

    # Then every call has run and has its result, and those that ran twice did so in a process that was killed
    storm.check(app)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_everything_killed_at_once_loses_nothing_that_was_journaled(host: Host, tmp_path: Path):
    # Given calls that wait, as many with an eta, and nobody who runs them
    path = tmp_path / "runs"
    eta_wall_s = time.time() + 12.0
    caller = host.start_script(QUEUE_AND_STAY, str(path), str(QUEUED), str(eta_wall_s))
    eventually(lambda: caller.said == "all\n" or caller.popen.poll() is not None, WITHIN_S)
    assert caller.said == "all\n"

    # When caller and router are killed together, and a node starts
    for pid in (caller.pid, host.router_pid()):
        os.kill(pid, signal.SIGKILL)
    caller.wait()
    host.start_node()

    # Then every call runs once, at its time
    eventually(lambda: path.exists() and path.read_bytes().count(b"\n") >= 2 * QUEUED, WITHIN_S * 2)
    runs = runs_of(path)
    assert runs.keys() == set(range(2 * QUEUED))
    assert all(len(had) == 1 for had in runs.values())
    assert all(runs[number][0].wall_s >= eta_wall_s for number in range(QUEUED, 2 * QUEUED))
