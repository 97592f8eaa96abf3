"""Ends what a node's slots run: what has reached its time limit, and what a cold stop leaves no more time."""

from __future__ import annotations

import logging
import time

from mesh.core.limits import Interrupt, Kill, LimitedRun, LimitWatch, RunLimits, Verdict
from mesh.core.supervision import Supervision
from mesh.ids import to_text
from mesh.slot_page import NEVER, SETTLE_S, SlotPage
from mesh.workforce import Workforce

logger = logging.getLogger(__name__)


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

    def verdict(self, pid: int, killed: bool, seat: int | None) -> Verdict | None:
        """As `LimitWatch.ended`."""
        return self._limit_watch.ended(pid, killed=killed, still_runs=self._still_runs, slot=seat)

    def _still_runs(self, seat: int, lease: int) -> bool:
        running = self._page.running(seat)
        return running is not None and running.lease == lease

    def next_deadline_mono_s(self) -> float | None:
        """When `look` has something to do, unless a slot rings before."""
        return self._limit_watch.next_deadline_mono_s()

    def look(self, workforce: Workforce, *, rang: bool) -> None:
        """Enforces what is due. A run with a nearer limit than the next look has rung."""
        deadline = self._limit_watch.next_deadline_mono_s()
        if not rang and (deadline is None or time.monotonic() < deadline):
            return
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
