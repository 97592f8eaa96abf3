"""The delivery contract (DESIGN 4), judged call by call by what really happened: what may be lost, run again, or fail.

Each exception that a guarantee has stands here under its name, and nowhere else.
"""

from __future__ import annotations

from itertools import pairwise

from mesh.core import dispatch, inquiry
from mesh.core.ledger import RETRY_MAX_S
from mesh.exceptions import NotJournaled, QueueFull, ResultExpired, TaskIdTaken, TaskLost
from mesh.interfaces import PendingCall
from mesh.messages import Durability, Flag
from mesh.sim.history import Published, Run
from mesh.sim.results import result_body
from mesh.sim.world import HOSTS, World
from mesh.states import READY_STATES, Status

#: What a slot may live on when its template's end has been reported: the kernel kills it in a moment.
LAST_GASP_S = 0.01
#: Faults that end the router of a host.
ROUTER_DIES = frozenset({"kill router", "kill host", "power loss"})
#: Faults for which a commit fails, or takes so long that too much waits.
DISK_FAILS = frozenset({"disk full", "disk slow"})

#: Faults that end slots and peers.
DEATHS = frozenset({"kill slot", "kill node", "kill template", "cold stop", "kill host", "power loss", "lose peer"})
#: Faults for which messages are lost: whether a task that was on its way to a slot has begun there is not known then.
LOSSY = frozenset({"cut", "drop", "drop on all links", "one way"})

FOREVER = float("inf")


class Contract:
    """Judges one world that has come to rest."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._history = world.history

    def check(self) -> None:
        """Raises AssertionError for a call whose course the contract does not explain."""
        for client in self._world.all_clients:
            for task_id, pending in client.pending.items():
                settled = client.settled.get(id(pending), 0)
                call = self._history.published[task_id]
                label = f"call {task_id.hex()} {call}"
                assert settled <= 1, f"{label} was settled {settled} times"
                self._check_call(task_id, call, pending, label, is_awaited=client.alive)
            for watched in client.watching:
                assert client.settled.get(id(watched), 0) <= 1
        for task_id, runs in self._history.runs.items():
            assert task_id in self._history.published, f"{task_id.hex()} ran, and nobody has published it"
            self._check_runs(task_id, self._history.published[task_id], runs)
        for host in HOSTS:
            self._check_outcomes(host)
            self._check_dead_letters(host)

    # --- what went wrong -------------------------------------------------------------------------

    def _struck(
        self, call: Published, kinds: frozenset[str] | set[str], since_s: float = 0.0, until_s: float = FOREVER
    ) -> bool:
        """Whether such a fault befell the call's host while the call was under way, and between these moments."""
        since_s = max(since_s, call.mono_s)
        return any(
            fault.kind in kinds and fault.host == call.host and fault.until_s >= since_s and fault.mono_s <= until_s
            for fault in self._history.faults
        )

    def _is_transient(self, call: Published) -> bool:
        return bool(call.flags & Flag.TRANSIENT) or not self._world.plan.limits.journaled

    def _may_be_lost(self, call: Published, pending: PendingCall) -> str:
        """Why nothing may be known any more of a call that was confirmed; empty where that may not be."""
        if self._is_transient(call) and self._struck(call, ROUTER_DIES):
            return "level none, and its router died"
        if self._struck(call, {"damaged row"}):
            return "its row of the journal was damaged"
        if pending.durability is not Durability.SYNCED and self._struck(call, {"power loss"}):
            return "level journaled, and the power was lost"
        return ""

    def _around(self, call: Published) -> str:
        """What went wrong on a call's host after it was made, in short."""
        faults = [one for one in self._history.faults if one.host == call.host and "task" not in one.kind]
        late = [f"{one.mono_s:.4f} {one.kind} {one.pid}" for one in faults if one.until_s >= call.mono_s - 0.5]
        return "; ".join(late[:25])

    def _was_not_written(self, call: Published, since_s: float, until_s: float) -> bool:
        """Whether the router died while its disk took nothing: slots were let off their outcomes for all that."""
        faults = [one for one in self._history.faults if one.host == call.host]
        deaths_s = [one.mono_s for one in faults if one.kind in ROUTER_DIES and since_s <= one.mono_s <= until_s]
        full = [one for one in faults if one.kind == "disk full"]
        return any(one.mono_s <= died_s <= one.until_s + RETRY_MAX_S for one in full for died_s in deaths_s)

    def _died(self, run: Run, by_s: float = FOREVER) -> bool:
        died_s = self._history.deaths.get(run.pid)
        return died_s is not None and died_s <= by_s + LAST_GASP_S

    # --- how calls ended -------------------------------------------------------------------------

    def _check_call(
        self, task_id: bytes, call: Published, pending: PendingCall, label: str, *, is_awaited: bool
    ) -> None:
        if pending.failure is not None:
            why = self._why_failed(call, pending)
            assert why, f"{label} failed by {pending.failure!r}: {self._around(call)}"
        elif pending.ending is not None:
            self._check_ending(task_id, call, pending, label)
        elif is_awaited:
            assert call.flags & Flag.IGNORE_RESULT, f"{label} never ended: {self._around(call)}"
            assert pending.confirmed, f"{label} was never confirmed"
        if pending.confirmed and pending.failure is None and not self._may_be_lost(call, pending):
            self._check_kept(task_id, call, pending, label)

    def _check_kept(self, task_id: bytes, call: Published, pending: PendingCall, label: str) -> None:
        """It was confirmed, and nothing that happened may have lost it: it has ended, and the router knows how."""
        owner = self._world.routers[call.host].owner
        _, _, state, info = inquiry.state_of(owner.intake, task_id)
        is_gone = bool((info or {}).get("gone"))
        # What has ended and is awaited by nobody any more before the commit is never written (D12).
        unwritten = (pending.ending or call.flags & Flag.IGNORE_RESULT) and self._struck(call, ROUTER_DIES)
        assert state in READY_STATES or is_gone or unwritten, f"{label} is {state} {info}: {self._around(call)}"
        if call.flags & Flag.IGNORE_RESULT:
            runs = self._history.runs.get(task_id, [])
            ran = any(run.finished_s is not None for run in runs)
            taken_back = call.expires_delay_s is not None or task_id in self._history.revoked
            ended = ran or state in READY_STATES or taken_back
            assert ended or self._may_be_given_up(call, runs), f"{label} never ran to its end: {self._around(call)}"
        elif pending.ending is None and is_gone:
            assert self._world.plan.is_tight, f"{label}: its outcome was not kept: {self._around(call)}"

    def _check_ending(self, task_id: bytes, call: Published, pending: PendingCall, label: str) -> None:
        assert pending.ending is not None
        status, body, _ = pending.ending
        runs = self._history.runs.get(task_id, [])
        if status == Status.SUCCESS:
            assert runs, f"{label} has a result and never ran"
            assert body in (result_body(task_id), b""), f"{label} has another's result"
        elif status == Status.REVOKED:
            may_be = call.expires_delay_s is not None or task_id in self._history.revoked
            assert may_be, f"{label} was revoked"
        elif b"ResultExpired" in body:
            assert self._may_expire(call), f"{label} had to make room: {self._around(call)}"
        else:
            why = self._why_given_up(call, runs, body)
            assert why, f"{label} ended by {body!r}, its runs: {runs}; {self._around(call)}"

    def _may_expire(self, call: Published) -> bool:
        ignored = bool(call.flags & Flag.IGNORE_RESULT)
        return self._world.plan.is_tight or ignored or self._struck(call, {"damaged row"})

    def _why_given_up(self, call: Published, runs: list[Run], body: bytes) -> str:
        """Which rule of the contract ended a call that no slot has ended."""
        if b"row of the journal is damaged" in body:
            return "damaged" if self._struck(call, {"damaged row"}) else ""
        if b"may run at most once" in body and not call.flags & Flag.EARLY_ACK:
            return ""
        return self._may_be_given_up(call, runs)

    def _may_be_given_up(self, call: Published, runs: list[Run]) -> str:
        """Which rule ends a call whose runs brought no outcome."""
        if call.flags & Flag.EARLY_ACK:
            # Where nobody knows whether it had begun, it counts as begun.
            at_a_peer = self._world.plan.with_peers and self._struck(call, ROUTER_DIES)
            # Marked as begun for its next run, it can't be told from one whose last run's outcome was lost.
            retried = any(run.retried for run in runs) and self._struck(call, ROUTER_DIES)
            # Until a node has joined a router that is new, this one can't read what its slots began.
            unread = self._struck(call, ROUTER_DIES) and self._struck(call, {"task kills its slot"})
            unknown = at_a_peer or retried or unread or self._struck(call, DEATHS | LOSSY)
            lost = self._was_not_written(call, call.mono_s, FOREVER) or any(self._died(run) for run in runs)
            return "at most once" if unknown or lost else ""
        died = [run for run in runs if self._died(run) and not run.retried]
        beyond = len(died) > self._world.plan.limits.budgets.crash or self._struck(call, {"lose peer"})
        return "budget" if beyond else ""

    def _why_failed(self, call: Published, pending: PendingCall) -> str:
        """Which rule of the contract made the client give up a call."""
        failure, bounds = pending.failure, self._world.plan.limits.bounds
        if isinstance(failure, TaskIdTaken):
            return "id" if call.custom_id is not None else ""
        if isinstance(failure, NotJournaled):
            return "disk" if self._world.plan.is_small or self._disk_failed_lately(call) else ""
        if isinstance(failure, QueueFull):
            return "full" if bounds.tasks_max < 1000 or bounds.bytes_max < 1000 else ""
        if isinstance(failure, ResultExpired):
            return "expired" if self._may_expire(call) else ""
        if isinstance(failure, TaskLost):
            return self._why_lost(call)
        return ""

    def _disk_failed_lately(self, call: Published) -> bool:
        """A commit that has failed is not tried again at once; a small world takes little that waits for the disk."""
        return any(
            fault.kind in DISK_FAILS and fault.host == call.host and fault.until_s + RETRY_MAX_S >= call.mono_s
            for fault in self._history.faults
        )

    def _why_lost(self, call: Published) -> str:
        """Nothing is known of it, and its body is not kept: nobody can send it again."""
        if self._struck(call, {"damaged row"}):
            return "damaged"
        # What may run at most once is not sent again, once a router that is gone has confirmed it; and bodies are kept
        # up to a bound.
        is_kept = not call.flags & Flag.EARLY_ACK and not self._world.plan.is_small
        return "none" if self._is_transient(call) and self._struck(call, ROUTER_DIES) and not is_kept else ""

    # --- how often they ran ----------------------------------------------------------------------

    def _check_runs(self, task_id: bytes, call: Published, runs: list[Run]) -> None:
        leases = [(run.pid, run.lease) for run in runs if not run.peer]
        assert len(leases) == len(set(leases)), f"{task_id.hex()} ran twice under one lease: {runs}"
        for earlier, later in pairwise(runs):
            why = self._why_again(task_id, call, earlier, later)
            assert why, f"{task_id.hex()} {call} ran twice without need: {runs}; {self._around(call)}"
            self._history.counts[f"run again because of: {why}"] += 1

    def _why_again(self, task_id: bytes, call: Published, earlier: Run, later: Run) -> str:
        """What explains that a task ran again; empty where the contract has no reason for it."""
        if earlier.retried:
            return "retry"
        if any(earlier.began_s <= mono_s <= later.began_s for mono_s in self._history.replays.get(task_id, ())):
            return "replay"
        if self._is_transient(call) and self._struck(call, ROUTER_DIES, earlier.began_s, later.began_s):
            return "level none, and the router died"
        lost_power = self._struck(call, {"power loss"}, earlier.began_s, later.began_s)
        if call.flags & Flag.EARLY_ACK:
            # What was not synced was undone, the note that it may have begun included.
            return "at most once, but the power was lost" if lost_power and not call.flags & Flag.SYNCED else ""
        if self._died(earlier, later.began_s):
            return "slot"
        if self._was_not_written(call, earlier.began_s, later.began_s):
            return "its outcome could not be written, and the router died"
        if earlier.peer and self._struck(call, ROUTER_DIES | {"lose peer"}, earlier.began_s, later.began_s):
            return "peer"
        return ""

    # --- what the router has ---------------------------------------------------------------------

    def _check_outcomes(self, host: str) -> None:
        for task_id in self._world.routers[host].owner.outcomes:
            assert task_id in self._history.published, f"outcome of {task_id.hex()}, which nobody published"

    def _check_dead_letters(self, host: str) -> None:
        owner = self._world.routers[host].owner
        budgets = self._world.plan.limits.budgets
        for task_id, letter in owner.graveyard.letters._letters.items():
            call, runs = self._history.published[task_id], self._history.runs.get(task_id, [])
            died = [run for run in runs if self._died(run) and not run.retried]
            beyond = {
                dispatch.CRASHED: len(died) > budgets.crash,
                dispatch.NODE_LOST: len(runs) > budgets.lost,
                dispatch.MAY_HAVE_RUN: bool(call.flags & Flag.EARLY_ACK),
                dispatch.DAMAGED: self._struck(call, {"damaged row"}),
            }
            assert beyond[letter.cause], f"dead letter {task_id.hex()} {call}: {letter.cause}, {letter.reason}; {runs}"
            assert task_id not in owner.dispatch, f"{task_id.hex()} is a dead letter, and alive"


def check_fair_weather(world: World) -> None:
    """Nothing went wrong: each call that was accepted ran once, in its order."""
    for task_id, call in world.history.published.items():
        runs = [run for run in world.history.runs.get(task_id, []) if not run.retried]
        client = next(client for client in world.all_clients if client.pid == call.client_pid)
        refused = isinstance(client.pending[task_id].failure, QueueFull | TaskIdTaken | NotJournaled)
        expected = 0 if refused else 1
        taken_back = call.expires_delay_s is not None or task_id in world.history.revoked
        assert len(runs) == expected or (not runs and taken_back), f"{task_id.hex()} {call} ran {len(runs)} times"
    if all(plan.slots == 1 and plan.queues == ("default",) for plan in world.plan.nodes):
        _check_order(world)


def _check_order(world: World) -> None:
    """With one slot and one caller: first in, first out within a priority.

    But for what was taken back: its slot and its node both give back, and what comes later stands before the other.
    """
    last: dict[tuple[str, int], bytes] = {}
    began = sorted((runs[0].began_s, task_id) for task_id, runs in world.history.runs.items())
    for _, task_id in (one for one in began if one[1] not in world.history.returned):
        call = world.history.published[task_id]
        line = (call.host, call.priority)
        assert last.get(line, b"") < task_id, f"{task_id.hex()} overtook {last[line].hex()}"
        last[line] = task_id
