"""The calls that come in, and those who make them: what is accepted, refused, confirmed and asked."""

from __future__ import annotations

from itertools import islice
from sys import intern
from typing import Any, Final

from mesh import messages as m
from mesh.core import inquiry
from mesh.core.admission import Admission
from mesh.core.answers import Answers
from mesh.core.callers import CONFIRM_DELAY_S, Caller
from mesh.core.dispatch import Dispatch
from mesh.core.effects import Effect, RemoveReplySocket, Send
from mesh.core.leases import Consumer
from mesh.core.ledger import JOURNALED_BYTES_MAX, Batch, Ledger
from mesh.core.outbox import Outbox
from mesh.core.paging import block_of
from mesh.core.ready import Block
from mesh.core.sequences import SequenceSet, spans
from mesh.core.task import Task
from mesh.ids import OWNER_TAG_BYTES, PREFIX_BYTES, prefix, read, stamp
from mesh.messages import Buffer, Durability, Flag

#: Client incarnations remembered after they went; beyond it those longest gone are forgotten.
MAX_CALLERS: Final = 100_000
#: Sequences of one Reconcile that are looked at; a client asks for fewer at a time.
RECONCILED_MAX: Final = 1 << 14
#: All flags but those that only a router gives.
_CALLERS_FLAGS: Final = ~(Flag.REDELIVERED | Flag.RECEIVED)


class Intake:
    """1. Lets clients join and go. 2. Accepts their calls or refuses them. 3. Confirms what is journaled. 4. Compares
    with a client what has become of its calls, and answers questions about calls.
    """

    def __init__(
        self,
        owner_tag: bytes,
        admission: Admission,
        callers: dict[bytes, Caller],
        dispatch: Dispatch,
        answers: Answers,
        ledger: Ledger,
        outbox: Outbox,
        begun_elsewhere: dict[bytes, tuple[Consumer, int]],
        *,
        journaled: bool,
    ) -> None:
        #: Flags that every call has.
        self._flags = Flag.NONE if journaled else Flag.TRANSIENT
        self._owner_tag = owner_tag
        self._admission = admission
        #: {id prefix: caller}; connected or not, longest known first. `Answers` reads it too.
        self.callers = callers
        #: {routing id on the inbox link: caller}. Exactly the connected ones.
        self.connected: dict[bytes, Caller] = {}
        #: {custom id: task id}
        self.custom = admission.custom
        #: {task id: (slot, lease)}: begun in living slots on the word of an earlier router, and not known here (yet).
        self.begun_elsewhere = begun_elsewhere
        self.dispatch = dispatch
        self.outcomes = answers.outcomes
        self._answers = answers
        self._ledger = ledger
        self._outbox = outbox
        #: Callers at which to look again, where all of too many are needed.
        self._forget_at = 0
        #: Not later than the first caller's confirm is due.
        self.confirm_due_mono_s: float | None = None

    # --- clients ---------------------------------------------------------------------------------

    def client_hello(self, peer: bytes, hello: m.Hello) -> bool:
        """A client joins. False where another one bears its incarnation, or it says it over an earlier link."""
        key = prefix(self._tag_of(hello), hello.incarnation & ((1 << 34) - 1))
        caller = self.callers.get(key)
        if caller is not None and caller.peer is not None and caller.pid != hello.pid:
            self._outbox.effects.append(
                Send(peer, m.HelloRefused(m.PROTOCOL_MAJOR, m.Code.DUPLICATE, "another client bears this incarnation"))
            )
            return False
        link = inquiry.link_of(hello.info)
        if caller is not None and caller.peer is not None and caller.link > link:
            return False  # the HELLO of an earlier link, which arrives late
        if caller is None:
            caller = self.callers[key] = Caller(key, hello.pid)
        for earlier in (caller, self.connected.get(peer)):
            if earlier is not None and earlier.peer is not None:
                self._disconnect(earlier)
        floor = hello.info.get("ended_upto", 0)
        if type(floor) is int and 0 < floor < 1 << 40:
            caller.seen.add_range(1, floor)
        caller.peer, caller.link, caller.pid = peer, link, hello.pid
        caller.last_seen_mono_s = self._outbox.now.mono_s
        self.connected[peer] = caller
        self._forget_callers()
        if caller.confirm_due_mono_s is not None:
            self._confirm_by(caller, caller.confirm_due_mono_s)
        return True

    def _tag_of(self, hello: m.Hello) -> bytes:
        """The owner tag of a client's ids: this router's, or that of another from which it has failed over."""
        tag = hello.info.get("owner")
        return tag if type(tag) is bytes and len(tag) == OWNER_TAG_BYTES else self._owner_tag

    def client_bye(self, peer: bytes) -> None:
        """A client leaves. What it has called goes on."""
        caller = self.connected.get(peer)
        if caller is not None:
            self._disconnect(caller)

    def client_ended(self, pid: int) -> None:
        """The clients of this process are gone."""
        for caller in [one for one in self.connected.values() if one.pid == pid]:
            self._disconnect(caller)
            self._outbox.effects.append(RemoveReplySocket(read(stamp(caller.prefix, 0)).incarnation))

    def _disconnect(self, caller: Caller) -> None:
        if caller.peer is not None:
            self.connected.pop(caller.peer, None)
            self._answers.unwatch(caller.peer)
        caller.peer = None
        caller.last_seen_mono_s = self._outbox.now.mono_s

    def _forget_callers(self) -> None:
        """Forgets those gone longest that have no call here: one whose call came again would be taken for new."""
        if len(self.callers) <= max(MAX_CALLERS, self._forget_at):
            return
        needed = {task_id[:PREFIX_BYTES] for task_id in self.dispatch.open} | self.dispatch.paged.keys()
        gone = [
            one
            for one in self.callers.values()
            if one.peer is None and not one.uncommitted and one.prefix not in needed
        ]
        gone.sort(key=lambda one: one.last_seen_mono_s)
        for caller in gone[: MAX_CALLERS // 10]:
            del self.callers[caller.prefix]
        self._forget_at = len(self.callers) + MAX_CALLERS // 10 if len(self.callers) > MAX_CALLERS else 0

    # --- calls -----------------------------------------------------------------------------------

    def publish(self, peer: bytes, publish: m.Publish, frames: tuple[Buffer, ...], raw: bytes | None = None) -> None:
        """A client makes calls. Each is accepted once, however often it comes. `raw` is the message as it came."""
        caller = self.connected.get(peer)
        if caller is None:
            self._outbox.need_hello(peer)
            return
        if publish.received:
            self._take_received(caller, publish.received)
        calls = publish.calls
        if not calls:
            return
        now, urgent = self._outbox.now, publish.confirm_now
        if not self._page_out(caller, calls, frames, raw, urgent=urgent):
            self._take_calls(caller, calls, frames, raw, urgent=urgent)
        if caller.unconfirmed or caller.refused:
            self._confirm_by(caller, now.mono_s if urgent else now.mono_s + CONFIRM_DELAY_S)

    def _take_calls(
        self, caller: Caller, calls: list[list[Any]], frames: tuple[Buffer, ...], raw: bytes | None, *, urgent: bool
    ) -> None:
        key, seen, admission, own_flags = caller.prefix, caller.seen, self._admission, self._flags
        journaled: list[list[Any]] = []
        tasks: list[Task] = []
        transient: list[list[Any]] = []
        at = size = synced = 0
        all_welcome = admission.welcomes(calls, frames)
        for call in calls:
            sequence, name, queue, priority, flags, body, n_frames, options = call
            own: tuple[Buffer, ...] = ()
            if n_frames:
                own = frames[at : at + n_frames]
                at += n_frames
            task_id = stamp(key, sequence)
            if not seen.add(sequence) or self._has_outcome(caller, task_id):
                self._comes_again(caller, task_id, sequence)
                continue
            task = Task(
                task_id, intern(name), intern(queue), priority, flags & _CALLERS_FLAGS | own_flags, body, own, options
            )
            if options is not None or not all_welcome:
                refused = admission.refusal(task_id, task.flags, task.body_bytes, options)
                if refused is not None:
                    self._refuse(caller, sequence, *refused)
                    continue
            if task.flags & Flag.TRANSIENT:
                transient.append(call)
            else:
                tasks.append(task)
                journaled.append(call)
                size += len(body) if not own else task.body_bytes
                synced |= flags & Flag.SYNCED
            self._accept(task)
        for first, last in spans(transient):
            caller.reached(Durability.NONE, first, last)
        if tasks:
            whole = len(journaled) == len(calls)
            level = Durability.SYNCED if synced else Durability.JOURNALED
            self._journal(caller, journaled, raw if whole else None, tasks, size, level, urgent=urgent)

    def _has_outcome(self, caller: Caller, task_id: bytes) -> bool:
        """Whether the outcome of a call that is new here has come before it."""
        if not self._answers.orphans or task_id not in self._answers.orphans:
            return False
        self._answers.hand_out_orphan(caller, task_id)
        return True

    def _comes_again(self, caller: Caller, task_id: bytes, sequence: int) -> None:
        """A call that is known: its confirm may have been lost."""
        if sequence not in caller.uncommitted:
            caller.reached(self._level_of(task_id), sequence, sequence)

    def _accept(self, task: Task) -> None:
        if self.begun_elsewhere and task.task_id in self.begun_elsewhere:
            self.dispatch.accept_running(task, *self.begun_elsewhere.pop(task.task_id))
        else:
            self.dispatch.accept(task, self._outbox.now)

    def _journal(
        self,
        caller: Caller,
        calls: list[list[Any]],
        raw: bytes | None,
        held: list[Task] | Block,
        body_bytes: int,
        level: Durability,
        *,
        urgent: bool,
    ) -> None:
        """What was accepted is confirmed when the journal holds it."""
        if body_bytes > JOURNALED_BYTES_MAX and isinstance(held, list) and len(held) > 1:
            for call, task in zip(calls, held, strict=True):  # no row could hold them together
                self._journal(caller, [call], None, [task], task.body_bytes, level, urgent=urgent)
            return
        for first, last in spans(calls):
            caller.uncommitted.add_range(first, last)
        self._ledger.published(caller, calls, raw, held, body_bytes, level, self._outbox.now, urgent=urgent)

    def _page_out(
        self, caller: Caller, calls: list[list[Any]], frames: tuple[Buffer, ...], raw: bytes | None, *, urgent: bool
    ) -> bool:
        """Takes calls as one block where their queue is long enough and nothing about them is special."""
        if not self.dispatch.wants_paging(calls[0][2]) or self._flags:
            return False
        block = block_of(caller.prefix, calls, frames)
        if block is None or caller.seen.common_with([[block.first, block.last]]) or self._is_known_of(block):
            return False
        if not self._admission.welcomes(calls, frames):
            return False
        caller.seen.add_range(block.first, block.last)
        self.dispatch.accept_block(block, self._outbox.now)
        level = Durability.SYNCED if calls[0][4] & Flag.SYNCED else Durability.JOURNALED
        self._journal(caller, calls, raw, block, block.body_bytes, level, urgent=urgent)
        return True

    def _is_known_of(self, block: Block) -> bool:
        """Whether slots have begun, or ended, something of a block on the word of an earlier router."""
        orphans, begun = self._answers.orphans, self.begun_elsewhere
        if not (orphans or begun):
            return False
        ids = [stamp(block.prefix, sequence) for sequence in range(block.first, block.last + 1)]
        return any(one in orphans or one in begun for one in ids)

    def _refuse(self, caller: Caller, sequence: int, code: str, reason: str) -> None:
        # Should the refusal be lost on the way, the call comes again and is looked at anew.
        caller.seen.discard(sequence)
        caller.refused.append([sequence, code, reason])
        self._confirm_by(caller, self._outbox.now.mono_s)

    # --- confirms --------------------------------------------------------------------------------

    def _confirm_by(self, caller: Caller, mono_s: float) -> None:
        caller.confirm_by(mono_s)
        if self.confirm_due_mono_s is None or mono_s < self.confirm_due_mono_s:
            self.confirm_due_mono_s = mono_s

    def committed(self, batches: list[Batch], *, synced: bool) -> None:
        """The journal holds these batches: their calls are confirmed at once."""
        now_mono_s = self._outbox.now.mono_s
        level = Durability.SYNCED if synced else Durability.JOURNALED
        for batch in batches:
            caller = batch.caller
            for first, last in spans(batch.calls):
                caller.uncommitted.discard_range(first, last)
                caller.reached(level, first, last)
            self._confirm_by(caller, now_mono_s)

    def delayed(self, batch: Batch, reason: str) -> None:
        """The journal can't be written now: who waits for a confirm is told why there is none."""
        batch.caller.refused.append([batch.calls[0][0], m.Refused.WAITS, reason])
        self._confirm_by(batch.caller, self._outbox.now.mono_s)

    def take_confirms(self) -> list[Effect]:
        """The confirms that are due."""
        due_mono_s, now_mono_s = self.confirm_due_mono_s, self._outbox.now.mono_s
        if due_mono_s is None or due_mono_s > now_mono_s:
            return []
        effects: list[Effect] = []
        self.confirm_due_mono_s = None
        for peer, caller in self.connected.items():
            due = caller.confirm_due_mono_s
            if due is None or not (caller.unconfirmed or caller.refused):
                continue  # what the journal does not hold yet is told when it does
            if due <= now_mono_s:
                effects += [Send(peer, confirm) for confirm in caller.take_confirms()]
            else:
                self._confirm_by(caller, due)
        return effects

    # --- what has become of calls ----------------------------------------------------------------

    def received(self, peer: bytes, received: m.Received, frames: tuple[Buffer, ...]) -> None:
        """A client has these outcomes."""
        caller = self.connected.get(peer)
        if caller is None:
            self._outbox.need_hello(peer)
            return
        self._take_received(caller, received.sequences)

    def _take_received(self, caller: Caller, sequences: m.Ranges) -> None:
        for first, last in sequences:
            caller.durable.add_range(first, last)  # they are never sent again, whatever the journal knows of them
        for task_id in inquiry.known_in(self, caller, sequences):
            stored = self.outcomes.received(task_id)
            if stored is None:
                task = self.dispatch.open.get(task_id)
                # The slot told the caller first. What is run again is waited for anew, as a replayed dead letter is.
                if task is not None and not task.flags & Flag.REDELIVERED:
                    task.flags |= Flag.RECEIVED
            elif not stored.kept:
                self._ledger.dropped(task_id, self._outbox.now)

    def reconcile(self, peer: bytes, reconcile: m.Reconcile, frames: tuple[Buffer, ...]) -> None:
        """A client tells which calls it waits for, after it may have missed something."""
        caller = self.connected.get(peer)
        if caller is None:
            self._outbox.need_hello(peer)
            return
        self._answers.adopt_orphans(caller, reconcile.outstanding)
        missing = caller.seen.missing_from(reconcile.outstanding)
        if missing:
            self._outbox.effects.append(Send(peer, m.Missing(missing)))
        known = SequenceSet(SequenceSet(missing).missing_from(reconcile.outstanding))
        self._confirm_again(caller, SequenceSet(caller.uncommitted.missing_from(known.ranges())))
        for sequence in islice(known, RECONCILED_MAX):
            task_id = stamp(caller.prefix, sequence)
            if task_id not in self.dispatch:
                self._answers.hand_out(peer, task_id)

    def _confirm_again(self, caller: Caller, sequences: SequenceSet) -> None:
        """The confirms of these may have been lost."""
        for sequence in islice(sequences, RECONCILED_MAX):
            task_id = stamp(caller.prefix, sequence)
            if task_id in self.dispatch:
                caller.reached(self._level_of(task_id), sequence, sequence)
        if caller.unconfirmed:
            self._confirm_by(caller, self._outbox.now.mono_s)

    def _level_of(self, task_id: bytes) -> Durability:
        """Which level is told again of a call that has come before; of one that has ended its outcome is to tell."""
        task = self.dispatch.open.get(task_id)
        if task is not None and task.flags & Flag.TRANSIENT:
            return Durability.NONE
        return Durability.JOURNALED if task_id in self.dispatch else Durability.NONE

    def ask(self, peer: bytes, ask: m.Ask, frames: tuple[Buffer, ...]) -> None:
        """A client asks how tasks stand, its own or others', and maybe to be told when they end."""
        if peer not in self.connected:
            self._outbox.need_hello(peer)
            return
        states = []
        for asked in ask.ids:
            state = inquiry.state_of(self, asked)
            states.append(state)
            if ask.watch:
                self._answers.watch(peer, asked, state[1], gone=bool((state[3] or {}).get("gone")))
        self._outbox.effects.append(Send(peer, m.States(ask.request, states)))

    def check(self) -> None:
        """Raises AssertionError where a caller is inconsistent or the two tables of them differ."""
        for caller in self.callers.values():
            caller.check()
        for peer, caller in self.connected.items():
            assert caller.peer == peer
            assert self.callers.get(caller.prefix) is caller
