"""Everything at once: slots that are replaced, blocked and killed, new code, another host. No call is lost.

The seed picks what happens when. MESH_STORM_SEEDS makes it longer.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from mesh import Mesh
from tests.mesh.proj import lasting, tasks
from tests.mesh.running import DEADLINE_S, Host, Node

SEEDS = range(int(os.environ.get("MESH_STORM_SEEDS", "1")))
CALLS = 600


class Upheaval:
    """What can happen to a node that works."""

    def __init__(self, node: Node, seed: int) -> None:
        self.node = node
        self.random = random.Random(seed)
        self.does: list[Callable[[], None]] = [
            lambda: node.send(signal.SIGHUP),
            lambda: node.send(signal.SIGUSR1),
            self.kill_a_slot,
            self.kill_the_host,
        ]

    def kill_a_slot(self) -> None:
        self.kill(self.random.choice(self.node.slots() or [0]))

    def kill_the_host(self) -> None:
        self.kill(self.node.report().get("template_pid", 0))

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGKILL)

    def happens(self) -> None:
        self.random.choice(self.does)()

    def call(self, number: int) -> tuple[Any, Any]:
        """A call, and what it is to return."""
        if number % 100 == 7:
            return lasting.nest.delay(2), 3
        return tasks.work.delay(number, self.random.choice((0, 0, 200, 2_000))), number


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("pool", "options"), [("prefork", ("--max-tasks-per-child", "7")), ("threads", ())], ids=["prefork", "threads"]
)
def test_every_call_ends_with_its_own_result(
    host: Host, app: Mesh, pool: str, options: tuple[str, ...], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a node that works, whose tasks may be killed often
    monkeypatch.setenv("MESH_CRASH_BUDGET", "100")
    node = host.start_node(slots=2, options=["-P", pool, *options])
    upheaval = Upheaval(node, seed)
    calls = [upheaval.call(number) for number in range(CALLS)]
    moments = sorted(upheaval.random.sample(range(CALLS), 8))

    # When all this happens to it, at some moments among the results
    returned = []
    for number, (result, _) in enumerate(calls):
        if number in moments:
            upheaval.happens()
        value = result.get(DEADLINE_S)
        returned.append(len(value) if isinstance(value, list) else value)

    # Then each call has its own result, and the node stops in order
    assert returned == [expected for _, expected in calls]
    assert node.ready().stop() == 0
