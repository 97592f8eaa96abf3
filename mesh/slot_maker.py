"""Makes the slots of a process, whichever pool runs them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

from mesh import transport
from mesh.core.limits import RunLimits
from mesh.execution import Execution
from mesh.failure_log import log_failure
from mesh.interruption import SYSTEM_THREADS, Interruption, Threads
from mesh.pools import hosting
from mesh.pools.hosting import LoadedApp, SlotOrder
from mesh.slot import Slot
from mesh.slot_page import SlotPage

if TYPE_CHECKING:
    from mesh.coroutines import SharedLoop

logger = logging.getLogger("mesh.slot")


class Slots:
    """As `hosting.SlotMaker`. Slots that share a process share a ZeroMQ context."""

    #: What it makes.
    slot_type: type[Slot] = Slot
    #: Its process has no other purpose; signals there are the node's to heed.
    owns_process = True

    def __init__(self) -> None:
        self._context: Any = None
        self._resets_signals = False
        #: Slots that are threads are made by several at once.
        self._preparing = threading.Lock()
        self._threads: Threads = SYSTEM_THREADS
        #: Of all slots; None: each has one of its own.
        self._loop: SharedLoop | None = None

    def use(self, greenlets: hosting.Greenlets) -> None:
        """As `hosting.SlotMaker`."""
        from mesh.coroutines import SharedLoop

        transport.wait_for_descriptor = greenlets.wait
        self._threads = greenlets
        self._loop = SharedLoop()

    def make(self, app: LoadedApp, order: SlotOrder, lifeline_fd: int) -> Slot:
        """A slot of this app."""
        page = SlotPage(order.page_path, order.seats, create=False)
        interruption = Interruption(lambda: page.is_cancelled(order.seat), self._threads, shared=order.shares_process)
        execution = Execution(app.registry, order.node, _log, RunLimits(*order.limits), interruption, self._loop)
        with self._preparing:
            self._prepare_process(order)
        return self.slot_type(order, lifeline_fd, page, execution, self._context, self._loop)

    def _prepare_process(self, order: SlotOrder) -> None:
        """For the first slot."""
        if self.owns_process and not self._resets_signals:
            self._resets_signals = True
            os.register_at_fork(
                before=_hold_signals, after_in_parent=_release_signals, after_in_child=_take_signals_as_ever
            )
        if order.shares_process and self._context is None:
            self._context = transport.context()

    def close(self) -> None:
        """Sends what is still to be sent."""
        if self._context is not None:
            self._context.term()
            self._context = None


def _log(name: str, task_id: bytes, error: BaseException, expected: bool) -> None:
    log_failure(logger, name, task_id, error, _shown(error), expected=expected)


def _shown(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:
        return f"{type(error).__name__} (whose repr raises)"


#: What a slot has handlers for, and a program does not.
_SIGNALS: Final = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1)
#: What a thread that forks had blocked before.
_before_fork = threading.local()


def _hold_signals() -> None:
    """One that comes for a child before that takes it as a program does is kept for it."""
    _before_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*_SIGNALS, signal.SIGINT))


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before_fork.mask)


def _take_signals_as_ever() -> None:
    """What a task forks is no slot: signals end it, as its author expects."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    _release_signals()
