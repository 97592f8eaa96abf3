"""What the kernels of all hosts do: hand out pids, tell of deaths, keep slot pages and disks of processes that died."""

from __future__ import annotations

import random
from typing import Protocol

from mesh.core.crew import WITHDRAWN_AT_START
from mesh.core.owner import Owner
from mesh.core.recovery import Pages, SlotRecord, pages_of
from mesh.exceptions import MeshError
from mesh.ids import INCARNATION_BITS
from mesh.sim.disk import SimDisk
from mesh.sim.history import History
from mesh.sim.page import SimPage
from mesh.sim.results import result_body
from mesh.sim.timeline import Timeline
from mesh.sim.wire import Wire
from mesh.states import Status


class Mortal(Protocol):
    """A process as its kernel sees it."""

    host: str
    pid: int
    alive: bool

    def released(self, cause: str) -> None:
        """It is dead: what it had open is closed, and whose child it is will hear of it."""

    def hear_of_death(self, pid: int) -> None:
        """A process that it watches has died."""


class Kernel:
    """1. Numbers processes and ends them. 2. Tells those who watch. 3. Reads slot pages to a router that starts."""

    def __init__(self, seed: str, hosts: tuple[str, ...], *, with_codec: bool) -> None:
        self.rng = random.Random(f"{seed} world")
        self.timeline = Timeline()
        self.wire = Wire(self.timeline, random.Random(f"{seed} wire"), with_codec=with_codec)
        self.history = History()
        self.disks = {host: SimDisk(self.timeline, random.Random(f"{seed} disk {host}")) for host in hosts}
        #: {path: slot page}; those of nodes that were killed stay.
        self.pages: dict[str, SimPage] = {}
        #: Hosts that lost their power since something was written to their journal: no page of before is left.
        self.started_anew: set[str] = set()
        self.processes: dict[int, Mortal] = {}
        #: {pid: who wants to know of its death}
        self._watchers: dict[int, list[Mortal]] = {}
        self._last_pid = 100

    def new_pid(self, process: Mortal) -> int:
        """A number for a process that starts."""
        self._last_pid += 1
        self.processes[self._last_pid] = process
        return self._last_pid

    def owner_starts(self, host: str, owner: Owner) -> None:
        """A router's mind is there and knows nothing yet. For whoever wants to look into it."""

    def outcome_of(self, task_id: bytes) -> tuple[int, bytes]:
        """How a run of a task ends that nothing disturbs: status and body."""
        return int(Status.SUCCESS), result_body(task_id)

    def encode_failure(self, error: MeshError) -> bytes:
        """The body of an outcome that is a failure of mesh itself."""
        return repr(error).encode()

    def new_incarnation(self) -> int:
        """By chance."""
        return self.rng.getrandbits(INCARNATION_BITS)

    def watch(self, watcher: Mortal, pid: int) -> bool:
        """As pidfd_open: False for a process that is gone."""
        process = self.processes.get(pid)
        if process is None or not process.alive:
            return False
        watchers = self._watchers.setdefault(pid, [])
        if watcher not in watchers:
            watchers.append(watcher)
        return True

    # --- deaths ----------------------------------------------------------------------------------

    def kill(self, process: Mortal, cause: str = "signal") -> None:
        """SIGKILL."""
        if process.alive:
            self.ended(process, cause)

    def kill_soon(self, process: Mortal) -> None:
        """Its parent has died: the kernel kills it in a moment."""
        self.timeline.after(self.rng.uniform(0.0, 0.005), lambda: self.kill(process))

    def ended(self, process: Mortal, cause: str) -> None:
        """A process is gone, by itself or not: its sockets close, and whoever watches it is told in a moment."""
        process.alive = False
        self.history.deaths[process.pid] = self.timeline.mono_s
        process.released(cause)
        for watcher in self._watchers.pop(process.pid, ()):
            self.timeline.after(self.rng.uniform(0.0, 0.0008), lambda one=watcher: one.hear_of_death(process.pid))  # type: ignore[misc]

    def lose_power(self, host: str) -> None:
        """What is in memory is gone with the processes: the slot pages, and what the disk had not synced."""
        self.pages = {path: page for path, page in self.pages.items() if not path.startswith(f"{host}/")}
        self.disks[host].power_lost()
        self.started_anew.add(host)

    # --- slot pages ------------------------------------------------------------------------------

    def begun_of(self, path: str, index: int, pid: int) -> int | None:
        """As slot_page.begun_of."""
        page = self.pages.get(path)
        if page is None or index >= len(page.records) or page.records[index].pid != pid:
            return None
        return page.records[index].begun

    def pages_of(self, host: str) -> Pages:
        """What the slot pages of a host say to a router that starts. Leases not begun may not begin any more."""
        records = []
        for path, page in self.pages.items():
            for number, record in enumerate(page.records if path.startswith(f"{host}/") else ()):
                process = self.processes.get(record.pid)
                withdrawn = record.begun + WITHDRAWN_AT_START
                page.withdraw(number, withdrawn)
                begun = [
                    (task_id, lease, mono_s, lease > record.entered)
                    for lease, (task_id, mono_s) in record.beginnings.items()
                ]
                alive = process is not None and process.alive
                records.append(SlotRecord("", number, record.pid, alive, path, withdrawn, begun))
        paths = [path for path in self.pages if path.startswith(f"{host}/")]
        pids = {path: int(path.rpartition("/")[2]) for path in paths}
        keepers = {path: pid if self.processes[pid].alive else None for path, pid in pids.items()}
        return pages_of(records, are_complete=host not in self.started_anew, keepers=keepers)
