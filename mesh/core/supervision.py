"""Which slots a node should have, who follows whom, and what is said of one that has ended.

A slot sits in a *seat*: its record in the slot page. A node has more seats than it runs slots, so that a successor can
be warm in a seat of its own before the slot it replaces has left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from signal import Signals
from typing import Final, NamedTuple

from mesh.core.backoff import Backoff

#: A slot that lived shorter is taken as one that can't start.
YOUNG_S: Final = 1.0
#: Wait before the next start after the first such death; doubled with each further one.
BACKOFF_S: Final = 0.2
BACKOFF_MAX_S: Final = 10.0
#: How long a stand-in stays that nobody needs any more: a task that has waited often waits again at once.
STAND_IN_S: Final = 0.2
NO_LIMITS: Final[Mapping[int, float]] = {}


class Says(IntEnum):
    """What a slot says of itself, in its record of the slot page. It only ever goes up."""

    STARTING = 0
    WARM = 1  #: it has all it needs, and waits for its turn
    WORKING = 2  #: it has joined a router
    SPENT = 3  #: it will soon have run all it may: a successor is wanted
    DONE = 4  #: it begins nothing any more


class Spawn(NamedTuple):
    """Have a slot started in this seat."""

    seat: int
    generation: int  #: of the template it is to come from
    standby: bool  #: it waits for `Go`


class Go(NamedTuple):
    """The slot in this seat may begin to work."""

    seat: int


class Retire(NamedTuple):
    """The slot in this seat is to leave: it finishes what it runs."""

    seat: int


class Report(NamedTuple):
    """Tell the router that a slot is gone."""

    seat: int
    pid: int
    cause: str
    charged: bool
    limit_s: float = 0.0  #: the hard time limit for which it was killed in the middle of a run


class Dismiss(NamedTuple):
    """No slot of this template is left, and none will be ordered of it."""

    generation: int


SupervisionEffect = Spawn | Go | Retire | Report | Dismiss


class _Member:
    """A slot, from its order to its end."""

    __slots__ = ("blocked", "generation", "leaving", "pid", "says", "seat", "spawned_mono_s")

    def __init__(self, seat: int, generation: int) -> None:
        self.seat = seat
        self.generation = generation
        #: None until it is there.
        self.pid: int | None = None
        self.spawned_mono_s = 0.0
        self.says = Says.STARTING
        #: Its task waits for another one.
        self.blocked = False
        #: It was told to.
        self.leaving = False


class _Place:
    """Room for one slot that works, and for one that is to follow it."""

    __slots__ = ("due_mono_s", "heir", "heir_due_mono_s", "incumbent")

    def __init__(self, due_mono_s: float) -> None:
        self.incumbent: _Member | None = None
        self.heir: _Member | None = None
        #: When to order them, where they are missing.
        self.due_mono_s = due_mono_s
        self.heir_due_mono_s = due_mono_s

    @property
    def is_blocked(self) -> bool:
        return self.incumbent is not None and self.incumbent.blocked


class Supervision:
    """1. Keeps `size` slots at work, and one more for each that is blocked. 2. Has a successor ready for who leaves.
    3. Says why one ended. 4. Waits longer and longer where they die at once.
    """

    def __init__(self, size: int, *, blocked_max: int = 0, seats: int | None = None, in_turn: bool = False) -> None:
        """`seats`: how many slots there is room for, leaving and coming ones included; by default no more than `size`.

        For up to `blocked_max` slots that wait in a task another one stands in. `in_turn`: a seat is not taken again
        before the others. For slots of one process, which a router tells apart by their seats: the news of a death may
        reach it after the successor.
        """
        self.size = size
        self._blocked_max = blocked_max
        #: How many slots stand in for others, and until when they are kept where that is not necessary.
        self._stand_ins = 0
        self._kept_until_mono_s = 0.0
        #: How many were blocked when it was looked last.
        self._blocked_before = 0
        self._in_turn = in_turn
        self._free_seats = list(range(size + blocked_max if seats is None else seats))
        self._seats = len(self._free_seats)
        #: {seat: slot}. Ordered, living and leaving ones.
        self._members: dict[int, _Member] = {}
        self._places = [_Place(0.0) for _ in range(size)]
        #: The template that new slots come from.
        self.generation = 0
        #: Templates that still have slots, or will get some.
        self._generations = {0}
        #: Of starts after young deaths.
        self._backoff = Backoff(BACKOFF_S, BACKOFF_MAX_S)
        #: Seats of slots that are given up first.
        self._unused: frozenset[int] = frozenset()
        #: No slot is started while there is no template to start it.
        self._paused = False
        self.ending = False

    # --- what happens ------------------------------------------------------------------------------

    def tick(self, mono_s: float) -> list[SupervisionEffect]:
        """What is to be done now."""
        if self.ending:
            return []
        return [*self._fit(mono_s), *self._fill(mono_s), *self._hand_over(), *self._dismiss()]

    def spawned(self, seat: int, pid: int, mono_s: float) -> None:
        """The slot is there."""
        member = self._members.get(seat)
        if member is not None:
            member.pid, member.spawned_mono_s = pid, mono_s

    def told(self, seat: int, says: int, *, blocked: bool) -> None:
        """What the slot says of itself."""
        member = self._members.get(seat)
        if member is None or member.pid is None:
            return
        member.blocked = blocked
        if member.says < says <= Says.DONE:
            member.says = Says(says)

    def resize(self, size: int, unused: Collection[int] = ()) -> None:
        """How many slots are to work from here on. Where they are fewer, those in `unused` seats leave first."""
        self.size = size
        self._unused = frozenset(unused)

    def renew(self) -> int:
        """All slots are to come from another template from here on. Returns its number."""
        self.generation += 1
        self._generations.add(self.generation)
        self._backoff.worked()
        self._paused = False
        return self.generation

    def exited(
        self,
        seat: int,
        status: int,
        mono_s: float,
        *,
        worked: bool = False,
        cause: str | None = None,
        charged: bool = True,
        limit_s: float = 0.0,
    ) -> list[SupervisionEffect]:
        """A slot ended with this wait status, for `cause` where more is known of it; or it could not be started at all.

        One that has `worked` could start, however young it died. `charged`: its end is the fault of what it ran.
        """
        member = self._members.get(seat)
        if member is None:
            return []
        left = member.leaving or member.says is Says.DONE
        lived_s = 0.0 if member.pid is None else mono_s - member.spawned_mono_s
        young = lived_s < YOUNG_S and not worked and not left
        wait_s = self._backoff.failed() if young else self._backoff.worked()
        charged = charged and not (left and status == 0)
        report = self._gone(member, mono_s + wait_s, cause or cause_of(status), charged, limit_s)
        return [*report, *self.tick(mono_s)]

    def template_lost(
        self,
        generation: int,
        mono_s: float,
        cause: str = "the template process died",
        *,
        charged: bool = False,
        limited: Mapping[int, float] = NO_LIMITS,
    ) -> list[SupervisionEffect]:
        """A template is gone, and all its slots with it. Nothing is ordered before `renew`.

        `limited`: {seat: hard time limit} of the slot for whose run it was killed.
        """
        reports: list[SupervisionEffect] = []
        for member in [one for one in self._members.values() if one.generation == generation]:
            reports += self._gone(member, mono_s, cause, charged, limited.get(member.seat, 0.0))
        self._paused = self._paused or generation == self.generation
        return reports

    def end(self) -> None:
        """No slot is started any more, and no death is charged."""
        self.ending = True

    # --- what is known -------------------------------------------------------------------------------

    @property
    def living(self) -> dict[int, tuple[int, float]]:
        """{seat: (pid, spawned_mono_s)} of living slots."""
        return {
            seat: (member.pid, member.spawned_mono_s)
            for seat, member in self._members.items()
            if member.pid is not None
        }

    def pid_of(self, seat: int) -> int | None:
        """The process of the slot in this seat; None where none is there."""
        member = self._members.get(seat)
        return None if member is None else member.pid

    def generation_of(self, seat: int) -> int:
        """The template that the slot in this seat comes from."""
        member = self._members.get(seat)
        return self.generation if member is None else member.generation

    def slots_of(self, generation: int) -> list[int]:
        """The seats of this template's slots."""
        return [seat for seat, member in self._members.items() if member.generation == generation]

    @property
    def blocked(self) -> int:
        """How many slots wait in a task for another one."""
        return sum(place.is_blocked for place in self._places)

    @property
    def target(self) -> int:
        """How many slots there are to be, those included that stand in for blocked ones."""
        return self.size + min(max(self.blocked, self._stand_ins), self._blocked_max)

    def is_complete(self) -> bool:
        """Every slot that is to work does, or could."""
        working = [one for one in self._places if one.incumbent is not None and one.incumbent.says >= Says.WORKING]
        return len(working) >= self.size

    def is_over(self) -> bool:
        """The node is ending and no slot lives."""
        return self.ending and not self._members

    def next_deadline_mono_s(self) -> float | None:
        """When `tick` has something to do that is not done yet."""
        if self.ending:
            return None
        due: list[float] = []
        if self._stand_ins > self.blocked:
            due.append(self._kept_until_mono_s)
        if not self._paused and self._free_seats:
            due += [place.due_mono_s for place in self._places if place.incumbent is None]
            due += [place.heir_due_mono_s for place in self._places if place.heir is None and self._needs_heir(place)]
            if len(self._places) < self.target:
                due.append(0.0)
        return min(due, default=None)

    # --- within ------------------------------------------------------------------------------------

    def _fit(self, mono_s: float) -> list[SupervisionEffect]:
        """As many places as there are to be. Who comes last goes first, but nobody who waits in a task."""
        self._keep_stand_ins(mono_s)
        self._places += [_Place(mono_s) for _ in range(self.target - len(self._places))]
        effects: list[SupervisionEffect] = []
        surplus = len(self._places) - self.target
        if not surplus:
            return effects
        leaving = [one for one in reversed(self._places) if not one.is_blocked]
        leaving.sort(key=lambda one: one.incumbent is None or one.incumbent.seat not in self._unused)
        for place in leaving[:surplus]:
            self._places.remove(place)
            for member in (place.incumbent, place.heir):
                if member is not None and not member.leaving:
                    member.leaving = True
                    effects.append(Retire(member.seat))
        return effects

    def _keep_stand_ins(self, mono_s: float) -> None:
        blocked = self.blocked
        if blocked < self._blocked_before:
            self._kept_until_mono_s = mono_s + STAND_IN_S
        self._blocked_before = blocked
        if blocked > self._stand_ins or mono_s >= self._kept_until_mono_s:
            self._stand_ins = blocked

    def _fill(self, mono_s: float) -> list[SupervisionEffect]:
        """Orders what is missing and due."""
        effects: list[SupervisionEffect] = []
        if self._paused:
            return effects
        for place in self._places:
            if place.incumbent is None and place.due_mono_s <= mono_s and self._free_seats:
                place.incumbent = self._order()
                effects.append(Spawn(place.incumbent.seat, self.generation, standby=False))
        for place in self._places:
            wanted = place.heir is None and self._needs_heir(place)
            if wanted and place.heir_due_mono_s <= mono_s and self._free_seats:
                place.heir = self._order()
                effects.append(Spawn(place.heir.seat, self.generation, standby=True))
        return effects

    def _order(self) -> _Member:
        seat = self._free_seats.pop(0)
        member = self._members[seat] = _Member(seat, self.generation)
        return member

    def _needs_heir(self, place: _Place) -> bool:
        incumbent = place.incumbent
        return incumbent is not None and (incumbent.says >= Says.SPENT or incumbent.generation != self.generation)

    def _hand_over(self) -> list[SupervisionEffect]:
        """Who is of an old template leaves once its heir is warm; an heir begins once nothing begins before it."""
        effects: list[SupervisionEffect] = []
        for place in self._places:
            incumbent, heir = place.incumbent, place.heir
            if incumbent is None or heir is None:
                continue
            if incumbent.says is Says.DONE:
                place.incumbent, place.heir = heir, None
                effects.append(Go(heir.seat))
            elif incumbent.generation != heir.generation and heir.says >= Says.WARM and not incumbent.leaving:
                incumbent.leaving = True
                effects.append(Retire(incumbent.seat))
        return effects

    def _dismiss(self) -> list[SupervisionEffect]:
        used = {self.generation, *(member.generation for member in self._members.values())}
        idle, self._generations = self._generations - used, self._generations & used
        return [Dismiss(generation) for generation in sorted(idle)]

    def _gone(
        self, member: _Member, again_mono_s: float, cause: str, charged: bool, limit_s: float
    ) -> list[SupervisionEffect]:
        del self._members[member.seat]
        self._free_seats.append(member.seat)
        if not self._in_turn:
            self._free_seats.sort()
        effects: list[SupervisionEffect] = []
        for place in self._places:
            if place.heir is member:
                place.heir, place.heir_due_mono_s = None, again_mono_s
            elif place.incumbent is member:
                place.incumbent, place.heir, place.due_mono_s = place.heir, None, again_mono_s
                if place.incumbent is not None:
                    effects.append(Go(place.incumbent.seat))
        if member.blocked:  # who stood in for it follows it
            self._blocked_before = self._stand_ins = self.blocked
        if member.pid is not None:
            effects.insert(0, Report(member.seat, member.pid, cause, charged and not self.ending, limit_s))
        return effects

    def check(self) -> None:
        """Raises AssertionError where a slot sits in two places, or a seat is lost."""
        placed = [one for place in self._places for one in (place.incumbent, place.heir) if one is not None]
        assert len({one.seat for one in placed}) == len(placed)
        assert all(self._members[one.seat] is one for one in placed)
        assert sorted([*self._free_seats, *self._members]) == list(range(self._seats))
        assert self._generations >= {member.generation for member in self._members.values()}


def end_of(status: int) -> str:
    """A wait status in words."""
    signal_number = status & 0x7F
    if signal_number:
        return f"was ended by signal {signal_number} ({_signal_name(signal_number)})"
    return f"exited with code {status >> 8}"


def cause_of(status: int) -> str:
    """As `end_of`, of a slot."""
    return f"its process {end_of(status)}"


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return "unknown"
