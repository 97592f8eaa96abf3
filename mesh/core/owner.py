"""The router's mind: takes what came in, tells what is to be done. It joins dispatch, callers, outcomes and membership.

`handle(batch, now)` is total: messages of strangers, of the wrong kind or about unknown things change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from sys import intern
from typing import Any, Final, NamedTuple

from mesh import messages as m
from mesh.clock import Now
from mesh.core import inquiry
from mesh.core.callers import CONFIRM_DELAY_S, Caller
from mesh.core.dispatch import FORGET_EVERY, Budgets, Dispatch, Grant
from mesh.core.effects import Effect, Persist, RemovePage, RemoveReplySocket, Send, SendControl, WatchProcess
from mesh.core.identity import Identity
from mesh.core.leases import Consumer, Kind
from mesh.core.membership import Membership, Node
from mesh.core.outcomes import OutcomeStore, Stored
from mesh.core.sequences import SequenceSet
from mesh.core.task import Task
from mesh.exceptions import MeshError, ResultExpired, TaskRevokedError, WorkerLostError
from mesh.ids import OWNER_TAG_BYTES, PREFIX_BYTES, prefix, read, sequence_of, stamp, to_text
from mesh.messages import Buffer, Durability, Flag
from mesh.states import PENDING, Status

_RETRY: Final = int(Status.RETRY)
#: How long a receipt may wait for tasks that take it along.
RECEIPT_DELAY_S: Final = 0.02
#: How long a node has to tell the cause of a slot's death, before it counts without one.
CAUSE_S: Final = 2.0
#: Client incarnations remembered after they went; beyond it those longest gone are forgotten.
MAX_CALLERS: Final = 100_000
#: Slots of one node.
MAX_SLOTS: Final = 1 << 16
#: Leases that a slot may say it has seen: numbering goes on from there, and must fit the wire and the slot page.
MAX_LEASE: Final = 1 << 61
#: Sequences of one Reconcile that are looked at; a client asks for fewer at a time.
RECONCILED_MAX: Final = 1 << 14
#: Ids watched for at once by processes that did not make the call.
MAX_WATCHED: Final = 1_000_000


class Arrival(NamedTuple):
    """One message as it came in."""

    control: bool  #: over the control link, not the inbox
    peer: bytes  #: routing id on that link
    message: m.Message
    frames: tuple[Buffer, ...] = ()


class Limits(NamedTuple):
    """Bounds and budgets, from the settings."""

    tasks_max: int
    result_expires_s: float | None
    results_max_bytes: int
    budgets: Budgets


class Owner:
    """1. Accepts calls and answers for them. 2. Has them run. 3. Keeps and hands out their outcomes. 4. Knows who is
    there.
    """

    def __init__(self, identity: Identity, limits: Limits, encode_failure: Callable[[MeshError], bytes]) -> None:
        self.identity = identity
        self.limits = limits
        self._encode_failure = encode_failure
        self.dispatch = Dispatch(limits.budgets, self._ended_without_slot)
        self.outcomes = OutcomeStore(limits.result_expires_s, limits.results_max_bytes)
        self.membership = Membership()
        #: {id prefix: caller}; connected or not, longest known first.
        self.callers: dict[bytes, Caller] = {}
        self._caller_of: dict[bytes, Caller] = {}
        #: {custom id: task id}
        self.custom: dict[str, bytes] = {}
        #: {task id: peers that asked to be told}
        self.watchers: dict[bytes | str, set[bytes]] = {}
        #: (Persist number, caller, [first, last]) that the journal has yet to hold.
        self._uncommitted: deque[tuple[int, Caller, int, int]] = deque()
        self._persist_number = 0
        #: Slot processes that died while their node lives: {pid: (last lease begun, how long their node has to tell
        #: the cause)}.
        self._dead_slots: dict[int, tuple[int | None, float]] = {}
        #: {routing id on the control link: (pid, incarnation)}
        self._control_clients: dict[bytes, tuple[int, int]] = {}
        #: {node name: path of its slot page}. Exactly the known nodes.
        self._pages: dict[str, str] = {}
        #: Slots that live though their node is gone: {pid: path of its slot page}. Nobody else will tell of their end.
        self._forsaken: dict[int, str] = {}
        #: Ids with an outcome whose call this router has never seen.
        self._orphans: set[bytes] = set()
        self._durability = Durability.NONE
        self._receipt_due_mono_s: float | None = None
        #: Not later than the first caller's confirm is due.
        self._confirm_due_mono_s: float | None = None
        self._started_mono_s: float | None = None
        self.draining = False
        self._now = Now(0.0, 0.0)
        self._reset_batch()
        self._on: Final[dict[tuple[bool, type[Any]], Callable[[bytes, Any, tuple[Buffer, ...]], None]]] = {
            (False, m.Publish): self._publish,
            (False, m.Outcomes): self._take_outcomes,
            (False, m.Received): self._received,
            (False, m.Returned): self._returned,
            (False, m.Started): self._started,
            (False, m.Hello): self._hello,
            (False, m.Reconcile): self._reconcile,
            (False, m.Ask): self._ask,
            (False, m.Bye): self._bye,
            (True, m.Hello): self._control_hello,
            (True, m.Request): self._request,
            (True, m.Reply): self._reply,
            (True, m.Recalled): self._recalled,
            (True, m.SlotLost): self._slot_lost,
            (True, m.Quiet): self._quiet,
            (True, m.Bye): self._control_bye,
        }

    def _reset_batch(self) -> None:
        self._published: list[tuple[bytes, list[list[Any]]]] = []
        self._ended_ids: list[bytes] = []
        #: {peer: (Result records, frames)} to be sent at the end of the batch.
        self._results: dict[bytes, tuple[list[list[Any]], list[Buffer]]] = {}
        self._effects: list[Effect] = []

    # --- the shell's calls -----------------------------------------------------------------------

    def handle(self, batch: Iterable[Arrival], now: Now) -> list[Effect]:
        """Takes everything that arrived together and tells what is to be done."""
        self._now = now
        if self._started_mono_s is None:
            self._started_mono_s = now.mono_s
        for control, peer, message, frames in batch:
            handler = self._on.get((control, type(message)))
            if handler is not None:
                handler(peer, message, frames)
        return self._flush()

    def committed(self, number: int, durability: Durability, now: Now) -> list[Effect]:
        """The journal holds everything up to this Persist number, at this level."""
        self._now = now
        pending = self._uncommitted
        while pending and pending[0][0] <= number:
            _, caller, first, last = pending.popleft()
            caller.unconfirmed.add_range(first, last)
            due_mono_s = caller.confirm_due_mono_s
            self._confirm_by(caller, now.mono_s if due_mono_s is None else due_mono_s)
        self._durability = durability
        return self._confirms()

    def process_ended(self, pid: int, begun: int | None, now: Now) -> list[Effect]:
        """A watched process is gone; of a slot, `begun` is the last lease its page says it began, None where it does
        not say.
        """
        self._now = now
        pages = set()
        for node in self.membership.all_by_pid(pid):
            pages.add(self._pages[node.name])
            self._node_gone(node, "its process died")
        for caller in [one for one in self._caller_of.values() if one.pid == pid]:
            self._disconnect(caller)
            self._effects.append(RemoveReplySocket(read(stamp(caller.prefix, 0)).incarnation))
        self._control_clients = {peer: one for peer, one in self._control_clients.items() if one[0] != pid}
        forsaken = pid in self._forsaken
        if forsaken:
            pages.add(self._forsaken.pop(pid))
        for consumer in [one for one in self.dispatch.consumers.values() if one.pid == pid]:
            consumer.quiet = True
            if consumer.node in self.membership.nodes and not forsaken:
                self._dead_slots[pid] = (begun, now.mono_s + CAUSE_S)
            else:
                self.dispatch.lost(consumer.peer, begun, f"node {consumer.node} was lost", node_lost=True)
        needed = {"", *self._pages.values(), *self._forsaken.values()}
        self._effects += [RemovePage(page) for page in sorted(pages - needed)]
        return self._flush()

    def undelivered(self, peer: bytes, tasks: m.Tasks, now: Now) -> list[Effect]:
        """Tasks could not be handed over: the pipe to this slot is full, or gone for the moment."""
        self._now = now
        consumer = self.dispatch.consumers.get(peer)
        if consumer is not None:
            self.dispatch.undelivered(consumer, [tasks.first_lease + at for at in range(len(tasks.tasks))], now)
            self._owe_receipt(consumer)
        return self._flush()

    def unreachable(self, peer: bytes, now: Now) -> list[Effect]:
        """A message on the control link could not be handed over."""
        self._now = now
        self._effects += self.membership.unreachable(peer)
        return self._flush()

    def slot_of_pid(self, pid: int) -> tuple[str, int] | None:
        """The slot page and index of a slot process, for `process_ended`; None for any other process."""
        consumer = next((one for one in self.dispatch.consumers.values() if one.pid == pid), None)
        if consumer is None:
            return None
        return self._forsaken.get(pid) or self._pages.get(consumer.node, ""), consumer.index

    def next_deadline_mono_s(self) -> float | None:
        """When `handle([], now)` has something to do."""
        soonest = self._confirm_due_mono_s
        for moment in (
            self._receipt_due_mono_s,
            min((due for _, due in self._dead_slots.values()), default=None),
            self.dispatch.next_deadline_mono_s(self._now),
            self.membership.next_deadline_mono_s(),
            self.outcomes.next_expiry_mono_s(),
        ):
            if moment is not None and (soonest is None or moment < soonest):
                soonest = moment
        return soonest

    @property
    def connected_clients(self) -> int:
        """How many clients have a link."""
        return len(self._caller_of)

    def is_idle(self) -> bool:
        """Nobody is connected, nothing is to be done, and nobody may come for an outcome."""
        there = self.dispatch.consumers or self._caller_of or self.membership.nodes
        return not (there or self.dispatch.open or self.outcomes.has_unreceived)

    # --- links -----------------------------------------------------------------------------------

    def _hello(self, peer: bytes, hello: m.Hello, frames: tuple[Buffer, ...]) -> None:
        if self._refuses(peer, hello, control=False):
            return
        if hello.role == m.Role.SLOT:
            self._slot_hello(peer, hello)
        else:
            self._client_hello(peer, hello)

    def _refuses(self, peer: bytes, hello: m.Hello, *, control: bool) -> bool:
        code, reason = "", ""
        if hello.major != m.PROTOCOL_MAJOR:
            code, reason = (
                "version",
                f"this router speaks protocol {m.PROTOCOL_MAJOR}, not {hello.major}; install one mesh-tasks release",
            )
        elif hello.mesh != self.identity.mesh:
            code, reason = "mesh", f"this is the router of mesh {self.identity.mesh!r}, not of {hello.mesh!r}"
        elif self.draining:
            code, reason = "draining", "this router is about to exit; try again"
        if code:
            refusal = m.HelloRefused(m.PROTOCOL_MAJOR, code, reason)
            self._effects.append(SendControl(peer, refusal) if control else Send(peer, refusal))
        return bool(code)

    def _hello_ok(self) -> m.HelloOk:
        me = self.identity
        return m.HelloOk(
            m.PROTOCOL_MINOR, me.boot, me.owner_tag, me.pid, {"version": me.version, "directory": me.directory}
        )

    def _client_hello(self, peer: bytes, hello: m.Hello) -> None:
        key = prefix(self.identity.owner_tag, hello.incarnation & ((1 << 34) - 1))
        caller = self.callers.get(key)
        if caller is not None and caller.peer is not None and caller.pid != hello.pid:
            self._effects.append(
                Send(peer, m.HelloRefused(m.PROTOCOL_MAJOR, "duplicate", "another client bears this incarnation"))
            )
            return
        link = inquiry.link_of(hello.info)
        if caller is not None and caller.peer is not None and caller.link > link:
            return  # the HELLO of an earlier link, which arrives late
        if caller is None:
            caller = self.callers[key] = Caller(key, hello.pid)
        for earlier in (caller, self._caller_of.get(peer)):
            if earlier is not None and earlier.peer is not None:
                self._disconnect(earlier)
        floor = hello.info.get("ended_upto", 0)
        if type(floor) is int and 0 < floor < 1 << 40:
            caller.seen.add_range(1, floor)
        caller.peer, caller.link = peer, link
        caller.last_seen_mono_s = self._now.mono_s
        self._caller_of[peer] = caller
        self._forget_callers()
        if caller.confirm_due_mono_s is not None:
            self._confirm_by(caller, caller.confirm_due_mono_s)
        self._effects += [WatchProcess(hello.pid), Send(peer, self._hello_ok())]

    def _slot_hello(self, peer: bytes, hello: m.Hello) -> None:
        info = hello.info
        node, index, queues, last = info.get("node"), info.get("index"), info.get("queues"), info.get("last_lease")
        if not (type(node) is str and type(index) is int and type(last) is int and type(queues) is list and queues):
            return
        if not (0 <= index < MAX_SLOTS and 0 <= last < MAX_LEASE):
            return
        if not all(type(queue) is str for queue in queues):
            return
        if peer not in self.dispatch.consumers:
            link = inquiry.link_of(info)
            if not self._replaces_earlier_link(node, index, hello.pid, last, link):
                return
            names = tuple(dict.fromkeys(intern(queue) for queue in queues))
            consumer = Consumer(peer, Kind.SLOT, names, node=intern(node), index=index, pid=hello.pid, last_lease=last)
            consumer.link = link
            self.dispatch.join(consumer)
        self._effects += [WatchProcess(hello.pid), Send(peer, self._hello_ok())]

    def _replaces_earlier_link(self, node: str, index: int, pid: int, last_lease: int, link: int) -> bool:
        """A slot that joins over a new link runs nothing; leases up to `last_lease` it has seen, and may have run.

        False for the HELLO of an earlier link that arrives late.
        """
        for one in list(self.dispatch.consumers.values()):
            if one.node == node and one.index == index and one.pid == pid:
                if one.link > link:
                    return False
                self.dispatch.lost(one.peer, last_lease, "its slot joined anew", node_lost=False, charged=False)
        return True

    def _control_hello(self, peer: bytes, hello: m.Hello, frames: tuple[Buffer, ...]) -> None:
        if self._refuses(peer, hello, control=True):
            return
        if hello.role == m.Role.NODE:
            name = hello.info.get("name")
            if type(name) is not str:
                return
            known, link = self.membership.nodes.get(name), inquiry.link_of(hello.info)
            if known is not None and known.pid == hello.pid and inquiry.link_of(known.info) > link:
                return  # the HELLO of an earlier link, which arrives late
            renamed = self.membership.by_peer(peer)
            if renamed is not None and renamed.name != name:
                self._node_gone(renamed, f"it is called {name} now")
            other = self.membership.join(Node(name, peer, hello.pid, hello.info))
            if other is not None:
                reason = f"node {name!r} is running already, with pid {other.pid}; give this one another name with -n"
                self._effects.append(SendControl(peer, m.HelloRefused(m.PROTOCOL_MAJOR, "duplicate", reason)))
                return
            page = hello.info.get("page")
            self._pages[name] = page if type(page) is str else ""
            for consumer in self.dispatch.consumers.values():
                if consumer.node == name:  # a recall may have been lost with the node's earlier link
                    consumer.recalling = False
        else:
            client = (hello.pid, hello.incarnation)
            for earlier in [one for one, known in self._control_clients.items() if known == client]:
                del self._control_clients[earlier]
            self._control_clients[peer] = client
        self._effects += [WatchProcess(hello.pid), SendControl(peer, self._hello_ok())]

    def _bye(self, peer: bytes, bye: m.Bye, frames: tuple[Buffer, ...]) -> None:
        caller = self._caller_of.get(peer)
        if caller is not None:
            self._disconnect(caller)
        consumer = self.dispatch.consumers.get(peer)
        if consumer is None:
            return
        # What it had begun is known once its process has ended: until then it keeps its leases and gets no others.
        consumer.quiet = True

    def _control_bye(self, peer: bytes, bye: m.Bye, frames: tuple[Buffer, ...]) -> None:
        self._control_clients.pop(peer, None)
        node = self.membership.by_peer(peer)
        if node is not None:
            self._node_gone(node, "it left")

    def _disconnect(self, caller: Caller) -> None:
        if caller.peer is not None:
            self._caller_of.pop(caller.peer, None)
            for task_id in [one for one, peers in self.watchers.items() if caller.peer in peers]:
                self.watchers[task_id].discard(caller.peer)
                if not self.watchers[task_id]:
                    del self.watchers[task_id]
        caller.peer = None
        caller.last_seen_mono_s = self._now.mono_s

    def _forget_callers(self) -> None:
        if len(self.callers) <= MAX_CALLERS:
            return
        gone = sorted((one for one in self.callers.values() if one.peer is None), key=lambda one: one.last_seen_mono_s)
        for caller in gone[: MAX_CALLERS // 10]:
            del self.callers[caller.prefix]

    def _need_hello(self, peer: bytes) -> None:
        self._effects.append(Send(peer, m.NeedHello(self.identity.boot)))

    # --- calls -----------------------------------------------------------------------------------

    def _publish(self, peer: bytes, publish: m.Publish, frames: tuple[Buffer, ...]) -> None:
        caller = self._caller_of.get(peer)
        if caller is None:
            self._need_hello(peer)
            return
        calls = publish.calls
        if not calls:
            return
        key, seen, accept, now = caller.prefix, caller.seen, self.dispatch.accept, self._now
        at, told = 0, len(caller.refused)
        for sequence, name, queue, priority, flags, body, n_frames, options in calls:
            own: tuple[Buffer, ...] = ()
            if n_frames:
                own = frames[at : at + n_frames]
                at += n_frames
            if not seen.add(sequence):
                continue
            task_id = stamp(key, sequence)
            orphan = self._orphans and task_id in self._orphans
            if len(self.dispatch.open) >= self.limits.tasks_max and not orphan:
                self._refuse(
                    caller,
                    sequence,
                    f"it holds {self.limits.tasks_max} tasks already; start more nodes, or raise queue_max_tasks",
                )
                continue
            if options is not None and not self._options_allowed(caller, sequence, task_id, options):
                continue
            if orphan:
                self._orphans.discard(task_id)
                self._hand_out(peer, task_id)
                continue
            accept(Task(task_id, intern(name), intern(queue), priority, flags, body, own, options), now)
        self._vouch_for(caller, calls, {sequence for sequence, _ in caller.refused[told:]})
        self._confirm_by(caller, now.mono_s if publish.confirm_now else now.mono_s + CONFIRM_DELAY_S)

    def _vouch_for(self, caller: Caller, calls: list[list[Any]], refused: set[object]) -> None:
        """What was not refused is journaled; when it is, it is confirmed."""
        if refused:
            calls = [call for call in calls if call[0] not in refused]
        if not calls:
            return
        self._published.append((caller.prefix, calls))
        first, last = calls[0][0], calls[-1][0]
        if last - first == len(calls) - 1:
            self._uncommitted.append((self._persist_number + 1, caller, first, last))
        else:
            self._uncommitted += [(self._persist_number + 1, caller, call[0], call[0]) for call in calls]

    def _options_allowed(self, caller: Caller, sequence: int, task_id: bytes, options: dict[str, Any]) -> bool:
        custom = options.get("id")
        if custom is None:
            return True
        if custom in self.custom:
            self._refuse(caller, sequence, f"task_id {custom!r} is taken; give another, or none")
            return False
        self.custom[custom] = task_id
        for peer in self.watchers.pop(custom, ()):
            self.watchers.setdefault(task_id, set()).add(peer)
            self._effects.append(Send(peer, m.States(0, [[custom, task_id, PENDING, {"known": True}]])))
        return True

    def _refuse(self, caller: Caller, sequence: int, reason: str) -> None:
        # Should the refusal be lost on the way, the call comes again and is looked at anew.
        caller.seen.discard(sequence)
        caller.refused.append([sequence, reason])
        self._confirm_by(caller, self._now.mono_s)

    def _confirm_by(self, caller: Caller, mono_s: float) -> None:
        caller.confirm_by(mono_s)
        if self._confirm_due_mono_s is None or mono_s < self._confirm_due_mono_s:
            self._confirm_due_mono_s = mono_s

    def _received(self, peer: bytes, received: m.Received, frames: tuple[Buffer, ...]) -> None:
        caller = self._caller_of.get(peer)
        if caller is None:
            self._need_hello(peer)
            return
        for task_id in inquiry.outcomes_in(self.outcomes, caller, received.sequences):
            self.outcomes.received(task_id)

    def _reconcile(self, peer: bytes, reconcile: m.Reconcile, frames: tuple[Buffer, ...]) -> None:
        caller = self._caller_of.get(peer)
        if caller is None:
            self._need_hello(peer)
            return
        self._adopt_orphans(caller, reconcile.outstanding)
        missing = caller.seen.missing_from(reconcile.outstanding)
        if missing:
            self._effects.append(Send(peer, m.Missing(missing)))
        known = SequenceSet(SequenceSet(missing).missing_from(reconcile.outstanding))
        if known and all(one is not caller for _, one, _, _ in self._uncommitted):
            # The confirm may have been lost.
            for first, last in known.ranges():
                caller.unconfirmed.add_range(first, last)
            self._confirm_by(caller, self._now.mono_s)
        for sequence in islice(known, RECONCILED_MAX):
            task_id = stamp(caller.prefix, sequence)
            if task_id not in self.dispatch.open:
                self._hand_out(peer, task_id)

    def _adopt_orphans(self, caller: Caller, outstanding: m.Ranges) -> None:
        """Outcomes that came here before their caller did answer it: they need no second run."""
        if not self._orphans:
            return
        wanted = SequenceSet(outstanding)
        for task_id in [one for one in self._orphans if one[:PREFIX_BYTES] == caller.prefix]:
            if sequence_of(task_id) in wanted:
                caller.seen.add(sequence_of(task_id))
                self._orphans.discard(task_id)

    def _ask(self, peer: bytes, ask: m.Ask, frames: tuple[Buffer, ...]) -> None:
        if peer not in self._caller_of:
            self._need_hello(peer)
            return
        states = []
        for asked in ask.ids:
            state = inquiry.state_of(self, asked)
            states.append(state)
            task_id = state[1]
            if not ask.watch:
                continue
            gone = (state[3] or {}).get("gone")
            if task_id is not None and (gone or task_id in self.outcomes):
                for one in {peer, *self.watchers.pop(task_id, ())}:
                    self._hand_out(one, task_id)
            elif len(self.watchers) < MAX_WATCHED:
                self.watchers.setdefault(task_id or asked, set()).add(peer)
        self._effects.append(Send(peer, m.States(ask.request, states)))

    # --- outcomes --------------------------------------------------------------------------------

    def _take_outcomes(self, peer: bytes, outcomes: m.Outcomes, frames: tuple[Buffer, ...]) -> None:
        consumer = self.dispatch.consumers.get(peer)
        if consumer is None:
            self._need_hello(peer)
            return
        dispatch, now, at = self.dispatch, self._now, 0
        for record in outcomes.outcomes:
            own: tuple[Buffer, ...] = ()
            if record[5]:
                own = frames[at : at + record[5]]
                at += record[5]
            if record[2] == _RETRY:
                self._take_retry(consumer, record, own)
                continue
            lease, task_id, status, runtime_us, body, _, delivered = record
            task = dispatch.outcome(consumer, lease, task_id, now, runtime_us)
            if task is None:
                task = dispatch.open.get(task_id)
                if task is not None:
                    dispatch.finish(task)  # the first outcome of a task counts, be it of an earlier attempt
                elif not self._is_orphan(task_id):
                    continue
            if task is not None and task.flags & Flag.IGNORE_RESULT:
                self._ended_ids.append(task_id)
                for watcher in self.watchers.pop(task_id, ()):
                    self._hand_out(watcher, task_id)
                continue
            self._store(task_id, Stored(status, body, own, now.mono_s), delivered=delivered)
        self._owe_receipt(consumer)

    def _take_retry(self, consumer: Consumer, record: list[Any], frames: tuple[Buffer, ...]) -> None:
        lease, task_id, _, _, reason, _, _, (eta_wall_s, body) = record
        task = self.dispatch.retried(consumer, lease, task_id, self._now, eta_wall_s)
        if task is None:
            return
        retries = (task.options or {}).get("retries", 0) + 1
        task.options = {**(task.options or {}), "eta": eta_wall_s, "retries": retries}
        task.retry_reason = reason
        if body is not None:
            task.body, task.frames = body, frames

    def _owe_receipt(self, consumer: Consumer) -> None:
        consumer.receipt = consumer.stored_upto()
        if self._receipt_due_mono_s is None:
            self._receipt_due_mono_s = self._now.mono_s + RECEIPT_DELAY_S

    def _is_orphan(self, task_id: bytes) -> bool:
        """Whether an outcome belongs to a call that only an earlier router has seen."""
        if task_id in self.outcomes:
            return False
        caller = self.callers.get(task_id[:PREFIX_BYTES])
        if caller is not None and sequence_of(task_id) in caller.seen:
            return False
        if task_id[:OWNER_TAG_BYTES] != self.identity.owner_tag:
            return False
        # Its caller may send the call once more; then it is answered with this outcome.
        self._orphans.add(task_id)
        return True

    def _store(self, task_id: bytes, stored: Stored, *, delivered: bool) -> None:
        self.outcomes.put(task_id, stored)
        self._ended_ids.append(task_id)
        if not delivered:
            caller = self.callers.get(task_id[:PREFIX_BYTES])
            if caller is not None and caller.peer is not None:
                self._add_result(caller.peer, task_id, stored)
        if self.watchers:
            for peer in self.watchers.pop(task_id, ()):
                self._add_result(peer, task_id, stored)

    def _hand_out(self, peer: bytes, task_id: bytes) -> None:
        """Sends the outcome of a task that has ended; where it had to make room, that."""
        stored = self.outcomes.get(task_id)
        if stored is None:
            gone = self._encode_failure(ResultExpired(to_text(task_id)))
            stored = Stored(Status.FAILURE, gone, (), self._now.mono_s)
        self._add_result(peer, task_id, stored)

    def _add_result(self, peer: bytes, task_id: bytes, stored: Stored) -> None:
        records, frames = self._results.setdefault(peer, ([], []))
        records.append([task_id, stored.status, stored.body, len(stored.frames)])
        frames.extend(stored.frames)

    def _ended_without_slot(self, task: Task, kind: str, reason: str) -> None:
        if kind == "expired":
            status: int = Status.REVOKED
            error: MeshError = TaskRevokedError(f"task {task.name} was not run: {reason}")
        else:
            status, error = Status.FAILURE, WorkerLostError(f"task {task.name} was given up: {reason}")
        stored = Stored(status, self._encode_failure(error), (), self._now.mono_s)
        self._store(task.task_id, stored, delivered=False)

    # --- slots and nodes -------------------------------------------------------------------------

    def _returned(self, peer: bytes, returned: m.Returned, frames: tuple[Buffer, ...]) -> None:
        consumer = self.dispatch.consumers.get(peer)
        if consumer is None:
            self._need_hello(peer)
            return
        self.dispatch.returned(consumer, returned.leases)
        self._owe_receipt(consumer)

    def _started(self, peer: bytes, started: m.Started, frames: tuple[Buffer, ...]) -> None:
        consumer = self.dispatch.consumers.get(peer)
        task = consumer.held.get(started.lease) if consumer is not None else None
        if consumer is not None and task is not None:
            task.started_wall_s = started.wall_s
            task.runner = (consumer.node, consumer.pid)

    def _slot(self, peer: bytes, index: int, pid: int) -> Consumer | None:
        node = self.membership.by_peer(peer)
        if node is None:
            return None
        for consumer in self.dispatch.consumers.values():
            if consumer.node == node.name and consumer.index == index and consumer.pid == pid:
                return consumer
        return None

    def _recalled(self, peer: bytes, recalled: m.Recalled, frames: tuple[Buffer, ...]) -> None:
        consumer = self._slot(peer, recalled.slot, recalled.slot_pid)
        if consumer is not None:
            self.dispatch.recalled(consumer, recalled.begun, recalled.upto)

    def _slot_lost(self, peer: bytes, lost: m.SlotLost, frames: tuple[Buffer, ...]) -> None:
        consumer = self._slot(peer, lost.slot, lost.slot_pid)
        self._dead_slots.pop(lost.slot_pid, None)
        if consumer is not None:
            self.dispatch.lost(consumer.peer, lost.begun, lost.cause, node_lost=False, charged=lost.charged)

    def _give_up_waiting_for_causes(self) -> None:
        for pid in [pid for pid, (_, due_mono_s) in self._dead_slots.items() if due_mono_s <= self._now.mono_s]:
            begun, _ = self._dead_slots.pop(pid)
            for consumer in [one for one in self.dispatch.consumers.values() if one.pid == pid]:
                self.dispatch.lost(consumer.peer, begun, "its process ended, nobody knows why", node_lost=False)

    def _quiet(self, peer: bytes, quiet: m.Quiet, frames: tuple[Buffer, ...]) -> None:
        node = self.membership.by_peer(peer)
        if node is None:
            return
        for consumer in self.dispatch.consumers.values():
            if consumer.node == node.name:
                consumer.quiet = True

    def _node_gone(self, node: Node, reason: str) -> None:
        self._effects += self.membership.leave(node.name, reason)
        for consumer in [one for one in self.dispatch.consumers.values() if one.node == node.name]:
            consumer.quiet = True
            dead = self._dead_slots.pop(consumer.pid, None)
            if dead is not None:
                self.dispatch.lost(consumer.peer, dead[0], f"node {node.name} was lost", node_lost=True)
            else:
                self._forsaken[consumer.pid] = self._pages[node.name]
        del self._pages[node.name]

    # --- control ---------------------------------------------------------------------------------

    def _request(self, peer: bytes, request: m.Request, frames: tuple[Buffer, ...]) -> None:
        if peer not in self._control_clients:
            self._effects.append(SendControl(peer, m.NeedHello(self.identity.boot)))
            return
        if request.command == "status":
            uptime_s = self._now.mono_s - (self._started_mono_s or self._now.mono_s)
            self._effects.append(SendControl(peer, m.Replies(request.number, inquiry.status(self, uptime_s), {})))
            return
        self._effects += self.membership.request(peer, request, self._now.mono_s)

    def _reply(self, peer: bytes, reply: m.Reply, frames: tuple[Buffer, ...]) -> None:
        inquiry.add_what_the_owner_knows(self, reply)
        self._effects += self.membership.reply(peer, reply)

    # --- the end of a batch ----------------------------------------------------------------------

    def _flush(self) -> list[Effect]:
        now, dispatch = self._now, self.dispatch
        if self._dead_slots:
            self._give_up_waiting_for_causes()
        dispatch.tick(now)
        if dispatch.ready_count:
            for grant in dispatch.assign(now):
                self._send_tasks(grant)
        for consumer in dispatch.stale(now):
            self._recall(consumer)
        if self._results:
            for peer, (records, frames) in self._results.items():
                self._effects.append(Send(peer, m.Results(records), tuple(frames)))
        if self._published or self._ended_ids:
            self._persist_number += 1
            self._effects.append(Persist(self._persist_number, tuple(self._published), tuple(self._ended_ids)))
            if self._persist_number % FORGET_EVERY == 0:
                self._sweep()
        self._effects += self._receipts()
        self._effects += self._confirms()
        self._effects += self.membership.tick(now.mono_s)
        self.outcomes.expire(now.mono_s)
        effects = self._effects
        self._reset_batch()
        return effects

    def _recall(self, consumer: Consumer) -> None:
        node = self.membership.nodes.get(consumer.node)
        if node is not None:  # else it is done when its node joins
            self._effects.append(SendControl(node.peer, m.Recall(consumer.index, consumer.last_lease)))

    def _send_tasks(self, grant: Grant) -> None:
        consumer = grant.consumer
        records = [
            [task.task_id, task.name, task.attempt, task.flags, task.body, len(task.frames), task.options]
            for task in grant.tasks
        ]
        frames = tuple(frame for task in grant.tasks if task.frames for frame in task.frames)
        receipt, consumer.receipt = consumer.receipt or 0, None
        self._effects.append(
            Send(consumer.peer, m.Tasks(grant.first_lease, receipt, self.dispatch.ready_count > 0, records), frames)
        )

    def _receipts(self) -> list[Effect]:
        if self._receipt_due_mono_s is None or self._now.mono_s < self._receipt_due_mono_s:
            return []
        self._receipt_due_mono_s = None
        effects: list[Effect] = []
        for consumer in self.dispatch.consumers.values():
            if consumer.receipt is not None:
                effects.append(Send(consumer.peer, m.Receipt(consumer.receipt)))
                consumer.receipt = None
        return effects

    def _confirms(self) -> list[Effect]:
        due_mono_s = self._confirm_due_mono_s
        if due_mono_s is None or due_mono_s > self._now.mono_s:
            return []
        effects: list[Effect] = []
        self._confirm_due_mono_s = None
        for peer, caller in self._caller_of.items():
            due = caller.confirm_due_mono_s
            if due is None or not (caller.unconfirmed or caller.refused):
                continue  # what the journal does not hold yet is told when it does
            if due <= self._now.mono_s:
                effects.append(Send(peer, caller.take_confirm(self._durability)))
            else:
                self._confirm_by(caller, due)
        return effects

    def _sweep(self) -> None:
        self.dispatch.forget_empty_queues()
        open_, outcomes = self.dispatch.open, self.outcomes
        self.custom = {
            custom: task_id for custom, task_id in self.custom.items() if task_id in open_ or task_id in outcomes
        }
        self._orphans = {task_id for task_id in self._orphans if task_id in outcomes}

    def check(self) -> None:
        """Raises AssertionError where any part is inconsistent."""
        self.dispatch.check()
        self.outcomes.check()
        self.membership.check()
        for caller in self.callers.values():
            caller.check()
        for peer, caller in self._caller_of.items():
            assert caller.peer == peer
            assert self.callers.get(caller.prefix) is caller
        assert not self._published
        assert not self._results
