"""Tasks that were given up, as `app.control.dead_letters(...)`: to be listed, replayed and purged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypedDict

from mesh import calling
from mesh.bodies import decode_call
from mesh.exceptions import InvalidCall, OperationalError, UndecodableBody
from mesh.ids import from_text, to_text
from mesh.interfaces import ControlLink
from mesh.settings import Settings

_MOMENT_RULE: Final = "a datetime, an ISO 8601 text, or a timedelta for so long ago"


class DeadLetterInfo(TypedDict):
    """A task that was given up."""

    id: str
    name: str
    queue: str
    priority: int
    args: list[Any] | None  #: None where they are too large to be shown, or of a type not known here
    kwargs: dict[str, Any] | None
    body_bytes: int  #: size of the arguments
    headers: dict[str, Any] | None
    cause: str  #: in a word or two, such as "crashed"; docs/dead-letters.md lists them
    reason: str  #: the same in full
    causes: list[str]  #: its history: what ended each delivery, oldest first, and where it was replayed
    attempts: int
    crashes: int  #: since it was replayed last
    losses: int
    time_died: float  #: wall seconds


class DeadLetterList(NamedTuple):
    """The dead letters that are meant."""

    letters: list[DeadLetterInfo]  #: oldest first; the latest 1000 where there are more
    total: int  #: all that are meant
    crowded_out: int  #: how many of any kind had to go for want of room, since the router started
    unknown: list[str]  #: ids that were named and are no dead letter's


class Replayed(NamedTuple):
    """What came of a replay."""

    total: int  #: how many run once more
    left: list[str]  #: ids of those that can't be replayed: their arguments are lost, or they run already
    unknown: list[str]


class Purged(NamedTuple):
    """What came of a purge."""

    total: int  #: how many are gone
    unknown: list[str]


class DeadLetters:
    """Those dead letters for which all holds that is said; where nothing is said, all."""

    def __init__(
        self,
        link: ControlLink,
        settings: Settings,
        ids: str | Iterable[str] | None = None,
        task: str | None = None,
        cause: str | None = None,
        since: Any = None,
        until: Any = None,
        timeout: float = 1.0,
    ) -> None:
        """As `Control.dead_letters`. Asks nobody yet."""
        self._link = link
        self._timeout_s = timeout
        #: What the router is asked.
        self._chosen: dict[str, Any] = {}
        if ids is not None:
            self._chosen["ids"] = [_id(one) for one in ([ids] if isinstance(ids, str) else ids)]
        for key, option, text in (("name", "task", task), ("cause", "cause", cause)):
            if text is not None:
                self._chosen[key] = _text(option, text)
        for key, option, when in (("since_wall_s", "since", since), ("until_wall_s", "until", until)):
            if when is not None:
                self._chosen[key] = _wall_s(option, when, settings)

    def list(self) -> DeadLetterList:
        """What they are, with their arguments.

        Raises:
            RouterUnreachable: there is no router, or it did not answer in time.
            OperationalError: the router does not know what is asked.
        """
        answer = self._ask("show")
        letters = [info(letter) for letter in answer["letters"]]
        return DeadLetterList(letters, answer["count"], answer["crowded_out"], _texts(answer["unknown"]))

    def replay(self) -> Replayed:
        """Runs them once more, with their ids, their history and fresh budgets. Errors as `list`."""
        answer = self._ask("replay")
        return Replayed(answer["count"], _texts(answer["left"]), _texts(answer["unknown"]))

    def purge(self) -> Purged:
        """Removes them for good. Errors as `list`."""
        answer = self._ask("purge")
        return Purged(answer["count"], _texts(answer["unknown"]))

    def count(self) -> int:
        """How many they are. Errors as `list`."""
        count: int = self._ask("list")["count"]
        return count

    def _ask(self, command: str) -> dict[str, Any]:
        replies = self._link.request(f"dead_{command}", self._chosen, None, self._timeout_s)
        answer: dict[str, Any] | None = replies.values.get("router")
        if answer is None:
            reason = replies.errors.get("router", "this router keeps no dead letters; start one of this release")
            raise OperationalError(reason)
        return answer


def info(letter: dict[str, Any]) -> DeadLetterInfo:
    """One dead letter as the wire has it, as its users read it."""
    args, kwargs = _arguments(letter["body"])
    return DeadLetterInfo(
        id=letter["custom_id"] or to_text(letter["id"]),
        name=letter["name"],
        queue=letter["queue"],
        priority=letter["priority"],
        args=args,
        kwargs=kwargs,
        body_bytes=letter["body_bytes"],
        headers=(letter["options"] or {}).get("headers"),
        cause=letter["cause"],
        reason=letter["reason"],
        causes=letter["causes"],
        attempts=letter["attempts"],
        crashes=letter["crashes"],
        losses=letter["losses"],
        time_died=letter["died_wall_s"],
    )


def _arguments(body: bytes | None) -> tuple[list[Any] | None, dict[str, Any] | None]:
    if body is None:
        return None, None
    try:
        return decode_call(body)
    except UndecodableBody:
        return None, None


def _texts(ids: Iterable[bytes | str]) -> list[str]:
    return [to_text(one) if isinstance(one, bytes) else one for one in ids]


def _id(value: Any) -> bytes | str:
    text = _text("ids", value)
    return from_text(text) or text


def _text(option: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidCall(option, value, "a text that is not empty")
    return value


def _wall_s(option: str, when: Any, settings: Settings) -> float:
    if isinstance(when, timedelta):
        return time.time() - when.total_seconds()
    return calling.wall_s(option, when, settings, _MOMENT_RULE)
