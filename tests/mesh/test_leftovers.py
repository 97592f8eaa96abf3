"""What lies in a mesh's directory: sockets and pages go with those they belong to, however these end."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from mesh import Mesh
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, Process, eventually

#: What a mesh keeps when all have gone: the tag in its ids, two locks, and what a router on demand had to say.
KEPT = {"journal.db", "owner.tag", "router.lock", "start.lock", "router.log"}

#: A program that has had a result, and stays.
STAY = """
import signal
from tests.mesh.proj import tasks
print(tasks.add.delay(20, 22).get(30), flush=True)
signal.pause()
"""


def of_clients(host: Host) -> set[str]:
    return {name for name in host.files() if name.startswith("c-")}


def pages(host: Host) -> set[str]:
    return {name for name in host.files() if name.startswith("n-")}


def start_client(host: Host) -> Process:
    client = host.start_script(STAY)
    eventually(lambda: client.said == "42\n")
    return client


def stop_router(host: Host) -> None:
    os.kill(host.router_pid(), signal.SIGTERM)
    eventually(lambda: not host.router_pid())


def test_nothing_but_the_documented_files_is_left_when_all_have_stopped(host: Host, app: Mesh):
    # Given a mesh in use
    node = host.start_node()
    assert tasks.add.delay(1, 1).get(DEADLINE_S) == 2
    assert len(pages(host)) == 1
    assert len(of_clients(host)) == 1

    # When all stop in good order
    app.close()
    node.stop()
    stop_router(host)

    # Then these files are left, in a directory that is closed to others
    assert host.files() == KEPT
    assert host.directory.stat().st_mode & 0o077 == 0


def test_the_reply_socket_of_a_killed_client_goes_with_it(host: Host):
    # Given two clients that have had a result
    host.start_node(slots=1)
    victim = start_client(host)
    (socket_of_victim,) = of_clients(host)
    start_client(host)

    # When one is killed
    victim.stop(signal.SIGKILL)

    # Then its reply socket goes, and that of the other stays
    eventually(lambda: socket_of_victim not in of_clients(host))
    assert len(of_clients(host)) == 1


def test_the_slot_page_of_a_killed_node_goes_with_it(host: Host):
    # Given two nodes
    victim, other = host.start_node("n1", slots=1), host.start_node("n2", slots=1)
    assert len(pages(host)) == 2

    # When one is killed
    victim.stop(signal.SIGKILL)

    # Then its page goes, and that of the other stays
    eventually(lambda: pages(host) == {f"n-{other.pid}.page"})


def test_what_died_while_no_router_was_there_is_cleaned_up_by_the_next_one(host: Host):
    # Given a mesh whose processes were all killed, the router first
    node = host.start_node(slots=1)
    client = start_client(host)
    stale = host.files() - KEPT
    for process in (client, node):
        process.send(signal.SIGSTOP)
    os.kill(host.router_pid(), signal.SIGKILL)
    for process in (client, node):
        process.stop(signal.SIGKILL)
    assert host.files() >= stale

    # When a router starts, a while after the last of them was there
    for name in of_clients(host):
        os.utime(host.directory / name, (time.time() - 60, time.time() - 60))
    router = host.start_router()
    eventually(lambda: "ready" in router.said)

    # Then only its own files are there
    assert host.files() == KEPT | {"router.sock", "control.sock", "journal.db-wal", "journal.db-shm"}


@pytest.mark.parametrize("age_s", [0, 60])
def test_a_router_that_starts_leaves_what_is_in_use_alone(host: Host, age_s: int):
    # Given a reply socket that somebody listens on, and one that is young and may be about to be
    host.directory.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as young:
        listening.bind(str(host.directory / "c-000000001.sock"))
        listening.listen()
        os.utime(host.directory / "c-000000001.sock", (time.time() - age_s,) * 2)
        young.bind(str(host.directory / "c-000000002.sock"))
        (host.directory / f"n-{os.getpid()}.page").touch()

        # When a router starts
        router = host.start_router()
        eventually(lambda: "ready" in router.said)

        # Then they stay
        assert of_clients(host) == {"c-000000001.sock", "c-000000002.sock"}
        assert pages(host) == {f"n-{os.getpid()}.page"}
