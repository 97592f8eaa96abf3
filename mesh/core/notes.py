"""What the journal is told of ids that are gone and of callers, so that rows that are still there mislead nobody."""

from __future__ import annotations

from typing import Any, Final

from mesh.core.callers import Caller
from mesh.core.records import Row, RowKind
from mesh.core.rows import Rows
from mesh.core.sequences import SequenceSet
from mesh.ids import ID_BYTES, PREFIX_BYTES, SEQUENCE_MAX, sequence_of
from mesh.messages import Ranges

#: Bytes of notes that are no reason to write the callers again.
NOTES_BYTES: Final = 1 << 18
#: What a range takes in a note, about.
RANGE_BYTES: Final = 8
#: Beyond all ids as numbers.
_NO_ID: Final = 1 << 8 * ID_BYTES + 1


class Notes:
    """1. Gathers ids that are gone. 2. Writes them as notes; now and then instead all that is known of callers."""

    def __init__(self, rows: Rows, callers: dict[bytes, Caller]) -> None:
        self._rows = rows
        self._callers = callers
        #: {client prefix: sequences of which nothing is needed any more}; not written yet.
        self._gone: dict[bytes, SequenceSet] = {}
        #: The same, of ids in no row.
        self._lazy: dict[bytes, SequenceSet] = {}
        #: {client prefix: sequences that are gone though a row that is there mentions them}; written.
        self._gone_before: dict[bytes, SequenceSet] = {}
        #: Rows of notes and callers, ascending, and their bytes.
        self._written: list[int] = []
        self._notes_bytes = self._callers_bytes = 0
        #: They say that something is gone which is not.
        self._are_wrong = False

    def is_gone(self, task_id: bytes) -> None:
        """Nothing is needed of this id."""
        prefix = task_id[:PREFIX_BYTES]
        gone = self._gone.get(prefix)
        if gone is None:
            gone = self._gone[prefix] = SequenceSet()
        gone.add(sequence_of(task_id))

    def are_gone(self, task_ids: list[bytes]) -> None:
        """Nothing is needed of these ids. Many together cost much less than each by itself."""
        _add(self._gone, task_ids)

    def were_here(self, task_ids: list[bytes]) -> None:
        """The same, of ids of which nothing was ever written: there is no hurry."""
        _add(self._lazy, task_ids)

    def is_back(self, task_id: bytes) -> None:
        """It is needed after all, whatever was said before."""
        prefix = task_id[:PREFIX_BYTES]
        for gone in (self._gone, self._lazy, self._gone_before):
            if prefix in gone:
                gone[prefix].discard(sequence_of(task_id))
        self._are_wrong = True

    def take(self, *, lazy: bool) -> list[Row]:
        """What is gone; now and then instead what is known of all callers, so that notes don't pile up."""
        if lazy:
            for prefix, sequences in self._lazy.items():
                known = self._gone.setdefault(prefix, SequenceSet())
                for first, last in sequences.ranges():
                    known.add_range(first, last)
            self._lazy = {}
        if not (self._gone or self._are_wrong):
            return []
        gone, self._gone = self._gone, {}
        for prefix, sequences in gone.items():
            before = self._gone_before.setdefault(prefix, SequenceSet())
            for first, last in sequences.ranges():
                before.add_range(first, last)
        number = self._rows.new_row()
        if self._are_wrong or self._notes_bytes > NOTES_BYTES + 2 * self._callers_bytes:
            return [self._callers_row(number)]
        records = [[prefix, sequences.take()] for prefix, sequences in gone.items()]
        self._written.append(number)
        self._notes_bytes += sum(PREFIX_BYTES + RANGE_BYTES * len(ranges) for _, ranges in records)
        return [Row(number, RowKind.NOTES, records)]

    def _callers_row(self, number: int) -> Row:
        self._are_wrong = False
        for earlier in self._written:
            self._rows.empty.add(earlier)
        self._gone_before = self._still_mentioned()
        records: list[list[Any]] = [
            [prefix, caller.pid, caller.durable.ranges(), self._gone_ranges(prefix)]
            for prefix, caller in self._callers.items()
        ]
        records += [
            [prefix, 0, [], gone.ranges()] for prefix, gone in self._gone_before.items() if prefix not in self._callers
        ]
        self._written, self._notes_bytes = [number], 0
        self._callers_bytes = sum(32 + RANGE_BYTES * (len(seen) + len(gone)) for _, _, seen, gone in records)
        return Row(number, RowKind.CALLERS, records)

    def _gone_ranges(self, prefix: bytes) -> Ranges:
        gone = self._gone_before.get(prefix)
        return gone.ranges() if gone is not None else []

    def _still_mentioned(self) -> dict[bytes, SequenceSet]:
        mentioned = self._rows.mentioned()
        return {
            prefix: SequenceSet(common)
            for prefix, gone in self._gone_before.items()
            if prefix in mentioned and (common := gone.common_with(mentioned[prefix].ranges()))
        }

    def recovered(self, number: int, gone: dict[bytes, SequenceSet]) -> None:
        """A row of notes or callers was read; `gone` is what all of them said."""
        self._rows.known(number)
        self._written.append(number)
        self._gone_before = gone


def _add(known: dict[bytes, SequenceSet], task_ids: list[bytes]) -> None:
    """Adds ids to {client prefix: sequences}. Those of one client that follow each other cost as much as one."""
    numbers = sorted(map(int.from_bytes, task_ids))
    first = last = numbers[0]
    for number in (*numbers, _NO_ID):
        if number > last + 1:
            prefix = first.to_bytes(ID_BYTES)[:PREFIX_BYTES]
            known.setdefault(prefix, SequenceSet()).add_range(first & SEQUENCE_MAX, last & SEQUENCE_MAX)
            first = number
        last = number
