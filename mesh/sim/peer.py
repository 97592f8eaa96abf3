"""A peer router as the owner sees one: a consumer with credit, which begins at once what it gets, or returns it.

It stands for a whole other host. Its link to the owner is beyond this simulation, so it is joined to the router's
dispatch directly.
"""

from __future__ import annotations

import random

from mesh import messages as m
from mesh.core.leases import Consumer, Kind
from mesh.sim.history import Job, Run
from mesh.sim.results import result_body
from mesh.sim.router import PEER_MARK, SimRouter
from mesh.states import Status

#: Where a peer is full it sends back what it got.
RETURN_SHARE = 0.1


class SimPeer:
    """Grants credit, runs what it gets, and tells."""

    def __init__(self, router: SimRouter, rng: random.Random, queues: tuple[str, ...], slots: int) -> None:
        self._router = router
        self._rng = rng
        self._queues = queues
        self._slots = slots
        self.id = PEER_MARK + rng.randbytes(6)
        self.pid = 0
        self._busy = 0
        self.up = False
        self.join()

    def join(self) -> None:
        """It is there (again), under a new routing id, and every slot of it is idle."""
        self.id = PEER_MARK + self._rng.randbytes(6)
        self._busy = 0
        self.up = True
        self._router.peers[self.id] = self
        consumer = Consumer(self.id, Kind.PEER, self._queues, node="", index=0, pid=0)
        consumer.credit = self._slots
        self._router.owner.dispatch.join(consumer)
        self._router.wake()

    def lose(self) -> None:
        """The owner takes it as lost; what it runs is not heard of. It comes back after a while."""
        if not self.up or not self._router.alive:
            return
        self.up = False
        owner = self._router.owner
        del self._router.peers[self.id]
        owner.dispatch.lost(self.id, 0, "its host was lost", node_lost=True)
        self._router.wake()
        self._router.timeline.after(self._rng.uniform(0.05, 1.0), self._rejoin)

    def _rejoin(self) -> None:
        if self._router.alive and not self.up:
            self.join()

    def router_died(self) -> None:
        """The owner is gone, and with it this end of the link."""
        self.up = False

    def receive(self, message: m.Message, frames: tuple[m.Buffer, ...]) -> None:
        """Something from the owner."""
        if not isinstance(message, m.Tasks):
            return
        at = 0
        for offset, record in enumerate(message.tasks):
            own = frames[at : at + record[5]]
            at += record[5]
            self._busy += 1
            lease = message.first_lease + offset
            delay_s = self._rng.uniform(0.0002, 0.003)
            if self._rng.random() < RETURN_SHARE:
                self._later(delay_s, m.Returned([lease]), ())
                continue
            job = Job.of(record[4])
            now = self._router.timeline.mono_s
            run = self._router.kernel.history.began(
                record[0], Run(0, f"peer of {self._router.host}", lease, now, peer=True)
            )
            run.finished_s = now + job.run_us / 1e6
            outcome = [lease, record[0], int(Status.SUCCESS), job.run_us, result_body(record[0]), len(own), False]
            self._later(delay_s + job.run_us / 1e6, m.Outcomes([outcome]), own)

    def _later(self, delay_s: float, message: m.Message, frames: tuple[m.Buffer, ...]) -> None:
        id_ = self.id

        def tell() -> None:
            if not self.up or id_ != self.id:
                return
            self._busy -= 1
            self._router.from_peer(id_, message, frames)
            consumer = self._router.owner.dispatch.consumers.get(id_)
            if consumer is not None:
                consumer.credit += 1

        self._router.timeline.after(delay_s, tell)

    def check(self) -> None:
        """Raises AssertionError where the owner leases more than there is credit."""
        consumer = self._router.owner.dispatch.consumers.get(self.id)
        if self.up and consumer is not None:
            assert consumer.credit + self._busy <= self._slots, "a peer got more than its credit"
