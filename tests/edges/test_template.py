"""The host of a node's slots: it loads the app, and has slots run as its pool does. Forked, or started anew."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mesh.pools.hosting import Channel, HostLine
from mesh.transport import Processes
from tests.edges.fake_node import DEADLINE_S, wait_for

ROOT = Path(__file__).resolve().parents[2]

#: A supervisor in a process of its own: a host must be forked before any thread exists. It does what it is told. Its
#: slots say in a file who they are, and run until they are to end; those in the seats 1 and 2 end by themselves.
SUPERVISOR = """
import json, os, select, signal, sys, threading, time
from mesh import stacks
from mesh.exceptions import MeshError
from mesh.pools.hosting import LoadedApp, SlotOrder, waits_for_its_turn
from mesh.registry import Registry
from mesh.template import HostPlan, Program, SharedFiles, Template, become_what_was_ordered

load_as, start_as, pool, preload = {load!r}, {start!r}, {pool!r}, {preload!r}

def load():
    if load_as == "fails":
        raise RuntimeError("no such module")
    if load_as == "refuses":
        raise MeshError("the app says no")
    if load_as == "exits":
        sys.exit(3)
    if load_as == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if load_as == "threads":
        threading.Thread(target=threading.Event().wait, name="pool", daemon=True).start()
    return LoadedApp(Registry(), {{"app": "x", "tasks": [], "pid": os.getpid(), "frozen": 0}})

class Slot:
    def __init__(self, app, order, lifeline):
        self.app, self.order, self.lifeline = app, order, lifeline
    def note(self, what):
        with open(self.order.page_path, "a") as log:
            print(what, self.order.seat, os.getpid(), os.getppid(), self.app.info["pid"], flush=True, file=log)
    def run(self):
        if self.order.seat == 1:
            os._exit(7)
        if self.order.seat == 2:
            raise RuntimeError("a slot that fails")
        self.note("standby" if self.order.standby else "runs")
        while select.select([self.lifeline], [], []) and waits_for_its_turn(self.lifeline):
            self.note("goes")
    def interrupt(self):
        self.note("interrupted")

class Maker:
    def make(self, app, order, lifeline):
        return Slot(app, order, lifeline)
    def close(self):
        pass

def tell(*what):
    print(json.dumps(what, default=repr), flush=True)

plan = HostPlan(load, pool, Maker(), preload)
become_what_was_ordered(plan)
files = SharedFiles(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), stacks.make_file())
if start_as == "fork":
    template = Template.fork(plan, files)
else:
    program = Program((sys.executable, *sys.orig_argv[1:]), os.getcwd())
    template = Template.execute(program, files, preload=preload, pool=pool)
tell("said", template.receive())
for line in sys.stdin:
    word, *rest = json.loads(line)
    if word == "spawn":
        seat, log, standby = rest
        template.spawn(SlotOrder(seat, "m", "/d", "n", ("q",), log, 4, files.alarm_fd, standby=standby))
        tell("said", template.receive())
    elif word == "hear":
        tell("said", template.receive())
    elif word == "stacks":
        tell("stacks", stacks.of(rest[0], files.stacks_fd))
    elif word == "pid":
        tell("pid", template.pid)
    elif word == "close":
        tell("closed", *template.close())
    else:
        getattr(template, word)(*rest)
        tell("done")
"""


class Supervisor:
    """A supervisor process, and what it says."""

    def __init__(
        self, log: Path, load: str = "works", *, start: str = "fork", pool: str = "prefork", preload: bool = True
    ) -> None:
        self.log = log
        program = SUPERVISOR.format(load=load, start=start, pool=pool, preload=preload)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.first = self._read()

    def _read(self) -> list[Any]:
        assert self.process.stdout is not None
        said: list[Any] = json.loads(self.process.stdout.readline())
        return said

    def tell(self, *what: object) -> list[Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._read()

    def spawn(self, seat: int, *, standby: bool = False) -> list[Any]:
        """What the host says to this order."""
        return packet(self.tell("spawn", seat, str(self.log), standby))

    def hear(self) -> list[Any]:
        return packet(self.tell("hear"))

    def notes(self) -> list[list[str]]:
        """What slots have written: word, seat, pid, parent, the process that loaded the app."""
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def noted(self, count: int) -> list[list[str]]:
        """The notes, once there are so many."""
        wait_for(lambda: len(self.notes()) >= count, f"{count} notes")
        return self.notes()

    def close(self) -> None:
        if self.process.poll() is not None:
            return
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait(DEADLINE_S)


def packet(said: list[Any]) -> list[Any]:
    """What came from the host."""
    assert said[0] == "said"
    assert isinstance(said[1], list), said
    return said[1]


Start = Callable[..., Supervisor]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts supervisors."""
    started: list[Supervisor] = []

    def make(load: str = "works", **how: Any) -> Supervisor:
        started.append(Supervisor(tmp_path / "log", load, **how))
        return started[-1]

    yield make
    for one in started:
        one.close()


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


def ended(processes: Processes, count: int) -> list[int]:
    """The watched processes that have ended, once they are so many."""
    found: list[int] = []
    give_up = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < give_up:
        select.select([processes.fileno()], [], [], 1.0)
        found += processes.ended()
    return sorted(found)


STARTS = pytest.mark.parametrize("how", ["fork", "execute"])


@STARTS
def test_a_template_loads_the_app_once_and_forks_slots_of_it(start: Start, how: str) -> None:
    # Given a template
    supervisor = start(start=how)
    word, info = packet(supervisor.first)
    assert (word, info["obstacle"]) == ("loaded", "")
    assert supervisor.tell("pid") == ["pid", info["pid"]]

    # When two slots are ordered
    spawned = [supervisor.spawn(seat) for seat in (0, 3)]

    # Then they are children of the template, which says who they are, and have the app that it has loaded
    assert [one[:2] for one in spawned] == [["spawned", 0], ["spawned", 3]]
    loaded_in = str(info["pid"])
    assert sorted(supervisor.noted(2)) == sorted(
        ["runs", str(one[1]), str(one[2]), loaded_in, loaded_in] for one in spawned
    )

    # And when they are told to they end, which it tells with their status and memory
    assert supervisor.tell("end") == ["done"]
    exited = [supervisor.hear() for _ in range(2)]
    assert {(one[1], one[2]) for one in exited} == {(one[1], one[2]) for one in spawned}
    assert all(one[0] == "exited" and one[3] == 0 for one in exited)
    assert all(isinstance(one[4], int) and one[4] > 1000 for one in exited)
    word, status, peak_kib = supervisor.tell("close")
    assert (word, status) == ("closed", 0)
    assert peak_kib > 1000


@STARTS
@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_slots_of_the_other_pools_run_in_the_process_that_has_the_app(start: Start, how: str, pool: str) -> None:
    # Given such a host
    supervisor = start(start=how, pool=pool)
    _, info = packet(supervisor.first)

    # When a slot is ordered, and told to end
    assert supervisor.spawn(0) == ["spawned", 0, info["pid"]]
    assert [note[:3] for note in supervisor.noted(1)] == [["runs", "0", str(info["pid"])]]
    supervisor.tell("end", 0)

    # Then its end is told, and another one runs in its seat
    assert supervisor.hear()[:4] == ["exited", 0, info["pid"], 0]
    assert supervisor.spawn(0) == ["spawned", 0, info["pid"]]
    supervisor.noted(2)
    supervisor.tell("end")
    assert supervisor.hear()[:4] == ["exited", 0, info["pid"], 0]
    assert supervisor.tell("close")[:2] == ["closed", 0]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_slot_on_standby_is_told_to_go_and_to_end_in_that_order(start: Start, pool: str) -> None:
    # Given a slot on standby
    supervisor = start(pool=pool)
    supervisor.spawn(0, standby=True)
    assert supervisor.noted(1)[0][0] == "standby"

    # When it is told to go, and so is a seat where nobody sits
    supervisor.tell("go", 3)
    supervisor.tell("go", 0)

    # Then it goes, and ends when it is told to
    assert supervisor.noted(2)[1][0] == "goes"
    supervisor.tell("end", 0)
    assert supervisor.hear()[0] == "exited"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_only_the_slot_that_is_meant_is_interrupted(start: Start, pool: str) -> None:
    # Given a slot, or two where the pool has several
    supervisor = start(pool=pool)
    seats = (0,) if pool == "solo" else (0, 3)
    for seat in seats:
        supervisor.spawn(seat)
    supervisor.noted(len(seats))

    # When one is interrupted, and so is a seat where nobody sits
    supervisor.tell("interrupt", 2)
    supervisor.tell("interrupt", seats[-1])

    # Then only that one notices
    notes = supervisor.noted(len(seats) + 1)
    assert [note[:2] for note in notes[len(seats) :]] == [["interrupted", str(seats[-1])]]


@pytest.mark.parametrize(("seat", "status"), [(1, 7 << 8), (2, 1 << 8)], ids=["exits", "fails"])
def test_the_end_of_a_slot_is_told_with_its_status_and_the_next_is_forked(start: Start, seat: int, status: int) -> None:
    # Given a slot that ends by itself
    supervisor = start()
    pid = supervisor.spawn(seat)[2]

    # Then its end is told
    assert supervisor.hear()[:4] == ["exited", seat, pid, status]

    # And the template goes on
    assert supervisor.spawn(0)[0] == "spawned"


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_slot_that_fails_in_a_shared_process_leaves_it_as_it_is(start: Start, pool: str) -> None:
    supervisor = start(pool=pool)
    pid = supervisor.spawn(2)[2]
    assert supervisor.hear()[:4] == ["exited", 2, pid, 1 << 8]
    assert supervisor.spawn(0) == ["spawned", 0, pid]


def test_a_killed_slot_is_told_with_its_signal(start: Start) -> None:
    supervisor = start()
    pid = supervisor.spawn(0)[2]
    os.kill(pid, signal.SIGKILL)
    assert supervisor.hear()[:4] == ["exited", 0, pid, signal.SIGKILL]


@STARTS
@pytest.mark.parametrize("preload", [True, False], ids=["preloaded", "not preloaded"])
@pytest.mark.parametrize(
    ("load", "text", "in_trace"),
    [
        ("fails", "the app did not load: RuntimeError: no such module", "RuntimeError: no such module"),
        ("refuses", "the app says no", ""),
        ("exits", "the app did not load: SystemExit: 3", "SystemExit: 3"),
    ],
)
def test_an_app_that_does_not_load_is_told_with_its_reason(
    start: Start, how: str, preload: bool, load: str, text: str, in_trace: str
) -> None:
    supervisor = start(load, start=how, preload=preload)
    word, reason, trace = packet(supervisor.first)
    assert (word, reason) == ("failed", text)
    assert in_trace in trace
    assert bool(trace) is bool(in_trace)
    assert supervisor.tell("close")[:2] == ["closed", 1 << 8]


def test_an_app_that_is_not_preloaded_is_loaded_in_each_slot(start: Start) -> None:
    # Given a host that does not preload
    supervisor = start("threads", preload=False)
    word, info = packet(supervisor.first)
    assert (word, info["obstacle"]) == ("loaded", "")

    # When two slots run
    pids = [str(supervisor.spawn(seat)[2]) for seat in (0, 3)]

    # Then each has loaded the app itself, and the host has not
    assert sorted(note[4] for note in supervisor.noted(2)) == sorted(pids)


def test_a_thread_that_an_import_has_started_is_an_obstacle_only_to_a_fork(start: Start) -> None:
    assert "starts a thread (pool)" in packet(start("threads").first)[1]["obstacle"]
    assert packet(start("threads", pool="threads").first)[1]["obstacle"] == ""


@pytest.mark.parametrize("preload", [True, False], ids=["preloaded", "not preloaded"])
def test_what_dies_while_it_loads_is_told(start: Start, preload: bool) -> None:
    # Given an app at which the process that loads it dies
    supervisor = start("dies", preload=preload)

    # Then the supervisor hears of it, and may order and close as if the host were there
    if preload:
        assert supervisor.first == ["said", None]
        assert supervisor.tell("spawn", 0, str(supervisor.log), False) == ["said", None]
        assert supervisor.tell("close")[:2] == ["closed", signal.SIGKILL]
    else:
        assert packet(supervisor.first)[:2] == [
            "failed",
            "the process that loads the app was ended by signal 9 (SIGKILL)",
        ]


@STARTS
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_host_and_slots_die_with_their_supervisor(start: Start, processes: Processes, how: str, pool: str) -> None:
    # Given a host and a slot
    supervisor = start(start=how, pool=pool)
    _, info = packet(supervisor.first)
    pids = {info["pid"], supervisor.spawn(0)[2]}
    supervisor.noted(1)
    assert all(processes.watch(pid) for pid in pids)

    # When the supervisor is killed
    supervisor.process.kill()
    supervisor.process.wait(DEADLINE_S)

    # Then all die
    assert ended(processes, len(pids)) == sorted(pids)
    for stream in (supervisor.process.stdin, supervisor.process.stdout):
        assert stream is not None
        stream.close()


def test_slots_die_with_their_host(start: Start, processes: Processes) -> None:
    supervisor = start()
    pid = supervisor.spawn(0)[2]
    supervisor.noted(1)
    assert processes.watch(pid)
    supervisor.tell("kill")
    assert supervisor.tell("hear") == ["said", None]
    assert ended(processes, 1) == [pid]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_signals_to_the_whole_group_are_left_to_the_supervisor(start: Start, pool: str) -> None:
    # Given a host and a slot that runs
    supervisor = start(pool=pool)
    _, info = packet(supervisor.first)
    pid = supervisor.spawn(0)[2]
    supervisor.noted(1)

    # When both get what a terminal, or an operator, sends to all
    for one in {info["pid"], pid}:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(one, number)
            wait_for(partial(has_taken_signals, one), "the signal")

    # Then they go on, and end in order when they are told to
    supervisor.tell("end")
    assert supervisor.hear()[:4] == ["exited", 0, pid, 0]
    assert supervisor.tell("close")[:2] == ["closed", 0]


def has_taken_signals(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return not any(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd")))


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_host_that_cannot_start_a_slot_says_so_and_the_others_run_on(start: Start, pool: str) -> None:
    # Given a host with a slot that may open no more files
    supervisor = start(pool=pool)
    _, info = packet(supervisor.first)
    slot = supervisor.spawn(0)
    supervisor.noted(1)
    may_open(info["pid"], 3)

    # When another slot is ordered, then that can't be started, which is told
    said = supervisor.spawn(3)
    assert (said[:2], said[3]) == (["exited", 3], 1 << 8)

    # And the first has gone on, and others follow when there is room again
    may_open(info["pid"], 256)
    assert supervisor.spawn(3)[0] == "spawned"
    supervisor.noted(2)
    supervisor.tell("end")
    assert (0, slot[2], 0) in {tuple(supervisor.hear()[1:4]) for _ in range(2)}


def may_open(pid: int, files: int) -> None:
    """How many files a process may have open from here on."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, hard))


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_stacks_of_a_slot_are_written_on_request(start: Start, pool: str) -> None:
    # Given a slot that waits
    supervisor = start(pool=pool)
    pid = supervisor.spawn(0)[2]
    supervisor.noted(1)

    # When its stacks are asked for, twice
    texts = [supervisor.tell("stacks", pid)[1] for _ in range(2)]

    # Then they name the function in which it is, each time from the beginning
    assert all("in run" in text and text.count("most recent call first") >= 1 for text in texts)
    assert texts[0] == texts[1]


def test_what_a_host_says_may_be_longer_than_a_packet():
    # Given both ends of a channel
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line, channel = HostLine(os.getpid(), ours), Channel(theirs)

    # When the host says what is longer than any socket takes at once, while the supervisor listens
    names = [f"project.package.module.task_{number:05d}_{'x' * 50}" for number in range(20_000)]
    thread = threading.Thread(target=channel.say, args=("loaded", {"tasks": names}))
    thread.start()

    # Then it arrives whole
    assert line.receive() == ["loaded", {"tasks": names}]
    thread.join()

    # And an end that is gone is told from one that can't be sent to
    channel.close()
    assert line.receive() is None
    line.end()
    ours.close()
