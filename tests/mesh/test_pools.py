"""What every pool does alike, and what one process for all slots means for those that have it."""

from __future__ import annotations

import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from mesh.settings import Settings
from tests.mesh.proj import lasting, tasks
from tests.mesh.running import DEADLINE_S, Host, Node, eventually

POOLS = ("prefork", "threads", "solo")


def start(host: Host, pool: str, slots: int = 1, *, options: tuple[str, ...] = (), wait: bool = True) -> Node:
    return host.start_node(slots=None if pool == "solo" else slots, options=["-P", pool, *options], wait=wait)


def says(node: Node, words: str, times: int) -> bool:
    return node.said.count(words) >= times


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# --- what they do alike --------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_runs_functions_and_coroutines_and_tells_what_came_of_them(host: Host, app: Mesh, pool: str) -> None:
    # Given a node
    node = start(host, pool, 2)
    assert f"({pool})" in node.said

    # When it is called with all there is
    results = [tasks.add.delay(number, 1) for number in range(300)]
    awaited = [lasting.add_async.delay(number, 1) for number in range(300)]

    # Then each has its value
    assert [result.get(DEADLINE_S) for result in results] == list(range(1, 301))
    assert [result.get(DEADLINE_S) for result in awaited] == list(range(1, 301))

    # And what raises, is retried or unknown ends as in any pool
    with pytest.raises(tasks.Refused):
        tasks.refuse.delay(7).get(DEADLINE_S)
    failing = lasting.fail_async.delay()
    with pytest.raises(KeyError, match=failing.id):
        failing.get(DEADLINE_S)
    assert tasks.count_down.delay(3).get(DEADLINE_S) == "3 retries"
    assert node.stop() == 0
    assert "Error in" not in node.said


@pytest.mark.parametrize("pool", POOLS)
def test_what_runs_at_once_and_where(host: Host, app: Mesh, tmp_path: Path, pool: str) -> None:
    # Given two slots, or the one that the pool has
    node = start(host, pool, 2)
    slots = 1 if pool == "solo" else 2

    # When as many tasks run as there are
    held = [tasks.touch.delay(str(tmp_path / "any")) for _ in range(20)]
    pids = {result.get(DEADLINE_S) for result in held}
    for number in range(slots):
        tasks.hold.delay(str(tmp_path / f"begun{number}"), str(tmp_path / "until"))
    eventually(lambda: len(list(tmp_path.glob("begun*"))) == slots)
    behind = tasks.echo.delay(1)

    # Then no other runs beside them, and all are in the processes of the slots
    assert len(app.control.inspect().active()[node.name]) == slots
    assert not behind.ready()
    assert pids <= set(node.slots())
    (tmp_path / "until").touch()
    assert behind.get(DEADLINE_S) == 1


def test_the_only_slot_of_solo_is_the_main_thread(host: Host, app: Mesh) -> None:
    node = start(host, "solo")
    pid, thread = lasting.thread.delay().get(DEADLINE_S)
    assert (pid, thread) == (node.report()["template_pid"], "MainThread")


# --- soft limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_is_interrupted_at_its_soft_limit_and_may_tidy_up(
    host: Host, app: Mesh, tmp_path: Path, pool: str
) -> None:
    # Given a node
    start(host, pool)

    # When a task runs too long, then it is interrupted where it is: in C code too, where there are signals
    held = tasks.hold.apply_async((str(tmp_path / "begun"), str(tmp_path / "never")), soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        held.get(DEADLINE_S)
    if pool != "threads":
        tidied = tasks.tidy_up.apply_async((str(tmp_path / "notes"),), soft_time_limit=0.2)
        assert tidied.get(DEADLINE_S) == "tidied up"

    # And the next ones are left alone
    assert [tasks.echo.apply_async((1,), soft_time_limit=60).get(DEADLINE_S) for _ in range(20)] == [1] * 20


@pytest.mark.parametrize("pool", POOLS)
def test_a_coroutine_is_interrupted_where_it_waits(host: Host, app: Mesh, tmp_path: Path, pool: str) -> None:
    start(host, pool)
    for number in range(2):
        notes = tmp_path / f"notes{number}"
        result = lasting.wait_async.apply_async((str(notes),), soft_time_limit=0.2)
        assert result.get(DEADLINE_S) == "tidied up"
        assert lines(notes) == ["began", "interrupted"]
    assert lasting.add_async.delay(1, 2).get(DEADLINE_S) == 3


@pytest.mark.parametrize("pool", POOLS)
def test_many_runs_near_their_soft_limit_harm_nobody(host: Host, app: Mesh, tmp_path: Path, pool: str) -> None:
    # Given one slot
    node = start(host, pool)
    processes = node.processes()

    # When many tasks end just when their limit is over, or just before
    results = [
        (number, tasks.work.apply_async((number, 2_500 + 25 * number), soft_time_limit=0.005)) for number in range(150)
    ]

    # Then each has its value or is interrupted, and nothing else is
    for number, result in results:
        try:
            assert result.get(DEADLINE_S) == number
        except SoftTimeLimitExceeded:
            pass
    assert [tasks.echo.delay(number).get(DEADLINE_S) for number in range(20)] == list(range(20))
    assert node.processes() == processes
    assert "action=slot_lost" not in node.said
    assert "action=host_lost" not in node.said


# --- hard limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_task_that_never_returns_is_killed_with_its_process_and_its_neighbours_run_again(
    host: Host, app: Mesh, tmp_path: Path, pool: str
) -> None:
    # Given a node, with a task that lasts where there is a slot for it
    node = start(host, pool, 2)
    held = None
    if pool == "threads":
        held = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "until"))
        eventually(lambda: list(tmp_path.glob("begun.*")))

    # When others never return, more often than a crash would be forgiven
    for _ in range(Settings().crash_budget + 1):
        with pytest.raises(TimeLimitExceeded, match=r"0\.3 s"):
            tasks.limited.delay(str(tmp_path / "notes")).get(DEADLINE_S)

    # Then those fail, and the neighbour has run again, uncharged
    (tmp_path / "until").touch()
    if held is not None:
        ran = held.get(DEADLINE_S)
        assert ran["attempt"] >= 1
        assert ran["pid"] in node.slots()
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    assert node.ready().stop() == 0


# --- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_task_that_ends_the_process_of_all_slots_is_a_dead_letter_and_the_node_goes_on(
    host: Host, app: Mesh, tmp_path: Path, pool: str
) -> None:
    # Given a node
    node = start(host, pool, 2)

    # When a task ends its process each time
    deadly = tasks.leave.delay(7)
    with pytest.raises(WorkerLostError, match="exited with code 7"):
        deadly.get(DEADLINE_S)

    # Then it is a dead letter, and the node works on
    assert app.control.dead_letters(deadly.id).count() == 1
    results = [tasks.echo.delay(number) for number in range(50)]
    assert [result.get(DEADLINE_S) for result in results] == list(range(50))
    assert node.ready().stop() == 0


def test_neighbours_of_a_crash_run_again(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given a thread that runs a task which lasts
    start(host, "threads", 2)
    held = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "until"))
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When its neighbour ends their process once
    assert tasks.leave_once.delay(7).get(DEADLINE_S) == 1

    # Then it has been begun anew, and ends
    (tmp_path / "until").touch()
    assert held.get(DEADLINE_S)["attempt"] == 1


# --- preloading ----------------------------------------------------------------------------------

STARTS_A_THREAD = """
import threading
from tests.mesh.proj import app

threading.Thread(target=threading.Event().wait, name="pinger", daemon=True).start()
"""

NOTES_ITS_IMPORT = """
import os
from tests.mesh.proj import app

with open(os.environ["IMPORTS"], "a") as file:
    file.write(f"{os.getpid()}\\n")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module named extra, which a node with `-I extra` imports."""
    (tmp_path / "modules").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("IMPORTS", str(tmp_path / "imports"))
    return tmp_path / "modules" / "extra.py"


def test_a_module_that_starts_a_thread_is_named_and_each_slot_imports_the_app_itself(
    host: Host, app: Mesh, module: Path, tmp_path: Path
) -> None:
    # Given a module that starts a thread when it is imported
    module.write_text(STARTS_A_THREAD + NOTES_ITS_IMPORT)

    # When a node imports it
    node = start(host, "prefork", 2, options=("-I", "extra"))

    # Then a warning names it, and what to do, once
    (warning,) = [line for line in node.said.splitlines() if "action=no_preload" in line]
    assert "'extra' starts a thread (pinger)" in warning
    assert "--no-preload" in warning

    # And tasks run in slots that have the thread
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    assert set(node.slots()) <= set(map(int, lines(tmp_path / "imports")))
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("option", "importers"), [("--preload", {"host"}), ("--no-preload", {"slots"})], ids=["preload", "no preload"]
)
def test_the_app_is_imported_by_the_host_or_by_each_slot(
    host: Host, app: Mesh, module: Path, tmp_path: Path, option: str, importers: set[str]
) -> None:
    # Given a module that notes who imports it
    module.write_text(NOTES_ITS_IMPORT)

    # When a node runs
    node = start(host, "prefork", 2, options=("-I", "extra", option))
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3

    # Then the host has imported it, or the slots have
    imported = set(map(int, lines(tmp_path / "imports")))
    roles = {"host": {node.report()["template_pid"]}, "slots": set(node.slots())}
    assert {role for role, pids in roles.items() if pids <= imported} == importers
    assert "action=no_preload" not in node.said


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_threads_of_a_module_are_no_obstacle_where_nothing_is_forked(
    host: Host, app: Mesh, module: Path, pool: str
) -> None:
    module.write_text(STARTS_A_THREAD)
    node = start(host, pool, options=("-I", "extra"))
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    assert "action=no_preload" not in node.said


# --- stacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_a_node_says_where_its_slots_are_stuck(host: Host, app: Mesh, tmp_path: Path, pool: str) -> None:
    # Given a task that is stuck in a call of C code
    node = start(host, pool)
    begun, until = tmp_path / "begun", tmp_path / "until"
    stuck = lasting.stuck_here.delay(str(begun), str(until))
    eventually(lambda: lines(begun))

    # When the node is asked, twice
    for times in (1, 2):
        node.send(signal.SIGUSR1)
        eventually(partial(says, node, "in stuck_here", times))

    # Then it has said of each process what it is and where, and the task goes on
    said = node.said
    assert re.search(r"stacks of the supervisor \(pid \d+\)", said)
    assert f"(pid {node.slots()[0]})" in said
    until.touch()
    assert stuck.get(DEADLINE_S) is None


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_node_that_is_asked_where_it_is_again_and_again_loses_no_task(host: Host, app: Mesh, pool: str) -> None:
    node = start(host, pool, 2)
    results = [tasks.work.delay(number, 1_000) for number in range(1_000)]
    for result in results:
        node.send(signal.SIGUSR1)
        result.get(DEADLINE_S)
    assert "action=slot_lost" not in node.said
    assert "action=host_lost" not in node.said


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_process_that_a_task_has_left_behind_does_not_hide_the_end_of_its_host(
    host: Host, app: Mesh, pool: str
) -> None:
    # Given a task that has forked, in the process of all slots
    node = start(host, pool)
    with pytest.raises(TimeLimitExceeded):
        lasting.leave_a_child.apply_async((3.0,), time_limit=0.3).get(DEADLINE_S)

    # Then its end was heard of, the node goes on, and can be stopped
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    assert node.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_signals_end_what_a_task_has_forked(host: Host, app: Mesh, pool: str) -> None:
    start(host, pool)
    assert lasting.end_a_child.delay(15).get(DEADLINE_S) == 15


def test_many_slots_start_and_end(host: Host, app: Mesh) -> None:
    node = start(host, "threads", 500)
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    assert node.stop() == 0
