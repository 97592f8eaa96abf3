"""How calls have ended, and who is told: callers, and processes that did not make the call but watch for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mesh import messages as m
from mesh.core.callers import Caller
from mesh.core.dispatch import EXPIRED, REVOKED, TERMINATED, TIMED_OUT, TOO_OLD
from mesh.core.leases import Consumer
from mesh.core.ledger import Ledger
from mesh.core.outbox import Outbox
from mesh.core.outcomes import OutcomeStore, Stored
from mesh.core.sequences import SequenceSet
from mesh.core.task import Task
from mesh.exceptions import MeshError, ResultExpired, TaskRevokedError, TaskTooOld, TimeLimitExceeded, WorkerLostError
from mesh.ids import OWNER_TAG_BYTES, PREFIX_BYTES, sequence_of, to_text
from mesh.messages import Flag
from mesh.states import Status

#: Ids watched for at once by processes that did not make the call.
MAX_WATCHED: Final = 1_000_000


class Answers:
    """1. Keeps outcomes and hands them out. 2. Knows who watches for which. 3. Keeps those whose call has yet to come.
    4. Makes the outcome of a task that no slot has ended.
    """

    def __init__(
        self,
        outcomes: OutcomeStore,
        callers: dict[bytes, Caller],
        ledger: Ledger,
        outbox: Outbox,
        owner_tag: bytes,
        encode_failure: Callable[[MeshError], bytes],
        begun_elsewhere: dict[bytes, tuple[Consumer, int]],
    ) -> None:
        self.outcomes = outcomes
        #: {id prefix: caller}, to be read.
        self._callers = callers
        self._ledger = ledger
        self._outbox = outbox
        self._owner_tag = owner_tag
        self._encode_failure = encode_failure
        #: As in `Intake`.
        self._begun_elsewhere = begun_elsewhere
        #: {task id, or a custom id that is not known yet: peers that asked to be told}
        self.watchers: dict[bytes | str, set[bytes]] = {}
        #: Ids with an outcome whose call this router has never seen.
        self.orphans: set[bytes] = set()

    # --- outcomes --------------------------------------------------------------------------------

    def store(self, task_id: bytes, task: Task | None, stored: Stored, *, delivered: bool) -> None:
        """Keeps an outcome and tells its caller, unless the slot has done so, and who watches for it.

        `task` is None where only its slot knew it. That it has ended is to be told to the ledger.
        """
        self.outcomes.put(task_id, stored)
        if task is not None and task.flags & Flag.RECEIVED:
            self.outcomes.received(task_id)
        if not delivered:
            caller = self._callers.get(task_id[:PREFIX_BYTES])
            if caller is not None and caller.peer is not None:
                self._outbox.add_result(caller.peer, task_id, stored)
        if self.watchers:
            for peer in self.watchers.pop(task_id, ()):
                self._outbox.add_result(peer, task_id, stored)

    def hand_out(self, peer: bytes, task_id: bytes) -> None:
        """Sends the outcome of a task that has ended; where it had to make room, that."""
        stored = self.outcomes.get(task_id)
        if stored is None:
            gone = self._encode_failure(ResultExpired(to_text(task_id)))
            stored = Stored(Status.FAILURE, gone, (), self._outbox.now.mono_s)
        self._outbox.add_result(peer, task_id, stored)

    def ended_without_slot(self, task: Task, kind: str, reason: str) -> None:
        """A task was given up, or was not begun in time. `kind` is one of the words of `dispatch`."""
        if kind in (EXPIRED, REVOKED, TERMINATED):
            status: int = Status.REVOKED
            what = "was ended" if kind == TERMINATED else "was not run"
            error: MeshError = TaskRevokedError(f"task {task.name} {what}: {reason}")
        elif kind == TIMED_OUT:
            status, error = Status.FAILURE, TimeLimitExceeded(f"task {task.name} was killed: {reason}")
        else:
            failure = TaskTooOld if kind == TOO_OLD else WorkerLostError
            see = f'"mesh dead show {task.custom_id or to_text(task.task_id)}"'
            status, error = Status.FAILURE, failure(f"task {task.name} was given up: {reason}. See {see}.")
        kept = bool(task.flags & Flag.KEEP_RESULT)
        stored = Stored(status, self._encode_failure(error), (), self._outbox.now.mono_s, kept, task.custom_id)
        self.store(task.task_id, task, stored, delivered=False)
        self._ledger.news([task], self._outbox.now)
        if task.flags & Flag.IGNORE_RESULT:
            self.outcomes.received(task.task_id)  # kept for whoever asks, but nobody will come for it

    def revoked_unseen(self, task_id: bytes) -> None:
        """A task that is not in memory was revoked."""
        error = TaskRevokedError(f"task {to_text(task_id)} was not run: it was revoked before it began")
        stored = Stored(Status.REVOKED, self._encode_failure(error), (), self._outbox.now.mono_s)
        self.store(task_id, None, stored, delivered=False)
        self._ledger.news_of_lost(task_id, self._outbox.now)

    # --- who watches -----------------------------------------------------------------------------

    def watch(self, peer: bytes, asked: bytes | str, task_id: bytes | None, *, gone: bool) -> None:
        """Tells the peer how a task has ended: now, if it has, or is `gone`; else when it does."""
        if task_id is not None and (gone or task_id in self.outcomes):
            for one in {peer, *self.watchers.pop(task_id, ())}:
                self.hand_out(one, task_id)
        elif len(self.watchers) < MAX_WATCHED:
            self.watchers.setdefault(task_id or asked, set()).add(peer)

    def unwatch(self, peer: bytes) -> None:
        """The peer is gone and is told nothing more."""
        for task_id in [one for one, peers in self.watchers.items() if peer in peers]:
            self.watchers[task_id].discard(peer)
            if not self.watchers[task_id]:
                del self.watchers[task_id]

    # --- outcomes without a call -----------------------------------------------------------------

    def is_orphan(self, task_id: bytes) -> bool:
        """Whether an outcome belongs to a call that only an earlier router has seen."""
        if task_id in self.outcomes:
            return False
        caller = self._callers.get(task_id[:PREFIX_BYTES])
        if caller is not None and sequence_of(task_id) in caller.seen:
            return False
        if task_id[:OWNER_TAG_BYTES] != self._owner_tag:
            return False
        # Its caller may send the call once more; then it is answered with this outcome.
        self.orphans.add(task_id)
        return True

    def heard_of(self, task_id: bytes) -> None:
        """A slot has told what came of a run that no call here explains: it is not to be waited for."""
        self._begun_elsewhere.pop(task_id, None)

    def hand_out_orphan(self, caller: Caller, task_id: bytes) -> None:
        """The call of an outcome that was here before it has come."""
        self.orphans.discard(task_id)
        if caller.peer is not None:
            self.hand_out(caller.peer, task_id)

    def adopt_orphans(self, caller: Caller, outstanding: m.Ranges) -> None:
        """Outcomes that came here before their caller did answer it: they need no second run."""
        if not self.orphans:
            return
        wanted = SequenceSet(outstanding)
        for task_id in [one for one in self.orphans if one[:PREFIX_BYTES] == caller.prefix]:
            if sequence_of(task_id) in wanted:
                caller.seen.add(sequence_of(task_id))
                self.orphans.discard(task_id)

    def forget_orphans(self) -> None:
        """Drops the ids whose outcome is no longer kept."""
        self.orphans = {task_id for task_id in self.orphans if task_id in self.outcomes}
