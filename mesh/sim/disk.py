"""The disk of a host with a journal on it: commits take time, may be refused or cut short, or lost where not synced.

A commit is there whole or not at all, as SQLite keeps it. What was written is in the cache of the system, and survives
the death of every process; what was synced survives the loss of power.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from mesh import codec
from mesh.core.effects import Commit
from mesh.core.records import Row, RowKind
from mesh.sim.timeline import Timeline

#: What a commit takes, usually and where it is synced.
WRITE_S = (0.0002, 0.003)
SYNC_S = (0.001, 0.02)


class SimDisk:
    """1. Applies commits, after a while. 2. Tells a router that starts what is there. 3. Fails as disks do."""

    def __init__(self, timeline: Timeline, rng: random.Random) -> None:
        self._timeline = timeline
        self._rng = rng
        #: {number: (kind, packed records)} as every process sees it.
        self._rows: dict[int, tuple[int, bytes]] = {}
        #: What is left when power is lost.
        self._synced: dict[int, tuple[int, bytes]] = {}
        self._under_way: tuple[Commit, list[tuple[int, int, bytes]]] | None = None
        # Faults.
        self.full = False
        self.stall_s = 0.0
        self.unreadable = False
        #: Rows that can't be read any more.
        self._damaged: set[int] = set()
        # What was done, for the figures.
        self.commits = self.rows_written = self.bytes_written = 0

    def append(self, commit: Commit, answer: Callable[[int, str], None]) -> None:
        """Takes a commit; `answer(number, why it failed or empty)` comes later."""
        packed = [(row.number, row.kind, _pack(row.records)) for row in commit.rows]
        self._under_way = (commit, packed)
        low, high = SYNC_S if commit.synced else WRITE_S
        self._timeline.after(self.stall_s + self._rng.uniform(low, high), lambda: self._write(commit, answer))

    def _write(self, commit: Commit, answer: Callable[[int, str], None]) -> None:
        if self._under_way is None or self._under_way[0] is not commit:
            return  # its router has died
        if self.full:
            self._under_way = None
            answer(commit.number, "no space left on device")
            return
        self._apply()
        answer(commit.number, "")

    def _apply(self) -> None:
        assert self._under_way is not None
        commit, packed = self._under_way
        self._under_way = None
        for number, kind, body in packed:
            assert number not in self._rows, f"row {number} is written twice"
            self._rows[number] = (kind, body)
            self._damaged.discard(number)
            self.bytes_written += len(body)
        for first, last in commit.removed:
            for number in range(first, last + 1):
                self._rows.pop(number, None)
        self.commits += 1
        self.rows_written += len(packed)
        if commit.synced or self._rng.random() < 0.1:  # now and then the system writes by itself
            self._synced = dict(self._rows)

    def writer_died(self) -> None:
        """The router is gone: the commit under way is there, or not."""
        if self._under_way is not None and not self.full and self._rng.random() < 0.5:
            self._apply()
        self._under_way = None

    def power_lost(self) -> None:
        """What was not synced is gone."""
        self._under_way = None
        self._rows = dict(self._synced)

    def rows(self, *, tasks: bool) -> Iterator[Row]:
        """The rows with tasks, or all others, ascending. What is damaged is set aside."""
        for number in self._damaged:
            self._rows.pop(number, None)
        for number in sorted(self._rows):
            if (self._rows[number][0] == RowKind.TASKS) is tasks:
                yield Row(number, self._rows[number][0], self.read(number) or [])

    def read(self, number: int) -> list[Any] | None:
        """One row; None where it can't be read any more."""
        found = self._rows.get(number)
        if found is None or number in self._damaged:
            return None
        records: list[Any] = msgpack.unpackb(found[1], strict_map_key=False)
        if found[0] == RowKind.TASKS:
            return [[prefix, _calls(calls), frames] for prefix, calls, frames in records]
        return records

    def damage(self, number: int) -> None:
        """A row can't be read any more, for good."""
        self._damaged.add(number)

    @property
    def task_rows(self) -> list[int]:
        """The rows with tasks as they were published."""
        return [number for number, (kind, _) in self._rows.items() if kind == RowKind.TASKS]

    def heal(self) -> None:
        """Nothing is wrong with it any more; what is damaged stays so."""
        self.full = self.unreadable = False
        self.stall_s = 0.0

    @property
    def numbers(self) -> set[int]:
        """Of the rows that are there."""
        return set(self._rows)


def _calls(calls: Any) -> list[Any]:
    return codec.decode_publish(calls).calls if isinstance(calls, bytes) else list(calls)


def _pack(records: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(records)
    return packed
