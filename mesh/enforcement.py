"""Ends what a node's slots run: what has reached its time limit, and what a cold stop leaves no more time."""

from __future__ import annotations

import logging
import signal
import time
from typing import Final, NamedTuple

from mesh.core.limits import Interrupt, Kill, LimitedRun, LimitWatch, RunLimits, Verdict
from mesh.core.shutdown import GRACE_S
from mesh.core.supervision import Supervision
from mesh.ids import to_text
from mesh.messages import Terminate
from mesh.slot_page import NEVER, SETTLE_S, SlotPage
from mesh.workforce import Workforce

logger = logging.getLogger(__name__)

#: They ask a process to end, and so leave the task a moment: a slot heeds none of them itself.
KIND_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})


class Doomed(NamedTuple):
    """A run that was told to end."""

    pid: int
    lease: int
    due_mono_s: float  #: then it is killed


class Enforcement:
    """1. Looks for runs that have reached a limit. 2. Interrupts and kills them, and only them. 3. Says of a process
    that has ended whether it was killed for a limit.
    """

    def __init__(self, page: SlotPage, supervision: Supervision, *, apart: bool) -> None:
        """`apart` as in `LimitWatch`."""
        self._page = page
        self._supervision = supervision
        self._limit_watch = LimitWatch(apart=apart)
        #: What runs is killed without a reason of its own.
        self.is_off = False
        #: {seat: run that was told to end}
        self._doomed: dict[int, Doomed] = {}
        #: {pid: (seat, lease)} of processes that were sent a signal on request, until they are seen to end.
        self._terminated: dict[int, tuple[int, int]] = {}

    def verdict(self, pid: int, killed: bool, seat: int | None) -> Verdict | None:
        """As `LimitWatch.ended`; also of a process, or a slot, that was killed on request."""
        terminated = self._terminated.get(pid)
        if terminated is not None and seat in (None, terminated[0]):
            del self._terminated[pid]
            if self._still_runs(*terminated):
                return Verdict("what it ran was terminated", terminated[0], 0.0)
        return self._limit_watch.ended(pid, killed=killed, still_runs=self._still_runs, slot=seat)

    def _still_runs(self, seat: int, lease: int) -> bool:
        running = self._page.running(seat)
        return running is not None and running.lease == lease

    def next_deadline_mono_s(self) -> float | None:
        """When `look` has something to do, unless a slot rings before."""
        due = [one.due_mono_s for one in self._doomed.values()]
        limit = self._limit_watch.next_deadline_mono_s()
        return min(due if limit is None else [*due, limit], default=None)

    def look(self, workforce: Workforce, *, rang: bool) -> None:
        """Enforces what is due. A run with a nearer limit than the next look has rung."""
        if self._doomed:
            self._kill_doomed(workforce, time.monotonic())
        deadline = self._limit_watch.next_deadline_mono_s()
        if not rang and (deadline is None or time.monotonic() < deadline):
            return
        if deadline is None and self._page.least_limit_s() is None:
            return  # it rang for another reason; who begins what has a limit rings again, as nobody looks
        seats = list(self._supervision.living)
        for seat in seats:
            self._page.looks_at(seat, NEVER)
        time.sleep(SETTLE_S)
        next_s = self._page.least_limit_s() if rang else None
        runs = [] if self.is_off else self._limited_runs()
        for effect in self._limit_watch.look(runs, time.monotonic(), next_s=next_s):
            self._enforce(effect, workforce)
        deadline = self._limit_watch.next_deadline_mono_s()
        for seat in seats:
            self._page.looks_at(seat, NEVER if deadline is None else int(deadline * 1e9))

    def _limited_runs(self) -> list[LimitedRun]:
        runs = []
        for seat, (pid, _) in self._supervision.living.items():
            found = self._page.limits(seat) if self._page.pid(seat) == pid else None
            if found is not None:
                limits = RunLimits(found.hard_s, found.soft_s)
                runs.append(LimitedRun(seat, pid, found.lease, found.begun_mono_s, limits))
        return runs

    def _enforce(self, effect: Interrupt | Kill, workforce: Workforce) -> None:
        run = effect.run
        if isinstance(effect, Interrupt):
            if self._still_runs(run.slot, run.lease):
                self._log(run, logging.WARNING, "soft time limit", run.limits.soft_s)
                workforce.interrupt(run.slot)
        elif workforce.kill_run(run.slot, lambda: self._still_runs(run.slot, run.lease)):
            self._log(run, logging.ERROR, "time limit", run.limits.hard_s)
        else:
            self._limit_watch.spared(run)

    def _log(self, run: LimitedRun, level: int, what: str, limit_s: float) -> None:
        running = self._page.running(run.slot)
        if running is None:
            return
        logger.log(
            level,
            "task %s[%s] has reached its %s of %g s",
            *(running.name, to_text(running.task_id), what, limit_s),
            extra={"action": "time_limit", "task": to_text(running.task_id)},
        )

    # --- on request ------------------------------------------------------------------------------

    def terminate(self, workforce: Workforce, order: Terminate) -> None:
        """Ends what a slot runs, if it still runs that lease: kindly first, where the signal asks for no more."""
        seat, pid, lease = order.slot, order.slot_pid, order.lease
        if self._supervision.pid_of(seat) != pid or not self._still_runs(seat, lease):
            return
        if not 0 < order.signal < signal.NSIG:
            return
        doomed = self._doomed.get(seat)
        if doomed is None or doomed[:2] != (pid, lease):  # a signal need not end it, whatever it is
            self._doomed[seat] = Doomed(pid, lease, time.monotonic() + GRACE_S)
        running = self._page.running(seat)
        if running is not None:
            text = to_text(running.task_id)
            extra = {"action": "terminated", "task": text}
            logger.warning("task %s[%s] is terminated", running.name, text, extra=extra)
        if order.signal in KIND_SIGNALS:
            self._page.cancel(seat, lease)
            workforce.interrupt(seat)
        else:
            self._end_run(workforce, seat, pid, lease, order.signal)

    def _kill_doomed(self, workforce: Workforce, now_mono_s: float) -> None:
        """Whatever was told to end and has not, in the time it had."""
        for seat, doomed in list(self._doomed.items()):
            if doomed.due_mono_s <= now_mono_s:
                del self._doomed[seat]
                if self._supervision.pid_of(seat) == doomed.pid:
                    self._end_run(workforce, seat, doomed.pid, doomed.lease, signal.SIGKILL)

    def _end_run(self, workforce: Workforce, seat: int, pid: int, lease: int, number: int) -> None:
        self._terminated[pid] = (seat, lease)  # before it can be heard of
        if not workforce.kill_run(seat, lambda: self._still_runs(seat, lease), number):
            del self._terminated[pid]

    def cancel_all(self, workforce: Workforce) -> None:
        """Whatever runs is told to end early."""
        for seat in self._supervision.living:
            running = self._page.running(seat)
            if running is not None:
                self._page.cancel(seat, running.lease)
                workforce.interrupt(seat)

    def kill_all(self, workforce: Workforce) -> None:
        """Whatever runs is killed."""
        self.is_off = True
        workforce.kill_all()
