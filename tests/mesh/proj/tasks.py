"""What the tests have run. Where a task has to last, a file ends it: then the test says when, and no clock does."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy

from mesh.exceptions import SoftTimeLimitExceeded, TaskInterrupted
from tests.mesh.proj import app

#: Between two looks at a file; no test depends on it.
LOOK_S = 0.002


class Refused(Exception):
    """The project's own, with fields."""

    def __init__(self, order: int, reason: str) -> None:
        super().__init__(order, reason)
        self.order, self.reason = order, reason


@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True)
def whoami(self: Any) -> dict[str, Any]:
    """Where and as which attempt this runs."""
    request = self.request
    return {
        "id": request.id,
        "pid": os.getpid(),
        "node": request.hostname,
        "attempt": request.attempt,
        "redelivered": request.delivery_info["redelivered"],
        "headers": request.headers,
    }


@app.task(bind=True)
def told(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """All that a run can be told of itself, but for what differs each time."""
    request = self.request
    names = ("task", "args", "kwargs", "attempt", "retries", "delivery_info", "headers", "eta", "expires", "parent_id")
    own = ("called_directly", "ignore_result", "utc")
    assert self is app.current_task
    return {name: getattr(request, name) for name in (*names, *own)} | {"is_root": request.root_id == request.id}


@app.task(bind=True, max_retries=2, throws=(Refused,))
def told_again(self: Any, runs: int, countdown: float = 0.0) -> list[Any]:
    """Asks to be run again until it has run so often, which two retries may not be enough for."""
    request = self.request
    if request.retries + 1 < runs:
        raise self.retry(exc=Refused(request.retries, "not yet"), countdown=countdown)
    return [request.retries, request.attempt, request.id]


@app.task
def scribble(value: Any) -> Any:
    """Writes into what it got."""
    value[0] = 7
    return value


@app.task
def raise_builtin(name: str, *args: Any) -> None:
    raise getattr(builtins, name)(*args)


@app.task
def raise_from(order: int) -> None:
    """Raises for a reason, with a note."""
    try:
        divide.run(order, 0)
    except ZeroDivisionError as error:
        refused = Refused(order, "no parts")
        refused.add_note("ask again")
        raise refused from error


@app.task
def note(path: str, word: str) -> str:
    """Appends a line to a file, so that its lines tell the order of runs."""
    with open(path, "a") as file:
        file.write(f"{word}\n")
    return word


@app.task
def register(path: str, number: int, us: int = 0) -> int:
    """Appends to a file which call began in which process, when, and lasts for so long."""
    line = f"{number} {os.getpid()} {time.time():.6f}\n".encode()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line)
    os.close(fd)
    return work.run(number, us) if us else number


@app.task
def never_return() -> None:
    """Stays in C code, where no signal handler runs."""
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", (1 << 31) - 1)


@app.task
def tidy_up(path: str, wait_s: float = 3600.0) -> str:
    """Sleeps, and notes it if it is interrupted."""
    try:
        time.sleep(wait_s)
    except SoftTimeLimitExceeded:
        note.run(path, "interrupted")
        return "tidied up"
    return "slept"


@app.task(time_limit=0.3)
def limited(path: str) -> None:
    """Notes that it runs, and does not end within its limit."""
    note.run(path, "began")
    time.sleep(3600)


@app.task(time_limit=0.3, acks_on_timeout=False, bind=True)
def hang_once(self: Any, path: str) -> int:
    """Hangs the first time that it runs."""
    note.run(path, "began")
    if not self.request.delivery_info["redelivered"]:
        time.sleep(3600)
    return int(self.request.attempt)


@app.task
def touch(path: str) -> int:
    Path(path).touch()
    return os.getpid()


@app.task(bind=True)
def hold(self: Any, begun: str, until: str) -> dict[str, Any]:
    """Says that it runs by a file named after its process, and runs until another file is there."""
    Path(f"{begun}.{os.getpid()}").touch()
    while not os.path.exists(until):
        time.sleep(LOOK_S)
    return {"pid": os.getpid(), "node": self.request.hostname, "attempt": self.request.attempt}


@app.task
def work(value: int, us: int) -> int:
    """Keeps the CPU busy for so long, then returns the value."""
    until_ns = time.perf_counter_ns() + us * 1000
    while time.perf_counter_ns() < until_ns:
        pass
    return value


@app.task
def leave(code: int) -> None:
    """Ends its process each time."""
    os._exit(code)


@app.task
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def leave_once(self: Any, code: int) -> int:
    """Ends its process at the first attempt."""
    if self.request.attempt == 0:
        os._exit(code)
    return int(self.request.attempt)


@app.task(bind=True, acks_late=False)
def leave_early(self: Any) -> None:
    """Ends its process, and may run at most once."""
    os._exit(5)


@app.task
def divide(x: int, y: int) -> float:
    return x / y


@app.task
def refuse(order: int) -> None:
    raise Refused(order, "out of stock")


@app.task
def unserialisable() -> Any:
    return object()


@app.task
def twice(array: Any) -> Any:
    return numpy.multiply(array, 2)


@app.task
def call_another(x: int) -> str:
    """A task that sends a call, and returns its id."""
    return add.delay(x, 1).id


@app.task(bind=True, track_started=True, max_retries=2, default_retry_delay=0.05)
def settle(self: Any, gate: str, runs: int, countdown: float | None = None) -> list[int]:
    """Asks to be run again until it has run `runs` times; each run lasts until its gate is there."""
    retries = self.request.retries
    while not os.path.exists(f"{gate}{retries}"):
        time.sleep(LOOK_S)
    if retries + 1 < runs:
        raise self.retry(exc=Refused(retries, "not yet"), countdown=countdown)
    return [retries, self.request.attempt]


@app.task(bind=True, max_retries=None)
def count_down(self: Any, n: int) -> str:
    """Goes on with other arguments each time."""
    if n:
        self.retry(args=(n - 1,), countdown=0)
    return f"{self.request.retries} retries"


@app.task
def close_everything() -> None:
    """Closes every descriptor of its process but the standard ones."""
    os.closerange(3, 4096)


@app.task
def fork() -> int:
    """Forks, and has both processes return."""
    os.fork()
    return os.getpid()


@app.task
def pool_of_two() -> int:
    """Ends a pool of processes in the middle of its work, which takes SIGTERM."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.apply_async(time.sleep, (600,))
    return 2


@app.task(bind=True)
def cling(self: Any, begun: str, ended: str, *, heeds: bool = True) -> str:
    """Waits without end, but for an interruption; one that does not heed it goes on after that."""
    Path(f"{begun}.{self.request.attempt}").touch()
    while True:
        try:
            while True:
                time.sleep(0.05)
        except TaskInterrupted:
            Path(ended).touch()
            if heeds:
                raise


@app.task
async def nap(s: float) -> int:
    """Waits, and lets others go on."""
    await asyncio.sleep(s)
    return os.getpid()


@app.task
def ask(name: str, *args: Any) -> Any:
    """Waits for another task."""
    return app.tasks[name].delay(*args).get(20)


@app.task
async def ask_directly(name: str, *args: Any) -> Any:
    """Waits for another task where the loop runs."""
    return app.tasks[name].delay(*args).get(20)


@app.task
async def ask_aside(name: str, *args: Any) -> Any:
    """Waits for another task in a thread."""
    return await asyncio.to_thread(app.tasks[name].delay(*args).get, 20)


@app.task
async def block() -> None:
    """A coroutine that never returns to its loop."""
    never_return.run()


_word: ContextVar[str] = ContextVar("word", default="none")


@app.task
async def say_word(word: str) -> str:
    """The word of the context, which is the next one's from here on."""
    before = _word.get()
    _word.set(word)
    return before


@app.task
async def leave_loop(how: str) -> None:
    """Does what would end the task that runs its slot, or its loop."""
    task = asyncio.current_task()
    assert task is not None
    if how == "cancels itself":
        task.cancel()
    elif how == "is cancelled while it waits":
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.sleep(3600)
    elif how == "exits":
        raise SystemExit(3)


@app.task
def connect_to_itself() -> float:
    """How long it takes to hear over a socket from a thread that sleeps first. Nothing else in its process may wait."""
    ours, theirs = socket.socketpair()
    begun_s = time.monotonic()

    def answer() -> None:
        time.sleep(0.2)
        theirs.send(b"x")

    thread = threading.Thread(target=answer)
    thread.start()
    ours.recv(1)
    thread.join()
    ours.close()
    theirs.close()
    return time.monotonic() - begun_s
