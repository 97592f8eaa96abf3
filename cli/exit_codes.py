"""What the exit code of every command means. They are part of the interface: scripts and units read them."""

from __future__ import annotations

from typing import Final

#: Done. Also a node or router that was told to stop, by SIGTERM or Ctrl-C, and did so in order (Celery's Ctrl-C: 1).
OK: Final = 0
#: It was tried and failed: the task raised, a router runs already, a wait ran out.
FAILURE: Final = 1
#: The command line is wrong, or the app it names can't be loaded.
USAGE: Final = 2
#: EX_DATAERR of sysexits.h: what is on disk is damaged.
DAMAGED: Final = 65
#: EX_UNAVAILABLE of sysexits.h: no router answered, or no node.
UNAVAILABLE: Final = 69
#: EX_CANTCREAT of sysexits.h: the pidfile is another process's that runs, or it or the log file can't be written.
CANT_CREATE: Final = 73
#: Ctrl-C in a command that had nothing to stop in order: 128 + SIGINT, as shells have it.
INTERRUPTED: Final = 130
