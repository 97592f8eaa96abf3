"""Which runs have taken too long: when to look, whom to interrupt, whom to kill."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class RunLimits(NamedTuple):
    """How long a run may take, in seconds; 0.0 is without end."""

    hard_s: float = 0.0  #: then its process is killed
    soft_s: float = 0.0  #: then SoftTimeLimitExceeded is raised in it

    def __bool__(self) -> bool:
        return self.hard_s > 0.0 or self.soft_s > 0.0


class LimitedRun(NamedTuple):
    """A run with a limit, as the slot page tells of it."""

    slot: int
    pid: int
    lease: int
    begun_mono_s: float
    limits: RunLimits


class Interrupt(NamedTuple):
    """The soft limit of this run is over."""

    run: LimitedRun


class Kill(NamedTuple):
    """The hard limit of this run is over."""

    run: LimitedRun


class Verdict(NamedTuple):
    """What to say of a process that was killed for a limit."""

    cause: str
    seat: int
    limit_s: float  #: 0.0 where the run had ended in time after all


#: Who is killed: a process, or one slot of it where that can be.
_Victim = tuple[int, int | None]


class LimitWatch:
    """1. Says which limits are over. 2. Knows when the next one is. 3. Knows who was killed, for which run."""

    def __init__(self, *, apart: bool = False) -> None:
        """`apart`: a slot can be killed and others of its process go on."""
        self._apart = apart
        #: {slot: (pid, lease)} of the last run that was interrupted.
        self._interrupted: dict[int, tuple[int, int]] = {}
        #: {who: run} of those that were killed and have not been seen to end.
        self._killed: dict[_Victim, LimitedRun] = {}
        self._next_mono_s: float | None = None

    def look(self, runs: Iterable[LimitedRun], mono_s: float, *, next_s: float | None = None) -> list[Interrupt | Kill]:
        """What follows now, of all runs that have a limit.

        Where none is left, and one began and was over at once, the next may be as short: then it is looked again after
        `next_s`, the shortest limit there was, so that not each of them needs to ask for it.
        """
        effects: list[Interrupt | Kill] = []
        self._next_mono_s = None
        for run in runs:
            if self._victim(run.pid, run.slot) in self._killed:
                continue
            hard_s, soft_s = run.limits
            if hard_s:
                if mono_s >= run.begun_mono_s + hard_s:
                    self._killed[self._victim(run.pid, run.slot)] = run
                    effects.append(Kill(run))
                    continue
                self._look_at(run.begun_mono_s + hard_s)
            if soft_s and self._interrupted.get(run.slot) != (run.pid, run.lease):
                if mono_s >= run.begun_mono_s + soft_s:
                    self._interrupted[run.slot] = (run.pid, run.lease)
                    effects.append(Interrupt(run))
                else:
                    self._look_at(run.begun_mono_s + soft_s)
        if next_s is not None and self.next_deadline_mono_s() is None:
            self._next_mono_s = mono_s + next_s
        return effects

    def _look_at(self, mono_s: float) -> None:
        if self._next_mono_s is None or mono_s < self._next_mono_s:
            self._next_mono_s = mono_s

    def next_deadline_mono_s(self) -> float | None:
        """When `look` has something to do, unless another run with a limit begins before."""
        return self._next_mono_s

    def spared(self, run: LimitedRun) -> None:
        """A run that was to be killed has ended in time; its slot goes on."""
        self._killed.pop(self._victim(run.pid, run.slot), None)

    def _victim(self, pid: int, slot: int | None) -> _Victim:
        return pid, slot if self._apart else None

    def ended(
        self, pid: int, *, killed: bool, still_runs: Callable[[int, int], bool], slot: int | None = None
    ) -> Verdict | None:
        """A process, or this slot of it, has ended, by SIGKILL or not. None where that was not for a limit.

        `still_runs(slot, lease)` tells whether its slot had not ended that run before.
        """
        run = self._killed.pop(self._victim(pid, slot), None)
        if run is None or not killed:  # it may have died of something else just before
            return None
        limit_s = run.limits.hard_s
        cause = f"a task that it ran had reached its time limit of {limit_s:g} s"
        return Verdict(cause, run.slot, limit_s if still_runs(run.slot, run.lease) else 0.0)

    def check(self) -> None:
        """Raises AssertionError where a process is known under another's pid."""
        assert all(self._victim(run.pid, run.slot) == victim for victim, run in self._killed.items())
