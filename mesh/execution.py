"""Running one task: find it, decode its arguments, call it, encode what came of it.

Whatever user code does ends as an outcome.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mesh.bodies import decode_call, encode_value
from mesh.core.limits import RunLimits
from mesh.exceptions import MeshError, NotRegistered, Retry, UndecodableBody, UnserialisableArgument
from mesh.interruption import Interruption
from mesh.messages import LIMIT_MAX_S, Buffer, Unrunnable
from mesh.registry import Registry, TaskDefinition
from mesh.remote_errors import encode_exception
from mesh.request import enter_run, leave_request
from mesh.states import Status

if TYPE_CHECKING:
    from mesh.coroutines import Loop, Side

#: Whether the code of this file leads to tasks, and is none.
_LEADS_TO_TASKS: Final = re.compile(r"/mesh/(execution|coroutines)\.py$|/asyncio/\w+\.py$|/concurrent/futures/").search
NO_LIMITS: Final = RunLimits()
#: In place of a status: the run was told to end early, and has; it has no outcome.
INTERRUPTED: Final = -1

Call = tuple[bytes, tuple[Buffer, ...]]  #: body and frames of a call


class Ran(NamedTuple):
    """What came of one run."""

    status: int  #: RETRY: the task asks for another run; or INTERRUPTED
    body: bytes  #: encoded value; or exception, which for RETRY is the reason
    frames: tuple[Buffer, ...] = ()
    eta_wall_s: float = 0.0  #: RETRY: when to run again
    call: Call | None = None  #: RETRY: the arguments of the next run, where they are others
    cause: str | None = None  #: FAILURE: why it could not run at all, one of `Unrunnable`


class Execution:
    """Runs tasks of one registry, one at a time."""

    def __init__(
        self,
        registry: Registry,
        hostname: str,
        on_error: Callable[[str, bytes, BaseException, bool], None],
        limits: RunLimits = NO_LIMITS,
        interruption: Interruption | None = None,
        loop: Loop | None = None,
    ) -> None:
        """`limits` are those of calls and tasks that say nothing themselves; `loop` is for coroutines."""
        self._registry = registry
        self._hostname = hostname
        #: Called with (task name, task id, exception, whether the task lists it in `throws`).
        self._on_error = on_error
        self._limits = limits
        #: {task name: limits of calls that say nothing}
        self._own_limits: dict[str, RunLimits] = {}
        #: What is raised in the task that runs, if that is due.
        self.interruption = interruption or Interruption()
        self._loop = loop
        self._side: Side | None = None

    def limits_of(self, name: str, options: dict[str, Any] | None) -> RunLimits:
        """How long this call may run: what itself, its task and the app say, the first that says anything.

        `NO_LIMITS` itself where it has none.
        """
        own = self._own_limits.get(name)
        if own is None:
            own = self._limits_of_task(name)
            if name in self._registry:  # what a stranger calls is not kept
                self._own_limits[name] = own
        if options is None or "limits" not in options:
            return own
        hard_s, soft_s = _said(options["limits"])
        return _limits(own.hard_s if hard_s is None else hard_s, own.soft_s if soft_s is None else soft_s)

    def _limits_of_task(self, name: str) -> RunLimits:
        try:
            task = self._registry.find(name).task
        except NotRegistered:
            return NO_LIMITS
        hard_s, soft_s = getattr(task, "time_limit", None), getattr(task, "soft_time_limit", None)
        return _limits(
            self._limits.hard_s if hard_s is None else hard_s, self._limits.soft_s if soft_s is None else soft_s
        )

    def run(self, record: list[Any], frames: tuple[Buffer, ...]) -> Ran:
        """Runs one Assignment record. Never raises."""
        try:
            definition = self._registry.find(record[1])
            args, kwargs = decode_call(record[4], [frame.buffer for frame in frames] if frames else ())
        except (NotRegistered, UndecodableBody) as error:
            return self._unrunnable(record, error)
        try:
            enter_run(record, self._hostname, args, kwargs)
            try:
                value = self._call(definition, args, kwargs)
            finally:
                leave_request()
            document, own = encode_value(value)
            return Ran(Status.SUCCESS, document, tuple(own) if own else ())
        except BaseException as error:
            return self._raised(record, definition, error)

    async def run_async(self, record: list[Any], frames: tuple[Buffer, ...]) -> Ran:
        """As `run`, in a coroutine of the running loop; a function that is none runs in a thread meanwhile."""
        # Written out twice, as each run pays for every call in between.
        try:
            definition = self._registry.find(record[1])
            args, kwargs = decode_call(record[4], [frame.buffer for frame in frames] if frames else ())
        except (NotRegistered, UndecodableBody) as error:
            return self._unrunnable(record, error)
        try:
            enter_run(record, self._hostname, args, kwargs)
            try:
                value = await self._await(definition, args, kwargs)
            finally:
                leave_request()
            document, own = encode_value(value)
            return Ran(Status.SUCCESS, document, tuple(own) if own else ())
        except BaseException as error:
            return self._raised(record, definition, error)

    def _unrunnable(self, record: list[Any], error: MeshError) -> Ran:
        """The outcome of a call that could not be run at all."""
        task_id, name = record[:2]
        if isinstance(error, NotRegistered):
            ran = self._failure(name, task_id, NotRegistered(name, self._hostname), None, None)
            return ran._replace(cause=Unrunnable.UNKNOWN)
        return self._failure(name, task_id, error, error.__traceback__, None)._replace(cause=Unrunnable.UNDECODABLE)

    def _call(self, definition: TaskDefinition, args: Any, kwargs: Any) -> Any:
        interruption = self.interruption
        if definition.is_async:
            return self._call_async(definition, args, kwargs)
        try:
            interruption.enter()
            if definition.bind:
                return definition.run(definition.task, *args, **kwargs)
            return definition.run(*args, **kwargs)
        finally:
            interruption.leave()

    def _call_async(self, definition: TaskDefinition, args: Any, kwargs: Any) -> Any:
        from mesh.coroutines import EventLoop, Interruptible

        if self._loop is None:
            self._loop = EventLoop()
        self.interruption.has_struck = False
        coroutine = Interruptible(_coroutine_of(definition, args, kwargs))
        try:
            self.interruption.enter(coroutine)
            return self._loop.run(coroutine)
        finally:
            coroutine.close()
            self.interruption.leave()

    async def _await(self, definition: TaskDefinition, args: Any, kwargs: Any) -> Any:
        from mesh.coroutines import Interruptible, Side, apart

        if not definition.is_async:
            if self._side is None:
                self._side = Side()
            return await self._side.run(self._call, definition, args, kwargs)
        coroutine = Interruptible(_coroutine_of(definition, args, kwargs))
        try:
            self.interruption.enter(coroutine)
            return await apart(coroutine)
        finally:
            coroutine.close()
            self.interruption.leave()

    def close(self) -> None:
        """Ends what coroutines have left running."""
        if self._loop is not None:
            self._loop.close()
        if self._side is not None:
            self._side.close()

    def _raised(self, record: list[Any], definition: TaskDefinition, error: BaseException) -> Ran:
        if isinstance(error, Retry):
            return self._retry(error)
        if self.interruption.has_struck:
            return Ran(INTERRUPTED, b"")
        if isinstance(error, UnserialisableArgument):
            error.add_note(f"in what task {record[1]} returned")
        return self._failure(record[1], record[0], error, error.__traceback__, definition)

    def _failure(
        self,
        name: str,
        task_id: bytes,
        error: BaseException,
        trace: TracebackType | None,
        definition: TaskDefinition | None,
    ) -> Ran:
        expected = definition is not None and isinstance(error, definition.throws)
        self._on_error(name, task_id, error, expected)
        try:
            text = "".join(traceback.format_exception(type(error), error, of_the_task(trace)))
        except Exception:
            text = f"{type(error).__name__} (its traceback can't be shown)"
        return Ran(Status.FAILURE, encode_exception(error, text))

    @staticmethod
    def _retry(retry: Retry) -> Ran:
        call = None if retry.call is None else (retry.call[0], tuple(retry.call[1] or ()))
        return Ran(Status.RETRY, encode_exception(retry.reason or retry, ""), (), retry.eta_wall_s, call)


def _coroutine_of(definition: TaskDefinition, args: Any, kwargs: Any) -> Any:
    if definition.bind:
        args = (definition.task, *args)
    return definition.run(*args, **kwargs)


def of_the_task(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that lead to the task; all of it, where it ends before that."""
    own = trace
    while own is not None and _LEADS_TO_TASKS(own.tb_frame.f_code.co_filename):
        own = own.tb_next
    return own or trace


def _limits(hard_s: float, soft_s: float) -> RunLimits:
    return RunLimits(hard_s, soft_s) if hard_s or soft_s else NO_LIMITS


def _said(limits: Any) -> tuple[float | None, float | None]:
    """What a call says of its limits. It came over the wire: what is no number above zero is nothing."""
    if type(limits) is not list or len(limits) != 2:
        return None, None
    hard_s, soft_s = (one if type(one) in (int, float) and 0 < one < LIMIT_MAX_S else None for one in limits)
    return hard_s, soft_s
