"""What a measured system offers. `operations` times these calls; nothing here measures anything.

All methods are called from the main thread of one driver process, in which the system's client lives.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias

from bench.sizes import Sizes


class Role(StrEnum):
    """What a process does in a system. A pool has no router and no supervisor; its client is both."""

    CLIENT = "client"
    ROUTER = "router"
    SUPERVISOR = "supervisor"
    SLOT = "slot"


Pids: TypeAlias = dict[Role, list[int]]


class System(Protocol):
    """A system that can be started and ended. After `start` it is warm; `stop` may come at any time, also twice."""

    def start(self, sizes: Sizes) -> None: ...

    def pids(self) -> Pids: ...

    def stop(self) -> None: ...


class Caller(System, Protocol):
    """Calls one at a time and in loops. Each returns when the results are with the client."""

    def call(self, x: int, y: int) -> int: ...

    def loop(self, tasks: int) -> None: ...

    def gather(self, calls: int) -> Sequence[int]: ...

    def echo(self, body: bytes, count: int, in_flight: int) -> None: ...


class Batcher(System, Protocol):
    """Many calls in one go: mesh's batch block, frames of several tasks, chunks of a map."""

    def batch(self, tasks: int) -> None: ...


class Submitter(System, Protocol):
    """Hands over tasks without waiting for their results; `finish` waits for those."""

    def submit(self, tasks: int) -> None: ...

    def finish(self) -> None: ...


class Forgetter(System, Protocol):
    """Hands over `tick(path)` tasks whose results nobody wants."""

    def forget(self, tasks: int, path: Path) -> None: ...


class Soaked(Caller, Protocol):
    """Runs for long, and shows what it keeps."""

    def files(self) -> list[Path]:
        """All files it has on disk now."""


class Napper(System, Protocol):
    """One long task, then many short ones: returns when the short ones are done; `finish` waits for the long one."""

    def naps(self, long_s: float, short_s: float, short_count: int) -> None: ...

    def finish(self) -> None: ...


class ColdStarter(System, Protocol):
    """From nothing running to the first result, and the seconds that took. Never called on a started system."""

    def cold_start(self) -> float: ...


class Tested(System, Protocol):
    """What a test may start for itself. Never called on a started system."""

    def in_process(self) -> None:
        """A node in this process: starts it, calls one task and ends it."""

    def node_process(self) -> float:
        """A node in a process of its own, until it is ready, and the seconds that took."""


class Hoarder(System, Protocol):
    """Queues `tick(path)` tasks with no node there; `start_node` then lets one begin. Not for a started system."""

    def start_router(self, path: Path) -> int:
        """Queues a first task, so that there is a router, and returns its pid."""

    def hoard(self, tasks: int, path: Path) -> None: ...

    def body_bytes(self, path: Path) -> int: ...

    def replace_router(self) -> None:
        """Kills the router, and returns when another one answers."""

    def start_node(self) -> None: ...
