"""`python -m bench.nodes`: how fast nodes start and end, and whether they keep what they hold while they change.

From `mesh worker` to its being ready, router included; the same with a router that is there; from SIGTERM to an idle
node's end; a task that has a process of its own, on one slot. Medians over the rounds.

`--soak`: many tasks on two nodes of which one is told to end and started again, or to start its slots anew, every few
seconds; slots are replaced after some tasks, and come and go with the work. It says what was lost, and how much memory,
how many descriptors and processes there are at the end beyond those at the half.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import machine
from bench.process_facts import descriptors, pss_bytes
from bench.processes import marked, stop, sweep

_STOP_S: Final = 10.0
_READY_S: Final = 20.0
_RESULT_S: Final = 60.0
_SWEEP_S: Final = 5.0
#: Between two restarts in the soak.
_RESTART_S: Final = 3.0
#: Calls in flight in the soak.
_WINDOW: Final = 400
#: How long a task of the soak takes.
_TASK_S: Final = 0.001
#: How long the soak's nodes are left alone before they are looked at.
_SETTLE_S: Final = 4.0
#: Tasks that have a fresh process each.
_FRESH: Final = 100
_MIB: Final = 1 << 20
#: What outcomes may take in the router: so little that they are as many at the half as at the end.
_OUTCOMES_BYTES: Final = 4 << 20
SOAK_OPTIONS: Final = ("--autoscale", "4,1", "--max-tasks-per-child", "500")


class Nodes:
    """Starts and ends nodes of one mesh of its own, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"mesh://{directory}"
        os.environ["MESH_RESULTS_MAX_BYTES"] = str(_OUTCOMES_BYTES)
        self.environment = {**os.environ, "MESH_BROKER_URL": self.url, "MESH_WORKER_AUTOSCALE_IDLE": "1"}

    def start(self, name: str, *options: str) -> tuple[subprocess.Popen[bytes], float]:
        """A node that is ready, and how long that took, s."""
        argv = [
            sys.executable,
            "-m",
            "mesh",
            "-A",
            "bench.tasks",
            "worker",
            "-n",
            f"{name}@bench",
            "-c",
            "2",
            "-l",
            "INFO",
            *options,
        ]
        begun_s = time.monotonic()
        with open(self.directory / f"{name}.log", "ab") as log:
            node = subprocess.Popen(argv, env=self.environment, stdout=subprocess.DEVNULL, stderr=log)
        self._wait_until_ready(node, name, begun_s)
        return node, time.monotonic() - begun_s

    def _wait_until_ready(self, node: subprocess.Popen[bytes], name: str, begun_s: float) -> None:
        log = self.directory / f"{name}.log"
        wanted = f"pid={node.pid} "
        while not any(wanted in line and "action=ready" in line for line in log.read_text().splitlines()):
            if time.monotonic() > begun_s + _READY_S or node.poll() is not None:
                raise TimeoutError(f"node {name} is not ready:\n{log.read_text()}")
            time.sleep(0.001)


# --- start and end ---------------------------------------------------------------------------------


def start_and_end(rounds: int, directory: Path) -> dict[str, float]:
    """The medians, s."""
    taken: dict[str, list[float]] = {"ready": [], "ready, router there": [], "end": [], "fresh process a task": []}
    for number in range(rounds):
        own = directory / str(number)
        own.mkdir(mode=0o700)
        nodes = Nodes(own)
        first, ready_s = nodes.start("a")
        second, again_s = nodes.start("b")
        begun_s = time.monotonic()
        stop(second, _STOP_S)
        taken["ready"].append(ready_s)
        taken["ready, router there"].append(again_s)
        taken["end"].append(time.monotonic() - begun_s)
        taken["fresh process a task"].append(_fresh_process_s(nodes))
        stop(first, _STOP_S)
        sweep(str(own), _SWEEP_S)
    return {what: statistics.median(seconds) for what, seconds in taken.items()}


def _fresh_process_s(nodes: Nodes) -> float:
    """How long a task takes on one slot that has a new process for each."""
    node, _ = nodes.start("fresh", "-Q", "fresh", "--max-tasks-per-child", "1", "-c", "1")
    calls = "\n".join(
        (
            "import time; from bench.tasks import add, app",
            "call = lambda: add.apply_async((1, 1), queue='fresh')",
            "call().get(timeout=60); begun = time.monotonic()",
            f"[one.get(timeout=60) for one in [call() for _ in range({_FRESH})]]",
            f"print((time.monotonic() - begun) / {_FRESH}); app.close()",
        )
    )
    said = subprocess.run([sys.executable, "-c", calls], env=nodes.environment, stdout=subprocess.PIPE, check=True)
    stop(node, _STOP_S)
    return float(said.stdout)


# --- the soak --------------------------------------------------------------------------------------


class Held(NamedTuple):
    """What all processes of the mesh hold, the client included."""

    processes: int
    descriptors: int
    nodes_mib: float
    router_mib: float
    client_mib: float


class Soak:
    """1. Keeps calls in flight. 2. Restarts a node, or its slots, every few seconds. 3. Counts what comes back."""

    def __init__(self, nodes: Nodes, tasks: int) -> None:
        self._nodes = nodes
        self._tasks = tasks
        self._running = {name: nodes.start(name, *SOAK_OPTIONS)[0] for name in ("a", "b")}
        self._restarts = 0
        self._next_s = time.monotonic() + _RESTART_S
        os.environ["MESH_BROKER_URL"] = nodes.url
        from bench import tasks as project  # it reads the variable

        self._project = project
        self._wrong = 0

    def run(self) -> dict[str, Any]:
        """What came of it."""
        begun_s = time.monotonic()
        self._work(self._tasks // 2)
        half = self._held()
        self._work(self._tasks - self._tasks // 2)
        end = self._held()
        took_s = time.monotonic() - begun_s
        for node in self._running.values():
            stop(node, _STOP_S)
        self._project.app.close()
        grown = {
            f"grown_{key}": round(after - before, 2) for key, before, after in zip(Held._fields, half, end, strict=True)
        }
        return {
            "tasks": self._tasks,
            "wrong_or_lost": self._wrong,
            "restarts": self._restarts,
            "seconds": round(took_s, 1),
            "at_half": half._asdict(),
            **grown,
        }

    def _work(self, tasks: int) -> None:
        waiting: deque[tuple[int, Any]] = deque()
        for number in range(tasks):
            waiting.append((number, self._project.pause.delay(number, _TASK_S)))
            if len(waiting) >= _WINDOW:
                self._take(waiting)
            if time.monotonic() >= self._next_s:
                self._restart()
        while waiting:
            self._take(waiting)

    def _take(self, waiting: deque[tuple[int, Any]]) -> None:
        number, result = waiting.popleft()
        self._wrong += result.get(timeout=_RESULT_S) != number

    def _restart(self) -> None:
        """One of the two, in turns; by turns the whole node, or only its slots with new code."""
        name = "ab"[self._restarts % 2]
        if self._restarts % 4 < 2:
            self._running[name].send_signal(signal.SIGHUP)
        else:
            stop(self._running[name], _STOP_S)
            self._running[name] = self._nodes.start(name, *SOAK_OPTIONS)[0]
        self._restarts += 1
        self._next_s = time.monotonic() + _RESTART_S

    def _held(self) -> Held:
        """With fresh nodes, so that equals are compared, and nothing to do for a while."""
        for name, node in self._running.items():
            stop(node, _STOP_S)
            self._running[name] = self._nodes.start(name, *SOAK_OPTIONS)[0]
        for result in [self._project.pause.delay(0, _TASK_S) for _ in range(_WINDOW)]:
            result.get(timeout=_RESULT_S)
        time.sleep(_SETTLE_S)
        pids = marked(str(self._nodes.directory))
        router = self._project.app.control.status()["router"]["pid"]
        everyone = [os.getpid(), *pids]
        return Held(
            processes=len(everyone),
            descriptors=sum(descriptors(pid) for pid in everyone),
            nodes_mib=sum(_pss_mib(pid) for pid in pids if pid != router),
            router_mib=_pss_mib(router),
            client_mib=_pss_mib(os.getpid()),
        )


def _pss_mib(pid: int) -> float:
    with suppress(OSError):
        return pss_bytes(pid) / _MIB
    return 0.0


# --- the command line --------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; returns the exit code: 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.nodes", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--rounds", type=int, default=15, help="rounds (%(default)s)")
    parser.add_argument("--soak", type=int, metavar="TASKS", help="so many tasks, instead of starts and ends")
    parser.add_argument("--json", action="store_true", help="JSON instead of lines")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nodes-", dir="/tmp") as directory:
        try:
            figures = _measure(options.soak, options.rounds, Path(directory))
        finally:
            sweep(directory, _SWEEP_S)
    if options.json:
        print(json.dumps({"machine": machine.describe(), **figures}, indent=2))
    else:
        print(machine.line(machine.describe()))
        print("\n".join(f"{key}: {value}" for key, value in figures.items()))
    return 1 if figures.get("wrong_or_lost") else 0


def _measure(soak_tasks: int | None, rounds: int, directory: Path) -> dict[str, Any]:
    if soak_tasks is None:
        return {f"{what}, s": round(seconds, 3) for what, seconds in start_and_end(rounds, directory).items()}
    return Soak(Nodes(directory), soak_tasks).run()


if __name__ == "__main__":
    sys.exit(main())
