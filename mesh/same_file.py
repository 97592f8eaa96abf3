"""Whether a path still leads to a file that is open: others may have moved it, or put another one there."""

from __future__ import annotations

import os


def is_at(fd: int, path: str) -> bool:
    """Whether this open file is the one that others find there.

    Raises:
        OSError: it can't be looked at.
    """
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
