"""Running coroutines: a loop for slots that have none, and coroutines in which something can be raised from outside."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

#: How long what coroutines have left running has to end, when their slot does.
LEFT_S: Final = 0.5


class Interruptible:
    """An awaitable that runs a coroutine; `interrupt` raises in it where it waits.

    Cancelling its task would raise CancelledError there, which nobody could tell from a cancellation of the task's own.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Is raised next.
        self._error: BaseException | None = None

    def interrupt(self, error: BaseException) -> None:
        """Raises in it at its next await. Any thread."""
        self._error = error
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """It has run, or is not to run."""
        self._coroutine.close()

    def _wake(self) -> None:
        if self._error is not None and self._task is not None:
            self._task.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        try:
            return (yield from self._steps())
        finally:
            self._task = None  # an interruption that comes later must not strike what the task does next

    def _steps(self) -> Generator[Any, None, Any]:
        inner = self._coroutine.__await__()
        raised = self._take()
        while True:
            try:
                waits_for = inner.send(None) if raised is None else inner.throw(raised)
            except StopIteration as end:
                return end.value
            try:
                yield waits_for
            except BaseException as error:
                raised = self._take() or error
            else:
                raised = None

    def _take(self) -> BaseException | None:
        error, self._error = self._error, None
        if error is not None and self._task is not None:
            self._task.uncancel()
        return error


async def apart(awaitable: Interruptible) -> Any:
    """What it returns or raises, run as a task of its own: what it does to its task, or to its context, stays there."""
    returned, error = await asyncio.get_running_loop().create_task(_settled(awaitable))
    if error is None:
        return returned
    try:
        raise error
    finally:
        del error  # it holds on to this frame, which would hold on to it


async def _settled(awaitable: Interruptible) -> tuple[Any, BaseException | None]:
    """Never raises: SystemExit out of a task would end the loop, and all that runs on it."""
    try:
        return await awaitable, None
    except BaseException as error:
        return None, error


class Side:
    """The thread in which a slot that is a coroutine runs functions.

    Each has its own: the loop's threads are for what tasks have run there, and may all wait for other tasks.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "slot")

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        """What `work` returns or raises, with the context of here."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._thread, context.run, work, *args)

    def close(self) -> None:
        """Lets it end."""
        self._thread.shutdown(wait=False)


class Loop(Protocol):
    """Runs coroutines for who is none."""

    def run(self, coroutine: Interruptible) -> Any:
        """What the coroutine returns or raises. Whatever it leaves running goes on."""

    def close(self) -> None:
        """Ends what was left running."""


class SharedLoop:
    """One loop, in a thread of its own, for all slots of a process. Where threads are greenlets there can be no other:
    a system thread runs one loop at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The thread that runs it; 0 before there is one.
        self.thread = 0

    def run(self, coroutine: Interruptible) -> Any:
        """As Loop."""
        returned, error = asyncio.run_coroutine_threadsafe(_settled(coroutine), self._started()).result()
        if error is None:
            return returned
        try:
            raise error
        finally:
            del error  # as in `apart`

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
                thread.start()
                self.thread = thread.ident or 0
            return self._loop

    def close(self) -> None:
        """Nothing: others may use it, to the end of the process."""


class EventLoop:
    """The loop of a slot that runs other tasks too: it is made with the first coroutine, and kept."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Interruptible) -> Any:
        """What the coroutine returns. Whatever it leaves running goes on with the next one."""
        if self._runner is None:
            self._runner = asyncio.Runner()

        async def awaited() -> Any:
            return await coroutine

        return self._runner.run(awaited(), context=contextvars.copy_context())  # the runner has one of its own

    def close(self) -> None:
        """Ends what was left running, as far as it ends soon. Threads that tasks have left are not waited for."""
        if self._runner is None:
            return
        loop = self._runner.get_loop()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=LEFT_S))
        loop.close()
