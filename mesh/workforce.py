"""The slots of a node: has them started, replaced and ended as `core.supervision` decides, and hears what they say."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from mesh import messages, stacks
from mesh.core.backoff import Backoff
from mesh.core.limits import Verdict
from mesh.core.supervision import Dismiss, Go, Report, Retire, Spawn, Supervision, SupervisionEffect, end_of
from mesh.oom import OutOfMemory
from mesh.pools.hosting import Host, SlotOrder
from mesh.slot_page import SETTLE_S, SlotPage
from mesh.template import SharedFiles

logger = logging.getLogger(__name__)

#: Above any lease: withdraws everything a slot has not begun.
ALL_LEASES: Final = 1 << 62
#: Leases beyond the last one begun that a slot which is to leave may not begin: more than any slot is granted at once.
#: The next slot in its seat numbers on from there.
LEAVING_AHEAD: Final = 1 << 20
#: Wait before a host that died, or could not load the app, is started again; doubled up to the longest.
HOST_AGAIN_S: Final = 0.5
HOST_AGAIN_MAX_S: Final = 30.0


class Employment(NamedTuple):
    """What a node's slots are."""

    order: SlotOrder  #: what all orders have in common
    apart: bool  #: what ends one of them leaves the others alone
    preload: bool
    #: Starts another host, with new code, which preloads the app or not; None: it can't.
    another_host: Callable[[bool], Host] | None
    #: Is told when there is another host.
    changed: Callable[[], None]
    #: What a new host says of the app -> what slots made from it are.
    renewed: Callable[[dict[str, Any], SlotOrder], SlotOrder] = lambda info, order: order


class Poller(Protocol):
    """What waits for the hosts."""

    def add(self, source: int) -> None:
        """Waits for it too."""

    def remove(self, source: int) -> None:
        """Waits for it no longer."""


class Workforce:
    """1. Performs what supervision decides. 2. Hears hosts and slots. 3. Replaces hosts. 4. Keeps deaths to be told."""

    def __init__(
        self,
        employment: Employment,
        supervision: Supervision,
        page: SlotPage,
        host: Host,
        files: SharedFiles,
        poller: Poller,
        verdict: Callable[[int, bool, int | None], Verdict | None],
    ) -> None:
        """`verdict(pid, killed, seat)` says whether a process, or this slot of it, has been killed for a limit."""
        self.supervision = supervision
        self._files = files
        self._employment = employment
        self._order = employment.order
        self._page = page
        self._poller = poller
        self._verdict = verdict
        self._out_of_memory = OutOfMemory()
        #: {generation: host}. Those that have slots, and the one that gets new ones.
        self._hosts: dict[int, Host] = {0: host}
        #: Started, and has not said yet whether it can load the app.
        self._coming: Host | None = None
        #: It imports the app before it forks slots.
        self._preload = employment.preload
        self._backoff = Backoff(HOST_AGAIN_S, HOST_AGAIN_MAX_S)
        #: When to start another host for one that died.
        self._again_mono_s: float | None = None
        #: Deaths of slots that no router has heard of, oldest first.
        self.untold: deque[messages.SlotLost] = deque()
        #: {seat: last lease begun before its slot was ordered}
        self._begun_before: dict[int, int] = {}
        #: There is no host, and none can be started.
        self.is_lost = False
        poller.add(host.fileno())

    @property
    def host_pid(self) -> int:
        """The process that new slots come from; 0 while there is none."""
        host = self._hosts.get(self.supervision.generation)
        return 0 if host is None else host.pid

    # --- what there is to do -----------------------------------------------------------------------

    def tick(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        if self._again_mono_s is not None and now >= self._again_mono_s:
            self._again_mono_s = None
            self._start_host()
        self._do(self.supervision.tick(now))

    def next_deadline_mono_s(self) -> float | None:
        """When `tick` has something to do."""
        known = [one for one in (self._again_mono_s, self.supervision.next_deadline_mono_s()) if one is not None]
        return min(known, default=None)

    def renew(self) -> None:
        """Has all slots replaced by new ones, with new code, once those are warm."""
        if self._employment.another_host is None:
            logger.error("this node can't start itself anew; restart it", extra={"action": "renewal_failed"})
        elif not self.supervision.ending:
            self._abandon_coming()  # what takes long to load may hang: the last request counts
            logger.info("loading the app again", extra={"action": "renewing"})
            self._preload = self._employment.preload
            self._start_host()

    def end(self) -> None:
        """Every slot finishes what it runs and ends; none is started any more."""
        self.supervision.end()
        self._again_mono_s = None
        for host in self._hosts.values():
            host.end()
        self._abandon_coming()

    def hear(self, ready: dict[Any, int]) -> None:
        """What hosts have said."""
        for generation, host in list(self._hosts.items()):
            if host.fileno() in ready:
                self._hear(generation, host)
        if self._coming is not None and self._coming.fileno() in ready:
            self._hear_coming(self._coming)

    def look(self) -> None:
        """What slots say of themselves, which have rung."""
        for seat in self.supervision.living:
            says, blocked = self._page.said(seat)
            self.supervision.told(seat, says, blocked=blocked)

    def interrupt(self, seat: int) -> None:
        """What is due to be raised in a slot's task is raised."""
        host = self._host_of(seat)
        if host is not None:
            host.interrupt(seat)

    def kill_run(self, seat: int, still_runs: Callable[[], bool], number: int = signal.SIGKILL) -> bool:
        """As `Host.kill_run`, of the slot in this seat."""
        host, pid = self._host_of(seat), self.supervision.pid_of(seat)
        return host is not None and pid is not None and host.kill_run(seat, pid, still_runs, number)

    def kill_all(self) -> None:
        """Ends every slot at once, whatever it does."""
        for seat, (pid, _) in self.supervision.living.items():
            host = self._host_of(seat)
            if host is not None:
                host.kill_slot(seat, pid)

    def stacks(self) -> dict[str, str]:
        """{process: where its threads are at the moment}"""
        pids = {pid: f"slot {seat}" for seat, (pid, _) in self.supervision.living.items()}
        pids.update({host.pid: "the process of the slots" for host in self._hosts.values()})
        pids.pop(os.getpid(), None)  # what shares the supervisor's process shows with it
        found = {f"{what} (pid {pid})": stacks.of(pid, self._files.stacks_fd) for pid, what in pids.items()}
        return {f"the supervisor (pid {os.getpid()})": stacks.own(self._files.stacks_fd), **found}

    def close(self) -> None:
        """Ends the hosts, whose slots have ended, and reaps them."""
        self._abandon_coming()
        for host in self._hosts.values():
            self._poller.remove(host.fileno())
            host.close()
        self._hosts.clear()

    # --- performing --------------------------------------------------------------------------------

    def _do(self, effects: list[SupervisionEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Spawn):
                self._spawn(effect)
            elif isinstance(effect, Report):
                self._report(effect)
            elif isinstance(effect, Dismiss):
                self._dismiss(effect.generation)
            elif (host := self._host_of(effect.seat)) is not None:
                if isinstance(effect, Go):
                    host.go(effect.seat)
                elif isinstance(effect, Retire):
                    self._withdraw(effect.seat)
                    host.end(effect.seat)

    def _withdraw(self, seat: int) -> None:
        """This slot begins nothing more."""
        self._page.withdraw(seat, self._page.begun(seat) + LEAVING_AHEAD)

    def _host_of(self, seat: int) -> Host | None:
        return self._hosts.get(self.supervision.generation_of(seat))

    def _spawn(self, spawn: Spawn) -> None:
        try:
            self._page.make_room(spawn.seat)
        except OSError as error:
            logger.error("a slot can't be started: %s", error, extra={"action": "no_room"})
            self._do(self.supervision.exited(spawn.seat, 0, time.monotonic()))
            return
        self._begun_before[spawn.seat] = self._page.begun(spawn.seat)
        self._hosts[spawn.generation].spawn(self._order._replace(seat=spawn.seat, standby=spawn.standby))

    def _report(self, report: Report) -> None:
        if report.charged:
            logger.error("slot %d (pid %d): %s", report.seat, report.pid, report.cause, extra={"action": "slot_lost"})
        begun = self._page.begun(report.seat) if self._page.pid(report.seat) == report.pid else 0
        self._page.say(report.seat, 0)
        if self._order.shares_process:
            self._page.vacate(report.seat)
        self.untold.append(
            messages.SlotLost(report.seat, report.pid, begun, report.cause, report.charged, report.limit_s)
        )

    def _dismiss(self, generation: int) -> None:
        host = self._hosts.pop(generation, None)
        if host is not None:
            self._poller.remove(host.fileno())
            host.close()

    # --- hearing -----------------------------------------------------------------------------------

    def _hear(self, generation: int, host: Host) -> None:
        said = host.receive()
        if said is None:
            self._host_lost(generation, host)
        elif said[:1] == ["spawned"]:
            self.supervision.spawned(said[1], said[2], time.monotonic())
            # It may have rung before it was known.
            os.eventfd_write(self._files.alarm_fd, 1)
        elif said[:1] == ["exited"]:
            self._slot_exited(*said[1:])

    def _slot_exited(self, seat: int, pid: int, status: int, peak_kib: int) -> None:
        worked = self._page.begun(seat) > self._begun_before.get(seat, 0)
        verdict = self._verdict(pid, _is_kill(status), seat) if self._employment.apart else None
        if verdict is not None:
            told: dict[str, Any] = {"cause": verdict.cause, "charged": False, "limit_s": verdict.limit_s}
            self._do(self.supervision.exited(seat, status, time.monotonic(), worked=True, **told))
            return
        cause = self._out_of_memory.cause(status, peak_kib)
        self._do(self.supervision.exited(seat, status, time.monotonic(), worked=worked, cause=cause))

    # --- hosts -------------------------------------------------------------------------------------

    def _host_lost(self, generation: int, host: Host) -> None:
        slots = self.supervision.slots_of(generation)
        # Its slots die with it in a moment. Until then they begin nothing that the reports do not count.
        for seat in slots:
            self._withdraw(seat)
        time.sleep(SETTLE_S)
        self._poller.remove(host.fileno())
        del self._hosts[generation]
        host.kill()
        status, peak_kib = host.close()
        cause, charged, limited = self._cause_of_loss(host.pid, status, peak_kib)
        logger.error("the process of the slots is gone: %s", cause, extra={"action": "host_lost"})
        self._do(self.supervision.template_lost(generation, time.monotonic(), cause, charged=charged, limited=limited))
        if generation == self.supervision.generation and not self.supervision.ending:
            self._start_again()

    def _cause_of_loss(self, pid: int, status: int, peak_kib: int) -> tuple[str, bool, dict[int, float]]:
        """Why a host was lost, whether what ran in it is charged, and {seat: time limit it was killed for}."""
        verdict = self._verdict(pid, _is_kill(status), None)
        if verdict is not None:
            return verdict.cause, False, {verdict.seat: verdict.limit_s}
        cause = self._out_of_memory.cause(status, peak_kib) or f"their process {end_of(status)}"
        return cause, not self._employment.apart, {}

    def _start_again(self) -> None:
        if self._employment.another_host is None:
            self.is_lost = True
            return
        if self._coming is None:
            self._again_mono_s = time.monotonic() + self._backoff.failed()

    def _start_host(self) -> None:
        assert self._employment.another_host is not None
        try:
            self._coming = self._employment.another_host(self._preload)
        except OSError as error:
            logger.error("no new process for slots can be started: %s", error, extra={"action": "renewal_failed"})
            self._renewal_failed()
            return
        self._poller.add(self._coming.fileno())

    def _hear_coming(self, host: Host) -> None:
        said = host.receive()
        if said == []:
            return
        if said is not None and said[0] == "loaded":
            self._take_over(host, said[1])
            return
        reason = said[1] if said is not None else "its process died"
        trace = f"\n{said[2]}" if said is not None and said[2] else ""
        logger.error("the app can't be loaded again: %s%s", reason, trace, extra={"action": "renewal_failed"})
        self._abandon_coming()
        self._renewal_failed()

    def _take_over(self, host: Host, info: dict[str, Any]) -> None:
        """A new host has the app. All slots are to come from it."""
        if info.get("obstacle"):
            warn_of_obstacle(info["obstacle"])
            self._abandon_coming()
            self._preload = False
            self._start_host()
            return
        self._coming = None
        self._backoff.worked()
        self._order = self._employment.renewed(info, self._order)
        self._hosts[self.supervision.renew()] = host
        self._employment.changed()
        logger.info("the app is loaded again, its slots follow", extra={"action": "renewed"})

    def _renewal_failed(self) -> None:
        """What runs goes on; where nothing can run without a new host it is tried again."""
        if self.supervision.generation not in self._hosts and not self.supervision.ending:
            self._start_again()

    def _abandon_coming(self) -> None:
        if self._coming is not None:
            host, self._coming = self._coming, None
            self._poller.remove(host.fileno())
            host.kill()
            host.close()


def warn_of_obstacle(obstacle: str) -> None:
    """The app can't be imported before the fork."""
    logger.warning(
        "%s, which a fork would lose: the app is imported in each slot by itself. Start it in the task, or say "
        "--no-preload",
        obstacle,
        extra={"action": "no_preload"},
    )


def _is_kill(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
