"""AsyncResult: a promise of what a call returns, wherever the call was made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from mesh import ids, states
from mesh.exceptions import InvalidCall, NoCurrentApp, OptionNotAvailable, TaskRevokedError, TimeoutError
from mesh.interfaces import Ending, PendingCall, ResultReader
from mesh.settings import Settings
from mesh.waiting import Waiting

R = TypeVar("R")

_UNREAD: Final = object()
_SUCCESS: Final = int(states.Status.SUCCESS)
_REVOKED: Final = int(states.Status.REVOKED)


class ResultSource(Protocol):
    """What results need of an app."""

    @property
    def client(self) -> ResultReader:
        """The client in use now; another one after a fork or a close."""
        ...

    @property
    def settings(self) -> Settings:
        """The settings as they stand."""
        ...

    @property
    def control(self) -> Any:
        """What asks the router to revoke."""
        ...

    @property
    def tasks(self) -> Any:
        """{name: Task}"""
        ...


class _Default:
    """The app made last in this process, which unpickled results and tasks belong to."""

    __slots__ = ("source",)

    def __init__(self) -> None:
        self.source: ResultSource | None = None


_default: Final = _Default()


def set_default_source(source: ResultSource | None) -> None:
    """Makes an app the process's own."""
    _default.source = source


def current_source() -> ResultSource | None:
    """The process's app, where there is one."""
    return _default.source


def default_source(what: str) -> ResultSource:
    """The process's app. Raises NoCurrentApp, which names `what` needs it."""
    if _default.source is None:
        raise NoCurrentApp(what)
    return _default.source


class AsyncResult(Generic[R]):
    """The state and result of one call. Any thread may use it.

    Equal and hashed by id. It can be pickled: what is unpickled belongs to the app made last in that process, and reads
    the outcome from the router like any other process that knows the id.
    """

    __slots__ = ("__weakref__", "_id", "_ignored", "_pending", "_reader", "_source", "_value")

    def __init__(
        self, pending: PendingCall | None, reader: ResultReader | None, source: ResultSource, ignored: bool = False
    ) -> None:
        #: None until the outcome of a call made elsewhere is asked for.
        self._pending = pending
        #: The client that fills in `_pending`.
        self._reader = reader
        self._source = source
        self._ignored = ignored
        self._id: str | None = None
        #: What the call returned or raised, once decoded.
        self._value: Any = _UNREAD

    @classmethod
    def from_id(cls, task_id: str, source: ResultSource) -> AsyncResult[Any]:
        """The result of a call made anywhere, by its id; asks nobody yet."""
        result = cls(None, None, source)
        result._id = task_id
        return result

    @property
    def id(self) -> str:
        """The id that the caller chose, or mesh's own in the form of a UUID."""
        if self._id is None:
            assert self._pending is not None
            self._id = self._pending.custom_id or ids.to_text(self._pending.task_id)
        return self._id

    task_id = id

    @property
    def ignored(self) -> bool:
        """The call was made with ignore_result."""
        return self._ignored

    # --- waiting -----------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, R], object] | None = None,
        on_message: None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Waits for the task's value and returns it; None at once where the result is ignored. Once there, it stays.

        `timeout` is in seconds; None waits for as long as it takes. With `propagate=False` the exception of a task that
        failed is returned and not raised. `callback(id, value)` is called before the value is returned. Results are
        pushed, so Celery's `interval`, `on_interval` and `no_ack` have nothing to act on; `follow_parents` and
        `disable_sync_subtasks` are accepted as well and change nothing.

        Raises:
            TimeoutError: the time is over. The task goes on.
            TaskRevokedError: the task was revoked, or expired before it began.
            Exception: what the task raised, of its own type, with the remote traceback in its text.
            MeshError: the call could not be delivered, or its outcome is lost; also with `propagate=False`.
        """
        if on_message is not None:
            raise OptionNotAvailable("get", "on_message", "mesh does not offer it yet; leave it out")
        if timeout is not None and not _is_seconds(timeout):
            raise InvalidCall("timeout", timeout, "seconds as a number, or None to wait for as long as it takes")
        if self._ignored:
            return None  # type: ignore[return-value]
        ending = self._ending(timeout)
        if ending.status != _SUCCESS and propagate:
            raise _failure(
                self.id, ending
            )  # a fresh one each time: a kept one would hold the frames it was raised through
        value = self._decoded(ending)
        if callback is not None:
            callback(self.id, value)
        return value  # type: ignore[no-any-return]

    wait = get

    def confirmed(self, timeout: float | None = None) -> bool:
        """Waits until the router answers for the call: from then on it is not lost. False where that takes too long.

        Of a call made elsewhere nobody is asked: True at once.

        Raises:
            OperationalError: the router refused the call, and why.
        """
        pending, reader = self._live()
        if not pending.confirmed and pending.ending is None and pending.failure is None:
            reader.wait_confirmed(pending, timeout)
        if pending.failure is not None and pending.ending is None:
            raise _clean(pending.failure)
        return pending.confirmed or pending.ending is not None

    def revoke(self, *, terminate: bool = False, signal: Any = None, timeout: float = 1.0) -> str:
        """Ends the call where it has not begun; whoever waits gets TaskRevokedError. What became of it, in a word.

        As `app.control.revoke`.
        """
        self._is_with_the_router(timeout)
        fates = self._source.control.revoke(self.id, terminate=terminate, signal=signal, timeout=timeout)
        fate: str = fates[self.id]
        return fate

    def _is_with_the_router(self, timeout_s: float) -> None:
        """Waits until the router knows of a call of this process; a request goes another way and might be faster."""
        pending, reader = self._pending, self._reader
        if pending is not None and reader is not None and not (pending.confirmed or pending.ending or pending.failure):
            reader.wait_confirmed(pending, timeout_s)

    @property
    def durability(self) -> str | None:
        """What the call survives, by its router's confirm: "none", "journaled" or "synced".

        None before the confirm, where the outcome came before it, and for a call that somebody else made.
        """
        level = self._pending.durability if self._pending is not None else None
        return None if level is None else level.name.lower()

    # --- looking -----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """PENDING (also for unknown ids), STARTED (where tracked), RETRY, SUCCESS, FAILURE or REVOKED.

        FAILURE too where the call was refused, or its outcome is lost or not kept any more; `result` says so then.

        Raises:
            RouterUnreachable: the router has to be asked and does not answer.
        """
        return self._look()[0]

    status = state

    @property
    def result(self) -> Any:
        """The value; the exception where there is none, in state RETRY too; a dict while STARTED; else None."""
        state, info = self._look()
        pending = self._pending
        if pending is not None and pending.ending is not None and not self._ignored:
            return self._decoded(pending.ending)
        if pending is not None and pending.failure is not None:
            return pending.failure
        if state == states.RETRY and info is not None:
            return _decode_reason(info["reason"])
        return info if state == states.STARTED else None

    info = result

    @property
    def traceback(self) -> str | None:
        """The remote traceback of a task that failed, as text; else None."""
        failure = self.result if self.state in states.PROPAGATE_STATES else None
        return getattr(failure, "remote_traceback", None)

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether the task has returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether the task has raised, or was lost."""
        return self.state == states.FAILURE

    def forget(self) -> None:
        """Releases what this object holds. The router keeps its copy until `result_expires`; get() reads that."""
        self._id = self.id
        self._pending = self._reader = None
        self._value = _UNREAD

    # --- within ------------------------------------------------------------------------------------

    def _live(self) -> tuple[PendingCall, ResultReader]:
        """The call, and the client that fills it in; after a fork or a close the new client watches it."""
        pending, reader = self._pending, self._reader
        if pending is not None and reader is not None:
            ended = pending.ending is not None or pending.failure is not None
            if ended or reader is self._source.client:
                return pending, reader
        reader = self._source.client
        pending = reader.watch(ids.from_text(self.id) or self.id)
        self._pending, self._reader = pending, reader
        return pending, reader

    def _ending(self, timeout: float | None) -> Ending:
        pending, reader = self._live()
        if pending.ending is None and pending.failure is None and not _waited(reader, pending, timeout):
            raise TimeoutError(
                f"the result of task {self.id}",
                timeout or 0.0,
                "The task goes on: call get() again, look at .state, "
                f"or read it from any process with app.AsyncResult({self.id!r}).",
            )
        if pending.ending is not None:
            return pending.ending
        assert pending.failure is not None
        raise _clean(pending.failure)

    def _decoded(self, ending: Ending) -> Any:
        if self._value is _UNREAD:
            if ending.status == _SUCCESS:
                self._value = _decode_value(ending.body, ending.frames)
            else:
                self._value = _failure(self.id, ending)
        return self._value

    def _look(self) -> tuple[str, dict[str, Any] | None]:
        """The state, and what the owner says beside it. Where the task has ended its outcome is fetched too."""
        pending = self._pending
        known = _known_state(pending)
        if known is not None:
            return known, None
        reader = self._source.client
        asked = pending.custom_id or pending.task_id if pending is not None else ids.from_text(self.id) or self.id
        patience_s = self._source.settings.broker_connection_timeout
        answer = reader.states([asked], patience_s)[0]
        is_gone = answer.info is not None and bool(answer.info.get("gone"))
        if (answer.state in states.READY_STATES or is_gone) and not self._ignored:
            pending, reader = self._live()
            reader.wait(pending, patience_s)
            return _known_state(pending) or answer.state, answer.info
        return answer.state, answer.info

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, AsyncResult) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.id, self._ignored)


def _waited(reader: ResultReader, pending: PendingCall, timeout_s: float | None) -> bool:
    """Waits for the outcome; in a task another slot may run meanwhile what it waits for."""
    with Waiting():
        return reader.wait(pending, timeout_s)


def _unpickled(task_id: str, ignored: bool) -> AsyncResult[Any]:
    result: AsyncResult[Any] = AsyncResult.from_id(task_id, default_source("a result that is unpickled"))
    result._ignored = ignored
    return result


def _known_state(pending: PendingCall | None) -> str | None:
    """The state of a call whose end is known here, else None."""
    if pending is None:
        return None
    if pending.ending is not None:
        return states.STATE_OF_STATUS[states.Status(pending.ending.status)]
    return None if pending.failure is None else states.FAILURE


def _is_seconds(timeout: object) -> bool:
    return isinstance(timeout, int | float) and not math.isnan(timeout)


def _decode_reason(body: bytes) -> BaseException:
    from mesh.remote_errors import decode_exception

    return decode_exception(body)


def _decode_value(body: bytes, frames: Any) -> Any:
    from mesh.bodies import decode_value

    return decode_value(body, [getattr(frame, "buffer", frame) for frame in frames] if frames else ())


def _failure(task_id: str, ending: Ending) -> BaseException:
    """The exception of a task that has no value."""
    from mesh.remote_errors import decode_exception

    failure: BaseException | None = decode_exception(ending.body) if ending.body else None
    if ending.status == _REVOKED and not isinstance(failure, TaskRevokedError):
        return TaskRevokedError(
            str(failure) if failure is not None else f"task {task_id} was revoked, or expired, before it began."
        )
    return failure if failure is not None else TaskRevokedError(f"task {task_id} ended without a reason.")


def _clean(failure: BaseException) -> BaseException:
    """The exception as it came, however often it has been raised here."""
    failure.__context__ = None
    return failure.with_traceback(None)
