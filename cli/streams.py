"""The standard streams of a command, whatever whoever started it has left of them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def complete() -> None:
    """Opens those that are closed on nothing: else the next files and sockets would be taken for them."""
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            # Not over the number: a program that was started without may have opened a file of its own there.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def give_up_stdout() -> None:
    """Nothing printed from here on goes anywhere, also at exit: nobody reads it, or there is no room for it."""
    with contextlib.suppress(OSError), open(os.devnull, "w") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())
