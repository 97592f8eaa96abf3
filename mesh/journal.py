"""What survives the router: a thread writes commits while the router goes on, and what it wrote is read back (D12)."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from mesh import codec
from mesh.core.effects import Commit
from mesh.core.records import Row, RowKind
from mesh.exceptions import JournalUnavailable, MalformedMessage
from mesh.journal_salvage import Damage
from mesh.journal_store import Store
from mesh.messages import Publish

logger = logging.getLogger(__name__)

#: How long a disk that hangs is waited for at the end.
LAST_WRITE_S: Final = 30.0
#: Items of a list that are packed at one go: for these 50 µs the router's loop waits for the interpreter.
SLICE: Final = 128
#: {kind of row: levels of lists in it, below that of the records, down to one that may be long}: the calls of a batch.
_LEVELS: Final[dict[int, int]] = {RowKind.TASKS: 2}


class Committed(NamedTuple):
    """The disk holds this commit."""

    number: int


class Failed(NamedTuple):
    """Nothing of this commit is on disk."""

    number: int
    reason: str


Answer: TypeAlias = Committed | Failed


class Journal:
    """1. Packs and writes commits in order, on a thread of its own. 2. Answers each. 3. Reads rows back.

    Everything but the writing is called by the router's thread.
    """

    def __init__(self, store: Store, notify: Callable[[], None]) -> None:
        self._store = store
        #: Ends the wait of the router's loop; called by the writing thread.
        self._notify = notify
        #: Rows that `recovered` left out: they can't be read, or not be understood.
        self.skipped = 0
        self._commits: SimpleQueue[Commit | None] = SimpleQueue()
        self._answers: deque[Answer] = deque()
        #: What is to be remembered beside rows when the next commit is there.
        self._to_remember: deque[tuple[str, str]] = deque()
        self._seen_damage = store.damage
        #: Why the last `tidy` failed, as it was logged; empty where it did not.
        self._untidy = ""
        self._thread = threading.Thread(target=self._write_all, name="mesh-journal", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, directory: str, notify: Callable[[], None]) -> Journal:
        """The journal in a state directory.

        Raises:
            NewerJournal, JournalUnavailable: as Store.open.
        """
        return cls(Store.open(directory), notify)

    @property
    def damage(self) -> Damage | None:
        """What was wrong with the file, if anything was: to be logged."""
        return self._store.damage

    @property
    def store(self) -> Store:
        """For its size, and for what it remembers beside rows before the first commit."""
        return self._store

    def append(self, commit: Commit) -> None:
        """Takes a commit. Returns at once, however slow the disk is."""
        self._commits.put(commit)

    def remember(self, key: str, value: str) -> None:
        """Has something written beside the rows, right after the next commit."""
        self._to_remember.append((key, value))

    def answers(self) -> list[Answer]:
        """What became of commits since the last call, in order."""
        answers = []
        while self._answers:
            answers.append(self._answers.popleft())
        return answers

    def fetch(self, number: int) -> list[Any] | None:
        """The records of a row that is on disk; None where it can't be read, or not be understood.

        Raises:
            JournalUnavailable: the disk does not work now, and the row may well be there.
        """
        found = self._store.read(number)
        return unpacked(found.kind, found.body) if found is not None else None

    def recovered(self, *, tasks: bool) -> Iterator[Row]:
        """The rows with tasks as they were published, or all others, ascending.

        For a router that starts; what can't be read or understood is counted in `skipped`.

        Raises:
            JournalUnavailable: the disk does not work.
        """
        for number, kind, body in self._store.rows(RowKind.TASKS, others=not tasks):
            records = unpacked(kind, body)
            if records is not None:
                yield Row(number, kind, records)
            else:
                self.skipped += 1
        self.skipped += self._store.skipped

    def close(self) -> None:
        """Writes what was appended, and gives everything back. The answers are still there."""
        self._commits.put(None)
        self._thread.join(LAST_WRITE_S)
        if self._thread.is_alive():
            logger.error("the disk does not answer; what it has not taken is lost", extra={"action": "journal_stuck"})
            return
        self._store.close()

    # --- the writing thread ----------------------------------------------------------------------

    def _write_all(self) -> None:
        while self._write_next():
            self._notify()
            while self._tidy() and self._commits.empty():
                pass

    def _write_next(self) -> bool:
        commit = self._commits.get()
        if commit is None:
            return False
        self._answers.append(self._write(commit))
        return True

    def _write(self, commit: Commit) -> Answer:
        try:
            rows = [(row.number, row.kind, _packed(row.kind, row.records)) for row in commit.rows]
            self._store.write(rows, commit.removed, synced=commit.synced)
            while self._to_remember:
                self._store.set_meta(*self._to_remember[0])
                self._to_remember.popleft()
        except JournalUnavailable as error:
            return Failed(commit.number, str(error))
        except Exception as error:  # a defect, but a silent end of this thread would be a worse one
            logger.exception("a commit can't be written", extra={"action": "journal_defect"})
            return Failed(commit.number, f"{type(error).__name__}: {error}")
        finally:
            self._tell_damage()
        return Committed(commit.number)

    def _tidy(self) -> bool:
        """Whether there is more of it. What fails here will fail the next commit, which tells."""
        try:
            more = self._store.tidy()
        except JournalUnavailable as error:
            if str(error) != self._untidy:
                self._untidy = str(error)
                logger.warning("%s", error, extra={"action": "journal_untidy"})
            return False
        self._untidy = ""
        return more

    def _tell_damage(self) -> None:
        damage = self._store.damage
        if damage is not self._seen_damage:
            self._seen_damage = damage
            logger.error("%s", damage, extra={"action": "journal_damaged"})


class MemoryJournal:
    """Keeps nothing; for meshes whose journal is switched off, in which every call has the level `none`."""

    #: As Journal.
    skipped = 0

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._answers: list[Answer] = []

    def append(self, commit: Commit) -> None:
        """Takes a commit and forgets it."""
        self._answers.append(Committed(commit.number))
        self._notify()

    def answers(self) -> list[Answer]:
        """As Journal."""
        answers, self._answers = self._answers, []
        return answers

    def fetch(self, number: int) -> list[Any] | None:
        """Nothing is there."""
        return None

    def recovered(self, *, tasks: bool) -> Iterator[Row]:
        """Nothing."""
        return iter(())

    def close(self) -> None:
        """Nothing to do."""


AnyJournal: TypeAlias = Journal | MemoryJournal


# --- packing -------------------------------------------------------------------------------------


def _packed(kind: int, records: list[Any]) -> bytes:
    """The body of a row. Lets other threads run now and then: a row may hold thousands of calls."""
    packer = msgpack.Packer(default=_plain, autoreset=False)
    _pack(packer, records, _LEVELS.get(kind, 0))
    packed: bytes = packer.bytes()
    return packed


def _pack(packer: Any, items: list[Any], levels: int) -> None:
    """Packs a list, and so many levels of lists in it, item by item."""
    packer.pack_array_header(len(items))
    if levels:
        for item in items:
            if type(item) is list:
                _pack(packer, item, levels - 1)
            else:
                packer.pack(item)
        return
    for start in range(0, len(items), SLICE):
        if start:
            time.sleep(0)
        deque(map(packer.pack, items[start : start + SLICE]), maxlen=0)


def _plain(value: Any) -> Any:
    """The buffer of a frame of the transport."""
    return value.buffer


def unpacked(kind: int, body: bytes) -> list[Any] | None:
    """The records of a row; None where it does not hold any."""
    try:
        records = msgpack.unpackb(body, strict_map_key=False)
        if type(records) is not list:
            return None
        return [_with_calls(record) for record in records] if kind == RowKind.TASKS else records
    except (ValueError, TypeError, MalformedMessage, msgpack.UnpackException):
        return None


def _with_calls(record: list[Any]) -> list[Any]:
    """[client prefix, calls, frames], the calls as records even where they are as they came over the wire."""
    prefix, calls, frames = record
    if type(calls) is list:
        return record
    message = codec.decode(calls, len(frames))
    if type(message) is not Publish:
        raise MalformedMessage(f"{type(message).__name__} where a Publish belongs")
    return [prefix, message.calls, frames]
