"""A wire with ZeroMQ's vices: links (DEALER) that dial doors (ROUTER), pipes between them, and how pipes lie.

- A pipe is first in, first out. What was handed over may still be lost with the connection.
- What a link sends while nobody answers its address waits in it, and reaches whoever binds that address next.
- A door refuses (False) what is meant for a peer that is not connected, or whose pipe is full; a link never refuses.
- A broken connection comes back under the same routing id, with or without what was under way.
- What comes from different peers reaches the reader of a door in any order.
- A link may be cut one way: what goes there arrives, and nothing comes back; or the other way round.
"""

from __future__ import annotations

import random
from collections import deque
from typing import NamedTuple, Protocol

from mesh import codec
from mesh.messages import Buffer, Message
from mesh.sim.timeline import Timeline

#: Messages that a reader takes from one socket before it looks at the others.
DRAIN = 256


class Reader(Protocol):
    """A process that has a socket."""

    host: str
    pid: int

    def wake(self) -> None:
        """Something is to be read."""


class Frame(bytes):
    """A buffer as ZeroMQ hands it over."""

    @property
    def buffer(self) -> bytes:
        return bytes(self)


class Parcel(NamedTuple):
    """A message under way."""

    message: Message
    frames: tuple[Buffer, ...]


class Wire:
    """All doors and links of a world, and what is wrong with them."""

    def __init__(self, timeline: Timeline, rng: random.Random, *, with_codec: bool) -> None:
        self.timeline = timeline
        self.rng = rng
        self.with_codec = with_codec
        #: {address: door that is bound there}
        self.doors: dict[str, Door] = {}
        #: Addresses whose socket file exists; those of the dead stay.
        self.paths: set[str] = set()
        self.links: list[Link] = []
        self.delivered = 0
        self.dropped = 0

    def parcel(self, message: Message, frames: tuple[Buffer, ...]) -> Parcel:
        """What arrives when this is sent."""
        if self.with_codec:
            message = codec.decode(codec.encode(message), len(frames))
        return Parcel(message, tuple(Frame(frame) for frame in frames))

    def latency_s(self) -> float:
        return self.rng.uniform(0.00003, 0.0003)

    def heal(self) -> None:
        """Nothing is wrong any more; what is cut comes back by itself."""
        for link in self.links:
            link.heal()


class Link:
    """A DEALER connected to one address, with a routing id of its own."""

    def __init__(self, wire: Wire, owner: Reader, address: str, *, reconnect: bool = True) -> None:
        self.wire = wire
        self.owner = owner
        self.address = address
        self.peer = b"\x01" + wire.rng.randbytes(8)
        self.closed = False
        self._reconnect = reconnect
        self._door: Door | None = None
        #: Grows with each connection; what was on its way to the door in an earlier one is lost.
        self._epoch = 0
        #: Grows when what was on its way from the door is lost, too.
        self._epoch_back = 0
        #: Sent while there was no connection.
        self._outbox: deque[Parcel] = deque()
        self._inbox: deque[Parcel] = deque()
        #: When the last parcel of each direction arrives: nothing overtakes it.
        self._there_s = self._here_s = 0.0
        self._last: tuple[bool, Parcel] | None = None
        # Faults.
        self._drop_there = self._drop_back = 0.0
        self.extra_delay_s = 0.0
        self.jitter_s = 0.0
        self.full = False
        self._cut_until_s = 0.0
        wire.links.append(self)
        self._dial_later(0.0)

    # --- for the owner ---------------------------------------------------------------------------

    def send(self, message: Message, frames: tuple[Buffer, ...] = ()) -> bool:
        """Hands a message over; it may be lost for all that."""
        parcel = self.wire.parcel(message, frames)
        if self._door is None:
            self._outbox.append(parcel)
        else:
            self._carry(self._door, parcel)
        return True

    def receive(self) -> list[tuple[Message, tuple[Buffer, ...]]]:
        """What has arrived."""
        return [self._inbox.popleft() for _ in range(min(DRAIN, len(self._inbox)))]

    @property
    def has_input(self) -> bool:
        return bool(self._inbox)

    def close(self, *, linger: bool = False) -> None:
        """Gives it up. Without lingering, what is under way to the door arrives or not."""
        if self.closed:
            return
        self.closed = True
        if not linger and self.wire.rng.random() < 0.5:
            self._epoch += 1
        door, self._door = self._door, None
        if door is not None:
            self.wire.timeline.after(self.wire.latency_s(), lambda: door.hang_up(self))
        self.wire.links.remove(self)

    # --- connecting ------------------------------------------------------------------------------

    def _dial_later(self, delay_s: float) -> None:
        self.wire.timeline.after(delay_s + self.wire.latency_s(), self._dial)

    def _dial(self) -> None:
        if self.closed or self._door is not None:
            return
        door = self.wire.doors.get(self.address)
        if door is None or self.wire.timeline.mono_s < self._cut_until_s:
            if self._reconnect:
                self._dial_later(self.wire.rng.uniform(0.01, 0.04))
            return
        self._door = door
        self._epoch += 1
        door.peers[self.peer] = self
        while self._outbox:
            self._carry(door, self._outbox.popleft())

    def broken(self, *, keep: bool, arrives: bool = False) -> None:
        """The connection is gone. Where `keep`, what waits for the next one stays; where `arrives`, what the door had
        sent comes still.
        """
        door, self._door = self._door, None
        self._epoch += 1
        self._epoch_back += not arrives
        if door is not None:
            door.hang_up(self)
        if not keep:
            self._outbox.clear()
        if self._reconnect and not self.closed:
            self._dial_later(self.wire.rng.uniform(0.01, 0.04))

    # --- parcels ---------------------------------------------------------------------------------

    def _lost(self, share: float) -> bool:
        lost = share > 0 and self.wire.rng.random() < share
        self.wire.dropped += lost
        return lost

    def _delay_s(self) -> float:
        delay_s = self.wire.latency_s() + self.extra_delay_s
        return delay_s + self.wire.rng.random() * self.jitter_s if self.jitter_s else delay_s

    def _carry(self, door: Door, parcel: Parcel) -> None:
        if self._lost(self._drop_there):
            return
        timeline, epoch = self.wire.timeline, self._epoch
        self._there_s = max(self._there_s, timeline.mono_s + self._delay_s())

        def arrive() -> None:
            if epoch == self._epoch:
                self._last = (True, parcel)
                door.arrive(self.peer, parcel)

        timeline.at(self._there_s, arrive)

    def carry_back(self, parcel: Parcel) -> None:
        """Brings what a door sent."""
        if self._lost(self._drop_back):
            return
        timeline, epoch = self.wire.timeline, self._epoch_back
        self._here_s = max(self._here_s, timeline.mono_s + self._delay_s())

        def arrive() -> None:
            if epoch == self._epoch_back and not self.closed:
                self._last = (False, parcel)
                self.put(parcel)

        timeline.at(self._here_s, arrive)

    def put(self, parcel: Parcel) -> None:
        """Something arrives."""
        self.wire.delivered += 1
        self._inbox.append(parcel)
        self.owner.wake()

    # --- faults ----------------------------------------------------------------------------------

    def cut(self, for_s: float, *, keep: bool) -> None:
        """Breaks the connection; it comes back under the same routing id."""
        self._cut_until_s = self.wire.timeline.mono_s + for_s
        self.broken(keep=keep)

    def repeat(self) -> None:
        """The last parcel that arrived arrives again."""
        if self._last is None:
            return
        there, parcel = self._last
        door = self._door
        if there and door is not None:
            door.arrive(self.peer, parcel)
        elif not there:
            self.put(parcel)

    def drop(self, there: float = 1.0, back: float = 1.0) -> None:
        """Loses these shares of what goes to the door, and of what comes back."""
        self._drop_there, self._drop_back = there, back

    def heal(self) -> None:
        """Nothing is wrong with it any more."""
        self._drop_there = self._drop_back = 0.0
        self.extra_delay_s = 0.0
        self.jitter_s = 0.0
        self.full = False
        self._cut_until_s = 0.0


class Door:
    """A bound ROUTER."""

    def __init__(self, wire: Wire, owner: Reader, address: str) -> None:
        self.wire = wire
        self.owner = owner
        self.address = address
        #: {routing id: link}. Exactly the connected.
        self.peers: dict[bytes, Link] = {}
        #: {routing id: what it sent and nobody has read}; outlives the connection.
        self._pipes: dict[bytes, deque[Parcel]] = {}
        wire.doors[address] = self
        wire.paths.add(address)

    def send(self, peer: bytes, message: Message, frames: tuple[Buffer, ...] = ()) -> bool:
        """Hands a message over; False where the peer is unknown or its pipe is full."""
        link = self.peers.get(peer)
        parcel = self.wire.parcel(message, frames)
        if link is None or link.full:
            return False
        link.carry_back(parcel)
        return True

    def receive(self) -> list[tuple[bytes, Message, tuple[Buffer, ...]]]:
        """What has arrived: the peers in turn, whoever comes first."""
        waiting = list(self._pipes)
        self.wire.rng.shuffle(waiting)
        taken: list[tuple[bytes, Message, tuple[Buffer, ...]]] = []
        while waiting and len(taken) < DRAIN:
            for peer in list(waiting):
                pipe = self._pipes[peer]
                taken.append((peer, *pipe.popleft()))
                if not pipe:
                    del self._pipes[peer]
                    waiting.remove(peer)
        return taken

    @property
    def has_input(self) -> bool:
        return bool(self._pipes)

    def arrive(self, peer: bytes, parcel: Parcel) -> None:
        """Something arrives."""
        if self.wire.doors.get(self.address) is not self:
            return
        self.wire.delivered += 1
        self._pipes.setdefault(peer, deque()).append(parcel)
        self.owner.wake()

    def hang_up(self, link: Link) -> None:
        """A connection is gone."""
        if self.peers.get(link.peer) is link:
            del self.peers[link.peer]

    def close(self, *, unlink: bool) -> None:
        """Nobody answers here any more; without `unlink` the socket file stays, as after a crash."""
        if self.wire.doors.get(self.address) is self:
            del self.wire.doors[self.address]
        if unlink:
            self.wire.paths.discard(self.address)
        for link in list(self.peers.values()):
            link.broken(keep=self.wire.rng.random() < 0.7, arrives=self.wire.rng.random() < 0.5)
