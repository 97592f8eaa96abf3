"""Counting runs whose results nobody keeps: every run makes a file one byte longer."""

import time
from pathlib import Path

#: Runs are seen this late at most; small beside the hundreds of milliseconds that are measured with it.
_LOOK_S = 0.001


def new_marks(path: Path) -> Path:
    """An empty file to count in."""
    path.write_bytes(b"")
    return path


def wait_for_marks(path: Path, count: int, timeout_s: float) -> None:
    """Returns when `count` tasks have run. Raises TimeoutError, with the number that have."""
    deadline_s = time.monotonic() + timeout_s
    while (run := path.stat().st_size) < count:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{run} of {count} tasks have run after {timeout_s:.0f} s")
        time.sleep(_LOOK_S)
