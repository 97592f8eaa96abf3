"""Raising in a task from outside: at its soft time limit, and when it is to end early."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from mesh.exceptions import SoftTimeLimitExceeded, TaskInterrupted


class Coroutine(Protocol):
    """A coroutine that can be interrupted."""

    def interrupt(self, error: BaseException) -> None:
        """Raises in it at its next await. Any thread."""


class Threads(Protocol):
    """What runs of slots that share a process run in."""

    def current(self) -> Any:
        """The one that calls."""

    def raise_in(self, thread: Any, error: type[BaseException] | None) -> None:
        """Raises in another one as soon as can be; None takes back what has not been raised yet."""


class SystemThreads:
    """Those of the operating system. In C code that waits nothing is raised before it has ended."""

    def current(self) -> int:
        """As Threads."""
        return threading.get_ident()

    def raise_in(self, thread: int, error: type[BaseException] | None) -> None:
        """As Threads: at its next instruction."""
        import ctypes  # a megabyte, of use in pools with threads alone

        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)


SYSTEM_THREADS: Final = SystemThreads()


class Interruption:
    """What is raised in the run of one slot, once it is due. Where a run is in user code, and in which thread."""

    __slots__ = (
        "_came_early",
        "_came_late",
        "_coroutine",
        "_held",
        "_in_user_code",
        "_is_cancelled",
        "_lock",
        "_thread",
        "_threads",
        "has_struck",
        "soft_deadline_mono_s",
    )

    def __init__(
        self,
        is_cancelled: Callable[[], bool] = lambda: False,
        threads: Threads = SYSTEM_THREADS,
        *,
        shared: bool = False,
    ) -> None:
        """`is_cancelled` tells whether the present run is to end early.

        `shared`: `strike` may be called by other threads than that which runs the task.
        """
        self._is_cancelled = is_cancelled
        self._threads = threads
        #: One that a signal handler may take again, in the middle of what it has interrupted.
        self._lock = threading.RLock() if shared else None
        self._thread = threads.current()
        self._coroutine: Coroutine | None = None
        self._in_user_code = False
        #: `strike` was called when there may have been nothing to strike yet.
        self._came_early = False
        #: How often it is held; and whether something has struck meanwhile.
        self._held = 0
        self._came_late = False
        #: When the soft limit of the run is over; never where it has none.
        self.soft_deadline_mono_s = math.inf
        #: The present run was told to end early.
        self.has_struck = False

    def enter(self, coroutine: Coroutine | None = None) -> None:
        """User code begins, in this thread or in a coroutine. Raises at once what is due."""
        self.has_struck = False
        self._coroutine = coroutine
        if self._lock is not None:
            self._thread = self._threads.current()
        self._in_user_code = True
        if not self._came_early and self.soft_deadline_mono_s == math.inf:
            return
        self._came_early = False
        with self._lock or contextlib.nullcontext():
            error = self._due()
        if error is not None:
            raise error

    def leave(self) -> None:
        """User code has ended: nothing is raised from here on. What strikes just now is raised here."""
        try:
            self._leave()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        if self._lock is None:
            self._in_user_code = False
            return
        with self._lock:
            self._in_user_code = False
            self._threads.raise_in(self._thread, None)

    def hold(self) -> None:
        """What strikes from here on is kept until `release`: for code of mesh's own in the middle of a task."""
        self._held += 1

    def release(self) -> None:
        """Raises here what has struck meanwhile."""
        self._held -= 1
        if self._came_late and not self._held:
            self._came_late = False
            self.strike()

    def strike(self) -> None:
        """Raises what is due in the task that runs, if anything is. Any thread; in its own thread it raises here.

        It may come late, when another task runs, or none: then it does nothing.
        """
        if self._held:
            self._came_late = True
            return
        self._came_early = True  # before the look: whichever of `enter` and this is later sees the other
        if self._lock is None:
            error = self._due() if self._in_user_code else None
            if error is not None and self._coroutine is None:
                raise error
            if error is not None and self._coroutine is not None:
                self._coroutine.interrupt(error)
            return
        with self._lock:
            error = self._due() if self._in_user_code else None
            if error is None:
                return
            if self._coroutine is not None:
                self._coroutine.interrupt(error)
                return
            if self._threads.current() != self._thread:
                self._threads.raise_in(self._thread, type(error))
                return
        raise error

    def kill(self) -> bool:
        """Raises TaskInterrupted in the run, for which nobody waits any more. False where none is in user code.

        From another thread, where there are others.
        """
        assert self._lock is not None
        with self._lock:
            if not self._in_user_code:
                return False
            self.has_struck = True
            if self._coroutine is not None:
                self._coroutine.interrupt(TaskInterrupted())
            else:
                self._threads.raise_in(self._thread, TaskInterrupted)
            return True

    def _due(self) -> BaseException | None:
        if not self.has_struck and self._is_cancelled():
            self.has_struck = True
            return TaskInterrupted()
        if time.monotonic() >= self.soft_deadline_mono_s:
            self.soft_deadline_mono_s = math.inf  # once
            return SoftTimeLimitExceeded()
        return None
