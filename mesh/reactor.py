"""Who drives a client's sockets: its I/O thread, or a thread that waits in `get()` (D14). Only here does that move.

A thread that waits takes the reactor over: its call's result then reaches it without a change of threads. When it has
what it waited for it lays the reactor down, and the I/O thread leaves it there for a few milliseconds: a program that
calls, waits, calls, waits finds it free each time. A single call made meanwhile is sent by its own thread; a second
one without a wait in between shows a burst, which the I/O thread takes from there on, in batches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from mesh.transport import Wakeup

#: How long the I/O thread leaves a laid-down reactor alone.
LEASE_S: Final = 0.003


class Turns(Protocol):
    """What is driven."""

    def turn(self, timeout_s: float | None) -> None:
        """One round: waits for input at most so long, or until woken, and deals with it.

        None: until something is due.
        """
        ...

    def flush(self) -> None:
        """Sends what is to be sent."""
        ...

    def failed(self, error: Exception) -> None:
        """The I/O thread met an error that nobody waits for; it goes on afterwards."""
        ...


class Reactor:
    """Hands the right to drive from thread to thread, one at a time."""

    def __init__(self, turns: Turns, wakeup: Wakeup) -> None:
        self._turns = turns
        self._wakeup = wakeup
        self._lock = threading.Lock()
        #: Waiting threads that want the reactor from the I/O thread.
        self._freed = threading.Condition(self._lock)
        #: Where the I/O thread waits while another drives.
        self._io_turn = threading.Condition(self._lock)
        self._driven = False
        #: The driver has been asked to lay it down: only ever the I/O thread.
        self._wanted = 0
        self._io_drives = False
        self._lease_until_mono_s = 0.0
        #: One call may be sent by its own thread.
        self._single_left = False
        #: The thread that drives, unless it is the I/O thread; 0 where none does.
        self._driver = 0
        #: What the threads wait for that wait for a result while another drives; one of them for each.
        self._following: list[threading.Event] = []
        #: The I/O thread sleeps until it is told.
        self._io_asleep = False
        self._rounds = 0
        self._woken = False
        self._closing = False
        self._thread = threading.Thread(target=self._io_loop, name="mesh-client", daemon=True)

    def start(self) -> None:
        """Starts the I/O thread."""
        self._thread.start()

    # --- any thread ------------------------------------------------------------------------------

    def submitted(self) -> None:
        """Something is to be sent: by this thread if it is a single call, else by whoever drives."""
        if not self._driven and self._single_left:
            try:
                if self._try_take():
                    self._single_left = False
                    self._turns.flush()
                    return
            finally:
                self._lay_down_own()
        if not self._woken:
            self.wake()

    def wake(self) -> None:
        """Ends the driver's wait, or the I/O thread's."""
        self._woken = True
        self._wakeup.set()
        if not self._driven:
            with self._lock:
                self._lease_until_mono_s = 0.0
                self._io_turn.notify()

    def wait(self, is_done: Callable[[], bool], follow: Callable[[], threading.Event], timeout_s: float | None) -> bool:
        """Waits until `is_done()`, driving where it can. False on time-out, or where the client is closed meanwhile.

        `follow()` gives an event that whoever drives sets once, after what it tells has become true. It is called by
        one thread at a time.
        """
        if is_done():
            return True
        endless = timeout_s is None or timeout_s > threading.TIMEOUT_MAX
        deadline_mono_s = None if timeout_s is None or endless else time.monotonic() + timeout_s
        while not is_done():
            left_s = None if deadline_mono_s is None else deadline_mono_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            try:
                if self._take(left_s):
                    self._drive(is_done, deadline_mono_s)
                elif not self._closing:
                    self._follow(is_done, follow, left_s)
                elif not is_done():
                    return False
            finally:
                # Also where Ctrl-C has ended the wait, wherever it struck.
                self._lay_down_own()
        return True

    def _drive(self, is_done: Callable[[], bool], deadline_mono_s: float | None) -> None:
        turn = self._turns.turn
        self._single_left = True
        self._turns.flush()
        while not is_done() and not self._closing:
            left_s = None if deadline_mono_s is None else deadline_mono_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            turn(left_s)

    def _follow(self, is_done: Callable[[], bool], follow: Callable[[], threading.Event], left_s: float | None) -> None:
        with self._lock:
            if self._closing:
                return
            event = follow()
            self._following.append(event)
            if not self._driven:
                self._lease_until_mono_s = 0.0
                self._io_turn.notify()
        try:
            if not is_done():
                event.wait(left_s)
        finally:
            with self._lock:
                self._following.remove(event)

    # --- taking and laying down ------------------------------------------------------------------

    def _try_take(self) -> bool:
        with self._lock:
            if self._driven or self._closing:
                return False
            self._driver = threading.get_ident()
            self._driven = True
            return True

    def _take(self, left_s: float | None) -> bool:
        """Takes the reactor, from the I/O thread if need be.

        False where another waiting thread drives, or it took too long.
        """
        with self._lock:
            if self._driven and self._io_drives and not self._closing:
                self._wanted += 1
                self._wakeup.set()
                try:
                    self._freed.wait_for(lambda: not self._driven or not self._io_drives, left_s)
                finally:
                    self._wanted -= 1
            if self._driven or self._closing:
                return False
            self._driver = threading.get_ident()
            self._driven = True
            return True

    def _lay_down_own(self) -> None:
        """Lays the reactor down if this thread drives, and lets the I/O thread have it after the lease."""
        if self._driver != threading.get_ident():
            return
        with self._lock:
            self._driver = 0
            self._driven = False
            self._rounds += 1
            if self._following or self._closing:
                self._lease_until_mono_s = 0.0
                self._io_turn.notify()
                self._freed.notify_all()
                return
            self._lease_until_mono_s = time.monotonic() + LEASE_S
            if self._io_asleep:
                self._io_turn.notify()

    def took_notice(self) -> None:
        """The driver has cleared the wake-up and is about to look for everything that was submitted, in this order.

        A call that comes in between then sets the wake-up anew, and is not left to one that is cleared already.
        """
        self._woken = False

    # --- the I/O thread --------------------------------------------------------------------------

    def _io_loop(self) -> None:
        while self._io_take():
            try:
                while not (self._wanted or self._closing):
                    self._turns.turn(None)
            except Exception as error:
                self._turns.failed(error)
            finally:
                with self._lock:
                    self._driven = self._io_drives = False
                    # All of them: one takes it, the others follow that one.
                    self._freed.notify_all()

    def _io_take(self) -> bool:
        """Waits until nobody else drives and the lease is over. False where the client closes."""
        with self._lock:
            while not self._closing:
                left_s = self._lease_until_mono_s - time.monotonic()
                if not self._driven and not self._wanted and left_s <= 0:
                    self._driven = self._io_drives = True
                    self._single_left = False
                    return True
                self._io_wait(max(left_s, 0.0005))
            return False

    def _io_wait(self, left_s: float) -> None:
        """Looks again when the lease may be over; sleeps where one thread drives on and on, until that one ends."""
        rounds = self._rounds
        if not self._io_turn.wait(left_s) and self._driven and rounds == self._rounds:
            self._io_asleep = True
            self._io_turn.wait()
            self._io_asleep = False

    def close(self) -> None:
        """Ends the I/O thread and all waits; afterwards nobody drives but the caller."""
        me = threading.get_ident()
        with self._lock:
            self._closing = True
            self._io_turn.notify()
            self._freed.notify_all()
            for event in self._following:
                event.set()
        self._wakeup.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        with self._lock:
            self._freed.wait_for(lambda: not self._driven or self._driver == me)
