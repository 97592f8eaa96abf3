"""Running one task: find it, decode its arguments, call it, encode what came of it.

Whatever user code does ends as an outcome.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple

from mesh.bodies import decode_call, encode_value
from mesh.exceptions import NotRegistered, Retry, UndecodableBody, UnserialisableArgument
from mesh.messages import Buffer, Unrunnable
from mesh.registry import Registry, TaskDefinition
from mesh.remote_errors import encode_exception
from mesh.request import enter_request, leave_request
from mesh.states import Status

#: Frames of mesh's own at the top of a remote traceback, which say nothing to the user.
_OWN_FRAMES: Final = 1

Call = tuple[bytes, tuple[Buffer, ...]]  #: body and frames of a call


class Ran(NamedTuple):
    """What came of one run."""

    status: int  #: RETRY: the task asks for another run
    body: bytes  #: encoded value; or exception, which for RETRY is the reason
    frames: tuple[Buffer, ...] = ()
    eta_wall_s: float = 0.0  #: RETRY: when to run again
    call: Call | None = None  #: RETRY: the arguments of the next run, where they are others
    cause: str | None = None  #: FAILURE: why it could not run at all, one of `Unrunnable`


class Execution:
    """Runs tasks of one registry, one at a time, in the thread that calls it."""

    def __init__(
        self, registry: Registry, hostname: str, on_error: Callable[[str, bytes, BaseException, bool], None]
    ) -> None:
        self._registry = registry
        self._hostname = hostname
        #: Called with (task name, task id, exception, whether the task lists it in `throws`).
        self._on_error = on_error

    def run(self, record: list[Any], frames: tuple[Buffer, ...]) -> Ran:
        """Runs one Assignment record. Never raises."""
        task_id, name, attempt, flags, body, _, options = record
        try:
            definition = self._registry.find(name)
            args, kwargs = decode_call(body, [frame.buffer for frame in frames] if frames else ())
        except NotRegistered:
            ran = self._failure(name, task_id, NotRegistered(name, self._hostname), None, None)
            return ran._replace(cause=Unrunnable.UNKNOWN)
        except UndecodableBody as error:
            ran = self._failure(name, task_id, error, error.__traceback__, None)
            return ran._replace(cause=Unrunnable.UNDECODABLE)
        try:
            enter_request(task_id, name, attempt, flags, options, self._hostname, args, kwargs)
            try:
                value = (
                    definition.run(definition.task, *args, **kwargs)
                    if definition.bind
                    else definition.run(*args, **kwargs)
                )
            finally:
                leave_request()
            document, own = encode_value(value)
            return Ran(Status.SUCCESS, document, tuple(own) if own else ())
        except Retry as retry:
            return self._retry(retry)
        except UnserialisableArgument as error:
            error.add_note(f"in what task {name} returned")
            return self._failure(name, task_id, error, error.__traceback__, definition)
        except BaseException as error:
            return self._failure(name, task_id, error, error.__traceback__, definition)

    def _failure(
        self,
        name: str,
        task_id: bytes,
        error: BaseException,
        trace: TracebackType | None,
        definition: TaskDefinition | None,
    ) -> Ran:
        own = trace
        for _ in range(_OWN_FRAMES):
            own = own.tb_next if own is not None else None
        expected = definition is not None and isinstance(error, definition.throws)
        self._on_error(name, task_id, error, expected)
        try:
            text = "".join(traceback.format_exception(type(error), error, own or trace))
        except Exception:
            text = f"{type(error).__name__} (its traceback can't be shown)"
        return Ran(Status.FAILURE, encode_exception(error, text))

    @staticmethod
    def _retry(retry: Retry) -> Ran:
        call = None if retry.call is None else (retry.call[0], tuple(retry.call[1] or ()))
        return Ran(Status.RETRY, encode_exception(retry.reason or retry, ""), (), retry.eta_wall_s, call)
