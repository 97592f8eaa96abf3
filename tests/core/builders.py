"""What the tests of the core are set up from: tasks, moments, and a router whose links are lists."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mesh import codec, ids
from mesh import messages as m
from mesh.clock import Now
from mesh.core.admission import Bounds
from mesh.core.credit import FIRST_SAMPLES
from mesh.core.dispatch import Budgets
from mesh.core.effects import Commit, Effect, Fetch, RemovePage, RemoveReplySocket, Send, SendControl, WatchProcess
from mesh.core.identity import Identity
from mesh.core.ledger import LAZY_S
from mesh.core.owner import Arrival, Limits, Owner
from mesh.core.recovery import Pages, Recovered
from mesh.core.task import Task
from mesh.exceptions import MeshError
from mesh.messages import Flag
from mesh.states import Status
from tests.core.fake_journal import FakeJournal

OWNER_TAG = b"owner!"
BOOT = b"bootboot"
MESH = "default"
PREFIX = ids.prefix(OWNER_TAG, 1)
BUDGETS = Budgets(crash=3, lost=20)
#: A host on which nothing runs.
NO_PAGES = Pages([], set(), True)
#: The wall clock is this far ahead of the monotonic one.
WALL_OFFSET_S = 1_000_000.0


def at(mono_s: float) -> Now:
    """A moment on both clocks."""
    return Now(WALL_OFFSET_S + mono_s, mono_s)


def wall(mono_s: float) -> float:
    """The wall time of that moment."""
    return WALL_OFFSET_S + mono_s


def make_task(
    sequence: int,
    name: str = "t",
    queue: str = "q",
    priority: int = 0,
    flags: int = Flag.NONE,
    body: bytes = b"body",
    frames: tuple[m.Buffer, ...] = (),
    **options: Any,
) -> Task:
    """A task as its owner takes it: READY, its id ending in `sequence`."""
    return Task(ids.stamp(PREFIX, sequence), name, queue, priority, flags, body, frames, options or None)


def sequences(tasks: Iterable[Task]) -> list[int]:
    """Tasks by the sequences in their ids."""
    return [ids.sequence_of(task.task_id) for task in tasks]


def as_text(error: MeshError) -> bytes:
    """An error as the tests' owner puts it into an outcome: its type and what it says."""
    return f"{type(error).__name__}: {error}".encode()


# --- a router and who is connected to it ----------------------------------------------------------


class Failure(NamedTuple):
    """What a caller reads of an outcome that mesh itself has made."""

    status: Status
    error: str


class Peer:
    """One end of a link to the router: says things, and keeps what it is told."""

    def __init__(self, router: Router, address: bytes, *, control: bool = False) -> None:
        self.router = router
        self.address = address
        self.control = control
        #: Everything the router has sent here, oldest first.
        self.told: list[Any] = []
        #: The buffers that came with each message that had any, oldest first.
        self.buffers: list[tuple[m.Buffer, ...]] = []
        router.peers[(control, address)] = self

    def says(self, *messages: m.Message, frames: tuple[m.Buffer, ...] = ()) -> None:
        """Sends messages that arrive together."""
        self.router.receive([self.arrival(message, frames) for message in messages])

    def arrival(self, message: m.Message, frames: tuple[m.Buffer, ...] = ()) -> Arrival:
        """A message of this peer, as it comes in."""
        raw = codec.encode(message) if isinstance(message, m.Publish) else b""
        return Arrival(self.control, self.address, message, frames, raw)

    def take(self, kind: type[Any]) -> list[Any]:
        """Removes and returns what it was told of this kind."""
        taken = [message for message in self.told if type(message) is kind]
        self.told = [message for message in self.told if type(message) is not kind]
        return taken

    def hello(self, role: m.Role, pid: int, incarnation: int = 1, **info: Any) -> m.Hello:
        """A HELLO of this peer."""
        return m.Hello(m.PROTOCOL_MAJOR, m.PROTOCOL_MINOR, role, MESH, incarnation, pid, info)


class Caller(Peer):
    """A client."""

    def __init__(self, router: Router, incarnation: int, pid: int, address: bytes, **info: Any) -> None:
        super().__init__(router, address)
        self.incarnation = incarnation
        self.pid = pid
        self.prefix = ids.prefix(OWNER_TAG, incarnation)
        self.last_sequence = 0
        self.says(self.hello(m.Role.CLIENT, pid, incarnation, **info))

    def record(self, **fields: Any) -> list[Any]:
        """The next call, as it stands in a Publish."""
        self.last_sequence += 1
        call = m.Call(self.last_sequence, "t", "q", 0, Flag.NONE, b"body", 0, None)
        return list(call._replace(**fields))

    def publishes(self, *records: list[Any], now: bool = True, frames: tuple[m.Buffer, ...] = ()) -> None:
        """Sends these calls in one message."""
        self.says(m.Publish(now, list(records)), frames=frames)

    def calls(self, count: int = 1, **fields: Any) -> list[bytes]:
        """Makes so many calls at once. Their ids."""
        records = [self.record(**fields) for _ in range(count)]
        self.publishes(*records)
        return [self.id(record[0]) for record in records]

    def call(self, **fields: Any) -> bytes:
        """Makes one call. Its id."""
        return self.calls(1, **fields)[0]

    def id(self, sequence: int) -> bytes:
        return ids.stamp(self.prefix, sequence)

    def results(self) -> dict[bytes, tuple[int, bytes]]:
        """{id: (status, body)} of what it got since it looked last."""
        return {record[0]: (record[1], record[2]) for one in self.take(m.Results) for record in one.results}

    def failures(self) -> dict[bytes, Failure]:
        """The same, for outcomes that say what went wrong."""
        return {task_id: Failure(Status(status), body.decode()) for task_id, (status, body) in self.results().items()}

    def confirmed(self) -> list[list[int]]:
        """The ranges confirmed since it looked last, as they came."""
        return [one for confirm in self.take(m.Confirm) for one in confirm.confirmed]


class Slot(Peer):
    """A slot that runs what the test says."""

    def __init__(
        self,
        node: Node,
        index: int,
        pid: int,
        address: bytes,
        queues: Sequence[str] = ("q",),
        last_lease: int = 0,
        **info: Any,
    ) -> None:
        super().__init__(node.router, address)
        self.node, self.index, self.pid = node, index, pid
        #: {lease: assignment} of what it holds.
        self.held: dict[int, m.Assignment] = {}
        self.receipts: list[int] = []
        info = {"node": node.name, "index": index, "queues": list(queues), "last_lease": last_lease, **info}
        self.says(self.hello(m.Role.SLOT, pid, 1, **info))
        self.looks()

    def looks(self) -> list[bytes]:
        """Takes the tasks that have come. Their ids."""
        came = []
        for tasks in self.take(m.Tasks):
            for number, record in enumerate(tasks.tasks, start=tasks.first_lease):
                assert number not in self.held, "a lease number was used twice"
                self.held[number] = m.Assignment(*record)
                came.append(record[0])
            self.receipts += [tasks.receipt] if tasks.receipt else []
        self.receipts += [one.upto for one in self.take(m.Receipt)]
        return came

    def holds(self) -> list[bytes]:
        """The ids of all that it holds, in order."""
        self.looks()
        return [assignment.task_id for assignment in self.held.values()]

    def lease_of(self, task_id: bytes) -> int:
        """The number under which it holds this task."""
        self.looks()
        return next(number for number, assignment in self.held.items() if assignment.task_id == task_id)

    def outcome(
        self, task_id: bytes, body: bytes = b"done", *, runtime_us: int = 100, delivered: bool = False
    ) -> m.Outcomes:
        """The message that says how a task it holds has ended."""
        lease = self.lease_of(task_id)
        return m.Outcomes([list(m.Outcome(lease, task_id, Status.SUCCESS, runtime_us, body, 0, delivered))])

    def ends(self, *task_ids: bytes, body: bytes = b"done", runtime_us: int = 100, delivered: bool = False) -> None:
        """Says how tasks it holds have ended; without ids, all of them."""
        records = []
        for task_id in task_ids or self.holds():
            records += self.outcome(task_id, body, runtime_us=runtime_us, delivered=delivered).outcomes
            del self.held[self.lease_of(task_id)]
        self.says(m.Outcomes(records))
        self.looks()

    def dies(self, *, begun: int = 0, cause: str = "signal 9", charged: bool = True) -> None:
        """Its process ends: the router hears of it from the kernel, and then from the node."""
        self.router.process_ended(self.pid, begun)
        self.node.says(m.SlotLost(self.index, self.pid, begun, cause, charged))


class Node(Peer):
    """A supervisor."""

    def __init__(self, router: Router, name: str, pid: int, address: bytes, **info: Any) -> None:
        super().__init__(router, address, control=True)
        self.name, self.pid, self.info = name, pid, info

    def joins(self) -> None:
        """Says HELLO."""
        info = {"name": self.name, "page": f"{self.name}.page", **self.info}
        self.says(self.hello(m.Role.NODE, self.pid, 1, **info))

    def slot(self, index: int = 0, pid: int | None = None, **info: Any) -> Slot:
        """Starts a slot."""
        number = next(self.router.numbers)
        return Slot(self, index, pid or number, b"slot%d" % number, **info)

    def recalls(self) -> list[m.Recall]:
        """What it was asked to take back since it looked last."""
        return self.take(m.Recall)


class Router:
    """An owner, its clock, its journal, and its peers. Does what the owner wants done."""

    def __init__(
        self,
        *,
        tasks_max: int = 1_000_000,
        bytes_max: int = 1 << 40,
        result_expires_s: float | None = None,
        results_max_bytes: int = 1 << 30,
        budgets: Budgets = BUDGETS,
        journaled: bool = True,
        resident_max: int = 1_000_000,
        journal: FakeJournal | None = None,
        mono_s: float = 100.0,
    ) -> None:
        bounds = Bounds(tasks_max, bytes_max)
        limits = Limits(bounds, result_expires_s, results_max_bytes, budgets, resident_max, journaled=journaled)
        self.owner = Owner(Identity(MESH, "/mesh", OWNER_TAG, BOOT, 1, "0.1"), limits, as_text)
        self.mono_s = mono_s
        self.journal = FakeJournal() if journal is None else journal
        self.peers: dict[tuple[bool, bytes], Peer] = {}
        self.watched: list[int] = []
        #: What it was told to remove, in order.
        self.removed: list[RemovePage | RemoveReplySocket] = []
        self.numbers = itertools.count(1_000)
        #: What it found when it started; None where it has not read anything.
        self.recovered: Recovered | None = None

    @property
    def now(self) -> Now:
        return at(self.mono_s)

    # --- who connects ------------------------------------------------------------------------------

    def client(self, incarnation: int = 1, pid: int | None = None, **info: Any) -> Caller:
        """A client joins, over a fresh link."""
        number = next(self.numbers)
        return Caller(self, incarnation, pid or number, b"client%d" % number, **info)

    def node(self, name: str = "n", pid: int | None = None, **info: Any) -> Node:
        """A node joins, over a fresh link."""
        node = self.absent_node(name, pid, **info)
        node.joins()
        return node

    def absent_node(self, name: str = "n", pid: int | None = None, **info: Any) -> Node:
        """A node that has not joined."""
        number = next(self.numbers)
        return Node(self, name, pid or number, b"node%d" % number, **info)

    def slot(self, **info: Any) -> Slot:
        """A slot of a node of its own."""
        return self.node(f"n{next(self.numbers)}").slot(**info)

    def asker(self) -> Peer:
        """A client on the control link."""
        number = next(self.numbers)
        peer = Peer(self, b"asker%d" % number, control=True)
        peer.says(peer.hello(m.Role.CLIENT, number))
        peer.told.clear()
        return peer

    # --- what happens ------------------------------------------------------------------------------

    def learns(self, name: str, runtime_us: int = 10) -> None:
        """It knows how long tasks of this name take."""
        for _ in range(FIRST_SAMPLES):
            self.owner.dispatch.estimates.add(name, runtime_us)

    def receive(self, batch: Sequence[Arrival]) -> None:
        """These messages arrive together."""
        self._do(self.owner.handle(batch, self.now))

    def passes(self, seconds: float) -> None:
        """Time passes, and the router looks around."""
        self.mono_s += seconds
        self.receive([])

    def process_ended(self, pid: int, begun: int = 0) -> None:
        """A watched process ends; all its slots had begun as much."""
        self._do(self.owner.process_ended(pid, {index: begun for _, index in self.owner.slots_of_pid(pid)}, self.now))

    def recover(self, pages: Pages = NO_PAGES) -> Recovered:
        """It has just started, and reads its journal and the slot pages."""
        recovered, effects = self.owner.recover(*self.journal.passes(), pages, self.now)
        self._do(effects)
        return recovered

    def settles(self, seconds: float = LAZY_S) -> None:
        """Time passes until the journal holds all that has happened."""
        while not self.owner.ledger.is_settled:
            self.passes(seconds)

    def commit(self, count: int | None = None) -> None:
        """The journal takes the commit under way, and then those that follow at once: so many in all."""
        done = 0
        while self.journal.under_way is not None and (count is None or done < count):
            done += 1
            self._do(self.owner.committed(self.journal.take(), self.now))

    def fail(self, reason: str = "no space left on device") -> None:
        """The journal can't take the commit under way."""
        assert self.journal.under_way is not None
        self._do(self.owner.commit_failed(self.journal.under_way.number, reason, self.now))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._tell(False, effect.peer, effect.message, effect.frames)
            elif isinstance(effect, SendControl):
                self._tell(True, effect.peer, effect.message)
            elif isinstance(effect, WatchProcess):
                self.watched.append(effect.pid)
            elif isinstance(effect, RemovePage | RemoveReplySocket):
                self.removed.append(effect)
            elif isinstance(effect, Commit):
                self.journal.hand(effect)
        self._answer(effects)

    def _answer(self, effects: list[Effect]) -> None:
        """What the disk says, once everything else is done."""
        for effect in effects:
            if isinstance(effect, Commit) and self.journal.failure:
                self._do(self.owner.commit_failed(effect.number, self.journal.failure, self.now))
            elif isinstance(effect, Commit) and not self.journal.waits:
                self._do(self.owner.committed(self.journal.take(), self.now))
            elif isinstance(effect, Fetch):
                self.journal.fetched.append(effect.number)
                if effect.number in self.journal.unreadable:
                    self._do(self.owner.not_fetched(effect.number, self.now))
                else:
                    self._do(self.owner.fetched(effect.number, self.journal.read(effect.number), self.now))

    def _tell(self, control: bool, address: bytes, message: m.Message, frames: tuple[m.Buffer, ...] = ()) -> None:
        peer = self.peers.get((control, address))
        if peer is not None:
            peer.told.append(message)
            peer.buffers += [frames] if frames else []

    # --- what it says of tasks ---------------------------------------------------------------------

    def state(self, client: Peer, asked: bytes | str) -> list[Any]:
        """The record of a States message about one id."""
        client.says(m.Ask(99, False, [asked]))
        (states,) = client.take(m.States)
        record: list[Any] = states.states[0]
        return record


Make = Callable[..., Router]
