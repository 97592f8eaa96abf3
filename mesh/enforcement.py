"""Ends what a node's slots run: what has reached its time limit, and what a cold stop leaves no more time."""

from __future__ import annotations

import logging
import signal
import time
from typing import Final

from mesh.core.limits import Interrupt, Kill, LimitedRun, LimitWatch, RunLimits, Verdict
from mesh.core.supervision import Supervision
from mesh.core.terminations import DoomedRun, Terminations
from mesh.ids import to_text
from mesh.messages import Terminate
from mesh.slot_page import NEVER, SETTLE_S, SlotPage
from mesh.workforce import Workforce

logger = logging.getLogger(__name__)

#: They ask a process to end, and so leave the task a moment: a slot heeds none of them itself.
KIND_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})


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
        self._terminations = Terminations()

    def verdict(self, pid: int, killed: bool, seat: int | None) -> Verdict | None:
        """As `LimitWatch.ended`; also of a process, or a slot, that was killed on request."""
        on_request = self._terminations.ended(pid, still_runs=self._still_runs, seat=seat)
        return on_request or self._limit_watch.ended(pid, killed=killed, still_runs=self._still_runs, slot=seat)

    def _still_runs(self, seat: int, lease: int) -> bool:
        running = self._page.running(seat)
        return running is not None and running.lease == lease

    def next_deadline_mono_s(self) -> float | None:
        """When `look` has something to do, unless a slot rings before."""
        deadlines = (self._limit_watch.next_deadline_mono_s(), self._terminations.next_deadline_mono_s())
        return min((one for one in deadlines if one is not None), default=None)

    def look(self, workforce: Workforce, *, rang: bool) -> None:
        """Enforces what is due. A run with a nearer limit than the next look has rung."""
        for run in self._terminations.take_due(time.monotonic()):
            if self._supervision.pid_of(run.seat) == run.pid:
                self._end_run(workforce, run, signal.SIGKILL)
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
        run, running = DoomedRun(order.slot, order.slot_pid, order.lease), self._page.running(order.slot)
        if self._supervision.pid_of(run.seat) != run.pid or running is None or running.lease != run.lease:
            return
        if not 0 < order.signal < signal.NSIG:
            return
        self._terminations.ask(run, time.monotonic())  # a signal need not end it, whatever it is
        text = to_text(running.task_id)
        extra = {"action": "terminated", "task": text}
        logger.warning("task %s[%s] is terminated", running.name, text, extra=extra)
        if order.signal in KIND_SIGNALS:
            self._page.cancel(run.seat, run.lease)
            workforce.interrupt(run.seat)
        else:
            self._end_run(workforce, run, order.signal)

    def _end_run(self, workforce: Workforce, run: DoomedRun, number: int) -> None:
        self._terminations.signalled(run)
        if not workforce.kill_run(run.seat, lambda: self._still_runs(run.seat, run.lease), number):
            self._terminations.spared(run)

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
