"""The pidfile: there while its process runs, taken over from the dead, and removed by nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import pidfile

DEADLINE_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w1.pid"


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_is_there_meanwhile_and_holds_the_pid_and_nothing_is_left(path: Path) -> None:
    with pidfile.held(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == []


def test_without_a_path_there_is_none() -> None:
    with pidfile.held(None):
        pass


@pytest.mark.parametrize("whose", ["a dead process's", "an earlier process's with the same pid"])
def test_a_stale_one_is_replaced(path: Path, whose: str) -> None:
    path.write_text(f"{_dead_pid() if 'dead' in whose else os.getpid()}\n")
    with pidfile.held(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_one_of_a_process_that_runs_is_left_alone(path: Path) -> None:
    # Given the file of another process
    path.write_text(f"{os.getppid()}\n")

    # When it is to be taken
    with pytest.raises(pidfile.PidfileTaken, match=rf"{path} can't be made: process {os.getppid()} has it, and runs"):
        pidfile.acquire(str(path))

    # Then nothing has changed
    assert path.read_text() == f"{os.getppid()}\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "pid\n", "0\n", "-1\n"])
def test_one_that_holds_no_pid_is_not_touched(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(pidfile.PidfileTaken, match=r"holds no pid\. Look whose it is, and remove it"):
        pidfile.acquire(str(path))
    assert path.read_text() == content


def test_where_none_can_be_made_the_reason_is_told(path: Path) -> None:
    with pytest.raises(pidfile.PidfileTaken, match=r"No such file or directory\. Give another --pidfile"):
        pidfile.acquire(str(path / "not" / "there"))


def test_one_that_is_another_process_s_by_now_is_not_removed(path: Path) -> None:
    with pidfile.held(str(path)):
        path.write_text(f"{os.getppid()}\n")
    assert path.read_text() == f"{os.getppid()}\n"


def test_one_that_is_gone_already_is_no_error(path: Path) -> None:
    with pidfile.held(str(path)):
        path.unlink()


RACER = """
import sys
from mesh import pidfile
sys.stdin.read(1)
try:
    pidfile.acquire(sys.argv[1])
except pidfile.PidfileTaken:
    print("taken", flush=True)
else:
    print("mine", flush=True)
sys.stdin.read()
"""


def test_of_many_who_replace_a_stale_one_at_once_one_succeeds(path: Path) -> None:
    # Given a stale file, and processes that wait for a word
    path.write_text(f"{_dead_pid()}\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(path)], **pipes, text=True)  # type: ignore[call-overload]
        for _ in range(6)
    ]

    # When all get it
    for racer in racers:
        racer.stdin.write("x")
        racer.stdin.flush()
    said = [racer.stdout.readline().strip() for racer in racers]
    holder = path.read_text()
    for racer in racers:
        racer.communicate(timeout=DEADLINE_S)

    # Then one has it
    assert sorted(said) == ["mine", *["taken"] * 5]
    assert holder == f"{racers[said.index('mine')].pid}\n"


def test_one_of_a_dead_process_that_nobody_has_reaped_is_stale(path: Path) -> None:
    # Given a zombie
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    path.write_text(f"{process.pid}\n")

    # When / Then
    with pidfile.held(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    process.wait()
