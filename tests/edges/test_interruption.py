"""Raising in a task from outside: once, in its own code and nowhere else, in whatever it runs."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mesh.coroutines import EventLoop, Interruptible
from mesh.exceptions import SoftTimeLimitExceeded, TaskInterrupted
from mesh.interruption import Interruption
from tests.edges.fake_node import DEADLINE_S


class Cancelled:
    """Whether a run is to end early."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self) -> bool:
        return self.is_set


@pytest.fixture
def cancelled() -> Cancelled:
    return Cancelled()


def is_over(interruption: Interruption) -> None:
    interruption.soft_deadline_mono_s = 0.0


# --- in its own thread ---------------------------------------------------------------------------

KINDS = pytest.mark.parametrize("shared", [False, True], ids=["alone", "in a shared process"])


@KINDS
def test_what_is_due_is_raised_in_user_code_once(cancelled: Cancelled, shared: bool) -> None:
    # Given user code whose soft limit is over, and which is to end early
    interruption = Interruption(cancelled, shared=shared)
    interruption.enter()
    interruption.strike()
    is_over(interruption)
    cancelled.is_set = True

    # When it is struck, then the more urgent is raised first, and each once
    with pytest.raises(TaskInterrupted):
        interruption.strike()
    assert interruption.has_struck
    with pytest.raises(SoftTimeLimitExceeded):
        interruption.strike()
    interruption.strike()
    interruption.leave()


@KINDS
def test_nothing_is_raised_before_user_code_begins_nor_after_it_has_ended(cancelled: Cancelled, shared: bool) -> None:
    interruption = Interruption(cancelled, shared=shared)
    is_over(interruption)
    interruption.strike()
    interruption.soft_deadline_mono_s = math.inf
    interruption.enter()
    interruption.leave()
    is_over(interruption)
    cancelled.is_set = True
    interruption.strike()
    assert not interruption.has_struck


@KINDS
@pytest.mark.parametrize("strikes_first", [True, False])
def test_a_soft_limit_that_is_over_too_early_is_raised_as_user_code_begins(
    cancelled: Cancelled, shared: bool, strikes_first: bool
) -> None:
    interruption = Interruption(cancelled, shared=shared)
    is_over(interruption)
    if strikes_first:
        interruption.strike()
    with pytest.raises(SoftTimeLimitExceeded):
        interruption.enter()
    interruption.leave()
    interruption.enter()


@KINDS
def test_an_end_that_was_asked_for_too_early_is_raised_as_user_code_begins(cancelled: Cancelled, shared: bool) -> None:
    # Given a run that is to end early, of which its slot hears while it still decodes the arguments
    interruption = Interruption(cancelled, shared=shared)
    cancelled.is_set = True
    interruption.strike()

    # When user code begins, then it is interrupted
    with pytest.raises(TaskInterrupted):
        interruption.enter()
    assert interruption.has_struck
    interruption.leave()

    # And the next one is not
    cancelled.is_set = False
    interruption.enter()
    assert not interruption.has_struck


class StruckAsItLeaves(Interruption):
    """A signal comes when it has begun to leave."""

    def _leave(self) -> None:
        if not self._came_early:
            self.strike()
        super()._leave()


@KINDS
def test_what_strikes_as_user_code_ends_is_raised_and_nothing_after_it(cancelled: Cancelled, shared: bool) -> None:
    # Given user code that ends, when a signal comes in the middle of that
    interruption = StruckAsItLeaves(cancelled, shared=shared)
    interruption.enter()
    is_over(interruption)
    with pytest.raises(SoftTimeLimitExceeded):
        interruption.leave()

    # Then nothing is raised any more
    is_over(interruption)
    cancelled.is_set = True
    interruption.strike()


def test_a_signal_may_come_while_the_lock_is_held(cancelled: Cancelled) -> None:
    # Given a slot in the main thread of a shared process, whose signal handler strikes
    interruption = Interruption(cancelled, shared=True)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: interruption.strike())
    try:
        # When signals come at any moment, also as tasks begin and end
        ends = time.monotonic() + 0.3
        sender = threading.Thread(target=send_signals, args=(ends,))
        sender.start()
        runs = 0
        while time.monotonic() < ends:
            interruption.enter()
            interruption.leave()
            runs += 1
        sender.join(DEADLINE_S)
    finally:
        signal.signal(signal.SIGUSR1, before)

    # Then they never wait for each other
    assert runs


def send_signals(until_mono_s: float) -> None:
    main = threading.main_thread().ident
    assert main is not None
    while time.monotonic() < until_mono_s:
        signal.pthread_kill(main, signal.SIGUSR1)


# --- from another thread -------------------------------------------------------------------------


class Worker:
    """A thread that runs user code until it is interrupted, or told to end."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption
        self.is_in = threading.Event()
        self.ends = threading.Event()
        self.raised: list[BaseException] = []
        self.after = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self.is_in.wait(DEADLINE_S)

    def _run(self) -> None:
        try:
            try:
                self.interruption.enter()
                self.is_in.set()
                while not self.ends.is_set():
                    pass
            finally:
                self.interruption.leave()
        except BaseException as error:
            self.raised.append(error)
        for _ in range(100_000):  # what is raised late is raised here
            self.after += 1

    def join(self) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("cancels", [False, True], ids=["soft limit", "early end"])
def test_another_thread_is_interrupted_where_it_runs(cancelled: Cancelled, cancels: bool) -> None:
    # Given a task in another thread
    worker = Worker(Interruption(cancelled, shared=True))

    # When it is struck before anything is due, and after, several times
    worker.interruption.strike()
    cancelled.is_set = cancels
    if not cancels:
        is_over(worker.interruption)
    for _ in range(3):
        worker.interruption.strike()
    worker.join()

    # Then that is raised there, once
    assert [type(error) for error in worker.raised] == [TaskInterrupted if cancels else SoftTimeLimitExceeded]
    assert worker.after == 100_000


def test_nothing_is_raised_in_another_thread_once_it_has_left_user_code(cancelled: Cancelled) -> None:
    # Given threads that end their tasks at the moment in which they are struck
    for _ in range(200):
        worker = Worker(Interruption(cancelled, shared=True))
        is_over(worker.interruption)
        worker.ends.set()
        worker.interruption.strike()
        worker.join()

        # Then it is raised in the task or not at all
        assert worker.after == 100_000
        assert [type(error) for error in worker.raised] in ([], [SoftTimeLimitExceeded])


# --- coroutines ----------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


def soon(work: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(0.01, work)
    timer.start()
    return timer


def test_a_coroutine_is_interrupted_where_it_waits_and_can_wait_again(loop: EventLoop) -> None:
    # Given a coroutine that waits, and tidies up
    seen: list[object] = []

    async def waits() -> str:
        try:
            await asyncio.sleep(3600)
        except SoftTimeLimitExceeded as error:
            await asyncio.sleep(0)
            seen.append(error)
        return "tidied up"

    coroutine, error = Interruptible(waits()), SoftTimeLimitExceeded()

    # When it is interrupted from another thread
    timer = soon(lambda: coroutine.interrupt(error))

    # Then that very error is raised there, and it goes on
    assert loop.run(coroutine) == "tidied up"
    assert seen == [error]
    timer.join()


def test_a_coroutine_that_does_not_catch_it_raises_it_and_the_next_one_runs(loop: EventLoop) -> None:
    coroutine = Interruptible(asyncio.sleep(3600))
    timer = soon(lambda: coroutine.interrupt(TaskInterrupted()))
    with pytest.raises(TaskInterrupted):
        loop.run(coroutine)
    timer.join()
    assert loop.run(Interruptible(asyncio.sleep(0, "next"))) == "next"


def test_an_interruption_before_the_first_step_is_raised_in_it(loop: EventLoop) -> None:
    coroutine = Interruptible(asyncio.sleep(0))
    coroutine.interrupt(TaskInterrupted())
    with pytest.raises(TaskInterrupted):
        loop.run(coroutine)


def test_an_interruption_that_comes_too_late_strikes_nothing_else(loop: EventLoop) -> None:
    # Given a task that runs one coroutine after the other
    async def one_after_the_other() -> str:
        first = Interruptible(asyncio.sleep(0, "first"))
        assert await first == "first"

        # When the first is interrupted after its end
        first.interrupt(TaskInterrupted())

        # Then the second goes on
        return await asyncio.sleep(0.01, "second")

    assert loop.run(Interruptible(one_after_the_other())) == "second"


def test_a_coroutine_that_cancels_itself_is_no_interruption(loop: EventLoop) -> None:
    async def cancels() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)
        return "on time"

    assert loop.run(Interruptible(cancels())) == "on time"


def test_a_timeout_around_an_interruption_does_not_swallow_it(loop: EventLoop) -> None:
    async def waits() -> None:
        async with asyncio.timeout(3600):
            await asyncio.sleep(3600)

    coroutine = Interruptible(waits())
    timer = soon(lambda: coroutine.interrupt(SoftTimeLimitExceeded()))
    with pytest.raises(SoftTimeLimitExceeded):
        loop.run(coroutine)
    timer.join()


def test_each_coroutine_has_the_context_of_its_own_run(loop: EventLoop) -> None:
    from contextvars import ContextVar

    number: ContextVar[int] = ContextVar("number")

    async def read() -> int:
        return number.get()

    for expected in range(3):
        number.set(expected)
        assert loop.run(Interruptible(read())) == expected


def test_a_coroutine_that_is_never_begun_is_no_warning(loop: EventLoop) -> None:
    coroutine = Interruptible(asyncio.sleep(0))
    coroutine.close()


@pytest.mark.parametrize("cancels", [False, True], ids=["soft limit", "early end"])
def test_a_strike_reaches_the_coroutine_that_runs(loop: EventLoop, cancelled: Cancelled, cancels: bool) -> None:
    # Given a coroutine in this thread, as a slot runs it
    interruption = Interruption(cancelled, shared=True)
    coroutine = Interruptible(asyncio.sleep(3600))
    interruption.enter(coroutine)

    # When something is due
    def strike() -> None:
        cancelled.is_set = cancels
        if not cancels:
            is_over(interruption)
        interruption.strike()

    timer = soon(strike)

    # Then it is raised where it waits
    with pytest.raises(TaskInterrupted if cancels else SoftTimeLimitExceeded):
        loop.run(coroutine)
    interruption.leave()
    timer.join()
