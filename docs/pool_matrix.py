"""What each pool can do. The table in `docs/workers.md` is made of this one, and a test checks each cell of it."""

from __future__ import annotations

from enum import Enum
from typing import Final

POOLS: Final = ("prefork", "threads", "solo", "asyncio", "gevent", "eventlet")


class Cell(Enum):
    """What is printed, and what it means."""

    YES = "yes"
    WHOLE = "yes ¹"  #: the process of all slots is replaced, and what else ran in it runs again
    WAITS = "yes ²"  #: not before the task waits, or runs Python code
    ASIDE = "yes ³"  #: in a thread beside the loop
    RAISES = "no ⁴"  #: the call raises WouldDeadlock
    REFUSED = "no"  #: the node does not start


_YES, _WHOLE, _WAITS, _ASIDE, _RAISES, _REFUSED = Cell

#: {feature: what the pools can do of it, in the order of POOLS}
MATRIX: Final[dict[str, tuple[Cell, ...]]] = {
    "plain functions": (_YES, _YES, _YES, _ASIDE, _YES, _YES),
    "`async def` tasks": (_YES, _YES, _YES, _YES, _YES, _YES),
    "`get()` in a task": (_YES, _YES, _RAISES, _ASIDE, _YES, _YES),
    "soft time limit": (_YES, _WAITS, _YES, _WAITS, _WAITS, _WAITS),
    "hard time limit": (_YES, _WHOLE, _WHOLE, _WHOLE, _WHOLE, _WHOLE),
    "code that never returns is killed": (_YES, _WHOLE, _WHOLE, _WHOLE, _WHOLE, _WHOLE),
    "terminate a running task": (_YES, _WHOLE, _WHOLE, _WHOLE, _WHOLE, _WHOLE),
    "questions are answered while all slots are busy": (_YES, _YES, _YES, _YES, _YES, _YES),
    "more than one slot": (_YES, _YES, _REFUSED, _YES, _YES, _YES),
    "`--autoscale`": (_YES, _YES, _REFUSED, _YES, _YES, _YES),
    "new code by SIGHUP": (_YES, _YES, _YES, _YES, _YES, _YES),
    "`--max-tasks-per-child`": (_YES, _REFUSED, _REFUSED, _REFUSED, _REFUSED, _REFUSED),
    "`--max-memory-per-child`": (_YES, _REFUSED, _REFUSED, _REFUSED, _REFUSED, _REFUSED),
}
