"""What a long-lived command is between its command line and its end."""

from __future__ import annotations

from .state import State


class Service:
    """What the command line says that this process is to be. May be pickled."""

    def __init__(self, state: State) -> None:
        self.state = state

    def run(self) -> int:
        """Is that until it is stopped. Returns the exit code."""
        raise NotImplementedError
