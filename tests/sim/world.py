"""A world: two hosts with a router, nodes and clients each, on a lying wire, in simulated time; chance by seed."""

from __future__ import annotations

import random
from typing import NamedTuple

from mesh.core.dispatch import Budgets
from mesh.core.intake import Bounds
from mesh.core.owner import Limits
from mesh.core.crew import WITHDRAWN_AT_START
from mesh.core.recovery import Pages, SlotRecord, pages_of
from mesh.ids import INCARNATION_BITS
from tests.sim.disk import SimDisk
from tests.sim.history import History
from tests.sim.page import SimPage
from tests.sim.process import Process
from tests.sim.sim_client import SimClient
from tests.sim.sim_node import SimNode
from tests.sim.sim_peer import SimPeer
from tests.sim.sim_router import SimRouter
from tests.sim.sim_slot import SimSlot
from tests.sim.timeline import Timeline
from tests.sim.wire import Wire

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
            Bounds(rng.choice((100_000, 100_000, 100_000, 60)), 1 << 30),
            result_expires_s=rng.choice((None, 86_400.0)),
            results_max_bytes=rng.choice((64 << 20, 64 << 20, 64 << 20, 20_000)),
            budgets=Budgets(crash=3, lost=20),
            resident_max=rng.choice((100_000, 0)),
        )
        return cls(
            tuple(nodes), rng.choice((1, 2)), limits, rng.choice((10_000, 50)), rng.random() < 0.5, rng.random() < 0.3
        )


class World:
    """Starts, kills and restarts what the plan says; hands out pids, pages and deaths as a kernel would."""

    def __init__(self, seed: str, plan: Plan) -> None:
        self.rng = random.Random(f"{seed} world")
        self.plan = plan
        self.timeline = Timeline()
        self.wire = Wire(self.timeline, random.Random(f"{seed} wire"), with_codec=plan.with_codec)
        self.history = History()
        #: {path: slot page}; those of nodes that were killed stay.
        self.pages: dict[str, SimPage] = {}
        self.processes: dict[int, Process] = {}
        #: {pid: who wants to know of its death}
        self._watchers: dict[int, list[Process]] = {}
        self._last_pid = 100
        self.disks = {host: SimDisk(self.timeline, random.Random(f"{seed} disk {host}")) for host in HOSTS}
        self.routers: dict[str, SimRouter] = {}
        self.nodes: dict[str, SimNode] = {}
        self.clients: dict[str, SimClient] = {}
        self.peers: dict[str, SimPeer] = {}
        #: Clients that died or left, too.
        self.all_clients: list[SimClient] = []
        for host in HOSTS:
            self.start_router(host)
        for node in plan.nodes:
            self.start_node(node)
        for host in HOSTS:
            for number in range(plan.clients_per_host):
                self.start_client(host, f"c{number}@{host}")

    # --- starting --------------------------------------------------------------------------------

    def start_router(self, host: str) -> None:
        """A router, unless one runs."""
        if host in self.routers and self.routers[host].alive:
            return
        router = self.routers[host] = SimRouter(self, host, self.plan.limits)
        if self.plan.with_peers:
            self.peers[host] = SimPeer(
                router, random.Random(f"{router.pid} {self.rng.random()}"), ("default", "mail"), 2
            )

    def start_node(self, plan: NodePlan) -> None:
        """A node, unless it runs."""
        if plan.name in self.nodes and self.nodes[plan.name].alive:
            return
        self.nodes[plan.name] = SimNode(self, plan.host, plan.name, plan.queues, plan.slots)

    def start_client(self, host: str, name: str) -> None:
        """A client, unless it runs."""
        if name in self.clients and self.clients[name].alive:
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

    # --- the kernel ------------------------------------------------------------------------------

    def new_pid(self, process: Process) -> int:
        self._last_pid += 1
        self.processes[self._last_pid] = process
        return self._last_pid

    def new_incarnation(self) -> int:
        return self.rng.getrandbits(INCARNATION_BITS)

    def watch(self, watcher: Process, pid: int) -> bool:
        """As pidfd_open: False for a process that is gone."""
        process = self.processes.get(pid)
        if process is None or not process.alive:
            return False
        watchers = self._watchers.setdefault(pid, [])
        if watcher not in watchers:
            watchers.append(watcher)
        return True

    def kill(self, process: Process, cause: str) -> None:
        """SIGKILL."""
        if process.alive:
            self.ended(process, cause)

    def kill_soon(self, process: Process) -> None:
        """Its parent has died: the kernel kills it in a moment."""
        self.timeline.after(self.rng.uniform(0.0, 0.005), lambda: self.kill(process, "signal"))

    def ended(self, process: Process, cause: str) -> None:
        """A process is gone, by itself or not: its sockets close, and whoever watches it is told in a moment."""
        process.alive = False
        self.history.deaths[process.pid] = self.timeline.mono_s
        process.released()
        for watcher in self._watchers.pop(process.pid, ()):
            self.timeline.after(self.rng.uniform(0.0, 0.0008), lambda one=watcher: one.hear_of_death(process.pid))  # type: ignore[misc]
        if isinstance(process, SimSlot) and process.node.alive:
            node = process.node
            self.timeline.after(
                self.rng.uniform(0.0001, 0.002), lambda: node.slot_exited(process, cause) if node.alive else None
            )

    def begun_of(self, path: str, index: int, pid: int) -> int | None:
        """As slot_page.begun_of."""
        page = self.pages.get(path)
        if page is None or index >= len(page.records) or page.records[index].pid != pid:
            return None
        return page.records[index].begun

    def pages_of(self, host: str) -> Pages:
        """As router._pages: what the slot pages of a host say to a router that starts."""
        records = []
        for path, page in self.pages.items():
            for number, record in enumerate(page.records if path.startswith(f"{host}/") else ()):
                process = self.processes.get(record.pid)
                withdrawn = record.begun + WITHDRAWN_AT_START
                page.withdraw(number, withdrawn)
                begun = [
                    (task_id, lease, mono_s, lease > record.entered)
                    for lease, (task_id, mono_s) in record.beginnings.items()
                ]
                alive = process is not None and process.alive
                name = process.node.name if isinstance(process, SimSlot) else ""
                records.append(SlotRecord(name, number, record.pid, alive, path, withdrawn, begun))
        return pages_of(records, are_complete=True)

    # --- who is there ----------------------------------------------------------------------------

    def living_nodes(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.alive]

    def living_slots(self) -> list[SimSlot]:
        return [slot for slot in self.processes.values() if isinstance(slot, SimSlot) and slot.alive]

    def living_clients(self) -> list[SimClient]:
        return [client for client in self.clients.values() if client.alive]

    def living(self) -> list[Process]:
        return [process for process in self.processes.values() if process.alive]
