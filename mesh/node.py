"""A node: the supervisor of its slots.

It runs no user code and touches no task; what it knows of them it reads from the slot page.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple

from mesh import locate, messages
from mesh.core.limits import Interrupt, Kill, LimitedRun, LimitWatch, RunLimits
from mesh.core.supervision import Report, Spawn, Supervision, SupervisionEffect
from mesh.exceptions import MeshError, RouterUnreachable
from mesh.ids import to_text
from mesh.messages import Role
from mesh.oom import OutOfMemory
from mesh.slot_page import NEVER, SETTLE_S, Running, SlotPage
from mesh.template import LoadedApp, RunSlot, SlotOrder, Template

logger = logging.getLogger(__name__)

#: How long to wait for HELLO-OK before HELLO is said again.
HELLO_AGAIN_S: Final = 0.2
#: Above any lease: withdraws everything a slot has not begun.
ALL_LEASES: Final = 1 << 62
#: How long the last message may take to leave.
LINGER_MS: Final = 500


class NodeOptions(NamedTuple):
    """What a node needs to know."""

    name: str
    load: Callable[[], LoadedApp]  #: imports the app; runs in the template, never in the supervisor
    place: locate.Place | None  #: None: where the app's `broker_url` says
    concurrency: int | None  #: None: what the app says, else one per CPU
    queues: tuple[str, ...] | None  #: None: the app's default queue
    connect_s: float = 5.0  #: how long to wait for a router at the start
    on_loaded: Callable[[dict[str, Any]], None] = lambda info: (
        None
    )  #: gets the app's info plus "queues", "concurrency", "directory", "mesh"
    on_ready: Callable[[], None] = lambda: None


class AppFailed(MeshError):
    """The app could not be loaded."""

    def __init__(self, message: str, remote_traceback: str) -> None:
        super().__init__(message)
        self.remote_traceback = remote_traceback


class Node:
    """1. Keeps the slots alive. 2. Answers the router from the slot page. 3. Ends in order."""

    def __init__(self, options: NodeOptions, template: Template, info: dict[str, Any], place: locate.Place) -> None:
        # Imported here, behind the fork of the template: what comes with ZeroMQ must not exist before it.
        from mesh import transport

        self._transport = transport
        self._options = options
        self._template = template
        self._info = info
        self._place = place
        self._incarnation = transport.fresh_incarnation()
        slots: int = info["concurrency"]
        self._page = _make_page(locate.pages_path(place.directory, os.getpid()), slots)
        self._supervision = Supervision(slots)
        self._out_of_memory = OutOfMemory()
        self._context = transport.context()
        self._wakeup = transport.Wakeup()
        self._processes = transport.Processes()
        self._poller = transport.Poller()
        for fd in (self._wakeup.fileno(), self._processes.fileno(), template.fileno(), template.alarm_fd):
            self._poller.add(fd)
        #: Deaths of slots, oldest first.
        self._untold: deque[messages.SlotLost] = deque()
        self._limit_watch = LimitWatch()
        #: {slot: last lease begun before its process was ordered}
        self._begun_before: dict[int, int] = {}
        self._stops = 0
        self._ready = False
        self._joined = False
        self._template_gone = False
        self.refused = ""
        self._waiting_since_mono_s = time.monotonic()
        #: Counts the links to routers, so that a late HELLO over an earlier one is told from the last.
        self._links = 0
        self._link = self._dial()
        self._commands: Final[dict[str, Callable[[], Any]]] = {
            "ping": lambda: {"ok": "pong"},
            "active": self._active,
            "registered": lambda: self._info["tasks"],
        }

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> bool:
        """Supervises until it has been told to stop and every slot has ended. False where the template died instead.

        Raises:
            RouterUnreachable: no router answered at the start.
            MeshError: the router refused the node, and why.
        """
        while not (self._supervision.is_over() or self._template_gone):
            ready = self._poller.wait(self._timeout_s())
            self._wakeup.clear()
            self._receive()
            self._watch_limits(ready)
            if self._template.fileno() in ready:
                self._hear_template()
            if self._processes.ended():
                logger.warning("the router is gone, looking for another", extra={"action": "router_lost"})
                self._rejoin()
            self._act_on_stops()
            if self._joined:
                self._do(self._supervision.tick(time.monotonic()))
            elif time.monotonic() >= self._hello_mono_s + HELLO_AGAIN_S:
                self._give_up_or_rejoin()
        return not self._template_gone

    def _timeout_s(self) -> float | None:
        deadlines: list[float | None] = [self._limit_watch.next_deadline_mono_s()]
        deadlines += (
            [self._supervision.next_deadline_mono_s()] if self._joined else [self._hello_mono_s + HELLO_AGAIN_S]
        )
        known = [deadline for deadline in deadlines if deadline is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _do(self, effects: list[SupervisionEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Spawn):
                self._begun_before[effect.slot] = self._page.begun(effect.slot)
                self._template.spawn(self._order(effect.slot))
            elif isinstance(effect, Report):
                self._report(effect)

    def _order(self, index: int) -> SlotOrder:
        place = self._place
        return SlotOrder(
            index,
            place.mesh,
            place.directory,
            self._options.name,
            tuple(self._info["queues"]),
            self._page.path,
            self._page.slots,
            self._template.alarm_fd,
        )

    def _report(self, report: Report) -> None:
        if report.charged:
            logger.error("slot %d (pid %d): %s", report.slot, report.pid, report.cause, extra={"action": "slot_lost"})
        begun = self._page.begun(report.slot) if self._page.pid(report.slot) == report.pid else 0
        self._untold.append(
            messages.SlotLost(report.slot, report.pid, begun, report.cause, report.charged, report.limit_s)
        )
        self._tell()

    def _tell(self) -> None:
        """Reports the deaths that no router has heard of, once there is one."""
        while self._joined and self._untold:
            self._link.send(self._untold.popleft())

    def _hear_template(self) -> None:
        said = self._template.receive()
        now = time.monotonic()
        if said is None:
            logger.error("the template process died; the node ends", extra={"action": "template_lost"})
            # Its slots die with it in a moment. Until then they begin nothing that the reports do not count.
            for slot in range(self._page.slots):
                self._page.withdraw(slot, ALL_LEASES)
            time.sleep(SETTLE_S)
            self._do(self._supervision.template_lost(now))
            self._template_gone = True
        elif said[0] == "spawned":
            self._supervision.spawned(said[1], said[2], now)
            if self._page.limits(said[1]) is not None:  # it has begun, and rang, before it was known
                os.eventfd_write(self._template.alarm_fd, 1)
            if not self._ready and self._supervision.is_complete():
                self._ready = True
                self._options.on_ready()
        elif said[0] == "exited":
            self._slot_exited(*said[1:])

    def _slot_exited(self, pid: int, status: int, peak_kib: int) -> None:
        now, worked = time.monotonic(), self._has_worked(pid)
        limited, slot = self._limit_watch.ended(pid), self._supervision.slot_of(pid)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if limited is None or slot is None or not killed:  # it may have died of something else just before
            cause = self._out_of_memory.cause(status, peak_kib)
            self._do(self._supervision.exited(pid, status, now, worked=worked, cause=cause))
            return
        running, limit_s = self._page.running(slot), limited.limits.hard_s
        was_in_time = running is None or running.lease != limited.lease
        cause = f"a task that it ran had reached its time limit of {limit_s:g} s"
        self._do(
            self._supervision.exited(
                *(pid, status, now), worked=True, cause=cause, charged=False, limit_s=0.0 if was_in_time else limit_s
            )
        )

    def _has_worked(self, pid: int) -> bool:
        slot = self._supervision.slot_of(pid)
        return slot is not None and self._page.begun(slot) > self._begun_before.get(slot, 0)

    # --- time limits -----------------------------------------------------------------------------

    def _watch_limits(self, ready: dict[Any, int]) -> None:
        """Interrupts and kills what has run too long. A run with a nearer limit than the next look rings the alarm."""
        rang, deadline = self._template.alarm_fd in ready, self._limit_watch.next_deadline_mono_s()
        if rang:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._template.alarm_fd)
        elif deadline is None or time.monotonic() < deadline:
            return
        slots = range(self._page.slots)
        for slot in slots:
            self._page.looks_at(slot, NEVER)
        time.sleep(SETTLE_S)
        next_s = self._page.least_limit_s() if rang else None
        for effect in self._limit_watch.look(self._limited_runs(), time.monotonic(), next_s=next_s):
            self._enforce(effect)
        deadline = self._limit_watch.next_deadline_mono_s()
        for slot in slots:
            self._page.looks_at(slot, NEVER if deadline is None else int(deadline * 1e9))

    def _limited_runs(self) -> list[LimitedRun]:
        if self._stops > 1:
            return []  # whatever runs is being killed, and that is no fault of its own
        runs = []
        for slot, (pid, _) in self._supervision.living.items():
            found = self._page.limits(slot) if self._page.pid(slot) == pid else None
            if found is not None:
                limits = RunLimits(found.hard_s, found.soft_s)
                runs.append(LimitedRun(slot, pid, found.lease, found.begun_mono_s, limits))
        return runs

    def _enforce(self, effect: Interrupt | Kill) -> None:
        run, kills = effect.run, isinstance(effect, Kill)
        running = self._held_fast(run) if kills else self._page.running(run.slot)
        if running is None or running.lease != run.lease:
            self._limit_watch.ended(run.pid)  # it has kept its limit after all; the process goes on
            self._signal(run.pid, signal.SIGCONT)
            return
        limit, what = (run.limits.hard_s, "time limit") if kills else (run.limits.soft_s, "soft time limit")
        logger.log(
            logging.ERROR if kills else logging.WARNING,
            "task %s[%s] has reached its %s of %g s",
            *(running.name, to_text(running.task_id), what, limit),
            extra={"action": "time_limit", "task": to_text(running.task_id)},
        )
        self._signal(run.pid, signal.SIGKILL if kills else signal.SIGUSR1)

    def _held_fast(self, run: LimitedRun) -> Running | None:
        """Stops the slot, so that the kill hits this run and not the next one. What it runs."""
        self._signal(run.pid, signal.SIGSTOP)
        time.sleep(SETTLE_S)
        return self._page.running(run.slot)

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    # --- stopping --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Once: warm, slots finish what they run.

        Again: cold, they are killed and their tasks requeued. Signal handlers may call it.
        """
        self._stops += 1
        self._wakeup.set()

    def heed_signals(self) -> None:
        """A signal's handler runs at once, even if the signal comes right before a wait. Main thread only."""
        self._wakeup.set_on_signals()

    def _act_on_stops(self) -> None:
        if self._stops and not self._supervision.ending:
            logger.info("stopping: running tasks finish, the rest goes back", extra={"action": "warm_stop"})
            self._supervision.end()
            self._link.send(messages.Quiet(self._options.name))
            self._answer_recalls([messages.Recall(index, ALL_LEASES) for index in range(self._page.slots)])
            self._template.end()
        if self._stops > 1:
            for pid, _ in self._supervision.living.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # --- the router ------------------------------------------------------------------------------

    def _dial(self) -> Any:
        self._links += 1
        link = self._transport.Link(self._context, locate.control_url(self._place))
        self._poller.add(link)
        info = {
            "name": self._options.name,
            "page": self._page.path,
            "queues": list(self._info["queues"]),
            "concurrency": self._page.slots,
            "template_pid": self._template.pid,
            "link": self._links,
            "app": self._info.get("app"),
        }
        hello = messages.Hello(
            messages.PROTOCOL_MAJOR,
            messages.PROTOCOL_MINOR,
            Role.NODE,
            self._place.mesh,
            self._incarnation,
            os.getpid(),
            info,
        )
        link.send(hello)
        self._hello_mono_s = time.monotonic()
        return link

    def _rejoin(self) -> None:
        self._joined = False
        self._poller.remove(self._link)
        self._link.close()
        self._link = self._dial()
        if not self._supervision.ending:
            self._ensure_router()

    def _ensure_router(self) -> None:
        """That none can be started is no reason to end what runs: it is tried again with the next HELLO."""
        try:
            locate.ensure_router(self._place, self._info.get("router_settings"))
        except (MeshError, OSError) as error:
            if str(error) != self.refused:
                logger.error("no router can be started: %s", error, extra={"action": "router_unavailable"})
            self.refused = str(error)

    def _give_up_or_rejoin(self) -> None:
        waited_s = time.monotonic() - self._waiting_since_mono_s
        if not self._ready and waited_s > self._options.connect_s:
            raise RouterUnreachable(self._place.mesh, waited_s, locate.control_url(self._place), self.refused)
        self._rejoin()

    def _receive(self) -> None:
        recalls: list[messages.Recall] = []
        for message, _ in self._link.receive():
            if type(message) is messages.Recall:
                recalls.append(message)
            elif type(message) is messages.Request:
                self._answer(message)
            elif type(message) is messages.HelloOk:
                self._join(message)
            elif type(message) is messages.Malformed:
                logger.warning("the router dropped a message: %s", message, extra={"action": "malformed"})
            elif type(message) is messages.HelloRefused:
                self.refused = message.reason
                if message.code == messages.Code.STARTING:
                    self._waiting_since_mono_s = time.monotonic()  # it is there, and will answer
                if message.code in messages.Code.FINAL:
                    raise MeshError(message.reason)
            elif type(message) is messages.NeedHello:
                self._rejoin()
                return
        if recalls:
            self._answer_recalls(recalls)

    def _join(self, hello_ok: messages.HelloOk) -> None:
        if self._joined or not self._processes.watch(hello_ok.pid):
            return  # a router that is dead already has a successor, who gets a HELLO of its own
        self._joined = True
        self._tell()
        if self._supervision.ending:
            self._link.send(messages.Quiet(self._options.name))

    def _answer_recalls(self, recalls: list[messages.Recall]) -> None:
        recalls = [
            recall for recall in recalls if 0 <= recall.slot < self._page.slots and 0 <= recall.upto <= ALL_LEASES
        ]
        for recall in recalls:
            self._page.withdraw(recall.slot, recall.upto)
        time.sleep(SETTLE_S)
        for recall in recalls:
            pid, begun = self._page.pid(recall.slot), self._page.begun(recall.slot)
            self._link.send(messages.Recalled(recall.slot, pid, begun, recall.upto))

    # --- control ---------------------------------------------------------------------------------

    def _answer(self, request: messages.Request) -> None:
        command = self._commands.get(request.command)
        if command is None:
            known = ", ".join(sorted(self._commands))
            self._link.send(
                messages.Reply(request.number, False, f"unknown command {request.command!r}; this node knows {known}")
            )
            return
        self._link.send(messages.Reply(request.number, True, command()))

    def _active(self) -> list[dict[str, Any]]:
        rows = []
        for slot in range(self._page.slots):
            running = self._page.running(slot)
            if running is not None:
                rows.append(
                    {
                        "id": running.task_id,
                        "name": running.name,
                        "attempt": running.attempt,
                        "slot": slot,
                        "pid": self._page.pid(slot),
                        "started_wall_s": running.started_wall_s,
                    }
                )
        return rows

    def close(self) -> None:
        """Leaves the router in good order and gives everything back."""
        self._link.send(messages.Bye("the node ends"))
        self._link.close(linger_ms=LINGER_MS)
        self._context.term()
        self._processes.close()
        self._wakeup.close()
        self._page.close()  # the file is the router's to remove: it may tell a later one what had begun


def _make_page(path: str, slots: int) -> SlotPage:
    try:
        return SlotPage(path, slots, create=True)
    except OSError as error:
        raise MeshError(
            f"the slot page {path} can't be made: {error.strerror}. Make room there, and try again."
        ) from None


def run_node(options: NodeOptions, run_slot: RunSlot) -> int:
    """Runs a node in this process until it is stopped by SIGTERM or SIGINT (again: cold). Returns its exit code.

    Must be called before this process has any thread or ZeroMQ context.

    Raises:
        AppFailed: the app could not be loaded.
        RouterUnreachable: no router answered in `options.connect_s`.
    """
    template = Template(options.load, run_slot)
    try:
        info = _load(template)
        place = options.place or locate.locate(info.get("broker_url"))
        locate.ensure_router(place, info.get("router_settings"))
        info["queues"] = list(options.queues or (info["queue"],))
        info["concurrency"] = options.concurrency or info.get("concurrency") or len(os.sched_getaffinity(0))
        return _supervise(options, template, info, place)
    finally:
        template.close()


def _load(template: Template) -> dict[str, Any]:
    """What the template says of the app. An import that takes its time can be interrupted."""
    try:
        said = template.receive()
    except BaseException:
        template.kill()
        raise
    if said is None or said[0] != "loaded":
        raise AppFailed(*(said[1:] if said else ("the process that loads the app died", "")))
    info: dict[str, Any] = said[1]
    return info


def _supervise(options: NodeOptions, template: Template, info: dict[str, Any], place: locate.Place) -> int:
    node = Node(options, template, info, place)

    def on_signal(number: int, frame: FrameType | None) -> None:
        node.stop()
        if number == signal.SIGQUIT:
            node.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, on_signal)
    node.heed_signals()
    options.on_loaded({**info, "mesh": place.mesh, "directory": place.directory})
    try:
        return 0 if node.run() else 1
    finally:
        node.close()
