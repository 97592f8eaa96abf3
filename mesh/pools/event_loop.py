"""Slots are coroutines of one asyncio loop: for many tasks at once that mostly wait, written as `async def`.

Plain functions run in threads beside the loop, one for each slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mesh.pools import one_process
from mesh.pools.hosting import Channel, LoadedApp, SlotMaker, SlotOrder

#: Slots of a node that says nothing. An idle one costs 25 KiB, eight descriptors and no wake-up, so that a hundred are
#: cheap; with more of them the time per task grows, as all share one thread.
CONCURRENCY: Final = 100
#: How long what tasks have left on the loop has to end with it.
LEFTOVERS_S: Final = 1.0


class EventLoop:
    """Slots are coroutines."""

    name = "asyncio"
    refused = one_process.REFUSED
    forks = False
    stands_in = True
    greenlets = None

    def concurrency(self) -> int:
        """A number that does not depend on CPUs: tasks that wait need none."""
        return CONCURRENCY

    def prepare(self) -> None:
        """Allows as many descriptors as it may: the usual 1024 are gone with a hundred slots and a few callers."""
        one_process.allow_descriptors()

    def serve(self, load: Callable[[], LoadedApp], maker: SlotMaker, channel: Channel) -> None:
        """Runs slots on a loop in this thread until the supervisor is gone.

        The loop is not closed: that would wait for threads which tasks have left behind.
        """
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_LoopHost(load(), maker, channel).serve())


class _LoopHost(one_process.OneProcess):
    """Has the loop run slots, and read what the supervisor says."""

    def __init__(self, app: LoadedApp, maker: SlotMaker, channel: Channel) -> None:
        super().__init__(app, maker, channel)
        #: {seat: what runs its slot}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._over = asyncio.Event()

    async def serve(self) -> None:
        """Heeds orders until the supervisor is gone; then the slots end too, and are waited for."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._heed)
        await self._over.wait()
        loop.remove_reader(self._channel.fileno())
        await asyncio.gather(*self._running.values())
        await _end_leftovers()
        self._maker.close()

    def _heed(self) -> None:
        if not self.heed():
            self._over.set()

    def start(self, order: SlotOrder, lifeline_fd: int) -> None:
        """As a task of the loop."""
        if not self._running:
            # As many threads as get() in a coroutine may need: those that wait there must leave room for what ends it.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(order.seats, "aside"))
        self._running[order.seat] = asyncio.create_task(self._run(order, lifeline_fd), name=f"slot-{order.seat}")

    async def _run(self, order: SlotOrder, lifeline_fd: int) -> None:
        with self.life(order, lifeline_fd):
            await self.made(order, lifeline_fd).run_async()


async def _end_leftovers() -> None:
    """Ends what tasks have left running."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LEFTOVERS_S)
