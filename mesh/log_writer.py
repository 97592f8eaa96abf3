"""Where log records go: whole, whichever process of the node they come from, and to the right file after a rotation.

A record is one write(2). Appended to a file, that is one piece by itself. To a pipe, a socket or a terminal the kernel
may cut it up where it is long and the reader slow, so there processes take turns by a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import stat
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from mesh.exceptions import SoftTimeLimitExceeded
from mesh.same_file import is_at

#: How long a record waits for its turn. Who holds the lock writes; after so long it is stopped or its reader is, and a
#: record that may be torn is better than a process that stands still.
_TURN_WAIT_S: Final = 5.0
_TURN_LOOK_S: Final = 0.001
#: How long a record waits for a reader where the descriptor is non-blocking. Then what is left of it is dropped.
_READER_WAIT_MS: Final = 1_000
_STDOUT_AND_STDERR: Final = (1, 2)


class Destination(Protocol):
    """Where records go."""

    def write(self, record: bytes) -> None:
        """Writes a record, whole. Raises OSError."""

    def is_terminal(self) -> bool:
        """Whether people look at it."""

    def enter_child(self, index: int) -> None:
        """This process is now the slot of this number, counted from 1."""

    def close(self) -> None:
        """Gives back what was opened."""


class WholeRecords(logging.Handler):
    """Writes each record at once. What can't be written is dropped: nothing stops because its log does."""

    def __init__(self, destination: Destination) -> None:
        super().__init__()
        self.destination = destination

    def emit(self, record: logging.LogRecord) -> None:
        """One record, in the form of the formatter. Text that is no text (lone surrogates) is escaped."""
        try:
            text = self.format(record)
        except SoftTimeLimitExceeded:  # a signal raises it wherever the task is, and it is the task's
            raise
        except Exception as error:  # wrong arguments for the message, or one whose __str__ raises
            text = self.format(_about(record, error))
        with contextlib.suppress(OSError):
            self.destination.write(f"{text}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        """Closes the destination too."""
        self.destination.close()
        super().close()


def _about(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """What is logged instead of a record that can't be formatted."""
    where = f"{record.pathname}:{record.lineno}"
    text = f"what {where} logs can't be formatted ({type(error).__name__}): {str(record.msg)!r}"
    return logging.makeLogRecord({**_heading(record), "msg": text})


def _heading(record: logging.LogRecord) -> dict[str, Any]:
    return {key: getattr(record, key) for key in ("name", "levelno", "levelname", "process", "created", "msecs")}


class Turns:
    """A lock on a descriptor among all processes that have it open. It ends with its holder.

    A POSIX record lock: those are held by processes and not, as flock(2), by open files, which forks share. Linux has
    them for pipes, sockets and terminals too.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def take(self) -> None:
        """Waits for its turn, though not for ever. Threads of one process are not told apart: handlers do that."""
        give_up_mono_s = time.monotonic() + _TURN_WAIT_S
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= give_up_mono_s:
                    return
                time.sleep(_TURN_LOOK_S)
            except OSError:  # a task has closed it
                return

    def leave(self) -> None:
        """The next one may write."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


class LogDescriptor:
    """A descriptor that this process has inherited, mostly stderr."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._turns = Turns(fd) if _may_tear(fd) else None

    def write(self, record: bytes) -> None:
        """As `Destination`."""
        if self._turns is None:
            _write(self._fd, record)
            return
        self._turns.take()
        try:
            _write(self._fd, record)
        finally:
            self._turns.leave()

    def is_terminal(self) -> bool:
        """As `Destination`."""
        return os.isatty(self._fd)

    def enter_child(self, index: int) -> None:
        """Nothing: all share it."""

    def close(self) -> None:
        """Nothing: it is not its own."""


class LogFile:
    """A file that each process appends to. Where another one takes its path (logrotate), records go on in that one.

    stdout and stderr, where they are the same file, move along.
    """

    def __init__(self, path_of: Callable[[int], str]) -> None:
        """`path_of` says the path for the index of a process (`expansion.expand`).

        Raises:
            OSError: it can't be opened.
        """
        self._path_of = path_of
        self.path = os.path.abspath(path_of(0))
        self._fd = _open(self.path)

    def fileno(self) -> int:
        """The file as it was opened last."""
        return self._fd

    def write(self, record: bytes) -> None:
        """As `Destination`."""
        if self._was_moved():
            with contextlib.suppress(OSError):  # it can't be opened anew: the old one is better than nothing
                self._move_to(self.path)
        _write(self._fd, record)

    def _was_moved(self) -> bool:
        try:
            return not is_at(self._fd, self.path)
        except OSError:
            return True

    def is_terminal(self) -> bool:
        """As `Destination`."""
        return os.isatty(self._fd)

    def enter_child(self, index: int) -> None:
        """Opens the slot's own file, where the path has %i or %I.

        Raises:
            OSError: it can't be opened.
        """
        path = os.path.abspath(self._path_of(index))
        if path != self.path:
            self._move_to(path)
            self.path = path

    def close(self) -> None:
        """As `Destination`."""
        os.close(self._fd)

    def _move_to(self, path: str) -> None:
        fd = _open(path)
        for number in _STDOUT_AND_STDERR:
            if _are_same(number, self._fd):
                os.dup2(fd, number)
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o666)


def _write(fd: int, record: bytes) -> None:
    rest = memoryview(record)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if not poll.poll(_READER_WAIT_MS):
                raise


def _may_tear(fd: int) -> bool:
    """Whether what is written there in one piece may come out in several."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:  # it is closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def _are_same(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
