"""Asking the nodes of a mesh what they do: `app.control`. Answers are complete: who is missing is named, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol, TypedDict

from mesh.bodies import decode_call
from mesh.dead_letters import DeadLetters
from mesh.exceptions import InvalidCall, MeshError, UndecodableBody
from mesh.ids import from_text, to_text
from mesh.interfaces import ControlLink
from mesh.messages import Flag, Replies
from mesh.settings import Settings

#: How long a node may take to answer before it counts as missing, in seconds. Answers take a millisecond; as in Celery.
DEFAULT_TIMEOUT_S: Final = 1.0
PONG: Final = {"ok": "pong"}


class Source(Protocol):
    """What control needs of an app."""

    @property
    def client(self) -> ControlLink:
        """The client in use now."""
        ...

    @property
    def settings(self) -> Settings:
        """The settings as they stand."""
        ...


class DeliveryInfo(TypedDict):
    """How a task came to its node. `exchange` is always empty: mesh has none."""

    exchange: str
    routing_key: str | None  #: the queue
    priority: int | None
    redelivered: bool


class TaskInfo(TypedDict):
    """A running task, with Celery's keys."""

    id: str
    name: str | None
    args: list[Any] | None  #: None where they are too large to be shown, or of a type not known here
    kwargs: dict[str, Any] | None
    type: str | None
    hostname: str  #: the node
    time_start: float | None  #: wall seconds
    acknowledged: bool  #: True with acks_late=False: it will not run again
    delivery_info: DeliveryInfo
    worker_pid: int | None  #: of the slot
    attempt: int  #: from 0


class Control:
    """`app.control`. 1. Asks all nodes or some. 2. Turns their answers into what Celery's users expect."""

    def __init__(self, app: Source) -> None:
        self._source = app

    def inspect(self, destination: str | Sequence[str] | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> Inspect:
        """Questions to the nodes named, or to all. With the name of one node as a string, its answer comes bare."""
        return Inspect(self._source, destination, timeout)

    def ping(
        self, destination: str | Sequence[str] | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> list[dict[str, dict[str, str]]]:
        """`[{node: {"ok": "pong"}}]` of the nodes that answered."""
        names = _names(destination)
        replies = self._source.client.request("ping", {}, names, timeout)
        return [{node: dict(PONG)} for node in replies.values]

    def status(self, timeout: float = DEFAULT_TIMEOUT_S) -> dict[str, Any]:
        """What the router itself says of its tasks, nodes and queues: `{"router": {}, "nodes": [], "queues": []}`.

        Raises:
            RouterUnreachable: there is no router, or it did not answer in time.
        """
        return self._source.client.request("status", {}, None, timeout).values

    def dead_letters(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        task: str | None = None,
        cause: str | None = None,
        since: Any = None,
        until: Any = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> DeadLetters:
        """The tasks that were given up and for which all holds that is said; to `list()`, `replay()` or `purge()`.

        `ids` are those of the calls, or one of them; `task` is a task's name; `cause` a word such as "crashed" or
        a part of the reason; `since` and `until` are datetimes, ISO 8601 texts, or timedeltas for so long ago.

        Raises:
            InvalidCall: an id, name, cause or time that is none.
        """
        source = self._source
        return DeadLetters(source.client, source.settings, ids, task, cause, since, until, timeout)

    def revoke(
        self,
        task_id: str | Iterable[str],
        *,
        terminate: bool = False,
        signal: Any = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> dict[str, str]:
        """Ends calls that have not begun, as REVOKED: `{id: what became of it}`.

        "revoked": it will not run. "recalled": a slot holds it; it is taken back, or runs on where it has begun.
        "ended": too late. "unknown": no call of this mesh. The router keeps it in mind across its own death.

        `terminate` ends calls that run, too: "terminated", or "ended" where that came too late; "terminating" where
        it takes longer than `timeout`. A `signal` other than SIGTERM (a name or number) goes to the slot's process at
        once; SIGTERM raises TaskInterrupted in the task, and kills it 2 s later. Nothing else is hit: what the process
        held beside it runs elsewhere.

        Raises:
            InvalidCall: no signal has this name or number.
            TypeError: what was given is no id, nor several.
        """
        number = _signal_number(signal) if terminate else 0
        given: Any = task_id
        task_ids = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
        if wrong := [one for one in task_ids if not isinstance(one, str)]:
            raise TypeError(f"control.revoke takes ids, and {wrong[0]!r} is none: give result.id, or a list of ids.")
        return revoke(self._source.client, task_ids, timeout, number)

    def terminate(
        self, task_id: str | Iterable[str], signal: Any = None, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> dict[str, str]:
        """`revoke` with `terminate=True`."""
        return self.revoke(task_id, terminate=True, signal=signal, timeout=timeout)


def _signal_number(given: Any) -> int:
    """The number of a signal that is given as in Celery: "SIGKILL", "KILL", 9; None is SIGTERM."""
    import signal

    try:
        if isinstance(given, str) and not given.isdecimal():
            name = given.upper()
            return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
        return signal.Signals(signal.SIGTERM if given is None else int(given)).value
    except (ValueError, KeyError, TypeError):
        raise InvalidCall("signal", given, "a signal's name or number, such as 'SIGTERM' or 9") from None


def revoke(client: ControlLink, task_ids: list[str], timeout: float, signal: int = 0) -> dict[str, str]:
    """As `Control.revoke`; a `signal` ends what runs."""
    asked = {from_text(one) or one: one for one in task_ids}
    arguments = {"ids": list(asked), **({"signal": signal} if signal else {})}
    replies = client.request("revoke", arguments, None, timeout)
    for error in replies.errors.values():
        raise MeshError(error)
    return {asked[one]: fate for one, fate in replies.values["router"]["fates"]}


class Inspect:
    """Questions that change nothing. Each answers `{node: value}`, or None where no node answered."""

    def __init__(self, source: Source, destination: str | Sequence[str] | None, timeout: float) -> None:
        self._source = source
        self._destination = destination
        self._timeout_s = timeout
        #: {node: why there is no answer of it}, of the last question.
        self.missing: dict[str, str] = {}

    def active(self) -> Any:
        """The tasks that run now: `{node: [TaskInfo, ...]}`."""
        replies = self._ask("active")
        return self._answer({node: _task_infos(node, value) for node, value in replies.values.items()})

    def ping(self) -> Any:
        """`{node: {"ok": "pong"}}`."""
        return self._answer({node: dict(PONG) for node in self._ask("ping").values})

    def registered(self) -> Any:
        """The names of the tasks that each node can run: `{node: [name, ...]}`."""
        return self._answer(self._ask("registered").values)

    def _ask(self, command: str) -> Replies:
        replies = self._source.client.request(command, {}, _names(self._destination), self._timeout_s)
        self.missing = dict(replies.errors)
        return replies

    def _answer(self, values: dict[str, Any]) -> Any:
        if isinstance(self._destination, str):
            return values.get(self._destination)
        return values or None


def _names(destination: str | Sequence[str] | None) -> list[str] | None:
    if destination is None:
        return None
    return [destination] if isinstance(destination, str) else list(destination)


def _task_infos(node: str, value: Any) -> Any:
    return [task_info(node, row) for row in value] if isinstance(value, list) else value


def task_info(node: str, row: dict[str, Any]) -> TaskInfo:
    """One running task as the wire has it, as its users read it."""
    args, kwargs = _arguments(row.get("body"))
    return TaskInfo(
        id=row.get("custom_id") or to_text(row["id"]),
        name=row.get("name"),
        args=args,
        kwargs=kwargs,
        type=row.get("name"),
        hostname=node,
        time_start=row.get("started_wall_s"),
        acknowledged=bool(row.get("flags", 0) & Flag.EARLY_ACK),
        delivery_info=DeliveryInfo(
            exchange="",
            routing_key=row.get("queue"),
            priority=row.get("priority"),
            redelivered=bool(row.get("redelivered")),
        ),
        worker_pid=row.get("pid"),
        attempt=row.get("attempt", 0),
    )


def _arguments(body: bytes | None) -> tuple[list[Any] | None, dict[str, Any] | None]:
    if body is None:
        return None, None
    try:
        return decode_call(body)
    except UndecodableBody:
        return None, None
