"""A mesh for a while: a directory, a router and nodes of its own. What it starts it stops, and nothing is left."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

from mesh import locate, setting_files
from mesh.control import Control
from mesh.settings import SETTINGS

from .errors import Failed

#: How long all nodes may take to be there: 100 times what they take.
_START_S: Final = 30.0
#: How long they are given to stop before they are killed.
_STOP_S: Final = 5.0
_PAUSE_S: Final = 0.01
#: What is shown of a log.
_LOG_LINES: Final = 6
_LINE_CHARS: Final = 400
#: Variables that would make a node another one than is meant. Those of `worker` too.
_NOT_INHERITED: Final = ("MESH_APP", "MESH_WORKDIR", "NOTIFY_SOCKET")
_OF_WORKER: Final = "MESH_WORKER_"


class Node(NamedTuple):
    """One node of the mesh, with what it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class ThrowAwayMesh:
    """1. Makes the directory. 2. Starts the nodes. 3. Tells which died, with their last words. 4. Ends all of it.

    The router is started by whoever needs it first. The caller sees to it that no signal cuts a method in two.
    """

    def __init__(self, name: str) -> None:
        # Not where TMPDIR says: the path of a socket may have 107 bytes.
        self.directory: Final = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
        self.url: Final = f"mesh://{self.directory}"
        self._nodes: list[Node] = []

    def __enter__(self) -> ThrowAwayMesh:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start_node(self, name: str, app: str, concurrency: int) -> None:
        """Starts a node with the tasks of `app`, and does not wait for it."""
        log = self.directory / f"{name}.log"
        node = [sys.executable, "-P", "-m", "mesh", "-A", app, "-b", self.url, "-q", "worker", "-n", name]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*node, "-c", str(concurrency), "-l", "WARNING"],
                env=_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that Ctrl-C reaches the demo alone, which stops its nodes in order
            )
        self._nodes.append(Node(name, process, log))

    def await_nodes(self, control: Control) -> None:
        """Waits until every node is there.

        Raises:
            Failed: one has ended, or is not there in time.
        """
        give_up_mono_s = time.monotonic() + _START_S
        while len(control.status(_START_S)["nodes"]) < len(self._nodes):
            for node in self.lost():
                raise Failed(f"{_fate(node)} before it was ready.{self.last_words()}")
            if time.monotonic() > give_up_mono_s:
                raise Failed(f"the nodes are not ready after {_START_S:g} s.{self.last_words()}")
            time.sleep(_PAUSE_S)

    def lost(self) -> list[Node]:
        """The nodes that have ended."""
        return [node for node in self._nodes if node.process.poll() is not None]

    def check(self) -> None:
        """Raises Failed where no node is left."""
        lost = self.lost()
        if len(lost) == len(self._nodes):
            raise Failed(f"no node is left: {'; '.join(map(_fate, lost))}.{self.last_words()}")

    def fates(self) -> list[str]:
        """What became of each node that has ended, with the last it wrote."""
        return [f"{_fate(node)}.{_last_lines(node.log)}" for node in self.lost()]

    def last_words(self) -> str:
        """The last lines of all logs, each under its name; for the end of an error."""
        router = self.directory / "router.log"
        return "".join(_last_lines(log) for log in [*(node.log for node in self._nodes), router])

    def stop(self) -> None:
        """Ends the nodes, then the router, and removes the directory."""
        for node in self._nodes:
            node.process.terminate()
        deadline_mono_s = time.monotonic() + _STOP_S
        for node in self._nodes:
            _await_end(node.process, deadline_mono_s)
        self._stop_router()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stop_router(self) -> None:
        place = locate.locate(self.url)
        with _no_router_starts(place):
            pid = locate.router_pid(place)
            if pid:
                _end(pid)


def forget_settings() -> None:
    """Lets this process and those it starts run on the defaults, whatever the environment and the files here say."""
    for spec in SETTINGS:
        os.environ.pop(spec.variable, None)
    os.environ[setting_files.VARIABLE] = os.devnull


def _environment(caller: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in caller.items() if name not in _NOT_INHERITED and not name.startswith(_OF_WORKER)
    }


def _fate(node: Node) -> str:
    code = node.process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"node {node.name} {how}"


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except FileNotFoundError:
        return ""
    return "".join(f"\n  {line[:_LINE_CHARS]}" for line in [f"{log.name}:", *lines]) if lines else ""


def _await_end(process: subprocess.Popen[bytes], deadline_mono_s: float) -> None:
    try:
        process.wait(max(0.0, deadline_mono_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()  # its slots and template go with it
        process.wait()


@contextmanager
def _no_router_starts(place: locate.Place) -> Iterator[None]:
    """Waits for a router on its way up, which is ready or gone once it lets go of the lock, and keeps out others."""
    with open(locate.start_lock_path(place), "a") as lock:
        _lock(lock, time.monotonic() + _STOP_S)
        yield


def _lock(file: IO[str], deadline_mono_s: float) -> None:
    while time.monotonic() < deadline_mono_s:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_PAUSE_S)


def _end(pid: int) -> None:
    """Ends a process that is not a child of this one."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            if select.select([process], [], [], _STOP_S)[0]:
                return
    finally:
        os.close(process)
