"""A simulated process: sleeps until something arrives or is due, has a pid that others may watch, stops and dies."""

from __future__ import annotations

from collections.abc import Callable

from mesh.clock import Now
from mesh.sim.kernel import Kernel

#: A poller rounds up to the next millisecond; on average it is late by this.
POLL_LATE_S = 0.0005
#: What a turn takes at least: whatever arrives meanwhile is one batch.
TURN_S = 0.0001
NEVER = float("inf")
#: One turn in this many is followed by all checks of the machine; they cost as much as many turns.
CHECK_EVERY = 80


class Process:
    """Mirrors the loop of a shell: subclasses say what a turn does and when the next is due."""

    def __init__(self, kernel: Kernel, host: str, name: str) -> None:
        self.kernel = kernel
        self.wire = kernel.wire
        self.timeline = kernel.timeline
        self.host = host
        self.name = name
        self.pid = kernel.new_pid(self)
        self.alive = True
        self.paused = False
        #: In user code or asleep: no turn until `free`.
        self.busy = False
        #: Watched processes that have died and that nobody has asked for.
        self._ended: list[int] = []
        #: What came to its end while the process was stopped.
        self._put_off: list[Callable[[], None]] = []
        self._wake_s = NEVER
        self._turned_s = 0.0
        self._turns = 0

    def turn(self) -> None:
        """One round of the loop."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """When the loop has something to do though nothing arrives."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises AssertionError where the machine is inconsistent."""
        raise NotImplementedError

    def released(self, cause: str) -> None:
        """The process is dead: the kernel closes what it had open."""
        raise NotImplementedError

    # --- sleeping and waking ---------------------------------------------------------------------

    @property
    def now(self) -> Now:
        return self.timeline.now()

    def wake(self, mono_s: float | None = None) -> None:
        """Has a turn then, or as soon as it can."""
        soonest = self._turned_s + TURN_S
        due = max(self.timeline.mono_s if mono_s is None else mono_s, soonest)
        if due < self._wake_s:
            self._wake_s = due
            self.timeline.at(due, lambda: self._awake(due))

    def _awake(self, due: float) -> None:
        if due != self._wake_s or not self.alive:
            return
        self._wake_s = NEVER
        if self.paused or self.busy:
            return
        self._turned_s = self.timeline.mono_s
        self.turn()
        self._turns += 1
        if self._turns % CHECK_EVERY == 0:
            self.check()
        self.sleep()

    def sleep(self) -> None:
        """Sleeps until the next deadline, or not at all where input is left."""
        if not self.alive or self.busy:
            return
        if self.has_input():
            self.wake()
        deadline = self.next_deadline()
        if deadline is not None:
            self.wake(deadline + POLL_LATE_S)

    def has_input(self) -> bool:
        """Whether a socket is readable."""
        raise NotImplementedError

    def occupied(self, for_s: float, then: Callable[[], None]) -> None:
        """Does nothing else for a while, then this."""
        self.busy = True
        self.timeline.after(for_s, lambda: self._free(then))

    def _free(self, then: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.paused:
            self._put_off.append(then)
            return
        self.busy = False
        then()
        self.sleep()

    # --- other processes -------------------------------------------------------------------------

    def watch(self, pid: int) -> bool:
        """As transport.Processes.watch."""
        return self.kernel.watch(self, pid)

    def ended(self) -> list[int]:
        """As transport.Processes.ended."""
        ended, self._ended = self._ended, []
        return ended

    def hear_of_death(self, pid: int) -> None:
        """A watched process has died."""
        if self.alive:
            self._ended.append(pid)
            self.wake()

    # --- faults ----------------------------------------------------------------------------------

    def pause(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        self.paused = True
        self.timeline.after(for_s, self.resume)

    def resume(self) -> None:
        """SIGCONT."""
        if not (self.paused and self.alive):
            return
        self.paused = False
        put_off, self._put_off = self._put_off, []
        for then in put_off:
            self._free(then)
        self.wake()

    def __repr__(self) -> str:
        return f"{self.name}({self.pid})"
