"""A client whose router is away goes on with another; when the first is back, nothing runs twice, nothing is lost."""

from __future__ import annotations

import random

import pytest

from mesh.core.admission import Bounds
from mesh.core.dispatch import Budgets
from mesh.core.owner import Limits
from mesh.sim.history import Job
from mesh.sim.world import NodePlan, Plan, World
from tests.sim import workload

LIMITS = Limits(Bounds(100_000, 1 << 30), None, 64 << 20, Budgets(crash=3, lost=20))
HOME, ELSEWHERE = NodePlan("A", "n0@A", ("default",), 2), NodePlan("B", "n0@B", ("default",), 2)
SEEDS = 60


class Failover:
    """Two hosts with a router and a node each. The client of A calls while A dies, and goes on with B."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        plan = Plan((HOME, ELSEWHERE), 1, LIMITS, 10_000, with_codec=seed % 2 == 0, with_peers=False)
        self.world = World(f"failover {seed}", plan)
        self.world.link_routers("A", "B")
        self.client = self.world.clients["c0@A"]
        self.pass_time(1.0)

    def pass_time(self, for_s: float) -> None:
        self.world.timeline.run_until(self.world.timeline.mono_s + for_s)

    def calls(self, batches: int) -> None:
        """Some calls, a while apart."""
        number = self.world.living_clients().index(self.client)
        for _ in range(batches):
            run_us = self.random.choice((50, 2_000, 30_000))
            spec = workload.Spec("task", "default", 0, 0, Job(run_us, 0), 0, None, None, None)
            workload.call(self.world, number, (spec,) * self.random.randint(1, 8))
            self.pass_time(self.random.choice((0.0, 0.001, 0.03)))

    def host_dies(self) -> None:
        """Router, node and slots of A, together."""
        dying = [self.world.routers["A"], self.world.nodes["n0@A"], *self.world.living_slots()]
        for process in dying:
            if process.host == "A" and process.alive:
                self.world.kill(process)

    def host_is_back(self) -> None:
        """The router of A starts, and asks B what it has adopted; then its node comes."""
        self.world.start_router("A")
        self.world.link_routers("A", "B")
        self.pass_time(self.random.choice((0.0, 0.0005, 0.5)))
        self.world.start_node(HOME)


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_what_was_adopted_runs_once_and_what_was_not_waits_at_home(first: int) -> None:
    adopted = waited = 0
    for seed in range(first, first + 20):
        # Given a client that calls, and a host that dies in the middle
        failover = Failover(seed)
        failover.calls(failover.random.randint(2, 6))
        failover.host_dies()
        died_s = failover.world.timeline.mono_s

        # When the client goes on with another router, and calls there too
        failover.client.go_to("B")
        failover.calls(3)
        failover.pass_time(2.0)
        calls = failover.client.calls
        sent_again = {one for one, entry in calls.open.items() if entry.record is not None}
        assert not sent_again, "a call that the client could send again has not ended elsewhere"
        waited += len(calls.open)

        # And the first is back, and the client goes home
        failover.host_is_back()
        failover.pass_time(1.0)
        failover.client.go_to("A")
        failover.pass_time(5.0)

        # Then every call has its result; none ran twice but for what ran when the host died
        assert not calls.open
        assert all(pending.ending is not None for pending in failover.client.pending.values())
        for task_id, runs in failover.world.history.runs.items():
            again = runs[1:]
            assert all(run.began_s < died_s for run in runs[: len(again)]), f"{task_id.hex()} ran twice: {runs}"
        adopted += sum(any("B" in run.consumer for run in runs) for runs in failover.world.history.runs.values())
        for router in failover.world.routers.values():
            router.owner.check()
    assert adopted > 100
    assert waited > 10
