"""Burying what was given up, and what users may do with it: list, show, replay, purge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from mesh.core.dead_letters import Chosen, DeadLetter, DeadLetters, letter_record, replayed
from mesh.core.dispatch import Dispatch
from mesh.core.ledger import Ledger
from mesh.core.outbox import Outbox
from mesh.core.outcomes import OutcomeStore
from mesh.core.records import RowKind
from mesh.core.task import Task
from mesh.messages import Flag

#: Dead letters that one answer tells of, the latest; it counts all.
LISTED_MAX: Final = 1000
#: Bytes of arguments in one answer; of further dead letters it tells the size alone.
SHOWN_BYTES_MAX: Final = 1 << 20

Answer = tuple[dict[str, Any], dict[str, str]]  #: values and errors of a Replies message


class Bounds(Protocol):
    """How many dead letters are kept."""

    @property
    def dead_max(self) -> int: ...
    @property
    def dead_max_bytes(self) -> int: ...


class Graveyard:
    """1. Buries tasks. 2. Answers the control commands about them."""

    def __init__(
        self,
        bounds: Bounds,
        dispatch: Dispatch,
        outcomes: OutcomeStore,
        ledger: Ledger,
        outbox: Outbox,
        name: Callable[[bytes, str], bool],
    ) -> None:
        self.letters = DeadLetters(bounds.dead_max, bounds.dead_max_bytes, self._letter_gone)
        self._dispatch = dispatch
        self._outcomes = outcomes
        self._ledger = ledger
        self._outbox = outbox
        #: As `Admission.names`: who asks by the caller's own id finds a task that is replayed.
        self._name = name
        self.commands: Final[Mapping[str, Callable[[Chosen], dict[str, Any]]]] = {
            "dead_list": self._list,
            "dead_show": self._show,
            "dead_replay": self._replay,
            "dead_purge": self._purge,
        }

    def bury(self, task: Task, cause: str, reason: str) -> None:
        """Keeps a task that is given up."""
        now = self._outbox.now
        row = 0
        if not task.flags & Flag.TRANSIENT:
            row = self._ledger.also(RowKind.DEAD, letter_record(task, cause, reason, now.wall_s), now)
        self.letters.add(DeadLetter(task, cause, reason, now.wall_s, row))

    def _letter_gone(self, letter: DeadLetter) -> None:
        if letter.row:
            self._ledger.remove(letter.row, self._outbox.now)

    # --- commands --------------------------------------------------------------------------------

    def answer(self, command: str, arguments: dict[str, Any]) -> Answer:
        """What is answered to a control request. Arguments are those of `Chosen`; others are refused."""
        try:
            chosen = _chosen(arguments)
        except (TypeError, ValueError) as error:
            return {}, {"router": f"{command}: {error}"}
        unknown = self._unknown(chosen)
        return {"router": {**self.commands[command](chosen), "unknown": unknown}}, {}

    def _list(self, chosen: Chosen) -> dict[str, Any]:
        found = self.letters.select(chosen)
        return {**self._counts(found), "letters": [letter.facts() for letter in found[-LISTED_MAX:]]}

    def _show(self, chosen: Chosen) -> dict[str, Any]:
        found, room = self.letters.select(chosen), SHOWN_BYTES_MAX
        shown = []
        for letter in reversed(found[-LISTED_MAX:]):
            task = letter.task
            fits = not task.frames and len(task.body) <= room
            room -= len(task.body) if fits else 0
            shown.append({**letter.facts(), "body": task.body if fits else None, "options": task.options})
        return {**self._counts(found), "letters": shown[::-1]}

    def _counts(self, found: list[DeadLetter]) -> dict[str, Any]:
        return {"count": len(found), "kept": len(self.letters), "crowded_out": self.letters.crowded_out}

    def _replay(self, chosen: Chosen) -> dict[str, Any]:
        ids, left = [], []
        for letter in self.letters.select(chosen):
            task_id = letter.task.task_id
            if letter.can_be_replayed and task_id not in self._dispatch:
                self._run_again(self.letters.revive(task_id))
                ids.append(task_id)
            else:
                left.append(task_id)
        return {"count": len(ids), "ids": ids[-LISTED_MAX:], "left": left[-LISTED_MAX:]}

    def _run_again(self, letter: DeadLetter) -> None:
        now, task = self._outbox.now, replayed(letter)
        self._outcomes.forget(task.task_id)
        if letter.row:
            self._ledger.revived(task, letter.row, now)
        if task.custom_id is not None:
            self._name(task.task_id, task.custom_id)
        self._dispatch.accept(task, now)

    def _purge(self, chosen: Chosen) -> dict[str, Any]:
        return {"count": len(self.letters.take([one.task.task_id for one in self.letters.select(chosen)]))}

    def _unknown(self, chosen: Chosen) -> list[bytes | str]:
        """The ids that were named and are no dead letter's."""
        if chosen.ids is None:
            return []
        known = {one for letter in self.letters.select(Chosen(ids=chosen.ids)) for one in letter.ids}
        return sorted(chosen.ids - known, key=str)


def _chosen(arguments: dict[str, Any]) -> Chosen:
    unknown = arguments.keys() - set(Chosen._fields)
    if unknown:
        raise ValueError(f"unknown argument {sorted(unknown)[0]!r}; known are {', '.join(Chosen._fields)}")
    ids = arguments.get("ids")
    if ids is not None and not (type(ids) is list and all(type(one) in (bytes, str) for one in ids)):
        raise TypeError("ids is a list of ids")
    for name in ("name", "cause"):
        if not isinstance(arguments.get(name), str | None):
            raise TypeError(f"{name} is a text")
    for name in ("since_wall_s", "until_wall_s"):
        if type(arguments.get(name)) not in (int, float, type(None)):
            raise TypeError(f"{name} is a number of seconds")
    return Chosen(**{**arguments, "ids": None if ids is None else frozenset(ids)})
