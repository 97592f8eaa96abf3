"""Where a process is at the moment: whatever it does, it says so, and is not harmed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh import stacks
from tests.edges.fake_node import wait_for

ROOT = Path(__file__).resolve().parents[2]

#: A process that writes on request, and does one thing.
ASKED = """
import hashlib, os, sys, threading, time
from mesh import stacks

def sleeps():
    time.sleep(600)

def counts_in_c():
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", (1 << 31) - 1)

def counts_in_c_and_sleeps():
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 3_000_000)
    sleeps()

def holds_the_gil():
    (1 << 20_000_000) % ((1 << 9_999_999) - 1)

def runs():
    while True:
        makes_frames(5)

def makes_frames(depth):
    sorted([3, 1, 2], key=lambda value: -value)
    return makes_frames(depth - 1) if depth else 0

def another_thread_sleeps():
    threading.Thread(target=sleeps, daemon=True).start()
    counts_in_c()

stacks.write_on_request(int(sys.argv[1]))
print("ready", flush=True)
globals()[sys.argv[2]]()
"""


@pytest.fixture
def fd() -> Iterator[int]:
    fd = stacks.make_file()
    yield fd
    os.close(fd)


@pytest.fixture
def start(fd: int) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started = []

    def start(function: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", ASKED, str(fd), function],
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("function", ["sleeps", "counts_in_c", "holds_the_gil", "runs", "another_thread_sleeps"])
def test_a_process_says_in_which_function_each_of_its_threads_is(start, fd: int, function: str) -> None:
    # Given a process that does this
    process = start(function)

    # When it is asked, twice
    functions = {function, "sleeps"} if function == "another_thread_sleeps" else {function}
    for _ in range(2):
        wait_for(lambda: functions <= set(re.findall(r"in (\w+)", stacks.of(process.pid, fd))), function)

    # Then it says so each time, and goes on
    assert process.poll() is None


def test_a_busy_process_survives_being_asked(start, fd: int) -> None:
    # Given a process that makes frames as fast as it can
    process = start("runs")

    # When it is asked again and again
    for _ in range(100):
        assert "in makes_frames" in stacks.of(process.pid, fd) or process.poll() is None

    # Then it still runs
    assert process.poll() is None


def test_what_one_process_says_too_late_is_not_taken_for_what_another_says(start, fd: int) -> None:
    # Given a process in C code, which could be asked only at once, and has still to act on the first signal
    late = start("counts_in_c_and_sleeps")
    wait_for(lambda: "in counts_in_c_and_sleeps" in stacks.of(late.pid, fd), "the C code")
    other = start("sleeps")
    wait_for(lambda: "in sleeps" in stacks.of(other.pid, fd), "the other one")

    # When it leaves the C code, while another one is asked
    texts = []
    while not has_slept(late.pid):
        texts.append(stacks.of(other.pid, fd))

    # Then only the other one is heard
    assert texts
    assert all("in sleeps" in text and "counts" not in text for text in texts)


def has_slept(pid: int) -> bool:
    return ") S" in Path(f"/proc/{pid}/stat").read_text()


def test_a_process_that_is_gone_says_nothing(start, fd: int) -> None:
    process = start("runs")
    process.kill()
    process.wait()
    assert stacks.of(process.pid, fd) == ""


def test_a_process_says_where_it_is_itself(fd: int) -> None:
    never = threading.Event()
    thread = threading.Thread(target=never.wait, name="waits")
    thread.start()
    text = stacks.own(fd)
    never.set()
    thread.join()
    assert "test_a_process_says_where_it_is_itself" in text
    assert "in wait" in text
