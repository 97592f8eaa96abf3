"""What every test gets: nothing may outlive it, and a directory for a mesh of its own."""

import gc
import multiprocessing.resource_tracker
import os
import re
import select
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil
import pytest

pytest_plugins = ("mesh.testing.plugin", "pytester")

#: Where named meshes live, as opposed to those whose URL names a directory.
NAMED_MESHES = Path(f"/tmp/mesh-{os.getuid()}")

#: How long things may take to go away. Long, as the machine may be slow and busy; a clean test waits for none of it.
PATIENCE_S = 10.0

#: Is inherited by whatever a test starts, and so still tells whose it is when its parent is gone.
TAG = "MESH_TEST"

#: Such tests may be skipped on a developer's machine, with a reason that names what is missing. CI has to run them.
MUST_RUN_IN_CI = {"slow", "lan", "systemd", "root", "cc"}

#: Whether the test failed by itself, before its fixtures were torn down.
FAILED = pytest.StashKey[bool]()

Seen = TypeVar("Seen")


class Traces(NamedTuple):
    """What exists at one moment and might be somebody's to clean up."""

    threads: frozenset[threading.Thread]
    pids: frozenset[int]
    files: frozenset[tuple[int, str]]  #: (descriptor, what it is open on): a number alone gets used again
    meshes: frozenset[Path]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    must_run = os.environ.get("CI") and MUST_RUN_IN_CI.intersection(mark.name for mark in item.iter_markers())
    if must_run and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI may not do: {call.excinfo and call.excinfo.value}"
    if report.when != "teardown":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a thread, a process, an open file or a mesh behind; processes are killed, not passed on.

    A test that failed already is not blamed again: its traceback holds on to what it had open.
    """
    tag = uuid.uuid4().hex
    before = _traces()
    # Not the test's own monkeypatch: that one must be undone before this fixture looks around.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TAG, tag)
        yield
    complaints = _awaited_empty(request, lambda: _left_behind(before, tag))
    for process in _processes_of_the_test(before.pids, tag):
        _end(process)
    if complaints and not _failed(request):
        pytest.fail("the test left behind:\n" + "\n".join(complaints), pytrace=False)


@pytest.fixture
def mesh_dir(request: pytest.FixtureRequest, _nothing_is_left_behind: None) -> Iterator[Path]:
    """A directory for one mesh. Its router is stopped afterwards; any other process that still uses it fails the test.

    Routers are let off because they outlive those who start them by design. The path is short: a unix socket's may have
    107 bytes.
    """
    directory = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    yield directory
    strays = _awaited_empty(request, lambda: _users_of(directory, routers=False))
    complaints = [_describe(process) for process in strays]
    for process in [*strays, *_users_of(directory, routers=True)]:
        _end(process)
    shutil.rmtree(directory, ignore_errors=True)
    if complaints and not _failed(request):
        pytest.fail(f"still running in {directory}:\n" + "\n".join(complaints), pytrace=False)


@pytest.fixture
def mesh_url(mesh_dir: Path) -> str:
    return f"mesh://{mesh_dir}"


def _left_behind(before: Traces, tag: str) -> list[str]:
    """One line for each thing that has come since `before` and is the test's. Collects garbage where it may help."""
    if _traces().files - before.files:
        gc.collect()
    after = _traces()
    return [
        *(f"  thread {thread.name}" for thread in after.threads - before.threads),
        *(f"  {_describe(process)}" for process in _processes_of_the_test(before.pids, tag)),
        *(f"  descriptor {number}: {target}" for number, target in sorted(after.files - before.files)),
        *(f"  mesh {mesh}" for mesh in sorted(after.meshes - before.meshes) if not _users_of(mesh)),
    ]


def _traces() -> Traces:
    return Traces(
        threads=frozenset(threading.enumerate()),
        pids=frozenset(psutil.pids()),
        files=frozenset(_open_files()),
        meshes=frozenset(NAMED_MESHES.iterdir() if NAMED_MESHES.is_dir() else ()),
    )


def _open_files() -> Iterator[tuple[int, str]]:
    # The tracker of multiprocessing starts with the first need and lives as long as the interpreter.
    tracker = multiprocessing.resource_tracker._resource_tracker._fd  # type: ignore[attr-defined]
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        if int(name) != tracker:
            yield int(name), target


def _processes_of_the_test(before: frozenset[int], tag: str) -> list[psutil.Process]:
    """Those it started and those they started, in whatever session and whoever is their parent by now.

    What a process that was there before the test has started since belongs to the wider fixture that owns that process.
    """
    own, found = psutil.Process(), []
    tracker = multiprocessing.resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    for pid in sorted(set(psutil.pids()) - before - {tracker}):
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                _reap(process)
            elif _descends(process, own, before) or process.environ().get(TAG) == tag:
                found.append(process)
        except psutil.Error:  # it is gone, or another user's
            continue
    return found


def _descends(process: psutil.Process, ancestor: psutil.Process, before: frozenset[int]) -> bool:
    for parent in process.parents():
        if parent == ancestor:
            return True
        if parent.pid in before:
            return False
    return False


def _users_of(directory: Path, *, routers: bool | None = None) -> list[psutil.Process]:
    """The processes with the directory in their command line: only routers, all but routers, or all."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if process.pid != os.getpid() and _names(line, directory) and routers in (None, "mesh.router" in line):
            found.append(process)
    return found


def _names(line: str, directory: Path) -> bool:
    """Whether the directory itself is named, and not one whose name it begins."""
    return re.search(rf"{re.escape(str(directory))}(?![\w.-])", line) is not None


def _describe(process: psutil.Process) -> str:
    with process.oneshot():
        try:
            return f"process {process.pid} ({process.status()}): {' '.join(process.cmdline())}"
        except psutil.Error:
            return f"process {process.pid}, which has just ended"


def _end(process: psutil.Process) -> None:
    """SIGTERM, then SIGKILL to one that has not gone by the deadline or is stopped and can't hear."""
    try:
        if process.status() != psutil.STATUS_STOPPED:
            process.terminate()
            if _has_ended(process):
                return
        process.kill()
        _has_ended(process)
    except psutil.NoSuchProcess:
        pass


def _has_ended(process: psutil.Process) -> bool:
    """Whether it ends in time. Its death counts and not its burial: where pid 1 is slow to reap, that takes seconds."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        ended = bool(select.select([pidfd], [], [], PATIENCE_S)[0])
    finally:
        os.close(pidfd)
    _reap(process)
    return ended


def _reap(process: psutil.Process) -> None:
    try:
        process.wait(0)
    except psutil.Error:
        pass


def _failed(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.stash.get(FAILED, False))


def _awaited_empty(request: pytest.FixtureRequest, look: Callable[[], list[Seen]]) -> list[Seen]:
    """What is still seen when patience ends. For a test that failed that is at once: it may not have said stop."""
    deadline_mono_s = time.monotonic() + (0 if _failed(request) else PATIENCE_S)
    pause_s, never = 0.001, threading.Event()
    while (seen := look()) and time.monotonic() < deadline_mono_s:
        never.wait(pause_s)
        pause_s = min(pause_s * 2, 0.1)
    return seen


def pytest_configure(config: pytest.Config) -> None:
    """A shell that runs the tests in the background has them, and all they start, ignore Ctrl-C; here it is tested."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
