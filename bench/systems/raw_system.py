"""The floor below mesh: client, router and workers joined by plain pyzmq, with nothing that a task queue promises."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import zmq

from bench.processes import stop
from bench.sizes import SLOTS, TASKS_PER_FRAME, Sizes
from bench.systems.protocol import Pids, Role
from bench.systems.raw_wire import ECHO, HEADER, Context, Endpoints, Socket, open_socket

_STOP_S = 2.0
_ID_BYTES = 16


class RawSystem:
    """1. Starts the router and the workers. 2. Is their client: one socket sends tasks, a bound one takes results."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sequence = 0
        self._router: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._context: Context | None = None
        self._tasks: Socket
        self._replies: Socket

    def start(self, sizes: Sizes) -> None:
        """Raises zmq.Again where the workers do not come or do not answer in time."""
        self._context = context = zmq.Context()
        endpoints = Endpoints.inside(self._directory)
        self._replies = open_socket(context, zmq.ROUTER)
        self._replies.rcvtimeo = round(sizes.operation_timeout_s * 1000)
        self._replies.bind(endpoints.replies)
        self._tasks = open_socket(context, zmq.DEALER)
        self._tasks.connect(endpoints.router)
        self._router = self._spawn("bench.systems.raw_router", str(SLOTS))
        self._workers = [self._spawn("bench.systems.raw_worker") for _ in range(SLOTS)]
        for _worker in self._workers:
            self._replies.recv_multipart()
        self.loop(sizes.warm_up_calls)

    def pids(self) -> Pids:
        assert self._router is not None
        slots = [worker.pid for worker in self._workers]
        return {Role.CLIENT: [os.getpid()], Role.ROUTER: [self._router.pid], Role.SLOT: slots}

    def call(self, x: int, y: int) -> int:
        self._send([(x, y)])
        ((_task_id, value),) = self._receive()
        return value

    def loop(self, tasks: int) -> None:
        """One task a message, as a loop of single calls is sent."""
        for number in range(tasks):
            self._send([(number, number)])
        self._collect(tasks)

    def batch(self, tasks: int) -> None:
        """TASKS_PER_FRAME tasks a message."""
        for first in range(0, tasks, TASKS_PER_FRAME):
            self._send([(number, number) for number in range(first, min(first + TASKS_PER_FRAME, tasks))])
        self._collect(tasks)

    def gather(self, calls: int) -> Sequence[int]:
        for number in range(calls):
            self._send([(number, number)])
        return list(self._collect(calls).values())

    def echo(self, body: bytes, count: int, in_flight: int) -> None:
        for number in range(count + in_flight):
            if number >= in_flight:
                self._receive_echo(len(body))
            if number < count:
                self._tasks.send(ECHO, zmq.SNDMORE)
                self._tasks.send(body, copy=False)

    def stop(self) -> None:
        for process in (*self._workers, self._router):
            if process is not None:
                stop(process, _STOP_S)
        if self._context is not None:
            self._context.destroy(linger=0)

    def _send(self, calls: Sequence[tuple[int, int]]) -> None:
        tasks: list[tuple[Any, ...]] = [(self._next_id(), "bench.functions.add", args, {}, HEADER) for args in calls]
        self._tasks.send(msgpack.packb(tasks))

    def _next_id(self) -> bytes:
        self._sequence += 1
        return self._sequence.to_bytes(_ID_BYTES, "big")

    def _receive(self) -> list[tuple[bytes, int]]:
        self._replies.recv()
        results: list[tuple[bytes, int]] = msgpack.unpackb(self._replies.recv())
        return results

    def _collect(self, count: int) -> dict[bytes, int]:
        """The next `count` results by id."""
        results: dict[bytes, int] = {}
        while len(results) < count:
            results.update(self._receive())
        return results

    def _receive_echo(self, size_bytes: int) -> None:
        self._replies.recv()
        self._replies.recv()
        received = len(self._replies.recv(copy=False).buffer)
        if received != size_bytes:
            raise RuntimeError(f"an echo of {size_bytes} bytes came back with {received}")

    def _spawn(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module, str(self._directory), *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)
