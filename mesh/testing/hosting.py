"""Slots as threads of their supervisor's process, which can't be killed: one that is killed is left alone instead.

For everybody else it has ended then: its sockets are closed, its page and its seat are its successor's, and what its
run returns is nobody's. Its thread ends with the task, in which `TaskInterrupted` is raised.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from mesh.core.work import Lease
from mesh.execution import Execution, Ran
from mesh.ids import to_text
from mesh.pools.hosting import Channel, HostLine, LoadedApp, SlotOrder
from mesh.pools.one_process import peak_kib
from mesh.pools.threads import ThreadHost, Threads
from mesh.slot import Slot
from mesh.slot_maker import Slots
from mesh.slot_page import SETTLE_S, SlotPage

#: How long a slot may be between its page and its task, before it counts as one that can't be killed.
_BETWEEN_S: Final = 1.0


class InProcess(Threads):
    """Slots are threads beside their supervisor."""

    name = "in-process"


class _Left(BaseException):
    """This thread's slot was killed."""


class _Slot(Slot):
    """As its base, and can be killed. From then on its thread touches nothing that is not its own."""

    def __init__(self, order: SlotOrder, lifeline_fd: int, page: SlotPage, execution: Execution, *shared: Any) -> None:
        super().__init__(order, lifeline_fd, page, execution, *shared)
        #: Held by who kills it, and by threads of the task that tell of their waiting.
        self._fence = threading.Lock()
        self._is_killed = False

    def kill(self, still_runs: Callable[[], bool] | None = None) -> str:
        """Ends it in the middle of a run, by default of whatever it runs. What that is; empty where it has ended."""
        give_up_mono_s = time.monotonic() + _BETWEEN_S
        while time.monotonic() < give_up_mono_s:
            with self._fence:
                running = self._page.running(self._seat)
                if running is None or (still_runs is not None and not still_runs()):
                    return ""
                if self._execution.interruption.kill():
                    self._is_killed = True
                    self._disconnect()
                    return f"{running.name}[{to_text(running.task_id)}]"
            time.sleep(SETTLE_S)  # its task is about to begin, or has just ended
        return ""

    def run(self) -> None:
        """As its base."""
        with contextlib.suppress(_Left):
            super().run()

    def begins_to_wait(self) -> None:
        """As its base."""
        with self._fence:
            if not self._is_killed:
                super().begins_to_wait()

    def waited(self) -> None:
        """As its base."""
        with self._fence:
            if not self._is_killed:
                super().waited()

    def _end(self, lease: Lease, begun_ns: int, ran: Ran) -> None:
        with self._fence:
            if self._is_killed:
                raise _Left
            super()._end(lease, begun_ns, ran)

    def _end_if_crippled(self) -> None:
        """Nothing: the process is not the slot's to end."""

    def close(self) -> None:
        """As its base, but for what was closed when it was killed."""
        if not self._is_killed:
            super().close()
            return
        self._execution.close()
        self._page.close()


class _SlotMaker(Slots):
    """Makes such slots."""

    slot_type = _Slot
    owns_process = False


class _SlotThreads(ThreadHost):
    """As its base, and kills slots."""

    def __init__(self, app: LoadedApp, channel: Channel) -> None:
        super().__init__(app, _SlotMaker(), channel)
        #: {thread of a slot that was killed: what it runs}
        self.left_alone: dict[threading.Thread, str] = {}
        #: A slot ends in one way: by itself, or killed.
        self._ending = threading.Lock()

    def kill(self, seat: int, still_runs: Callable[[], bool] | None = None) -> bool:
        """As `_Slot.kill`, and tells of its end. The supervisor's thread."""
        with self._ending:
            slot = self._slots.get(seat)
            what = slot.kill(still_runs) if isinstance(slot, _Slot) else ""
            if not what:
                return False
            self.left_alone[self._threads.pop(seat)] = what
            self._forget(seat, signal.SIGKILL)
            return True

    def ended(self, seat: int, status: int) -> None:
        """As its base, unless the slot was killed."""
        with self._ending:
            if threading.current_thread() not in self.left_alone:
                self._forget(seat, status)

    def _forget(self, seat: int, status: int) -> None:
        super().ended(seat, status)


class InProcessHost(HostLine):
    """The supervisor's handle, as `pools.hosting.Host`: threads, and the socket to that which starts them."""

    kills_one = True

    def __init__(self, app: LoadedApp) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(os.getpid(), ours)
        channel = Channel(theirs)
        self._slots = _SlotThreads(app, channel)
        channel.say("loaded", {**app.info, "obstacle": ""})
        #: It was told to end, and has, but for the threads that were left alone.
        self.closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(channel,), name="mesh host", daemon=True)
        self._thread.start()

    def _serve(self, channel: Channel) -> None:
        try:
            self._slots.serve()
        finally:
            channel.close()

    def kill_run(self, seat: int, pid: int, still_runs: Callable[[], bool], number: int = signal.SIGKILL) -> bool:
        """As `Host.kill_run`, whatever the signal."""
        return self._slots.kill(seat, still_runs)

    def kill_slot(self, seat: int, pid: int) -> None:
        """As `Host.kill_slot`; a slot that runs nothing ends without it."""
        self._slots.kill(seat)

    def kill(self) -> None:
        """Nothing: `close` ends it."""

    def close(self) -> tuple[int, int]:
        """As `Host.close`."""
        if not self.closed.is_set():
            self.forget()
            self._thread.join()
            self.closed.set()
        return 0, peak_kib()

    def left_running(self) -> list[str]:
        """The tasks of slots that were killed, which have not heard of it yet."""
        return [what for thread, what in self._slots.left_alone.items() if thread.is_alive()]
