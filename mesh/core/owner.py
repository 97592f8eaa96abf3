"""The router's mind: takes what came in, tells what is to be done. It joins intake, dispatch, runs, answers and crew.

`handle(batch, now)` is total: messages of strangers, of the wrong kind or about unknown things change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from mesh import messages as m
from mesh.clock import Now
from mesh.core import inquiry
from mesh.core.admission import Admission, Bounds
from mesh.core.adoption import Adoption
from mesh.core.answers import Answers
from mesh.core.callers import Caller
from mesh.core.crew import Crew
from mesh.core.demand import Demands
from mesh.core.dispatch import EXPIRED, REVOKED, TERMINATED, TIMED_OUT, Budgets, Dispatch
from mesh.core.effects import Effect, Send, SendControl, WatchProcess
from mesh.core.graveyard import Graveyard
from mesh.core.identity import Identity
from mesh.core.intake import Intake
from mesh.core.leases import Consumer
from mesh.core.ledger import Ledger
from mesh.core.membership import Membership
from mesh.core.outbox import Outbox
from mesh.core.outcomes import OutcomeStore
from mesh.core.paging import Paging
from mesh.core.records import Row
from mesh.core.recovery import Pages, Recovered, Recovery
from mesh.core.revocation import Revocation
from mesh.core.runs import Runs
from mesh.core.task import Task
from mesh.exceptions import MeshError
from mesh.messages import Buffer

#: How often names and ids of what is past are looked for.
SWEEP_S: Final = 10.0


class Arrival(NamedTuple):
    """One message as it came in."""

    control: bool  #: over the control link, not the inbox
    peer: bytes  #: routing id on that link
    message: m.Message
    frames: tuple[Buffer, ...] = ()
    raw: Buffer = b""  #: the header as it came; empty where nobody needs it


class Limits(NamedTuple):
    """Bounds and budgets, from the settings."""

    bounds: Bounds
    result_expires_s: float | None
    results_max_bytes: int
    budgets: Budgets
    resident_max: int = 100_000  #: tasks in memory
    dead_max: int = 10_000  #: dead letters
    dead_max_bytes: int = 64 << 20
    journaled: bool = True  #: False: nothing is, whatever calls ask for


class Owner:
    """1. Leads every message to who heeds it. 2. Refuses whom it can't serve. 3. Answers control requests. 4. At the
    end of a batch, has done what is due.
    """

    def __init__(self, identity: Identity, limits: Limits, encode_failure: Callable[[MeshError], bytes]) -> None:
        self.identity = identity
        callers: dict[bytes, Caller] = {}
        begun_elsewhere: dict[bytes, tuple[Consumer, int]] = {}
        self._outbox = outbox = Outbox(identity.boot)
        self.outcomes = OutcomeStore(limits.result_expires_s, limits.results_max_bytes, self._outcome_gone)
        self.membership = Membership()
        self.dispatch = Dispatch(limits.budgets, limits.resident_max, self._task_given_up, self._task_changed)
        self.ledger = Ledger(self.dispatch.open, self.outcomes, callers)
        self.answers = Answers(
            self.outcomes, callers, self.ledger, outbox, identity.owner_tag, encode_failure, begun_elsewhere
        )
        self.admission = Admission(limits.bounds, self.dispatch, self.answers, self.ledger, outbox)
        self.paging = Paging(self.dispatch, self.answers, self.ledger, outbox)
        self.intake = Intake(
            identity.owner_tag,
            self.admission,
            callers,
            self.dispatch,
            self.answers,
            self.ledger,
            outbox,
            begun_elsewhere,
            journaled=limits.journaled,
        )
        self.adoption = Adoption(identity.owner_tag, callers, self.dispatch, self.paging, self.ledger, outbox)
        self.graveyard = Graveyard(limits, self.dispatch, self.outcomes, self.ledger, outbox, self.admission.names)
        self.runs = Runs(self.dispatch, self.answers, self.ledger, self.graveyard, outbox)
        self.crew = Crew(self.dispatch, self.membership, outbox, begun_elsewhere)
        self.demands = Demands(self.dispatch, self.membership)
        self.revocation = Revocation(self.intake, self.dispatch, self.crew, self.ledger, outbox, self.paging.revoke)
        #: (how many news the journal must hold, reply): what was changed on request is told when it is there for good.
        self._promised: deque[tuple[int, SendControl]] = deque()
        #: (how many news the journal must hold, slot pages): nobody needs them then.
        self._pages: deque[tuple[int, set[str]]] = deque()
        #: `slots_of_pid(pid)`: the slot pages and indexes of a process, for `process_ended`.
        self.slots_of_pid: Final = self.crew.slots_of_pid
        #: Routing ids of other routers.
        self._peers: set[bytes] = set()
        #: {routing id on the control link: (pid, incarnation)}
        self._control_clients: dict[bytes, tuple[int, int]] = {}
        self._started_mono_s: float | None = None
        self._last_sweep_mono_s = float("-inf")
        self.draining = False
        self._on: Final[dict[tuple[bool, type[Any]], Callable[[bytes, Any, tuple[Buffer, ...]], None]]] = {
            (False, m.Outcomes): self.runs.take_outcomes,
            (False, m.Received): self.intake.received,
            (False, m.Returned): self.runs.returned,
            (False, m.Started): self.runs.started,
            (False, m.Blocked): self.crew.blocked,
            (False, m.Hello): self._hello,
            (False, m.Reconcile): self.intake.reconcile,
            (False, m.Ask): self.intake.ask,
            (False, m.Bye): self._bye,
            (False, m.AskAdoptions): self._adoptions_asked,
            (False, m.Adoptions): self._adoptions_told,
            (True, m.Hello): self._control_hello,
            (True, m.Request): self._request,
            (True, m.Reply): self._reply,
            (True, m.Recalled): self.crew.recalled,
            (True, m.SlotLost): self.crew.slot_lost,
            (True, m.Quiet): self.crew.quiet,
            (True, m.Bye): self._control_bye,
        }

    # --- the shell's calls -----------------------------------------------------------------------

    def handle(self, batch: Iterable[Arrival], now: Now) -> list[Effect]:
        """Takes everything that arrived together and tells what is to be done."""
        self._outbox.now = now
        if self._started_mono_s is None:
            self._started_mono_s = now.mono_s
        for control, peer, message, frames, raw in batch:
            if not control and type(message) is m.Publish:
                self.intake.publish(peer, message, frames, bytes(raw) if raw else None)
                continue
            handler = self._on.get((control, type(message)))
            if handler is not None:
                handler(peer, message, frames)
        return self._flush()

    def process_ended(self, pid: int, begun: Mapping[int, int | None], now: Now) -> list[Effect]:
        """A watched process is gone.

        `begun`: {slot index: the last lease that the slot's page says it began, None where it does not}.
        """
        self._outbox.now = now
        pages = self.crew.supervisor_ended(pid)
        self.intake.client_ended(pid)
        self._control_clients = {peer: one for peer, one in self._control_clients.items() if one[0] != pid}
        self._let_go(pages | self.crew.slots_ended(pid, begun))
        return self._flush()

    def committed(self, number: int, now: Now) -> list[Effect]:
        """The journal holds this commit."""
        self._outbox.now = now
        self._take_commit_answer(number)
        return self._flush()

    def commit_failed(self, number: int, reason: str, now: Now) -> list[Effect]:
        """The journal can't take this commit now. What waits for the disk alone is let go."""
        self._outbox.now = now
        for batch in self.ledger.failed(number, reason, now):
            self.intake.delayed(batch, reason)
        return self._flush()

    def fetched(self, row: int, records: list[Any] | None, now: Now) -> list[Effect]:
        """A row was read again; None where it can't be read any more."""
        self._outbox.now = now
        self.paging.fetched(row, records)
        return self._flush()

    def not_fetched(self, row: int, now: Now) -> list[Effect]:
        """A row can't be read now, but maybe later."""
        self._outbox.now = now
        self.paging.not_fetched(row)
        return self._flush()

    def link_peers(self, peers: list[bytes], now: Now) -> list[Effect]:
        """Routers that were known when this one was last there, by their routing ids: they are asked for adoptions.

        To be called right after `recover`. Only they may tell of adoptions.
        """
        self._outbox.now = now
        self._peers.update(peers)
        self.adoption.ask(peers)
        return self._flush()

    def recover(
        self, rows: Iterable[Row], tasks: Iterable[Row], pages: Pages, now: Now
    ) -> tuple[Recovered, list[Effect]]:
        """Takes over what an earlier router has left, before anything else comes in. As `Recovery.run`."""
        self._outbox.now = now
        recovery = Recovery(self.dispatch, self.intake, self.ledger, self.crew, self.graveyard.letters)
        recovered = recovery.run(rows, tasks, pages, now)
        # Another router that starts soon must find either what is made of the pages, or the pages.
        self.ledger.hurry()
        self._let_go(set(pages.stale))
        return recovered, self._flush()

    def stop(self, now: Now) -> list[Effect]:
        """The router ends in good order: nothing goes out any more, and what the journal does not hold is written now.

        To be waited for until `ledger.is_settled`.
        """
        self._outbox.now = now
        self.dispatch.on_hold = True
        self.dispatch.forget_clearing()
        self.ledger.hurry(ends=True)
        return self._flush()

    def undelivered(self, peer: bytes, tasks: m.Tasks, now: Now) -> list[Effect]:
        """Tasks could not be handed over: the pipe to this slot is full, or gone for the moment."""
        self._outbox.now = now
        self.runs.undelivered(peer, tasks)
        return self._flush()

    def unreachable(self, peer: bytes, now: Now) -> list[Effect]:
        """A message on the control link could not be handed over."""
        self._outbox.now = now
        self._outbox.effects += self.membership.unreachable(peer)
        return self._flush()

    def next_deadline_mono_s(self) -> float | None:
        """When `handle([], now)` has something to do."""
        soonest = self.intake.confirm_due_mono_s
        for moment in (
            self.runs.receipt_due_mono_s,
            self.crew.cause_due_mono_s(),
            self.dispatch.next_deadline_mono_s(self._outbox.now),
            self.membership.next_deadline_mono_s(),
            self.outcomes.next_expiry_mono_s(),
            self.ledger.next_deadline_mono_s(),
            self.paging.fetch_again_mono_s,
            self.adoption.next_deadline_mono_s(),
            self.revocation.next_deadline_mono_s(),
            self.demands.next_deadline_mono_s(),
        ):
            if moment is not None and (soonest is None or moment < soonest):
                soonest = moment
        return soonest

    @property
    def connected_clients(self) -> int:
        """How many clients have a link."""
        return len(self.intake.connected)

    def is_idle(self) -> bool:
        """Nobody is connected, nothing is to be done, and nobody may come for an outcome."""
        there = self.dispatch.consumers or self.intake.connected or self.membership.nodes
        held = len(self.dispatch) or self.outcomes.has_unreceived or not self.ledger.is_settled
        return not (there or held)

    # --- links -----------------------------------------------------------------------------------

    def _hello(self, peer: bytes, hello: m.Hello, frames: tuple[Buffer, ...]) -> None:
        if self._refuses(peer, hello, control=False):
            return
        joins = self.crew.slot_hello if hello.role == m.Role.SLOT else self.intake.client_hello
        if joins(peer, hello):
            self._outbox.effects += [WatchProcess(hello.pid), Send(peer, self._hello_ok())]

    def _control_hello(self, peer: bytes, hello: m.Hello, frames: tuple[Buffer, ...]) -> None:
        if self._refuses(peer, hello, control=True):
            return
        joins = self.crew.node_hello if hello.role == m.Role.NODE else self._asker_hello
        if joins(peer, hello):
            self._outbox.effects += [WatchProcess(hello.pid), SendControl(peer, self._hello_ok())]
            if hello.role == m.Role.NODE and self.dispatch.terminating:
                self.revocation.terminate_again(hello.info["name"])

    def _asker_hello(self, peer: bytes, hello: m.Hello) -> bool:
        """A client that will ask and request. Its latest control link is the one that counts."""
        client = (hello.pid, hello.incarnation)
        for earlier in [one for one, known in self._control_clients.items() if known == client]:
            del self._control_clients[earlier]
        self._control_clients[peer] = client
        return True

    def _refuses(self, peer: bytes, hello: m.Hello, *, control: bool) -> bool:
        code, reason = "", ""
        if hello.major != m.PROTOCOL_MAJOR:
            code, reason = (
                m.Code.VERSION,
                f"this router speaks protocol {m.PROTOCOL_MAJOR}, not {hello.major}; install one mesh-tasks release",
            )
        elif hello.mesh != self.identity.mesh:
            code, reason = m.Code.MESH, f"this is the router of mesh {self.identity.mesh!r}, not of {hello.mesh!r}"
        elif self.draining:
            code, reason = m.Code.DRAINING, "this router is about to exit; try again"
        if code:
            refusal = m.HelloRefused(m.PROTOCOL_MAJOR, code, reason)
            self._outbox.effects.append(SendControl(peer, refusal) if control else Send(peer, refusal))
        return bool(code)

    def _hello_ok(self) -> m.HelloOk:
        me = self.identity
        return m.HelloOk(
            m.PROTOCOL_MINOR, me.boot, me.owner_tag, me.pid, {"version": me.version, "directory": me.directory}
        )

    def _bye(self, peer: bytes, bye: m.Bye, frames: tuple[Buffer, ...]) -> None:
        self.intake.client_bye(peer)
        if self.crew.slot_bye(peer):
            self.ledger.hurry()
            self.runs.hurry()

    def _control_bye(self, peer: bytes, bye: m.Bye, frames: tuple[Buffer, ...]) -> None:
        self._control_clients.pop(peer, None)
        self._let_go(self.crew.node_bye(peer))

    # --- peers -----------------------------------------------------------------------------------

    def _adoptions_asked(self, peer: bytes, ask: m.AskAdoptions, frames: tuple[Buffer, ...]) -> None:
        if peer in self._peers:
            self.adoption.asked(peer, ask)

    def _adoptions_told(self, peer: bytes, adoptions: m.Adoptions, frames: tuple[Buffer, ...]) -> None:
        if peer in self._peers:
            self.adoption.told(peer, adoptions)

    # --- control ---------------------------------------------------------------------------------

    def _request(self, peer: bytes, request: m.Request, frames: tuple[Buffer, ...]) -> None:
        now_mono_s = self._outbox.now.mono_s
        if peer not in self._control_clients:
            self._outbox.effects.append(SendControl(peer, m.NeedHello(self.identity.boot)))
            return
        if request.command == "status":
            status = inquiry.status(self, now_mono_s - (self._started_mono_s or now_mono_s))
            self._outbox.effects.append(SendControl(peer, m.Replies(request.number, status, {})))
            return
        if request.command == "revoke":
            self.revocation.request(
                request.arguments, request.timeout_s, lambda answer: self._promise(peer, request.number, answer)
            )
            return
        if request.command in self.graveyard.commands:
            self._promise(peer, request.number, self.graveyard.answer(request.command, request.arguments))
            return
        self._outbox.effects += self.membership.request(peer, request, now_mono_s)

    def _promise(self, peer: bytes, number: int, answer: tuple[dict[str, Any], dict[str, str]]) -> None:
        """What was changed on request is told once the journal holds it."""
        self.ledger.hurry()
        self._promised.append((self.ledger.told, SendControl(peer, m.Replies(number, *answer))))

    def _reply(self, peer: bytes, reply: m.Reply, frames: tuple[Buffer, ...]) -> None:
        inquiry.add_what_the_owner_knows(self, reply)
        self._outbox.effects += self.membership.reply(peer, reply)

    # --- what the parts tell ---------------------------------------------------------------------

    def _task_given_up(self, task: Task, kind: str, reason: str) -> None:
        if kind not in (EXPIRED, REVOKED, TERMINATED, TIMED_OUT):
            self.graveyard.bury(task, kind, reason)
        self.answers.ended_without_slot(task, kind, reason)

    def _task_changed(self, task: Task) -> None:
        self.ledger.news([task], self._outbox.now)

    def _outcome_gone(self, task_id: bytes) -> None:
        self.ledger.dropped(task_id, self._outbox.now)

    def _let_go(self, pages: set[str]) -> None:
        """Slot pages tell a later router what had begun, until the journal tells how it ended."""
        if pages:
            for _, earlier in self._pages:
                earlier -= pages  # more has been read in them since
            self._pages.append((self.ledger.told, pages))

    def _keep_promises(self) -> None:
        """The journal may hold more now."""
        self.runs.keep_promises()
        while self._promised and self.ledger.holds(self._promised[0][0]):
            self._outbox.effects.append(self._promised.popleft()[1])
        while self._pages and self.ledger.has(self._pages[0][0]):
            self._outbox.effects += self.crew.remove_pages(self._pages.popleft()[1])

    def _take_commit_answer(self, number: int) -> None:
        batches, synced = self.ledger.committed(number)
        self.intake.committed(batches, synced=synced)
        clearing = self.dispatch.clearing
        for task_id in [one for one, told in clearing.items() if self.ledger.has(told)]:
            del clearing[task_id]

    # --- the end of a batch ----------------------------------------------------------------------

    def _flush(self) -> list[Effect]:
        outbox, dispatch, runs = self._outbox, self.dispatch, self.runs
        now = outbox.now
        if self.crew.dead_slots:
            self.crew.give_up_waiting_for_causes()
        self.adoption.tick()
        if self.revocation.awaits:
            self.revocation.tick()
        dispatch.tick(now)
        self._assign(now)
        for consumer in dispatch.stale(now):
            self.crew.recall(consumer)
        self._commit(now)
        if self._last_sweep_mono_s + SWEEP_S <= now.mono_s:
            self._sweep()
        self.outcomes.expire(now.mono_s)
        effects = outbox.take()
        if runs.receipt_due_mono_s is not None and runs.receipt_due_mono_s <= now.mono_s:
            effects += runs.take_receipts()
        effects += self.intake.take_confirms()
        effects += self.membership.tick(now.mono_s)
        if self.membership.wanting:
            effects += self.demands.tick(now.mono_s)
        return effects

    def _assign(self, now: Now) -> None:
        dispatch = self.dispatch
        if dispatch.paged_count:
            self._outbox.effects += self.paging.unfold_needed()
        if dispatch.ready_count:
            for grant in dispatch.assign(now):
                self.runs.send(grant)
        if dispatch.to_clear:
            tasks, dispatch.to_clear = dispatch.to_clear, []
            self.ledger.news(tasks, now, urgent=True)
            for task in tasks:
                dispatch.clearing[task.task_id] = self.ledger.told

    def _commit(self, now: Now) -> None:
        """Hands out a commit where one is due. One that has nothing to write is as good as done."""
        while (commit := self.ledger.take(now)) is not None:
            if commit.rows or commit.removed:
                self._outbox.effects.append(commit)
                break
            self._take_commit_answer(commit.number)
        self._keep_promises()

    def _sweep(self) -> None:
        """Forgets names and ids of what is past."""
        self._last_sweep_mono_s = self._outbox.now.mono_s
        self.dispatch.forget_empty_queues()
        self.admission.forget_custom_ids()
        self.answers.forget_orphans()

    def check(self) -> None:
        """Raises AssertionError where any part is inconsistent."""
        self.dispatch.check()
        self.outcomes.check()
        self.membership.check()
        self.intake.check()
        self.ledger.check()
        self.graveyard.letters.check()
        self._outbox.check()
