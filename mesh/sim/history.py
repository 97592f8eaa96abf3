"""What really happened in a world, as nobody in it knows: who published and ran what, and the faults."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class Job(NamedTuple):
    """What a call wants of the slot that runs it; travels as its body."""

    run_us: int
    crashes: int  #: how many of its first runs kill their process; 99 for all
    retries: int = 0  #: how often it asks to be run again

    @property
    def changes_arguments(self) -> bool:
        """Whether it asks to be run again with others than now."""
        return self.run_us % 3 == 0

    def hurried(self) -> Job:
        """As it is run again, where that is with other arguments."""
        return self._replace(run_us=self.run_us // 2)

    def body(self) -> bytes:
        return b"%d,%d,%d" % self

    @classmethod
    def of(cls, body: bytes) -> Job:
        return cls(*map(int, body.split(b",")))


class Published(NamedTuple):
    """A call as it was made."""

    host: str
    client_pid: int
    name: str
    queue: str
    priority: int
    flags: int
    eta_delay_s: float | None
    expires_delay_s: float | None
    custom_id: str | None
    mono_s: float


class Run:
    """One beginning of a task somewhere."""

    __slots__ = ("began_s", "consumer", "finished_s", "lease", "peer", "pid", "retried")

    def __init__(self, pid: int, consumer: str, lease: int, began_s: float, *, peer: bool) -> None:
        self.pid = pid
        self.consumer = consumer
        self.lease = lease
        self.began_s = began_s
        self.peer = peer
        self.finished_s: float | None = None
        #: It asked for another run.
        self.retried = False

    def __repr__(self) -> str:
        return (
            f"<{self.consumer} lease {self.lease} {self.began_s:.4f}-{self.finished_s and round(self.finished_s, 4)}>"
        )


class Fault(NamedTuple):
    """Something that went wrong."""

    mono_s: float
    kind: str
    host: str  #: empty where it is all hosts'
    pid: int
    until_s: float  #: when it ended


class History:
    """Everything that the invariants are judged by."""

    def __init__(self) -> None:
        self.published: dict[bytes, Published] = {}
        self.runs: dict[bytes, list[Run]] = {}
        self.faults: list[Fault] = []
        #: {kind: count} of everything worth counting.
        self.counts: Counter[str] = Counter()
        #: {(transition, kind of fault that it happened under): count}
        self.met: Counter[tuple[str, str]] = Counter()
        #: {pid: when it died}
        self.deaths: dict[int, float] = {}
        #: Calls that were leased and went back to the front of their queue.
        self.returned: set[bytes] = set()
        #: Calls that somebody has asked to take back.
        self.revoked: set[bytes] = set()
        #: {task id: when it was made a task again, having been a dead letter}
        self.replays: dict[bytes, list[float]] = {}

    def began(self, task_id: bytes, run: Run) -> Run:
        self.runs.setdefault(task_id, []).append(run)
        self.counts["runs"] += 1
        return run

    def replayed(self, mono_s: float, task_id: bytes) -> None:
        """A dead letter is a task again."""
        self.replays.setdefault(task_id, []).append(mono_s)

    def fault(self, mono_s: float, kind: str, host: str, pid: int = 0, *, for_s: float = 0.0) -> None:
        """Something goes wrong, at once or for a while."""
        self.faults.append(Fault(mono_s, kind, host, pid, mono_s + for_s))
        self.counts[f"fault {kind}"] += 1
