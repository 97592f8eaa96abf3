"""A slot's side: which leases it has yet to run, and which outcomes it has yet to send or to have receipted."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from mesh.core.sequences import SequenceSet
from mesh.ids import PREFIX_BYTES
from mesh.messages import Buffer, Flag, Outcomes, Ranges, Results, Returned, Tasks
from mesh.states import Status

_RETRY: Final = int(Status.RETRY)
#: A task whose name has run this fast lately does not make the outcomes before it wait.
TINY_US: Final = 200
#: Nor may an outcome wait longer than this before a further task begins.
HOLD_S: Final = 0.001
#: How fast a slow run is forgotten.
DECAY: Final = 0.9
#: Unsent outcome bodies a slot holds before it sends them, however tiny the tasks.
HOLD_BYTES: Final = 256 << 10
#: Outcomes and returns without a receipt are sent again after this time.
RESEND_S: Final = 1.0
#: Leases that never came are returned up to this many before one that did: above what a slot is ever granted.
GAP_MAX: Final = 1024
#: Outcomes without a receipt with which a slot begins nothing more: fewer than the slot page remembers beginnings.
UNRECEIPTED_MAX: Final = 3900


class Lease(NamedTuple):
    """One task to run."""

    number: int
    record: list[Any]  #: messages.Assignment
    frames: tuple[Buffer, ...]


class Ended(NamedTuple):
    """One outcome that the owner has not receipted."""

    record: list[Any]  #: messages.Outcome
    frames: tuple[Buffer, ...]
    ignored: bool


class Work:
    """1. Orders the leases. 2. Collects outcomes and says when they must go. 3. Keeps them until the receipt."""

    def __init__(self, last_lease: int) -> None:
        #: The highest lease ever seen; a later router numbers on from it.
        self.last_lease = last_lease
        #: Leases not begun, ascending.
        self.waiting: deque[Lease] = deque()
        #: Outcomes not sent, ascending.
        self._unsent: list[Ended] = []
        self._unsent_bytes = 0
        self._oldest_unsent_mono_s = 0.0
        #: Outcomes sent and not receipted, ascending.
        self.unreceipted: deque[Ended] = deque()
        #: Leases given back and not receipted.
        self._returned: list[int] = []
        #: When what has no receipt is sent again.
        self._resend_mono_s: float | None = None
        #: {name: how long it took lately, µs}
        self._recent_us: dict[str, float] = {}

    def take(self, tasks: Tasks, frames: tuple[Buffer, ...]) -> None:
        """New leases. What was seen already (a repeated message) is left out; what was lost on the way goes back."""
        number, at = tasks.first_lease, 0
        if number > self.last_lease + 1:
            self._returned += range(max(self.last_lease + 1, number - GAP_MAX), number)
            self._resend_mono_s = 0.0
        for record in tasks.tasks:
            n_frames = record[5]
            own = frames[at : at + n_frames] if n_frames else ()
            at += n_frames
            if number > self.last_lease:
                self.waiting.append(Lease(number, record, own))
                self.last_lease = number
            number += 1
        self.receipt(tasks.receipt)

    def receipt(self, upto: int) -> None:
        """The owner has all outcomes up to this lease."""
        unreceipted = self.unreceipted
        while unreceipted and unreceipted[0].record[0] <= upto:
            unreceipted.popleft()
        if self._returned:
            self._returned = [lease for lease in self._returned if lease > upto]
        if not unreceipted and not self._returned:
            self._resend_mono_s = None

    def returned(self, leases: list[int], mono_s: float) -> Returned:
        """These are not begun and never will be. What is to be said of it."""
        self._returned += leases
        if self._resend_mono_s is None:
            self._resend_mono_s = mono_s + RESEND_S
        return Returned(leases)

    def ended(
        self,
        lease: Lease,
        status: int,
        runtime_us: int,
        body: bytes,
        frames: tuple[Buffer, ...],
        mono_s: float,
        cause: str | None = None,
    ) -> None:
        """A lease has run; with a `cause` it could not run at all, for that reason."""
        task_id, _, _, flags, *_ = lease.record
        ignored = bool(flags & Flag.IGNORE_RESULT)
        if ignored:
            body, frames = b"", ()
        record = [lease.number, task_id, status, runtime_us, body, len(frames), True]
        if cause is not None:
            record.append(cause)
        self._add(Ended(record, frames, ignored), mono_s)
        self._remember(lease.record[1], runtime_us)

    def retries(
        self,
        lease: Lease,
        runtime_us: int,
        reason: bytes,
        eta_wall_s: float,
        call: tuple[bytes, tuple[Buffer, ...]] | None,
        mono_s: float,
    ) -> None:
        """A lease has run and asks for another run, at `eta_wall_s`, with another body where `call` is one."""
        body, frames = call if call is not None else (None, ())
        common = [lease.number, lease.record[0], _RETRY, runtime_us, reason, len(frames), True]
        self._add(Ended([*common, [eta_wall_s, body]], frames, True), mono_s)

    def _add(self, ended: Ended, mono_s: float) -> None:
        if not self._unsent:
            self._oldest_unsent_mono_s = mono_s
        self._unsent.append(ended)
        self._unsent_bytes += len(ended.record[4])

    def _remember(self, name: str, runtime_us: int) -> None:
        recent = self._recent_us.get(name)
        if recent is None and len(self._recent_us) >= 10_000:
            self._recent_us.clear()
        self._recent_us[name] = runtime_us if recent is None else max(runtime_us, recent * DECAY)

    def must_send_before(self, lease: Lease, mono_s: float) -> bool:
        """Whether outcomes must go before this lease begins: not where it is tiny, and they are young and small."""
        if not self._unsent:
            return False
        if self._oldest_unsent_mono_s + HOLD_S <= mono_s or self._unsent_bytes >= HOLD_BYTES or self._unsent[-1].frames:
            return True
        return self._recent_us.get(lease.record[1], TINY_US) >= TINY_US

    @property
    def has_unsent(self) -> bool:
        """Outcomes wait to be sent."""
        return bool(self._unsent)

    def take_unsent(self, mono_s: float) -> tuple[list[Ended], dict[bytes, list[Ended]]]:
        """Everything to be sent now: all of it for the owner, and by the id's prefix for the callers.

        It then awaits its receipt.
        """
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        self.unreceipted.extend(unsent)
        if unsent and self._resend_mono_s is None:
            self._resend_mono_s = mono_s + RESEND_S
        return unsent, _by_caller(unsent)

    def overdue(self, mono_s: float) -> tuple[list[Ended], Returned | None]:
        """What has no receipt after a while and is to be sent once more."""
        if self._resend_mono_s is None or mono_s < self._resend_mono_s:
            return [], None
        self._resend_mono_s = mono_s + RESEND_S
        return list(self.unreceipted), Returned(list(self._returned)) if self._returned else None

    def next_deadline_mono_s(self) -> float | None:
        """When `overdue` has something."""
        return self._resend_mono_s

    def unreceipted_leases(self) -> Ranges:
        """The leases that have run and whose outcomes the owner may not have: what goes along with HELLO."""
        leases = SequenceSet()
        for ended in (*self.unreceipted, *self._unsent):
            leases.add(ended.record[0])
        return leases.take()

    @property
    def is_full(self) -> bool:
        """So many outcomes have no receipt that no more may run: the slot page would not tell of all of them."""
        return len(self.unreceipted) + len(self._unsent) >= UNRECEIPTED_MAX

    def rejoin(self) -> list[Ended]:
        """The router does not know this slot: leases not begun are void, outcomes go once more."""
        self.waiting.clear()
        self._returned.clear()
        if not self.unreceipted:
            self._resend_mono_s = None
        return list(self.unreceipted)

    def check(self) -> None:
        """Raises AssertionError where an order is broken."""
        numbers = [lease.number for lease in self.waiting]
        assert numbers == sorted(set(numbers))
        assert not numbers or numbers[-1] <= self.last_lease
        sent = [ended.record[0] for ended in (*self.unreceipted, *self._unsent)]
        assert sent == sorted(set(sent))
        assert (self._resend_mono_s is None) == (not self.unreceipted and not self._returned)


def _by_caller(ended: list[Ended]) -> dict[bytes, list[Ended]]:
    by_caller: dict[bytes, list[Ended]] = {}
    for one in ended:
        if not one.ignored:
            by_caller.setdefault(one.record[1][:PREFIX_BYTES], []).append(one)
    return by_caller


def outcomes_message(ended: list[Ended]) -> tuple[Outcomes, tuple[Buffer, ...]]:
    """The message for the owner."""
    return Outcomes([one.record for one in ended]), tuple(frame for one in ended if one.frames for frame in one.frames)


def results_message(ended: list[Ended]) -> tuple[Results, tuple[Buffer, ...]]:
    """The message for a caller: of each outcome id, status, body and number of frames."""
    records = [[one.record[1], one.record[2], one.record[4], one.record[5]] for one in ended]
    return Results(records), tuple(frame for one in ended if one.frames for frame in one.frames)
