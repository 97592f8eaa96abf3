"""mesh itself: a node of SLOTS slots, the router that it starts, and this process as the client."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack

from bench.marks import wait_for_marks
from bench.processes import stop, sweep
from bench.sizes import FULL, SLOTS, TASKS_PER_BLOCK, Sizes
from bench.systems.protocol import Pids, Role

#: Tells `bench.tasks`, in every process that imports it, at which level calls are made.
DURABILITY_VARIABLE = "MESH_BENCH_DURABILITY"
_STOP_S = 10.0
_SWEEP_S = 3.0
_LOOK_AT_NODE_S = 1.0
#: What a node says when its slots work.
_READY = b"action=ready"


class MeshSystem:
    """1. Gives the mesh a directory, and the app its URL. 2. Starts and ends the node. 3. Is the client."""

    def __init__(self, directory: Path, durability: str) -> None:
        os.environ[DURABILITY_VARIABLE] = durability
        self._directory = directory / "mesh"
        self._directory.mkdir(mode=0o700)
        self._url = f"mesh://{self._directory}"
        self._timeout_s = FULL.operation_timeout_s
        self._node: subprocess.Popen[bytes] | None = None
        self._tasks: Any = None
        self._open: list[Any] = []

    def start(self, sizes: Sizes) -> None:
        self._timeout_s = sizes.operation_timeout_s
        self.start_node()
        self._import_tasks()
        self._wait_for_node()
        self.loop(sizes.warm_up_calls)

    def pids(self) -> Pids:
        status = self._status()
        (node,) = status["nodes"]
        supervisor = [node["pid"], node.get("template_pid")]
        return {
            Role.CLIENT: [os.getpid()],
            Role.ROUTER: [status["router"]["pid"]],
            Role.SUPERVISOR: [pid for pid in supervisor if pid],
            Role.SLOT: [slot["pid"] for slot in node["slots"]],
        }

    def call(self, x: int, y: int) -> int:
        value: int = self._tasks.add.delay(x, y).get(timeout=self._timeout_s)
        return value

    def loop(self, tasks: int) -> None:
        self.gather(tasks)

    def batch(self, tasks: int) -> None:
        add = self._tasks.add
        with self._tasks.app.batch():
            results = [add.delay(number, number) for number in range(tasks)]
        self._get_all(results)

    def gather(self, calls: int) -> Sequence[int]:
        add = self._tasks.add
        return self._get_all([add.delay(number, number) for number in range(calls)])

    def echo(self, body: bytes, count: int, in_flight: int) -> None:
        flying: deque[Any] = deque()
        for _number in range(count):
            if len(flying) == in_flight:
                flying.popleft().get(timeout=self._timeout_s)
            flying.append(self._tasks.echo.delay(body))
        self._get_all(flying)

    def submit(self, tasks: int) -> None:
        add = self._tasks.add
        self._open = [add.delay(number, number) for number in range(tasks)]
        for result in self._open:
            result.confirmed(timeout=self._timeout_s)

    def forget(self, tasks: int, path: Path) -> None:
        self._call_ticks(tasks, path)
        wait_for_marks(path, tasks, self._timeout_s)

    def naps(self, long_s: float, short_s: float, short_count: int) -> None:
        nap = self._tasks.nap
        self._open = [nap.delay(long_s)]
        self._get_all([nap.delay(short_s) for _number in range(short_count)])

    def finish(self) -> None:
        self._get_all(self._open)
        self._open = []

    def cold_start(self) -> float:
        """A node and a client process at once, in a directory where nothing runs, until the client has its result."""
        directory = tempfile.mkdtemp(dir=self._directory)
        environment = {**os.environ, "MESH_BROKER_URL": f"mesh://{directory}"}
        begun_s = time.perf_counter()
        node = _start_node(environment)
        client = subprocess.Popen([sys.executable, "-m", "bench.first_call"], env=environment, stdout=subprocess.PIPE)
        try:
            assert client.stdout is not None
            said = client.stdout.readline()
            took_s = time.perf_counter() - begun_s
        finally:
            stop(client, _STOP_S)
            stop(node, _STOP_S)
            sweep(directory, _SWEEP_S)
        if not said.strip():
            raise RuntimeError("the first client ended without a result")
        return took_s

    def in_process(self) -> None:
        from mesh.testing import start_worker

        self._import_tasks()
        with start_worker(self._tasks.app):
            self.call(2, 2)

    def node_process(self) -> float:
        directory = tempfile.mkdtemp(dir=self._directory)
        begun_s = time.perf_counter()
        node = _start_node({**os.environ, "MESH_BROKER_URL": f"mesh://{directory}"}, stderr=subprocess.PIPE)
        try:
            assert node.stderr is not None
            ready = any(_READY in line for line in node.stderr)
            took_s = time.perf_counter() - begun_s
        finally:
            stop(node, _STOP_S)
            sweep(directory, _SWEEP_S)
        if not ready:
            raise RuntimeError("the node ended before it was ready")
        return took_s

    def start_router(self, path: Path) -> int:
        self._import_tasks()
        self._tasks.tick.delay(str(path)).confirmed(timeout=self._timeout_s)
        router: int = self._status()["router"]["pid"]
        return router

    def hoard(self, tasks: int, path: Path) -> None:
        for first in range(0, tasks, TASKS_PER_BLOCK):
            last = self._call_ticks_in_a_block(min(TASKS_PER_BLOCK, tasks - first), path)
            last.confirmed(timeout=self._timeout_s)

    def files(self) -> list[Path]:
        return [path for path in self._directory.rglob("*") if path.is_file()]

    def replace_router(self) -> None:
        pid = self._status()["router"]["pid"]
        os.kill(pid, signal.SIGKILL)
        deadline_s = time.monotonic() + self._timeout_s
        while self._status().get("router", {}).get("pid") in (None, pid):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no router has answered {self._timeout_s:g} s after another was killed")

    def body_bytes(self, path: Path) -> int:
        return len(msgpack.packb([[str(path)], {}]))

    def start_node(self) -> None:
        self._node = _start_node({**os.environ, "MESH_BROKER_URL": self._url})

    def stop(self) -> None:
        """Also ends the router, which would otherwise wait for others to come."""
        if self._tasks is not None:
            self._tasks.app.close()
            self._tasks = None
        if self._node is not None:
            stop(self._node, _STOP_S)
        sweep(str(self._directory), _SWEEP_S)

    def _wait_for_node(self) -> None:
        """Returns with the first result. Raises RuntimeError as soon as the node has ended instead."""
        assert self._node is not None
        first = self._tasks.add.delay(0, 0)
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                first.get(timeout=_LOOK_AT_NODE_S)
                return
            except TimeoutError:
                if self._node.poll() is not None:
                    raise RuntimeError(f"the node ended with code {self._node.returncode}") from None
                if time.monotonic() > deadline_s:
                    raise

    def _import_tasks(self) -> None:
        os.environ["MESH_BROKER_URL"] = self._url
        from bench import tasks

        self._tasks = tasks

    def _status(self) -> dict[str, Any]:
        """What the router says. The exit code is not looked at: it tells that there is no node, which may be so."""
        command = [sys.executable, "-m", "mesh", "-b", self._url, "status", "--json"]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
        status: dict[str, Any] = json.loads(said) if said.strip() else {}
        return status

    def _get_all(self, results: Sequence[Any] | deque[Any]) -> list[Any]:
        return [result.get(timeout=self._timeout_s) for result in results]

    def _call_ticks(self, tasks: int, path: Path) -> None:
        tick, arguments = self._tasks.tick, (str(path),)
        for _number in range(tasks):
            tick.apply_async(arguments, ignore_result=True)

    def _call_ticks_in_a_block(self, tasks: int, path: Path) -> Any:
        tick, arguments, last = self._tasks.tick, (str(path),), None
        with self._tasks.app.batch():
            for _number in range(tasks):
                last = tick.apply_async(arguments, ignore_result=True)
        return last


def _start_node(environment: dict[str, str], stderr: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mesh", "-A", "bench.tasks", "worker", "-c", str(SLOTS), "-l", "WARNING"]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=stderr)
