"""How nodes stop: warm, what runs is finished; cold, it runs again elsewhere. No process is left either way."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.results import AsyncResult
from tests.mesh.proj import tasks
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


COLD = {
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
    "SIGQUIT": (signal.SIGQUIT,),
}


@pytest.mark.parametrize("numbers", COLD.values(), ids=COLD.keys())
def test_a_cold_stop_has_what_ran_run_again_elsewhere_uncharged(host: Host, busy: Busy, numbers: tuple[int, ...]):
    # When a busy node is told to stop at once
    for number in numbers:
        busy.node.send(number)
        eventually(lambda: "stopping" in busy.node.said)
    assert busy.node.wait() == 0
    assert busy.is_gone()

    # Then another node runs everything, what ran before too
    busy.open_gate()
    other = host.start_node("n2", wait=False)
    ran = [result.get(DEADLINE_S) for result in busy.running + busy.waiting]
    assert {one["node"] for one in ran} == {other.name}
    assert {one["attempt"] for one in ran[2:]} == {0}
    assert "Traceback" not in busy.node.said


def test_two_ctrl_c_at_a_terminal_are_a_cold_stop(host: Host, busy: Busy):
    # When Ctrl-C is pressed twice
    busy.node.send_to_group(signal.SIGINT)
    eventually(lambda: "stopping" in busy.node.said)
    assert not busy.is_gone()
    busy.node.send_to_group(signal.SIGINT)

    # Then the node is gone, quietly, and its tasks run elsewhere
    assert busy.node.wait() == 0
    assert busy.is_gone()
    assert "Traceback" not in busy.node.said
    busy.open_gate()
    other = host.start_node("n2", wait=False)
    assert {result.get(DEADLINE_S)["node"] for result in busy.running} == {other.name}


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
