"""A file that says which process runs: `PID` and a line end. It is there exactly while that process is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from typing import Final

from mesh.exceptions import MeshError
from mesh.same_file import is_at

#: How long a pidfile that somebody holds locked is waited for, and how often it is looked at.
_LOCKED_S: Final = 2.0
_LOOK_S: Final = 0.01


class PidfileTaken(MeshError):
    """The file says that somebody runs, or it can't be made."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        super().__init__(f"the pidfile {path} can't be made: {reason}")


@contextlib.contextmanager
def held(path: str | None) -> Iterator[None]:
    """The file is there meanwhile, with the pid of this process. Without a path: nothing.

    Raises:
        PidfileTaken: another process has it, or it can't be written.
    """
    if path is None:
        yield
        return
    path = os.path.abspath(path)
    acquire(path)
    try:
        yield
    finally:
        release(path)


def acquire(path: str) -> None:
    """Makes the file; one whose process is dead is replaced. Of several who try at once one succeeds.

    Raises:
        PidfileTaken: another process has it, or it can't be written.
    """
    try:
        while not _make(path):
            _remove_stale(path)
    except OSError as error:
        raise PidfileTaken(path, f"{error.strerror}. Give another --pidfile, or make that possible.") from None


def release(path: str) -> None:
    """Removes the file, if it is still this process's. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        if _read(path) == os.getpid():
            os.unlink(path)


def _make(path: str) -> bool:
    """Whether it is made; not where there is one. It is written before it has its name, so nobody reads half of it.

    Raises:
        OSError: it can't be made.
    """
    unnamed = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unnamed)
    fd = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, b"%d\n" % os.getpid())
        os.link(unnamed, path)
        return True
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        os.unlink(unnamed)


def _remove_stale(path: str) -> None:
    """Removes the file of a dead process.

    Under a lock on that very file, so that of two who find it one removes it, and neither removes the other's new one.

    Raises:
        PidfileTaken: its process lives.
        OSError: it can't be read or removed.
    """
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii", opener=_plainly) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise PidfileTaken(path, "there is something that is no plain file. Give another path.")
        _lock(file.fileno(), path)
        if not is_at(file.fileno(), path):
            return
        try:
            pid = int(file.read(32))
        except ValueError:
            pid = 0
        if pid <= 0:
            raise PidfileTaken(path, "there is one that holds no pid. Look whose it is, and remove it.")
        if _is_alive(pid):
            raise PidfileTaken(
                path, f'process {pid} has it, and runs. Stop it with "kill {pid}", or give another path.'
            )
        os.unlink(path)


def _plainly(path: str, flags: int) -> int:
    """Opens it without following a link, and without waiting for what is no file."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _lock(fd: int, path: str) -> None:
    """Anybody who may read the file may lock it: it is not waited for without end."""
    give_up_mono_s = time.monotonic() + _LOCKED_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up_mono_s:
                raise PidfileTaken(path, "another process holds it locked. Look whose it is, and try again.") from None
            time.sleep(_LOOK_S)


def _read(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read(32))


def _is_alive(pid: int) -> bool:
    """Whether another process of this number runs. Where each start has the same pid (a container) it is our own.

    One that is dead but not yet reaped does not run: in a container that may take for ever.
    """
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:  # other people's processes are hidden here
        return True
