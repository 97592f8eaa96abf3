"""The caller's side: calls not yet ended, what is to be sent (again), and what the router is to be asked."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, Final, NamedTuple

from mesh import messages as m
from mesh.core.sequences import SequenceSet
from mesh.exceptions import MeshError, NotJournaled, QueueFull, ResultExpired, TaskIdTaken, TaskLost
from mesh.ids import PREFIX_BYTES, SEQUENCE_BYTES, sequence_of, stamp, to_text
from mesh.interfaces import Ending, PendingCall
from mesh.messages import Buffer, Durability, Flag

#: Calls and body bytes that leave in one message.
PUBLISH_CALLS: Final = 512
PUBLISH_BYTES: Final = 1 << 20
#: How often the router is asked about calls that are older than this.
RECONCILE_S: Final = 2.0
#: Sequences asked about at once.
RECONCILE_CALLS: Final = 4096
#: So many received outcomes are told by themselves; fewer wait for the next publish, or the next look.
RECEIVED_AT_ONCE: Final = 256
#: Bodies of confirmed calls kept for a router that keeps nothing itself; beyond it the oldest are dropped.
RETAINED_BYTES_MAX: Final = 256 << 20


class Entry(NamedTuple):
    """One call that has not ended."""

    record: list[Any] | None  #: messages.Call; None where its body is not kept
    frames: tuple[Buffer, ...]
    pending: PendingCall


class Calls:
    """1. Numbers calls. 2. Says what to publish, also after a reconnect. 3. Fills in how they ended. 4. Reconciles.

    `add` may be called by any thread that holds the client's submit lock; all else by the reactor's owner.
    """

    def __init__(self, prefix: bytes, unconfirmed_max: int) -> None:
        self.prefix = prefix
        self.unconfirmed_max = unconfirmed_max
        self.last_sequence = 0
        #: {task_id: entry}, ascending. Exactly the calls whose end is awaited, or whose confirm is.
        self.open: dict[bytes, Entry] = {}
        #: Entries to be published, ascending but for those that are sent again.
        self._unsent: deque[Entry] = deque()
        #: Calls in `open` that the router has not confirmed.
        self.unconfirmed = 0
        self._retained_bytes = 0
        #: Outcomes that came and that the router has not been told of.
        self._received = SequenceSet()
        #: {id or custom id: calls made elsewhere whose end is awaited here}
        self._watched: dict[bytes | str, list[PendingCall]] = {}
        self._ask_cursor = 0
        #: The next publish asks for its confirm at once.
        self.confirm_wanted = False
        #: Calls up to this one are old enough to be asked about.
        self._old_sequence = 0
        self._cursor = 0
        self._next_look_mono_s: float | None = None
        self._boot = b""
        #: The router is not the one that the ids name.
        self._away = False
        #: What `next_publish` has taken and neither `sent` nor `not_sent` has settled.
        self._taken: list[Entry] = []
        self._taken_received: m.Ranges = []
        #: Why the router does not confirm what it has taken; empty where nothing is in the way.
        self.delay = ""

    # --- submitting ------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        queue: str,
        priority: int,
        flags: int,
        body: bytes,
        frames: list[Buffer] | None,
        options: dict[str, Any] | None,
    ) -> PendingCall:
        """Takes one call."""
        sequence = self.last_sequence + 1
        pending = PendingCall(
            self.prefix + sequence.to_bytes(SEQUENCE_BYTES, "big"), options.get("id") if options else None
        )
        own: tuple[Buffer, ...] = tuple(frames) if frames else ()
        entry = Entry([sequence, name, queue, priority, flags, body, len(own), options], own, pending)
        self.open[pending.task_id] = entry
        # Only now: a HELLO that another thread makes meanwhile must not tell of it as ended.
        self.last_sequence = sequence
        self._unsent.append(entry)
        self.unconfirmed += 1
        size = len(body) + sum(map(len, own)) if own else len(body)
        # In a step of its own, so that no other thread comes between reading the sum and writing it.
        self._retained_bytes += size
        return pending

    @property
    def is_full(self) -> bool:
        """No further call may be taken before some are confirmed."""
        return self.unconfirmed >= self.unconfirmed_max

    @property
    def has_unsent(self) -> bool:
        """Something is to be published."""
        return bool(self._unsent)

    def next_publish(self) -> tuple[m.Publish, tuple[Buffer, ...]]:
        """What leaves in the next message. To be called where `has_unsent`; `sent` or `not_sent` follows."""
        records: list[list[Any]] = []
        frames: list[Buffer] = []
        taken: list[Entry] = []
        size = last = 0
        unsent = self._unsent
        while unsent and len(records) < PUBLISH_CALLS and size < PUBLISH_BYTES:
            record, own, pending = unsent[0]
            if record is not None and pending.task_id in self.open:  # else it has ended meanwhile
                if record[0] <= last or (frames and len(frames) + len(own) > m.FRAMES_MAX):
                    break
                last = record[0]
                records.append(record)
                size += len(record[5])
                if own:
                    frames.extend(own)
                    size += sum(map(len, own))
            taken.append(unsent.popleft())
        self._taken = taken
        self._taken_received = self._received.take() if records else []
        return m.Publish(self.confirm_wanted, records, self._taken_received), tuple(frames)

    def not_sent(self) -> None:
        """The message could not be handed over; it is next again."""
        self._unsent.extendleft(reversed(self._taken))
        for first, last in self._taken_received:
            self._received.add_range(first, last)

    def sent(self) -> None:
        """The message was handed over."""
        self._taken = []
        self.confirm_wanted = False

    # --- what comes in ---------------------------------------------------------------------------

    def results(self, results: m.Results, frames: tuple[Buffer, ...]) -> list[PendingCall]:
        """Fills in outcomes. Returns the calls that ended; what nobody awaits is left out, of ignored results too."""
        ended = []
        at = 0
        for task_id, status, body, n_frames in results.results:
            own: tuple[Buffer, ...] = ()
            if n_frames:
                own = tuple(frame.buffer for frame in frames[at : at + n_frames])
                at += n_frames
            entry = self.open.get(task_id)
            if entry is not None:
                pending = entry.pending
                if entry.record is None or not entry.record[4] & Flag.IGNORE_RESULT:
                    pending.ending = Ending(status, body, own)
                # Last, so that an exception of a signal's handler leaves a call that is open or has ended.
                del self.open[task_id]
                self._closed(entry)
                ended.append(pending)
            if self._watched:
                for pending in self._watched.pop(task_id, ()):
                    pending.ending = Ending(status, body, own)
                    ended.append(pending)
            if task_id[:PREFIX_BYTES] == self.prefix:
                self._received.add(sequence_of(task_id))
        return ended

    def _closed(self, entry: Entry) -> None:
        if not entry.pending.confirmed:
            entry.pending.confirmed = True
            self.unconfirmed -= 1
        self._release(entry)

    def _release(self, entry: Entry) -> None:
        """The body of this call is not kept any more."""
        size = _size(entry)
        self._retained_bytes -= size

    def confirm(self, confirm: m.Confirm) -> list[PendingCall]:
        """The router answers for calls, or refuses them. Returns the calls that this settles."""
        settled = []
        self.delay = ""
        for sequence, code, reason in confirm.refused:
            if code == m.Refused.WAITS:
                self.delay = reason
                continue
            entry = self.open.pop(stamp(self.prefix, sequence), None)
            if entry is not None:
                settled.append(self._fail(entry, _refusal(entry, code, reason)))
        for first, last in confirm.confirmed:
            settled += self._confirm_range(first, last, confirm.durability)
        if self._retained_bytes > RETAINED_BYTES_MAX:
            self._drop_bodies()
        return settled

    def _confirm_range(self, first: int, last: int, durability: int) -> list[PendingCall]:
        settled = []
        for sequence in range(first, min(last, self.last_sequence) + 1):
            task_id = stamp(self.prefix, sequence)
            entry = self.open.get(task_id)
            if entry is None or entry.pending.confirmed:
                continue
            record, _, pending = entry
            pending.confirmed = True
            pending.durability = Durability(durability)
            self.unconfirmed -= 1
            settled.append(pending)
            if record is not None and record[4] & Flag.IGNORE_RESULT:
                del self.open[task_id]
                self._release(entry)
            elif record is not None and (durability > Durability.NONE or record[4] & Flag.EARLY_ACK):
                # Where it may run at most once, nobody may send it again from here on.
                self.open[task_id] = Entry(None, (), pending)
                self._release(entry)
        return settled

    def _drop_bodies(self) -> None:
        target = RETAINED_BYTES_MAX * 7 // 8
        for task_id, entry in list(self.open.items()):
            if self._retained_bytes <= target:
                return
            if entry.record is not None and entry.pending.confirmed:
                self.open[task_id] = Entry(None, (), entry.pending)
                self._release(entry)

    def missing(self, missing: m.Missing) -> list[PendingCall]:
        """The router knows nothing of these: they are sent again, or lost without a body. Returns the lost."""
        lost = []
        for first, last in missing.sequences:
            for sequence in range(first, min(last, self.last_sequence) + 1):
                task_id = stamp(self.prefix, sequence)
                entry = self.open.get(task_id)
                if entry is None:
                    continue
                if entry.record is not None:
                    self._unsent.append(entry)
                    continue
                if self._away:
                    continue  # it waits where it was confirmed
                del self.open[task_id]
                lost.append(
                    self._fail(
                        entry,
                        TaskLost(
                            f"task {to_text(task_id)} was lost: its router died, and nothing is known of it now. It "
                            "may have run; call it again if it may run twice."
                        ),
                    )
                )
        return lost

    def _fail(self, entry: Entry, error: MeshError) -> PendingCall:
        entry.pending.failure = error
        self._closed(entry)
        return entry.pending

    # --- calls made elsewhere --------------------------------------------------------------------

    def watch(self, asked: bytes | str) -> PendingCall:
        """A call by id or custom id. Where it is new, the router must be asked: `asks`."""
        entry = self.open.get(asked) if isinstance(asked, bytes) else None
        if entry is not None:
            return entry.pending
        pending = PendingCall(asked if isinstance(asked, bytes) else b"", asked if isinstance(asked, str) else None)
        pending.confirmed = True
        self._watched.setdefault(asked, []).append(pending)
        return pending

    def asks(self) -> list[Any]:
        """Ids that are watched, for a router that has to be told (again); the next ones each time."""
        if self._ask_cursor >= len(self._watched):
            self._ask_cursor = 0
        asked = list(islice(self._watched, self._ask_cursor, self._ask_cursor + RECONCILE_CALLS))
        self._ask_cursor += RECONCILE_CALLS
        return asked

    def states(self, states: m.States) -> list[PendingCall]:
        """What the router says of watched ids: custom ids become known by their real one; what is gone has failed.

        Returns the failed.
        """
        failed = []
        for asked, task_id, _, info in states.states:
            if asked not in self._watched or task_id is None:
                continue
            watching = self._watched.pop(asked)
            if info is not None and info.get("gone"):
                for pending in watching:
                    pending.failure = ResultExpired(to_text(task_id))
                failed += watching
                continue
            for pending in watching:
                pending.task_id = task_id
            self._watched.setdefault(task_id, []).extend(watching)
        return failed

    # --- the link --------------------------------------------------------------------------------

    def hello_info(self) -> dict[str, Any]:
        """What goes along with HELLO: all calls up to here have ended."""
        first = next(iter(self.open), None)
        return {"ended_upto": self.last_sequence if first is None else sequence_of(first) - 1}

    def joined(self, boot: bytes, *, away: bool = False) -> m.Reconcile | None:
        """A link is up. To a new router everything goes again; to the known one what it has not confirmed.

        `away`: it is another's router, to which this client has failed over. What its own has confirmed waits there.

        Returns what to ask it at once about calls whose bodies are not kept.
        """
        new, self._boot, self._away = boot != self._boot, boot, away
        again = [
            entry
            for entry in list(self.open.values())
            if entry.record is not None and (new or not entry.pending.confirmed)
        ]
        ignored = Flag.IGNORE_RESULT
        self._unsent = deque(
            one for one in again if not (one.pending.confirmed and one.record is not None and one.record[4] & ignored)
        )
        bare = SequenceSet()
        for task_id, entry in list(self.open.items()):
            if not away if entry.record is None else not new:
                bare.add(sequence_of(task_id))
        return m.Reconcile(bare.take()) if bare else None

    @property
    def has_watched(self) -> bool:
        """Calls made elsewhere are awaited."""
        return bool(self._watched)

    def abandon_watched(self, error: MeshError) -> list[PendingCall]:
        """No router will ever tell of the calls made elsewhere. Returns them; they have failed."""
        lost = [pending for watching in self._watched.values() for pending in watching]
        for pending in lost:
            pending.failure = error
        self._watched.clear()
        return lost

    def abandon(self, error: MeshError) -> list[PendingCall]:
        """No router will ever know these calls. Returns all that were open; they have failed."""
        lost = [self._fail(entry, error) for entry in list(self.open.values())]
        self.open.clear()
        self._unsent.clear()
        return lost

    def look(self, mono_s: float) -> list[m.Message]:
        """What to tell and ask the router now; to be called when `next_deadline_mono_s` has come."""
        due = self._next_look_mono_s
        if due is None or mono_s < due:
            return []
        said: list[m.Message] = []
        if self._received:
            said.append(m.Received(self._received.take()))
        outstanding = self._old_outstanding()
        if outstanding:
            said.append(m.Reconcile(outstanding.take()))
        if self._watched:
            said.append(m.Ask(0, True, self.asks()))
        self._old_sequence = self.last_sequence
        self._next_look_mono_s = mono_s + RECONCILE_S if self.open or self._watched else None
        return said

    def _old_outstanding(self) -> SequenceSet:
        outstanding = SequenceSet()
        if self._cursor >= len(self.open):
            self._cursor = 0
        # A list, made in one go: other threads add calls meanwhile.
        for task_id in list(islice(self.open, self._cursor, self._cursor + RECONCILE_CALLS)):
            sequence = sequence_of(task_id)
            if sequence > self._old_sequence:
                self._cursor = 0
                return outstanding
            if not (self._away and task_id in self.open and self.open[task_id].record is None):
                outstanding.add(sequence)
        self._cursor += RECONCILE_CALLS
        return outstanding

    def received_at_once(self) -> m.Received | None:
        """What should be told of received outcomes now."""
        return m.Received(self._received.take()) if len(self._received) >= RECEIVED_AT_ONCE else None

    def received_rest(self) -> m.Received | None:
        """What is left to tell before the link is closed."""
        return m.Received(self._received.take()) if self._received else None

    def next_deadline_mono_s(self, mono_s: float) -> float | None:
        """When `look` has something to do."""
        if self._next_look_mono_s is None and (self.open or self._received or self._watched):
            self._next_look_mono_s = mono_s + RECONCILE_S
        return self._next_look_mono_s

    def check(self) -> None:
        """Raises AssertionError where counts or orders are off."""
        assert self.unconfirmed == sum(not entry.pending.confirmed for entry in self.open.values())
        assert self._retained_bytes == sum(map(_size, self.open.values()))
        assert list(self.open) == sorted(self.open)
        assert all(entry.pending.ending is None for entry in self.open.values())
        self._received.check()


def _refusal(entry: Entry, code: str, reason: str) -> MeshError:
    """The error of a call that the router has refused."""
    record = entry.record or [0, "?", "?"]
    if code == m.Refused.DISK:
        return NotJournaled(record[1], reason)
    if code == m.Refused.ID:
        return TaskIdTaken(entry.pending.custom_id or "?")
    return QueueFull(record[2], reason)


def _size(entry: Entry) -> int:
    """What is kept of a call's body."""
    return 0 if entry.record is None else len(entry.record[5]) + sum(map(len, entry.frames))
