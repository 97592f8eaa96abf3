"""A node: the supervisor of its slots.

It runs no user code and touches no task; what it knows of them it reads from the slot page.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple

from mesh import locate, logs, messages, pools
from mesh.core.autoscaling import Autoscaling, Use
from mesh.core.shutdown import Shutdown, Stage
from mesh.core.supervision import Supervision
from mesh.enforcement import Enforcement
from mesh.exceptions import MeshError, RouterUnreachable
from mesh.messages import Role
from mesh.pools.hosting import Host, LoadedApp, Pool, SlotOrder
from mesh.slot_page import SETTLE_S, SlotPage
from mesh.template import Program, SharedFiles, Template
from mesh.workforce import ALL_LEASES, Employment, Workforce

logger = logging.getLogger(__name__)

#: How long to wait for HELLO-OK before HELLO is said again.
HELLO_AGAIN_S: Final = 0.2
#: How long the last message may take to leave.
LINGER_MS: Final = 500
#: Seats beside those of the slots that work and their successors: for slots that leave slowly.
SPARE_SEATS: Final = 2
#: In an order: no slot stands in for one whose task waits.
NO_STAND_INS: Final = -1


class NodeOptions(NamedTuple):
    """What a node needs to know. What is None is as the app says."""

    name: str
    load: Callable[[], LoadedApp]  #: imports the app; runs in the host, never in the supervisor
    place: locate.Place | None = None
    pool: str = pools.DEFAULT  #: what to load the app with; the app may then say another
    concurrency: int | None = None  #: or pools.AUTO
    queues: tuple[str, ...] | None = None
    preload: bool = True
    connect_s: float = 5.0  #: how long to wait for a router at the start
    program: Program | None = None  #: to be started anew
    another_host: Callable[[], Host] | None = None  #: in place of `program`: starts a host with new code
    number: int = 0  #: tells it from other nodes of this process
    on_loaded: Callable[[dict[str, Any]], None] = lambda info: (
        None
    )  #: gets the app's info plus "queues", "concurrency", "directory", "mesh"
    on_ready: Callable[[], None] = lambda: None


class Node:
    """1. Answers the router, from the slot page where it asks for tasks. 2. Has its workforce and the limits kept.
    3. Ends in order.
    """

    def __init__(
        self,
        options: NodeOptions,
        pool: Pool,
        host: Host,
        files: SharedFiles,
        info: dict[str, Any],
        place: locate.Place,
    ) -> None:
        # Imported here, behind the fork of the host: what comes with ZeroMQ must not exist before it.
        from mesh import transport

        self._transport = transport
        self._options = options
        self._info = info
        self._place = place
        self._incarnation = transport.fresh_incarnation()
        self._context = transport.context()
        self._wakeup = transport.Wakeup()
        self._processes = transport.Processes()
        self._poller = transport.Poller()
        self._alarm_fd = files.alarm_fd
        for fd in (self._wakeup.fileno(), self._processes.fileno(), self._alarm_fd):
            self._poller.add(fd)
        self._employ(pool, host, files)
        self._shutdown = Shutdown(info.get("soft_shutdown_s") or 0.0, info.get("shutdown_s"))
        #: How far it has acted on that.
        self._stage = Stage.RUNNING
        self._renewal_asked = self._dump_asked = False
        self._ready = False
        self._joined = self._has_joined = False
        self.refused = ""
        self._waiting_since_mono_s = time.monotonic()
        #: Counts the links to routers, so that a late HELLO over an earlier one is told from the last.
        self._links = 0
        self._link = self._dial()
        self._commands: Final[dict[str, Callable[[], Any]]] = {
            "ping": lambda: {"ok": "pong"},
            "active": self.active,
            "registered": lambda: self._info["tasks"],
        }

    def _employ(self, pool: Pool, host: Host, files: SharedFiles) -> None:
        """Makes the seats, and who fills them and keeps their limits."""
        info, place = self._info, self._place
        scale = info.get("autoscale")
        self._autoscaling = Autoscaling(scale[0], scale[1], info["autoscale_idle_s"]) if scale else None
        size: int = info["concurrency"]
        blocked_max: int = info.get("max_blocked", 0) if pool.stands_in else NO_STAND_INS
        seats = 2 * (scale[0] if scale else size) + max(0, blocked_max) + SPARE_SEATS
        self._page = _make_page(locate.pages_path(place.directory, os.getpid(), self._options.number), seats)
        self._supervision = Supervision(size, blocked_max=max(0, blocked_max), seats=seats, in_turn=not pool.forks)
        apart = pool.forks or host.kills_one
        self._enforcement = Enforcement(self._page, self._supervision, apart=apart)
        self._workforce = Workforce(
            Employment(
                self._order(pool, blocked_max),
                apart,
                self._options.preload,
                _another_host(self._options, pool, files),
                self._rejoin,
                self._renewed,
            ),
            self._supervision,
            self._page,
            host,
            files,
            self._poller,
            self._enforcement.verdict,
        )

    def _order(self, pool: Pool, blocked_max: int) -> SlotOrder:
        """What all slots have in common."""
        info, place = self._info, self._place
        return SlotOrder(
            seat=0,
            mesh=place.mesh,
            directory=place.directory,
            node=self._options.name,
            queues=tuple(info["queues"]),
            page_path=self._page.path,
            seats=self._page.slots,
            alarm_fd=self._alarm_fd,
            limits=tuple(info.get("limits", (0.0, 0.0))),
            tasks_max=info.get("max_tasks_per_child") or 0,
            memory_max_kib=info.get("max_memory_per_child") or 0,
            blocked_max=blocked_max,
            shares_process=not pool.forks,
        )

    def _renewed(self, info: dict[str, Any], order: SlotOrder) -> SlotOrder:
        """The app was loaded again: its tasks, queues and limits may be others."""
        complete(info, self._options, self._info["concurrency"])
        if info.get("pool") != self._info.get("pool"):
            logger.warning(
                "the app asks for pool %s now: that takes a restart of the node",
                info["pool"],
                extra={"action": "pool_kept"},
            )
        kept = {name: self._info.get(name) for name in ("concurrency", "autoscale", "max_blocked")}
        if changed := [name for name, value in kept.items() if info.get(name) != value]:
            logger.warning(
                "%s of the app takes effect with a restart of the node", ", ".join(changed), extra={"action": "kept"}
            )
        self._info = {**self._info, **info, **kept}
        return order._replace(
            queues=tuple(info["queues"]),
            limits=tuple(info.get("limits", (0.0, 0.0))),
            tasks_max=info.get("max_tasks_per_child") or 0,
            memory_max_kib=info.get("max_memory_per_child") or 0,
        )

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> bool:
        """Supervises until it was told to stop and every slot has ended. False where it can have no slots any more.

        Raises:
            RouterUnreachable: no router answered at the start.
            MeshError: the router refused the node, and why.
        """
        workforce = self._workforce
        while not (self._supervision.is_over() or workforce.is_lost):
            ready = self._poller.wait(self._timeout_s())
            self._wakeup.clear()
            self._receive()
            self._heed_alarm(self._alarm_fd in ready)
            workforce.hear(ready)
            if self._processes.ended():
                logger.warning("the router is gone, looking for another", extra={"action": "router_lost"})
                self._rejoin()
            self._act_on_signals()
            self._scale()
            if self._joined:
                self._look_whether_ready()
                workforce.tick()
                self._tell()
            elif time.monotonic() >= self._hello_mono_s + HELLO_AGAIN_S:
                self._give_up_or_rejoin()
        return not workforce.is_lost

    def _timeout_s(self) -> float | None:
        deadlines: list[float | None] = [
            self._enforcement.next_deadline_mono_s(),
            self._shutdown.next_deadline_mono_s(),
            self._autoscaling.next_deadline_mono_s() if self._autoscaling is not None else None,
            self._workforce.next_deadline_mono_s() if self._joined else self._hello_mono_s + HELLO_AGAIN_S,
        ]
        known = [deadline for deadline in deadlines if deadline is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _heed_alarm(self, rang: bool) -> None:
        """Slots say something of themselves, or run what has a limit."""
        if rang:
            os.eventfd_read(self._alarm_fd)
            self._workforce.look()
        self._enforcement.look(self._workforce, rang=rang)

    def _look_whether_ready(self) -> None:
        if not self._ready and self._supervision.is_complete():
            self._ready = True
            self._options.on_ready()

    def _scale(self) -> None:
        """Gives up slots that nobody uses."""
        if self._autoscaling is None:
            return
        uses = {seat: Use(self._page.begun(seat), self._page.running(seat) is not None) for seat in self._slots()}
        unused = self._autoscaling.look(uses, time.monotonic())
        if unused:
            logger.info("%d slots have had nothing to do, and leave", len(unused), extra={"action": "shrinks"})
            self._supervision.resize(self._autoscaling.size, unused)

    def _take_demand(self, demand: messages.Demand) -> None:
        if self._autoscaling is not None and not self._supervision.ending:
            busy = sum(self._page.running(seat) is not None for seat in self._slots())
            self._autoscaling.demand(demand.tasks, busy, time.monotonic())
            self._supervision.resize(self._autoscaling.size)

    def _slots(self) -> list[int]:
        """The seats of slots that live."""
        return list(self._supervision.living)

    def _tell(self) -> None:
        """Reports the deaths that no router has heard of, once there is one."""
        untold = self._workforce.untold
        while self._joined and untold:
            self._link.send(untold.popleft())

    # --- signals ---------------------------------------------------------------------------------

    def on_signal(self, number: int, frame: FrameType | None = None) -> None:
        """What a signal asks for is done soon. Any thread, also a signal handler."""
        now = time.monotonic()
        if number == signal.SIGTERM:
            self._shutdown.stop(now)
        elif number == signal.SIGINT:
            self._shutdown.stop_harder(now)
        elif number == signal.SIGQUIT:
            self._shutdown.stop_cold(now)
        elif number == signal.SIGHUP:
            self._renewal_asked = True
        elif number == signal.SIGUSR1:
            self._dump_asked = True
        self._wakeup.set()

    def heed_signals(self) -> None:
        """Signals lead to `on_signal` at once, also one that comes right before a wait. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self.on_signal)
        self._wakeup.set_on_signals()

    def _act_on_signals(self) -> None:
        if self._renewal_asked:
            self._renewal_asked = False
            self._workforce.renew()
        if self._dump_asked:
            self._dump_asked = False
            for process, text in self._workforce.stacks().items():
                logger.warning("stacks of %s:\n%s", process, text or "it does not answer", extra={"action": "stacks"})
        runs = any(self._page.running(seat) is not None for seat in self._supervision.living)
        wanted = self._shutdown.tick(time.monotonic(), runs=runs)
        while self._stage < wanted:
            self._stage = Stage(self._stage + 1)
            self._enter(self._stage, wanted)

    def _enter(self, stage: Stage, wanted: Stage) -> None:
        if stage is Stage.WARM:
            self._say_that_it_stops()
            self._link.send(messages.Quiet(self._options.name))
            self._answer_recalls([messages.Recall(seat, ALL_LEASES) for seat in self._supervision.living])
            self._workforce.end()
        elif stage is Stage.COLD and wanted is Stage.COLD:
            logger.warning("stopping now: running tasks are interrupted", extra={"action": "cold_stop"})
            self._enforcement.is_off = True
            self._enforcement.cancel_all(self._workforce)
        elif stage is Stage.KILLED:
            self._enforcement.kill_all(self._workforce)

    def _say_that_it_stops(self) -> None:
        busy = sum(self._page.running(seat) is not None for seat in self._slots())
        if busy:
            told = f"stopping: waits for {busy} running, the rest goes back; Ctrl-C or SIGQUIT interrupts what runs"
            logs.announce(told, "warm_stop")
        else:
            logger.info("stopping: nothing runs", extra={"action": "warm_stop"})

    # --- the router ------------------------------------------------------------------------------

    def _dial(self) -> Any:
        self._links += 1
        link = self._transport.Link(self._context, locate.control_url(self._place))
        self._poller.add(link)
        info = {
            "name": self._options.name,
            "page": self._page.path,
            "queues": list(self._info["queues"]),
            "concurrency": self._info["concurrency"],
            "template_pid": self._workforce.host_pid,
            "wants_demand": self._autoscaling is not None,
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
        if not self._has_joined and waited_s > self._options.connect_s:
            raise RouterUnreachable(self._place.mesh, waited_s, locate.control_url(self._place), self.refused)
        self._rejoin()

    def _receive(self) -> None:
        recalls: list[messages.Recall] = []
        terminates: list[messages.Terminate] = []
        for message, _ in self._link.receive():
            if type(message) is messages.Recall:
                recalls.append(message)
            elif type(message) is messages.Terminate:
                terminates.append(message)
            elif type(message) is messages.NeedHello:
                self._rejoin()
                return
            else:
                self._heed(message)
        if recalls:
            self._answer_recalls(recalls)
        for terminate in terminates:  # behind the recalls: what is not taken back by them has begun
            self._enforcement.terminate(self._workforce, terminate)

    def _heed(self, message: messages.Message) -> None:
        if type(message) is messages.Request:
            self._answer(message)
        elif type(message) is messages.Demand:
            self._take_demand(message)
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

    def _join(self, hello_ok: messages.HelloOk) -> None:
        if self._joined or not self._processes.watch(hello_ok.pid):
            return  # a router that is dead already has a successor, who gets a HELLO of its own
        self._joined = self._has_joined = True
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

    def active(self) -> list[dict[str, Any]]:
        """What its slots run, from the slot page. Any thread, until `close`."""
        rows = []
        for slot in list(self._supervision.living):
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
        self._workforce.close()
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


def _another_host(options: NodeOptions, pool: Pool, files: SharedFiles) -> Callable[[bool], Host] | None:
    """As `Employment.another_host`."""
    another, program = options.another_host, options.program
    if another is not None:
        return lambda preload: another()
    if program is None:
        return None
    return lambda preload: Template.execute(program, files, preload=preload, pool=pool.name)


def complete(info: dict[str, Any], options: NodeOptions, concurrency: int) -> None:
    """What the command line says goes before what the app says."""
    info["queues"] = list(options.queues or (info["queue"],))
    scale = info.get("autoscale")
    wanted = info.get("concurrency") if options.concurrency is None else options.concurrency
    info["concurrency"] = scale[1] if scale else wanted or concurrency
