"""The pool of the standard library: what a user has on one machine without any queue."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from bench import functions
from bench.marks import wait_for_marks
from bench.sizes import SLOTS, TASKS_PER_FRAME, Sizes
from bench.systems.protocol import Pids, Role


class PoolSystem:
    """A ProcessPoolExecutor of SLOTS forked workers."""

    def __init__(self) -> None:
        self._timeout_s = 0.0
        self._pool: ProcessPoolExecutor | None = None
        self._open: list[Future[Any]] = []

    def start(self, sizes: Sizes) -> None:
        self._timeout_s = sizes.operation_timeout_s
        self._pool = _new_pool()
        self.loop(sizes.warm_up_calls)

    def pids(self) -> Pids:
        slots = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
        return {Role.CLIENT: [os.getpid()], Role.SLOT: slots}

    def call(self, x: int, y: int) -> int:
        return self._running.submit(functions.add, x, y).result(self._timeout_s)

    def loop(self, tasks: int) -> None:
        self.gather(tasks)

    def batch(self, tasks: int) -> None:
        """Chunks of TASKS_PER_FRAME, the pool's own kind of batch: a chunk is pickled, run and answered as one."""
        for _value in self._running.map(functions.add, range(tasks), range(tasks), chunksize=TASKS_PER_FRAME):
            pass

    def gather(self, calls: int) -> Sequence[int]:
        pool = self._running
        futures = [pool.submit(functions.add, number, number) for number in range(calls)]
        return [future.result(self._timeout_s) for future in futures]

    def echo(self, body: bytes, count: int, in_flight: int) -> None:
        flying: deque[Future[bytes]] = deque()
        for _number in range(count):
            if len(flying) == in_flight:
                flying.popleft().result(self._timeout_s)
            flying.append(self._running.submit(functions.echo, body))
        for future in flying:
            future.result(self._timeout_s)

    def submit(self, tasks: int) -> None:
        pool = self._running
        self._open = [pool.submit(functions.add, number, number) for number in range(tasks)]

    def forget(self, tasks: int, path: Path) -> None:
        pool, name = self._running, str(path)
        for _number in range(tasks):
            pool.submit(functions.tick, name)
        wait_for_marks(path, tasks, self._timeout_s)

    def naps(self, long_s: float, short_s: float, short_count: int) -> None:
        self._open = [self._running.submit(functions.nap, long_s)]
        wait([self._running.submit(functions.nap, short_s) for _ in range(short_count)], self._timeout_s)

    def finish(self) -> None:
        wait(self._open, self._timeout_s)
        self._open = []

    def cold_start(self) -> float:
        """The pool's start is a fork of a process that has everything imported: no interpreter starts."""
        begun_s = time.perf_counter()
        with _new_pool() as pool:
            pool.submit(functions.add, 2, 2).result()
            return time.perf_counter() - begun_s

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    @property
    def _running(self) -> ProcessPoolExecutor:
        assert self._pool is not None, "the pool has not been started"
        return self._pool


def _new_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(SLOTS, mp_context=multiprocessing.get_context("fork"))
