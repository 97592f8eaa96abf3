"""Where every thread of a node's processes is at the moment, for SIGUSR1: also of one that is stuck in C code.

All processes share one file, and write to it one after the other, so that their stacks never mix.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from typing import Final

#: How long a process that has stopped writing is waited for, and at most.
_SETTLED_S: Final = 0.02
_PATIENCE_S: Final = 0.5
_LOOK_S: Final = 0.005


def make_file() -> int:
    """The shared file, in memory."""
    return os.memfd_create("stacks", os.MFD_CLOEXEC)


def write_on_request(fd: int) -> None:
    """From here on this process, and those forked from it, write their stacks when they are asked."""
    faulthandler.register(signal.SIGUSR2, file=fd, all_threads=True, chain=False)


def own(fd: int) -> str:
    """The stacks of this process."""
    _empty(fd)
    faulthandler.dump_traceback(file=fd, all_threads=True)
    return _content(fd)


def of(pid: int, fd: int) -> str:
    """The stacks of a process that writes on request; empty where it does not in time."""
    _empty(fd)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR2)
    give_up_mono_s = time.monotonic() + _PATIENCE_S
    size, settled_mono_s = 0, give_up_mono_s
    while time.monotonic() < min(give_up_mono_s, settled_mono_s):
        time.sleep(_LOOK_S)
        if (grown := os.fstat(fd).st_size) != size:
            size, settled_mono_s = grown, time.monotonic() + _SETTLED_S
    return _content(fd)


def _empty(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)  # the position is shared too


def _content(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace").rstrip()
