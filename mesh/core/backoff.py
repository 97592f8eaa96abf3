"""Longer and longer waits before what has failed is tried again."""

from __future__ import annotations


class Backoff:
    """The first wait, doubled with each further failure up to the longest; it begins anew with a success."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        #: The wait after the last failure; 0.0 when none came lately.
        self._wait_s = 0.0

    def failed(self) -> float:
        """How long to wait now."""
        self._wait_s = min(max(2 * self._wait_s, self._first_s), self._longest_s)
        return self._wait_s

    def worked(self) -> float:
        """There is nothing to wait for: 0.0."""
        self._wait_s = 0.0
        return self._wait_s
