"""A world: two hosts with a router, nodes and clients each, on a lying wire, in simulated time; chance by seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from mesh.core.admission import Bounds
from mesh.core.dispatch import Budgets
from mesh.core.owner import Limits
from mesh.sim.client import SimClient
from mesh.sim.kernel import Kernel
from mesh.sim.node import SimNode
from mesh.sim.peer import SimPeer
from mesh.sim.process import Process
from mesh.sim.router import RouterLink, SimRouter, peer_of
from mesh.sim.slot import SimSlot

HOSTS = ("A", "B")
QUEUES = ("default", "mail", "video")


class NodePlan(NamedTuple):
    """A node that there is to be."""

    host: str
    name: str
    queues: tuple[str, ...]
    slots: int


class Plan(NamedTuple):
    """What a world is made of."""

    nodes: tuple[NodePlan, ...]
    clients_per_host: int
    limits: Limits
    unconfirmed_max: int
    with_codec: bool
    with_peers: bool
    #: Whether bounds that a short storm would never reach are set low.
    is_small: bool = False

    @property
    def is_tight(self) -> bool:
        """Outcomes may go before their caller has them."""
        return self.limits.results_max_bytes < 1 << 20

    @classmethod
    def draw(cls, rng: random.Random) -> Plan:
        """A plan by chance."""
        nodes = []
        for host in HOSTS:
            for number in range(rng.choice((1, 1, 2, 3))):
                # The first node of a host serves everything, so that no queue is without a consumer for good.
                queues = QUEUES if number == 0 else tuple(rng.sample(QUEUES, rng.randint(1, 2)))
                nodes.append(NodePlan(host, f"n{number}@{host}", queues, rng.choice((1, 2, 2, 4))))
        limits = Limits(
            Bounds(rng.choice((100_000, 100_000, 100_000, 60)), rng.choice((1 << 30, 1 << 30, 1 << 30, 400))),
            result_expires_s=rng.choice((None, 86_400.0)),
            results_max_bytes=rng.choice((64 << 20, 64 << 20, 64 << 20, 20_000)),
            budgets=Budgets(crash=3, lost=20),
            resident_max=rng.choice((100_000, 0, 0)),
            dead_max=rng.choice((10_000, 10_000, 3)),
            journaled=rng.random() < 0.95,
        )
        return cls(
            tuple(nodes),
            rng.choice((1, 2)),
            limits,
            unconfirmed_max=rng.choice((10_000, 10_000, 50)),
            with_codec=rng.random() < 0.3,
            with_peers=rng.random() < 0.5,
            is_small=rng.random() < 0.7,
        )


class World(Kernel):
    """Starts and restarts what the plan says."""

    def __init__(self, seed: str, plan: Plan) -> None:
        super().__init__(seed, HOSTS, with_codec=plan.with_codec)
        self.plan = plan
        self.routers: dict[str, SimRouter] = {}
        self.nodes: dict[str, SimNode] = {}
        self.clients: dict[str, SimClient] = {}
        self.peers: dict[str, SimPeer] = {}
        #: Clients that died or left, too.
        self.all_clients: list[SimClient] = []
        #: Hosts on which nothing may start now.
        self.down: set[str] = set()
        self.start_all()

    # --- starting --------------------------------------------------------------------------------

    def start_router(self, host: str) -> None:
        """A router, unless one runs."""
        if host in self.down or (host in self.routers and self.routers[host].alive):
            return
        router = self.routers[host] = SimRouter(self, host, self.plan.limits)
        if self.plan.with_peers:
            self.peers[host] = SimPeer(
                router, random.Random(f"{router.pid} {self.rng.random()}"), ("default", "mail"), 2
            )

    def link_routers(self, one: str, other: str) -> None:
        """A link between the routers of two hosts, over which each asks the other what it has adopted."""
        for host, far in ((one, other), (other, one)):
            router = self.routers[host]
            router.peers[peer_of(far)] = RouterLink(router, lambda far=far: self.routers[far])  # type: ignore[misc]
        for host, far in ((one, other), (other, one)):
            router = self.routers[host]
            router.do(router.owner.link_peers([peer_of(far)], router.now))

    def start_node(self, plan: NodePlan) -> None:
        """A node, unless it runs."""
        if plan.host in self.down or (plan.name in self.nodes and self.nodes[plan.name].alive):
            return
        self.nodes[plan.name] = SimNode(self, plan.host, plan.name, plan.queues, plan.slots)

    def start_client(self, host: str, name: str) -> None:
        """A client, unless it runs."""
        if host in self.down or (name in self.clients and self.clients[name].alive):
            return
        client = self.clients[name] = SimClient(self, host, name, self.plan.unconfirmed_max)
        self.all_clients.append(client)

    def start_all(self) -> None:
        """Whatever the plan names and does not run."""
        for host in HOSTS:
            self.start_router(host)
            for number in range(self.plan.clients_per_host):
                self.start_client(host, f"c{number}@{host}")
        for node in self.plan.nodes:
            self.start_node(node)

    def kill_host(self, host: str, back_s: float, *, power: bool) -> None:
        """Ends all processes of a host at once, by SIGKILL or for want of power; all start again after a while."""
        self.down.add(host)
        for process in self.living():
            if process.host == host:
                self.kill(process)
        if power:
            self.lose_power(host)
        self.timeline.after(back_s, lambda: self._back(host))

    def _back(self, host: str) -> None:
        self.down.discard(host)
        starts: list[Callable[[], None]] = [lambda: self.start_router(host)]
        starts += [lambda one=one: self.start_node(one) for one in self.plan.nodes if one.host == host]  # type: ignore[misc]
        starts += [
            lambda name=f"c{number}@{host}": self.start_client(host, name)  # type: ignore[misc]
            for number in range(self.plan.clients_per_host)
        ]
        for start in starts:
            self.timeline.after(self.rng.uniform(0.0, 0.02), start)

    # --- who is there ----------------------------------------------------------------------------

    def living_nodes(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.alive]

    def living_slots(self) -> list[SimSlot]:
        return [slot for slot in self.processes.values() if isinstance(slot, SimSlot) and slot.alive]

    def living_clients(self) -> list[SimClient]:
        return [client for client in self.clients.values() if client.alive]

    def living(self) -> list[Process]:
        return [one for one in self.processes.values() if isinstance(one, Process) and one.alive]
