"""How nodes stop: warm, what runs is finished; cold, it runs again elsewhere. No process is left either way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.core.shutdown import GRACE_S
from mesh.results import AsyncResult
from mesh.settings import Settings
from tests.mesh.proj import lasting, tasks
from tests.mesh.running import DEADLINE_S, Host, Node, eventually, is_alive


class Busy:
    """A node whose two slots run a task each until the gate opens, and what waits behind them."""

    def __init__(self, host: Host, app: Mesh, directory: Path) -> None:
        self.node: Node = host.start_node("n1")
        self.processes = self.node.processes()
        for result in [tasks.whoami.delay() for _ in range(100)]:
            result.get(DEADLINE_S)
        self._begun, self._gate = directory / "begun", directory / "gate"
        with app.batch():
            self.running = [self._hold() for _ in range(2)]
            self.waiting = [tasks.whoami.delay() for _ in range(50)]
        eventually(lambda: len(self.begun()) == 2)

    def _hold(self) -> AsyncResult[dict[str, object]]:
        return tasks.hold.delay(str(self._begun), str(self._gate))

    def begun(self) -> set[int]:
        """The processes in which such a task has begun."""
        return {int(path.suffix[1:]) for path in self._begun.parent.glob("begun.*")}

    def open_gate(self) -> None:
        self._gate.touch()

    def is_gone(self) -> bool:
        return not any(map(is_alive, self.processes))


@pytest.fixture
def busy(host: Host, app: Mesh, tmp_path: Path) -> Busy:
    return Busy(host, app, tmp_path)


WARM = {
    "SIGTERM": lambda node: node.send(signal.SIGTERM),
    "SIGINT": lambda node: node.send(signal.SIGINT),
    "Ctrl-C": lambda node: node.send_to_group(signal.SIGINT),
}


@pytest.mark.parametrize("stop", WARM.values(), ids=WARM.keys())
def test_a_warm_stop_finishes_what_runs_and_gives_back_the_rest(host: Host, busy: Busy, stop):
    # When a busy node is told to stop, and there is another one
    stop(busy.node)
    other = host.start_node("n2", wait=False)

    # Then what waited runs on the other one, each for the first time, while the first node's tasks go on
    waited = [result.get(DEADLINE_S) for result in busy.waiting]
    assert {(one["node"], one["attempt"]) for one in waited} == {(other.name, 0)}
    assert not any(result.ready() for result in busy.running)
    assert busy.node.popen.poll() is None

    # And when they end their results arrive, and the node leaves in good order
    busy.open_gate()
    ran = [result.get(DEADLINE_S) for result in busy.running]
    assert {(one["node"], one["attempt"]) for one in ran} == {(busy.node.name, 0)}
    assert busy.node.wait() == 0
    assert busy.is_gone()
    assert "Traceback" not in busy.node.said


def test_sigterm_again_is_warm_all_the_same(host: Host, busy: Busy):
    # When a busy node is told to stop, again and again
    for _ in range(3):
        busy.node.send(signal.SIGTERM)
        eventually(lambda: "stopping" in busy.node.said)
    assert busy.node.popen.poll() is None

    # Then what runs is finished
    busy.open_gate()
    assert {result.get(DEADLINE_S)["node"] for result in busy.running} == {busy.node.name}
    assert busy.node.wait() == 0
    assert busy.is_gone()


COLD = {
    "SIGQUIT": lambda node: node.send(signal.SIGQUIT),
    "SIGINT twice": lambda node: twice(node.send, node),
    "Ctrl-C twice": lambda node: twice(node.send_to_group, node),
}


def twice(send: Callable[[int], None], node: Node) -> None:
    """Ctrl-C, and again once it has been acted on."""
    send(signal.SIGINT)
    eventually(lambda: "stopping: " in node.said)
    assert node.popen.poll() is None
    send(signal.SIGINT)


@pytest.mark.parametrize("stop", COLD.values(), ids=COLD.keys())
def test_a_cold_stop_has_what_ran_run_again_elsewhere_uncharged(host: Host, busy: Busy, stop):
    # When a busy node is told to stop at once
    stop(busy.node)
    assert busy.node.wait() == 0
    assert busy.is_gone()

    # Then another node runs everything, what ran before too
    busy.open_gate()
    other = host.start_node("n2", wait=False)
    ran = [result.get(DEADLINE_S) for result in busy.running + busy.waiting]
    assert {one["node"] for one in ran} == {other.name}
    assert {one["attempt"] for one in ran[2:]} == {0}
    assert "Traceback" not in busy.node.said


# --- what a cold stop leaves time for ------------------------------------------------------------


def notes(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def start_busy(host: Host, pool: str, noted: Path) -> Node:
    """A node of this pool, whose only slot runs a task that has noted it."""
    node = host.start_node(slots=None if pool == "solo" else 1, options=["-P", pool], wait=False)
    eventually(lambda: notes(noted))
    return node


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_cold_stop_lets_a_task_put_things_in_order(host: Host, app: Mesh, tmp_path: Path, pool: str):
    # Given a task that runs
    result = lasting.tidy.delay(str(tmp_path / "notes"), str(tmp_path / "until"))
    node = start_busy(host, pool, tmp_path / "notes")

    # When its node is stopped cold
    assert node.stop(signal.SIGQUIT) == 0

    # Then it was interrupted, and left in order
    assert notes(tmp_path / "notes") == ["began-0", "interrupted", "left"]
    assert "Traceback" not in node.said

    # And it runs again elsewhere, as often as that happens, and is not charged
    for number in range(Settings().crash_budget + 1):
        (tmp_path / "notes").unlink()
        other = start_busy(host, pool, tmp_path / "notes")
        assert notes(tmp_path / "notes")[0] == f"began-{number + 1}"
        assert other.stop(signal.SIGQUIT) == 0
    (tmp_path / "until").touch()
    host.start_node("n2", wait=False)
    assert result.get(DEADLINE_S) == "ran"


def test_a_cold_stop_interrupts_a_coroutine_where_it_waits(host: Host, app: Mesh, tmp_path: Path):
    result = lasting.wait_async.delay(str(tmp_path / "notes"))
    node = start_busy(host, "prefork", tmp_path / "notes")
    assert node.stop(signal.SIGQUIT) == 0
    assert notes(tmp_path / "notes") == ["began", "stopped"]
    assert not result.ready()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_that_returns_although_it_was_interrupted_has_its_value(
    host: Host, app: Mesh, tmp_path: Path, pool: str
):
    result = lasting.finish_all_the_same.delay(str(tmp_path / "notes"), str(tmp_path / "until"))
    node = start_busy(host, pool, tmp_path / "notes")
    assert node.stop(signal.SIGQUIT) == 0
    assert result.get(DEADLINE_S) == "returned"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_that_goes_on_is_killed_when_its_moment_is_over(host: Host, app: Mesh, tmp_path: Path, pool: str):
    # Given a task that ignores the interruption
    result = lasting.go_on.delay(str(tmp_path / "notes"))
    node = start_busy(host, pool, tmp_path / "notes")
    processes = node.processes()

    # When its node is stopped cold, then the node ends all the same
    assert node.stop(signal.SIGQUIT) == 0
    assert notes(tmp_path / "notes") == ["began", "ignored"]
    assert not any(map(is_alive, processes))

    # And the task waits for another node, uncharged
    assert not result.ready()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_third_ctrl_c_kills_at_once(host: Host, app: Mesh, tmp_path: Path, pool: str):
    # Given a task that ignores the interruption, on a node that has been told twice
    lasting.go_on.delay(str(tmp_path / "notes"))
    node = start_busy(host, pool, tmp_path / "notes")
    processes = node.processes()
    twice(node.send, node)
    eventually(lambda: "ignored" in notes(tmp_path / "notes"))

    # When it is told once more, then it does not wait for the moment that the task had left
    told_mono_s = time.monotonic()
    node.send(signal.SIGINT)
    assert node.wait() == 0
    assert time.monotonic() - told_mono_s < GRACE_S / 2
    assert not any(map(is_alive, processes))


def test_a_soft_stop_lets_a_short_task_finish(host: Host, app: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Given a node that leaves tasks a minute before a cold stop, and a task that runs
    monkeypatch.setenv("MESH_WORKER_SOFT_SHUTDOWN_TIMEOUT", "60")
    result = lasting.tidy.delay(str(tmp_path / "notes"), str(tmp_path / "until"))
    node = start_busy(host, "prefork", tmp_path / "notes")

    # When it is told to stop cold, then the task goes on
    node.send(signal.SIGQUIT)
    eventually(lambda: "stopping" in node.said)
    assert node.popen.poll() is None

    # And when it ends, so does the node
    (tmp_path / "until").touch()
    assert result.get(DEADLINE_S) == "ran"
    assert node.wait() == 0
    assert notes(tmp_path / "notes") == ["began-0", "left"]


def test_a_soft_stop_interrupts_what_takes_longer(
    host: Host, app: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MESH_WORKER_SOFT_SHUTDOWN_TIMEOUT", "0.2")
    lasting.tidy.delay(str(tmp_path / "notes"), str(tmp_path / "until"))
    node = start_busy(host, "prefork", tmp_path / "notes")
    assert node.stop(signal.SIGQUIT) == 0
    assert notes(tmp_path / "notes") == ["began-0", "interrupted", "left"]


def test_a_warm_stop_that_may_take_only_so_long_is_cold_then(
    host: Host, app: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MESH_WORKER_SHUTDOWN_TIMEOUT", "0.3")
    result = lasting.tidy.delay(str(tmp_path / "notes"), str(tmp_path / "until"))
    node = start_busy(host, "prefork", tmp_path / "notes")
    assert node.stop(signal.SIGTERM) == 0
    assert notes(tmp_path / "notes") == ["began-0", "interrupted", "left"]
    assert not result.ready()


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_warm_stop_of_the_other_pools_finishes_what_runs(host: Host, app: Mesh, tmp_path: Path, pool: str):
    # Given a task that runs, and others behind it
    result = lasting.tidy.delay(str(tmp_path / "notes"), str(tmp_path / "until"))
    node = start_busy(host, pool, tmp_path / "notes")
    processes = node.processes()
    waiting = [tasks.whoami.delay() for _ in range(20)]

    # When the node is told to stop, then the others go elsewhere
    node.send(signal.SIGTERM)
    eventually(lambda: "stopping" in node.said)
    host.start_node("n2", wait=False)
    assert {one.get(DEADLINE_S)["node"] for one in waiting} == {"n2@here"}

    # And what runs is finished
    (tmp_path / "until").touch()
    assert result.get(DEADLINE_S) == "ran"
    assert node.wait() == 0
    assert not any(map(is_alive, processes))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_an_idle_node_stops_at_once(host: Host, number: signal.Signals):
    # Given an idle node
    node = host.start_node()
    processes = node.processes()

    # When it is told to stop
    assert node.stop(number) == 0

    # Then nothing of it is left, and the router knows
    assert not any(map(is_alive, processes))
    assert eventually(lambda: not host.status()["nodes"])


def says(node: Node, words: str) -> bool:
    return words in node.said


def have_begun(directory: Path, tasks_begun: int) -> bool:
    return len(list(directory.glob("begun.*"))) == tasks_begun


def test_a_node_that_is_stopped_while_it_starts_leaves_in_good_order(host: Host):
    # When nodes are stopped at several moments of their start
    for words in ("[config]", "[queues]", "ready"):
        node = host.start_node(wait=False)
        eventually(partial(says, node, words))
        assert node.stop() == 0, node.said

    # Then none is left
    assert not host.status()["nodes"]


def test_cold_stops_beyond_the_crash_budget_do_not_fail_a_task(host: Host, app: Mesh, tmp_path: Path):
    # Given a task whose node is stopped at once each time that it runs
    held = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "end"))
    for number in range(1, 6):
        node = host.start_node(slots=1, wait=False)
        eventually(partial(have_begun, tmp_path, number))
        assert node.stop(signal.SIGQUIT) == 0
    assert not held.ready()

    # When a node lets it end
    (tmp_path / "end").touch()
    host.start_node(slots=1, wait=False)

    # Then it succeeds: nobody was charged
    assert held.get(DEADLINE_S)["node"] == "n1@here"


# --- before it is ready ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_node_that_still_imports_its_app_says_where_and_ends_in_order(
    host: Host, tmp_path: Path, number: int
) -> None:
    # Given a node whose app takes its time to be imported, and leaves a file when that begins
    begun, pidfile = tmp_path / "begun", tmp_path / "n1.pid"
    (tmp_path / "slow_app.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(3600)\n"
    )
    options = ["--pidfile", str(pidfile)]
    node = host.start_node(wait=False, project="slow_app", workdir=str(tmp_path), options=options)
    eventually(begun.exists)

    # When it is asked for news and for where it is, then it goes on, and says so
    node.send(signal.SIGHUP)
    node.send(signal.SIGUSR1)
    eventually(lambda: "slow_app.py" in node.said)
    assert pidfile.exists()

    # When it is told to stop, then it does, and takes its pidfile along
    assert node.stop(number) == 128 + number
    assert not pidfile.exists()
    assert "Traceback" not in node.said
