"""A slot: where one task at a time runs. A process, a thread or a coroutine, as its pool has it.

What runs the task does everything else too. While user code runs nothing else does, but for a task that waits for
another one: that is told by whichever of its threads waits.

It takes leases from its router, says in the slot page which one it begins, and sends each outcome twice: straight to
the caller's reply socket where the two share a host, and to the owner, which has the last word (DESIGN D4, D8).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from mesh import locate, messages, transport, waiting
from mesh.core.limits import RunLimits
from mesh.core.supervision import Says
from mesh.core.wear import Wear
from mesh.core.work import Lease, Work, outcomes_message
from mesh.direct_paths import DirectPaths
from mesh.exceptions import WouldDeadlock
from mesh.execution import INTERRUPTED, NO_LIMITS, Execution, Ran
from mesh.messages import Flag, Role
from mesh.pools import hosting
from mesh.pools.hosting import SlotOrder
from mesh.request import current_run
from mesh.slot_page import SlotPage, name_bytes
from mesh.states import Status

if TYPE_CHECKING:
    from mesh.coroutines import SharedLoop

logger = logging.getLogger(__name__)

#: How long to wait for HELLO-OK before HELLO is said again.
HELLO_AGAIN_S: Final = 0.2
#: When what a router that could take no more has to know is said again.
FULL_AGAIN_S: Final = 0.2
#: EX_SOFTWARE of sysexits.h.
CRIPPLED_EXIT_CODE: Final = 70
#: How long a slot that is told to end waits for the receipts of its last outcomes. One that leaves because it has run
#: all it may has as long as it takes: another one works in its place.
LAST_RECEIPTS_S: Final = 2.0
#: Kept as a number: it is compared for every task.
RETRY: Final = int(Status.RETRY)
#: How long the last message may take to leave.
LINGER_MS: Final = 500


class Slot:
    """1. Runs leases in order. 2. Sends outcomes to callers and owner. 3. Joins whichever router is there."""

    def __init__(
        self,
        order: SlotOrder,
        lifeline_fd: int,
        page: SlotPage,
        execution: Execution,
        context: Any = None,
        loop: SharedLoop | None = None,
    ) -> None:
        """`context` and `loop` are those of the process, where other slots share them."""
        self._order = order
        self._place = locate.Place(order.mesh, order.directory, False)
        self._seat = order.seat
        self._lifeline_fd = lifeline_fd
        self._page = page
        self._execution = execution
        self._pid = os.getpid()
        self._incarnation = transport.fresh_incarnation()
        self._work = Work(page.enter(order.seat, os.getpid()))
        self._context = context or transport.context()
        self._shares_context = context is not None
        self._processes = transport.Processes()
        self._poller = transport.Poller()
        self._poller.add(lifeline_fd)
        self._poller.add(self._processes.fileno())
        self._direct = DirectPaths(self._context, self._place.directory, self._poller, self._hello)
        self._names: dict[str, bytes] = {}
        #: The slot page has limits, of the run before.
        self._has_limits = False
        self._says = Says.STARTING
        self._wear = Wear(order.tasks_max, order.memory_max_kib)
        self._ending_by_mono_s: float | None = None
        self._joined = False
        #: Counts the links to routers, so that a late HELLO over an earlier one is told from the last.
        self._links = 0
        self._router: transport.Link | None = None
        #: How many threads of the task wait for others.
        self._waiting = 0
        #: The router was told that the task waits, and sends no more before its end.
        self._has_said_blocked = False
        #: The Assignment record of what runs.
        self._record: list[Any] | None = None
        self._waiting_lock = threading.Lock()
        #: The thread whose loop runs it, with others; 0 where none does.
        self._loop_thread = 0
        self._loop = loop

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Works in this thread until it has ended."""
        waiting.set_host(self)
        run, wait, steps = self._execution.run, self._poller.wait, self._steps()
        try:
            step = next(steps)
            while True:
                step = steps.send(run(step.record, step.frames) if type(step) is Lease else wait(step))
        except StopIteration:
            pass  # from `_steps`: no task raises here
        finally:
            self.close()

    async def run_async(self) -> None:
        """Works as a coroutine until it has ended."""
        waiting.set_host(self)
        self._loop_thread = threading.get_ident()
        steps = self._steps()
        try:
            step = next(steps)
            while True:
                if type(step) is Lease:
                    answer: Any = await self._execution.run_async(step.record, step.frames)
                else:
                    answer = await self._poller.wait_async(step)
                step = steps.send(answer)
        except StopIteration:
            pass
        finally:
            self.close()

    def _steps(self) -> Generator[Any, Any, None]:
        """What the slot does, for whatever runs it. It yields a lease, to be told what came of it; or how long it waits
        at most, to be told what is ready.
        """
        self._say(Says.WARM)
        if self._order.standby:
            yield from self._waited_for_its_turn()
        if self._ending_by_mono_s is not None:
            return
        self._router = self._dial()
        may_run = False
        while self._ending_by_mono_s is None or not self._is_over():
            if may_run:
                lease = self._work.waiting.popleft()
                begun_ns = self._begin(lease)
                if begun_ns:
                    self._record = lease.record
                    self._end(lease, begun_ns, (yield lease))
            else:
                self._look_around((yield self._wait_s()))
            may_run = self._may_run()
            if not may_run:
                self._end_if_crippled()
                self._flush()
                self._receive()
                may_run = self._may_run()

    def _waited_for_its_turn(self) -> Generator[float | None, Any, None]:
        while self._lifeline_fd not in (yield None):
            pass
        if not hosting.waits_for_its_turn(self._lifeline_fd):
            self._ending_by_mono_s = 0.0

    def _may_run(self) -> bool:
        work = self._work
        return bool(work.waiting) and self._joined and not work.is_full and self._ending_by_mono_s is None

    def _is_over(self) -> bool:
        if self._ending_by_mono_s is None:
            return False
        # Where a HELLO is under way its answer is waited for: else the router could hear of the slot after its end.
        settled = self._joined and not self._work.unreceipted
        return settled or time.monotonic() >= self._ending_by_mono_s

    def _wait_s(self) -> float | None:
        deadlines = [self._work.next_deadline_mono_s(), self._ending_by_mono_s]
        if not self._joined:
            deadlines.append(self._hello_mono_s + HELLO_AGAIN_S)
        if self._has_said_blocked:
            deadlines.append(time.monotonic() + FULL_AGAIN_S)
        known = [deadline for deadline in deadlines if deadline is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _look_around(self, ready: dict[Any, int]) -> None:
        if self._lifeline_fd in ready and not hosting.waits_for_its_turn(self._lifeline_fd):
            self._poller.remove(self._lifeline_fd)
            self._leave(LAST_RECEIPTS_S)
        if self._processes.fileno() in ready and self._processes.ended():
            self._rejoin()
        if not self._joined and time.monotonic() >= self._hello_mono_s + HELLO_AGAIN_S:
            self._rejoin()
        if self._joined:
            if self._has_said_blocked:
                self._stop_waiting()
            self._send_again()

    def _send_again(self) -> None:
        outcomes, returned = self._work.overdue(time.monotonic())
        if outcomes:
            self._send(*outcomes_message(outcomes))
        if returned is not None:
            self._send(returned)

    # --- waiting ---------------------------------------------------------------------------------

    def begins_to_wait(self) -> None:
        """The task waits for another one. As `waiting.Host`; several threads of a task may wait at once."""
        if not self._is_current_run():
            return
        if threading.get_ident() == (self._loop.thread if self._loop is not None else self._loop_thread):
            raise WouldDeadlock(
                "get() in a coroutine would hold up all that runs on its loop, what it waits for among it. "
                "Write: await asyncio.to_thread(result.get)"
            )
        interruption = self._execution.interruption
        interruption.hold()  # what strikes in the middle of this would leave it half done
        try:
            with self._waiting_lock:
                if self._is_current_run():
                    if not self._waiting:
                        self._block()
                    self._waiting += 1
        finally:
            try:
                interruption.release()
            except BaseException:
                self._wait_no_more()
                raise

    def waited(self) -> None:
        """The task goes on. As `waiting.Host`."""
        interruption = self._execution.interruption
        interruption.hold()
        try:
            self._wait_no_more()
        finally:
            interruption.release()

    def _wait_no_more(self) -> None:
        with self._waiting_lock:
            if self._waiting and self._is_current_run():
                self._waiting -= 1
                if not self._waiting:
                    self._unblock()

    def _is_current_run(self) -> bool:
        """Whether this thread is part of what the slot runs. Not so a thread that outlives its task, nor a fork."""
        return os.getpid() == self._pid and self._record is not None and current_run() is self._record

    def _unblock(self) -> None:
        self._say(self._says, blocked=False)

    def _block(self) -> None:
        """Gives back what it has not begun, and has the node start a slot that stands in for it."""
        most = self._order.blocked_max
        if most < 0:
            raise WouldDeadlock(
                "get() in a task would wait for ever: the pool of this node has one slot, which the task keeps. "
                "Run the node with -P prefork, or make a chain or a callback of it."
            )
        self._page.say(self._seat, self._says, blocked=True)
        if self._page.blocked() > most:
            self._page.say(self._seat, self._says, blocked=False)
            raise WouldDeadlock(
                f"get() in a task: {most} tasks of this node wait for others already, and worker_max_blocked allows no "
                "more. Raise it, or make a chain or a callback of it."
            )
        self._flush()
        self._give_back()
        if not self._has_said_blocked:
            self._has_said_blocked = True
            self._send(messages.Blocked(True))
        self._ring()

    # --- running ---------------------------------------------------------------------------------

    def _begin(self, lease: Lease) -> int:
        """Writes a lease as begun. When, in monotonic ns; 0 where it must not run, and goes back."""
        begun = time.monotonic_ns()
        if self._work.must_send_before(lease, begun / 1e9):
            self._flush()
            begun = time.monotonic_ns()
        task_id, name, attempt, flags, _, _, options = lease.record
        encoded = self._names.get(name)
        if encoded is None:
            encoded = self._names[name] = name_bytes(name)
        wall_s, limits = time.time(), self._execution.limits_of(name, options)
        is_limited = limits is not NO_LIMITS
        if is_limited or self._has_limits:
            self._write_limits(limits, begun)
        if not self._page.begin(self._seat, lease.number, task_id, encoded, attempt, wall_s, begun):
            self._return([lease.number])
            return 0
        if is_limited:
            self._ring_if_overlooked(limits, begun)
        if flags & Flag.TRACK_STARTED:
            self._send(messages.Started(lease.number, wall_s))
        if self._wear.is_bounded and self._wear.begins():
            self._say(Says.SPENT)
        return begun

    def _end(self, lease: Lease, begun_ns: int, ran: Ran) -> None:
        """A lease has run."""
        if os.getpid() != self._pid:
            # A process that the task has forked came out of it too. It is no slot, and has nothing to say.
            os._exit(0)
        self._record = None
        if self._has_said_blocked or self._waiting_lock.locked():
            self._stop_waiting()
        if ran.status == INTERRUPTED:
            self._leave()  # the page goes on saying that it runs: its node tells what becomes of it
            return
        work, now_ns = self._work, time.monotonic_ns()
        runtime_us = (now_ns - begun_ns) // 1000
        self._page.end(self._seat)
        if ran.status == RETRY:
            work.retries(lease, runtime_us, ran.body, ran.eta_wall_s, ran.call, now_ns / 1e9)
        else:
            work.ended(lease, ran.status, runtime_us, ran.body, ran.frames, now_ns / 1e9, ran.cause)
        if self._wear.is_bounded:
            self._look_at_wear()

    def _stop_waiting(self) -> None:
        """A thread of the task still waits, or an interruption came in between: that is no business of the slot now."""
        with self._waiting_lock:
            if self._waiting or self._page.said(self._seat)[1]:
                self._waiting = 0
                self._unblock()
            if self._has_said_blocked:
                # Once a task: who waits again and again would tell of it faster than the router may hear.
                self._has_said_blocked = not self._send(messages.Blocked(False))

    def _look_at_wear(self) -> None:
        has_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if self._says < Says.SPENT and self._wear.wants_heir(has_kib):
            self._say(Says.SPENT)
        if self._wear.is_over(has_kib):
            self._leave()

    def _leave(self, within_s: float = math.inf) -> None:
        """Begins nothing from here on, and ends when all outcomes are receipted, or the time is over."""
        left_already = self._ending_by_mono_s is not None
        self._ending_by_mono_s = time.monotonic() + within_s
        if left_already:
            return
        self._send(messages.Bye("the slot leaves"))
        self._give_back()
        self._say(Says.DONE)

    def _say(self, says: Says, *, blocked: bool = False) -> None:
        self._says = says
        self._page.say(self._seat, says, blocked=blocked)
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # a task that has closed it has closed more, see `_end_if_crippled`
            os.eventfd_write(self._order.alarm_fd, 1)

    def interrupt(self) -> None:
        """Raises in the task what is due. As `HostedSlot.interrupt`."""
        self._execution.interruption.strike()

    def _write_limits(self, limits: RunLimits, begun: int) -> None:
        self._has_limits = bool(limits)
        self._page.limit(self._seat, math.ceil(limits.hard_s * 1e9), math.ceil(limits.soft_s * 1e9), begun)
        soft_mono_s = begun / 1e9 + limits.soft_s if limits.soft_s else math.inf
        self._execution.interruption.soft_deadline_mono_s = soft_mono_s

    def _ring_if_overlooked(self, limits: RunLimits, begun: int) -> None:
        first_s = min(one for one in limits if one)
        if self._page.is_overlooked(self._seat, begun + int(first_s * 1e9)):
            self._ring()

    def _give_back(self) -> None:
        """What it has not begun."""
        if self._work.waiting:
            self._return([lease.number for lease in self._work.waiting])
            self._work.waiting.clear()

    def _return(self, leases: list[int]) -> None:
        self._send(self._work.returned(leases, time.monotonic()))

    # --- outcomes --------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Sends every outcome there is: to the callers first, who wait for it, then to the owner."""
        if not self._work.has_unsent:
            return
        unsent, by_caller = self._work.take_unsent(time.monotonic())
        self._direct.tell(by_caller)
        if self._joined:
            self._send(*outcomes_message(unsent))

    # --- the router ------------------------------------------------------------------------------

    def _dial(self) -> transport.Link:
        self._links += 1
        link = transport.Link(self._context, locate.inbox_url(self._place))
        self._poller.add(link)
        link.send(self._hello())
        self._hello_mono_s = time.monotonic()
        return link

    def _hello(self) -> messages.Hello:
        info = {
            "node": self._order.node,
            "index": self._seat,
            "queues": list(self._order.queues),
            "last_lease": self._work.last_lease,
            "unreceipted": self._work.unreceipted_leases(),
            "link": self._links,
        }
        return messages.Hello(
            messages.PROTOCOL_MAJOR,
            messages.PROTOCOL_MINOR,
            Role.SLOT,
            self._place.mesh,
            self._incarnation,
            os.getpid(),
            info,
        )

    def _rejoin(self) -> None:
        """Says HELLO anew, over a new link, so that nothing meant for an earlier router reaches the next one."""
        self._joined = self._has_said_blocked = False
        if self._router is not None:
            self._poller.remove(self._router)
            self._router.close()
        self._router = self._dial()

    def _send(self, message: messages.Message, frames: tuple[messages.Buffer, ...] = ()) -> bool:
        """To the router. What is lost with it is sent again once there is another, where it matters.

        False where it can take no more.
        """
        return self._router is None or self._router.send(message, frames)

    def _end_if_crippled(self) -> None:
        """A task that has closed every descriptor has closed the slot's too: nothing can be sent or heard any more.

        The process ends at once, as if it had crashed; the task is charged with that.
        """
        try:
            os.fstat(self._lifeline_fd)
        except OSError:
            os._exit(CRIPPLED_EXIT_CODE)

    def _receive(self) -> None:
        for message, frames in self._router.receive() if self._router is not None else ():
            if isinstance(message, messages.Tasks) and self._joined:
                self._take(message, frames)
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
        self._direct.look()

    def _take(self, tasks: messages.Tasks, frames: tuple[messages.Buffer, ...]) -> None:
        self._work.take(tasks, frames)
        if self._ending_by_mono_s is not None:
            self._give_back()

    def _join(self, router_pid: int) -> None:
        if self._joined or not self._processes.watch(router_pid):
            return  # a router that is dead already has a successor, who gets a HELLO of its own
        self._joined = True
        again = self._work.rejoin()
        if again:
            self._send(*outcomes_message(again))
        if self._ending_by_mono_s is not None:
            self._send(messages.Bye("the slot leaves"))
        elif self._says < Says.WORKING:
            self._say(Says.SPENT if self._wear.wants_heir_from_the_start else Says.WORKING)

    def close(self) -> None:
        """Leaves the router in good order and gives everything back."""
        with contextlib.suppress(Exception):
            self._send(messages.Bye("the slot ends"))
        self._disconnect()
        self._execution.close()
        self._page.close()

    def _disconnect(self) -> None:
        self._direct.close()
        if self._router is not None:
            self._router.close(linger_ms=LINGER_MS)
        if not self._shares_context:
            self._context.term()
        self._processes.close()
        self._poller.close()
