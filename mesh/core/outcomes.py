"""Outcomes the owner keeps while they are young and there is room, those received going first (DESIGN D8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from mesh.messages import Buffer

#: What an outcome takes of `results_max_bytes` beside its body: id, tuple and table entry.
ENTRY_BYTES: Final = 352
#: When there is no room, this share is freed at once, so that the cost per outcome stays constant.
EVICT_SHARE: Final = 8


class Stored(NamedTuple):
    """One outcome as it is kept."""

    status: int
    body: bytes
    frames: tuple[Buffer, ...]
    stored_mono_s: float
    kept: bool = False  #: it stays in the journal though its caller has it
    custom_id: str | None = None

    @property
    def body_bytes(self) -> int:
        """Size of the body, frames included."""
        return len(self.body) + sum(map(len, self.frames)) if self.frames else len(self.body)

    @property
    def size(self) -> int:
        """What it takes of the room."""
        return self.body_bytes + ENTRY_BYTES


class OutcomeStore:
    """Every outcome by id. Bounded by age and by bytes."""

    def __init__(self, expires_s: float | None, max_bytes: int, on_gone: Callable[[bytes], None]) -> None:
        self.expires_s = expires_s
        self.max_bytes = max_bytes
        #: Called with the id of each outcome that is kept no longer.
        self._on_gone = on_gone
        #: {task_id: outcome} that the caller has not said it has; oldest first. To be read.
        self.unreceived: dict[bytes, Stored] = {}
        #: {task_id: outcome} that the caller has; oldest receipt first.
        self._received: dict[bytes, Stored] = {}
        self.stored_bytes = 0
        #: Not later than the oldest outcome's age limit.
        self._next_expiry_mono_s: float | None = None

    def put(self, task_id: bytes, stored: Stored) -> None:
        """Keeps an outcome; the first one of a task stays."""
        if task_id in self.unreceived or task_id in self._received:
            return
        self.unreceived[task_id] = stored
        self.stored_bytes += stored.size
        if self._next_expiry_mono_s is None and self.expires_s is not None:
            self._next_expiry_mono_s = stored.stored_mono_s + self.expires_s
        if self.stored_bytes > self.max_bytes:
            self._make_room()

    def get(self, task_id: bytes) -> Stored | None:
        """The outcome, any number of times; None where there is none (any more)."""
        return self.unreceived.get(task_id) or self._received.get(task_id)

    def needed(self, task_id: bytes) -> Stored | None:
        """An outcome that must outlive the router: its caller has not got it, or it is to be kept for all that."""
        stored = self._received.get(task_id)
        if stored is not None:
            return stored if stored.kept else None
        return self.unreceived.get(task_id)

    def received(self, task_id: bytes) -> Stored | None:
        """The caller has it: it is the first to go when room is needed. Returns it where that is news."""
        stored = self.unreceived.pop(task_id, None)
        if stored is not None:
            self._received[task_id] = stored
        return stored

    def forget(self, task_id: bytes) -> None:
        """Removes an outcome."""
        stored = self.unreceived.pop(task_id, None) or self._received.pop(task_id, None)
        if stored is not None:
            self.stored_bytes -= stored.size
            self._on_gone(task_id)

    def expire(self, mono_s: float) -> None:
        """Removes what is older than `expires_s`."""
        if self._next_expiry_mono_s is None or mono_s < self._next_expiry_mono_s or self.expires_s is None:
            return
        limit = mono_s - self.expires_s
        for table in (self.unreceived, self._received):
            for task_id in [one for one, stored in table.items() if stored.stored_mono_s <= limit]:
                self.stored_bytes -= table.pop(task_id).size
                self._on_gone(task_id)
        oldest = [stored.stored_mono_s for table in (self.unreceived, self._received) for stored in table.values()]
        # The next look is a while off even if something expires sooner: a look costs O(outcomes).
        self._next_expiry_mono_s = max(min(oldest) + self.expires_s, mono_s + self.expires_s / 16) if oldest else None

    def next_expiry_mono_s(self) -> float | None:
        """When `expire` should be called next."""
        return self._next_expiry_mono_s

    def _make_room(self) -> None:
        target = self.max_bytes - self.max_bytes // EVICT_SHARE
        for table in (self._received, self.unreceived):
            going = []
            for task_id, stored in table.items():
                if self.stored_bytes <= target:
                    break
                self.stored_bytes -= stored.size
                going.append(task_id)
            for task_id in going:
                del table[task_id]
                self._on_gone(task_id)

    @property
    def has_unreceived(self) -> bool:
        """There are outcomes whose caller has not said that it has them."""
        return bool(self.unreceived)

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self.unreceived or task_id in self._received

    def __iter__(self) -> Iterator[bytes]:
        yield from self.unreceived
        yield from self._received

    def __len__(self) -> int:
        return len(self.unreceived) + len(self._received)

    def check(self) -> None:
        """Raises AssertionError where the tables overlap or the bytes don't add up."""
        assert not self.unreceived.keys() & self._received.keys()
        tables = (self.unreceived, self._received)
        assert self.stored_bytes == sum(stored.size for table in tables for stored in table.values())
        assert self.stored_bytes <= self.max_bytes or len(self) <= 1
