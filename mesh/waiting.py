"""A task that waits for another one: whoever hosts it is told, so that the other one has a slot to run in."""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import Protocol


class Host(Protocol):
    """What runs the task."""

    def begins_to_wait(self) -> None:
        """The task waits from here on. Raises WouldDeadlock where it must not."""

    def waited(self) -> None:
        """The task goes on."""


_host: ContextVar[Host | None] = ContextVar("mesh host", default=None)


def set_host(host: Host | None) -> None:
    """Tasks that run in this thread or coroutine from here on are run by this host."""
    _host.set(host)


class Waiting:
    """`with Waiting(): …` around whatever waits for a task. Does nothing outside of a task."""

    __slots__ = ("_host",)

    def __init__(self) -> None:
        self._host = _host.get()

    def __enter__(self) -> None:
        if self._host is not None:
            self._host.begins_to_wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._host is not None:
            self._host.waited()
