"""Slots are greenlets of gevent or eventlet: for many tasks at once that mostly wait, written as plain functions.

The standard library is patched before the app is imported, so that whatever waits lets others go on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Final

from mesh.exceptions import PoolNotAvailable
from mesh.pools import one_process
from mesh.pools.hosting import Channel, Greenlets, LoadedApp, SlotMaker, SlotOrder

#: Slots of a node that says nothing: as of the pool asyncio, and for its reasons.
CONCURRENCY: Final = 100


class _Green:
    """What both pools have in common."""

    name: str
    refused = one_process.REFUSED
    forks = False
    stands_in = True
    greenlets: Greenlets

    def concurrency(self) -> int:
        """A number that does not depend on CPUs: tasks that wait need none."""
        return CONCURRENCY

    def prepare(self) -> None:
        """Patches the standard library."""
        one_process.allow_descriptors()
        self.patch()

    def patch(self) -> None:
        """Makes what waits let others go on."""
        raise NotImplementedError

    def serve(self, load: Callable[[], LoadedApp], maker: SlotMaker, channel: Channel) -> None:
        """Runs greenlets until the supervisor is gone."""
        _GreenHost(load(), maker, channel, self.greenlets).serve()


class Gevent(_Green):
    """Slots are greenlets of gevent."""

    name = "gevent"

    def __init__(self) -> None:
        _need(self.name)
        self.greenlets = _GeventGreenlets()

    def patch(self) -> None:
        """As of gevent, all of it."""
        from gevent import monkey

        monkey.patch_all()


class Eventlet(_Green):
    """Slots are greenlets of eventlet."""

    name = "eventlet"

    def __init__(self) -> None:
        _need(self.name)
        self.greenlets = _EventletGreenlets()

    def patch(self) -> None:
        """As of eventlet, all of it."""
        import eventlet

        eventlet.monkey_patch()


def _need(package: str) -> None:
    """Raises PoolNotAvailable where it is missing. It is not imported: this may be the supervisor."""
    if importlib.util.find_spec(package) is None:
        raise PoolNotAvailable(package, f"{package} is not installed; install it: pip install 'mesh-tasks[{package}]'")


class _Throwing:
    """Raises in greenlets where they wait, from their hub."""

    def __init__(self) -> None:
        #: {greenlet: what is to be raised in it, and is not yet}
        self._due: dict[Any, type[BaseException]] = {}

    def current(self) -> Any:
        """As hosting.Greenlets."""
        import greenlet

        return greenlet.getcurrent()

    def raise_in(self, thread: Any, error: type[BaseException] | None) -> None:
        """As hosting.Greenlets."""
        if error is None:
            self._due.pop(thread, None)
            return
        self._due[thread] = error
        self.have_hub_call(self._throw, thread)

    def have_hub_call(self, work: Callable[..., object], *args: Any) -> None:
        """Has the hub call it soon."""
        raise NotImplementedError

    def _throw(self, thread: Any) -> None:
        error = self._due.pop(thread, None)
        if error is not None:
            thread.throw(error)


class _GeventGreenlets(_Throwing):
    """As hosting.Greenlets."""

    def wait(self, fd: int, timeout_s: float | None) -> None:
        """As hosting.Greenlets."""
        import gevent

        hub = gevent.get_hub()
        readable = hub.loop.io(fd, 1)
        try:
            with gevent.Timeout(timeout_s, False):
                hub.wait(readable)
        finally:
            readable.close()

    def start(self, work: Callable[..., object], *args: Any) -> Any:
        """As hosting.Greenlets."""
        import gevent

        return gevent.spawn(work, *args)

    def join(self, greenlet: Any) -> None:
        """As hosting.Greenlets."""
        greenlet.join()

    def have_hub_call(self, work: Callable[..., object], *args: Any) -> None:
        """As _Throwing."""
        import gevent

        gevent.get_hub().loop.run_callback(work, *args)


class _EventletGreenlets(_Throwing):
    """As hosting.Greenlets."""

    def wait(self, fd: int, timeout_s: float | None) -> None:
        """As hosting.Greenlets."""
        from eventlet import hubs

        try:
            hubs.trampoline(fd, read=True, timeout=timeout_s, timeout_exc=TimeoutError)
        except TimeoutError:
            pass

    def start(self, work: Callable[..., object], *args: Any) -> Any:
        """As hosting.Greenlets."""
        import eventlet

        return eventlet.spawn(work, *args)

    def join(self, greenlet: Any) -> None:
        """As hosting.Greenlets."""
        greenlet.wait()

    def have_hub_call(self, work: Callable[..., object], *args: Any) -> None:
        """As _Throwing."""
        from eventlet import hubs

        hubs.get_hub().schedule_call_global(0, work, *args)


class _GreenHost(one_process.OneProcess):
    """Starts a greenlet for each slot."""

    def __init__(self, app: LoadedApp, maker: SlotMaker, channel: Channel, greenlets: Greenlets) -> None:
        super().__init__(app, maker, channel)
        self._greenlets = greenlets
        #: {seat: the greenlet that has run a slot there last}
        self._running: dict[int, Any] = {}

    def serve(self) -> None:
        """Heeds orders until the supervisor is gone; then the slots end too, and are waited for."""
        self._greenlets.wait(self._channel.fileno(), None)
        while self.heed():
            self._greenlets.wait(self._channel.fileno(), None)
        for greenlet in list(self._running.values()):
            self._greenlets.join(greenlet)
        self._maker.close()

    def start(self, order: SlotOrder, lifeline_fd: int) -> None:
        """In a greenlet of its own."""
        self._running[order.seat] = self._greenlets.start(self._run, order, lifeline_fd)

    def _run(self, order: SlotOrder, lifeline_fd: int) -> None:
        with self.life(order, lifeline_fd):
            self.made(order, lifeline_fd).run()
