"""One slot, in the main thread of the process that has imported the app: for debuggers, and for what must not fork."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Mapping

from mesh.pools import one_process
from mesh.pools.hosting import Channel, LoadedApp, SlotMaker, SlotOrder


class Solo:
    """One slot that is the process."""

    name = "solo"
    refused: Mapping[str, str] = {
        **one_process.REFUSED,
        "--concurrency": "it runs one task at a time; leave it out, or use -P prefork",
        "--autoscale": "it runs one task at a time; use -P prefork",
    }
    forks = False
    stands_in = False
    greenlets = None

    def concurrency(self) -> int:
        """One."""
        return 1

    def prepare(self) -> None:
        """Nothing."""

    def serve(self, load: Callable[[], LoadedApp], maker: SlotMaker, channel: Channel) -> None:
        """Runs its slot in the main thread; another thread listens to the supervisor."""
        _SoloHost(load(), maker, channel).serve()


class _SoloHost(one_process.OneProcess):
    """Runs its slot in the main thread, where signals reach it."""

    def __init__(self, app: LoadedApp, maker: SlotMaker, channel: Channel) -> None:
        super().__init__(app, maker, channel)
        #: Slots to run, one after the other; None: the supervisor is gone.
        self._ordered: queue.SimpleQueue[tuple[SlotOrder, int] | None] = queue.SimpleQueue()
        self._seat: int | None = None

    def serve(self) -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: self._strike())
        listener = threading.Thread(target=self._listen, name="host", daemon=True)
        listener.start()
        while (ordered := self._ordered.get()) is not None:
            self._seat = ordered[0].seat
            with self.life(*ordered):
                self.made(*ordered).run()
        listener.join()
        self._maker.close()

    def _listen(self) -> None:
        self.heed_all()
        self._ordered.put(None)

    def start(self, order: SlotOrder, lifeline_fd: int) -> None:
        """Has the main thread run it, when it has no other."""
        self._ordered.put((order, lifeline_fd))

    def interrupt(self, seat: int) -> None:
        """By a signal, which ends a wait in C code too."""
        main = threading.main_thread().ident
        if main is not None and seat == self._seat:
            signal.pthread_kill(main, signal.SIGUSR1)

    def _strike(self) -> None:
        if self._seat is not None:
            super().interrupt(self._seat)
