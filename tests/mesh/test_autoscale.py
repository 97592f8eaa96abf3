"""Nodes that have as many slots as there is work for."""

from __future__ import annotations

from pathlib import Path

from mesh import Mesh
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, Node, eventually


def start(host: Host, slots: str, *options: str) -> Node:
    """Such a node, whose slots leave after half a second without work."""
    return host.start_node(options=("--autoscale", slots, *options, "worker_autoscale_idle=0.5"))


def test_a_node_grows_with_the_work_and_shrinks_without(host: Host, app: Mesh, tmp_path: Path):
    # Given a node of one to five slots
    node = start(host, "5,1")
    assert len(node.slots()) == 1

    # When eight tasks come that wait for each other
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    results = [tasks.hold.delay(str(begun), str(gate)) for _ in range(8)]

    # Then five run at once and no more
    eventually(lambda: len(list(tmp_path.glob("begun.*"))) == 5)
    assert len(node.slots()) == 5

    # And when there is nothing to do any more, the least remain, and nothing is lost
    gate.touch()
    assert {one.get(DEADLINE_S)["attempt"] for one in results} == {0}
    eventually(lambda: len(node.slots()) == 1)
    assert tasks.add.delay(1, 1).get(DEADLINE_S) == 2
    assert node.stop() == 0


def test_a_node_may_have_no_slot_at_all_while_there_is_no_work(host: Host, app: Mesh):
    node = start(host, "2", "-P", "threads")
    eventually(lambda: "action=ready" in node.said)
    assert node.slots() == []
    assert tasks.add.delay(1, 1).get(DEADLINE_S) == 2
    eventually(lambda: node.slots() == [])
    assert tasks.add.delay(2, 2).get(DEADLINE_S) == 4
