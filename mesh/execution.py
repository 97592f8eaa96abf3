"""Running one task: find it, decode its arguments, call it, encode what came of it.

Whatever user code does ends as an outcome.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple

from mesh.bodies import decode_call, encode_value
from mesh.core.limits import RunLimits
from mesh.exceptions import NotRegistered, Retry, SoftTimeLimitExceeded, UndecodableBody, UnserialisableArgument
from mesh.messages import LIMIT_MAX_S, Buffer, Unrunnable
from mesh.registry import Registry, TaskDefinition
from mesh.remote_errors import encode_exception
from mesh.request import enter_request, leave_request
from mesh.states import Status

#: Frames of mesh's own at the top of a remote traceback, which say nothing to the user.
_OWN_FRAMES: Final = 2
NO_LIMITS: Final = RunLimits()

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
        self,
        registry: Registry,
        hostname: str,
        on_error: Callable[[str, bytes, BaseException, bool], None],
        limits: RunLimits = NO_LIMITS,
    ) -> None:
        """`limits` are those of calls and tasks that say nothing themselves."""
        self._registry = registry
        self._hostname = hostname
        #: Called with (task name, task id, exception, whether the task lists it in `throws`).
        self._on_error = on_error
        self._limits = limits
        #: {task name: limits of calls that say nothing}
        self._own_limits: dict[str, RunLimits] = {}
        #: When the soft limit of the run is over; never where it has none.
        self.soft_deadline_mono_s = math.inf
        self._in_user_code = False

    def limits_of(self, name: str, options: dict[str, Any] | None) -> RunLimits:
        """How long this call may run: what itself, its task and the app say, the first that says anything."""
        own = self._own_limits.get(name)
        if own is None:
            own = self._limits_of_task(name)
            if name in self._registry:  # what a stranger calls is not kept
                self._own_limits[name] = own
        if options is None or "limits" not in options:
            return own
        hard_s, soft_s = _said(options["limits"])
        return RunLimits(own.hard_s if hard_s is None else hard_s, own.soft_s if soft_s is None else soft_s)

    def _limits_of_task(self, name: str) -> RunLimits:
        try:
            task = self._registry.find(name).task
        except NotRegistered:
            return RunLimits()
        hard_s, soft_s = getattr(task, "time_limit", None), getattr(task, "soft_time_limit", None)
        return RunLimits(
            self._limits.hard_s if hard_s is None else hard_s, self._limits.soft_s if soft_s is None else soft_s
        )

    def interrupt(self) -> None:
        """Raises SoftTimeLimitExceeded where a run has reached its soft limit; else nothing. A signal handler calls it.

        A signal may come late, when another task runs or none.
        """
        if self._in_user_code and time.monotonic() >= self.soft_deadline_mono_s:
            self.soft_deadline_mono_s = math.inf  # once
            raise SoftTimeLimitExceeded("the task has reached its soft time limit")

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
                value = self._call(definition, args, kwargs)
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

    def _call(self, definition: TaskDefinition, args: Any, kwargs: Any) -> Any:
        try:
            self._in_user_code = True
            if self.soft_deadline_mono_s != math.inf:
                self.interrupt()  # its signal may have come before this
            if definition.bind:
                return definition.run(definition.task, *args, **kwargs)
            return definition.run(*args, **kwargs)
        finally:
            self._in_user_code = False

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


def _said(limits: Any) -> tuple[float | None, float | None]:
    """What a call says of its limits. It came over the wire: what is no number above zero is nothing."""
    if type(limits) is not list or len(limits) != 2:
        return None, None
    hard_s, soft_s = (one if type(one) in (int, float) and 0 < one < LIMIT_MAX_S else None for one in limits)
    return hard_s, soft_s
