"""Going on in the background. Who started it waits until it is ready, and hears what went wrong if it is not.

The process that was started (the *starter*) forks a *watcher* in a session of its own, and that forks the *daemon*,
which is what goes on. The watcher passes on what the daemon says, and ends when that is ready, or with its exit code.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from typing import Final, NoReturn

_OUT: Final = b"o"
_ERR: Final = b"e"
_READY: Final = b"r"
#: A message is cut here. Banners with the names of many thousand tasks are the longest.
_MESSAGE_BYTES_MAX: Final = 64 << 10


class Launch:
    """The daemon's line to who started it. After `ready` nobody listens any more."""

    def __init__(self, line: socket.socket) -> None:
        self._line: socket.socket | None = line

    def out(self, text: str) -> None:
        """Prints to the starter's stdout."""
        self._send(_OUT, text)

    def err(self, text: str) -> None:
        """Prints to the starter's stderr."""
        self._send(_ERR, text)

    def ready(self) -> None:
        """The starter ends, with exit code 0."""
        self._send(_READY)
        if self._line is not None:
            self._line.close()
            self._line = None

    def _send(self, kind: bytes, text: str = "") -> None:
        content = text.encode(errors="backslashreplace")
        pieces = range(0, max(1, len(content)), _MESSAGE_BYTES_MAX)
        if self._line is not None:
            with contextlib.suppress(OSError):  # the starter is gone
                for at in pieces:
                    self._line.send(kind + content[at : at + _MESSAGE_BYTES_MAX])


def detach(log_fd: int, log_path: str) -> Launch:
    """Returns in the daemon alone: without a terminal, in a session of its own, with the log as stdout and stderr.

    Call it before any thread exists. The starter ends in here, with the daemon's exit code if that ends before it is
    ready.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    watcher = os.fork()
    if watcher:
        _await_watcher(watcher)
    os.setsid()
    daemon = os.fork()
    if daemon:
        theirs.close()
        _watch(daemon, ours, log_path)
    ours.close()
    null = os.open(os.devnull, os.O_RDWR)
    for fd, number in ((null, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(fd, number)
    os.close(null)
    return Launch(theirs)


def _await_watcher(pid: int) -> NoReturn:
    def stop(number: int, frame: object) -> None:
        os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    _, status = os.waitpid(pid, 0)
    os._exit(_exit_code(status))


def _watch(pid: int, line: socket.socket, log_path: str) -> NoReturn:
    def stop(number: int, frame: object) -> None:
        os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    ended = os.pidfd_open(pid)
    has_erred = False
    while True:
        ready, _, _ = select.select([line.fileno(), ended], [], [])
        while said := _said(line):
            if said[:1] == _READY:
                os._exit(0)
            has_erred |= said[:1] == _ERR
            _print(1 if said[:1] == _OUT else 2, said[1:])
        if ended in ready:
            break
    _, status = os.waitpid(pid, 0)
    code = _exit_code(status)
    if code and not has_erred:
        _print(2, f"Error: it ended with exit code {code} before it was ready. See {log_path}\n".encode())
    os._exit(code)


def _said(line: socket.socket) -> bytes:
    """The next message; empty where there is none now. That the other end is closed shows by its process's end."""
    try:
        return line.recv(_MESSAGE_BYTES_MAX + 1, socket.MSG_DONTWAIT)
    except OSError:
        return b""


def _print(fd: int, text: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, text)


def _exit_code(status: int) -> int:
    """As shells have it: 128 and the signal for who died of one."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
