"""The router's life: started by whoever needs it, once; found again by everybody when it was killed; gone when idle."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import Mesh
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, Process, eventually, is_alive

#: A program that runs this mesh's router as `mesh.router` does, but leaves so soon after it became idle.
ROUTER = """
import sys
from mesh import locate
from mesh.router import run_router
from mesh.settings import Settings
sys.exit(run_router(locate.locate("mesh://" + sys.argv[2]), Settings(router_idle_exit=float(sys.argv[1]))))
"""

#: What a router says when it has lost patience, right before it takes down its locks.
LEAVING = "idle, leaving"

#: A program that calls once.
CALL = "from tests.mesh.proj import tasks; print(tasks.add.delay(20, 22).get(30))"

#: One that sends and does not wait.
SEND = "from tests.mesh.proj import tasks; print(tasks.add.apply_async((20, 22), confirm=True).id)"

#: One that reads the outcome of another's call.
READ = "import sys; from tests.mesh.proj import app; print(app.AsyncResult(sys.argv[1]).get(30))"


def routers(host: Host) -> list[int]:
    """Every process that has been told to be this mesh's router."""
    found = []
    for name in os.listdir("/proc"):
        try:
            line = Path(f"/proc/{name}/cmdline").read_text().split("\0") if name.isdigit() else []
        except OSError:
            continue
        if "mesh.router" in line and str(host.directory) in line and is_alive(int(name)):
            found.append(int(name))
    return found


def kill_router(host: Host, number: int = signal.SIGKILL) -> int:
    """Ends the router; returns its pid."""
    pid = host.router_pid()
    os.kill(pid, number)
    eventually(lambda: not is_alive(pid))
    return pid


# --- starting ------------------------------------------------------------------------------------


def test_the_first_call_starts_a_router(host: Host):
    # When a program sends a call where nothing runs
    assert not host.router_pid()
    script = host.start_script(SEND)
    script.wait()

    # Then a router runs, in a session of its own and as nobody's child, and holds the task
    pid = host.router_pid()
    assert os.getsid(pid) not in (os.getsid(0), script.pid)
    assert script.popen.poll() == 0
    assert host.status()["router"]["tasks"]["ready"] == 1


def test_ten_that_need_a_router_at_once_start_one(host: Host):
    # When five nodes and five clients begin at the same time where nothing runs
    nodes = [host.start_node(f"n{number}", slots=1, wait=False) for number in range(5)]
    clients = [host.start_script(CALL) for _ in range(5)]

    # Then all clients have their result, all nodes have joined, and one router serves them
    assert [(client.wait(), client.said) for client in clients] == [(0, "42\n")] * 5
    for node in nodes:
        node.ready()
    assert routers(host) == [host.router_pid()]
    assert len(host.status()["nodes"]) == 5


STARTS = {
    "worker, client": ("worker", "client"),
    "client, worker": ("client", "worker"),
    "router, worker, client": ("router", "worker", "client"),
    "router, client, worker": ("router", "client", "worker"),
}


@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
@pytest.mark.parametrize("order", STARTS.values(), ids=STARTS.keys())
def test_processes_may_be_started_in_any_order(host: Host, order: tuple[str, ...], at_once: bool):
    # When they are started in this order
    started: dict[str, Process] = {}
    for one in order:
        if one == "worker":
            started[one] = host.start_node(wait=not at_once)
        elif one == "router":
            started[one] = host.start_router()
        else:
            started[one] = host.start_script(CALL)
        if not at_once:
            eventually(host.router_pid)

    # Then the client has its result from the one router there is
    assert (started["client"].wait(), started["client"].said) == (0, "42\n")
    if "router" in started and not at_once:
        assert host.router_pid() == started["router"].pid


def test_a_second_router_is_refused(host: Host):
    # Given a router
    first = host.start_router()
    eventually(host.router_pid)

    # When another is started
    second = host.start_router()

    # Then it says who is there, and the first stays
    assert second.wait() == 1
    assert f"runs already, with pid {first.pid}" in second.said
    assert host.router_pid() == first.pid


# --- dying ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_everybody_finds_the_next_router_without_a_restart(host: Host, app: Mesh, tmp_path: Path, number: int):
    # Given a node with a busy and idle slots, an idle client, and one that waits for the busy slot
    node = host.start_node(slots=3)
    processes = node.processes()
    assert tasks.add.delay(1, 1).get(DEADLINE_S) == 2
    code = """
import sys
from tests.mesh.proj import tasks
print(tasks.hold.delay(sys.argv[1], sys.argv[2]).get(30)["attempt"])
"""
    waiting = host.start_script(code, str(tmp_path / "begun"), str(tmp_path / "end"))
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When the router ends
    gone = kill_router(host, number)

    # Then the idle client calls on, by another router, and an idle slot serves it
    assert tasks.add.delay(2, 2).get(DEADLINE_S) == 4
    assert host.router_pid() not in (0, gone)

    # And the busy slot's task ends at its caller, in the same processes
    (tmp_path / "end").touch()
    assert waiting.wait() == 0, waiting.said
    assert waiting.said.strip().isdigit()
    assert node.ready().processes() == processes


def test_a_task_that_runs_when_the_router_is_killed_runs_once(host: Host, app: Mesh, tmp_path: Path):
    # Given a task that runs on one of two slots
    node = host.start_node()
    held = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "end"))
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When the router is killed, and its successor has served everybody
    gone = kill_router(host)
    eventually(lambda: host.router_pid() not in (0, gone))
    eventually(lambda: sum(host.status()["router"]["tasks"].values()) == 1)
    eventually(lambda: len(node.slots()) == 2)  # one has joined, of the other the page is known
    (tmp_path / "end").touch()

    # Then its caller has the value of that run, and there was no other
    ran_in = held.get(DEADLINE_S)["pid"]
    eventually(lambda: sum(host.status()["router"]["tasks"].values()) == 0)
    assert [int(path.suffix[1:]) for path in tmp_path.glob("begun.*")] == [ran_in]


def test_an_idle_node_brings_the_router_back_by_itself(host: Host):
    # Given a node, and nobody else
    node = host.start_node()
    processes = node.processes()

    # When the router is killed
    gone = kill_router(host)

    # Then the node has another one, and is ready for calls
    eventually(lambda: host.router_pid() not in (0, gone))
    assert node.ready().processes() == processes
    assert host.run_script(CALL) == "42\n"


def test_an_idle_client_calls_again_after_the_router_was_killed(host: Host, app: Mesh):
    # Given a client whose calls have all ended, and no node any more
    node = host.start_node(slots=1)
    assert tasks.add.delay(1, 1).get(DEADLINE_S) == 2
    node.stop()

    # When the router is killed, and a node starts
    kill_router(host)
    host.start_node("n2", slots=1, wait=False)

    # Then the client's next call runs
    assert tasks.add.delay(2, 2).get(DEADLINE_S) == 4


def test_a_client_that_waits_for_a_task_that_nobody_runs_yet_has_it_after_the_router_was_killed(host: Host, app: Mesh):
    # Given a thread that waits for a task without a node, and the router dead
    result = tasks.add.apply_async((20, 22), confirm=True)
    came: list[int] = []
    waiter = threading.Thread(target=lambda: came.append(result.get(DEADLINE_S)))
    waiter.start()
    gone = kill_router(host)

    # When a node starts later
    eventually(lambda: host.router_pid() not in (0, gone))
    host.start_node(slots=1, wait=False)

    # Then it has its result
    waiter.join()
    assert came == [42]


def test_the_router_is_killed_again_and_again(host: Host, app: Mesh):
    # Given a node
    node = host.start_node()
    processes = node.processes()

    # When the router dies between calls
    for number in range(5):
        assert tasks.add.delay(number, 1).get(DEADLINE_S) == number + 1
        kill_router(host)

    # Then calls go on, and so do node and slots
    assert tasks.add.delay(5, 1).get(DEADLINE_S) == 6
    assert node.ready().processes() == processes


# --- leaving when idle ---------------------------------------------------------------------------


@pytest.fixture
def impatient_app(app: Mesh) -> Iterator[Mesh]:
    """The app, by whose calls routers are started that leave soon after they have become idle."""
    default = app.conf.router_idle_exit
    app.conf.router_idle_exit = 0.05
    yield app
    app.close()
    app.conf.router_idle_exit = default


def test_a_router_leaves_when_nobody_needs_it(host: Host):
    # When a router has had nobody for a while
    router = host.start_script(ROUTER, "0.2")

    # Then it leaves in good order, and all there is left are its lock, its journal and its tag
    assert router.wait() == 0
    assert host.files() == {"journal.db", "owner.tag", "router.lock"}


def stays(pid: int) -> bool:
    """Whether the process outlives many times the patience of the routers here."""
    with pytest.raises(AssertionError, match="not within"):
        eventually(lambda: not is_alive(pid), within_s=0.5)
    return is_alive(pid)


def test_a_router_stays_while_it_has_a_client_or_a_task(host: Host, impatient_app: Mesh, tmp_path: Path):
    # Given a router that leaves soon, and a client with a task that nobody runs
    tasks.touch.apply_async((str(tmp_path / "ran"),), ignore_result=True, confirm=True)
    router = host.router_pid()
    assert stays(router)

    # When the client has gone for longer than that
    impatient_app.close()
    assert stays(router)

    # Then the task is still there for a node
    node = host.start_node(slots=1, wait=False)
    eventually((tmp_path / "ran").exists)
    assert host.router_pid() == router

    # And when all have gone, so does the router
    assert node.stop() == 0
    eventually(lambda: not is_alive(router))


def test_a_router_stays_while_an_outcome_is_unread(host: Host, impatient_app: Mesh):
    # Given a router that leaves soon, with the outcome of a call whose caller did not wait
    result = tasks.add.apply_async((20, 22), confirm=True)
    router = host.router_pid()
    impatient_app.close()
    node = host.start_node(slots=1)
    eventually(lambda: host.status()["router"]["outcomes"]["count"] == 1)

    # When all have gone for longer than that
    assert node.stop() == 0
    assert stays(router)

    # Then the outcome is still there for whoever knows its id
    assert host.run_script(READ, result.id) == "42\n"
    assert host.router_pid() == router


def test_a_client_that_meets_a_leaving_router_is_served(host: Host, impatient_app: Mesh):
    # When clients come about when a router has just lost patience
    log = host.directory / "router.log"
    for number in range(10):
        assert impatient_app.AsyncResult(f"unknown-{number}").state == "PENDING"
        impatient_app.close()
        if number % 2:
            eventually(lambda: LEAVING in log.read_text())
        log.write_text("")

    # Then each has been served by a router of the moment, and the last of them leaves too
    eventually(lambda: not routers(host))


SLOW_READER = """
import logging, sys, time
from mesh import journal, locate
from mesh.router import run_router
from mesh.settings import Settings
read = journal.Journal.recovered
def slowly(self, *, tasks):
    rows = list(read(self, tasks=tasks))
    assert rows or not tasks
    for row in rows:
        for _ in range(20):
            time.sleep(0.1)
            yield row._replace(records=[])
        yield row
journal.Journal.recovered = slowly
logging.basicConfig(level=logging.INFO)
sys.exit(run_router(locate.locate(f"mesh://{sys.argv[-1]}"), Settings()))
"""


def test_who_comes_while_a_router_reads_its_journal_waits_for_it(
    host: Host, app: Mesh, monkeypatch: pytest.MonkeyPatch
):
    # Given a journal that a router takes two seconds to read
    host.run_script("from tests.mesh.proj import tasks; tasks.add.apply_async((20, 22), task_id='kept', confirm=True)")
    os.kill(host.router_pid(), signal.SIGKILL)
    monkeypatch.setattr(app.conf, "broker_connection_timeout", 0.5)
    router = host.start_script(SLOW_READER)
    eventually(lambda: host.router_pid() == router.pid)

    # When somebody calls who waits half a second for a router at most
    later = tasks.add.delay(1, 1)

    # Then it is served, and so is what waited
    host.start_node(slots=1)
    assert later.get(DEADLINE_S) == 2
    assert app.AsyncResult("kept").get(DEADLINE_S) == 42
