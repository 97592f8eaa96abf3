"""Where every thread of a node's processes is at the moment, for SIGUSR1: also of one that is stuck in C code.

A process is asked twice. SIGUSR2 has it write between two instructions, when its frames are whole. One that is in C
code does not get there: it is then made to write wherever it is. That alone would not do: it crashes an interpreter
that it meets while it makes a frame, about one time in a hundred.

All processes share one file, and write to it one after the other, so that their stacks never mix. Its first line says
who is asked, so that an answer which comes too late is not given.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from typing import Final

#: Has a process write at once, wherever it is; none that libraries are known to use.
_AT_ONCE: Final = signal.SIGRTMIN + 11
#: By these a process is asked.
ASKING: Final = (signal.SIGUSR2, _AT_ONCE)
#: How long a process that has stopped writing is waited for, and how long one that has not begun to.
_SETTLED_S: Final = 0.02
_PATIENCE_S: Final = 0.3
_LOOK_S: Final = 0.005


def make_file() -> int:
    """The shared file, in memory."""
    return os.memfd_create("stacks", os.MFD_CLOEXEC)


def write_on_request(fd: int) -> None:
    """From here on this process, and those forked from it, write their stacks when they are asked. Main thread only."""

    def write(number: int, frame: object) -> None:
        if os.pread(fd, 32, 0).partition(b"\n")[0] == b"%d" % os.getpid():
            faulthandler.dump_traceback(file=fd, all_threads=True)

    signal.signal(signal.SIGUSR2, write)
    faulthandler.register(_AT_ONCE, file=fd, all_threads=True, chain=False)


def own(fd: int) -> str:
    """The stacks of this process."""
    start = _ask(os.getpid(), fd)
    faulthandler.dump_traceback(file=fd, all_threads=True)
    return _content(fd, start)


def of(pid: int, fd: int) -> str:
    """The stacks of a process that writes on request; empty where it does not in time."""
    start = _ask(pid, fd)
    for number in ASKING:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _awaited(lambda: os.fstat(fd).st_size > start):
            break
    size = -1
    while size != (size := os.fstat(fd).st_size):
        time.sleep(_SETTLED_S)
    return _content(fd, start)


def _awaited(begun: Callable[[], bool]) -> bool:
    give_up_mono_s = time.monotonic() + _PATIENCE_S
    while not begun():
        if time.monotonic() >= give_up_mono_s:
            return False
        time.sleep(_LOOK_S)
    return True


def _ask(pid: int, fd: int) -> int:
    """Says who is asked. Where the answer begins."""
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)  # the position is shared too
    return os.write(fd, b"%d\n" % pid)


def _content(fd: int, start: int) -> str:
    """The answer. Nobody is asked any more."""
    text = os.pread(fd, os.fstat(fd).st_size, start).decode(errors="replace").rstrip()
    os.ftruncate(fd, 0)
    return text
