"""The slot page: whatever the order of steps, a lease is run or given back, and is not run once it was taken back."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mesh.slot_page import (
    BEGINNINGS,
    RECORD_BYTES,
    SETTLE_S,
    Running,
    RunningLimits,
    SlotPage,
    beginnings_of,
    begun_of,
    name_bytes,
)

ROOT = Path(__file__).resolve().parents[2]
ID = bytes(range(16))
DEADLINE_S = 30.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "n-1.page")


@pytest.fixture
def page(path: str) -> Iterator[SlotPage]:
    page = SlotPage(path, 3, create=True)
    yield page
    page.close()


def begin(
    page: SlotPage, lease: int, slot: int = 0, name: str = "shop.pay", task_id: bytes = ID, mono_ns: int = 9_000_000_000
) -> bool:
    return page.begin(slot, lease, task_id, name_bytes(name), 2, 1234.5, mono_ns)


# --- every interleaving --------------------------------------------------------------------------


class Words:
    """Stands in for the mapped file: every access to `begun` and `withdrawn` waits for its turn in the schedule."""

    def __init__(self, page: SlotPage, schedule: tuple[str, ...]) -> None:
        self.page = page
        self.schedule = list(schedule)
        self.turn = threading.Condition()
        self.trace: list[str] = []

    def step(self, who: str, what: str, access: Callable[[], Any]) -> Any:
        with self.turn:
            assert self.turn.wait_for(lambda: not self.schedule or self.schedule[0] == who, DEADLINE_S)
            value = access()
            self.trace.append(f"{who} {what}")
            if self.schedule:
                self.schedule.pop(0)
            self.turn.notify_all()
        return value


def run_schedule(path: str, schedule: tuple[str, ...], leases: int, upto: int) -> tuple[set[int], set[int], int, bool]:
    """Both sides, their accesses in the order of the schedule.

    Returns what was run, what the slot returned, `begun` as the supervisor read it, and whether anything was run late.
    """
    page = SlotPage(path, 1, create=True)
    words = Words(page, schedule)
    run: set[int] = set()
    returned: set[int] = set()
    read_begun: list[int] = []
    late = False

    def slot() -> None:
        nonlocal late
        for lease in range(1, leases + 1):
            # The two steps of `begin`, each an access of its own.
            words.step("slot", "write begun", partial(page._write, 0, lease))
            withdrawn = words.step("slot", "read withdrawn", lambda: page._read(8))
            if withdrawn >= lease:
                returned.add(lease)
            else:
                run.add(lease)
                late = late or (bool(read_begun) and read_begun[0] < lease <= upto)

    def supervisor() -> None:
        words.step("supervisor", "write withdrawn", lambda: page.withdraw(0, upto))
        read_begun.append(words.step("supervisor", "read begun", lambda: page.begun(0)))

    threads = [threading.Thread(target=slot), threading.Thread(target=supervisor)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads)
    page.close()
    return run, returned, read_begun[0], late


@pytest.mark.parametrize("upto", [1, 2, 3])
def test_in_every_order_of_steps_a_lease_is_run_or_given_back_and_never_both_by_the_supervisor(path, upto):
    # Given every order in which the steps of a slot with three leases and of a supervisor that recalls can meet
    leases = 3
    steps = 2 * leases
    orders = set()
    for places in itertools.combinations(range(steps + 2), 2):
        schedule = tuple("supervisor" if at in places else "slot" for at in range(steps + 2))
        orders.add(schedule)

        # When they meet so
        run, returned, begun, late = run_schedule(path, schedule, leases, upto)
        taken_back = set(range(begun + 1, upto + 1))

        # Then each lease is run, or given back by one of them
        assert run | returned | taken_back == set(range(1, leases + 1)), schedule
        # And none that was taken back is run, not even later
        assert not run & taken_back, schedule
        assert not run & returned, schedule
        assert not late, schedule
        # And what was not recalled is run
        assert set(range(upto + 1, leases + 1)) <= run, schedule
    assert len(orders) == 28


def test_the_steps_of_begin_are_in_the_order_on_which_all_of_this_rests(page, monkeypatch):
    # Given a page that tells what is done to its words
    steps: list[str] = []

    class Spy:
        def __init__(self, words: Any) -> None:
            self.words = words

        def __setitem__(self, at: int, value: int) -> None:
            steps.append(f"write {at * 8}")
            self.words[at] = value

        def __getitem__(self, at: int) -> int:
            steps.append(f"read {at * 8}")
            return int(self.words[at])

        def release(self) -> None:
            self.words.release()

    monkeypatch.setattr(page, "_words", Spy(page._words))

    # When a slot begins, then it counts the beginning, and writes `begun` before it reads `withdrawn`
    assert begin(page, 5)
    assert steps == ["read 40", "write 40", "write 0", "read 8"]

    # And the supervisor writes `withdrawn` before it is asked for `begun`
    del steps[:]
    page.withdraw(0, 9)
    assert page.begun(0) == 5
    assert steps == ["read 8", "write 8", "read 0"]


# --- what each side sees -------------------------------------------------------------------------


def test_a_lease_that_was_not_withdrawn_begins_and_shows(page):
    # When a slot begins a lease
    page.enter(1, 4321)
    assert begin(page, 7, slot=1)

    # Then everybody sees it, and only there
    assert page.running(1) == Running(ID, "shop.pay", 2, 1234.5, 7)
    assert (page.begun(1), page.pid(1)) == (7, 4321)
    assert page.running(0) is None
    assert (page.begun(0), page.begun(2)) == (0, 0)

    # And when it has ended it does not run, and is still the last one begun
    page.end(1)
    assert page.running(1) is None
    assert page.begun(1) == 7


@pytest.mark.parametrize(("upto", "may"), [(6, True), (7, False), (8, False), (1 << 62, False)])
def test_a_withdrawn_lease_does_not_begin(page, upto, may):
    page.withdraw(0, upto)
    assert begin(page, 7) is may
    assert (page.running(0) is not None) is may


def test_what_was_withdrawn_as_it_began_is_not_among_the_beginnings(page):
    page.withdraw(0, 7)
    begin(page, 7)
    begin(page, 8)
    assert [lease for _, lease, _, _ in beginnings_of(page.path)[0].begun] == [8]


def test_what_is_withdrawn_stays_withdrawn(page):
    page.withdraw(0, 9)
    page.withdraw(0, 3)
    assert not begin(page, 9)
    assert begin(page, 10)


def test_a_successor_goes_on_behind_all_that_its_predecessor_can_have_known(page):
    # Given a slot that died while it ran, after a recall beyond what it had begun
    begin(page, 7)
    page.withdraw(0, 20)

    # When another takes its record over
    last = page.enter(0, 99)

    # Then it numbers on from there and runs nothing
    assert last == 20
    assert page.running(0) is None
    assert page.pid(0) == 99


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a", "a"), ("x" * 500, "x" * 128), ("ü" * 64, "ü" * 64), ("x" + "ü" * 64, "x" + "ü" * 63 + "�"), ("", "")],
)
def test_a_name_is_shown_as_far_as_it_fits(page, name, shown):
    begin(page, 1, name=name)
    running = page.running(0)
    assert running is not None
    assert running.name == shown


def test_the_page_is_for_its_user_alone_and_stays_when_it_is_closed(path):
    page = SlotPage(path, 2, create=True)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(path).st_size == 2 * (RECORD_BYTES + BEGINNINGS * 32)
    page.close()
    assert os.path.exists(path)


#: A slot that begins one task after the other, each with all its fields from one number, until its page is gone.
CHANGING = """
import os, sys
from mesh.slot_page import SlotPage

page = SlotPage(sys.argv[1], 1, create=False)
print("ready", flush=True)
number = 0
while number % 1000 or os.path.exists(sys.argv[1]):
    number += 1
    letter = b"%c" % (97 + number % 26)
    page.begin(0, number, letter * 16, letter * 100, number % 26, float(number % 26), 1)
    page.end(0)
"""


def test_a_record_that_changes_while_it_is_read_is_never_a_mixture(path):
    # Given a slot process that begins and ends as fast as it can
    page = SlotPage(path, 1, create=True)
    slot = started(CHANGING, path)

    # When it is looked at until it has been seen with many tasks
    seen: set[int] = set()
    give_up = time.monotonic() + DEADLINE_S
    while len(seen) < 40:
        assert time.monotonic() < give_up
        running = page.running(0)
        if running is None:
            continue
        letter = running.name[:1]
        seen.add(running.lease)

        # Then every field is of the same task
        assert running.name == letter * 100
        assert running.task_id == letter.encode() * 16
        assert running.attempt == running.started_wall_s == (ord(letter) - 97)
    page.close()
    os.unlink(path)
    assert slot.wait(DEADLINE_S) == 0


def started(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"ready\n"
    return process


# --- two processes -------------------------------------------------------------------------------

#: A slot in a process of its own: begins leases as the test allows, and writes down which it ran and which it returned.
SLOT = """
import os, sys, time
from mesh.slot_page import SlotPage

path, log, leases = sys.argv[1], sys.argv[2], int(sys.argv[3])
page = SlotPage(path, 1, create=False)
page.enter(0, os.getpid())
with open(log, "wb", buffering=0) as out:
    print("ready", flush=True)
    lease = 0
    while lease < leases:
        lease += 1
        if page.begin(0, lease, b"i" * 16, b"n", 0, 0.0, 1):
            out.write(b"run %d %d\\n" % (lease, time.monotonic_ns()))
            page.end(0)
        else:
            out.write(b"returned %d 0\\n" % lease)
"""


def test_two_processes_that_race_run_each_lease_or_give_it_back(path, tmp_path):
    # Given a slot process that begins leases as fast as it can
    leases = 60_000
    page = SlotPage(path, 1, create=True)
    log = tmp_path / "log"
    slot = started(SLOT, path, str(log), str(leases))

    # When a supervisor recalls a few leases ahead of it, again and again
    taken_back: dict[int, int] = {}
    chance = random.Random(1)
    recalls = 0
    while (begun := page.begun(0)) < leases:
        upto = min(begun + chance.randrange(1, 200), leases)
        page.withdraw(0, upto)
        settle()
        for lease in range(page.begun(0) + 1, upto + 1):
            taken_back[lease] = time.monotonic_ns()
        recalls += 1
    assert slot.wait(DEADLINE_S) == 0
    page.close()

    # Then each lease was run or given back, and none was run that the supervisor had given back
    rows = [line.split() for line in log.read_text().splitlines()]
    run = {int(lease) for word, lease, _ in rows if word == "run"}
    returned = {int(lease) for word, lease, _ in rows if word == "returned"}
    assert run | returned | taken_back.keys() == set(range(1, leases + 1))
    assert not run & returned
    assert not run & taken_back.keys()
    # And they did meet
    assert recalls > 5
    assert returned
    assert run


def settle() -> None:
    """The wait that the supervisor owes the slot between its two steps."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        pass


# --- reading a file that may be anything ---------------------------------------------------------


def test_what_a_slot_had_begun_is_read_from_the_file_when_both_are_gone(page, path):
    # Given a slot that began a lease, and a page that nobody has mapped any more
    page.enter(2, 4321)
    begin(page, 33, slot=2)
    page.close()

    # Then the file tells it, of this process and place only
    assert begun_of(path, 2, 4321) == 33
    assert begun_of(path, 2, 4322) is None
    assert begun_of(path, 1, 4321) is None
    os.unlink(path)


def a_file(content: bytes) -> Callable[[Path], str]:
    def make(directory: Path) -> str:
        (directory / "file").write_bytes(content)
        return str(directory / "file")

    return make


def a_pipe(directory: Path) -> str:
    os.mkfifo(directory / "pipe")
    return str(directory / "pipe")


@pytest.mark.parametrize(
    ("desc", "make"),
    [
        ("nothing", lambda directory: str(directory / "missing")),
        ("no path at all", lambda directory: ""),
        ("a path with a zero", lambda directory: "a\0b"),
        ("a path that is too long", lambda directory: "x" * 100_000),
        ("a path that no file system has", lambda directory: "\udcff\ud800"),
        ("a directory", str),
        ("a pipe that nobody writes", a_pipe),
        ("an endless file", lambda directory: "/dev/zero"),
        ("an empty file", a_file(b"")),
        ("half a record", a_file(b"\xff" * (RECORD_BYTES - 1))),
        ("another file", a_file(b"not a page " * 1000)),
        ("a file of ones", a_file(b"\xff" * 10 * RECORD_BYTES)),
    ],
)
@pytest.mark.parametrize("slot", [0, 1, 5, -1, 1 << 40, 1 << 62, 1 << 64, -(1 << 63)])
def test_a_page_that_is_none_tells_of_no_lease(tmp_path, desc, make, slot):
    assert begun_of(make(tmp_path), slot, 4321) is None


# --- time limits ---------------------------------------------------------------------------------

S = 1_000_000_000


def test_the_limits_of_what_runs_are_told_and_of_nothing_else(page: SlotPage) -> None:
    # Given a lease that runs with limits, and one without
    page.limit(0, 5 * S, 2 * S, 9 * S)
    assert page.limits(0) is None
    begin(page, 7)
    begin(page, 7, slot=1)

    # When / Then
    assert page.limits(0) == RunningLimits(7, 9.0, 5.0, 2.0)
    assert page.limits(1) is None
    page.end(0)
    assert page.limits(0) is None


def test_a_new_process_inherits_no_limits_of_what_its_predecessor_ran(page: SlotPage) -> None:
    page.limit(0, 5 * S, 2 * S, 9 * S)
    begin(page, 7)
    page.enter(0, 4321)
    begin(page, 8)
    assert page.limits(0) is None


def test_the_shortest_limit_counts_also_of_what_has_ended(page: SlotPage) -> None:
    assert page.least_limit_s() is None
    page.limit(0, 5 * S, 0, 9 * S)
    page.limit(2, 7 * S, 2 * S, 9 * S)
    assert page.least_limit_s() == 2.0


def test_the_supervisor_overlooks_what_ends_before_it_looks(page: SlotPage) -> None:
    # A supervisor that plans no look overlooks everything
    assert page.is_overlooked(0, 10 * S)
    page.looks_at(0, 10 * S)
    assert page.is_overlooked(0, 10 * S - 1)
    assert not page.is_overlooked(0, 10 * S)
    assert page.is_overlooked(1, 10 * S)


def test_limits_leave_the_rest_of_the_record_as_it_is(page: SlotPage) -> None:
    begin(page, 7, name="n" * 200)
    before = page.running(0)
    page.limit(0, 5 * S, 2 * S, 9 * S)
    page.looks_at(0, 1)
    assert page.running(0) == before
    assert (page.begun(0), page.running(1)) == (7, None)


# --- what a slot says of itself, and is told ------------------------------------------------------


def test_what_a_slot_says_of_itself_is_read_with_whether_it_is_blocked(page: SlotPage) -> None:
    assert page.said(1) == (0, False)
    page.say(1, 3)
    assert page.said(1) == (3, False)
    page.say(1, 3, blocked=True)
    assert page.said(1) == (3, True)
    assert page.said(0) == page.said(2) == (0, False)


def test_slots_that_are_blocked_are_counted(page: SlotPage) -> None:
    for slot, count in enumerate((1, 2, 3)):
        page.say(slot, 2, blocked=True)
        assert page.blocked() == count
    page.say(1, 2)
    assert page.blocked() == 2


def test_a_new_process_says_nothing_yet_and_is_not_blocked(page: SlotPage) -> None:
    page.say(0, 4, blocked=True)
    page.enter(0, 4321)
    assert (page.said(0), page.blocked()) == ((0, False), 0)


def test_only_the_lease_that_is_meant_is_to_end_early(page: SlotPage) -> None:
    # Given a slot that runs a lease
    begin(page, 7)
    assert not page.is_cancelled(0)

    # When an earlier one is to end, that was over before its slot was told, then this one is not
    page.cancel(0, 6)
    assert not page.is_cancelled(0)

    # When it is meant itself, then it is, and the next one is not
    page.cancel(0, 7)
    assert page.is_cancelled(0)
    assert not page.is_cancelled(1)
    begin(page, 8)
    assert not page.is_cancelled(0)


def test_a_slot_that_has_begun_nothing_is_not_to_end_early(page: SlotPage) -> None:
    page.enter(0, 4321)
    assert not page.is_cancelled(0)


def test_there_is_room_for_a_slot_once_it_was_made_and_for_no_other(tmp_path: Path) -> None:
    # Given a page with room for its records only
    page = SlotPage(str(tmp_path / "p.page"), 4, create=True)
    before = os.stat(page.path).st_blocks

    # When room is made for one slot
    page.make_room(2)

    # Then its ring takes no more, and that of the others is still to be made
    with_one = os.stat(page.path).st_blocks
    assert with_one > before
    for lease in range(1, 2 * BEGINNINGS):
        begin(page, lease, slot=2)
    assert os.stat(page.path).st_blocks == with_one
    page.make_room(2)
    assert os.stat(page.path).st_blocks == with_one
    page.make_room(0)
    assert os.stat(page.path).st_blocks > with_one
    page.close()


def test_no_room_for_a_slot_is_an_error_and_not_a_signal(page: SlotPage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        page.make_room(1)
