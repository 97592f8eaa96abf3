"""One eager call from its beginning to its end: the runs that a node would give it, here and now."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from mesh import codec
from mesh.exceptions import TaskRevokedError
from mesh.execution import Execution, Ran
from mesh.messages import Assignment, Buffer, Tasks
from mesh.registry import Registry
from mesh.remote_errors import encode_exception
from mesh.states import Status


class Frame(NamedTuple):
    """A buffer in the form in which a transport hands it over: a copy, read-only."""

    buffer: bytes


class Raised(NamedTuple):
    """What a task has failed for."""

    error: BaseException
    expected: bool  #: the task lists it in `throws`


def run_to_its_end(
    registry: Registry, hostname: str, record: list[Any], frames: tuple[Frame, ...]
) -> tuple[Ran, Raised | None]:
    """What comes of the call of an Assignment record, after all its retries. Nobody waits for their time.

    Raises:
        KeyboardInterrupt: Ctrl-C. It is no outcome of the task here: it means the process.
        MalformedMessage: headers that no router would take.
    """
    task_id, name, attempt, flags, body, _, options = record
    wanted, retries = options or {}, 0
    while not _has_expired(wanted):
        said = {**_received(task_id, name, wanted), "eager": True}
        ran, raised = _run(registry, hostname, [task_id, name, attempt, flags, body, len(frames), said], frames)
        if ran.status != Status.RETRY:
            return ran, raised
        retries += 1
        wanted = {**wanted, "eta": ran.eta_wall_s, "retries": retries}
        if ran.call is not None:
            body, frames = ran.call[0], copied(ran.call[1])
    error = TaskRevokedError(f"task {name} was not run: it expired before it began")
    return Ran(Status.REVOKED, encode_exception(error, "")), None


def copied(buffers: Iterable[Buffer] | None) -> tuple[Frame, ...]:
    """The frames of a body, of which the task gets its own."""
    return tuple(Frame(bytes(buffer)) for buffer in buffers or ())


def _run(registry: Registry, hostname: str, record: list[Any], frames: tuple[Frame, ...]) -> tuple[Ran, Raised | None]:
    """One run, as in a slot. It has an Execution of its own: a task may call another, and several threads may call."""
    told: list[Raised] = []
    execution = Execution(registry, hostname, lambda name, _, error, expected: told.append(Raised(error, expected)))
    ran = execution.run(record, frames)
    raised = told[-1] if told else None
    if raised is not None and isinstance(raised.error, KeyboardInterrupt):
        raise raised.error
    return ran, raised


def _received(task_id: bytes, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a call as they arrive in a slot."""
    record = [*Assignment(task_id, name, 0, 0, b"", 0, options)]
    tasks: Any = codec.decode(codec.encode(Tasks(1, 0, [record])))
    received: dict[str, Any] = tasks.tasks[0][6]
    return received


def _has_expired(options: dict[str, Any]) -> bool:
    """As the router sees it, which would let the call wait for its eta."""
    expires_wall_s = options.get("expires")
    return expires_wall_s is not None and expires_wall_s <= max(time.time(), options.get("eta", 0.0))
