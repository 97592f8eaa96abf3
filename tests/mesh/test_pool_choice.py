"""Which pool a node runs, and what tasks can't do to one that they share."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.exceptions import WouldDeadlock
from mesh_cli import exit_codes
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, ROOT, Host, Process, eventually

#: An app that says its pool itself, and tells whether its sockets wait for others.
APP = """
import socket
from mesh import Mesh

app = Mesh("green")
app.conf.worker_pool = "gevent"
made = socket.socket.__module__

@app.task(name="made")
def where():
    return made
"""
POOL = """
from mesh.pools.threads import Threads

class Quick(Threads):
    name = "quick"
    refused = {**Threads.refused, "--concurrency": "it knows best"}

    def concurrency(self):
        return 3
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nodes of the test find further modules."""
    directory = tmp_path / "modules"
    directory.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{directory}:{ROOT}")
    return directory


def start(host: Host, *arguments: str) -> Process:
    process = Process(["-m", "mesh", "-b", host.url, *arguments, "-l", "INFO"], host.url, host.directory / "node.log")
    host.adopt(process)
    return process


# --- which pool ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "module"), [([], "gevent._socket3"), (["-P", "threads"], "socket")])
def test_the_app_says_its_pool_unless_the_command_line_does_and_is_imported_once_that_is_ready(
    host: Host, app: Mesh, modules: Path, options: list[str], module: str
):
    # Given an app that wants a pool which has to be ready before it is imported
    (modules / "greenapp.py").write_text(APP)

    # When a node of it is started
    node = start(host, "-A", "greenapp", "worker", "-c", "2", *options)
    eventually(lambda: "ready." in node.said)

    # Then its import found what that pool makes ready
    assert app.send_task("made").get(DEADLINE_S) == module
    assert f"concurrency: 2 ({options[1] if options else 'gevent'})" in node.said


def test_another_package_offers_a_pool_by_an_entry_point(host: Host, app: Mesh, modules: Path):
    # Given a distribution that is installed
    (modules / "quickpool.py").write_text(POOL)
    info = modules / "quickpool-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quickpool\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mesh.pools]\nquick = quickpool:Quick\n")

    # When a node is started with its pool
    node = host.start_node(slots=None, options=["-P", "quick"])

    # Then it runs tasks, as many at once as the pool says, and what it can't do is refused
    assert "concurrency: 3 (quick)" in node.said
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    refused = host.start_node("n2", slots=5, options=["-P", "quick"], wait=False)
    assert refused.wait() == exit_codes.USAGE
    assert "--concurrency can't be honoured by pool quick: it knows best." in refused.said


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        ("fibres", "pool 'fibres' can't be used: no pool has this name (there are prefork, threads, solo"),
        ("geven", "no pool has this name (did you mean 'gevent'?)."),
        ("gevent", "gevent is not installed; install it: pip install 'mesh-tasks[gevent]'."),
        ("broken", "the entry point nowhere:Pool fails: ModuleNotFoundError"),
    ],
)
def test_a_pool_that_is_not_there_is_told_with_the_remedy(host: Host, modules: Path, pool: str, says: str):
    # Given an environment without gevent, and with a package whose pool can't be imported
    (modules / "sitecustomize.py").write_text(
        textwrap.dedent("""
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name == "gevent" else found(name, package)
        """)
    )
    info = modules / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mesh.pools]\nbroken = nowhere:Pool\n")

    node = host.start_node(options=["-P", pool], wait=False)
    assert node.wait() == exit_codes.USAGE
    assert says in node.said
    assert "Traceback" not in node.said


@pytest.mark.parametrize(("pool", "slots"), [("solo", 1), ("asyncio", 100), ("gevent", 100)])
def test_without_a_number_or_with_auto_a_node_has_as_many_slots_as_its_pool_sees_fit(host: Host, pool: str, slots: int):
    node = host.start_node(slots=None, options=["-P", pool, "-c", "auto"])
    assert node.report()["concurrency"] == slots
    assert node.stop() == exit_codes.OK


# --- what is shared --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error"),
    [("cancels itself", "CancelledError"), ("is cancelled while it waits", "CancelledError"), ("exits", "SystemExit")],
)
def test_a_coroutine_ends_neither_its_slot_nor_its_loop(host: Host, app: Mesh, how: str, error: str):
    # Given a node whose slots are coroutines
    node = host.start_node(options=["-P", "asyncio"])
    before = node.slots()

    # When a task does what ends a task of the loop, or the loop
    result = tasks.leave_loop.delay(how)

    # Then that is its own end only
    ended = result.get(DEADLINE_S, propagate=False)
    assert error in (ended, type(ended).__name__) or error in repr(ended)
    assert [one.get(DEADLINE_S) for one in [tasks.add.delay(n, 1) for n in range(10)]] == list(range(1, 11))
    assert node.slots() == before


@pytest.mark.parametrize("pool", ["asyncio", "gevent"])
def test_what_a_coroutine_sets_in_its_context_is_not_seen_by_the_next_one(host: Host, app: Mesh, pool: str):
    host.start_node(slots=1, options=["-P", pool])
    assert [tasks.say_word.delay(str(n)).get(DEADLINE_S) for n in range(3)] == ["none"] * 3


@pytest.mark.parametrize("pool", ["asyncio", "gevent"])
def test_a_get_that_would_block_the_loop_of_others_says_what_to_write(host: Host, app: Mesh, pool: str):
    host.start_node(options=["-P", pool])
    path = "tests.mesh.proj.tasks.add"
    with pytest.raises(WouldDeadlock, match=r"await asyncio\.to_thread\(result\.get\)"):
        tasks.ask_directly.delay(path, 1, 2).get(DEADLINE_S)
    assert tasks.ask_aside.delay(path, 1, 2).get(DEADLINE_S) == 3


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_what_waits_in_a_greenlet_lets_others_go_on(host: Host, app: Mesh, pool: str):
    # Given a node with more greenlets than any pool of threads has threads
    host.start_node(slots=40, options=["-P", pool])

    # When each sleeps, and hears over a socket from a thread of its own
    took_s: list[Any] = [one.get(DEADLINE_S) for one in [tasks.connect_to_itself.delay() for _ in range(40)]]

    # Then all do so at once: one after the other they would take 8 s
    assert max(took_s) < 4


@pytest.mark.parametrize("pool", ["threads", "asyncio", "gevent", "eventlet"])
def test_tasks_that_wait_for_each_other_get_their_results_though_the_router_dies(host: Host, app: Mesh, pool: str):
    # Given a node whose slots share a client, and tasks on it that wait for others
    node = host.start_node(slots=12, options=["-P", pool])
    results = [tasks.nap.delay(0.01) for _ in range(100)]
    asked = [tasks.ask.delay("tests.mesh.proj.tasks.add", n, 1) for n in range(10)]
    eventually(results[0].ready)

    # When the router is killed
    os.kill(host.router_pid(), signal.SIGKILL)

    # Then all get what they wait for, from the next one
    assert [one.get(DEADLINE_S) for one in asked] == list(range(1, 11))
    assert len([one.get(DEADLINE_S) for one in results]) == 100
    assert node.ready().stop() == exit_codes.OK
