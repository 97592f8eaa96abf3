"""Which transitions of a router's mind happened under which fault: counted by looking on, not by the code itself.

A fault is over a second after it ended; until then what happens happens under it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from mesh import messages as m
from mesh.core.effects import Send
from mesh.core.owner import Owner
from mesh.core.records import RowKind
from mesh.sim.history import History
from mesh.sim.timeline import Timeline
from mesh.states import Phase

#: How long a fault counts after it has ended.
AFTERMATH_S: Final = 1.0

#: {kind in the history: column}, where they differ.
_COLUMN = {
    "drop on all links": "drop",
    "pause client": "pause",
    "pause node": "pause",
    "pause router": "pause",
    "pause slot": "pause",
}

_ROW_WRITTEN = {
    RowKind.TASKS: "row: tasks written",
    RowKind.CHANGED: "row: changed task written",
    RowKind.OUTCOMES: "row: outcome written",
    RowKind.NOTES: "row: what is gone noted",
    RowKind.CALLERS: "row: callers written anew",
    RowKind.DEAD: "row: dead letter written",
}


class Coverage:
    """1. Looks on at owners. 2. Counts (transition, fault) pairs."""

    def __init__(self) -> None:
        self.met: Counter[tuple[str, str]] = Counter()
        #: {host: {column: until when it counts}}; some are over.
        self._active: dict[str, dict[str, float]] = {}
        self._known_faults = 0

    def attach(self, history: History, timeline: Timeline, host: str, owner: Owner) -> None:
        """Looks on at an owner that is new."""

        def note(transition: str) -> None:
            if self._known_faults < len(history.faults):
                self._take_faults(history)
            mono_s = timeline.mono_s
            active = self._active.get(host)
            if not active:
                return
            for column, until_s in list(active.items()):
                if mono_s <= until_s:
                    self.met[transition, column] += 1
                else:
                    del active[column]

        def replayed(_: Any, letter: Any) -> None:
            history.replayed(timeline.mono_s, letter.task.task_id)

        def requeued(tasks: list[Any]) -> None:
            history.returned.update(task.task_id for task in tasks)

        _after(owner.graveyard, "_run_again", replayed)
        _before(owner.dispatch, "_requeue", requeued)
        for look in (_look_at_dispatch, _look_at_journal, _look_at_calls, _look_at_slots):
            look(owner, note)

    def _take_faults(self, history: History) -> None:
        for fault in history.faults[self._known_faults :]:
            column = _COLUMN.get(fault.kind, fault.kind)
            for host in (fault.host,) if fault.host else ("A", "B"):
                active = self._active.setdefault(host, {})
                active[column] = max(active.get(column, 0.0), fault.until_s + AFTERMATH_S)
        self._known_faults = len(history.faults)


Note = Callable[[str], None]


def _after(thing: Any, name: str, look: Callable[..., None]) -> None:
    """Has `look(result, *arguments)` called after each call of a method."""
    method = getattr(thing, name)

    def looked_at(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        look(result, *arguments)
        return result

    setattr(thing, name, looked_at)


def _before(thing: Any, name: str, look: Callable[..., None]) -> None:
    """Has `look(*arguments)` called before each call of a method."""
    method = getattr(thing, name)

    def looked_at(*arguments: Any, **named: Any) -> Any:
        look(*arguments)
        return method(*arguments, **named)

    setattr(thing, name, looked_at)


def _look_at_dispatch(owner: Owner, note: Note) -> None:
    dispatch = owner.dispatch

    def requeued(tasks: list[Any]) -> None:
        if any(task.phase is Phase.LEASED for task in tasks):
            note("task: LEASED to READY")

    _after(dispatch, "accept", lambda _, task, now: note(f"task: new to {task.phase.name}"))
    _after(dispatch, "accept_running", lambda *_: note("task: new to LEASED"))
    _after(dispatch, "assign", lambda grants, _: note("task: READY to LEASED") if grants else None)
    _after(dispatch.schedule, "due", lambda tasks, _: note("task: WAITING to READY") if tasks else None)
    _before(dispatch, "finish", lambda task: note(f"task: {task.phase.name} to DONE"))
    _after(dispatch, "outcome", lambda task, *_: note("task: LEASED to DONE") if task is not None else None)
    _after(dispatch, "retried", lambda task, *_: note(f"task: LEASED to {task.phase.name}, retry") if task else None)
    _before(dispatch, "_requeue", requeued)
    _after(dispatch, "accept_block", lambda *_: note("block: paged out"))


def _look_at_journal(owner: Owner, note: Note) -> None:
    ledger = owner.ledger

    def handed_out(commit: Any, _: Any) -> None:
        if commit is None:
            return
        for row in commit.rows:
            note(_ROW_WRITTEN[RowKind(row.kind)])
        if commit.removed:
            note("row: removed")

    def recovered(result: Any, *_: Any) -> None:
        facts = result[0]
        for name, count in (
            ("recovered: queued", facts.tasks - facts.running),
            ("recovered: running", facts.running),
            ("recovered: outcome", facts.outcomes),
            ("recovered: may have run", facts.ended),
            ("recovered: dead letter", len(owner.graveyard.letters) - facts.ended),
        ):
            if count > 0:
                note(name)

    def fetched(_: Any, row: int, records: Any) -> None:
        note("block: damaged" if records is None else "block: fetched")

    _after(ledger, "take", handed_out)
    _after(ledger, "committed", lambda *_: note("commit: done"))
    _after(ledger, "failed", lambda *_: note("commit: failed"))
    _after(ledger, "_move", lambda moved, *_: note("row: moved") if moved else None)
    _after(ledger, "dropped", lambda *_: note("outcome: dropped"))
    _after(owner.outcomes, "_make_room", lambda *_: note("outcome: evicted"))
    _after(owner, "recover", recovered)
    _after(owner.paging, "fetched", fetched)
    _after(owner.paging, "not_fetched", lambda *_: note("block: can't be read now"))
    _after(owner.paging, "_unfold", lambda *_: note("block: unfolded"))


def _look_at_calls(owner: Owner, note: Note) -> None:
    answers, graveyard = owner.answers, owner.graveyard

    def confirmed(effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, m.Confirm):
                if effect.message.confirmed:
                    note(f"confirm: {m.Durability(effect.message.durability).name.lower()}")
                for _, code, _ in effect.message.refused:
                    note(f"refused: {code}")

    _after(owner.intake, "take_confirms", confirmed)
    _after(answers, "is_orphan", lambda kept, _: note("outcome: without its call") if kept else None)
    _after(answers, "hand_out_orphan", lambda *_: note("outcome: its call came"))
    _after(answers, "hand_out", lambda *_: note("outcome: handed out again"))
    _after(graveyard, "bury", lambda *_: note("dead letter: buried"))
    _after(graveyard, "_run_again", lambda *_: note("dead letter: replayed"))
    _after(graveyard.letters, "take", lambda taken, _: note("dead letter: gone") if taken else None)


def _look_at_slots(owner: Owner, note: Note) -> None:
    dispatch, crew = owner.dispatch, owner.crew

    def joined_again(_: Any, consumer: Any, earlier: list[Any], unreceipted: Any) -> None:
        note("slot: joined again" if earlier else "slot: joined")

    def lost(peer: bytes, *_: Any, node_lost: bool = False) -> None:
        consumer = dispatch.consumers.get(peer)
        if consumer is not None:
            note("slot: lost with leases" if consumer.held else "slot: lost")

    def effects_of(name: str) -> Callable[..., None]:
        return lambda effects, *_: note(name) if effects else None

    _after(dispatch, "join_again", joined_again)
    _before(dispatch, "lost", lost)
    _after(dispatch, "returned", lambda _, consumer, leases: note("lease: returned"))
    _after(dispatch, "undelivered", lambda *_: note("lease: undelivered"))
    _after(crew, "recall", lambda *_: note("lease: recalled"))
    _after(dispatch, "recalled", lambda *_: note("lease: recall answered"))
    _after(crew, "stands_in", lambda *_: note("slot: place kept"))
    _after(crew, "remove_pages", effects_of("slot page: removed"))
    _after(owner.runs, "take_receipts", effects_of("receipt: sent by itself"))


# --- the table -----------------------------------------------------------------------------------

#: Every transition that is counted.
TRANSITIONS: Final = (
    "block: can't be read now", "block: damaged", "block: fetched", "block: paged out", "block: unfolded",
    "commit: done", "commit: failed",
    "confirm: journaled", "confirm: none", "confirm: synced",
    "dead letter: buried", "dead letter: gone", "dead letter: replayed",
    "lease: recall answered", "lease: recalled", "lease: returned", "lease: undelivered",
    "outcome: dropped", "outcome: evicted", "outcome: handed out again", "outcome: its call came",
    "outcome: without its call",
    "receipt: sent by itself",
    "recovered: dead letter", "recovered: may have run", "recovered: outcome", "recovered: queued",
    "recovered: running",
    "refused: disk", "refused: full", "refused: id", "refused: waits",
    "row: callers written anew", "row: changed task written", "row: dead letter written", "row: moved",
    "row: outcome written", "row: removed", "row: tasks written", "row: what is gone noted",
    "slot page: removed", "slot: joined", "slot: joined again", "slot: lost", "slot: lost with leases",
    "slot: place kept",
    "task: LEASED to DONE", "task: LEASED to READY", "task: LEASED to READY, retry", "task: LEASED to WAITING, retry",
    "task: READY to DONE", "task: READY to LEASED", "task: WAITING to DONE", "task: WAITING to READY",
    "task: new to LEASED", "task: new to READY", "task: new to WAITING",
)  # fmt: skip

#: Every fault, as the history names it.
FAULTS: Final = (
    "client leaves", "clock set", "cold stop", "cut", "damaged row", "delay", "disk full", "disk slow",
    "disk unreadable", "drop", "full pipe", "kill client", "kill host", "kill node", "kill router", "kill slot",
    "kill template", "lose peer", "one way", "pause", "power loss", "reorder", "repeat", "task kills its slot",
    "warm stop",
)  # fmt: skip

#: {(transition, fault): why they can't meet}
IMPOSSIBLE: Final[dict[tuple[str, str], str]] = {}


def pairs() -> list[tuple[str, str]]:
    """Every transition with every fault."""
    return [(transition, fault) for transition in TRANSITIONS for fault in FAULTS]


def table(met: Counter[tuple[str, str]]) -> str:
    """Transitions down, faults across, in each cell how often they met."""
    width = max(map(len, TRANSITIONS))
    letters = [chr(ord("A") + at) for at in range(len(FAULTS))]
    lines = [f"{letter} = {fault}" for letter, fault in zip(letters, FAULTS, strict=True)]
    lines.append(" " * width + "".join(f"{letter:>6}" for letter in letters))
    lines += [f"{row:{width}}" + "".join(f"{_short(met[row, fault]):>6}" for fault in FAULTS) for row in TRANSITIONS]
    return "\n".join(lines)


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count // 1000}k"
