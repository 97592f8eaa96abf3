"""Slots are threads of one process: for tasks that wait for others, or that release the GIL.

A thread can't be killed alone. Where a task has to be, by its time limit or on request, the process is, and what ran
beside it runs again.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import traceback
from collections.abc import Callable, Mapping

from mesh.pools.hosting import Channel, HostedSlot, Lifelines, LoadedApp, SlotMaker, SlotOrder, order_of

_ONE_PROCESS = "its slots share one process, which can't be replaced for one of them; use -P prefork"
#: What no pool can do whose slots share a process.
REFUSED_IN_ONE_PROCESS: Mapping[str, str] = {
    "--max-tasks-per-child": _ONE_PROCESS,
    "--max-memory-per-child": _ONE_PROCESS,
}


class Threads:
    """Slots are threads."""

    name = "threads"
    refused = REFUSED_IN_ONE_PROCESS
    forks = False
    stands_in = True

    def concurrency(self) -> int:
        """One slot per CPU that this process may use."""
        return len(os.sched_getaffinity(0))

    def prepare(self) -> None:
        """Nothing."""

    def serve(self, load: Callable[[], LoadedApp], maker: SlotMaker, channel: Channel) -> None:
        """Starts threads until the supervisor is gone."""
        ThreadHost(load(), maker, channel).serve()


class ThreadHost:
    """1. Starts a thread for each slot. 2. Hands on what the supervisor says to it. 3. Tells of its end."""

    def __init__(self, app: LoadedApp, maker: SlotMaker, channel: Channel) -> None:
        self._app = app
        self._maker = maker
        self._channel = channel
        self._lifelines = Lifelines()
        #: {seat: slot} of those that run.
        self._slots: dict[int, HostedSlot] = {}
        self._threads: dict[int, threading.Thread] = {}

    def serve(self) -> None:
        """Heeds orders until the supervisor is gone; then the slots end too, and are waited for."""
        self.heed()
        for thread in list(self._threads.values()):
            thread.join()
        self._maker.close()

    def heed(self) -> None:
        """Heeds orders until the supervisor is gone, and lets the slots end."""
        while (words := self._channel.receive()) is not None:
            if words[0] == "spawn":
                order = order_of(words)
                self.start(order, self._lifelines.open(order.seat))
                self._channel.spawned(order.seat)
            elif words[0] == "go":
                self._lifelines.go(words[1])
            elif words[0] == "end":
                self._lifelines.end(words[1])
            elif words[0] == "interrupt":
                self.interrupt(words[1])
        self._lifelines.end(None)

    def start(self, order: SlotOrder, lifeline_fd: int) -> None:
        """Has `work` run in a thread of its own."""
        earlier = self._threads.pop(order.seat, None)
        if earlier is not None:
            earlier.join()  # it has said that it ends
        thread = threading.Thread(target=self.work, args=(order, lifeline_fd), name=f"slot-{order.seat}", daemon=True)
        self._threads[order.seat] = thread
        thread.start()

    def work(self, order: SlotOrder, lifeline_fd: int) -> None:
        """Runs a slot in this thread until it ends, and tells of it."""
        status = 1 << 8
        try:
            slot = self._slots[order.seat] = self._maker.make(self._app, order, lifeline_fd)
            slot.run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):  # a task may have closed it
                os.close(lifeline_fd)
            self.ended(order.seat, status)

    def ended(self, seat: int, status: int) -> None:
        """Tells of the end of a slot, and forgets it."""
        self._slots.pop(seat, None)
        self._lifelines.end(seat)
        self._channel.exited(seat, os.getpid(), status, peak_kib())

    def interrupt(self, seat: int) -> None:
        """Raises in the task of this slot what is due."""
        slot = self._slots.get(seat)
        if slot is not None:
            slot.interrupt()


def peak_kib() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
