"""What a long-lived command is between its command line and its end."""

from __future__ import annotations

from .state import State


class Service:
    """What a command line wants a process to be. May be pickled, where `state` holds no app."""

    def __init__(self, state: State) -> None:
        self.state = state

    def run(self) -> int:
        """Does the service's work in this process until it is stopped. Returns the exit code."""
        raise NotImplementedError
