"""Runs that are to end on request: how long they have, and whose end that was."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mesh.core.limits import Verdict
from mesh.core.shutdown import GRACE_S


class DoomedRun(NamedTuple):
    """A run that is to end."""

    seat: int
    pid: int
    lease: int


class Terminations:
    """1. Says when a run that was asked to end is to be killed. 2. Knows who was sent a signal, for which run."""

    def __init__(self) -> None:
        #: {run: when it is killed}, of runs that were asked to end.
        self._due: dict[DoomedRun, float] = {}
        #: {pid: run} of processes that were sent a signal and have not been seen to end.
        self._signalled: dict[int, DoomedRun] = {}

    def ask(self, run: DoomedRun, mono_s: float) -> None:
        """This run is to end; asked for again, it has no more time for that."""
        self._due.setdefault(run, mono_s + GRACE_S)

    def take_due(self, mono_s: float) -> list[DoomedRun]:
        """The runs whose time is over: they are to be killed, where they still run."""
        due = [run for run, due_mono_s in self._due.items() if due_mono_s <= mono_s]
        for run in due:
            del self._due[run]
        return due

    def next_deadline_mono_s(self) -> float | None:
        """When `take_due` has something to tell."""
        return min(self._due.values(), default=None)

    def signalled(self, run: DoomedRun) -> None:
        """Its process is sent a signal. To be told before that can be heard of."""
        self._signalled[run.pid] = run

    def spared(self, run: DoomedRun) -> None:
        """The run had ended before; its process goes on."""
        self._signalled.pop(run.pid, None)

    def ended(self, pid: int, *, still_runs: Callable[[int, int], bool], seat: int | None = None) -> Verdict | None:
        """A process, or the slot in this seat of it, has ended. None where that was not for such a run.

        `still_runs(seat, lease)` tells whether its slot had not ended that run before.
        """
        run = self._signalled.get(pid)
        if run is None or seat not in (None, run.seat):
            return None
        del self._signalled[pid]
        return Verdict("what it ran was terminated", run.seat, 0.0) if still_runs(run.seat, run.lease) else None

    def check(self) -> None:
        """Raises AssertionError where a process is known under another's pid."""
        assert all(run.pid == pid for pid, run in self._signalled.items())
