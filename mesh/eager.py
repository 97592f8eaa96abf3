"""Eager mode: a call runs at once in the process that makes it, and is to the task what a run in a slot is.

The client here takes the place of the real one, so everything before it (checks, options, encoding) and behind it
(`Execution`, decoding, results) is what real calls go through. docs/testing.md lists what can't be the same.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import threading
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from mesh import calling, ids
from mesh.eager_run import Frame, Raised, copied, run_to_its_end
from mesh.exceptions import TaskIdTaken
from mesh.failure_log import log_failure
from mesh.interfaces import Ending, PendingCall, TaskState
from mesh.messages import Assignment, Buffer, Flag, Replies
from mesh.registry import Registry
from mesh.results import AsyncResult
from mesh.settings import Settings
from mesh.states import PENDING, STATE_OF_STATUS, Status

if TYPE_CHECKING:
    from mesh.client import Client
    from mesh.control import Control

logger = logging.getLogger(__name__)

R = TypeVar("R")

#: Outcomes that can be read by id; the oldest go first. More than a test makes, and small ones are a few megabytes.
KEPT_MAX: Final = 10_000


class EagerResult(AsyncResult[R]):
    """The result of a call that has run already. It belongs to the client that ran it, wherever calls go later."""

    __slots__ = ()

    def __init__(self, pending: PendingCall, client: EagerClient, app: object, ignored: bool = False) -> None:
        super().__init__(pending, client, client, ignored)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


class App(Protocol):
    """What eager mode needs of an app."""

    tasks: Registry

    @property
    def settings(self) -> Settings:
        """The settings as they stand."""
        ...

    @property
    def real_client(self) -> Client:
        """The client of the mesh, made on first use."""
        ...

    @property
    def has_real_client(self) -> bool:
        """It is made already."""
        ...


class EagerClient:
    """What calls go to when nothing is sent.

    1. Runs each call as it is submitted, in the calling thread. 2. Keeps outcomes, for whoever asks by id. 3. Leaves to
    the real client what was not called here. Any thread may use it, and tasks that it runs.
    """

    #: What a call gets for a promise.
    result_type: Final = EagerResult
    #: As interfaces.ResultReader.
    delay: Final = ""

    def __init__(self, app: App) -> None:
        self._app = app
        self._hostname = f"eager@{os.uname().nodename}"
        self._prefix = ids.prefix(bytes(ids.OWNER_TAG_BYTES), secrets.randbits(ids.INCARNATION_BITS))
        self._sequence = itertools.count(1)
        #: {custom id, or stamp: its call}, oldest first. Those that run, and those whose outcome is kept.
        self._calls: dict[str | bytes, PendingCall] = {}
        #: Guards `_calls`; notified when a call has ended.
        self._news = threading.Condition()

    # --- as interfaces.Sender --------------------------------------------------------------------

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
        """Runs one call to its end, with all its retries.

        Raises:
            Exception: what `get()` would raise, where `task_eager_propagates` or `apply(throw=True)` asks for it.
        """
        throw = _throws(self._app.settings)
        pending = PendingCall(ids.stamp(self._prefix, next(self._sequence)), (options or {}).get("id"))
        pending.confirmed = True
        raised = None
        if self._admit(pending):
            record = [*Assignment(pending.task_id, name, 0, flags, body, len(frames or ()), options)]
            ending, raised = self._run(pending, record, copied(frames))
        else:
            assert pending.custom_id is not None
            ending, pending.failure = None, TaskIdTaken(pending.custom_id)
        if throw and (ending is None or ending.status != Status.SUCCESS):
            self._raise(pending, ending, raised)
        if raised is not None:
            shown = traceback.format_exception_only(raised.error)[-1].strip()
            log_failure(logger, name, pending.task_id, raised.error, shown, expected=raised.expected)
        return pending

    def batch(self) -> AbstractContextManager[None]:
        """Changes nothing: there is nothing to send."""
        return contextlib.nullcontext()

    # --- running ---------------------------------------------------------------------------------

    def _admit(self, pending: PendingCall) -> bool:
        """Puts a call down; False where another has its id."""
        with self._news:
            if _key(pending) in self._calls:
                return False
            self._calls[_key(pending)] = pending
            while len(self._calls) > KEPT_MAX:
                del self._calls[next(iter(self._calls))]
            return True

    def _run(self, pending: PendingCall, record: list[Any], frames: tuple[Frame, ...]) -> tuple[Ending, Raised | None]:
        """How the call has ended, and what its task has failed for. What a caller may know of it is put down."""
        ending = None
        token = calling.eager_run.set(calling.EagerRun())
        try:
            ran, raised = run_to_its_end(self._app.tasks, self._hostname, record, frames)
            ending = Ending(ran.status, ran.body, tuple(bytes(frame) for frame in ran.frames))
            return ending, raised
        finally:
            calling.eager_run.reset(token)
            self._ended(pending, ending, bool(record[3] & Flag.IGNORE_RESULT))

    def _ended(self, pending: PendingCall, ending: Ending | None, ignored: bool) -> None:
        """An ignored outcome is nobody's, unless it is mesh that says the task was not run."""
        with self._news:
            if ending is None or (ignored and ending.status != Status.REVOKED):
                self._calls.pop(_key(pending), None)
            else:
                pending.ending = ending
            self._news.notify_all()

    def _raise(self, pending: PendingCall, ending: Ending | None, raised: Raised | None) -> None:
        """Raises what `get()` would raise; its traceback leads into the task, for a debugger to follow."""
        shown = PendingCall(pending.task_id, pending.custom_id)
        shown.ending, shown.failure = ending, pending.failure
        failure = EagerResult[Any](shown, self, None).get(propagate=False)
        raise failure.with_traceback(raised.error.__traceback__ if raised is not None else None)

    # --- as interfaces.ResultReader --------------------------------------------------------------

    def wait(self, pending: PendingCall, timeout_s: float | None) -> bool:
        """As interfaces.ResultReader."""
        beyond = None if self._knows(_key(pending)) else self._beyond()
        if beyond is not None:
            return beyond.wait(pending, timeout_s)
        patience_s = None if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX)
        with self._news:
            return self._news.wait_for(lambda: self._has_ended(pending), patience_s)

    def wait_confirmed(self, pending: PendingCall, timeout_s: float | None) -> bool:
        """As interfaces.ResultReader. What runs here is confirmed from the start."""
        beyond = self._beyond()
        return pending.confirmed if beyond is None else beyond.wait_confirmed(pending, timeout_s)

    def watch(self, task_id: bytes | str) -> PendingCall:
        """As interfaces.ResultReader."""
        with self._news:
            known = self._calls.get(task_id)
        if known is not None:
            return known
        beyond = None if self._knows(task_id) else self._beyond()
        if beyond is not None:
            return beyond.watch(task_id)
        unknown = PendingCall(b"", task_id) if isinstance(task_id, str) else PendingCall(task_id)
        unknown.confirmed = True
        return unknown

    def states(self, ids: Iterable[bytes | str], timeout_s: float) -> list[TaskState]:
        """As interfaces.ResultReader."""
        return [self._state(one, timeout_s) for one in ids]

    def _state(self, asked: bytes | str, timeout_s: float) -> TaskState:
        beyond = None if self._knows(asked) else self._beyond()
        if beyond is not None:
            return beyond.states([asked], timeout_s)[0]
        with self._news:
            known = self._calls.get(asked)
        if known is None:
            return TaskState(None, PENDING, None)
        state = PENDING if known.ending is None else STATE_OF_STATUS[Status(known.ending.status)]
        return TaskState(known.task_id, state, {"known": True})

    def _has_ended(self, pending: PendingCall) -> bool:
        known = self._calls.get(_key(pending))
        if known is not None and known.ending is not None:
            pending.ending = known.ending
        return pending.ending is not None or pending.failure is not None

    def _knows(self, task_id: bytes | str) -> bool:
        """The call was made here."""
        with self._news:
            return task_id in self._calls or (isinstance(task_id, bytes) and task_id.startswith(self._prefix))

    def _beyond(self) -> Client | None:
        """Who knows of other calls. Where all are eager nobody is connected to for that alone."""
        if self._app.settings.task_always_eager and not self._app.has_real_client:
            return None
        return self._app.real_client

    # --- as interfaces.ControlLink ---------------------------------------------------------------

    def request(
        self, command: str, arguments: dict[str, Any], destination: list[str] | None, timeout_s: float
    ) -> Replies:
        """Asks the mesh; but for `revoke` of calls that were made here, which is too late."""
        if command != "revoke":
            return self._app.real_client.request(command, arguments, destination, timeout_s)
        here = [[one, "ended"] for one in arguments["ids"] if self._knows(one)]
        others = [one for one in arguments["ids"] if not self._knows(one)]
        beyond = self._beyond() if others else None
        if beyond is None:
            fates = [*here, *([one, "unknown"] for one in others)]
            return Replies(0, {"router": {"fates": fates}}, {})
        replies = beyond.request(command, {**arguments, "ids": others}, destination, timeout_s)
        if not replies.errors:
            replies.values["router"]["fates"] += here
        return replies

    # --- as results.ResultSource, for its own results -----------------------------------------------

    @property
    def client(self) -> EagerClient:
        """Itself."""
        return self

    @property
    def settings(self) -> Settings:
        """Those of its app."""
        return self._app.settings

    @property
    def tasks(self) -> Registry:
        """Those of its app."""
        return self._app.tasks

    @property
    def control(self) -> Control:
        """What says that it is too late to revoke."""
        from mesh.control import Control

        return Control(self)


def _key(pending: PendingCall) -> str | bytes:
    """How others ask for the call."""
    return pending.custom_id or pending.task_id


def _throws(settings: Settings) -> bool:
    """Whether this call is to raise what its task raises."""
    run = calling.eager_run.get()
    return settings.task_eager_propagates if run is None or run.throw is None else run.throw
