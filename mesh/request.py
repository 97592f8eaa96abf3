"""What a task may know about its own run: `task.request`, and which run a thread, coroutine or greenlet is in."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
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


#: The runs that this thread, coroutine or greenlet is in, as (facts, those around it): a task may call another like a
#: function.
_runs: ContextVar[Any] = ContextVar("mesh runs", default=None)
#: {identity of the facts of a run: what is called once when it ends}. Empty but for runs that have asked for it.
_at_end: dict[int, list[Callable[[], None]]] = {}


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
    """A run begins here. The slot calls it before each task, and `leave_request` after it, come what may."""
    _runs.set(((task_id, name, attempt, flags, options, hostname, args, kwargs), _runs.get()))


def leave_request() -> None:
    """The run that has begun last here ends."""
    facts, around = _runs.get()
    _runs.set(around)
    if _at_end:
        for call in _at_end.pop(id(facts), ()):
            call()


def when_run_ends(call: Callable[[], None]) -> None:
    """Has this called, once, when the task that was sent and runs here has ended. It must not raise."""
    _at_end.setdefault(id(current_run()), []).append(call)


def current_name() -> str | None:
    """The name of the task that runs here."""
    run = _runs.get()
    return run[0][1] if run is not None else None


def current_task_id() -> bytes | None:
    """The id of the task that runs here."""
    run = _runs.get()
    return run[0][0] if run is not None else None


def current_run() -> tuple[Any, ...] | None:
    """The task that was sent and runs here: a tuple that begins with id and name, and is the same one all the time.

    A task that is called like a function is part of its caller.
    """
    run = _runs.get()
    while run is not None and run[0][0] is None:
        run = run[1]
    return None if run is None else run[0]


def request_of(name: str) -> Request:
    """The innermost run of this task here; outside of one, what a direct call would see."""
    run = _runs.get()
    while run is not None:
        if run[0][1] == name:
            return Request(*run[0])
        run = run[1]
    return Request(None, name)


class Request:
    """One run of a task, under Celery's names. Where Celery counts retries, `attempt` counts deliveries, from 0."""

    __slots__ = ("_facts",)

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
    def is_eager(self) -> bool:
        """It runs in the process that called it; no slot of a mesh does."""
        return bool(self._option("eager"))

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
