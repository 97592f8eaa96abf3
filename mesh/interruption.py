"""Raising in a task from outside: at its soft time limit, and when it is to end early."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from mesh.exceptions import SoftTimeLimitExceeded, TaskInterrupted


class Coroutine(Protocol):
    """A coroutine that can be interrupted."""

    def interrupt(self, error: BaseException) -> None:
        """Raises in it at its next await. Any thread."""


class Interruption:
    """What is raised in the run of one slot, once it is due. Where a run is in user code, and in which thread."""

    def __init__(self, is_cancelled: Callable[[], bool] = lambda: False, *, from_other_threads: bool = False) -> None:
        """`is_cancelled` tells whether the present run is to end early.

        `from_other_threads`: `strike` may be called by others than the thread that runs the task.
        """
        self._is_cancelled = is_cancelled
        self._lock = threading.Lock() if from_other_threads else None
        self._thread = threading.get_ident()
        self._coroutine: Coroutine | None = None
        self._in_user_code = False
        #: When the soft limit of the run is over; never where it has none.
        self.soft_deadline_mono_s = math.inf
        #: The present run was told to end early.
        self.has_struck = False

    def enter(self, coroutine: Coroutine | None = None) -> None:
        """User code begins, in this thread or in a coroutine. Raises at once what is due."""
        self.has_struck = False
        self._coroutine = coroutine
        if self._lock is not None:
            self._thread = threading.get_ident()
        self._in_user_code = True
        if self.soft_deadline_mono_s != math.inf:  # its moment may have come before this
            error = self._due()
            if error is not None:
                raise error

    def leave(self) -> None:
        """User code has ended: nothing is raised from here on."""
        if self._lock is None:
            self._in_user_code = False
            return
        with self._lock:
            self._in_user_code = False
            _raise_in(self._thread, None)

    def strike(self) -> None:
        """Raises what is due in the task that runs, if anything is. Any thread; in its own thread it raises here.

        It may come late, when another task runs, or none: then it does nothing.
        """
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
            elif threading.get_ident() != self._thread:
                _raise_in(self._thread, type(error))
                error = None
            else:
                self._in_user_code = True
        if error is not None and self._coroutine is None:
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
                _raise_in(self._thread, TaskInterrupted)
            return True

    def _due(self) -> BaseException | None:
        if not self.has_struck and self._is_cancelled():
            self.has_struck = True
            return TaskInterrupted()
        if time.monotonic() >= self.soft_deadline_mono_s:
            self.soft_deadline_mono_s = math.inf  # once
            return SoftTimeLimitExceeded()
        return None


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """At the next instruction of this thread; None takes back what has not been raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)
