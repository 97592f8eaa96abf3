"""Which task goes to which consumer, and what becomes of it when it ends or its holder goes.

Placement (DESIGN D3, D4): an idle local slot, then an idle remote one (a peer's credit), then the window of a local
slot; never a remote window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from mesh.clock import Now
from mesh.core.ages import Ages
from mesh.core.credit import (
    BLOCKED_S,
    DOUBT_S,
    RECALL_AGAIN_S,
    STALE_BUSY_S,
    STALE_S,
    WINDOW_BYTES,
    WINDOW_LEASES,
    WINDOW_US,
    Estimates,
)
from mesh.core.leases import Consumer, Kind
from mesh.core.ready import Block, ReadyQueue
from mesh.core.schedule import Schedule
from mesh.core.sequences import SequenceSet
from mesh.core.task import NO_ROW, Begun, Task, in_words
from mesh.ids import PREFIX_BYTES, sequence_of
from mesh.messages import Buffer, Flag, Ranges
from mesh.states import Phase


class Grant(NamedTuple):
    """Tasks for one consumer, leased under consecutive numbers."""

    consumer: Consumer
    first_lease: int
    tasks: list[Task]


class Budgets(NamedTuple):
    """How many charged deliveries a task survives, and how long it may wait."""

    crash: int
    lost: int
    max_age_s: float | None = None  #: None: for ever


#: Why a task is over without an outcome of a slot: words of `DeadLetter.cause`, and EXPIRED.
CRASHED: Final = "crashed"  #: beyond `crash_budget`
NODE_LOST: Final = "node lost"  #: beyond `lost_budget`
MAY_HAVE_RUN: Final = "may have run"  #: may run at most once, and had begun
TOO_OLD: Final = "too old"  #: beyond `queue_max_age`
DAMAGED: Final = "damaged"  #: the journal's row of it can't be read
EXPIRED: Final = "expired"
TIMED_OUT: Final = "timed out"  #: it ran longer than its hard time limit
REVOKED: Final = "revoked"
TERMINATED: Final = "terminated"
#: Tasks that may run at most once and are marked in the journal together, before any of them goes out.
CLEARED_AT_ONCE: Final = 256
#: A line shorter than this stays in memory, however full that is.
PAGED_FROM: Final = 1024


class Dispatch:
    """1. Orders tasks. 2. Leases them. 3. Takes them back. Tells by `ended` which task is over without an outcome of
    a slot, and by `changed` which is not as it was published.
    """

    def __init__(
        self,
        budgets: Budgets,
        resident_max: int,
        ended: Callable[[Task, str, str], None],
        changed: Callable[[Task], None],
    ) -> None:
        self._budgets = budgets
        #: Tasks in memory beyond which the ends of long lines are paged out.
        self.resident_max = resident_max
        #: Called with (task, kind, reason), with the kinds named above.
        self._ended = ended
        self._changed = changed
        #: {task_id: task}. Exactly the tasks that are not DONE, but for those in blocks.
        self.open: dict[bytes, Task] = {}
        #: {client prefix: sequences in blocks}
        self.paged: dict[bytes, SequenceSet] = {}
        self.paged_count = 0
        #: Bytes of all bodies, those in blocks too.
        self.body_bytes = 0
        #: Queues in which a block may be needed soon.
        self._hungry: set[str] = set()
        #: At the top of a queue, and to be marked in the journal before they may be leased.
        self.to_clear: list[Task] = []
        #: {task id: how many news the journal must hold}, of those that are being marked.
        self.clearing: dict[bytes, float] = {}
        self.queues: dict[str, ReadyQueue] = {}
        self.consumers: dict[bytes, Consumer] = {}
        #: The same consumers by queue, in order of arrival.
        self._by_queue: dict[str, list[Consumer]] = {}
        self.schedule = Schedule()
        #: None where tasks may wait for ever: then it costs nothing.
        self.ages = Ages(budgets.max_age_s) if budgets.max_age_s is not None else None
        self.estimates = Estimates()
        #: Nothing is leased for the moment.
        self.on_hold = False
        #: {id: signal} of open tasks that are to be ended though they run.
        self.terminating: dict[bytes, int] = {}
        #: Ids of tasks that have been, until `Revocation` has read it.
        self.terminated: set[bytes] = set()
        #: Tasks in READY, all queues together.
        self.ready_count = 0

    # --- tasks in and out ------------------------------------------------------------------------

    def accept(self, task: Task, now: Now) -> None:
        """Takes a new task: into its queue, or to wait for its eta."""
        self.open[task.task_id] = task
        self.body_bytes += len(task.body) if not task.frames else task.body_bytes
        options = task.options
        if self.ages is not None:
            self.ages.waits(task, max(now.wall_s, (options or {}).get("eta", 0.0)))
        if options is None:
            self._push(task)
            return
        expires = options.get("expires")
        if expires is not None:
            self.schedule.expire(task, expires)
        eta = options.get("eta")
        if eta is not None and eta > now.wall_s:
            task.phase = Phase.WAITING
            self.schedule.wait(task, eta)
        else:
            self._push(task)

    def accept_running(self, task: Task, consumer: Consumer, lease: int) -> None:
        """Takes a task that an earlier router has leased to a slot that lives, and which has begun there."""
        self.open[task.task_id] = task
        self.body_bytes += task.body_bytes
        if task.options is not None and "expires" in task.options:
            self.schedule.expire(task, task.options["expires"])
        task.phase = Phase.LEASED
        if self.ages is not None:
            self.ages.waits(task, 0.0)  # it does not, which is seen at once
        consumer.holds_from_before(lease, task)

    def accept_block(self, block: Block, now: Now) -> None:
        """Takes a batch that need not be in memory."""
        block.accepted_wall_s = now.wall_s
        self._queue(block.queue).push_block(block)
        self.paged.setdefault(block.prefix, SequenceSet()).add_range(block.first, block.last)
        self.paged_count += len(block)
        self.body_bytes += block.body_bytes
        self._hungry.add(block.queue)

    def unfold(self, block: Block, tasks: list[Task]) -> None:
        """A block is tasks from here on."""
        block.tasks, block.calls, block.wanted = tasks, None, False
        self._queue(block.queue).unfold(block, tasks)
        for task in tasks:
            self.open[task.task_id] = task
            if self.ages is not None:
                self.ages.waits(task, block.accepted_wall_s)
        self.paged[block.prefix].discard_range(block.first, block.last)
        if not self.paged[block.prefix]:
            del self.paged[block.prefix]
        self.paged_count -= len(block)
        self.ready_count += len(tasks)

    def needed_blocks(self) -> list[Block]:
        """The blocks that should be unfolded now; each is told again until it is, or `wanted`."""
        if not self._hungry:
            return []
        needed = []
        for name in list(self._hungry):
            queue = self.queues.get(name)
            blocks = queue.next_blocks() if queue is not None else []
            if not blocks:
                self._hungry.discard(name)
            needed += [block for block in blocks if not block.wanted]
        return needed

    def wants_paging(self, queue: str) -> bool:
        """Whether a further batch for this queue need not be in memory."""
        if len(self.open) < self.resident_max:
            return False
        known = self.queues.get(queue)
        return known is not None and len(known) >= PAGED_FROM

    def __contains__(self, task_id: bytes) -> bool:
        """Whether a task is not DONE, be it in a block."""
        if task_id in self.open:
            return True
        paged = self.paged.get(task_id[:PREFIX_BYTES]) if self.paged else None
        return paged is not None and sequence_of(task_id) in paged

    def __len__(self) -> int:
        return len(self.open) + self.paged_count

    def finish(self, task: Task) -> None:
        """Takes a task out for good. A lease that holds it stays until its holder ends or returns it."""
        if task.phase is Phase.READY:
            self.ready_count -= 1
            task.phase = Phase.DONE
            queue = self._queue(task.queue)
            queue.ended()
            if queue.paged:
                self._hungry.add(queue.name)
        else:
            task.move(Phase.DONE)
        self._closed(task)

    def _closed(self, task: Task) -> None:
        del self.open[task.task_id]
        if self.terminating:
            self.terminating.pop(task.task_id, None)
        self.body_bytes -= len(task.body) if not task.frames else task.body_bytes
        if self.ages is not None:
            self.ages.forget(task.task_id)

    def outcome(self, consumer: Consumer, lease: int, task_id: bytes, now: Now, runtime_us: int) -> Task | None:
        """Ends a lease with an outcome and its task with it; None where it is not held so, or the task has ended."""
        task = self._close(consumer, lease, task_id, now)
        if task is None:
            return None
        if consumer.kind is Kind.SLOT:
            self.estimates.add(task.name, runtime_us)
        if task.phase is Phase.DONE:  # the outcome of an earlier attempt came first
            return None
        task.phase = Phase.DONE
        self._closed(task)
        return task

    def retried(self, consumer: Consumer, lease: int, task_id: bytes, now: Now, eta_wall_s: float) -> Task | None:
        """Ends a lease whose task asks to be run again at `eta_wall_s`; None where it is not held so, or has ended."""
        task = self._close(consumer, lease, task_id, now)
        if task is None or task.phase is Phase.DONE:
            return None
        task.started_wall_s = 0.0
        task.closed_mono_s = now.mono_s
        self._expires_again(task)
        if self.ages is not None:
            self.ages.waits(task, max(now.wall_s, eta_wall_s))
        if eta_wall_s > now.wall_s:
            task.move(Phase.WAITING)
            self.schedule.wait(task, eta_wall_s)
        else:
            task.move(Phase.READY)
            self._push(task)
        if task.revoked:
            self.give_up(task, REVOKED, "it was revoked, and asked to be run again")
            return None
        return task

    def replace_body(self, task: Task, body: bytes, frames: tuple[Buffer, ...]) -> None:
        """The next run of a task has other arguments."""
        self.body_bytes -= task.body_bytes
        task.body, task.frames = body, frames
        self.body_bytes += task.body_bytes

    @staticmethod
    def _close(consumer: Consumer, lease: int, task_id: bytes, now: Now) -> Task | None:
        """Ends a lease of this task; None where the consumer does not hold it under this number."""
        task = consumer.held.get(lease)
        if task is None or task.task_id != task_id:
            return None
        consumer.close(lease)
        consumer.busy_since_mono_s = now.mono_s
        if consumer.recalling and not consumer.held:
            consumer.recalling = False
        return task

    # --- consumers -------------------------------------------------------------------------------

    def join(self, consumer: Consumer) -> None:
        """A consumer is there."""
        self.consumers[consumer.peer] = consumer
        for queue in consumer.queues:
            self._queue(queue)
            self._by_queue.setdefault(queue, []).append(consumer)

    def leave(self, peer: bytes) -> Consumer | None:
        """A consumer that holds nothing any more goes."""
        consumer = self.consumers.pop(peer, None)
        if consumer is not None:
            for queue in consumer.queues:
                self._by_queue[queue].remove(consumer)
        return consumer

    def join_again(self, consumer: Consumer, earlier: list[Consumer], unreceipted: Ranges) -> None:
        """A slot that was known, or whose page was, has a new link. It runs nothing; of what it has run it tells the
        outcomes now, those of `unreceipted`; what else it was granted it will never begin, or has begun already and
        nobody knows any more how it ended.
        """
        has_run = SequenceSet(unreceipted)
        returned: list[Task] = []
        ran_before: list[Task] = []
        for one in earlier:
            self.leave(one.peer)
            for lease, task in list(one.held.items()):
                one.close(lease)
                if lease in has_run and lease <= consumer.last_lease:
                    consumer.holds_from_before(lease, task)
                elif lease <= one.begun_upto:
                    ran_before.append(task)
                else:
                    returned.append(task)
        consumer.recalled_upto = consumer.last_lease  # all that it holds had begun
        self._requeue(returned)
        for task in ran_before:
            self._ran_before(task)
        self.join(consumer)

    def _ran_before(self, task: Task) -> None:
        """A slot has run it and an earlier router has heard what came of it: what the journal says of the task holds.

        Unless that is that it may have begun, and that may happen once: then its outcome could not be written.
        """
        eta = task.options.get("eta") if task.options is not None else None
        if task.begun:
            self._begun_and_lost(task, "an earlier router lost its outcome", node_lost=False, charged=False)
        elif eta is not None and task.phase is not Phase.DONE:
            task.move(Phase.WAITING)
            self._expires_again(task)
            self.schedule.wait(task, eta)
            if task.revoked:
                self.give_up(task, REVOKED, "it was revoked before it began")
        else:
            self._requeue([task])

    def returned(self, consumer: Consumer, leases: list[int]) -> None:
        """The consumer did not begin these; they go back to the front, uncharged. What it does not hold is ignored."""
        self._requeue([task for lease in sorted(leases) if (task := consumer.close(lease)) is not None])
        if not consumer.held:
            consumer.recalling = False

    def undelivered(self, consumer: Consumer, leases: list[int], now: Now) -> None:
        """The consumer's pipe refused these; they go back to the front, and it gets nothing for a moment."""
        consumer.blocked_until_mono_s = now.mono_s + BLOCKED_S
        self.returned(consumer, leases)

    def recalled(self, consumer: Consumer, begun: int, upto: int) -> None:
        """The consumer will never begin the leases in (begun, upto]; they go back to the front, uncharged."""
        consumer.recalling = False
        consumer.recalled_upto = max(consumer.recalled_upto, upto)
        self._requeue(consumer.close_between(begun, upto))

    def lost(
        self,
        peer: bytes,
        begun: int | None,
        cause: str,
        *,
        node_lost: bool,
        charged: bool = True,
        limit_s: float = 0.0,
    ) -> None:
        """A consumer is gone. Only the lease it had begun is charged (contract: "leased, not begun").

        `limit_s` is the hard time limit for which it was killed in the middle of that lease: then nothing is charged.
        Where nobody knows what it had begun, none is charged, and what may run at most once counts as begun.
        """
        consumer = self.leave(peer)
        if consumer is None:
            return
        if begun is None or consumer.kind is Kind.PEER:  # a peer begins at once what it gets, or returns it
            begun = consumer.last_lease + 1
        task, ran, others = consumer.close_all(begun)
        self._requeue(others)
        if task is not None and limit_s > 0.0:
            self._timed_out(task, limit_s)
        elif task is not None:
            self._begun_and_lost(task, cause, node_lost=node_lost, charged=charged)
        for one in reversed(ran):
            self._begun_and_lost(one, cause, node_lost=node_lost, charged=False)

    def _begun_and_lost(self, task: Task, cause: str, *, node_lost: bool, charged: bool) -> None:
        if task.phase is Phase.DONE:
            return
        task.begun_in_vain()
        if task.task_id in self.terminating:
            self.terminated.add(task.task_id)
            self.give_up(task, TERMINATED, "it was terminated")
            return
        if charged:
            task.charge(cause, node_lost=node_lost)
        budgets = self._budgets
        if task.flags & Flag.EARLY_ACK:
            self.give_up(task, MAY_HAVE_RUN, f"it had begun and may run at most once: {cause}")
        elif task.crashes > budgets.crash:
            took = f"it took down {_counted(task.crashes, 'slot')}, and crash_budget is {budgets.crash}"
            self.give_up(task, CRASHED, f"{took}: {in_words(task.causes or ())}")
        elif task.losses > budgets.lost:
            lost = f"it was lost with {_counted(task.losses, 'node')}, and lost_budget is {budgets.lost}"
            self.give_up(task, NODE_LOST, f"{lost}: {in_words(task.causes or ())}")
        else:
            self._requeue([task])
            self._changed(task)

    def _timed_out(self, task: Task, limit_s: float) -> None:
        if task.phase is Phase.DONE:
            return
        task.begun_in_vain()
        if task.flags & Flag.AGAIN_ON_TIMEOUT and not task.flags & Flag.EARLY_ACK:
            self._requeue([task])
            self._changed(task)
        else:
            self.give_up(task, TIMED_OUT, f"it ran longer than its time limit of {limit_s:g} s")

    def give_up(self, task: Task, kind: str, reason: str) -> None:
        """Ends a task that no slot has ended."""
        self.finish(task)
        self._ended(task, kind, reason)

    def _requeue(self, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            if task.phase is Phase.DONE:  # an outcome of an earlier attempt came while it was leased
                continue
            task.phase = Phase.READY
            task.started_wall_s = 0.0
            self._expires_again(task)
            if task.begun:  # it has not, as is known now
                task.begun = Begun.NO
                self._changed(task)
            self._queue(task.queue).push_front(task)
            self.ready_count += 1
            if task.revoked:
                self.give_up(task, REVOKED, "it was revoked before it began")

    def _expires_again(self, task: Task) -> None:
        """A task that has come back is over if it expired while it was leased."""
        expires = task.options.get("expires") if task.options is not None else None
        if expires is not None:
            self.schedule.expire_again(task, expires)

    # --- time ------------------------------------------------------------------------------------

    def tick(self, now: Now) -> None:
        """Readies what is due, and ends what has expired or waited too long before it began."""
        if self.schedule:
            self._tick_schedule(now)
        if self.ages is not None:
            for task in self.ages.too_old(now.wall_s):
                waited = f"it waited for a slot for more than {self.ages.max_age_s:g} s, which is queue_max_age"
                self.give_up(task, TOO_OLD, waited)

    def _tick_schedule(self, now: Now) -> None:
        for task in self.schedule.due(now.wall_s):
            task.move(Phase.READY)
            self._push(task)
        for task in self.schedule.expired(now.wall_s):
            if task.phase is Phase.READY or task.phase is Phase.WAITING:
                self.give_up(task, EXPIRED, "it expired before it began")

    def stale(self, now: Now) -> Iterator[Consumer]:
        """Slots whose front lease has become old while others wait behind it: their rest is to be recalled.

        At once where an idle slot could begin it; else after a while, since a slot that only had to wait for a CPU
        soon goes on. A single lease is looked after too, once, when it is very old: its message may have been lost.
        """
        suspects = [consumer for consumer in self.consumers.values() if _may_become_stale(consumer)]
        if not suspects:
            return
        patience_s = self._patience_s()
        for consumer in suspects:
            if _recall_due_mono_s(consumer, patience_s) <= now.mono_s:
                self.begin_recall(consumer, now)
                yield consumer

    def begin_recall(self, consumer: Consumer, now: Now) -> None:
        """What a slot has not begun is to be taken back; nothing is granted to it before that is answered."""
        consumer.recalling = True
        consumer.recalled_mono_s = now.mono_s

    def _patience_s(self) -> float:
        idle = any(
            not consumer.held and consumer.kind is Kind.SLOT and consumer.has_room()
            for consumer in self.consumers.values()
        )
        return STALE_S if idle else STALE_BUSY_S

    @staticmethod
    def _is_stale(consumer: Consumer, now: Now) -> bool:
        return consumer.kind is Kind.SLOT and consumer.busy_since_mono_s + STALE_S <= now.mono_s

    def next_deadline_mono_s(self, now: Now) -> float | None:
        """When `tick` or `stale` has something to do."""
        suspects = [consumer for consumer in self.consumers.values() if _may_become_stale(consumer)]
        moments: list[float] = []
        if suspects:
            patience_s = self._patience_s()
            moments = [_recall_due_mono_s(consumer, patience_s) for consumer in suspects]
        if self.ready_count:
            blocked = (consumer.blocked_until_mono_s for consumer in self.consumers.values())
            moments += [moment for moment in blocked if moment > now.mono_s]
        due = min(moments) if moments else None
        wall = self._next_wall_s()
        if wall is None:
            return due
        scheduled = now.mono_s + wall - now.wall_s
        return scheduled if due is None else min(due, scheduled)

    def _next_wall_s(self) -> float | None:
        wall = self.schedule.next_wall_s() if self.schedule else None
        oldest = self.ages.next_wall_s() if self.ages is not None else None
        return wall if oldest is None or (wall is not None and wall < oldest) else oldest

    # --- placement -------------------------------------------------------------------------------

    def assign(self, now: Now) -> list[Grant]:
        """Leases what can begin now, or soon enough."""
        if not self.ready_count or self.on_hold:
            return []
        grants: dict[bytes, Grant] = {}
        idle_peers, open_slots = [], []
        for consumer in self.consumers.values():
            if consumer.blocked_until_mono_s > now.mono_s:
                continue
            if consumer.kind is Kind.PEER:
                if consumer.credit:
                    idle_peers.append(consumer)
            elif consumer.has_room():
                if not consumer.held:
                    self._grant(consumer, 1, now, grants)
                if consumer.held and consumer.has_room() and not self._is_stale(consumer, now):
                    open_slots.append(consumer)
            if not self.ready_count:
                return list(grants.values())
        for consumer in idle_peers:
            self._grant(consumer, consumer.credit, now, grants)
        if open_slots and self.ready_count:
            # An equal share each, so that the first slot does not take what the others could begin as soon.
            share = -(-self.ready_count // len(open_slots))
            for consumer in open_slots:
                self._grant(consumer, share, now, grants)
        return list(grants.values())

    def _grant(self, consumer: Consumer, limit: int, now: Now, grants: dict[bytes, Grant]) -> None:
        tasks: list[Task] = []
        if not consumer.held:
            consumer.busy_since_mono_s = now.mono_s
        while len(tasks) < limit:
            queue, turn = self._next_queue(consumer)
            if queue is None:
                break
            task = queue.top()
            assert task is not None
            expected_us, body_bytes = self.estimates.expected_us(task.name), task.body_bytes
            if consumer.kind is Kind.SLOT and consumer.held and not _fits(consumer, expected_us, body_bytes):
                break
            queue.pop()
            if queue.paged:
                self._hungry.add(queue.name)
            consumer.turn = turn
            self.ready_count -= 1
            task.phase = Phase.LEASED
            consumer.grant(task, expected_us, body_bytes)
            tasks.append(task)
        if consumer.kind is Kind.PEER:
            consumer.credit -= len(tasks)
        if not tasks:
            return
        earlier = grants.get(consumer.peer)
        if earlier is not None:
            earlier.tasks.extend(tasks)
        else:
            grants[consumer.peer] = Grant(consumer, consumer.last_lease - len(tasks) + 1, tasks)

    def _next_queue(self, consumer: Consumer) -> tuple[ReadyQueue | None, int]:
        """The queue with the highest priority on top, and whose turn is next: equals take turns."""
        if len(consumer.queues) == 1:
            queue = self.queues[consumer.queues[0]]
            top = queue.top()
            return (queue if top is not None and self._may_go(queue, top, consumer) else None), 0
        best: ReadyQueue | None = None
        best_priority, turn = -1, 0
        names = consumer.queues
        for step in range(len(names)):
            queue = self.queues[names[(consumer.turn + step) % len(names)]]
            top = queue.top()
            if top is not None and top.priority > best_priority and self._may_go(queue, top, consumer):
                best, best_priority, turn = queue, top.priority, consumer.turn + step + 1
        return best, turn % len(names)

    def _may_go(self, queue: ReadyQueue, top: Task, consumer: Consumer) -> bool:
        """What may run at most once goes out only when the journal says so (contract: "early ack")."""
        if not top.flags & Flag.EARLY_ACK or top.row == NO_ROW:
            return True
        where = Begun.MAYBE_ANYWHERE if consumer.kind is Kind.PEER else Begun.MAYBE_HERE
        if top.begun < where:
            for task in queue.upcoming(CLEARED_AT_ONCE):
                if task.flags & Flag.EARLY_ACK and task.begun < where and task.row != NO_ROW:
                    task.begun = where
                    self.clearing[task.task_id] = float("inf")
                    self.to_clear.append(task)
        return top.task_id not in self.clearing

    def _push(self, task: Task) -> None:
        self._queue(task.queue).push(task)
        self.ready_count += 1

    def _queue(self, name: str) -> ReadyQueue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = ReadyQueue(name)
        return queue

    def forget_clearing(self) -> None:
        """The router ends: what was marked and has not gone out will not have begun."""
        for queue in self.queues.values():
            for task in queue:
                if task.begun:
                    task.begun = Begun.NO
                    self._changed(task)
        self.clearing.clear()

    def forget_empty_queues(self) -> None:
        """Drops queues that nobody consumes and that hold nothing, so that names can't pile up."""
        for name in [name for name, queue in self.queues.items() if not len(queue) and not self._by_queue.get(name)]:
            del self.queues[name]
            self._by_queue.pop(name, None)

    def consumers_of(self, queue: str) -> list[Consumer]:
        """Who consumes a queue."""
        return self._by_queue.get(queue, [])

    def check(self) -> None:
        """Raises AssertionError where a task is in two places or in none, or a consumer holds more than it may."""
        leased: dict[bytes, Any] = {}
        for consumer in self.consumers.values():
            consumer.check()
            for task in consumer.held.values():
                assert task.task_id not in leased, "leased twice"
                leased[task.task_id] = task
            assert (
                consumer.kind is Kind.PEER
                or len(consumer.held) <= 1
                or consumer.held_us <= WINDOW_US + _widest(consumer)
            )
        for queue in self.queues.values():
            queue.check()
        self.schedule.check()
        if self.ages is not None:
            self.ages.check()
            assert len(self.ages) == len(self.open)
        self.estimates.check()
        by_phase: dict[Phase, int] = dict.fromkeys(Phase, 0)
        for task in self.open.values():
            by_phase[task.phase] += 1
            assert (task.phase is Phase.LEASED) == (task.task_id in leased)
        assert by_phase[Phase.DONE] == 0
        assert by_phase[Phase.READY] == self.ready_count == sum(queue.depth for queue in self.queues.values())
        assert by_phase[Phase.WAITING] == len(self.schedule)
        blocks = [block for queue in self.queues.values() for block in queue.blocks()]
        assert self.paged_count == sum(map(len, blocks)) == sum(map(len, self.paged.values()))
        sizes = [*(task.body_bytes for task in self.open.values()), *(block.body_bytes for block in blocks)]
        assert self.body_bytes == sum(sizes)


def _may_become_stale(consumer: Consumer) -> bool:
    """Whether something can be taken back. What was leased before the last recall and is still held had begun."""
    return bool(consumer.held) and consumer.kind is Kind.SLOT and consumer.last_lease > consumer.recalled_upto


def _recall_due_mono_s(consumer: Consumer, patience_s: float) -> float:
    if consumer.recalling:
        return consumer.recalled_mono_s + RECALL_AGAIN_S
    return consumer.busy_since_mono_s + (patience_s if len(consumer.held) > 1 else DOUBT_S)


def _fits(consumer: Consumer, expected_us: int, body_bytes: int) -> bool:
    """Whether a task may wait behind what the slot holds: it is due within a window, and is shorter than one."""
    return (
        consumer.held_us < WINDOW_US
        and expected_us < WINDOW_US
        and consumer.held_bytes + body_bytes <= WINDOW_BYTES
        and len(consumer.held) < WINDOW_LEASES
    )


def _widest(consumer: Consumer) -> int:
    return max(task.expected_us for task in consumer.held.values())


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
