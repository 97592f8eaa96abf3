"""Slots are threads of one process: for tasks that wait for others, or that release the GIL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from mesh.pools import one_process
from mesh.pools.hosting import Channel, LoadedApp, SlotMaker, SlotOrder


class Threads:
    """Slots are threads."""

    name = "threads"
    refused = one_process.REFUSED
    forks = False
    stands_in = True
    greenlets = None

    def concurrency(self) -> int:
        """One slot per CPU that this process may use."""
        return len(os.sched_getaffinity(0))

    def prepare(self) -> None:
        """Nothing."""

    def serve(self, load: Callable[[], LoadedApp], maker: SlotMaker, channel: Channel) -> None:
        """Starts threads until the supervisor is gone."""
        ThreadHost(load(), maker, channel).serve()


class ThreadHost(one_process.OneProcess):
    """Starts a thread for each slot."""

    def __init__(self, app: LoadedApp, maker: SlotMaker, channel: Channel) -> None:
        super().__init__(app, maker, channel)
        #: {seat: the thread that has run a slot there last}
        self._threads: dict[int, threading.Thread] = {}

    def serve(self) -> None:
        """Heeds orders until the supervisor is gone; then the slots end too, and are waited for."""
        self.heed_all()
        for thread in list(self._threads.values()):
            thread.join()
        self._maker.close()

    def start(self, order: SlotOrder, lifeline_fd: int) -> None:
        """Has `work` run in a thread of its own."""
        earlier = self._threads.pop(order.seat, None)
        if earlier is not None:
            earlier.join()  # it has said that it ends
        thread = threading.Thread(target=self.work, args=(order, lifeline_fd), name=f"slot-{order.seat}", daemon=True)
        self._threads[order.seat] = thread
        thread.start()

    def work(self, order: SlotOrder, lifeline_fd: int) -> None:
        """Runs a slot in this thread until it ends."""
        with self.life(order, lifeline_fd):
            self.made(order, lifeline_fd).run()
