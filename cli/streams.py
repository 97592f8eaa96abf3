"""The standard streams of a command, whatever whoever started it has left of them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

_NAMES: Final = ("stdin", "stdout", "stderr")


def complete() -> None:
    """Opens those that are closed on nothing: else the next files and sockets would be taken for them."""
    for number, name in enumerate(_NAMES):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def give_up_stdout() -> None:
    """Nothing printed from here on goes anywhere, also at exit: nobody reads it, or there is no room for it."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
