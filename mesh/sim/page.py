"""The slot page in memory, with the rules of mesh/slot_page.py. It asserts that no withdrawn lease is begun."""

from __future__ import annotations

from typing import NamedTuple

from mesh.slot_page import BEGINNINGS


class Detail(NamedTuple):
    """What a slot runs."""

    task_id: bytes
    name: str
    attempt: int
    wall_s: float
    mono_s: float


class Record:
    """Of one slot."""

    __slots__ = ("beginnings", "begun", "detail", "entered", "pid", "withdrawn")

    def __init__(self) -> None:
        self.begun = 0
        self.withdrawn = 0
        self.pid = 0
        self.entered = 0
        #: {lease: (task id, when)} of the last BEGINNINGS.
        self.beginnings: dict[int, tuple[bytes, float]] = {}
        self.detail: Detail | None = None


class SimPage:
    """As SlotPage."""

    def __init__(self, slots: int) -> None:
        self.records = [Record() for _ in range(slots)]

    def enter(self, slot: int, pid: int) -> int:
        record = self.records[slot]
        record.detail = None
        record.pid = pid
        record.entered = max(record.begun, record.withdrawn)
        return record.entered

    def begin(self, slot: int, lease: int, detail: Detail) -> bool:
        record = self.records[slot]
        assert lease > record.begun, f"lease {lease} began after lease {record.begun}"
        record.begun = lease
        record.beginnings[lease] = (detail.task_id, detail.mono_s)
        if len(record.beginnings) > BEGINNINGS:
            del record.beginnings[next(iter(record.beginnings))]
        if record.withdrawn >= lease:
            del record.beginnings[lease]
            return False
        record.detail = detail
        return True

    def end(self, slot: int) -> None:
        self.records[slot].detail = None

    def withdraw(self, slot: int, upto: int) -> None:
        record = self.records[slot]
        record.withdrawn = max(record.withdrawn, upto)
