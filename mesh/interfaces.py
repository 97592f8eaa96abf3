"""What the user-facing layers need from a client, so that they need not know sockets or threads."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from mesh.messages import Buffer, Durability, Replies


class Ending(NamedTuple):
    """How a task ended, as the caller has it."""

    status: int  #: states.Status
    body: bytes  #: encoded value, or encoded exception where status is not SUCCESS
    frames: tuple[Buffer, ...]


class TaskState(NamedTuple):
    """Where a task is, as its owner says."""

    task_id: bytes | None  #: None where nothing is known of it
    state: str  #: as in states: PENDING (unknown or queued), STARTED, SUCCESS ...
    info: (
        dict[str, Any] | None
    )  #: e.g. {"queue": ..., "known": True} or {"pid": ..., "hostname": ..., "started": wall_s}


class PendingCall:
    """A call that this process made or watches. The client's reactor fills it in; others only read."""

    __slots__ = ("__weakref__", "confirmed", "custom_id", "durability", "ending", "failure", "task_id", "waiter")

    def __init__(self, task_id: bytes, custom_id: str | None = None) -> None:
        self.task_id = task_id
        self.custom_id = custom_id
        #: How it ended; None until that is known here.
        self.ending: Ending | None = None
        #: The router has answered for it (or has refused it: see `failure`).
        self.confirmed = False
        #: Which level the confirm vouched for; None until then.
        self.durability: Durability | None = None
        #: Why it was never accepted, or can't be answered. Raised by whoever waits.
        self.failure: Exception | None = None
        #: Set while a thread waits that is not the reactor's owner.
        self.waiter: Any = None


class Sender(Protocol):
    """Takes calls. Any thread may call it."""

    def submit(
        self,
        name: str,
        queue: str,
        priority: int,
        flags: int,
        body: bytes,
        frames: list[Buffer] | None,
        options: dict[str, Any] | None,
    ) -> PendingCall:
        """Sends one call and returns at once; connects (and starts a router where none is) on first use.

        Raises:
            RouterUnreachable: no router answered on first use.
            SubmitBlocked: the table of unconfirmed calls stayed full.
        """
        ...

    def batch(self) -> AbstractContextManager[None]:
        """What is submitted inside by this thread leaves together at the end, in few messages."""
        ...


class ResultReader(Protocol):
    """Tells how calls ended. Any thread may call it."""

    def wait(self, pending: PendingCall, timeout_s: float | None) -> bool:
        """Waits until `pending.ending` or `pending.failure` is set; False on time-out."""
        ...

    def wait_confirmed(self, pending: PendingCall, timeout_s: float | None) -> bool:
        """Waits until the router has confirmed or refused the call; False on time-out."""
        ...

    @property
    def delay(self) -> str:
        """Why the router does not confirm calls now, as it says; empty where nothing is in the way."""
        ...

    def watch(self, task_id: bytes | str) -> PendingCall:
        """A call made elsewhere, by id or custom id; its ending comes here when there is one."""
        ...

    def states(self, ids: Iterable[bytes | str], timeout_s: float) -> list[TaskState]:
        """Where these tasks are now, in the order asked."""
        ...


class ControlLink(Protocol):
    """Asks the router and its nodes."""

    def request(
        self, command: str, arguments: dict[str, Any], destination: list[str] | None, timeout_s: float
    ) -> Replies:
        """All answers, as soon as every known node has answered, and who did not and why."""
        ...
