"""A mesh of real processes, fresh for a test or shared by the tests of a module that leave it as it was."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from mesh import Mesh
from mesh.testing import start_worker
from tests.mesh import proj
from tests.mesh.running import Host, eventually


@pytest.fixture(scope="session", autouse=True)
def _thread_of_pyzmq() -> None:
    """pyzmq starts a thread with the first large message that it sends without a copy, and keeps it for good."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://large")
        other.connect("inproc://large")
        one.send(bytes(1 << 20), copy=False)
        other.recv()


@pytest.fixture
def host(mesh_dir: Path, tmp_path: Path) -> Iterator[Host]:
    """A mesh of the test's own. Nothing runs in it yet."""
    host = Host(mesh_dir, tmp_path)
    yield host
    host.close()


@pytest.fixture
def app(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mesh]:
    """The project's app in this process, a client of the test's mesh. It connects with the first call."""
    yield from _app_of(host, monkeypatch)


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A mesh with one node of two slots, for tests that leave it as it was."""
    directory = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    host = Host(directory, tmp_path_factory.mktemp("logs"))
    try:
        host.start_node()
        yield host
    finally:
        host.close()
        end_router(host)
        shutil.rmtree(directory)


@pytest.fixture
def shared_app(shared_host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mesh]:
    """The project's app in this process, a client of the shared mesh."""
    yield from _app_of(shared_host, monkeypatch)


def _app_of(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mesh]:
    monkeypatch.delenv("MESH_BROKER_URL", raising=False)
    proj.app.conf.broker_url = host.url
    proj.app.set_current()  # other tests make apps too, and the last one made is the current one
    yield proj.app
    proj.app.close()


@pytest.fixture
def in_process_app() -> Iterator[Mesh]:
    """The project's app, a client of a mesh in this process with one node of two slots: nothing of it can be killed."""
    with start_worker(proj.app, concurrency=2, hostname="n1@here"):
        proj.app.set_current()
        yield proj.app


@pytest.fixture
def in_process_host(in_process_app: Mesh, tmp_path: Path) -> Iterator[Host]:
    """That mesh, for processes beside it."""
    host = Host(Path(in_process_app.conf.broker_url.removeprefix("mesh://")), tmp_path)
    yield host
    host.close()


def end_router(host: Host) -> None:
    """Stops the router of a host, where one runs."""
    pid = host.router_pid()
    if pid:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not host.router_pid())
