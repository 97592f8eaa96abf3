"""A slot: the process in which one task at a time runs.

One thread does everything; while user code runs, nothing else does.

It takes leases from its router, says in the slot page which one it begins, and sends each outcome twice: straight to
the caller's reply socket where the two share a host, and to the owner, which has the last word (DESIGN D4, D8).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections import OrderedDict
from typing import Final, NamedTuple

from mesh import ids, locate, messages, transport
from mesh.core.limits import RunLimits
from mesh.core.work import Ended, Lease, Work, outcomes_message, results_message
from mesh.execution import Execution
from mesh.messages import Flag, Role
from mesh.slot_page import SlotPage, name_bytes
from mesh.states import Status
from mesh.template import LoadedApp, SlotOrder, place_of

logger = logging.getLogger(__name__)

#: Callers whose reply sockets are kept connected.
CALLERS_MAX: Final = 64
#: How long to wait for HELLO-OK before HELLO is said again.
HELLO_AGAIN_S: Final = 0.2
#: EX_SOFTWARE of sysexits.h.
CRIPPLED_EXIT_CODE: Final = 70
#: How long a slot that ends waits for the receipts of its last outcomes.
LAST_RECEIPTS_S: Final = 2.0


class SlotOptions(NamedTuple):
    """What a slot needs to know."""

    place: locate.Place
    node: str
    slot: int
    queues: tuple[str, ...]
    lifeline_fd: int  #: readable when the slot is to end
    alarm_fd: int  #: an eventfd: the supervisor is to look at the time limits


class _Direct:
    """The direct path to one caller: a DEALER that is up once the caller has answered."""

    def __init__(self, link: transport.Link) -> None:
        self.link = link
        self.up = False


class Slot:
    """1. Runs leases in order. 2. Sends outcomes to callers and owner. 3. Joins whichever router is there."""

    def __init__(self, options: SlotOptions, page: SlotPage, execution: Execution) -> None:
        self._options = options
        self._page = page
        self._execution = execution
        self._pid = os.getpid()
        self._incarnation = transport.fresh_incarnation()
        self._work = Work(page.enter(options.slot, os.getpid()))
        self._context = transport.context()
        self._processes = transport.Processes()
        self._poller = transport.Poller()
        self._poller.add(options.lifeline_fd)
        self._poller.add(self._processes.fileno())
        #: {id prefix: direct path}, least recently used first.
        self._direct: OrderedDict[bytes, _Direct] = OrderedDict()
        self._names: dict[str, bytes] = {}
        #: The slot page has limits, of the run before.
        self._has_limits = False
        self._ending_by_mono_s: float | None = None
        self._joined = False
        #: Counts the links to routers, so that a late HELLO over an earlier one is told from the last.
        self._links = 0
        self._router = self._dial()

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until the lifeline says that it is to end."""
        while not self._is_over():
            if self._may_run():
                self._run_next(self._work.waiting.popleft())
            else:
                self._wait()
            if not self._may_run():
                self._end_if_crippled()
                self._flush()
                self._receive()

    def _may_run(self) -> bool:
        return bool(self._work.waiting) and self._joined and not self._work.is_full

    def _is_over(self) -> bool:
        if self._ending_by_mono_s is None:
            return False
        return not self._work.unreceipted or time.monotonic() >= self._ending_by_mono_s

    def _wait(self) -> None:
        deadlines = [self._work.next_deadline_mono_s(), self._ending_by_mono_s]
        if not self._joined:
            deadlines.append(self._hello_mono_s + HELLO_AGAIN_S)
        known = [deadline for deadline in deadlines if deadline is not None]
        ready = self._poller.wait(max(0.0, min(known) - time.monotonic()) if known else None)
        if self._options.lifeline_fd in ready:
            self._begin_to_end()
        if self._processes.fileno() in ready and self._processes.ended():
            self._rejoin()
        if not self._joined and time.monotonic() >= self._hello_mono_s + HELLO_AGAIN_S:
            self._rejoin()
        if self._joined:
            self._send_again()

    def _send_again(self) -> None:
        outcomes, returned = self._work.overdue(time.monotonic())
        if outcomes:
            self._router.send(*outcomes_message(outcomes))
        if returned is not None:
            self._router.send(returned)

    def _begin_to_end(self) -> None:
        self._poller.remove(self._options.lifeline_fd)
        self._ending_by_mono_s = time.monotonic() + LAST_RECEIPTS_S
        if self._work.waiting:
            self._return([lease.number for lease in self._work.waiting])
            self._work.waiting.clear()

    def _run_next(self, lease: Lease) -> None:
        work = self._work
        if work.must_send_before(lease, time.monotonic()):
            self._flush()
        task_id, name, attempt, flags, _, _, options = lease.record
        encoded = self._names.get(name)
        if encoded is None:
            encoded = self._names[name] = name_bytes(name)
        wall_s, begun = time.time(), time.monotonic_ns()
        limits = self._execution.limits_of(name, options)
        if limits or self._has_limits:
            self._write_limits(limits, begun)
        if not self._page.begin(self._options.slot, lease.number, task_id, encoded, attempt, wall_s, begun):
            self._return([lease.number])
            return
        if limits:
            self._ring_if_overlooked(limits, begun)
        if flags & Flag.TRACK_STARTED:
            self._router.send(messages.Started(lease.number, wall_s))
        ran = self._execution.run(lease.record, lease.frames)
        if os.getpid() != self._pid:
            # A process that the task has forked came out of it too. It is no slot, and has nothing to say.
            os._exit(0)
        runtime_us = (time.monotonic_ns() - begun) // 1000
        self._page.end(self._options.slot)
        if ran.status == Status.RETRY:
            work.retries(lease, runtime_us, ran.body, ran.eta_wall_s, ran.call, time.monotonic())
        else:
            work.ended(lease, ran.status, runtime_us, ran.body, ran.frames, time.monotonic(), ran.cause)

    def _write_limits(self, limits: RunLimits, begun: int) -> None:
        self._has_limits = bool(limits)
        self._page.limit(self._options.slot, math.ceil(limits.hard_s * 1e9), math.ceil(limits.soft_s * 1e9), begun)
        self._execution.soft_deadline_mono_s = begun / 1e9 + limits.soft_s if limits.soft_s else math.inf

    def _ring_if_overlooked(self, limits: RunLimits, begun: int) -> None:
        first_s = min(one for one in limits if one)
        if self._page.is_overlooked(self._options.slot, begun + int(first_s * 1e9)):
            with contextlib.suppress(OSError):  # a task that has closed it has closed more, see `_end_if_crippled`
                os.eventfd_write(self._options.alarm_fd, 1)

    def _return(self, leases: list[int]) -> None:
        self._router.send(self._work.returned(leases, time.monotonic()))

    # --- outcomes --------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Sends every outcome there is: to the callers first, who wait for it, then to the owner."""
        if not self._work.has_unsent:
            return
        unsent, by_caller = self._work.take_unsent(time.monotonic())
        self._tell_callers(by_caller)
        if self._joined:
            self._router.send(*outcomes_message(unsent))

    def _tell_callers(self, by_caller: dict[bytes, list[Ended]]) -> None:
        for prefix, ended in by_caller.items():
            if not self._send_direct(prefix, ended):
                for one in ended:
                    one.record[6] = False

    def _send_direct(self, prefix: bytes, ended: list[Ended]) -> bool:
        direct = self._direct.get(prefix)
        if direct is None:
            self._dial_caller(prefix)
            return False
        self._direct.move_to_end(prefix)
        if not direct.up:
            self._look_for_hello_ok(prefix, direct)
        if not direct.up:
            return False
        if direct.link.send(*results_message(ended)):
            return True
        self._drop(prefix)
        return False

    def _dial_caller(self, prefix: bytes) -> None:
        path = locate.reply_path(self._options.place.directory, ids.read(ids.stamp(prefix, 0)).incarnation)
        if not os.path.exists(path):
            return
        if len(self._direct) >= CALLERS_MAX:
            self._drop(next(iter(self._direct)))
        link = transport.Link(self._context, f"ipc://{path}", reconnect=False)
        link.send(self._hello())
        self._direct[prefix] = _Direct(link)
        self._poller.add(link)

    def _look_for_hello_ok(self, prefix: bytes, direct: _Direct) -> None:
        for message, _ in direct.link.receive():
            if type(message) is messages.HelloOk:
                direct.up = True
                self._poller.remove(direct.link)

    def _drop(self, prefix: bytes) -> None:
        direct = self._direct.pop(prefix)
        self._poller.remove(direct.link)
        direct.link.close()

    # --- the router ------------------------------------------------------------------------------

    def _dial(self) -> transport.Link:
        self._links += 1
        link = transport.Link(self._context, locate.inbox_url(self._options.place))
        self._poller.add(link)
        link.send(self._hello())
        self._hello_mono_s = time.monotonic()
        return link

    def _hello(self) -> messages.Hello:
        options = self._options
        info = {
            "node": options.node,
            "index": options.slot,
            "queues": list(options.queues),
            "last_lease": self._work.last_lease,
            "unreceipted": self._work.unreceipted_leases(),
            "link": self._links,
        }
        return messages.Hello(
            messages.PROTOCOL_MAJOR,
            messages.PROTOCOL_MINOR,
            Role.SLOT,
            options.place.mesh,
            self._incarnation,
            os.getpid(),
            info,
        )

    def _rejoin(self) -> None:
        """Says HELLO anew, over a new link, so that nothing meant for an earlier router reaches the next one."""
        self._joined = False
        self._poller.remove(self._router)
        self._router.close()
        self._router = self._dial()

    def _end_if_crippled(self) -> None:
        """A task that has closed every descriptor has closed the slot's too: nothing can be sent or heard any more.

        The process ends at once, as if it had crashed; the task is charged with that.
        """
        try:
            os.fstat(self._options.lifeline_fd)
        except OSError:
            os._exit(CRIPPLED_EXIT_CODE)

    def _receive(self) -> None:
        for message, frames in self._router.receive():
            if isinstance(message, messages.Tasks) and self._joined:
                self._work.take(message, frames)
            elif isinstance(message, messages.Receipt):
                self._work.receipt(message.upto)
            elif isinstance(message, messages.HelloOk):
                self._join(message.pid)
            elif isinstance(message, messages.NeedHello):
                self._rejoin()
                return
            elif isinstance(message, messages.Malformed):
                logger.warning("the router dropped a message: %s", message, extra={"action": "malformed"})
            elif isinstance(message, messages.HelloRefused) and message.code != messages.Code.STARTING:
                logger.error("the router refused this slot: %s", message.reason, extra={"action": "refused"})
        for prefix, direct in list(self._direct.items()):
            if not direct.up:
                self._look_for_hello_ok(prefix, direct)

    def _join(self, router_pid: int) -> None:
        if self._joined or not self._processes.watch(router_pid):
            return  # a router that is dead already has a successor, who gets a HELLO of its own
        self._joined = True
        again = self._work.rejoin()
        if again:
            self._router.send(*outcomes_message(again))

    def close(self) -> None:
        """Leaves the router in good order and gives everything back."""
        with contextlib.suppress(Exception):
            self._router.send(messages.Bye("the slot ends"))
        for prefix in list(self._direct):
            self._drop(prefix)
        self._router.close(linger_ms=500)
        self._context.term()
        self._processes.close()


def run_slot(app: LoadedApp, order: SlotOrder, lifeline_fd: int) -> None:
    """What a process forked from the template does until it ends."""
    os.register_at_fork(after_in_child=_default_signals)
    place = place_of(order)
    page = SlotPage(order.page_path, order.slots, create=False)
    options = SlotOptions(place, order.node, order.slot, order.queues, lifeline_fd, order.alarm_fd)
    execution = Execution(app.registry, order.node, _log_failure, RunLimits(*app.info.get("limits", ())))
    slot = Slot(options, page, execution)
    signal.signal(signal.SIGUSR1, lambda number, frame: execution.interrupt())
    try:
        slot.run()
    finally:
        slot.close()
        page.close()


def _default_signals() -> None:
    """What a task forks is no slot: signals end it, as its author expects."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def _log_failure(name: str, task_id: bytes, error: BaseException, expected: bool) -> None:
    level = logging.INFO if expected else logging.ERROR
    text = ids.to_text(task_id)
    trace = None if expected else (type(error), error, error.__traceback__)
    logger.log(
        level,
        "task %s[%s] raised %s",
        name,
        text,
        _shown(error),
        exc_info=trace,
        extra={"action": "task_failed", "task": text},
    )


def _shown(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:
        return f"{type(error).__name__} (whose repr raises)"
