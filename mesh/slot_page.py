"""The slot page: one mmapped file a node, one record a slot, in which slots say what they have begun (DESIGN D4).

A record is written by its slot, but for three words: `withdrawn`, which the supervisor raises, when it looks at time
limits next, and which lease it wants to end early. Anybody of the same user may read it; nobody needs a lock:

- The slot writes `begun = n`, then looks at `withdrawn`. It runs lease n only where `withdrawn < n`; else it returns n.
- The supervisor raises `withdrawn`, waits `SETTLE_S`, then reads `begun`: what lies above it was not begun and never
will be.
  The wait is far longer than a store needs to become visible to another core. Should the slot return a lease that the
  supervisor returns too, the second return changes nothing.
- The slot writes the limits, then that it runs, then looks whether the supervisor looks in time; if not, it wakes it.
  The supervisor writes that it never looks, waits `SETTLE_S`, reads the limits, and writes when it looks next.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

#: Between raising `withdrawn` and reading `begun`.
SETTLE_S: Final = 0.001
#: Later than any moment, monotonic ns.
NEVER: Final = (1 << 63) - 1
#: One record; a multiple of the cache line, so that slots don't slow each other.
RECORD_BYTES: Final = 256
_NAME_BYTES: Final = 128

#: Offsets in a record: aligned 8-byte words, written whole.
_BEGUN: Final = 0
_WITHDRAWN: Final = 8
_PID: Final = 16
_RUNNING: Final = 24  #: 1 while the begun lease runs
_COUNT: Final = 40  #: beginnings of all processes that have held the record: which place of the ring is next
_ENTERED: Final = 32  #: the last lease that a predecessor of this process can have begun
_HARD: Final = 48  #: how long the begun lease may run, ns; 0 is without end
_SOFT: Final = 56
_DETAIL: Final = 64
_SAYS: Final = 224  #: core.supervision.Says of the slot, and `_BLOCKED`
_CANCELLED: Final = 248  #: the lease that is to end early; the supervisor writes it
_BEGUN_AT: Final = 232  #: when the begun lease began, monotonic ns; written where it has a limit
_LOOK_AT: Final = 240  #: when the supervisor looks at the limits next, monotonic ns; the supervisor writes it

_BLOCKED: Final = 0x100

_WORD: Final = struct.Struct("=Q")
_WORD_BYTES: Final = 8
#: What a slot has begun lately: more than it may hold without the owner's receipt (core.work.UNRECEIPTED_MAX).
BEGINNINGS: Final = 4096
#: lease, when (monotonic ns, the same clock in every process of a host), task id
_BEGINNING: Final = struct.Struct("=QQ16s")
#: started_wall_s, attempt, task id, name length, name
_DETAIL_FORM: Final = struct.Struct(f"=dI16sH{_NAME_BYTES}s")


class Running(NamedTuple):
    """What a slot runs."""

    task_id: bytes
    name: str
    attempt: int
    started_wall_s: float
    lease: int


class RunningLimits(NamedTuple):
    """The limits of what a slot runs."""

    lease: int
    begun_mono_s: float
    hard_s: float  #: 0.0 is without end
    soft_s: float


class Beginnings(NamedTuple):
    """What the processes of one slot have begun lately, as their page tells a router that starts."""

    slot: int
    pid: int  #: of the process that holds the record
    #: (task id, lease, when, whether by this process and not one before it)
    begun: list[tuple[bytes, int, float, bool]]


class SlotPage:
    """The page of one node. The supervisor creates it; template and slots inherit the mapping.

    Behind the records lie the beginnings: of each slot a ring of (lease, task id), written before the lease is begun.
    """

    def __init__(self, path: str, slots: int, *, create: bool) -> None:
        self.path = path
        self.slots = slots
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        fd = os.open(path, flags, 0o600)
        try:
            if create:
                os.truncate(fd, _page_bytes(slots))
                os.posix_fallocate(fd, 0, slots * RECORD_BYTES)
            self._map = mmap.mmap(fd, _page_bytes(slots))
            #: The same bytes as words. Only so is a word written whole: `struct.pack_into` clears its bytes first, and
            #: another process could read the zero in between.
            self._words = memoryview(self._map).cast("Q")
            if create:
                for slot in range(slots):
                    self.looks_at(slot, NEVER)
        finally:
            os.close(fd)

    # --- the slot's side -------------------------------------------------------------------------

    def enter(self, slot: int, pid: int) -> int:
        """A new process takes the record over. Returns the last lease its predecessor can have known of."""
        base = slot * RECORD_BYTES
        last = max(self._read(base + _BEGUN), self._read(base + _WITHDRAWN))
        self._write(base + _RUNNING, 0)
        self._write(base + _SAYS, 0)
        self.limit(slot, 0, 0, 0)
        self._write(base + _ENTERED, last)
        self._write(base + _PID, pid)
        return last

    def begin(
        self, slot: int, lease: int, task_id: bytes, name: bytes, attempt: int, wall_s: float, mono_ns: int
    ) -> bool:
        """Writes a lease as begun. False where it was withdrawn: then it must not run, and is to be returned."""
        base = slot * RECORD_BYTES
        page = self._map
        _DETAIL_FORM.pack_into(page, base + _DETAIL, wall_s, attempt, task_id, len(name), name)
        words = self._words
        count = words[(base + _COUNT) // _WORD_BYTES]
        place = _ring_at(self.slots, slot, count)
        _BEGINNING.pack_into(page, place, lease, mono_ns, task_id)
        words[(base + _COUNT) // _WORD_BYTES] = count + 1
        words[(base + _BEGUN) // _WORD_BYTES] = lease
        if words[(base + _WITHDRAWN) // _WORD_BYTES] >= lease:
            # It goes back: a router that starts must not take it for one that has run, nor does it take a place.
            words[place // _WORD_BYTES] = 0
            words[(base + _COUNT) // _WORD_BYTES] = count
            return False
        page[base + _RUNNING] = 1
        return True

    def limit(self, slot: int, hard_ns: int, soft_ns: int, mono_ns: int) -> None:
        """How long the lease may run that is begun next; zeros for without end. To be written before it is begun."""
        base = slot * RECORD_BYTES
        self._write(base + _HARD, hard_ns)
        self._write(base + _SOFT, soft_ns)
        self._write(base + _BEGUN_AT, mono_ns)

    def is_overlooked(self, slot: int, mono_ns: int) -> bool:
        """Whether the supervisor looks at the limits later than this, unless it is woken. To be asked once begun."""
        return mono_ns < self._read(slot * RECORD_BYTES + _LOOK_AT)

    def end(self, slot: int) -> None:
        """The begun lease does not run any more."""
        self._map[slot * RECORD_BYTES + _RUNNING] = 0

    def say(self, slot: int, says: int, *, blocked: bool = False) -> None:
        """What the slot says of itself; it then rings the supervisor."""
        self._write(slot * RECORD_BYTES + _SAYS, says | (_BLOCKED if blocked else 0))

    def blocked(self) -> int:
        """How many slots of the page wait in a task for another one."""
        words = self._words
        return sum(
            1 for at in range(_SAYS, self.slots * RECORD_BYTES, RECORD_BYTES) if words[at // _WORD_BYTES] & _BLOCKED
        )

    def is_cancelled(self, slot: int) -> bool:
        """Whether what the slot has begun last is to end early."""
        base = slot * RECORD_BYTES
        return 0 < self._read(base + _BEGUN) == self._read(base + _CANCELLED)

    # --- the supervisor's side -------------------------------------------------------------------

    def make_room(self, slot: int) -> None:
        """Before a slot is started here: one that writes where the disk has no room would be ended by SIGBUS.

        Raises:
            OSError: there is no room.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, _ring_at(self.slots, slot, 0), BEGINNINGS * _BEGINNING.size)
        finally:
            os.close(fd)

    def vacate(self, slot: int) -> None:
        """The slot has ended and its process goes on: a router that starts is not to wait for it."""
        self._write(slot * RECORD_BYTES + _PID, 0)

    def said(self, slot: int) -> tuple[int, bool]:
        """What the slot says of itself, and whether it waits in a task for another one."""
        word = self._read(slot * RECORD_BYTES + _SAYS)
        return word & ~_BLOCKED, bool(word & _BLOCKED)

    def cancel(self, slot: int, lease: int) -> None:
        """This lease is to end early, if the slot has begun no other. The slot is then to be interrupted."""
        self._write(slot * RECORD_BYTES + _CANCELLED, lease)

    def withdraw(self, slot: int, upto: int) -> None:
        """No lease up to this one may begin from here on. Read `begun` after `SETTLE_S`."""
        base = slot * RECORD_BYTES
        if upto > self._read(base + _WITHDRAWN):
            self._write(base + _WITHDRAWN, upto)

    def begun(self, slot: int) -> int:
        """The last lease that the slot has begun."""
        return self._read(slot * RECORD_BYTES + _BEGUN)

    def pid(self, slot: int) -> int:
        """The process that holds the record."""
        return self._read(slot * RECORD_BYTES + _PID)

    def looks_at(self, slot: int, mono_ns: int) -> None:
        """When the supervisor looks at the limits next. Before it looks it writes `NEVER`, and waits `SETTLE_S`.

        So a lease that begins meanwhile is either seen, or its slot wakes the supervisor.
        """
        self._write(slot * RECORD_BYTES + _LOOK_AT, mono_ns)

    def limits(self, slot: int) -> RunningLimits | None:
        """The limits of what the slot runs; None where it runs nothing, or has no limit for it."""
        record = self._record(slot)
        hard_ns, soft_ns, begun_ns, lease = (
            _WORD.unpack_from(record, at)[0] for at in (_HARD, _SOFT, _BEGUN_AT, _BEGUN)
        )
        if not record[_RUNNING] or not (hard_ns or soft_ns):
            return None
        return RunningLimits(lease, begun_ns / 1e9, hard_ns / 1e9, soft_ns / 1e9)

    def least_limit_s(self) -> float | None:
        """The shortest limit of what the slots run, or have run last; None where none has one."""
        words = [self._read(slot * RECORD_BYTES + at) for slot in range(self.slots) for at in (_HARD, _SOFT)]
        return min((ns / 1e9 for ns in words if ns), default=None)

    def running(self, slot: int) -> Running | None:
        """What the slot runs now, or None."""
        record = self._record(slot)
        if not record[_RUNNING]:
            return None
        wall_s, attempt, task_id, length, name = _DETAIL_FORM.unpack_from(record, _DETAIL)
        lease = _WORD.unpack_from(record, _BEGUN)[0]
        return Running(task_id, name[:length].decode(errors="replace"), attempt, wall_s, lease)

    def _record(self, slot: int) -> bytes:
        """A slot's record, read twice, so that a change in between does not mix two tasks."""
        base = slot * RECORD_BYTES
        record = bytes(self._map[base : base + RECORD_BYTES])
        for _ in range(100):
            again = bytes(self._map[base : base + RECORD_BYTES])
            if again == record:
                break
            record = again
        return record

    def _read(self, at: int) -> int:
        return self._words[at // _WORD_BYTES]

    def _write(self, at: int, value: int) -> None:
        self._words[at // _WORD_BYTES] = value

    def close(self) -> None:
        """Unmaps the page; the file stays."""
        self._words.release()
        self._map.close()


def begun_of(path: str, slot: int, pid: int) -> int | None:
    """The last lease that this slot process began, read from the file; None where it does not say."""
    try:
        # Whatever the path names: a pipe without a writer must not hold up the reader.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            record = os.pread(fd, RECORD_BYTES, slot * RECORD_BYTES)
        finally:
            os.close(fd)
    except (OSError, ValueError, OverflowError):
        return None
    if len(record) < RECORD_BYTES or _WORD.unpack_from(record, _PID)[0] != pid:
        return None
    begun: int = _WORD.unpack_from(record, _BEGUN)[0]
    return begun


def withdraw_all(paths: Iterable[str], ahead: int) -> dict[str, list[int]]:
    """Has no slot of these pages begin what it was granted: for a router that starts, and whose predecessor granted it.

    Returns up to which lease, of each slot: `ahead` beyond the last begun. Returns after `SETTLE_S`.
    """
    withdrawn: dict[str, list[int]] = {}
    opened = [page for path in paths if (page := _open(path)) is not None]
    for _ in range(2):  # again, should a supervisor have written an earlier withdrawal over the first
        for page in opened:
            upto = withdrawn.setdefault(page.path, [page.begun(slot) + ahead for slot in range(page.slots)])
            for slot in range(page.slots):
                page.withdraw(slot, upto[slot])
        time.sleep(SETTLE_S)
    for page in opened:
        page.close()
    return withdrawn


def _open(path: str) -> SlotPage | None:
    try:
        slots = os.stat(path).st_size // _page_bytes(1)
        return SlotPage(path, slots, create=False) if slots else None
    except (OSError, ValueError):
        return None


def beginnings_of(path: str) -> list[Beginnings]:
    """What the slots of a page have begun lately; nothing where the file is none, or cut off.

    It may be written meanwhile: a beginning that is half there is one that its slot has not begun.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return []
    try:
        slots = os.fstat(fd).st_size // _page_bytes(1)
        records = os.pread(fd, slots * RECORD_BYTES, 0)
        return [_beginnings(fd, records, slots, slot) for slot in range(len(records) // RECORD_BYTES)]
    except OSError:
        return []
    finally:
        os.close(fd)


def _beginnings(fd: int, records: bytes, slots: int, slot: int) -> Beginnings:
    base = slot * RECORD_BYTES
    begun, pid, entered = (_WORD.unpack_from(records, base + at)[0] for at in (_BEGUN, _PID, _ENTERED))
    found = Beginnings(slot, pid, [])
    if not begun:  # most seats of a page were never used, and have no room on the disk
        return found
    ring = os.pread(fd, BEGINNINGS * _BEGINNING.size, _ring_at(slots, slot, 0))
    seen = set()
    for lease, mono_ns, task_id in _BEGINNING.iter_unpack(ring[: len(ring) // _BEGINNING.size * _BEGINNING.size]):
        if 0 < lease <= begun and lease not in seen:
            seen.add(lease)
            found.begun.append((task_id, lease, mono_ns / 1e9, lease > entered))
    return found


def _page_bytes(slots: int) -> int:
    return slots * (RECORD_BYTES + BEGINNINGS * _BEGINNING.size)


def _ring_at(slots: int, slot: int, count: int) -> int:
    return slots * RECORD_BYTES + (slot * BEGINNINGS + count % BEGINNINGS) * _BEGINNING.size


def name_bytes(name: str) -> bytes:
    """A task name as it fits into a record."""
    return name.encode()[:_NAME_BYTES]
