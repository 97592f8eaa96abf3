"""Which slots a node should have, and what follows when one ends."""

from __future__ import annotations

from signal import Signals
from typing import Final, NamedTuple

#: A slot that lived shorter is taken as one that can't start.
YOUNG_S: Final = 1.0
#: Wait before the next start after the first such death; doubled with each further one.
BACKOFF_S: Final = 0.2
BACKOFF_MAX_S: Final = 10.0


class Spawn(NamedTuple):
    """Fork a process for this slot."""

    slot: int


class Report(NamedTuple):
    """Tell the router that a slot's process is gone."""

    slot: int
    pid: int
    cause: str
    charged: bool
    limit_s: float = 0.0  #: the hard time limit for which it was killed in the middle of a run


SupervisionEffect = Spawn | Report


class Supervision:
    """1. Keeps `slots` processes. 2. Says why one ended. 3. Waits longer and longer where they die at once."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        #: {index: (pid, spawned_mono_s)} of living slots.
        self.living: dict[int, tuple[int, float]] = {}
        #: Slots whose process has been ordered and not reported.
        self._ordered: set[int] = set()
        #: {index: when to order the next}
        self._due: dict[int, float] = dict.fromkeys(range(slots), 0.0)
        #: Wait before the next start after a young death; 0 when none came lately.
        self._backoff_s = 0.0
        self.ending = False

    def tick(self, mono_s: float) -> list[SupervisionEffect]:
        """Orders the processes that are due."""
        if self.ending:
            return []
        due = [index for index, at in self._due.items() if at <= mono_s]
        for index in due:
            del self._due[index]
            self._ordered.add(index)
        return [Spawn(index) for index in due]

    def spawned(self, index: int, pid: int, mono_s: float) -> None:
        """The process is there."""
        self._ordered.discard(index)
        self.living[index] = (pid, mono_s)

    def exited(
        self,
        pid: int,
        status: int,
        mono_s: float,
        *,
        worked: bool = False,
        cause: str | None = None,
        charged: bool = True,
        limit_s: float = 0.0,
    ) -> list[SupervisionEffect]:
        """A slot's process ended with this wait status, for `cause` where more is known of it.

        One that has `worked` could start, however young it died. `charged`: its end is the fault of what it ran.
        """
        index = self.slot_of(pid)
        if index is None:
            return []
        _, spawned_mono_s = self.living.pop(index)
        young = mono_s - spawned_mono_s < YOUNG_S and not worked
        self._backoff_s = min(max(2 * self._backoff_s, BACKOFF_S), BACKOFF_MAX_S) if young else 0.0
        if not self.ending:
            self._due[index] = mono_s + self._backoff_s
        report = Report(index, pid, cause or cause_of(status), charged and not self.ending, limit_s)
        return [report, *self.tick(mono_s)]

    def slot_of(self, pid: int) -> int | None:
        """The slot whose living process this is."""
        return next((index for index, (known, _) in self.living.items() if known == pid), None)

    def template_lost(self, mono_s: float) -> list[SupervisionEffect]:
        """The template is gone, and all slots with it."""
        reports: list[SupervisionEffect] = [
            Report(index, pid, "the template process died", False) for index, (pid, _) in self.living.items()
        ]
        if not self.ending:
            self._due.update(dict.fromkeys(range(self._slots), mono_s))
        self.living.clear()
        self._ordered.clear()
        return reports

    def end(self) -> None:
        """No slot is started any more, and no death is charged."""
        self.ending = True
        self._due.clear()

    def is_complete(self) -> bool:
        """Every slot has its process."""
        return len(self.living) == self._slots

    def is_over(self) -> bool:
        """The node is ending and no slot lives."""
        return self.ending and not self.living and not self._ordered

    def next_deadline_mono_s(self) -> float | None:
        """When `tick` has something to do."""
        return min(self._due.values(), default=None)

    def check(self) -> None:
        """Raises AssertionError where a slot is in two states, or in none."""
        places = [*self.living, *self._ordered, *self._due]
        assert len(places) == len(set(places))
        assert self.ending or sorted(places) == list(range(self._slots))


def cause_of(status: int) -> str:
    """A wait status in words."""
    signal_number = status & 0x7F
    if signal_number:
        return f"its process was ended by signal {signal_number} ({_signal_name(signal_number)})"
    return f"its process exited with code {status >> 8}"


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return "unknown"
