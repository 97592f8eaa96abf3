"""Task states as the caller sees them, and as the owner moves them.

The tables here are the only source of legal moves.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

PENDING: Final = "PENDING"
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
RETRY: Final = "RETRY"
REVOKED: Final = "REVOKED"

#: States after which nothing more happens to a task.
READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED})
#: States whose result is raised by `get()`.
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED})
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, RETRY})


class Status(IntEnum):
    """How a task ended, as it stands on the wire."""

    SUCCESS = 0
    FAILURE = 1
    REVOKED = 2
    RETRY = 3  #: not an end: the task asks to be run again


#: {status on the wire: state the caller reads}
STATE_OF_STATUS: Final = {Status.SUCCESS: SUCCESS, Status.FAILURE: FAILURE, Status.REVOKED: REVOKED}


class Phase(IntEnum):
    """Where the owner has a task."""

    WAITING = 0  #: its time has not come
    READY = 1  #: in the queue
    LEASED = 2  #: held by a consumer
    DONE = 3  #: has its outcome


#: {phase: phases it may move to}. DONE is final.
PHASE_MOVES: Final = {
    Phase.WAITING: frozenset({Phase.READY, Phase.DONE}),
    Phase.READY: frozenset({Phase.LEASED, Phase.DONE}),
    Phase.LEASED: frozenset({Phase.READY, Phase.WAITING, Phase.DONE}),
    Phase.DONE: frozenset(),
}
