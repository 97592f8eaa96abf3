"""The calls that come in, and those who make them: what is accepted, refused, confirmed and asked."""

from __future__ import annotations

from collections import deque
from itertools import islice
from sys import intern
from typing import Any, Final

from mesh import messages as m
from mesh.clock import Now
from mesh.core import inquiry
from mesh.core.answers import Answers
from mesh.core.callers import CONFIRM_DELAY_S, Caller
from mesh.core.dispatch import Dispatch
from mesh.core.effects import Effect, RemoveReplySocket, Send
from mesh.core.outbox import Outbox
from mesh.core.sequences import SequenceSet
from mesh.core.task import Task
from mesh.ids import prefix, read, stamp
from mesh.messages import Buffer, Durability
from mesh.states import PENDING

#: Client incarnations remembered after they went; beyond it those longest gone are forgotten.
MAX_CALLERS: Final = 100_000
#: Sequences of one Reconcile that are looked at; a client asks for fewer at a time.
RECONCILED_MAX: Final = 1 << 14


class Intake:
    """1. Lets clients join and go. 2. Accepts their calls or refuses them. 3. Confirms what is journaled. 4. Compares
    with a client what has become of its calls, and answers questions about calls.
    """

    def __init__(
        self,
        owner_tag: bytes,
        tasks_max: int,
        callers: dict[bytes, Caller],
        dispatch: Dispatch,
        answers: Answers,
        outbox: Outbox,
    ) -> None:
        self._owner_tag = owner_tag
        self._tasks_max = tasks_max
        #: {id prefix: caller}; connected or not, longest known first. `Answers` reads it too.
        self.callers = callers
        #: {routing id on the inbox link: caller}. Exactly the connected ones.
        self.connected: dict[bytes, Caller] = {}
        #: {custom id: task id}
        self.custom: dict[str, bytes] = {}
        self.dispatch = dispatch
        self.outcomes = answers.outcomes
        self._answers = answers
        self._outbox = outbox
        #: (Persist number, caller, [first, last]) that the journal has yet to hold.
        self.uncommitted: deque[tuple[int, Caller, int, int]] = deque()
        self._durability = Durability.NONE
        #: Not later than the first caller's confirm is due.
        self.confirm_due_mono_s: float | None = None

    # --- clients ---------------------------------------------------------------------------------

    def client_hello(self, peer: bytes, hello: m.Hello) -> bool:
        """A client joins. False where another one bears its incarnation, or it says it over an earlier link."""
        key = prefix(self._owner_tag, hello.incarnation & ((1 << 34) - 1))
        caller = self.callers.get(key)
        if caller is not None and caller.peer is not None and caller.pid != hello.pid:
            self._outbox.effects.append(
                Send(peer, m.HelloRefused(m.PROTOCOL_MAJOR, "duplicate", "another client bears this incarnation"))
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
        caller.peer, caller.link = peer, link
        caller.last_seen_mono_s = self._outbox.now.mono_s
        self.connected[peer] = caller
        self._forget_callers()
        if caller.confirm_due_mono_s is not None:
            self._confirm_by(caller, caller.confirm_due_mono_s)
        return True

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
        if len(self.callers) <= MAX_CALLERS:
            return
        gone = sorted((one for one in self.callers.values() if one.peer is None), key=lambda one: one.last_seen_mono_s)
        for caller in gone[: MAX_CALLERS // 10]:
            del self.callers[caller.prefix]

    # --- calls -----------------------------------------------------------------------------------

    def publish(self, peer: bytes, publish: m.Publish, frames: tuple[Buffer, ...]) -> None:
        """A client makes calls. Each is accepted once, however often it comes."""
        caller = self.connected.get(peer)
        if caller is None:
            self._outbox.need_hello(peer)
            return
        calls = publish.calls
        if not calls:
            return
        key, seen, accept, now = caller.prefix, caller.seen, self.dispatch.accept, self._outbox.now
        orphans = self._answers.orphans
        at, told = 0, len(caller.refused)
        for sequence, name, queue, priority, flags, body, n_frames, options in calls:
            own: tuple[Buffer, ...] = ()
            if n_frames:
                own = frames[at : at + n_frames]
                at += n_frames
            if not seen.add(sequence):
                continue
            task_id = stamp(key, sequence)
            orphan = orphans and task_id in orphans
            if len(self.dispatch.open) >= self._tasks_max and not orphan:
                self._refuse(
                    caller,
                    sequence,
                    f"it holds {self._tasks_max} tasks already; start more nodes, or raise queue_max_tasks",
                )
                continue
            if options is not None and not self._options_allowed(caller, sequence, task_id, options):
                continue
            if orphan:
                orphans.discard(task_id)
                self._answers.hand_out(peer, task_id)
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
        outbox = self._outbox
        outbox.published.append((caller.prefix, calls))
        first, last = calls[0][0], calls[-1][0]
        if last - first == len(calls) - 1:
            self.uncommitted.append((outbox.persist_number + 1, caller, first, last))
        else:
            self.uncommitted += [(outbox.persist_number + 1, caller, call[0], call[0]) for call in calls]

    def _options_allowed(self, caller: Caller, sequence: int, task_id: bytes, options: dict[str, Any]) -> bool:
        custom = options.get("id")
        if custom is None:
            return True
        if custom in self.custom:
            self._refuse(caller, sequence, f"task_id {custom!r} is taken; give another, or none")
            return False
        self.custom[custom] = task_id
        watchers = self._answers.watchers
        for peer in watchers.pop(custom, ()):
            watchers.setdefault(task_id, set()).add(peer)
            self._outbox.effects.append(Send(peer, m.States(0, [[custom, task_id, PENDING, {"known": True}]])))
        return True

    def _refuse(self, caller: Caller, sequence: int, reason: str) -> None:
        # Should the refusal be lost on the way, the call comes again and is looked at anew.
        caller.seen.discard(sequence)
        caller.refused.append([sequence, reason])
        self._confirm_by(caller, self._outbox.now.mono_s)

    def forget_custom_ids(self) -> None:
        """Frees the custom ids of tasks of which nothing is known any more."""
        open_, outcomes = self.dispatch.open, self.outcomes
        past = [one for one, task_id in self.custom.items() if task_id not in open_ and task_id not in outcomes]
        for custom in past:
            del self.custom[custom]

    # --- confirms --------------------------------------------------------------------------------

    def _confirm_by(self, caller: Caller, mono_s: float) -> None:
        caller.confirm_by(mono_s)
        if self.confirm_due_mono_s is None or mono_s < self.confirm_due_mono_s:
            self.confirm_due_mono_s = mono_s

    def committed(self, number: int, durability: Durability, now: Now) -> list[Effect]:
        """The journal holds everything up to this Persist number, at this level. The shell calls it between batches."""
        self._outbox.now = now
        pending = self.uncommitted
        while pending and pending[0][0] <= number:
            _, caller, first, last = pending.popleft()
            caller.unconfirmed.add_range(first, last)
            due_mono_s = caller.confirm_due_mono_s
            self._confirm_by(caller, now.mono_s if due_mono_s is None else due_mono_s)
        self._durability = durability
        return self.take_confirms()

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
                effects.append(Send(peer, caller.take_confirm(self._durability)))
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
        for task_id in inquiry.outcomes_in(self.outcomes, caller, received.sequences):
            self.outcomes.received(task_id)

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
        if known and all(one is not caller for _, one, _, _ in self.uncommitted):
            # The confirm may have been lost.
            for first, last in known.ranges():
                caller.unconfirmed.add_range(first, last)
            self._confirm_by(caller, self._outbox.now.mono_s)
        for sequence in islice(known, RECONCILED_MAX):
            task_id = stamp(caller.prefix, sequence)
            if task_id not in self.dispatch.open:
                self._answers.hand_out(peer, task_id)

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
