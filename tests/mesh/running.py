"""Real nodes, routers and clients in processes of their own, and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mesh import locate
from mesh.client import Client
from mesh.exceptions import MeshError
from mesh.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT = "tests.mesh.proj"

#: How long anything may take. Long, as the machine may be slow and busy; what works takes a fraction of it.
DEADLINE_S = 20.0

Seen = TypeVar("Seen")


def eventually(look: Callable[[], Seen], within_s: float = DEADLINE_S) -> Seen:
    """What `look` returns once that is true. An AssertionError of its counts as not yet."""
    deadline_mono_s = time.monotonic() + within_s
    never = threading.Event()
    while True:
        try:
            if seen := look():
                return seen
            missed = AssertionError(f"not within {within_s:g} s, at last: {seen!r}")
        except AssertionError as failed:
            missed = failed
        if time.monotonic() >= deadline_mono_s:
            raise missed
        never.wait(0.005)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Process:
    """A process of a test. What it says goes to a file."""

    def __init__(self, argv: list[str], url: str, log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                [sys.executable, *argv],
                cwd=ROOT,
                env=os.environ | {"MESH_BROKER_URL": url},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def said(self) -> str:
        return self.log.read_text()

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def send_to_group(self, number: int) -> None:
        """As a terminal does with Ctrl-C."""
        os.killpg(self.pid, number)

    def wait(self) -> int:
        """Its exit code, which must come in time."""
        try:
            return self.popen.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} does not end:\n{self.said}") from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code, after this signal where it still runs."""
        if self.popen.poll() is None:
            self.send(number)
        return self.wait()

    def end(self) -> None:
        """Ends it in any case: warm, else by force."""
        if self.popen.poll() is not None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self.popen.wait(DEADLINE_S / 3)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait(DEADLINE_S)


class Node(Process):
    """One node, and what its router says of it."""

    def __init__(self, host: Host, name: str, argv: list[str], log: Path) -> None:
        super().__init__(argv, host.url, log)
        self.name = name
        self.host = host

    def report(self) -> dict[str, Any]:
        """What `mesh status` says of it; empty while the router does not know it."""
        nodes = self.host.status()["nodes"]
        return next((node for node in nodes if node["pid"] == self.pid), {})

    def slots(self) -> list[int]:
        """The processes of its slots that have joined, by index."""
        return [slot["pid"] for slot in self.report().get("slots", ()) if is_alive(slot["pid"])]

    def ready(self) -> Node:
        """Waits until all its slots have joined the router."""
        eventually(self._is_ready)
        return self

    def _is_ready(self) -> bool:
        assert self.popen.poll() is None, f"the node has ended:\n{self.said}"
        return len(self.slots()) == self.report().get("concurrency")

    def processes(self) -> list[int]:
        """Supervisor, template and slots."""
        return [self.pid, self.report()["template_pid"], *self.slots()]


class Host:
    """One mesh in a directory of its own: starts what runs there, and tells about it."""

    def __init__(self, directory: Path, logs: Path) -> None:
        self.directory = directory
        self.url = f"mesh://{directory}"
        self.place = locate.locate(self.url)
        self._logs = logs
        self._started: list[Process] = []

    # --- starting --------------------------------------------------------------------------------

    def start_node(
        self,
        name: str = "n1",
        *,
        slots: int | None = 2,
        queues: str | None = None,
        wait: bool = True,
        broker: bool = True,
        options: Sequence[str] = (),
        project: str = PROJECT,
        workdir: str | None = None,
    ) -> Node:
        """A node; with `wait` its slots have joined when this returns. Without `slots` it says no number."""
        # The option names the directory in the command line, by which the net under the tests finds strays.
        url = ["-b", self.url] if broker else []
        place = [] if workdir is None else ["--workdir", workdir]
        argv = ["-m", "mesh", *place, "-A", project, *url, "worker", "-n", f"{name}@here", "-l", "INFO"]
        argv += [*([] if slots is None else ["-c", str(slots)]), *options]
        node = Node(self, f"{name}@here", argv + (["-Q", queues] if queues else []), self._log(name))
        self._started.append(node)
        return node.ready() if wait else node

    def start_router(self) -> Process:
        """`mesh router` in the foreground."""
        return self._start(["-m", "mesh", "-b", self.url, "router"], "router")

    def start_script(self, code: str, *arguments: str) -> Process:
        """A Python program; the project's app in it belongs to this mesh."""
        return self._start(["-c", code, *arguments, str(self.directory)], "script")

    def run_script(self, code: str, *arguments: str) -> str:
        """What a Python program says, which must end with code 0."""
        script = self.start_script(code, *arguments)
        code_ = script.wait()
        assert code_ == 0, script.said
        return script.said

    def adopt(self, process: Process) -> None:
        """It is ended with what runs here."""
        self._started.append(process)

    def _start(self, argv: list[str], name: str) -> Process:
        process = Process(argv, self.url, self._log(name))
        self._started.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self._logs / f"{len(self._started)}-{name}.log"

    # --- looking ---------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `mesh status --json` prints, by a client that is gone afterwards."""
        client = Client(self.place, Settings(), autostart=False)
        try:
            return client.request("status", {}, None, DEADLINE_S).values
        except MeshError as error:
            raise AssertionError(str(error)) from None
        finally:
            client.close()

    def router_pid(self) -> int:
        """The router's process; 0 where none runs."""
        return locate.router_pid(self.place) or 0

    def files(self) -> set[str]:
        """What lies in the mesh's directory."""
        return set(os.listdir(self.directory))

    # --- ending ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends everything that was started here."""
        for process in reversed(self._started):
            process.end()
        self._started.clear()
