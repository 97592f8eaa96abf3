"""A client that keeps what it is given and answers what the test says: `Sender` and `ResultReader` without a mesh."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mesh import Mesh, ids
from mesh.bodies import decode_call, encode_value
from mesh.interfaces import Ending, PendingCall, TaskState
from mesh.messages import Durability
from mesh.remote_errors import encode_exception
from mesh.settings import Settings
from mesh.states import Status

PREFIX = ids.prefix(b"owner!", 5)


class Sent(NamedTuple):
    """One call as it reached the client."""

    name: str
    queue: str
    priority: int
    flags: int
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any] | None
    pending: PendingCall


class Recorder:
    """1. Records calls. 2. Ends them when told to. 3. Answers about states from `known`."""

    #: As interfaces.ResultReader.
    delay = ""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings
        self.sent: list[Sent] = []
        self.watched: list[bytes | str] = []
        self.asked: list[bytes | str] = []
        #: {id: what the owner says}
        self.known: dict[bytes | str, TaskState] = {}
        #: {id: outcome that comes to whoever waits for it}
        self.outcomes: dict[bytes | str, Ending] = {}
        self.batches = 0
        self.closed = False
        self._news = threading.Condition()

    def submit(self, name, queue, priority, flags, body, frames, options) -> PendingCall:
        pending = PendingCall(ids.stamp(PREFIX, len(self.sent) + 1), (options or {}).get("id"))
        args, kwargs = decode_call(body, frames or ())
        self.sent.append(Sent(name, queue, priority, flags, args, kwargs, options, pending))
        return pending

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        self.batches += 1
        yield

    def wait(self, pending: PendingCall, timeout_s: float | None) -> bool:
        with self._news:
            pending.ending = pending.ending or self.outcomes.get(pending.custom_id or pending.task_id)
            return self._news.wait_for(lambda: bool(pending.ending or pending.failure), timeout_s)

    def wait_confirmed(self, pending: PendingCall, timeout_s: float | None) -> bool:
        with self._news:
            return self._news.wait_for(lambda: bool(pending.confirmed or pending.failure), timeout_s)

    def watch(self, task_id: bytes | str) -> PendingCall:
        self.watched.append(task_id)
        return PendingCall(b"", task_id) if isinstance(task_id, str) else PendingCall(task_id)

    def states(self, asked: Iterable[bytes | str], timeout_s: float) -> list[TaskState]:
        asked = list(asked)
        self.asked += asked
        return [self.known.get(one, TaskState(None, "PENDING", None)) for one in asked]

    def close(self) -> None:
        self.closed = True

    # --- what the test makes happen ----------------------------------------------------------------

    def returns(self, pending: PendingCall, value: object) -> None:
        self.ends(pending, succeeded(value))

    def raises(self, pending: PendingCall, error: BaseException, traceback_text: str = "Traceback: there\n") -> None:
        self.ends(pending, Ending(Status.FAILURE, encode_exception(error, traceback_text), ()))

    def ends(self, pending: PendingCall, ending: Ending) -> None:
        with self._news:
            pending.ending = ending
            self._news.notify_all()

    def confirms(self, pending: PendingCall, level: Durability = Durability.JOURNALED) -> None:
        with self._news:
            pending.confirmed = True
            pending.durability = level
            self._news.notify_all()

    def refuses(self, pending: PendingCall, error: Exception) -> None:
        with self._news:
            pending.failure = error
            self._news.notify_all()


def succeeded(value: object) -> Ending:
    """The outcome of a task that returned this."""
    body, frames = encode_value(value)
    return Ending(Status.SUCCESS, body, tuple(frames or ()))


class RecordingMesh(Mesh):
    """An app whose clients are recorders."""

    def _open_client(self, settings: Settings) -> Any:
        self.opened = [*self.__dict__.get("opened", []), Recorder(settings)]
        return self.opened[-1]

    @property
    def last(self) -> Sent:
        sent: Sent = self.opened[-1].sent[-1]
        return sent
