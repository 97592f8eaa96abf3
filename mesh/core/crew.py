"""Who runs tasks here: the nodes and slots of this host, how they come, and what is known when they are gone."""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from typing import Final, NamedTuple

from mesh import messages as m
from mesh.core import inquiry
from mesh.core.dispatch import Dispatch
from mesh.core.effects import Effect, RemovePage, SendControl, WatchProcess
from mesh.core.leases import Consumer, Kind
from mesh.core.membership import Membership, Node
from mesh.core.outbox import Outbox
from mesh.core.sequences import SequenceSet
from mesh.messages import Buffer, Ranges

#: How long a node has to tell the cause of a slot's death, before it counts without one.
CAUSE_S: Final = 2.0
#: Of a cause, so much is kept.
CAUSE_CHARS: Final = 500
#: Slots of one node.
MAX_SLOTS: Final = 1 << 16
#: Leases that a slot may say it has seen: numbering goes on from there, and must fit the wire and the slot page.
MAX_LEASE: Final = 1 << 61


#: Leases that a router which starts withdraws beyond the last that a slot has begun: more than any slot holds.
WITHDRAWN_AT_START: Final = 1 << 12
#: A routing id that begins so is nobody's.
PLACEHOLDER: Final = b"\0"


class LivingSlot(NamedTuple):
    """A slot that an earlier router knew, as its node's page shows it."""

    node: str
    slot: int  #: its index
    pid: int
    page: str
    withdrawn: int  #: leases up to this one may not begin any more
    begun: dict[bytes, int]  #: {task id: lease} of what was begun here last


class _SlotFacts(NamedTuple):
    """What a slot says of itself."""

    node: str
    slot: int
    queues: list[str]
    last_lease: int
    unreceipted: Ranges
    link: int


def is_placeholder(consumer: Consumer) -> bool:
    """Whether this only keeps the place of a slot that has yet to join."""
    return consumer.peer.startswith(PLACEHOLDER)


def _slot_facts(hello: m.Hello) -> _SlotFacts | None:
    info = hello.info
    node, index, queues, last = info.get("node"), info.get("index"), info.get("queues"), info.get("last_lease")
    if not (type(node) is str and type(index) is int and type(last) is int and type(queues) is list and queues):
        return None
    if not (0 <= index < MAX_SLOTS and 0 <= last < MAX_LEASE) or not all(type(queue) is str for queue in queues):
        return None
    unreceipted = info.get("unreceipted", [])
    if not m.are_ranges(unreceipted, MAX_LEASE):
        return None
    return _SlotFacts(node, index, queues, last, unreceipted, inquiry.link_of(info))


def _page_of(hello: m.Hello) -> str:
    """The path of the slot page that a node says it keeps; empty where it says none."""
    page = hello.info.get("page")
    return page if type(page) is str else ""


class Crew:
    """1. Lets slots and nodes join, over one link each. 2. Heeds what nodes say of their slots. 3. Joins the two
    messages of a slot's death: its process ended, its node knows why. 4. Knows which slot pages are needed.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        membership: Membership,
        outbox: Outbox,
        begun_elsewhere: dict[bytes, tuple[Consumer, int]],
    ) -> None:
        self._dispatch = dispatch
        #: As in `Intake`.
        self._begun_elsewhere = begun_elsewhere
        self._membership = membership
        self._outbox = outbox
        #: Slots whose process died while their node lives: {routing id: (last lease begun, how long their node has to
        #: tell the cause)}.
        self.dead_slots: dict[bytes, tuple[int | None, float]] = {}
        #: {node name: path of its slot page}. Exactly the known nodes.
        self.pages: dict[str, str] = {}
        #: Slots that live though their node is gone: {pid: path of its slot page}. Nobody else will tell of their end.
        self.forsaken: dict[int, str] = {}
        #: Supervisors that live and have not joined: an earlier router may have known them, or their name is taken.
        #: {pid: path of their slot page}
        self.strangers: dict[int, str] = {}

    # --- slots -----------------------------------------------------------------------------------

    def slot_hello(self, peer: bytes, hello: m.Hello) -> bool:
        """A slot joins. False where it says nothing of use, or says it over an earlier link."""
        said = _slot_facts(hello)
        if said is None:
            return False
        if peer in self._dispatch.consumers:
            return True
        known = [
            one
            for one in self._dispatch.consumers.values()
            if one.pid == hello.pid and one.index == said.slot and (one.node == said.node or is_placeholder(one))
        ]
        if any(one.link > said.link for one in known):
            return False  # the HELLO of an earlier link, which arrives late
        node, names = intern(said.node), tuple(dict.fromkeys(map(intern, said.queues)))
        consumer = Consumer(
            peer,
            Kind.SLOT,
            names,
            node=node,
            index=said.slot,
            pid=hello.pid,
            last_lease=max(said.last_lease, *(one.last_lease for one in known if is_placeholder(one)), 0),
        )
        consumer.link = said.link
        consumer.quiet = any(one.quiet and not is_placeholder(one) for one in known)
        for one in known:
            if one.peer in self.dead_slots:
                self.dead_slots[peer] = self.dead_slots.pop(one.peer)
        self._moved(known, consumer, said.unreceipted)
        self._dispatch.join_again(consumer, known, said.unreceipted)
        return True

    def _moved(self, earlier: list[Consumer], consumer: Consumer | None, unreceipted: Ranges) -> None:
        """What was begun on the word of an earlier router is now known to be this slot's, or nobody's."""
        has_run = SequenceSet(unreceipted)
        for one in earlier:
            claims, one.claims = one.claims, []
            for task_id in claims:
                held_by, lease = self._begun_elsewhere.get(task_id, (None, 0))
                if held_by is not one:
                    continue
                if consumer is not None and lease in has_run:
                    self._begun_elsewhere[task_id] = (consumer, lease)
                    consumer.claims.append(task_id)
                else:
                    del self._begun_elsewhere[task_id]

    # --- slots that an earlier router knew --------------------------------------------------------

    def stands_in(self, slot: LivingSlot) -> Consumer:
        """Keeps the place of a slot that lives and has yet to join: whatever it has begun is leased to it."""
        consumer = Consumer(
            PLACEHOLDER + slot.pid.to_bytes(8, "big") + slot.slot.to_bytes(4, "big"),
            Kind.SLOT,
            (),
            node=intern(slot.node),
            index=slot.slot,
            pid=slot.pid,
            last_lease=slot.withdrawn,
        )
        consumer.quiet = True
        consumer.recalled_upto = consumer.begun_upto = MAX_LEASE
        self._dispatch.join(consumer)
        self.forsaken[slot.pid] = slot.page
        self._outbox.effects.append(WatchProcess(slot.pid))
        by_lease = {lease: task_id for task_id, lease in slot.begun.items()}  # a page that says a lease twice lies
        for lease, task_id in by_lease.items():
            self._begun_elsewhere[task_id] = (consumer, lease)
        consumer.claims = list(by_lease.values())
        return consumer

    def expects(self, keepers: Mapping[int, str]) -> None:
        """These supervisors live and will join, or end: {pid: path of the slot page}."""
        self.strangers.update(keepers)
        self._outbox.effects += [WatchProcess(pid) for pid in keepers]

    def slot_bye(self, peer: bytes) -> bool:
        """A slot takes no more tasks. False where it is none."""
        consumer = self._dispatch.consumers.get(peer)
        if consumer is None:
            return False
        # What it had begun is known once its process has ended: until then it keeps its leases and gets no others.
        consumer.quiet = True
        return True

    def blocked(self, peer: bytes, said: m.Blocked, frames: tuple[Buffer, ...]) -> None:
        """A slot's task waits for another one, which must not wait behind it."""
        consumer = self._dispatch.consumers.get(peer)
        if consumer is None:
            self._outbox.need_hello(peer)
            return
        consumer.waits = said.blocked
        if said.blocked and len(consumer.held) > 1 and not consumer.recalling:
            self._dispatch.begin_recall(consumer, self._outbox.now)
            self.recall(consumer)

    def slots_of_pid(self, pid: int) -> list[tuple[str, int]]:
        """The slot pages and indexes of the slots in this process."""
        found = [one for one in self._dispatch.consumers.values() if one.pid == pid]
        return [(self.forsaken.get(pid) or self.pages.get(one.node, ""), one.index) for one in found]

    def recall(self, consumer: Consumer) -> None:
        """Has a slot's node take back what the slot has not begun."""
        node = self._membership.nodes.get(consumer.node)
        if node is not None:  # else it is done when its node joins
            self._outbox.effects.append(SendControl(node.peer, m.Recall(consumer.index, consumer.last_lease)))

    def terminate(self, consumer: Consumer, lease: int, signal: int) -> None:
        """Has a slot's node end what the slot runs, if it still runs this lease."""
        node = self._membership.nodes.get(consumer.node)
        if node is not None:
            message = m.Terminate(consumer.index, consumer.pid, lease, signal)
            self._outbox.effects.append(SendControl(node.peer, message))

    # --- nodes -----------------------------------------------------------------------------------

    def node_hello(self, peer: bytes, hello: m.Hello) -> bool:
        """A node joins. False where it has no name, another's name, or says it over an earlier link."""
        name = hello.info.get("name")
        if type(name) is not str:
            return False
        known, link = self._membership.nodes.get(name), inquiry.link_of(hello.info)
        if known is not None and known.pid == hello.pid and inquiry.link_of(known.info) > link:
            return False  # the HELLO of an earlier link, which arrives late
        renamed = self._membership.by_peer(peer)
        if renamed is not None and renamed.name != name:
            self._node_gone(renamed, f"it is called {name} now")
        other = self._membership.join(Node(name, peer, hello.pid, hello.info))
        if other is not None:
            reason = f"node {name!r} is running already, with pid {other.pid}; give this one another name with -n"
            refusal = m.HelloRefused(m.PROTOCOL_MAJOR, m.Code.DUPLICATE, reason)
            self.strangers[hello.pid] = _page_of(hello)
            self._outbox.effects += [WatchProcess(hello.pid), SendControl(peer, refusal)]
            return False
        page = self.pages[name] = _page_of(hello)
        self.strangers.pop(hello.pid, None)
        known_slots = [pid for pid, kept in self.forsaken.items() if kept == page and kept]
        for pid in known_slots:
            del self.forsaken[pid]
        for consumer in self._dispatch.consumers.values():
            if consumer.pid in known_slots:
                consumer.node = name
            elif consumer.node == name:  # a recall may have been lost with the node's earlier link
                consumer.recalling = False
        return True

    def node_bye(self, peer: bytes) -> set[str]:
        """A node leaves. Returns the slot page it kept."""
        node = self._membership.by_peer(peer)
        if node is None:
            return set()
        page = self.pages[node.name]
        self._node_gone(node, "it left")
        return {page}

    def _node_gone(self, node: Node, reason: str) -> None:
        self._outbox.effects += self._membership.leave(node.name, reason)
        for consumer in [one for one in self._dispatch.consumers.values() if one.node == node.name]:
            consumer.quiet = True
            dead = self.dead_slots.pop(consumer.peer, None)
            if dead is not None:
                self._dispatch.lost(consumer.peer, dead[0], f"node {node.name} was lost", node_lost=True)
            else:
                self.forsaken[consumer.pid] = self.pages[node.name]
        del self.pages[node.name]

    # --- what nodes say of their slots -----------------------------------------------------------

    def _slot(self, peer: bytes, index: int, pid: int) -> Consumer | None:
        node = self._membership.by_peer(peer)
        if node is None:
            return None
        for consumer in self._dispatch.consumers.values():
            if consumer.node == node.name and consumer.index == index and consumer.pid == pid:
                return consumer
        return None

    def recalled(self, peer: bytes, recalled: m.Recalled, frames: tuple[Buffer, ...]) -> None:
        """A node has taken back what its slot has not begun."""
        consumer = self._slot(peer, recalled.slot, recalled.slot_pid)
        if consumer is not None:
            self._dispatch.recalled(consumer, recalled.begun, recalled.upto)

    def slot_lost(self, peer: bytes, lost: m.SlotLost, frames: tuple[Buffer, ...]) -> None:
        """A node knows how its slot died."""
        consumer = self._slot(peer, lost.slot, lost.slot_pid)
        if consumer is None:  # it is not the sender's to tell
            return
        self.dead_slots.pop(consumer.peer, None)
        self._moved([consumer], None, [])
        self._dispatch.lost(
            consumer.peer,
            lost.begun,
            lost.cause[:CAUSE_CHARS],
            node_lost=False,
            charged=lost.charged,
            limit_s=lost.limit_s,
        )

    def quiet(self, peer: bytes, quiet: m.Quiet, frames: tuple[Buffer, ...]) -> None:
        """A node takes no more tasks."""
        node = self._membership.by_peer(peer)
        if node is None:
            return
        for consumer in self._dispatch.consumers.values():
            if consumer.node == node.name:
                consumer.quiet = True

    # --- deaths ----------------------------------------------------------------------------------

    def supervisor_ended(self, pid: int) -> set[str]:
        """The nodes of this process are gone. Returns the slot pages they kept."""
        pages = {self.strangers.pop(pid, "")}
        for node in self._membership.all_by_pid(pid):
            pages.add(self.pages[node.name])
            self._node_gone(node, "its process died")
        return pages

    def slots_ended(self, pid: int, begun: Mapping[int, int | None]) -> set[str]:
        """The slots of this process are gone. Returns the slot pages that nobody keeps any more for them.

        `begun` as in `Owner.process_ended`.
        """
        page = self.forsaken.pop(pid, None)
        consumers = [one for one in self._dispatch.consumers.values() if one.pid == pid]
        self._moved(consumers, None, [])
        is_kept = page is None or page in self.strangers.values()  # its node lives, and will tell
        for consumer in consumers:
            consumer.quiet = True
            if is_kept and (consumer.node in self._membership.nodes or is_placeholder(consumer)):
                self.dead_slots[consumer.peer] = (begun.get(consumer.index), self._outbox.now.mono_s + CAUSE_S)
            else:
                self._dispatch.lost(
                    consumer.peer, begun.get(consumer.index), f"node {consumer.node} was lost", node_lost=True
                )
        return set() if page is None or is_kept else {page}

    def remove_pages(self, pages: set[str]) -> list[Effect]:
        """Removes those of the pages that no node keeps and no slot uses."""
        needed = {"", *self.pages.values(), *self.forsaken.values(), *self.strangers.values()}
        return [RemovePage(page) for page in sorted(pages - needed)]

    def give_up_waiting_for_causes(self) -> None:
        """Slots whose node has had its time to tell why they died are lost without a cause."""
        for peer in [peer for peer, (_, due) in self.dead_slots.items() if due <= self._outbox.now.mono_s]:
            begun, _ = self.dead_slots.pop(peer)
            self._dispatch.lost(peer, begun, "its process ended, nobody knows why", node_lost=False)

    def cause_due_mono_s(self) -> float | None:
        """When `give_up_waiting_for_causes` has something to do."""
        return min((due_mono_s for _, due_mono_s in self.dead_slots.values()), default=None)
