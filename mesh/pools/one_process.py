"""What hosts have in common whose slots share their process: threads, coroutines and greenlets.

Nothing of it can be killed alone. Where a task has to be, by its time limit or on request, the process is, and what ran
beside it runs again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import traceback
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mesh.pools.hosting import (
    FAILED,
    Channel,
    HostedSlot,
    Lifelines,
    LoadedApp,
    SlotMaker,
    SlotOrder,
    close_at_once,
    order_of,
)

_WHY: Final = "its slots share one process, which can't be replaced for one of them; use -P prefork"
#: What no pool can do whose slots share a process.
REFUSED: Mapping[str, str] = {"--max-tasks-per-child": _WHY, "--max-memory-per-child": _WHY}


class OneProcess:
    """1. Hands on what the supervisor says. 2. Makes slots, and tells of their end. How they run is its heirs' part."""

    def __init__(self, app: LoadedApp, maker: SlotMaker, channel: Channel) -> None:
        self._app = app
        self._maker = maker
        self._channel = channel
        self._lifelines = Lifelines()
        #: {seat: slot} of those that run.
        self._slots: dict[int, HostedSlot] = {}
        os.register_at_fork(after_in_child=functools.partial(_let_go, weakref.ref(self)))

    def let_go(self) -> None:
        """In a child that a task has forked: what is the host's must not live on in it."""
        self._channel.close()
        self._lifelines.end(None)

    def start(self, order: SlotOrder, lifeline_fd: int) -> None:
        """Has a slot made and run, within its `life`."""
        raise NotImplementedError

    def interrupt(self, seat: int) -> None:
        """Raises in the task of this slot what is due."""
        slot = self._slots.get(seat)
        if slot is not None:
            slot.interrupt()

    def heed_all(self) -> None:
        """Heeds orders, and waits for them, until the supervisor is gone."""
        while self.heed():
            pass

    def heed(self) -> bool:
        """Heeds the next order, and waits for it. False where the supervisor is gone: then all slots are to end."""
        words: list[Any] | None = self._channel.receive()
        if words is None:
            self._lifelines.end(None)
            return False
        if words[0] == "spawn":
            self._spawn(order_of(words))
        elif words[0] == "go":
            self._lifelines.go(words[1])
        elif words[0] == "end":
            self._lifelines.end(words[1])
        elif words[0] == "interrupt":
            self.interrupt(words[1])
        return True

    def _spawn(self, order: SlotOrder) -> None:
        with contextlib.ExitStack() as undo:
            try:
                lifeline_fd = self._lifelines.open(order.seat)
                undo.callback(os.close, lifeline_fd)
                self._channel.spawned(order.seat)  # first: it may end at once
                self.start(order, lifeline_fd)
            except (OSError, RuntimeError):  # no file, or no thread, is left for it; the others go on
                traceback.print_exc()
                self._lifelines.end(order.seat)
                self._channel.not_started(order.seat)
                return
            undo.pop_all()

    def made(self, order: SlotOrder, lifeline_fd: int) -> HostedSlot:
        """A slot, to be run here, within its `life`."""
        slot = self._slots[order.seat] = self._maker.make(self._app, order, lifeline_fd)
        return slot

    @contextlib.contextmanager
    def life(self, order: SlotOrder, lifeline_fd: int) -> Iterator[None]:
        """Around a slot's making and running: what is raised there is shown, and its end told. Nothing gets out."""
        status = FAILED
        try:
            yield
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):  # a task may have closed it
                close_at_once(lifeline_fd)
            self.ended(order.seat, status)

    def ended(self, seat: int, status: int) -> None:
        """Tells of the end of a slot, and forgets it."""
        self._slots.pop(seat, None)
        self._lifelines.end(seat)
        self._channel.exited(seat, os.getpid(), status, peak_kib())


def _let_go(host: weakref.ref[OneProcess]) -> None:
    there = host()
    if there is not None:
        there.let_go()


def allow_descriptors() -> None:
    """Raises how many descriptors this process may have to what it may raise it to."""
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def peak_kib() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
