"""The default pool: each slot is a process, forked from the host. Every limit can be enforced on it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from mesh.pools.hosting import Channel, Lifelines, LoadedApp, SlotMaker, SlotOrder, die_with_parent, order_of


class Prefork:
    """Slots are processes of their own."""

    name = "prefork"
    refused: Mapping[str, str] = {}
    forks = True
    stands_in = True
    greenlets = None

    def concurrency(self) -> int:
        """One slot per CPU that this process may use."""
        return len(os.sched_getaffinity(0))

    def prepare(self) -> None:
        """Nothing."""

    def serve(self, load: Callable[[], LoadedApp], maker: SlotMaker, channel: Channel) -> None:
        """Forks slots until the supervisor is gone."""
        _Forks(load, maker, channel).serve()


class _Forks:
    """The slots of one host."""

    def __init__(self, load: Callable[[], LoadedApp], maker: SlotMaker, channel: Channel) -> None:
        self._load = load
        self._maker = maker
        self._channel = channel
        self._lifelines = Lifelines()
        #: {pidfd: (pid, seat)}
        self._children: dict[int, tuple[int, int]] = {}
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._on: Final[dict[str, Callable[..., Any]]] = {
            "go": self._lifelines.go,
            "end": self._lifelines.end,
            "interrupt": self._interrupt,
        }

    def serve(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._channel.fileno():
                    self._reap(fd)
                elif not self._heed():
                    return

    def _heed(self) -> bool:
        words = self._channel.receive()
        if words is None:
            return False
        if words[0] == "spawn":
            self._spawn(order_of(words))
        else:
            self._on[words[0]](*words[1:])
        return True

    def _reap(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.close(pidfd)
        pid, seat = self._children.pop(pidfd)
        _, status, usage = os.wait4(pid, 0)
        self._lifelines.end(seat)
        self._channel.exited(seat, pid, status, usage.ru_maxrss)

    def _interrupt(self, seat: int) -> None:
        for pid, its_seat in self._children.values():
            if its_seat == seat:
                os.kill(pid, signal.SIGUSR1)

    def _spawn(self, order: SlotOrder) -> None:
        parent = os.getpid()
        with contextlib.ExitStack() as undo:
            try:
                lifeline_fd = self._lifelines.open(order.seat)
                undo.callback(os.close, lifeline_fd)
                pid = os.fork()
            except OSError:  # no process, file or memory is left for it; the others go on
                traceback.print_exc()
                self._lifelines.end(order.seat)
                self._channel.not_started(order.seat)
                return
            undo.pop_all()
        if pid == 0:
            self._become_slot(order, lifeline_fd, parent)
        os.close(lifeline_fd)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (pid, order.seat)
        self._poll.register(pidfd, select.POLLIN)
        self._channel.say("spawned", order.seat, pid)

    def _become_slot(self, order: SlotOrder, lifeline_fd: int, parent: int) -> None:
        """What the fork does until it ends. Never returns."""
        code = 1
        try:
            die_with_parent(parent)
            self._channel.close()
            self._lifelines.end(None)
            for fd in self._children:
                os.close(fd)
            slot = self._maker.make(self._load(), order, lifeline_fd)
            signal.signal(signal.SIGUSR1, lambda number, frame: slot.interrupt())
            slot.run()
            self._maker.close()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # a task may have closed or replaced them
                    stream.flush()
            os._exit(code)
