"""The two clocks, by name: wall time to store and compare with the user's, monotonic time to subtract."""

from __future__ import annotations

import time
from typing import NamedTuple


class Now(NamedTuple):
    """One reading of both clocks, handed to every machine of the core."""

    wall_s: float  #: seconds since the epoch, UTC; may jump
    mono_s: float  #: seconds since an arbitrary start; never goes back


def now() -> Now:
    """Both clocks, read once."""
    return Now(time.time(), time.monotonic())


mono_s = time.monotonic
wall_s = time.time
