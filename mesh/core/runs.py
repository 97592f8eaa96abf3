"""What the router and its slots tell each other about tasks: leases out; outcomes, retries and returns in; receipts."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from mesh import messages as m
from mesh.core.answers import Answers
from mesh.core.dispatch import Dispatch, Grant
from mesh.core.effects import Effect, Send
from mesh.core.graveyard import Graveyard
from mesh.core.leases import Consumer
from mesh.core.ledger import Ledger
from mesh.core.outbox import Outbox
from mesh.core.outcomes import Stored
from mesh.core.task import Begun, Task
from mesh.messages import Buffer, Flag
from mesh.states import Status

_RETRY: Final = int(Status.RETRY)
#: How long a receipt may wait for tasks that take it along.
RECEIPT_DELAY_S: Final = 0.02


class Runs:
    """1. Sends tasks to slots, and takes back what can't be sent or was not begun. 2. Takes their outcomes. 3. Tells
    them what is stored.
    """

    def __init__(
        self, dispatch: Dispatch, answers: Answers, ledger: Ledger, graveyard: Graveyard, outbox: Outbox
    ) -> None:
        self._dispatch = dispatch
        self._answers = answers
        self._ledger = ledger
        self._graveyard = graveyard
        self._outbox = outbox
        #: (how many news the journal must hold, consumer, lease): a receipt that is owed then.
        self._promised: deque[tuple[int, Consumer, int]] = deque()
        #: When receipts that no tasks have taken along are sent; None where none is owed.
        self.receipt_due_mono_s: float | None = None

    # --- out -------------------------------------------------------------------------------------

    def send(self, grant: Grant) -> None:
        """Sends the tasks of a grant, and with them the receipt that is owed."""
        consumer = grant.consumer
        records = [
            [task.task_id, task.name, task.attempt, task.flags, task.body, len(task.frames), task.options]
            for task in grant.tasks
        ]
        frames = tuple(frame for task in grant.tasks if task.frames for frame in task.frames)
        receipt, consumer.receipt = consumer.receipt or 0, None
        self._outbox.effects.append(Send(consumer.peer, m.Tasks(grant.first_lease, receipt, records), frames))

    def undelivered(self, peer: bytes, tasks: m.Tasks) -> None:
        """Tasks could not be handed over."""
        consumer = self._dispatch.consumers.get(peer)
        if consumer is not None:
            leases = [tasks.first_lease + at for at in range(len(tasks.tasks))]
            self._dispatch.undelivered(consumer, leases, self._outbox.now)
            self._owe_receipt(consumer)

    # --- in --------------------------------------------------------------------------------------

    def take_outcomes(self, peer: bytes, outcomes: m.Outcomes, frames: tuple[Buffer, ...]) -> None:
        """A slot tells how tasks ended, or that they are to be run again."""
        consumer = self._dispatch.consumers.get(peer)
        if consumer is None:
            self._outbox.need_hello(peer)
            return
        dispatch, answers, now, at = self._dispatch, self._answers, self._outbox.now, 0
        ended: list[Task] = []
        for record in outcomes.outcomes:
            own: tuple[Buffer, ...] = ()
            if record[5]:
                own = frames[at : at + record[5]]
                at += record[5]
            if record[2] == _RETRY:
                self._take_retry(consumer, record, own)
                continue
            lease, task_id, status, runtime_us, body, _, delivered, *cause = record
            task = dispatch.outcome(consumer, lease, task_id, now, runtime_us) or self._ended_elsewhere(task_id)
            if task is None:
                if answers.is_orphan(task_id):
                    answers.store(task_id, None, Stored(status, body, own, now.mono_s), delivered=delivered)
                    self._ledger.news_of_lost(task_id, now)
                continue
            ended.append(task)
            if cause:
                self._graveyard.bury(task, cause[0], cause[0])
            if task.flags & Flag.IGNORE_RESULT:
                for watcher in answers.watchers.pop(task_id, ()):
                    answers.hand_out(watcher, task_id)
                continue
            kept = task.flags & Flag.KEEP_RESULT != 0
            custom_id = task.custom_id if task.options is not None else None
            answers.store(task_id, task, Stored(status, body, own, now.mono_s, kept, custom_id), delivered=delivered)
        self._ledger.news(ended, now)
        self._owe_receipt(consumer)

    def _ended_elsewhere(self, task_id: bytes) -> Task | None:
        """The task of an outcome that comes of no lease: the first one counts, be it of an earlier attempt."""
        self._answers.heard_of(task_id)
        task = self._dispatch.open.get(task_id)
        if task is not None:
            self._dispatch.finish(task)
        return task

    def _take_retry(self, consumer: Consumer, record: list[Any], frames: tuple[Buffer, ...]) -> None:
        lease, task_id, _, _, reason, _, _, (eta_wall_s, body) = record
        task = self._dispatch.retried(consumer, lease, task_id, self._outbox.now, eta_wall_s)
        if task is None:
            self._answers.heard_of(task_id)
            return
        retries = (task.options or {}).get("retries", 0) + 1
        task.options = {**(task.options or {}), "eta": eta_wall_s, "retries": retries}
        task.retry_reason = reason
        if body is not None:
            self._dispatch.replace_body(task, body, frames)
        task.begun = Begun.NO
        self._ledger.news([task], self._outbox.now)

    def returned(self, peer: bytes, returned: m.Returned, frames: tuple[Buffer, ...]) -> None:
        """A slot gives back what it has not begun."""
        consumer = self._dispatch.consumers.get(peer)
        if consumer is None:
            self._outbox.need_hello(peer)
            return
        self._dispatch.returned(consumer, returned.leases)
        self._owe_receipt(consumer)

    def started(self, peer: bytes, started: m.Started, frames: tuple[Buffer, ...]) -> None:
        """A slot has begun a task whose caller wants to know."""
        consumer = self._dispatch.consumers.get(peer)
        task = consumer.held.get(started.lease) if consumer is not None else None
        if consumer is not None and task is not None:
            task.started_wall_s = started.wall_s
            task.runner = (consumer.node, consumer.pid)

    # --- receipts --------------------------------------------------------------------------------

    def _owe_receipt(self, consumer: Consumer) -> None:
        """A slot may forget its outcomes once the journal holds what has become of them."""
        told = self._ledger.told
        if self._promised or not self._ledger.holds(told):
            self._promised.append((told, consumer, consumer.stored_upto()))
        else:
            self._receipt(consumer, consumer.stored_upto())

    def keep_promises(self) -> None:
        """The journal may hold more now."""
        while self._promised and self._ledger.holds(self._promised[0][0]):
            _, consumer, upto = self._promised.popleft()
            self._receipt(consumer, upto)

    def _receipt(self, consumer: Consumer, upto: int) -> None:
        consumer.receipt = upto
        due_mono_s = self._outbox.now.mono_s + (0.0 if consumer.quiet else RECEIPT_DELAY_S)
        if self.receipt_due_mono_s is None or due_mono_s < self.receipt_due_mono_s:
            self.receipt_due_mono_s = due_mono_s

    def hurry(self) -> None:
        """A slot that leaves waits for the receipts that are owed."""
        if self.receipt_due_mono_s is not None:
            self.receipt_due_mono_s = self._outbox.now.mono_s

    def take_receipts(self) -> list[Effect]:
        """Receipts for those slots that get no tasks now. To be called when they are due."""
        self.receipt_due_mono_s = None
        effects: list[Effect] = []
        for consumer in self._dispatch.consumers.values():
            if consumer.receipt is not None:
                effects.append(Send(consumer.peer, m.Receipt(consumer.receipt)))
                consumer.receipt = None
        return effects
