"""A node of a test's own: a real one, in threads of the process, as are its slots."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from mesh import loading, stacks
from mesh.app import Mesh
from mesh.exceptions import MeshError, TimeoutError
from mesh.node import Node, NodeOptions, complete
from mesh.pools.hosting import LoadedApp
from mesh.template import SharedFiles
from mesh.testing.hosting import InProcess, InProcessHost
from mesh.testing.local_mesh import LocalMesh, start_router

T = TypeVar("T")

#: How long a node may take to be ready, to answer, or to have taken a new host.
READY_S: Final = 10.0
#: How long tasks have to heed their interruption, once the time for a stop is over.
GRACE_S: Final = 0.5
#: What passes between two looks at threads that are to end.
LOOK_S: Final = 0.01


class WorkerStillRuns(MeshError):
    """Tasks ran on when the time for the worker's end was over. They were interrupted then."""

    def __init__(self, hostname: str, waited_s: float, tasks: list[str], alive: list[str]) -> None:
        self.hostname, self.waited_s, self.tasks, self.alive = hostname, waited_s, tasks, alive
        went_on = f"; a thread can't be killed, and these go on: {', '.join(alive)}" if alive else ""
        super().__init__(
            f"worker {hostname} was to end, and after {waited_s:g} s still ran {', '.join(tasks)}. They were "
            f"interrupted{went_on}. Have the test wait for what it calls, or raise shutdown_timeout."
        )


class Worker:
    """A node and its slots. 1. Starts them. 2. Has them take up what is new in the app. 3. Ends them in time."""

    def __init__(self, app: Mesh, mesh: LocalMesh, name: str | None, said: dict[str, Any]) -> None:
        """`said`: `concurrency`, `queues`, `time_limit` and `soft_time_limit`, where they are not as the app says."""
        number = next(mesh.numbers)
        #: As in answers to `inspect`.
        self.hostname = name or f"test{number or ''}@{os.uname().nodename}"
        self._app = app
        self._said = said
        self._failure: BaseException | None = None
        #: It is ready, or has failed.
        self._is_up = threading.Event()
        self._files = SharedFiles(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), stacks.make_file())
        #: The one that gets new slots last.
        self._hosts = [InProcessHost(self._load())]
        loaded = self._hosts[0].receive()
        assert loaded is not None
        options = NodeOptions(
            self.hostname,
            self._load,
            mesh.place,
            InProcess.name,
            said["concurrency"],
            said["queues"],
            on_ready=self._is_up.set,
            another_host=self._another_host,
            number=number,
        )
        complete(loaded[1], options, 1)
        #: The node itself.
        self.node = Node(options, InProcess(), self._hosts[0], self._files, loaded[1], mesh.place)
        self._thread = threading.Thread(target=self._supervise, name="mesh node", daemon=True)

    def _load(self) -> LoadedApp:
        for module in (*self._app.conf.include, *self._app.conf.imports):
            loading.load_module(module)
        app = loading.described(self._app, self._app.main or "__main__", self._said)
        # How long an end takes is said by who starts it.
        app.info.update(soft_shutdown_s=0.0, shutdown_s=None)
        return app

    def _another_host(self) -> InProcessHost:
        self._hosts.append(InProcessHost(self._load()))
        return self._hosts[-1]

    def _supervise(self) -> None:
        try:
            self.node.run()
        except BaseException as error:
            self._failure = error
        finally:
            self._is_up.set()

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns when every slot works.

        Raises:
            MeshError: the router refuses the node, and why.
        """
        self._thread.start()
        if not self._is_up.wait(READY_S):
            raise TimeoutError(f"worker {self.hostname}", READY_S, "Is the machine very busy?")
        if self._failure is not None:
            raise self._failure

    def ping(self, timeout: float = READY_S) -> None:
        """Has it answer, by way of the app's client and the router.

        Raises:
            TimeoutError: it does not in time.
        """
        if not self._app.control.ping([self.hostname], timeout):
            raise TimeoutError(f"the answer of worker {self.hostname}", timeout, "Is the machine very busy?")

    def reload(self, timeout: float = READY_S) -> None:
        """Has new slots take up what has changed in the app: time limits, queues, and what `inspect` says of it.

        Tasks registered since the start run without it. Running tasks are finished first.

        Raises:
            TimeoutError: they are not in time.
        """
        known = len(self._hosts)
        before = self._hosts[-1]
        self.node.on_signal(signal.SIGHUP)
        if not _awaited(lambda: len(self._hosts) > known and before.closed.is_set(), timeout):
            tasks = ", ".join(self.running()) or "nothing"
            raise TimeoutError(f"the reload of worker {self.hostname}", timeout, f"What runs: {tasks}.")

    def running(self) -> list[str]:
        """What its slots run now: `name[id]`."""
        return [_shown(row) for row in self.node.active()]

    def stop(self, timeout: float) -> None:
        """Takes nothing more, and lets running tasks finish; after `timeout` seconds they are interrupted.

        Raises:
            WorkerStillRuns: that was necessary. What does not heed it goes on in its thread.
        """
        late = self._end_node(timeout) if self._thread.is_alive() else []
        self.node.close()
        for fd in self._files:
            os.close(fd)
        alive = self._await_threads(GRACE_S if late else timeout)
        if late or alive:
            raise WorkerStillRuns(self.hostname, timeout, late or alive, alive)
        if self._failure is not None:
            raise self._failure

    def _end_node(self, timeout: float) -> list[str]:
        """Ends the node. What still ran when the time was over."""
        self.node.on_signal(signal.SIGTERM)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return []
        late = self.running()
        for _ in range(2):  # interrupts, then kills
            self.node.on_signal(signal.SIGQUIT)
            self._thread.join(GRACE_S)
        self._thread.join()
        return late

    def _await_threads(self, timeout: float) -> list[str]:
        """Waits for the threads of slots that were killed. What goes on in spite of it."""
        if self._left_running():
            self._app.close()  # a task that waits for a result hears of nothing else
            _awaited(lambda: not self._left_running(), timeout)
        return self._left_running()

    def _left_running(self) -> list[str]:
        return [what for host in self._hosts for what in host.left_running()]


def _awaited(look: Callable[[], T], timeout_s: float) -> T:
    give_up_mono_s = time.monotonic() + timeout_s
    while not (seen := look()) and time.monotonic() < give_up_mono_s:
        time.sleep(LOOK_S)
    return seen


def _shown(row: dict[str, Any]) -> str:
    from mesh.ids import to_text

    return f"{row['name']}[{to_text(row['id'])}]"


@contextlib.contextmanager
def start_worker(
    app: Mesh,
    concurrency: int | None = 1,
    queues: Iterable[str] | str | None = None,
    *,
    hostname: str | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    perform_ping_check: bool = True,
    shutdown_timeout: float = 10.0,
) -> Iterator[Worker]:
    """Runs a node in threads of this process for the time of a block, in a mesh of the app's own (`start_router`).

    `concurrency=None` and what else is None is as the app says. `perform_ping_check`: the node has answered a call of
    the app's client before the block begins.

    Raises:
        TaskModuleNotFound: a module of the settings `include` and `imports` is not there, or fails as it is imported.
        WorkerStillRuns: at the end, where tasks ran on for `shutdown_timeout` seconds. Where the block has raised, that
            error gets it as a note.
    """
    names = (queues,) if isinstance(queues, str) else tuple(queues or ()) or None
    said = {"concurrency": concurrency, "queues": names, "time_limit": time_limit, "soft_time_limit": soft_time_limit}
    with start_router(app) as mesh:
        worker = Worker(app, mesh, hostname, said)
        try:
            worker.start()
            if perform_ping_check:
                worker.ping()
            yield worker
        except BaseException as error:
            try:
                worker.stop(shutdown_timeout)
            except MeshError as also:
                error.add_note(str(also))
            raise
        worker.stop(shutdown_timeout)
