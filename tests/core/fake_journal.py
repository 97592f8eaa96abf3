"""A journal in memory: takes commits, at once or when the test says, and shows what a router that starts would read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

from mesh import codec
from mesh.core.effects import Commit
from mesh.core.records import Row, RowKind


class Written(NamedTuple):
    """One commit as it was handed out; packed, so that nothing which happens later can change it."""

    number: int
    rows: list[tuple[int, int, bytes]]  #: (number, kind, packed records)
    removed: list[list[int]]
    synced: bool


class FakeJournal:
    """1. Keeps the commits that it took. 2. Shows the rows after them. 3. Waits and fails as the test says."""

    def __init__(self, commits: list[Written] | None = None) -> None:
        #: What the disk holds, oldest first.
        self.commits: list[Written] = list(commits or [])
        #: What was handed out and has no answer yet.
        self.under_way: Written | None = None
        #: Commits wait for the test.
        self.waits = False
        #: Why commits fail; empty while they don't.
        self.failure = ""
        #: Rows that can't be read, for good or for now.
        self.damaged: set[int] = set()
        self.unreadable: set[int] = set()
        #: Rows that were read again, in order.
        self.fetched: list[int] = []

    # --- what is written ---------------------------------------------------------------------------

    def hand(self, commit: Commit) -> None:
        """Takes a commit; its answer is due."""
        written = Written(
            commit.number,
            [(row.number, row.kind, _pack(row.records)) for row in commit.rows],
            [list(one) for one in commit.removed],
            commit.synced,
        )
        if self.under_way is not None:
            assert written == self.under_way, "a second commit, before the first has its answer"
        assert commit.rows or commit.removed, "a commit of nothing"
        self.under_way = written

    def take(self) -> int:
        """Holds the commit under way from now on. Its number."""
        assert self.under_way is not None
        here = self._packed()
        assert not any(number in here for number, _, _ in self.under_way.rows), "a row is written twice"
        taken, self.under_way = self.under_way, None
        self.commits.append(taken)
        return taken.number

    def upto(self, commits: int | None) -> FakeJournal:
        """A journal that holds only the first of its commits; None for all."""
        return FakeJournal(self.commits[:commits])

    # --- what is there -----------------------------------------------------------------------------

    def _packed(self) -> dict[int, tuple[int, bytes]]:
        rows: dict[int, tuple[int, bytes]] = {}
        for commit in self.commits:
            rows.update({number: (kind, packed) for number, kind, packed in commit.rows})
            for first, last in commit.removed:
                for number in range(first, last + 1):
                    rows.pop(number, None)
        return rows

    def rows(self, *kinds: RowKind) -> list[Row]:
        """What stands in it, of these kinds, ascending; calls as records, however they came."""
        rows = sorted(self._packed().items())
        return [Row(number, kind, _unpack(kind, packed)) for number, (kind, packed) in rows if kind in kinds]

    def passes(self) -> tuple[Iterator[Row], Iterator[Row]]:
        """As a router reads it: all but the tasks, then these."""
        others = [kind for kind in RowKind if kind is not RowKind.TASKS]
        return iter(self.rows(*others)), iter(self.rows(RowKind.TASKS))

    def read(self, number: int) -> list[Any] | None:
        """One row."""
        found = self._packed().get(number)
        return None if found is None or number in self.damaged else _unpack(*found)

    # --- in short ------------------------------------------------------------------------------------

    def tasks(self) -> dict[int, list[tuple[bytes, list[int]]]]:
        """{row: [(client prefix, sequences), ...]} of the batches."""
        return {
            row.number: [(prefix, [call[0] for call in calls]) for prefix, calls, _ in row.records]
            for row in self.rows(RowKind.TASKS)
        }

    def are_as_they_came(self) -> dict[int, list[bool]]:
        """{row: whether each of its batches is the message of its client, byte by byte}."""
        return {
            number: [type(calls) is bytes for _, calls, _ in msgpack.unpackb(packed, strict_map_key=False)]
            for number, (kind, packed) in sorted(self._packed().items())
            if kind == RowKind.TASKS
        }

    def ids(self, kind: RowKind) -> dict[int, list[bytes]]:
        """{row: ids} of CHANGED or OUTCOMES."""
        return {row.number: [record[0] for record in row.records] for row in self.rows(kind)}

    def kinds(self) -> dict[int, RowKind]:
        """{row: its kind}"""
        return {number: RowKind(kind) for number, (kind, _) in sorted(self._packed().items())}

    def last(self) -> dict[RowKind, list[Any]]:
        """{kind: records} of the last commit."""
        return {RowKind(kind): _unpack(kind, packed) for _, kind, packed in self.commits[-1].rows}

    def ever_written(self) -> set[bytes]:
        """The ids of all that any commit has mentioned, but for notes."""
        ids = set()
        for _, kind, packed in itertools.chain.from_iterable(commit.rows for commit in self.commits):
            records = _unpack(kind, packed)
            if kind == RowKind.TASKS:
                ids |= {prefix + call[0].to_bytes(5, "big") for prefix, calls, _ in records for call in calls}
            elif kind in (RowKind.CHANGED, RowKind.OUTCOMES):
                ids |= {record[0] for record in records}
        return ids


def _pack(records: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(records)
    return packed


def _unpack(kind: int, packed: bytes) -> list[Any]:
    records: list[Any] = msgpack.unpackb(packed, strict_map_key=False)
    if kind != RowKind.TASKS:
        return records
    return [
        [prefix, codec.decode_publish(calls).calls if isinstance(calls, bytes) else calls, frames]
        for prefix, calls, frames in records
    ]
