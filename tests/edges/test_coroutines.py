"""What raises in a coroutine from outside, and what a coroutine can't do to who runs it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from mesh.coroutines import Interruptible, SharedLoop, Side, apart
from mesh.exceptions import SoftTimeLimitExceeded, TaskInterrupted

ERRORS = [SoftTimeLimitExceeded, TaskInterrupted]


@pytest.mark.parametrize("error", ERRORS)
def test_an_interruption_is_raised_where_the_coroutine_waits_and_may_be_caught(error: type[BaseException]):
    async def patient() -> str:
        try:
            await asyncio.sleep(3600)
        except error:
            await asyncio.sleep(0)  # it may go on waiting
            return "tidied up"
        return "slept"

    async def main() -> str:
        coroutine = Interruptible(patient())
        asyncio.get_running_loop().call_later(0.01, coroutine.interrupt, error())
        ended: str = await apart(coroutine)
        return ended

    assert asyncio.run(main()) == "tidied up"


def test_an_interruption_that_comes_when_the_coroutine_has_ended_strikes_nobody():
    async def main() -> str:
        # Given a coroutine that ends as it is interrupted
        async def quick() -> None:
            coroutine.interrupt(SoftTimeLimitExceeded())

        coroutine = Interruptible(quick())
        await coroutine

        # When its task goes on
        await asyncio.sleep(0.01)
        return "went on"

    assert asyncio.run(main()) == "went on"


async def exits() -> None:
    raise SystemExit(3)


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(3600)


@pytest.mark.parametrize(("work", "error"), [(exits, SystemExit), (cancels_itself, asyncio.CancelledError)])
def test_what_a_coroutine_does_to_its_task_stays_there(work: Any, error: type[BaseException]):
    async def main() -> str:
        with pytest.raises(error):
            await apart(Interruptible(work()))
        await asyncio.sleep(0)
        return "goes on"

    assert asyncio.run(main()) == "goes on"


def test_a_shared_loop_runs_what_several_threads_give_it_at_once():
    # Given coroutines that end only when all of them run
    count, loop = 4, SharedLoop()
    all_here = asyncio.Barrier(count)

    async def meets() -> int:
        await all_here.wait()
        return threading.get_ident()

    ran: list[int] = []
    threads = [threading.Thread(target=lambda: ran.append(loop.run(Interruptible(meets())))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    # Then all have run in the loop's thread, which is known
    assert ran == [loop.thread] * count
    with pytest.raises(SystemExit):
        loop.run(Interruptible(exits()))
    stop(loop)


def stop(loop: SharedLoop) -> None:
    """Ends the thread of a loop, which otherwise lives as long as its process."""
    inner = loop._loop
    assert inner is not None
    thread = next(thread for thread in threading.enumerate() if thread.ident == loop.thread)
    inner.call_soon_threadsafe(inner.stop)
    thread.join(20)
    inner.close()


def test_functions_beside_a_loop_run_in_one_thread_with_the_context_of_their_caller():
    async def main() -> set[int]:
        side = Side()
        ran = {await side.run(threading.get_ident) for _ in range(3)}
        side.close()
        return ran

    (thread,) = asyncio.run(main())
    assert thread != threading.get_ident()
