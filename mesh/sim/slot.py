"""The shell of a slot in simulated form: mirrors mesh/slot.py around the real Work. A task takes simulated time."""

from __future__ import annotations

from typing import Protocol

from mesh import ids
from mesh import messages as m
from mesh.core.work import Ended, Lease, Work, outcomes_message, results_message
from mesh.messages import Flag, Role
from mesh.sim.history import Job, Run
from mesh.sim.kernel import Kernel
from mesh.sim.page import Detail, SimPage
from mesh.sim.process import Process
from mesh.sim.router import MESH, inbox_address, reply_address
from mesh.sim.wire import Link
from mesh.slot import HELLO_AGAIN_S, LAST_RECEIPTS_S


class Employer(Protocol):
    """A node, as `node.SimNode` is one."""

    kernel: Kernel
    host: str
    name: str
    queues: tuple[str, ...]
    page: SimPage

    def slot_ended(self, slot: SimSlot, cause: str) -> None:
        """A process of this node has ended."""


#: What the slot itself takes of a task.
OVERHEAD_S = 0.00001


class Direct:
    """The path to one caller."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.up = False


class SimSlot(Process):
    """1. Runs leases in order. 2. Sends outcomes to callers and owner. 3. Joins whichever router is there."""

    def __init__(self, node: Employer, index: int) -> None:
        super().__init__(node.kernel, node.host, f"slot {node.name}.{index}")
        self.node = node
        self.index = index
        self.page = node.page
        self.incarnation = self.kernel.new_incarnation()
        self.work = Work(self.page.enter(index, self.pid))
        self.direct: dict[bytes, Direct] = {}
        self._lifeline_closed = False
        self._ending_by_s: float | None = None
        self._running: tuple[Lease, Run] | None = None
        self.joined = False
        self._links = 0
        self._router = self._dial()
        self.wake()

    # --- the loop --------------------------------------------------------------------------------

    def turn(self) -> None:
        """Rounds of Slot.run until there is nothing to do, or a task runs."""
        waited = False
        while self.alive:
            if self._is_over():
                self._leave()
                return
            if self._may_run():
                self._run_next(self.work.waiting.popleft())
                if self.busy:
                    return
            elif waited:
                return
            else:
                self._look_around()
                waited = True
            self._between()

    def _between(self) -> None:
        if not self._may_run():
            self._flush()
            self._receive()

    def _may_run(self) -> bool:
        return bool(self.work.waiting) and self.joined and not self.work.is_full

    def next_deadline(self) -> float | None:
        deadlines = [self.work.next_deadline_mono_s(), self._ending_by_s]
        if not self.joined:
            deadlines.append(self._hello_s + HELLO_AGAIN_S)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def check(self) -> None:
        self.work.check()

    def has_input(self) -> bool:
        return self._router.has_input or any(one.link.has_input and not one.up for one in self.direct.values())

    def _is_over(self) -> bool:
        if self._ending_by_s is None:
            return False
        settled = self.joined and not self.work.unreceipted
        return settled or self.timeline.mono_s >= self._ending_by_s

    def _look_around(self) -> None:
        if self._lifeline_closed and self._ending_by_s is None:
            self._begin_to_end()
        if self.ended():
            self._rejoin()
        if not self.joined and self.timeline.mono_s >= self._hello_s + HELLO_AGAIN_S:
            self._rejoin()
        if self.joined:
            self._send_again()

    def _send_again(self) -> None:
        outcomes, returned = self.work.overdue(self.timeline.mono_s)
        if outcomes:
            self._router.send(*outcomes_message(outcomes))
        if returned is not None:
            self._router.send(returned)

    def end_soon(self) -> None:
        """The lifeline closes."""
        self._lifeline_closed = True
        self.wake()

    def _begin_to_end(self) -> None:
        self._ending_by_s = self.timeline.mono_s + LAST_RECEIPTS_S
        if self.work.waiting:
            self._return([lease.number for lease in self.work.waiting])
            self.work.waiting.clear()

    # --- running ---------------------------------------------------------------------------------

    def _run_next(self, lease: Lease) -> None:
        if self.work.must_send_before(lease, self.timeline.mono_s):
            self._flush()
        task_id, name, attempt, flags, body, *_ = lease.record
        wall_s = self.now.wall_s
        if not self.page.begin(self.index, lease.number, Detail(task_id, name, attempt, wall_s, self.timeline.mono_s)):
            self.kernel.history.counts["withdrawn in time"] += 1
            self._return([lease.number])
            return
        if flags & Flag.TRACK_STARTED:
            self._router.send(m.Started(lease.number, wall_s))
        history = self.kernel.history
        job = Job.of(body)
        crashes = len(history.runs.get(task_id, ())) < job.crashes
        run = history.began(task_id, Run(self.pid, self.name, lease.number, self.timeline.mono_s, peer=False))
        self._running = (lease, run)
        self.occupied(job.run_us / 1e6 + OVERHEAD_S, self._crash if crashes else self._ran)

    def _crash(self) -> None:
        self.kernel.history.fault(self.timeline.mono_s, "task kills its slot", self.host, self.pid)
        self.kernel.kill(self)

    def _ran(self) -> None:
        assert self._running is not None
        lease, run = self._running
        self._running = None
        now = run.finished_s = self.timeline.mono_s
        self.page.end(self.index)
        runtime_us = int((now - run.began_s) * 1e6)
        task_id, options = lease.record[0], lease.record[6] or {}
        if options.get("retries", 0) < Job.of(lease.record[4]).retries:
            run.retried = True
            self.kernel.history.counts["retries"] += 1
            eta_wall_s = self.now.wall_s + runtime_us / 1e5
            self.work.retries(lease, runtime_us, b"again", eta_wall_s, self._next_call(lease), now)
        else:
            status, result = self.kernel.outcome_of(task_id)
            self.work.ended(lease, status, runtime_us, result, lease.frames, now)
        self._between()
        self.turn()

    @staticmethod
    def _next_call(lease: Lease) -> tuple[bytes, tuple[m.Buffer, ...]] | None:
        """The arguments of the next run, where they are others."""
        job = Job.of(lease.record[4])
        return (job.hurried().body(), lease.frames) if job.changes_arguments else None

    def _return(self, leases: list[int]) -> None:
        self._router.send(self.work.returned(leases, self.timeline.mono_s))

    # --- outcomes --------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self.work.has_unsent:
            return
        unsent, by_caller = self.work.take_unsent(self.timeline.mono_s)
        self._tell_callers(by_caller)
        if self.joined:
            self._router.send(*outcomes_message(unsent))

    def _tell_callers(self, by_caller: dict[bytes, list[Ended]]) -> None:
        for prefix, ended in by_caller.items():
            if self._send_direct(prefix, ended):
                self.kernel.history.counts["results sent directly"] += len(ended)
                continue
            for one in ended:
                one.record[6] = False

    def _send_direct(self, prefix: bytes, ended: list[Ended]) -> bool:
        direct = self.direct.get(prefix)
        if direct is None:
            self._dial_caller(prefix)
            return False
        if not direct.up:
            self._look_for_hello_ok(direct)
        return direct.up and direct.link.send(*results_message(ended))

    def _dial_caller(self, prefix: bytes) -> None:
        address = reply_address(self.host, ids.read(ids.stamp(prefix, 0)).incarnation)
        if address not in self.wire.paths:
            return
        link = Link(self.wire, self, address, reconnect=False)
        link.send(self._hello())
        self.direct[prefix] = Direct(link)

    def _look_for_hello_ok(self, direct: Direct) -> None:
        for message, _ in direct.link.receive():
            if type(message) is m.HelloOk:
                direct.up = True

    # --- the router ------------------------------------------------------------------------------

    def _dial(self) -> Link:
        self._links += 1
        link = Link(self.wire, self, inbox_address(self.host))
        link.send(self._hello())
        self._hello_s = self.timeline.mono_s
        return link

    def _hello(self) -> m.Hello:
        info = {
            "node": self.node.name,
            "index": self.index,
            "queues": list(self.node.queues),
            "last_lease": self.work.last_lease,
            "unreceipted": self.work.unreceipted_leases(),
            "link": self._links,
        }
        return m.Hello(m.PROTOCOL_MAJOR, m.PROTOCOL_MINOR, Role.SLOT, MESH, self.incarnation, self.pid, info)

    def _rejoin(self) -> None:
        self.joined = False
        self._router.close()
        self._router = self._dial()

    def _receive(self) -> None:
        for message, frames in self._router.receive():
            if isinstance(message, m.Tasks) and self.joined:
                self.work.take(message, frames)
            elif isinstance(message, m.Receipt):
                self.work.receipt(message.upto)
            elif isinstance(message, m.HelloOk):
                self._join(message.pid)
            elif isinstance(message, m.NeedHello):
                self._rejoin()
                return
        for direct in list(self.direct.values()):
            if not direct.up:
                self._look_for_hello_ok(direct)

    def _join(self, router_pid: int) -> None:
        if self.joined or not self.watch(router_pid):
            return
        self.joined = True
        again = self.work.rejoin()
        if again:
            self._router.send(*outcomes_message(again))

    # --- the end ---------------------------------------------------------------------------------

    def _leave(self) -> None:
        self._router.send(m.Bye("the slot ends"))
        self._router.close(linger=True)
        self.kernel.ended(self, "code 0")

    def released(self, cause: str) -> None:
        if self._running is not None:
            self._running[1].finished_s = None
        for direct in self.direct.values():
            direct.link.close()
        self._router.close()
        self.node.slot_ended(self, cause)
