"""The shell of a router in simulated form: mirrors mesh/router.py around the real Owner."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from mesh import codec
from mesh import messages as m
from mesh.core.effects import Commit, Effect, Fetch, RemovePage, Send, SendControl, WatchProcess
from mesh.core.identity import Identity
from mesh.core.owner import Arrival, Limits, Owner
from mesh.sim.kernel import Kernel
from mesh.sim.process import Process
from mesh.sim.wire import Door

MESH = "default"
#: Routing ids of peer routers begin so: they are not on the simulated wire.
PEER_MARK = b"peer-"


class Peer(Protocol):
    """Another router, as `peer.SimPeer` is one."""

    def receive(self, message: m.Message, frames: tuple[m.Buffer, ...]) -> None:
        """Something from the owner."""

    def router_died(self) -> None:
        """The owner is gone."""


class RouterLink:
    """The way from one router to another: what is said while that one is away is lost."""

    def __init__(self, router: SimRouter, other: Callable[[], SimRouter]) -> None:
        self._router = router
        self._other = other

    def receive(self, message: m.Message, frames: tuple[m.Buffer, ...]) -> None:
        """As Peer."""
        me, other = self._router, self._other()
        delay_s = me.wire.latency_s()
        me.timeline.after(delay_s, lambda: other.from_peer(peer_of(me.host), message, frames) if other.alive else None)

    def router_died(self) -> None:
        """As Peer."""


class SimRouter(Process):
    """1. Receives. 2. Performs effects. 3. Tells the owner of deaths."""

    def __init__(self, kernel: Kernel, host: str, limits: Limits) -> None:
        super().__init__(kernel, host, f"router {host}")
        tag = b"owner" + host.encode()
        boot = kernel.rng.randbytes(8)
        self.disk = kernel.disks[host]
        self.owner = Owner(Identity(MESH, host, tag, boot, self.pid, "sim"), limits, kernel.encode_failure)
        self.inbox = Door(self.wire, self, inbox_address(host))
        self.control = Door(self.wire, self, control_address(host))
        self.peers: dict[bytes, Peer] = {}
        self._from_peers: list[Arrival] = []
        #: Effects to be performed, in order.
        self._todo: deque[Effect] = deque()
        self._performing = False
        #: What the journal has answered: (number, why it failed or empty).
        self._answers: list[tuple[int, str]] = []
        kernel.owner_starts(host, self.owner)
        pages = kernel.pages_of(host)
        recovered, effects = self.owner.recover(
            self.disk.rows(tasks=False), self.disk.rows(tasks=True), pages, self.now
        )
        kernel.history.counts["tasks recovered"] += recovered.tasks
        kernel.history.counts["tasks recovered as running"] += recovered.running
        kernel.history.counts["outcomes recovered"] += recovered.outcomes
        self.do(effects)
        self.wake()

    # --- the loop --------------------------------------------------------------------------------

    def turn(self) -> None:
        for number, failure in self._take_answers():
            if failure:
                self.do(self.owner.commit_failed(number, failure, self.now))
            else:
                self.do(self.owner.committed(number, self.now))
        batch = [self._arrival(*one) for one in self.inbox.receive()]
        batch += [Arrival(True, *one) for one in self.control.receive()]
        from_peers, self._from_peers = self._from_peers, []
        self.do(self.owner.handle(batch + from_peers, self.now))
        for pid in self.ended():
            self._process_ended(pid)

    def _arrival(self, peer: bytes, message: m.Message, frames: tuple[m.Buffer, ...]) -> Arrival:
        raw = codec.encode(message) if self.wire.with_codec and isinstance(message, m.Publish) else b""
        return Arrival(False, peer, message, frames, raw)

    def _take_answers(self) -> list[tuple[int, str]]:
        answers, self._answers = self._answers, []
        return answers

    def _answer(self, number: int, failure: str) -> None:
        if not failure:
            self.kernel.started_anew.discard(self.host)
        if self.alive:
            self._answers.append((number, failure))
            self.wake()

    def next_deadline(self) -> float | None:
        return self.owner.next_deadline_mono_s()

    def check(self) -> None:
        self.owner.check()

    def has_input(self) -> bool:
        return self.inbox.has_input or self.control.has_input or bool(self._from_peers or self._answers)

    def released(self, cause: str) -> None:
        self.inbox.close(unlink=False)
        self.control.close(unlink=False)
        self.disk.writer_died()
        for peer in self.peers.values():
            peer.router_died()

    # --- effects ---------------------------------------------------------------------------------

    def do(self, effects: list[Effect]) -> None:
        """Performs effects in order. What comes of performing one is performed behind those that were there before."""
        self._todo.extend(effects)
        if self._performing:
            return
        self._performing = True
        while self._todo:
            self._perform(self._todo.popleft())
        self._performing = False

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            self._send(effect)
        elif isinstance(effect, SendControl):
            if not self.control.send(effect.peer, effect.message):
                self.do(self.owner.unreachable(effect.peer, self.now))
        elif isinstance(effect, Commit):
            self.disk.append(effect, self._answer)
        elif isinstance(effect, Fetch):
            self._fetch(effect)
        elif isinstance(effect, WatchProcess):
            self._watch(effect)
        elif isinstance(effect, RemovePage):
            self.kernel.pages.pop(effect.path, None)

    def _send(self, effect: Send) -> None:
        if effect.peer.startswith(PEER_MARK):
            peer = self.peers.get(effect.peer)
            if peer is not None:
                peer.receive(effect.message, effect.frames)
            return
        message = effect.message
        if not self.inbox.send(effect.peer, message, effect.frames) and isinstance(message, m.Tasks):
            self.do(self.owner.undelivered(effect.peer, message, self.now))

    def _fetch(self, effect: Fetch) -> None:
        if self.disk.unreadable:
            self.do(self.owner.not_fetched(effect.number, self.now))
        else:
            self.do(self.owner.fetched(effect.number, self.disk.read(effect.number), self.now))

    def _watch(self, effect: WatchProcess) -> None:
        if not self.watch(effect.pid):
            self._process_ended(effect.pid)

    def _process_ended(self, pid: int) -> None:
        begun = {index: self.kernel.begun_of(page, index, pid) for page, index in self.owner.slots_of_pid(pid)}
        self.do(self.owner.process_ended(pid, begun, self.now))

    # --- peers -----------------------------------------------------------------------------------

    def from_peer(self, peer: bytes, message: m.Message, frames: tuple[m.Buffer, ...] = ()) -> None:
        """A peer says something."""
        if self.alive:
            parcel = self.wire.parcel(message, frames)
            self._from_peers.append(Arrival(False, peer, *parcel))
            self.wake()


def peer_of(host: str) -> bytes:
    """The routing id under which the router of a host is known to its peers."""
    return PEER_MARK + b"router-" + host.encode()


def inbox_address(host: str) -> str:
    return f"{host}/inbox"


def control_address(host: str) -> str:
    return f"{host}/control"


def reply_address(host: str, incarnation: int) -> str:
    return f"{host}/reply/{incarnation}"
