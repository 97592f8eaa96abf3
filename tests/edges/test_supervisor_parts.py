"""What supervisors are made of: wake-ups, and deaths of processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
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
