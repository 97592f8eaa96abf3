"""What supervisors are made of: wake-ups, deaths of processes, and the template from which slots are forked."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.transport import Poller, Processes, Wakeup
from tests.edges.fake_node import DEADLINE_S, wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup()
    yield wakeup
    wakeup.close()


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


def is_ready(source: Wakeup | Processes, timeout_s: float = 0.0) -> bool:
    return bool(select.select([source.fileno()], [], [], timeout_s)[0])


# --- wake-ups ------------------------------------------------------------------------------------


def test_a_wakeup_ends_a_wait_once_however_often_it_was_set(wakeup):
    # Given nothing, then a hundred thousand wake-ups, more than a pipe holds
    assert not is_ready(wakeup)
    for _ in range(100_000):
        wakeup.set()

    # Then the wait ends
    assert is_ready(wakeup)

    # And once it is cleared no wait ends before the next
    for _ in range(3):
        wakeup.clear()
    assert not is_ready(wakeup)
    wakeup.set()
    assert is_ready(wakeup)


def test_a_wakeup_from_another_thread_ends_an_endless_wait(wakeup):
    poller = Poller()
    poller.add(wakeup.fileno())
    timer = threading.Timer(0.01, wakeup.set)
    timer.start()
    assert wakeup.fileno() in poller.wait(None)
    timer.join()


def test_a_closed_wakeup_writes_to_nobody():
    # Given a wake-up that is closed, and another file that has got its number
    wakeup = Wakeup()
    wakeup.close()
    read, write = os.pipe2(os.O_NONBLOCK)

    # When a thread that has not heard of it sets it
    wakeup.set()

    # Then the other file is as it was
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    os.close(read)
    os.close(write)


def test_a_signal_that_comes_before_the_wait_ends_it(wakeup):
    # Given a program whose waits heed signals
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    wakeup.set_on_signals()
    try:
        # When a signal has come, and its handler has run, before the wait
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_for(lambda: heard, "the signal")

        # Then the wait ends all the same
        assert is_ready(wakeup, DEADLINE_S)
        wakeup.clear()
        assert not is_ready(wakeup)
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- deaths --------------------------------------------------------------------------------------


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"])


def test_a_death_is_told_once(processes):
    # Given three watched processes
    children = [sleeper() for _ in range(3)]
    assert all(processes.watch(one.pid) for one in children)
    assert all(processes.watch(one.pid) for one in children)
    assert processes.ended() == []

    # When two die
    for one in children[:2]:
        one.kill()
        assert is_ready(processes, DEADLINE_S)
        one.wait()

    # Then these are told, once
    assert sorted(processes.ended()) == sorted(one.pid for one in children[:2])
    assert processes.ended() == []
    assert not is_ready(processes)

    # And the third when it dies
    children[2].kill()
    children[2].wait()
    assert processes.ended() == [children[2].pid]


def test_a_dead_process_whose_parent_does_not_look_is_dead_all_the_same(processes):
    child = sleeper()
    assert processes.watch(child.pid)
    child.kill()

    # When nobody has reaped it, then its death is known
    assert is_ready(processes, DEADLINE_S)
    assert processes.ended() == [child.pid]
    child.wait()


def test_a_stopped_process_is_not_dead(processes):
    child = sleeper()
    assert processes.watch(child.pid)
    child.send_signal(signal.SIGSTOP)
    wait_for(lambda: ") T" in Path(f"/proc/{child.pid}/stat").read_text(), "the stop")
    assert processes.ended() == []
    child.kill()
    child.wait()


@pytest.mark.parametrize("pid", [0, -1, (1 << 31) - 1])
def test_what_is_no_process_can_not_be_watched(processes, pid):
    assert not processes.watch(pid)
    assert processes.ended() == []


def test_a_process_that_is_gone_can_not_be_watched(processes):
    child = sleeper()
    child.kill()
    child.wait()
    assert not processes.watch(child.pid)


# --- the template --------------------------------------------------------------------------------

#: A supervisor in a process of its own: a template must be forked before any thread exists. It does what it is told.
SUPERVISOR = """
import json, os, select, signal, sys, time
from mesh.exceptions import MeshError
from mesh.registry import Registry
from mesh.template import LoadedApp, SlotOrder, Template

def load():
    if {load!r} == "fails":
        raise RuntimeError("no such module")
    if {load!r} == "refuses":
        raise MeshError("the app says no")
    if {load!r} == "exits":
        sys.exit(3)
    if {load!r} == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return LoadedApp(Registry(), {{"app": "x", "tasks": [], "pid": os.getpid()}})

def run_slot(app, order, lifeline):
    if order.slot == 1:
        os._exit(7)
    if order.slot == 2:
        raise RuntimeError("a slot that fails")
    with open(order.page_path, "a") as log:
        print(os.getpid(), os.getppid(), flush=True, file=log)
    select.select([lifeline], [], [])

def tell(*what):
    print(json.dumps(what, default=repr), flush=True)

template = Template(load, run_slot)
tell("said", template.receive())
for line in sys.stdin:
    word, *rest = json.loads(line)
    if word == "spawn":
        template.spawn(SlotOrder(rest[0], "m", "/d", "n", ("q",), rest[1], 4, template.alarm_fd))
        tell("said", template.receive())
    elif word == "hear":
        tell("said", template.receive())
    elif word == "end":
        template.end()
        template.end()
        tell("ended")
    elif word == "close":
        tell("closed", template.close())
"""


class Supervisor:
    """A supervisor process, and what it says."""

    def __init__(self, load: str = "works") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR.format(load=load)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.first = self.hear()

    def hear(self) -> list[object]:
        assert self.process.stdout is not None
        said: list[object] = json.loads(self.process.stdout.readline())
        return said

    def tell(self, *what: object) -> list[object]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.hear()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait(DEADLINE_S)


def packet(said: list[object]) -> list[object]:
    """What came from the template."""
    assert said[0] == "said"
    assert isinstance(said[1], list)
    return said[1]


def test_a_template_loads_the_app_once_and_forks_slots_of_it(tmp_path):
    # Given a template
    supervisor = Supervisor()
    word, info = packet(supervisor.first)
    assert word == "loaded"
    assert isinstance(info, dict)

    # When two slots are ordered
    log = tmp_path / "log"
    spawned = [packet(supervisor.tell("spawn", slot, str(log))) for slot in (0, 3)]

    # Then they are children of the template, which says who they are
    assert [one[:2] for one in spawned] == [["spawned", 0], ["spawned", 3]]
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) == 2, "both slots")
    assert sorted(log.read_text().splitlines()) == sorted(f"{one[2]} {info['pid']}" for one in spawned)

    # And when the lifeline ends they end, which it tells with their status and memory
    assert supervisor.tell("end") == ["ended"]
    exited = [packet(supervisor.tell("hear")) for _ in range(2)]
    assert {one[1] for one in exited} == {one[2] for one in spawned}
    assert all(one[0] == "exited" and one[2] == 0 for one in exited)
    assert all(isinstance(one[3], int) and one[3] > 1000 for one in exited)
    assert supervisor.tell("close") == ["closed", 0]
    supervisor.close()


@pytest.mark.parametrize(("slot", "status"), [(1, 7 << 8), (2, 1 << 8)], ids=["exits", "fails"])
def test_the_end_of_a_slot_is_told_with_its_status_and_the_next_is_forked(tmp_path, slot, status):
    # Given a slot that ends by itself
    supervisor = Supervisor()
    pid = packet(supervisor.tell("spawn", slot, "/dev/null"))[2]

    # Then its end is told
    assert packet(supervisor.tell("hear"))[:3] == ["exited", pid, status]

    # And the template goes on
    assert packet(supervisor.tell("spawn", 0, str(tmp_path / "log")))[0] == "spawned"
    supervisor.tell("close")
    supervisor.close()


def test_a_killed_slot_is_told_with_its_signal(tmp_path):
    supervisor = Supervisor()
    pid = packet(supervisor.tell("spawn", 0, str(tmp_path / "log")))[2]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    assert packet(supervisor.tell("hear"))[:3] == ["exited", pid, signal.SIGKILL]
    supervisor.tell("close")
    supervisor.close()


@pytest.mark.parametrize(
    ("load", "text"),
    [("fails", "no such module"), ("refuses", "the app says no"), ("exits", "SystemExit")],
)
def test_an_app_that_does_not_load_is_told_with_its_reason(load, text):
    supervisor = Supervisor(load)
    assert packet(supervisor.first)[0] == "failed"
    assert text in str(packet(supervisor.first)[1])
    supervisor.tell("close")
    supervisor.close()


def test_a_template_that_dies_is_gone_and_no_more(tmp_path):
    # Given a template that is killed while it loads
    supervisor = Supervisor("dies")

    # Then the supervisor hears that it is gone, and may order and close as if it were there
    assert supervisor.first == ["said", None]
    assert supervisor.tell("spawn", 0, str(tmp_path / "log")) == ["said", None]
    assert supervisor.tell("close") == ["closed", signal.SIGKILL]
    supervisor.close()


def test_template_and_slots_die_with_their_supervisor(tmp_path, processes):
    # Given a template and a slot
    supervisor = Supervisor()
    _, info = packet(supervisor.first)
    assert isinstance(info, dict)
    pid = packet(supervisor.tell("spawn", 0, str(tmp_path / "log")))[2]
    assert isinstance(pid, int)
    assert processes.watch(info["pid"])
    assert processes.watch(pid)

    # When the supervisor is killed
    supervisor.process.kill()
    supervisor.close()

    # Then both die
    ended: list[int] = []
    give_up = time.monotonic() + DEADLINE_S
    while len(ended) < 2 and time.monotonic() < give_up:
        is_ready(processes, 1.0)
        ended += processes.ended()
    assert sorted(ended) == sorted([info["pid"], pid])


def test_signals_to_the_whole_group_are_left_to_the_supervisor(tmp_path):
    # Given a template and a slot that runs
    supervisor = Supervisor()
    _, info = packet(supervisor.first)
    assert isinstance(info, dict)
    log = tmp_path / "log"
    pid = packet(supervisor.tell("spawn", 0, str(log)))[2]
    assert isinstance(pid, int)
    wait_for(lambda: log.exists() and log.read_text(), "the slot")

    # When both get what a terminal sends to all
    for one in (info["pid"], pid):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            os.kill(one, number)

    # Then they go on, and end in order when they are told to
    assert packet(supervisor.tell("spawn", 3, str(log)))[0] == "spawned"
    wait_for(lambda: len(log.read_text().splitlines()) == 2, "the second slot")
    supervisor.tell("end")
    exited = [packet(supervisor.tell("hear")) for _ in range(2)]
    assert [one[2] for one in exited] == [0, 0]
    assert supervisor.tell("close") == ["closed", 0]
    supervisor.close()
