"""What a task may know about its own run: `task.request`, and which run a thread is in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from mesh import ids
from mesh.messages import Flag


class _Facts(NamedTuple):
    """One run, as it is put down for every task; a Request is made of it only when somebody asks."""

    task_id: bytes | None  #: None where the task was called like a function
    name: str
    attempt: int
    flags: int
    options: dict[str, Any] | None  #: as in messages.Call
    hostname: str | None  #: the node, `name@host`
    args: Any
    kwargs: Any


class _Runs(threading.local):
    """The runs a thread is in, innermost last: a task may call another like a function."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        #: Called once each when the outermost run ends.
        self.at_end: list[Callable[[], None]] = []


_runs = _Runs()


def enter_request(
    task_id: bytes | None,
    name: str,
    attempt: int = 0,
    flags: int = 0,
    options: dict[str, Any] | None = None,
    hostname: str | None = None,
    args: Any = (),
    kwargs: Any = None,
) -> None:
    """This thread begins a run. The slot calls it before each task, and `leave_request` after it, come what may."""
    _runs.stack.append((task_id, name, attempt, flags, options, hostname, args, kwargs))


def leave_request() -> None:
    """This thread ends the run it began last."""
    runs = _runs
    runs.stack.pop()
    if runs.at_end and not runs.stack:
        at_end, runs.at_end = runs.at_end, []
        for call in at_end:
            call()


def when_run_ends(call: Callable[[], None]) -> None:
    """Has this called, once, when the run that this thread is in has ended. It must not raise."""
    _runs.at_end.append(call)


def current_name() -> str | None:
    """The name of the task that this thread runs."""
    stack = _runs.stack
    return stack[-1][1] if stack else None


def current_run() -> tuple[bytes, str] | None:
    """Id and name of the task that this thread runs. One that is called like a function is part of its caller."""
    for facts in reversed(_runs.stack):
        if facts[0] is not None:
            return facts[0], facts[1]
    return None


def request_of(name: str) -> Request:
    """The innermost run of this task in this thread; outside of one, what a direct call would see."""
    for facts in reversed(_runs.stack):
        if facts[1] == name:
            return Request(*facts)
    return Request(None, name)


class Request:
    """One run of a task, under Celery's names. Where Celery counts retries, `attempt` counts deliveries, from 0."""

    __slots__ = ("_facts",)

    is_eager = False
    utc = True

    def __init__(
        self,
        task_id: bytes | None,
        name: str,
        attempt: int = 0,
        flags: int = 0,
        options: dict[str, Any] | None = None,
        hostname: str | None = None,
        args: Any = (),
        kwargs: Any = None,
    ) -> None:
        self._facts = _Facts(task_id, name, attempt, flags, options or {}, hostname, args, kwargs or {})

    @property
    def id(self) -> str | None:
        """The caller's own id for the task, else its stamp; None for a direct call."""
        custom: str | None = self._option("id")
        return custom or _text(self._facts.task_id)

    @property
    def task(self) -> str:
        """The task's name."""
        return self._facts.name

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, without `self` of a bound task."""
        return tuple(self._facts.args)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments."""
        kwargs: dict[str, Any] = self._facts.kwargs
        return kwargs

    @property
    def attempt(self) -> int:
        """How often the task had been delivered before."""
        return self._facts.attempt

    @property
    def retries(self) -> int:
        """How often the task has asked to be retried."""
        return int(self._option("retries") or 0)

    @property
    def hostname(self) -> str | None:
        """The node that runs the task."""
        return self._facts.hostname

    @property
    def delivery_info(self) -> dict[str, Any]:
        """`redelivered`: an earlier attempt had begun."""
        return {"redelivered": bool(self._facts.flags & Flag.REDELIVERED)}

    @property
    def headers(self) -> dict[str, Any]:
        """What the caller gave as `headers=`."""
        return self._option("headers") or {}

    @property
    def called_directly(self) -> bool:
        """The task was called like a function, not sent."""
        return self._facts.task_id is None

    @property
    def ignore_result(self) -> bool:
        """Nobody wants the result."""
        return bool(self._facts.flags & Flag.IGNORE_RESULT)

    @property
    def eta(self) -> float | None:
        """When the task was due, wall seconds."""
        eta: float | None = self._option("eta")
        return eta

    @property
    def expires(self) -> float | None:
        """After when it would not have begun, wall seconds."""
        expires: float | None = self._option("expires")
        return expires

    @property
    def root_id(self) -> str | None:
        """The first task of the tree this one belongs to."""
        return _text(self._option("root")) or self.id

    @property
    def parent_id(self) -> str | None:
        """The task that sent this one."""
        return _text(self._option("parent"))

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        return getattr(self, name, default)

    def _option(self, name: str) -> Any:
        return (self._facts.options or {}).get(name)

    def __repr__(self) -> str:
        return f"<Request: {self.task}[{self.id or 'called directly'}]>"


def _text(task_id: bytes | None) -> str | None:
    return None if task_id is None else ids.to_text(task_id)
