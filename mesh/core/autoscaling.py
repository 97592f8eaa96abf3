"""How many slots a node has that may have more or fewer: as many as there is work for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Use(NamedTuple):
    """What a slot does."""

    begun: int  #: the last lease it has begun
    runs: bool  #: it runs now


class Autoscaling:
    """1. Grows at once, by as many slots as tasks wait. 2. Gives up, in the end, slots that nobody has used."""

    def __init__(self, most: int, least: int, idle_s: float) -> None:
        """A slot that has begun nothing for `idle_s` is not needed."""
        self.most = most
        self.least = least
        self.size = least
        self._idle_s = idle_s
        #: {seat: last lease begun} at the last look.
        self._begun: dict[int, int] = {}
        self._look_mono_s: float | None = None

    def demand(self, tasks: int, busy: int, mono_s: float) -> None:
        """So many tasks wait, while so many slots run something. Those that are on their way will take their share."""
        self.size = min(self.most, max(self.size, busy + tasks))
        if self.size > self.least and self._look_mono_s is None:
            self._look_mono_s = mono_s + self._idle_s

    def look(self, uses: Mapping[int, Use], mono_s: float) -> list[int]:
        """Where it is time: the seats that were not used since the last look, and are given up."""
        if self._look_mono_s is None or mono_s < self._look_mono_s:
            return []
        unused = [seat for seat, use in uses.items() if self._begun.get(seat) == use.begun and not use.runs]
        surplus = unused[: self.size - self.least]
        self.size -= len(surplus)
        self._begun = {seat: use.begun for seat, use in uses.items()}
        self._look_mono_s = mono_s + self._idle_s if self.size > self.least else None
        return surplus

    def next_deadline_mono_s(self) -> float | None:
        """When to look next."""
        return self._look_mono_s

    def check(self) -> None:
        """Raises AssertionError where there are more or fewer than there may be."""
        assert self.least <= self.size <= self.most
