"""What survives the router.

Here: the interface, and a store in memory, which survives nothing and says so in every confirm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mesh.core.effects import Persist
from mesh.messages import Durability


class Journal(Protocol):
    """Takes what is to be kept; says by `committed(number, durability)` when it is, in order."""

    def append(self, persist: Persist) -> None:
        """Takes one batch. Returns at once."""
        ...

    def close(self) -> None:
        """Commits the rest and releases everything."""
        ...


class MemoryJournal:
    """Keeps nothing: the level is `none`, and callers keep the bodies of their calls until the outcome."""

    def __init__(self, committed: Callable[[int, Durability], None]) -> None:
        self._committed = committed

    def append(self, persist: Persist) -> None:
        """Confirms at once, at level `none`."""
        self._committed(persist.number, Durability.NONE)

    def close(self) -> None:
        """Nothing to do."""
