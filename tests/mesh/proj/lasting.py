"""Tasks that wait for others, that are ended early, and that wear their process out."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

from mesh.exceptions import SoftTimeLimitExceeded, TaskInterrupted
from mesh.waiting import Waiting
from tests.mesh.proj import app, tasks
from tests.mesh.proj.tasks import LOOK_S, note

#: How long a task waits for another one; no test depends on it.
PATIENCE_S = 60.0

#: What `grow` has made, for as long as the process lives.
_kept: list[bytearray] = []


@app.task
def span(path: str, number: int, us: int = 0) -> int:
    """Appends which call it is, its process, and when it began and ended, monotonic ns."""
    begun = time.monotonic_ns()
    while time.monotonic_ns() < begun + us * 1000:
        pass
    line = f"{number} {os.getpid()} {begun} {time.monotonic_ns()}\n".encode()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line)
    os.close(fd)
    return number


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def thread() -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


@app.task
def grow(mib: int) -> int:
    """Keeps so much memory, and uses it."""
    _kept.append(bytearray(os.urandom(1) * (mib << 20)))
    return os.getpid()


@app.task
def nest(depth: int) -> list[int]:
    """Calls itself and waits for it, so deep; the processes, the deepest last."""
    below = nest.delay(depth - 1).get(PATIENCE_S) if depth else []
    return [os.getpid(), *below]


@app.task
def ask_for_hold(begun: str, until: str) -> Any:
    """Waits for a task that lasts until it is told."""
    from tests.mesh.proj.tasks import hold

    return hold.delay(begun, until).get(PATIENCE_S)["pid"]


@app.task
def stuck_here(begun: str, until: str) -> None:
    """Sleeps in C code."""
    note.run(begun, str(os.getpid()))
    while not os.path.exists(until):
        time.sleep(1.0)


@app.task(bind=True)
def tidy(self: Any, notes: str, until: str) -> str:
    """Runs until it is told; notes how it begins, is interrupted, and is left."""
    note.run(notes, f"began-{self.request.attempt}")
    try:
        while not os.path.exists(until):
            time.sleep(LOOK_S)
    except TaskInterrupted:
        note.run(notes, "interrupted")
        raise
    finally:
        note.run(notes, "left")
    return "ran"


@app.task
def finish_all_the_same(notes: str, until: str) -> str:
    """Catches the interruption, and returns."""
    try:
        tidy.run(notes, until)
    except TaskInterrupted:
        pass
    return "returned"


@app.task
def go_on(notes: str) -> None:
    """Ignores whatever is raised in it."""
    note.run(notes, "began")
    while True:
        try:
            while True:
                time.sleep(LOOK_S)
        except (TaskInterrupted, SoftTimeLimitExceeded):
            note.run(notes, "ignored")


@app.task
async def wait_async(notes: str, s: float = 3600.0) -> str:
    """Waits as a coroutine, and notes that it is interrupted."""
    note.run(notes, "began")
    try:
        await asyncio.sleep(s)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0.001)
        note.run(notes, "interrupted")
        return "tidied up"
    except TaskInterrupted:
        note.run(notes, "stopped")
        raise
    return "slept"


@app.task
async def add_async(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@app.task(bind=True)
async def fail_async(self: Any) -> None:
    raise KeyError(self.request.id)


@app.task
def exit_unless(path: str, code: int) -> int:
    """Ends its process unless this file is there."""
    if not os.path.exists(path):
        os._exit(code)
    return os.getpid()


@app.task
def ask_again_and_again(times: int) -> list[int]:
    """Waits for so many tasks, one after the other. The processes that they ran in."""
    return [process.delay().get(PATIENCE_S) for _ in range(times)]


@app.task
def process() -> int:
    """The process it runs in."""
    return os.getpid()


@app.task
def wait_in_vain(turns: int) -> int:
    """Begins to wait for tasks and stops again, over and over: for whoever interrupts it in the middle."""
    for _ in range(turns):
        with Waiting():
            pass
    return turns


@app.task
async def leave_a_thread() -> int:
    """Leaves a thread behind that goes on for long."""
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600.0)
    return os.getpid()


@app.task
async def leave_one_waiting(begun: str, until: str) -> int:
    """Leaves a thread behind that waits for another task."""
    result = tasks.hold.delay(begun, until)
    kept = asyncio.create_task(asyncio.to_thread(result.get, PATIENCE_S))
    _left.append(kept)
    while not list(Path(begun).parent.glob(f"{Path(begun).name}.*")):
        await asyncio.sleep(LOOK_S)
    return os.getpid()


_left: list[asyncio.Task[Any]] = []


@app.task
def leave_a_child(seconds: float) -> None:
    """Leaves a process behind that it has forked, and does not end."""
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
    time.sleep(3600)


@app.task
def end_a_child(number: int) -> int:
    """Forks, and ends its child by a signal. The wait status of that."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"x")
        time.sleep(3600)
    os.read(reader, 1)  # before its own code runs it has the signals of its parent
    os.kill(pid, number)
    return os.waitpid(pid, 0)[1]
