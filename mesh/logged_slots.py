"""Slots whose tasks print into the log, and that have a log of their own where its path says so."""

from __future__ import annotations

import logging

from mesh import logs, task_output
from mesh.pools.hosting import Greenlets, HostedSlot, LoadedApp, SlotMaker, SlotOrder

logger = logging.getLogger(__name__)


class LoggedSlots:
    """Makes the slots of another SlotMaker. 1. Gives a slot's process its log. 2. Captures what tasks print."""

    def __init__(self, maker: SlotMaker) -> None:
        self._maker = maker
        #: This process is as it should be.
        self._is_ready = False

    def make(self, app: LoadedApp, order: SlotOrder, lifeline_fd: int) -> HostedSlot:
        """As `SlotMaker.make`. Slots that share a process log with the node."""
        if not self._is_ready:
            self._is_ready = True
            if not order.shares_process:
                _enter_child(order.seat)
            level = app.info["redirect_stdouts"]
            if level:
                task_output.capture(logs.level_number(level))
        return self._maker.make(app, order, lifeline_fd)

    def use(self, greenlets: Greenlets) -> None:
        """As `SlotMaker.use`."""
        self._maker.use(greenlets)

    def close(self) -> None:
        """As `SlotMaker.close`."""
        self._maker.close()


def _enter_child(seat: int) -> None:
    try:
        logs.enter_child(seat + 1)
    except OSError as error:
        logger.error("slot %d has no log of its own: %s", seat, error, extra={"action": "log_unavailable"})
